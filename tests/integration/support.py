"""What the integration tests share: real processes of the program and of etcd, in network namespaces where a test needs hosts.

The program under test is named by the environment variable MOONCAKE. Everything started here is stopped by close(),
which tests register with addCleanup().
"""

import contextlib
import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

PROGRAM = os.environ.get("MOONCAKE", "build/bin/mooncake")
CLONE_NEWNET = 0x40000000
# Small and quick: tests are about instances, not about the size of their caches.
SMALL = ["--scale", "0.001953125", "--kv-memory", "256MiB"]


def wait_until(condition, seconds, what):
    """Calls `condition` until it is true; fails with `what` after `seconds`. Returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.01)


def replay(urls, requests, mean_input, mean_output, concurrency=8, namespace=None):
    """The report of requests with so many tokens, replayed as fast as they are answered, each answer verified."""
    with tempfile.TemporaryDirectory() as folder:
        trace, report = f"{folder}/trace.jsonl", f"{folder}/report.json"
        made = run("trace", "generate", "--requests", str(requests), "--mean-input", str(mean_input), "--mean-output", str(mean_output),
                   "--out", trace)
        assert made.returncode == 0, made.stderr
        done = run("replay", "--trace", trace, "--to", ",".join(urls), "--speed", "0", "--concurrency", str(concurrency), "--verify",
                   "--json", report, seconds=120, namespace=namespace)
        assert done.returncode == 0, done.stdout + done.stderr
        with open(report, encoding="utf-8") as file:
            return json.load(file)


def hold(process):
    """All threads of the process stand still when this returns; SIGCONT lets them go on."""
    process.send_signal(signal.SIGSTOP)

    def state(thread):
        with open(f"/proc/{process.pid}/task/{thread}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0]

    wait_until(lambda: all(state(thread) == "T" for thread in os.listdir(f"/proc/{process.pid}/task")), 5, "it stops")


def free_port(host="127.0.0.1"):
    """A port that was free a moment ago; for programs of others, which cannot choose one themselves. It is below those that the
    kernel gives to outgoing connections, one of which would take it before the program does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(range(20000, 32000), 1000):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host.strip("[]"), port))
            return port
    raise AssertionError(f"no port of {host} is free")


class Namespace:
    """A network namespace with one address; needs root."""

    @staticmethod
    def why_not():
        if os.geteuid() != 0:
            return "network namespaces need root"
        if not shutil.which("ip"):
            return "the program ip (package iproute2) is missing"
        return None

    def __init__(self, addresses):
        self.name = f"mc-{os.getpid()}-{random.randrange(1 << 24):06x}"
        self._ip("netns", "add", self.name)
        self._ip("-n", self.name, "link", "set", "lo", "up")
        for address in addresses:
            self._ip("-n", self.name, "addr", "add", address, "dev", "lo")

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    def command(self, command):
        return ["ip", "netns", "exec", self.name, *command]

    def call(self, function):
        """Runs `function` on a thread inside the namespace and returns what it returns."""
        outcome = []

        def body():
            with open(f"/run/netns/{self.name}", "rb") as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                    outcome.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                outcome.append(function())
            except BaseException as error:  # noqa: B036 - handed to the caller below
                outcome.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def connect(self, other, address, others_address):
        """A cable between the two, with an address at each end."""
        self.link, others_link = f"{self.name[-8:]}a", f"{self.name[-8:]}b"
        self._ip("link", "add", self.link, "netns", self.name, "type", "veth", "peer", "name", others_link, "netns", other.name)
        for namespace, link, own in ((self, self.link, address), (other, others_link, others_address)):
            self._ip("-n", namespace.name, "addr", "add", own, "dev", link)
            self._ip("-n", namespace.name, "link", "set", link, "up")

    def set_link(self, up):
        self._ip("-n", self.name, "link", "set", self.link, "up" if up else "down")

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


