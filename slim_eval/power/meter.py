"""What every power meter has in common: windows, readings, and the arithmetic on power samples."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slim_eval.power.conditions import Conditions, DeviceState

SETTLE_S = 1.0  # newer GPUs report power as the mean of the last second
MIN_WINDOW_S = 2.0  # below this, a counter's own period (up to 0.1 s) is too large a share of the window


@dataclass(frozen=True)
class PowerSample:
    """Power of each device in watts at `t_s` seconds after the window opened; `states` of the devices where known."""

    t_s: float
    watts: tuple[float, ...]
    states: tuple[DeviceState, ...] = ()


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one window, summed over its devices.

    Attributes:
        source: ``nvml-counter``, ``nvml-integral``, ``codecarbon (method)``.
        duration_s: Length of the window; None, like `joules` and its kin, where the meter failed on the way.
        joules: From `source`; no measurement where there are `invalid_reasons`.
        joules_counter: Difference of the energy counters; None where not supported.
        joules_integral: Trapezoid integral of the power samples; None without samples.
        disagreement: |counter - integral| / counter, a fraction.
        samples: Power over time, in the window.
        devices: UUIDs of the GPUs.
        opened_s: When the window opened, on the clock of `time.perf_counter`.
        conditions: Clocks, temperatures and throttling in the window.
        foreign_pids: Processes that are not ours, seen on a device.
        invalid_reasons: Why `joules` must not be used; empty for a good window.
        notes: What a reader must know besides.
    """

    source: str
    duration_s: float | None = None
    joules: float | None = None
    joules_counter: float | None = None
    joules_integral: float | None = None
    disagreement: float | None = None
    samples: tuple[PowerSample, ...] = ()
    devices: tuple[str, ...] = ()
    opened_s: float | None = None
    conditions: Conditions = field(default_factory=Conditions)
    foreign_pids: tuple[int, ...] = ()
    invalid_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Meter(ABC):
    """Measures the energy of windows, one after the other: start, open, close, stop.

    It samples from `start` to `stop`, so that a window can be cut out of work that goes on before and after it.
    """

    @abstractmethod
    def start(self) -> None:
        """Begin to sample."""

    @abstractmethod
    def open(self) -> None:
        """The window begins now."""

    @abstractmethod
    def close(self) -> None:
        """The window ends now."""

    @abstractmethod
    def stop(self) -> EnergyReading:
        """End sampling, and read the window.

        Never raises for a meter that failed, or for a window that was not closed: the reading then has reasons and no
        energy.
        """

    def idle_power_watts(self, seconds: float) -> float | None:
        """Mean power in watts while the caller waits for `seconds`, after a wait of `SETTLE_S`.

        Returns:
            None where it cannot be read, or where another process was seen on a device: its work is no idling.
        """
        self.start()
        time.sleep(SETTLE_S)
        self.open()
        time.sleep(seconds)
        self.close()
        reading = self.stop()
        if reading.foreign_pids:
            return None
        # The integral first: over a short wait the counter's period weighs more than the sampling interval.
        joules = reading.joules if reading.joules_integral is None else reading.joules_integral
        return joules / reading.duration_s if joules is not None and reading.duration_s else None


@dataclass(frozen=True)
class NoMeter:
    """Energy cannot be measured, and why."""

    reason: str


def integral_joules(
    samples: Sequence[PowerSample], begin_s: float | None = None, end_s: float | None = None
) -> float | None:
    """Energy under the power samples by the trapezoid rule, joules over all devices.

    Args:
        samples: In order of time.
        begin_s: From when on, on the clock of the samples; the first sample by default. Power is linear between
            samples, and constant before the first and after the last.
        end_s: Until when; the last sample by default.

    Returns:
        None below two samples.
    """
    if len(samples) < 2:
        return None
    times = [sample.t_s for sample in samples]
    begin, end = times[0] if begin_s is None else begin_s, times[-1] if end_s is None else end_s
    knots = [begin, *times[bisect_right(times, begin) : bisect_left(times, end)], end]
    watts = [_watts_at(samples, times, t) for t in knots]
    return sum((b - a) * (p + q) / 2 for (a, b), (p, q) in zip(pairwise(knots), pairwise(watts), strict=True))


def _watts_at(samples: Sequence[PowerSample], times: Sequence[float], t_s: float) -> float:
    after = bisect_left(times, t_s)
    if after == 0 or after == len(times):
        return sum(samples[min(after, len(times) - 1)].watts)
    before = after - 1
    share = (t_s - times[before]) / (times[after] - times[before])
    return (1 - share) * sum(samples[before].watts) + share * sum(samples[after].watts)


def disagreement(counter: float | None, integral: float | None) -> float | None:
    """|counter - integral| / counter, a fraction; None where either is missing or the counter did not move."""
    return abs(counter - integral) / counter if counter and integral is not None else None


def window_reasons(duration_s: float) -> list[str]:
    """Why a window of this length is no good; empty where it is long enough."""
    if duration_s >= MIN_WINDOW_S:
        return []
    return [f"the window of {duration_s:.2f} s is shorter than {MIN_WINDOW_S:g} s: measure more requests"]
