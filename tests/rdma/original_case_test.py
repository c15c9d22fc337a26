"""The case that this project began with, word for word: two configuration files with "protocol": "rdma", and the device that they name."""

import json
import os
import sys
import unittest

import resources

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from support import Etcd, Instance, listening_ports, replay  # noqa: E402

HOST, DEVICE = "192.168.0.137", "mlx5_0"
PREFILL = json.loads('{"local_hostname":"192.168.0.137:15624","metadata_server":"etcd://192.168.0.137:2379","protocol":"rdma",'
                     '"device_name":"mlx5_0","role":"prefill"}')
DECODE = json.loads('{"local_hostname":"192.168.0.137:15625","metadata_server":"etcd://192.168.0.137:2379","protocol":"rdma",'
                    '"device_name":"mlx5_0","role":"decode"}')

# Tokens in, tokens out and requests at once that emulation bears.
LIGHT = (1536, 4, 4)


def why_not():
    if DEVICE not in resources.devices() or HOST not in resources.addresses(DEVICE).values():
        return f"this needs the RDMA device {DEVICE} with {HOST}: ./run rdma --names {DEVICE} --address {HOST}/24 -- COMMAND has it"
    return Etcd.why_not()


@unittest.skipIf(why_not(), why_not())
class OriginalCase(unittest.TestCase):
    def setUp(self):
        self.etcd = Etcd(HOST, 2379)
        self.addCleanup(self.etcd.close)

    def start(self, config, *flags):
        instance = Instance(*flags, config=config, seconds=60)
        self.addCleanup(instance.close)
        return instance

    def paths(self, instance):
        """{transport: row} of the instance's paths to its one peer."""
        return {path["transport"]: path for path in instance.status()["paths"]}

    def test_both_files_listen_where_they_say_and_serve_with_rdma_among_their_paths(self):
        prefill, decode = self.start(PREFILL), self.start(DECODE)
        self.assertEqual(listening_ports(prefill.pid), {(HOST, 15624)})
        self.assertEqual(listening_ports(decode.pid), {(HOST, 15625)})
        report = replay([prefill.url, decode.url], 200, *LIGHT)
        self.assertEqual((report["answered"], report["right"], report["failed"], report["wrong"]), (200, 200, 0, 0))
        for instance in (prefill, decode):
            paths = self.paths(instance)
            self.assertIn("rdma", paths, json.dumps(paths, indent=1) + instance.output())
            self.assertTrue(paths["rdma"]["usable"], paths["rdma"]["reason"])

    def test_rdma_alone_carries_the_cache(self):
        # Between two processes of one host something faster would be chosen.
        prefill, decode = self.start(PREFILL, "--transports", "rdma"), self.start(DECODE, "--transports", "rdma")
        report = replay([prefill.url, decode.url], 50, *LIGHT)
        self.assertEqual((report["answered"], report["right"], report["failed"], report["wrong"]), (50, 50, 0, 0))
        self.assertGreater(self.paths(prefill)["rdma"]["bytes"], 0)
        for instance in (prefill, decode):
            self.assertEqual(set(self.paths(instance)), {"rdma"})


if __name__ == "__main__":
    unittest.main()
