"""docs/api.md names every parameter."""

import re
from pathlib import Path

from jedlik.frontend.openai.schema import Body

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_parameter_is_documented() -> None:
    named = {re.split(r"[:.]", name)[0] for name in re.findall(r"`([^`]+)`", PAGE.read_text())}
    assert set(Body.__struct_fields__) <= named
