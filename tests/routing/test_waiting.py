"""Waiting at the gateway: the contract for every order, and the order of arrival in particular."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jedlik.core.errors import Bug
from jedlik.core.ids import RequestId
from jedlik.routing.waiting import MAX_LOOKS, FirstCome, Waiter, WaitingOrder

ORDERS: list[Callable[[], WaitingOrder[str]]] = [FirstCome]
NAMES = st.sampled_from([RequestId(f"r{number}") for number in range(9)])


def waiter(name: str, until_s: float = 1.0, tenant: str = "t", priority: int = 0) -> Waiter[str]:
    return Waiter(
        request_id=RequestId(name), tenant=tenant, priority=priority, since_s=0.0, until_s=until_s, choices=[name]
    )


class Conformance(RuleBasedStateMachine):
    """Whatever the order: who waits is as was said, and none is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.orders = [make() for make in ORDERS]
        self.model: dict[RequestId, Waiter[str]] = {}

    @rule(
        name=NAMES,
        tenant=st.sampled_from("ab"),
        priority=st.integers(-2, 2),
        until_s=st.floats(0, 10) | st.sampled_from([1.0, 2.0]),
    )
    def hold(self, name: RequestId, tenant: str, priority: int, until_s: float) -> None:
        self.model[name] = waiter(name, until_s, tenant, priority)
        for order in self.orders:
            order.hold(self.model[name])

    @rule(name=NAMES)
    def release(self, name: RequestId) -> None:
        expected = self.model.pop(name, None)
        for order in self.orders:
            assert order.release(name) is expected

    @rule(now=st.floats(0, 10))
    def due(self, now: float) -> None:
        """Nobody starves: whatever its tenant and its class, it is tried when its time is over."""
        expected = {name for name, waiter in self.model.items() if waiter.until_s <= now}
        for order in self.orders:
            assert {waiter.request_id for waiter in order.due(now)} == expected

    @invariant()
    def who_waits(self) -> None:
        for order in self.orders:
            order.check()
            assert len(order) == len(self.model)
            assert bool(order) == bool(self.model)
            assert {waiter.request_id for waiter in order} == self.model.keys()
            assert all(order.get(name) is waiter for name, waiter in self.model.items())
            assert order.next_due_s() == min((w.until_s for w in self.model.values()), default=inf)
            candidates = [waiter.request_id for waiter in order.next_up()]
            assert len(set(candidates)) == len(candidates)
            assert set(candidates) <= self.model.keys()
            assert bool(candidates) == bool(self.model)


test_conformance = Conformance.TestCase


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 2)), max_size=12))
def test_the_first_four_are_tried_in_order_of_arrival(requests: list[tuple[str, int]]) -> None:
    order = FirstCome[str]()
    for number, (tenant, priority) in enumerate(requests):
        order.hold(waiter(f"r{number}", tenant=tenant, priority=priority))
    names = [f"r{number}" for number in range(len(requests))]
    assert [waiter.request_id for waiter in order.next_up()] == names[:MAX_LOOKS]
    assert [waiter.request_id for waiter in order] == names


def test_who_waits_on_keeps_its_place() -> None:
    order = FirstCome[str]()
    for name in "abc":
        order.hold(waiter(name, 1.0))
    order.hold(waiter("a", 3.0))
    assert [w.request_id for w in order.next_up()] == ["a", "b", "c"]
    assert [w.request_id for w in order.due(2.0)] == ["b", "c"]
    order.release(RequestId("a"))
    order.hold(waiter("a"))
    assert [w.request_id for w in order] == ["b", "c", "a"]


def test_a_request_without_choices_may_not_wait() -> None:
    order = FirstCome[str]()
    order.hold(waiter("a"))
    order.check()
    order.release(RequestId("a"))
    empty = waiter("b")
    empty.choices.clear()
    order.hold(empty)
    with pytest.raises(Bug):
        order.check()
