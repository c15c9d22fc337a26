"""The transfer engine as Python would have it: memory and peers are objects, failures are exceptions, transfers can be awaited.

    with mooncake.Engine("192.168.0.137") as engine:
        region = engine.register(tensor)
        peer = engine.connect("192.168.0.138:15625")
        peer.write(region, address_in_the_peer)

Everything may be called from any thread and lets other threads run while it waits. A call that waits does so at most MC_TRANSFER_TIMEOUT
seconds (30 unless set). docs/python.md is the guide; `mooncake.engine` has the interface of the public project.
"""

import asyncio
import threading
import weakref
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from mooncake import engine as _native
from mooncake.errors import Error, PeerGone

__all__ = ["Engine", "Notification", "Peer", "Range", "Region"]


class Range(NamedTuple):
    """`nbytes` bytes at `address`, in this process or in a peer's: a plain tuple, to be sent to whoever shall read or write there."""

    address: int
    nbytes: int


class Notification(NamedTuple):
    """What a peer has sent: two strings of its choice."""

    name: str
    message: str


Memory = Union["Region", Range, Tuple[int, int]]
Remote = Union[int, Range, Tuple[int, int]]
Notify = Optional[Tuple[str, str]]


_BAD_RANGE = 308  # of docs/errors.md
_MEMORY_KIND = 309
_REGISTERED_ANEW = ("E301", "E304")  # what the peer says where its memory is registered, but not as it was


def _describe(memory: Any) -> Tuple[int, int, Any]:
    """Where the bytes of a buffer or tensor lie, and what keeps them there."""
    if hasattr(memory, "data_ptr"):  # a torch tensor, without importing torch
        if memory.device.type != "cpu":
            raise _native._error(_MEMORY_KIND, f"the tensor lies on {memory.device}")
        if not memory.is_contiguous():
            raise _native._error(_BAD_RANGE, "the tensor is not contiguous")
        return memory.data_ptr(), memory.numel() * memory.element_size(), memory
    view = memoryview(memory)
    if view.readonly or not view.c_contiguous:
        raise _native._error(_BAD_RANGE, "the buffer is read-only" if view.readonly else "the buffer is not C-contiguous")
    return (*_native._place_of(view), view)


