"""What breaks under RDMA: links, addresses, cables, processes. On real verbs, in the virtual machine (tests/rdma/vm)."""

import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("faults", "integration", "rdma"):
    sys.path.insert(0, os.path.join(HERE, "..", folder))
import resources  # noqa: E402
from drivers import Driver, Pair  # noqa: E402
from support import wait_until  # noqa: E402

# COUNT BYTES STRIDE: 96 MiB that go round a smaller memory. What a soft device moves in about a second, and far more than what a
# queue pair holds.
BIG = (96, 1 << 20, (1 << 20) + 4096)
PROBE = (4, 100_000, 1 << 20)
DEADLINE_MS = 20_000
LATE_MS = 500
RECOVERY_SECONDS = 1.0


def engines(test, devices, others=()):
    transports = [f"rdma@{'+'.join(devices)}", *others]
    drivers = []
    for _ in range(2):
        drivers.append(Driver("127.0.0.1", transports))
        test.addCleanup(drivers[-1].close)
    return drivers


def rails_from(driver):
    """The devices that the rails of its path leave from: of "rails rxe0, rxe1 to rxe2; without …" rxe0 and rxe1."""
    rails = driver.do("paths")["details"]["rdma"].partition(";")[0]
    return {name.split(" to ")[0] for name in rails.partition(" ")[2].split(", ")}


def queue_pairs(driver, device=None):
    return resources.held(driver.pid, device)["qp"]


class Broken(unittest.TestCase):
    """A large batch under which something breaks."""

    def start(self, count, others=()):
        if resources.why_not(count):
            self.skipTest(resources.why_not(count))
        self.devices = resources.devices()[:count]
        self.near, self.far = engines(self, self.devices, others)
        self.pair = Pair(self.near, self.far)
        self.pair.submit("write", PROBE, DEADLINE_MS)
        self.pair.check(self.well(self.pair.outcome(LATE_MS)))

    def well(self, outcome):
        self.assertTrue(outcome["ok"], outcome)
        return outcome

    def under_a_batch(self, broken, direction="write", deadline_ms=DEADLINE_MS):
        """The outcome of a batch that is under way when `broken` is called."""
        before = resources.packets_sent()
        self.pair.submit(direction, BIG, deadline_ms)
        # 96 MiB are 24,000 packets of 4 KiB.
        wait_until(lambda: resources.packets_sent() > before + 500, 10, "packets are on their way")
        broken()
        return self.pair.outcome(LATE_MS)

    def link_down(self, device, far=False):
        self.addCleanup(resources.set_link, device, True, far)
        resources.set_link(device, False, far)

    def link_up_again(self, device, far=False):
        """Back in use within the time from the driver's event on."""
        self.assertNotIn(device, rails_from(self.near))
        resources.set_link(device, True, far)
        wait_until(lambda: resources.active(device), 10, f"{device} is active")
        begin = time.monotonic()
        wait_until(lambda: device in rails_from(self.near), 10, f"{device} is in use again")
        self.assertLess(time.monotonic() - begin, RECOVERY_SECONDS)

    def test_the_link_of_one_of_two_devices_goes_down_and_up(self):
        self.start(2)
        for direction in ("write", "read"):
            for far in (False, True):
                with self.subTest(direction=direction, far=far):
                    outcome = self.well(self.under_a_batch(lambda: self.link_down(self.devices[0], far), direction))
                    self.pair.check(outcome)
                    self.link_up_again(self.devices[0], far)

    def test_half_of_four_cables_are_cut(self):
        self.start(4)

        def cut():
            for device in self.devices[:2]:
                self.link_down(device, far=True)

        self.pair.check(self.well(self.under_a_batch(cut)))

    def test_all_but_one_are_cut(self):
        self.start(4)

        def cut():
            for device in self.devices[1:]:
                self.link_down(device, far=True)

        self.pair.check(self.well(self.under_a_batch(cut)))

    def test_a_link_that_swallows_everything(self):
        self.start(2)
        self.addCleanup(resources.set_loss, self.devices[1], 0)
        self.pair.check(self.well(self.under_a_batch(lambda: resources.set_loss(self.devices[1], 100))))

    def test_the_only_link_goes_down_and_the_batch_ends_by_its_deadline(self):
        self.start(1)
        outcome = self.under_a_batch(lambda: self.link_down(self.devices[0]), deadline_ms=3000)
        self.assertEqual((outcome["ok"], outcome["id"]), (False, "E108"), outcome)
        self.assertIn("rdma", outcome["text"])
        self.link_up_again(self.devices[0])
        self.pair.check(outcome)
        self.pair.submit("write", PROBE, DEADLINE_MS)
        self.pair.check(self.well(self.pair.outcome(LATE_MS)))

    def test_the_only_link_goes_down_and_tcp_takes_over(self):
        # Short writes, one after the other: for large ones loopback is faster than a soft device from the start.
        self.start(1, ["tcp"])
        before = resources.packets_sent()
        self.near.say("measure", "memory", self.pair.region, 4096, 3000)
        wait_until(lambda: resources.packets_sent() > before + 100, 10, "packets are on their way")
        self.link_down(self.devices[0])
        answer = self.near.heard()
        self.assertTrue(answer["ok"], answer)
        paths = self.near.do("paths")["transports"]
        self.assertEqual(paths["tcp"], "usable")
        self.assertIn("port 1 is DOWN", paths["rdma"])

    def test_the_only_link_goes_down_for_a_second(self):
        self.start(1)

        def blink():
            self.link_down(self.devices[0])
            time.sleep(1)
            resources.set_link(self.devices[0], True)

        self.pair.check(self.well(self.under_a_batch(blink)))

    def test_an_address_goes_and_another_comes(self):
        self.start(2)
        device = self.devices[0]
        # The kernel keeps the length of the network with the address.
        old = f"{next(one for one in resources.addresses(device).values() if '.' in one)}/24"
        new = old.replace(".77.0.", ".77.0.1")

        def move():
            resources.remove_address(device, old)
            self.addCleanup(resources.add_address, device, old)

        self.pair.check(self.well(self.under_a_batch(move)))
        resources.add_address(device, new)
        self.addCleanup(resources.remove_address, device, new)
        wait_until(lambda: queue_pairs(self.near, device) > 0, 10, "the device is in use under its new address")
        self.pair.submit("write", PROBE, DEADLINE_MS)
        self.pair.check(self.well(self.pair.outcome(LATE_MS)))

    def test_the_peer_is_killed(self):
        self.start(2)
        begin = time.monotonic()
        outcome = self.under_a_batch(self.far.process.kill)
        self.assertFalse(outcome["ok"])
        self.assertIn(outcome["id"], ("E101", "E102"), outcome)
        self.assertLess(time.monotonic() - begin, 5)
        wait_until(lambda: resources.held()["qp"] == 0, 5, "nothing is left of the pairs")


