"""mooncake.Engine: memory and peers as objects, failures as exceptions with ids, transfers that are awaited."""

import array
import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import unittest

from tested import ENVIRONMENT
from support import hold
import mooncake

try:
    import numpy
except ImportError:
    numpy = None

SIZE = 1 << 20

# Prints its name and where its memory lies, then answers lines.
PEER = """
import sys, mooncake
engine = mooncake.Engine()
memory = bytearray(1 << 20)
region = engine.register(memory)
print(engine.name, region.address, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Other:
    """A peer of its own process."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
        self.name, address = self.process.stdout.readline().split()
        self.address = int(address)

    def ask(self, expression):
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline(), {"Notification": mooncake.Notification})

    def close(self):
        self.process.kill()
        self.process.communicate()


class Tensor:
    """As much of a torch tensor as registering one needs."""

    class Device:
        def __init__(self, kind):
            self.type = kind

        def __str__(self):
            return self.type

    def __init__(self, values, kind="cpu", contiguous=True):
        self.values, self.device, self.contiguous = values, self.Device(kind), contiguous

    def data_ptr(self):
        return self.values.buffer_info()[0]

    def numel(self):
        return len(self.values)

    def element_size(self):
        return self.values.itemsize

    def is_contiguous(self):
        return self.contiguous


class Transfers(unittest.TestCase):
    def setUp(self):
        self.engine = mooncake.Engine()
        self.addCleanup(self.engine.close)
        self.other = Other()
        self.addCleanup(self.other.close)
        self.region = self.engine.register(bytearray(b"x" * SIZE))
        self.peer = self.engine.connect(self.other.name)

    def test_write_and_read(self):
        self.peer.write(self.region[:100], self.other.address + 10)
        self.assertEqual(self.other.ask("memory[9:111].count(b'x'), memory[10:110].count(b'x')"), (100, 100))
        self.other.ask("memory.__setitem__(slice(0, 3), b'abc')")
        self.peer.read(self.region[5:8], mooncake.Range(self.other.address, 3))
        self.assertEqual(bytes(self.region.memory[4:9]), b"xabcx")
        self.peer.write(self.region, self.other.address)
        self.assertEqual(self.other.ask("memory.count(b'x')"), SIZE - 3)

    def test_many_ranges_with_lists_and_arrays(self):
        local = [self.region.address + 2 * i for i in range(1000)]
        remote = [self.other.address + 3 * i for i in range(1000)]
        self.peer.write_batch(local, remote, [1] * 1000)
        self.assertEqual(self.other.ask("memory.count(b'x')"), 1000)
        self.region.memory[:2000] = bytes(2000)
        self.peer.read_batch(array.array("Q", local), array.array("Q", remote), array.array("Q", [1] * 1000))
        self.assertEqual(bytes(self.region.memory[:2000]).count(b"x"), 1000)

    def test_notifications_come_once_and_after_the_bytes(self):
        self.peer.write(self.region[:1], self.other.address, notify=("done", "1"))
        self.peer.notify("hello", "wörld")
        self.assertEqual(self.other.ask("engine.notifications()"), [mooncake.Notification("done", "1"), mooncake.Notification("hello", "wörld")])
        self.assertEqual(self.other.ask("engine.notifications()"), [])

    def test_first_address_and_probe(self):
        self.assertEqual(self.peer.first_address(), self.other.address)
        self.peer.probe()
        self.other.close()
        begin = time.monotonic()
        with self.assertRaises(mooncake.Error):
            self.peer.probe()
        self.assertLess(time.monotonic() - begin, 6)

    def test_paths_say_where_the_bytes_went(self):
        self.assertIn("tcp", self.peer.paths())
        before = sum(self.peer.paths().values())
        self.peer.write(self.region, self.other.address)
        self.assertEqual(sum(self.peer.paths().values()), before + SIZE)

    def test_allocated_memory_takes_the_mapped_path(self):
        there = self.other.ask("globals().__setitem__('allocated', engine.allocate(1 << 20)) or allocated.address")
        before = self.peer.paths()
        self.peer.write(self.engine.allocate(SIZE), there)
        after = self.peer.paths()
        self.assertEqual({path: after[path] - before[path] for path in after if after[path] != before[path]}, {"shm": SIZE})

    def test_own_memory_needs_no_other(self):
        own = self.engine.connect(self.engine.name)
        self.region.memory[0] = 7
        own.write(self.region[0:1], self.region.address + 9)
        self.assertEqual(self.region.memory[9], 7)

    def test_errors_have_ids_and_kinds(self):
        with self.assertRaises(mooncake.InvalidArgument) as raised:
            self.peer.write(self.region[:8], 4096)
        self.assertEqual((raised.exception.id, str(raised.exception)[:5]), ("E304", "E304 "))
        self.assertIn(self.other.name, raised.exception.context)
        self.assertTrue(raised.exception.title and raised.exception.remedy)
        with self.assertRaises(mooncake.InvalidArgument):
            self.peer.write((4096, 8), self.other.address)
        with self.assertRaises(ValueError):  # 8 bytes here, 9 there
            self.peer.write(self.region[:8], (self.other.address, 9))
        with self.assertRaises(mooncake.InvalidArgument):
            self.peer.write((-1, 8), self.other.address)
        with self.assertRaises(mooncake.InvalidArgument):
            self.peer.write_batch([self.region.address], [], [1])
        with self.assertRaises(ConnectionError):
            self.engine.connect("127.0.0.1:1")
        with self.assertRaises(mooncake.InvalidArgument):
            mooncake.Engine(directory="gopher://x")

    def test_failures_are_raised_and_not_logged(self):
        code = ("import mooncake\nengine = mooncake.Engine()\ntry:\n  engine.connect('127.0.0.1:1')\n"
                "except mooncake.PeerGone as error:\n  print(error.id)\n")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("E102\n", "", 0))

    def test_threads_share_an_engine(self):
        failures = []

        def write(part):
            try:
                for _ in range(50):
                    self.peer.write(self.region[part * 64:part * 64 + 64], self.other.address + part * 64)
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=write, args=(part,)) for part in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.other.ask("memory.count(b'x')"), 20 * 64)


