"""What a scheme changed against the baseline of the same model: ratios, savings and drops, or why there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.analysis.comparability import ENERGIES, SPEEDS, lengths_differ, obstacles, task_obstacles
from slim_eval.metrics import AMORTISED, DISK, ENERGY, J_PER_TOKEN, PEAK_MEMORY, THROUGHPUT, TPOT, TTFT, WEIGHTS, Metric
from slim_eval.results.variants import Estimate, Interval, Variant

#: Name of a speed-up -> the metric that it is a ratio of; above 1 the variant is faster.
SPEEDUPS: dict[str, Metric] = {
    "speedup": AMORTISED,
    "per_token_speedup": THROUGHPUT,
    "ttft_speedup": TTFT,
    "tpot_speedup": TPOT,
}
BASIS_PER_TOKEN = "per output token"
BASIS_PER_RUN = "whole run; output lengths not known"


@dataclass(frozen=True)
class Drop:
    """Accuracy lost on a task; above 0 the variant is worse. `percent` is of the baseline's accuracy."""

    pp: float
    percent: float | None


@dataclass(frozen=True)
class Impact:
    """A variant against its baseline; values that do not exist are None or missing, and `reasons` explains why.

    Attributes:
        variant: The variant.
        baseline: The variant that it is compared with.
        speedups: Name in `SPEEDUPS` -> ratio, above 1 if the variant is faster.
        length_confounded: Output tokens per request differ by more than 1 %, so that ``speedup`` compares different
            work; None if a length is unknown.
        energy_reduction: Energy saved, in percent.
        energy_basis: Unit of work of the saving: `BASIS_PER_TOKEN` or `BASIS_PER_RUN`.
        memory_reduction: Peak memory saved, in percent.
        size_ratio: Size on disk, above 1 if the variant is smaller.
        weights_ratio: Weights as loaded, likewise; None for emulated kernels, which load 16 bit.
        drops: Task -> accuracy lost.
        reasons: What was not compared, with the reason: ``energy: energy source nvml against codecarbon``.
    """

    variant: Variant
    baseline: Variant | None
    speedups: dict[str, Estimate] = field(default_factory=dict)
    length_confounded: bool | None = None
    energy_reduction: Estimate | None = None
    energy_basis: str | None = None
    memory_reduction: float | None = None
    size_ratio: float | None = None
    weights_ratio: float | None = None
    drops: dict[str, Drop] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def not_comparable(self) -> str | None:
        """All reasons in one text; None if everything was compared."""
        return "; ".join(self.reasons) or None


def impact_of(variant: Variant, baseline: Variant | None, tasks: Sequence[str]) -> Impact:
    """Compare a variant with its baseline.

    Args:
        variant: The variant.
        baseline: The variant that it is compared with; None if there is none.
        tasks: Tasks to compare.
    """
    if baseline is None:
        return Impact(variant, None, reasons=(f"no {variant.baseline} measurement of this model",))
    reasons: list[str] = []
    speedups = _speedups(variant, baseline, reasons)
    energy, basis = _energy(variant, baseline, reasons)
    memory = None if obstacles(PEAK_MEMORY, variant, baseline) else _ratio(PEAK_MEMORY, variant, baseline)
    return Impact(
        variant,
        baseline,
        speedups,
        lengths_differ(variant, baseline),
        energy,
        basis,
        None if memory is None else (1 - memory) * 100,
        _ratio(DISK, baseline, variant),
        None if variant.kernels == "emulated" else _ratio(WEIGHTS, baseline, variant),
        {task: drop for task in tasks if (drop := _drop(task, variant, baseline, reasons)) is not None},
        tuple(reasons),
    )


def quotient_interval(ratio: float, above: Interval, below: Interval) -> Interval | None:
    """The 95 % interval of a ratio of two independent numbers: half-widths of logarithms add in quadrature.

    Args:
        ratio: Ratio of the two numbers.
        above: Interval of the numerator.
        below: Interval of the denominator.

    Returns:
        None if an end is not positive.
    """
    if min(*above, *below) <= 0:
        return None
    half = math.hypot(*(math.log(high / low) / 2 for low, high in (above, below)))
    return ratio * math.exp(-half), ratio * math.exp(half)