class Region:
    """Registered memory: peers read and write it until close(). A context manager. `region[a:b]` is a Range of its bytes.

    Keeps the object that the memory is of alive, and a bytearray from being resized. Closed with its engine at the latest.
    """

    def __init__(self, memory: Any):
        self._memory = memory
        self.range = Range(memory.address, memory.nbytes)

    @property
    def address(self) -> int:
        return self.range.address

    @property
    def nbytes(self) -> int:
        return self.range.nbytes

    @property
    def memory(self) -> memoryview:
        """The bytes. They stay where they are as long as any view of them is there."""
        if self._memory is None:
            raise _native._error(_BAD_RANGE, "the region has been closed")
        return memoryview(self._memory)

    def __getitem__(self, part: slice) -> Range:
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise TypeError("a region is cut with region[begin:end], in bytes")
        begin, end, _ = part.indices(self.nbytes)
        return Range(self.address + begin, max(0, end - begin))

    def __len__(self) -> int:
        return self.nbytes

    def close(self) -> None:
        """When it returns, neither a peer nor a transfer touches the memory any more: what is under way is waited for. Raises TimedOut, within
        seconds, where that does not end; the memory is then never given back. Idempotent."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mooncake.Region {self.nbytes} bytes at {self.address:#x}{' closed' if self._memory is None else ''}>"


def _one(local: Memory, remote: Remote) -> Tuple[List[int], List[int], List[int]]:
    address, nbytes = local.range if isinstance(local, Region) else local
    if isinstance(remote, tuple):
        if remote[1] != nbytes:
            raise _native._error(_BAD_RANGE, f"{nbytes} bytes here, {remote[1]} there")
        remote = remote[0]
    return [address], [remote], [nbytes]


class Peer:
    """A segment of another process, by its name. Made by Engine.connect(); holds nothing: connections are the engine's.

    In every call `local` is a Region, a Range of one, or (address, bytes) inside registered memory; `remote` an address in the peer's
    process, or a Range there of the same length. `notify`, a pair of strings, is delivered to the peer after the bytes, exactly once.
    When a call has returned, every byte is in the destination's memory; when it has raised, local memory is no longer touched.

    Raises InvalidArgument (memory that nobody has registered), PeerGone, TimedOut, and Cancelled (the engine was closed).
    """

    def __init__(self, engine: "Engine", name: str):
        self._engine, self.name = engine, name

    def write(self, local: Memory, remote: Remote, *, notify: Notify = None) -> None:
        """Copies `local` to `remote`."""
        self._engine._transfer(self.name, *_one(local, remote), _native.TransferOpcode.Write, notify)

    def read(self, local: Memory, remote: Remote, *, notify: Notify = None) -> None:
        """Copies `remote` to `local`."""
        self._engine._transfer(self.name, *_one(local, remote), _native.TransferOpcode.Read, notify)

    def write_batch(self, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int], *, notify: Notify = None) -> None:
        """Many ranges in one message: addresses here, addresses there, bytes. Lists, or arrays of 64-bit integers, read in place."""
        self._engine._transfer(self.name, local, remote, lengths, _native.TransferOpcode.Write, notify)

    def read_batch(self, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int], *, notify: Notify = None) -> None:
        """As write_batch(), from the peer."""
        self._engine._transfer(self.name, local, remote, lengths, _native.TransferOpcode.Read, notify)

    async def write_async(self, local: Memory, remote: Remote, *, notify: Notify = None) -> None:
        """As write(). The event loop goes on meanwhile; a cancelled task ends when the memory is no longer touched."""
        await self._engine._transfer_async(self.name, *_one(local, remote), _native.TransferOpcode.Write, notify)

    async def read_async(self, local: Memory, remote: Remote, *, notify: Notify = None) -> None:
        """As read() and write_async()."""
        await self._engine._transfer_async(self.name, *_one(local, remote), _native.TransferOpcode.Read, notify)

    async def write_batch_async(
        self, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int], *, notify: Notify = None
    ) -> None:
        """As write_batch() and write_async()."""
        await self._engine._transfer_async(self.name, local, remote, lengths, _native.TransferOpcode.Write, notify)

    async def read_batch_async(
        self, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int], *, notify: Notify = None
    ) -> None:
        """As read_batch() and write_async()."""
        await self._engine._transfer_async(self.name, local, remote, lengths, _native.TransferOpcode.Read, notify)

    def notify(self, name: str, message: str) -> None:
        """Delivered exactly once when this has returned."""
        self._engine._native.notify(self.name, name, message)

    def probe(self) -> None:
        """Returns if the peer answers now; raises within seconds otherwise."""
        self._engine._native.probe(self.name)

    def first_address(self) -> int:
        """Of the memory that the peer has registered first; 0: it has none."""
        return self._engine._native.first_address(self.name)

    def paths(self) -> Dict[str, int]:
        """The transports that work with this peer, and the bytes that went over each: {"shm": 4096, "ring": 0, "cma": 0, "tcp": 0}."""
        return self._engine._native.paths(self.name)

    def __repr__(self) -> str:
        return f"<mooncake.Peer {self.name}>"


class _Waiter:
    """What one event loop waits for: futures by the ids of their transfers. On the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Any):
        self._loop = loop
        self._engine = weakref.ref(engine)  # the loop holds this object, and shall not hold the engine
        self._completions = _native._Completions()
        self._futures: Dict[int, asyncio.Future] = {}
        self._closing = False
        loop.add_reader(self._completions.fileno(), self._take)

    def start(self, *transfer: Any) -> Optional[Tuple[int, "asyncio.Future[None]"]]:
        """None: it would have to wait."""
        engine = self._engine()
        number = engine.start(self._completions, *transfer)
        if number is None:
            return None
        future = self._futures[number] = self._loop.create_future()
        return number, future

    def cancel_all(self) -> None:
        """From any thread: what is awaited ends soon."""
        engine = self._engine()
        for number in list(self._futures):
            engine.cancel(number)

    def close(self) -> None:
        """From any thread: lets go of the loop once nothing is awaited any more."""
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop is closed, and has let go
            pass

    def _take(self) -> None:
        engine = self._engine()
        for number, failure in self._completions.take():
            if engine is not None:
                engine.forget(number)
            future = self._futures.pop(number)
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)
        if self._closing:
            self._end()

    def _end(self) -> None:
        self._closing = True
        if not self._futures:
            self._loop.remove_reader(self._completions.fileno())


