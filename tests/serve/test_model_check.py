"""`jedlik serve` and `jedlik doctor` refuse the same models: text, vocabulary and template are part of the check."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.models import tiny
from jedlik.models.cache import locked
from jedlik.models.files import resolve
from jedlik.serve.doctor import served
from jedlik.serve.model_check import examine, examine_apart


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    tiny.write(tmp_path / "model")
    return tmp_path / "model"


def template(source: str) -> Callable[[Path], object]:
    return lambda path: (path / "chat_template.jinja").write_text(source)


def tokenizer(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], object]:
    def written(path: Path) -> None:
        values = json.loads((path / "tokenizer.json").read_text())
        change(values)
        (path / "tokenizer.json").write_text(json.dumps(values))

    return written


def bigger(values: dict[str, dict[str, object]]) -> None:
    """One token more than the model has rows for."""
    vocabulary = values["model"]["vocab"]
    assert isinstance(vocabulary, dict)
    vocabulary["zzzz"] = 512


HOPELESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), r"no tokenizer\.json"),
    "tokenizer is no JSON": (lambda path: (path / "tokenizer.json").write_text("{"), "is not JSON"),
    "tokenizer of another kind": (lambda path: (path / "tokenizer.json").write_text('{"a": 1}'), "no tokenizer"),
    "tokenizer's settings": (lambda path: (path / "tokenizer_config.json").write_text("["), "is not JSON"),
    "another model's tokenizer": (tokenizer(bigger), "token id 512, and config.json says vocab_size 512"),
    "open loop": (template("{% for x in messages %}{{ x }"), "does not parse"),
    "unknown filter": (template("{{ messages | nosuch }}"), "does not parse"),
    "unknown function": (template("{{ nosuch(messages) }}"), "fails on a plain question"),
    "wrong type": (template("{{ messages + 1 }}"), "fails on a plain question"),
    "no text": (lambda path: (path / "chat_template.jinja").write_bytes(b"\xff\xfe"), "not UTF-8"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_doctor_and_the_check_of_serve_refuse_the_same(model: Path, name: str) -> None:
    spoil, says = HOPELESS[name]
    spoil(model)
    with pytest.raises(ConfigError, match=says) as refusal:
        examine(model)
    finding = served(str(model))
    assert (finding.state, finding.what) == ("failed", str(refusal.value))
    assert finding.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda path: None,
        lambda path: (path / "chat_template.jinja").unlink(),
        template("{{ raise_exception('a system message must come first') }}"),
        tokenizer(lambda values: values["added_tokens"].append(  # type: ignore[attr-defined]
            {"id": 512, "content": "<image>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False})),
    ],
)  # fmt: skip
def test_what_can_be_served_passes(model: Path, change: Callable[[Path], object]) -> None:
    """Gemma 3 has a token for images beyond its text model's vocabulary: a request that names it is refused later."""
    change(model)
    assert examine(model).layers == 2
    assert served(str(model)).state == "ok"


def test_a_server_checks_in_another_process_by_its_own_settings(model: Path) -> None:
    examine_apart(model, ServeConfig(model="x"))
    (model / "generation_config.json").write_text('{"top_p": 7}')
    with pytest.raises(ConfigError, match="top_p is 7"):
        examine_apart(model, ServeConfig(model="x"))
    (model / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        examine_apart(model, ServeConfig(model="x", generation_config="none"))
    examine_apart(model, ServeConfig(model="x", generation_config="none", engine="simulated"))


def test_what_jedlik_made_itself_is_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEDLIK_HOME", str(tmp_path))
    made = resolve("tiny-random").path
    (made / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="remove that folder"):
        examine(made)
    finding = served("tiny-random")
    assert finding.state == "failed"
    assert str(made) in finding.what


def test_the_check_of_serve_imports_no_torch() -> None:
    code = (
        "import sys; import jedlik.serve.model_check; assert not {'torch', 'tokenizers', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_hopeless_start_ends_with_one_line(model: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1])
    command = [sys.executable, "-m", "jedlik", "serve", str(model), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"jedlik: {model}/model.safetensors ends after")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/model", "hf download org/model --local-dir model"),
        ("hf://org/model", "hf download org/model"),
        ("https://huggingface.co/org/model-7B.v2/tree/main", "hf download org/model-7B.v2 "),
        ("org/model:Q4_K_M", "hf download org/model "),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "or give smollm2-135m"),
        ("google/gemma-3-270m", "or give gemma3-270m"),
        ("org/model.gguf", "no such file"),
        ("a/b/c", "no such file"),
        ("/a/b", "no such file"),
        ("x" * 300 + "/y", "name too long|hf download"),
    ],
)
def test_names_of_the_hub_are_told_from_paths(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(name)
    assert served(name).state == "failed"


def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="link to a missing file"):
        resolve(str(tmp_path / "link"))


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]
    assert not list(tmp_path.iterdir())
    shutil.copy(__file__, tmp_path / "x.lock")  # of a release that left them
    with locked(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())
