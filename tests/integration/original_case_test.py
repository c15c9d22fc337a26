"""The case that this project began with: a prefill and a decode instance on one node, one configuration file each."""

import unittest

from support import Etcd, Instance, Namespace, listening_ports, replay

HOST = "192.168.0.137"
PREFILL = {"local_hostname": f"{HOST}:15624", "metadata_server": f"etcd://{HOST}:2379", "protocol": "tcp", "role": "prefill"}
DECODE = {"local_hostname": f"{HOST}:15625", "metadata_server": f"etcd://{HOST}:2379", "protocol": "tcp", "role": "decode"}


@unittest.skipIf(Namespace.why_not(), Namespace.why_not())
@unittest.skipIf(Etcd.why_not(), Etcd.why_not())
class OriginalCase(unittest.TestCase):
    def setUp(self):
        self.host = Namespace([f"{HOST}/32"])
        self.addCleanup(self.host.close)
        self.etcd = Etcd(HOST, 2379, self.host)
        self.addCleanup(self.etcd.close)

    def start(self, config):
        instance = Instance(config=config, namespace=self.host)
        self.addCleanup(instance.close)
        return instance

    def test_both_files_start_listen_where_they_say_and_serve(self):
        prefill, decode = self.start(PREFILL), self.start(DECODE)
        self.assertEqual(listening_ports(prefill.pid), {(HOST, 15624)})
        self.assertEqual(listening_ports(decode.pid), {(HOST, 15625)})
        report = replay([prefill.url, decode.url], 200, 2048, 32, namespace=self.host)
        self.assertEqual((report["answered"], report["right"], report["failed"], report["wrong"]), (200, 200, 0, 0))

        # The same answers as one undivided instance gives.
        whole = Instance("--role", "both", "--cluster", "undivided", "--host", "127.0.0.1")
        self.addCleanup(whole.close)
        for prompt in ("A prompt.", "Another prompt, somewhat longer than the first. " * 40, list(range(1000))):
            expected = whole.complete(prompt, 24)[1]["choices"][0]["token_ids"]
            for instance in (prefill, decode):
                code, answer = instance.complete(prompt, 24)
                self.assertEqual(code, 200, answer)
                self.assertEqual(answer["choices"][0]["token_ids"], expected)

    def test_a_killed_process_does_not_stand_in_the_way_of_its_successor(self):
        prefill, decode = self.start(PREFILL), self.start(DECODE)
        self.assertEqual(prefill.complete("before", 4)[0], 200)
        for victim, config in ((decode, DECODE), (prefill, PREFILL)):
            victim.kill()
            successor = self.start(config)
            code, answer = successor.complete("after", 4, timeout=5)
            self.assertEqual(code, 200, answer)

    def test_the_original_protocol_rdma_without_devices_serves_and_says_so(self):
        prefill = self.start({**PREFILL, "protocol": "rdma", "device_name": "mlx5_0"})
        decode = self.start({**DECODE, "protocol": "rdma", "device_name": "mlx5_0"})
        self.assertEqual(prefill.complete("hello", 4)[0], 200)
        for instance in (prefill, decode):
            self.assertEqual(len([line for line in instance.output().splitlines() if "rdma" in line]), 1, instance.output())


if __name__ == "__main__":
    unittest.main()
