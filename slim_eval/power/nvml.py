"""The NVML meter: energy counters and sampled power of one or more GPUs, and what happened to them meanwhile.

Both numbers are kept. The counter (`nvmlDeviceGetTotalEnergyConsumption`, Volta and newer) is the primary one: the
driver integrates it at a rate that no caller reaches. Power samples check it, and stand in for it where there is none.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from slim_eval.power.gpus import Gpu, ask, foreign_processes, open_nvml, pids_may_be_the_hosts, process_tree
from slim_eval.power.meter import EnergyReading, Meter, PowerSample, disagreement, integral_joules, window_reasons

MAX_DISAGREEMENT = 0.05  # fraction, between counter and integral
_PROCESS_CHECK_S = 1.0  # listing processes costs far more than reading power
_THROTTLES = {  # nvmlClocksEventReason… bits that change what a joule was spent on
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}


def why_not(gpus: Sequence[Gpu]) -> str | None:
    """Why NVML cannot measure these GPUs; None where it can."""
    if not gpus:
        return "--energy-source nvml: NVML knows no GPU here"
    with open_nvml() as nvml:
        for gpu in gpus:
            handle = ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
            queries = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
            if all(ask(nvml, query, handle) is None for query in queries):
                return f"NVML reports neither power nor energy of {gpu.name} ({gpu.uuid})"
    return None


class NvmlMeter(Meter):
    """Energy of one or more GPUs, summed.

    Args:
        gpus: The devices that compute.
        sampling_interval_s: Seconds between power samples.
    """

    def __init__(self, gpus: Sequence[Gpu], sampling_interval_s: float) -> None:
        self._gpus = tuple(gpus)
        self._interval_s = sampling_interval_s
        self._window: _Window | None = None

    def start(self) -> None:
        """Begin a window: counters and the first sample are read before this returns."""
        self._window = _Window(self._gpus, self._interval_s)
        self._window.start()
        self._window.ready.wait()

    def stop(self) -> EnergyReading:
        """End the window with a last sample and the counters."""
        if self._window is None:
            raise RuntimeError("stop() before start()")
        window, self._window = self._window, None
        window.over.set()
        window.join()
        return window.reading()


class _Window(threading.Thread):
    """One window, from start to `over`. All NVML calls are made in this thread; they release Python's lock."""

    def __init__(self, gpus: tuple[Gpu, ...], interval_s: float) -> None:
        super().__init__(name="slim-eval power", daemon=True)
        self.ready, self.over = threading.Event(), threading.Event()
        self._gpus, self._interval_s = gpus, interval_s
        self._marks: list[tuple[float, float | None]] = []  # clock, joules on the counters: at start and end
        self._samples: list[PowerSample] = []
        self._ticks = 0
        self._throttled: Counter[str] = Counter()  # reason -> ticks
        self._foreign: set[int] = set()
        self._unknown: set[str] = set()  # what NVML did not tell
        self._failure: str | None = None

    def run(self) -> None:
        """Read until told that the window is over; an NVML error ends it early and voids it."""
        import pynvml

        try:
            with open_nvml() as nvml:
                self._watch(nvml, [nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in self._gpus])
        except pynvml.NVMLError as error:
            self._failure = f"NVML failed in the window: {error}"
        finally:
            self.ready.set()

    def _watch(self, nvml: Any, handles: list[Any]) -> None:
        self._check_processes(nvml, handles)
        began = checked = time.perf_counter()
        self._marks.append((began, _counter_joules(nvml, handles)))
        self._tick(nvml, handles)
        self.ready.set()
        # Against the clock, not one pause after the other: reading takes time of its own.
        while not self.over.wait(max(0.0, began + self._ticks * self._interval_s - time.perf_counter())):
            self._tick(nvml, handles)
            if time.perf_counter() - checked >= _PROCESS_CHECK_S:
                self._check_processes(nvml, handles)
                checked = time.perf_counter()
        self._tick(nvml, handles)
        self._marks.append((time.perf_counter(), _counter_joules(nvml, handles)))
        self._check_processes(nvml, handles)

    def _tick(self, nvml: Any, handles: list[Any]) -> None:
        before = time.perf_counter()
        watts = _watts(nvml, handles)
        middle = (before + time.perf_counter()) / 2
        if watts is not None:
            self._samples.append(PowerSample(middle - self._marks[0][0], watts))
        self._ticks += 1
        self._throttled.update({reason for handle in handles for reason in self._throttles(nvml, handle)})

    def _throttles(self, nvml: Any, handle: Any) -> list[str]:
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # its name before driver 535
            bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        if bits is None:
            self._unknown.add("throttling")
            return []
        return [reason for bit, reason in _THROTTLES.items() if bits & bit]

    def _check_processes(self, nvml: Any, handles: list[Any]) -> None:
        own = process_tree()
        for handle in handles:
            processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
            if processes is None:
                self._unknown.add("other processes on the GPU")
                continue
            pids = {process.pid for process in processes}
            self._foreign |= foreign_processes(pids, own, namespaced=pids_may_be_the_hosts())

    def reading(self) -> EnergyReading:
        """What the window gave; without numbers where NVML failed in it."""
        devices = tuple(gpu.uuid for gpu in self._gpus)
        if self._failure is not None:
            return EnergyReading("nvml", devices=devices, invalid_reasons=(self._failure,))
        (began, first), (ended, last) = self._marks
        counter = None if first is None or last is None else last - first
        integral = integral_joules(self._samples)
        moved = counter is not None and counter > 0
        # A counter that stands still measured nothing: its 0 J are no number.
        joules, source = (counter, "nvml-counter") if moved else (integral, "nvml-integral")
        difference = disagreement(counter, integral)
        reasons = window_reasons(ended - began)
        if counter is not None and not moved:
            reasons.append(f"the energy counter did not advance ({counter:+.3f} J)")
        if difference is not None and difference > MAX_DISAGREEMENT:
            reasons.append(f"counter and integral of power disagree by {difference:.1%} (> {MAX_DISAGREEMENT:.0%})")
        return EnergyReading(
            source=source,
            duration_s=ended - began,
            joules=joules,
            joules_counter=counter,
            joules_integral=integral,
            disagreement=difference,
            samples=tuple(self._samples),
            devices=devices,
            invalid_reasons=(*reasons, *self._disturbances()),
            notes=tuple(f"NVML does not tell {what}" for what in sorted(self._unknown)),
        )

    def _disturbances(self) -> list[str]:
        reasons = [
            f"throttled by {why} in {ticks} of {self._ticks} samples" for why, ticks in sorted(self._throttled.items())
        ]
        if self._foreign:
            reasons.append(f"other processes on the GPU: pid {', '.join(map(str, sorted(self._foreign)))}")
        return reasons


def _watts(nvml: Any, handles: Sequence[Any]) -> tuple[float, ...] | None:
    """Power of each device; None where one of them does not report it."""
    try:
        return tuple(nvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in handles)
    except nvml.NVMLError_NotSupported:
        return None


def _counter_joules(nvml: Any, handles: Sequence[Any]) -> float | None:
    """Sum of the energy counters, joules since the driver was loaded; None where one device has none."""
    try:
        millijoules: int = sum(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)
    except nvml.NVMLError_NotSupported:
        return None
    return millijoules / 1000
