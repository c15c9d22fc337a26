"""What two RDMA devices of this machine can do, as perftest measures it: the limit beside which our own speed is told.

Usage: limits.py SERVER_DEVICE CLIENT_DEVICE [--rounds N] [--bytes N]
Prints JSON; speeds in MB/s (10^6 bytes), latencies in microseconds; each is the median of the rounds, with the lowest and the highest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from resources import devices, gid_index

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from support import Process, free_port, listening_ports, wait_until  # noqa: E402

SPEED_SIZES = (64 << 10, 1 << 20, 4 << 20)
LATENCY_SIZES = (8, 64)
ROUND_BYTES = 128 << 20
LATENCY_ITERATIONS = 1000


def parse(text, size):
    """The numbers of perftest's row for `size`, after size and iterations."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0] == str(size):
            return [float(field) for field in fields[2:]]
    raise ValueError(f"no row for {size} bytes:\n{text}")


def run_once(program, server_device, client_device, size, iterations, seconds=60):
    """The client's row of one run of a program of perftest between two devices."""
    port = free_port()
    common = [program, "-F", "-s", str(size), "-n", str(iterations), "-p", str(port)]
    server = Process([*common, "-d", server_device, "-x", str(gid_index(server_device))], None)
    try:
        wait_until(lambda: port in {number for _, number in listening_ports(server.pid)}, 20, server.output)
        # Only parameters are exchanged over 127.0.0.1.
        client = subprocess.run([*common, "-d", client_device, "-x", str(gid_index(client_device)), "127.0.0.1"], capture_output=True,
                                text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
        if client.returncode != 0 or server.wait(10) != 0:
            raise RuntimeError(f"{program} of {size} bytes failed:\n{client.stdout}{client.stderr}{server.output()}")
        return parse(client.stdout, size)
    finally:
        server.close()


def speed(operation, server_device, client_device, size, round_bytes=ROUND_BYTES):
    """MB/s of `operation` ("write", "read") with transfers of `size` bytes."""
    row = run_once(f"ib_{operation}_bw", server_device, client_device, size, max(5, round_bytes // size))
    return row[1] * (1 << 20) / 1e6  # perftest's MB are MiB


def latency(operation, server_device, client_device, size, iterations=LATENCY_ITERATIONS):
    """Typical microseconds of one `operation` of `size` bytes; of a write perftest tells half a round trip."""
    return run_once(f"ib_{operation}_lat", server_device, client_device, size, iterations)[2]


def measure(server_device, client_device, rounds=3, round_bytes=ROUND_BYTES, iterations=LATENCY_ITERATIONS, speed_sizes=SPEED_SIZES,
            latency_sizes=LATENCY_SIZES):
    """{"write_megabytes_per_second": {size: {"median": …, "min": …, "max": …}}, "write_microseconds": …, the same for "read"}."""
    values = {}
    for _ in range(rounds):  # round by round, so that a slow moment of the machine meets all alike
        for operation in ("write", "read"):
            for size in speed_sizes:
                values.setdefault(f"{operation}_megabytes_per_second", {}).setdefault(size, []).append(
                    speed(operation, server_device, client_device, size, round_bytes))
            for size in latency_sizes:
                values.setdefault(f"{operation}_microseconds", {}).setdefault(size, []).append(
                    latency(operation, server_device, client_device, size, iterations))
    return {name: {size: {"median": statistics.median(of), "min": min(of), "max": max(of)} for size, of in sizes.items()}
            for name, sizes in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("server", choices=devices())
    parser.add_argument("client", choices=devices())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=ROUND_BYTES, help="moved in each round for each size")
    arguments = parser.parse_args()
    measured = measure(arguments.server, arguments.client, arguments.rounds, arguments.bytes)
    print(json.dumps({"server": arguments.server, "client": arguments.client, "rounds": arguments.rounds, **measured}, indent=1))


if __name__ == "__main__":
    main()
