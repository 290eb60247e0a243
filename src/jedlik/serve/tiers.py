"""The tiers of KV blocks beyond the device: what the settings say, whether it can be had, and each worker's part.

Host memory is each worker's own; the disk budget is divided, a folder for every worker; an object store is shared as it
is. Nothing here imports an engine: the supervisor checks before anything is started.
"""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Card, Layout, TierSize
from jedlik.core.units import path_and_bytes, size_text
from jedlik.models.cache import home

if TYPE_CHECKING:
    from jedlik.transfer.store import BlockStore

OBJECT_SCHEMES = ("s3", "gs", "az", "file")
OBJECT_BLOCKS = 1 << 18
"""The number of blocks in an object store that a worker knows of. The store has no slots to run out of; the worker
forgets the oldest blocks."""
LEAST_BLOCKS = 2


class DiskTier(msgspec.Struct, frozen=True):
    """The parts of `kv_disk`: a folder and a size."""

    folder: Path
    size_bytes: int

    def of(self, worker: str) -> Path:
        """Return a worker's own folder."""
        return self.folder / worker


def disk(config: ServeConfig) -> DiskTier | None:
    """Return the disk tier; None: there is none. Raises ConfigError for what is not PATH:BYTES."""
    if config.kv_disk is None:
        return None
    try:
        folder, size = path_and_bytes(config.kv_disk)
        return DiskTier(Path(folder).expanduser().absolute(), size)
    except ValueError as error:
        raise ConfigError(
            f"kv_disk is {config.kv_disk!r}: {error}; write PATH:BYTES, as in /var/cache/jedlik:20G"
        ) from error


def check(config: ServeConfig) -> None:
    """Raise ConfigError for settings of tiers that can't be."""
    disk(config)
    if config.kv_object is not None:
        scheme, colon, rest = config.kv_object.partition("://")
        if not colon or not rest or scheme not in OBJECT_SCHEMES:
            known = ", ".join(f"{name}://" for name in OBJECT_SCHEMES)
            raise ConfigError(f"kv_object is {config.kv_object!r}; a URL that begins with one of {known} is needed")


def prepare(config: ServeConfig) -> list[str]:
    """Make the folders that the settings name and see that they fit their disks. Return what people should know.

    Raises ConfigError with a remedy.
    """
    if config.kv_object is not None and importlib.util.find_spec("obstore") is None:
        raise ConfigError("--kv-object needs obstore, which is not installed: pip install 'jedlik[object]'")
    found = disk(config)
    return _prepare_disk(found, config.most_workers) if found is not None else []


def sizes(config: ServeConfig, layout: Layout) -> tuple[TierSize, ...]:
    """Return one worker's tiers, in blocks of `layout`. Raises ConfigError where a tier would hold nothing."""
    from jedlik.transfer.slots import slots_in

    tiers = []
    if config.kv_host_bytes:
        tiers.append(TierSize("host", config.kv_host_bytes // layout.block_bytes))
    if (found := disk(config)) is not None:
        share = found.size_bytes // max(config.most_workers, 1)
        tiers.append(TierSize("disk", slots_in(share, layout.block_bytes)))
    for tier in tiers:
        if tier.blocks < LEAST_BLOCKS:
            what = "--kv-host-bytes" if tier.tier == "host" else "--kv-disk"
            raise ConfigError(f"{what} holds no two blocks of {layout.block_bytes} bytes per worker: give it more")
    if config.kv_object is not None:
        tiers.append(TierSize("object", OBJECT_BLOCKS))
    return tuple(tiers)


def stores(config: ServeConfig, worker: str, card: Card, block_bytes: int) -> "list[BlockStore]":
    """Return the stores of a worker's tiers that are not memory; `block_bytes` is what is transferred of each block.

    Raises ConfigError.
    """
    from jedlik.transfer.checksum import fingerprint
    from jedlik.transfer.file import FileStore
    from jedlik.transfer.object import object_store

    found_stores: list[BlockStore] = []
    means = fingerprint(card.layout, card.revision, card.hash_check)
    slots = {tier.tier: tier.blocks for tier in card.tiers}
    if (found := disk(config)) is not None:
        found_stores.append(FileStore(found.of(worker), slots["disk"], block_bytes, means))
    if config.kv_object is not None:
        found_stores.append(object_store(config.kv_object, block_bytes, means))
    return found_stores


def key_folder(config: ServeConfig) -> Path | None:
    """Return the folder of the cluster key, which names blocks that outlive a server; None: a key for this run."""
    if (found := disk(config)) is not None:
        return found.folder
    return home() if config.kv_object is not None else None


def _prepare_disk(found: DiskTier, workers: int) -> list[str]:
    try:
        found.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = sum(path.stat().st_blocks * 512 for path in found.folder.glob("worker-*/*"))
        free = shutil.disk_usage(found.folder).free
    except OSError as error:
        raise ConfigError(f"--kv-disk: {found.folder} can't be made or read: {error.strerror}") from error
    if not os.access(found.folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--kv-disk: {found.folder} can't be written; choose a folder of yours")
    if found.size_bytes > free + used:
        raise ConfigError(
            f"--kv-disk: {size_text(found.size_bytes)} are wanted in {found.folder} and {size_text(free + used)} are "
            "there: lower BYTES, or choose another disk"
        )
    names = {found.of(f"worker-{number}") for number in range(workers)}
    idle = sorted(path.name for path in found.folder.glob("worker-*") if path.is_dir() and path not in names)
    if not idle:
        return []
    return [f"{found.folder}: {', '.join(idle)} of a server with more workers lie idle; remove them to make room"]
