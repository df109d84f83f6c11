"""The load at which one of two curves overtakes the other, with an interval.

Each curve is known at the same loads, each value with a 95 % interval that comes from resampling its requests. The
intervals are resampled: each draw gives both curves a fit that rises or falls (isotonic regression, if the metric does
so by its nature), linear between the loads, and the places where they cross. A crossover is claimed between two loads
only if the first curve is below the other at one of them and above it at the other, both with simultaneous confidence
over all loads (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from slim_eval.stats.intervals import CONFIDENCE, FloatArray, Interval

_DRAWS = 2_000


@dataclass(frozen=True)
class Curve:
    """A metric at some loads: positive values with their 95 % intervals."""

    values: Sequence[float]
    intervals: Sequence[Interval]


@dataclass(frozen=True)
class Crossing:
    """A load at which the curves cross."""

    load: float
    interval: Interval  # 95 %


@dataclass(frozen=True)
class Crossovers:
    """Where two curves cross between the lowest and the highest load.

    `signs` has one number per load: -1 if the first curve is below the second with confidence, 1 if above, else 0.
    """

    crossings: tuple[Crossing, ...]
    signs: tuple[int, ...]


def crossovers(
    loads: Sequence[float],
    a: Curve,
    b: Curve,
    *,
    trend: int = 0,
    power: float = 0.0,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Crossovers:
    """Where two curves cross.

    Args:
        loads: Rising, at least two, above 0.
        a: One curve.
        b: The other.
        trend: 1 if the metric rises with the load by its nature, -1 if it falls, 0 if neither.
        power: Values are compared as ``value x load**power``, which makes them straight between loads: times per token
            are (0), joules per token of constant power too (1), and load per throughput (-1) is as well.
        draws: Number of draws.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: The curves do not have one positive value per load, or there are fewer than two loads.
    """
    from scipy.special import ndtri

    x = np.asarray(loads, dtype=np.float64)
    if len(x) < 2 or (np.diff(x) <= 0).any() or x[0] <= 0:
        raise ValueError("loads must be at least two, above 0, and rise")
    if any(len(part) != len(x) for curve in (a, b) for part in (curve.values, curve.intervals)):
        raise ValueError("a curve must have one value and one interval per load")
    if any(not value > 0 or not math.isfinite(value) for curve in (a, b) for value in curve.values):
        raise ValueError("values must be finite and above 0")
    rng = np.random.default_rng(seed)
    points, sampled = [], []
    for curve in (a, b):
        values, low, high = _deviations(curve)
        normal = rng.standard_normal((draws, len(x)))
        logs = np.log(values) + np.where(normal < 0, normal * low, normal * high)
        weights = 1 / np.maximum((low + high) / 2, 1e-6) ** 2
        points.append(np.exp(_isotonic(np.log(values)[None, :], weights, trend))[0])
        sampled.append(np.exp(_isotonic(logs, weights, trend)))
    scale = x ** abs(power)

    def straight(values: FloatArray) -> FloatArray:
        return np.asarray(scale / values if power < 0 else scale * values)

    # Of the inverse, the order is turned round.
    turn = -1.0 if power < 0 else 1.0
    point = turn * (straight(points[0]) - straight(points[1]))
    drawn = turn * (straight(sampled[0]) - straight(sampled[1]))
    error = drawn.std(axis=0)
    critical = float(ndtri(1 - (1 - CONFIDENCE) / 2 / len(x)))
    signs = np.where(np.abs(point) > critical * error, np.sign(point), 0).astype(int)
    known = [index for index in range(len(x)) if signs[index]]
    found = []
    for i, j in pairwise(known):
        if signs[i] == signs[j]:
            continue
        part, sign = slice(i, j + 1), int(signs[i])
        places = _places(x[part], drawn[:, part], sign)
        low_end, high_end = np.quantile(places, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        found.append(
            Crossing(float(_places(x[part], point[None, part], sign)[0]), Interval(float(low_end), float(high_end)))
        )
    return Crossovers(tuple(found), tuple(int(sign) for sign in signs))


def _deviations(curve: Curve) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The values, and their standard deviations below and above, of the logarithm."""
    from scipy.special import ndtri

    z = float(ndtri((1 + CONFIDENCE) / 2))
    values = np.asarray(curve.values, dtype=np.float64)
    low = np.array([max(interval.low, 1e-3 * v) for interval, v in zip(curve.intervals, values, strict=True)])
    high = np.array([interval.high for interval in curve.intervals])
    below, above = np.log(values / np.minimum(low, values)) / z, np.log(np.maximum(high, values) / values) / z
    return values, below, above


def _isotonic(rows: FloatArray, weights: FloatArray, trend: int) -> FloatArray:
    """Each row's weighted least-squares fit that rises (trend 1) or falls (-1), by the min-max formula.

    Barlow, Bartholomew, Bremner and Brunk 1972, "Statistical Inference under Order Restrictions", theorem 1.4.
    """
    if not trend:
        return rows
    values = trend * rows
    count = values.shape[1]
    sums = np.cumsum(np.concatenate([np.zeros((len(values), 1)), values * weights], axis=1), axis=1)
    masses = np.concatenate([[0.0], np.cumsum(weights)])
    fitted = np.full_like(values, -np.inf)
    for first in range(count):
        # Means of first..last for every last; the least of those that reach at least to each place.
        means = (sums[:, first + 1 :] - sums[:, [first]]) / (masses[first + 1 :] - masses[first])
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fitted[:, first:] = np.maximum(fitted[:, first:], least)
    return np.asarray(trend * fitted)


def _places(x: FloatArray, differences: FloatArray, sign: int) -> FloatArray:
    """Where each row's difference leaves the sign that it has at first, linear between loads; the mean of several.

    An end of the range if it does not have that sign at the first load, or still has it at the last.
    """
    ahead = differences * sign > 0
    left, right = differences[:, :-1], differences[:, 1:]
    changes = ahead[:, :-1] != ahead[:, 1:]
    share = np.divide(left, left - right, out=np.zeros_like(left), where=changes)
    places = np.where(changes, x[:-1] + share * np.diff(x), 0.0)
    count = changes.sum(axis=1)
    end = np.where(ahead[:, 0], x[-1], x[0])
    return np.asarray(np.where(count > 0, places.sum(axis=1) / np.maximum(count, 1), end))
