"""Both sides of vLLM's prefill/decode flow over mooncake.engine: decode ranks ask over zmq, prefill ranks write into their memory and
say so, and every byte is compared the moment that they do.

There is no vLLM here: ranks do to the engine what its connector does, with the same messages, threads and order.
"""

import asyncio
import concurrent.futures
import contextlib
import copy
import random
import threading
import time
import unittest

from flow_support import (HOST, PATIENCE_SECONDS, JsonServer, KvPool, PageAllocator, RankGroup, content, first_difference,
                          gather, http_request, merge_runs, open_engine)

import msgpack  # after flow_support, which says what is missing
import zmq.asyncio

FINISH, CONTINUE, ERROR = 0, 1, 2
ENGINE_ID = "prefill-engine"
PREFILL_TP = 2
PREFILL_BLOCKS, DECODE_BLOCKS = 3000, 1400
# K and V of four layers; the last layer's cache is a group of its own (a sliding window, say).
GROUP_OF_REGION = [0, 0, 0, 0, 0, 0, 1, 1]
# One block of one region as wide as all ranks together.
BLOCK_BYTES = 8192
SENDER_TASKS, SENDER_THREADS = 20, 10
ABORT_TIMEOUT_SECONDS = 480
# A write to a process that has died ends by then.
FAILURE_SECONDS_MAX = 30


class Bootstrap:
    """Where prefill ranks tell where they listen."""

    def __init__(self):
        self._lock = threading.Lock()
        self._ranks = {}  # guarded by _lock
        self._server = JsonServer({("POST", "/register"): self._register, ("GET", "/query"): self._query})
        self.url, self.close = self._server.url, self._server.close

    def _register(self, query, body):
        with self._lock:
            known = self._ranks.setdefault(str(body["dp_rank"]), {"engine_id": body["engine_id"], "worker_addr": {}})
            if known["engine_id"] != body["engine_id"]:
                return 400, {"detail": f"dp rank {body['dp_rank']} belongs to engine {known['engine_id']}"}
            stages = known["worker_addr"].setdefault(str(body["tp_rank"]), {})
            if str(body["pp_rank"]) in stages:
                return 400, {"detail": "this rank is registered already"}
            stages[str(body["pp_rank"])] = body["addr"]
            return 200, {"status": "ok"}

    def _query(self, query, body):
        with self._lock:
            return 200, copy.deepcopy(self._ranks)


class Prefilled:
    """A request at a prefill rank: `done` once its blocks are computed, kept until all decode ranks have them."""

    def __init__(self):
        self.done = asyncio.Event()
        self.blocks = None
        self.ranks_served = 0


