"""Mooncake: moves, keeps and places the KV cache of large language models.

`mooncake.Engine` is the transfer engine for new programs (docs/python.md), `mooncake.engine` the one that programs written for the public
project import. Importing the package alone loads neither.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

_TRANSFER = ("Engine", "Notification", "Peer", "Range", "Region")
_ERRORS = (
    "Error", "InvalidArgument", "NotFound", "NoSpace", "TryAgain", "PeerGone", "Unavailable", "TimedOut", "Cancelled", "Denied",
    "Corrupt", "Unsupported",
)
__all__ = [*_TRANSFER, *_ERRORS]


def __getattr__(name):
    from importlib import import_module

    if name in _TRANSFER:
        return getattr(import_module("mooncake._transfer"), name)
    if name in _ERRORS:
        return getattr(import_module("mooncake.errors"), name)
    raise AttributeError(f"module 'mooncake' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *__all__])
