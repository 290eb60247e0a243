"""The worker protocol, whatever computes: one suite for the simulated and the torch worker."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest
from conforming import GATEWAY, Conforming, Maker

from jedlik.core.events import Drain, GatewayLost, Woken
from jedlik.core.ids import Handle
from jedlik.core.protocol import RUN_AHEAD_TOKENS, Ack, Cancel, Card, Load, Resync, Snapshot, State, Submit
from jedlik.core.requests import Sampling, Stopping
from jedlik.perf.model import LinearModel
from worker_world import make_card, make_submit

PROMPT = [20 + i for i in range(40)]
GREEDY = Sampling(temperature=0.0, seed=5)
BLOCK_SIZE = 8


def simulated(_: Path) -> Maker:
    from jedlik.engines.simulated import CAPABILITIES, DEFAULT_COSTS, SimulatedEngine

    card = make_card(total_blocks=80, block_size=BLOCK_SIZE, max_model_len=256)
    card = msgspec.structs.replace(card, capabilities=CAPABILITIES)
    return lambda: (SimulatedEngine(LinearModel(DEFAULT_COSTS), 1e6, range(100, 200)), card)


def torch(folder: Path) -> Maker:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from jedlik.engines.torch.engine import TorchEngine
    from jedlik.engines.torch.options import EngineOptions
    from jedlik.engines.torch.pool import allocate
    from jedlik.models import tiny

    model = folder / "model"
    if not model.exists():
        model.mkdir()
        tiny.write(model)
    options = EngineOptions(
        cache_dir=str(folder / "kernels"),
        device="cpu",
        dtype="float32",
        block_size=BLOCK_SIZE,
        max_sequences=8,
        max_model_len=256,
        deterministic=True,
        native=False,
    )

    def make() -> tuple[TorchEngine, Card]:
        engine = TorchEngine(model, options, lambda _, device: allocate(1 << 20, device))
        facts = engine.facts
        card = make_card(total_blocks=min(facts.total_blocks, 80), block_size=BLOCK_SIZE, max_model_len=256)
        card = msgspec.structs.replace(
            card, layout=facts.layout, vocab_size=facts.vocab_size, eos_token_ids=(), capabilities=facts.capabilities
        )
        return engine, card

    return make


MAKERS: dict[str, Callable[[Path], Maker]] = {"simulated": simulated, "torch": torch}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(params=sorted(MAKERS))
def worker_under_test(request: pytest.FixtureRequest, folder: Path) -> Maker:
    """Makes a fresh engine and its card at every call."""
    return MAKERS[request.param](folder)


def converse(
    maker: Maker, talk: Callable[[Conforming], Coroutine[object, object, None]], run_ahead: bool = True
) -> None:
    async def main() -> None:
        worker = Conforming(maker, run_ahead)
        try:
            await talk(worker)
        finally:
            worker.close()

    asyncio.run(main())


def ask(handle: int, prompt: list[int] | None = None, tokens: int = 12, **more: object) -> Submit:
    stopping = more.pop("stopping", None) or Stopping(max_tokens=tokens, ignore_eos=True)
    return make_submit(handle, prompt or PROMPT, sampling=GREEDY, stopping=stopping, **more)  # type: ignore[arg-type]


def test_a_connection_begins_with_state_load_and_snapshot(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        assert [type(m) for m in worker.heard[:3]] == [State, Load, Snapshot]
        assert worker.view.complete
        assert worker.heard[0] == State(1)

    converse(worker_under_test, talk)


@pytest.mark.parametrize("run_ahead", [True, False])
def test_an_answer_does_not_depend_on_its_neighbours(worker_under_test: Maker, run_ahead: bool) -> None:
    alone: dict[int, list[int]] = {}
    prompts = {h: [*PROMPT[: 5 * h], 60 + h] for h in range(1, 7)}

    async def one_by_one(worker: Conforming) -> None:
        for handle, prompt in prompts.items():
            alone[handle] = await worker.answer(ask(handle, prompt))
            assert len(alone[handle]) == 12
            assert worker.finished[handle].reason == "length"

    async def together(worker: Conforming) -> None:
        for handle, prompt in prompts.items():
            worker.say(ask(handle, prompt))
        await worker.until(lambda: len(worker.finished) == len(prompts))
        assert worker.tokens == alone
        assert max(len(s.decodes) for s in worker.steps) > 1

    converse(worker_under_test, one_by_one)
    converse(worker_under_test, together, run_ahead)


def test_a_prefix_is_found_again_and_changes_nothing(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        first = await worker.answer(ask(1))
        again = await worker.answer(ask(2))
        assert again == first
        assert (worker.started[1].cached_tokens, worker.started[2].cached_tokens) == (0, 32)
        await worker.answer(ask(3, tenant="other"))
        assert worker.started[3].cached_tokens == 0

    converse(worker_under_test, talk)


def test_an_attempt_goes_on_where_the_last_one_stopped(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        whole = await worker.answer(ask(1))
        rest = await worker.answer(ask(2, output=whole[:5], attempt=2))
        assert rest == whole[5:]

    converse(worker_under_test, talk)


def test_a_stop_token_ends_the_answer(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
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

    converse(worker_under_test, talk)


def test_without_acknowledgement_it_pauses(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
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

    converse(worker_under_test, talk)


def test_cancel_and_newer_attempts_end_quietly(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        worker.say(ask(1, tokens=200))
        worker.say(ask(2, tokens=200, request_id="r"))
        await worker.until(lambda: {1, 2} <= set(worker.tokens))
        worker.say(Cancel([Handle(1)]))
        counted = len(worker.tokens[1])
        worker.say(ask(3, tokens=5, request_id="r", attempt=2))
        await worker.until(lambda: 3 in worker.finished)
        assert set(worker.finished) == {3}
        assert len(worker.tokens[1]) == counted

    converse(worker_under_test, talk)


def test_memory_runs_short_and_nothing_is_lost(worker_under_test: Maker) -> None:
    prompts = {h: [h * 3 + i for i in range(30)] for h in range(1, 9)}

    async def talk(worker: Conforming) -> None:
        for handle, prompt in prompts.items():
            worker.say(ask(handle, prompt, tokens=120))
        await worker.until(lambda: len(worker.finished) == len(prompts))
        assert {len(t) for t in worker.tokens.values()} == {120}
        worker.event(Woken())
        loads = [m for m in worker.heard if isinstance(m, Load)]
        assert loads[-1].preemptions > 0
        lonely = await worker.answer(ask(20, prompts[5], tokens=120))
        assert lonely == worker.tokens[5]

    converse(worker_under_test, talk)


def test_a_resync_equals_what_the_deltas_said(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        for handle in range(1, 5):
            await worker.answer(ask(handle, [handle * 10 + i for i in range(30)]))
        before = dict(worker.view.keys)
        assert before
        said = len(worker.heard)
        worker.say(Resync())
        assert any(isinstance(message, Snapshot) for message in worker.heard[said:])
        assert worker.view.keys == before

    converse(worker_under_test, talk)


def test_what_is_refused_says_why(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        await worker.answer(ask(1, [1] * 300))
        await worker.answer(ask(2, [worker.card.vocab_size]))
        worker.event(Drain())
        await worker.answer(ask(3))
        faults = [worker.finished[h].fault for h in (1, 2, 3)]
        assert [f.kind for f in faults if f] == ["invalid", "invalid", "unavailable"]
        assert worker.drained

    converse(worker_under_test, talk)


def test_a_lost_gateway_frees_everything(worker_under_test: Maker) -> None:
    async def talk(worker: Conforming) -> None:
        worker.say(ask(1, tokens=200))
        await worker.until(lambda: 1 in worker.tokens)
        worker.event(GatewayLost(GATEWAY))
        worker.event(Drain())
        await worker.until(lambda: worker.drained)
        assert not worker.finished

    converse(worker_under_test, talk)