class Process:
    """A program that runs until close(). Its output goes to a file, for readiness and for messages of failed tests."""

    def __init__(self, command, ready, seconds=20, namespace=None, environment=None):
        self.command = namespace.command(command) if namespace else list(command)
        self.log = tempfile.NamedTemporaryFile("w+", prefix="mooncake-test-", suffix=".log")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})})
        try:
            self.ready_line = self._wait_ready(ready, seconds) if ready else ""
        except BaseException:
            self.close()
            raise

    def _wait_ready(self, word, seconds):
        def line():
            if self.process.poll() is not None:
                raise AssertionError(f"{' '.join(self.command)} ended with {self.process.returncode}:\n{self.output()}")
            return next((text for text in self.output().splitlines() if word in text), None)

        return wait_until(line, seconds, lambda: f"{word!r} from {' '.join(self.command)}:\n{self.output()}")

    @property
    def pid(self):
        """Of the program itself: `ip netns exec` replaces itself by it."""
        return self.process.pid

    def output(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds):
        return self.process.wait(seconds)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(FileNotFoundError):
            self.log.close()


class Instance(Process):
    """mooncake instance. `flags` as on the command line; `config` is written to a file and given with --config."""

    def __init__(self, *flags, config=None, namespace=None, seconds=20, environment=None):
        self.flags = list(flags)
        self.namespace = namespace
        self.config = config
        command = [PROGRAM, "instance"]
        self.file = None
        if config is not None:
            self.file = tempfile.NamedTemporaryFile("w", prefix="mooncake-test-", suffix=".json")
            json.dump(config, self.file)
            self.file.flush()
            command += ["--config", self.file.name]
        super().__init__(command + self.flags, "is ready at", seconds, namespace, environment)
        self.url = self.ready_line.split("is ready at", 1)[1].strip()

    def get(self, path, seconds=5):
        return self._request("GET", path, None, seconds)

    def status(self):
        code, text = self.get("/status")
        assert code == 200, text
        return json.loads(text)

    def complete(self, prompt, tokens, seconds=30, **more):
        """(HTTP status, parsed answer) of a completion."""
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, **more})
        code, text = self._request("POST", "/v1/completions", body, seconds)
        return code, json.loads(text)

    def _request(self, method, path, body, seconds):
        if self.namespace:
            return self.namespace.call(lambda: request(self.url, method, path, body, seconds))
        return request(self.url, method, path, body, seconds)

    def close(self):
        super().close()
        if self.file:
            with contextlib.suppress(FileNotFoundError):
                self.file.close()


def request(url, method, path, body=None, seconds=5):
    """(status, text) of one HTTP request over a connection of its own."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Etcd(Process):
    """A real etcd with data of its own, which survives restart()."""

    @staticmethod
    def why_not():
        return None if shutil.which("etcd") else "the program etcd (package etcd-server) is missing"

    def __init__(self, host="127.0.0.1", port=0, namespace=None):
        self.folder = tempfile.TemporaryDirectory(prefix="mooncake-test-etcd-")
        self.host, self.namespace = host, namespace
        pick = (lambda: free_port(host)) if namespace is None else (lambda: namespace.call(lambda: free_port(host)))
        self.port = port or pick()
        self.peer_port = pick()
        self._start()

    def _start(self):
        client, peer = f"http://{self.host}:{self.port}", f"http://{self.host}:{self.peer_port}"
        super().__init__(
            ["etcd", "--name", "test", "--data-dir", self.folder.name, "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}",
             "--logger", "zap", "--log-level", "warn"],
            ready=None, namespace=self.namespace)

        def healthy():
            if self.process.poll() is not None:
                raise AssertionError(f"etcd ended with {self.process.returncode}:\n{self.output()}")
            try:
                ask = lambda: request(client, "GET", "/health", seconds=1)  # noqa: E731
                code, text = self.namespace.call(ask) if self.namespace else ask()
                return code == 200 and "true" in text
            except OSError:
                return False

        wait_until(healthy, 30, lambda: f"etcd is healthy:\n{self.output()}")

    def restart(self):
        self._start()

    @property
    def connection(self):
        return f"etcd://{self.host}:{self.port}"

    def close(self):
        super().close()
        if self.process.poll() is not None:
            self.folder.cleanup()


def listening_ports(pid):
    """{(address as /proc prints it, port)} of the TCP sockets on which process `pid` listens."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    text, port = fields[1].split(":")
                    raw = b"".join(bytes.fromhex(text[i:i + 8])[::-1] for i in range(0, len(text), 8))
                    found.add((socket.inet_ntop(family, raw), int(port, 16)))
    return found


