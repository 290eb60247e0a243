"""Deltas joined are the tokenizer's own text; no delta holds a broken character."""

import pytest
from frontend_world import byte_level, sentence_piece, spec_of, word_piece
from hypothesis import given
from hypothesis import strategies as st

from jedlik.frontend.text.detokenise import MOST_OPEN, Detokenisers, WindowStream
from jedlik.frontend.text.samples import SAMPLES

BYTES = byte_level()
PIECES = sentence_piece()
WORDS = word_piece()
MADE = {name: Detokenisers(t, spec_of(t)) for name, t in (("bytes", BYTES), ("pieces", PIECES), ("words", WORDS))}


def streamed(name: str, ids: list[int], skip: bool = True) -> list[str]:
    stream = MADE[name].stream(skip)
    return [*(stream.feed(token) for token in ids), stream.finish()]


def test_tables_are_used_where_they_fit() -> None:
    assert {name: made.fast for name, made in MADE.items()} == {"bytes": True, "pieces": True, "words": False}


@given(ids=st.lists(st.integers(0, BYTES.get_vocab_size() - 1), max_size=60), skip=st.booleans())
def test_any_byte_level_ids(ids: list[int], skip: bool) -> None:
    assert "".join(streamed("bytes", ids, skip)) == BYTES.decode(ids, skip_special_tokens=skip)


@given(text=st.one_of(st.text(max_size=40), st.sampled_from(SAMPLES)))
@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_real_text(name: str, text: str) -> None:
    tokenizer = {"bytes": BYTES, "pieces": PIECES}[name]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    deltas = streamed(name, ids)
    whole = tokenizer.decode(ids)
    assert "".join(deltas) == whole
    assert sum(delta.count("\ufffd") for delta in deltas) == whole.count("\ufffd")


@given(ids=st.lists(st.integers(0, WORDS.get_vocab_size() - 1), max_size=40), skip=st.booleans())
def test_any_decoder_by_window(ids: list[int], skip: bool) -> None:
    assert "".join(streamed("words", ids, skip)) == WORDS.decode(ids, skip_special_tokens=skip)


def test_a_character_comes_when_its_last_byte_does() -> None:
    ids = [BYTES.get_vocab()[char] for char in "ðŁĺĢ"]
    assert streamed("bytes", ids) == ["", "", "", "😀", ""]
    assert streamed("bytes", ids[:2]) == ["", "", "\ufffd"]


def test_unknown_ids_have_no_text() -> None:
    assert streamed("bytes", [10**6]) == ["", ""]
    assert MADE["bytes"].token_bytes(10**6) == b""


def test_byte_run_that_breaks_off_keeps_what_was_whole() -> None:
    vocab = PIECES.get_vocab()
    ids = [vocab[f"<0x{byte:02X}>"] for byte in "é€".encode()[:-1]]
    assert "".join(streamed("pieces", ids)) == "é\ufffd"


def test_a_window_never_holds_more_than_a_character_may_need() -> None:
    """A run of broken bytes has no end: held back for ever it would be decoded anew for each token."""
    broken = PIECES.get_vocab()["<0xFF>"]
    stream = WindowStream(PIECES, frozenset(), PIECES.get_vocab_size(), skip_special=False)
    text = ""
    for token in [broken] * 200:
        text += stream.feed(token)
        assert len(stream._ids) <= 2 * MOST_OPEN
    text += stream.finish()
    assert text == PIECES.decode([broken] * 200, skip_special_tokens=False)


@pytest.mark.parametrize("token", ["<s>", "<0x80>"])
def test_a_window_stays_small_whatever_comes(token: str) -> None:
    made = Detokenisers(PIECES, spec_of(PIECES))
    made.fast = False
    stream = made.stream()
    assert isinstance(stream, WindowStream)
    for _ in range(300):
        stream.feed(PIECES.get_vocab()[token])
        assert len(stream._ids) < 64
