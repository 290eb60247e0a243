"""Stop strings: the result does not depend on how text arrives, and nothing of a stop string leaks."""

from hypothesis import given
from hypothesis import strategies as st

from jedlik.frontend.text.stop import StopFinder, Stops

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4)


def run(pieces: list[str], stops: list[str], include: bool = False) -> tuple[str, str | None]:
    finder, given_out = StopFinder(Stops(stops, include)), ""
    for piece in pieces:
        text, found = finder.feed(piece)
        given_out += text
        if found is not None:
            return given_out, found
    return given_out + finder.finish(), None


@given(text=LETTERS, stops=STOPS, include=st.booleans())
def test_pieces_do_not_matter(text: str, stops: list[str], include: bool) -> None:
    assert run(list(text), stops, include) == run([text], stops, include)


@given(text=LETTERS, stops=STOPS)
def test_cut_is_before_the_first_to_be_complete(text: str, stops: list[str]) -> None:
    ends = sorted((text.find(s) + len(s), -len(s), s) for s in stops if s in text)
    expected = (text[: ends[0][0] + ends[0][1]], ends[0][2]) if ends else (text, None)
    assert run(list(text), stops) == expected


def test_only_what_may_become_a_stop_is_held() -> None:
    finder = StopFinder(Stops(["END", "###"]))
    assert finder.feed("text E") == ("text ", None)
    assert finder.feed("x#") == ("Ex", None)
    assert finder.feed("##more") == ("", "###")


def test_included() -> None:
    assert run(["ab", "c"], ["bc"], include=True) == ("abc", "bc")