class Leaks(unittest.TestCase):
    """Counted from the kernel's own list, of all processes."""

    def setUp(self):
        if resources.why_not(1):
            self.skipTest(resources.why_not(1))
        self.near, self.far = engines(self, resources.devices()[:1])
        self.before = resources.held()

    def nothing_is_left(self):
        wait_until(lambda: resources.held() == self.before, 30, lambda: f"{resources.held()} is left, not {self.before}")

    def test_registrations(self):
        count = int(os.environ.get("MOONCAKE_TEST_REGISTRATIONS", "1000"))
        for i in range(count):
            self.near.do("register", f"m{i}", 4096, "user")
        wait_until(lambda: resources.held()["mr"] == self.before["mr"] + count, 30, "all are registered")
        for i in range(count):
            self.near.do("unregister", f"m{i}")
        self.assertEqual(resources.held(), self.before)

    def test_peers(self):
        count = int(os.environ.get("MOONCAKE_TEST_PEERS", "20"))
        addresses = self.far.do("crowd", count, seconds=300)["addresses"]
        self.near.do("meet", 60_000, *addresses, seconds=300)
        # One for short transfers and two for long ones, one end there, one here.
        wait_until(lambda: resources.held()["qp"] == 6 * count, 60, lambda: f"{resources.held()}, not three queue pairs to each of {count}")
        self.far.do("disperse", seconds=300)
        self.nothing_is_left()

    def test_connects_and_closes(self):
        count = int(os.environ.get("MOONCAKE_TEST_CONNECTS", "20"))
        self.near.do("churn", 1, self.far.address, 10_000)
        self.nothing_is_left()
        descriptors = self.far.counts()["descriptors"], self.near.counts()["descriptors"]
        self.near.do("churn", count, self.far.address, 10_000, seconds=30 + count)
        self.nothing_is_left()
        wait_until(lambda: (self.far.counts()["descriptors"], self.near.counts()["descriptors"]) == descriptors, 10,
                   lambda: f"descriptors: {self.far.counts()} and {self.near.counts()}, not {descriptors}")


if __name__ == "__main__":
    unittest.main()
