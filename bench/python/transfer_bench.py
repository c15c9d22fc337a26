"""How fast `mooncake.engine` moves bytes between two Python processes, beside the same calls from C++.

Usage: python transfer_bench.py --mooncake PROGRAM [--rows LIST] [--memory LIST] [--seconds S] [--rounds N] [--json FILE] [--tiny]

Each row alternates with `mooncake bench transfer` on the same row and transport; what is shown are medians of the rounds. "over C++" is how much
longer a call takes at the median; "goal" the most that it may be, where there is one. Memory: "managed" is allocate_managed_buffer's on both
sides (transport shm), "user" is a bytearray's (ring for batches, cma for single ranges), "tcp" the same with MC_FORCE_TCP. Processor time is that of
both processes. Each row fills the source anew, and afterwards every byte that was written is compared.
Exit codes: 0 all bytes were right, 1 some were not or something failed. A goal that is missed is only shown.
"""

import argparse
import array
import ctypes
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from typing import NamedTuple, Optional

from mooncake.engine import TransferEngine

AREA_BYTES = 256 << 20
AREA_BYTES_TINY = 16 << 20
PAGE_BYTES, LINE_BYTES = 4096, 64
POSITIONS_MAX = 1024  # of calls that are prepared before the clock runs
PATTERN = bytes(range(251)) * 4096  # no power of two: a range that lands in a wrong place shows


class Row(NamedTuple):
    name: str
    nbytes: int
    ranges: int = 1
    threads: int = 1
    over_cpp_us_max: Optional[float] = None  # with lists
    over_cpp_us_max_arrays: Optional[float] = None


ROWS = (
    Row("64B", 64, over_cpp_us_max=1.5),
    Row("64KiB", 64 << 10),
    Row("1MiB", 1 << 20),
    Row("16MiB", 16 << 20),
    Row("1MiB-2threads", 1 << 20, threads=2),
    Row("1MiB-4threads", 1 << 20, threads=4),
    Row("64x1MiB", 1 << 20, 64),
    Row("1000x4KiB", 4 << 10, 1000),
    Row("16384x2KiB", 2 << 10, 16384),
    Row("65536x4KiB", 4 << 10, 65536),
    Row("100000x128B", 128, 100_000, over_cpp_us_max=10_000, over_cpp_us_max_arrays=1_000),
)
MEMORY = ("managed", "user", "tcp")


def cpp_transport(row, memory):
    return {"managed": "shm", "user": "ring" if row.ranges > 1 else "cma", "tcp": "tcp"}[memory]


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Area:
    """Registered memory of one kind."""

    def __init__(self, engine, memory, nbytes):
        if memory == "managed":
            self.address = engine.allocate_managed_buffer(nbytes)
            if self.address == 0:
                raise SystemExit("transfer_bench: no managed memory; the line above says why")
        else:
            self.owner = bytearray(nbytes)
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.owner))
            if engine.register_memory(self.address, nbytes) != 0:
                raise SystemExit("transfer_bench: the memory cannot be registered; the line above says why")
        self.bytes = memoryview((ctypes.c_ubyte * nbytes).from_address(self.address)).cast("B")

    def fill(self, seed):
        pattern = PATTERN[seed % 251:] + PATTERN[:seed % 251]
        for begin in range(0, len(self.bytes), len(pattern)):
            part = self.bytes[begin:begin + len(pattern)]
            part[:] = pattern[:len(part)]


def open_engine():
    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "", "") != 0:
        raise SystemExit("transfer_bench: the engine does not start; the line above says why")
    return engine


def serve(memory, nbytes):
    """The peer: says where its memory is, then does what the lines say."""
    engine = open_engine()
    area = Area(engine, memory, nbytes)
    print(json.dumps({"session": f"127.0.0.1:{engine.get_rpc_port()}", "address": area.address}), flush=True)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "fill":
            area.fill(*arguments)
            answer = None
        elif command == "crc":
            answer = [zlib.crc32(area.bytes[begin:begin + length]) for begin, length in arguments[0]]
        else:
            answer = cpu_seconds()
        print(json.dumps(answer), flush=True)


