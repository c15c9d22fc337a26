"""Two hosts under load and under faults, for as long as is asked: everything that is answered is right, every request ends in time, and the
processes that live through it all hold in the end what they held in the beginning.

The hosts are network namespaces joined by a cable. Each has an instance that lives through it all and one that is killed and stopped; one of
them has etcd. Without the right to make namespaces everything runs on one host, and no cable is cut.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from support import SMALL, Etcd, Instance, Load, Namespace, wait_until  # noqa: E402

HOSTS = ("10.77.0.1", "10.77.0.2")
GAP_S = (0.5, 4)  # between two faults
WARM_SHARE = 0.3  # of the time, until what is held is taken as the beginning
# What may be more at the end. Anonymous memory is an allocator's, which does not give everything back, and keeps the last 256 dead of the directory.
GROWTH_MAX = {"descriptors": 8, "threads": 2, "mappings": 24, "anonymous_mib": 12}


def held(pid):
    """What a process holds, from /proc."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file)
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        mappings = sum(1 for _ in file)
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(status["Threads"]), "mappings": mappings,
            "anonymous_mib": int(status["RssAnon"].split()[0]) / 1024}


class Cluster:
    def __init__(self, chance):
        self.chance = chance
        self.opened = []
        self.hosts = (None, None)
        if not Namespace.why_not():
            self.hosts = tuple(self._open(Namespace([])) for _ in HOSTS)
            self.hosts[0].connect(self.hosts[1], f"{HOSTS[0]}/24", f"{HOSTS[1]}/24")
        self.addresses = HOSTS if self.hosts[0] else ("127.0.0.1", "127.0.0.1")
        self.etcd = self._open(Etcd(self.addresses[0], namespace=self.hosts[0]))
        self.survivors = [self._start(role, host, "survivor") for host, role in enumerate(("prefill", "decode"))]
        self.victims = [self._start(role, host, "victim") for host, role in enumerate(("prefill", "decode"))]
        self.instances = [*self.survivors, *self.victims]  # Load picks from it

    def _open(self, thing):
        self.opened.append(thing)
        return thing

    def _start(self, role, host, name):
        return self._open(Instance("--role", role, "--local-hostname", f"{role}-{name}", "--host", self.addresses[host], "--cluster",
                                   f"soak-{os.getpid()}", "--metadata-server", self.etcd.connection, "--directory-wait", "60s", *SMALL,
                                   namespace=self.hosts[host], seconds=60))

    # ---- faults; each returns when it is over
    def kill(self):
        which = self.chance.randrange(2)
        dead = self.victims[which]
        dead.kill()
        dead.close()
        self.opened.remove(dead)
        time.sleep(self.chance.random())
        self.victims[which] = self.instances[2 + which] = self._start(("prefill", "decode")[which], which, "victim")

    def stop(self):
        victim = self.chance.choice(self.victims)
        victim.signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 8))
        victim.signal(signal.SIGCONT)

    def cut(self):
        self.hosts[0].set_link(up=False)
        time.sleep(self.chance.uniform(0.05, 6))
        self.hosts[0].set_link(up=True)

    def lose_directory(self):
        self.etcd.kill()
        time.sleep(self.chance.uniform(0.1, 5))
        self.etcd.restart()

    def stop_directory(self):
        self.etcd.signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 5))
        self.etcd.signal(signal.SIGCONT)

    def faults(self):
        common = [self.kill, self.kill, self.stop, self.lose_directory, self.stop_directory]
        return [*common, self.cut, self.cut] if self.hosts[0] else common

    def serves(self):
        """Whether each pair of instances answers."""
        return all(instance.complete([1, 2, 3], 2, timeout=2)[0] == 200 for instance in self.instances)

    def close(self):
        for thing in reversed(self.opened):
            thing.close()


def soak(seconds, seed):
    chance = random.Random(seed)
    cluster = Cluster(chance)
    samples = []  # (seconds since the start, what each survivor holds)
    counts = {}
    wrong = []
    load = None
    try:
        load = Load(cluster.instances, clients=4, timeout=15, seed=seed)
        wait_until(lambda: load.right > 20, 60, load.summary)
        begin = last_told = time.monotonic()
        while (now := time.monotonic() - begin) < seconds and not load.faults:
            fault = chance.choice(cluster.faults())
            fault()
            counts[fault.__name__] = counts.get(fault.__name__, 0) + 1
            for instance in cluster.survivors:
                if instance.process.poll() is not None:
                    raise AssertionError(f"a survivor ended:\n{instance.output()}")
            time.sleep(chance.uniform(*GAP_S))
            samples.append((now, [held(instance.pid) for instance in cluster.survivors]))
            if time.monotonic() - last_told > 30:
                last_told = time.monotonic()
                print(f"{now:6.0f} s  {load.right} right, {load.lost} lost, faults {counts}, held {samples[-1][1]}", flush=True)

        def whole():
            try:
                return cluster.serves()
            except OSError:
                return False

        wait_until(whole, 60, "every instance serves after the last fault")
        load.close()
        wrong += load.faults
        print(load.summary())
    finally:
        if load:
            load.close()
        cluster.close()
    if wrong:
        return wrong  # it ended there: how much is held says nothing
    warm = [held_by for at, held_by in samples if WARM_SHARE * seconds <= at < (WARM_SHARE + 1) / 2 * seconds]
    late = [held_by for at, held_by in samples if at >= (WARM_SHARE + 1) / 2 * seconds]
    if not warm or not late:
        raise AssertionError(f"{seconds} s are too short: {len(samples)} faults")
    for number, role in enumerate(("prefill", "decode")):
        for what, growth_max in GROWTH_MAX.items():
            before, after = (statistics.median(one[number][what] for one in half) for half in (warm, late))
            print(f"{role}: {what} {before:.0f}, in the end {after:.0f}")
            if after > before + growth_max:
                wrong.append(f"{role}: {what} grew from {before:.0f} to {after:.0f}")
    print(f"seed {seed}, {seconds} s, {load.right} right answers, {sum(counts.values())} faults: {counts}")
    return wrong


def main():
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="of what happens when; drawn if not given")
    arguments = parser.parse_args()
    if Etcd.why_not():
        print(f"skipped: {Etcd.why_not()}")
        return 0
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 30)
    print(f"soak: {arguments.minutes:g} minutes, --seed {seed}", flush=True)
    wrong = soak(arguments.minutes * 60, seed)
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
