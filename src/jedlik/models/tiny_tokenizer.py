"""A small byte-level BPE tokenizer with a chat template, made offline: 512 tokens, any text, same text back.

For tests and `tiny-random`. The merges are learnt from the few lines below by counting, ties broken by order, so every
machine makes the same file.
"""

import json
from collections import Counter
from pathlib import Path

VOCAB_SIZE = 512
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, START, END)
END_ID = 2
_TEXT = """the quick brown fox jumps over the lazy dog and then it sleeps in the sun because the day is long and warm
a jedlik is an engine that excites itself: once the current flows, the field grows, and with the field the current
user assistant system what is the capital of France? The capital of France is Paris. Write a story about a river.
in the beginning there was a question, and the answer to that question was another question, asked by someone else
for i in range(10): print(i) def function(self, value): return self.value + value if value is not None else self.value
Die Sonne scheint auf den Fluss, und die Kinder spielen am Ufer. El rio es largo y el agua es clara como el cielo."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    alphabet = byte_alphabet()
    merges = learn(_TEXT, VOCAB_SIZE - len(SPECIAL) - len(alphabet), alphabet)
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    added = [
        {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, token in enumerate(SPECIAL)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "bos_token": None,
        "model_max_length": 2048, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def byte_alphabet() -> list[str]:
    """Return one printable character per byte, in byte order: the alphabet of byte-level BPE files."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def learn(text: str, count: int, alphabet: list[str]) -> list[tuple[str, str]]:
    """Return the `count` merges that byte-pair encoding takes from a text, most frequent first, ties by string."""
    words = Counter(" " + word for word in text.split())
    pieces = {word: [alphabet[byte] for byte in word.encode()] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in zip(pieces[word], pieces[word][1:], strict=False):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out
