"""What vllm-ascend, checkpoint-engine and SGLang's encoder servers do with mooncake.engine: decode ranks that read from prefill ranks,
layers pushed while they are computed, and memory that is registered and unregistered all the time at the same addresses.

None of these is here: ranks do to the engine what their connectors do, with the same messages, threads and order.
"""

import concurrent.futures
import queue
import random
import threading
import time
import unittest

from flow_support import (HOST, PATIENCE_SECONDS, KvPool, PageAllocator, Rank, RankGroup, content, first_difference, gather, merge_runs,
                          open_engine)

import msgpack  # after flow_support, which says what is missing
import numpy
import zmq

from mooncake.engine import TransferEngine

LAYERS = 4
PREFILL_BLOCKS, DECODE_BLOCKS = 600, 1000
# K and V of one block of one layer, as wide as all ranks together.
BLOCK_BYTES = 8192
ACK = b"ACK"
INITIALIZE_ATTEMPTS_MAX = 8
# A read from a process that has died ends by then.
FAILURE_SECONDS_MAX = 30


class Desk:
    """A ROUTER socket that answers messages (kind, ...) with functions[kind](...), and REQ sockets to the desks of others."""

    def __init__(self, functions):
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://{HOST}:{self._router.bind_to_random_port(f'tcp://{HOST}')}"
        self._mine = threading.local()  # a REQ socket belongs to the thread that asks
        self._all_asking = []
        self._thread = threading.Thread(target=self._serve, args=(functions,), daemon=True)
        self._thread.start()

    def _serve(self, functions):
        try:
            while True:
                identity, empty, message = self._router.recv_multipart()
                kind, *arguments = msgpack.unpackb(message)
                self._router.send_multipart([identity, empty, functions[kind](*arguments)])
        except zmq.ContextTerminated:
            self._router.close(linger=0)

    def ask(self, endpoint, *message, seconds=PATIENCE_SECONDS):
        """The answer; None if there is none in time."""
        sockets = self._mine.__dict__
        if endpoint not in sockets:
            sockets[endpoint] = self._context.socket(zmq.REQ)
            self._all_asking.append(sockets[endpoint])
            sockets[endpoint].linger = 0
            sockets[endpoint].connect(endpoint)
        sockets[endpoint].send(msgpack.packb(message))
        if sockets[endpoint].poll(seconds * 1000):
            return sockets[endpoint].recv()
        sockets.pop(endpoint).close()  # it would take no other message now
        return None

    def close(self):
        """When nobody asks any more."""
        for each in self._all_asking:
            each.close()
        self._context.term()
        self._thread.join()


class KvRank:
    """What both sides have: an engine, KV memory, and a desk that tells where that is."""

    def __init__(self, tp_rank, tp_size, block_count, functions):
        self._engine, self._session = open_engine("ascend")
        self._block_len = BLOCK_BYTES // tp_size
        self._begin = tp_rank * self._block_len
        self._pool = KvPool([self._block_len] * 2 * LAYERS, block_count)
        for address, length in zip(self._pool.addresses, self._pool.lengths):
            if self._engine.register_memory(address, length) != 0:
                raise RuntimeError("register_memory failed")
        self._tp_rank, self._tp_size = tp_rank, tp_size
        self._known = {}  # what desks have said, by endpoint
        self._desk = Desk({b"get_meta_msg": self._meta, **functions})

    def describe(self):
        return {"session": self._session, "endpoint": self._desk.endpoint}

    def close(self):
        self._desk.close()

    def _meta(self, _):
        return msgpack.packb({"te_rpc_port": self._engine.get_rpc_port(), "kv_caches_base_addr": self._pool.addresses,
                              "num_blocks": len(self._pool.regions[0]), "block_len": self._block_len, "begin": self._begin})

    def _meta_of(self, endpoint):
        if endpoint not in self._known:
            self._known[endpoint] = msgpack.unpackb(self._desk.ask(endpoint, b"get_meta_msg", ""))
        return self._known[endpoint]

    def _ranges(self, meta, region, ours, theirs):
        """Columns for a transfer of what both ranks hold of each pair of blocks."""
        local, remote = self._pool.addresses[region], meta["kv_caches_base_addr"][region]
        size, their_size = self._block_len, meta["block_len"]
        if size == their_size:
            return [(local + first * size, remote + second * size, count * size) for first, second, count in merge_runs(ours, theirs)]
        skip = meta["begin"] - self._begin
        return [(local + first * size + max(0, skip), remote + second * their_size + max(0, -skip), min(size, their_size))
                for first, second in zip(ours, theirs)]

    def _content(self, name, region, block_count):
        return content(name, region, range(block_count), self._begin, self._block_len)

    def _difference(self, name, blocks):
        for region, memory in enumerate(self._pool.regions):
            wrong = first_difference(memory[blocks], self._content(name, region, len(blocks)))
            if wrong:
                return f"{name}, region {region}: {wrong}"
        return ""