def impact_columns(impact: Impact, tasks: Sequence[str]) -> dict[str, Any]:
    """A row of ``quantization_impact.csv``: the predecessor's columns first, then the further ones.

    Args:
        impact: The comparison.
        tasks: Tasks that have columns, comparable or not.
    """
    variant = impact.variant
    speedup, saved = impact.speedups.get("speedup"), impact.energy_reduction
    row: dict[str, Any] = {
        "model": variant.model,
        "precision": variant.precision,
        "speedup": speedup and speedup.value,
        "memory_reduction_pct": impact.memory_reduction,
        "energy_reduction_pct": saved and saved.value,
        **{f"{task}_acc_drop_pct": (drop := impact.drops.get(task)) and drop.percent for task in tasks},
        "name": variant.name,
    }
    for name in SPEEDUPS:
        row |= _with_ends(name, impact.speedups.get(name))
    return row | {
        "length_confounded": impact.length_confounded,
        **_with_ends("energy_reduction_percent", saved),
        "energy_basis": impact.energy_basis,
        "model_size_ratio": impact.size_ratio,
        "weights_ratio": impact.weights_ratio,
        **{
            f"{task}_drop_{unit}": (drop := impact.drops.get(task)) and getattr(drop, unit)
            for task in tasks
            for unit in ("percent", "pp")
        },
        "not_comparable": impact.not_comparable,
    }


def _with_ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = (estimate.interval if estimate and estimate.interval else None) or (None, None)
    return {name: None if estimate is None else estimate.value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def _speedups(variant: Variant, baseline: Variant, reasons: list[str]) -> dict[str, Estimate]:
    if _blocked("speed", obstacles(SPEEDS, variant, baseline), reasons):
        return {}
    found = {}
    for name, metric in SPEEDUPS.items():
        above, below = (variant, baseline) if metric.maximise else (baseline, variant)
        ratio = _ratio(metric, above, below)
        if ratio is not None:
            found[name] = Estimate(ratio, _ratio_interval(metric, ratio, above, below))
    return found


def _energy(variant: Variant, baseline: Variant, reasons: list[str]) -> tuple[Estimate | None, str | None]:
    if _blocked("energy", obstacles(ENERGIES[:2], variant, baseline), reasons):
        return None, None
    metric, basis = J_PER_TOKEN, BASIS_PER_TOKEN
    if None in (variant.number(metric), baseline.number(metric)):
        metric, basis = ENERGY, BASIS_PER_RUN
        if _blocked("energy", obstacles(metric, variant, baseline), reasons):
            return None, None
    share = _ratio(metric, variant, baseline)
    if share is None:
        return None, None
    ends = _ratio_interval(metric, share, variant, baseline)
    saved = None if ends is None else ((1 - ends[1]) * 100, (1 - ends[0]) * 100)
    return Estimate((1 - share) * 100, saved), basis


def _drop(task: str, variant: Variant, baseline: Variant, reasons: list[str]) -> Drop | None:
    if _blocked(task, task_obstacles(task, variant, baseline), reasons):
        return None
    here, there = variant.number(task), baseline.number(task)
    if here is None or there is None:
        return None
    return Drop((there - here) * 100, (there - here) / there * 100 if there else None)


def _blocked(what: str, why: Sequence[str], reasons: list[str]) -> bool:
    """Whether a comparison is off; its reasons are added to the list."""
    if why:
        reasons.append(f"{what}: {', '.join(why)}")
    return bool(why)


def _ratio(metric: Metric, above: Variant, below: Variant) -> float | None:
    numerator, denominator = above.number(metric), below.number(metric)
    return None if numerator is None or not denominator else numerator / denominator


def _ratio_interval(metric: Metric, ratio: float, above: Variant, below: Variant) -> Interval | None:
    upper, lower = above.interval(metric), below.interval(metric)
    return None if upper is None or lower is None else quotient_interval(ratio, upper, lower)
