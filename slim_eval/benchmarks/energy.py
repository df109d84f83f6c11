"""The energy benchmark: joules of the devices that compute, over a steady window of equal work.

Idle power is read first, with the engine loaded. Then iterations follow each other without a pause, and the window is
a part of them::

    lead-in │ open · counted iterations · close │ lead-out

Both ends are boundaries between two iterations like those inside the window, delayed by no more than a reading of
the counters. That makes the window steady: a GPU's power reading may be the mean of the last second and its counter may
lag by 0.1 s, but what they cover at the opening is the same work, not loading or idling; and the end of all work comes
after the closing. All requests of a batch have the same length, so no batch of the window ever runs half empty. The
meter samples from before the lead-in until after the lead-out.

The host is observed from before the lead-in until after the lead-out. A window that was disturbed has no energy:
`valid` is false, `invalid_reasons` says why, and what was read (counter, integral, power, clocks) is kept as evidence.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple

from slim_eval.benchmarks import base
from slim_eval.config import EnergyConfig, PerformanceConfig, RunConfig
from slim_eval.engines.engine import Engine, Generation, Prompt
from slim_eval.errors import BenchmarkError
from slim_eval.power import NO_SOURCE, SETTLE_S, EnergyReading, Meter, NoMeter, PowerSample, integral_joules, open_meter
from slim_eval.results.records import EnergyMetrics, EnergyRecord, Intervals, Measurement
from slim_eval.utils.host import HostWindow

IDLE_SECONDS = 2.0
LEAD_IN_S = SETTLE_S
JOULES_PER_KWH = 3.6e6
_MIN_BLOCKS = 5
_BLOCK_S = SETTLE_S  # power readings that average over the same time are not independent of each other
_BLOCK_SAMPLES = 4


class Energy(base.Benchmark[EnergyConfig, EnergyRecord]):
    """Joules of the devices that compute."""

    name = "energy"
    options = EnergyConfig
    record = EnergyRecord
    needs_quiet = True

    def run(self, context: base.BenchmarkContext[EnergyConfig]) -> Measurement:
        """Measure with the meter that the options and the devices allow; see the function `run`."""
        options = context.options
        meter = open_meter(options.source, context.gpus, options.sampling_interval_s)
        workload, seed = context.config.performance, context.seed
        window = context.host_window()
        return run(context.engine, options, workload, meter, context.progress, seed=seed, window=window)

    def settings(self, config: RunConfig, stage: str, device: str | None) -> dict[str, Any]:
        """Device, load, meter, and what each request is."""
        part = config.energy
        return {
            "device": device,
            "energy_sample_runs": part.sample_runs,
            "energy_batch_size": part.batch_size,
            "energy_source": part.source,
            "energy_sampling_interval": part.sampling_interval_s,
            **base.workload_settings(config),
        }

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """Concurrent requests."""
        return config.energy.batch_size

    def flaw(self, record: EnergyRecord, config: RunConfig) -> str:
        """A disturbed window is measured again, and so is a record without joules, unless no source was asked for."""
        if invalid := base.invalidity(record):
            return invalid
        reasons = "; ".join(record.invalid_reasons)
        empty = record.energy_source is None and record.energy_joules is None and record.energy_kwh is None
        return f"no energy was measured ({reasons})" if empty and config.energy.source != NO_SOURCE else ""


def run(
    engine: Engine,
    config: EnergyConfig,
    workload: PerformanceConfig,
    meter: Meter | NoMeter,
    progress: base.Progress = base.no_progress,
    *,
    seed: int = 0,
    window: HostWindow | None = None,
) -> Measurement:
    """Measure the energy of ``ceil(sample_runs / batch_size)`` iterations of greedy generation.

    Of `workload` only the prompt and the output length are used. With a `NoMeter` nothing is run, and the record
    contains the reason. `progress` is called with the finished requests of the window.

    Returns:
        The metrics, and the power samples: ``t_s`` since the window opened, ``watts`` over all devices and, if there
        are several, ``device_watts``; if known ``sm_clock_mhz`` and ``memory_clock_mhz`` (of the slowest device),
        ``temperature_celsius`` (of the hottest) and ``throttled`` (any).

    Raises:
        EngineError: The engine stopped.
        BenchmarkError: The engine generated nothing.
    """
    if isinstance(meter, NoMeter):
        reason = f"energy was not measured: {meter.reason}"
        return Measurement(EnergyMetrics(invalid_reasons=(meter.reason,)), notes=(reason,))
    size, tokens = config.batch_size, workload.max_new_tokens
    iterations, lead_in = base.full_batches(config.sample_runs, size), 0

    def batch(number: int) -> list[Prompt]:
        return base.prompts(engine, workload, number, size, seed)

    def iterate(prompts: Sequence[Prompt]) -> list[Generation]:
        return engine.generate(prompts, max_new_tokens=tokens, ignore_eos=True)

    # Prompts 0 to n - 1, whatever the lead-in takes: the work of a window does not depend on speed.
    counted = [batch(number) for number in range(iterations)]
    done: list[Generation] = []
    ends_s: list[float] = []
    use = None
    idle_watts = meter.idle_power_watts(IDLE_SECONDS)
    meter.start()
    if window is not None:
        window.open()
    try:
        began = None  # the first iteration is not timed: an engine may do some work only once
        while began is None or time.perf_counter() - began < LEAD_IN_S:
            iterate(batch(iterations + lead_in))
            lead_in += 1
            began = began or time.perf_counter()
        meter.open()
        for prompts in counted:
            done += iterate(prompts)
            ends_s.append(time.perf_counter())
            progress(len(ends_s) * size, iterations * size)
        meter.close()
        iterate(batch(iterations + lead_in))  # the device is busy while the closing counters are read
        use = None if window is None else window.close()
    finally:
        reading = meter.stop()
    disturbances: tuple[str, ...] = ()
    load: dict[str, Any] = {"batch_size": size, "num_lead_in": lead_in * size}
    if window is not None and use is not None:
        disturbances = use.disturbances(window.max_contention)
        load |= {"host": use, "max_contention": window.max_contention}
    metrics = _metrics(reading, done, ends_s, tokens, idle_watts, disturbances).model_copy(update=load)
    notes = (*reading.notes, *_notes(metrics))
    return Measurement(metrics, tuple(map(_sample_row, reading.samples)), notes, disturbances=disturbances)


def _metrics(
    reading: EnergyReading,
    done: Sequence[Generation],
    ends_s: Sequence[float],
    max_new_tokens: int,
    idle: float | None,
    disturbances: Sequence[str],
) -> EnergyMetrics:
    """Gross energy, its shares and their intervals, only of an undisturbed window; and everything that was read.

    `done` are the requests that finished in the window, `ends_s` when each iteration ended, on the clock of
    `time.perf_counter`, `idle` is the idle power in watts, None if unknown, and `disturbances` are those of the host.
    """
    lengths = {generation.output_tokens for generation in done}
    if not any(lengths):
        raise BenchmarkError("the engine generated no tokens", "see the run's log")
    joules, duration_s, reasons = reading.joules, reading.duration_s, [*reading.invalid_reasons, *disturbances]
    if lengths != {max_new_tokens}:
        reasons.append(f"requests generated {min(lengths)} to {max(lengths)} tokens, not {max_new_tokens}")
    if not reasons and (joules is None or joules <= 0):
        reasons.append("the meter returned no energy")
    requests = len(done)
    prompt_tokens, output_tokens = sum(g.prompt_tokens for g in done), sum(g.output_tokens for g in done)
    headline: dict[str, Any] = {}
    if not reasons and joules is not None and duration_s:
        headline = {
            "energy_joules": joules,
            "joules_per_output_token": joules / output_tokens,
            "avg_power_watts": joules / duration_s,  # of the same source as the joules
        }
        headline |= {
            "intervals": _intervals(reading, ends_s, headline),
            # Energy beyond idling; unknown also if idle power was above that of the window.
            "energy_joules_net": None if idle is None or idle * duration_s > joules else joules - idle * duration_s,
            "energy_kwh": joules / JOULES_PER_KWH,
            "joules_per_total_token": joules / (prompt_tokens + output_tokens),
            "tokens_per_joule": output_tokens / joules,
            "energy_per_query_j": joules / requests,
        }
    watts = [sum(sample.watts) for sample in reading.samples]
    spread: dict[str, Any] = {}  # evidence, of a disturbed window too
    if watts and duration_s is not None:
        deviation = statistics.stdev(watts) if len(watts) > 1 else None
        spread = {"min_power_watts": min(watts), "max_power_watts": max(watts), "std_power_watts": deviation}
    conditions = asdict(reading.conditions)
    throttles = conditions.pop("throttles")
    return EnergyMetrics(
        idle_power_watts=idle,
        duration_seconds=duration_s,
        energy_source=reading.source,
        energy_joules_counter=reading.joules_counter,
        energy_joules_integral=reading.joules_integral,
        counter_disagreement=reading.disagreement,
        throttle_reasons=throttles,
        devices=reading.devices,
        valid=not reasons,
        invalid_reasons=tuple(reasons),
        num_runs=requests,
        prompt_tokens=prompt_tokens / requests,
        output_tokens=output_tokens / requests,
        **conditions,
        **headline,
        **spread,
    )


def _intervals(reading: EnergyReading, ends_s: Sequence[float], found: Mapping[str, float]) -> Intervals:
    """Bootstrap intervals over blocks of the window; empty below `_MIN_BLOCKS` of them.

    Each block gives the integral of its power samples. Energy of the window and per token are both proportional to the
    mean energy of an iteration: all iterations do the same work. The spread of the blocks is relative; it is scaled to
    the number that it belongs to, which may come from the counter.
    """
    from slim_eval.stats import bootstrap_interval

    if reading.opened_s is None or not reading.duration_s or len(reading.samples) < 2:
        return {}
    spacing_s = reading.duration_s / len(reading.samples)
    # The last iteration ends a moment before the window is closed.
    boundaries = [0.0, *(end - reading.opened_s for end in ends_s[:-1]), reading.duration_s]
    blocks = _blocks(boundaries, max(_BLOCK_S, _BLOCK_SAMPLES * spacing_s))
    joules = [integral_joules(reading.samples, block.begin_s, block.end_s) or 0.0 for block in blocks]
    if len(blocks) < _MIN_BLOCKS or min(joules) <= 0:
        return {}
    work = [value / block.iterations for value, block in zip(joules, blocks, strict=True)]
    power = [value / (block.end_s - block.begin_s) for value, block in zip(joules, blocks, strict=True)]
    intervals: Intervals = {}
    for key, number in found.items():
        values = power if key == "avg_power_watts" else work
        if interval := bootstrap_interval(values, "mean"):
            factor = number / statistics.fmean(values)
            intervals[key] = (interval.low * factor, interval.high * factor)
    return intervals


class _Block(NamedTuple):
    """A part of the window; seconds since it opened."""

    begin_s: float
    end_s: float
    iterations: int


def _blocks(boundaries_s: Sequence[float], shortest_s: float) -> list[_Block]:
    """The blocks of the window, each as short as `shortest_s` allows; the rest joins the last.

    `boundaries_s` are when iterations begin and end, the window's own ends included.
    """
    cuts = [0]
    for number, boundary_s in enumerate(boundaries_s):
        if boundary_s - boundaries_s[cuts[-1]] >= shortest_s:
            cuts.append(number)
    if len(cuts) > 1:
        cuts[-1] = len(boundaries_s) - 1
    return [_Block(boundaries_s[first], boundaries_s[last], last - first) for first, last in pairwise(cuts)]


def _notes(metrics: EnergyMetrics) -> Iterator[str]:
    if not metrics.valid or metrics.energy_joules_net is not None:
        return
    if metrics.idle_power_watts is None:
        yield "net energy is unknown: idle power could not be read, or another process used the device meanwhile"
    else:  # gross energy is valid: something else drew power while the model was idle
        yield f"net energy is unknown: idle power ({metrics.idle_power_watts:.1f} W) was above that of the window"


def _sample_row(sample: PowerSample) -> dict[str, Any]:
    row: dict[str, Any] = {"t_s": sample.t_s, "watts": sum(sample.watts)}
    if len(sample.watts) > 1:
        row["device_watts"] = list(sample.watts)
    for key, pick in (("sm_clock_mhz", min), ("memory_clock_mhz", min), ("temperature_celsius", max)):
        known = [value for state in sample.states if (value := getattr(state, key)) is not None]
        if known:
            row[key] = pick(known)
    throttled = [bool(state.throttles) for state in sample.states if state.throttles is not None]
    return {**row, "throttled": any(throttled)} if throttled else row
