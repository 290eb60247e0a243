"""The planner node of one server, made of its settings, its places and the profile, where there is one."""

from collections.abc import Sequence

from jedlik.core.config import Role, ServeConfig
from jedlik.core.plans import Counts, Place
from jedlik.nodes.planner.node import PlannerNode
from jedlik.nodes.planner.wish import limits_of
from jedlik.perf.model import LinearModel
from jedlik.planning.named import make
from jedlik.planning.policy import Terms


def make_planner(config: ServeConfig, places: Sequence[Place], initial: Counts) -> PlannerNode:
    planner = config.planner
    terms = Terms(limits_of(planner, places), planner.attainment, planner.tick_s, _model(config), None)
    decider = make("static" if planner.acts == "off" else planner.policy, initial, terms)
    return PlannerNode(planner, decider, places, initial, (config.gateway.slo_ttft_s, config.gateway.slo_itl_s))


def _model(config: ServeConfig) -> LinearModel | None:
    if config.profile is None or config.planner.acts == "off":
        return None
    from jedlik.serve.engines import profiled_costs

    costs = profiled_costs(config)
    return None if costs is None else LinearModel(costs)


def counts_of(roles: Sequence[Role]) -> Counts:
    """Workers by role."""
    return {role: roles.count(role) for role in dict.fromkeys(roles)}
