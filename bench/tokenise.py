"""Tokenising with and without cuts: a prompt whose first 7 eighths were seen before, and one seen whole; detokenising.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python bench/tokenise.py MODEL_DIR TEXT_FILE...

Prints medians of process CPU with the range, and checks on the way that cut and plain tokenisation agree.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from jedlik.core.tokens import pack, unpack
from jedlik.frontend.text.model import load_text
from jedlik.frontend.text.tokenise import Tokeniser

WORDS, SEEN = 8000, 7000


def timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def show(name: str, runs_s: list[float], per: int = 1, unit: str = "ms") -> None:
    scale = (1e3 if unit == "ms" else 1e6) / per
    low, middle, high = (scale * f(runs_s) for f in (min, statistics.median, max))
    print(f"{name:48s} {middle:8.3f} {unit} ({low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--repetitions", type=int, default=9)
    told = parser.parse_args()
    words = " ".join(path.read_text() for path in told.text).split()
    while len(words) < 2 * WORDS:
        words += words
    model = load_text(told.model_dir, time.time)
    tokeniser = model.tokeniser
    spec = msgspec.json.decode((told.model_dir / "tokenizer.json").read_bytes(), type=dict[str, object])
    tokenizer = Tokenizer.from_file(str(told.model_dir / "tokenizer.json"))
    print(f"cut: {tokeniser.cut}, table: {model.detokenisers.fast}")
    plain, shared, seen = [], [], []
    for repetition in range(told.repetitions):
        prefix = f"{repetition} " + " ".join(words[:SEEN])
        text = prefix + " " + " ".join(words[SEEN + repetition : WORDS + repetition])
        fresh = Tokeniser(tokenizer, spec)
        plain.append(timed(partial(tokeniser.plain, text)))
        fresh.encode(prefix)
        shared.append(timed(partial(fresh.encode, text)))
        seen.append(timed(partial(fresh.encode, text)))
        assert fresh.encode(text) == pack(tokeniser.plain(text))
    show(f"plain, {WORDS} words", plain)
    show(f"first {SEEN} words seen before", shared)
    show("seen whole", seen)
    ids = unpack(tokeniser.encode(text))
    feed = [timed(lambda: model.detokenisers.table.decode(ids)) for _ in range(told.repetitions)]
    show(f"detokenise, per token of {len(ids)}", feed, len(ids), "us")


if __name__ == "__main__":
    main()