def run(*arguments, seconds=60, namespace=None, environment=None):
    """The program with these arguments, to its end: CompletedProcess with text output."""
    command = [PROGRAM, *arguments]
    return subprocess.run(namespace.command(command) if namespace else command, capture_output=True, text=True, timeout=seconds,
                          check=False, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})


class Load:
    """Clients that send requests with known answers until close(), and keep what came of each."""

    def __init__(self, instances, clients=6, timeout=10, prompts=24, seed=1):
        self.instances = instances  # of the caller, who may replace members
        self.timeout = timeout
        self.random = random.Random(seed)
        whole = Instance("--role", "both", "--cluster", f"undivided-{os.getpid()}", "--host", "127.0.0.1", *SMALL)
        try:
            self.known = []
            for number in range(prompts):
                prompt = [self.random.randrange(100_000) for _ in range(self.random.randrange(1, 6000))]
                if number % 3 == 2:  # later turns of a conversation
                    prompt = self.known[-1][0] + prompt[:500]
                tokens = self.random.randrange(1, 200)
                code, answer = whole.complete(prompt, tokens)
                assert code == 200, answer
                self.known.append((prompt, tokens, answer["choices"][0]["token_ids"]))
        finally:
            whole.close()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.right = 0
        self.refused = {}  # error id: (count, example)
        self.lost = 0  # the connection broke: the instance that the client spoke to was killed
        self.faults = []  # what must not happen
        self.threads = [threading.Thread(target=self._client, args=(self.random.random(),)) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _client(self, seed):
        chance = random.Random(seed)
        while not self.stopped.is_set():
            instance = chance.choice(self.instances)
            prompt, tokens, expected = chance.choice(self.known)
            began = time.monotonic()
            try:
                code, answer = instance.complete(prompt, tokens, seconds=self.timeout + 5, timeout=self.timeout)
            except (OSError, http.client.HTTPException, ValueError) as error:
                took = time.monotonic() - began
                with self.lock:
                    if isinstance(error, TimeoutError) or took > self.timeout + 2:
                        self.faults.append(f"no answer within {took:.1f} s: {error!r}")
                    self.lost += 1
                self.stopped.wait(0.05)
                continue
            took = time.monotonic() - began
            with self.lock:
                if took > self.timeout + 2:
                    self.faults.append(f"an answer after {took:.1f} s: {code} {answer}")
                if code == 200:
                    self.right += 1
                    if answer["choices"][0]["token_ids"] != expected:
                        self.faults.append(f"a wrong answer: {answer['mooncake']}")
                else:
                    error = answer.get("error", {})
                    name = error.get("code", "")
                    if not name.startswith("E") or not error.get("message"):
                        self.faults.append(f"an error that does not say why: {code} {answer}")
                    self.refused[name] = (self.refused.get(name, (0, ""))[0] + 1, error.get("message", ""))
            if code != 200:
                self.stopped.wait(0.02)

    def summary(self):
        with self.lock:
            lines = [f"{self.right} right, {self.lost} lost with their instance"]
            lines += [f"{count} x {text}" for count, text in self.refused.values()]
            return "\n".join(lines + self.faults[:10])

    def close(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
