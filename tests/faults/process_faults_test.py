"""Two processes of one host, and what can happen to either: killed, stopped, out of descriptors or memory, regions taken away.

Each over every way that needs one host.
MOONCAKE_TEST_FAULT_ROUNDS as in network_faults_test.py.
"""

import contextlib
import os
import random
import resource
import shutil
import subprocess
import time
import unittest

from drivers import BIG, MEMORY_BYTES, PROBE, SMALL_RANGES, Driver, Pair, grown, wait_until

ROUNDS = int(os.environ.get("MOONCAKE_TEST_FAULT_ROUNDS", "5"))
DEADLINE_MS = 500
LONG_MS = 10_000
LATE_MS = 500
CANCEL_MS = 1000 + LATE_MS  # a ring is kept if its target finishes within a second what it has begun
# Made at the first use of a path: buffers of 256 KiB on four TCP connections, for each direction, or 2 MiB of a ring. It does not
# grow with rounds.
SLACK = {"resident KiB": 4096, "mappings": 4}


@contextlib.contextmanager
def limit(pid, kind, value):
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


class ProcessFaults:
    """Over one way, to one kind of memory."""

    transports, kind = None, None

    @classmethod
    def setUpClass(cls):
        near, far = Driver("127.0.0.1", cls.transports), Driver("127.0.0.1", cls.transports)
        cls.addClassCleanup(near.close)
        cls.addClassCleanup(far.close)
        cls.pair = Pair(near, far, cls.kind)
        cls.chance = random.Random(12)
        for direction in ("write", "read"):
            for ranges in (BIG, SMALL_RANGES):
                cls.pair.move(direction, ranges, 20_000)
        for driver in (near, far):  # the thread that populates starts with the first allocation
            driver.do("register", "first", 1 << 20, "mapped")
            driver.do("unregister", "first")
        cls.heals()
        cls.before = cls.pair.counts()

    def draw(self):
        """Direction and ranges."""
        return self.chance.choice(("write", "read")), self.chance.choice((BIG, SMALL_RANGES))

    def pause(self, seconds):
        time.sleep(self.chance.random() * seconds)  # the moment is what is random

    def given_back(self):
        self.heals()  # memory of the other side that was touched counts as one's own
        wait_until(lambda: not grown(self.before, self.pair.counts(), SLACK), 25,
                   lambda: f"everything is given back: {grown(self.before, self.pair.counts(), SLACK)}")

    @classmethod
    def heals(cls):
        cls.pair.near.do("connect", cls.pair.far.address, LONG_MS)
        cls.pair.quarantine()
        for direction in ("write", "read"):
            cls.pair.move(direction, PROBE, LONG_MS)

    def test_a_stopped_peer(self):
        far = self.pair.far
        for _ in range(ROUNDS):
            self.pair.submit(*self.draw(), DEADLINE_MS)
            self.pause(0.05)
            far.stop()
            try:
                outcome = self.pair.outcome(LATE_MS)
            finally:
                far.go_on()
            self.pair.check(outcome)
            self.given_back()

    def test_cancel_while_copies_fly(self):
        far = self.pair.far
        for number in range(ROUNDS):
            self.pair.submit(*self.draw(), LONG_MS)
            self.pause(0.05)
            if number % 2:
                far.stop()
            try:
                cancelled = time.monotonic()
                self.pair.near.do("cancel", self.pair.number)
                outcome = self.pair.outcome(0)
                took = time.monotonic() - cancelled
            finally:
                far.go_on()
            self.assertTrue(outcome["ok"] or outcome["id"] == "E201", outcome)
            self.assertLess(took, CANCEL_MS / 1000, outcome)
            self.pair.check(outcome)
            self.given_back()

    def test_unregister_while_copies_fly(self):
        for _ in range(ROUNDS):
            self.pair.submit(*self.draw(), LONG_MS)
            self.pause(0.05)
            self.pair.far.do("unregister", "target")  # and its memory is unmapped: a late copy would end the process
            outcome = self.pair.outcome(0)
            self.assertTrue(outcome["ok"] or outcome["id"] == "E304", outcome)
            self.pair.renew_target()
            self.given_back()

    def test_a_peer_killed_between_any_two_steps(self):
        def one_killed():
            far = Driver("127.0.0.1", self.transports)
            try:
                near = self.pair.near
                region = far.do("register", "target", MEMORY_BYTES, self.kind)["region"]
                step = self.chance.randrange(3)
                if step == 0:
                    near.say("connect", far.address, DEADLINE_MS)
                    self.pause(0.02)
                    far.process.kill()
                    self.assertLess(near.heard()["ms"], DEADLINE_MS + LATE_MS)
                    return
                near.do("connect", far.address, LONG_MS)
                number = near.do("submit", self.draw()[0], "memory", region, self.draw()[1], LONG_MS)["number"]
                if step == 1:
                    self.pause(0.05)
                else:
                    far.say("unregister", "target")
                    self.pause(0.02)
                far.process.kill()
                outcome = near.ask("wait", number)
                self.assertLess(outcome["ms"], 2000, outcome)  # the end of a process is seen, not waited for
            finally:
                far.process.kill()
                with contextlib.suppress(BrokenPipeError):
                    far.close()

        one_killed()
        for _ in range(max(20, ROUNDS)):
            one_killed()
        self.given_back()

    def test_out_of_descriptors(self):
        self.heals()  # every path is there
        for side in (self.pair.near, self.pair.far):
            newcomer = Driver("127.0.0.1", self.transports)
            try:
                taken = set(map(int, os.listdir(f"/proc/{side.pid}/fd")))
                # The next number is above the limit; open ones stay open.
                with limit(side.pid, resource.RLIMIT_NOFILE, next(number for number in range(1 << 20) if number not in taken)):
                    self.assertFalse(side.ask("register", "more", 1 << 20, "mapped")["ok"])
                    one, other = (side, newcomer) if side is self.pair.near else (newcomer, side)
                    refused = one.ask("connect", other.address, DEADLINE_MS)
                    self.assertLess(refused["ms"], DEADLINE_MS + LATE_MS)
                    self.assertFalse(refused["ok"], refused)
                    self.pair.near.do("connect", self.pair.far.address, LONG_MS)
                    for direction in ("write", "read"):
                        self.pair.move(direction, BIG, LONG_MS)  # what is open works
                side.do("register", "more", 1 << 20, "mapped")
                side.do("unregister", "more")
                one.do("connect", other.address, LONG_MS)
            finally:
                newcomer.close()
            self.given_back()

    def test_out_of_memory_for_registrations(self):
        far = self.pair.far
        with open(f"/proc/{far.pid}/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        for kind, value in ((resource.RLIMIT_AS, size + (32 << 20)), (resource.RLIMIT_FSIZE, 1 << 20)):
            with limit(far.pid, kind, value):
                refused = far.ask("register", "more", 64 << 20, "mapped")
                self.assertIn(refused.get("id"), ("E305", "E306"), refused)
                self.pair.move("write", BIG, LONG_MS)
            far.do("register", "more", 64 << 20, "mapped")
            far.do("unregister", "more")
        self.given_back()


class Shm(ProcessFaults, unittest.TestCase):
    transports, kind = ["shm", "tcp"], "mapped"  # nothing else carries what can be mapped

    def test_a_stopped_peer_keeps_nobody_from_hearing_that_a_region_is_gone(self):
        others = [Driver("127.0.0.1", self.transports) for _ in range(2)]
        try:
            for other in others:
                other.do("register", "memory", MEMORY_BYTES, "user")
                other.do("connect", self.pair.far.address, LONG_MS)
                other.do("run", "write", "memory", self.pair.region, PROBE, LONG_MS)  # it has mapped the region now
            self.pair.near.stop()
            try:
                told = self.pair.far.ask("unregister", "target")
            finally:
                self.pair.near.go_on()
            self.assertEqual(told.get("id"), "E108", told)
            for other in others:
                refused = other.ask("run", "write", "memory", self.pair.region, PROBE, LONG_MS)
                self.assertEqual(refused.get("id"), "E304", refused)
        finally:
            for other in others:
                other.close()
        self.pair.renew_target()
        self.given_back()


class Ring(ProcessFaults, unittest.TestCase):
    transports, kind = ["ring"], "user"

    def test_batches_to_stopped_peers_hold_up_nobody_elses(self):
        near, other = self.pair.near, Driver("127.0.0.1", self.transports)
        try:
            region = other.do("register", "target", MEMORY_BYTES, "user")["region"]
            near.do("connect", other.address, LONG_MS)
            near.do("run", "write", "memory", region, PROBE, LONG_MS)
            near.do("connect", self.pair.far.address, LONG_MS)
            self.pair.far.stop()
            try:
                stuck = [near.do("submit", "write", "memory", self.pair.region, BIG, 4000)["number"] for _ in range(3)]
                near.do("connect", other.address, LONG_MS)
                moved = near.do("submit", "write", "memory", region, SMALL_RANGES, LONG_MS)["number"]
                outcome = near.do("wait", moved)
                self.assertLess(outcome["ms"], 2000, outcome)
                for number in stuck:
                    near.do("cancel", number)
                    near.ask("wait", number)
            finally:
                self.pair.far.go_on()
        finally:
            other.close()
        self.given_back()


class Cma(ProcessFaults, unittest.TestCase):
    transports, kind = ["cma"], "user"


def why_no_mounts():
    if not shutil.which("unshare"):
        return "the program unshare (package util-linux) is missing"
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no mount namespaces: {done.stderr.strip()}"


class FullSharedMemory(unittest.TestCase):
    @unittest.skipIf(why_no_mounts(), why_no_mounts())
    def test_nothing_needs_room_in_dev_shm(self):
        script = 'mount -t tmpfs -o size=64k none /dev/shm && head -c 128k /dev/zero >/dev/shm/full 2>/dev/null; exec "$@"'
        near, far = (Driver("127.0.0.1", ["shm", "ring", "tcp"], prefix=["unshare", "-m", "sh", "-c", script, "sh"]) for _ in range(2))
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        for kind in ("mapped", "user"):
            pair = Pair(near, far, kind)
            for direction in ("write", "read"):
                pair.move(direction, SMALL_RANGES, LONG_MS)
            near.do("unregister", "memory")
            far.do("unregister", "target")


if __name__ == "__main__":
    unittest.main()
