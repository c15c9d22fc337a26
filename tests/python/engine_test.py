"""mooncake.engine as clients of the public project call it: signatures, return values, threads, and what happens when things break."""

import array
import ast
import ctypes
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock

from tested import ENVIRONMENT, ROOT
from support import Etcd, free_port, hold
from mooncake import engine as engine_module
from mooncake.engine import InnerTransferEngine, TransferEngine, TransferNotify, TransferOpcode
from mooncake.http_metadata_server import KVBootstrapServer
from mooncake.mooncake_config import DEFAULT_GLOBAL_SEGMENT_SIZE, DEFAULT_LOCAL_BUFFER_SIZE, MooncakeConfig

SIZE = 1 << 20

# A peer of its own process: prints its port and the address of its memory, then does what its lines say.
PEER = """
import ctypes, sys
from mooncake.engine import TransferEngine
engine = TransferEngine()
assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "") == 0
memory = bytearray(1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert engine.register_memory(address, len(memory)) == 0
print(engine.get_rpc_port(), address, flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Peer:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=ENVIRONMENT)
        port, address = self.process.stdout.readline().split()
        self.session, self.address = f"127.0.0.1:{port}", int(address)

    def ask(self, expression):
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()


class Node:
    def __init__(self, fill=b"\0"):
        self.memory = bytearray(fill * SIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.engine = TransferEngine()
        assert self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "") == 0
        assert self.engine.register_memory(self.address, SIZE) == 0
        self.session = f"127.0.0.1:{self.engine.get_rpc_port()}"


class Transfers(unittest.TestCase):
    def setUp(self):
        self.here = Node(b"x")
        self.engine = self.here.engine
        self.peer = Peer()
        self.addCleanup(self.peer.close)

    def test_write_and_read(self):
        self.assertEqual(self.engine.transfer_sync_write(self.peer.session, self.here.address, self.peer.address + 10, 100), 0)
        self.assertEqual(self.peer.ask("memory[9:111].count(b'x'), memory[10:110].count(b'x')"), (100, 100))
        self.peer.ask("memory.__setitem__(50, 7)")
        self.assertEqual(self.engine.transfer_sync_read(self.peer.session, self.here.address, self.peer.address + 50, 1), 0)
        self.assertEqual(self.here.memory[0], 7)

    def test_batches_of_every_kind_of_sequence(self):
        class Odd:
            def __init__(self, value):
                self.value = value

            def __index__(self):
                return self.value

        local, remote, lengths = [self.here.address] * 4, [self.peer.address + i * 1000 for i in range(4)], [10, 0, 20, 30]
        kinds = [list, tuple, lambda n: array.array("Q", n), lambda n: memoryview(array.array("q", n)), lambda n: [Odd(i) for i in n]]
        for number, kind in enumerate(kinds):
            with self.subTest(number):
                self.peer.ask("memory.__setitem__(slice(0, 4000), bytes(4000))")
                self.assertEqual(
                    self.engine.batch_transfer_sync_write(self.peer.session, kind(local), kind(remote), kind(lengths)), 0)
                self.assertEqual(self.peer.ask("[memory[i*1000:(i+1)*1000].count(b'x') for i in range(4)]"), [10, 0, 20, 30])
        self.assertEqual(self.engine.batch_transfer_sync_read(self.peer.session, [self.here.address], [self.peer.address + 500], [4]), 0)
        self.assertEqual(bytes(self.here.memory[:5]), b"\0\0\0\0x")
        self.assertEqual(self.engine.batch_transfer_sync_write(self.peer.session, [], [], []), 0)

    def test_numpy_arrays_and_elements(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("the Python package numpy is missing")
        local = numpy.full(3, self.here.address, dtype=numpy.uint64)
        remote = numpy.arange(3, dtype=numpy.int64) * 10 + self.peer.address
        lengths = [numpy.int64(5)] * 3
        self.assertEqual(self.engine.batch_transfer_sync_write(self.peer.session, local, remote, lengths), 0)
        self.assertEqual(self.peer.ask("memory.count(b'x')"), 15)
        strided = numpy.arange(6, dtype=numpy.uint64)[::2] * numpy.uint64(0) + numpy.uint64(self.peer.address)
        self.assertEqual(self.engine.batch_transfer_sync_write(self.peer.session, local[::1], strided[::1], lengths), 0)

    def test_failures_are_negative_and_quick(self):
        write = self.engine.transfer_sync_write
        begin = time.monotonic()
        stranger = bytearray(64)
        unregistered = ctypes.addressof(ctypes.c_char.from_buffer(stranger))
        for source, target, length in (
                (unregistered, self.peer.address, 64), (self.here.address, self.peer.address + SIZE, 1),
                (self.here.address, 0, 1), (self.here.address, 2**63 + 5, 8), (self.here.address, 2**64 - 1, 8),
                (self.here.address, 2**64, 8), (-1, self.peer.address, 8), (self.here.address, self.peer.address, 2**64 - 1),
                (self.here.address, self.peer.address, -1)):
            with self.subTest((source, target, length)):
                self.assertLess(write(self.peer.session, source, target, length), 0)
        self.assertLess(write("127.0.0.1:1", self.here.address, self.peer.address, 8), 0)
        self.assertLess(write("no.such.host.invalid:1", self.here.address, self.peer.address, 8), 0)
        self.assertLess(write("", self.here.address, self.peer.address, 8), 0)
        self.assertLess(self.engine.batch_transfer_sync_write(self.peer.session, [self.here.address], [self.peer.address], [1, 2]), 0)
        self.assertEqual(self.engine.batch_transfer_async_write("127.0.0.1:1", [self.here.address], [1], [1]), 0)
        self.assertEqual(self.peer.ask("memory.count(b'x')"), 0)
        self.assertLess(time.monotonic() - begin, 20)

    def test_wrong_calls_name_their_arguments(self):
        with self.assertRaises(TypeError) as caught:
            self.engine.transfer_sync_write(self.peer.session, 1, 2, 3, colour=4)
        self.assertIn("colour=4", str(caught.exception))
        for wrong in ("text", 5, ["a"], None, [1.5]):
            with self.assertRaises(TypeError):
                self.engine.batch_transfer_sync_write(self.peer.session, wrong, [1], [1])

    def test_asynchronous(self):
        ids = [self.engine.batch_transfer_async_write(self.peer.session, [self.here.address], [self.peer.address + i], [1]) for i in range(8)]
        self.assertNotIn(0, ids)
        self.assertEqual(self.engine.get_batch_transfer_status(ids), 0)
        self.assertEqual(self.peer.ask("memory.count(b'x')"), 8)
        self.assertLess(self.engine.get_batch_transfer_status(ids[:1]), 0)
        one = self.engine.transfer_submit_write(self.peer.session, self.here.address, self.peer.address + 100, 5)
        while (status := self.engine.transfer_check_status(one)) == 0:
            time.sleep(0.001)
        self.assertEqual(status, 1)
        self.assertEqual(self.engine.transfer_check_status(one), -1)
        read = self.engine.batch_transfer_async_read(self.peer.session, [self.here.address], [self.peer.address + 200], [9])
        self.assertEqual(self.engine.get_batch_transfer_status([read]), 0)
        self.assertEqual(bytes(self.here.memory[:10]), bytes(9) + b"x")
        self.assertNotEqual(self.engine.batch_transfer_async(self.peer.session, [self.here.address], [self.peer.address], [1], TransferOpcode.Read), 0)

    def test_notifications_after_data(self):
        sync = self.engine.transfer_sync
        self.assertEqual(sync(self.peer.session, self.here.address, self.peer.address, 64, TransferOpcode.Write, TransferNotify("a", "1")), 0)
        self.assertEqual(sync(self.peer.session, self.here.address, self.peer.address, 0, TransferEngine.Opcode.Write, notify=TransferNotify("b", "2")), 0)
        self.assertEqual(sync(self.peer.session, self.here.address, self.peer.address, 64, TransferEngine.Read), 0)
        self.assertEqual(self.peer.ask("[(n.name, n.msg) for n in engine.get_notifies()]"), [("a", "1"), ("b", "2")])
        self.assertEqual(self.peer.ask("engine.get_notifies()"), [])

    def test_probe_and_first_buffer(self):
        self.assertEqual(self.engine.send_probe(self.peer.session), 0)
        self.assertEqual(self.engine.get_first_buffer_address(self.peer.session), self.peer.address)
        self.peer.process.kill()
        self.peer.process.wait()
        begin = time.monotonic()
        self.assertLess(self.engine.send_probe(self.peer.session), 0)
        self.assertEqual(self.engine.get_first_buffer_address(self.peer.session), 0)
        self.assertLess(self.engine.transfer_sync_write(self.peer.session, self.here.address, self.peer.address, 8), 0)
        self.assertLess(time.monotonic() - begin, 15)

    def test_bytes_are_there_when_the_call_returns(self):
        for round_ in range(200):
            value = round_ % 255 + 1
            self.here.memory[:8] = bytes([value]) * 8
            self.assertEqual(self.engine.transfer_sync_write(self.peer.session, self.here.address, self.peer.address + round_ * 64, 8), 0)
            self.assertEqual(self.peer.ask(f"memory[{round_ * 64 + 7}]"), value)

    def test_twenty_threads_share_one_engine(self):
        failures = []

        def work(number):
            for i in range(50):
                offset = (number * 50 + i) * 1000
                code = self.engine.batch_transfer_sync_write(
                    self.peer.session, [self.here.address + offset], [self.peer.address + offset], [1000])
                if code != 0:
                    failures.append(code)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.peer.ask("memory.count(b'x')"), 1_000_000)

    def test_others_run_while_a_call_waits(self):
        hold(self.peer.process)  # the probe waits for its deadline
        self.addCleanup(self.peer.process.send_signal, 18)
        codes = []
        waiting = threading.Thread(target=lambda: codes.append(self.engine.send_probe(self.peer.session)))
        begin = time.monotonic()
        waiting.start()
        turns = 0
        while waiting.is_alive():
            turns += 1
            time.sleep(0.001)
        self.assertLess(codes[0], 0)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertGreater(turns, 100)


class Engines(unittest.TestCase):
    def test_memory_is_registered_once_and_as_a_whole(self):
        node = Node()
        engine, address = node.engine, node.address
        self.assertEqual(engine.register_memory(address, SIZE), -7)
        self.assertEqual(engine.register_memory(address + 8, 8), -7)
        self.assertLess(engine.register_memory(address, 0), 0)
        self.assertLess(engine.register_memory(2**64, 8), 0)
        self.assertEqual(engine.unregister_memory(address + 1), -3)
        self.assertEqual(engine.unregister_memory(address), 0)
        self.assertEqual(engine.unregister_memory(address), -3)
        other = bytearray(4096)
        second = ctypes.addressof(ctypes.c_char.from_buffer(other))
        self.assertLess(engine.batch_register_memory([second, second], [4096, 4096]), 0)
        self.assertEqual(engine.batch_register_memory([second, address], [4096, SIZE]), 0, "the failed call left nothing")
        self.assertLess(engine.batch_register_memory([second], [1, 2]), 0)
        self.assertEqual(engine.batch_unregister_memory([second, address]), 0)
        self.assertEqual(engine.register_memory(address, SIZE, "cpu:0"), 0)

    def test_managed_buffers(self):
        here, there = Node(), Node()
        a, b = here.engine.allocate_managed_buffer(1000), there.engine.allocate_managed_buffer(8 << 20)
        self.assertNotEqual(0, a * b)
        self.assertEqual(here.engine.write_bytes_to_buffer(a, b"hello", 5), 0)
        self.assertEqual(here.engine.transfer_sync_write(there.session, a, b + 100, 5), 0)
        self.assertEqual(there.engine.read_bytes_from_buffer(b + 100, 5), b"hello")
        self.assertLess(here.engine.write_bytes_to_buffer(a, b"abc", 4), 0, "more than there is")
        self.assertLess(here.engine.write_bytes_to_buffer(8, b"abc", 3), 0)
        self.assertEqual(here.engine.read_bytes_from_buffer(8, 3), b"")
        self.assertEqual(here.engine.free_managed_buffer(a, 1000), 0)
        self.assertLess(here.engine.free_managed_buffer(a, 1000), 0)
        self.assertEqual(here.engine.allocate_managed_buffer(0), 0)

    def test_engines_that_registered_nothing_have_memory_to_try(self):
        here, there = TransferEngine(), TransferEngine()
        for engine in (here, there):
            self.assertEqual(engine.initialize("127.0.0.1:0", "P2PHANDSHAKE", "tcp", ""), 0)
        here_name, there_name = (f"127.0.0.1:{engine.get_rpc_port()}" for engine in (here, there))
        source, target = here.get_first_buffer_address(here_name), here.get_first_buffer_address(there_name)
        self.assertNotEqual(source * target, 0)
        for round_ in range(1000):
            data = os.urandom(16 + round_ % 240)
            place = round_ * 1024
            self.assertEqual(here.write_bytes_to_buffer(source + place, data, len(data)), 0)
            self.assertEqual(here.transfer_sync_write(there_name, source + place, target + place, len(data)), 0)
            self.assertEqual(here.write_bytes_to_buffer(source + place, bytes(len(data)), len(data)), 0)
            self.assertEqual(here.transfer_sync_read(there_name, source + place, target + place, len(data)), 0)
            self.assertEqual(here.read_bytes_from_buffer(source + place, len(data)), data)
        own = bytearray(4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(own))
        self.assertEqual(there.register_memory(address, len(own)), 0)
        self.assertEqual(here.get_first_buffer_address(there_name), address)
        self.assertEqual(there.get_first_buffer_address(there_name), address)

    def test_memory_of_gpus_is_refused_by_name(self):
        for protocol, supported in (("nvlink", engine_module.SUPPORT_MNNVL), ("hip", engine_module.SUPPORT_HIP),
                                    ("nvlink_intra", engine_module.SUPPORT_INTRA_NVLINK)):
            self.assertIs(supported, False)
            self.assertEqual(TransferEngine().initialize("127.0.0.1", "P2PHANDSHAKE", protocol, ""), -1)

    def test_many_engines_in_one_process(self):
        nodes = [Node(bytes([i])) for i in range(8)]
        for i, node in enumerate(nodes):
            target = nodes[(i + 1) % 8]
            self.assertEqual(node.engine.transfer_sync_write(target.session, node.address, target.address + 100, 10), 0)
            self.assertEqual(target.memory[109], i)
        self.assertEqual(len({node.session for node in nodes}), 8)

    def test_construct_drop_construct(self):
        for _ in range(10):
            node = Node()
            self.assertIsInstance(node.engine.get_engine(), InnerTransferEngine)
            self.assertNotEqual(node.engine.get_engine_ptr(), 0)
            del node

    def check_names(self, plainly, kind, address_of_kind):
        """Segments by the names that they were given, in a directory that is written with its scheme and by its kind."""
        memory = bytearray(b"x" * 100) + bytearray(100)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        plain, explicit = TransferEngine(), TransferEngine()
        self.assertEqual(plain.initialize("node-a:1234", plainly, "tcp", ""), 0)
        self.assertEqual(explicit.initialize_ext("node-b", address_of_kind, "tcp", "", kind), 0)
        self.assertEqual(plain.register_memory(address, 100), 0)
        self.assertEqual(explicit.register_memory(address + 100, 100), 0)
        self.assertEqual(plain.transfer_sync_write("node-b", address, address + 100, 100), 0)
        self.assertEqual(memory.count(b"x"), 200)
        self.assertEqual(explicit.transfer_sync_read("node-a:1234", address + 100, address, 100), 0)
        self.assertLess(plain.transfer_sync_read("node-c", address, address + 100, 100), 0)
        # Another process under the same name is found by the same call.
        del explicit
        self.assertLess(plain.transfer_sync_write("node-b", address, address + 100, 100), 0)
        memory[100:] = bytes(100)
        successor = TransferEngine()
        self.assertEqual(successor.initialize("node-b", plainly, "tcp", ""), 0)
        self.assertEqual(successor.register_memory(address + 100, 100), 0)
        self.assertEqual(plain.transfer_sync_write("node-b", address, address + 100, 100), 0)
        self.assertEqual(memory.count(b"x"), 200)

    def test_names_in_etcd(self):
        if Etcd.why_not():
            self.skipTest(Etcd.why_not())
        etcd = Etcd()
        self.addCleanup(etcd.close)
        endpoint = f"{etcd.host}:{etcd.port}"
        self.check_names(endpoint, "etcd", endpoint)

    def test_names_in_redis(self):
        if not shutil.which("redis-server"):
            self.skipTest("the program redis-server (package redis-server) is missing")
        port = free_port("127.0.0.1")
        redis = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "s3cret"],
                                 stdout=subprocess.PIPE, text=True)
        self.addCleanup(redis.communicate)
        self.addCleanup(redis.kill)
        next(line for line in redis.stdout if "eady to accept connections" in line)
        with unittest.mock.patch.dict(os.environ, {"MC_REDIS_PASSWORD": "s3cret"}):
            self.check_names(f"redis://127.0.0.1:{port}", "redis", f"127.0.0.1:{port}")

    def test_names_in_an_http_metadata_server(self):
        server = KVBootstrapServer(0, "127.0.0.1")
        server.run()
        self.addCleanup(server.close)
        self.check_names(f"http://127.0.0.1:{server.port}/metadata", "http", f"http://127.0.0.1:{server.port}/metadata")

    def test_eight_processes_with_one_configuration(self):
        peers = [Peer() for _ in range(8)]
        for peer in peers:
            self.addCleanup(peer.close)
        for number, peer in enumerate(peers):
            target = peers[(number + 1) % 8]
            peer.ask(f"memory.__setitem__(0, {number + 1})")
            self.assertEqual(peer.ask(f"engine.transfer_sync_write({target.session!r}, {peer.address}, {target.address + 99}, 1)"), 0)
            self.assertEqual(target.ask("memory[99]"), number + 1)
        self.assertEqual(len({peer.session for peer in peers}), 8)

    def test_an_engine_that_is_not_initialized(self):
        engine = TransferEngine()
        self.assertLess(engine.get_rpc_port(), 0)
        self.assertLess(engine.register_memory(4096, 4096), 0)
        self.assertLess(engine.transfer_sync_read("127.0.0.1:1", 1, 1, 1), 0)
        self.assertLess(engine.initialize("127.0.0.1", "gopher://127.0.0.1", "tcp", ""), 0)
        self.assertEqual(engine.initialize("localhost:7", "P2PHANDSHAKE", "tcp", ""), 0)
        self.assertNotEqual(engine.get_rpc_port(), 7)
        self.assertLess(engine.initialize("localhost", "P2PHANDSHAKE", "tcp", ""), 0)

    def test_what_clients_probe_by_text(self):
        self.assertIn("length: int", TransferEngine.transfer_sync_write.__doc__)
        self.assertTrue(hasattr(TransferEngine, "batch_register_memory") and getattr(TransferEngine, "send_probe", None))
        self.assertTrue(inspect.isclass(InnerTransferEngine))
        self.assertNotEqual(TransferOpcode.Read, TransferOpcode.Write)

    def test_the_stubs_name_what_is_there_and_as_it_is_called(self):
        with open(os.path.join(ROOT, "python", "mooncake", "engine.pyi"), encoding="utf-8") as file:
            stubs = {node.name: node for node in ast.parse(file.read()).body if isinstance(node, ast.ClassDef)}
        methods = {each.name: each for each in stubs["TransferEngine"].body if isinstance(each, ast.FunctionDef)}
        public = {name for name in dir(TransferEngine) if not name.startswith("_") and callable(getattr(TransferEngine, name))}
        self.assertEqual(set(methods) - {"__init__"}, public - {"Opcode", "TransferOpcode", "Read", "Write"})
        for name in set(methods) - {"__init__"}:
            named = re.findall(r"(\w+): ", getattr(TransferEngine, name).__doc__.split(")", 1)[0])[1:]
            self.assertEqual([argument.arg for argument in methods[name].args.args[1:]], named, name)

    def test_fork_after_initialize(self):
        node, peer = Node(b"x"), Node()
        child = os.fork()
        if child == 0:
            code = node.engine.transfer_sync_write(peer.session, node.address, peer.address, 8)
            del node, peer
            os._exit(0 if code < 0 else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(node.engine.transfer_sync_write(peer.session, node.address, peer.address, 8), 0)

    def test_fork_before_initialize(self):
        engine = TransferEngine()
        child = os.fork()
        if child == 0:
            fresh = TransferEngine()
            os._exit(0 if fresh.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0 else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), 0)


class Programs(unittest.TestCase):
    def python(self, code, seconds=30, **environment):
        return subprocess.run([sys.executable, "-c", code], env={**ENVIRONMENT, **environment}, capture_output=True, text=True,
                              timeout=seconds, check=False)

    def test_the_interpreter_ends_while_transfers_fly(self):
        code = """
