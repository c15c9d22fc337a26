"""The reference pages are what the program prints, and the documentation names only what exists."""

import os
import re
import unittest

from support import run

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


class Docs(unittest.TestCase):
    maxDiff = None

    def test_the_pages_of_errors_and_options_are_what_the_program_prints(self):
        for page, command in (("errors.md", ("explain", "--all")), ("options.md", ("options",))):
            printed = run(*command)
            self.assertEqual(printed.returncode, 0, printed.stderr)
            self.assertEqual(read("docs", page), printed.stdout, f"write it anew: mooncake {' '.join(command)} > docs/{page}")

    def test_every_page_that_a_page_links_to_is_there(self):
        pages = ["README.md", "CHANGES.md"]
        for folder, _, names in os.walk(os.path.join(ROOT, "docs")):
            pages += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names if name.endswith(".md")]
        for page in pages:
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(page)):
                if "://" not in target:
                    self.assertTrue(os.path.exists(os.path.join(ROOT, os.path.dirname(page), target)), f"{page} links to {target}")

    def test_files_that_the_pages_name_exist(self):
        for page in ("README.md", "docs/architecture.md", "docs/wire.md"):
            for name in re.findall(r"`((?:src|tests|scripts|docs|bench|cmake)/[\w./-]+)`", read(page)):
                self.assertTrue(os.path.exists(os.path.join(ROOT, name)), f"{page} names {name}")

    def test_commands_that_the_pages_name_exist(self):
        known = set(re.findall(r"^  (\w+)", run("help").stdout, re.MULTILINE))
        for page in ("README.md", "docs/architecture.md"):
            for name in re.findall(r"`?mooncake (\w+)", "\n".join(re.findall(r"`[^`]+`|```.*?```", read(page), re.DOTALL))):
                self.assertIn(name, known | {"instance"}, page)


if __name__ == "__main__":
    unittest.main()
