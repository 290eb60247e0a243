"""Loads a Hugging Face model with our attention in it, and refuses what the paged cache can't hold."""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.engines.torch.attention import register
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.packed import pack
from jedlik.engines.torch.pool import DTYPES

Progress = Callable[[int, int], None]
"""A call with the bytes loaded and the bytes in all."""


CausalLM = Callable[..., Any]
"""A transformers model: called with keyword inputs, it returns an object with `logits`."""


class LoadedModel:
    """A model that is ready to run, and its numbers."""

    def __init__(self, model: CausalLM, layout: Layout, heads: int, vocab_size: int, parameters: int) -> None:
        self.model = model
        self.layout = layout
        self.heads = heads
        self.vocab_size = vocab_size
        self.parameters = parameters


def load(path: Path, dtype: str, device: str, options: EngineOptions, progress: Progress | None = None) -> LoadedModel:
    """Load the model in a Hugging Face directory. Raises ConfigError if it can't be served."""
    if not (path / "config.json").exists():
        raise ConfigError(f"{path} is no Hugging Face model directory: it has no config.json")
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    # Eager experts are linear layers, whose shapes can be fixed; grouped products can't.
    experts = {"experts_implementation": "eager"} if options.deterministic else {}
    with _watched(transformers, size, progress or _ignore):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[dtype], attn_implementation=register(), local_files_only=True, use_safetensors=True,
            ignore_mismatched_sizes=True, output_loading_info=True, **experts
        )  # fmt: skip
    _complete(path, report)
    model.requires_grad_(False).eval().to(device)
    parameters = sum(p.numel() for p in model.parameters())
    if device == "cpu" and options.native and not options.deterministic:
        pack(model, Path(options.cache_dir), options.threads)
    layout = _layout(model.config, dtype, options.block_size, path)
    config = model.config.get_text_config()
    return LoadedModel(model, layout, config.num_attention_heads, config.vocab_size, parameters)


def _complete(path: Path, report: dict[str, Any]) -> None:
    """Check that every parameter came from the files: transformers makes up what is missing. Raises ConfigError."""
    for name in sorted(report["missing_keys"]):
        raise ConfigError(f"{path}: the weights lack {name}: copy them again, or correct config.json")
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ConfigError(
            f"{path}: {name} has the shape {list(found)}, and config.json asks for {list(wanted)}: they belong to "
            "different models"
        )


def _ignore(_done: int, _total: int) -> None:
    """Ignore progress."""


@contextlib.contextmanager
def _watched(transformers: Any, size: int, progress: Progress) -> Iterator[None]:
    """While entered, transformers' loop over parameters calls `progress` with a share of `size` bytes."""
    logging = transformers.utils.logging

    def watched(items: Any) -> Iterator[object]:
        for done, item in enumerate(items):
            progress(size * done // len(items), size)
            yield item

    def instead(make: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        return watched(args[0]) if settings.get("desc") == "Loading weights" and args else make(*args, **settings)

    progress(0, size)
    hook = getattr(logging, "set_tqdm_hook", None)  # not in every release we accept: then only both ends are reported
    before = hook(instead) if hook is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook(before)
    progress(size, size)


class _Config(Protocol):
    def get_text_config(self) -> "_Config": ...
    def to_dict(self) -> dict[str, object]: ...


def _layout(config: _Config, dtype: str, block_size: int, path: Path) -> Layout:
    """Return the KV block's shape. Raises ConfigError for what one uniform paged cache can't hold."""
    values = json.loads(json.dumps(config.get_text_config().to_dict(), default=str))
    kinds = set(values.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if kinds or values.get("num_kv_shared_layers"):
        raise ConfigError(f"{path}: layers of kind {sorted(kinds) or 'shared KV'} don't fit a paged KV cache")
    heads = values["num_attention_heads"]
    return Layout(
        dtype=dtype,
        layers=values["num_hidden_layers"],
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        block_size=block_size,
    )
