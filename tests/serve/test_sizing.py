"""Sizes that nobody named, and what is said where a wish does not fit."""

from pathlib import Path

import pytest

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.serve.sizing import (
    LEAST_BYTES,
    MOST_BYTES,
    available_bytes,
    gpu_share,
    host_share,
    sizes,
    threads,
)

LAYOUT = Layout(dtype="bfloat16", layers=30, kv_heads=3, head_dim=64, block_size=16)
BLOCK = 30 * 2 * 16 * 3 * 64 * 2


def test_the_default_is_a_share_within_bounds() -> None:
    config = ServeConfig(model="m")
    for memory, budget in ((4 << 30, (4 << 30) // 10), (1 << 20, LEAST_BYTES), (1 << 40, MOST_BYTES)):
        size = sizes(config, LAYOUT, 8192, host_share(memory))
        assert size.total_blocks == budget // BLOCK
        assert size.kv_cache_bytes == size.total_blocks * BLOCK <= budget


def test_the_context_is_cut_to_what_the_cache_holds() -> None:
    size = sizes(ServeConfig(model="m", kv_cache_bytes=21 * BLOCK), LAYOUT, 8192, 0)
    assert (size.total_blocks, size.max_model_len) == (21, 320)


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


def machine(folder: Path, *lines: str) -> Path:
    """Its /proc: 8000 kB are free, and this process is in these control groups."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (folder / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    return folder / "proc"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("line", "at", "limit", "used", "pages"),
    [
        ("0::/a/b", "a/b", "memory__max", "memory__current", "file 1\nactive_file 30\ninactive_file 70"),
        ("0::/a/b", "a", "memory__high", "memory__current", "active_file 30\ninactive_file 70"),
        ("0::/not/here", "", "memory__max", "memory__current", "active_file 100"),
        (
            "4:cpu,memory:/a/b",
            "memory/a/b",
            "memory__limit_in_bytes",
            "memory__usage_in_bytes",
            "total_active_file 100",
        ),
        ("4:memory:/a/b", "memory/a", "memory__limit_in_bytes", "memory__usage_in_bytes", "total_inactive_file 100"),
        ("4:memory:/docker/x", "memory", "memory__limit_in_bytes", "memory__usage_in_bytes", "total_inactive_file 100"),
    ],
)
def test_a_container_s_limit_counts(tmp_path: Path, line: str, at: str, limit: str, used: str, pages: str) -> None:
    proc, groups = machine(tmp_path, "7:blkio:/a/b", line), tmp_path / "groups"
    assert available_bytes(proc, groups) == 8000 << 10
    group(groups / at, **{"memory__max": "max", "memory__high": "max", used: 96_100, "memory__stat": pages})
    group(groups / at, **{limit: 4_096_000})
    assert available_bytes(proc, groups) == 4_000_000
    group(groups / at, **{limit: 90_000})
    assert available_bytes(proc, groups) == 0
    group(groups / at, **{limit: 1 << 62})
    assert available_bytes(proc, groups) == 8000 << 10


def test_a_cache_that_nobody_could_use_is_refused() -> None:
    for holds in (1, 15):
        with pytest.raises(ConfigError, match=f"holds {holds * 16} tokens.*--kv-cache-bytes to {17 * BLOCK}"):
            sizes(ServeConfig(model="m", kv_cache_bytes=(holds + 1) * BLOCK), LAYOUT, 8192, 0)
    for config, model_len in (
        (ServeConfig(model="m", kv_cache_bytes=17 * BLOCK), 8192),
        (ServeConfig(model="m", kv_cache_bytes=2 * BLOCK, max_model_len=16), 8192),
        (ServeConfig(model="m", kv_cache_bytes=5 * BLOCK), 64),
    ):
        assert sizes(config, LAYOUT, model_len, 0).kv_cache_bytes == config.kv_cache_bytes