class PrefillRank(KvRank):
    def __init__(self, tp_rank, tp_size):
        self._changed = threading.Condition()
        self._held = {}  # guarded by _changed: how many decode ranks have read a request's blocks
        self._layers = queue.SimpleQueue()
        super().__init__(tp_rank, tp_size, PREFILL_BLOCKS, {b"done_recving_msg": self._done})
        threading.Thread(target=self._push_forever, daemon=True).start()

    # What the test asks.

    def prefill(self, name, blocks):
        for region in range(2 * LAYERS):
            self._pool.regions[region][blocks] = self._content(name, region, len(blocks))
        with self._changed:
            self._held[name] = 0

    def wait_until_freed(self, names):
        with self._changed:
            if not self._changed.wait_for(lambda: not set(names) & set(self._held), PATIENCE_SECONDS):
                raise TimeoutError(f"still held: {self._held}")

    def push(self, endpoint, name, blocks, target_blocks):
        """Computes layer by layer; another thread sends each as soon as it is there. What the decode rank found wrong, or why not."""
        end = concurrent.futures.Future()
        for layer in range(LAYERS):
            for region in (2 * layer, 2 * layer + 1):
                self._pool.regions[region][blocks] = self._content(name, region, len(blocks))
            self._layers.put((endpoint, name, layer, blocks, target_blocks, end))
        return end.result(PATIENCE_SECONDS)

    # What a worker does by itself.

    def _done(self, name, rank_count):
        with self._changed:
            self._held[name] += 1
            if self._held[name] == rank_count:
                del self._held[name]
                self._changed.notify_all()
        return ACK

    def _push_forever(self):
        while True:
            endpoint, name, layer, blocks, target_blocks, end = self._layers.get()
            meta = self._meta_of(endpoint)
            ranges = [each for region in (2 * layer, 2 * layer + 1) for each in self._ranges(meta, region, blocks, target_blocks)]
            code = self._engine.batch_transfer_sync_write(f"{HOST}:{meta['te_rpc_port']}", *map(list, zip(*ranges)))
            if code != 0:
                end.set_result(f"layer {layer} returned {code}")
            elif layer == LAYERS - 1:
                end.set_result(self._desk.ask(endpoint, b"done_sending_msg", name, target_blocks).decode())


