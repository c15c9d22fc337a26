"""mooncake replay and mooncake trace as a stranger uses them: right, half right and wrong."""

import http.server
import json
import os
import tempfile
import threading
import unittest

from support import SMALL, Instance, free_port, run

LINE = '{"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [1, 2]}\n'


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP and is no instance."""

    def do_GET(self):  # noqa: N802 - the name is http.server's
        body = b'{"model": 7}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Replay(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mooncake-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.trace = self.write("trace.jsonl", LINE)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def test_wrong_input_is_named(self):
        bad = self.write("bad.jsonl", LINE * 2 + '{"timestamp": 0, "input_length": -3}\n')
        empty = self.write("empty.jsonl", "")
        nobody = f"127.0.0.1:{free_port()}"
        for arguments, code, said in (
                (["--to", nobody], 2, ["--trace is needed"]),
                (["--trace", self.trace], 2, ["--to is needed"]),
                (["--trace", self.folder + "/none", "--to", nobody], 2, ["E014", "/none"]),
                (["--trace", bad, "--to", nobody], 2, ["E015", "bad.jsonl line 3", "input_length"]),
                (["--trace", empty, "--to", nobody], 2, ["E015", "holds no request"]),
                (["--trace", self.trace, "--to", nobody], 1, ["E509", nobody]),
                (["--trace", self.trace, "--to", "nowhere"], 2, ["E004", "nowhere", "no port"]),
                (["--trace", self.trace, "--to", nobody + ","], 2, ["E004"]),
                (["--trace", self.trace, "--to", nobody, "--speed", "fast"], 2, ["E002", "speed"]),
                (["--trace", self.trace, "--to", nobody, "--sped", "2"], 2, ["E001", "--speed"])):
            with self.subTest(arguments):
                done = run("replay", *arguments)
                self.assertEqual(done.returncode, code, done.stderr)
                for text in said:
                    self.assertIn(text, done.stderr)

    def test_a_trace_of_any_number_of_requests_is_made(self):
        for requests in (1, 30, 300):
            made = run("trace", "generate", "--requests", str(requests))
            self.assertEqual(made.returncode, 0, made.stderr)
            self.assertEqual(len(made.stdout.splitlines()), requests)
        refused = run("trace", "generate", "--requests", "30", "--conversations", "31")
        self.assertEqual(refused.returncode, 2, refused.stdout)
        self.assertIn("E002", refused.stderr)

    def test_a_server_that_is_no_instance_is_told_apart(self):
        server = http.server.HTTPServer(("127.0.0.1", 0), OtherServer)
        self.addCleanup(server.server_close)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        target = f"127.0.0.1:{server.server_port}"
        for arguments in (["replay", "--trace", self.trace, "--to", target], ["status", target]):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("E510", done.stderr)
            self.assertIn(target, done.stderr)

    def test_the_report_has_what_a_script_needs_and_duration_ends_it(self):
        cluster = ["--cluster", f"replay-{os.getpid()}", "--host", "127.0.0.1", *SMALL]
        prefill, decode = (Instance("--role", role, *cluster) for role in ("prefill", "decode"))
        self.addCleanup(prefill.close)
        self.addCleanup(decode.close)
        # The last one would be sent after an hour.
        trace = self.write("trace.jsonl", LINE + LINE + LINE.replace('"timestamp": 0', '"timestamp": 3600000'))
        report = os.path.join(self.folder, "report.json")
        done = run("replay", "--trace", trace, "--to", f"{prefill.url},{decode.url}", "--duration", "300ms", "--verify", "--json", report)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 of 2 answered", done.stdout)
        self.assertIn("1 more of the trace were not sent in time", done.stdout)
        with open(report, encoding="utf-8") as file:
            told = json.load(file)
        self.assertEqual((told["answered"], told["right"], told["wrong"], told["failed"], told["unsent"]), (2, 2, 0, 0, 1))
        for name in ("first_token", "between_tokens", "whole"):
            self.assertGreater(told["latency_ms"][name]["p50"], 0)
        self.assertGreater(told["moved_bytes"], 0)
        moved = {path["transport"]: path["bytes"] for path in told["paths"] if path["bytes"] > 0}
        self.assertEqual(moved, told["moved_bytes_by_path"])


if __name__ == "__main__":
    unittest.main()
