"""The NVML meter: energy counters and sampled power of one or more GPUs, and the conditions of the window.

Both numbers are kept. The counter (`nvmlDeviceGetTotalEnergyConsumption`, Volta and newer) comes first: the driver
integrates it at a rate that no caller reaches. The integral of the power samples checks it, and replaces it if missing.
"""

from __future__ import annotations

import math
import queue
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slim_eval.errors import BenchmarkError
from slim_eval.power.gpus import Gpu, ask, foreign_processes, open_nvml, pids_may_be_the_hosts, process_tree
from slim_eval.power.meter import (
    METERS,
    Conditions,
    DeviceState,
    EnergyReading,
    EnergySource,
    Meter,
    PowerSample,
    integral_joules,
    window_reasons,
)

MAX_DISAGREEMENT = 0.05  # fraction, between counter and integral
_PROCESS_CHECK_S = 1.0  # listing processes costs far more than reading power
_ALIVE_CHECK_S = 0.1  # how long a mark waits before it checks that the sampling thread is alive
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_GPU_CORE = 0  # NVML_TEMPERATURE_GPU
_THROTTLES = {  # nvmlClocksEventReason… bits that change what energy is spent on
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}


def _obstacle(gpus: Sequence[Gpu]) -> BenchmarkError | None:
    if not gpus:
        return BenchmarkError("--energy-source nvml: NVML finds no GPU here")
    with open_nvml() as nvml:
        for gpu in gpus:
            handle = ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
            queries = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
            if all(ask(nvml, query, handle) is None for query in queries):
                return BenchmarkError(f"NVML reports neither power nor energy of {gpu.name} ({gpu.uuid})")
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
        self._watch: _Watch | None = None

    def start(self) -> None:
        """Begin to sample; returns after the first sample."""
        self._watch = _Watch(self._gpus, self._interval_s)
        self._watch.start()
        self._watch.ready.wait()

    def open(self) -> None:
        """Begin the window; returns after the counters are read."""
        self._started().mark()

    def close(self) -> None:
        """End the window; returns after the counters are read."""
        self._started().mark()

    def stop(self) -> EnergyReading:
        """End sampling, and return the reading of the window."""
        watch, self._watch = self._started(), None
        watch.end()
        return watch.reading()

    def _started(self) -> _Watch:
        if self._watch is None:
            raise RuntimeError("a meter is opened, closed and stopped after start()")
        return self._watch


