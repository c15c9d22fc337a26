"""The page at GET /: one file that needs nothing from outside, and what it shows in a real browser, if there is one."""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from support import SMALL, Instance, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(unittest.TestCase):
    def setUp(self):
        cluster = ["--cluster", f"page-{os.getpid()}", "--host", "127.0.0.1", *SMALL]
        self.prefill = Instance("--role", "prefill", "--label", "prefill-0", *cluster)
        self.addCleanup(self.prefill.close)
        # A label may hold markup; the page must show it, not obey it.
        self.decode = Instance("--role", "decode", "--label", "decode<b>0", *cluster)
        self.addCleanup(self.decode.close)
        for prompt in range(4):
            code, answer = self.prefill.complete([prompt] * 2000, 4)
            self.assertEqual(code, 200, answer)

    def test_is_served_and_needs_nothing_from_outside(self):
        code, page = self.prefill.get("/")
        self.assertEqual(code, 200)
        self.assertIn("<title>Mooncake</title>", page)
        for reference in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page):
            self.assertTrue(reference.startswith("data:"), reference)
        self.assertNotRegex(page, r"@import|url\(\s*['\"]?http|import\s*\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write")

    def test_the_cluster_has_what_the_page_reads(self):
        code, text = self.decode.get("/cluster")
        self.assertEqual(code, 200)
        cluster = json.loads(text)
        self.assertEqual(cluster["unreachable"], [])
        by_role = {instance["role"]: instance for instance in cluster["instances"]}
        self.assertEqual(sorted(by_role), ["decode", "prefill"])
        for instance in by_role.values():
            for name in ("id", "label", "endpoint", "model", "uptime_seconds", "draining"):
                self.assertIn(name, instance)
            self.assertLessEqual({"queue_max", "finished", "failed", "first_token_us"}, set(instance["requests"]))
            self.assertLessEqual({"pages", "pages_free", "hits", "misses"}, set(instance["kv"]))
            self.assertLessEqual({"connection", "reachable"}, set(instance["directory"]))
            for path in instance["paths"]:
                self.assertLessEqual({"peer", "peer_id", "transport", "usable", "reason", "bytes", "failures", "gigabytes_per_second",
                                      "suspected"}, set(path))
        prefill, decode = by_role["prefill"], by_role["decode"]
        self.assertEqual(prefill["requests"]["finished"], 4)
        self.assertEqual(prefill["requests"]["first_token_us"]["count"], 4)
        self.assertGreater(prefill["requests"]["first_token_us"]["sum"], 0)
        self.assertEqual(prefill["prefill"]["computed_tokens"] + prefill["prefill"]["cached_tokens"], 8000)
        self.assertEqual(decode["decode"]["generated_tokens"], 16)
        self.assertGreater(sum(path["bytes"] for path in prefill["paths"]), 0)

    @unittest.skipUnless(CHROMIUM, "no Chromium is installed: the page is not looked at")
    def test_a_browser_shows_both_instances_and_their_paths(self):
        before = max(path["bytes"] for path in self.prefill.status()["paths"])
        self.assertGreater(before, 0)
        used = next(path["transport"] for path in self.prefill.status()["paths"] if path["bytes"] == before)
        shown = self.look(self.prefill.url)
        for expected in ("prefill-0", "decode<b>0", used, "in use", self.decode.url.removeprefix("http://")):
            self.assertIn(expected, shown)
        for wrong in ("undefined", "NaN", "[object", "does not answer"):
            self.assertNotIn(wrong, shown)

        self.decode.kill()

        def told():
            text = self.look(self.prefill.url)
            return text if "does not answer" in text or "1 instance," in text else None

        shown = wait_until(told, 30, "the page says that an instance does not answer or is gone")
        self.assertNotIn("undefined", shown)

    def look(self, url):
        """The text of the page, some seconds of its own time after it was opened."""
        with tempfile.TemporaryDirectory(prefix="mooncake-test-") as folder:
            done = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                 f"--user-data-dir={folder}", "--virtual-time-budget=6000", "--dump-dom", url],
                capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stderr)
        body = re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.DOTALL)
        return html.unescape(re.sub(r"<[^>]*>", " ", body))


if __name__ == "__main__":
    unittest.main()
