"""Two hosts, and what can happen to the network between them and to the process at the other end.

Each fault comes while nothing moves, in the middle of a batch of 1 GiB, and of one of 10,000 small ranges. Every batch ends by its
deadline, no byte is wrong, the next batch works; and when all is over both processes hold what they held before.
MOONCAKE_TEST_FAULT_ROUNDS (default 5) is how often each fault comes.
"""

import collections
import os
import random
import signal
import socket
import subprocess
import threading
import time
import unittest

from drivers import BIG, PROBE, SMALL_RANGES, Cable, Driver, Host, Pair, grown, wait_until

ROUNDS = int(os.environ.get("MOONCAKE_TEST_FAULT_ROUNDS", "5"))
HERE, THERE = "10.78.0.1", "10.78.0.2"
# The batch that is on its way when the fault comes.
MOMENTS = ((None, None), ("write", BIG), ("read", BIG), ("write", SMALL_RANGES), ("read", SMALL_RANGES))
DEADLINE_MS = 300
LONG_MS = 10_000  # enough for all of it, over a network that works again or is only bad
HEALED_MS = 15_000
# After its deadline a batch has this long to say so: the loops share two processors with the test and the cable.
LATE_MS = 500
# What an allocator keeps of what was freed does not grow with rounds.
SLACK = {"resident KiB": 1024, "mappings": 4}


