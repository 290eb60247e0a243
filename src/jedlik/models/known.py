"""The models that the installed transformers can load, read from its source, because importing it takes seconds.

None stands for "not known": transformers is not installed, or its source looks otherwise. Then only loading shows it.
"""

import ast
import importlib.util
from functools import cache
from importlib.metadata import version
from pathlib import Path

CAUSAL = ("models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
GGUF = ("integrations/ggml.py", "GGUF_CONFIG_MAPPING")
NO_MODELS = frozenset({"general", "tokenizer"})
"""The keys of the GGUF table that stand for no architecture."""


def release() -> str:
    """Return the installed transformers' name and version, for messages."""
    return f"transformers {version('transformers')}"


def causal_models() -> dict[str, str] | None:
    """Return the class of each `model_type` that generates text."""
    value = _assigned(*CAUSAL)
    pairs = value.args[0] if isinstance(value, ast.Call) and value.args else None
    try:
        return dict(ast.literal_eval(pairs)) if pairs is not None else None
    except (ValueError, TypeError):
        return None


def gguf_architectures() -> frozenset[str] | None:
    """Return the architectures of GGUF files that are converted, in transformers' spelling."""
    value = _assigned(*GGUF)
    if not isinstance(value, ast.Dict):
        return None
    return frozenset(str(key.value) for key in value.keys if isinstance(key, ast.Constant)) - NO_MODELS


@cache
def _assigned(file: str, name: str) -> ast.expr | None:
    """Return what a module of transformers assigns to a name."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    try:
        tree = ast.parse((Path(spec.origin).parent / file).read_text())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(at, ast.Name) and at.id == name for at in node.targets):
            return node.value
    return None
