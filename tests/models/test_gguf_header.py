"""A GGUF file is judged by its header: cut anywhere, of another kind, or for an architecture nobody converts."""

import struct
from pathlib import Path

import pytest

from jedlik.core.errors import ConfigError
from jedlik.core.requests import Defaults
from jedlik.models import generation, gguf_header
from jedlik.models.files import resolve, shelf

F32, Q4_0, NAMED_WRONGLY = 0, 2, 31
LLAMA: dict[str, object] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "tokenizer.ggml.tokens": ["a", "bc"],
    "x.n": [1],
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def typed(value: object) -> bytes:
    """A value with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", gguf_header.TEXT) + text(value)
    if isinstance(value, list):
        items = [typed(item) for item in value]
        return (
            struct.pack("<I", gguf_header.ARRAY)
            + items[0][:4]
            + struct.pack("<Q", len(items))
            + b"".join(item[4:] for item in items)
        )
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<Ii", 5, value)


def file(
    values: dict[str, object] = LLAMA, kind: int = F32, shape: tuple[int, ...] = (32, 4), version: int = 3
) -> bytes:
    """A whole file with one tensor."""
    keys = b"".join(text(name) + typed(value) for name, value in values.items())
    tensor = text("blk.0.x") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
    head = gguf_header.MAGIC + struct.pack("<IQQ", version, 1, len(values)) + keys + tensor
    per, size = gguf_header.TYPES.get(kind, (1, 1))
    count = 1
    for length in shape:
        count *= length
    return head + bytes(-len(head) % 32 + count // per * size)


def checked(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    gguf_header.check(path)


@pytest.mark.parametrize("kind", [F32, Q4_0])
@pytest.mark.parametrize("version", gguf_header.VERSIONS)
def test_a_whole_file_passes(tmp_path: Path, kind: int, version: int) -> None:
    checked(tmp_path, file(kind=kind, version=version))
    checked(tmp_path, file(kind=kind) + b"more than the header tells")


def test_a_file_cut_anywhere_is_said_to_be_cut(tmp_path: Path) -> None:
    whole = file()
    for size in range(4, len(whole)):
        with pytest.raises(ConfigError, match="ends"):
            checked(tmp_path, whole[:size])


def test_a_file_that_is_cut_says_of_how_much(tmp_path: Path) -> None:
    whole = file(shape=(32, 100_000))
    with pytest.raises(ConfigError, match=r"ends after 4\.0 MB of 12\.8 MB"):
        checked(tmp_path, whole[:4_000_000])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a GGUF file"),
        (b"GGU", "not a GGUF file"),
        (b"PK\x03\x04 a wheel", "not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (file(version=1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "little endian"),
        (file({"general.architecture": "clip"}), "'clip'"),
        (file({"general.name": "nothing else"}), "'None'"),
        (file({**LLAMA, "general.type": "adapter"}), "'adapter'"),
        (file({**LLAMA, "split.count": 3}), "one of 3 parts"),
        (file(kind=NAMED_WRONGLY), "type 31"),
        (file({"general.architecture": "llama"}), "no tokenizer"),
        (file({**LLAMA, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "mine"}), "rule 'mine'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.architecture") + typed("llama"), "no tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62) + bytes(range(256)) * 9, "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("x") + struct.pack("<I", 77), "damaged"),
    ],
)
def test_what_can_not_be_converted_is_refused_by_its_reason(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked(tmp_path, content)


@pytest.mark.parametrize("architecture", ["qwen2moe", "qwen3moe", "gpt-oss", "gemma3", "mistral"])
def test_llama_cpp_s_spellings_of_architectures_are_known(tmp_path: Path, architecture: str) -> None:
    checked(tmp_path, file({**LLAMA, "general.architecture": architecture}))


def test_a_bad_file_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEDLIK_HOME", str(tmp_path / "home"))
    (tmp_path / "x.gguf").write_bytes(file()[:-1])
    with pytest.raises(ConfigError, match="ends after"):
        resolve(str(tmp_path / "x.gguf"))
    assert not shelf().exists()


def test_sampling_that_a_file_recommends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    said: dict[str, object] = {"temp": 0.7, "top_p": 0.95, "top_k": -1, "min_p": 0.0, "penalty_repeat": 1.05}
    path.write_bytes(file({**LLAMA, **{f"general.sampling.{name}": value for name, value in said.items()}}))
    read = gguf_header.sampling(gguf_header.read(path))
    assert generation.parsed(read, "x") == Defaults(
        temperature=0.7, top_p=0.95, top_k=0, min_p=0.0, repetition_penalty=1.05
    )
    path.write_bytes(file())
    assert gguf_header.sampling(gguf_header.read(path)) == {}
