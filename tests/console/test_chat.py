"""`jedlik chat` breaks lines between words, however the text comes."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.console.chat import Wrapped, cells

TEXT = "The quick brown fox jumps over the lazy dog,\n\nand  then some more. supercalifragilisticexpialidocious\tend"


def shown(pieces: list[str], width: int | None) -> str:
    out = StringIO()
    wrapped = Wrapped(out, width)
    for piece in pieces:
        wrapped.write(piece)
    wrapped.finish()
    return out.getvalue()


@pytest.mark.parametrize("width", [10, 16, 40])
def test_no_word_is_broken_and_no_line_too_wide(width: int) -> None:
    text = shown(list(TEXT), width)
    assert text.split() == TEXT.split()
    assert all(cells(line) <= width or cells(line.split()[0]) > width for line in text.split("\n"))


@given(text=st.text("ab 漢\n", max_size=40), width=st.integers(4, 20), sizes=st.lists(st.integers(1, 5), min_size=40))
def test_pieces_do_not_matter(text: str, width: int, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert shown([*pieces, text[at:]], width) == shown([text], width)


def test_wide_characters_break_anywhere_and_at_once() -> None:
    out = StringIO()
    Wrapped(out, 10).write("漢字漢字漢字漢")
    assert out.getvalue() == "漢字漢字漢\n字漢"


def test_what_is_no_terminal_gets_the_text_as_it_is() -> None:
    assert shown(list(TEXT), None) == TEXT
