"""Pareto dominance in any number of objectives: frontiers, their hypervolume, and the confidence in both.

A point is *dominated* if another one is at least as good in every objective and better in one. The points that are not
dominated are the Pareto frontier; equal points are on it together. A point with a missing value (NaN) is not compared.

Non-domination and volumes are computed by moocore. Probabilities are not: docs/decisions/019-pareto-moocore.md.
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
#: P(non-dominated) from which a variant is *on the frontier*; up to 1 minus this it is *dominated*.
CONFIDENCE = 0.95
#: Limit on the comparisons of two numbers (draws x points² x objectives) per probability: some seconds on one core.
WORK_BUDGET = 2e10
#: Minimum number of draws, whatever the budget: the standard error of a probability of 0.05 is then 0.015.
MIN_DRAWS = 200

_Z95 = NormalDist().inv_cdf(0.975)
_PAIRWISE_POINTS = 32  # up to here, all pairs of many draws at once are faster than one call per draw (bench/pareto.py)
_PAIRWISE_SIZE = 2**18  # booleans of one such comparison: they fit into the cache
# Distance of the reference point from the worst value of an objective, relative to the objective's span: at the worst
# value itself, the ends of a frontier would add nothing (Ishibuchi et al. 2018, "How to specify a reference point in
# hypervolume calculation", Evolutionary Computation 26:411).
_MARGIN = 0.1
_MAX_FRONTIER = 30  # points; the time of an exact volume grows steeply with them: 8 objectives take half a second


class FrontierState(Enum):
    """Where a variant is, at `CONFIDENCE`."""

    ON_FRONTIER = "on the frontier"
    DOMINATED = "dominated"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class DominanceVerdict:
    """Where a variant is among those it was compared with."""

    on_frontier: bool  # not dominated, by the point values alone
    probability: float | None  # P(non-dominated), from 0 to 1; None if no uncertainty is known
    state: FrontierState  # from `probability`; from the point values if there is none

    @property
    def certain(self) -> bool | None:
        """Whether `state` is conclusive.

        None if no uncertainty is known, neither of this variant nor of a rival: `state` only repeats the point values.
        """
        return None if self.probability is None else self.state is not FrontierState.INCONCLUSIVE


@dataclass(frozen=True)
class Hypervolume:
    """The hypervolume of the frontier of some variants."""

    total: float  # share of the box between the reference point and the best value of every objective, from 0 to 1
    #: For each variant, the share of `total` that would be lost without it: 0 if it is dominated, or if another one is
    #: equal to it.
    lost: tuple[float, ...]


def non_dominated(values: ArrayLike, maximise: Sequence[bool]) -> Bools:
    """Find the points that no other point dominates: ``(n,)``, false for a row with a NaN, which is not compared.

    Args:
        values: Points by objectives, ``(n, d)``, with d at least 1.
        maximise: For each objective, whether more is better.

    Raises:
        ValueError: The shapes do not match.
    """
    import moocore  # 0.15 s, which `recommend` does without

    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != len(maximise) or not len(maximise):
        raise ValueError(f"values must be (n, d) with a direction for each of d >= 1 objectives, got {points.shape}")
    complete = ~np.isnan(points).any(axis=1)
    known = points[complete]
    if np.isinf(known).any():  # moocore 0.3 errs with them in four objectives or more; ranks keep every comparison
        known = np.column_stack([np.unique(column, return_inverse=True)[1] for column in known.T]).astype(np.float64)
    result = np.zeros(len(points), dtype=np.bool_)
    result[complete] = moocore.is_nondominated(known, maximise=list(maximise), keep_weakly=True)
    return result


def hypervolume(values: ArrayLike, maximise: Sequence[bool]) -> Hypervolume | None:
    """Compute the hypervolume of a frontier, with every objective scaled to its span among these variants.

    Args:
        values: Variants by objectives, ``(n, d)``, all finite.
        maximise: For each objective, whether more is better.

    Returns:
        None for fewer than two variants, which have no span, for a frontier of more than 30 points, and if a span
        exceeds the range of a double.

    Raises:
        ValueError: The shapes do not match.
    """
    import moocore

    points = np.asarray(values, dtype=np.float64)
    frontier = np.flatnonzero(non_dominated(points, maximise))
    if len(points) < 2 or len(frontier) > _MAX_FRONTIER:
        return None
    points = points * np.where(maximise, 1.0, -1.0)
    worst, best = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        span = np.where(best > worst, best - worst, 1.0)
        scaled = 1 - (best - points) / span  # 1 is the best, 0 the worst; 1 for all if they do not differ
    if not np.isfinite(span).all():
        return None
    reference = np.full(points.shape[1], -_MARGIN)
    volume = moocore.hypervolume(scaled, ref=reference, maximise=True)
    lost = np.zeros(len(points))
    for index in frontier:
        remaining = moocore.hypervolume(np.delete(scaled, index, axis=0), ref=reference, maximise=True)
        lost[index] = max(0.0, 1 - remaining / volume)
    return Hypervolume(float(volume / (1 + _MARGIN) ** points.shape[1]), tuple(lost.tolist()))


def judge(
    values: ArrayLike, lows: ArrayLike, highs: ArrayLike, maximise: Sequence[bool], *, draws: int = DRAWS, seed: int = 0
) -> list[DominanceVerdict | None]:
    """Judge each variant, given the 95 % intervals of its measurements; None for one with a missing value.

    Measurements are taken to be independent. Those of two schemes on the same items are not, and differ by less than
    that: the probabilities err towards *inconclusive*.

    See `draws_from_intervals` for arguments and errors, `non_dominated` for `maximise`, and `affordable_draws`, which
    may reduce the draws.
    """
    points, low, high = _same_shape(values, lows, highs)
    on_frontier = non_dominated(points, maximise)
    complete: Bools = np.asarray(~np.isnan(points).any(axis=1))
    shares: Floats | None = None
    if (~np.isnan(low[complete]) & ~np.isnan(high[complete])).any():
        made = draws_from_intervals(points, low, high, affordable_draws(points.shape, draws), seed)
        shares = share_non_dominated(made, maximise)
    verdicts: list[DominanceVerdict | None] = []
    for index, best in enumerate(on_frontier.tolist()):
        probability = None if shares is None else float(shares[index])
        # Without any interval the point values decide: 1 if not dominated, otherwise 0.
        likely = float(best) if probability is None else probability
        state = FrontierState.INCONCLUSIVE
        if likely >= CONFIDENCE:
            state = FrontierState.ON_FRONTIER
        elif likely <= 1 - CONFIDENCE:
            state = FrontierState.DOMINATED
        verdicts.append(DominanceVerdict(best, probability, state) if complete[index] else None)
    return verdicts


def draws_from_intervals(values: ArrayLike, lows: ArrayLike, highs: ArrayLike, draws: int, seed: int = 0) -> Floats:
    """Redraw measurements from their 95 % intervals: ``(draws, n, d)``.

    Each half of a distribution is half a normal distribution, as wide as that side of the interval: its median is the
    value, and 2.5 % are below and above the ends. For a symmetric interval it is the normal distribution.

    Args:
        values: Variants by objectives, ``(n, d)``.
        lows: Lower ends, ``(n, d)``; if an end is NaN, the value does not vary. An end on the wrong side of the value
            counts as equal to it.
        highs: Upper ends, likewise.
        draws: Number of draws.
        seed: Seed of the random numbers.

    Raises:
        ValueError: The shapes do not match.
    """
    points, low, high = _same_shape(values, lows, highs)
    known = ~np.isnan(low) & ~np.isnan(high)
    below = np.where(known, np.maximum(points - low, 0), 0) / _Z95
    above = np.where(known, np.maximum(high - points, 0), 0) / _Z95
    normal = np.random.default_rng(seed).standard_normal((draws, *points.shape))
    made: Floats = points + normal * np.where(normal < 0, below, above)
    return made


def share_non_dominated(draws: ArrayLike, maximise: Sequence[bool]) -> Floats:
    """Compute the share of draws in which each variant is not dominated: ``(n,)``, NaN if it lacks a value in any draw.

    Args:
        draws: ``(draws, n, d)``, at least one draw, from `draws_from_intervals` or a bootstrap.
        maximise: For each objective, whether more is better.

    Raises:
        ValueError: The shapes do not match.
    """
    made = np.asarray(draws, dtype=np.float64)
    if made.ndim != 3 or not len(made) or made.shape[2] != len(maximise):
        raise ValueError(f"draws must be (draws, n, d) with at least one draw, got {made.shape}")
    complete = ~np.isnan(made).any(axis=(0, 2))
    points = made[:, complete]
    count, n, d = points.shape
    result = np.full(made.shape[1], np.nan)
    if n > _PAIRWISE_POINTS:
        result[complete] = np.mean([non_dominated(draw, maximise) for draw in points], axis=0)
        return result
    columns = np.ascontiguousarray(np.moveaxis(points * np.where(maximise, -1.0, 1.0), 2, 0))
    dominated = np.zeros(n, dtype=np.int64)
    step = max(1, _PAIRWISE_SIZE // max(n * n, 1))
    for start in range(0, count, step):
        part = columns[:, start : start + step]
        no_worse = part[0][:, :, None] <= part[0][:, None, :]
        for k in range(1, d):
            no_worse &= part[k][:, :, None] <= part[k][:, None, :]
        dominated += (no_worse & ~no_worse.transpose(0, 2, 1)).any(axis=1).sum(axis=0)
    result[complete] = (count - dominated) / count
    return result


def affordable_draws(shape: tuple[int, ...], draws: int = DRAWS) -> int:
    """Number of the requested draws of ``(n, d)`` values that fit into `WORK_BUDGET`; at least `MIN_DRAWS` of them."""
    work = max(shape[0] * math.prod(shape), 1)
    return min(draws, max(MIN_DRAWS, int(WORK_BUDGET / work)))


def _same_shape(values: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Values and the ends of their intervals as arrays of one shape."""
    points, low, high = (np.asarray(part, dtype=np.float64) for part in (values, lows, highs))
    if points.ndim != 2 or not points.shape == low.shape == high.shape:
        raise ValueError(f"values and interval ends must all be (n, d), got {points.shape}, {low.shape}, {high.shape}")
    return points, low, high
