"""One variant measured again and again: the noise floor that comes out of it.

The floor of a metric is the largest relative change that two further runs are expected to show by chance alone, with
95 % confidence: a prediction from the spread of the runs (`stats.repeat_bound`), and never less than what the 95 %
interval of the ratio of two of them leaves possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from slim_eval import stats
from slim_eval.analysis.compare.variants import VariantComparison, compare
from slim_eval.results.records import FloorEntry, NoiseRecord, PairedTask
from slim_eval.results.rows import rows_of
from slim_eval.results.store import Variant
from slim_eval.utils import environment

_SETTINGS = ("engine", "kernels", "hardware", "batch_size", "max_new_tokens", "prompt_tokens")


def floor_from(
    values: Sequence[float | None], ratios: Sequence[tuple[float, tuple[float, float] | None]]
) -> float | None:
    """The floor of a metric.

    Args:
        values: One a run.
        ratios: Of pairs of runs, each with its interval where there is one.

    Returns:
        A relative change, up or down; None below two runs.
    """
    predicted = stats.repeat_bound([value for value in values if value is not None])
    ends = [end for ratio, interval in ratios for end in (interval or (ratio, ratio))]
    seen = max((max(end, 1 / end) - 1 for end in ends if end > 0), default=None)
    return max((floor for floor in (predicted, seen) if floor is not None), default=None)


def noise_record(runs: Sequence[Variant], margin_pp: float) -> NoiseRecord:
    """The noise floor from two or more measurements of one variant.

    Args:
        runs: The same variant, measured again and again.
        margin_pp: As in `variants.compare`; changes no floor.
    """
    rows = rows_of(runs)
    pairs: list[VariantComparison] = [compare(a, b, margin_pp) for a, b in combinations(runs, 2)]
    ratios: dict[str, list[tuple[float, tuple[float, float] | None]]] = {}
    for made in (metric for each in pairs for metric in each.metrics):
        if made.ratio is not None and not made.metric.exact:
            ratios.setdefault(made.metric.key, []).append((made.ratio, made.interval))
    paired: dict[str, list[PairedTask]] = {}
    for task in (task.paired for each in pairs for task in each.tasks):
        if task.drop_pp is not None:
            paired.setdefault(task.task, []).append(task)
    return NoiseRecord(
        model=runs[0].model,
        precision=runs[0].precision,
        timestamp=environment.now(),
        **{key: rows[0][key] for key in _SETTINGS},
        metrics={
            key: FloorEntry(values=_values(rows, key), floor=floor_from(_values(rows, key), found))
            for key, found in ratios.items()
        },
        tasks={task: FloorEntry(values=_values(rows, task), floor=_points(_values(rows, task))) for task in paired},
        flips={task: max(p.flips or 0.0 for p in found) for task, found in paired.items()},
    )


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float | None, ...]:
    return tuple(row[key] for row in rows)


def _points(accuracies: Sequence[float | None]) -> float | None:
    """The floor of a drop in percentage points."""
    spread = stats.repeat_spread([value for value in accuracies if value is not None])
    return None if spread is None else spread * 100
