"""kill -9 of either side under load, again and again."""

import os
import random
import time
import unittest

from support import SMALL, Etcd, Instance, Load, free_port, wait_until

KILLS = int(os.environ.get("MOONCAKE_TEST_KILLS", "100"))


class Kill(unittest.TestCase):
    def check(self, metadata, kills):
        configs = [{"local_hostname": f"127.0.0.1:{free_port()}", "role": role, "cluster": f"kill-{os.getpid()}", "metadata_server": metadata}
                   for role in ("prefill", "decode")]
        instances = [Instance(*SMALL, config=config) for config in configs]
        self.addCleanup(lambda: [instance.close() for instance in instances])
        load = Load(instances)
        self.addCleanup(load.close)
        chance = random.Random(7)
        slowest = 0.0
        for round_number in range(kills):
            time.sleep(chance.random() * 0.4)  # the moment of the kill is what is random here
            which = chance.randrange(2)
            before = load.right
            victim = instances[which]
            victim.kill()
            killed = time.monotonic()
            successor = Instance(*SMALL, config=configs[which])
            instances[which] = successor

            def serves():
                try:
                    code, answer = successor.complete([1, 2, 3], 2, timeout=1)
                except OSError:
                    return False
                self.last = answer
                return code == 200

            wait_until(serves, 5, lambda: f"round {round_number}, {configs[which]['role']}: {self.last}\n{successor.output()}")
            took = time.monotonic() - killed
            slowest = max(slowest, took)
            self.assertLess(took, 2, f"round {round_number}: {configs[which]['role']} served again after {took:.2f} s\n{successor.output()}")
            self.assertFalse(load.faults, load.summary())
            wait_until(lambda: load.right > before, 5, lambda: f"an answer after kill {round_number}:\n{load.summary()}")
            victim.close()
        load.close()
        print(f"{kills} kills over {metadata or 'the host directory'}: served again after {slowest:.2f} s at most; {load.summary()}", flush=True)
        self.assertFalse(load.faults, load.summary())
        # Nobody knows the dead any more, and nobody speaks to them.
        cluster = instances[0].get("/cluster")[1]
        self.assertEqual(cluster.count('"incarnation"'), 2, cluster)

    @unittest.skipIf(Etcd.why_not(), Etcd.why_not())
    def test_under_load_with_etcd(self):
        etcd = Etcd()
        self.addCleanup(etcd.close)
        self.check(etcd.connection, KILLS)

    def test_under_load_with_the_directory_of_the_host(self):
        # The killed one may be the one that carries it.
        self.check("", max(1, KILLS // 5))


if __name__ == "__main__":
    unittest.main()
