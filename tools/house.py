"""The house style, checked: sizes, language and the shape of calls, for the modules of `src/`.

- A module over 400 lines must say why in its docstring (the words "is long because"); one over 600 lines fails.
- A function has at most 50 lines of code without its docstring, and a constructor at most 6 arguments besides self.
- A public docstring begins like a sentence: with no word that leans on the line above, and with four words or more.
- A class name means one thing in the whole package.
- Names follow `docs/glossary.md`: the metaphors and the vague verbs listed there are refused.
- A class of five fields or more is constructed by keyword, and no call passes more than six positional arguments.

`tools/house.py [PATH ...]` lists what is wrong in the files or folders named. Without one it checks the package and
prints its lines of code.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


PACKAGE = Path("src/jedlik")
MODULE_EXPLAIN, MODULE_MAX, FUNCTION_MAX, CONSTRUCTOR_MAX = 400, 600, 50, 6
DOCSTRING_WORDS, POSITIONAL_FIELDS, POSITIONAL_ARGUMENTS = 4, 4, 6
FRAGMENT_STARTS = words(
    """
    of by it as those whose and or but with without in who which for from to on at see its their they that these than
    until unless if where while since because so into per under over beside not none also what how him her them both
    """
)
"""A docstring that begins with one of these words leans on something that the reader has not seen."""
VAGUE_NAMES = words("told said moved held kept left given lately")
"""Whole identifiers that say nothing of what they name."""
METAPHORS = words(
    """
    errand errands lend lent unlend lodged cramped starved phantom abreast summed desk sight worth spot spots reach
    """
)
"""Parts of identifiers for which the field has a word: docs/glossary.md has the table."""
TRANSFER_METAPHORS = words("ways way gates gate lanes lane ledger meeting")
"""Parts of identifiers that are refused in `transfer/`."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstring_of(statement: ast.stmt) -> str | None:
    """Return the text of a statement that is a string by itself."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else None
    return None


def function_lines(function: Function) -> int:
    """Return the number of lines from `def` to the end, less the docstring's."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if docstring_of(first) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def code_lines(source: str, tree: ast.Module) -> int:
    """Return the number of lines that are code: no blanks, comments, docstrings or imports."""
    other: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and docstring_of(node) is not None
        ):
            other.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in other for n, line in lines)


def size_complaints(path: Path, source: str, tree: ast.Module) -> Iterator[str]:
    """Every limit of size that a file exceeds."""
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


def public_docstrings(node: Documented) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of a module's public names, and of their attributes."""
    named = ""
    for at, statement in enumerate(node.body):
        text = docstring_of(statement)
        if text is not None and (at == 0 or (named and not named.startswith("_"))):
            yield statement.lineno, text
        named = ""
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            named = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            named = statement.targets[0].id
        elif isinstance(statement, ast.ClassDef | Function) and not statement.name.startswith("_"):
            if isinstance(statement, ast.ClassDef):
                yield from public_docstrings(statement)
            else:
                first = docstring_of(statement.body[0])
                if first is not None:
                    yield statement.body[0].lineno, first


def docstring_complaints(path: Path, tree: ast.Module) -> Iterator[str]:
    """Public docstrings that do not begin like a sentence."""
    for line, text in public_docstrings(tree):
        words = text.split()
        first = words[0].strip("`*.,:;()").lower() if words else ""
        if first in FRAGMENT_STARTS or len(words) < DOCSTRING_WORDS:
            yield f"{path}:{line}: docstring is no sentence: {' '.join(words[:6])!r}"


def defined_names(node: ast.AST) -> Iterator[str]:
    """The identifiers that a node defines."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.id if isinstance(node, ast.Name) else node.attr
    elif isinstance(node, ast.ClassDef | Function):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias) and node.asname:
        yield node.asname


def parts(name: str) -> set[str]:
    """Return the words of an identifier, in lower case."""
    spaced = "".join(" " + c if c.isupper() else c for c in name).replace("_", " ")
    return set(spaced.lower().split())


def name_complaints(path: Path, tree: ast.Module) -> Iterator[str]:
    """Identifiers, and the module's own name, that the glossary replaces."""
    refused = METAPHORS | (TRANSFER_METAPHORS if "transfer" in path.parts else frozenset())
    found = [(1, path.stem)]
    for node in ast.walk(tree):
        found += [(getattr(node, "lineno", 1), name) for name in defined_names(node)]
    for line, name in found:
        if name.strip("_") in VAGUE_NAMES or parts(name) & refused:
            yield f"{path}:{line}: name {name!r}: see docs/glossary.md"


def is_record(node: ast.ClassDef) -> bool:
    """Return whether a class gets its constructor from its fields, and could take them by keyword only."""
    bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return "Struct" in bases or any(getattr(d, "id", getattr(d, "attr", "")) == "dataclass" for d in decorators)


def has_flag(node: ast.ClassDef, flag: str) -> bool:
    """Return whether a class statement, or its decorator, sets a keyword to true."""
    keywords = list(node.keywords)
    for decorator in node.decorator_list:
        keywords += decorator.keywords if isinstance(decorator, ast.Call) else []
    return any(k.arg == flag and isinstance(k.value, ast.Constant) and k.value.value is True for k in keywords)


def call_complaints(path: Path, tree: ast.Module) -> Iterator[str]:
    """Records that are not constructed by keyword, and calls with too many positional arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and is_record(node) and not has_flag(node, "kw_only"):
            fields = [
                s for s in node.body if isinstance(s, ast.AnnAssign) and "ClassVar" not in ast.unparse(s.annotation)
            ]
            if len(fields) > POSITIONAL_FIELDS:
                yield f"{path}:{node.lineno}: {node.name} has {len(fields)} fields and is not kw_only"
        if isinstance(node, ast.Call) and len(node.args) > POSITIONAL_ARGUMENTS:
            yield f"{path}:{node.lineno}: a call with {len(node.args)} positional arguments"


def duplicate_classes(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Class names that are defined more than once."""
    places: dict[str, list[Path]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    for name, paths in sorted(places.items()):
        if len(paths) > 1:
            yield f"class {name} is defined in {', '.join(str(path) for path in paths)}"


def package_of(path: Path) -> str:
    """Return the name of the package that a module belongs to; the empty string for those at the top."""
    inside = path.relative_to(PACKAGE).parts
    return inside[0] if len(inside) > 1 else ""


def main(named: list[str]) -> int:
    """Print every complaint; return 1 if there are any."""
    modules = sorted(PACKAGE.rglob("*.py"))
    sources = {path: path.read_text() for path in modules}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    chosen = [p for p in modules if any(p == Path(n) or Path(n) in p.parents for n in named)] if named else modules
    found: list[str] = []
    for path in chosen:
        found += size_complaints(path, sources[path], trees[path])
        for rule in (docstring_complaints, name_complaints, call_complaints):
            found += rule(path, trees[path])
    found += [text for text in duplicate_classes(trees) if any(str(path) in text for path in chosen)]
    for text in found:
        print(text)
    if not named:
        counts: Counter[str] = Counter()
        for path in modules:
            counts[package_of(path) or "jedlik"] += code_lines(sources[path], trees[path])
        by_package = " · ".join(f"{name} {lines:,}" for name, lines in counts.most_common())
        print(f"{sum(counts.values()):,} lines of code: {by_package}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
