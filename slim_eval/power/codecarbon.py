"""The CodeCarbon meter: energy of CPU and memory (and GPU) without NVML.

CodeCarbon reads RAPL if the kernel permits it, else it estimates from CPU load and the CPU's rated power; the source of
a reading names the method. It runs offline: no file, no lock, no network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from slim_eval.errors import BenchmarkError, MissingPackageError, SlimEvalError
from slim_eval.power.gpus import Gpu
from slim_eval.power.meter import METERS, EnergyReading, EnergySource, Meter, PowerSample, window_reasons

_JOULES_PER_KWH = 3.6e6
_SHORTEST_INTERVAL_S = 0.5  # below this, CPU load is mostly noise
_STALE_S = 0.06  # CodeCarbon measures again only if its last measurement is older than 0.05 s
#: CodeCarbon's description of its CPU -> method in the source.
_METHODS = {"CPU(Intel Rapl)": "RAPL", "CPU(Cpu Load)": "cpu_load"}


class CodeCarbonMeter(Meter):
    """Energy of the machine's CPU and memory, and of the GPUs given, by CodeCarbon in offline mode.

    The interval between power samples is at least 0.5 s.

    Raises:
        ImportError: CodeCarbon is not installed or older than 3.3.
    """

    def __init__(self, gpus: Sequence[Gpu], sampling_interval_s: float) -> None:
        self._gpus = tuple(gpus)
        self._interval_s = max(sampling_interval_s, _SHORTEST_INTERVAL_S)
        self._log = _Log()
        self._marks: list[float] = []  # the ends of the window
        self._tracker: Any = None
        # Hardware detection takes seconds, and its result is kept for the process: now, not in the first window.
        tracker = self._new_tracker()
        tracker.get_detected_hardware()
        # The public interface does not report how the CPU is measured.
        hardware: list[str] = tracker._conf.get("hardware", [])  # noqa: SLF001
        cpu = next((text for text in hardware if text.startswith("CPU(")), None)
        method = ", ".join(hardware) or "unknown"
        if cpu is not None:
            method = _METHODS.get(cpu, "constant TDP" if ">" in cpu else cpu)
        self._source = f"codecarbon ({method})"

    def _new_tracker(self) -> Any:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it logs before it reads its own log_level
        return OfflineEmissionsTracker(
            country_iso_code="USA",  # offline mode requires one; it affects CO2, not joules
            measure_power_secs=self._interval_s,
            api_call_interval=1,  # call the handler for every measurement
            output_methods=[],
            output_handlers=[self._log],
            emissions_endpoint=None,
            tracking_mode="machine",
            gpu_ids=[gpu.index for gpu in self._gpus],  # it cuts UUIDs wrongly
            allow_multiple_runs=True,  # no lock file
            pue=1.0,  # joules of the devices, not of the building
            log_level="error",
        )

    def start(self) -> None:
        """Begin to sample; CodeCarbon's own start takes some time."""
        self._log, self._marks = _Log(), []
        self._tracker = self._new_tracker()
        self._tracker.start()

    def open(self) -> None:
        """Note the time only: a measurement of CodeCarbon here could count an interval twice."""
        self._marks.append(time.perf_counter())

    def close(self) -> None:
        """Note the time only."""
        self._marks.append(time.perf_counter())

    def stop(self) -> EnergyReading:
        """End sampling, and return the reading of the window."""
        if self._tracker is None:
            raise RuntimeError("stop() before start()")
        tracker, self._tracker = self._tracker, None
        time.sleep(_STALE_S)  # so that the last measurement is after the window
        tracker.stop()
        devices = tuple(gpu.uuid for gpu in self._gpus)
        note = "energy covers the whole CPU and memory: CodeCarbon estimates memory and, without RAPL, CPU energy"
        if len(self._marks) < 2:
            return EnergyReading(self._source, devices=devices, invalid_reasons=("the window was not closed",))
        opened, closed = self._marks
        rows = _window(self._log.rows, opened, closed)
        if not rows:  # CodeCarbon swallows its own errors
            return EnergyReading(self._source, devices=devices, invalid_reasons=("CodeCarbon returned no reading",))
        return EnergyReading(
            source=self._source,
            duration_s=closed - opened,
            joules=rows[-1][1] - rows[0][1],
            samples=_mean_power(rows, self._interval_s / 2),
            devices=devices,
            opened_s=opened,
            invalid_reasons=tuple(window_reasons(closed - opened)),
            notes=(note,),
        )


class _Log:
    """Receives CodeCarbon's totals at every measurement, in place of a file: the handler interface it documents."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []  # clock, joules since CodeCarbon's start

    def live_out(self, total: Any, delta: Any) -> None:
        joules = total.energy_consumed * _JOULES_PER_KWH
        if not self.rows or joules > self.rows[-1][1]:  # a repeated total is not a new measurement
            self.rows.append((time.perf_counter(), joules))

    out = live_out  # the last measurement

    def task_out(self, data: Any, experiment_name: str) -> None:
        """Tasks are not used."""

    def exit(self) -> None:
        """Nothing to close."""


def _window(rows: Sequence[tuple[float, float]], opened: float, closed: float) -> list[tuple[float, float]]:
    """The rows of a window and one at each end of it, where energy is interpolated between its neighbours.

    Empty without a row before and one after the window.
    """
    if not rows or rows[0][0] > opened or rows[-1][0] < closed:
        return []
    ends = []
    for t in (opened, closed):
        after = max(1, next(index for index, row in enumerate(rows) if row[0] >= t))
        (t0, joules0), (t1, joules1) = rows[after - 1], rows[after]
        ends.append((t, joules0 + (joules1 - joules0) * (t - t0) / (t1 - t0)))
    return [ends[0], *(row for row in rows if opened < row[0] < closed), ends[1]]


def _mean_power(rows: Sequence[tuple[float, float]], shortest_s: float) -> tuple[PowerSample, ...]:
    """Mean power between rows at least `shortest_s` apart, at the middle of its interval."""
    samples: list[PowerSample] = []
    t0, (last_t, last_joules) = rows[0][0], rows[0]
    for t, joules in rows[1:]:
        if t - last_t >= shortest_s:
            samples.append(PowerSample((t + last_t) / 2 - t0, ((joules - last_joules) / (t - last_t),)))
            last_t, last_joules = t, joules
    return tuple(samples)


def _obstacle(gpus: Sequence[Gpu]) -> SlimEvalError | None:
    for gpu in gpus:
        if gpu.parent is not None:  # CodeCarbon reads the power of the whole GPU, with all its slices
            cause = f"{gpu.name} is a MIG slice, and CodeCarbon reads power only of the whole GPU, with all its slices"
            return BenchmarkError(cause, "measure energy on a GPU without MIG; --energy-source none skips it")
    try:
        from codecarbon import OfflineEmissionsTracker  # noqa: F401
        from codecarbon.output_methods.base_output import OutputMethod  # noqa: F401  # new in 3.3
    except ImportError:
        return MissingPackageError("codecarbon>=3.3", "energy without NVML", 'pip install "codecarbon>=3.3"')
    return None


# Not for `auto` with GPUs: an estimate would replace what NVML refuses to measure.
METERS.register(
    EnergySource("codecarbon", obstacle=_obstacle, preference=lambda gpus: None if gpus else 0, open=CodeCarbonMeter)
)
