"""Both sides of SGLang's prefill/decode flow over mooncake.engine: decode ranks tell over zmq where their pages are, prefill ranks
write chunk after chunk into them and then a status, and every byte is compared the moment that it comes.

There is no SGLang here: ranks do to the engine what its connector does, with the same messages, threads and order.
"""

import concurrent.futures
import dataclasses
import functools
import queue
import random
import signal
import struct
import threading
import time
import traceback
import types
import unittest

from flow_support import (HOST, PATIENCE_SECONDS, Forwarder, JsonServer, KvPool, PageAllocator, RankGroup, content,
                          first_difference, gather, http_request, merge_runs, open_engine)

import numpy  # after flow_support, which says what is missing
import zmq

FAILED, BOOTSTRAPPING, WAITING_FOR_INPUT, TRANSFERRING, SUCCESS = range(5)
PREFILL_TP = 2
LAYERS = 4
PAGE_TOKENS = 16
PREFILL_PAGES, DECODE_PAGES = 2600, 2600
# Of one token in one region, as wide as all ranks together. Two ranks hold 128 each.
TOKEN_BYTES = 256
AUX_BYTES, AUX_SLOTS = [64, 128, 4096], 256
STATE_BYTES, STATE_SLOTS = [512, 2048], 512
QUEUES = 4
# A write to a process that has died ends by then, and a probe of it.
FAILURE_SECONDS_MAX = 30


# ---- bootstrap ----


class Bootstrap:
    """Where prefill ranks tell where they listen, and which of them serves a room."""

    def __init__(self):
        self._lock = threading.Lock()
        self._ranks, self._sizes, self._rooms = {}, None, {}  # guarded by _lock
        self._server = JsonServer({("PUT", "/route"): self._put_route, ("GET", "/route"): self._get_route,
                                   ("GET", "/health"): lambda query, body: (200, "OK"),
                                   ("POST", "/register_dp_rank"): self._register_dp_rank,
                                   ("POST", "/query_dp_ranks"): self._query_dp_ranks})
        self.url, self.close = self._server.url, self._server.close

    def _put_route(self, query, body):
        with self._lock:
            attention_alone = body["system_dp_size"] == 1
            self._sizes = {"attn_tp_size": body["attn_tp_size"], "pp_size": body["pp_size"], "page_size": body["page_size"],
                           "dp_size": body["attn_dp_size"] if attention_alone else body["system_dp_size"],
                           "follow_bootstrap_room": body["load_balance_method"] == "follow_bootstrap_room"}
            dp_rank = body["attn_dp_rank"] if attention_alone else body["system_dp_rank"]
            self._ranks[dp_rank, body["attn_tp_rank"], body["pp_rank"]] = {"rank_ip": body["rank_ip"], "rank_port": body["rank_port"]}
            return 200, "OK"

    def _get_route(self, query, body):
        try:
            wanted = [int(query[name]) for name in ("prefill_dp_rank", "engine_rank", "target_pp_rank")]
        except (KeyError, ValueError):
            return 400, "missing arguments"
        with self._lock:
            sizes = self._sizes
            if sizes is None or len(self._ranks) < sizes["dp_size"] * sizes["attn_tp_size"] * sizes["pp_size"]:
                return 503, "ranks are missing"
            if wanted == [-1, -1, -1]:
                return 200, sizes
            found = self._ranks.get(tuple(wanted))
            return (200, found) if found else (404, "there is no such rank")

    def _register_dp_rank(self, query, body):
        with self._lock:
            self._rooms[body["bootstrap_room"]] = body["dp_rank"]
            return 200, "OK"

    def _query_dp_ranks(self, query, body):
        with self._lock:
            return 200, {str(room): self._rooms[room] for room in body["bootstrap_rooms"] if room in self._rooms}


# ---- messages ----


def ascii_bytes(value):
    return str(value).encode("ascii")


def pack_kv_args(ip, port, session, kv, aux, state, tp_rank, tp_size):
    """The 12 frames in which a decode rank tells where its memory is."""
    return [b"None", ascii_bytes(ip), ascii_bytes(port), ascii_bytes(session),
            *[struct.pack(f"{len(pool.addresses)}Q", *pool.addresses) for pool in (kv, aux, state)],
            ascii_bytes(tp_rank), ascii_bytes(tp_size), ascii_bytes(kv.page_bytes[0]),
            *[struct.pack(f"{len(each)}I", *each) for each in (state.page_bytes, [1] * len(state.page_bytes))]]


@dataclasses.dataclass(frozen=True)
class KvArgs:
    endpoint: str
    session: str
    kv: list
    aux: list
    state: list
    tp_rank: int
    tp_size: int
    kv_item_bytes: int

    @classmethod
    def unpack(cls, frames):
        _, ip, port, session, *pointers, tp_rank, tp_size, item_bytes, _state_bytes, _state_dims = frames
        return cls(f"tcp://{ip.decode()}:{port.decode()}", session.decode(),
                   *[struct.unpack(f"{len(each) // 8}Q", each) for each in pointers], int(tp_rank), int(tp_size), int(item_bytes))


def pack_room(room, ip, port, session, pages, aux_index, state_slots, required_infos, dummy=False):
    """The 8 frames in which a decode rank asks a prefill rank for a room; a dummy asks for nothing."""
    return [ascii_bytes(room), ascii_bytes(ip), ascii_bytes(port), ascii_bytes(session),
            b"" if dummy else numpy.array(pages, dtype=numpy.int32).tobytes(), b"" if dummy else ascii_bytes(aux_index),
            b"" if dummy else numpy.array(state_slots, dtype=numpy.int32).tobytes(), ascii_bytes(required_infos)]


