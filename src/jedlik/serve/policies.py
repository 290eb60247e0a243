"""Routing policies as a user names them: one of ours by name, or FILE.py[:NAME] of their own.

A file is run once for each gateway that uses it, in the gateway's process: it is code of the operator's, as trusted as
jedlik. NAME is a class (made without arguments) or an object; without it the file's only policy is taken.
"""

import importlib.util
import re
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from jedlik.core.config import GatewayConfig
from jedlik.core.errors import ConfigError
from jedlik.routing.policies.named import make
from jedlik.routing.policies.plugged import MEMBERS, Plugged
from jedlik.routing.policy import Policy

_own = re.compile(r"(?P<file>.*\.py)(?::(?P<name>.*))?", re.DOTALL)


def policies_of(config: GatewayConfig) -> tuple[Policy, Policy | None]:
    """The one that serves and the one that shadows it, fresh. Raises ConfigError."""
    shadow = None if config.shadow_policy is None else load(config.shadow_policy)
    return load(config.policy), shadow


def load(text: str) -> Policy:
    """A policy by its name or file. Raises ConfigError with the nearest name, or what the file lacks."""
    own = _own.fullmatch(text)
    if own is None:
        return make(text)
    file = Path(own["file"])
    return _plugged(_found(_run(file), own["name"], file), file)


def _run(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"policy file {file} is not there (looked in {Path.cwd()})")
    name = f"jedlik_policy_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"policy file {file} can't be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"policy file {_place(file, error)}: {type(error).__name__}: {error}") from error
    return module


def _place(file: Path, error: Exception) -> str:
    """The file, with the line where that is known."""
    if isinstance(error, SyntaxError):
        return f"{file}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _found(module: ModuleType, name: str | None, file: Path) -> object:
    here = {n: v for n, v in vars(module).items() if not n.startswith("_") and _defined_in(v, module)}
    if name:
        if not hasattr(module, name):
            near = get_close_matches(name, here, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(here) or 'nothing'}"
            raise ConfigError(f"policy file {file} has no {name!r}: {hint}")
        found: object = getattr(module, name)
        return found
    able = {n: v for n, v in here.items() if not _lacking(v)}
    if len(able) == 1:
        return next(iter(able.values()))
    if able:
        raise ConfigError(f"policy file {file} has {' and '.join(able)}: say which, as in {file}:{next(iter(able))}")
    nearest = min(here.items(), key=lambda item: len(_lacking(item[1])), default=None)
    hint = f"{nearest[0]} lacks {', '.join(_lacking(nearest[1]))}" if nearest else "it defines no class"
    raise ConfigError(f"policy file {file} has no policy: {hint}")


def _defined_in(value: object, module: ModuleType) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == module.__name__


def _lacking(value: object) -> list[str]:
    return [member for member in MEMBERS if not hasattr(value, member)]


def _plugged(found: object, file: Path) -> Policy:
    name = getattr(found, "__name__", type(found).__name__)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            problem = f"{name}() failed: {type(error).__name__}: {error}"
            raise ConfigError(f"policy file {_place(file, error)}: {problem}; it is made without arguments") from error
    lacking = _lacking(found)
    if lacking:
        base = "; a subclass of jedlik.routing.policy.Scored needs name and score only"
        raise ConfigError(f"policy file {file}: {name} lacks {', '.join(lacking)}{base}")
    policy: Policy = found  # type: ignore[assignment]  # it has the members: that is all one can know of it
    if not isinstance(policy.name, str) or not policy.name:
        raise ConfigError(f"policy file {file}: the name of {name} must be a text")
    return Plugged(policy)
