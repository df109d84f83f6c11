"""What a scheme changed against the baseline of the same model: ratios, savings and drops, or why there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.analysis.comparability import ENERGIES, SPEEDS, lengths_differ, obstacles
from slim_eval.metrics import (
    AMORTISED,
    DISK,
    ENERGY,
    J_PER_TOKEN,
    PEAK_MEMORY,
    THROUGHPUT,
    TPOT,
    TTFT,
    WEIGHTS,
    Change,
    Metric,
)
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Estimate, Interval, Variant, metric_of
from slim_eval.utils import number

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
class Shift:
    """A task's score against the baseline's in a metric that is not a share of answers."""

    metric: Metric
    before: float
    after: float

    @property
    def amount(self) -> float:
        """Variant minus baseline, in the unit of the metric."""
        return self.after - self.before

    @property
    def ratio(self) -> float | None:
        """Variant / baseline; None unless both are above 0."""
        return self.after / self.before if min(self.before, self.after) > 0 else None

    @property
    def text(self) -> str:
        """The change in words: ``2.99x`` of a perplexity, ``-1.25`` of any other metric."""
        if self.metric.change is Change.RATIO and self.ratio is not None:
            return f"{number(self.ratio)}x"
        return signed(self.amount)


def signed(value: float) -> str:
    """A difference in a metric's own unit, with its sign."""
    return f"{value + 0.0:+.3g}"  # + 0.0: no negative zero


def change_words(paired: PairedTask) -> str:
    """A paired change in the metric's own unit with its interval: ``2.99x [2.5, 3.6]``, ``-1.25 [-2, -0.5]``.

    In the metric's direction, as the values are shown: not turned so that above 0 is worse. Empty without one.
    """
    if paired.ratio is not None:
        text, ends = f"{number(paired.ratio)}x", tuple(number(end) for end in paired.ratio_interval or ())
    elif paired.loss is not None:
        turn = -1 if paired.higher_is_better else 1
        text = signed(turn * paired.loss)
        ends = tuple(signed(end) for end in sorted(turn * end for end in paired.loss_interval or ()))
    else:
        return ""
    return f"{text} [{', '.join(ends)}]" if ends else text


@dataclass(frozen=True)
class Impact:
    """A variant against its baseline; values that do not exist are None or missing, and `reasons` explains why."""

    variant: Variant
    baseline: Variant | None
    speedups: dict[str, Estimate] = field(default_factory=dict)  # name in `SPEEDUPS` -> ratio, above 1 if faster
    # Output tokens per request differ by more than 1 %, so that ``speedup`` compares different work; None if unknown.
    length_confounded: bool | None = None
    energy_reduction: Estimate | None = None  # saved, in percent
    energy_basis: str | None = None  # unit of work of the saving: `BASIS_PER_TOKEN` or `BASIS_PER_RUN`
    memory_reduction: float | None = None  # peak memory saved, in percent
    size_ratio: float | None = None  # on disk, above 1 if the variant is smaller
    weights_ratio: float | None = None  # as loaded, likewise; None if one side was unpacked or widened
    drops: dict[str, Drop] = field(default_factory=dict)  # task -> accuracy lost
    shifts: dict[str, Shift] = field(default_factory=dict)  # task whose metric is not a share of answers -> its change
    reasons: tuple[str, ...] = ()  # what was not compared: ``energy: energy source nvml against codecarbon``

    @property
    def not_comparable(self) -> str | None:
        """All reasons in one text; None if everything was compared."""
        return "; ".join(self.reasons) or None


