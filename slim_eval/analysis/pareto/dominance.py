"""Which configurations no other one beats, in any number of objectives, and how sure that is.

A point is *dominated* if another one is at least as good in every objective and better in one. The points that are not
dominated are the Pareto frontier; equal points stand on it together. A point with a missing value (NaN) takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DRAWS = 2000
#: P(non-dominated) from which a configuration is said to be on the frontier; up to 1 minus this it is dominated.
CONFIDENCE = 0.95
#: Comparisons of two numbers (draws x points² x objectives) that a probability may take: some seconds on one core.
WORK_BUDGET = 2e10
#: Draws that are made whatever the budget: the standard error of a probability of 0.05 is then 0.015.
MIN_DRAWS = 200

_Z95 = NormalDist().inv_cdf(0.975)
_BLOCK, _PART = 64, 2048  # points that eliminate others at a time, and how many others: what the cache holds
_PAIRWISE_POINTS = 256  # up to here comparing all pairs of many draws at once is faster than sorting each draw
_PAIRWISE_SIZE = 2**18  # booleans of one such comparison: stays in the cache


class State(Enum):
    """What can be said of a configuration."""

    ON_FRONTIER = "on the frontier"
    DOMINATED = "dominated"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Verdict:
    """Where a configuration stands among those it was compared with.

    Attributes:
        on_frontier: Not dominated, by the point values alone.
        probability: P(non-dominated), from 0 to 1; None where no uncertainty is known.
        state: From `probability`; from the point values where there is none.
        certain: Whether the uncertainties leave no doubt; None where none is known, neither of this configuration nor
            of a rival, so that `state` only repeats the point values.
    """

    on_frontier: bool
    probability: float | None
    state: State
    certain: bool | None


def non_dominated(values: ArrayLike, maximise: Sequence[bool]) -> Bools:
    """The points that no other one dominates.

    Args:
        values: Points by objectives, ``(n, d)``, with d at least 1. A row with a NaN is not compared.
        maximise: For each objective, whether more is better.

    Returns:
        ``(n,)``, true on the frontier; false for a row with a NaN. O(n log n) for up to two objectives. For more,
        points are sorted by the sum of their ranks (after Chomicki et al. 2003, "Skyline with presorting") and the best
        of those that are left eliminate the others, a block at a time: at most O(n x size of the frontier x d).

    Raises:
        ValueError: The shapes do not fit.
    """
    points = _minimised(values, maximise)
    present = _complete(points)
    result = np.zeros(len(points), dtype=np.bool_)
    result[present] = _minimal(points[present])
    return result


def hypervolume(values: ArrayLike, maximise: Sequence[bool], reference: ArrayLike) -> float:
    """Volume that the points dominate, up to a reference point: the larger, the better the whole frontier.

    Exact, by the algorithm of the Walking Fish Group, which takes the points in the order of one objective and so loses
    a dimension with each step (While, Bradstreet and Barone 2012, "A fast way of calculating exact hypervolumes", IEEE
    Transactions on Evolutionary Computation 16:86). Meant for some dozens of points where there are five objectives or
    more; the time grows steeply with both.

    Args:
        values: Points by objectives, ``(n, d)``. A row with a NaN is left out.
        maximise: For each objective, whether more is better.
        reference: The worst value of each objective that still counts, ``(d,)``. A point that is not better than it in
            every objective adds nothing.

    Returns:
        The volume, in the product of the objectives' units.

    Raises:
        ValueError: The shapes do not fit, or a number that counts is infinite.
    """
    points = _minimised(values, maximise)
    worst = _minimised(np.atleast_2d(np.asarray(reference, dtype=np.float64)), maximise)[0]
    inside = points[(points < worst).all(axis=1)]  # NaN is not smaller than anything
    if not (np.isfinite(worst).all() and np.isfinite(inside).all()):
        raise ValueError("a hypervolume needs finite values and a finite reference")
    return _volume(inside[_minimal(inside)], worst)


def judge(
    values: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    maximise: Sequence[bool],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Verdict | None]:
    """Where each configuration stands, given the 95 % intervals of its measurements.

    Args:
        values: Configurations by objectives, ``(n, d)``.
        lows: Lower ends of the intervals, ``(n, d)``; NaN where not known.
        highs: Upper ends, likewise.
        maximise: For each objective, whether more is better.
        draws: Resamplings; fewer where `affordable_draws` says so.
        seed: Of the random numbers.

    Returns:
        One verdict a configuration; None for one with a missing value.

    Raises:
        ValueError: The shapes do not fit.
    """
    points, low, high = _alike(values, lows, highs)
    on_frontier = non_dominated(points, maximise)
    present = _complete(points)
    probability: Floats | None = None
    if (~np.isnan(low[present]) & ~np.isnan(high[present])).any():
        made = draws_from_intervals(points, low, high, affordable_draws(points.shape, draws), seed)
        probability = share_non_dominated(made, maximise)
    return [
        _verdict(bool(on_frontier[i]), None if probability is None else float(probability[i])) if present[i] else None
        for i in range(len(points))
    ]


def probability_non_dominated(
    values: ArrayLike,
    spreads: ArrayLike,
    maximise: Sequence[bool],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """P(non-dominated) of each configuration, its measurements drawn anew from normal distributions.

    Measurements are taken to be independent. Those of two precisions on the same items are not, and differ by less
    than that: the probabilities err towards *cannot tell*.

    Args:
        values: Configurations by objectives, ``(n, d)``.
        spreads: Standard deviations of the values, ``(n, d)``; where NaN, the value stays as it is.
        maximise: For each objective, whether more is better.
        draws: Resamplings; fewer where `affordable_draws` says so.
        seed: Of the random numbers.

    Returns:
        ``(n,)``, from 0 to 1; NaN for a configuration with a missing value.

    Raises:
        ValueError: The shapes do not fit, or a spread is negative.
    """
    points, spread, _ = _alike(values, spreads, spreads)
    if (spread < 0).any():
        raise ValueError("a standard deviation is at least 0")
    half = _Z95 * spread
    made = draws_from_intervals(points, points - half, points + half, affordable_draws(points.shape, draws), seed)
    return share_non_dominated(made, maximise)


def draws_from_intervals(values: ArrayLike, lows: ArrayLike, highs: ArrayLike, draws: int, seed: int = 0) -> Floats:
    """Measurements drawn anew from their 95 % intervals.

    Each half of a distribution is half a normal one, as wide as that side of the interval: its median is the value, and
    2.5 % lie below and above the ends. For a symmetric interval that is the normal distribution.

    Args:
        values: Configurations by objectives, ``(n, d)``.
        lows: Lower ends, ``(n, d)``; where an end is NaN, the value stays as it is. An end on the wrong side of the
            value counts as equal to it.
        highs: Upper ends, likewise.
        draws: How many.
        seed: Of the random numbers.

    Returns:
        ``(draws, n, d)``.

    Raises:
        ValueError: The shapes do not fit.
    """
    points, low, high = _alike(values, lows, highs)
    known = ~np.isnan(low) & ~np.isnan(high)
    below = np.where(known, np.maximum(points - low, 0), 0) / _Z95
    above = np.where(known, np.maximum(high - points, 0), 0) / _Z95
    normal = np.random.default_rng(seed).standard_normal((draws, *points.shape))
    made: Floats = points + normal * np.where(normal < 0, below, above)
    return made


def share_non_dominated(draws: ArrayLike, maximise: Sequence[bool]) -> Floats:
    """Share of draws in which each configuration is not dominated.

    Args:
        draws: ``(draws, n, d)``, at least one draw, for instance of `draws_from_intervals` or of a bootstrap.
        maximise: For each objective, whether more is better.

    Returns:
        ``(n,)``, from 0 to 1; NaN for a configuration that is missing a value in any draw.

    Raises:
        ValueError: The shapes do not fit.
    """
    made = np.asarray(draws, dtype=np.float64)
    if made.ndim != 3 or not len(made):
        raise ValueError(f"draws must be (draws, n, d) with at least one draw, got {made.shape}")
    count, n, d = made.shape
    present = ~np.isnan(made).any(axis=(0, 2))
    points = _minimised(made[:, present].reshape(-1, d), maximise).reshape(count, -1, d)
    result = np.full(n, np.nan)
    result[present] = _share_pairwise(points) if points.shape[1] <= _PAIRWISE_POINTS else _share_sorted(points)
    return result


def affordable_draws(shape: tuple[int, ...], draws: int = DRAWS) -> int:
    """How many of the draws asked for of ``(n, d)`` values fit into `WORK_BUDGET`; down to `MIN_DRAWS` of them."""
    work = max(shape[0] * math.prod(shape), 1)
    return min(draws, max(MIN_DRAWS, int(WORK_BUDGET / work)))


def _verdict(on_frontier: bool, probability: float | None) -> Verdict:
    if probability is None:
        return Verdict(on_frontier, None, State.ON_FRONTIER if on_frontier else State.DOMINATED, None)
    state = State.CANNOT_TELL
    if probability >= CONFIDENCE:
        state = State.ON_FRONTIER
    elif probability <= 1 - CONFIDENCE:
        state = State.DOMINATED
    return Verdict(on_frontier, probability, state, state is not State.CANNOT_TELL)


def _alike(values: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Values and the ends of their intervals as arrays of one shape."""
    points, low, high = (np.asarray(part, dtype=np.float64) for part in (values, lows, highs))
    if points.ndim != 2 or not points.shape == low.shape == high.shape:
        raise ValueError(
            f"values and their spreads must be (n, d) alike, got {points.shape}, {low.shape}, {high.shape}"
        )
    return points, low, high


