"""What the tests of clients' flows share: ranks that are processes of their own, a paged KV cache of which every byte is known
beforehand, the merging of neighbouring pages, and a small HTTP server for bootstraps.

A rank is an object of a test's class in a process of its own. The test holds a Rank and calls the object's methods; a call that
waits for something returns when that has happened, so that no test needs to sleep. Ranks end when their test does, however it ends:
they read commands from a pipe whose other end dies with it.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import ctypes
import hashlib
import http.client
import http.server
import importlib
import inspect
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse

from tested import ENVIRONMENT as PACKAGE_ENVIRONMENT
from tested import HERE

ENVIRONMENT = {**PACKAGE_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, [HERE, PACKAGE_ENVIRONMENT["PYTHONPATH"], os.environ.get("PYTHONPATH")]))}

try:
    import msgpack  # noqa: F401  # the flows need all three: whoever imports this file is skipped without them
    import numpy
    import zmq  # noqa: F401
except ImportError as missing:
    raise unittest.SkipTest(f"the Python package {missing.name} is missing") from None

from mooncake.engine import TransferEngine  # noqa: E402

HOST = "127.0.0.1"
# How long a test waits for what takes milliseconds on an idle machine.
PATIENCE_SECONDS = 60
POISON = 0xA5
COMMANDS_AT_ONCE_MAX = 256
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def open_engine(protocol="rdma"):
    """An engine as the connectors open it, and the name under which peers call it."""
    engine = TransferEngine()
    if engine.initialize(HOST, "P2PHANDSHAKE", protocol, "") != 0:
        raise RuntimeError("initialize failed")
    return engine, f"{HOST}:{engine.get_rpc_port()}"


# ---- KV cache ----


def content(name, region, rows, begin, length):
    """Bytes [begin, begin + length) of some rows of a region, shape (len(rows), length): what a model would compute for the request
    `name`. A row is what is as wide as all ranks together, a page or a token; offsets are multiples of 8. No two words are equal."""
    seed = int.from_bytes(hashlib.blake2b(f"{name}/{region}".encode(), digest_size=8).digest(), "little")
    words = numpy.arange(begin // 8, (begin + length) // 8, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
    mixed = numpy.asarray(rows, dtype=numpy.uint64)[:, None] * numpy.uint64(0xD1B54A32D192ED03) + words + numpy.uint64(seed)
    mixed ^= mixed >> numpy.uint64(29)
    mixed *= numpy.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> numpy.uint64(32)
    return mixed.view(numpy.uint8)


def first_difference(actual, expected):
    """Where two arrays of rows of bytes differ first, in words; "" if they do not."""
    if numpy.array_equal(actual, expected):
        return ""
    row, byte = numpy.argwhere(actual != expected)[0]
    return f"{(actual != expected).sum()} bytes differ, the first is {byte} of row {row}: {actual[row, byte]}, not {expected[row, byte]}"


class KvPool:
    """Regions of pages, each region an allocation of its own as the tensors of layers are. Pages nobody has written are poison."""

    def __init__(self, page_bytes_of_regions, page_count):
        self.page_bytes = list(page_bytes_of_regions)
        self.regions = [numpy.full((page_count, page_bytes), POISON, dtype=numpy.uint8) for page_bytes in self.page_bytes]
        self.addresses = [region.ctypes.data for region in self.regions]
        self.lengths = [region.nbytes for region in self.regions]

    def register(self, engine):
        if engine.batch_register_memory(self.addresses, self.lengths) != 0:
            raise RuntimeError("batch_register_memory failed")

    def stray_writes(self, pages_of_regions):
        """Pages that are not poison any more and not among those that were to be written: [(region, page)]."""
        found = []
        for number, (region, pages) in enumerate(zip(self.regions, pages_of_regions)):
            touched = numpy.flatnonzero((region != POISON).any(axis=1))
            found += [(number, int(page)) for page in numpy.setdiff1d(touched, list(pages))]
        return found


class PageAllocator:
    """Hands out pages of a pool, a few neighbours at a time as a cache that has been in use for a while does."""

    def __init__(self, page_count, seed):
        self._random = random.Random(seed)
        cuts = sorted(self._random.sample(range(1, page_count), page_count // 3))
        runs = [range(begin, end) for begin, end in zip([0, *cuts], [*cuts, page_count])]
        self._random.shuffle(runs)
        self._free = collections.deque(itertools.chain.from_iterable(runs))

    def take(self, count):
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, pages):
        self._free.extend(pages)


def merge_runs(source, target):
    """Pairs of pages as runs in which both go up by one: [(first source, first target, count)]."""
    source, target = numpy.asarray(source, dtype=numpy.int64), numpy.asarray(target, dtype=numpy.int64)
    if source.size == 0:
        return []
    cuts = numpy.flatnonzero((numpy.diff(source) != 1) | (numpy.diff(target) != 1)) + 1
    starts, ends = [0, *cuts.tolist()], [*cuts.tolist(), source.size]
    return [(int(source[begin]), int(target[begin]), end - begin) for begin, end in zip(starts, ends)]


# ---- HTTP ----


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, whoever comes sixth waits seconds for TCP to try again


class JsonServer:
    """Serves {(method, path): function(query, body) -> (status, answer)}; an answer that is not text goes out as JSON."""

    def __init__(self, routes):
        self._server = _Server((HOST, 0), self._handler(routes))
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def _handler(routes):
        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self):
                url = urllib.parse.urlsplit(self.path)
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                route = routes.get((self.command, url.path))
                query = dict(urllib.parse.parse_qsl(url.query))
                status, answer = route(query, json.loads(text or b"null")) if route else (404, "not found")
                body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = _serve

            def log_message(self, format, *args):  # noqa: A002  # the base class's name
                pass

        return Handler

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def http_request(method, url, body=None):
    """(status, answer); raises OSError where nobody listens."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, f"{place.path}?{place.query}", None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


