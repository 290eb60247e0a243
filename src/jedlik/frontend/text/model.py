"""A model directory's text side: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from jedlik.core.errors import ConfigError
from jedlik.frontend.text.detokenise import Detokenisers
from jedlik.frontend.text.template import ChatTemplate
from jedlik.frontend.text.tokenise import Tokeniser

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class TextModel(msgspec.Struct, frozen=True):
    """Everything about text that depends on the model."""

    tokeniser: Tokeniser
    detokenisers: Detokenisers
    template: ChatTemplate | None
    """None: the model has none; it can complete but not chat."""


def _json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _template_source(directory: Path, config: Mapping[str, object]) -> str | None:
    """The file wins over the config; of several named templates "default" is taken."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {str(t.get("name")): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
    return source if isinstance(source, str) else None


def special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """`bos_token` and its like, which configs spell as a string or as an object with `content`."""
    found: dict[str, str] = {}
    for name in TOKEN_NAMES:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def load_text(directory: Path, wall: Callable[[], float]) -> TextModel:
    """Read a model directory. Raises ConfigError if it has no readable tokenizer or template."""
    spec = _json(directory / "tokenizer.json")
    if not spec:
        raise ConfigError(f"{directory}: no tokenizer.json: jedlik needs a fast tokenizer")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(directory / "special_tokens_map.json") | _json(directory / "tokenizer_config.json")
    source = _template_source(directory, config)
    try:
        template = None if source is None else ChatTemplate(source, special_tokens(config), wall)
    except Exception as error:  # jinja raises many kinds on a bad source; all mean the same to the operator
        raise ConfigError(f"{directory}: the chat template does not parse: {error}") from error
    return TextModel(Tokeniser(tokenizer, spec), Detokenisers(tokenizer, spec), template)
