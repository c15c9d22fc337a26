"""The Python examples, those of the documentation too, run as they are written."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest

from tested import ENVIRONMENT, ROOT


class Examples(unittest.TestCase):
    def run_python(self, *arguments):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False,
                              env=ENVIRONMENT)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check(self, page):
        with open(os.path.join(ROOT, page), encoding="utf-8") as file:
            blocks = re.findall(r"^```python\n(.*?)^```", file.read(), re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 0)
        with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as program:
            program.write("\n".join(blocks))
            program.flush()
            self.run_python(program.name)

    @unittest.skipIf(importlib.util.find_spec("numpy") is None, "numpy is not installed")
    def test_two_processes_exchange_a_tensor(self):
        printed = self.run_python(os.path.join(ROOT, "examples", "python", "exchange.py"), "--mebibytes", "2")
        self.assertEqual(len(re.findall(r"^written .* over \w+.*: \d+\.\d GB/s, equal$", printed, re.MULTILINE)), 2, printed)

    def test_moving_tensors(self):
        self.check("docs/python.md")

    def test_in_place_of_the_public_engine(self):
        self.check("docs/drop-in.md")


if __name__ == "__main__":
    unittest.main()
