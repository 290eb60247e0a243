"""The places of workers on this host: as many as were asked for, or as the planner's budget has room for.

No engine of ours spans processes, so a worker is one process and no place is a gang's. With a budget, workers on CPUs
are spread over NUMA nodes and stay on theirs; on GPUs each has one of its own.
"""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.plans import Place
from jedlik.serve.engines import kind_of

QUERY = ["nvidia-smi", "--query-gpu=index,pci.bus_id", "--format=csv,noheader"]
SYS = Path("/sys")


class WorkerPlace(NamedTuple):
    """A place for one worker, and what its process may use there."""

    place: Place
    cpus: tuple[int, ...] = ()
    """The CPUs that the process may run on; none: all."""
    pool: int = 0
    """The number of the worker's pool."""
    device: str | None = None
    """The worker's GPU, as CUDA_VISIBLE_DEVICES has it; None: as it finds them."""


class PlacedGpu(NamedTuple):
    """One GPU of this host."""

    device: str
    node: int | None
    """The GPU's NUMA node, where that is known."""


def worker_places(config: ServeConfig) -> list[WorkerPlace]:
    """Return all places, worker-0 first. Raises ConfigError where the budget is more than there is."""
    host = socket.gethostname()
    if config.planner.budget is None:
        if config.planner.acts != "off":
            raise ConfigError("the planner needs to know what it may use: set --planner.budget, or --planner.mode off")
        split = set(config.roles) != {"both"}
        numbered = [
            (number, pool.role) for number, pool in enumerate(config.worker_pools) for _ in range(pool.replicas)
        ]
        return [
            WorkerPlace(Place(name=f"worker-{number}", path=(host,), role=role if split else None), pool=pool)
            for number, (pool, role) in enumerate(numbered)
        ]
    if kind_of(config).on_gpu(config):
        return on_gpus(config.most_workers, gpus(), host)
    return on_cpus(config.most_workers, numa_nodes(), host)


def on_cpus(most: int, nodes: Sequence[tuple[int, ...]], host: str) -> list[WorkerPlace]:
    """Return places on CPUs: neighbours share a NUMA node; where there is but one, no CPUs are named."""
    made = []
    for number in range(most):
        node = number * len(nodes) // most if len(nodes) > 1 else None
        path = (host,) if node is None else (host, f"numa{node}")
        made.append(WorkerPlace(Place(name=f"worker-{number}", path=path), () if node is None else nodes[node]))
    return made


def on_gpus(most: int, found: Sequence[PlacedGpu], host: str) -> list[WorkerPlace]:
    """Return places with a GPU each. Raises ConfigError."""
    if most > len(found):
        raise ConfigError(f"planner.budget is {most} GPUs and this host has {len(found)}: lower it")
    made = []
    for number, gpu in enumerate(found[:most]):
        node = () if gpu.node is None else (f"numa{gpu.node}",)
        place = Place(name=f"worker-{number}", gpus=1.0, path=(host, *node, f"gpu{gpu.device}"))
        made.append(WorkerPlace(place, device=gpu.device))
    return made


def gpus() -> list[PlacedGpu]:
    """Return the GPUs that a process of ours may use, in its order. Raises ConfigError."""
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=True).stdout
        rows = [line.split(",") for line in listed.splitlines() if line.strip()]
        found = [PlacedGpu(index.strip(), _node_of(bus.strip())) for index, bus in rows]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"nvidia-smi does not list this host's GPUs ({error}): set --device cpu") from error
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    nodes = {gpu.device: gpu.node for gpu in found}
    return [
        PlacedGpu(device, nodes.get(device)) for device in filter(None, (part.strip() for part in visible.split(",")))
    ]


def numa_nodes(sys: Path = SYS) -> list[tuple[int, ...]]:
    """Return the CPUs of each NUMA node that has any which this process may use."""
    allowed = os.sched_getaffinity(0)
    lists = sorted(sys.glob("devices/system/node/node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:]))
    nodes = [tuple(cpu for cpu in cpus(path.read_text()) if cpu in allowed) for path in lists]
    return [node for node in nodes if node]


def cpus(text: str) -> list[int]:
    """Return the numbers of a list such as `0-3,8`, as the kernel writes it."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _node_of(bus: str) -> int | None:
    """nvidia-smi has eight digits of the domain, the kernel four."""
    domain, _, rest = bus.lower().partition(":")
    try:
        node = int((SYS / "bus/pci/devices" / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None
