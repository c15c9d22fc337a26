"""Prints "passed failed skipped" of a GoogleTest XML report."""

import sys
import xml.etree.ElementTree as ET

cases = list(ET.parse(sys.argv[1]).getroot().iter("testcase"))
failed = sum(1 for case in cases if case.find("failure") is not None)
skipped = sum(1 for case in cases if case.find("skipped") is not None or case.get("status") == "notrun")
print(len(cases) - failed - skipped, failed, skipped)
