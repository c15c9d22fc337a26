"""Wrong configuration, wrong addresses and hostile peers: each gets an error of its own that says what to do; nobody else suffers."""

import http.server
import json
import os
import signal
import socket
import tempfile
import threading
import time
import unittest

from support import SMALL, Instance, free_port, request, run, wait_until

# How long a start may take that cannot succeed: --directory-wait and a second for everything else.
WAIT = ["--directory-wait", "1s"]
LIMIT_S = 4


class StartsThatFail(unittest.TestCase):
    def refused(self, *flags, config=None, exit_code=None):
        """What `mooncake instance` says when it does not start: one line, within the time it has."""
        command = ["instance", "--host", "127.0.0.1", *SMALL, *WAIT, *flags]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            if config is not None:
                file.write(config if isinstance(config, str) else json.dumps(config))
                file.flush()
                command = ["instance", "--config", file.name, *WAIT, *flags]
            began = time.monotonic()
            done = run(*command, seconds=20)
            took = time.monotonic() - began
        self.assertNotEqual(done.returncode, 0, done.stdout)
        if exit_code is not None:
            self.assertEqual(done.returncode, exit_code, done.stderr)
        self.assertLess(took, LIMIT_S, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("mooncake: E")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertIn(" Do: ", errors[0])
        return errors[0]

    def test_a_port_that_is_taken_names_its_holder(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            error = self.refused("--port", str(port))
        self.assertIn("E005", error)
        self.assertIn(f"pid {os.getpid()}", error)
        self.assertIn(f"127.0.0.1:{port}", error)

    def test_a_key_with_a_typo_names_the_nearest(self):
        error = self.refused(config={"local_hostname": "127.0.0.1", "metadta_server": "etcd://127.0.0.1:1"}, exit_code=2)
        self.assertIn("E001", error)
        self.assertIn('"metadata_server"', error)

    def test_a_file_that_is_no_json_says_where(self):
        self.assertIn("E008", self.refused(config='{"role": "prefill",\n "port" 5}', exit_code=2))
        self.assertIn("E008", self.refused(config="[]", exit_code=2))
        self.assertIn("E014", self.refused("--config", "/no/such/file.json", exit_code=2))

    def test_values_of_the_wrong_kind(self):
        for config in ({"role": "prefil"}, {"kv_memory": "much"}, {"port": 70000}, {"scale": -1}, {"scale": 2}, {"page_tokens": 0}):
            error = self.refused(config={"local_hostname": "127.0.0.1", **config}, exit_code=2)
            self.assertIn("E002", error, config)
            self.assertIn(next(iter(config)), error)

    def test_an_unknown_model_names_the_list(self):
        self.assertIn("E017", self.refused("--model", "llama-9"))

    def test_an_address_of_another_host(self):
        error = self.refused(config={"local_hostname": "192.0.2.77:15624"})
        self.assertIn("E006", error)
        self.assertIn("192.0.2.77", error)

    def test_a_directory_where_nothing_listens(self):
        port = free_port()
        error = self.refused("--metadata-server", f"etcd://127.0.0.1:{port}")
        self.assertIn("E009", error)
        self.assertIn(f"127.0.0.1:{port}", error)

    def test_a_directory_that_is_an_instance(self):
        other = Instance("--role", "both", "--cluster", "bad-input", "--host", "127.0.0.1", *SMALL)
        self.addCleanup(other.close)
        address = other.url.removeprefix("http://")
        self.assertIn("E010", self.refused("--metadata-server", f"etcd://{address}"))

    def test_a_directory_that_is_the_instance_itself(self):
        port = free_port()
        self.assertIn("E010", self.refused("--metadata-server", f"etcd://127.0.0.1:{port}", "--port", str(port)))

    def test_a_directory_that_is_another_http_server(self):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            error = self.refused("--metadata-server", f"etcd://127.0.0.1:{server.server_port}")
            server.shutdown()
        self.assertIn("E003", error)

    def test_a_directory_that_speaks_something_else(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            def banner():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    connection.recv(1000)

            threading.Thread(target=banner, daemon=True).start()
            error = self.refused("--metadata-server", f"127.0.0.1:{server.getsockname()[1]}")
        self.assertIn("E012", error)
        self.assertIn("SSH-2.0", error)

    def test_a_directory_in_a_black_hole(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody ever answers
            port = silent.getsockname()[1]
            error = self.refused("--metadata-server", f"etcd://127.0.0.1:{port}")
        self.assertIn("E011", error)
        self.assertIn(f"127.0.0.1:{port}", error)

    def test_command_lines(self):
        for arguments, code, text in (
                (["instanse"], "E013", "instance"), (["instance", "--rol", "prefill"], "E001", "--role"),
                (["instance", "surplus"], "E013", "surplus"), (["replay"], "E013", "--trace"),
                (["replay", "--trace", "/no/such/file", "--to", "http://127.0.0.1:1"], "E014", "/no/such/file"), (["explain", "E999"], "E013", "E999")):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(code, done.stderr)
            self.assertIn(text, done.stderr)
        for arguments in (["help"], ["help", "instance"], ["instance", "--help"], ["replay", "--help"], ["explain", "E005"], ["models"]):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)


class HostilePeers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        flags = ["--cluster", f"hostile-{os.getpid()}", "--host", "127.0.0.1", *SMALL]
        cls.prefill, cls.decode = Instance("--role", "prefill", *flags), Instance("--role", "decode", *flags)
        cls.addClassCleanup(cls.prefill.close)
        cls.addClassCleanup(cls.decode.close)
        cls.expected = cls.prefill.complete("hello", 8)[1]["choices"][0]["token_ids"]

    def port(self):
        return int(self.decode.url.rsplit(":", 1)[1])

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port()), timeout=15)
        self.addCleanup(connection.close)
        return connection

    def check_alive(self):
        for instance in (self.prefill, self.decode):
            code, answer = instance.complete("hello", 8)
            self.assertEqual(code, 200, answer)
            self.assertEqual(answer["choices"][0]["token_ids"], self.expected)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.decode.pid}/fd"))

    def tearDown(self):
        self.check_alive()

    def ends(self, connection, seconds=8):
        """Reads to the end of the connection, which must come; returns what was said."""
        connection.settimeout(seconds)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except ConnectionResetError:
            pass
        return said

    def test_garbage_ends_the_connection_at_once(self):
        for garbage in (b"\x00" * 64, b"SSH-2.0-x\r\n", os.urandom(4096), b"\x16\x03\x01\x02\x00\x01\x00\x01"):
            connection = self.connect()
            connection.sendall(garbage)
            self.ends(connection, 2)

    def test_a_frame_that_stops_in_the_middle_ends_by_itself(self):
        connection = self.connect()
        connection.sendall(b"MCK1\x01\x00")
        began = time.monotonic()
        self.ends(connection)
        self.assertLess(time.monotonic() - began, 7)

    def test_lengths_of_two_to_the_63_are_refused_without_taking_memory(self):
        before = self.memory()
        for kind in range(1, 12):
            connection = self.connect()
            connection.sendall(b"MCK1" + bytes([kind, 0, 0, 0]) + b"\x00" * 8 + b"\xff" * 8 + b"\x7f" * 8)
            self.ends(connection, 2)
        connection = self.connect()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n{")
        self.assertIn(b"HTTP/1.1 4", self.ends(connection, 2))
        self.assertLess(self.memory() - before, 16 << 20)

    def memory(self):
        with open(f"/proc/{self.decode.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def test_bad_http(self):
        for text in (b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n",
                     b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
            connection = self.connect()
            connection.sendall(text)
            self.assertIn(b"HTTP/1.1 4", self.ends(connection, 3), text[:60])

    def test_bad_completions(self):
        for body, word in (("", "JSON"), ("{", "JSON"), ("[]", "object"), ('{"prompt": 5}', "prompt"), ('{"max_tokens": 3}', "prompt"),
                           ('{"prompt": "a", "max_tokens": -1}', "max_tokens"), ('{"prompt": [999999999]}', "999999999"),
                           ('{"prompt": "a", "model": "other"}', "model"), ('{"prompt": "' + "a" * (1 << 20) + '"}', "room")):
            code, text = request(self.decode.url, "POST", "/v1/completions", body)
            self.assertIn(code, (400, 404, 413, 507), text)
            error = json.loads(text)["error"]
            self.assertTrue(error["code"].startswith("E5"), text)
            self.assertIn(word, error["message"], body[:60])

    def test_a_thousand_connections_that_say_nothing(self):
        before = self.descriptors()
        silent = [self.connect() for _ in range(1000)]
        self.check_alive()
        for connection in silent[:500]:
            connection.close()
        wait_until(lambda: self.descriptors() <= before + 2, 10, lambda: f"{self.descriptors()} descriptors, {before} before")

    def test_a_client_that_goes_away_frees_its_place(self):
        for _ in range(20):
            connection = self.connect()
            body = json.dumps({"prompt": list(range(20000)), "max_tokens": 2000}).encode()
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.close()
        wait_until(lambda: self.decode.status()["requests"]["running"] == 0, 10, "all are given up")


class Signals(unittest.TestCase):
    def test_sigterm_finishes_what_is_there_and_refuses_the_rest(self):
        flags = ["--cluster", f"drain-{os.getpid()}", "--host", "127.0.0.1", *SMALL]
        prefill, decode = Instance("--role", "prefill", *flags), Instance("--role", "decode", "--decode-tokens-per-second", "100", *flags)
        self.addCleanup(prefill.close)
        self.addCleanup(decode.close)
        answers = []
        client = threading.Thread(target=lambda: answers.append(decode.complete("a long answer", 100)))
        client.start()
        wait_until(lambda: decode.status()["requests"]["running"] == 1, 5, "running")
        decode.signal(signal.SIGTERM)
        wait_until(lambda: decode.status()["draining"], 5, "draining")
        code, answer = decode.complete("too late", 4)
        self.assertEqual((code, answer["error"]["code"]), (503, "E506"), answer)
        client.join()
        self.assertEqual(answers[0][0], 200, answers)
        self.assertEqual(decode.wait(5), 0)

    def test_what_does_not_end_within_the_drain_time_is_cut_off(self):
        flags = ["--cluster", f"cut-{os.getpid()}", "--host", "127.0.0.1", "--drain-timeout", "500ms", "--decode-tokens-per-second", "2",
                 "--prefill-tokens-per-second", "2000", *SMALL]
        prefill, decode = Instance("--role", "prefill", *flags), Instance("--role", "decode", *flags)
        self.addCleanup(prefill.close)
        self.addCleanup(decode.close)

        def send(instance, tokens):
            try:
                instance.complete(list(range(tokens)), 100)
            except OSError:
                pass  # the instance went before it answered

        # One request waits for tokens, one is prefilled, one waits for its turn; clients of both sides.
        clients = [threading.Thread(target=send, args=(instance, tokens)) for instance, tokens in ((decode, 5), (prefill, 60000), (decode, 50000))]
        for client in clients:
            client.start()
        wait_until(lambda: decode.status()["decode"]["queue_length"] == 3, 5, "all are there")
        for instance in (decode, prefill):
            began = time.monotonic()
            instance.signal(signal.SIGTERM)
            self.assertEqual(instance.wait(5), 0, instance.output())
            self.assertLess(time.monotonic() - began, 3)
        for client in clients:
            client.join()

    def test_too_many_requests_are_refused_with_429(self):
        both = Instance("--role", "both", "--cluster", "full", "--host", "127.0.0.1", "--queue-max", "2", "--decode-tokens-per-second", "20", *SMALL)
        self.addCleanup(both.close)
        clients = [threading.Thread(target=lambda: both.complete("slow", 40)) for _ in range(2)]
        for client in clients:
            client.start()
        wait_until(lambda: both.status()["requests"]["running"] == 2, 5, "both running")
        code, answer = both.complete("one more", 4)
        self.assertEqual((code, answer["error"]["code"]), (429, "E502"), answer)
        for client in clients:
            client.join()


if __name__ == "__main__":
    unittest.main()
