"""What the fault tests share: two engines in processes of their own, the hosts and the cable between them, and what /proc says of them."""

import json
import os
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from support import PROGRAM, Namespace, hold, wait_until  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = os.path.join(os.path.dirname(os.path.dirname(PROGRAM)), "tests", "fault_driver")
MEMORY_BYTES = 16 << 20
# COUNT BYTES STRIDE of one batch: 1 GiB that goes round a smaller memory, and many small ranges with gaps between them.
BIG = (1024, 1 << 20, (1 << 20) + 4096)
SMALL_RANGES = (10_000, 1000, 1024)
PROBE = (4, 100_000, 1 << 20)


class Host(Namespace):
    def ip(self, *arguments):
        subprocess.run(["ip", "-n", self.name, *arguments], check=True, capture_output=True, text=True)


class Lines:
    """A process that is told lines and answers each with one."""

    # The C library keeps the stacks of threads that have ended, two mappings each, for those to come.
    ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.pthread.stack_cache_size=0"}

    def __init__(self, command, namespace=None, environment=None):
        self.process = subprocess.Popen(
            namespace.command(command) if namespace else command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, **self.ENVIRONMENT, **(environment or {})})
        self.buffer = b""

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        """All threads stand still when this returns."""
        hold(self.process)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def tell(self, line):
        self.process.stdin.write(line.encode() + b"\n")

    def answer(self, seconds=30):
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no answer from process {self.pid} within {seconds} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(f"process {self.pid} ended with {self.process.wait()}")
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Driver(Lines):
    """fault_driver: see there for the commands."""

    def __init__(self, address, transports, namespace=None, prefix=(), frame_timeout_ms=None):
        # One arena: what threads allocate and free is then counted in one place.
        options = [str(frame_timeout_ms)] if frame_timeout_ms else []
        super().__init__([*prefix, DRIVER, address, ",".join(transports), *options], namespace, {"MALLOC_ARENA_MAX": "1"})
        self.address = json.loads(self.answer())["address"]

    def ask(self, *words, seconds=30):
        self.say(*words)
        return self.heard(seconds)

    def say(self, *words):
        self.tell(" ".join(" ".join(map(str, word)) if isinstance(word, tuple) else str(word) for word in words))

    def heard(self, seconds=30):
        return json.loads(self.answer(seconds))

    def do(self, *words, seconds=30):
        answer = self.ask(*words, seconds=seconds)
        assert answer["ok"], (words, answer)
        return answer

    def counts(self):
        self.do("trim")
        return counts(self.pid)


def counts(pid):
    """What the process holds, as the kernel counts it."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        mappings = sum(1 for _ in file)
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    kibibytes = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task")), "mappings": mappings,
            "resident KiB": kibibytes}


class Cable(Lines):
    """wire.py between two hosts, in a namespace of its own."""

    def __init__(self, first, second, first_address, second_address):
        self.middle = Host([])
        try:
            inner = [self._plug(host, address) for host, address in ((first, first_address), (second, second_address))]
            super().__init__([sys.executable, os.path.join(HERE, "wire.py"), *inner], self.middle)
            self.answer()
        except BaseException:
            self.middle.close()
            raise

    def _plug(self, host, address):
        """A link from `host` to the middle, whose name there it returns."""
        host.link, inner = f"{host.name[-8:]}a", f"{host.name[-8:]}b"
        host.ip("link", "add", host.link, "type", "veth", "peer", "name", inner, "netns", self.middle.name)
        host.ip("addr", "add", address, "dev", host.link)
        host.ip("link", "set", host.link, "up")
        self.middle.ip("link", "set", inner, "up")
        return inner

    @staticmethod
    def why_not():
        if Namespace.why_not():
            return Namespace.why_not()
        probe = Host([])
        try:
            done = subprocess.run(probe.command([sys.executable, "-c", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)"]),
                                  capture_output=True, text=True, check=False)
            return None if done.returncode == 0 else f"no packet sockets: {done.stderr.splitlines()[-1]}"
        finally:
            probe.close()

    def rule(self, **rule):
        self.tell(json.dumps(rule))
        self.answer()

    def close(self):
        super().close()
        self.middle.close()


class Pair:
    """Two engines with memory, and batches of one with the other whose bytes are known."""

    def __init__(self, near, far, kind="user"):
        self.near, self.far, self.kind = near, far, kind
        self.seed = 0
        near.do("register", "memory", MEMORY_BYTES, "user")
        self.renew_target()
        near.do("connect", far.address, 5000)

    def renew_target(self):
        self.region = self.far.do("register", "target", MEMORY_BYTES, self.kind)["region"]
        self.far.do("fill", "target", 0)  # counts would differ before the first touch

    def submit(self, direction, ranges, deadline_ms):
        """Fills both sides with new contents and submits; for outcome()."""
        (self.source, source), (self.sink, self.sunk) = (self.near, "memory"), (self.far, "target")
        if direction == "read":
            (self.source, source), (self.sink, self.sunk) = (self.far, "target"), (self.near, "memory")
        self.seed += 2
        self.source.do("fill", source, self.seed)
        self.sink.do("fill", self.sunk, self.seed - 1)
        self.ranges, self.deadline_ms = ranges, deadline_ms
        self.number = self.near.do("submit", direction, "memory", self.region, ranges, deadline_ms)["number"]

    def outcome(self, late_ms):
        """What became of it, which must be in time."""
        outcome = self.near.ask("wait", self.number, seconds=self.deadline_ms / 1000 + 30)
        assert outcome["ms"] <= self.deadline_ms + late_ms, outcome
        return outcome

    def check(self, outcome):
        """The bytes, now that both sides can be asked again."""
        how = "exact" if outcome["ok"] else "either"
        found = self.sink.ask("check", self.sunk, self.seed - 1, self.seed, self.ranges, how)
        assert found["ok"], (outcome, found)

    def move(self, direction, ranges, deadline_ms):
        """A batch that must succeed."""
        self.submit(direction, ranges, deadline_ms)
        outcome = self.outcome(0)
        assert outcome["ok"], outcome
        self.check(outcome)

    def quarantine(self):
        """What a batch that failed may still send is refused from now on: its region is gone."""
        self.far.do("unregister", "target")
        self.renew_target()

    def counts(self):
        return {"near": self.near.counts(), "far": self.far.counts()}


def grown(before, after, slack):
    """What is not as it was before, but for `slack`. Memory and mappings may have become less: what was held at first may have been waste."""
    def differs(name, change):
        return change > slack[name] if name in slack else change != 0

    return {f"{side} {name}": (before[side][name], after[side][name]) for side in before for name in before[side]
            if differs(name, after[side][name] - before[side][name])}
