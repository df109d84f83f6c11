"""What every power meter has in common: windows, readings, and the arithmetic on power samples."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MIN_WINDOW_S = 2.0  # below this, a counter's own period (up to 0.1 s) is too large a share of the window


@dataclass(frozen=True)
class PowerSample:
    """Power of each device in watts at `t_s` seconds after the window began."""

    t_s: float
    watts: tuple[float, ...]


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one window, summed over its devices.

    Attributes:
        source: ``nvml-counter``, ``nvml-integral``, ``codecarbon (method)``.
        duration_s: Length of the window; None, like all numbers, where the meter failed on the way.
        joules: The number to use, from `source`.
        joules_counter: Difference of the energy counters; None where not supported.
        joules_integral: Trapezoid integral of the power samples; None without samples.
        disagreement: |counter - integral| / counter, a fraction.
        samples: Power over time, first and last at the ends of the window.
        invalid_reasons: Why `joules` must not be compared; empty for a good window.
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
    invalid_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Meter(ABC):
    """Measures the energy of windows, one after the other."""

    @abstractmethod
    def start(self) -> None:
        """Begin a window."""

    @abstractmethod
    def stop(self) -> EnergyReading:
        """End the window. Never raises for a meter that failed: the reading then has reasons and no numbers."""

    def idle_power_watts(self, seconds: float) -> float | None:
        """Mean power in watts while the caller waits for `seconds`; None where it cannot be read."""
        self.start()
        time.sleep(seconds)
        reading = self.stop()
        # The integral first: over a short wait the counter's period weighs more than the sampling interval.
        joules = reading.joules if reading.joules_integral is None else reading.joules_integral
        return joules / reading.duration_s if joules is not None and reading.duration_s else None


@dataclass(frozen=True)
class NoMeter:
    """Energy cannot be measured, and why."""

    reason: str


def integral_joules(samples: Sequence[PowerSample]) -> float | None:
    """Energy under the power samples by the trapezoid rule, joules over all devices; None below two samples."""
    if len(samples) < 2:
        return None
    return sum((b.t_s - a.t_s) * (sum(a.watts) + sum(b.watts)) / 2 for a, b in pairwise(samples))


def disagreement(counter: float | None, integral: float | None) -> float | None:
    """|counter - integral| / counter, a fraction; None where either is missing or the counter did not move."""
    return abs(counter - integral) / counter if counter and integral is not None else None


def window_reasons(duration_s: float) -> list[str]:
    """Why a window of this length is no good; empty where it is long enough."""
    if duration_s >= MIN_WINDOW_S:
        return []
    return [f"the window of {duration_s:.2f} s is shorter than {MIN_WINDOW_S:g} s: measure more requests"]
