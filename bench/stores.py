"""The disk tier beside fio: bytes per second, random order, at the same queue depth, interleaved in one run.

    .venv/bin/python bench/stores.py [--folder DIR] [--rounds 9] [--depth 8] [--mib 256]

For blocks of 64 KiB and 1 MiB, reading and writing: each round times the store (checksums, index and all) and fio
(io_uring, O_DIRECT, what the disk gives), one right after the other, in changing order; the ratio is of the two in one
round. Both files have been written before. Targets: at least 0.9 of fio at 1 MiB, 0.6 at 64 KiB. Without fio installed
only the store's own figures are told.
"""

import argparse
import hashlib
import json
import mmap
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jedlik.core.ids import BlockId
from jedlik.transfer.file import FileStore

TARGETS = {64 << 10: 0.6, 1 << 20: 0.9}


def never() -> bool:
    return False


class Subject:
    """A store full of blocks, and memory to move them from and to."""

    def __init__(self, folder: Path, size: int, total: int, depth: int) -> None:
        self.count, self.bytes = total // size, total // size * size
        memory = memoryview(mmap.mmap(-1, self.bytes))
        self.buffers = [memory[i * size : (i + 1) * size] for i in range(self.count)]
        for number, buffer in enumerate(self.buffers):
            buffer[:] = random.Random(number).randbytes(size)
        self.ids = [BlockId(hashlib.blake2b(b"%d" % i, digest_size=16).digest()) for i in range(self.count)]
        self.slots = random.Random(1).sample(range(self.count), self.count)
        self.store = FileStore(folder, self.count, size, b"bench-of-stores!", depth)
        self.store.open()
        self.write()

    def write(self) -> float:
        """Bytes per second."""
        return self._timed(lambda: self.store.write(self.slots, self.ids, None, self.buffers, never))

    def read(self) -> float:
        return self._timed(lambda: self.store.read(self.slots, self.ids, self.buffers, never))

    def _timed(self, call: Callable[[], tuple[int, str]]) -> float:
        began = time.perf_counter()
        done, cause = call()
        took = time.perf_counter() - began
        if (done, cause) != (self.count, ""):
            raise SystemExit(f"the store did {done} of {self.count} blocks: {cause}")
        return self.bytes / took


def fio(file: Path, size: int, total: int, depth: int, what: str) -> float:
    """Bytes per second of one pass over the file in random order."""
    command = ["fio", "--name=x", f"--filename={file}", f"--size={total}", f"--bs={size}", f"--rw=rand{what}"]
    command += [f"--iodepth={depth}", "--ioengine=io_uring", "--direct=1", "--randrepeat=0", "--output-format=json"]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(done.stdout)["jobs"][0][what]["bw_bytes"])


def spread(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return f"{statistics.median(values):5.2f} [{cuts[0]:.2f}, {cuts[2]:.2f}]"


def compare(folder: Path, size: int, total: int, depth: int, rounds: int) -> None:
    subject, file, there = Subject(folder / f"w{size}", size, total, depth), folder / "fio", shutil.which("fio")
    if there:
        fio(file, size, total, depth, "write")
    for what, ours in (("write", subject.write), ("read", subject.read)):
        mine, theirs = [], []
        for turn in range(rounds):
            for is_ours in (True, False) if turn % 2 else (False, True):
                if is_ours:
                    mine.append(ours() / 1e9)
                elif there:
                    theirs.append(fio(file, size, total, depth, what) / 1e9)
        line = f"{size >> 10:5d} KiB {what:5s}  store {spread(mine)} GB/s"
        if there:
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            line += f"   fio {spread(theirs)} GB/s   ratio {spread(ratios)}  (target {TARGETS[size]})"
        print(line, flush=True)
    subject.store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="on the disk in question; default: the temporary folder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--mib", type=int, default=256)
    told = parser.parse_args()
    if not shutil.which("fio"):
        print("fio is not installed (apt-get install fio): no comparison")
    print(f"queue depth {told.depth}, {told.mib} MiB a pass, {told.rounds} rounds; median [quartiles]")
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        for size in TARGETS:
            compare(Path(folder), size, told.mib << 20, told.depth, told.rounds)


if __name__ == "__main__":
    main()
