"""Sizes that nobody named, and what is said where a wish does not fit."""

from pathlib import Path

import pytest

from jedlik.cli.sizing import (
    LEAST_BYTES,
    MOST_BYTES,
    available_bytes,
    gpu_share,
    host_share,
    host_sharing,
    sizes,
    threads,
)
from jedlik.core.config import PlannerConfig, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout

LAYOUT = Layout("bfloat16", 30, 3, 64, 16)
BLOCK = 30 * 2 * 16 * 3 * 64 * 2


def test_the_default_is_a_share_within_bounds() -> None:
    config = ServeConfig(model="m")
    for memory, budget in ((4 << 30, (4 << 30) // 10), (1 << 20, LEAST_BYTES), (1 << 40, MOST_BYTES)):
        size = sizes(config, LAYOUT, 8192, host_share(memory))
        assert size.total_blocks == budget // BLOCK
        assert size.kv_cache_bytes == size.total_blocks * BLOCK <= budget


def test_the_context_is_cut_to_what_the_cache_holds() -> None:
    size = sizes(ServeConfig(model="m", kv_cache_bytes=11 * BLOCK), LAYOUT, 8192, 0)
    assert (size.total_blocks, size.max_model_len) == (11, 160)


def test_a_context_asked_for_must_fit() -> None:
    with pytest.raises(ConfigError, match=f"--kv-cache-bytes {11 * BLOCK}"):
        sizes(ServeConfig(model="m", kv_cache_bytes=10 * BLOCK, max_model_len=160), LAYOUT, 8192, 0)
    with pytest.raises(ConfigError, match="own context of 8192"):
        sizes(ServeConfig(model="m", max_model_len=9000), LAYOUT, 8192, 1 << 40)
    with pytest.raises(ConfigError, match="holds no block"):
        sizes(ServeConfig(model="m", kv_cache_bytes=BLOCK), LAYOUT, 8192, 0)


def test_threads_are_shared_by_the_workers() -> None:
    assert threads(ServeConfig(model="m", workers=2), 8) == 4
    assert threads(ServeConfig(model="m", workers=3), 2) == 1
    assert threads(ServeConfig(model="m", threads=7), 2) == 7


def test_workers_share_a_gpu_after_their_weights() -> None:
    assert gpu_share(100 << 30, 10 << 30, 2) == 30 << 30
    assert gpu_share(1 << 30, 10 << 30, 1) == LEAST_BYTES


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 8000 << 10
    (tmp_path / "memory.max").write_text("4096000\n")
    (tmp_path / "memory.current").write_text("96000\n")
    assert available_bytes(meminfo, tmp_path) == 4_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 8000 << 10


def test_where_workers_come_and_go_each_gets_the_share_of_the_most_there_may_be() -> None:
    config = ServeConfig(model="m", workers=1, planner=PlannerConfig(budget=4.0))
    assert threads(config, 16) == 4
    assert host_sharing(config, 8 << 30) == host_share(8 << 30)
    many = ServeConfig(model="m", workers=1, planner=PlannerConfig(budget=16.0))
    assert host_sharing(many, 8 << 30) == (8 << 30) // 32
