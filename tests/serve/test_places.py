"""Places for workers on a host."""

from pathlib import Path

import pytest

from jedlik.core.config import PlannerConfig, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.places import PlacedGpu, cpus, numa_nodes, on_cpus, on_gpus, worker_places


def test_without_a_budget_there_are_as_many_places_as_workers_asked_for() -> None:
    made = worker_places(ServeConfig(model="m", workers=1, prefill=1, decode=1))
    assert [(spot.place.name, spot.place.role) for spot in made] == [
        ("worker-0", "prefill"),
        ("worker-1", "decode"),
        ("worker-2", "both"),
    ]


def test_a_budget_gives_places() -> None:
    made = worker_places(ServeConfig(model="m", engine="simulated", workers=1, planner=PlannerConfig(budget=3.0)))
    assert [spot.place.name for spot in made] == ["worker-0", "worker-1", "worker-2"]
    assert all(spot.place.role is None and spot.place.processes == 1 for spot in made)


def test_a_planner_without_a_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set --planner\.budget"):
        worker_places(ServeConfig(model="m", planner=PlannerConfig(mode="advise")))


def test_workers_are_spread_over_nodes_and_stay_there() -> None:
    made = on_cpus(3, [(0, 1), (2, 3)], "h")
    assert [(spot.place.path, spot.cpus) for spot in made] == [
        (("h", "numa0"), (0, 1)),
        (("h", "numa0"), (0, 1)),
        (("h", "numa1"), (2, 3)),
    ]
    assert [(spot.place.path, spot.cpus) for spot in on_cpus(1, [(0, 1)], "h")] == [(("h",), ())]


def test_each_worker_has_a_gpu_of_its_own() -> None:
    made = on_gpus(2, [PlacedGpu("0", 0), PlacedGpu("3", None), PlacedGpu("4", 1)], "h")
    assert [(spot.place.gpus, spot.place.path, spot.device) for spot in made] == [
        (1.0, ("h", "numa0", "gpu0"), "0"),
        (1.0, ("h", "gpu3"), "3"),
    ]
    with pytest.raises(ConfigError, match="2 GPUs and this host has 1"):
        on_gpus(2, [PlacedGpu("0", 0)], "h")


def test_cpu_lists_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    assert cpus("0-2,5\n") == [0, 1, 2, 5]
    assert cpus("\n") == []
    node = tmp_path / "devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("0-4095\n")
    assert [len(node) > 0 for node in numa_nodes(tmp_path)] == [True]
