"""Facts about the host of this process, which decide the transports to others and their distances."""

import importlib
import os
from pathlib import Path
from typing import Any

import msgspec

from jedlik.transfer.processes import host_name

NAMESPACES = ("pid", "ipc", "net")


class Nic(msgspec.Struct, frozen=True, array_like=True):
    name: str
    numa_node: int | None
    speed_mbit_s: int | None


class HostGpu(msgspec.Struct, frozen=True, array_like=True):
    name: str
    numa_node: int | None
    nvlink_peers: tuple[int, ...]
    """The indices of GPUs of this host that NVLink connects to this one."""


class HostFacts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The facts about the host of one process."""

    host: str
    """A name that is equal for processes that can open each other's memory."""
    numa_nodes: tuple[int, ...]
    """The NUMA nodes that this process may run on."""
    namespaces: tuple[str, ...]
    """The namespaces of the process, one for each of `NAMESPACES`, as the kernel numbers them."""
    nics: tuple[Nic, ...]
    gpus: tuple[HostGpu, ...]


def local_facts() -> HostFacts:
    """Read the facts from /sys, /proc and NVML; what is not there is None or missing."""
    namespaces = tuple(os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES)
    return HostFacts(host=host_name(), numa_nodes=_numa_nodes(), namespaces=namespaces, nics=_nics(), gpus=_gpus())


def _numa_nodes() -> tuple[int, ...]:
    allowed = os.sched_getaffinity(0)
    found = []
    for path in sorted(Path("/sys/devices/system/node").glob("node[0-9]*")):
        if allowed & _cpus((path / "cpulist").read_text()):
            found.append(int(path.name[4:]))
    return tuple(found)


def _cpus(text: str) -> set[int]:
    """Return the numbers in a list like `0-3,8`."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}


def _nics() -> tuple[Nic, ...]:
    paths = sorted(Path("/sys/class/net").glob("*"))
    return tuple(
        Nic(path.name, _number(path / "device/numa_node"), _number(path / "speed"))
        for path in paths
        if path.name != "lo" and path.is_dir()
    )


def _number(path: Path) -> int | None:
    """None also for -1, by which the kernel means that it does not know."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return None
    return value if value >= 0 else None


def _gpus() -> tuple[HostGpu, ...]:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no library, or a library without a driver: then there are no GPUs that we could know of
        return ()
    try:
        devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return tuple(_gpu(nvml, device, devices) for device in devices)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, device: Any, devices: list[Any]) -> HostGpu:
    name = nvml.nvmlDeviceGetName(device)
    bus = nvml.nvmlDeviceGetPciInfo(device).busId
    bus = (bus.decode() if isinstance(bus, bytes) else bus).lower()
    numa = _number(Path("/sys/bus/pci/devices") / bus[-12:] / "numa_node")
    peers = tuple(i for i, other in enumerate(devices) if other is not device and _linked(nvml, device, other))
    return HostGpu(name.decode() if isinstance(name, bytes) else name, numa, peers)


def _linked(nvml: Any, device: Any, other: Any) -> bool:
    try:
        status = nvml.nvmlDeviceGetP2PStatus(device, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except nvml.NVMLError:
        return False
    return bool(status == nvml.NVML_P2P_STATUS_OK)
