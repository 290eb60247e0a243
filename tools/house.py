"""Size limits of the house style, checked: modules, functions and constructors of `src/`.

A module over 400 lines must say why in its docstring (the words "is long because"); over 600 fails. A function has at
most 50 lines of code (docstring not counted), a constructor at most 6 arguments besides self.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_EXPLAIN, MODULE_MAX, FUNCTION_MAX, CONSTRUCTOR_MAX = 400, 600, 50, 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


def function_lines(function: Function) -> int:
    """Lines from `def` to the end, less the docstring's."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def complaints(path: Path) -> Iterator[str]:
    """Every limit that a file exceeds."""
    source = path.read_text()
    tree = ast.parse(source)
    doc = ast.get_docstring(tree)
    lines = source.count("\n")
    if not doc:
        yield f"{path}: no module docstring"
    if lines > MODULE_MAX or (lines > MODULE_EXPLAIN and "is long because" not in " ".join((doc or "").split())):
        yield f"{path}: {lines} lines"
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        if function_lines(node) > FUNCTION_MAX:
            yield f"{path}:{node.lineno}: {node.name} has {function_lines(node)} lines"
        arguments = len(node.args.args) + len(node.args.kwonlyargs) - 1
        if node.name == "__init__" and arguments > CONSTRUCTOR_MAX:
            yield f"{path}:{node.lineno}: constructor with {arguments} arguments"


def unmapped(modules: list[Path]) -> Iterator[str]:
    """Modules that `docs/map.md` does not name."""
    text = Path("docs/map.md").read_text()
    for path in modules:
        name = path.relative_to("src/jedlik").as_posix()
        if "/" in name and path.name != "__init__.py" and f"`{name}`" not in text:
            yield f"docs/map.md does not name {name}"


def main() -> int:
    modules = sorted(Path("src").rglob("*.py"))
    found = [text for path in modules for text in complaints(path)] + list(unmapped(modules))
    for text in found:
        print(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
