"""No rights, no library, too little lockable memory, a device that is not there: what serves then, and what is said. In the virtual machine."""

import glob
import os
import stat
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("integration", "rdma"):
    sys.path.insert(0, os.path.join(HERE, "..", folder))
import resources  # noqa: E402
from support import PROGRAM, Process, run, wait_until  # noqa: E402

NOBODY = ("setpriv", "--reuid", "65534", "--clear-groups")
FLAGS = ("--protocol", "rdma", "--host", "127.0.0.1", "--port", "0", "--kv-memory", "32MiB", "--cluster", "absent")


class Absent(unittest.TestCase):
    def setUp(self):
        if resources.why_not(1):
            self.skipTest(resources.why_not(1))
        nodes = glob.glob("/dev/infiniband/uverbs*")
        for node in nodes:
            self.addCleanup(os.chmod, node, stat.S_IMODE(os.stat(node).st_mode))
        self.nodes = nodes

    def let_everybody_use_them(self, mode):
        for node in self.nodes:
            os.chmod(node, mode)

    def instance(self, *prefix):
        process = Process([*prefix, PROGRAM, "instance", "--role", "both", *FLAGS], "is ready at", 40)
        self.addCleanup(process.close)
        return process

    def said(self, process, word):
        """The one line with this word."""
        def lines():
            return [line for line in process.output().splitlines() if word in line]

        wait_until(lines, 20, lambda: f"{word!r} in:\n{process.output()}")
        self.assertEqual(len(lines()), 1, process.output())
        return lines()[0]

    def test_no_right_to_the_device(self):
        self.let_everybody_use_them(0o600)
        line = self.said(self.instance(*NOBODY), "rdma is not in use")
        self.assertIn("no right", line)
        self.assertIn("/dev/infiniband", line)

    def test_no_library(self):
        library = subprocess.run("ldconfig -p | sed -n 's/.*libibverbs.so.1 .*=> //p'", shell=True, check=True, capture_output=True,
                                 text=True).stdout.split()[0]
        hidden = ("unshare", "-m", "sh", "-c", f'mount --bind /dev/null {os.path.realpath(library)} && exec "$@"', "sh")
        line = self.said(self.instance(*hidden), "rdma is not in use")
        self.assertIn("libibverbs", line)

    def test_too_little_memory_may_be_locked(self):
        self.let_everybody_use_them(0o666)
        line = self.said(self.instance("prlimit", "--memlock=1048576:1048576", *NOBODY), "E310")
        self.assertIn("LimitMEMLOCK=infinity", line)
        self.assertIn("32 MiB", line)

    def test_a_named_device_that_is_not_there(self):
        done = run("instance", *FLAGS, "--device-name", "mlx5_77")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("E207", done.stderr)
        self.assertIn("mlx5_77", done.stderr)
        self.assertIn(resources.devices()[0], done.stderr)


if __name__ == "__main__":
    unittest.main()