def _complete(points: Floats) -> Bools:
    """The points that miss no value."""
    return np.asarray(~np.isnan(points).any(axis=1))


def _minimised(values: ArrayLike, maximise: Sequence[bool]) -> Floats:
    """The points with the sign turned where more is better, so that less is better everywhere."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != len(maximise) or not len(maximise):
        raise ValueError(f"values must be (n, d) with a direction for each of d >= 1 objectives, got {points.shape}")
    turned: Floats = points * np.where(np.asarray(maximise, dtype=np.bool_), -1.0, 1.0)
    return turned


def _minimal(points: Floats) -> Bools:
    """The non-dominated of points without NaN, where less is better."""
    if not len(points):
        return np.zeros(0, dtype=np.bool_)
    if points.shape[1] == 1:
        return np.asarray(points[:, 0] == points[:, 0].min())
    return _minimal_of_two(points) if points.shape[1] == 2 else _minimal_of_more(points)


def _minimal_of_two(points: Floats) -> Bools:
    """Sweep: of the points with one x only those with the least y count, and only below all y of smaller x."""
    order = np.argsort(points[:, 0])
    x, y = points[order, 0], points[order, 1]
    first = np.append(True, x[1:] != x[:-1])
    least = np.minimum.reduceat(y, np.flatnonzero(first))  # of each x
    improves = np.append(True, least[1:] < np.minimum.accumulate(least)[:-1])
    group = np.cumsum(first) - 1
    result = np.empty(len(points), dtype=np.bool_)
    result[order] = improves[group] & (y == least[group])
    return result


def _minimal_of_more(points: Floats) -> Bools:
    """Elimination in the order of the sum of ranks.

    Ranks keep every comparison, and their sum is a whole number, so a dominated point has a strictly greater sum than
    the one that dominates it; a sum of floats could round to a tie. A smaller sum and no greater rank is domination.
    """
    ranks = np.array([np.unique(column, return_inverse=True)[1] for column in points.T], dtype=np.int64)
    total = ranks.sum(axis=0)
    left = np.argsort(total, kind="stable")
    columns = np.vstack([total, ranks])[:, left]
    if columns[0, -1] < np.iinfo(np.int32).max:
        columns = columns.astype(np.int32)  # half the memory to go through
    result = np.zeros(len(points), dtype=np.bool_)
    while len(left):
        block = columns[:, :_BLOCK]
        best = ~_covered(block, block)
        result[left[:_BLOCK][best]] = True
        rest = columns[:, _BLOCK:]
        open_still = ~_covered(block[:, best], rest)
        columns, left = rest[:, open_still], left[_BLOCK:][open_still]
    return result


def _covered(by: NDArray[np.integer], points: NDArray[np.integer]) -> Bools:
    """Which points are dominated by one of some others; first row the sum of ranks, then the ranks."""
    result = np.zeros(points.shape[1], dtype=np.bool_)
    for start in range(0, len(result), _PART):
        part = slice(start, start + _PART)
        found = by[0][:, None] < points[0, part]
        for theirs, ours in zip(by[1:], points[1:, part], strict=True):
            found &= theirs[:, None] <= ours
        result[part] = found.any(axis=0)
    return result


def _share_pairwise(points: Floats) -> Floats:
    """All pairs of several draws at once: for few points."""
    draws, n, d = points.shape
    step = max(1, _PAIRWISE_SIZE // max(n * n, 1))
    columns = np.ascontiguousarray(np.moveaxis(points, 2, 0))
    dominated = np.zeros(n, dtype=np.int64)
    for start in range(0, draws, step):
        part = columns[:, start : start + step]
        no_worse = part[0][:, :, None] <= part[0][:, None, :]
        for k in range(1, d):
            no_worse &= part[k][:, :, None] <= part[k][:, None, :]
        dominated += (no_worse & ~no_worse.transpose(0, 2, 1)).any(axis=1).sum(axis=0)
    return np.asarray((draws - dominated) / draws)


def _share_sorted(points: Floats) -> Floats:
    """Draw by draw: for many points."""
    return np.asarray(np.mean([_minimal(draw) for draw in points], axis=0))


def _volume(points: Floats, worst: Floats) -> float:
    """Volume between points, all of them below `worst`, and `worst`."""
    if not len(points):
        return 0.0
    if len(worst) == 1:
        return float(worst[0] - points.min())
    if len(worst) == 2:
        x, y = points[np.argsort(points[:, 0])].T
        return float(np.diff(np.append(x, worst[0])) @ (worst[1] - np.minimum.accumulate(y)))
    points = points[np.argsort(points[:, -1], kind="stable")]
    boxes = worst - points
    total = 0.0
    for k, point in enumerate(points):
        # What a point adds to those that are better in the last objective is as deep as itself everywhere.
        shared = _distinct_minimal(np.maximum(points[:k, :-1], point[:-1]))
        total += boxes[k, -1] * (float(boxes[k, :-1].prod()) - _volume(shared, worst[:-1]))
    return float(total)


def _distinct_minimal(points: Floats) -> Floats:
    """The non-dominated points, equal ones once. All pairs: the fastest for the few points of a volume."""
    if len(points) < 2 or points.shape[1] == 2:  # the sweep of two objectives needs no sorting out
        return points
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    earlier = np.triu(np.ones_like(no_worse), 1)
    return points[~(no_worse & (~no_worse.T | earlier)).any(axis=0)]
