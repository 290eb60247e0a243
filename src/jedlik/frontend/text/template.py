"""Chat messages to prompt text, by the model's own Jinja template, in a sandbox.

The template comes with the model and is not trusted: no attribute access beyond values, nothing to change, and a bound
on the steps it takes and on the text it makes. What templates of the ecosystem expect is here: `raise_exception`,
`strftime_now`, `tojson`, loop controls, `generation`, `tools` and `documents` that are none.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from jedlik.core.errors import RequestError
from jedlik.frontend.turns import Steps, finish

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that a request may not set by `chat_template_kwargs`."""
STEPS, STEPS_PER_MESSAGE, STEPS_PER_CALL = 200_000, 2_000, 10
"""A rendering may take so many steps: turns of loops are one, calls cost more."""
MOST_CHARS = 64 << 20
"""A rendering has at most so many characters, and so has any text that is put together on the way."""
MOST_ITEMS = 1 << 20
"""A list that a template puts together has at most so many items."""
MOST_ERROR_CHARS = 500
"""A template's error is shown up to so many characters, since it may repeat a message."""
_BUDGET = " steps"
"""Stands among a rendering's variables under a name that no template can write."""
PARTS_A_STEP = 64
_NO_ASCII = re.compile(r"[^\x00-\x7f\ud800-\udfff]")


class _Generation(Extension):
    """`{% generation %}` marks assistant text for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Budget:
    """The steps that one rendering may still take."""

    __slots__ = ("remaining",)

    def __init__(self, messages: int) -> None:
        self.remaining = STEPS + STEPS_PER_MESSAGE * messages

    def take(self, steps: int) -> None:
        self.remaining -= steps
        if self.remaining < 0:
            raise jinja2.TemplateRuntimeError("it takes too many steps")


def _sized(value: Any) -> Any:
    """A value, refused if it grew too large."""
    if isinstance(value, str) and len(value) > MOST_CHARS:
        raise jinja2.TemplateRuntimeError(f"it makes a text of more than {MOST_CHARS} characters")
    if isinstance(value, list | tuple) and len(value) > MOST_ITEMS:
        raise jinja2.TemplateRuntimeError(f"it makes a list of more than {MOST_ITEMS} items")
    return value


def _modest(arguments: Iterable[object]) -> None:
    """Refuses sizes (of padding, say) that nothing needs."""
    if any(isinstance(each, int) and abs(each) > MOST_CHARS for each in arguments):
        raise jinja2.TemplateRuntimeError("it asks for a size beyond bounds")


def _bounded(apply: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments and result are looked at; jinja's marks on it are kept."""

    @wraps(apply)
    def checked(*arguments: Any, **named: Any) -> Any:
        _modest((*arguments, *named.values()))
        return _sized(apply(*arguments, **named))

    return checked


@jinja2.pass_context
def _counted(context: Context, items: Iterable[object]) -> Iterator[object]:
    """What a loop runs over, each turn counted."""
    budget: _Budget = context.parent[_BUDGET]
    for item in items:
        budget.take(1)
        yield item


def _joined(parts: Sequence[object]) -> str:
    """The operator `~`."""
    return str(_sized("".join(map(str, parts))))


class _Bounded(NodeTransformer):
    """Puts the counting into a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        items = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(items, "_joined", [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Counts calls, and lets no operator make a text without bounds."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call(self, context: Context, callee: Any, *arguments: Any, **named: Any) -> Any:
        context.parent[_BUDGET].take(STEPS_PER_CALL)
        _modest((*arguments, *named.values()))
        return _sized(super().call(context, callee, *arguments, **named))

    def call_binop(self, context: Context, operator: str, first: Any, second: Any) -> Any:
        if operator == "+":
            return _sized(first + second)
        if operator == "**":
            raise jinja2.TemplateRuntimeError("it raises to a power")
        sizes = [len(each) if isinstance(each, str | list | tuple) else each for each in (first, second)]
        if sizes[0] * sizes[1] > MOST_CHARS:
            raise jinja2.TemplateRuntimeError("it multiplies beyond bounds")
        return first * second


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter works as in transformers, without HTML escapes. It never escapes stand-ins (`control`)."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return _NO_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text) if ensure_ascii else text


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """One model's template. Pure but for `wall`, which `strftime_now` asks for the time in seconds since the epoch."""

    def __init__(self, source: str, tokens: Mapping[str, str], wall: Callable[[], float]) -> None:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.filters = {name: _bounded(apply) for name, apply in environment.filters.items()}
        environment.filters |= {"_counted": _counted, "_joined": _joined}
        del environment.globals["lipsum"]
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.fromtimestamp(wall()).strftime(form)
        bounded = _Bounded().visit(environment.parse(source))
        code = environment.compile(bounded)
        self._template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
        self._globals = dict(self._template.globals)
        self._tokens = dict(tokens)
        self.reserved = RESERVED | tokens.keys()
        self.knows_developer = "developer" in source
        self.reads_tools = "tools" in source
        self.source = source

    def render(self, messages: Sequence[Mapping[str, object]], generation: bool, extra: Mapping[str, object]) -> str:
        """Return the prompt's text. Raises RequestError if the template refuses the messages or fails on them."""
        return finish(self.steps(messages, generation, extra))

    def steps(
        self, messages: Sequence[Mapping[str, object]], generation: bool, extra: Mapping[str, object]
    ) -> Steps[str]:
        """Do what `render` does, some parts of the text per step."""
        values = {
            **self._globals, **extra, **self._tokens, "messages": messages, "tools": None, "documents": None,
            "add_generation_prompt": generation, _BUDGET: _Budget(len(messages)),
        }  # fmt: skip
        parts: list[str] = []
        size = 0
        try:
            # as Template.render, less its merging of globals and values, which costs more than the rendering
            for part in self._template.root_render_func(self._template.new_context(values, shared=True)):
                size += len(part)
                if size > MOST_CHARS:
                    raise jinja2.TemplateRuntimeError(f"it makes more than {MOST_CHARS} characters")
                parts.append(part)
                if not len(parts) % PARTS_A_STEP:
                    yield None
            return "".join(parts)
        except RecursionError as error:
            raise _refusal("it calls itself without end") from error
        except Exception as error:  # a template may raise anything, and none of it is the server's fault
            raise _refusal(str(error) or type(error).__name__) from error


def _refusal(why: str) -> RequestError:
    shown = why if len(why) <= MOST_ERROR_CHARS else why[:MOST_ERROR_CHARS] + " ..."
    return RequestError(f"The model's chat template refuses these messages: {shown}", param="messages")
