"""perftest runs between two devices, and its rows are read as they are meant."""

import unittest

import limits
import resources


class Limits(unittest.TestCase):
    def test_a_row_is_found_by_its_size(self):
        text = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n" \
               " 65536      500              49.90              45.83  \t\t   0.000733\n"
        self.assertEqual(limits.parse(text, 65536), [49.90, 45.83, 0.000733])
        with self.assertRaises(ValueError):
            limits.parse(text, 4096)

    @unittest.skipIf(resources.why_not(2), resources.why_not(2))
    def test_each_program_tells_something_plausible(self):
        server, client = resources.devices()[:2]
        found = limits.measure(server, client, rounds=1, round_bytes=1 << 20, iterations=100, speed_sizes=(65536,), latency_sizes=(8,))
        self.assertEqual(set(found), {"write_megabytes_per_second", "write_microseconds", "read_megabytes_per_second", "read_microseconds"})
        for name, sizes in found.items():
            for size, value in sizes.items():
                self.assertGreater(value["median"], 0, (name, size))


if __name__ == "__main__":
    unittest.main()
