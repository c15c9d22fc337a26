"""The Python examples of the documentation run as they are written."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATHS = [os.path.join(ROOT, "python"), os.path.join(ROOT, "build", "python")]


class Examples(unittest.TestCase):
    def check(self, page):
        with open(os.path.join(ROOT, page), encoding="utf-8") as file:
            blocks = re.findall(r"^```python\n(.*?)^```", file.read(), re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 0)
        with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as program:
            program.write("\n".join(blocks))
            program.flush()
            done = subprocess.run([sys.executable, program.name], capture_output=True, text=True, timeout=60, check=False,
                                  env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_moving_tensors(self):
        self.check("docs/python.md")

    def test_in_place_of_the_public_engine(self):
        self.check("docs/drop-in.md")


if __name__ == "__main__":
    unittest.main()
