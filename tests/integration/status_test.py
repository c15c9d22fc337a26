"""mooncake status: what it shows, whom it asks, and what it says where nobody answers."""

import json
import os
import signal
import subprocess
import unittest

from support import PROGRAM, SMALL, Etcd, Instance, Namespace, free_port, run, wait_until


class Status(unittest.TestCase):
    def start(self, role, *flags):
        instance = Instance("--role", role, "--label", f"{role}-0", "--cluster", self.cluster, "--host", "127.0.0.1", *SMALL, *flags)
        self.addCleanup(instance.close)
        return instance

    def setUp(self):
        self.cluster = f"status-{os.getpid()}"

    def test_shows_instances_and_paths_from_any_of_them(self):
        prefill, decode = self.start("prefill"), self.start("decode")
        self.assertEqual(prefill.complete([7] * 3000, 4)[0], 200)
        for arguments in ([prefill.url], [decode.url.removeprefix("http://")], [prefill.url, decode.url], ["--cluster", self.cluster]):
            with self.subTest(arguments):
                shown = run("status", *arguments)
                self.assertEqual(shown.returncode, 0, shown.stderr)
                lines = shown.stdout.splitlines()
                self.assertTrue(all(len(line) <= 100 for line in lines), shown.stdout)
                for label in ("prefill-0", "decode-0"):
                    self.assertEqual(len([line for line in lines if line.startswith(label + " ") and "reachable" in line]), 1)
                self.assertIn("prefill-0 -> decode-0", shown.stdout)
                self.assertIn("in use", shown.stdout)
                self.assertNotIn("\x1b", shown.stdout)

    def test_json_is_one_line_for_each_look(self):
        prefill = self.start("prefill")
        once = run("status", prefill.url, "--json")
        self.assertEqual((once.returncode, len(once.stdout.splitlines())), (0, 1))
        self.assertEqual([one["label"] for one in json.loads(once.stdout)["instances"]], ["prefill-0"])

    def test_watch_goes_on_until_it_is_interrupted(self):
        prefill = self.start("prefill")
        watch = subprocess.Popen([PROGRAM, "status", prefill.url, "--watch", "--interval", "50ms", "--json"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(watch.stdout.close)
        self.addCleanup(watch.kill)
        first, second = json.loads(watch.stdout.readline()), json.loads(watch.stdout.readline())
        self.assertGreater(second["instances"][0]["uptime_seconds"], first["instances"][0]["uptime_seconds"])
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(10), 0)

    def test_an_instance_that_does_not_answer_is_named_and_fails(self):
        prefill = self.start("prefill")
        nobody = f"127.0.0.1:{free_port()}"
        shown = run("status", prefill.url, nobody)
        self.assertEqual(shown.returncode, 1)
        self.assertIn("prefill-0", shown.stdout)
        self.assertIn(f"{nobody} does not answer", shown.stdout)

    def test_says_what_to_do_where_nobody_answers(self):
        for arguments, code, said in (([f"127.0.0.1:{free_port()}"], 1, "mooncake instance"), (["nowhere"], 2, "has no port"),
                                      (["--wach"], 2, "--watch"), (["--cluster", self.cluster + "-none"], 1, "mooncake instance")):
            with self.subTest(arguments):
                shown = run("status", *arguments)
                self.assertEqual(shown.returncode, code, shown.stderr)
                self.assertIn(said, shown.stderr)

    @unittest.skipIf(Namespace.why_not(), Namespace.why_not())
    def test_looking_does_not_carry_the_directory(self):
        # In a network namespace nobody else carries one: a look that did would be told of in its log or answer "lists 0".
        host = Namespace(["10.77.0.1/32"])
        self.addCleanup(host.close)
        shown = run("status", namespace=host)
        self.assertEqual(shown.returncode, 1)
        self.assertIn("none runs on this host", shown.stderr)

    @unittest.skipIf(Etcd.why_not(), Etcd.why_not())
    def test_tells_since_when_the_directory_is_unreachable(self):
        etcd = Etcd()
        self.addCleanup(etcd.close)
        prefill = self.start("prefill", "--directory", etcd.connection)
        self.assertIn("reachable", run("status", "--directory", etcd.connection, "--cluster", self.cluster).stdout)
        etcd.kill()

        def told():
            shown = run("status", prefill.url)
            return shown if "has not answered for" in shown.stdout else None

        shown = wait_until(told, 20, "status tells that the directory is down")
        self.assertRegex(shown.stdout, r"prefill-0 .* down \d+ s")
        self.assertIn(etcd.connection, shown.stdout)
        self.assertEqual(run("status", "--directory", etcd.connection, "--cluster", self.cluster).returncode, 1)


if __name__ == "__main__":
    unittest.main()
