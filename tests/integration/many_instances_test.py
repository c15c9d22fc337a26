"""Any number of instances on one host with identical settings."""

import concurrent.futures
import json
import tempfile
import unittest

from support import SMALL, Instance, wait_until


def start_all(starters):
    """All of them at the same moment."""
    with concurrent.futures.ThreadPoolExecutor(len(starters)) as pool:
        return [future.result() for future in [pool.submit(start) for start in starters]]


class ManyInstances(unittest.TestCase):
    def start_all(self, starters):
        instances = start_all(starters)
        for instance in instances:
            self.addCleanup(instance.close)
        return instances

    def check_serves(self, instances, prompt="The same prompt everywhere. " * 20):
        answers = set()
        for instance in instances:
            code, answer = instance.complete(prompt, 8)
            self.assertEqual(code, 200, answer)
            answers.add(tuple(answer["choices"][0]["token_ids"]))
        self.assertEqual(len(answers), 1)

    def test_one_file_without_a_port_sixteen_times_at_the_same_moment(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"local_hostname": "127.0.0.1", "cluster": "sixteen", "protocol": "tcp"}, file)
            file.flush()
            flags = ["--config", file.name, *SMALL]
            starters = [lambda role=role: Instance("--role", role, *flags) for role in ["prefill", "decode"] * 8]
            instances = self.start_all(starters)
        self.assertEqual(len({instance.url for instance in instances}), 16)
        self.check_serves(instances)
        cluster = wait_until(lambda: self.everybody(instances[0], 16), 5, "an instance that sees all sixteen")
        self.assertEqual(len({one["id"] for one in cluster["instances"]}), 16)
        self.assertEqual({one["label"] for one in cluster["instances"]}, {"127.0.0.1"})

    @staticmethod
    def everybody(instance, count):
        code, text = instance.get("/cluster")
        cluster = json.loads(text)
        return cluster if code == 200 and len(cluster["instances"]) == count and not cluster["unreachable"] else None

    def test_equal_labels_are_two_instances(self):
        flags = ["--label", "twin", "--cluster", "twins", *SMALL]
        self.check_serves(self.start_all([lambda role=role: Instance("--role", role, *flags) for role in ("prefill", "decode", "prefill", "decode")]))

    def test_no_file_and_nothing_but_a_role(self):
        # As in the README: two terminals. A user's own instances of the default cluster may be there too, so look only at ours.
        self.check_serves(self.start_all([lambda role=role: Instance("--role", role) for role in ("prefill", "decode")]), "hello")

    def test_any_order_of_starts(self):
        decode = Instance("--role", "decode", "--cluster", "order", *SMALL)
        self.addCleanup(decode.close)
        code, text = decode.get("/ready")
        self.assertEqual((code, json.loads(text)["reason"]), (503, "no prefill instance"))
        code, answer = decode.complete("too early", 4, timeout=3)
        self.assertEqual((code, answer["error"]["code"]), (503, "E501"), answer)
        self.assertEqual(decode.output().count("a request waits for a partner: no prefill instance for "), 1, decode.output())
        prefill = Instance("--role", "prefill", "--cluster", "order", *SMALL)
        self.addCleanup(prefill.close)
        wait_until(lambda: decode.get("/ready")[0] == 200, 3, "ready")
        self.check_serves([decode, prefill])

    def test_other_clusters_and_other_models_are_not_partners(self):
        prefill = Instance("--role", "prefill", "--cluster", "one", *SMALL)
        self.addCleanup(prefill.close)
        for flags in (["--cluster", "two", *SMALL], ["--cluster", "one", "--model", "qwen2.5-7b", "--kv-memory", "64MiB"]):
            decode = Instance("--role", "decode", *flags)
            self.addCleanup(decode.close)
            code, answer = decode.complete("hello", 4, timeout=0.5)
            self.assertEqual((code, answer["error"]["code"]), (503, "E501"), answer)


if __name__ == "__main__":
    unittest.main()