class DecodeRank(KvRank):
    def __init__(self, tp_rank, tp_size):
        super().__init__(tp_rank, tp_size, DECODE_BLOCKS, {b"done_sending_msg": self._pushed})
        self._receiver = concurrent.futures.ThreadPoolExecutor(1)  # a connector has one thread that receives
        self._received, self._asked_for = {}, set()

    # What the test asks.

    def receive(self, endpoints, name, blocks, remote_blocks, ack_seconds=PATIENCE_SECONDS):
        """Reads a request from the prefill ranks that it is paired with: {"codes", "seconds", "difference", "replies"}."""
        work = self._receiver.submit(self._receive, endpoints, name, blocks, remote_blocks, ack_seconds)
        return work.result(PATIENCE_SECONDS)

    def differences(self):
        """Of all that was received, what is not as it was."""
        return [wrong for name, blocks in self._received.items() if (wrong := self._difference(name, blocks))]

    def stray_writes(self):
        return self._pool.stray_writes([self._asked_for] * 2 * LAYERS)

    # What a worker does by itself.

    def _receive(self, endpoints, name, blocks, remote_blocks, ack_seconds):
        first = self._tp_rank * len(endpoints) // self._tp_size
        paired = endpoints[first:first + max(1, len(endpoints) // self._tp_size)]
        self._asked_for.update(blocks)
        begin = time.monotonic()
        codes = [self._read(endpoint, blocks, remote_blocks) for endpoint in paired]
        answer = {"codes": codes, "seconds": time.monotonic() - begin, "difference": "", "replies": []}
        if not any(codes):
            answer["difference"] = self._difference(name, blocks)  # at once: a model would read it now
            self._received[name] = blocks
            readers = max(1, self._tp_size // len(endpoints))
            replies = [self._desk.ask(endpoint, b"done_recving_msg", name, readers, seconds=ack_seconds) for endpoint in paired]
            answer["replies"] = [reply and reply.decode() for reply in replies]
        return answer

    def _read(self, endpoint, blocks, remote_blocks):
        meta = self._meta_of(endpoint)
        ranges = [each for region in range(2 * LAYERS) for each in self._ranges(meta, region, blocks, remote_blocks)]
        return self._engine.batch_transfer_sync_read(f"{HOST}:{meta['te_rpc_port']}", *map(list, zip(*ranges)))

    def _pushed(self, name, blocks):
        self._received[name] = blocks
        self._asked_for.update(blocks)
        return (self._difference(name, blocks) or "complete").encode()


# ---- checkpoint-engine ----


class CheckpointRank:
    """Owns named tensors and reads those of others."""

    SIZES = [8 << 20, 3 << 20, 1 << 20, 65536, 4096, 520]

    def __init__(self, failing_attempts):
        self._attempts = []
        while len(self._attempts) < INITIALIZE_ATTEMPTS_MAX:
            self._engine = TransferEngine()
            server = "P2PHANDSHAKE" if len(self._attempts) >= failing_attempts else "no-such-scheme://x"
            self._attempts.append(self._engine.initialize(HOST, server, "rdma", ""))
            if self._attempts[-1] == 0:
                break
        self._tensors = [numpy.zeros(size, dtype=numpy.uint8) for size in self.SIZES]
        self._addresses = [tensor.ctypes.data for tensor in self._tensors]

    def describe(self):
        return {"attempts": self._attempts, "session": f"{HOST}:{self._engine.get_rpc_port()}", "addresses": self._addresses}

    def close(self):
        pass

    @staticmethod
    def _expected(checkpoint, number, size):
        return content(f"checkpoint {checkpoint}", number, [0], 0, size)

    def offer(self, checkpoint, share):
        """Fills and registers the first 1/share of each tensor, always at the same addresses."""
        for number, tensor in enumerate(self._tensors):
            tensor[:] = self._expected(checkpoint, number, len(tensor))[0]
        return self._engine.batch_register_memory(self._addresses, [size // share for size in self.SIZES])

    def withdraw(self):
        return self._engine.batch_unregister_memory(self._addresses)

    def fetch(self, session, addresses, checkpoint, share):
        """Registers its own tensors, reads all of a peer's into them, unregisters: {"codes", "differences"}."""
        lengths = [size // share for size in self.SIZES]
        codes = [self._engine.batch_register_memory(self._addresses, self.SIZES),
                 self._engine.batch_transfer_sync_read(session, self._addresses, addresses, lengths)]
        differences = [first_difference(tensor[None, :length], self._expected(checkpoint, number, len(tensor))[:, :length])
                       for number, (tensor, length) in enumerate(zip(self._tensors, lengths))]
        return {"codes": [*codes, self.withdraw()], "differences": list(filter(None, differences))}


# ---- encoder ----


class EncoderRank:
    """Sends embeddings from memory that it registers for one write each, and receives them so. Both sides keep using one buffer."""

    BYTES_MAX = 1 << 18

    def __init__(self, lanes):
        self._engine, self._session = open_engine()
        self._buffers = [numpy.zeros(self.BYTES_MAX, dtype=numpy.uint8) for _ in range(lanes)]
        self._desk = Desk({b"where": self._where, b"sent": self._sent})

    def describe(self):
        return {"session": self._session, "endpoint": self._desk.endpoint}

    def close(self):
        self._desk.close()

    def send_embeddings(self, session, endpoint, lane, count):
        """`count` of them, each: the peer registers, this side registers, writes, unregisters, the peer compares. What went wrong."""
        order, buffer, failures = random.Random(lane), self._buffers[lane], []
        for number in range(count):
            length = order.randrange(8, self.BYTES_MAX + 1, 8)
            target = int(self._desk.ask(endpoint, b"where", lane, length))
            buffer[:length] = content(f"embedding {number}", lane, [0], 0, length)[0]
            codes = [self._engine.register_memory(buffer.ctypes.data, length),
                     self._engine.transfer_sync_write(session, buffer.ctypes.data, target, length),
                     self._engine.unregister_memory(buffer.ctypes.data)]
            found = self._desk.ask(endpoint, b"sent", lane, number, length).decode()
            if any(codes) or found != "complete":
                failures.append(f"lane {lane}, embedding {number}: {codes}, {found}")
        return failures

    def _where(self, lane, length):
        buffer = self._buffers[lane]
        buffer[:] = 0
        if self._engine.register_memory(buffer.ctypes.data, length) != 0:
            return b"0"
        return str(buffer.ctypes.data).encode()

    def _sent(self, lane, number, length):
        buffer = self._buffers[lane]
        wrong = first_difference(buffer[None, :length], content(f"embedding {number}", lane, [0], 0, length))
        stray = "" if not buffer[length:].any() else "; bytes behind it"
        code = self._engine.unregister_memory(buffer.ctypes.data)
        return (f"{wrong}{stray}{f'; unregister_memory returned {code}' if code else ''}" or "complete").encode()


# ---- tests ----


class Prefill(RankGroup):
    def __init__(self, tp_size, environment):
        super().__init__(PrefillRank, tp_size, environment)
        self.allocator = PageAllocator(PREFILL_BLOCKS, seed=1)

    @property
    def endpoints(self):
        return [rank.facts["endpoint"] for rank in self.ranks]


class Decode(RankGroup):
    def __init__(self, tp_size, environment):
        super().__init__(DecodeRank, tp_size, environment)
        self.allocator = PageAllocator(DECODE_BLOCKS, seed=2)


class PullFlow(unittest.TestCase):
    environment = {}

    @classmethod
    def setUpClass(cls):
        cls.prefill, cls.narrow_prefill = cls.start(Prefill, 2), cls.start(Prefill, 1)
        cls.decode, cls.narrow_decode = cls.start(Decode, 2), cls.start(Decode, 1)
        cls.numbers = 0

    @classmethod
    def start(cls, kind, tp_size):
        group = kind(tp_size, cls.environment)
        cls.addClassCleanup(group.close)
        return group

    def requests(self, prefill, decode, count, seed):
        order, made = random.Random(seed), []
        for _ in range(count):
            type(self).numbers += 1
            blocks = order.randint(1, 12)
            made.append({"name": f"request-{self.numbers}", "blocks": decode.allocator.take(blocks),
                         "remote_blocks": prefill.allocator.take(blocks)})
        return made

    def compute(self, prefill, requests):
        gather(answer for each in requests for answer in prefill.start("prefill", name=each["name"], blocks=each["remote_blocks"]))

    def receive(self, prefill, decode, requests, **how):
        return [answer for each in requests for answer in decode.start("receive", endpoints=prefill.endpoints, **each, **how)]

    def pull(self, prefill, decode, requests):
        self.compute(prefill, requests)
        for answer in gather(self.receive(prefill, decode, requests)):
            self.assertEqual((set(answer["codes"]), answer["difference"], set(answer["replies"])), ({0}, "", {"ACK"}))
        prefill.call("wait_until_freed", names=[each["name"] for each in requests])
        for each in requests:
            prefill.allocator.give_back(each["remote_blocks"])
        self.expect_intact(decode)

    def expect_intact(self, decode):
        self.assertEqual(decode.call("differences"), [[]] * len(decode.ranks))
        self.assertEqual(decode.call("stray_writes"), [[]] * len(decode.ranks))

    def test_decode_ranks_read_and_prefill_ranks_free(self):
        for wave in range(3):  # the prefill side's blocks are used again, the decode side's stay as they were
            self.pull(self.prefill, self.decode, self.requests(self.prefill, self.decode, 30, seed=wave))

    def test_unequal_tp(self):
        self.pull(self.prefill, self.narrow_decode, self.requests(self.prefill, self.narrow_decode, 20, seed=3))
        self.pull(self.narrow_prefill, self.decode, self.requests(self.narrow_prefill, self.decode, 20, seed=4))

    def test_layers_are_pushed_while_the_next_is_computed(self):
        requests = self.requests(self.prefill, self.decode, 20, seed=5)
        pairs = list(zip(self.prefill.ranks, self.decode.ranks))
        pushes = [source.start("push", endpoint=target.facts["endpoint"], name=each["name"], blocks=each["remote_blocks"],
                               target_blocks=each["blocks"]) for each in requests for source, target in pairs]
        self.assertEqual(set(gather(pushes)), {"complete"})
        for each in requests:
            self.prefill.allocator.give_back(each["remote_blocks"])
        self.expect_intact(self.decode)

    def test_a_prefill_engine_dies(self):
        mortal = self.start(Prefill, 1)
        flying, late = [self.requests(mortal, self.narrow_decode, count, seed=6) for count in (20, 5)]
        self.compute(mortal, flying + late)
        cut_off = self.receive(mortal, self.narrow_decode, flying, ack_seconds=2)
        cut_off[0].result(PATIENCE_SECONDS)
        mortal.ranks[0].kill()
        for answer in gather(cut_off):  # what was read is right, even if nobody took notice
            self.assertLessEqual(answer["codes"][0], 0)
            self.assertEqual(answer["difference"], "")
        for answer in gather(self.receive(mortal, self.narrow_decode, late)):
            self.assertLess(answer["codes"][0], 0)
            self.assertLess(answer["seconds"], FAILURE_SECONDS_MAX)
        self.pull(self.prefill, self.narrow_decode, self.requests(self.prefill, self.narrow_decode, 5, seed=7))


class PullFlowOverTcp(PullFlow):
    environment = {"MC_FORCE_TCP": "1"}


class Churn(unittest.TestCase):
    """Memory that is registered for a moment."""

    def start(self, kind, **arguments):
        rank = Rank(kind, **arguments)
        self.addCleanup(rank.close)
        return rank

    def test_checkpoints_at_the_same_addresses(self):
        owner, *readers = [self.start(CheckpointRank, failing_attempts=count) for count in (INITIALIZE_ATTEMPTS_MAX - 1, 0, 1)]
        attempts = owner.facts["attempts"]
        self.assertEqual((len(attempts), attempts[-1]), (INITIALIZE_ATTEMPTS_MAX, 0))
        self.assertLess(max(attempts[:-1]), 0)
        for checkpoint, share in enumerate((1, 2, 1)):  # in the second one tensors are half as long
            wanted = {"session": owner.facts["session"], "addresses": owner.facts["addresses"], "checkpoint": checkpoint, "share": share}
            self.assertEqual(owner.call("offer", checkpoint=checkpoint, share=share), 0)
            for found in gather(reader.start("fetch", **wanted) for reader in readers):
                self.assertEqual(found, {"codes": [0, 0, 0], "differences": []})
            if share != 1:
                self.expect_refused(readers[0], {**wanted, "share": 1}, "more than is registered")
            self.assertEqual(owner.call("withdraw"), 0)
            self.expect_refused(readers[1], wanted, "nothing is registered")

    def expect_refused(self, reader, wanted, why):
        registered, read, unregistered = reader.call("fetch", **wanted)["codes"]
        self.assertEqual((registered, unregistered), (0, 0))
        self.assertLess(read, 0, why)

    def test_embeddings_through_one_buffer(self):
        lanes = 2
        encoder, receiver = (self.start(EncoderRank, lanes=lanes) for _ in range(2))
        sent = [encoder.start("send_embeddings", lane=lane, count=200, **receiver.facts) for lane in range(lanes)]
        self.assertEqual(gather(sent), [[]] * lanes)


if __name__ == "__main__":
    unittest.main()