class _Watch(threading.Thread):
    """Samples until `end`, and takes two marks: the ends of the window.

    All NVML calls are made in this thread; they release Python's lock.
    """

    def __init__(self, gpus: tuple[Gpu, ...], interval_s: float) -> None:
        super().__init__(name="slim-eval power", daemon=True)
        self.ready = threading.Event()
        self._gpus, self._interval_s = gpus, interval_s
        self._requests: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()  # a mark to take, or None: end
        self._marks: list[tuple[float, tuple[float | None, ...]]] = []  # clock, joules on each device's counter
        self._ticks: list[PowerSample] = []  # t_s on the clock of `time.perf_counter`; no watts if not supported
        self._foreign: set[int] = set()
        self._unknown: set[str] = set()  # what NVML did not report
        self._failure: str | None = None
        self._over = False
        self._check_at_s = 0.0

    def mark(self) -> None:
        """Read the counters now; returns as soon as that is done or NVML has failed."""
        taken = threading.Event()
        self._requests.put(taken)
        while not taken.wait(_ALIVE_CHECK_S) and self.is_alive():
            pass

    def end(self) -> None:
        """Stop sampling."""
        self._requests.put(None)
        self.join()

    def run(self) -> None:
        """Sample until the end; an NVML error stops it early and makes the window invalid."""
        import pynvml

        try:
            with open_nvml() as nvml:
                self._sample(nvml, [nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in self._gpus])
        except pynvml.NVMLError as error:
            self._failure = f"NVML failed while energy was measured: {error}"
        finally:
            self.ready.set()

    def _sample(self, nvml: Any, handles: list[Any]) -> None:
        self._check_processes(nvml, handles)
        began = time.perf_counter()
        self._tick(nvml, handles)
        self.ready.set()
        while not self._over:
            # On a grid of the clock, not one pause after the other: reading takes time of its own.
            self._serve(nvml, handles, self._interval_s - (time.perf_counter() - began) % self._interval_s)
            self._tick(nvml, handles)
            if time.perf_counter() >= self._check_at_s:
                self._check_processes(nvml, handles)

    def _serve(self, nvml: Any, handles: list[Any], timeout_s: float) -> None:
        """Wait for a request, and handle it; return after `timeout_s` at the latest."""
        try:
            mark = self._requests.get(timeout=timeout_s)
        except queue.Empty:
            return
        if mark is None:
            self._over = True
            return
        self._marks.append((time.perf_counter(), tuple(_counter_joules(nvml, handle) for handle in handles)))
        mark.set()  # before anything else is read: the caller's work goes on
        self._check_at_s = 0.0

    def _tick(self, nvml: Any, handles: list[Any]) -> None:
        before = time.perf_counter()
        watts = _watts(nvml, handles)
        middle = (before + time.perf_counter()) / 2
        states = tuple(read_state(nvml, handle) for handle in handles)
        self._ticks.append(PowerSample(middle, watts, states))
        if not watts:
            self._unknown.add("power")
        if any(state.throttles is None for state in states):
            self._unknown.add("throttling")

    def _check_processes(self, nvml: Any, handles: list[Any]) -> None:
        own = process_tree()
        for handle in handles:
            processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
            if processes is None:
                self._unknown.add("other processes on the GPU")
                continue
            pids = {process.pid for process in processes}
            self._foreign |= foreign_processes(pids, own, namespaced=pids_may_be_the_hosts())
        # The check that follows the end of the window is the last one.
        self._check_at_s = time.perf_counter() + _PROCESS_CHECK_S if len(self._marks) < 2 else math.inf

    def reading(self) -> EnergyReading:
        """The reading of the window; without energy if NVML failed or the window was not closed."""
        opened = self._marks[0][0] if self._marks else None
        closed = self._marks[1][0] if len(self._marks) == 2 and self._failure is None else None
        duration = None if opened is None or closed is None else closed - opened
        ticks = [replace(tick, t_s=tick.t_s - opened) for tick in self._ticks] if opened is not None else []
        window = [tick for tick in ticks if 0 <= tick.t_s <= (math.inf if duration is None else duration)]
        conditions = summarize_states([tick.states for tick in window])
        reasons = [f"throttled by {why} in {share:.1%} of the samples" for why, share in conditions.throttles.items()]
        if self._foreign:
            reasons.append(f"other processes on the GPU: pid {', '.join(map(str, sorted(self._foreign)))}")
        reading = EnergyReading(
            source="nvml",
            samples=tuple(tick for tick in window if tick.watts),
            devices=tuple(gpu.uuid for gpu in self._gpus),
            opened_s=opened,
            conditions=conditions,
            foreign_pids=tuple(sorted(self._foreign)),
            invalid_reasons=tuple(reasons),
            notes=tuple(f"NVML does not report {what}" for what in sorted(self._unknown)),
        )
        if duration is None:
            return replace(reading, invalid_reasons=(self._failure or "the window was not closed", *reasons))
        (_, first), (_, last) = self._marks
        counted = [b - a for a, b in zip(first, last, strict=True) if a is not None and b is not None]
        counter = sum(counted) if len(counted) == len(self._gpus) else None
        # With the samples just outside the window, so that the integral covers it to both ends.
        integral = integral_joules([tick for tick in ticks if tick.watts], 0.0, duration)
        difference = disagreement(counter, integral)
        problems = window_reasons(duration)
        stuck = [joules for joules in counted if joules <= 0]  # a counter that did not advance measured nothing
        if stuck:
            problems.append(f"the energy counter did not advance ({stuck[0]:+.3f} J)")
        if difference is not None and difference > MAX_DISAGREEMENT:
            problems.append(f"counter and integral of power disagree by {difference:.1%} (> {MAX_DISAGREEMENT:.0%})")
        by_counter = counter is not None and not stuck
        return replace(
            reading,
            source="nvml-counter" if by_counter else "nvml-integral",
            duration_s=duration,
            joules=counter if by_counter else integral,
            joules_counter=counter,
            joules_integral=integral,
            disagreement=difference,
            invalid_reasons=(*problems, *reasons),
        )


def read_state(nvml: Any, handle: Any) -> DeviceState:
    """The state of one device now."""
    bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # its name before driver 535
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return DeviceState(
        ask(nvml, "nvmlDeviceGetClockInfo", handle, _SM),
        ask(nvml, "nvmlDeviceGetClockInfo", handle, _MEMORY),
        ask(nvml, "nvmlDeviceGetTemperature", handle, _GPU_CORE),
        None if bits is None else tuple(reason for bit, reason in _THROTTLES.items() if bits & bit),
    )


def summarize_states(samples: Sequence[Sequence[DeviceState]]) -> Conditions:
    """Conditions over the states of all devices, one sequence per sample."""
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


def disagreement(counter: float | None, integral: float | None) -> float | None:
    """|counter - integral| / counter, a fraction; None if either is missing or the counter did not advance."""
    return abs(counter - integral) / counter if counter and integral is not None else None


def _watts(nvml: Any, handles: Sequence[Any]) -> tuple[float, ...]:
    """Power of each device; empty if one of them does not report it."""
    try:
        return tuple(nvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in handles)
    except nvml.NVMLError_NotSupported:
        return ()


def _counter_joules(nvml: Any, handle: Any) -> float | None:
    """The energy counter, joules since the driver was loaded; None if the device has none."""
    try:
        millijoules: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError_NotSupported:
        return None
    return millijoules / 1000


METERS.register(EnergySource("nvml", obstacle=_obstacle, preference=lambda gpus: 10 if gpus else None, open=NvmlMeter))
