"""The worker node under random events: every answer is the model's own, nothing leaks, no invariant breaks."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.events import ClientLost, Drain, Woken
from jedlik.core.ids import GatewayId, Handle
from jedlik.core.protocol import Ack, Cancel, Resync
from jedlik.core.requests import Sampling, Stopping
from worker_world import World, continuation, make_card, make_submit

GATEWAYS = [GatewayId("a@1"), GatewayId("b@1")]
SHORT, LONG = 40, 160

prompts = st.builds(
    lambda root, length, tail: [root * 100 + i for i in range(length)] + tail,
    st.integers(0, 2),
    st.integers(1, 20),
    st.lists(st.integers(0, 9), max_size=3),
)


def stoppings(most: int) -> st.SearchStrategy[Stopping]:
    return st.builds(
        Stopping,
        max_tokens=st.integers(1, most),
        min_tokens=st.integers(0, 3),
        ignore_eos=st.booleans(),
        stop_token_ids=st.sampled_from([(), (1, 2, 3), tuple(range(0, 1000, 9))]),
    )


samplings = st.sampled_from(
    [Sampling(temperature=0.0)] * 4
    + [Sampling(temperature=0.0, prompt_logprobs=0), Sampling(temperature=0.0, logprobs=1)]
)


def submits(most: int) -> st.SearchStrategy[tuple[object, ...]]:
    gateways, delivered = st.sampled_from(GATEWAYS), st.integers(0, 9)
    return st.tuples(st.just("submit"), prompts, stoppings(most), samplings, gateways, st.integers(-1, 1), delivered)


others = st.tuples(
    st.sampled_from(["step", "step", "step", "ack", "cancel", "wake", "resync", "supersede"]), st.integers(0, 30)
)


class Run:
    """Two gateways' worth of random requests on one small worker."""

    def __init__(self, total_blocks: int, run_ahead: bool, max_step_tokens: int, max_length: int) -> None:
        self.max_length = max_length
        card = make_card(total_blocks=total_blocks, max_model_len=max_length, max_sequences=4)
        self.world = World(card, run_ahead=run_ahead, max_step_tokens=max_step_tokens)
        self.asked: dict[int, tuple[list[int], Stopping, GatewayId]] = {}
        self.dropped: set[int] = set()
        for gateway in GATEWAYS:
            self.world.join(gateway)

    def submit(self, prompt: list[int], stopping: Stopping, sampling: Sampling, gateway: GatewayId, *rest: int) -> None:
        priority, delivered = rest
        handle = len(self.asked) + 1
        self.asked[handle] = (prompt, stopping, gateway)
        output = continuation(prompt, stopping, self.max_length)[:-1][:delivered]
        message = make_submit(handle, prompt, output=output, stopping=stopping, sampling=sampling, priority=priority)
        self.world.tokens[handle] = list(output)
        self.world.say(message, gateway)

    def other(self, kind: str, number: int) -> None:
        world = self.world
        alive = [h for h in self.asked if h not in world.finished and h not in self.dropped]
        if kind == "step":
            world.step()
        elif kind == "rush":
            for _ in range(number):
                world.step()
        elif kind == "wake":
            world.now += 0.3
            world.send(Woken())
        elif kind == "resync":
            world.say(Resync(), GATEWAYS[number % 2])
        elif alive:
            handle = alive[number % len(alive)]
            prompt, stopping, gateway = self.asked[handle]
            if kind == "ack":
                world.say(Ack([Handle(handle)], [len(world.tokens[handle])]), gateway)
            elif kind == "cancel":
                self.dropped.add(handle)
                world.say(Cancel([Handle(handle)]), gateway)
            else:
                self.dropped.add(handle)
                newer = len(self.asked) + 1
                self.asked[newer] = (prompt, stopping, gateway)
                world.tokens[newer] = []
                message = make_submit(newer, prompt, stopping=stopping, request_id=f"r{handle}", attempt=2)
                world.say(message, gateway)

    def finish(self) -> None:
        for _ in range(2000):
            for handle, (_, _, gateway) in self.asked.items():
                if handle not in self.world.finished:
                    self.world.say(Ack([Handle(handle)], [len(self.world.tokens[handle])]), gateway)
            if self.world.step() is None:
                break
        for handle, (prompt, stopping, _) in self.asked.items():
            if handle in self.dropped:
                continue
            finished = self.world.finished[handle]
            assert finished.fault is None, finished.fault
            expected = continuation(prompt, stopping, self.max_length)
            assert self.world.tokens[handle] == expected
            assert (finished.reason == "stop") == (finished.stop_token is not None)
        assert set(self.world.finished) | self.dropped == set(self.asked)


def play(events: list[tuple[object, ...]], run: Run) -> None:
    for kind, *arguments in events:
        if kind == "submit":
            run.submit(*arguments)  # type: ignore[arg-type]
        else:
            run.other(str(kind), *arguments)  # type: ignore[arg-type]
    run.finish()
    world = run.world
    world.send(ClientLost(GATEWAYS[1]))
    world.now += 1.0
    world.send(Woken())
    load = world.loads[-1]
    assert (load.running, load.waiting, load.waiting_tokens, load.held_blocks) == (0, 0, 0, 0)
    world.send(Drain())
    assert world.drained


@settings(max_examples=100)
@given(
    st.lists(st.one_of(submits(25), others), min_size=5, max_size=60),
    st.integers(11, 24),
    st.booleans(),
    st.sampled_from([3, 8, 16, 40]),
)
def test_every_answer_is_right_and_nothing_leaks(
    events: list[tuple[object, ...]], total_blocks: int, run_ahead: bool, max_step_tokens: int
) -> None:
    play(events, Run(total_blocks, run_ahead, max_step_tokens, SHORT))


@settings(max_examples=40)
@given(
    st.lists(st.one_of(submits(150), others, st.tuples(st.just("rush"), st.integers(1, 90))), min_size=5, max_size=40),
    st.integers(41, 60),
    st.booleans(),
)
def test_so_it_is_with_slow_clients(events: list[tuple[object, ...]], total_blocks: int, run_ahead: bool) -> None:
    play(events, Run(total_blocks, run_ahead, 16, LONG))


@pytest.mark.parametrize("seed", range(12))
def test_dense_traffic(seed: int) -> None:
    """More at once than lists of random events hold: bursts of like prompts, pools too small for them, late clients."""
    draw = random.Random(seed)
    run = Run(draw.randint(42, 56), draw.random() < 0.7, draw.choice([8, 16, 40]), LONG)
    events: list[tuple[object, ...]] = []
    for _ in range(60):
        kind = draw.choice(["burst", "rush", "rush", "step", "ack", "ack", "cancel", "supersede", "resync", "wake"])
        if kind == "burst":
            prompt = [draw.randint(0, 2) * 100 + i for i in range(draw.randint(1, 60))]
            for _ in range(draw.randint(1, 4)):
                stopping = Stopping(max_tokens=draw.choice([1, 10, 90, 150]), ignore_eos=draw.random() < 0.7)
                sampling = Sampling(temperature=0.0, prompt_logprobs=draw.choice([None, None, None, 0]))
                burst = (prompt, stopping, sampling, draw.choice(GATEWAYS), draw.randint(-1, 1), draw.choice([0, 0, 5]))
                events.append(("submit", *burst))
        else:
            events.append((kind, draw.randint(1, 40)))
    play(events, run)
