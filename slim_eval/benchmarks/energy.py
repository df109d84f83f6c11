"""The energy benchmark: joules of the devices that compute, over a steady window of equal work.

Idle power is read first, with the engine loaded. Then iterations follow each other without a pause, and a window is cut
out of them::

    lead-in │ open · counted iterations · close │ lead-out

Both ends are boundaries between two iterations like those inside the window, held up by no more than a reading of the
counters. That is what makes the window steady: a GPU's power reading may be the mean of the last second and its counter
may lag by 0.1 s, but what they look back on at the opening is the same work, not loading or idling; and the end of all
work, with all that a device does then, lies behind the closing. All requests of a batch have the same length, so no
batch of the window ever runs half empty. The meter samples from before the lead-in until after the lead-out.

A window that was disturbed has no energy: `valid` is false, `invalid_reasons` says why, and what was read (counter,
integral, power, clocks) is kept as evidence.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.benchmarks.base import Progress, full_batches, no_progress
from slim_eval.benchmarks.workload import prompts
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.engines.engine import Engine, Generation, Prompt
from slim_eval.errors import BenchmarkError
from slim_eval.power import SETTLE_S, EnergyReading, Meter, NoMeter, PowerSample, integral_joules
from slim_eval.results.records import EnergyMetrics, Intervals, Measurement
from slim_eval.stats import bootstrap_interval

IDLE_SECONDS = 2.0
LEAD_IN_S = SETTLE_S
JOULES_PER_KWH = 3.6e6
_MIN_BLOCKS = 5
_BLOCK_S = SETTLE_S  # power readings that look back on the same time are not independent of each other
_BLOCK_SAMPLES = 4


@dataclass(frozen=True)
class _Work:
    """What was done in the window.

    Attributes:
        requests: Finished requests.
        prompt_tokens: Of all requests together.
        output_tokens: Of all requests together.
        ends_s: When each iteration ended, on the clock of `time.perf_counter`.
        complaint: Where requests did not do equal work.
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
        meter: What reads the energy; with `NoMeter` nothing is run, and the reason stands in the record.
        progress: Told of finished requests of the window.
        seed: Of synthetic prompts.

    Returns:
        The metrics, and the power samples: ``t_s`` since the window opened, ``watts`` over all devices and, where there
        are several, ``device_watts``; where known ``sm_clock_mhz`` and ``memory_clock_mhz`` (of the slowest device),
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
    return Measurement(metrics, _rows(reading), (*reading.notes, *_notes(metrics)))


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

        The first iteration stands apart: it may hold what an engine does only once.
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
        raise BenchmarkError("the engine generated no tokens", "see the run's log for what it said")
    complaint = None
    if lengths != {max_new_tokens}:
        complaint = f"requests generated {min(lengths)} to {max(lengths)} tokens, not {max_new_tokens}"
    prompt_tokens, output_tokens = sum(g.prompt_tokens for g in done), sum(g.output_tokens for g in done)
    return _Work(len(done), prompt_tokens, output_tokens, tuple(ends_s), complaint)


def _metrics(reading: EnergyReading, work: _Work, idle_watts: float | None) -> EnergyMetrics:
    net = _net(reading, idle_watts)
    reasons = [*reading.invalid_reasons, *([work.complaint] if work.complaint else [])]
    if not reasons and (reading.joules is None or reading.joules <= 0):
        reasons.append("the meter gave no energy")
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
    """Energy beyond idling; None where it cannot be told, also where idle power was above that of the window."""
    if reading.joules is None or reading.duration_s is None or idle_watts is None:
        return None
    net = reading.joules - idle_watts * reading.duration_s
    return net if net >= 0 else None


def _headline(reading: EnergyReading, work: _Work, net: float | None) -> dict[str, Any]:
    """Gross energy, its shares and their intervals: what only an undisturbed window has."""
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
    mean energy of an iteration: all iterations do the same work. What blocks say of the spread is relative; it is
    scaled to the number that it belongs to, which may come from the counter.
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
    """Blocks of whole iterations, each as short as `shortest_s` allows; what is left over joins the last one.

    Args:
        boundaries_s: Where iterations begin and end, the window's own ends included.
        shortest_s: No block is shorter.
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
        yield "net energy is not known: idle power could not be read, or another process used the device meanwhile"
    else:  # gross energy stands: something else drew power while nothing was asked of the model
        yield f"net energy is not known: idle power ({metrics.idle_power_watts:.1f} W) was above that of the window"


def _rows(reading: EnergyReading) -> tuple[dict[str, Any], ...]:
    return tuple(_row(sample) for sample in reading.samples)


def _row(sample: PowerSample) -> dict[str, Any]:
    row: dict[str, Any] = {"t_s": sample.t_s, "watts": sum(sample.watts)}
    if len(sample.watts) > 1:
        row["device_watts"] = list(sample.watts)
    states = sample.states
    row |= _told("sm_clock_mhz", min, [state.sm_clock_mhz for state in states])
    row |= _told("memory_clock_mhz", min, [state.memory_clock_mhz for state in states])
    row |= _told("temperature_celsius", max, [state.temperature_celsius for state in states])
    row |= _told("throttled", max, [None if state.throttles is None else bool(state.throttles) for state in states])
    return row


def _told(key: str, pick: Callable[[list[Any]], Any], values: Sequence[Any]) -> dict[str, Any]:
    """The value picked among the devices that told one; empty where none did."""
    known = [value for value in values if value is not None]
    return {key: pick(known)} if known else {}
