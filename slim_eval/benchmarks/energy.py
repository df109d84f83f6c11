"""The energy benchmark: joules of the devices that compute, over a steady window of equal work.

Idle power is read first, with the engine loaded. Then iterations follow each other without a pause, and the window is
a part of them::

    lead-in │ open · counted iterations · close │ lead-out

Both ends are boundaries between two iterations like those inside the window, delayed by no more than a reading of
the counters. That makes the window steady: a GPU's power reading may be the mean of the last second and its counter may
lag by 0.1 s, but what they cover at the opening is the same work, not loading or idling; and the end of all work comes
after the closing. All requests of a batch have the same length, so no batch of the window ever runs half empty. The
meter samples from before the lead-in until after the lead-out.

A window that was disturbed has no energy: `valid` is false, `invalid_reasons` says why, and what was read (counter,
integral, power, clocks) is kept as evidence.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.benchmarks.base import (
    Benchmark,
    BenchmarkContext,
    Progress,
    full_batches,
    no_progress,
    prompts,
    workload_settings,
)
from slim_eval.config import EnergyConfig, PerformanceConfig, RunConfig
from slim_eval.engines.engine import Engine, Generation, Prompt
from slim_eval.errors import BenchmarkError
from slim_eval.power import NO_SOURCE, SETTLE_S, EnergyReading, Meter, NoMeter, PowerSample, integral_joules, open_meter
from slim_eval.results.records import EnergyMetrics, EnergyRecord, Intervals, Measurement

IDLE_SECONDS = 2.0
LEAD_IN_S = SETTLE_S
JOULES_PER_KWH = 3.6e6
_MIN_BLOCKS = 5
_BLOCK_S = SETTLE_S  # power readings that average over the same time are not independent of each other
_BLOCK_SAMPLES = 4


class Energy(Benchmark[EnergyConfig, EnergyRecord]):
    """Joules of the devices that compute."""

    name = "energy"
    options = EnergyConfig
    record = EnergyRecord

    def run(self, context: BenchmarkContext[EnergyConfig]) -> Measurement:
        """Measure with the meter that the options and the devices allow; see the function `run`."""
        options = context.options
        meter = open_meter(options.source, context.gpus, options.sampling_interval_s)
        workload = context.config.performance
        return run(context.engine, options, workload, meter, context.progress, seed=context.seed)

    def settings(self, config: RunConfig, stage: str, device: str | None) -> dict[str, Any]:
        """Device, load, meter, and what each request is."""
        part = config.energy
        return {
            "device": device,
            "energy_sample_runs": part.sample_runs,
            "energy_batch_size": part.batch_size,
            "energy_source": part.source,
            "energy_sampling_interval": part.sampling_interval_s,
            **workload_settings(config),
        }

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """Concurrent requests."""
        return config.energy.batch_size

    def flaw(self, record: EnergyRecord, config: RunConfig) -> str:
        """A disturbed window is measured again, and so is a record without joules, unless no source was asked for."""
        reasons = "; ".join(record.invalid_reasons)
        if record.valid is False:
            return f"its record is invalid ({reasons})"
        empty = record.energy_source is None and record.energy_joules is None and record.energy_kwh is None
        return f"no energy was measured ({reasons})" if empty and config.energy.source != NO_SOURCE else ""


@dataclass(frozen=True)
class _Work:
    """What was done in the window.

    Attributes:
        requests: Finished requests.
        prompt_tokens: All requests together.
        output_tokens: All requests together.
        ends_s: When each iteration ended, on the clock of `time.perf_counter`.
        complaint: How requests did unequal work; None if all did the same.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    ends_s: tuple[float, ...]
    complaint: str | None


@dataclass(frozen=True)
class _Block:
    """Some iterations of the window, from `begin_s` to `end_s` after its opening."""

    begin_s: float
    end_s: float
    iterations: int


