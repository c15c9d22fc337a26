"""Where the package under test lies: imported first, it makes `import mooncake` find that one, here and in processes with ENVIRONMENT."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
_PATHS = [os.path.join(ROOT, "python"), os.path.join(ROOT, "build", "python")]
sys.path[:0] = _PATHS
sys.path.append(os.path.join(ROOT, "tests", "integration"))  # its support.py
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATHS)}
