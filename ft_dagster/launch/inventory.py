"""Which devices this host lends to trainings: GPUs, else CPU slots.

A GPU is named twice: `id` is what CUDA_VISIBLE_DEVICES takes on this host, the UUID names its lock file,
so that two instances that call one GPU "0" and "GPU-…" exclude each other.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.cluster import is_called
from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from ft_dagster.host_settings import Host

log = logging.getLogger(__name__)

Kind = Literal["gpu", "cpu"]
DRIVER = "libnvidia-ml.so.1"  # as pynvml loads it
GPU_ID = re.compile(r"\d+|(GPU|MIG)-[A-Za-z0-9/-]+")


@dataclass(frozen=True)
class Device:
    """One GPU (or MIG instance), or one CPU slot: the right to one core's worth of threads."""

    id: str
    memory_bytes: int | None
    name: str
    uuid: str | None = None

    @property
    def lock_name(self) -> str:
        """Safe as part of a file name."""
        return re.sub(r"[^A-Za-z0-9-]", "_", self.uuid or self.id)

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG instance: a process sees one at most, and none can talk to others."""
        return self.id.startswith("MIG-")


@dataclass(frozen=True)
class Inventory:
    """All devices that this host lends, of one kind.

    `cores`: CPU cores this process may use; `memory_bytes`: of the host, where there is no GPU and less than
    all is lent; `shares`: how many trainings that agree to share use one device at once.
    """

    kind: Kind
    devices: tuple[Device, ...]
    cores: int = 1
    memory_bytes: int | None = None
    shares: int = 1

    def threads(self, count: int) -> int:
        """Of all processes on so many devices together: their slots, or the GPUs' share of the cores."""
        return count if self.kind == "cpu" else max(1, self.cores * count // len(self.devices))

    def named(self, kind: str | None) -> tuple[Device, ...]:
        """The devices whose name has `kind` in it, or one of its parts between `|`; of CPU slots, all."""
        return tuple(d for d in self.devices if self.kind == "cpu" or is_called(d.name, kind))


def find_devices(host: Host) -> Inventory:
    """The GPUs that `host` declares or NVML finds, within CUDA_VISIBLE_DEVICES; without any, CPU slots.

    CPU slots are `host.cpu_slots`, else the cores this process may be scheduled on (which a container's CPU
    quota does not change: declare cpu_slots there). Raises UserError for a declared GPU that is not there.
    """
    found = _nvml_gpus()
    if host.gpus is None:
        gpus = visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    else:
        gpus = declared(host.gpus, found, os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if gpus:
        return Inventory("gpu", gpus, min(cores, host.cpu_slots or cores), shares=host.shares_per_device)
    slots = host.cpu_slots or cores
    memory = None if host.memory_gb is None else int(host.memory_gb * 1e9)
    devices = tuple(Device(str(n), None, "CPU slot") for n in range(slots))
    return Inventory("cpu", devices, cores, memory, host.shares_per_device)


def visible(found: Sequence[Device], value: str | None) -> tuple[Device, ...]:
    """The GPUs that a CUDA_VISIBLE_DEVICES of `value` leaves; as CUDA does, up to the first unknown name."""
    if value is None:
        return tuple(found)
    left: list[Device] = []
    for name in value.split(","):
        match = _named(found, name.strip())
        if match is None or match in left:
            break
        left.append(match)
    return tuple(left)


def declared(
    names: Sequence[str], found: Sequence[Device], environment: Mapping[str, str]
) -> tuple[Device, ...]:
    """The GPUs that the settings name. Where NVML finds none at all, the names are taken at their word."""
    devices: list[Device] = []
    for name in names:
        if not GPU_ID.fullmatch(name):
            raise _no_such_gpu("not a GPU", name, "Write an index (0) or a UUID as `nvidia-smi -L` shows it")
        device = _named(found, name) if found else Device(name, None, "GPU (declared)")
        if device is None:
            known = ", ".join(gpu.id for gpu in found)
            raise _no_such_gpu("this host has no such GPU", name, f"It has {known}; see `nvidia-smi -L`")
        if device in devices:
            raise _no_such_gpu("the same GPU is named twice", name, "Name it once")
        devices.append(device)
    limit = environment.get("CUDA_VISIBLE_DEVICES")
    allowed = [name.strip() for name in (limit or "").split(",")]
    unproven = tuple(device for device in devices if limit is None or device.id in allowed)
    left = visible(found, limit) if found else unproven
    for device in devices:
        if device not in left:
            fix = "Unset CUDA_VISIBLE_DEVICES where Dagster is started, or name only GPUs in it"
            raise _no_such_gpu(f"hidden by CUDA_VISIBLE_DEVICES={limit!r}", device.id, fix)
    return tuple(devices)


def _named(found: Sequence[Device], name: str) -> Device | None:
    """The GPU of an index or of a UUID; as CUDA does, the start of a UUID is enough where it is unique."""
    exact = [gpu for gpu in found if name == gpu.id]
    if exact or name.isdigit() or not name.startswith(("GPU-", "MIG-")):
        return exact[0] if exact else None
    starting = [gpu for gpu in found if (gpu.uuid or gpu.id).startswith(name)]
    return starting[0] if len(starting) == 1 else None


def _no_such_gpu(problem: str, name: str, fix: str) -> UserError:
    return UserError(problem, field="host.gpus", value=name, fix=fix)


def _nvml_gpus() -> list[Device]:
    """What the NVIDIA driver shows, in its order (PCI bus); none without the driver."""
    try:
        ctypes.CDLL(DRIVER)  # before what is slow to import
        import pynvml
    except (ImportError, OSError):
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        gpus: list[Device] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                gpus += _gpu_or_instances(pynvml, index)
            except pynvml.NVMLError as error:
                log.warning("GPU %d does not answer and is not lent: %s", index, error)
        return gpus
    finally:
        pynvml.nvmlShutdown()


def _gpu_or_instances(nvml: Any, index: int) -> list[Device]:
    """One GPU, or its MIG instances where it is cut into such (they are leased one by one, by UUID)."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        cut = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError:
        cut = False
    if not cut:
        return [_describe(nvml, handle, str(index))]
    instances = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:
            continue  # numbers without an instance are normal
        instances.append(_describe(nvml, instance, None))
    return instances


def _describe(nvml: Any, handle: Any, index: str | None) -> Device:
    uuid = str(nvml.nvmlDeviceGetUUID(handle))
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:
        memory = None  # a GPU that shares the host's memory has no figure of its own
    return Device(index or uuid, memory, str(nvml.nvmlDeviceGetName(handle)), uuid)
