"""The worker protocol (docs/protocol.md), whatever computes: one suite for every worker that listens on a socket.

Each test is a gateway of its own, and a tenant of its own: it finds no block of another test's prompts in the cache.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
from conversation import Conversation, connected
from msgspec.structs import replace
from workers import KINDS, Served, started

from jedlik.core.ids import Handle
from jedlik.core.protocol import RUN_AHEAD_TOKENS, Ack, Cancel, Facts, Goodbye, Resync, Snapshot, State, Submit
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.trace import TraceContext
from worker_world import make_submit

PROMPT = [20 + i for i in range(40)]
TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rojo=1")
GREEDY = Sampling(temperature=0.0, seed=5)
Talk = Callable[[Conversation], Coroutine[object, object, None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module", params=KINDS)
def worker(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    """A worker that all tests of this module share."""
    with started(request.param, folder) as made:
        yield made


@pytest.fixture(params=KINDS)
def leaving(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    """A worker of the test's own, which the test may drain."""
    with started(request.param, folder) as made:
        yield made


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def converse(worker: Served, tenant: str) -> Callable[[Talk], None]:
    """Run a conversation with the worker."""

    async def main(talk: Talk) -> None:
        conversation = await connected(worker.address, f"{tenant}@1")
        try:
            await talk(conversation)
        finally:
            await conversation.close()

    return lambda talk: asyncio.run(main(talk))


@pytest.fixture
def ask(tenant: str) -> Callable[..., Submit]:
    def make(handle: int, prompt: list[int] | None = None, tokens: int = 12, **more: object) -> Submit:
        stopping = more.pop("stopping", None) or Stopping(max_tokens=tokens, ignore_eos=True)
        whose = f"{tenant}{more.pop('tenant', '')}"
        return make_submit(handle, prompt or PROMPT, sampling=GREEDY, stopping=stopping, tenant=whose, **more)  # type: ignore[arg-type]

    return make


Converse = Callable[[Talk], None]
Ask = Callable[..., Submit]


def test_a_connection_begins_with_card_state_load_and_snapshot(converse: Converse) -> None:
    async def talk(worker: Conversation) -> None:  # `connected` has checked the order
        assert worker.view.complete
        assert worker.of(State) == [State(1)]

    converse(talk)


def test_an_answer_does_not_depend_on_its_neighbours(converse: Converse, ask: Ask) -> None:
    prompts = {h: [*PROMPT[: 5 * h], 60 + h] for h in range(1, 7)}

    async def talk(worker: Conversation) -> None:
        for handle, prompt in prompts.items():
            await worker.answer(ask(handle, prompt))
            assert len(worker.tokens[handle]) == 12
            assert worker.finished[handle].reason == "length"
        assert worker.largest_batch == 1
        for handle, prompt in prompts.items():
            worker.say(ask(10 + handle, prompt, tenant="together"))
        await worker.until(lambda: len(worker.finished) == 2 * len(prompts))
        assert [worker.tokens[10 + handle] for handle in prompts] == [worker.tokens[handle] for handle in prompts]
        assert worker.largest_batch > 1

    converse(talk)


