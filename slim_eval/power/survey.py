"""What a GPU can do, asked once and before anything computes on it; None is "NVML does not tell"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slim_eval.power.gpus import Gpu, ask, open_nvml
from slim_eval.utils import MIB


@dataclass(frozen=True)
class GpuSurvey:
    """What one GPU can do.

    Attributes:
        gpu: Which one.
        memory_free_mb: Memory that no process holds, MiB.
        compute_capability: CUDA's, e.g. (9, 0).
        has_counter: Whether it counts the energy it uses.
        has_power: Whether it tells the power it draws.
        driver_cuda: Newest CUDA that the driver runs, e.g. (12, 8).
    """

    gpu: Gpu
    memory_free_mb: float | None
    compute_capability: tuple[int, int] | None
    has_counter: bool
    has_power: bool
    driver_cuda: tuple[int, int] | None


def survey(gpus: Iterable[Gpu]) -> tuple[GpuSurvey, ...]:
    """Ask NVML what each of some GPUs can do."""
    gpus = tuple(gpus)
    if not gpus:
        return ()
    with open_nvml() as nvml:
        version = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
        driver_cuda = (version // 1000, version % 1000 // 10) if version else None
        return tuple(_surveyed(nvml, gpu, driver_cuda) for gpu in gpus)


def _surveyed(nvml: Any, gpu: Gpu, driver_cuda: tuple[int, int] | None) -> GpuSurvey:
    handle = ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return GpuSurvey(
        gpu=gpu,
        memory_free_mb=None if memory is None else memory.free / MIB,
        compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
        has_counter=ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle) is not None,
        has_power=ask(nvml, "nvmlDeviceGetPowerUsage", handle) is not None,
        driver_cuda=driver_cuda,
    )
