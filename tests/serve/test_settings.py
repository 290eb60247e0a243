"""Flags over environment over file over defaults; what is wrong is named with where it stood."""

import re
import typing
from pathlib import Path

import pytest

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.units import size_bytes
from jedlik.serve import values
from jedlik.serve.fields import Field, fields
from jedlik.serve.settings import settle


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
        ("model: m\nport: 70000", "at least 0 and at most 65535"),
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
    ("text", "line", "message"),
    [
        ("model: m\nport: 1\nport: 2", 3, "'port' is there twice, first on line 2"),
        ("model: m\nworker:\n  block_size: 16\n  block_size: 32", 4, "'block_size' is there twice, first on line 3"),
        ("model: m\nworker: {block_size: 16}\nworker: {max_sequences: 2}", 3, "'worker' is there twice"),
        ("model: m\nfleet:\n  pools:\n    - {name: a, name: b}", 4, "'name' is there twice"),
    ],
)
def test_a_key_may_stand_once_wherever_it_is(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settle({}, {}, file)
    assert f"serve.yaml:{line}: {message}" in str(caught.value)


NUMERIC = [field for field in fields() if values.taken_apart(field.type)[0] in (int, float)]
WRONG = ("1_000", " 1", "1 ", "+1", "0x10", "1e", "nan", "inf", "-inf", "-1", "-0.5", "\u0661", "9" * 400, "1e999", "")


@pytest.mark.parametrize("field", NUMERIC, ids=lambda field: field.key)
@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_no_number_is_read_leniently_or_out_of_range(field: Field, where: str, tmp_path: Path) -> None:
    for text in WRONG:
        flags, environ, file = {"model": "m"}, dict[str, str](), None
        if where == "flag":
            flags[field.key] = text
        elif where == "environment":
            environ[field.variable] = text
        else:
            file = tmp_path / "serve.yaml"
            file.write_text(
                "".join(f"{'  ' * n}{part}:\n" for n, part in enumerate(field.path)).rstrip() + f" {text!r}"
            )
        with pytest.raises(ConfigError, match=re.escape(field.key)):
            settle(flags, environ, file)


def test_every_number_has_a_range() -> None:
    assert [field.key for field in NUMERIC if values.taken_apart(field.type)[1] is None] == []


def test_every_field_says_what_it_means() -> None:
    assert [field.key for field in fields() if not field.help] == []


def test_a_choice_that_is_none_is_refused_with_the_choices() -> None:
    for field in fields():
        kind = values.taken_apart(field.type)[0]
        if typing.get_origin(kind) is typing.Literal:
            with pytest.raises(ConfigError) as caught:
                settle({"model": "m", field.key: "xml"}, {}, None)
            assert all(choice in str(caught.value) for choice in typing.get_args(kind))


def test_a_file_s_numbers_are_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    for text in ("1_0", "010", "0o10", "1:30", "0x1F", "1.0", "[1]", "{a: 1}", "yes"):
        file.write_text(f"model: m\nport: {text}\n")
        with pytest.raises(ConfigError, match="port"):
            settle({}, {}, file)
    file.write_text("model: 1e3\nplanner: {budget: 1e1, start_s: ~}\ndeterministic: on\ndrain_s: 1\n")
    config = settle({}, {}, file).config
    assert (config.model, config.planner.budget, config.planner.start_s) == ("1e3", 10.0, None)
    assert (config.deterministic, config.drain_s) == (True, 1.0)


@pytest.mark.parametrize("flags", [{"workers": "0"}, {"workers": "0", "planner.budget": "2", "planner.mode": "off"}])
def test_a_server_without_workers_is_refused_with_a_remedy(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--workers 1"):
        settle({"model": "m"} | flags, {}, None)


def test_messages_hold_no_api_keys() -> None:
    for text in ("s3cret=a,s3cret=b", "s3cret=a,=b"):
        with pytest.raises(ConfigError) as caught:
            settle({"model": "m", "api_keys": text}, {}, None)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("2GiB", 2 << 30), ("512 MB", 512 * 10**6), ("1.5g", 15 * 10**8), ("64MiB", 64 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["lots", "", " 1GiB", "1_0GiB", "-1", "5i", "1 i", "9" * 400, "\u0661"])
def test_a_wrong_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2GiB"):
        size_bytes(text)


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
        ({"planner.budget": "0"}, "at least 1"),
        ({"planner.budget": "2", "workers": "3"}, "workers at start: 3; planner.budget has room for 2"),
        ({"planner.budget": "2", "planner.min_workers": "3"}, "planner.min_workers: 3; planner.budget has room for 2"),
        (
            {"planner.budget": "2", "prefill": "1", "decode": "1", "planner.min_decode": "2"},
            "planner.min_prefill and planner.min_decode together: 3",
        ),
        ({"planner.attainment": "1"}, "more than 0 and less than 1"),
        ({"planner.attainment": "0"}, "more than 0 and less than 1"),
        ({"planner.tick_s": "0"}, "more than 0"),
        ({"planner.budget": "4", "gateway.report_s": "0"}, "gateway.report_s is 0"),
        ({"orphan_s": "5"}, "orphan_s needs run_dir"),
        ({"orphan_s": "-1", "run_dir": "/tmp/x"}, "at least 0"),
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
