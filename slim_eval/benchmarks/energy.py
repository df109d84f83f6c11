"""The energy benchmark: joules of the devices that compute, over a window of equal work.

Idle power is read with the engine loaded; then one iteration warms up, and the window holds nothing but requests.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.benchmarks.base import Progress, full_batches, no_progress
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.engines.base import Engine, Generation
from slim_eval.errors import BenchmarkError
from slim_eval.power import EnergyReading, Meter, NoMeter
from slim_eval.records import EnergyMetrics, Measurement

IDLE_SECONDS = 2.0
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class _Work:
    """What was done in the window. `complaint` says where requests did not do equal work."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    complaint: str | None


def run(
    engine: Engine,
    config: EnergyConfig,
    workload: PerformanceConfig,
    meter: Meter | NoMeter,
    progress: Progress = no_progress,
) -> Measurement:
    """Measure the energy of ``ceil(sample_runs / batch_size)`` iterations of greedy generation.

    Args:
        engine: The loaded model.
        config: Number of requests and batch size.
        workload: Prompt and output length; its other fields are not used.
        meter: What reads the energy; with `NoMeter` nothing is run, and the reason stands in the record.
        progress: Told of finished requests.

    Returns:
        The metrics, and the power samples: ``t_s``, ``watts`` over all devices and, where there are several,
        ``device_watts``. A window that was disturbed keeps its numbers and is marked; one in which the meter failed
        has none.

    Raises:
        EngineError: The engine stopped.
        BenchmarkError: The engine generated nothing.
    """
    if isinstance(meter, NoMeter):
        reason = f"energy was not measured: {meter.reason}"
        return Measurement(EnergyMetrics(invalid_reasons=(meter.reason,)), notes=(reason,))
    prompts = [workload.prompt] * config.batch_size
    iterations = full_batches(config.sample_runs, config.batch_size)
    idle_watts = meter.idle_power_watts(IDLE_SECONDS)
    engine.generate(prompts, max_new_tokens=workload.max_new_tokens, ignore_eos=True)
    done: list[Generation] = []
    meter.start()
    try:
        for iteration in range(iterations):
            done += engine.generate(prompts, max_new_tokens=workload.max_new_tokens, ignore_eos=True)
            progress((iteration + 1) * config.batch_size, iterations * config.batch_size)
    finally:
        reading = meter.stop()
    metrics = _metrics(reading, _work(done, workload.max_new_tokens), idle_watts, config.batch_size)
    return Measurement(metrics, _rows(reading), reading.notes)


def _work(done: Sequence[Generation], max_new_tokens: int) -> _Work:
    lengths = {generation.output_tokens for generation in done}
    if not any(lengths):
        raise BenchmarkError("the engine generated no tokens", "see the run's log for what it said")
    complaint = None
    if lengths != {max_new_tokens}:
        complaint = f"requests generated {min(lengths)} to {max(lengths)} tokens, not {max_new_tokens}"
    return _Work(len(done), sum(g.prompt_tokens for g in done), sum(g.output_tokens for g in done), complaint)


def _metrics(reading: EnergyReading, work: _Work, idle_watts: float | None, batch_size: int) -> EnergyMetrics:
    reasons = [*reading.invalid_reasons, *([work.complaint] if work.complaint else [])]
    net = _net(reading, idle_watts)
    if net is not None and net < 0:
        reasons.append(f"idle power ({idle_watts:.1f} W) was above the mean power of the window")
    return EnergyMetrics(
        energy_joules_net=net,
        idle_power_watts=idle_watts,
        duration_seconds=reading.duration_s,
        energy_source=reading.source,
        energy_joules_counter=reading.joules_counter,
        energy_joules_integral=reading.joules_integral,
        counter_disagreement=reading.disagreement,
        devices=reading.devices,
        valid=reading.joules is not None and not reasons,
        invalid_reasons=tuple(reasons),
        batch_size=batch_size,
        num_runs=work.requests,
        prompt_tokens=work.prompt_tokens / work.requests,
        output_tokens=work.output_tokens / work.requests,
        **_per_work(reading, work),
        **_spread([sum(sample.watts) for sample in reading.samples]),
    )


def _net(reading: EnergyReading, idle_watts: float | None) -> float | None:
    if reading.joules is None or reading.duration_s is None or idle_watts is None:
        return None
    return reading.joules - idle_watts * reading.duration_s


def _per_work(reading: EnergyReading, work: _Work) -> dict[str, Any]:
    """Gross energy, and its shares; empty where the meter gave no number."""
    joules = reading.joules
    if joules is None or not reading.duration_s:
        return {}
    return {
        "energy_joules": joules,
        "energy_kwh": joules / JOULES_PER_KWH,
        "joules_per_output_token": joules / work.output_tokens,
        "joules_per_total_token": joules / (work.prompt_tokens + work.output_tokens),
        "tokens_per_joule": work.output_tokens / joules if joules > 0 else None,
        "energy_per_query_j": joules / work.requests,
        "avg_power_watts": joules / reading.duration_s,  # of the same source as the joules
    }


def _spread(watts: Sequence[float]) -> dict[str, Any]:
    """Extremes and standard deviation (n - 1) of the power samples; empty without samples."""
    if not watts:
        return {}
    deviation = statistics.stdev(watts) if len(watts) > 1 else None
    return {"min_power_watts": min(watts), "max_power_watts": max(watts), "std_power_watts": deviation}


def _rows(reading: EnergyReading) -> tuple[dict[str, Any], ...]:
    several = any(len(sample.watts) > 1 for sample in reading.samples)
    return tuple(
        {"t_s": sample.t_s, "watts": sum(sample.watts)} | ({"device_watts": list(sample.watts)} if several else {})
        for sample in reading.samples
    )
