"""Chat messages to prompt text, by the model's own Jinja template, in a sandbox.

The template comes with the model and is not trusted: no attribute access beyond values, nothing to change. What
templates of the ecosystem expect is here: `raise_exception`, `strftime_now`, `tojson`, loop controls, `generation`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jedlik.core.errors import RequestError

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that a request may not set by `chat_template_kwargs`."""


class _Generation(Extension):
    """`{% generation %}` marks assistant text for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """One model's template. Pure but for `wall`, which `strftime_now` asks for the time in seconds since the epoch."""

    def __init__(self, source: str, tokens: Mapping[str, str], wall: Callable[[], float]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.fromtimestamp(wall()).strftime(form)
        self._template = environment.from_string(source)
        self._globals = dict(self._template.globals)
        self._tokens = dict(tokens)
        self.reserved = RESERVED | tokens.keys()
        self.knows_developer = "developer" in source

    def render(self, messages: Sequence[Mapping[str, object]], generation: bool, extra: Mapping[str, object]) -> str:
        """Prompt text. Raises RequestError if the template refuses the messages."""
        values = {**self._globals, **extra, **self._tokens, "messages": messages, "add_generation_prompt": generation}
        try:
            # as Template.render, less its merging of globals and values, which costs more than the rendering
            return "".join(self._template.root_render_func(self._template.new_context(values, shared=True)))
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
