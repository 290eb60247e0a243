"""CPU kernels: compiled by gcc at first use, stored in a cache folder, loaded by ctypes.

No compiler, a failed build or a wrong result means None: the engine then attends in plain PyTorch. The file's name is a
digest of source, flags and CPU, so a home directory shared by different machines is safe; it is built aside and
renamed, so two processes starting at once are too.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("kernel.c")
# Not -ffast-math: at load it would make the whole process flush denormals, and so change torch's own results.
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"),
)

_POINTERS = ("tables", "row", "lane", "length", "slot_block", "slot_offset")
_PER_STEP = ("table_stride", "rows", "tokens")
_PER_MODEL = ("heads", "kv_heads", "head_dim", "block_size", "block_stride", "token_stride", "head_stride", "threads")
_PER_LAYER = ("q", "k_new", "v_new", "k", "v", "out")
_STRIDES = ("q_row", "q_head", "kn_row", "kn_head", "vn_row", "vn_head", "window")


class KernelCall(ctypes.Structure):
    """The argument of the attention kernel; it mirrors the struct in kernel.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _PER_STEP + _PER_MODEL),
        *((name, ctypes.c_void_p) for name in _PER_LAYER),
        *((name, ctypes.c_int64) for name in _STRIDES),
        ("scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
    ]


Attend = Callable[[KernelCall], None]


def load(cache_dir: Path, dtype: str) -> Attend | None:
    """Return the compiled `attend` for "float32" or "bfloat16", or None where it can't be compiled."""
    made = library(SOURCE, cache_dir) if dtype in ("float32", "bfloat16") else None
    if made is None:
        return None
    attend = made.attend_f32 if dtype == "float32" else made.attend_bf16
    attend.argtypes = [ctypes.POINTER(KernelCall)]
    attend.restype = None
    return lambda call: attend(ctypes.byref(call))


def library(source: Path, cache_dir: Path) -> ctypes.CDLL | None:
    """Return a C file as a loaded library, or None where it can't be compiled."""
    if os.uname().sysname != "Linux":
        return None
    try:
        return ctypes.CDLL(str(_build(source, cache_dir)))
    except (OSError, subprocess.SubprocessError):
        return None


def _build(source: Path, cache_dir: Path) -> Path:
    """Return the path of the compiled kernel, built if it is not there. Raises OSError or SubprocessError."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    name = hashlib.blake2b(source.read_bytes() + " ".join(FLAGS).encode() + flags.encode(), digest_size=8).hexdigest()
    target = cache_dir / f"{source.stem}-{name}.so"
    if target.exists():
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("no C compiler: attention runs in plain PyTorch; install gcc for a faster one")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as aside:
        built = Path(aside) / target.name
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(built)], check=True, capture_output=True, timeout=120)
        built.replace(target)
    return target
