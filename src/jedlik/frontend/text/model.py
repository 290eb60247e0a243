"""A model directory's text side: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from jedlik.core.errors import ConfigError
from jedlik.frontend.text.control import ControlTokens
from jedlik.frontend.text.detokenise import Detokenisers
from jedlik.frontend.text.template import ChatTemplate
from jedlik.frontend.text.tokenise import Tokeniser
from jedlik.models.reading import json_object, text

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
REPAIR = "repair it, or remove it to serve completions only"


class TextModel(msgspec.Struct, frozen=True, kw_only=True):
    """The text side of one model."""

    tokeniser: Tokeniser
    detokenisers: Detokenisers
    template: ChatTemplate | None
    """A model without a template, None, can complete but not chat."""
    control: ControlTokens | None
    """Text of messages may become control tokens where this is None."""
    info: dict[str, object]
    """tokenizer_config.json with the template that is used, as clients ask for it."""

    def caches(self) -> dict[str, tuple[int, int]]:
        """Return the items and bytes that are cached of texts seen before, by kind."""
        cached = self.tokeniser.caches()
        if self.control is None:
            return cached
        guarded = self.control.tokeniser.caches()
        return {name: (a + c, b + d) for name, (a, b) in cached.items() for c, d in (guarded[name],)}


def _json(path: Path) -> dict[str, object]:
    return json_object(path) if path.exists() or path.is_symlink() else {}


def _template_source(directory: Path, config: Mapping[str, object]) -> str | None:
    """The file wins over the config; of several named templates "default" is taken."""
    file = directory / "chat_template.jinja"
    if file.exists() or file.is_symlink():
        return text(file)
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {str(t.get("name")): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
    return source if isinstance(source, str) else None


def special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """Return `bos_token` and its like, which configs spell as a string or as an object with `content`."""
    found: dict[str, str] = {}
    for name in TOKEN_NAMES:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def load_text(
    directory: Path, wall: Callable[[], float], cache_bytes: int = 112 << 20, special_in_text: bool = False
) -> TextModel:
    """Read a model directory. Raises ConfigError if it has no readable tokenizer or template.

    `special_in_text`: text of messages may become control tokens.
    """
    tokenizer, spec = load_tokenizer(directory)
    template = load_template(directory, wall)
    spare = cache_bytes // 10
    source = "" if template is None else template.source
    control = None if special_in_text else ControlTokens(tokenizer, spec, source, spare)
    return TextModel(
        tokeniser=Tokeniser(tokenizer, spec, cache_bytes - spare),
        detokenisers=Detokenisers(tokenizer, spec),
        template=template,
        control=control,
        info=_info(directory, template),
    )


def _info(directory: Path, template: ChatTemplate | None) -> dict[str, object]:
    config = _json(directory / "special_tokens_map.json") | _json(directory / "tokenizer_config.json")
    info = {name: _plain(value) for name, value in config.items() if name not in ("vocab_file", "merges_file")}
    if template is not None:
        info["chat_template"] = template.source
    return {"tokenizer_class": "PreTrainedTokenizerFast", **info}


def _plain(value: object) -> object:
    """An added token, which configs spell as an object, is its text."""
    if isinstance(value, dict):
        content = value.get("content")
        return content if isinstance(content, str) else {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def load_tokenizer(directory: Path) -> tuple[Tokenizer, dict[str, object]]:
    """Return the tokenizer and its file. Raises ConfigError."""
    path = directory / "tokenizer.json"
    spec = _json(path)
    if not spec:
        raise ConfigError(
            f"{directory} has no tokenizer.json, and jedlik needs this fast form of a tokenizer: make it with "
            "transformers (AutoTokenizer.from_pretrained, save_pretrained)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(f"{path} is no tokenizer that can be read: {error}; copy the file again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, spec


def load_template(directory: Path, wall: Callable[[], float]) -> ChatTemplate | None:
    """Return the chat template, None where there is none. Raises ConfigError for one that does not parse."""
    config = _json(directory / "special_tokens_map.json") | _json(directory / "tokenizer_config.json")
    source = _template_source(directory, config)
    try:
        return None if source is None else ChatTemplate(source, special_tokens(config), wall)
    except Exception as error:  # jinja raises many kinds on a bad source; all mean the same to the operator
        raise ConfigError(f"{directory}: the chat template does not parse: {error}; {REPAIR}") from error
