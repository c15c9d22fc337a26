"""Two processes exchange a tensor: this one, a prefill instance, writes it into the memory of the other, a decode instance, which compares it.

Usage: python exchange.py [--mebibytes N]     (numpy, or torch where it is installed)

Shows which path the bytes take and how fast they are, into memory of the engine's own and into memory that numpy or torch allocated.
Exit codes: 0 the tensors were equal, 1 they were not or something failed.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time

import mooncake

try:
    import numpy
except ImportError:
    sys.exit("exchange.py: numpy is needed: pip install numpy")
try:
    import torch
except ImportError:
    torch = None

ROUNDS = 9


def new_tensor(nbytes):
    """Half-precision numbers, as a KV cache has them."""
    array = numpy.random.default_rng(7).integers(0, 30000, nbytes // 2, dtype=numpy.uint16).view(numpy.float16).reshape(2, -1, 8, 128)
    return array if torch is None else torch.from_numpy(array)


def decode(nbytes):
    """Offers two places for the tensor, and says what has arrived in the one that a notification names."""
    with mooncake.Engine("127.0.0.1") as engine:
        own = numpy.zeros(nbytes, dtype=numpy.uint8)
        places = {"allocated by the engine": engine.allocate(nbytes), "allocated by numpy": engine.register(own)}
        print(json.dumps({"name": engine.name, "places": {kind: region.range for kind, region in places.items()}}), flush=True)
        for line in sys.stdin:
            digest = hashlib.sha256(places[line.strip()].memory).hexdigest()
            print(json.dumps({"digest": digest, "notified": engine.notifications()}), flush=True)


def write(peer, region, place):
    """Gigabytes per second, the median of several rounds."""
    speeds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        peer.write(region, mooncake.Range(*place))
        speeds.append(region.nbytes / (time.perf_counter() - begin) / 1e9)
    return statistics.median(speeds)


def prefill(nbytes):
    with mooncake.Engine("127.0.0.1") as engine, subprocess.Popen(
        [sys.executable, __file__, "--decode", "--mebibytes", str(nbytes >> 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        offer = json.loads(process.stdout.readline())
        peer = engine.connect(offer["name"])
        tensor = new_tensor(nbytes)
        region = engine.register(tensor)
        print(f"tensor     {type(tensor).__module__} {tensor.dtype} {tuple(tensor.shape)}, {region.nbytes >> 20} MiB in process {engine.name}")
        print(f"peer       {peer.name}; transports that work: {', '.join(peer.paths())}")
        equal = True
        for kind, place in offer["places"].items():
            before = peer.paths()
            speed = write(peer, region, place)
            used = [path for path, moved in peer.paths().items() if moved > before[path]]
            peer.notify("tensor", kind)
            print(kind, file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            right = answer["digest"] == hashlib.sha256(region.memory).hexdigest() and answer["notified"] == [["tensor", kind]]
            equal = equal and right
            print(f"written    into memory {kind} over {' and '.join(used)}: {speed:.1f} GB/s, {'equal' if right else 'NOT EQUAL'}")
        process.stdin.close()
        return 0 if equal and process.wait() == 0 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=128, help="the size of the tensor, at least 1; 128 without it")
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mebibytes < 1:
        parser.error("--mebibytes is at least 1")
    nbytes = arguments.mebibytes << 20
    return decode(nbytes) if arguments.decode else prefill(nbytes)


if __name__ == "__main__":
    sys.exit(main())
