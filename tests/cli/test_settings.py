"""Flags over environment over file over defaults; what is wrong is named with where it stood."""

import re
from pathlib import Path

import pytest

from jedlik.cli.fields import fields
from jedlik.cli.settings import settle
from jedlik.cli.units import size_bytes
from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\nport: 1\nworkers: 3\nworker:\n  block_size: 32\nkv_cache_bytes: 2GiB\n")
    settings = settle({"port": "3"}, {"JEDLIK_PORT": "2", "JEDLIK_WORKER__MAX_SEQUENCES": "7"}, file)
    config = settings.config
    assert (config.port, config.workers, config.worker.block_size, config.worker.max_sequences) == (3, 3, 32, 7)
    assert config.kv_cache_bytes == 2 << 30
    assert settings.sources["port"] == "flag --port"
    assert settings.sources["worker.max_sequences"] == "environment JEDLIK_WORKER__MAX_SEQUENCES"
    assert settings.sources["workers"] == f"file {file}"
    assert settings.sources["host"] == "default"


def test_only_defaults_are_the_schema_s() -> None:
    assert settle({"model": "m"}, {}, None).config == ServeConfig(model="m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nprot: 1", "unknown key 'prot'; did you mean 'port'"),
        ("model: m\nworker: {blok_size: 1}", "unknown key 'worker.blok_size'; did you mean 'worker.block_size'"),
        ("model: m\nport: many", "port = 'many'"),
        ("model: m\ndevice: tpu", "device = 'tpu'"),
        ("[1]", "expected a mapping"),
        ("model: [", "cannot be read as YAML"),
        ("port: 1", "no model"),
        ("model: m\nworker: 3", "unknown key 'worker'"),
        ("model: m\nport: 70000", "ports are 0"),
        ("model: m\nworkers: -1", "at least 0"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settle({}, {}, file)
    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_variable_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        settle({}, {}, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="JEDLIK_PROT; did you mean 'JEDLIK_PORT'"):
        settle({"model": "m"}, {"JEDLIK_PROT": "1"}, None)


def test_leaving_loopback_needs_keys_or_an_open_door() -> None:
    with pytest.raises(ConfigError, match="--api-keys"):
        settle({"model": "m", "host": "0.0.0.0"}, {}, None)
    assert settle({"model": "m", "host": "0.0.0.0", "allow_open": "yes"}, {}, None).config.allow_open
    keyed = settle({"model": "m", "host": "0.0.0.0", "api_keys": "secret=alice,other"}, {}, None).config
    assert keyed.api_keys == {"secret": "alice", "other": "default"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("2GiB", 2 << 30), ("512 MB", 512 * 10**6), ("1.5g", 15 * 10**8), ("64MiB", 64 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="such as 2GiB"):
        size_bytes("lots")


def test_none_clears_an_optional_value() -> None:
    assert (
        settle({"model": "m", "kv_cache_bytes": "none"}, {"JEDLIK_KV_CACHE_BYTES": "1"}, None).config.kv_cache_bytes
        is None
    )


def test_every_field_has_its_own_flag_and_variable() -> None:
    every = fields()
    assert len({f.flag for f in every}) == len({f.variable for f in every}) == len(every)
    assert next(f for f in every if f.key == "worker.block_size").help == "Tokens per KV block."


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"planner.budget": "0"}, "planner.budget is 0.0; at least 1"),
        ({"planner.budget": "2", "workers": "3"}, "workers at start: 3; planner.budget has room for 2"),
        ({"planner.budget": "2", "planner.min_workers": "3"}, "planner.min_workers: 3; planner.budget has room for 2"),
        (
            {"planner.budget": "2", "prefill": "1", "decode": "1", "planner.min_decode": "2"},
            "planner.min_prefill and planner.min_decode together: 3",
        ),
        ({"planner.attainment": "1"}, "planner.attainment is 1.0"),
        ({"planner.attainment": "0"}, "planner.attainment is 0.0"),
        ({"planner.tick_s": "0"}, "planner.tick_s is 0.0"),
        ({"planner.budget": "4", "gateway.report_s": "0"}, "gateway.report_s is 0"),
        ({"orphan_s": "5"}, "orphan_s needs run_dir"),
        ({"orphan_s": "-1", "run_dir": "/tmp/x"}, "orphan_s is -1.0; at least 0"),
    ],
)
def test_planners_and_orphans_that_can_not_be_are_refused(flags: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        settle({"model": "m"} | flags, {}, None)


def test_a_budget_bounds_the_workers_that_nobody_named() -> None:
    config = settle({"model": "m", "planner.budget": "1"}, {}, None).config
    assert (config.roles, config.most_workers) == (["both"], 1)
    config = settle({"model": "m", "planner.budget": "5"}, {}, None).config
    assert (config.roles, config.most_workers) == (["both", "both"], 5)
