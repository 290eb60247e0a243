"""Hand-offs between two worker nodes: what each says, and that nothing is ever wrong, whatever happens when."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import ToClient, ToWorkerEffect
from jedlik.core.events import ClientJoined, FromClient, FromWorker
from jedlik.core.facts import HandedOff
from jedlik.core.ids import GatewayId, Handle, WorkerId
from jedlik.core.moves import Location, Move, Moved
from jedlik.core.protocol import Cancel, Card, Granted, Layout, Push, Pushed, Released, Remote, Reserve, Submit
from jedlik.core.requests import Stopping
from pair_world import Cluster
from worker_world import GATEWAY, continuation, make_card, make_submit

P, D = WorkerId("p@1"), WorkerId("d@1")
PROMPT = list(range(100, 119))  # 19 tokens: four blocks of 4, and three tokens more
STOPPING = Stopping(max_tokens=6, ignore_eos=True)


def card(worker: WorkerId, total_blocks: int = 64, block_size: int = 4) -> Card:
    return replace(
        make_card(total_blocks, block_size), worker=worker, name=worker.partition("@")[0], handoffs=("slots",)
    )


def cluster(blocks_d: int = 64, blocks_p: int = 64, **config: object) -> Cluster:
    values: dict[str, object] = {"block_size": 4, "max_sequences": 8, "max_step_tokens": 8}
    return Cluster([card(P, blocks_p), card(D, blocks_d)], WorkerConfig(**(values | config)))  # type: ignore[arg-type]


def handed(handle: int, prompt: list[int], compute: bool = True, stopping: Stopping = STOPPING) -> Submit:
    return replace(make_submit(handle, prompt, stopping=stopping), remote=Remote(P, compute, 0.1))


def outcome(world: Cluster) -> HandedOff:
    (fact,) = [fact for fact in world.facts if isinstance(fact, HandedOff)]
    return fact


def test_what_is_said_from_submit_to_the_last_commit() -> None:
    world = cluster()
    d, p = world.workers[D].node, world.workers[P].node
    said = [e for e in d.handle(FromClient(GATEWAY, handed(1, PROMPT)), 0.0) if isinstance(e, ToWorkerEffect)]
    (asked,) = said
    submit = asked.message
    assert isinstance(submit, Submit)
    assert (asked.worker, submit.push, submit.stopping.max_tokens, len(submit.prompt)) == (
        P, Push(card(D).layout, 0), 0, 18 * 4,
    )  # fmt: skip
    p.handle(ClientJoined(GatewayId(D), follows=False), 0.0)
    told = [e.message for e in p.handle(FromClient(GatewayId(D), submit), 0.0) if isinstance(e, ToClient)]
    assert [m for m in told if isinstance(m, Granted)] == [Granted(Handle(1), 0, 18)]
    effects = d.handle(FromWorker(P, Granted(Handle(1), 0, 18)), 0.1)
    (reserve,) = [e.message for e in effects if isinstance(e, ToWorkerEffect)]
    assert isinstance(reserve, Reserve)
    assert (reserve.handle, reserve.first, len(reserve.blocks)) == (1, 0, 5)
    p.handle(FromClient(GatewayId(D), reserve), 0.1)
    assert d.load(0.1).arriving == 1
    assert d.load(0.1).reserved_blocks == 5
    d.check()
    p.check()


def test_the_answer_is_as_if_one_worker_had_done_it() -> None:
    world = cluster()
    world.submit(D, handed(1, PROMPT))
    world.settle()
    heard = world.heard[D]
    assert heard.tokens[1] == continuation(PROMPT, STOPPING, 128)
    assert heard.finished[1].reason == "length"
    assert world.workers[P].engine.computed_tokens == 18
    assert world.workers[D].engine.computed_tokens == 1 + 5  # the prompt's last token, then each output but the last
    assert (outcome(world).cause, outcome(world).tokens, outcome(world).blocks) == ("", 18, 5)
    world.rest()


def test_chunks_are_pushed_while_the_next_is_computed() -> None:
    world = cluster(max_step_tokens=4)
    world.submit(D, handed(1, PROMPT))
    pushed_at: list[int] = []
    while choices := world.choices():
        move = next((c for c in choices if c[0] == "move"), None)
        if move is not None:
            pushed_at.append(world.workers[P].engine.computed_tokens)
        world.do(move or choices[0])
    assert pushed_at[0] < 18
    assert len(pushed_at) > 2
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)


def test_what_d_has_is_not_pushed_and_what_p_has_is_not_computed() -> None:
    world = cluster()
    world.submit(D, make_submit(1, PROMPT[:9], stopping=Stopping(max_tokens=1)))
    world.submit(P, make_submit(1, PROMPT[:13], stopping=Stopping(max_tokens=1)))
    world.settle()
    before = world.workers[P].engine.computed_tokens
    world.submit(D, handed(2, PROMPT))
    world.settle()
    assert world.heard[D].tokens[2] == continuation(PROMPT, STOPPING, 128)
    assert world.workers[P].engine.computed_tokens - before == 18 - 12
    assert outcome(world).blocks == 3
    assert world.heard[D].started[2].cached_tokens == 12


def test_a_pull_brings_what_the_other_has_and_no_more() -> None:
    world = cluster()
    world.submit(P, make_submit(1, PROMPT[:13], stopping=Stopping(max_tokens=1)))
    world.settle()
    before = world.workers[P].engine.computed_tokens
    world.submit(D, handed(2, PROMPT, compute=False))
    world.settle()
    assert world.heard[D].tokens[2] == continuation(PROMPT, STOPPING, 128)
    assert world.workers[P].engine.computed_tokens == before
    assert (outcome(world).tokens, outcome(world).blocks) == (12, 3)
    world.rest()


def test_a_pull_of_nothing_costs_a_question() -> None:
    world = cluster()
    world.submit(D, handed(2, PROMPT, compute=False))
    world.settle()
    assert world.heard[D].tokens[2] == continuation(PROMPT, STOPPING, 128)
    assert (outcome(world).tokens, outcome(world).cause) == (0, "")
    world.rest()


def test_a_pull_waits_for_the_step_that_computes_what_is_wanted() -> None:
    world = cluster()
    world.submit(P, make_submit(1, PROMPT[:8], stopping=STOPPING))
    world.submit(D, handed(2, PROMPT, compute=False))
    while messages := [c for c in world.choices() if c[0] == "message"]:
        world.do(messages[0])
    assert not world.moves  # both blocks are published, and still being computed
    world.settle()
    assert world.heard[D].tokens[2] == continuation(PROMPT, STOPPING, 128)
    assert outcome(world).blocks == 2


def test_another_layout_is_refused_with_the_reason() -> None:
    world = Cluster([card(P), card(D)], WorkerConfig(block_size=4, max_sequences=8, max_step_tokens=8))
    world.workers[P].node._movement._outgoing._card = replace(
        card(P), layout=Layout(dtype="bfloat16", layers=1, kv_heads=1, head_dim=1, block_size=4)
    )
    world.submit(D, handed(1, PROMPT))
    world.settle()
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)
    assert outcome(world).cause == "refused"
    world.rest()


def test_memory_is_reserved_piece_by_piece_and_the_oldest_is_served_first() -> None:
    world = cluster(blocks_d=18, handoff_share=0.5)
    for handle in (1, 2, 3):
        world.submit(D, handed(handle, [handle * 30 + i for i in range(25)]))
    most = 0
    while choices := world.choices():
        most = max(most, world.workers[D].node.load(0.0).reserved_blocks)
        world.do(choices[0])
    world.settle()
    assert most <= 8
    for handle in (1, 2, 3):
        prompt = [handle * 30 + i for i in range(25)]
        assert world.heard[D].tokens[handle] == continuation(prompt, STOPPING, 128)
    world.rest()


def test_slots_of_an_abandoned_hand_off_are_not_used_before_the_writer_has_spoken() -> None:
    world = cluster()
    world.submit(D, handed(1, PROMPT))
    while not world.moves:
        world.do(world.choices()[0])
    move = world.moves[0][1]
    world.send(D, FromClient(GATEWAY, Cancel([Handle(1)])))
    assert world.workers[D].node.load(0.0).reserved_blocks == 5
    world.now += 1e6
    world.send(D, FromClient(GATEWAY, make_submit(2, [7] * 16, stopping=Stopping(max_tokens=1))))
    assert world.workers[D].node.load(0.0).reserved_blocks == 5
    while messages := [c for c in world.choices() if c[0] == "message"]:
        world.do(messages[0])
    assert world.workers[D].node.load(0.0).reserved_blocks == 5, "the push is still under way"
    world.do(("move", (P, move)))
    world.settle()
    assert world.heard[D].tokens[2] == continuation([7] * 16, Stopping(max_tokens=1), 128)
    world.rest()


def test_a_prefill_worker_that_says_nothing_is_not_waited_for_for_ever() -> None:
    world = cluster(handoff_patience_s=2.0)
    world.submit(D, handed(1, PROMPT))
    world.channels.clear()  # the question is lost in a worker that hangs
    world.settle()
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)
    assert outcome(world).cause == "late"
    assert outcome(world).elapsed_s >= 2.0


def test_doubled_and_late_commits_change_nothing() -> None:
    world = cluster()
    world.submit(D, handed(1, PROMPT))
    doubled: list[object] = []
    while choices := world.choices():
        if choices[0] == ("message", (P, D)):
            queue = world.channels[P, D]
            if not any(queue[0] is message for message in doubled):
                doubled.append(queue[0])
                queue.appendleft(queue[0])
        world.do(choices[0])
    assert len(doubled) > 4
    world.settle()
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)
    world.rest()


def test_what_a_lying_writer_claims_is_not_believed() -> None:
    world = cluster()
    world.submit(D, handed(1, PROMPT))
    world.send(D, FromWorker(P, Pushed(Handle(1), 16)))  # before any grant
    world.send(D, FromWorker(P, Granted(Handle(1), 1 << 40, 1 << 40)))
    world.send(D, FromWorker(P, Granted(Handle(9), 0, 4)))
    world.send(D, FromWorker(P, Released([Handle(9)])))
    world.settle()
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)


STAGES = range(0, 60, 1)


@pytest.mark.parametrize("victim", [P, D])
@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_dies_at_any_moment(victim: WorkerId, stage: int) -> None:
    world = cluster(max_step_tokens=4)
    world.submit(D, handed(1, PROMPT))
    world.submit(D, handed(2, PROMPT[:7] + list(range(300, 310))))
    for _ in range(stage):
        if choices := world.choices():
            world.do(choices[0])
    world.kill(victim)
    world.settle()
    world.rest()
    if victim == P:
        assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)
        assert world.heard[D].tokens[2] == continuation(PROMPT[:7] + list(range(300, 310)), STOPPING, 128)


@given(st.integers(0, 1 << 30))
def test_any_order_of_events_gives_the_right_answers(seed: int) -> None:
    rng = Random(seed)
    world = cluster(blocks_d=rng.randint(20, 40), blocks_p=rng.randint(20, 40), max_step_tokens=rng.choice([4, 8, 16]))
    prompts: dict[int, list[int]] = {}
    stem = [rng.randrange(900) for _ in range(12)]
    cancelled: set[int] = set()
    killed = False
    for handle in range(1, rng.randint(3, 14)):
        prompt = stem[: rng.randrange(13)] + [rng.randrange(900) for _ in range(rng.randint(1, 30))]
        prompts[handle] = prompt
        submit = (
            handed(handle, prompt, rng.random() < 0.8)
            if rng.random() < 0.8
            else make_submit(handle, prompt, stopping=STOPPING)
        )
        world.submit(D, submit)
        for _ in range(rng.randrange(25)):
            if choices := world.choices():
                world.do(rng.choice(choices))
        if rng.random() < 0.15:
            chosen = rng.choice(list(prompts))
            if chosen not in world.heard[D].finished:
                cancelled.add(chosen)
                world.send(D, FromClient(GATEWAY, Cancel([Handle(chosen)])))
        if not killed and rng.random() < 0.05:
            killed = True
            world.kill(P)
    world.settle(rng)
    for handle, prompt in prompts.items():
        if handle not in cancelled:
            assert world.heard[D].tokens[handle] == continuation(prompt, STOPPING, 128)
    world.rest()


def test_a_push_that_fails_ends_the_hand_off_and_not_the_request() -> None:
    world = cluster()
    world.submit(D, handed(1, PROMPT))
    while not world.moves:
        world.do(world.choices()[0])
    name, move = world.moves.pop()
    assert move.target == Location("device", D)
    assert isinstance(move, Move)
    world.send(name, Moved(number=move.number, blocks=0, cause="failed", path="test"))
    world.settle()
    assert world.heard[D].tokens[1] == continuation(PROMPT, STOPPING, 128)
    assert outcome(world).cause == "refused"
    world.rest()
