"""The page stands alone, is well formed, stays small, and shows what happened."""

import re
from html.parser import HTMLParser

import pytest
from report_runs import outcome, run, wavy

from jedlik.sim.outcome import Action, SimulationRun
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import summarise
from jedlik.sim.report.page import page

VOID = {"meta", "path", "rect"}
LINKS = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
SLO = Slo(2.0, 0.025)


class Read(HTMLParser):
    """What a browser would see: tags, their balance, what they would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.fetched: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in LINKS]
        if dict(attrs).get("role") == "img":
            self.images.append(dict(attrs).get("aria-label") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def made(of: SimulationRun, slo: Slo = SLO, title: str = "a run") -> str:
    return page(of, summarise(of, slo, "jedlik", 3), title, [("trace", "some <file>")])


def read(html: str) -> Read:
    reader = Read()
    reader.feed(html)
    reader.close()
    return reader


def test_it_is_well_formed_and_needs_nothing_from_outside() -> None:
    html = made(wavy(2000, 8))
    reader = read(html)
    assert reader.open == []
    assert reader.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(reader.seen)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)


def test_every_plot_has_a_name_and_says_what_it_shows() -> None:
    images = read(made(wavy(2000, 8))).images
    assert len(images) == 10
    assert all(re.fullmatch(r"[^:]+: .+", name, re.DOTALL) for name in images)
    assert any(name.startswith("TTFT of answered requests: half within") for name in images)


def test_light_and_dark_are_the_reader_s_choice() -> None:
    assert "prefers-color-scheme: dark" in made(run([]))


@pytest.mark.parametrize("outcomes", [[], [outcome()], [outcome(ttft_s=None, outcome="overloaded", output_tokens=0)]])
@pytest.mark.parametrize("slo", [Slo(), SLO, Slo(None, 0.01)])
def test_runs_with_little_or_nothing_in_them_make_a_page(outcomes: list, slo: Slo) -> None:  # type: ignore[type-arg]
    html = made(run(outcomes), slo)
    assert read(html).open == []
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert ("Goodput over time" in html) == (slo != Slo())


def test_it_stays_small_however_long_the_run_and_large_the_fleet() -> None:
    many = wavy(20_000, 1000, samples=300)
    many.actions = [Action(float(number % 900), "crash", f"a/{number}") for number in range(5000)]
    assert len(made(many)) < 2_000_000


def test_actions_are_marked_and_listed() -> None:
    html = made(wavy(500, 4))
    assert html.count("0:07:30.0: crash a/2") == 8  # six plots over time, two heat maps
    assert "<td>crash</td><td>a/2</td>" in html


def test_text_is_text() -> None:
    html = made(run([], actions=[Action(1.0, "crash", "<b>", "&")]), title="<script>")
    assert "<script>" not in html
    assert "some &lt;file&gt;" in html
    assert "&lt;b&gt;" in html