class Peer:
    def __init__(self, memory, nbytes):
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", memory, "--area", str(nbytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.session, self.address = (answer := json.loads(self.process.stdout.readline()))["session"], answer["address"]

    def ask(self, *command):
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Layout:
    """The offsets that `mooncake bench transfer` uses: calls rotate through the area, and neighbours here come from far apart there."""

    def __init__(self, row, area_bytes):
        slot = row.nbytes
        if row.nbytes < PAGE_BYTES:
            slot = 2 * row.nbytes if row.ranges > 1 else PAGE_BYTES + LINE_BYTES
        positions = area_bytes // (slot * row.ranges)
        self.calls = min(positions, POSITIONS_MAX)
        step = max(1, int(row.ranges * 0.618))
        while math.gcd(step, row.ranges) != 1:
            step += 1
        begins = [position * positions // self.calls * slot * row.ranges for position in range(self.calls)]
        self.local = [[begin + slot * i for i in range(row.ranges)] for begin in begins]
        self.remote = [[begin + slot * (i * step % row.ranges) for i in range(row.ranges)] for begin in begins]


class Pair:
    """This process's engine and a peer's, with an area each."""

    def __init__(self, memory, nbytes):
        if memory == "tcp":
            os.environ["MC_FORCE_TCP"] = "1"
        else:
            os.environ.pop("MC_FORCE_TCP", None)
        self.nbytes = nbytes
        self.peer = Peer(memory, nbytes)
        self.engine = open_engine()
        self.area = Area(self.engine, memory, nbytes)

    def close(self):
        self.peer.close()

    def calls(self, row, layout, operation, arrays):
        """Functions without arguments, each one call of the engine."""
        name = ("batch_" if row.ranges > 1 else "") + "transfer_sync_" + operation
        function, session = getattr(self.engine, name), self.peer.session
        make = (lambda values: array.array("Q", values)) if arrays else list
        lengths = make([row.nbytes] * row.ranges)
        places = []
        for local, remote in zip(layout.local, layout.remote):
            here, there = [self.area.address + offset for offset in local], [self.peer.address + offset for offset in remote]
            places.append((here[0], there[0], row.nbytes) if row.ranges == 1 else (make(here), make(there), lengths))
        return function, session, places

    def run(self, row, operation, arrays, seconds):
        """Times of the calls in us, bytes moved, seconds of wall clock and of processor; and whether the bytes are right."""
        layout = Layout(row, self.nbytes)
        function, session, places = self.calls(row, layout, operation, arrays)
        seed = int.from_bytes(os.urandom(1), "little") % 250
        source, target = (seed, seed + 1) if operation == "write" else (seed + 1, seed)
        self.area.fill(source)
        self.peer.ask("fill", target)
        times, failures, done = [[] for _ in range(row.threads)], [], [0] * row.threads
        begin_cpu = cpu_seconds() + self.peer.ask("cpu")
        begin = time.perf_counter()

        def loop(thread):
            mine, clock, index = times[thread], time.perf_counter, 0
            end = begin + seconds
            for index, (here, there, lengths) in enumerate(itertools.cycle(places[thread::row.threads])):
                before = clock()
                code = function(session, here, there, lengths)
                after = clock()
                if code != 0:
                    failures.append(code)
                    return
                mine.append(after - before)
                if after > end:
                    break
            done[thread] = index + 1

        threads = [threading.Thread(target=loop, args=(thread,)) for thread in range(1, row.threads)]
        for thread in threads:
            thread.start()
        loop(0)
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - begin
        cpu = cpu_seconds() + self.peer.ask("cpu") - begin_cpu
        if failures:
            raise SystemExit(f"transfer_bench: {row.name} failed with {failures[0]}; the line above says why")
        return [time * 1e6 for mine in times for time in mine], elapsed, cpu, self.verify(row, layout, done)

    def verify(self, row, layout, done):
        """Whether what every call moved is the same on both sides."""
        moved = set()
        for thread, count in enumerate(done):
            moved.update(range(thread, layout.calls, row.threads)[:count])
        for position in moved:
            ranges = list(zip(layout.local[position], layout.remote[position]))
            here = [zlib.crc32(self.area.bytes[local:local + row.nbytes]) for local, _ in ranges]
            if here != self.peer.ask("crc", [(remote, row.nbytes) for _, remote in ranges]):
                return False
        return True


def run_cpp(program, row, memory, seconds, tiny):
    """The same row of `mooncake bench transfer`, by operation."""
    with tempfile.TemporaryDirectory() as folder:
        results = os.path.join(folder, "results.json")
        command = [program, "bench", "transfer", "--rows", row.name, "--transports", cpp_transport(row, memory), "--json", results]
        command += ["--tiny"] if tiny else ["--seconds", str(2 * seconds)]  # half of it is the limit's
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        with open(results, encoding="utf-8") as file:
            return {entry["operation"]: entry for entry in json.load(file)["rows"]}


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Measured:
    """What the rounds of one row, operation and kind of argument came to."""

    def __init__(self, row, memory, operation, arrays):
        self.row, self.memory, self.operation, self.arrays = row, memory, operation, arrays
        self.times, self.rounds, self.verified = [], [], True

    def add(self, times, elapsed, cpu, right):
        moved = len(times) * self.row.nbytes * self.row.ranges
        self.rounds.append((statistics.median(times), moved / elapsed / 1e9, cpu / (moved / 1e9), cpu / len(times) * 1e6))
        self.times += times
        self.verified = self.verified and right

    def entry(self, cpp):
        """`cpp`: the results of C++, one for each round."""
        row = self.row
        p50, gbps, cpu_per_gb, cpu_per_call = (statistics.median(column) for column in zip(*self.rounds))
        cpp_p50 = statistics.median(each["p50_us"] for each in cpp)
        of_limits = [each["of_limit"] for each in cpp if each["of_limit"] is not None]
        goal = None
        if self.memory == "managed":
            goal = row.over_cpp_us_max_arrays if self.arrays else row.over_cpp_us_max
        return {
            "name": row.name, "memory": self.memory, "transport": cpp_transport(row, self.memory), "operation": self.operation,
            "arguments": "arrays" if self.arrays else "lists", "bytes": row.nbytes, "ranges": row.ranges, "threads": row.threads, "calls": len(self.times),
            "gbps": gbps, "p50_us": p50, "p99_us": percentile(self.times, 0.99), "p999_us": percentile(self.times, 0.999),
            "cpu_s_per_gb": cpu_per_gb, "cpu_us_per_call": cpu_per_call, "cpp_gbps": statistics.median(each["gbps"] for each in cpp),
            "cpp_p50_us": cpp_p50, "over_cpp_us": p50 - cpp_p50, "over_cpp_us_max": goal,
            "cpp_of_limit": statistics.median(of_limits) if of_limits else None, "limit_name": cpp[0]["limit_name"], "verified": self.verified,
        }


def measure(pair, row, memory, options):
    """Every operation and kind of argument in turn, then C++, as many times as there are rounds."""
    kinds = [Measured(row, memory, operation, arrays) for operation in ("write", "read") for arrays in ((False, True) if row.ranges > 1 else (False,))]
    cpp = []
    for _ in range(options.rounds):
        for kind in kinds:
            kind.add(*pair.run(row, kind.operation, kind.arrays, options.seconds))
        cpp.append(run_cpp(options.mooncake, row, memory, options.seconds, options.tiny))
    return [kind.entry([each[kind.operation] for each in cpp]) for kind in kinds]


def line(entry):
    goal = "" if entry["over_cpp_us_max"] is None else f"{entry['over_cpp_us_max']:10.1f} {'yes' if entry['over_cpp_us'] <= entry['over_cpp_us_max'] else 'NO'}"
    return (f"{entry['name']:<14} {entry['memory']:<8} {entry['operation']:<6} {entry['arguments']:<7} {entry['gbps']:8.2f} {entry['cpp_gbps']:8.2f} "
            f"{entry['p50_us']:10.1f} {entry['cpp_p50_us']:10.1f} {entry['over_cpp_us']:+10.1f} {entry['cpu_s_per_gb']:8.3f} {goal}"
            f"{'' if entry['verified'] else ' WRONG BYTES'}")


def chosen(text, known, what):
    names = [name for name in text.split(",") if name] or list(known)
    for name in names:
        if name not in known:
            raise SystemExit(f"transfer_bench: there is no {what} \"{name}\": {', '.join(known)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mooncake", default="build/release/bin/mooncake", help="the program, for the same rows from C++")
    parser.add_argument("--rows", default="", help="only these, separated by commas: " + ",".join(row.name for row in ROWS))
    parser.add_argument("--memory", default="", help="only these: managed,user,tcp")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a row and round")
    parser.add_argument("--rounds", type=int, default=5, help="of each row")
    parser.add_argument("--json", default="", help="write the results to this file too")
    parser.add_argument("--tiny", action="store_true", help="little memory, few calls: whether it works, not how fast")
    parser.add_argument("--serve", choices=MEMORY, help=argparse.SUPPRESS)
    parser.add_argument("--area", type=int, default=AREA_BYTES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("MC_LOG_LEVEL", "WARNING")
    if options.serve:
        serve(options.serve, options.area)
        return 0
    if options.tiny:
        options.area, options.seconds, options.rounds = AREA_BYTES_TINY, 0.02, 1
    rows = {row.name: row for row in ROWS}
    wanted = [rows[name] for name in chosen(options.rows, rows, "row")]
    entries = []
    print(f"{'row':<14} {'memory':<8} {'op':<6} {'args':<7} {'GB/s':>8} {'C++':>8} {'p50 us':>10} {'C++':>10} {'over C++':>10} {'CPU s/GB':>8} {'goal us':>10}")
    for memory in chosen(options.memory, MEMORY, "memory"):
        pair = Pair(memory, options.area)
        for row in wanted:
            if row.nbytes * row.ranges > options.area // 2 and options.tiny:
                continue
            for entry in measure(pair, row, memory, options):
                entries.append(entry)
                print(line(entry), flush=True)
        pair.close()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"rows": entries}, file, indent=1)
    return 0 if all(entry["verified"] for entry in entries) else 1


if __name__ == "__main__":
    sys.exit(main())