def why_no_resets():
    """`ss -K` needs a kernel that lets sockets be destroyed (CONFIG_INET_DIAG_DESTROY): it says nothing where it cannot."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as probe:
        with listener.accept()[0]:
            subprocess.run(["ss", "-K", "sport", "=", str(probe.getsockname()[1])], check=False, capture_output=True)
            probe.settimeout(0.5)
            try:
                probe.recv(1)
            except TimeoutError:
                return "ss -K cannot end connections here"
            except OSError:
                return None
    return None


@unittest.skipIf(Cable.why_not(), Cable.why_not())
class NetworkFaults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.here, cls.there = Host([]), Host([])
        cls.addClassCleanup(cls.here.close)
        cls.addClassCleanup(cls.there.close)
        cls.cable = Cable(cls.here, cls.there, f"{HERE}/24", f"{THERE}/24")
        cls.addClassCleanup(cls.cable.close)
        near, far = Driver(HERE, ["tcp"], cls.here), Driver(THERE, ["tcp"], cls.there)
        cls.addClassCleanup(near.close)
        cls.addClassCleanup(far.close)
        cls.pair = Pair(near, far)
        cls.chance = random.Random(11)
        for direction in ("write", "read"):  # whatever is made once is made now
            for ranges in (BIG, SMALL_RANGES):
                cls.pair.move(direction, ranges, 20_000)
        cls.pair.quarantine()
        cls.before = cls.pair.counts()

    def suffer(self, begin, end, deadline_ms=DEADLINE_MS):
        """`begin` and `end` a fault, ROUNDS times, at all moments; returns what became of the batches."""
        ended = []
        for number in range(ROUNDS):
            direction, ranges = MOMENTS[number % len(MOMENTS)]
            if ranges:
                self.pair.submit(direction, ranges, deadline_ms)
            time.sleep(self.chance.random() * (0.3 if ranges == BIG else 0.01))  # the moment is what is random
            begin()
            try:
                if ranges:
                    outcome = self.pair.outcome(LATE_MS)
                    ended.append("done" if outcome["ok"] else outcome["id"])
                else:
                    time.sleep(self.chance.random() * 0.3)
            finally:
                end()
            if ranges:
                self.pair.check(outcome)
                if not outcome["ok"]:
                    self.pair.quarantine()
            self.pair.near.do("connect", self.pair.far.address, HEALED_MS)
            self.pair.move(self.chance.choice(("write", "read")), PROBE, HEALED_MS)
        self.given_back()
        counted = ", ".join(f"{count} {what}" for what, count in sorted(collections.Counter(ended).items()))
        print(f"{self.id().split('.')[-1]}, {ROUNDS} rounds: {counted}", flush=True)
        return ended

    def given_back(self):
        # A path that has lost all its connections is opened again when it is needed.
        self.pair.move("write", PROBE, HEALED_MS)
        wait_until(lambda: not grown(self.before, self.pair.counts(), SLACK), 25,
                   lambda: f"everything is given back: {grown(self.before, self.pair.counts(), SLACK)}")

    def suffer_rule(self, deadline_ms=DEADLINE_MS, **rule):
        return self.suffer(lambda: self.cable.rule(**rule), self.cable.rule, deadline_ms)

    def test_link_down(self):
        self.suffer(lambda: self.there.set_link(False), lambda: self.there.set_link(True))

    def test_black_hole(self):
        self.suffer_rule(loss=1)

    def test_loss(self):
        self.assertEqual(set(self.suffer_rule(LONG_MS, loss=0.01)), {"done"})

    def test_delay(self):
        self.suffer_rule(delay_ms=50)

    def test_reordering(self):
        self.suffer_rule(reorder=0.2)

    def test_smaller_packets(self):
        self.suffer_rule(mtu=900)

    def test_slow_network(self):
        self.suffer_rule(bytes_per_second=4 << 20)

    def test_half_open(self):
        def lose():
            self.there.ip("addr", "del", f"{THERE}/24", "dev", self.there.link)

        self.suffer(lose, lambda: self.there.ip("addr", "add", f"{THERE}/24", "dev", self.there.link))

    def reset(self):
        """Ends every connection of the peer's port, in the kernel, with RST to the other side."""
        port = self.pair.far.address.rsplit(":", 1)[1]
        subprocess.run(self.there.command(["ss", "-K", "sport", "=", port]), check=True, capture_output=True)

    @unittest.skipIf(why_no_resets(), why_no_resets())
    def test_reset(self):
        self.assertEqual(set(self.suffer(self.reset, lambda: None, LONG_MS)), {"done"})

    @unittest.skipIf(why_no_resets(), why_no_resets())
    def test_reset_again_and_again(self):
        begun = time.monotonic()
        self.pair.submit("write", BIG, LONG_MS)
        while time.monotonic() < begun + 1:
            time.sleep(self.chance.random() * 0.2)
            self.reset()
        self.pair.check(self.pair.outcome(LATE_MS))
        self.pair.quarantine()
        self.given_back()

    def test_a_batch_that_nobody_receives_can_be_cancelled(self):
        for direction, ranges in MOMENTS[1:]:
            self.pair.submit(direction, ranges, LONG_MS)
            self.cable.rule(loss=1)
            try:
                time.sleep(self.chance.random() * 0.1)
                cancelled = time.monotonic()
                self.pair.near.do("cancel", self.pair.number)
                outcome = self.pair.outcome(0)
                took = time.monotonic() - cancelled
            finally:
                self.cable.rule()
            self.assertTrue(outcome["ok"] or outcome["id"] == "E201", outcome)
            self.assertLess(took, LATE_MS / 1000, outcome)
            self.pair.check(outcome)
            self.pair.quarantine()
        self.given_back()

    def test_a_peer_that_reads_in_small_steps(self):
        far = self.pair.far.process
        stopped = threading.Event()

        def step():
            while not stopped.wait(0.02):
                far.send_signal(signal.SIGCONT)
                time.sleep(0.002)
                far.send_signal(signal.SIGSTOP)

        def begin():
            stopped.clear()
            self.stepper = threading.Thread(target=step)
            self.stepper.start()

        def end():
            stopped.set()
            self.stepper.join()
            far.send_signal(signal.SIGCONT)

        self.suffer(begin, end)

    def test_a_peer_that_stops_reading(self):
        self.suffer(self.pair.far.stop, self.pair.far.go_on)


if __name__ == "__main__":
    unittest.main()
