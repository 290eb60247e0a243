"""GGUF's names for pre-tokenisers."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from jedlik.models.pretokenizer import RULES, restore


def rule(name: str, folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    Tokenizer(BPE()).save(str(path))
    assert restore(name, path)
    return Tokenizer.from_file(str(path))


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["It", "'s", "Ġ1234", "Ċ", "Ġok"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ċ", "Ġok"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "4", "Ċ", "Ġok"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ċ", "Ġok"]),
    ],
)
def test_rules_split_as_their_models_do(name: str, pieces: list[str], tmp_path: Path) -> None:
    split = rule(name, tmp_path).pre_tokenizer
    assert split is not None
    assert [piece for piece, _ in split.pre_tokenize_str("It's 1234\n ok")] == pieces


def test_an_unknown_name_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"pre_tokenizer": None}))
    assert not restore("never-heard-of", path)
    assert json.loads(path.read_text()) == {"pre_tokenizer": None}
    assert "never-heard-of" not in RULES
