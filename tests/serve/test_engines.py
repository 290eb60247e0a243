"""The table of engines: the one place that knows them by name."""

import ast
from pathlib import Path

import pytest

import jedlik
from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.engines import ENGINES, check_installed, kind_of

PACKAGE = Path(jedlik.__file__).parent
TABLE = PACKAGE / "cli" / "engines.py"


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="torch") as caught:
        kind_of(ServeConfig(model="m", engine="troch"))
    assert all(name in str(caught.value) for name in ENGINES)


def test_a_missing_package_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES["simulated"], "packages", ("no_such_package",), raising=False)
    monkeypatch.setattr(ENGINES["simulated"], "remedy", "install it", raising=False)
    with pytest.raises(ConfigError, match="no_such_package is not installed: install it"):
        check_installed(ServeConfig(model="m", engine="simulated"))


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_supervisor_can_ask_every_kind(name: str) -> None:
    kind, config = ENGINES[name], ServeConfig(model="m", engine=name, device="cpu")
    assert not kind.on_gpu(config)
    assert kind.memory(config).process_bytes > 0


def compared(tree: ast.AST) -> bool:
    """Whether a module compares something with an engine's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) and side.value in ENGINES for side in sides):
                return True
    return False


def test_nothing_outside_the_table_asks_for_an_engine_s_name() -> None:
    asking = [path for path in PACKAGE.rglob("*.py") if path != TABLE and compared(ast.parse(path.read_text()))]
    assert asking == []
