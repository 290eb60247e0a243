"""docs/api.md names every parameter."""

import re
from pathlib import Path

from jedlik.frontend.openai.chat import EFFORTS, REASONING, TEXTS, THINKING
from jedlik.frontend.openai.schema import (
    MESSAGE_WITHOUT_EFFECT,
    NEUTRAL,
    PART_WITHOUT_EFFECT,
    WITHOUT_EFFECT,
    OpenAIBody,
)

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_parameter_is_documented() -> None:
    named = {re.split(r"[:.]", name)[0] for name in re.findall(r"`([^`]+)`", PAGE.read_text())}
    assert set(OpenAIBody.__struct_fields__) <= named


def names(text: str) -> set[str]:
    return {re.split(r"[:.]", name)[0] for name in re.findall(r"`([^`]+)`", text)}


def test_what_has_no_effect_is_listed_and_nothing_else() -> None:
    section = PAGE.read_text().split("### Accepted without effect")[1].split("### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| Of")]
    body = set().union(*[names(row) for row in rows if row.startswith("| the body")]) - {"x-request-id"}
    assert body == WITHOUT_EFFECT
    assert [names(row) for row in rows if row.startswith("| a message")] == [MESSAGE_WITHOUT_EFFECT]
    assert [names(row) for row in rows if row.startswith("| a part")] == [PART_WITHOUT_EFFECT]


def test_what_is_taken_at_its_default_is_listed_and_nothing_else() -> None:
    section = PAGE.read_text().split("### Accepted where they ask for nothing")[1].split("### ")[0]
    assert names(section) - {'"auto"', "false"} == set(NEUTRAL)


def test_values_that_are_words_are_listed() -> None:
    page = PAGE.read_text()
    assert ", ".join(EFFORTS) in page
    assert ", ".join(THINKING) in page
    assert {*TEXTS, *REASONING} <= names(page)
