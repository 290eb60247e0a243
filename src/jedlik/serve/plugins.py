"""Routing policies and planners as users name them: one of jedlik's by name, or FILE.py[:NAME] of their own.

A file is run once in each process that uses it (and once for each of its gateways). It is the operator's code, as
trusted as jedlik, and may import other files of its folder. NAME is a class or an object; without it, the file's only
class that fulfils the contract is taken. The contracts are `routing/policy.py` and `planning/policy.py`
(docs/contracts/planners.md).
"""

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jedlik.core.config import GatewayConfig
from jedlik.core.errors import ConfigError
from jedlik.core.plans import Counts
from jedlik.planning.policy import Planner, PlannerMaker, Terms
from jedlik.routing.policies.named import make
from jedlik.routing.policies.plugged import MEMBERS as POLICY_MEMBERS
from jedlik.routing.policies.plugged import Plugged
from jedlik.routing.policy import Policy

_own = re.compile(r"(?P<file>.*\.py)(?::(?P<name>.*))?", re.DOTALL)


class PluginKind(NamedTuple):
    """A kind of plug-in: its name in messages, the members it must have, and a hint where some are missing."""

    name: str
    members: Sequence[str]
    hint: str
    arguments: str


POLICY = PluginKind(
    "policy",
    POLICY_MEMBERS,
    "; a subclass of jedlik.routing.policy.Scored needs name and score only",
    "it is made without arguments",
)
PLANNER = PluginKind(
    "planner",
    ("name", "decide"),
    "; docs/contracts/planners.md has the contract",
    "it is made with the counts at start and jedlik.planning.policy.Terms",
)


class LoadedPlanner(NamedTuple):
    """A planner as it was named."""

    make: PlannerMaker
    foresee: Callable[..., Planner] | None = None
    """A call `foresee(setup, workload)`, for a planner that must know the workload: only simulations can run it."""


def policies_of(config: GatewayConfig) -> tuple[Policy, Policy | None]:
    """Return the policy that serves and the one that shadows it, fresh. Raises ConfigError."""
    shadow = None if config.shadow_policy is None else load(config.shadow_policy)
    return load(config.policy), shadow


def load(text: str) -> Policy:
    """Return a fresh policy. Raises ConfigError with the nearest name, or what the file lacks."""
    own = _own.fullmatch(text)
    if own is None:
        return make(text)
    file = Path(own["file"])
    found = _found(_run(file, POLICY), own["name"], file, POLICY)
    if isinstance(found, type):
        found = _made(found, file, POLICY)
    policy: Policy = _checked(found, file, POLICY)
    return Plugged(policy)


def load_planner(text: str) -> LoadedPlanner:
    """Return the maker of a planner. Raises ConfigError with the nearest name, or what the file lacks."""
    own = _own.fullmatch(text)
    if own is None:
        from jedlik.planning.planners import maker_of  # imports numpy, which a gateway does without

        return LoadedPlanner(maker_of(text))
    file = Path(own["file"])
    module = _run(file, PLANNER)
    found = _found(module, own["name"], file, PLANNER)

    def made(initial: Counts, terms: Terms) -> Planner:
        planner = _made(found, file, PLANNER, initial, terms) if isinstance(found, type) else found
        checked: Planner = _checked(planner, file, PLANNER)
        if not isinstance(getattr(checked, "tick_s", None), int | float) or not checked.tick_s > 0:
            raise ConfigError(f"planner file {file}: tick_s of {checked.name} must be a number of seconds above 0")
        return checked

    return LoadedPlanner(made, getattr(module, "foresee", None))


def _run(file: Path, kind: PluginKind) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"{kind.name} file {file} is not there (looked in {Path.cwd()})")
    name = f"jedlik_{kind.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{kind.name} file {file} can't be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{kind.name} file {_place(file, error)}: {type(error).__name__}: {error}") from error
    return module


def _place(file: Path, error: Exception) -> str:
    """Return the file, with the line where that is known."""
    if isinstance(error, SyntaxError):
        return f"{file}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _found(module: ModuleType, name: str | None, file: Path, kind: PluginKind) -> object:
    here = {n: v for n, v in vars(module).items() if not n.startswith("_") and _defined_in(v, module)}
    if name:
        if not hasattr(module, name):
            near = get_close_matches(name, here, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(here) or 'nothing'}"
            raise ConfigError(f"{kind.name} file {file} has no {name!r}: {hint}")
        found: object = getattr(module, name)
        return found
    able = {n: v for n, v in here.items() if not _lacking(v, kind)}
    if len(able) == 1:
        return next(iter(able.values()))
    if able:
        first = next(iter(able))
        raise ConfigError(f"{kind.name} file {file} has {' and '.join(able)}: say which, as in {file}:{first}")
    nearest = min(here.items(), key=lambda item: len(_lacking(item[1], kind)), default=None)
    hint = f"{nearest[0]} lacks {', '.join(_lacking(nearest[1], kind))}" if nearest else "it defines no class"
    raise ConfigError(f"{kind.name} file {file} has no {kind.name}: {hint}")


def _defined_in(value: object, module: ModuleType) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == module.__name__


def _lacking(value: object, kind: PluginKind) -> list[str]:
    return [member for member in kind.members if not hasattr(value, member)]


def _made(found: type, file: Path, kind: PluginKind, *arguments: object) -> object:
    try:
        return found(*arguments)
    except Exception as error:
        problem = f"{found.__name__}() failed: {type(error).__name__}: {error}"
        raise ConfigError(f"{kind.name} file {_place(file, error)}: {problem}; {kind.arguments}") from error


def _checked(found: Any, file: Path, kind: PluginKind) -> Any:
    """Return an object that has a kind's members: that is all one can know of it. Raises ConfigError."""
    name = getattr(found, "__name__", type(found).__name__)
    lacking = _lacking(found, kind)
    if lacking:
        raise ConfigError(f"{kind.name} file {file}: {name} lacks {', '.join(lacking)}{kind.hint}")
    if not isinstance(found.name, str) or not found.name:
        raise ConfigError(f"{kind.name} file {file}: the name of {name} must be a text")
    return found
