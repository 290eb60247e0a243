"""`jedlik doctor`: each thing that serving needs, checked, with what to do where it fails.

A failure is what would stop `jedlik serve`; a warning is what makes it slower. Nothing is changed or downloaded.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from jedlik import __version__
from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.models import gguf_header
from jedlik.models.cache import home
from jedlik.models.catalogue import Alias
from jedlik.models.files import list_models, locate
from jedlik.serve import model_check
from jedlik.serve.engines import kind_of
from jedlik.serve.listening import remedy
from jedlik.serve.sizing import available_bytes

GIB = 1 << 30
NEEDED_DISK_BYTES, NEEDED_MEMORY_BYTES = 1 * GIB, 1 * GIB


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    state: Literal["ok", "warning", "failed"]
    what: str
    remedy: str = ""


def examine(model: str | None, port: int, show: Callable[[str], None]) -> bool:
    """Check everything; whether nothing failed."""
    failed = 0
    for finding in findings(model, port):
        failed += finding.state == "failed"
        show(f"{finding.state:8} {finding.what}" + (f"\n         -> {finding.remedy}" if finding.remedy else ""))
    show("all that serving needs is here" if not failed else f"{failed} to be repaired before `jedlik serve` can work")
    return not failed


def findings(model: str | None, port: int) -> Iterator[Finding]:
    yield Finding("ok", f"jedlik {__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield system()
    yield from packages()
    yield memory(available_bytes())
    yield disk(home())
    yield free_port(port)
    yield compiler()
    yield gpu()
    yield served(model)


def system() -> Finding:
    if sys.platform != "linux":
        return Finding("failed", f"{sys.platform} is not supported", "use Linux, or a Linux container or VM")
    return Finding("ok", f"{os.cpu_count()} CPU cores")


def packages() -> Iterator[Finding]:
    kind = kind_of(ServeConfig(model=""))
    for name in kind.packages:
        try:
            yield Finding("ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("failed", f"{name} is not installed", kind.remedy)


def memory(free_bytes: int) -> Finding:
    text = f"{free_bytes / GIB:.1f} GiB of memory free"
    if free_bytes < NEEDED_MEMORY_BYTES:
        return Finding("failed", text, "end other programs, or serve with --workers 1 --kv-cache-bytes 64MiB")
    return Finding("ok", text)


def disk(cache: Path) -> Finding:
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / GIB:.1f} GiB of disk free for models in {cache}"
    if not os.access(existing, os.W_OK):
        return Finding("failed", f"{existing} cannot be written", "set JEDLIK_HOME to a folder of yours")
    if free < NEEDED_DISK_BYTES:
        return Finding("failed", text, "make room, or set JEDLIK_HOME to a folder on another disk")
    return Finding("ok", text)


def free_port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding("failed", f"port {port}: {error.strerror}", remedy("127.0.0.1", port))
    return Finding("ok", f"port {port} is free")


def compiler() -> Finding:
    path = shutil.which("gcc") or shutil.which("cc")
    if path is None:
        return Finding(
            "warning", "no C compiler", "install gcc: on a CPU, attention is compiled once and much faster then"
        )
    return Finding("ok", f"C compiler {path}")


def gpu() -> Finding:
    if not Path("/proc/driver/nvidia").exists():
        return Finding("ok", "no NVIDIA GPU: models run on the CPU")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(
            "warning", "an NVIDIA driver, but no nvidia-smi", "install the driver's utilities to see the GPU here"
        )
    query = [tool, "--query-gpu=name,memory.free", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if found.returncode != 0:
        return Finding(
            "warning", f"nvidia-smi failed: {found.stdout.strip()}", "reinstall the driver, or use --device cpu"
        )
    return Finding("ok", "GPU " + "; ".join(found.stdout.strip().splitlines()))


def served(model: str | None) -> Finding:
    """The model asked about, or whether any is here."""
    if model is None:
        here = [known.name for known in list_models() if known.cached]
        text = (
            f"models here: {', '.join(here)}" if here else "no model here yet: `jedlik serve smollm2-135m` fetches one"
        )
        return Finding("ok", text)
    try:
        path = locate(model)
        if isinstance(path, Alias):
            known = next(entry for entry in list_models() if entry.name == path.name)
            if not known.cached:
                return Finding("ok", f"model {model}: {known.download_bytes >> 20} MiB to download at first use")
            path = known.path
        if path.is_dir():
            found = model_check.examine(path)
            return Finding("ok", f"model {model}: {found.architecture}, {found.weight_bytes / GIB:.2f} GiB of weights")
        gguf_header.check(path)
        return Finding("ok", f"model {model}: a GGUF file, converted at first use")
    except ConfigError as error:
        return Finding("failed", str(error), "or take a model that is known to work: `jedlik model list`")
