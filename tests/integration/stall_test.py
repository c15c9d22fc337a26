"""Silence is suspicion, not death: stopped processes that go on later, and a directory that is gone for a while."""

import concurrent.futures
import json
import os
import signal
import time
import unittest

from support import SMALL, Etcd, Instance, Load, hold, wait_until

STALL_S = 20
OUTAGE_S = 30


def watch(seconds, look):
    """Calls look() about five times a second for `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        look()
        time.sleep(0.2)


@unittest.skipIf(Etcd.why_not(), Etcd.why_not())
class Stall(unittest.TestCase):
    def setUp(self):
        self.etcd = Etcd()
        self.addCleanup(self.etcd.close)

    def start(self, role, cluster, *flags):
        instance = Instance("--role", role, "--cluster", f"{cluster}-{os.getpid()}", "--host", "127.0.0.1", "--metadata-server",
                            self.etcd.connection, *SMALL, *flags)
        self.addCleanup(instance.close)
        return instance

    def suspected(self, instance, label):
        return any(path["suspected"] for path in instance.status()["paths"] if path["peer"] == label)

    def test_a_process_that_is_stopped_for_a_while_is_suspected_and_heals(self):
        prefill, decode = self.start("prefill", "stall"), self.start("decode", "stall")
        load = Load([prefill], timeout=40)  # the deadline is longer than the stall: nothing may be lost
        self.addCleanup(load.close)
        wait_until(lambda: load.right > 20, 10, load.summary)
        before = decode.status()
        hold(decode.process)
        seen = []
        watch(STALL_S, lambda: seen.append(self.suspected(prefill, "decode")))
        stalled = load.right
        decode.signal(signal.SIGCONT)
        self.assertTrue(seen[-1], "the silent peer is suspected")
        self.assertFalse(seen[0], "not at once")
        wait_until(lambda: load.right > stalled + 50, 15, load.summary)
        wait_until(lambda: not self.suspected(prefill, "decode"), 5, "no suspicion any more")
        load.close()
        self.assertFalse(load.faults, load.summary())
        self.assertEqual((load.lost, load.refused), (0, {}), load.summary())
        after = decode.status()
        self.assertEqual(after["id"], before["id"])
        self.assertGreaterEqual(after["kv"]["pages_cached"], before["kv"]["pages_cached"] // 2, "its cache is still there")
        # It has registered again: a newcomer finds it.
        newcomer = self.start("prefill", "stall")
        code, answer = newcomer.complete("hello", 4, timeout=5)
        self.assertEqual(code, 200, answer)

    def test_with_a_second_instance_new_requests_do_not_wait_for_a_stalled_one(self):
        prefill = self.start("prefill", "spare")
        decodes = [self.start("decode", "spare") for _ in range(2)]
        load = Load([prefill], timeout=40)  # some of its requests are at the stalled instance and wait for it
        self.addCleanup(load.close)
        wait_until(lambda: load.right > 20, 10, load.summary)
        hold(decodes[0].process)  # what it has answered a moment before would be relied on
        self.new_requests_are_answered(prefill)
        decodes[0].signal(signal.SIGCONT)
        load.close()
        self.assertFalse(load.faults, load.summary())
        self.assertEqual((load.lost, load.refused), (0, {}), load.summary())

    def test_bytes_that_the_stalled_one_does_not_take_hold_up_nobody_else(self):
        transport = ["--transports", "tcp"]  # the receiver reads them, where shm and cma do not need it
        prefill = self.start("prefill", "takes", *transport)
        decodes = [self.start("decode", "takes", *transport) for _ in range(2)]
        prompts = [[100 * number + i for i in range(6000)] for number in range(64)]  # nobody has them in a cache
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(prefill.complete, prompt, 1, timeout=40, seconds=45) for prompt in prompts]
            wait_until(lambda: all(decode.status()["decode"]["generated_tokens"] for decode in decodes), 10, "both are at work")
            hold(decodes[0].process)
            self.addCleanup(decodes[0].signal, signal.SIGCONT)
            self.new_requests_are_answered(prefill)
            decodes[0].signal(signal.SIGCONT)
            self.assertEqual([answer.result()[0] for answer in answers], [200] * len(prompts))

    def new_requests_are_answered(self, instance):
        for number in range(10):
            began = time.monotonic()
            code, answer = instance.complete(f"new, number {number}", 8, timeout=20)
            self.assertEqual(code, 200, answer)
            self.assertLess(time.monotonic() - began, 10, "new requests go to the other instance")

    def test_connected_peers_go_on_without_etcd(self):
        prefill, decode = self.start("prefill", "outage"), self.start("decode", "outage")
        load = Load([prefill, decode])
        self.addCleanup(load.close)
        wait_until(lambda: load.right > 20, 10, load.summary)
        self.etcd.kill()
        rates = []
        last = load.right

        def look():
            nonlocal last
            rates.append(load.right - last)
            last = load.right

        watch(OUTAGE_S / 2, look)
        directory = prefill.status()["directory"]
        self.assertFalse(directory["reachable"])
        self.assertGreater(directory["unreachable_seconds"], OUTAGE_S / 2 - 8)
        # Who needs it to find somebody new is told since when it is gone, within the time that it gave.
        lonely = None
        try:
            began = time.monotonic()
            lonely = Instance("--role", "decode", "--cluster", "lonely", "--host", "127.0.0.1", "--metadata-server", self.etcd.connection,
                              "--directory-wait", "1s", *SMALL)
        except AssertionError as error:
            self.assertIn("E009", str(error))
            self.assertIn(self.etcd.connection, str(error))
            self.assertLess(time.monotonic() - began, 5)
        self.assertIsNone(lonely)
        watch(OUTAGE_S / 2, look)
        self.assertGreater(min(sum(rates[i:i + 10]) for i in range(0, len(rates) - 10, 10)), 0, f"answers in every two seconds: {rates}")
        self.etcd.restart()
        wait_until(lambda: all(i.status()["directory"]["reachable"] for i in (prefill, decode)), 10, "healed")
        newcomer = self.start("prefill", "outage")
        load.close()
        self.assertFalse(load.faults, load.summary())
        self.assertEqual((load.lost, load.refused), (0, {}), load.summary())
        wait_until(lambda: len(json.loads(newcomer.get("/cluster")[1])["instances"]) == 3, 10, "a newcomer that sees both")

    def test_what_needs_a_newcomer_says_since_when_the_directory_is_gone(self):
        decode = self.start("decode", "since")
        wait_until(lambda: decode.status()["directory"]["reachable"], 5, "registered")
        self.etcd.kill()
        wait_until(lambda: not decode.status()["directory"]["reachable"], 10, "noticed")
        time.sleep(1.5)  # so that there is a time to tell
        code, answer = decode.complete("nobody prefills this", 4, timeout=2)
        self.assertEqual((code, answer["error"]["code"]), (503, "E501"), answer)
        self.assertRegex(answer["error"]["message"], r"unreachable since \d\d:\d\d:\d\d|for [0-9.]+ ?s")


if __name__ == "__main__":
    unittest.main()
