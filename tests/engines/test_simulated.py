"""The simulated engine on a real loop."""

import asyncio
from collections.abc import Callable

import pytest

from jedlik.core.errors import Bug
from jedlik.core.ids import Lane
from jedlik.core.protocol import StepCosts
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step, StepDone
from jedlik.core.tokens import pack
from jedlik.engines.simulated import DEFAULT_COSTS, SimulatedEngine, TokenSource
from jedlik.perf.model import LinearModel

TOKENS = list(range(100, 200))
A, B = Lane(0), Lane(1)


def opened(lane: Lane, seed: int = 1, output: tuple[int, ...] = (), choice: int = 0, until: int = 0) -> Open:
    banned = tuple(TOKENS[:-1]) if until else ()
    return Open(
        lane=lane,
        prompt=pack([1, 2, 3]),
        output=pack(output),
        sampling=Sampling(seed=seed),
        choice=choice,
        banned_until=until,
        banned=banned,
    )


def prefill(step_id: int, *opens: Open) -> Step:
    chunks = [Chunk(o.lane, 0, 3 + len(o.output) // 4, True) for o in opens]
    return Step(
        step_id=step_id, closed=[], opened=list(opens), tables=[], prefills=chunks, decodes=[], decode_context=0
    )


def decode(step_id: int, *lanes: Lane, closed: tuple[Lane, ...] = ()) -> Step:
    return Step(
        step_id=step_id,
        closed=list(closed),
        opened=[],
        tables=[],
        prefills=[],
        decodes=list(lanes),
        decode_context=4 * len(lanes),
    )


def run(steps: list[Step], speedup: float = 1e9, costs: StepCosts = DEFAULT_COSTS) -> tuple[list[StepDone], float]:
    """All steps submitted at once; what came back and how long it took."""

    async def main() -> tuple[list[StepDone], float]:
        loop = asyncio.get_running_loop()
        done: list[StepDone] = []
        finished = loop.create_future()

        def on_done(answer: StepDone) -> None:
            done.append(answer)
            if len(done) == len(steps):
                finished.set_result(None)

        engine = SimulatedEngine(LinearModel(costs), speedup, TOKENS)
        engine.start(on_done)
        began = loop.time()
        for step in steps:
            engine.submit(step)
        assert done == []  # never inside submit
        await finished
        engine.close()
        return done, loop.time() - began

    return asyncio.run(main())


def test_tokens_are_a_function_of_seed_choice_and_position() -> None:
    both, _ = run([prefill(1, opened(A), opened(B, seed=2)), decode(2, A, B), decode(3, B, A)])
    assert [d.step_id for d in both] == [1, 2, 3]
    assert both[2].lanes == [B, A]
    first = [both[0].tokens[0], both[1].tokens[0], both[2].tokens[1]]
    assert set(first) <= set(TOKENS)
    alone, _ = run([prefill(1, opened(A)), decode(2, A), decode(3, A)])
    assert [d.tokens[0] for d in alone] == first
    resumed, _ = run([prefill(1, opened(B, output=tuple(first[:2])))])
    assert resumed[0].tokens == first[2:]
    other, _ = run([prefill(1, opened(A, choice=1)), decode(2, A), decode(3, A)])
    assert [d.tokens[0] for d in other] != first


def test_no_two_seeds_of_64_bits_share_their_text() -> None:
    seeds = [0, 7, 2**32 + 7, 2**63 - 1, 2**63, 2**63 + 7, 2**64 - 7, 2**64 - 1]
    texts = []
    for seed in seeds:
        steps, _ = run([prefill(1, opened(A, seed=seed)), *[decode(number, A) for number in range(2, 12)]])
        texts.append(tuple([step.tokens[0] for step in steps]))
    assert len(set(texts)) == len(seeds)


def test_steps_take_their_modelled_time_divided_by_the_speedup() -> None:
    costs = StepCosts(base_s=60.0, prefill_token_s=0.0, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
    done, took_s = run([prefill(1, opened(A)), decode(2, A)], speedup=3000.0, costs=costs)
    assert 0.039 < took_s < 60.0
    assert all(0.019 < d.elapsed_s < 60.0 for d in done)


def test_banned_tokens_are_not_drawn_too_early() -> None:
    done, _ = run([prefill(1, opened(A, until=2)), *(decode(n, A) for n in range(2, 8))])
    drawn = [d.tokens[0] for d in done]
    assert drawn[:2] == [TOKENS[-1]] * 2
    assert set(drawn[2:]) != {TOKENS[-1]}


def test_lanes_are_closed_before_they_are_opened_again() -> None:
    source = TokenSource(TOKENS)
    source.apply(prefill(1, opened(A)))
    source.apply(
        Step(step_id=2, closed=[A], opened=[opened(A, seed=9)], tables=[], prefills=[], decodes=[], decode_context=0)
    )
    with pytest.raises(Bug, match="opened twice"):
        source.apply(prefill(3, opened(A)))


def test_nothing_is_called_after_close() -> None:
    async def main() -> list[StepDone]:
        done: list[StepDone] = []
        engine = SimulatedEngine(LinearModel(DEFAULT_COSTS), 1e9, TOKENS)
        with pytest.raises(Bug):
            engine.submit(prefill(1, opened(A)))
        engine.close()
        engine.start(done.append)
        engine.submit(prefill(1, opened(A)))
        engine.close()
        for _ in range(3):
            await asyncio.sleep(0)
        return done

    assert asyncio.run(main()) == []


def test_drawing_covers_the_vocabulary_evenly() -> None:
    source = TokenSource(TOKENS)
    source.apply(prefill(1, opened(A)))
    drawn = [source.draw([A])[0] for _ in range(20_000)]
    counts = [drawn.count(token) for token in TOKENS]
    assert min(counts) > 100
    assert max(counts) < 320


class LateLoop:
    """A clock that moves when told, and timers that fire late."""

    def __init__(self, late_s: float) -> None:
        self.now, self._late_s = 0.0, late_s
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at_s: float, call: Callable[[], None]) -> object:
        self._timers.append((at_s + self._late_s, call))
        return call

    def call_soon(self, call: Callable[[], None]) -> object:
        self._timers.append((self.now, call))
        return call

    def fire(self) -> None:
        at_s, call = self._timers.pop(0)
        self.now = max(at_s, self.now)
        call()


COSTS = StepCosts(base_s=0.02, prefill_token_s=0, prefill_pair_s=0, decode_sequence_s=0, context_token_s=0)


@pytest.mark.parametrize(("late_s", "ended_s"), [(0.001, [0.021, 0.041, 0.061]), (0.5, [0.52, 0.52, 1.04])])
def test_late_timers_delay_no_step_but_those_that_came_late(
    late_s: float, ended_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one step behind the one that runs, as workers hand them over."""
    loop = LateLoop(late_s)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    engine = SimulatedEngine(LinearModel(COSTS), 1.0, TOKENS)
    ended: list[float] = []

    def on_done(done: StepDone) -> None:
        ended.append(loop.now)
        engine.submit(decode(done.step_id + 2, A))

    engine.start(on_done)
    engine.submit(prefill(1, opened(A)))
    engine.submit(decode(2, A))
    for _ in ended_s:
        loop.fire()
    assert ended == pytest.approx(ended_s)
