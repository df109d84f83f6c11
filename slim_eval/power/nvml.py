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
from contextlib import suppress
from dataclasses import replace
from typing import Any

from slim_eval.errors import BenchmarkError
from slim_eval.power.gpus import Gpu, ask, foreign_processes, handles, open_nvml, pids_may_be_the_hosts
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
from slim_eval.utils.host import process_tree

MAX_DISAGREEMENT = 0.05  # fraction, between counter and integral
_PROCESS_CHECK_S = 1.0  # listing processes costs far more than reading power
_ALIVE_CHECK_S = 0.1  # how long a mark waits before it checks that the sampling thread is alive
_THROTTLES = {  # nvmlClocksEventReason… bits that change what energy is spent on
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}
_POWER_CAP = _THROTTLES[0x04]
#: Mean SM clock as a share of the highest, at or above which an active power cap is only noted: large GPUs reach the
#: cap in bursts of matrix products, at half of their limit on average (decision 047).
MIN_CLOCK_SHARE = 0.95


def _obstacle(gpus: Sequence[Gpu]) -> BenchmarkError | None:
    if not gpus:
        return BenchmarkError("--energy-source nvml: NVML finds no GPU here")
    for gpu in gpus:
        if gpu.parent is not None:
            # The GPU's own power is of all its slices, and of what no slice uses: it is not the model's.
            cause = f"{gpu.name} is a MIG slice, and NVML reports power only of the whole GPU, with all its slices"
            return BenchmarkError(cause, "measure energy on a GPU without MIG; --energy-source none skips it")
    with handles(gpus) as opened:
        for nvml, gpu, handle in opened:
            queries = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
            if all(ask(nvml, query, handle) is None for query in queries):
                return BenchmarkError(f"NVML reports neither power nor energy of {gpu.name} ({gpu.uuid})")
    return None