def test_a_trace_or_a_client_without_appended_fields_changes_no_answer(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        plain = await worker.answer(ask(1))
        assert await worker.answer(replace(ask(2), trace=TRACE)) == plain
        worker.say_as_an_older_release(ask(3))
        await worker.until(lambda: Handle(3) in worker.finished)
        assert worker.tokens[Handle(3)] == plain

    converse(talk)


def test_a_prefix_is_found_again_and_changes_nothing(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        first = await worker.answer(ask(1))
        again = await worker.answer(ask(2))
        assert again == first
        assert (worker.started[1].cached_tokens, worker.started[2].cached_tokens) == (0, 32)
        await worker.answer(ask(3, tenant="other"))
        assert worker.started[3].cached_tokens == 0

    converse(talk)


def test_an_attempt_goes_on_where_the_last_one_stopped(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        whole = await worker.answer(ask(1))
        rest = await worker.answer(ask(2, output=whole[:5], attempt=2))
        assert rest == whole[5:]

    converse(talk)


def test_a_stop_token_ends_the_answer(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        whole = await worker.answer(ask(1))
        stop = whole[6]
        stopping = Stopping(max_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
        cut = await worker.answer(ask(2, stopping=stopping))
        assert cut == whole[: whole.index(stop) + 1]
        assert (worker.finished[2].reason, worker.finished[2].stop_token) == ("stop", stop)
        least = Stopping(max_tokens=12, min_tokens=9, ignore_eos=True, stop_token_ids=(stop,))
        longer = await worker.answer(ask(3, stopping=least))
        assert len(longer) >= 10 or worker.finished[3].reason == "length"
        assert stop not in longer[:9]

    converse(talk)


def test_without_acknowledgement_it_pauses(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        worker.auto_ack = False
        worker.say(ask(1, tokens=100))
        await worker.until(lambda: len(worker.tokens.get(1, [])) == RUN_AHEAD_TOKENS)
        other = await worker.answer(ask(2, tokens=20))  # the rest of the batch goes on
        assert len(other) == 20
        assert len(worker.tokens[1]) == RUN_AHEAD_TOKENS
        worker.auto_ack = True
        worker.say(Ack([Handle(1)], [RUN_AHEAD_TOKENS]))
        await worker.until(lambda: 1 in worker.finished)
        assert len(worker.tokens[1]) == 100

    converse(talk)


def test_cancel_and_newer_attempts_end_quietly(converse: Converse, ask: Ask, tenant: str) -> None:
    async def talk(worker: Conversation) -> None:
        worker.say(ask(1, tokens=200))
        worker.say(ask(2, tokens=200, request_id=f"{tenant} r"))
        await worker.until(lambda: {1, 2} <= set(worker.tokens))
        worker.say(Cancel([Handle(1)]))
        worker.say(ask(3, tokens=5, request_id=f"{tenant} r", attempt=2))
        await worker.until(lambda: 3 in worker.finished)  # what was under way when these were said has come before
        counted = {handle: len(worker.tokens[handle]) for handle in (1, 2)}
        await worker.answer(ask(4, tokens=5))
        assert set(worker.finished) == {3, 4}
        assert {handle: len(worker.tokens[handle]) for handle in (1, 2)} == counted

    converse(talk)


def test_memory_runs_short_and_nothing_is_lost(converse: Converse, ask: Ask) -> None:
    prompts = {h: [h * 3 + i for i in range(30)] for h in range(1, 9)}

    async def talk(worker: Conversation) -> None:
        if worker.card.total_blocks * worker.card.layout.block_size >= len(prompts) * 150:
            pytest.skip("this worker has memory for all of it")
        before = worker.load.preemptions
        for handle, prompt in prompts.items():
            worker.say(ask(handle, prompt, tokens=120))
        await worker.until(lambda: len(worker.finished) == len(prompts))
        assert {len(t) for t in worker.tokens.values()} == {120}
        await worker.until(lambda: worker.load.preemptions > before)
        lonely = await worker.answer(ask(20, prompts[5], tokens=120))
        assert lonely == worker.tokens[5]

    converse(talk)


def test_a_resync_equals_what_the_deltas_said(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        for handle in range(1, 5):
            await worker.answer(ask(handle, [handle * 10 + i for i in range(30)]))
        await worker.until(lambda: worker.load.running == 0)
        assert worker.of(Facts)
        before = dict(worker.view.keys)
        assert before
        snapshots = len(worker.of(Snapshot))
        worker.say(Resync())
        await worker.until(lambda: len(worker.of(Snapshot)) > snapshots and worker.view.complete)
        assert worker.view.keys == before

    converse(talk)


def test_what_is_refused_says_why(converse: Converse, ask: Ask) -> None:
    async def talk(worker: Conversation) -> None:
        await worker.answer(ask(1, [1] * (worker.card.max_model_len + 44)))
        await worker.answer(ask(2, [worker.card.vocab_size]))
        faults = [worker.finished[h].fault for h in (1, 2)]
        assert [f.kind for f in faults if f] == ["invalid", "invalid"]

    converse(talk)


def test_a_worker_that_drains_finishes_what_runs_and_refuses_the_rest(leaving: Served, ask: Ask) -> None:
    async def main() -> None:
        worker = await connected(leaving.address, "g@1")
        worker.auto_ack = False
        worker.say(ask(1, tokens=100))
        await worker.until(lambda: len(worker.tokens.get(1, [])) == RUN_AHEAD_TOKENS)  # it pauses, and so it runs
        leaving.drain()
        await worker.until(lambda: any(s.draining for s in worker.of(State) if isinstance(s, State)))
        await worker.answer(ask(2))
        fault = worker.finished[2].fault
        assert fault is not None
        assert fault.kind == "unavailable"
        worker.say(Ack([Handle(1)], [RUN_AHEAD_TOKENS]))  # enough for the rest
        await worker.until(lambda: worker.ended)
        assert len(worker.tokens[1]) == 100
        assert worker.finished[1].reason == "length"
        await worker.close()

    asyncio.run(main())


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_gateway_that_leaves_frees_everything(worker: Served, ask: Ask, tenant: str, says_goodbye: bool) -> None:
    async def main() -> None:
        stays = await connected(worker.address, f"{tenant} stays@1")
        leaves = await connected(worker.address, f"{tenant} leaves@1")
        leaves.auto_ack = False
        leaves.say(ask(1, tokens=200))
        await leaves.until(lambda: len(leaves.tokens.get(1, [])) == RUN_AHEAD_TOKENS)
        await stays.until(lambda: stays.load.held_blocks > 0)
        if says_goodbye:
            leaves.say(Goodbye())
            await stays.until(lambda: stays.load.held_blocks == 0)
        await leaves.close()
        await stays.until(lambda: (stays.load.held_blocks, stays.load.running, stays.load.waiting) == (0, 0, 0))
        assert not leaves.finished
        assert len(await stays.answer(ask(2))) == 12
        await stays.close()

    asyncio.run(main())
