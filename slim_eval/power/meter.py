"""What a power meter is, how one is chosen, and the arithmetic on power samples.

A meter is added by registering an `EnergySource` in `METERS`, here or in a plugin: `--energy-source` then accepts its
name, and ``auto`` considers it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slim_eval.errors import BenchmarkError, SlimEvalError, unknown_name
from slim_eval.power.gpus import Gpu
from slim_eval.utils.registry import Registry

SETTLE_S = 1.0  # newer GPUs report power as the mean of the last second
MIN_WINDOW_S = 2.0  # in a shorter window, a counter's own period (up to 0.1 s) is too large a share
#: Values of `--energy-source` that name no meter.
AUTO, NO_SOURCE = "auto", "none"


@dataclass(frozen=True)
class DeviceState:
    """One GPU at one time; None if not reported. `throttles` is empty if nothing throttled it."""

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_celsius: float | None = None
    throttles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Conditions:
    """Clocks and temperatures over a window, all samples and devices together; None if no device reports them."""

    min_sm_clock_mhz: float | None = None
    mean_sm_clock_mhz: float | None = None
    sm_clock_share: float | None = (
        None  # mean / highest SM clock of the slowest GPU, of those at their power cap if any
    )
    mean_memory_clock_mhz: float | None = None
    mean_temperature_celsius: float | None = None
    max_temperature_celsius: float | None = None
    #: Reason for throttling -> share of the samples in which any device was throttled by it.
    throttles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PowerSample:
    """Power of each device in watts, `t_s` seconds after the window opened, and the devices' states if known."""

    t_s: float
    watts: tuple[float, ...]
    states: tuple[DeviceState, ...] = ()


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one window, summed over its devices; `joules` must not be used if there are `invalid_reasons`."""

    source: str  # ``nvml-counter``, ``nvml-integral``, ``codecarbon (method)``, or another meter's name
    duration_s: float | None = None  # of the window; None, like the energies, if the meter failed
    joules: float | None = None  # from `source`
    joules_counter: float | None = None  # difference of the energy counters; None if not supported
    joules_integral: float | None = None  # trapezoid integral of the power samples; None without samples
    disagreement: float | None = None  # |counter - integral| / counter, a fraction
    samples: tuple[PowerSample, ...] = ()  # in the window
    devices: tuple[str, ...] = ()  # UUIDs of the GPUs
    opened_s: float | None = None  # on the clock of `time.perf_counter`
    conditions: Conditions = field(default_factory=Conditions)
    foreign_pids: tuple[int, ...] = ()  # processes of others that used a device
    invalid_reasons: tuple[str, ...] = ()  # empty for a good window
    notes: tuple[str, ...] = ()  # what a reader must know besides


class Meter(ABC):
    """Measures the energy of windows, one after the other: start, open, close, stop.

    It samples from `start` to `stop`, so that a window can be cut out of work that goes on before and after it.
    """

    @abstractmethod
    def start(self) -> None:
        """Begin to sample."""

    @abstractmethod
    def open(self) -> None:
        """Begin the window."""

    @abstractmethod
    def close(self) -> None:
        """End the window."""

    @abstractmethod
    def stop(self) -> EnergyReading:
        """End sampling, and return the reading of the window.

        A meter that failed and a window that was not closed raise nothing: their reading has reasons and no energy.
        """

    def idle_power_watts(self, seconds: float) -> float | None:
        """Mean power over `seconds` of waiting, after a first wait of `SETTLE_S`, in watts.

        None if it cannot be read, or if another process used a device: then the device was not idle.
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


@dataclass(frozen=True)
class EnergySource:
    """A kind of meter, as `METERS` lists it; all of it is about some GPUs, or about the CPU if there are none."""

    name: str  # as `--energy-source` accepts it
    #: Why it cannot measure, as the error to raise; None if it can. An error without a remedy gets a general one.
    obstacle: Callable[[Sequence[Gpu]], SlimEvalError | None]
    preference: Callable[[Sequence[Gpu]], int | None]  # rank for ``auto``, the highest first; None: only if named
    open: Callable[[Sequence[Gpu], float], Meter]  # from the seconds between power samples


METERS: Registry[EnergySource] = Registry("energy source")


def check_energy_source(name: str) -> None:
    """Refuse a value of `--energy-source` that is neither ``auto``, ``none`` nor a registered name.

    Raises:
        UsageError: The remedy lists the names.
    """
    if name not in {AUTO, NO_SOURCE, *METERS}:
        raise unknown_name("energy source", name, [AUTO, *METERS, NO_SOURCE])


def open_meter(source: str, gpus: Sequence[Gpu], sampling_interval_s: float) -> Meter | NoMeter:
    """The meter for a value of `--energy-source`; ``auto`` takes the preferred one that can measure here.

    `gpus` are the devices that compute, none on the CPU; the interval is that between power samples.

    Raises:
        UsageError: No meter has that name.
        SlimEvalError: The named meter cannot measure here; its own error, such as `MissingPackageError`.
    """
    check_energy_source(source)
    if source == NO_SOURCE:
        return NoMeter("switched off by --energy-source none")
    if source == AUTO:
        ranked = [(rank, member) for member in METERS.values() if (rank := member.preference(gpus)) is not None]
        members = [member for _, member in sorted(ranked, key=lambda pair: -pair[0])]
    else:
        members = [METERS[source]]
    reasons = []
    for member in members:
        obstacle = member.obstacle(gpus)
        if obstacle is None:
            return member.open(gpus, sampling_interval_s)
        if source != AUTO:
            general = BenchmarkError(obstacle.cause, "use --energy-source auto, or codecarbon for an estimate")
            raise obstacle if obstacle.remedy else general
        reasons.append(": ".join(filter(None, (obstacle.cause, obstacle.remedy))))
    return NoMeter("; ".join(reasons) or "no meter is registered for these devices")


def integral_joules(samples: Sequence[PowerSample], begin_s: float, end_s: float) -> float | None:
    """Energy under the power samples by the trapezoid rule, joules over all devices; None with fewer than two samples.

    Power is linear between the samples, which are in order of time, and constant before the first and after the last.
    `begin_s` and `end_s` are on the clock of the samples.
    """
    if len(samples) < 2:
        return None
    times, totals = [sample.t_s for sample in samples], [sum(sample.watts) for sample in samples]

    def watts_at(t_s: float) -> float:
        after = bisect_left(times, t_s)
        if after == 0 or after == len(times):
            return totals[min(after, len(times) - 1)]
        share = (t_s - times[after - 1]) / (times[after] - times[after - 1])
        return (1 - share) * totals[after - 1] + share * totals[after]

    knots = [begin_s, *times[bisect_right(times, begin_s) : bisect_left(times, end_s)], end_s]
    watts = map(watts_at, knots)
    return sum((b - a) * (p + q) / 2 for (a, b), (p, q) in zip(pairwise(knots), pairwise(watts), strict=True))


def window_reasons(duration_s: float) -> list[str]:
    """Why a window of this length is invalid; empty if it is long enough."""
    if duration_s >= MIN_WINDOW_S:
        return []
    return [f"the window of {duration_s:.2f} s is shorter than {MIN_WINDOW_S:g} s: measure more requests"]
