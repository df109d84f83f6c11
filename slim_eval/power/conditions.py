"""Under what conditions a GPU worked: clocks, temperature and what held it back, at one time and over a window."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.power.gpus import ask

_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_GPU_CORE = 0  # NVML_TEMPERATURE_GPU
_THROTTLES = {  # nvmlClocksEventReason… bits that change what a joule was spent on
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True)
class DeviceState:
    """One GPU at one time; None where it does not tell. `throttles` is empty where nothing held it back."""

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_celsius: float | None = None
    throttles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Conditions:
    """GPUs over a window: extremes and means over all samples and devices; None where no device told.

    Attributes:
        min_sm_clock_mhz: Lowest SM clock of any device.
        mean_sm_clock_mhz: Mean SM clock.
        mean_memory_clock_mhz: Mean memory clock.
        mean_temperature_celsius: Mean temperature of the chips.
        max_temperature_celsius: Highest temperature of any chip.
        throttles: What held a device back -> share of the samples in which it did; empty where nothing did.
    """

    min_sm_clock_mhz: float | None = None
    mean_sm_clock_mhz: float | None = None
    mean_memory_clock_mhz: float | None = None
    mean_temperature_celsius: float | None = None
    max_temperature_celsius: float | None = None
    throttles: dict[str, float] = field(default_factory=dict)


def read_state(nvml: Any, handle: Any) -> DeviceState:
    """The state of one device now; NVML not telling a part of it is no error."""
    return DeviceState(
        ask(nvml, "nvmlDeviceGetClockInfo", handle, _SM),
        ask(nvml, "nvmlDeviceGetClockInfo", handle, _MEMORY),
        ask(nvml, "nvmlDeviceGetTemperature", handle, _GPU_CORE),
        _throttles(nvml, handle),
    )


def _throttles(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # its name before driver 535
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if bits is None else tuple(reason for bit, reason in _THROTTLES.items() if bits & bit)


def summarize_states(samples: Sequence[Sequence[DeviceState]]) -> Conditions:
    """Conditions over the states of all devices, one sequence a sample."""
    states = [state for sample in samples for state in sample]
    sm = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    memory = [state.memory_clock_mhz for state in states if state.memory_clock_mhz is not None]
    heat = [state.temperature_celsius for state in states if state.temperature_celsius is not None]
    held = Counter(reason for sample in samples for reason in {r for state in sample for r in state.throttles or ()})
    return Conditions(
        min_sm_clock_mhz=min(sm, default=None),
        mean_sm_clock_mhz=statistics.fmean(sm) if sm else None,
        mean_memory_clock_mhz=statistics.fmean(memory) if memory else None,
        mean_temperature_celsius=statistics.fmean(heat) if heat else None,
        max_temperature_celsius=max(heat, default=None),
        throttles={reason: count / len(samples) for reason, count in sorted(held.items())},
    )
