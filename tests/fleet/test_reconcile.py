"""Steps that close the gap: given these members and this wish, expect these steps."""

from math import inf

from jedlik.core.config import Role
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Place
from jedlik.fleet.loss import Loss
from jedlik.fleet.members import Member
from jedlik.fleet.reconcile import Gap, reconcile

NOW = 100.0


def fleet(*states: str, gpus: float = 1.0) -> list[Member]:
    """By "state" or "state role"; names are m0, m1, ..."""
    roles: dict[str, Role] = {"prefill": "prefill", "decode": "decode"}
    named = [state.partition(" ") for state in states]
    return [made(number, state, roles.get(role, "both"), gpus) for number, (state, _, role) in enumerate(named)]


def made(number: int, state: str, role: Role = "both", gpus: float = 1.0) -> Member:
    one = Member(Place(name=f"m{number}", gpus=gpus), number, role, 0.0)
    if state == "free":
        return one
    one.launch(role, float(number), 300.0)
    if state == "waiting":
        one.wait(NOW, "crashed")
    elif state == "looping":
        for _ in range(3):
            one.wait(50.0, "crashed")
            one.launch(role, 60.0, 300.0)
        one.wait(NOW, "crashed")
    elif state != "starting":
        one.ready(WorkerId(one.name), 0, 50.0)
        if state == "draining":
            one.retire(60.0, 100.0, "")
    return one


def steps(
    members: list[Member],
    wanted: dict[Role, int],
    flips: bool = True,
    budget: float = inf,
    loss: dict[str, Loss] | None = None,
) -> list[str]:
    known = loss or {}
    gap = Gap(wanted, flips, budget, lambda member: known.get(member.name, Loss(True, 0.0, 0.0)))
    return [f"{step.kind} {step.member.name} {step.role}" for step in reconcile(members, gap, NOW)]


def test_where_nothing_lacks_nothing_is_done() -> None:
    members = fleet("serving prefill", "starting decode", "draining decode", "free")
    assert steps(members, {"prefill": 1, "decode": 1}) == []


def test_the_cheapest_leave_first() -> None:
    members = fleet("serving", "starting", "serving", "starting", "waiting", "serving", "serving")
    loss = {
        "m0": Loss(True, 5.0, 1.0),
        "m2": Loss(True, None, None),
        "m5": Loss(False, 50.0, 50.0),
        "m6": Loss(True, 1.0, 4.0),
    }
    assert steps(members, {}, loss=loss) == [
        "drop m4 both",
        "cancel m3 both",
        "cancel m1 both",
        "drain m5 both",
        "drain m6 both",
        "drain m0 both",
        "drain m2 both",
    ]
    assert steps(members, {"both": 5}, loss=loss) == ["drop m4 both", "cancel m3 both"]


def test_of_equals_the_last_leaves() -> None:
    assert steps(fleet("serving", "serving", "serving"), {"both": 1}) == ["drain m2 both", "drain m1 both"]


def test_roles_change_with_whom_least_is_lost() -> None:
    members = fleet("serving prefill", "serving prefill", "serving prefill", "serving decode", "free")
    loss = {"m0": Loss(True, 3.0, 0.0), "m1": Loss(True, 2.0, 99.0), "m2": Loss(False, 0.0, 0.0)}
    assert steps(members, {"prefill": 2, "decode": 2}, loss=loss) == ["turn m1 decode"]
    assert steps(members, {"prefill": 1, "decode": 3}, loss=loss) == ["turn m1 decode", "turn m0 decode"]
    assert steps(members, {"prefill": 2, "decode": 2}, flips=False, loss=loss) == [
        "drain m2 prefill",
        "start m4 decode",
    ]


def test_some_change_and_the_rest_is_started_or_leaves() -> None:
    members = fleet("serving prefill", "starting prefill", "serving decode", "free", "free")
    assert steps(members, {"prefill": 1, "decode": 3}) == ["turn m1 decode", "start m3 decode"]
    assert steps(members, {"decode": 2}) == ["turn m1 decode", "drain m0 prefill"]


def test_the_budget_waits_for_who_leaves() -> None:
    members = fleet("serving", "draining", "free", "free", gpus=2.0)
    assert steps(members, {"both": 3}, budget=4.0) == []
    assert steps(members, {"both": 3}, budget=6.0) == ["start m2 both"]
    assert steps(members, {"both": 3}, budget=7.9) == ["start m2 both"]


def test_pools_are_filled_evenly() -> None:
    assert steps(fleet(*["free"] * 6), {"prefill": 1, "decode": 4}) == [
        "start m0 prefill",
        "start m1 decode",
        "start m2 decode",
        "start m3 decode",
        "start m4 decode",
    ]
    assert steps(fleet(*["free"] * 6), {"prefill": 2, "decode": 4}, budget=3.0) == [
        "start m0 prefill",
        "start m1 decode",
        "start m2 decode",
    ]


def test_a_restart_comes_before_a_start_and_only_when_due() -> None:
    members = fleet("waiting", "free", "free")
    assert steps(members, {"both": 2}) == ["again m0 both", "start m1 both"]
    members[0].due = NOW + 1.0
    assert steps(members, {"both": 2}) == ["start m1 both"]
    assert steps(members, {"both": 2}, budget=1.0) == []


def test_a_crash_loop_gives_way_where_there_is_another_place() -> None:
    assert steps(fleet("looping", "serving", "free"), {"both": 2}) == ["swap m0 both", "start m2 both"]
    assert steps(fleet("looping", "serving"), {"both": 2}) == []
    assert steps(fleet("looping", "looping", "free"), {"both": 2}) == ["swap m0 both", "start m2 both"]


def test_who_waits_for_gpus_that_are_not_to_be_had_gives_way_to_a_smaller_place() -> None:
    members = [made(0, "waiting", gpus=4.0), made(1, "serving", gpus=2.0), made(2, "free", gpus=2.0)]
    assert steps(members, {"both": 2}, budget=4.0) == ["swap m0 both", "start m2 both"]
    assert steps(members, {"both": 2}, budget=6.0) == ["again m0 both"]
