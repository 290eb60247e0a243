"""The rules that split text before BPE, by GGUF's names, as in a tokenizer.json.

A GGUF file has only a name (`tokenizer.ggml.pre`); transformers 5.23 ignores it and always takes GPT-2's
rule, which gives other ids than the model was trained with (SmolLM2: wherever a digit meets white space). The rules are
those of the models' own published tokenizer.json files.
"""

import json
from pathlib import Path
from typing import Any

Rule = dict[str, Any]

BYTES: Rule = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2: Rule = {**BYTES, "use_regex": True}
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> Rule:
    """Return a rule of GPT-4's family: contractions in any case, digits grouped, line ends kept together."""
    pattern = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|{digits}|{MARKS_AND_SPACE}"
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*rules: Rule) -> Rule:
    return {"type": "Sequence", "pretokenizers": list(rules)}


RULES: dict[str, Rule] = {
    "default": GPT2,
    "gpt-2": GPT2,
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, GPT2),
    "llama-bpe": _sequence(_split(r"\p{N}{1,3}"), BYTES),
    "qwen2": _sequence(_split(r"\p{N}"), BYTES),
}


def restore(name: str, tokenizer: Path) -> bool:
    """Put the rule that GGUF calls `name` into a byte-level tokenizer.json; False if there is no such rule here."""
    rule = RULES.get(name)
    if rule is None:
        return False
    written = json.loads(tokenizer.read_text())
    written["pre_tokenizer"] = rule
    tokenizer.write_text(json.dumps(written, ensure_ascii=False))
    return True
