"""The clairvoyant planner: the cheapest fleet schedule it finds, with arrivals known, that reaches an attainment.

What it plays has been simulated as it is played: a fleet that could have been, no bound that nobody could reach. How it
is found: `oracle_search`. In a fleet of two roles no role is flipped.
"""

from collections.abc import Callable, Mapping

from oracle_load import Came
from oracle_schedule import Counts, committed
from oracle_search import Search

from jedlik.core.config import Role
from jedlik.core.plans import Wish
from jedlik.planning.policy import Planner, Situation
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Workload
from jedlik.sim.world import simulate

TICK_S = 1.0
MARGIN_S = 1.5
"""Starts are ordered so much sooner than they take: a tick, and for joining."""


class Oracle:
    """Plays a schedule that was found with all arrivals known. It fulfils `planning.policy.Planner`."""

    name = "oracle"
    tick_s = TICK_S

    def __init__(self, schedule: Mapping[Role, Counts], bin_s: float, start_s: Mapping[Role, float]) -> None:
        self._schedule, self._bin_s, self._start_s = schedule, bin_s, start_s

    def decide(self, situation: Situation) -> Wish:
        counts = {
            role: committed(chosen, situation.now, self._start_s[role] + MARGIN_S, self._bin_s)
            for role, chosen in self._schedule.items()
        }
        return Wish(counts, "all that will come is known", flips=False)


def foresee(
    setup: Setup, workload: Callable[[], Workload], attainment: float | None = None, simulations: int = 20
) -> Planner:
    """Return the planner of one simulation that reaches an attainment; default: the settings' `planner.attainment`.

    `workload` makes the same requests each time it is called. The search simulates the run some 20 times.
    """
    goal = setup.planner.attainment if attainment is None else attainment

    def run(schedule: Mapping[Role, Counts], bin_s: float) -> SimulationRun:
        return simulate(setup, workload(), planner=player(setup, schedule, bin_s))

    requests = [Came(one.at_s, one.text.tokens, 0, one.output_tokens) for one in workload().arrivals()]
    search = Search(setup, run, requests, goal, simulations)
    return player(setup, search.found().schedule, search.bin_s)


def player(setup: Setup, schedule: Mapping[Role, Counts], bin_s: float) -> Oracle:
    """Of a schedule in that fleet: a worker of a role starts as slowly as the slowest of its pools."""
    start_s = {role: max(pool.start_s for pool in setup.pools if pool.role == role) for role in schedule}
    return Oracle(schedule, bin_s, start_s)