class Memory(unittest.TestCase):
    def setUp(self):
        self.engine = mooncake.Engine()
        self.addCleanup(self.engine.close)

    def test_a_region_holds_its_memory(self):
        memory = bytearray(4096)
        with self.engine.register(memory) as region:
            self.assertEqual((len(region), region.nbytes, region[10:20]), (4096, 4096, (region.address + 10, 10)))
            with self.assertRaises(BufferError):
                memory.extend(b"more")
        with self.assertRaises(mooncake.InvalidArgument):
            region.memory  # noqa: B018
        region.close()
        del region
        gc.collect()
        memory.extend(b"more")

    def test_a_region_that_is_dropped_is_not_registered_any_more(self):
        memory = bytearray(4096)
        self.engine.register(memory)
        gc.collect()
        region = self.engine.register(memory)
        with self.assertRaises(mooncake.InvalidArgument) as raised:
            self.engine.register(memory)
        self.assertEqual(raised.exception.id, "E303")
        region.close()
        self.engine.register(memory).close()

    def test_what_cannot_be_registered(self):
        for memory in (b"read only", bytearray(0), memoryview(bytearray(8))[::2], Tensor(array.array("d", [1]), contiguous=False)):
            with self.assertRaises(mooncake.InvalidArgument):
                self.engine.register(memory)
        with self.assertRaises(mooncake.Unsupported) as raised:
            self.engine.register(Tensor(array.array("d", [1]), kind="cuda"))
        self.assertEqual(raised.exception.id, "E309")
        with self.assertRaises(TypeError):
            self.engine.register(3)

    def test_tensors(self):
        values = array.array("d", [1.0, 2.0])
        region = self.engine.register(Tensor(values))
        self.assertEqual((region.address, region.nbytes), (values.buffer_info()[0], 16))
        region.memory.cast("d")[1] = 5.0
        self.assertEqual(values[1], 5.0)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numpy_arrays(self):
        tensor = numpy.zeros((4, 3), dtype=numpy.float32)
        region = self.engine.register(tensor)
        self.assertEqual((region.address, region.nbytes), (tensor.ctypes.data, 48))
        with self.assertRaises(mooncake.InvalidArgument):
            self.engine.register(numpy.zeros((4, 4))[:, 1])
        allocated = numpy.frombuffer(self.engine.allocate(64).memory, dtype=numpy.uint64)
        allocated[3] = 9
        self.assertEqual(allocated.sum(), 9)

    def test_allocated_memory_lives_as_long_as_it_is_looked_at(self):
        region = self.engine.allocate(1 << 20)
        view, port = region.memory, self.engine.port
        self.assertEqual((bytes(view[:4]), region.address % 64), (bytes(4), 0))
        region.close()
        self.engine.close()
        view[-1] = 1  # neither has taken it away
        del region, view
        gc.collect()
        with mooncake.Engine() as other, self.assertRaises(mooncake.PeerGone):
            other.connect(f"127.0.0.1:{port}")  # and the port is free once nobody does

    def test_a_forked_child_does_not_keep_the_port(self):
        self.engine.register(bytearray(8))
        port, (reading, writing) = self.engine.port, os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent has seen what it wanted
            os._exit(0)
        self.engine.close()
        try:
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
        finally:
            os.close(writing)
            os.close(reading)
            os.waitpid(child, 0)

    def test_a_closed_engine(self):
        region = self.engine.register(bytearray(8))
        name = self.engine.name
        self.engine.close()
        self.engine.close()
        region.close()
        for call in (lambda: self.engine.name, lambda: self.engine.register(bytearray(8)), lambda: self.engine.connect(name),
                     self.engine.notifications):
            with self.assertRaises(mooncake.Cancelled) as raised:
                call()
            self.assertEqual(raised.exception.id, "E115")


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)
        self.engine = mooncake.Engine()
        self.addCleanup(self.engine.close)
        self.other = Other()
        self.addCleanup(self.other.close)
        self.region = self.engine.register(bytearray(b"x" * SIZE))
        self.peer = await self.engine.connect_async(self.other.name)

    async def test_write_and_read(self):
        await self.peer.write_async(self.region[:10], self.other.address, notify=("a", "b"))
        self.assertEqual(self.other.ask("memory.count(b'x'), engine.notifications()"), (10, [("a", "b")]))
        await self.peer.read_async(self.region[:100], self.other.address)
        self.assertEqual(bytes(self.region.memory[:100]).count(b"x"), 10)
        await self.peer.write_batch_async([self.region.address + 50_000] * 3, [self.other.address + 100 * i for i in range(3)], [50] * 3)
        await self.peer.read_batch_async([self.region.address], [self.other.address + 200], [60])
        self.assertEqual(bytes(self.region.memory[:60]), b"x" * 50 + bytes(10))

    async def test_many_at_once_on_a_loop_that_goes_on(self):
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        ticking = asyncio.create_task(turn())
        await asyncio.gather(*(self.peer.write_async(self.region[i * 512:i * 512 + 512], self.other.address + i * 512) for i in range(2000)))
        ticking.cancel()
        self.assertEqual(self.other.ask("memory.count(b'x')"), 2000 * 512)
        self.assertGreater(turns, 2)

    async def test_no_thread_waits(self):
        await self.peer.write_async(self.region, self.other.address)
        before = threading.active_count()
        await asyncio.gather(*(self.peer.write_async(self.region, self.other.address) for _ in range(50)))
        self.assertEqual(threading.active_count(), before)

    async def test_errors(self):
        with self.assertRaises(mooncake.InvalidArgument) as raised:
            await self.peer.write_async(self.region[:8], 4096)
        self.assertEqual(raised.exception.id, "E304")
        with self.assertRaises(mooncake.InvalidArgument):
            await self.peer.write_async((4096, 8), self.other.address)
        with self.assertRaises(mooncake.PeerGone):
            await self.engine.connect_async("127.0.0.1:1")
        self.other.close()
        with self.assertRaises(mooncake.Error):
            await self.peer.write_async(self.region, self.other.address)

    async def test_memory_that_is_registered_anew_is_found(self):
        await self.peer.write_async(self.region[:8], self.other.address)
        self.other.ask("region.close()")
        self.other.ask("globals().__setitem__('region', engine.register(memory))")
        await self.peer.write_async(self.region[:16], self.other.address)
        self.assertEqual(self.other.ask("memory.count(b'x')"), 16)

    async def test_a_cancelled_task_has_let_go_of_its_memory(self):
        await self.peer.write_async(self.region[:1], self.other.address)
        for delay in (0, 0.0001, 0.001):
            task = asyncio.create_task(self.peer.read_async(self.region, self.other.address))
            await asyncio.sleep(delay)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            self.region.memory[:] = b"y" * SIZE
            await asyncio.sleep(0.01)
            self.assertEqual(bytes(self.region.memory).count(b"y"), SIZE)
        await self.peer.write_async(self.region[:16], self.other.address)

    async def test_memory_that_is_being_written_from_is_not_given_back(self):
        region = self.engine.register(bytearray(b"z" * SIZE))
        await self.peer.write_async(region[:1], self.other.address)
        ranges = 64
        task = asyncio.create_task(self.peer.write_batch_async([region.address] * ranges, [self.other.address] * ranges, [SIZE] * ranges))
        await asyncio.sleep(0)  # it starts
        region.close()
        del region
        await task
        self.assertEqual(self.other.ask("memory.count(b'z')"), SIZE)

    async def test_closing_ends_what_is_awaited(self):
        await self.peer.write_async(self.region[:1], self.other.address)
        hold(self.other.process)  # it answers nothing from now on
        tasks = [asyncio.create_task(self.peer.write_batch_async([self.region.address] * 5000, [self.other.address] * 5000, [99] * 5000)) for _ in range(4)]
        await asyncio.sleep(0.05)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.close)
        for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10):
            self.assertIsInstance(outcome, (mooncake.Error, type(None)))

    def test_one_engine_on_several_loops(self):
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            asyncio.run(self.peer.write_async(self.region[:8], self.other.address))
        gc.collect()
        self.assertLess(len(os.listdir("/proc/self/fd")), descriptors + 6)


class Package(unittest.TestCase):
    def test_importing_the_package_loads_nothing(self):
        code = "import sys, mooncake; assert 'mooncake.engine' not in sys.modules and 'asyncio' not in sys.modules; print('Engine' in dir(mooncake))"
        self.assertEqual(subprocess.check_output([sys.executable, "-c", code], env=ENVIRONMENT, text=True), "True\n")
        with self.assertRaises(AttributeError):
            mooncake.Nonsense  # noqa: B018
        with self.assertRaises(ImportError):
            from mooncake import MooncakeDistributedStore  # noqa: F401

    def test_the_end_of_the_interpreter_with_everything_alive(self):
        code = ("import asyncio, mooncake\nengine = mooncake.Engine(); region = engine.register(bytearray(1 << 20)); mine = engine.allocate(4096)\n"
                "view = mine.memory\nother = mooncake.Engine(); far = other.register(bytearray(1 << 20)); peer = engine.connect(other.name)\n"
                "async def main():\n  await peer.write_async(region, far.address)\n  asyncio.create_task(peer.write_async(region, far.address))\n"
                "asyncio.run(main())\n")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
        self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if " I " not in line]), (0, []))


if __name__ == "__main__":
    unittest.main()
