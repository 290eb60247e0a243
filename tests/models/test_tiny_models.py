"""The random model: the same bytes everywhere, a tokenizer that gives any text back, readable by the real libraries."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jedlik.models import info, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    tiny.write(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_same_bytes_on_every_machine(folder: Path) -> None:
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
        for name in ("tokenizer.json", "model.safetensors")
    }
    assert digests == DIGESTS


DIGESTS = {"tokenizer.json": "e6f62437714417b0", "model.safetensors": "27eebe8ed85aa010"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= i < tiny_tokenizer.VOCAB_SIZE for i in ids)


def test_words_it_has_learnt_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("the capital of the").ids) < len("the capital of the") / 2
    assert tokenizer.encode("<|im_end|>").ids == [tiny_tokenizer.END_ID]
    assert tokenizer.get_vocab_size() == tiny_tokenizer.VOCAB_SIZE


def test_the_chat_template_renders(folder: Path) -> None:
    template: Any = jinja2.Template((folder / "chat_template.jinja").read_text())
    text = template.render(messages=[{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_info_is_read_without_torch(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from jedlik.models import info, files
print(info.read(Path({str(folder)!r})).context_length)
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2048"
    read = info.read(folder)
    assert (read.layers, read.heads, read.kv_heads, read.head_dim, read.vocab_size) == (2, 4, 2, 16, 512)
    assert read.eos_token_ids == (2,)
    assert info.block_bytes(info.layout(read, "float32", 16)) == 2 * 2 * 16 * 2 * 16 * 4


def test_the_weights_file_has_what_its_header_says(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
    assert max(ends) == len(raw) - 8 - size
    assert len(ends) == 2 + 9 * tiny.LAYERS


def test_whether_a_model_can_chat(folder: Path, tmp_path: Path) -> None:
    assert info.knows_chat(folder)
    assert not info.knows_chat(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert info.knows_chat(tmp_path)
