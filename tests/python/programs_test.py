"""The programs under their known names and flags, and the Python modules of the same names."""

import json
import os
import re
import signal
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

from tested import ENVIRONMENT
import mooncake
from mooncake.engine import TransferEngine
from mooncake.http_metadata_server import KVBootstrapServer, KVPoll

SMALL = ("--local_server_name=127.0.0.1", "--buffer_size=16777216")


def program(name):
    path, = (os.path.join(folder, name) for folder in mooncake.__path__ if os.access(os.path.join(folder, name), os.X_OK))
    return path


def run(name, *arguments):
    return subprocess.run([program(name), *arguments], capture_output=True, text=True, timeout=60, check=False)


class Running:
    """A program that says when it is ready."""

    def __init__(self, command, pattern, stream):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for line in getattr(self.process, stream):
            found = re.search(pattern, line)
            if found:
                self.found = found.group(1)
                return
        self.process.communicate()
        raise AssertionError(f"{command} ended without saying that it is ready")

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=20)
        return self.process.returncode


def ask(url, method="GET", body=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


class Bench(unittest.TestCase):
    def test_target_and_initiator(self):
        target = Running([program("transfer_engine_bench"), "--mode=target", *SMALL], r"listening on (\S+)", "stderr")
        for arguments in (("--operation=write", "--use_vram=false", "--auto_discovery"), ("-operation", "read", "--report_unit", "MiB", "--report_precision", "0")):
            done = run("transfer_engine_bench", f"--segment_id={target.found}", "--duration=1", "--threads=2", "--batch_size=16",
                       "--metadata_server=P2PHANDSHAKE", "--protocol=tcp", *SMALL, *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            result = re.search(r"Test completed: duration (\d+\.\d\d), batch count (\d+), throughput (\S+) (\S+)/s", done.stderr)
            self.assertTrue(result, done.stderr)
            self.assertGreaterEqual(float(result.group(1)), 1)
            scale = {"GB": 1e9, "MiB": 1 << 20}[result.group(4)]
            self.assertAlmostEqual(float(result.group(3)) * scale * float(result.group(1)) / (int(result.group(2)) * 16 * 65536), 1, delta=0.02)
        self.assertEqual(target.close(), 0)

    def test_a_target_that_dies_ends_it(self):
        target = Running([program("transfer_engine_bench"), "--mode=target", *SMALL], r"listening on (\S+)", "stderr")
        initiator = Running([program("transfer_engine_bench"), f"--segment_id={target.found}", "--threads=2", "--batch_size=16", *SMALL],
                            r"(peer .* at )", "stderr")
        target.process.kill()
        target.close()
        self.assertEqual(initiator.process.wait(timeout=50), 1)
        self.assertRegex(initiator.process.stderr.read(), r" W .*: E1\d\d ")
        initiator.close()

    def test_through_the_metadata_server(self):
        server = Running([program("mooncake_http_metadata_server"), "--host", "127.0.0.1", "--port=0"], r"ready: (\S+)", "stdout")
        flags = ["--metadata_server=" + server.found, "--buffer_size=16777216"]
        target = Running([program("transfer_engine_bench"), "--mode=target", "--local_server_name=127.0.0.1:12345", *flags], r"listening on (\S+)", "stderr")
        done = run("transfer_engine_bench", "--segment_id=127.0.0.1:12345", "--local_server_name=127.0.0.1:12346", "--duration=1", "--threads=1",
                   "--batch_size=4", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((target.close(), server.close()), (0, 0))

    def test_wrong_flags(self):
        for wrong in ("--mode=both", "--segment_id=", "--operation=erase", "--report_unit=PB", "--threads=0", "--threads=2000000", "--use_vram", "word"):
            done = run("transfer_engine_bench", "--segment_id=127.0.0.1:1", wrong)
            self.assertEqual((done.returncode, len(done.stderr.splitlines())), (2, 1), (wrong, done.stderr))
        self.assertNotEqual(run("transfer_engine_bench", "--no_such_flag").returncode, 0)
        done = run("transfer_engine_bench", "--segment_id=127.0.0.1:1", *SMALL, "--threads=1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("E102", done.stderr)


class Topology(unittest.TestCase):
    def test_the_same_from_program_module_and_engine(self):
        printed = run("transfer_engine_topology_dump", "--device-name=none_such").stdout
        by_module = subprocess.check_output([sys.executable, "-m", "mooncake.transfer_engine_topology_dump", "--device_name=none_such"], env=ENVIRONMENT, text=True)
        self.assertEqual(printed, by_module)
        topology = json.loads(printed.removeprefix("Local topology: "))
        self.assertEqual(topology["cpu:0"], [[], []])
        self.assertEqual(json.loads(TransferEngine().get_local_topology("none_such")), topology)
        self.assertIn("cpu:0", json.loads(TransferEngine().get_local_topology()))
        self.assertEqual(run("transfer_engine_topology_dump", "word").returncode, 2)


class MetadataServer(unittest.TestCase):
    def check(self, url):
        self.assertEqual(ask(url)[0], 400)
        self.assertEqual(ask(f"{url}?key=%20%20")[0], 400)
        self.assertEqual(ask(f"{url}?key=a")[0], 404)
        self.assertEqual(ask(f"{url}?key=%20a%20", "PUT", b'{"x":1}')[0], 200)
        self.assertEqual(ask(f"{url}?key=a"), (200, b'{"x":1}'))
        self.assertEqual(ask(f"{url}?key=a", "DELETE")[0], 200)
        self.assertEqual(ask(f"{url}?key=a", "DELETE")[0], 404)
        self.assertEqual(ask(f"{url}?key=mooncake/rpc_meta/n", "PUT", b"{}")[0], 200)
        self.assertEqual(ask(f"{url}?key=mooncake/rpc_meta/n", "PUT", b'{"other":1}')[0], 400)
        self.assertEqual(ask(url.replace("/metadata", "/health"))[0], 200)

    def test_the_program(self):
        for command in ([program("mooncake_http_metadata_server")], [sys.executable, "-m", "mooncake.http_metadata_server"]):
            server = Running([*command, "--host", "127.0.0.1", "--port", "0"], r"ready: (\S+)", "stdout")
            self.check(server.found)
            self.assertEqual(server.close(), 0)

    def test_the_class(self):
        server = KVBootstrapServer(0, "127.0.0.1")
        self.assertEqual(server.poll(), KVPoll.Failed)
        with self.assertLogs(level="INFO") as logged:
            thread = server.run()
        self.assertIn("HTTP Metadata Server started", logged.output[0])
        self.assertEqual((server.poll(), thread.is_alive()), (KVPoll.Success, True))
        self.check(f"http://127.0.0.1:{server.port}/metadata")
        other = KVBootstrapServer(server.port, "127.0.0.1")
        with self.assertRaisesRegex(OSError, "^E005 "):
            other.run()
        self.assertEqual(other.poll(), KVPoll.Failed)
        with self.assertRaises(OSError):
            KVBootstrapServer(0, "no such host").run()
        server.close()
        server.close()
        self.assertEqual((server.poll(), thread.is_alive()), (KVPoll.Failed, False))
        server.run()  # again, on the same port, with nothing in it
        self.check(f"http://127.0.0.1:{server.port}/metadata")
        server.close()

    def test_wrong_flags(self):
        for wrong in (("--port=70000",), ("--host=1.2.3.4",), ("--log_level=loud",), ("word",)):
            done = run("mooncake_http_metadata_server", *wrong)
            self.assertEqual((done.returncode, len(done.stderr.splitlines())), (2, 1), (wrong, done.stderr))
        server = Running([program("mooncake_http_metadata_server"), "--host=localhost", "--port=0"], r"ready: (\S+)", "stdout")
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.process.wait(timeout=20), 0)
        server.close()


if __name__ == "__main__":
    unittest.main()
