"""How much of what is possible a frontier covers, and how much of that each configuration adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from slim_eval.analysis.pareto.dominance import Bools, hypervolume, non_dominated

# How far beyond the worst value of an objective the reference lies, in shares of its span: at the worst value itself
# the ends of a frontier would count for nothing (Ishibuchi et al. 2018, "How to specify a reference point in
# hypervolume calculation", Evolutionary Computation 26:411).
_BEYOND = 0.1
_MOST_POINTS = 30  # on a frontier; the time of an exact volume grows steeply with them


@dataclass(frozen=True)
class Covered:
    """The hypervolume of the frontier of some configurations.

    Attributes:
        total: Share of the box between the reference point and the best value of every objective, from 0 to 1.
        lost: For each configuration, the share of `total` that would be lost without it: 0 where it is dominated, or
            where another one is equal to it.
    """

    total: float
    lost: tuple[float, ...]


def covered(values: ArrayLike, maximise: Sequence[bool]) -> Covered | None:
    """The hypervolume of a frontier, with every objective scaled to its span among these configurations.

    Args:
        values: Configurations by objectives, ``(n, d)``, all finite.
        maximise: For each objective, whether more is better.

    Returns:
        None for fewer than two configurations, where there is no span, for a frontier of more than 30 points, and where
        a span is beyond what a double holds.
    """
    points = np.asarray(values, dtype=np.float64) * np.where(maximise, 1.0, -1.0)
    front = np.flatnonzero(non_dominated(points, [True] * points.shape[1]))
    if len(points) < 2 or len(front) > _MOST_POINTS:
        return None
    worst, best = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        span = np.where(best > worst, best - worst, 1.0)
        scaled = 1 - (best - points) / span  # 1 is the best, 0 the worst; 1 for all where they do not differ
    if not np.isfinite(span).all():
        return None

    def share(kept: Bools | slice) -> float:
        volume = hypervolume(scaled[kept], [True] * points.shape[1], np.full(points.shape[1], -_BEYOND))
        return volume / math.pow(1 + _BEYOND, points.shape[1])

    total = share(slice(None))
    lost = np.zeros(len(points))
    for index in front:
        lost[index] = max(0.0, 1 - share(np.arange(len(points)) != index) / total)
    return Covered(total, tuple(lost.tolist()))