class Forwarder:
    """A port of its own that leads to another one while it is open and refuses while it is not: a process that is started again
    under its name, where nobody can choose the process's port."""

    def __init__(self):
        self._holder = self._bound(0)  # keeps the number while nobody listens
        self.port = self._holder.getsockname()[1]
        self._listener = self._holder

    @staticmethod
    def _bound(port):
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        end.bind((HOST, port))
        return end

    def open(self, target_port):
        self._listener = self._bound(self.port)
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=(self._listener, target_port), daemon=True).start()

    def shut(self):
        """Refuses from here on; what is connected stays so as long as the target does."""
        with contextlib.suppress(OSError):  # it is shut already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener, target_port):
        with contextlib.suppress(OSError):  # until it is shut
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._lead, args=(near, target_port), daemon=True).start()

    def _lead(self, near, target_port):
        with near, contextlib.suppress(OSError), socket.create_connection((HOST, target_port)) as far:
            back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
            back.start()
            self._copy(near, far)
            back.join()

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.shut()
        self._holder.close()


# ---- ranks: the test's side ----


class Rank:
    """A process with an object of `kind` in it. `facts` is what its method describe() said when it was ready."""

    def __init__(self, kind, environment=None, **arguments):
        module = os.path.splitext(os.path.basename(inspect.getfile(kind)))[0]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), module, kind.__name__, json.dumps(arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, text=True, env={**ENVIRONMENT, **(environment or {})})
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._answers = {0: concurrent.futures.Future()}  # guarded by _lock
        self._ready = self._answers[0]
        self._gone = False  # guarded by _lock
        self._killed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def facts(self):
        return self._ready.result(PATIENCE_SECONDS)

    def start(self, method, **arguments):
        """Calls a method there; the future has what it returns."""
        answer = concurrent.futures.Future()
        with self._lock:
            if self._gone:
                answer.set_exception(RuntimeError("the rank has gone"))
                return answer
            number = next(self._ids)
            self._answers[number] = answer
        line = json.dumps([number, method, arguments]) + "\n"
        with self._lock, contextlib.suppress(OSError):  # it has died: the reader fails the answer
            self._process.stdin.write(line)
            self._process.stdin.flush()
        return answer

    def call(self, method, **arguments):
        return self.start(method, **arguments).result(PATIENCE_SECONDS)

    def _read(self):
        for line in self._process.stdout:
            number, value, failure = json.loads(line)
            with self._lock:
                answer = self._answers.pop(number)
            if failure:
                answer.set_exception(AssertionError(f"{failure}; its log ends: {self._log_end()}"))
            else:
                answer.set_result(value)
        with self._lock:
            self._gone = True
            left, self._answers = list(self._answers.values()), {}
        for answer in left:
            answer.set_exception(RuntimeError(f"the rank has died: {self._log_end()}"))

    def _log_end(self):
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace")

    def is_alive(self):
        return self._process.poll() is None

    def send_signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        """As a machine that fails: nothing is said to anybody."""
        self._killed = True
        self._process.kill()
        self._process.wait()

    def let_end(self):
        """It ends by itself from here on."""
        with contextlib.suppress(OSError):  # what was still to be written to a process that has died
            self._process.stdin.close()

    def close(self):
        """Waits for its end, and fails where that is not in good order."""
        self.let_end()
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = f"none within {PATIENCE_SECONDS} s; killed with {self._process.wait()}"
        self._reader.join()
        self._process.stdout.close()
        log = self._log_end()
        self._log.close()
        if code != 0 and not self._killed:
            raise AssertionError(f"a rank ended with {code}: {log}")


