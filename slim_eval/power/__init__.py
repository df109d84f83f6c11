"""GPUs, their power and the energy of a window: NVML first, CodeCarbon where there is no NVML.

The only importer of `pynvml` (package nvidia-ml-py) and `codecarbon`, both opened late. Energy is in joules, power in
watts, times are seconds on the clock of `time.perf_counter`.
"""

from __future__ import annotations

from collections.abc import Sequence

from slim_eval.config import EnergySource
from slim_eval.errors import BenchmarkError, MissingPackageError
from slim_eval.power.codecarbon import CodeCarbonMeter
from slim_eval.power.conditions import Conditions, DeviceState
from slim_eval.power.gpus import Gpu, gpu_facts, list_gpus, memory_bandwidth_gb_s, process_tree, resolve_gpus
from slim_eval.power.meter import SETTLE_S, EnergyReading, Meter, NoMeter, PowerSample, integral_joules
from slim_eval.power.nvml import NvmlMeter, why_not
from slim_eval.power.occupants import Occupancy, Occupant, occupancy
from slim_eval.power.survey import GpuSurvey, survey

__all__ = [
    "SETTLE_S",
    "CodeCarbonMeter",
    "Conditions",
    "DeviceState",
    "EnergyReading",
    "Gpu",
    "GpuSurvey",
    "Meter",
    "NoMeter",
    "NvmlMeter",
    "Occupancy",
    "Occupant",
    "PowerSample",
    "gpu_facts",
    "integral_joules",
    "list_gpus",
    "memory_bandwidth_gb_s",
    "occupancy",
    "open_meter",
    "process_tree",
    "resolve_gpus",
    "survey",
]


def open_meter(source: EnergySource, gpus: Sequence[Gpu], sampling_interval_s: float) -> Meter | NoMeter:
    """The meter for a source. ``auto`` takes NVML where there are GPUs, else CodeCarbon where installed, else none.

    Args:
        source: Where joules are to come from.
        gpus: The devices that compute; empty on the CPU.
        sampling_interval_s: Seconds between power samples.

    Raises:
        BenchmarkError: NVML was asked for, and it has no GPU or no power reading.
        MissingPackageError: CodeCarbon was asked for and is not installed.
    """
    if source is EnergySource.NONE:
        return NoMeter("switched off by --energy-source none")
    if source is EnergySource.NVML or (source is EnergySource.AUTO and gpus):
        reason = why_not(gpus)
        if reason is None:
            return NvmlMeter(gpus, sampling_interval_s)
        if source is EnergySource.AUTO:
            return NoMeter(reason)
        raise BenchmarkError(reason, "use --energy-source auto, or codecarbon for an estimate")
    try:
        return CodeCarbonMeter(gpus, sampling_interval_s)
    except ImportError as error:
        missing = MissingPackageError("codecarbon>=3.3", "energy without NVML", 'pip install "codecarbon>=3.3"')
        if source is EnergySource.AUTO:
            return NoMeter(f"{missing.cause}: {missing.remedy}")
        raise missing from error
