"""Runs the tests of one Python file and writes "passed failed skipped" to a report file.

Usage: count_unittest.py TEST_FILE REPORT_FILE
"""

import os
import sys
import unittest

path, report = sys.argv[1:3]
sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
suite = unittest.defaultTestLoader.discover(os.path.dirname(path), pattern=os.path.basename(path))
result = unittest.TextTestRunner(verbosity=2).run(suite)
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
passed = result.testsRun - failed - len(result.skipped)
with open(report, "w", encoding="ascii") as file:
    print(passed, failed, len(result.skipped), file=file)
sys.exit(1 if failed else 0)
