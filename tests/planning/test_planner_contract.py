"""The contract of planners (docs/contracts/planners.md), for jedlik's own and each of bench/planners."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from test_static import BUSY, QUIET

from jedlik.core.errors import ConfigError
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Counts, Demand, Wish, WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.nodes.planner.wish import ask
from jedlik.perf.model import LinearModel
from jedlik.planning.planners import OWN, maker_of
from jedlik.planning.policy import Limits, Planner, Pool, Situation, Terms
from jedlik.serve.plugins import load_planner
from seen_given import worker_seen

FILES = Path(__file__).parents[2] / "bench" / "planners"
PLANNERS = [*OWN, *(str(FILES / f"{name}.py") for name in ("hpa", "kpa", "dynamo"))]
COSTS = StepCosts.of([0.01, 1e-4, 0.0, 1e-3, 1e-6])
TERMS = Terms(Limits(8, 1, 1, 1), 0.95, 5.0, LinearModel(COSTS), 100_000)


def worker(number: int, role: str, **values: object) -> WorkerSeen:
    return worker_seen(WorkerId(f"w{number}@1"), role=role, costs=COSTS, **values)


def situation(now: float, demand: Demand, counts: Counts, running: int = 0, waiting: int = 0) -> Situation:
    workers = [
        worker(10 * at + n, role, running=running)
        for at, (role, count) in enumerate(counts.items())
        for n in range(count)
    ]
    pools = {role: Pool(count) for role, count in counts.items()}
    split = "prefill" in counts
    return Situation(now, 5.0, demand, waiting, 1000 * waiting, tuple(workers), pools, split, False, 30.0, 0.5, 0.05)


def made(named: str, initial: Counts) -> Planner:
    return load_planner(named).make(initial, TERMS)


@pytest.mark.parametrize("initial", [{"both": 2}, {"prefill": 1, "decode": 2}], ids=["mixed", "split"])
@pytest.mark.parametrize("named", PLANNERS, ids=lambda named: Path(named).stem)
class TestEveryPlanner:
    def test_it_has_a_name_and_a_period(self, named: str, initial: Counts) -> None:
        planner = made(named, initial)
        assert planner.name
        assert planner.tick_s > 0

    def test_it_wishes_counts_of_known_roles_with_a_reason(self, named: str, initial: Counts) -> None:
        planner = made(named, initial)
        for tick in range(1, 40):
            demand = BUSY if tick % 3 else QUIET
            wish = planner.decide(situation(tick * planner.tick_s, demand, initial, running=tick % 5, waiting=tick % 7))
            assert isinstance(wish, Wish)
            assert set(wish.counts) <= set(ROLES)
            assert all(isinstance(count, int) and count >= 0 for count in wish.counts.values())
            assert wish.why

    def test_nothing_reported_is_no_reason_to_fail(self, named: str, initial: Counts) -> None:
        planner = made(named, initial)
        silent = situation(5.0, QUIET, initial)._replace(period_s=0.0, workers=(), stale=True)
        assert isinstance(ask(planner, silent), Wish)
        unknown = tuple(replace(seen, costs=None) for seen in situation(10.0, BUSY, initial).workers)
        assert isinstance(ask(planner, situation(10.0, BUSY, initial)._replace(workers=unknown)), Wish)

    def test_the_same_input_gives_the_same_wish_and_fleets_share_nothing(self, named: str, initial: Counts) -> None:
        one, other, third = (made(named, initial) for _ in range(3))
        for tick in range(1, 20):
            at = situation(tick * one.tick_s, BUSY, initial, running=4, waiting=tick)
            third.decide(at._replace(waiting=99, demand=QUIET))
            assert one.decide(at) == other.decide(at)


# --- what a file may get wrong --------------------------------------------------------------------------------------

STEADY = """
from jedlik.core.plans import Wish
class Steady:
    name = "steady"
    def __init__(self, initial, terms):
        self.tick_s = terms.tick_s
    def decide(self, situation):
        return Wish({"both": 3}, "always three")
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        file = tmp_path / "planner.py"
        file.write_text(text)
        return str(file)

    return write


def test_a_file_s_only_planner_is_taken_and_may_import_its_neighbours(
    written: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "steady_neighbour.py").write_text("COUNT = 3\n")
    file = written("from steady_neighbour import COUNT\n" + STEADY.replace('"both": 3', '"both": COUNT'))
    planner = load_planner(file).make({"both": 1}, TERMS)
    assert planner.decide(situation(5.0, QUIET, {"both": 1})).counts == {"both": 3}
    assert load_planner(f"{file}:Steady").make({"both": 1}, TERMS).name == "steady"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "defines no class"),
        ("class A:\n    name = 'a'\n", "A lacks decide"),
        (STEADY + STEADY.replace("Steady", "Other"), "Steady and Other: say which"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def f(:\n", "line 1: SyntaxError"),
    ],
    ids=["nothing", "no decide", "two", "fails", "syntax"],
)
def test_a_file_that_holds_no_planner_says_what_lacks(written: Callable[[str], str], text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_planner(written(text))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("self.tick_s = terms.tick_s", "self.tick_s = 0"), "tick_s"),
        (("self.tick_s = terms.tick_s", "pass"), "tick_s"),
        (("self.tick_s = terms.tick_s", "raise KeyError('x')"), "KeyError"),
        (('name = "steady"', "name = 3"), "name"),
    ],
    ids=["zero period", "no period", "fails", "no name"],
)
def test_a_planner_that_can_t_be_made_says_why(
    written: Callable[[str], str], change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_planner(written(STEADY.replace(*change))).make({"both": 1}, TERMS)


@pytest.mark.parametrize(
    "answer", ["None", "{'both': 3}", "Wish({'both': -1})", "Wish({'all': 1})", "1 / 0", "exit(3)"]
)
def test_an_answer_that_is_no_wish_is_told_and_not_followed(written: Callable[[str], str], answer: str) -> None:
    planner = load_planner(written(STEADY.replace('Wish({"both": 3}, "always three")', answer))).make(
        {"both": 1}, TERMS
    )
    answered = ask(planner, situation(5.0, QUIET, {"both": 1}))
    assert isinstance(answered, str)
    assert "its last wish stays" in answered


def test_unknown_names_and_files_are_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="did you mean static"):
        maker_of("statc")
    with pytest.raises(ConfigError, match="is not there"):
        load_planner("nowhere.py")


def test_a_planner_that_foresees_has_a_call_for_simulations() -> None:
    assert load_planner(str(FILES / "oracle.py")).foresee is not None
    assert load_planner("jedlik").foresee is None