def gather(futures):
    """The results of all of them."""
    futures = list(futures)
    concurrent.futures.wait(futures, PATIENCE_SECONDS)
    return [future.result(0) for future in futures]


class RankGroup:
    """The tensor-parallel ranks of an engine."""

    def __init__(self, kind, tp_size, environment=None, **arguments):
        self._start = lambda rank: Rank(kind, environment, tp_rank=rank, tp_size=tp_size, **arguments)
        self.ranks = [self._start(rank) for rank in range(tp_size)]

    def start(self, method, **arguments):
        """Calls a method of each rank; futures of what they return."""
        return [rank.start(method, **arguments) for rank in self.ranks]

    def call(self, method, **arguments):
        return gather(self.start(method, **arguments))

    def replace_dead(self):
        for number, rank in enumerate(self.ranks):
            if not rank.is_alive():
                rank.close()
                self.ranks[number] = self._start(number)

    def close(self):
        for rank in self.ranks:
            rank.let_end()
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others
            for rank in self.ranks:
                stack.callback(rank.close)


# ---- ranks: the other side ----


def _read_commands(loop, commands):
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
    loop.call_soon_threadsafe(commands.put_nowait, None)


async def _answer(rank, number, method, arguments):
    value = failure = None
    try:
        function = getattr(rank, method)
        if inspect.iscoroutinefunction(function):
            value = await function(**arguments)
        else:
            value = await asyncio.to_thread(function, **arguments)
    except Exception as error:  # noqa: BLE001  # whatever it is, the test is told
        failure = f"{method}: {error!r}"
    print(json.dumps([number, value, failure]), flush=True)


async def _serve(kind, arguments):
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(COMMANDS_AT_ONCE_MAX))
    rank = kind(**arguments)
    print(json.dumps([0, rank.describe(), None]), flush=True)
    commands, running = asyncio.Queue(), set()
    threading.Thread(target=_read_commands, args=(loop, commands), daemon=True).start()
    while (command := await commands.get()) is not None:
        task = asyncio.create_task(_answer(rank, *command))
        running.add(task)
        task.add_done_callback(running.discard)
    rank.close()
    if running:
        os._exit(0)  # the test has failed already; the threads of calls that still wait would hold up the end


def main():
    # Ends it with the test's process even where it is stopped and cannot read that its pipe has ended.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    module, kind, arguments = sys.argv[1:]
    asyncio.run(_serve(getattr(importlib.import_module(module), kind), json.loads(arguments)))


if __name__ == "__main__":
    main()
