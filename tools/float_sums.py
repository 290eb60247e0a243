"""A mypy plugin: `sum` of floats is refused in `src/`, for its last bits depend on the version of Python.

Python adds floats with compensation from 3.12 on; `jedlik.core.sums.float_sum` adds them alike everywhere. mypy words
the refusal itself: sum() of floats "has incompatible type ...; expected Iterable[bool]".
"""

from collections.abc import Callable

from mypy.plugin import FunctionContext, Plugin
from mypy.types import Instance, Type, UnionType, get_proper_type

WHERE = "src/jedlik/"


class FloatSums(Plugin):
    """Looks at each call of `sum`."""

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """What checks a call of the function with this name."""
        return checked if fullname == "builtins.sum" else None


def checked(call: FunctionContext) -> Type:
    """The type that mypy found; an error where it may be float."""
    found = get_proper_type(call.default_return_type)
    kinds = map(get_proper_type, found.items) if isinstance(found, UnionType) else [found]
    floats = any(isinstance(kind, Instance) and kind.type.fullname == "builtins.float" for kind in kinds)
    if floats and WHERE in call.api.path:
        call.api.fail("sum of floats differs between versions of Python; use jedlik.core.sums.float_sum", call.context)
    return call.default_return_type


def plugin(version: str) -> type[Plugin]:
    """What mypy asks for."""
    return FloatSums