@dataclasses.dataclass(frozen=True)
class RoomInfo:
    room: int
    endpoint: str
    session: str
    pages: numpy.ndarray
    aux_index: int
    state_slots: numpy.ndarray
    required_infos: int
    is_dummy: bool

    @classmethod
    def unpack(cls, frames):
        room, ip, port, session, pages, aux_index, state_slots, required_infos = frames
        return cls(int(room), f"tcp://{ip.decode()}:{port.decode()}", session.decode(), numpy.frombuffer(pages, dtype=numpy.int32),
                   int(aux_index or -1), numpy.frombuffer(state_slots, dtype=numpy.int32), int(required_infos), pages == b"" == aux_index)


class Mail:
    """A PULL socket of one's own and PUSH sockets to others. Any thread may send."""

    def __init__(self, receive):
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._pushes = {}  # guarded by _lock, as sending is
        self._pull = self._context.socket(zmq.PULL)
        self.port = self._pull.bind_to_random_port(f"tcp://{HOST}")
        self._thread = threading.Thread(target=self._listen, args=(receive,), daemon=True)
        self._thread.start()

    def _listen(self, receive):
        try:
            while True:
                receive(self._pull.recv_multipart())
        except zmq.ContextTerminated:
            self._pull.close(linger=0)

    def send(self, endpoint, frames):
        with self._lock:
            if endpoint not in self._pushes:
                self._pushes[endpoint] = self._context.socket(zmq.PUSH)
                self._pushes[endpoint].connect(endpoint)
            self._pushes[endpoint].send_multipart(frames)

    def close(self):
        with self._lock:
            for each in self._pushes.values():
                each.close(linger=0)
        self._context.term()
        self._thread.join()


# ---- ranks ----


class Memory:
    """What a rank registers: KV pages of all layers (K, then V; with MLA one of both), auxiliary data, state."""

    def __init__(self, tp_rank, tp_size, mla, page_count):
        self.token_bytes = TOKEN_BYTES if mla else TOKEN_BYTES // tp_size
        self.token_begin = 0 if mla else tp_rank * self.token_bytes
        self.tp_rank = tp_rank
        self.kv = KvPool([PAGE_TOKENS * self.token_bytes] * (LAYERS if mla else 2 * LAYERS), page_count)
        self.aux = KvPool(AUX_BYTES, AUX_SLOTS)
        self.state = KvPool(STATE_BYTES, STATE_SLOTS)

    def register(self, engine):
        for pool in (self.kv, self.aux, self.state):
            pool.register(engine)

    def kv_content(self, room, region, first_page, page_count):
        tokens = range(first_page * PAGE_TOKENS, (first_page + page_count) * PAGE_TOKENS)
        return content(room, region, tokens, self.token_begin, self.token_bytes).reshape(page_count, -1)

    def aux_content(self, room, buffer):
        return content(f"{room}/aux", buffer, [0], 0, AUX_BYTES[buffer])

    def state_content(self, room, region, slot_count):
        length = STATE_BYTES[region]
        return content(f"{room}/state", region, range(slot_count), self.tp_rank * length, length)


@dataclasses.dataclass(frozen=True)
class TransferKVChunk:
    room: int
    pages: list
    index_slice: slice
    is_last: bool
    aux_index: int = -1
    state_slots: tuple = ()


