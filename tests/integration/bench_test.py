"""`mooncake bench transfer` with tiny inputs: every row runs, every target holds the right bytes, the report is complete."""

import json
import os
import tempfile
import unittest

from support import Process, run

TEXTS = ("name", "transport", "operation", "limit_name", "checksum", "unit")
NUMBERS = ("bytes", "ranges", "threads", "calls", "gbps", "p50_us", "p99_us", "p999_us", "cpu_s_per_gb", "cpu_us_per_call", "limit_value")
ROWS = ("64B", "64B-paced", "64B-cpu", "64KiB", "1MiB", "16MiB", "1MiB-2threads", "1MiB-4threads", "64x1MiB", "1000x4KiB", "16384x2KiB",
        "65536x4KiB", "100000x128B", "1MiB-cpu")


class Bench(unittest.TestCase):
    def bench(self, *flags):
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "bench.json")
            done = run("bench", "transfer", "--tiny", "--json", report, *flags, seconds=120)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(report, encoding="utf-8") as file:
                return json.load(file)["rows"], done.stdout

    def test_every_row_over_every_transport_moves_the_right_bytes(self):
        rows, table = self.bench()
        found = {(r["name"], r["transport"], r["operation"]) for r in rows}
        wanted = {(name, transport, operation) for name in ROWS for transport in ("shm", "ring", "cma", "tcp") for operation in ("write", "read")}
        missing = wanted - found
        # Where the kernel forbids cma, the bench says so, and all else is there.
        if any(transport == "cma" for _, transport, _ in missing):
            self.assertIn("not measured: cma", table)
            missing = {m for m in missing if m[1] != "cma"}
        self.assertEqual(missing, set())
        self.assertIn(("idle", "all", "none"), found)
        for row in rows:
            self.assertIs(row["verified"], True, row)
            for key in TEXTS:
                self.assertIsInstance(row[key], str, row)
            for key in NUMBERS:
                self.assertIsInstance(row[key], (int, float), row)
                self.assertGreaterEqual(row[key], 0, row)
            self.assertIsInstance(row["reached"], bool)
            self.assertEqual(row["of_limit"] is None, row["limit_name"] == "none", row)
            if row["name"] != "idle":
                self.assertGreater(row["calls"], 0, row)
                self.assertGreater(row["gbps"], 0, row)
                self.assertLessEqual(row["p50_us"], row["p999_us"], row)
                self.assertRegex(row["checksum"], "^[0-9a-f]{16}$")
        self.assertIn("every target held the right bytes", table)

    def test_a_list_of_rows_and_transports_is_what_runs(self):
        rows, _ = self.bench("--rows", "1000x4KiB", "--transports", "tcp")
        self.assertEqual([(r["name"], r["transport"], r["operation"]) for r in rows],
                         [("1000x4KiB", "tcp", "write"), ("1000x4KiB", "tcp", "read"), ("idle", "all", "none")])

    def test_a_name_that_is_none_is_refused(self):
        for flags, nearest in ((("--rows", "1Mib"), "1MiB"), (("--transports", "shn"), "shm")):
            done = run("bench", "transfer", "--tiny", *flags)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(nearest, done.stderr)

    def test_rdma_that_is_not_there_is_skipped_with_the_reason(self):
        done = run("bench", "transfer", "--tiny", "--rows", "64B", "--transports", "rdma", "--device-name", "nope0", seconds=60)
        self.assertNotEqual(done.returncode, 0)
        # With devices, that none of them has this name; without any, that.
        self.assertRegex(done.stderr, "E202 .*: rdma: no RDMA device|nope0")

    def test_a_peer_may_run_elsewhere(self):
        peer = Process([os.environ.get("MOONCAKE", "build/bin/mooncake"), "bench", "transfer", "--listen", "127.0.0.1:0", "--tiny"],
                       ready="bench peer at ")
        self.addCleanup(peer.close)
        rows, _ = self.bench("--peer", peer.ready_line.rsplit(" ", 1)[1], "--rows", "1MiB")
        self.assertGreaterEqual(len(rows), 7)

    def test_a_peer_that_is_not_there_is_named(self):
        done = run("bench", "transfer", "--tiny", "--peer", "127.0.0.1:1")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("127.0.0.1:1", done.stderr)


if __name__ == "__main__":
    unittest.main()
