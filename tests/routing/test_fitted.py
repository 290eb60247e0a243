"""Step costs that gateways fit: the prior, and what is learnt from samples."""

from fleets import COSTS, IDLE, ask, card
from msgspec.structs import replace

from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Capabilities, Load, StepCosts
from jedlik.perf.step import shape_s
from jedlik.routing.choose import Policies, choose
from jedlik.routing.fitted import PRIOR, FittedCosts, Mark, ObservedWork, decode_shape, prefill_shape
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Matches
from jedlik.routing.view import Fleet, WorkerView

SILENT = Capabilities(step_costs=False)


def joined(fleet: Fleet, name: str, load: Load | None, silent: bool = False) -> WorkerView:
    view = fleet.add(replace(card(name), capabilities=SILENT) if silent else card(name))
    if load is not None:
        view.report(load)
        fleet.rerank(view)
    return view


def test_the_prior_is_what_workers_of_the_same_model_report() -> None:
    fleet = Fleet()
    silent = joined(fleet, "a", None, silent=True)
    assert silent.costs == PRIOR
    joined(fleet, "b", replace(IDLE, costs=COSTS, step_shape=(10.0, 100.0, 1.0, 100.0)))
    assert silent.costs == COSTS
    fleet.remove(WorkerId("b@1"))
    assert silent.costs == PRIOR


def test_a_worker_that_reports_costs_after_all_counts_by_them() -> None:
    view = joined(Fleet(), "a", replace(IDLE, costs=COSTS), silent=True)
    assert view.costs == COSTS


def test_mixed_fleets_are_compared_in_seconds_and_only_those_that_will_report_are_waited_for() -> None:
    fleet = Fleet()
    joined(fleet, "a", IDLE, silent=True)
    joined(fleet, "b", replace(IDLE, costs=COSTS))
    policies = Policies(make(), make())
    assert choose(fleet, ask(), Matches(cached={}), policies).unit == "s"
    joined(fleet, "c", IDLE)  # it has not run a step yet
    assert choose(fleet, ask(), Matches(cached={}), policies).unit == "tokens"


def test_workers_of_a_kind_share_one_fit_and_others_have_none() -> None:
    fleet = Fleet()
    a, b, c = (joined(fleet, name, None, silent) for name, silent in (("a", True), ("b", True), ("c", False)))
    assert a.alike is b.alike
    assert a.alike.fitted is not None
    assert c.alike is not a.alike
    assert (c.alike.fitted, c.work) == (None, None)


def test_samples_of_exact_steps_give_the_exact_costs() -> None:
    fitted = FittedCosts(lambda: None)
    for number in range(400):
        shape = prefill_shape(100 + 37 * (number % 11), 16 * (number % 3), 1 + number % 2)
        fitted.observe(shape, shape_s(COSTS, shape))
        shape = (float(number % 7), 50.0 * (number % 7), 1.0 + number % 5, 300.0 * (1 + number % 4))
        fitted.observe(shape, shape_s(COSTS, shape))
    assert fitted.enough
    for shape in ((100.0, 5050.0, 0.0, 0.0), (0.0, 0.0, 4.0, 1000.0)):
        assert abs(shape_s(fitted.costs, shape) / shape_s(COSTS, shape) - 1) < 0.02


def test_work_is_summed_over_time_and_by_first_tokens() -> None:
    work = ObservedWork(0.0)
    work.report(replace(IDLE, running=2, context_tokens=200), 1.0)
    first = work.mark(2.0)
    work.report(replace(IDLE, running=4, context_tokens=600), 3.0)
    work.first_token(100, 60, 3.5)
    last = work.mark(4.0)
    assert first == Mark(2.0, 2.0, 200.0, 0, 0)
    assert last == Mark(4.0, 8.0, 1000.0, 40, 40 * 60 + 40 * 41 // 2)
    assert decode_shape(first, last, 10) == (4.0, last.prefill_pairs / 10, 3.0, 400.0)


def test_before_enough_was_observed_the_prior_holds() -> None:
    prior = StepCosts(base_s=1.0, prefill_token_s=1.0, prefill_pair_s=1.0, decode_sequence_s=1.0, context_token_s=1.0)
    fitted = FittedCosts(lambda: prior)
    fitted.observe((100.0, 5050.0, 0.0, 0.0), 0.1)
    fitted.observe((0.0, 0.0, 1.0, 10.0), 0.0)  # no time has passed: nothing to learn
    assert (fitted.enough, fitted.costs) == (False, prior)