class Engine:
    """An engine of this process, with a port, threads and connections of its own; any number of them. A context manager.

    `local_hostname`: the address of this host that peers come to; the default reaches this host only.
    `directory`: "P2PHANDSHAKE" (peers call this engine by `engine.name`, host:port), or a directory, in which it is called
    `local_hostname`: "etcd://host:2379", "http://host:8080/metadata", "redis://host:6379".
    Raises InvalidArgument (a bad address) and Unavailable (no directory there).
    """

    def __init__(self, local_hostname: str = "localhost", *, directory: str = "P2PHANDSHAKE", protocol: str = "", device: str = ""):
        self._native = _native._Engine(local_hostname, directory, protocol, device)
        self._lock = threading.Lock()
        self._regions: "weakref.WeakSet[Region]" = weakref.WeakSet()  # guarded by _lock
        self._waiters: Dict[asyncio.AbstractEventLoop, _Waiter] = {}  # guarded by _lock

    @property
    def name(self) -> str:
        """How peers call this engine."""
        return self._native.name()

    @property
    def port(self) -> int:
        return self._native.port()

    def register(self, memory: Any, *, location: str = "*") -> Region:
        """Lets peers read and write the memory of a writable, C-contiguous buffer (bytearray, numpy array, memoryview) or a CPU tensor
        of torch, whatever its shape and type: a Region of its bytes. Raises InvalidArgument if some of it is registered already."""
        address, nbytes, owner = _describe(memory)
        return self._keep(Region(self._native.register(address, nbytes, location, owner)))

    def allocate(self, nbytes: int) -> Region:
        """Zeroed memory that peers of this host map, so that transfers to it are single copies: the fastest there is.

        `numpy.frombuffer(region.memory, dtype)` or `torch.frombuffer(region.memory, dtype=...)` give it a shape. It is given back when the
        region and every view of it are gone, and keeps the engine alive until then. Raises NoSpace.
        """
        return self._keep(Region(self._native.allocate(nbytes)))

    def connect(self, name: str) -> Peer:
        """The peer of that name, once it has answered. Raises PeerGone, NotFound."""
        self._native.open(name)
        return Peer(self, name)

    async def connect_async(self, name: str) -> Peer:
        """As connect(); the event loop goes on meanwhile."""
        await asyncio.get_running_loop().run_in_executor(None, self._native.open, name)
        return Peer(self, name)

    def notifications(self) -> List[Notification]:
        """What peers have sent since the last call, each once, in the order of arrival."""
        return [Notification(each.name, each.msg) for each in self._native.take_notifies()]

    def close(self) -> None:
        """Ends what is awaited (Cancelled), closes its regions, frees the port. Transfers that other threads wait for end as they would; one that
        takes longer than some seconds makes this raise TimedOut, and its memory is never given back. Idempotent. Memory of allocate() that is
        still looked at stays, and the engine's port with it."""
        with self._lock:
            regions, waiters = list(self._regions), list(self._waiters.values())
            self._waiters.clear()
        for waiter in waiters:
            waiter.cancel_all()
        failure = None
        for region in regions:
            try:
                region.close()
            except Error as error:
                failure = failure or error
        self._native.close()
        for waiter in waiters:
            waiter.close()
        if failure is not None:
            raise failure

    def __del__(self) -> None:
        if getattr(self, "_lock", None) is not None:
            self.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            return f"<mooncake.Engine {self.name}>"
        except Error:
            return "<mooncake.Engine closed>"

    def _keep(self, region: Region) -> Region:
        with self._lock:
            self._regions.add(region)
        return region

    def _transfer(self, *transfer: Any) -> None:
        self._native.transfer(*transfer[:-1], _to_native(transfer[-1]))

    def _waiter(self, loop: asyncio.AbstractEventLoop) -> _Waiter:
        with self._lock:
            for other in [each for each in self._waiters if each.is_closed()]:
                del self._waiters[other]
            if loop not in self._waiters:
                self._waiters[loop] = _Waiter(loop, self._native)
            return self._waiters[loop]

    async def _transfer_async(self, *transfer: Any) -> None:
        loop = asyncio.get_running_loop()
        started = self._waiter(loop).start(*transfer[:-1], _to_native(transfer[-1]))
        if started is not None:
            number, future = started
            try:
                return await _to_the_end(future, lambda: self._native.cancel(number))
            except Error as error:
                # A successor under the peer's name is found below; a notification may have been delivered to the one before.
                if transfer[-1] is not None or not (isinstance(error, PeerGone) or error.id in _REGISTERED_ANEW):
                    raise
        await _to_the_end(loop.run_in_executor(None, self._transfer, *transfer))  # meets the peer first, which blocks


def _to_native(notify: Notify) -> Optional[_native.TransferNotify]:
    return None if notify is None else _native.TransferNotify(*notify)


async def _to_the_end(future: "asyncio.Future[None]", cancel: Any = None) -> None:
    """Waits for it also when the task is cancelled meanwhile: until then memory of the caller's is in use."""
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # seen
        raise
