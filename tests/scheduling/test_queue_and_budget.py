"""The parts of scheduling alone: order of waiting, chunk sizes, victims, legality."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId
from jedlik.core.requests import MOST_PRIORITY
from jedlik.scheduling.queue import WaitingQueue, victim_of
from jedlik.scheduling.sequence import AGEING_S, MOVES, Phase, Sequence
from jedlik.scheduling.step_plan import chunk_length
from worker_world import GATEWAY, make_submit


def waiting(
    number: int, now: float = 0.0, priority: int = 0, budget_s: float | None = None, tenant: str = ""
) -> Sequence:
    submit = make_submit(number, [1, 2, 3], priority=priority, budget_s=budget_s, tenant=tenant)
    return Sequence(submit, GATEWAY, number, now, BlockId(b""))


def order(queue: WaitingQueue) -> list[int]:
    found = []
    while (sequence := queue.peek()) is not None:
        queue.check()
        queue.remove(sequence)
        found.append(sequence.number)
    return found


def test_priority_then_arrival_and_age_beats_priority() -> None:
    queue = WaitingQueue()
    for sequence in (
        waiting(1, 0.0, 1),
        waiting(2, 0.5),
        waiting(3, 0.5),
        waiting(4, AGEING_S - 0.1),
        waiting(5, AGEING_S + 0.1),
    ):
        queue.push(sequence)
    assert queue.tokens == 15
    assert order(queue) == [2, 3, 4, 1, 5]
    assert (len(queue), queue.tokens) == (0, 0)


@pytest.mark.parametrize("urgent", [-MOST_PRIORITY, -(2**31)])
def test_nobody_is_overtaken_by_who_comes_later_than_the_range_is_worth(urgent: int) -> None:
    worth_s = MOST_PRIORITY * AGEING_S
    queue = WaitingQueue()
    for sequence in (
        waiting(1, 0.0),
        waiting(2, worth_s - 1, urgent),
        waiting(3, worth_s + 1, urgent),
        waiting(4, 0.0, -urgent),
        waiting(5, 2 * worth_s + 1, urgent),
    ):
        queue.push(sequence)
    assert order(queue) == [2, 1, 3, 4, 5]


def test_priority_orders_the_requests_of_one_tenant_and_outbids_no_other() -> None:
    queue = WaitingQueue()
    for sequence in (
        waiting(1, tenant="a"),
        waiting(2, tenant="b"),
        waiting(3, tenant="a"),
        waiting(4, priority=-MOST_PRIORITY, tenant="b"),
        waiting(5, priority=-1, tenant="a"),
        waiting(6, priority=MOST_PRIORITY, tenant="c"),
    ):
        queue.push(sequence)
    assert order(queue) == [5, 4, 1, 2, 3, 6]


def test_an_urgent_request_that_comes_before_a_turn_is_used_takes_it_over() -> None:
    queue = WaitingQueue()
    for sequence in (waiting(1, tenant="a"), waiting(2, tenant="b"), waiting(3, priority=-1, tenant="a")):
        queue.push(sequence)
    assert (first := queue.peek()) is not None
    assert first.number == 3
    queue.push(waiting(4, priority=-2, tenant="a"))
    assert order(queue) == [4, 2, 3, 1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-30, 30), st.sampled_from(["push", "take"]))))
def test_between_tenants_arrival_counts_whatever_they_bid(events: list[tuple[str, int, str]]) -> None:
    """Each tenant is served when it would be without any priorities, and serves its own by priority and age."""
    bidding, plain = WaitingQueue(), WaitingQueue()
    numbers: dict[int, Sequence] = {}
    for number, (tenant, priority, what) in enumerate(events):
        if what == "push":
            numbers[number] = waiting(number, number / 10, priority, tenant=tenant)
            bidding.push(numbers[number])
            plain.push(waiting(number, number / 10, tenant=tenant))
        elif what == "take" and (first := bidding.peek()) is not None:
            own = [s for s in numbers.values() if s.submit.tenant == first.submit.tenant]
            assert first is min(own, key=lambda s: s.key)
            other = plain.peek()
            assert other is not None
            assert other.submit.tenant == first.submit.tenant
            bidding.remove(numbers.pop(first.number))
            plain.remove(other)
        bidding.check()
        plain.check()


def test_whoever_comes_back_is_before_later_arrivals() -> None:
    queue = WaitingQueue()
    first, second = waiting(1), waiting(2)
    for sequence in (first, second):
        queue.push(sequence)
    queue.remove(first)
    queue.push(first)
    queue.remove(second)
    queue.check()
    queue.push(second)
    assert order(queue) == [1, 2]


def test_deadlines_come_due_in_order_once() -> None:
    queue = WaitingQueue()
    sequences = [waiting(n, 0.0, 0, budget) for n, budget in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0))]
    for sequence in sequences:
        queue.push(sequence)
    queue.remove(sequences[3])
    assert queue.next_due_s() == 1.0
    assert [s.number for s in queue.overdue(5.0)] == [2, 1]
    assert queue.overdue(5.0) == []


@given(st.integers(0, 500), st.integers(1, 500), st.integers(-3, 300), st.integers(1, 32))
def test_a_chunk_fits_and_ends_on_a_border_or_at_the_end(start: int, remaining: int, budget: int, size: int) -> None:
    length = chunk_length(start, remaining, budget, size)
    assert 0 <= length <= max(budget, 0)
    assert length <= remaining
    assert (length > 0) == (budget > 0)
    assert length == remaining or length <= 0 or (start + length) % size == 0 or length < size


def test_the_victim_is_paused_or_least_urgent_or_latest() -> None:
    sequences = [waiting(1, 0.0), waiting(2, 0.0, 2), waiting(3, 1.0)]
    assert victim_of(sequences) is None
    for sequence in sequences:
        sequence.move("admit")
    assert victim_of(sequences) is sequences[1]
    assert victim_of([sequences[0], sequences[2]]) is sequences[2]
    sequences[0].window_at = 3
    assert victim_of(sequences) is sequences[0]


def test_the_tenant_with_the_last_turn_gives_way_whatever_it_bids() -> None:
    sequences = [waiting(1, tenant="a"), waiting(2, priority=9, tenant="a"), waiting(3, priority=-20, tenant="b")]
    for sequence in sequences:
        sequence.move("admit")
    assert victim_of(sequences) is sequences[2]
    assert victim_of(sequences[:2]) is sequences[1]


@pytest.mark.parametrize("phase", list(Phase))
def test_what_the_table_lacks_is_a_bug_with_its_story(phase: Phase) -> None:
    for event in {event for _, event in MOVES}:
        sequence = waiting(1)
        sequence.phase = phase
        if (phase, event) in MOVES:
            sequence.move(event)
            assert sequence.phase is MOVES[phase, event]
        else:
            with pytest.raises(Bug, match=f"can't {event} while {phase.value}: waiting {event}"):
                sequence.move(event)
