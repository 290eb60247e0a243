"""The nodes of a server, each made of its process's configuration: in production, and again to replay its log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jedlik.core.config import Role, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.ids import GatewayId
from jedlik.core.plans import Counts, Place
from jedlik.core.protocol import Card, StepCosts
from jedlik.kv.hashing import BlockHasher
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.serve.engines import profiled_costs
from jedlik.serve.plugins import load_planner, policies_of
from jedlik.serve.process import ProcessConfig

if TYPE_CHECKING:
    from jedlik.nodes.planner.node import PlannerNode
    from jedlik.nodes.worker.node import WorkerNode

# A gateway does without what the other nodes bring, numpy among it: they are imported where they are made.


def make_gateway(process: ProcessConfig) -> GatewayNode:
    """Return a gateway node. Raises ConfigError for a wrong policy."""
    config, naming = process.config, Naming(process.cluster_key)
    policy, shadow = policies_of(config.gateway)
    return GatewayNode(config.gateway, GatewayId(process.id), naming, config.worker, policy, shadow)


def make_worker(process: ProcessConfig, card: Card, costs: StepCosts | None = None) -> "WorkerNode":
    """Return a worker node. `costs`: those of a profile, where there is one."""
    from jedlik.nodes.worker.node import WorkerNode

    hasher = BlockHasher(process.cluster_key, card.revision, card.layout.block_size)
    return WorkerNode(card, process.config.worker, hasher, profile=costs, role=process.role)


def make_planner(config: ServeConfig, places: Sequence[Place], initial: Counts) -> "PlannerNode":
    """Return a planner node. Raises ConfigError for a wrong profile or planner."""
    from jedlik.nodes.planner.node import PlannerNode
    from jedlik.nodes.planner.wish import limits_of
    from jedlik.perf.model import LinearModel
    from jedlik.planning.policy import Terms

    planner = config.planner
    costs = None if planner.acts == "off" else profiled_costs(config)
    model = None if costs is None else LinearModel(costs)
    terms = Terms(limits_of(planner, places), planner.attainment, planner.tick_s, model, None)
    loaded = load_planner("static" if planner.acts == "off" else planner.policy)
    if loaded.foresee is not None:
        raise ConfigError(f"planner {planner.policy} must know the workload beforehand: use it with `jedlik simulate`")
    decider = loaded.make(initial, terms)
    return PlannerNode(planner, decider, places, initial, (config.gateway.slo_ttft_s, config.gateway.slo_itl_s))


def counts_of(roles: Sequence[Role]) -> Counts:
    """Return the number of workers by role."""
    return {role: roles.count(role) for role in dict.fromkeys(roles)}
