"""Any script of faults, any fleet, any policy: no request lost, no token wrong, no node unsound, no run different."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import FaultConfig, GatewayConfig, NetworkConfig
from jedlik.routing.policies.named import POLICIES
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Workload
from sim_world import WORKER, Conversations, a_setup, drawn, run

DEADLY = ("crash", "hang", "partition", "drain")
HARMLESS = ("slow", "lose_facts", "duplicate_facts", "delay_facts")
MOST_DEADLY = 3
"""A stream may be tried four times: with that many faults it is never given up."""


def faults(kinds: tuple[str, ...], most: int) -> st.SearchStrategy[list[FaultConfig]]:
    """Of these kinds, at times when requests run."""
    values = {
        "at_s": st.floats(0.0, 8.0),
        "kind": st.sampled_from(kinds),
        "worker": st.sampled_from([None, "p/0", "p/1"]),
        "for_s": st.one_of(st.none(), st.floats(0.001, 7.0)),
        "factor": st.floats(0.5, 4.0),
        "share": st.floats(0.0, 1.0),
        "delay_s": st.floats(0.0, 1.0),
    }
    return st.lists(st.fixed_dictionaries(values).map(that_passes), max_size=most)


def that_passes(given: dict[str, object]) -> FaultConfig:
    """Who drains comes back one day."""
    fault = msgspec.convert(given, FaultConfig)
    return msgspec.structs.replace(fault, for_s=fault.for_s or 1.0) if fault.kind == "drain" else fault


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Small fleets with little or much memory, and whatever can go wrong."""
    script = [*draw(faults(DEADLY, MOST_DEADLY)), *draw(faults(HARMLESS, 3))]
    places, run_ahead = draw(st.sampled_from([2, 8, 64])), draw(st.booleans())
    policy, slo_ttft_s = draw(st.sampled_from(sorted(POLICIES))), draw(st.sampled_from([None, None, 0.1, 2.0]))
    return a_setup(
        workers=draw(st.integers(2, 4)),
        kv_tokens=64 * draw(st.sampled_from([100, 300, 2000])),
        gateways=draw(st.integers(1, 3)),
        faults=sorted(script, key=lambda fault: fault.at_s),
        worker=msgspec.structs.replace(WORKER, run_ahead=run_ahead, max_sequences=places),
        gateway=GatewayConfig(policy=policy, slo_ttft_s=slo_ttft_s, no_worker_wait_s=60.0, migration_wait_s=60.0),
        network=NetworkConfig(latency_s=draw(st.sampled_from([0.0, 0.0002, 0.05]))),
        step_by_step=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    seed = draw(st.integers(0, 999))
    if draw(st.booleans()):
        return Conversations(seed, talks=6, turns=3)
    rate, longest = draw(st.sampled_from([3.0, 10.0, 1000.0])), draw(st.sampled_from([10, 400]))
    return drawn(seed, draw(st.integers(1, 25)), rate, outputs=(1, longest))


@settings(max_examples=80, deadline=None)
@given(setups(), workloads())
def test_whatever_goes_wrong_everybody_is_answered_and_runs_repeat(setup: Setup, workload: Workload) -> None:
    first, second = run(setup, workload), run(setup, workload)
    assert first.offered == workload.total
    endings = {outcome.outcome for outcome in first.outcomes}
    assert endings <= ({"length"} if setup.gateway.slo_ttft_s is None else {"length", "overloaded"})
    assert first.outcomes == second.outcomes
    assert (first.actions, first.samples, first.events) == (second.actions, second.samples, second.events)