class PrefillRank:
    def __init__(self, tp_rank, tp_size):
        self._tp_rank, self._tp_size = tp_rank, tp_size
        self._engine, self._session = open_engine()
        self._block_len = BLOCK_BYTES // tp_size
        self._pool = KvPool([self._block_len] * len(GROUP_OF_REGION), PREFILL_BLOCKS)
        self._pool.register(self._engine)
        self._bootstrap = Bootstrap() if tp_rank == 0 else None
        self._abort_timeout_seconds = ABORT_TIMEOUT_SECONDS
        self._requests, self._freed = {}, []
        self._outcomes, self._more_outcomes = [], asyncio.Condition()
        self._senders = concurrent.futures.ThreadPoolExecutor(SENDER_THREADS)
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._port = self._socket.bind_to_random_port(f"tcp://{HOST}")
        self._inbox = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._listen())]
        self._tasks += [asyncio.create_task(self._send_forever()) for _ in range(SENDER_TASKS)]

    def describe(self):
        return {"session": self._session, "bootstrap": self._bootstrap.url if self._bootstrap else None}

    def close(self):
        for task in self._tasks:
            task.cancel()
        self._socket.close(linger=0)
        if self._bootstrap:
            self._bootstrap.close()

    # What the test asks.

    def register(self, bootstrap):
        return http_request("POST", f"{bootstrap}/register", {
            "engine_id": ENGINE_ID, "dp_rank": 0, "tp_rank": self._tp_rank, "pp_rank": 0, "addr": f"tcp://{HOST}:{self._port}"})

    async def prefill(self, requests):
        """Computes their KV; whoever waits for it goes on."""
        await asyncio.to_thread(self._compute, requests)
        for each in requests:
            known = self._request(each["transfer_id"])
            known.blocks = each["blocks"]
            known.done.set()

    async def set_abort_timeout(self, seconds):
        self._abort_timeout_seconds = seconds

    async def wait_for_err_reqs(self, session, request_ids):
        """What became of the writes to `session`, once these requests are among those that failed."""
        def found():
            return [each for each in self._outcomes if each["session"] == session]

        def failed():
            return {name for each in found() for name in each["err_reqs"]}
        async with self._more_outcomes:
            await asyncio.wait_for(self._more_outcomes.wait_for(lambda: set(request_ids) <= failed()), PATIENCE_SECONDS)
            return found()

    async def outcomes(self):
        return self._outcomes

    async def take_freed(self):
        freed, self._freed = self._freed, []
        return freed

    async def held(self):
        return [name for name, request in self._requests.items() if request.done.is_set()]

    # What a worker does by itself.

    def _request(self, transfer_id):
        return self._requests.setdefault(transfer_id, Prefilled())

    def _compute(self, requests):
        for each in requests:
            for region, group in enumerate(GROUP_OF_REGION):
                blocks = each["blocks"][group]
                self._pool.regions[region][blocks] = content(
                    each["transfer_id"], region, range(len(blocks)), self._tp_rank * self._block_len, self._block_len)

    async def _listen(self):
        while True:
            identity, message = await self._socket.recv_multipart()
            self._inbox.put_nowait((identity, message))

    async def _send_forever(self):
        while True:
            identity, message = await self._inbox.get()
            metadata = msgpack.unpackb(message)
            try:
                await self._send(identity, metadata)
            except Exception as error:  # noqa: BLE001  # the peer is told, the task goes on
                await self._reply(identity, ERROR, err_reqs=list(metadata["req_blocks"]), err_msg=repr(error))

    async def _reply(self, identity, status, **fields):
        response = {"status": status, **{name: value for name, value in fields.items() if value}}
        await self._socket.send_multipart([identity, msgpack.packb(response)])

    async def _send(self, identity, metadata):
        """Writes what is ready, as it becomes ready, until all of the message's requests are done or time is up."""
        waiting = {asyncio.create_task(self._request(transfer_id).done.wait()): request_id
                   for request_id, (transfer_id, _) in metadata["req_blocks"].items()}
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=self._abort_timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                for task in waiting:
                    task.cancel()
                await self._reply(identity, FINISH, err_reqs=list(waiting.values()), err_msg="timed out")
                return
            ready = [waiting.pop(task) for task in done]
            await self._write_and_tell(identity, metadata, ready, CONTINUE if waiting else FINISH)

    async def _write_and_tell(self, identity, metadata, ready, status):
        session = f"{metadata['remote_hostname']}:{metadata['remote_port']}"
        ranges = self._ranges(metadata, ready)
        begin = time.monotonic()
        code = await asyncio.get_running_loop().run_in_executor(self._senders, self._write, session, ranges)
        if code == 0:
            self._count_served(metadata, ready)
            await self._reply(identity, status, ok_reqs=ready)
        else:
            await self._reply(identity, status, err_reqs=ready, err_msg=f"the transfer returned {code}")
        async with self._more_outcomes:
            self._outcomes.append({"session": session, "code": code, "seconds": time.monotonic() - begin, "ranges": len(ranges[0]),
                                   "err_reqs": ready if code else []})
            self._more_outcomes.notify_all()

    def _write(self, session, ranges):
        return self._engine.batch_transfer_sync_write(session, *ranges) if ranges[0] else 0

    def _count_served(self, metadata, ready):
        for request_id in ready:
            transfer_id = metadata["req_blocks"][request_id][0]
            request = self._requests[transfer_id]
            request.ranks_served += 1
            if request.ranks_served == max(1, metadata["remote_tp_size"] // self._tp_size):
                del self._requests[transfer_id]
                self._freed.append(transfer_id)

    def _ranges(self, metadata, ready):
        """Source addresses, target addresses and lengths of what these requests need."""
        if len(metadata["kv_caches_base_addr"]) != len(GROUP_OF_REGION):
            raise ValueError(f"{len(metadata['kv_caches_base_addr'])} regions instead of {len(GROUP_OF_REGION)}")
        ranges = []
        for request_id in ready:
            transfer_id, remote_groups = metadata["req_blocks"][request_id]
            for region, group in enumerate(GROUP_OF_REGION):
                remote = remote_groups[group]
                # What comes before is in the decode rank's prefix cache.
                local = self._requests[transfer_id].blocks[group][-len(remote):] if remote else []
                ranges += self._ranges_of_region(metadata, region, local, remote)
        return [list(column) for column in zip(*ranges)] or [[], [], []]

    def _ranges_of_region(self, metadata, region, local, remote):
        source, target = self._pool.addresses[region], metadata["kv_caches_base_addr"][region]
        ours, theirs = self._block_len, metadata["block_lens"][region]
        if ours == theirs:
            return [(source + first * ours, target + second * ours, count * ours) for first, second, count in merge_runs(local, remote)]
        if ours < theirs:
            target += self._tp_rank % (self._tp_size // metadata["remote_tp_size"]) * ours
        else:
            source += metadata["remote_tp_rank"] % (metadata["remote_tp_size"] // self._tp_size) * theirs
        return [(source + first * ours, target + second * theirs, min(ours, theirs)) for first, second in zip(local, remote)]


class DecodeRank:
    def __init__(self, tp_rank, tp_size):
        self._tp_rank, self._tp_size = tp_rank, tp_size
        self._engine, self._session = open_engine()
        self._block_len = BLOCK_BYTES // tp_size
        self._pool = KvPool([self._block_len] * len(GROUP_OF_REGION), DECODE_BLOCKS)
        self._pool.register(self._engine)
        self._peers, self._peers_turn = {}, asyncio.Lock()  # what /query said, by bootstrap: asked once
        self._ok, self._more_ok = {}, asyncio.Condition()  # request id: prefill ranks that have written
        self._asked_for = [set() for _ in GROUP_OF_REGION]

    def describe(self):
        return {"session": self._session}

    def close(self):
        pass

    # What the test asks.

    async def receive(self, bootstrap, requests, fault=None):
        """Asks the prefill ranks for `requests` in one message each. What they answered, and what was not as it should be."""
        for each in requests:
            for region, group in enumerate(GROUP_OF_REGION):
                self._asked_for[region].update(each["blocks"][group])
        peers = await self._paired(bootstrap)
        answers = await asyncio.gather(*[self._fetch(rank, address, len(peers), requests, fault) for rank, address in peers])
        return {"finished": sorted(name for name in (each["request_id"] for each in requests) if len(self._ok.get(name, ())) == len(peers)),
                "statuses": [answer["statuses"] for answer in answers],
                "err_reqs": sorted({name for answer in answers for name in answer["err_reqs"]}),
                "messages": [message for answer in answers for message in answer["messages"]],
                "differences": [difference for answer in answers for difference in answer["differences"]]}

    async def wait_for_ok(self, request_ids):
        """Until some prefill rank has said of each that it is there."""
        async with self._more_ok:
            await asyncio.wait_for(self._more_ok.wait_for(lambda: all(name in self._ok for name in request_ids)), PATIENCE_SECONDS)

    def stray_writes(self):
        return self._pool.stray_writes(self._asked_for)

    # What a worker does by itself.

    async def _paired(self, bootstrap):
        """[(tp rank, zmq address)] of the prefill ranks that hold some of this rank's heads."""
        async with self._peers_turn:
            if bootstrap not in self._peers:
                status, known = await asyncio.to_thread(http_request, "GET", f"{bootstrap}/query")
                assert status == 200 and known["0"]["engine_id"] == ENGINE_ID, known
                self._peers[bootstrap] = {int(tp): stages["0"] for tp, stages in known["0"]["worker_addr"].items()}
        peers = self._peers[bootstrap]
        first = self._tp_rank * len(peers) // self._tp_size
        return [(rank, peers[rank]) for rank in range(first, first + max(1, len(peers) // self._tp_size))]

    def _metadata(self, requests, fault):
        host, port = self._session.rsplit(":", 1)
        bases = [address + (1 << 44 if fault == "addresses" else 0) for address in self._pool.addresses]
        return {"remote_hostname": host, "remote_port": int(port), "remote_tp_size": self._tp_size, "remote_tp_rank": self._tp_rank,
                "req_blocks": {each["request_id"]: [each["transfer_id"], each["blocks"]] for each in requests},
                "kv_caches_base_addr": bases[:-1] if fault == "regions" else bases, "block_lens": self._pool.page_bytes}

    async def _fetch(self, rank, address, peer_count, requests, fault):
        answer = {"statuses": [], "err_reqs": [], "messages": [], "differences": []}
        by_id = {each["request_id"]: each for each in requests}
        with contextlib.closing(zmq.asyncio.Context.instance().socket(zmq.DEALER)) as socket:
            socket.linger = 0
            socket.rcvtimeo = (ABORT_TIMEOUT_SECONDS + 60) * 1000
            socket.connect(address)
            await socket.send(msgpack.packb(self._metadata(requests, fault)))
            while not answer["statuses"] or answer["statuses"][-1] == CONTINUE:
                response = msgpack.unpackb(await socket.recv())
                ok = response.get("ok_reqs", [])
                # At once: a model would read it now.
                answer["differences"] += [wrong for name in ok if (wrong := self._compare(by_id[name], rank, peer_count))]
                answer["statuses"].append(response["status"])
                answer["err_reqs"] += response.get("err_reqs", [])
                answer["messages"] += [response["err_msg"]] if "err_msg" in response else []
                await self._note_ok(ok, rank)
        return answer

    async def _note_ok(self, request_ids, rank):
        async with self._more_ok:
            for name in request_ids:
                self._ok.setdefault(name, set()).add(rank)
            self._more_ok.notify_all()

    def _compare(self, request, rank, peer_count):
        """What is wrong with that which prefill rank `rank` has written; "" if nothing."""
        width = self._block_len // peer_count
        offset = rank % peer_count * width
        for region, group in enumerate(GROUP_OF_REGION):
            blocks, prompt_blocks = request["blocks"][group], request["prompt_blocks"][group]
            rows = range(prompt_blocks - len(blocks), prompt_blocks)
            expected = content(request["transfer_id"], region, rows, self._tp_rank * self._block_len + offset, width)
            wrong = first_difference(self._pool.regions[region][blocks, offset:offset + width], expected)
            if wrong:
                return f"{request['request_id']}, region {region}, from prefill rank {rank}: {wrong}"
        return ""


# ---- the test's side: what the proxy and the schedulers do ----


class Prefill(RankGroup):
    def __init__(self, environment):
        super().__init__(PrefillRank, PREFILL_TP, environment)
        self._allocator = PageAllocator(PREFILL_BLOCKS, seed=1)
        self.blocks = {}  # of requests that are under way
        self._numbers = 0

    def open(self):
        self.bootstrap = self.ranks[0].facts["bootstrap"]
        assert self.call("register", bootstrap=self.bootstrap) == [[200, {"status": "ok"}]] * PREFILL_TP

    def new_request(self, decode, prompt_blocks, wanted_blocks):
        """A prompt of so many blocks in each group, of which the decode side lacks the last `wanted_blocks`."""
        self._numbers += 1
        name = f"xfer-{self._numbers}"
        self.blocks[name] = [self._allocator.take(count) for count in prompt_blocks]
        return {"request_id": f"cmpl-{self._numbers}", "transfer_id": name, "prompt_blocks": prompt_blocks,
                "blocks": [decode.allocator.take(count) for count in wanted_blocks]}

    def prefill(self, requests):
        asked = [{"transfer_id": each["transfer_id"], "blocks": self.blocks[each["transfer_id"]]} for each in requests]
        return self.start("prefill", requests=asked)

    def reclaim(self):
        """Blocks that all ranks have freed are used again."""
        for name in set.intersection(*map(set, self.call("take_freed"))):
            for blocks in self.blocks.pop(name):
                self._allocator.give_back(blocks)


class Decode(RankGroup):
    def __init__(self, tp_size, environment, seed):
        super().__init__(DecodeRank, tp_size, environment)
        self.allocator = PageAllocator(DECODE_BLOCKS, seed)

    def receive(self, prefill, requests, **fault):
        return self.start("receive", bootstrap=prefill.bootstrap, requests=requests, **fault)


class FlowTest(unittest.TestCase):
    """A prefill engine and the decode engines of a class of tests."""

    environment = {}
    decode_tp = ()

    @classmethod
    def setUpClass(cls):
        cls.prefill = Prefill(cls.environment)
        cls.addClassCleanup(cls.prefill.close)
        cls.decodes = []
        for seed, tp_size in enumerate(cls.decode_tp):
            cls.decodes.append(Decode(tp_size, cls.environment, seed))
            cls.addClassCleanup(cls.decodes[-1].close)
        cls.prefill.open()

    def tearDown(self):
        self.prefill.reclaim()

    def expect(self, answers, requests, statuses=None):
        """That each rank's answer is of all requests, with the right bytes."""
        for answer in gather(answers):
            self.assertEqual(answer["differences"], [])
            self.assertEqual(answer["finished"], sorted(each["request_id"] for each in requests), answer)
            self.assertEqual((answer["err_reqs"], answer["messages"]), ([], []))
            if statuses:
                self.assertEqual(answer["statuses"], statuses)

    def expect_no_stray_writes(self):
        for decode in self.decodes:
            self.assertEqual(decode.call("stray_writes"), [[]] * len(decode.ranks))

    def expect_freed(self, requests_by_decode):
        """That no prefill rank keeps blocks that everybody has."""
        names = {each["transfer_id"] for _, requests in requests_by_decode for each in requests}
        for held in self.prefill.call("held"):
            self.assertEqual(names & set(held), set())

    def move(self, requests_by_decode, group_size, seed):
        """All at once, in messages of `group_size` requests; half of them ask before their prefill, half after it."""
        order = random.Random(seed)
        jobs = [(decode, requests[i:i + group_size])
                for decode, requests in requests_by_decode for i in range(0, len(requests), group_size)]
        order.shuffle(jobs)
        answers, prefills = [], []
        for decode, requests in jobs:
            steps = [lambda: answers.append((decode.receive(self.prefill, requests), requests)),  # noqa: B023  # called in this turn
                     lambda: prefills.extend(self.prefill.prefill(requests))]  # noqa: B023
            for step in steps if order.random() < 0.5 else reversed(steps):
                step()
        gather(prefills)
        for futures, requests in answers:
            self.expect(futures, requests)
        self.expect_no_stray_writes()

    def requests(self, decode, count, seed):
        """Prompts of all lengths; some have a prefix in the decode side's cache, of the second group never more than 4 blocks go."""
        order = random.Random(seed)
        made = []
        for _ in range(count):
            blocks = order.randint(1, 10)
            made.append(self.prefill.new_request(decode, [blocks, blocks], [order.randint(0, blocks), min(blocks, order.randint(0, 4))]))
        return made


class EqualTp(FlowTest):
    decode_tp = (2, 2)
    request_count = 200

    def test_many_requests_at_once(self):
        share = self.request_count // len(self.decodes)
        wanted = [(decode, self.requests(decode, share, seed)) for seed, decode in enumerate(self.decodes)]
        self.move(wanted, group_size=4, seed=3)
        self.expect_freed(wanted)

    def test_a_cached_prefix_is_not_sent(self):
        decode = self.decodes[0]
        part = self.prefill.new_request(decode, [10, 10], [3, 1])
        all_cached = self.prefill.new_request(decode, [10, 10], [0, 0])
        no_window = self.prefill.new_request(decode, [10, 10], [10, 0])
        self.move([(decode, [part, all_cached, no_window])], group_size=1, seed=4)

    def test_what_is_ready_goes_first(self):
        decode = self.decodes[1]
        first, second = [self.prefill.new_request(decode, [5, 5], [5, 2]) for _ in range(2)]
        answers = decode.receive(self.prefill, [first, second])
        gather(self.prefill.prefill([first]))
        decode.call("wait_for_ok", request_ids=[first["request_id"]])
        self.assertFalse(any(answer.done() for answer in answers))
        gather(self.prefill.prefill([second]))
        self.expect(answers, [first, second], statuses=[[CONTINUE, FINISH]])

    def test_neighbours_are_one_range(self):
        decode = self.decodes[0]
        before = [len(each) for each in self.prefill.call("outcomes")]
        request = self.prefill.new_request(decode, [40, 40], [40, 0])
        self.move([(decode, [request])], group_size=1, seed=5)
        runs = len(merge_runs(self.prefill.blocks[request["transfer_id"]][0], request["blocks"][0]))
        self.assertLess(runs, 40)
        for seen, outcomes in zip(before, self.prefill.call("outcomes")):
            self.assertEqual([each["ranges"] for each in outcomes[seen:]], [runs * GROUP_OF_REGION.count(0)])

    def test_what_never_becomes_ready_is_given_up(self):
        decode = self.decodes[0]
        self.addCleanup(self.prefill.call, "set_abort_timeout", seconds=ABORT_TIMEOUT_SECONDS)
        self.prefill.call("set_abort_timeout", seconds=0.2)
        requests = [self.prefill.new_request(decode, [3, 3], [3, 3]) for _ in range(2)]
        for answer in gather(decode.receive(self.prefill, requests)):
            self.assertEqual((answer["statuses"], answer["finished"]), ([[FINISH]], []))
            self.assertEqual(answer["err_reqs"], [each["request_id"] for each in requests])

    def test_a_failed_write_is_told_and_the_next_works(self):
        decode = self.decodes[0]
        refused = self.prefill.new_request(decode, [3, 3], [3, 3])
        gather(self.prefill.prefill([refused]))
        for answer in gather(decode.receive(self.prefill, [refused], fault="addresses")):
            self.assertEqual((answer["statuses"], answer["finished"], answer["err_reqs"]), ([[FINISH]], [], [refused["request_id"]]))
            self.assertIn("returned -", answer["messages"][0])
        self.assertIn([refused["transfer_id"]], self.prefill.call("held"))
        # The blocks are still held, so the same request can be asked for again.
        self.move([(decode, [refused])], group_size=1, seed=6)

    def test_what_cannot_be_served_is_an_error(self):
        decode = self.decodes[0]
        refused = self.prefill.new_request(decode, [3, 3], [3, 3])
        gather(self.prefill.prefill([refused]))
        for answer in gather(decode.receive(self.prefill, [refused], fault="regions")):
            self.assertEqual((answer["statuses"], answer["err_reqs"]), ([[ERROR]], [refused["request_id"]]))
            self.assertIn("7 regions", answer["messages"][0])
        self.move([(decode, [refused])], group_size=1, seed=7)

    def test_a_decode_rank_dies_and_another_takes_its_place(self):
        victim, survivor = self.decodes
        self.addCleanup(victim.replace_dead)
        dying, session = victim.ranks[1], victim.ranks[1].facts["session"]
        early, flying, late = [[self.prefill.new_request(victim, [12, 4], [12, 4]) for _ in range(count)] for count in (5, 20, 5)]
        answers = victim.receive(self.prefill, early + flying + late)
        gather(self.prefill.prefill(early))
        dying.call("wait_for_ok", request_ids=[each["request_id"] for each in early])

        others = self.requests(survivor, 60, seed=9)
        other_answers = [(survivor.receive(self.prefill, others[i:i + 4]), others[i:i + 4]) for i in range(0, 60, 4)]
        prefills = self.prefill.prefill(flying) + self.prefill.prefill(others)
        dying.kill()
        prefills += self.prefill.prefill(late)

        self.expect_failures(session, late)
        gather(prefills)
        for futures, requests in other_answers:
            self.expect(futures, requests)
        self.expect(answers[:1], early + flying + late)  # the rank beside it lacks nothing
        with self.assertRaisesRegex(RuntimeError, "the rank has died"):
            answers[1].result(PATIENCE_SECONDS)

        victim.replace_dead()
        self.move([(victim, self.requests(victim, 20, seed=10)), (survivor, self.requests(survivor, 20, seed=11))], group_size=4, seed=12)

    def expect_failures(self, session, requests):
        """That prefill rank 1 finds soon that it cannot write these, and keeps their blocks."""
        names = [each["request_id"] for each in requests]
        for each in self.prefill.ranks[1].call("wait_for_err_reqs", session=session, request_ids=names):
            self.assertLessEqual(each["code"], 0)
            self.assertLess(each["seconds"], FAILURE_SECONDS_MAX)
        held = self.prefill.ranks[1].call("held")
        self.assertLessEqual({each["transfer_id"] for each in requests}, set(held))


class EqualTpOverTcp(EqualTp):
    environment = {"MC_FORCE_TCP": "1"}
    request_count = 100


class UnequalTp(FlowTest):
    decode_tp = (1, 4)

    def test_slices_of_blocks(self):
        wanted = [(decode, self.requests(decode, 40, seed)) for seed, decode in enumerate(self.decodes)]
        self.move(wanted, group_size=3, seed=8)
        self.expect_freed(wanted)


class Pieces(unittest.TestCase):
    def test_bootstrap(self):
        bootstrap = Bootstrap()
        self.addCleanup(bootstrap.close)
        rank = {"engine_id": "a", "dp_rank": 0, "tp_rank": 0, "pp_rank": 0, "addr": "tcp://1.2.3.4:5"}

        def register(**changes):
            return http_request("POST", f"{bootstrap.url}/register", {**rank, **changes})
        self.assertEqual(http_request("GET", f"{bootstrap.url}/query"), (200, {}))
        self.assertEqual(register(), (200, {"status": "ok"}))
        self.assertEqual(register()[0], 400, "a rank twice")
        self.assertEqual(register(tp_rank=1, engine_id="b")[0], 400, "another engine's")
        self.assertEqual(register(tp_rank=1, addr="tcp://1.2.3.4:6"), (200, {"status": "ok"}))
        self.assertEqual(register(dp_rank=1, engine_id="b"), (200, {"status": "ok"}))
        self.assertEqual(http_request("GET", f"{bootstrap.url}/query"), (200, {
            "0": {"engine_id": "a", "worker_addr": {"0": {"0": "tcp://1.2.3.4:5"}, "1": {"0": "tcp://1.2.3.4:6"}}},
            "1": {"engine_id": "b", "worker_addr": {"0": {"0": "tcp://1.2.3.4:5"}}}}))

    def test_merging(self):
        self.assertEqual(merge_runs([], []), [])
        self.assertEqual(merge_runs([7], [3]), [(7, 3, 1)])
        self.assertEqual(merge_runs([1, 2, 3, 5, 6], [9, 10, 11, 12, 13]), [(1, 9, 3), (5, 12, 2)])
        self.assertEqual(merge_runs([1, 2, 3], [4, 5, 7]), [(1, 4, 2), (3, 7, 1)])
        self.assertEqual(merge_runs([3, 2, 1], [1, 2, 3]), [(3, 1, 1), (2, 2, 1), (1, 3, 1)])


if __name__ == "__main__":
    unittest.main()