class NvmlMeter(Meter):
    """Energy of the GPUs that compute, summed.

    A thread samples from `start` to `stop`, and makes all NVML calls; they release Python's lock.
    """

    def __init__(self, gpus: Sequence[Gpu], sampling_interval_s: float) -> None:
        self._gpus = tuple(gpus)
        self._interval_s = sampling_interval_s
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample; returns after the first sample. A RuntimeError refuses a second start before `stop`."""
        if self._thread is not None:
            raise RuntimeError("a meter is started again only after stop()")
        self._requests: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()  # a mark to take, or None: end
        self._marks: list[tuple[float, tuple[float | None, ...]]] = []  # clock, joules on each device's counter
        self._max_clocks: tuple[float | None, ...] = ()  # highest SM clock of each device, MHz
        self._ticks: list[PowerSample] = []  # t_s on the clock of `time.perf_counter`; no watts if not supported
        self._foreign: set[int] = set()
        self._unknown: set[str] = set()  # what NVML did not report
        self._failure: str | None = None
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="slim-eval power", daemon=True)
        self._thread.start()
        ready.wait()

    def open(self) -> None:
        """Begin the window; returns as soon as the counters are read or NVML has failed."""
        self._mark()

    def close(self) -> None:
        """End the window; returns as soon as the counters are read or NVML has failed."""
        self._mark()

    def stop(self) -> EnergyReading:
        """End sampling, and return the reading; without energy if NVML failed or the window was not closed."""
        thread, self._thread = self._started(), None
        self._requests.put(None)
        thread.join()
        opened = self._marks[0][0] if self._marks else None
        closed = self._marks[1][0] if len(self._marks) == 2 and self._failure is None else None
        duration = None if opened is None or closed is None else closed - opened
        ticks = [replace(tick, t_s=tick.t_s - opened) for tick in self._ticks] if opened is not None else []
        window = [tick for tick in ticks if 0 <= tick.t_s <= (math.inf if duration is None else duration)]
        conditions = summarize_states([tick.states for tick in window], self._max_clocks)
        reasons, notes = judge_throttling(conditions)
        foreign = tuple(sorted(self._foreign))
        if foreign:
            reasons.append(f"other processes on the GPU: pid {', '.join(map(str, foreign))}")
        reading = EnergyReading(
            source="nvml",
            samples=tuple(tick for tick in window if tick.watts),
            devices=tuple(gpu.uuid for gpu in self._gpus),
            opened_s=opened,
            conditions=conditions,
            foreign_pids=foreign,
            invalid_reasons=tuple(reasons),
            notes=(*notes, *(f"NVML does not report {what}" for what in sorted(self._unknown))),
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

    def _mark(self) -> None:
        thread, taken = self._started(), threading.Event()
        self._requests.put(taken)
        while not taken.wait(_ALIVE_CHECK_S) and thread.is_alive():
            pass

    def _started(self) -> threading.Thread:
        if self._thread is None:
            raise RuntimeError("a meter is opened, closed and stopped after start()")
        return self._thread

    def _run(self, ready: threading.Event) -> None:
        """Sample until the end; an NVML error stops it early and makes the window invalid."""
        import pynvml

        try:
            with open_nvml() as nvml:
                self._sample(nvml, [nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in self._gpus], ready)
        except pynvml.NVMLError as error:
            self._failure = f"NVML failed while energy was measured: {error}"
        finally:
            ready.set()

    def _sample(self, nvml: Any, devices: list[Any], ready: threading.Event) -> None:
        began, check_at_s = time.perf_counter(), 0.0
        self._max_clocks = tuple(ask(nvml, "nvmlDeviceGetMaxClockInfo", device, 1) for device in devices)
        while True:
            before = time.perf_counter()
            try:
                watts = tuple(nvml.nvmlDeviceGetPowerUsage(device) / 1000 for device in devices)
            except nvml.NVMLError_NotSupported:
                watts = ()
                self._unknown.add("power")
            middle = (before + time.perf_counter()) / 2
            states = tuple(read_state(nvml, device) for device in devices)
            if any(state.throttles is None for state in states):
                self._unknown.add("throttling")
            self._ticks.append(PowerSample(middle, watts, states))
            if time.perf_counter() >= check_at_s:
                own = process_tree()
                for device in devices:
                    processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", device)
                    if processes is None:
                        self._unknown.add("other processes on the GPU")
                        continue
                    pids = {process.pid for process in processes}
                    self._foreign |= foreign_processes(pids, own, namespaced=pids_may_be_the_hosts())
                # The check that follows the end of the window is the last one.
                check_at_s = time.perf_counter() + _PROCESS_CHECK_S if len(self._marks) < 2 else math.inf
            ready.set()
            # On a grid of the clock, not one pause after the other: reading takes time of its own.
            pause_s = self._interval_s - (time.perf_counter() - began) % self._interval_s
            with suppress(queue.Empty):
                mark = self._requests.get(timeout=pause_s)
                if mark is None:
                    return
                self._marks.append((time.perf_counter(), tuple(_counter_joules(nvml, device) for device in devices)))
                mark.set()  # before anything else is read: the caller's work goes on
                check_at_s = 0.0


def read_state(nvml: Any, handle: Any) -> DeviceState:
    """The state of one device now."""
    bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # its name before driver 535
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return DeviceState(
        ask(nvml, "nvmlDeviceGetClockInfo", handle, 1),  # NVML_CLOCK_SM
        ask(nvml, "nvmlDeviceGetClockInfo", handle, 2),  # NVML_CLOCK_MEM
        ask(nvml, "nvmlDeviceGetTemperature", handle, 0),  # NVML_TEMPERATURE_GPU
        None if bits is None else tuple(reason for bit, reason in _THROTTLES.items() if bits & bit),
    )


def judge_throttling(conditions: Conditions) -> tuple[list[str], list[str]]:
    """Why throttling makes a window invalid, and what is only noted: a power cap under which clocks hardly fell."""
    reasons, notes = list[str](), list[str]()
    clock = conditions.sm_clock_share
    for why, share in conditions.throttles.items():
        if why != _POWER_CAP:
            reasons.append(f"throttled by {why} in {share:.1%} of the samples")
        elif clock is None:
            reasons.append(f"throttled by {why} in {share:.1%} of the samples; the SM clock is not reported")
        else:
            effect = f"the power cap was active in {share:.1%} of the samples; SM clock {clock:.1%} of the highest"
            if clock < MIN_CLOCK_SHARE:
                reasons.append(f"throttled: {effect}")
            else:
                notes.append(effect)
    return reasons, notes


def summarize_states(samples: Sequence[Sequence[DeviceState]], max_clocks: Sequence[float | None] = ()) -> Conditions:
    """Conditions over the states of all devices, one sequence per sample; `max_clocks` are their highest, in MHz."""
    states = [state for sample in samples for state in sample]
    sm = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    memory = [state.memory_clock_mhz for state in states if state.memory_clock_mhz is not None]
    heat = [state.temperature_celsius for state in states if state.temperature_celsius is not None]
    devices = range(len(max_clocks) if samples else 0)
    # What a power cap did is seen on the devices that it held.
    capped = [n for n in devices if any(_POWER_CAP in (sample[n].throttles or ()) for sample in samples)]
    shares = [_clock_share([sample[n] for sample in samples], max_clocks[n]) for n in capped or devices]
    known_shares = [share for share in shares if share is not None]
    held = Counter(reason for sample in samples for reason in {r for state in sample for r in state.throttles or ()})
    return Conditions(
        min_sm_clock_mhz=min(sm, default=None),
        mean_sm_clock_mhz=statistics.fmean(sm) if sm else None,
        sm_clock_share=min(known_shares) if shares and len(known_shares) == len(shares) else None,
        mean_memory_clock_mhz=statistics.fmean(memory) if memory else None,
        mean_temperature_celsius=statistics.fmean(heat) if heat else None,
        max_temperature_celsius=max(heat, default=None),
        throttles={reason: count / len(samples) for reason, count in sorted(held.items())},
    )


def _clock_share(states: Sequence[DeviceState], highest: float | None) -> float | None:
    """The mean SM clock of one device as a share of its highest; None if either is not reported."""
    known = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    return statistics.fmean(known) / highest if highest and known else None


def disagreement(counter: float | None, integral: float | None) -> float | None:
    """|counter - integral| / counter, a fraction; None if either is missing or the counter did not advance."""
    return abs(counter - integral) / counter if counter and integral is not None else None


def _counter_joules(nvml: Any, handle: Any) -> float | None:
    """The energy counter, joules since the driver was loaded; None if the device has none."""
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)
    except nvml.NVMLError_NotSupported:
        return None


METERS.register(EnergySource("nvml", obstacle=_obstacle, preference=lambda gpus: 10 if gpus else None, open=NvmlMeter))
