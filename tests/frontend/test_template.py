"""Chat templates: what the ecosystem's expect, and that none hurts the server."""

import json
import time

import pytest

from jedlik.core.errors import RequestError
from jedlik.frontend.text import template as templates
from jedlik.frontend.text.template import ChatTemplate

SAID = [{"role": "user", "content": "a <b> é"}, {"role": "assistant", "content": "ok"}]


def render(source: str, **extra: object) -> str:
    return ChatTemplate(source, {}, time.time).render(SAID, True, extra)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", json.dumps(SAID[0], ensure_ascii=False)),
        (
            "{{ messages[0] | tojson(separators=(',', ':')) }}",
            json.dumps(SAID[0], ensure_ascii=False, separators=(",", ":")),
        ),
        ("{{ messages[0] | tojson(sort_keys=true) }}", json.dumps(SAID[0], ensure_ascii=False, sort_keys=True)),
        ("{{ messages[0] | tojson(true, 2) }}", json.dumps(SAID[0], indent=2)),
        ("{{ tools is none }} {{ documents is none }} {{ tools is defined }}", "True True True"),
        ("{% if tools %}tools{% endif %}{% for d in documents or [] %}d{% endfor %}", ""),
        ("{{ deep.a[1].b }}", "2"),
        (
            "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }} {% endfor %}",
            "1False2 2True2 ",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.role }}{% else %}none{% endfor %}", "user"),
        ("{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% block a %}{{ range(2) | list }}{{ self.b() }}{% endblock %}{% block b %}x{% endblock %}", "[0, 1]xx"),
        ("{{ 'a' ~ 1 ~ none }}{{ 2 * 3 }}{{ 'ab' * 2 }}{{ [1] + [2] }}", "a1None6abab[1, 2]"),
        ("{% generation %}x{% endgeneration %}", "x"),
    ],
)
def test_what_templates_expect(source: str, text: str) -> None:
    assert render(source, deep={"a": [1, {"b": 2}]}) == text


FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TWICE = "{% macro r(n) %}{% if n %}{{ r(n-1) }}{{ r(n-1) }}{% endif %}{% endmacro %}{{ r(60) }}"


def growing(change: str) -> str:
    return "{% set n = namespace(x='abc', l=[1]) %}{% for i in range(60) %}{% set " + change + " %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro r(n) %}{{ r(n) }}{% endmacro %}{{ r(1) }}",
        FOREVER,
        TWICE,
        growing("n.x = n.x ~ n.x"),
        growing("n.x = n.x + n.x"),
        growing("n.x = [n.x, n.x] | join"),
        growing("n.l = n.l + n.l"),
        "{{ 'a' * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ [1] * 10000000000 }}",
        "{{ range(10 * 100000) | list }}",
        "{{ raise_exception('x' * 100000) }}",
        "{{ x.y.z }}",
        "{{ messages[9].role }}",
        "{% for i in none %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ undefined | tojson }}",
        "{% include 'x' %}",
        "{{ lipsum(n=100000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ deep | tojson }}",
        "{{ none() }}",
        "{{ strftime_now(7) }}",
    ],
)
def test_what_cannot_be_rendered_is_a_short_400(source: str) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RequestError) as caught:
        render(source, deep=deep)
    assert caught.value.status == 400
    assert len(str(caught.value)) < templates.MOST_ERROR_CHARS + 100
    while deep:  # taken apart by hand: freeing so deep a list all at once would overflow the stack
        deep = deep.pop()  # type: ignore[assignment]


def test_long_conversations_have_steps_enough() -> None:
    """Also for a template that looks at all turns for each turn."""
    many = [{"role": "user", "content": "x"}] * 1_000
    source = "{% for m in messages %}{% for other in messages %}{% endfor %}{{ m.content.strip() }}{% endfor %}"
    assert ChatTemplate(source, {}, time.time).render(many, True, {}) == "x" * 1_000
