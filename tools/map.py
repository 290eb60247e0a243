"""Write the list of modules in `docs/map.md` from the modules' own docstrings, or check that it is true.

`tools/map.py` writes the list between the two markers. `tools/map.py --check` changes nothing: it fails when the list
is not what would be written, or when a document names a module that does not exist.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path("src/jedlik")
MAP = Path("docs/map.md")
BEGIN, END = "<!-- modules: written by tools/map.py -->\n", "<!-- end of modules -->\n"
LINE = 120


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line, up to its first full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph)[0].rstrip(".")


def packages() -> Iterator[str]:
    """The packages from the lowest floor to the highest, as the import contract lists them."""
    contracts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    for floor in reversed(floors):
        yield from (name.strip() for name in re.split(r"[|:]", floor) if (PACKAGE / name.strip()).is_dir())


def wrapped(text: str) -> str:
    """Break a list item into lines of at most `LINE` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE:
            lines.append(" ")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines) + "\n"


def listed() -> str:
    """Return the list of packages and modules, as Markdown."""
    text = ""
    for name in packages():
        text += f"\n### `{name}`\n\n{summary(PACKAGE / name / '__init__.py')}.\n\n"
        for path in sorted((PACKAGE / name).rglob("*.py")):
            if path.name == "__init__.py":
                continue
            text += wrapped(f"- `{path.relative_to(PACKAGE).as_posix()}`: {summary(path)}")
    return text + "\n"


def missing() -> Iterator[str]:
    """Names of modules in the documents, outside ADRs and the changelog, for which there is no file."""
    for document in [
        Path("README.md"),
        *sorted(Path("docs").glob("*.md")),
        *sorted(Path("docs/measured").glob("*.md")),
    ]:
        for name in re.findall(r"`((?:\w+/)+\w+\.py)`", document.read_text()):
            if not any((root / name).exists() for root in (PACKAGE, Path("."), Path("tests"))):
                yield f"{document} names {name}, which does not exist"


def main(check: bool) -> int:
    """Write or check the list; return 1 if the check found something."""
    text = MAP.read_text()
    head, rest = text.split(BEGIN)
    right = head + BEGIN + listed() + END + rest.split(END)[1]
    if not check:
        MAP.write_text(right)
        return 0
    found = list(missing())
    if text != right:
        found.append(f"{MAP} is not up to date: run tools/map.py")
    for complaint in found:
        print(complaint)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
