"""The helpers of the tests of RDMA see what programs of others hold, and break what they say."""

import os
import subprocess
import sys
import unittest

import resources

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from support import Process, free_port, listening_ports, wait_until  # noqa: E402

NOTHING = dict.fromkeys(resources.KINDS, 0)
ADDRESS = "10.78.0.1"


@unittest.skipIf(resources.why_not(2), resources.why_not(2))
class Resources(unittest.TestCase):
    def setUp(self):
        self.first, self.second = resources.devices()[:2]

    def server(self):
        """A pingpong server on the first device that waits for its client, and its port."""
        port = free_port()
        server = Process(["ibv_rc_pingpong", "-d", self.first, "-g", str(resources.gid_index(self.first)), "-n", "20", "-p", str(port)], None)
        self.addCleanup(server.close)
        wait_until(lambda: port in {number for _, number in listening_ports(server.pid)}, 20, server.output)
        return server, port

    def client(self, port):
        client = Process(["ibv_rc_pingpong", "-d", self.second, "-g", str(resources.gid_index(self.second)), "-n", "20", "-p", str(port),
                          "127.0.0.1"], None)
        self.addCleanup(client.close)
        return client

    def test_a_process_holds_what_it_made_until_it_ends(self):
        self.assertEqual(resources.held(os.getpid()), NOTHING)
        server, port = self.server()
        self.assertEqual(resources.held(server.pid), {"qp": 1, "mr": 1, "cq": 1, "pd": 1})
        self.assertEqual(resources.held(server.pid, self.first), {"qp": 1, "mr": 1, "cq": 1, "pd": 1})
        self.assertEqual(resources.held(server.pid, self.second), NOTHING)
        client = self.client(port)
        self.assertEqual((client.wait(20), server.wait(20)), (0, 0), client.output() + server.output())
        self.assertEqual(resources.held(server.pid), NOTHING)

    def test_a_killed_process_holds_nothing(self):
        server, _ = self.server()
        server.kill()
        self.assertEqual(resources.held(server.pid), NOTHING)

    def test_a_link_goes_down_at_either_end_and_comes_back(self):
        for far in (False, True):
            with self.subTest(far=far):
                self.assertTrue(resources.active(self.first))
                self.addCleanup(resources.set_link, self.first, True, far)
                resources.set_link(self.first, False, far)
                wait_until(lambda: not resources.active(self.first), 5, "the port is down")
                self.assertTrue(resources.active(self.second))
                resources.set_link(self.first, True, far)
                wait_until(lambda: resources.active(self.first), 5, "the port is up again")
        wait_until(lambda: "." in str(resources.addresses(self.first)), 5, "its address is back")

    def test_an_address_comes_and_goes(self):
        self.assertNotIn(ADDRESS, resources.addresses(self.first).values())
        resources.add_address(self.first, f"{ADDRESS}/24")
        wait_until(lambda: ADDRESS in resources.addresses(self.first).values(), 5, "the address is there")
        self.assertIn(resources.gid_index(self.first, ADDRESS), resources.addresses(self.first))
        resources.remove_address(self.first, f"{ADDRESS}/24")
        wait_until(lambda: ADDRESS not in resources.addresses(self.first).values(), 5, "the address is gone")
        with self.assertRaises(LookupError):
            resources.gid_index(self.first, ADDRESS)

    def test_nothing_passes_while_everything_is_lost(self):
        server, port = self.server()
        resources.set_loss(self.first, 100)
        try:
            client = self.client(port)
            with self.assertRaises(subprocess.TimeoutExpired):
                client.wait(3)
        finally:
            resources.set_loss(self.first, 0)
        # Soft-RoCE takes pingpong's seven retries as "for ever".
        self.assertEqual((client.wait(20), server.wait(20)), (0, 0), client.output() + server.output())


if __name__ == "__main__":
    unittest.main()
