"""The packages for Rust and Go as their users meet them: built against an installed tree, run as two processes, and with each other.

MOONCAKE_PREFIX names an installed tree to use instead of the build's own.
"""

import os
import shutil
import subprocess
import tempfile
import unittest

from installed import ROOT, environment_of, install, library_folder, run_checked

RUST = os.path.join(ROOT, "bindings", "rust")
GO = os.path.join(ROOT, "bindings", "go")


class Bindings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="mooncake-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        prefix = os.environ.get("MOONCAKE_PREFIX")
        if not prefix:
            prefix = os.path.join(cls.folder, "installed")
            install(prefix)
        library = library_folder(prefix)
        cls.environment = {
            **environment_of(library),
            "CARGO_TARGET_DIR": os.path.join(cls.folder, "target"), "GOPROXY": "off", "GOTOOLCHAIN": "local",
            "GOFLAGS": "-buildvcs=false", "MC_TRANSFER_TIMEOUT": "5",
            # go keeps what pkg-config has said before, and asks again only if a flag of its own has changed.
            "CGO_LDFLAGS": f"-L{library}",
        }
        cls.environment.pop("MOONCAKE_LIB_DIR", None)
        cls.examples = {}

    # ---- the examples, each built once ----

    def example(self, language):
        if language not in self.examples:
            self.examples[language] = getattr(self, f"build_{language}")()
        return self.examples[language]

    def need(self, program):
        if not shutil.which(program):
            self.skipTest(f"the program {program} is missing")

    def build_c(self):
        path = os.path.join(self.folder, "transfer-c")
        flags = run_checked("pkg-config", "--cflags", "--libs", "transfer_engine", env=self.environment).split()
        run_checked("cc", "-std=c11", "-D_POSIX_C_SOURCE=199309L", os.path.join(ROOT, "examples", "c", "transfer.c"), "-o", path, *flags)
        return path

    def build_rust(self):
        self.need("cargo")
        run_checked("cargo", "build", "--offline", "--locked", "--examples", cwd=RUST, env=self.environment)
        return os.path.join(self.folder, "target", "debug", "examples", "transfer")

    def build_go(self):
        self.need("go")
        path = os.path.join(self.folder, "transfer-go")
        run_checked("go", "build", "-o", path, "./examples/transfer", cwd=GO, env=self.environment)
        return path

    # ---- two processes ----

    def start_peer(self, language):
        peer = subprocess.Popen([self.example(language)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment)
        self.addCleanup(peer.stdout.close)
        self.addCleanup(peer.wait)
        self.addCleanup(peer.kill)
        return peer, *peer.stdout.readline().split()

    def exchange(self, language, peer_language, **more):
        greeter, greeting = self.example(language), f"hello from {language.capitalize()}"
        peer, name, address = self.start_peer(peer_language)
        self.assertEqual(run_checked(greeter, name, address, env={**self.environment, **more}), f"read back: {greeting}\n")
        self.assertEqual(peer.stdout.readline(), f"greeting: 1: {greeting}\n")
        self.assertEqual(peer.wait(timeout=20), 0)

    def test_rust_to_rust(self):
        self.exchange("rust", "rust")
        self.exchange("rust", "rust", MC_FORCE_TCP="1")

    def test_go_to_go(self):
        self.exchange("go", "go")
        self.exchange("go", "go", MC_FORCE_TCP="1")

    def test_rust_to_go(self):
        self.exchange("rust", "go")

    def test_go_to_rust(self):
        self.exchange("go", "rust")

    def test_rust_and_c(self):
        self.exchange("rust", "c")
        self.exchange("c", "rust")

    def test_go_and_c(self):
        self.exchange("go", "c")
        self.exchange("c", "go")

    def fails(self, language, name, call, error_id):
        """With the address 64, which nobody has registered."""
        done = subprocess.run([self.example(language), name, "64"], capture_output=True, text=True, timeout=40, check=False, env=self.environment)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(call, done.stderr)
        self.assertIn(error_id, done.stderr)

    def test_rust_says_why_it_fails(self):
        self.fails("rust", "127.0.0.1:1", "openSegment", "E102")
        self.fails("rust", self.start_peer("rust")[1], "submitTransfer", "E304")

    def test_go_says_why_it_fails(self):
        self.fails("go", "127.0.0.1:1", "openSegment", "E102")
        self.fails("go", self.start_peer("go")[1], "submitTransfer", "E304")

    # ---- their own tests and linters ----

    def test_of_rust(self):
        self.need("cargo")
        for more in ({}, {"MC_FORCE_TCP": "1"}):
            run_checked("cargo", "test", "--offline", "--locked", cwd=RUST, env={**self.environment, **more})

    def test_of_go(self):
        self.need("go")
        run_checked("go", "vet", "./...", cwd=GO, env=self.environment)
        for more in ({}, {"MC_FORCE_TCP": "1"}):
            run_checked("go", "test", "-count=1", "./...", cwd=GO, env={**self.environment, **more})

    def need_of_cargo(self, component):
        self.need("cargo")
        if subprocess.run(["cargo", component, "--version"], capture_output=True, check=False).returncode != 0:
            self.skipTest(f"cargo {component} is missing")

    def test_rust_is_formatted(self):
        self.need_of_cargo("fmt")
        run_checked("cargo", "fmt", "--check", cwd=RUST)

    def test_clippy_finds_nothing(self):
        self.need_of_cargo("clippy")
        run_checked("cargo", "clippy", "--offline", "--locked", "--all-targets", "--", "-D", "warnings", cwd=RUST, env=self.environment)

    def test_go_is_formatted(self):
        self.need("gofmt")
        self.assertEqual(run_checked("gofmt", "-l", GO), "")


if __name__ == "__main__":
    unittest.main()
