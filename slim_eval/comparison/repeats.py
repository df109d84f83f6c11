"""One cell measured again and again: the noise floor that comes out of it.

The floor of a metric is the largest relative change that any two of the runs leave possible: the far end of the 95 %
interval of their ratio. So it holds what differs from run to run, and how well each run knows its own mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from slim_eval import environment
from slim_eval.comparison.cells import CellComparison, compare
from slim_eval.records import FloorEntry, NoiseRecord, PairedTask
from slim_eval.results import Cell
from slim_eval.rows import rows_of

_SETTINGS = ("engine", "kernels", "hardware", "batch_size", "max_new_tokens")


def floor_from(ratios: Sequence[tuple[float, tuple[float, float] | None]]) -> float | None:
    """The floor of a metric from the ratios of pairs of runs, each with its interval where there is one.

    Returns:
        The largest relative change, up or down; None without pairs.
    """
    ends = [end for ratio, interval in ratios for end in (interval or (ratio, ratio))]
    return max((max(end, 1 / end) - 1 for end in ends if end > 0), default=None)


def noise_record(runs: Sequence[Cell], margin_pp: float) -> NoiseRecord:
    """The noise floor from two or more measurements of one cell.

    Args:
        runs: The same cell, measured again and again.
        margin_pp: As in `cells.compare`; changes no floor.
    """
    rows = rows_of(runs)
    pairs: list[CellComparison] = [compare(a, b, margin_pp) for a, b in combinations(runs, 2)]
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
        metrics={key: _entry(rows, key, floor_from(found)) for key, found in ratios.items()},
        tasks={task: _entry(rows, task, max(abs(p.drop_pp or 0.0) for p in found)) for task, found in paired.items()},
        flips={task: max(p.flips or 0.0 for p in found) for task, found in paired.items()},
    )


def _entry(rows: Sequence[Mapping[str, Any]], key: str, floor: float | None) -> FloorEntry:
    return FloorEntry(values=tuple(row[key] for row in rows), floor=floor)