def impact_of(variant: Variant, baseline: Variant | None, tasks: Sequence[str]) -> Impact:
    """Compare a variant with its baseline, if there is one, in speed, energy, memory, size and these tasks."""
    if baseline is None:
        return Impact(variant, None, reasons=(f"no {variant.baseline} measurement of this model",))
    speed, speedups = obstacles(SPEEDS, variant, baseline), {}
    for name, metric in SPEEDUPS.items() if not speed else ():
        above, below = (variant, baseline) if metric.maximise else (baseline, variant)
        if (ratio := _ratio(metric, above, below)) is not None:
            speedups[name] = ratio

    # Energy per token does not depend on how many requests were measured, that of a whole run does.
    per_token = None not in (variant.number(J_PER_TOKEN), baseline.number(J_PER_TOKEN))
    energy, saved, basis = obstacles(J_PER_TOKEN if per_token else ENERGIES[:2], variant, baseline), None, None
    if not energy and not per_token:
        energy = obstacles(ENERGY, variant, baseline)
    share = None if energy else _ratio(J_PER_TOKEN if per_token else ENERGY, variant, baseline)
    if share is not None:
        ends = None if share.interval is None else ((1 - share.interval[1]) * 100, (1 - share.interval[0]) * 100)
        saved, basis = Estimate((1 - share.value) * 100, ends), BASIS_PER_TOKEN if per_token else BASIS_PER_RUN

    drops, shifts, refused = {}, {}, [("speed", speed), ("energy", energy)]
    for task in tasks:
        row = metric_of(task, (variant, baseline))
        why = obstacles(row, variant, baseline)
        refused.append((task, why))
        here, there = variant.number(task), baseline.number(task)
        if why or here is None or there is None:
            continue
        if row.is_share and (lost := row.loss(there, here)) is not None:
            drops[task] = Drop(lost * 100, lost / there * 100 if there else None)
        else:
            shifts[task] = Shift(row, there, here)

    memory = None if obstacles(PEAK_MEMORY, variant, baseline) else _ratio(PEAK_MEMORY, variant, baseline)
    size = _ratio(DISK, baseline, variant)
    stored = variant.loads_as_stored and baseline.loads_as_stored and not obstacles(WEIGHTS, variant, baseline)
    weights = _ratio(WEIGHTS, baseline, variant) if stored else None
    return Impact(
        variant,
        baseline,
        speedups,
        lengths_differ(variant, baseline),
        saved,
        basis,
        None if memory is None else (1 - memory.value) * 100,
        None if size is None else size.value,
        None if weights is None else weights.value,
        drops,
        shifts,
        tuple(f"{what}: {', '.join(why)}" for what, why in refused if why),
    )


def _ratio(metric: Metric, above: Variant, below: Variant) -> Estimate | None:
    numerator, denominator = above.estimate(metric), below.estimate(metric)
    if numerator is None or denominator is None or not denominator.value:
        return None
    ratio, ends = numerator.value / denominator.value, None
    if numerator.interval is not None and denominator.interval is not None:
        ends = quotient_interval(ratio, numerator.interval, denominator.interval)
    return Estimate(ratio, ends)


def quotient_interval(ratio: float, above: Interval, below: Interval) -> Interval | None:
    """The 95 % interval of a ratio of two independent numbers: half-widths of logarithms add in quadrature.

    `above` is the numerator's interval. None if an end of either is not positive.
    """
    if min(*above, *below) <= 0:
        return None
    half = math.hypot(*(math.log(high / low) / 2 for low, high in (above, below)))
    return ratio * math.exp(-half), ratio * math.exp(half)


def impact_columns(impact: Impact, tasks: Sequence[str]) -> dict[str, Any]:
    """A row of ``quantization_impact.csv``: the predecessor's columns first, then the further ones.

    The tasks given have columns, comparable or not; those of a metric that is not a share of answers have its
    difference and its ratio.
    """
    variant, saved = impact.variant, impact.energy_reduction
    speedup = impact.speedups.get("speedup")
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
    row |= {"length_confounded": impact.length_confounded, **_with_ends("energy_reduction_percent", saved)}
    row |= {"energy_basis": impact.energy_basis, "model_size_ratio": impact.size_ratio}
    row["weights_ratio"] = impact.weights_ratio
    for task in tasks:
        drop = impact.drops.get(task)
        row |= {f"{task}_drop_percent": drop and drop.percent, f"{task}_drop_pp": drop and drop.pp}
    row["not_comparable"] = impact.not_comparable
    for task in (task for task in tasks if task in impact.shifts):
        row |= {f"{task}_change": impact.shifts[task].amount, f"{task}_ratio": impact.shifts[task].ratio}
    return row


def _with_ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = (estimate.interval if estimate and estimate.interval else None) or (None, None)
    return {name: None if estimate is None else estimate.value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}
