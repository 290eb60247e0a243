"""generation_config.json: which values are taken, which are refused, and what an alias adds to the file."""

import json
import math
from pathlib import Path

import pytest

from jedlik.core.errors import ConfigError
from jedlik.core.requests import OPENAI, Defaults
from jedlik.models import catalogue, files, generation


def test_every_key_is_read_and_nothing_else() -> None:
    values = {
        "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05, "max_new_tokens": 64,
        "do_sample": False, "max_length": 20, "num_beams": 4, "eos_token_id": [1, 2], "transformers_version": "5.0",
    }  # fmt: skip
    assert generation.parsed(values, "x") == Defaults(
        temperature=0.7, top_p=0.8, top_k=20, min_p=0.05, repetition_penalty=1.05, max_tokens=64
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, OPENAI),
        ({"temperature": None, "top_k": None, "max_new_tokens": None}, OPENAI),
        ({"temperature": 0}, Defaults(temperature=0.0)),
        ({"top_k": 0}, OPENAI),
        ({"top_k": -1}, OPENAI),
        ({"top_k": 40.0}, Defaults(top_k=40)),
        ({"repetition_penalty": 1}, OPENAI),
    ],
)
def test_usual_spellings_are_taken(values: dict[str, object], expected: Defaults) -> None:
    assert generation.parsed(values, "x") == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.7"), ("temperature", -0.1), ("temperature", math.nan), ("temperature", True),
        ("temperature", [0.7]), ("temperature", 10**400), ("top_p", 0), ("top_p", 1.5), ("top_k", 2.5), ("top_k", -2),
        ("min_p", 2), ("repetition_penalty", 0), ("repetition_penalty", math.inf), ("max_new_tokens", 0),
        ("max_new_tokens", -1), ("max_new_tokens", "many"), ("max_new_tokens", math.inf),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        generation.parsed({name: value}, "here.json")
    assert f"here.json: {name} " in str(refusal.value)
    assert "--generation-config none" in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", '"x"', "\xff", "version https://git-lfs.github.com/spec/v1\noid"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / generation.FILE).write_text(text, "latin-1")
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        generation.read(tmp_path)


def test_a_model_without_the_file_has_openai_s_defaults(tmp_path: Path) -> None:
    assert generation.read(tmp_path) == OPENAI


def test_what_is_recommended_is_added_once_and_never_overrides(tmp_path: Path) -> None:
    path = tmp_path / generation.FILE
    path.write_text(json.dumps({"temperature": 0.5, "eos_token_id": 2}))
    generation.complete(tmp_path, {"temperature": 0.2, "top_p": 0.9})
    assert json.loads(path.read_text()) == {"temperature": 0.5, "top_p": 0.9, "eos_token_id": 2}
    written = path.stat().st_ino
    generation.complete(tmp_path, {"temperature": 0.2, "top_p": 0.9})
    assert path.stat().st_ino == written
    assert [file.name for file in tmp_path.iterdir()] == [generation.FILE]


def test_an_alias_made_by_an_older_release_gets_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEDLIK_HOME", str(tmp_path))
    old = files.shelf() / "smollm2-135m"
    old.mkdir(parents=True)
    (old / generation.FILE).write_text('{"eos_token_id": 2}')
    found = files.resolve("smollm2-135m")
    assert generation.read(found.path) == Defaults(temperature=0.2, top_p=0.9)


def test_aliases_recommend_what_can_be_read() -> None:
    read = {alias.name: generation.parsed(alias.generation, alias.name) for alias in catalogue.ALIASES}
    assert read["gemma3-270m"] == Defaults(temperature=1.0, top_k=64, top_p=0.95)
    assert read["tiny-random"] == OPENAI
