"""GPUs of this machine, and meters of the energy that a window of work took.

`gpus` says which GPUs there are and what uses them, `meter` defines what a meter is and how one is chosen, `nvml` and
`codecarbon` are the meters. The only importer of `pynvml` (package nvidia-ml-py) and `codecarbon`, both imported late.
Energy is in joules, power in watts; times are seconds on the clock of `time.perf_counter`.
"""

from __future__ import annotations

from slim_eval.power import codecarbon, nvml  # noqa: F401  # they register themselves
from slim_eval.power.gpus import (
    Gpu,
    GpuCapabilities,
    GpuMemory,
    gpu_capabilities,
    gpu_facts,
    gpu_memory,
    list_gpus,
    memory_bandwidth_gb_s,
    process_tree,
    resolve_gpus,
)
from slim_eval.power.meter import (
    METERS,
    NO_SOURCE,
    SETTLE_S,
    Conditions,
    DeviceState,
    EnergyReading,
    EnergySource,
    Meter,
    NoMeter,
    PowerSample,
    check_energy_source,
    integral_joules,
    open_meter,
)

__all__ = [
    "METERS",
    "NO_SOURCE",
    "SETTLE_S",
    "Conditions",
    "DeviceState",
    "EnergyReading",
    "EnergySource",
    "Gpu",
    "GpuCapabilities",
    "GpuMemory",
    "Meter",
    "NoMeter",
    "PowerSample",
    "check_energy_source",
    "gpu_capabilities",
    "gpu_facts",
    "gpu_memory",
    "integral_joules",
    "list_gpus",
    "memory_bandwidth_gb_s",
    "open_meter",
    "process_tree",
    "resolve_gpus",
]
