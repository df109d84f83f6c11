"""Who holds the memory of a GPU, and how much is free: asked before anything of ours computes on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slim_eval.power.gpus import Gpu, ask, open_nvml, pids_may_be_the_hosts, process_tree
from slim_eval.utils import MIB

_MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Occupant:
    """A process on a GPU that is none of ours. `name` and `used_mb`, MiB, are None where they cannot be had."""

    pid: int
    name: str | None
    used_mb: float | None

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        held = f" holds {self.used_mb / _MIB_PER_GIB:.1f} GiB" if self.used_mb is not None else " holds some of it"
        return f"pid {self.pid}{name}{held}"


@dataclass(frozen=True)
class Occupancy:
    """Memory of one GPU now; `free_mb`, MiB, is None where it does not tell. `others` hold most first."""

    gpu: Gpu
    free_mb: float | None
    others: tuple[Occupant, ...]

    def __str__(self) -> str:
        total = self.gpu.memory_total_mb
        if self.free_mb is None or total is None:
            return f"GPU {self.gpu.index} does not tell what is free"
        free = f"GPU {self.gpu.index} has {self.free_mb / _MIB_PER_GIB:.1f} of {total / _MIB_PER_GIB:.1f} GiB free"
        return ", ".join([free, *map(str, self.others)])


def occupancy(gpus: Iterable[Gpu]) -> tuple[Occupancy, ...]:
    """Free memory and foreign processes of some GPUs."""
    gpus = tuple(gpus)
    if not gpus:
        return ()
    with open_nvml() as nvml:
        return tuple(_of_gpu(nvml, gpu) for gpu in gpus)


def _of_gpu(nvml: Any, gpu: Gpu) -> Occupancy:
    handle = ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    own = process_tree()
    others = [
        Occupant(process.pid, _name(process.pid), None if held is None else held / MIB)
        for process in ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ()
        if process.pid not in own
        for held in [process.usedGpuMemory]
    ]
    others.sort(key=lambda other: -(other.used_mb or 0.0))
    return Occupancy(gpu, None if memory is None else memory.free / MIB, tuple(others))


def _name(pid: int) -> str | None:
    """Of a process; None where it has ended, or in a container, where NVML may count as the host does."""
    import psutil

    if pids_may_be_the_hosts():
        return None
    try:
        name: str = psutil.Process(pid).name()
    except psutil.Error:
        return None
    return name
