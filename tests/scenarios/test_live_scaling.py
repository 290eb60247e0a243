"""A load step that a live server was put through, recorded: the same planner decides the same again, and the simulator,
given what was sent, says beforehand what the planner did.

The record is what `python bench/scaling_live.py --record` leaves, in four minutes: settings, arrivals, profile, the
planner's log, what its node was made of. Who changes what jedlik's planner decides runs that again.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import pytest

from jedlik.core.effects import End, Launch, Note, PlannerEffect, Retire
from jedlik.core.events import PlannerEvent
from jedlik.core.facts import Planned
from jedlik.live.recorder import LogRecord, PlannerTurn, read
from jedlik.serve.event_log import PlannerMade
from jedlik.serve.nodes import make_planner
from jedlik.serve.settings import settle
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.world import Simulation
from jedlik.sizing.simulate import SimulateOptions, prepare
from sim_world import Listed

RECORD = Path(__file__).parent / "live_scaling"
AGAIN = "decides otherwise than when it was recorded; where that is meant: python bench/scaling_live.py --record"
START_S, RELEASE_S = 5.0, 30.0
"""Between an order and the simulated one. A burst is answered within a few ticks. Who may leave is told by means of
what has been, which fall slowly in a lull: a start that took a second longer moves that by many ticks."""


class Order(NamedTuple):
    """To start a worker, or to end one."""

    at_s: float
    """Since the planner began."""
    workers: int
    """1, or -1."""
    place: str


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> list[LogRecord[PlannerEvent, PlannerEffect]]:
    log = tmp_path_factory.mktemp("log") / "planner@1.log"
    log.write_bytes(gzip.decompress((RECORD / "planner.log.gz").read_bytes()))
    return list(read(log, PlannerTurn))


@pytest.fixture
def in_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings name the profile as a file beside them."""
    monkeypatch.chdir(RECORD)


def decided(effects: Sequence[PlannerEffect]) -> list[object]:
    """Everything but the reasons: their last digits differ from processor to processor."""
    told: list[object] = []
    for effect in effects:
        if not isinstance(effect, Note):
            told.append(effect)
        elif isinstance(effect.fact, Planned):
            told.append((effect.fact.at, effect.fact.planner, dict(effect.fact.wanted), effect.fact.done))
    return told


@pytest.mark.usefixtures("in_record")
def test_a_fresh_node_decides_what_the_live_one_did(turns: list[LogRecord[PlannerEvent, PlannerEffect]]) -> None:
    made = msgspec.json.decode((RECORD / "planner.json").read_bytes(), type=PlannerMade)
    node = make_planner(made.config, made.places, made.initial)
    for turn in turns:
        assert decided(node.handle(turn.event, turn.now)) == decided(turn.effects), f"the planner {AGAIN}"
        node.check()


def renamed(what: PlannerEvent | PlannerEffect, old: str, new: str) -> PlannerEvent | PlannerEffect:
    """With the place's name as the other world has it: worker-0 live is worker/0 in the simulator."""
    name = getattr(what, "name", None)
    return what if name is None else msgspec.structs.replace(what, name=name.replace(old, new))


@pytest.mark.usefixtures("in_record")
def test_the_simulators_node_decides_what_the_live_one_did(turns: list[LogRecord[PlannerEvent, PlannerEffect]]) -> None:
    settings = settle({}, {}, Path("scaling.yaml"), simulated=True)
    setup = prepare(settings, Path("scaling.yaml"), SimulateOptions(trace="arrivals.csv", options=WorkloadOptions()))
    node = Simulation(setup, Listed([])).planner.node
    for turn in turns:
        event = cast(PlannerEvent, renamed(turn.event, "-", "/"))
        effects = [renamed(effect, "/", "-") for effect in node.handle(event, turn.now)]
        done = [effect for effect in effects if not isinstance(effect, Note)]
        assert done == [effect for effect in turn.effects if not isinstance(effect, Note)], f"the planner {AGAIN}"


def live_orders(turns: list[LogRecord[PlannerEvent, PlannerEffect]]) -> list[Order]:
    """Without the worker at the beginning, which the simulator has at once."""
    begun_s = turns[0].now
    found = []
    for turn in turns:
        for effect in turn.effects:
            if isinstance(effect, Launch | Retire | End) and turn.now > begun_s:
                found.append(Order(turn.now - begun_s, 1 if isinstance(effect, Launch) else -1, effect.name))
    return found


def simulated_orders(folder: Path) -> list[Order]:
    """By the command that users have."""
    out = folder / "simulated.json"
    command = [sys.executable, "-m", "jedlik", "simulate", "--config", "scaling.yaml", "--trace", "arrivals.csv"]
    whole = [*command, "--json", str(out)]
    subprocess.run(whole, cwd=RECORD, check=True, capture_output=True)
    told = json.loads(out.read_text())
    assert (told["failed"], told["shed"], told["unfinished"]) == (0, 0, 0)
    actions = told["planner_action_list"]
    return [Order(a["at_s"], 1 if a["kind"] == "start" else -1, a["worker"].replace("/", "-")) for a in actions]


def test_the_simulator_predicts_what_the_live_planner_did(
    turns: list[LogRecord[PlannerEvent, PlannerEffect]], tmp_path: Path
) -> None:
    live, predicted = live_orders(turns), simulated_orders(tmp_path)
    assert [order.workers for order in live] == [1, 1, -1, -1] * 2  # 1 -> 3 -> 1 workers, twice
    assert [order.workers for order in predicted] == [order.workers for order in live], f"the simulated planner {AGAIN}"
    for one, other in zip(predicted, live, strict=True):
        allowed_s = START_S if one.workers > 0 else RELEASE_S
        assert one.at_s == pytest.approx(other.at_s, abs=allowed_s), f"{one} {other}: the simulated planner {AGAIN}"
