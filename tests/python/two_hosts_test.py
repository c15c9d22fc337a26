"""What mooncake.engine promises when the network breaks within a call, and of the peer's memory when the call returns."""

import subprocess
import sys
import tempfile
import time
import unittest

from tested import ENVIRONMENT
from support import Namespace

HERE, THERE = "10.79.0.1", "10.79.0.2"
RANGES, RANGE_BYTES = 2000, 16384

# A process with an engine and memory: NODE HOST BYTES MANAGED. Answers lines, which are expressions.
NODE = """
import array, ctypes, mmap, sys, threading, time
from mooncake.engine import TransferEngine
host, nbytes, managed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "managed"
engine = TransferEngine()
assert engine.initialize(host, "P2PHANDSHAKE", "rdma", "") == 0
if managed:
    address = engine.allocate_managed_buffer(nbytes)
    assert address != 0
else:
    own = (ctypes.c_ubyte * nbytes)()
    address = ctypes.addressof(own)
    assert engine.register_memory(address, nbytes) == 0
memory = memoryview((ctypes.c_ubyte * nbytes).from_address(address)).cast("B")

def fill(value):
    ctypes.memset(address, value, nbytes)

def write_until_told(session, there, ranges, length):
    # Calls one after another; returns the codes, the longest time of a call, and what the last call wrote.
    local = array.array("Q", range(address, address + ranges * length, length))
    remote = array.array("Q", range(there, there + ranges * length, length))
    lengths = array.array("Q", [length] * ranges)
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
    codes, longest, value = set(), 0, 0
    while not told.is_set():
        value = value % 250 + 1
        fill(value)
        begin = time.monotonic()
        codes.add(engine.batch_transfer_sync_write(session, local, remote, lengths))
        longest = max(longest, time.monotonic() - begin)
    return codes, longest, value

def open_flags(path):
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 4096)

def write_and_flag(path, rounds, session, there):
    # Says in memory that both map, without a system call, that a call has returned; goes on when the peer has looked.
    flags, codes = open_flags(path), set()
    for value in range(1, rounds + 1):
        fill(value)
        codes.add(engine.transfer_sync_write(session, address, there, nbytes))
        flags[0] = value
        while flags[1] != value:
            pass
    return codes

def compare_when_flagged(path, rounds):
    # The peer's part: the moment that the flag says N, every byte is N. Returns how often that was not so.
    flags, wrong = open_flags(path), 0
    for value in range(1, rounds + 1):
        while flags[0] != value:
            pass
        wrong += memory.tobytes().count(value) != nbytes
        flags[1] = value
    return wrong

print(engine.get_rpc_port(), address, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Node:
    def __init__(self, host, nbytes, kind="own", namespace=None, environment=()):
        command = [sys.executable, "-c", NODE, host, str(nbytes), kind]
        self.process = subprocess.Popen(
            namespace.command(command) if namespace else command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**ENVIRONMENT, **dict(environment)})
        port, address = self.process.stdout.readline().split()
        self.session, self.address = f"{host}:{port}", int(address)

    def say(self, line):
        print(line, file=self.process.stdin, flush=True)

    def answer(self):
        return eval(self.process.stdout.readline())

    def ask(self, expression):
        self.say(expression)
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.communicate()


@unittest.skipIf(Namespace.why_not(), Namespace.why_not())
class TwoHosts(unittest.TestCase):
    def setUp(self):
        self.here, self.there = Namespace([]), Namespace([])
        self.addCleanup(self.here.close)
        self.addCleanup(self.there.close)
        self.here.connect(self.there, f"{HERE}/24", f"{THERE}/24")
        nbytes = RANGES * RANGE_BYTES
        tcp = {"MC_FORCE_TCP": "1"}.items()  # one kernel carries both hosts: memory would be the better path
        self.prefill, self.decode = Node(HERE, nbytes, "own", self.here, tcp), Node(THERE, nbytes, "own", self.there, tcp)
        self.addCleanup(self.prefill.close)
        self.addCleanup(self.decode.close)

    def write_while(self, *faults):
        self.prefill.say(f"write_until_told({self.decode.session!r}, {self.decode.address}, {RANGES}, {RANGE_BYTES})")
        for fault in faults:
            time.sleep(0.4)  # some calls, so that the fault comes within one
            fault()
        time.sleep(0.4)
        self.prefill.say("")
        codes, longest, last = self.prefill.answer()
        self.assertEqual(codes, {0})
        self.assertEqual(self.decode.ask(f"memory.tobytes().count({last})"), RANGES * RANGE_BYTES)
        return longest

    def cut(self, seconds):
        self.here.set_link(False)
        time.sleep(seconds)
        self.here.set_link(True)

    def test_cuts_are_healed_within_the_call(self):
        longest = self.write_while(*[lambda: self.cut(0.5)] * 3)
        self.assertGreater(longest, 0.4)  # a call was on its way, and waited

    def test_connections_that_are_reset_are_opened_again_within_the_call(self):
        def reset():
            subprocess.run(self.here.command(["ss", "-K", "dst", THERE]), check=False, capture_output=True)

        self.write_while(*[reset] * 5)

    def test_a_peer_that_is_gone_for_good_is_an_error_in_time(self):
        self.assertEqual(self.prefill.ask(f"engine.transfer_sync_write({self.decode.session!r}, address, {self.decode.address}, 100)"), 0)
        self.decode.close()
        begin = time.monotonic()
        self.assertLess(self.prefill.ask(f"engine.transfer_sync_write({self.decode.session!r}, address, {self.decode.address}, 100)"), 0)
        self.assertLess(time.monotonic() - begin, 20)


class Visibility(unittest.TestCase):
    """The peer polls its memory: no system call of its own gives the bytes time to arrive."""

    ROUNDS = 200

    def check(self, kind, nbytes, **environment):
        flags = tempfile.NamedTemporaryFile(prefix="mooncake-test-")
        self.addCleanup(flags.close)
        flags.write(bytes(4096))
        flags.flush()
        prefill, decode = (Node("127.0.0.1", nbytes, kind, environment=environment.items()) for _ in range(2))
        self.addCleanup(prefill.close)
        self.addCleanup(decode.close)
        decode.say(f"compare_when_flagged({flags.name!r}, {self.ROUNDS})")
        self.assertEqual(prefill.ask(f"write_and_flag({flags.name!r}, {self.ROUNDS}, {decode.session!r}, {decode.address})"), {0})
        self.assertEqual(decode.answer(), 0)

    def test_memory_that_both_map(self):
        self.check("managed", 1 << 18)

    def test_memory_of_the_processes_own(self):
        self.check("own", 1 << 18)

    def test_over_tcp(self):
        self.check("own", 1 << 18, MC_FORCE_TCP="1")


if __name__ == "__main__":
    unittest.main()
