"""Tiers as configured: taken apart, divided among workers, and refused with a remedy where they can't be had."""

import importlib.util
from pathlib import Path

import pytest

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.core.units import size_text
from jedlik.serve import tiers
from jedlik.serve.nodes import counts_of
from jedlik.serve.settings import settle
from jedlik.serve.supervisor import staff

LAYOUT = Layout(dtype="float32", layers=2, kv_heads=1, head_dim=8, block_size=16)
BLOCK = 2 * 2 * 16 * 8 * 4


def config(**values: object) -> ServeConfig:
    return settle({"model": "m", **values}, {}, None).config


def test_path_and_size_are_taken_apart() -> None:
    assert tiers.disk(config()) is None
    found = tiers.disk(config(kv_disk="/var/cache/a:b:20G"))
    assert found == tiers.DiskTier(Path("/var/cache/a:b"), 20 * 10**9)
    assert found is not None
    assert found.of("worker-1") == Path("/var/cache/a:b/worker-1")
    assert tiers.disk(config(kv_disk="relative:512MiB")) == tiers.DiskTier(Path.cwd() / "relative", 512 << 20)


@pytest.mark.parametrize("text", ["/var/cache", "20G", ":20G", "/var/cache:", "/var/cache:many"])
def test_what_is_not_path_and_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="PATH:BYTES, as in"):
        config(kv_disk=text)


@pytest.mark.parametrize("url", ["bucket/prefix", "ftp://host/path", "s3://"])
def test_a_url_nobody_can_open_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://"):
        config(kv_object=url)


def test_each_worker_gets_its_part() -> None:
    told = config(prefill="1", decode="1", kv_host_bytes=str(10 * BLOCK), kv_disk="/x:4MiB", kv_object="file:///y")
    host, disk, remote = tiers.sizes(told, LAYOUT)
    assert (host.tier, host.blocks) == ("host", 10)
    assert disk.tier == "disk"
    assert 2 < disk.blocks * BLOCK <= 2 << 20
    assert (remote.tier, remote.blocks) == ("object", tiers.OBJECT_BLOCKS)
    assert tiers.sizes(config(), LAYOUT) == ()


@pytest.mark.parametrize(("key", "value"), [("kv_host_bytes", str(BLOCK)), ("kv_disk", "/x:4096")])
def test_a_tier_that_holds_nothing_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="holds no two blocks"):
        tiers.sizes(config(**{key: value}), LAYOUT)


def test_the_disk_s_folder_is_made_and_must_have_room(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    assert tiers.prepare(config(kv_disk=f"{folder}:1MiB")) == []
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="lower BYTES"):
        tiers.prepare(config(kv_disk=f"{folder}:1000T"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be made"):
        tiers.prepare(config(kv_disk=f"{tmp_path}/file/kv:1MiB"))


def test_folders_of_workers_that_are_no_more_are_told(tmp_path: Path) -> None:
    for name in ("worker-0", "worker-2"):
        (tmp_path / name).mkdir()
    said = tiers.prepare(config(workers="2", kv_disk=f"{tmp_path}:1MiB"))
    assert len(said) == 1
    assert "worker-2" in said[0]
    assert "worker-0" not in said[0]


def test_an_object_store_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        tiers.prepare(config(kv_object="file:///x"))


def test_the_cluster_key_is_kept_where_blocks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEDLIK_HOME", str(tmp_path / "home"))
    assert tiers.key_folder(config()) is None
    assert tiers.key_folder(config(kv_disk="/x:1G", kv_object="s3://b")) == Path("/x")
    assert tiers.key_folder(config(kv_object="s3://b")) == tmp_path / "home"


def test_a_role_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="--decode 1"):
        config(prefill="2")
    with pytest.raises(ConfigError, match="--prefill 1"):
        config(decode="2")
    assert config(prefill="2", decode="1").roles == ["prefill", "prefill", "decode"]
    assert config(prefill="1", workers="1").roles == ["prefill", "both"]


def test_the_start_message_says_who_does_what() -> None:
    assert staff(counts_of(config().roles)) == "2 workers"
    assert staff(counts_of(config(workers="1").roles)) == "1 worker"
    assert (
        staff(counts_of(config(prefill="1", decode="2", workers="1").roles))
        == "4 workers (1 prefill, 2 decode, 1 both)"
    )


@pytest.mark.parametrize(("size", "text"), [(900, "900 bytes"), (3 << 29, "1.5 GiB"), (512 << 20, "512 MiB")])
def test_sizes_are_shown_as_people_write_them(size: int, text: str) -> None:
    assert size_text(size) == text
