"""The C library as its users have it: installed by CMake into a folder, found through pkg-config."""

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS_MAX = 300  # of one command, where the compilers' caches are empty


def run_checked(*command, **more):
    """What it prints; AssertionError with all of it if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, **more)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def install(prefix):
    """Installs the build's tree."""
    run_checked("cmake", "--install", os.path.join(ROOT, "build"), "--prefix", prefix)


def library_folder(prefix):
    """Where libtransfer_engine.so is, below `prefix`."""
    folder, = (where for where, _, files in os.walk(prefix) if "libtransfer_engine.so" in files)
    return folder


def environment_of(folder):
    """In which compilers and programs find the library there."""
    return {**os.environ, "LD_LIBRARY_PATH": folder, "PKG_CONFIG_PATH": os.path.join(folder, "pkgconfig")}
