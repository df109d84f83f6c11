"""Confidence intervals of times, of their ratios and of proportions.

The unit of independence is the iteration: requests of one batch influence each other, so iterations are resampled as
wholes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

_Row = TypeVar("_Row")
Statistic = Literal["mean", "median", "p95", "p99"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
#: Requests by iteration: one row or sequence per iteration, possibly of unequal lengths. In one dimension, each value
#: is its own iteration.
Clusters = npt.ArrayLike | Sequence[Sequence[float]]

_QUANTILES: dict[Statistic, float] = {"median": 0.5, "p95": 0.95, "p99": 0.99}
_BATCH = 2**17  # values drawn at once: few enough for a processor's cache; larger batches are slower
_ROUNDING = 1e-12  # relative
CONFIDENCE = 0.95  # of all intervals, unless a call gives another one


@dataclass(frozen=True)
class Interval:
    """A confidence interval from `low` to `high`, in the unit of the estimate."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends: the ± of a symmetric interval."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap_interval(
    clusters: Clusters,
    statistic: Statistic = "mean",
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Interval of a statistic over all requests, if only iterations are independent of each other.

    `confidence` is the share of such intervals that contain the true value.

    The mean: `resamples` samples of iterations as wholes; the interval is BCa (Efron 1987, "Better bootstrap confidence
    intervals", JASA 82, 171-185) at an expanded level. The same seed gives the same interval.

    Median and p95: the distribution that resampling would approximate is known. The share of requests below the true
    quantile is binomial, its interval is Jeffreys' (Brown, Cai and DasGupta 2001, "Interval estimation for a binomial
    proportion") on the effective number of requests (Korn and Graubard 1998, "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data"), and the requests at its ends bound the
    quantile (Woodruff 1952, "Confidence intervals for medians and other position measures"). Percentiles of resamples
    miss a p95 of 100 iterations in more than one case of ten.

    None if no finite interval has this confidence: below 2 iterations for a mean, 6 for a median, 72 for a p95 and 368
    for a p99 (at 95 %: with fewer, even the largest value is below the true p95 too often). A `ValueError` is raised if
    a value is missing, NaN or infinite, an iteration is empty, `confidence` is not between 0 and 1, or `resamples` is
    below 1.
    """
    from scipy.special import betaincinv

    samples = _samples([clusters], statistic, confidence, resamples)
    if not samples:
        return None
    sample = samples[0]
    if sample.is_constant:
        return Interval(float(sample.values[0]), float(sample.values[0]))
    if statistic == "mean":
        return _bca(samples, sample.means, confidence, resamples, seed)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = _quantiles(sample, _QUANTILES[statistic], confidence, lambda a, b: betaincinv(a, b, ends))
    return Interval(float(low), float(high))


def bootstrap_ratio(
    above: Clusters, below: Clusters, statistic: Statistic = "mean", *, resamples: int = 10_000, seed: int = 0
) -> Interval | None:
    """95 % interval of ``statistic(above) / statistic(below)`` of two runs that are independent of each other.

    Means: each run is resampled by itself; BCa with the acceleration of two samples (Davison and Hinkley 1997,
    "Bootstrap Methods and their Application", section 5.3.2) and the expansion of the shorter run, which is
    conservative. Median and p95: percentiles of the ratio, each quantile drawn from the distribution behind its
    interval in `bootstrap_interval`. For a p95 of about 100 independent iterations per run, they are too wide:
    simulated, 97.5 % of them contain the true value, not 95 %. None if either run is too short for the statistic, or
    the denominator is not above 0 in every resample. Errors are those of `bootstrap_interval`.
    """
    samples = _samples([above, below], statistic, CONFIDENCE, resamples)
    if not samples:
        return None
    top, bottom = samples
    if top.is_constant and bottom.is_constant:
        return None if bottom.values[0] <= 0 else Interval(*[float(top.values[0] / bottom.values[0])] * 2)
    if statistic == "mean":

        def ratio(i: IntArray, j: IntArray, axis: int = 0) -> FloatArray:
            denominator = bottom.means(j, axis)
            return np.asarray(top.means(i, axis) / np.where(denominator > 0, denominator, np.nan))

        return _bca(samples, ratio, CONFIDENCE, resamples, seed)
    rng, q = np.random.default_rng(seed), _QUANTILES[statistic]
    tops, bottoms = (_quantiles(each, q, CONFIDENCE, lambda a, b: rng.beta(a, b, resamples)) for each in samples)
    if bottoms.min() <= 0:
        return None
    low, high = np.quantile(tops / bottoms, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def batches(rows: Sequence[_Row]) -> list[Sequence[_Row]]:
    """Consecutive rows of one run in about √n batches of √n, to stand for iterations that a run did not have.

    Requests that a server works on at the same time influence each other, those of distant batches hardly do (batch
    means; Flegal and Jones 2010, "Batch means and spectral variance estimators in Markov chain Monte Carlo", Annals of
    Statistics 38, 1034-1070).
    """
    count = math.isqrt(len(rows))
    ends = [len(rows) * index // count for index in range(count + 1)] if count else []
    return [rows[low:high] for low, high in pairwise(ends)]


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % interval of a proportion by Wilson's score method (1927, "Probable inference", JASA 22, 209-212).

    A `ValueError` is raised if there are no items, or `successes` is not from 0 to `n`.
    """
    from scipy.stats import binomtest

    if n < 1:
        raise ValueError("a proportion needs at least one item")
    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class _Iterations:
    """Requests in the order of their iterations, and the number of requests, and their sum, per iteration."""

    values: FloatArray
    sizes: IntArray
    sums: FloatArray

    @property
    def is_constant(self) -> bool:
        # Differences of one clock are equal up to rounding, which the jackknife of BCa would divide by.
        return bool(np.ptp(self.values) <= _ROUNDING * np.abs(self.values).max())

    def means(self, iterations: IntArray, axis: int = 0) -> FloatArray:
        """Means over the requests of some iterations, given by their numbers, along an axis."""
        return np.asarray(self.sums.take(iterations).sum(axis) / self.sizes.take(iterations).sum(axis))


def _samples(runs: Sequence[Any], statistic: Statistic, confidence: float, resamples: int) -> list[_Iterations]:
    """The runs; an empty list if one is too short: its quantile may be outside of it, or its mean cannot vary."""
    samples = []
    for clusters in runs:
        rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in clusters]
        if any(row.ndim != 1 or not row.size for row in rows):
            raise ValueError("an iteration must be one number or a sequence of numbers that is not empty")
        values = np.concatenate(rows) if rows else np.empty(0)
        if not np.isfinite(values).all():
            raise ValueError("values must be finite")
        sizes = np.array([row.size for row in rows], dtype=np.int64)
        samples.append(_Iterations(values, sizes, np.array([row.sum() for row in rows])))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    shortest = min(len(sample.sizes) for sample in samples)
    if statistic == "mean":
        return samples if shortest > 1 else []
    return samples if _QUANTILES[statistic] ** shortest <= (1 - confidence) / 2 else []


def _bca(
    samples: Sequence[_Iterations], statistic: Callable[..., FloatArray], confidence: float, resamples: int, seed: int
) -> Interval | None:
    """SciPy's BCa interval of a statistic of iterations' numbers, one array per sample; None if it is not finite.

    The level is expanded so that intervals of few iterations have the given one. Instead of the normal quantile,
    ``sqrt(n / (n - 1))`` times that of t with n - 1 degrees of freedom (Hesterberg 2015, "What teachers should know
    about the bootstrap", The American Statistician 69, 371-386, "expanded percentile").
    """
    from scipy.special import ndtr, stdtrit
    from scipy.stats import bootstrap

    counts = [len(sample.sizes) for sample in samples]
    n, batch = min(counts), max(1, _BATCH // max(counts))
    level = 1 - 2 * ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + confidence) / 2))
    level = min(float(level), 1 - 1e-12)  # BCa has no ends at a level of 1
    numbers = [np.arange(count) for count in counts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a statistic that is NaN in a resample gives ends that are NaN
        found = bootstrap(
            numbers, statistic, n_resamples=resamples, batch=batch, vectorized=True, confidence_level=level,
            method="BCa", rng=seed,
        )  # fmt: skip
    low, high = found.confidence_interval
    finite = np.isfinite(found.bootstrap_distribution).all() and np.isfinite([low, high]).all()
    return Interval(float(low), float(high)) if finite else None


def _quantiles(
    sample: _Iterations, q: float, confidence: float, levels: Callable[[float, float], FloatArray]
) -> FloatArray:
    """Values of the `q` quantile at the levels of Jeffreys' beta distribution, of which `levels` gets the parameters.

    Dependence within iterations multiplies the variance of the share below the quantile by the design effect, at least
    1: less would be chance. A tail has too few requests to estimate it, above all if a run misses the tail, so it is
    that of one and a half times the tail. Being an estimate, it costs Korn and Graubard's factor of t.
    """
    from scipy.special import ndtri, stdtrit

    n, size, design_effect = len(sample.sizes), sample.values.size, 1.0
    below = (sample.values <= np.quantile(sample.values, max(0.5, q - (1 - q) / 2))).astype(np.float64)
    share, upper = float(below.mean()), (1 + confidence) / 2
    if n < size and share < 1:
        excess = np.add.reduceat(below - share, np.cumsum(sample.sizes) - sample.sizes)
        between = float(np.sum(excess**2)) * n / (n - 1)
        design_effect = max(1.0, between / (size * share * (1 - share)) * (size - 1) / size)
    effective = size / design_effect
    if n < size:
        effective *= float(ndtri(upper) / stdtrit(n - 1, upper)) ** 2
    # Linear between the expected levels of ranks; as many requests as the design effect are one rank.
    found = levels(q * effective + 0.5, (1 - q) * effective + 0.5)
    ranks = found * (size + design_effect) - (design_effect + 1) / 2
    return np.interp(ranks, np.arange(size), np.sort(sample.values))
