"""The package's programs, by the names that they have on PATH."""

import os
import sys

import mooncake


def _become(name):
    for folder in mooncake.__path__:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            os.execv(path, [path, *sys.argv[1:]])
    sys.exit(f"{name}: it is not where the package mooncake is installed ({', '.join(mooncake.__path__)}); install the package again")


def transfer_engine_bench():
    _become("transfer_engine_bench")


def transfer_engine_topology_dump():
    _become("transfer_engine_topology_dump")


def mooncake_http_metadata_server():
    _become("mooncake_http_metadata_server")
