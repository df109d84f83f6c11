"""The NVML meter: energy counters and sampled power of one or more GPUs, and what happened to them meanwhile.

Both numbers are kept. The counter (`nvmlDeviceGetTotalEnergyConsumption`, Volta and newer) is the primary one: the
driver integrates it at a rate that no caller reaches. Power samples check it, and stand in for it where there is none.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from slim_eval.power.conditions import Conditions, read_state, summarize_states
from slim_eval.power.gpus import Gpu, ask, foreign_processes, open_nvml, pids_may_be_the_hosts, process_tree
from slim_eval.power.meter import EnergyReading, Meter, PowerSample, disagreement, integral_joules, window_reasons

MAX_DISAGREEMENT = 0.05  # fraction, between counter and integral
_PROCESS_CHECK_S = 1.0  # listing processes costs far more than reading power
_ALIVE_CHECK_S = 0.1  # how long a mark waits before it asks whether the sampling thread still lives


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
        self._watch: _Watch | None = None

    def start(self) -> None:
        """Begin to sample: the first sample is there before this returns."""
        self._watch = _Watch(self._gpus, self._interval_s)
        self._watch.start()
        self._watch.ready.wait()

    def open(self) -> None:
        """The window begins: the counters are read before this returns."""
        self._started().mark()

    def close(self) -> None:
        """The window ends: the counters are read before this returns."""
        self._started().mark()

    def stop(self) -> EnergyReading:
        """End sampling, and read the window."""
        watch, self._watch = self._started(), None
        watch.end()
        return watch.reading()

    def _started(self) -> _Watch:
        if self._watch is None:
            raise RuntimeError("a meter is opened, closed and stopped after start()")
        return self._watch


class _Watch(threading.Thread):
    """Samples from start to `end`, and takes two marks: the ends of the window.

    All NVML calls are made in this thread; they release Python's lock.
    """

    def __init__(self, gpus: tuple[Gpu, ...], interval_s: float) -> None:
        super().__init__(name="slim-eval power", daemon=True)
        self.ready = threading.Event()
        self._gpus, self._interval_s = gpus, interval_s
        self._requests: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()  # a mark to take; None: the end
        self._marks: list[tuple[float, tuple[float | None, ...]]] = []  # clock, joules on each device's counter
        self._ticks: list[PowerSample] = []  # t_s on the clock of `time.perf_counter`; no watts where not supported
        self._foreign: set[int] = set()
        self._unknown: set[str] = set()  # what NVML did not tell
        self._failure: str | None = None
        self._over = False
        self._check_at_s = 0.0

    def mark(self) -> None:
        """Read the counters now; returns as soon as that is done, or where NVML failed."""
        taken = threading.Event()
        self._requests.put(taken)
        while not taken.wait(_ALIVE_CHECK_S) and self.is_alive():
            pass

    def end(self) -> None:
        """Stop sampling."""
        self._requests.put(None)
        self.join()

    def run(self) -> None:
        """Sample until told to end; an NVML error ends it early and voids the window."""
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
        """Wait for a request and fulfil it, or for the time to pass."""
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
        """What the window gave; without energy where NVML failed or the window was not closed."""
        failure = self._failure or (None if len(self._marks) == 2 else "the window was not closed")
        opened = self._marks[0][0] if self._marks else None
        duration = None if failure else self._marks[1][0] - self._marks[0][0]
        ticks = [replace(tick, t_s=tick.t_s - (opened or 0.0)) for tick in self._ticks if opened is not None]
        window = [tick for tick in ticks if 0 <= tick.t_s <= (math.inf if duration is None else duration)]
        conditions = summarize_states([tick.states for tick in window])
        reading = EnergyReading(
            source="nvml",
            samples=tuple(tick for tick in window if tick.watts),
            devices=tuple(gpu.uuid for gpu in self._gpus),
            opened_s=opened,
            conditions=conditions,
            foreign_pids=tuple(sorted(self._foreign)),
            invalid_reasons=(*([failure] if failure else []), *_disturbances(conditions, self._foreign)),
            notes=tuple(f"NVML does not tell {what}" for what in sorted(self._unknown)),
        )
        if duration is None:
            return reading
        # With the samples just outside the window, so that the integral reaches to its very ends.
        integral = integral_joules([tick for tick in ticks if tick.watts], 0.0, duration)
        return _with_energy(reading, duration, self._counted(), integral)

    def _counted(self) -> list[float | None]:
        """Joules on each device's counter, between the two marks."""
        (_, first), (_, last) = self._marks
        return [None if a is None or b is None else b - a for a, b in zip(first, last, strict=True)]


def _with_energy(
    reading: EnergyReading, duration_s: float, counters: Sequence[float | None], integral: float | None
) -> EnergyReading:
    """The reading with the energy of its window, and what speaks against that."""
    counted = [joules for joules in counters if joules is not None]
    counter = sum(counted) if len(counted) == len(counters) else None
    # A counter that stands still measured nothing: its 0 J are no number.
    standing = [joules for joules in counted if joules <= 0]
    joules, source = (integral, "nvml-integral") if counter is None or standing else (counter, "nvml-counter")
    difference = disagreement(counter, integral)
    reasons = window_reasons(duration_s)
    if standing:
        reasons.append(f"the energy counter did not advance ({standing[0]:+.3f} J)")
    if difference is not None and difference > MAX_DISAGREEMENT:
        reasons.append(f"counter and integral of power disagree by {difference:.1%} (> {MAX_DISAGREEMENT:.0%})")
    return replace(
        reading,
        source=source,
        duration_s=duration_s,
        joules=joules,
        joules_counter=counter,
        joules_integral=integral,
        disagreement=difference,
        invalid_reasons=(*reasons, *reading.invalid_reasons),
    )


def _disturbances(conditions: Conditions, foreign: Collection[int]) -> list[str]:
    reasons = [f"throttled by {why} in {share:.1%} of the samples" for why, share in conditions.throttles.items()]
    if foreign:
        reasons.append(f"other processes on the GPU: pid {', '.join(map(str, sorted(foreign)))}")
    return reasons


def _watts(nvml: Any, handles: Sequence[Any]) -> tuple[float, ...]:
    """Power of each device; empty where one of them does not report it."""
    try:
        return tuple(nvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in handles)
    except nvml.NVMLError_NotSupported:
        return ()


def _counter_joules(nvml: Any, handle: Any) -> float | None:
    """The energy counter, joules since the driver was loaded; None where the device has none."""
    try:
        millijoules: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError_NotSupported:
        return None
    return millijoules / 1000