class PrefillRank:
    """`threads` write over four queues; `per_layer` writes layer by layer in parallel, as with a custom memory pool."""

    def __init__(self, tp_rank, tp_size, mla=False, threads=8, per_layer=False):
        self._tp_rank, self._tp_size, self._mla, self._per_layer = tp_rank, tp_size, mla, per_layer
        self._engine, self._session = open_engine()
        self._memory = Memory(tp_rank, tp_size, mla, PREFILL_PAGES)
        self._memory.register(self._engine)
        self._bootstrap = Bootstrap() if tp_rank == 0 else None
        self._aux_over_zmq = self._probes = False
        self._changed = threading.Condition()
        self._kv_args, self._infos, self._status, self._failed_sessions = {}, {}, {}, set()  # guarded by _changed
        self._writes = []  # guarded by _changed
        self._queues = [queue.SimpleQueue() for _ in range(QUEUES)]
        self._writers = [concurrent.futures.ThreadPoolExecutor(threads // QUEUES) for _ in range(QUEUES)]
        for each in zip(self._queues, self._writers):
            threading.Thread(target=self._transfer_forever, args=each, daemon=True).start()
        self._mail = Mail(self._receive)

    def describe(self):
        return {"session": self._session, "bootstrap": self._bootstrap.url if self._bootstrap else None}

    def close(self):
        self._mail.close()
        if self._bootstrap:
            self._bootstrap.close()

    # What the test asks.

    def register(self, bootstrap):
        return http_request("PUT", f"{bootstrap}/route", {
            "role": "Prefill", "attn_tp_size": self._tp_size, "attn_tp_rank": self._tp_rank, "attn_dp_size": 1, "attn_dp_rank": 0,
            "pp_size": 1, "pp_rank": 0, "system_dp_size": 1, "system_dp_rank": 0, "rank_ip": HOST, "rank_port": self._mail.port,
            "page_size": PAGE_TOKENS, "load_balance_method": "round_robin"})

    def configure(self, aux_over_zmq=False, probes=False):
        self._aux_over_zmq, self._probes = aux_over_zmq, probes

    def prefill(self, bootstrap, room, pages, chunk_pages, aux_index, state_slots):
        """What the scheduler does with a room: waits until it is asked for, then computes and hands over chunk after chunk."""
        http_request("POST", f"{bootstrap}/register_dp_rank", {"bootstrap_room": room, "dp_rank": 0})
        self._wait(lambda: self._status.get(room, BOOTSTRAPPING) != BOOTSTRAPPING)
        for begin in range(0, len(pages), chunk_pages):
            part = pages[begin:begin + chunk_pages]
            for region, memory in enumerate(self._memory.kv.regions):
                memory[part] = self._memory.kv_content(room, region, begin, len(part))
            where = slice(begin, begin + len(part))
            if where.stop < len(pages):
                self._enqueue(TransferKVChunk(room, part, where, False))
            else:
                self._compute_rest(room, aux_index, state_slots)
                self._enqueue(TransferKVChunk(room, part, where, True, aux_index, tuple(state_slots)))
        self._wait(lambda: self._status[room] in (FAILED, SUCCESS))
        return self._status[room]

    def wait_until_asked(self, rooms):
        self._wait(lambda: all(self._status.get(room, BOOTSTRAPPING) != BOOTSTRAPPING for room in rooms))

    def writes(self, session=None):
        """What became of the calls: [{session, code, seconds, ranges, bytes_max}]."""
        with self._changed:
            return [each for each in self._writes if session in (None, each["session"])]

    def failed_sessions(self):
        with self._changed:
            return sorted(self._failed_sessions)

    def probe(self, session):
        """Whether the session may be used, and how long it took to say."""
        begin = time.monotonic()
        return self._is_usable(session), time.monotonic() - begin

    # What a rank does by itself.

    def _wait(self, condition):
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE_SECONDS):
                raise TimeoutError

    def _receive(self, frames):
        with self._changed:
            if frames[0] == b"None":
                args = KvArgs.unpack(frames)
                self._kv_args[args.session] = args
                self._failed_sessions.discard(args.session)
            else:
                info = RoomInfo.unpack(frames)
                infos = self._infos.setdefault(info.room, {})
                infos[info.session] = info
                self._status[info.room] = WAITING_FOR_INPUT if len(infos) == info.required_infos else BOOTSTRAPPING
            self._changed.notify_all()

    def _compute_rest(self, room, aux_index, state_slots):
        for buffer, memory in enumerate(self._memory.aux.regions):
            memory[aux_index] = self._memory.aux_content(room, buffer)[0]
        for region, memory in enumerate(self._memory.state.regions):
            memory[state_slots] = self._memory.state_content(room, region, len(state_slots))

    def _enqueue(self, chunk):
        """One queue for all chunks of a room: they stay in order."""
        with self._changed:
            shard = sum(int(session.rsplit(":", 1)[1]) for session in self._infos[chunk.room]) % QUEUES
        self._queues[shard].put(chunk)

    def _transfer_forever(self, chunks, writers):
        while True:
            chunk = chunks.get()
            try:
                self._transfer(chunk, writers)
            except Exception:  # noqa: BLE001  # the room fails, not the thread
                traceback.print_exc()
                self._conclude(chunk.room, FAILED, self._infos[chunk.room].values())

    def _transfer(self, chunk, writers):
        with self._changed:
            infos = [info for info in self._infos[chunk.room].values() if not info.is_dummy]
            if self._status[chunk.room] == FAILED:
                return
        for info in infos:
            if not self._is_usable(info.session):
                self._conclude(chunk.room, FAILED, [info])
                return
            if self._send(info, self._kv_args[info.session], chunk, writers) != 0:
                with self._changed:
                    self._failed_sessions.add(info.session)
                self._conclude(chunk.room, FAILED, [info])
                return
        if chunk.is_last:
            self._conclude(chunk.room, SUCCESS, infos)

    def _is_usable(self, session):
        with self._changed:
            if session not in self._failed_sessions:
                return True
        if not self._probes or self._engine.send_probe(session) != 0:
            return False
        with self._changed:
            self._failed_sessions.discard(session)
        return True

    def _conclude(self, room, status, infos):
        for info in infos:
            self._mail.send(info.endpoint, [ascii_bytes(room), ascii_bytes(status), ascii_bytes(self._tp_rank)])
        with self._changed:
            self._status[room] = status
            self._changed.notify_all()

    def _send(self, info, args, chunk, writers):
        """0, or what the first call that failed returned."""
        target = info.pages[chunk.index_slice]
        if len(target) != len(chunk.pages):
            raise ValueError(f"room {info.room}: {len(chunk.pages)} pages go to {len(target)}")
        same = self._mla or args.tp_size == self._tp_size
        regions = zip(self._memory.kv.addresses, args.kv, strict=True)
        code = (self._send_pages if same else self._send_slices)(args, regions, chunk.pages, target, writers)
        if code == 0 and chunk.is_last and len(info.state_slots):
            code = self._send_state(args, chunk.state_slots, info.state_slots)
        if code == 0 and chunk.is_last:
            code = self._send_aux(info, args, chunk.aux_index)
        return code

    def _send_pages(self, args, regions, source, target, writers):
        runs, size = merge_runs(source, target), self._memory.kv.page_bytes[0]
        layers = [[(ours + first * size, theirs + second * size, count * size) for first, second, count in runs]
                  for ours, theirs in regions]
        if not self._per_layer:
            return self._write(args.session, sum(layers, []))
        return max(writers.map(functools.partial(self._write, args.session), layers), key=abs)

    def _send_slices(self, args, regions, source, target, writers):
        """A rank of more heads meets ranks of fewer: of each token only the heads that both have, one range a token."""
        ours, theirs = self._memory.token_bytes, args.kv_item_bytes // PAGE_TOKENS
        skip = args.tp_rank * theirs - self._tp_rank * ours  # from where ours begins to where theirs does
        tokens = [(numpy.asarray(pages, dtype=numpy.int64)[:, None] * PAGE_TOKENS + numpy.arange(PAGE_TOKENS)).ravel()
                  for pages in (source, target)]
        lengths = [min(ours, theirs)] * len(tokens[0])

        def send(bases):
            columns = [(bases[0] + tokens[0] * ours + max(0, skip)).tolist(), (bases[1] + tokens[1] * theirs + max(0, -skip)).tolist()]
            return self._write_columns(args.session, *columns, lengths)
        return max(writers.map(send, regions), key=abs)

    def _send_state(self, args, source, target):
        runs = merge_runs(source, target)
        return self._write(args.session, [
            (ours + first * size, theirs + second * size, count * size)
            for ours, theirs, size in zip(self._memory.state.addresses, args.state, STATE_BYTES, strict=True)
            for first, second, count in runs])

    def _send_aux(self, info, args, index):
        if not self._aux_over_zmq:
            return self._write(args.session, [
                (ours + index * size, theirs + info.aux_index * size, size)
                for ours, theirs, size in zip(self._memory.aux.addresses, args.aux, AUX_BYTES, strict=True)])
        for buffer, memory in enumerate(self._memory.aux.regions):
            data = memory[index].tobytes()
            self._mail.send(info.endpoint, [b"AUX_DATA", ascii_bytes(info.room), ascii_bytes(buffer), ascii_bytes(info.aux_index),
                                            struct.pack(">I", len(data)), data])
        return 0

    def _write(self, session, ranges):
        return self._write_columns(session, *[list(column) for column in zip(*ranges)])

    def _write_columns(self, session, sources, targets, lengths):
        begin = time.monotonic()
        code = self._engine.batch_transfer_sync_write(session, sources, targets, lengths)
        with self._changed:
            self._writes.append({"session": session, "code": code, "seconds": time.monotonic() - begin, "ranges": len(lengths),
                                 "bytes_max": max(lengths)})
        return code


class DecodeRank:
    """`advertised_ports`: what peers are told, for each rank, instead of the engine's own."""

    def __init__(self, tp_rank, tp_size, mla=False, advertised_ports=None, heartbeat_seconds=5):
        self._tp_rank, self._tp_size, self._mla = tp_rank, tp_size, mla
        self._engine, self._session = open_engine()
        self._own_port = self._engine.get_rpc_port()
        if advertised_ports:
            self._session = f"{HOST}:{advertised_ports[tp_rank]}"
        self._memory = Memory(tp_rank, tp_size, mla, DECODE_PAGES)
        self._memory.register(self._engine)
        self._asked_for = {"kv": set(), "aux": set(), "state": set()}
        self._changed = threading.Condition()
        self._rooms = {}  # guarded by _changed
        self._connecting = threading.Lock()
        self._prefills = {}  # guarded by _connecting; by bootstrap: what is known of its ranks
        self._heartbeat_seconds, self._ends = heartbeat_seconds, threading.Event()
        self._mail = Mail(self._receive)

    def describe(self):
        return {"session": self._session, "own_port": self._own_port}

    def close(self):
        self._ends.set()
        self._mail.close()

    # What the test asks.

    def receive(self, bootstrap, room, pages, aux_index, state_slots):
        """Asks for a room and waits for its end: {"status", "difference"}."""
        self._note_asked(pages, aux_index, state_slots)
        prefill = self._meet(bootstrap)
        with self._changed:
            self._rooms[room] = {"status": WAITING_FOR_INPUT, "ranks": set(), "difference": "", "required": prefill["required_responses"],
                                 "pages": pages, "aux_index": aux_index, "state_slots": state_slots, "bootstrap": bootstrap}
        self._ask(prefill, room)
        with self._changed:
            found = self._rooms[room]
            if not self._changed.wait_for(lambda: found["status"] in (FAILED, SUCCESS), PATIENCE_SECONDS):
                raise TimeoutError(f"room {room}: only {found['ranks']} of {found['required']} prefill ranks have told their status")
            return {"status": found["status"], "difference": found["difference"]}

    def withdraw_memory(self):
        """Peers cannot write for a while, though the rank lives."""
        return self._engine.batch_unregister_memory(self._memory.kv.addresses)

    def offer_memory(self):
        return self._engine.batch_register_memory(self._memory.kv.addresses, self._memory.kv.lengths)

    def register_again(self):
        """Tells all prefill ranks anew where the memory is."""
        with self._connecting:
            for prefill in self._prefills.values():
                self._send_kv_args(prefill)

    def stray_writes(self):
        found = []
        for name, asked_for in self._asked_for.items():
            pool = getattr(self._memory, name)
            found += [(name, *where) for where in pool.stray_writes([asked_for] * len(pool.regions))]
        return found

    # What a rank does by itself.

    def _note_asked(self, pages, aux_index, state_slots):
        with self._changed:
            self._asked_for["kv"].update(pages)
            self._asked_for["aux"].add(aux_index)
            self._asked_for["state"].update(state_slots)

    def _meet(self, bootstrap):
        """Learns about a prefill engine and tells its ranks where this one's memory is; once."""
        with self._connecting:
            if bootstrap in self._prefills:
                return self._prefills[bootstrap]
            status, sizes = http_request("GET", f"{bootstrap}/route?engine_rank=-1&prefill_dp_rank=-1&target_pp_rank=-1")
            assert status == 200 and sizes["page_size"] == PAGE_TOKENS and not sizes["follow_bootstrap_room"], (status, sizes)
            theirs = sizes["attn_tp_size"]
            first = self._tp_rank * theirs // self._tp_size
            ranks = range(first, first + max(1, theirs // self._tp_size))
            prefill = {"endpoints": [self._endpoint(bootstrap, rank) for rank in ranks], "bootstrap": bootstrap,
                       "required_infos": max(1, self._tp_size // theirs), "required_responses": 1 if self._mla else len(ranks)}
            self._send_kv_args(prefill)
            threading.Thread(target=self._watch, args=(bootstrap,), daemon=True).start()
            self._prefills[bootstrap] = prefill
            return prefill

    @staticmethod
    def _endpoint(bootstrap, rank):
        status, place = http_request("GET", f"{bootstrap}/route?engine_rank={rank}&prefill_dp_rank=0&target_pp_rank=0")
        assert status == 200, (status, place)
        return f"tcp://{place['rank_ip']}:{place['rank_port']}"

    def _send_kv_args(self, prefill):
        memory = self._memory
        for endpoint in prefill["endpoints"]:
            self._mail.send(endpoint, pack_kv_args(HOST, self._mail.port, self._session, memory.kv, memory.aux, memory.state,
                                                   self._tp_rank, self._tp_size))

    def _ask(self, prefill, room):
        """All ranks that it is connected to; with MLA the first has everything and the others only count."""
        asked = self._rooms[room]
        for number, endpoint in enumerate(prefill["endpoints"]):
            self._mail.send(endpoint, pack_room(room, HOST, self._mail.port, self._session, asked["pages"], asked["aux_index"],
                                                asked["state_slots"], prefill["required_infos"], dummy=self._mla and number > 0))

    def _watch(self, bootstrap):
        """Two heartbeats without an answer: the prefill engine is dead, and so are its rooms."""
        failures = 0
        while failures < 2 and not self._ends.wait(self._heartbeat_seconds):
            try:
                failures = 0 if http_request("GET", f"{bootstrap}/health") == (200, "OK") else failures + 1
            except OSError:
                failures += 1
        with self._changed:
            for room in self._rooms.values():
                if room["bootstrap"] == bootstrap and room["status"] == WAITING_FOR_INPUT:
                    room["status"] = FAILED
            self._changed.notify_all()

    def _receive(self, frames):
        if frames[0] == b"AUX_DATA":
            _, _room, buffer, index, length, data = frames
            assert struct.unpack(">I", length)[0] == len(data)
            self._memory.aux.regions[int(buffer)][int(index)] = numpy.frombuffer(data, dtype=numpy.uint8)
            return
        number, status, rank = (int(frame) for frame in frames)
        with self._changed:
            room = self._rooms[number]
            if status == FAILED:
                room["status"] = FAILED
            elif status == SUCCESS:
                room["ranks"].add(rank)
                if len(room["ranks"]) == room["required"]:
                    room["difference"] = self._compare(number, room)  # at once: a model would read it now
                    room["status"] = SUCCESS
            self._changed.notify_all()

    def _compare(self, number, room):
        """What is wrong with the memory of a room; "" if nothing."""
        memory, count, slots = self._memory, len(room["pages"]), room["state_slots"]
        wrong = [(f"kv {region}", first_difference(pool[room["pages"]], memory.kv_content(number, region, 0, count)))
                 for region, pool in enumerate(memory.kv.regions)]
        wrong += [(f"aux {buffer}", first_difference(pool[[room["aux_index"]]], memory.aux_content(number, buffer)))
                  for buffer, pool in enumerate(memory.aux.regions)]
        wrong += [(f"state {region}", first_difference(pool[slots], memory.state_content(number, region, len(slots))))
                  for region, pool in enumerate(memory.state.regions)]
        return "; ".join(f"room {number}, {place}: {difference}" for place, difference in wrong if difference)


# ---- the test's side: what the router and the schedulers do ----


class Prefill(RankGroup):
    def __init__(self, tp_size=PREFILL_TP, environment=None, **arguments):
        super().__init__(PrefillRank, tp_size, environment, **arguments)
        self._pages, self._aux, self._states = (PageAllocator(count, seed=1) for count in (PREFILL_PAGES, AUX_SLOTS, STATE_SLOTS))
        self._random = random.Random(2)

    def open(self):
        self.bootstrap = self.ranks[0].facts["bootstrap"]
        assert self.call("register", bootstrap=self.bootstrap) == [[200, "OK"]] * len(self.ranks)

    def new_room(self, decode, page_count, chunk_pages, state_count=2):
        """Arguments of both sides' calls for a prompt of so many pages."""
        number = self._random.randrange(1 << 63)
        return {"prefill": {"room": number, "pages": self._pages.take(page_count), "chunk_pages": chunk_pages,
                            "aux_index": self._aux.take(1)[0], "state_slots": self._states.take(state_count)},
                "decode": {"room": number, "pages": decode.pages.take(page_count), "aux_index": decode.aux.take(1)[0],
                           "state_slots": decode.states.take(state_count)}}

    def prefill(self, room):
        return self.start("prefill", bootstrap=self.bootstrap, **room["prefill"])

    def give_back(self, room):
        self._pages.give_back(room["prefill"]["pages"])
        self._aux.give_back([room["prefill"]["aux_index"]])
        self._states.give_back(room["prefill"]["state_slots"])


class Decode(RankGroup):
    def __init__(self, tp_size, environment=None, **arguments):
        super().__init__(DecodeRank, tp_size, environment, **arguments)
        self.pages, self.aux, self.states = (PageAllocator(count, seed=3) for count in (DECODE_PAGES, AUX_SLOTS, STATE_SLOTS))

    def receive(self, prefill, room):
        return self.start("receive", bootstrap=prefill.bootstrap, **room["decode"])


class FlowTest(unittest.TestCase):
    """A prefill engine and decode engines, of a class of tests unless the tests start their own."""

    environment = {}
    prefill_arguments, decode_arguments = {}, ()

    @classmethod
    def setUpClass(cls):
        cls.prefill = Prefill(environment=cls.environment, **cls.prefill_arguments)
        cls.addClassCleanup(cls.prefill.close)
        cls.decodes = []
        for arguments in cls.decode_arguments:
            cls.decodes.append(Decode(environment=cls.environment, **arguments))
            cls.addClassCleanup(cls.decodes[-1].close)
        cls.prefill.open()

    def tearDown(self):
        self.prefill.call("configure")

    def rooms(self, decode, count, seed, pages_max=12, state_count=2):
        order = random.Random(seed)
        return [self.prefill.new_room(decode, order.randint(1, pages_max), order.randint(1, 5), state_count) for _ in range(count)]

    def receive(self, decode, rooms):
        return [answer for room in rooms for answer in decode.receive(self.prefill, room)]

    def hand_over(self, rooms):
        return [answer for room in rooms for answer in self.prefill.prefill(room)]

    def expect(self, ends, status):
        for end in ends:
            self.assertEqual(end, {"status": status, "difference": ""})

    def move(self, rooms_by_decode, seed):
        """All at once; half of the rooms are asked for before the scheduler has them, half after it."""
        order = random.Random(seed)
        jobs = [(decode, room) for decode, rooms in rooms_by_decode for room in rooms]
        order.shuffle(jobs)
        received, prefilled = [], []
        for decode, room in jobs:
            steps = [lambda: received.extend(self.receive(decode, [room])),  # noqa: B023  # called in this turn
                     lambda: prefilled.extend(self.hand_over([room]))]  # noqa: B023
            for step in steps if order.random() < 0.5 else reversed(steps):
                step()
        self.expect(gather(received), SUCCESS)
        self.assertEqual(set(gather(prefilled)), {SUCCESS})
        for _, room in jobs:
            self.prefill.give_back(room)
        for decode, _ in rooms_by_decode:
            self.assertEqual(decode.call("stray_writes"), [[]] * len(decode.ranks))

    def fail_room(self, decode, room):
        """Lets a room fail on both sides."""
        received = decode.receive(self.prefill, room)
        self.assertEqual(set(gather(self.prefill.prefill(room))), {FAILED})
        self.expect(gather(received), FAILED)
        self.prefill.give_back(room)


class EqualTp(FlowTest):
    room_count = 100

    @classmethod
    def setUpClass(cls):
        cls.names = [Forwarder(), Forwarder()]
        for name in cls.names:
            cls.addClassCleanup(name.close)
        cls.decode_arguments = ({"tp_size": 2}, {"tp_size": 2, "advertised_ports": [name.port for name in cls.names]})
        super().setUpClass()
        cls.point_names()

    @classmethod
    def point_names(cls):
        for name, rank in zip(cls.names, cls.decodes[1].ranks):
            name.open(rank.facts["own_port"])

    def test_many_rooms_at_once(self):
        share = self.room_count // len(self.decodes)
        self.move([(decode, self.rooms(decode, share, seed)) for seed, decode in enumerate(self.decodes)], seed=3)

    def test_auxiliary_data_over_zmq(self):
        self.prefill.call("configure", aux_over_zmq=True)
        self.move([(self.decodes[0], self.rooms(self.decodes[0], 8, seed=4))], seed=5)

    def test_a_failed_session_stays_failed_until_it_registers_again(self):
        decode, other = self.decodes
        sessions = [rank.facts["session"] for rank in decode.ranks]
        self.assertEqual(decode.call("withdraw_memory"), [0, 0])
        self.fail_room(decode, self.prefill.new_room(decode, 3, 1))
        self.assertEqual(decode.call("offer_memory"), [0, 0])
        writes = [rank.call("writes", session=session) for rank, session in zip(self.prefill.ranks, sessions)]
        self.assertTrue(all(each[-1]["code"] < 0 for each in writes), writes)
        self.assertEqual(self.failed(sessions), [True, True])
        self.fail_room(decode, self.prefill.new_room(decode, 3, 1))
        after = [rank.call("writes", session=session) for rank, session in zip(self.prefill.ranks, sessions)]
        self.assertEqual(after, writes, "nothing more was tried")
        self.move([(other, self.rooms(other, 4, seed=6))], seed=7)
        decode.call("register_again")
        self.move([(decode, self.rooms(decode, 4, seed=8))], seed=9)

    def test_a_probe_takes_back_a_session_that_lives(self):
        decode = self.decodes[1]
        self.prefill.call("configure", probes=True)
        self.assertEqual(decode.call("withdraw_memory"), [0, 0])
        self.fail_room(decode, self.prefill.new_room(decode, 3, 1))
        self.assertEqual(decode.call("offer_memory"), [0, 0])
        self.move([(decode, self.rooms(decode, 4, seed=10))], seed=11)
        self.assertEqual(self.failed([rank.facts["session"] for rank in decode.ranks]), [False, False])

    def test_a_decode_engine_dies_and_comes_back_under_its_name(self):
        survivor, victim = self.decodes
        sessions = [rank.facts["session"] for rank in victim.ranks]
        self.prefill.call("configure", probes=True)
        self.addCleanup(self.replace_victim)
        self.kill_in_the_middle(victim, survivor)
        self.expect_dead(sessions)
        self.replace_victim()
        for rank, session in zip(self.prefill.ranks, sessions):
            self.assertTrue(rank.call("probe", session=session)[0])
        self.assertEqual(self.failed(sessions), [False, False])
        self.move([(victim, self.rooms(victim, 10, seed=14)), (survivor, self.rooms(survivor, 4, seed=15))], seed=16)

    def kill_in_the_middle(self, victim, survivor):
        flying, late, others = self.rooms(victim, 10, seed=17), self.rooms(victim, 3, seed=18), self.rooms(survivor, 20, seed=19)
        cut_off, lost = self.receive(victim, flying), self.receive(victim, late)
        self.prefill.call("wait_until_asked", rooms=[room["prefill"]["room"] for room in flying + late])
        received, prefilled = self.receive(survivor, others), self.hand_over(flying + others)
        for name, rank in zip(self.names, victim.ranks):
            name.shut()
            rank.kill()
        failed = self.hand_over(late)

        self.assertEqual(set(gather(failed)), {FAILED})
        gather(prefilled)
        self.expect(gather(received), SUCCESS)
        self.expect([answer.result() for answer in cut_off if answer.exception(PATIENCE_SECONDS) is None], SUCCESS)
        for answer in lost:
            self.assertIsNotNone(answer.exception(PATIENCE_SECONDS))
        for room in flying + late + others:
            self.prefill.give_back(room)

    def failed(self, sessions):
        """Of each prefill rank, whether it has given up the session of its peer."""
        return [session in failed for session, failed in zip(sessions, self.prefill.call("failed_sessions"))]

    def replace_victim(self):
        if not all(rank.is_alive() for rank in self.decodes[1].ranks):
            self.decodes[1].replace_dead()
            self.point_names()

    def expect_dead(self, sessions):
        """That each prefill rank has found its session dead in time, and finds it so again."""
        self.assertEqual(self.failed(sessions), [True, True])
        for rank, session in zip(self.prefill.ranks, sessions):
            writes = rank.call("writes", session=session)
            self.assertLess(min(each["code"] for each in writes), 0)
            self.assertLess(max(each["seconds"] for each in writes), FAILURE_SECONDS_MAX)
            usable, seconds = rank.call("probe", session=session)
            self.assertFalse(usable)
            self.assertLess(seconds, FAILURE_SECONDS_MAX)


class LayersInParallelOverTcp(EqualTp):
    environment = {"MC_FORCE_TCP": "1"}
    prefill_arguments = {"threads": 12, "per_layer": True}
    room_count = 60


class UnequalTp(FlowTest):
    prefill_arguments = {"threads": 12}
    decode_arguments = ({"tp_size": 1}, {"tp_size": 4})

    def test_some_heads_of_each_token(self):
        self.move([(decode, self.rooms(decode, 15, seed, state_count=0)) for seed, decode in enumerate(self.decodes)], seed=20)

    def test_sixteen_thousand_tokens_in_one_chunk(self):
        decode = self.decodes[0]
        pages = 16384 // PAGE_TOKENS
        self.move([(decode, [self.prefill.new_room(decode, pages, pages, state_count=0)])], seed=21)
        for writes in self.prefill.call("writes", session=decode.ranks[0].facts["session"]):
            slices = [(each["ranges"], each["bytes_max"]) for each in writes if each["ranges"] == 16384]
            self.assertEqual(slices, [(16384, 128)] * 2 * LAYERS)


class Mla(FlowTest):
    """All ranks have the same KV: one prefill rank writes it, the other is asked for nothing."""

    prefill_arguments = {"mla": True, "threads": 4}
    decode_arguments = ({"tp_size": 1, "mla": True},)

    def test_dummies_are_finished_without_a_transfer(self):
        self.move([(self.decodes[0], self.rooms(self.decodes[0], 10, seed=22, state_count=0))], seed=23)
        writes = self.prefill.call("writes")
        self.assertGreaterEqual(len(writes[0]), 20)
        self.assertEqual(writes[1], [])


class OneRankEach(FlowTest):
    environment = {"MC_FORCE_TCP": "1", "MC_TRANSFER_TIMEOUT": "5"}
    prefill_arguments = {"tp_size": 1}
    decode_arguments = ({"tp_size": 1, "heartbeat_seconds": 0.1},)

    def test_a_prefill_engine_that_dies_fails_its_rooms(self):
        decode, mortal = self.decodes[0], Prefill(1, self.environment)
        self.addCleanup(mortal.close)
        mortal.open()
        rooms = [mortal.new_room(decode, 3, 1) for _ in range(3)]
        received = [answer for room in rooms for answer in decode.receive(mortal, room)]
        mortal.call("wait_until_asked", rooms=[room["prefill"]["room"] for room in rooms])
        mortal.ranks[0].kill()
        self.expect(gather(received), FAILED)
        self.move([(decode, self.rooms(decode, 2, seed=24))], seed=25)

    def test_pages_of_a_write_that_failed_are_used_again(self):
        """The decode rank stalls until a write fails; then it goes on, and has the pages written for another room."""
        decode = self.decodes[0]
        self.prefill.call("configure", probes=True)
        self.move([(decode, self.rooms(decode, 2, seed=27))], seed=28)
        stalled, following = [self.prefill.new_room(decode, 500, 500) for _ in range(2)]
        received = self.receive(decode, [stalled])
        self.prefill.call("wait_until_asked", rooms=[stalled["prefill"]["room"]])
        decode.ranks[0].send_signal(signal.SIGSTOP)
        try:
            self.assertEqual(gather(self.hand_over([stalled])), [FAILED])
        finally:
            decode.ranks[0].send_signal(signal.SIGCONT)
        self.expect(gather(received), FAILED)
        for name in ("pages", "aux_index", "state_slots"):
            following["decode"][name] = stalled["decode"][name]
        self.move([(decode, [following])], seed=29)


class Pieces(unittest.TestCase):
    def test_messages_byte_by_byte(self):
        kv = types.SimpleNamespace(addresses=[0x7F0000001000, 1], page_bytes=[2048, 2048])
        aux = types.SimpleNamespace(addresses=[2**64 - 1], page_bytes=[64])
        state = types.SimpleNamespace(addresses=[], page_bytes=[])
        frames = pack_kv_args("10.0.0.1", 5555, "10.0.0.1:6666", kv, aux, state, 3, 8)
        self.assertEqual(frames, [
            b"None", b"10.0.0.1", b"5555", b"10.0.0.1:6666", bytes.fromhex("00100000007f0000 0100000000000000"), b"\xff" * 8, b"",
            b"3", b"8", b"2048", b"", b""])
        self.assertEqual(KvArgs.unpack(frames), KvArgs(
            "tcp://10.0.0.1:5555", "10.0.0.1:6666", (0x7F0000001000, 1), (2**64 - 1,), (), 3, 8, 2048))
        state = types.SimpleNamespace(addresses=[16], page_bytes=[512])
        self.assertEqual(pack_kv_args("h", 1, "h:2", kv, aux, state, 0, 1)[10:], [bytes.fromhex("00020000"), bytes.fromhex("01000000")])

        frames = pack_room(2**63 - 1, "10.0.0.1", 5555, "10.0.0.1:6666", [7, 256], 9, [1], 2)
        self.assertEqual(frames, [b"9223372036854775807", b"10.0.0.1", b"5555", b"10.0.0.1:6666", bytes.fromhex("0700000000010000"), b"9",
                                  bytes.fromhex("01000000"), b"2"])
        info = RoomInfo.unpack(frames)
        self.assertEqual((info.pages.tolist(), info.aux_index, info.state_slots.tolist(), info.is_dummy), ([7, 256], 9, [1], False))
        dummy = pack_room(1, "h", 5, "h:6", [7], 9, [1], 1, dummy=True)
        self.assertEqual(dummy, [b"1", b"h", b"5", b"h:6", b"", b"", b"", b"1"])
        self.assertTrue(RoomInfo.unpack(dummy).is_dummy)

    def test_bootstrap(self):
        bootstrap = Bootstrap()
        self.addCleanup(bootstrap.close)
        rank = {"role": "Prefill", "attn_tp_size": 2, "attn_tp_rank": 0, "attn_dp_size": 1, "attn_dp_rank": 0, "pp_size": 1, "pp_rank": 0,
                "system_dp_size": 1, "system_dp_rank": 0, "rank_ip": "1.2.3.4", "rank_port": 5, "page_size": 16,
                "load_balance_method": "round_robin"}

        def get(query):
            return http_request("GET", f"{bootstrap.url}/route?{query}")
        everything = "engine_rank=-1&prefill_dp_rank=-1&target_pp_rank=-1"
        self.assertEqual(http_request("GET", f"{bootstrap.url}/health"), (200, "OK"))
        self.assertEqual(get(everything)[0], 503)
        self.assertEqual(http_request("PUT", f"{bootstrap.url}/route", rank), (200, "OK"))
        self.assertEqual(get(everything)[0], 503, "one of two")
        self.assertEqual(http_request("PUT", f"{bootstrap.url}/route", {**rank, "attn_tp_rank": 1, "rank_port": 6}), (200, "OK"))
        self.assertEqual(get(everything), (200, {
            "attn_tp_size": 2, "dp_size": 1, "pp_size": 1, "page_size": 16, "follow_bootstrap_room": False}))
        self.assertEqual(get("engine_rank=1&prefill_dp_rank=0&target_pp_rank=0"), (200, {"rank_ip": "1.2.3.4", "rank_port": 6}))
        self.assertEqual(get("engine_rank=2&prefill_dp_rank=0&target_pp_rank=0")[0], 404)
        self.assertEqual(get("engine_rank=1&prefill_dp_rank=0")[0], 400)

        room = 2**63 - 1
        self.assertEqual(http_request("POST", f"{bootstrap.url}/register_dp_rank", {"bootstrap_room": room, "dp_rank": 3}), (200, "OK"))
        self.assertEqual(http_request("POST", f"{bootstrap.url}/query_dp_ranks", {"bootstrap_rooms": [room, 4]}), (200, {str(room): 3}))


if __name__ == "__main__":
    unittest.main()
