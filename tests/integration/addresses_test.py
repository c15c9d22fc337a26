"""IPv6, hosts with several addresses, and hosts of their own: what is published can be reached, and nothing listens wider than asked."""

import json
import unittest

from support import SMALL, Etcd, Instance, Namespace, Process, PROGRAM, listening_ports, wait_until


@unittest.skipIf(Namespace.why_not(), Namespace.why_not())
class Addresses(unittest.TestCase):
    def host(self, *addresses):
        host = Namespace(addresses)
        self.addCleanup(host.close)
        return host

    def start(self, host, *flags, config=None):
        instance = Instance(*flags, *SMALL, config=config, namespace=host)
        self.addCleanup(instance.close)
        return instance

    def check(self, *instances):
        answers = {tuple(instance.complete("hello", 8)[1]["choices"][0]["token_ids"]) for instance in instances}
        self.assertEqual(len(answers), 1)

    @unittest.skipIf(Etcd.why_not(), Etcd.why_not())
    def test_ipv6_alone_with_etcd(self):
        host = self.host("fd00::4/128")
        etcd = Etcd("[fd00::4]", 2379, host)
        self.addCleanup(etcd.close)
        # With and without brackets around an address that has no port.
        prefill = self.start(host, config={"local_hostname": "[fd00::4]:15624", "metadata_server": "etcd://[fd00::4]:2379", "role": "prefill"})
        decode = self.start(host, config={"local_hostname": "fd00::4", "metadata_server": "[fd00::4]:2379", "role": "decode"})
        self.assertEqual(listening_ports(prefill.pid), {("fd00::4", 15624)})
        self.assertEqual({address for address, _ in listening_ports(decode.pid)}, {"fd00::4"})
        self.check(prefill, decode)

    def test_both_families_on_one_host(self):
        host = self.host("10.77.0.1/32", "10.77.0.2/32", "fd00::5/128")
        carrier = Process([PROGRAM, "directory", "--listen", "10.77.0.2:7700"], "is ready", namespace=host)
        self.addCleanup(carrier.close)
        directory = ["--metadata-server", "mooncake://10.77.0.2:7700"]
        four = self.start(host, "--role", "prefill", "--host", "10.77.0.1", *directory)
        six = self.start(host, "--role", "decode", "--host", "fd00::5", *directory)
        every = self.start(host, "--role", "decode", *directory)
        self.assertEqual({address for address, _ in listening_ports(four.pid)}, {"10.77.0.1"})
        self.assertEqual({address for address, _ in listening_ports(every.pid)}, {"::"})
        self.check(four, six, every)
        cluster = wait_until(lambda: json.loads(four.get("/cluster")[1]), 5, "cluster")
        self.assertEqual((len(cluster["instances"]), cluster["unreachable"]), (3, []))

    def test_two_hosts_that_share_a_directory(self):
        first, second = self.host(), self.host()
        first.connect(second, "10.77.1.1/24", "10.77.1.2/24")
        carrier = Process([PROGRAM, "directory", "--listen", "10.77.1.1:7700"], "is ready", namespace=first)
        self.addCleanup(carrier.close)
        directory = ["--metadata-server", "mooncake://10.77.1.1:7700", "--transports", "tcp"]
        prefill = self.start(first, "--role", "prefill", *directory)
        decode = self.start(second, "--role", "decode", *directory)
        self.check(prefill, decode)
        paths = [path for path in prefill.status()["paths"] if path["bytes"] > 0]
        self.assertEqual([path["transport"] for path in paths], ["tcp"])

    def test_a_host_that_is_cut_off_costs_time_and_no_request_of_the_others(self):
        first, second = self.host(), self.host()
        first.connect(second, "10.77.1.1/24", "10.77.1.2/24")
        carrier = Process([PROGRAM, "directory", "--listen", "10.77.1.1:7700"], "is ready", namespace=first)
        self.addCleanup(carrier.close)
        directory = ["--metadata-server", "mooncake://10.77.1.1:7700", "--transports", "tcp"]
        prefill = self.start(first, "--role", "prefill", *directory)
        far = self.start(second, "--role", "decode", *directory)
        near = self.start(first, "--role", "decode", *directory)
        self.check(prefill, far, near)
        first.set_link(up=False)  # a cable: nobody is told
        for number in range(5):
            code, answer = prefill.complete(f"after the cut {number}", 8, timeout=10)
            self.assertEqual(code, 200, answer)
        first.set_link(up=True)
        wait_until(lambda: far.complete("healed", 4, timeout=1)[0] == 200, 30, "the far host serves again")


if __name__ == "__main__":
    unittest.main()