import ctypes, threading, time
from mooncake.engine import TransferEngine
a, b = TransferEngine(), TransferEngine()
for e in (a, b): assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
memory = bytearray(64 << 20)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
a.register_memory(base, 32 << 20); b.register_memory(base + (32 << 20), 32 << 20)
peer = f"127.0.0.1:{b.get_rpc_port()}"
def work():
    while True: assert a.transfer_sync_write(peer, base, base + (32 << 20), 32 << 20) == 0
for _ in range(4): threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
for _ in range(20): a.batch_transfer_async_write(peer, [base], [base + (32 << 20)], [32 << 20])
print("leaving", flush=True)
"""
        for _ in range(3):
            ended = self.python(code)
            self.assertEqual((ended.returncode, ended.stdout), (0, "leaving\n"), ended.stderr)

    def test_one_line_says_that_there_is_no_rdma(self):
        ended = self.python('from mooncake.engine import TransferEngine as T; assert T().initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "mlx5_0") == 0')
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(ended.stderr.count("rdma"), 1, ended.stderr)

    def test_tcp_alone_if_the_environment_says_so(self):
        code = """
from mooncake.engine import TransferEngine
a, b = TransferEngine(), TransferEngine()
for e in (a, b): assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
x, y = a.allocate_managed_buffer(64), b.allocate_managed_buffer(64)
a.write_bytes_to_buffer(x, b"q" * 64, 64)
assert a.transfer_sync_write(f"127.0.0.1:{b.get_rpc_port()}", x, y, 64) == 0
assert b.read_bytes_from_buffer(y, 64) == b"q" * 64
"""
        ended = self.python(code, MC_FORCE_TCP="1")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn(": tcp\n", ended.stderr)
        self.assertNotIn("shm", ended.stderr)
        silent = self.python(code, MC_LOG_LEVEL="ERROR")
        self.assertEqual((silent.returncode, silent.stderr), (0, ""))

    def test_import_is_cheap(self):
        best = min(float(self.python("import time; t = time.time(); import mooncake.engine; print(time.time() - t)").stdout) for _ in range(5))
        self.assertLess(best, 0.1)


class Configuration(unittest.TestCase):
    REQUIRED = {"local_hostname": "h", "metadata_server": "P2PHANDSHAKE", "master_server_address": "m:50051"}

    def read(self, **fields):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({**self.REQUIRED, **fields}, file)
            file.flush()
            return MooncakeConfig.from_file(file.name)

    def test_defaults_and_values(self):
        config = self.read()
        self.assertEqual((config.global_segment_size, config.local_buffer_size), (DEFAULT_GLOBAL_SEGMENT_SIZE, DEFAULT_LOCAL_BUFFER_SIZE))
        self.assertEqual((config.protocol, config.device_name, config.enable_ssd_offload, config.ssd_offload_path, config.tenant_id),
                         ("tcp", "", False, "", "default"))
        config = self.read(local_buffer_size="4 GB", enable_ssd_offload="off", ssd_offload_path=None, tenant_id="a")
        self.assertEqual((config.local_buffer_size, config.enable_ssd_offload, config.ssd_offload_path, config.tenant_id), (4 << 30, False, "", "a"))

    def test_sizes(self):
        for text, size in (("1024", 1024), (" 2048 ", 2048), ("4096b", 4096), ("512k", 512 << 10), ("1.5KB", 1536), ("1m", 1 << 20), ("3 gb", 3 << 30),
                           ("1T", 1 << 40), ("1e9", 10**9), (1.5, 1), (0, 0)):
            self.assertEqual(self.read(global_segment_size=text).global_segment_size, size, text)
        for text in ("", " ", "gb", "abc", "4 eb", "inf"):
            with self.assertRaises(ValueError, msg=text):
                self.read(global_segment_size=text)

    def test_what_is_missing_or_wrong_is_named(self):
        for field in self.REQUIRED:
            with unittest.mock.patch.dict(self.REQUIRED), self.assertRaisesRegex(ValueError, f"Missing required config field: {field}"):
                del self.REQUIRED[field]
                self.read()
        with self.assertRaisesRegex(ValueError, "maybe"):
            self.read(enable_ssd_offload="maybe")

    def test_the_environment(self):
        with unittest.mock.patch.dict(os.environ, clear=True):
            with self.assertRaisesRegex(ValueError, "MOONCAKE_MASTER"):
                MooncakeConfig.load_from_env()
            os.environ.update(MOONCAKE_MASTER="m:1", MOONCAKE_GLOBAL_SEGMENT_SIZE="3gb", LOCAL_HOSTNAME="h", MOONCAKE_OFFLOAD_ENABLED="True",
                              MOONCAKE_OFFLOAD_FILE_STORAGE_PATH="/d", MOONCAKE_TENANT_ID="t")
            config = MooncakeConfig.load_from_env()
        self.assertEqual((config.master_server_address, config.global_segment_size, config.local_hostname, config.metadata_server),
                         ("m:1", 3 << 30, "h", "P2PHANDSHAKE"))
        self.assertEqual((config.enable_ssd_offload, config.ssd_offload_path, config.tenant_id), (True, "/d", "t"))


if __name__ == "__main__":
    unittest.main()