def run(
    engine: Engine,
    config: EnergyConfig,
    workload: PerformanceConfig,
    meter: Meter | NoMeter,
    progress: Progress = no_progress,
    *,
    seed: int = 0,
) -> Measurement:
    """Measure the energy of ``ceil(sample_runs / batch_size)`` iterations of greedy generation.

    Args:
        engine: The loaded model.
        config: Number of requests and batch size.
        workload: Prompt and output length; its other fields are not used.
        meter: Reads the energy; with `NoMeter` nothing is run, and the record contains the reason.
        progress: Called with the finished requests of the window.
        seed: Seed of synthetic prompts.

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
    flow = _Flow(engine, workload, config.batch_size, full_batches(config.sample_runs, config.batch_size), seed)
    idle_watts = meter.idle_power_watts(IDLE_SECONDS)
    meter.start()
    try:
        lead_in = flow.lead_in()
        meter.open()
        work = flow.count(progress)
        meter.close()
        flow.lead_out()
    finally:
        reading = meter.stop()
    metrics = _metrics(reading, work, idle_watts).model_copy(
        update={"batch_size": config.batch_size, "num_lead_in": lead_in * config.batch_size}
    )
    return Measurement(metrics, tuple(map(_sample_row, reading.samples)), (*reading.notes, *_notes(metrics)))


class _Flow:
    """Iterations of the same kind of work, one after the other.

    The counted ones take prompts 0 to n - 1, whatever a lead-in took: the work of a window does not depend on speed.
    """

    def __init__(
        self, engine: Engine, workload: PerformanceConfig, batch_size: int, iterations: int, seed: int
    ) -> None:
        self._engine, self._workload, self._batch_size, self._seed = engine, workload, batch_size, seed
        self._counted = [self._prompts(number) for number in range(iterations)]  # before anything is measured
        self._next = iterations

    def lead_in(self) -> int:
        """Iterate without counting, and return how often: once, and then for at least `LEAD_IN_S`.

        The first iteration is not timed: an engine may do some work only once.
        """
        began, done = None, 0
        while began is None or time.perf_counter() - began < LEAD_IN_S:
            self._iterate(self._prompts(self._next))
            self._next, done = self._next + 1, done + 1
            began = began or time.perf_counter()
        return done

    def lead_out(self) -> None:
        """Once more without counting, so that the device is busy while the closing counters are read."""
        self._iterate(self._prompts(self._next))

    def count(self, progress: Progress) -> _Work:
        """The iterations of the window."""
        done: list[Generation] = []
        ends_s: list[float] = []
        total = len(self._counted) * self._batch_size
        for batch in self._counted:
            done += self._iterate(batch)
            ends_s.append(time.perf_counter())
            progress(len(ends_s) * self._batch_size, total)
        return _work(done, ends_s, self._workload.max_new_tokens)

    def _prompts(self, number: int) -> list[Prompt]:
        return prompts(self._engine, self._workload, number, self._batch_size, self._seed)

    def _iterate(self, batch: Sequence[Prompt]) -> list[Generation]:
        return self._engine.generate(batch, max_new_tokens=self._workload.max_new_tokens, ignore_eos=True)


def _work(done: Sequence[Generation], ends_s: Sequence[float], max_new_tokens: int) -> _Work:
    lengths = {generation.output_tokens for generation in done}
    if not any(lengths):
        raise BenchmarkError("the engine generated no tokens", "see the run's log")
    complaint = None
    if lengths != {max_new_tokens}:
        complaint = f"requests generated {min(lengths)} to {max(lengths)} tokens, not {max_new_tokens}"
    prompt_tokens, output_tokens = sum(g.prompt_tokens for g in done), sum(g.output_tokens for g in done)
    return _Work(len(done), prompt_tokens, output_tokens, tuple(ends_s), complaint)


def _metrics(reading: EnergyReading, work: _Work, idle_watts: float | None) -> EnergyMetrics:
    net = _net(reading, idle_watts)
    reasons = [*reading.invalid_reasons, *([work.complaint] if work.complaint else [])]
    if not reasons and (reading.joules is None or reading.joules <= 0):
        reasons.append("the meter returned no energy")
    found = reading.conditions
    return EnergyMetrics(
        idle_power_watts=idle_watts,
        duration_seconds=reading.duration_s,
        energy_source=reading.source,
        energy_joules_counter=reading.joules_counter,
        energy_joules_integral=reading.joules_integral,
        counter_disagreement=reading.disagreement,
        min_sm_clock_mhz=found.min_sm_clock_mhz,
        mean_sm_clock_mhz=found.mean_sm_clock_mhz,
        mean_memory_clock_mhz=found.mean_memory_clock_mhz,
        mean_temperature_celsius=found.mean_temperature_celsius,
        max_temperature_celsius=found.max_temperature_celsius,
        throttle_reasons=found.throttles,
        devices=reading.devices,
        valid=not reasons,
        invalid_reasons=tuple(reasons),
        num_runs=work.requests,
        prompt_tokens=work.prompt_tokens / work.requests,
        output_tokens=work.output_tokens / work.requests,
        **_spread(reading),
        **({} if reasons else _headline(reading, work, net)),
    )


def _net(reading: EnergyReading, idle_watts: float | None) -> float | None:
    """Energy beyond idling; None if it is not known, also if idle power was above that of the window."""
    if reading.joules is None or reading.duration_s is None or idle_watts is None:
        return None
    net = reading.joules - idle_watts * reading.duration_s
    return net if net >= 0 else None


def _headline(reading: EnergyReading, work: _Work, net: float | None) -> dict[str, Any]:
    """Gross energy, its shares and their intervals; only of an undisturbed window."""
    joules = reading.joules
    if joules is None or not reading.duration_s:
        return {}
    found = {
        "energy_joules": joules,
        "joules_per_output_token": joules / work.output_tokens,
        "avg_power_watts": joules / reading.duration_s,  # of the same source as the joules
    }
    return {
        **found,
        "energy_joules_net": net,
        "energy_kwh": joules / JOULES_PER_KWH,
        "joules_per_total_token": joules / (work.prompt_tokens + work.output_tokens),
        "tokens_per_joule": work.output_tokens / joules,
        "energy_per_query_j": joules / work.requests,
        "intervals": _intervals(reading, work.ends_s, found),
    }


def _intervals(reading: EnergyReading, ends_s: Sequence[float], found: Mapping[str, float]) -> Intervals:
    """Bootstrap intervals over blocks of the window; empty below `_MIN_BLOCKS` of them.

    Each block gives the integral of its power samples. Energy of the window and per token are both proportional to the
    mean energy of an iteration: all iterations do the same work. The spread of the blocks is relative; it is scaled to
    the number that it belongs to, which may come from the counter.
    """
    if reading.opened_s is None or not reading.duration_s or len(reading.samples) < 2:
        return {}
    spacing_s = reading.duration_s / len(reading.samples)
    shortest_s = max(_BLOCK_S, _BLOCK_SAMPLES * spacing_s)
    # The last iteration ends a moment before the window is closed.
    boundaries = [0.0, *(end - reading.opened_s for end in ends_s[:-1]), reading.duration_s]
    blocks = _blocks(boundaries, shortest_s)
    joules = [integral_joules(reading.samples, block.begin_s, block.end_s) or 0.0 for block in blocks]
    if len(blocks) < _MIN_BLOCKS or min(joules) <= 0:
        return {}
    work = [value / block.iterations for value, block in zip(joules, blocks, strict=True)]
    power = [value / (block.end_s - block.begin_s) for value, block in zip(joules, blocks, strict=True)]
    values = {"energy_joules": work, "joules_per_output_token": work, "avg_power_watts": power}
    scaled = {key: _scaled(values[key], number) for key, number in found.items()}
    return {key: ends for key, ends in scaled.items() if ends is not None}


def _blocks(boundaries_s: Sequence[float], shortest_s: float) -> list[_Block]:
    """Blocks of whole iterations, each as short as `shortest_s` allows; the rest joins the last one.

    Args:
        boundaries_s: When iterations begin and end, the window's own ends included.
        shortest_s: Least length of a block.
    """
    blocks: list[_Block] = []
    first = 0
    for last in range(1, len(boundaries_s)):
        if boundaries_s[last] - boundaries_s[first] >= shortest_s:
            blocks.append(_Block(boundaries_s[first], boundaries_s[last], last - first))
            first = last
    rest = len(boundaries_s) - 1 - first
    if blocks and rest:
        blocks[-1] = _Block(blocks[-1].begin_s, boundaries_s[-1], blocks[-1].iterations + rest)
    return blocks


def _scaled(values: Sequence[float], number: float) -> tuple[float, float] | None:
    """The interval of the mean of `values`, in the proportion of `number` to that mean."""
    from slim_eval.stats import bootstrap_interval

    interval = bootstrap_interval(values, "mean")
    factor = number / statistics.fmean(values)
    return None if interval is None else (interval.low * factor, interval.high * factor)


def _spread(reading: EnergyReading) -> dict[str, Any]:
    """Extremes and standard deviation (n - 1) of the power samples; empty without samples of a whole window."""
    watts = [sum(sample.watts) for sample in reading.samples]
    if not watts or reading.duration_s is None:
        return {}
    deviation = statistics.stdev(watts) if len(watts) > 1 else None
    return {"min_power_watts": min(watts), "max_power_watts": max(watts), "std_power_watts": deviation}


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
    states = sample.states
    readings: dict[str, tuple[Callable[[list[Any]], Any], list[Any]]] = {
        "sm_clock_mhz": (min, [state.sm_clock_mhz for state in states]),
        "memory_clock_mhz": (min, [state.memory_clock_mhz for state in states]),
        "temperature_celsius": (max, [state.temperature_celsius for state in states]),
        "throttled": (max, [None if state.throttles is None else bool(state.throttles) for state in states]),
    }
    for key, (pick, values) in readings.items():
        known = [value for value in values if value is not None]
        if known:
            row[key] = pick(known)
    return row
