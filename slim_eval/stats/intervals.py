"""How sure a number is: bootstrap intervals of times and their ratios, intervals of proportions, drift.

The unit of independence is the iteration: requests of one batch share their fate, so iterations are resampled as
wholes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Statistic = Literal["mean", "median", "p95"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_QUANTILES: dict[Statistic, float] = {"median": 0.5, "p95": 0.95}
# Draws held at once: few enough for a processor's cache. Larger blocks are slower, and all at once need memory.
_BLOCK = 2**16
_MOST_PAIRED = 512


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of what it is about.

    Attributes:
        low: Lower end.
        high: Upper end, at least `low`.
    """

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends: the ± of a symmetric interval."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap_interval(
    clusters: npt.ArrayLike | Sequence[Sequence[float]],
    statistic: Statistic = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Interval of a statistic over all requests, where only iterations are independent of each other.

    The mean: iterations are resampled as wholes, and the interval is BCa (Efron 1987, "Better bootstrap confidence
    intervals", JASA 82, 171-185) with the levels that Hesterberg (2015, "What teachers should know about the
    bootstrap", The American Statistician 69, 371-386, "expanded percentile") gives small samples: instead of the normal
    quantile, ``sqrt(n / (n - 1))`` times that of t with n - 1 degrees of freedom, for n iterations.

    Median and p95: what resampling would approximate is known here. The share of requests below the true quantile is
    binomial, its interval is Jeffreys' (Brown, Cai and DasGupta 2001, "Interval estimation for a binomial proportion")
    on the effective number of requests (Korn and Graubard 1998, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data"), and the requests at its ends bound the quantile
    (Woodruff 1952, "Confidence intervals for medians and other position measures"). Percentiles of resamples miss a
    p95 of 100 iterations in more than one case of ten.

    Args:
        clusters: Requests by iteration, a row each, or one sequence an iteration, of unequal length where need be. In
            one dimension, each value is its own iteration.
        statistic: Of all requests together.
        confidence: Share of such intervals that contain the truth.
        resamples: Bootstrap samples, for the mean.
        seed: The same seed gives the same interval.

    Returns:
        None where no interval of finite ends has this confidence: below 2 iterations for a mean, 6 for a median and 72
        for a p95 (at 95 %: with fewer, even the largest value is below the true p95 too often).

    Raises:
        ValueError: A value is missing, NaN or infinite, an iteration is empty, or an option is out of range.
    """
    sample = _Sample.of(clusters)
    _check(confidence, resamples)
    if not sample.supports(statistic, confidence):
        return None
    if sample.is_constant:
        return Interval(float(sample.values[0]), float(sample.values[0]))
    if statistic != "mean":
        return _quantile_interval(sample, _QUANTILES[statistic], confidence)
    replicates = _mean_replicates(sample, resamples, np.random.default_rng(seed))
    wings = _bca(_wings(len(sample.sizes), confidence), sample.mean, replicates, [sample.jackknife_means()])
    return _between(replicates, wings)


def bootstrap_ratio(
    above: npt.ArrayLike | Sequence[Sequence[float]],
    below: npt.ArrayLike | Sequence[Sequence[float]],
    statistic: Statistic = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Interval of ``statistic(above) / statistic(below)``, two runs that are independent of each other.

    Means: each run is resampled by itself; BCa with the acceleration of two samples (Davison and Hinkley 1997,
    "Bootstrap Methods and their Application", section 5.3.2) and the expansion of the shorter run, which is on the safe
    side. Median and p95: percentiles of the ratio, each quantile drawn from the distribution behind its interval in
    `bootstrap_interval`. For a p95 of about 100 iterations a run, all independent, they are too wide: simulated, 97.5 %
    of them contain the truth, not 95.

    Args:
        above: Requests by iteration of the run in the numerator, as in `bootstrap_interval`.
        below: Requests by iteration of the run in the denominator.
        statistic: Of all requests of a run together.
        confidence: Share of such intervals that contain the truth.
        resamples: Bootstrap samples.
        seed: The same seed gives the same interval.

    Returns:
        None where either run is too short for the statistic, or the denominator is not above 0 in every resample.

    Raises:
        ValueError: As `bootstrap_interval`.
    """
    top, bottom = _Sample.of(above), _Sample.of(below)
    _check(confidence, resamples)
    if not (top.supports(statistic, confidence) and bottom.supports(statistic, confidence)):
        return None
    rng = np.random.default_rng(seed)
    if statistic == "mean":
        tops, bottoms = (_mean_replicates(sample, resamples, rng) for sample in (top, bottom))
    else:
        q = _QUANTILES[statistic]
        tops, bottoms = (_quantile_replicates(sample, q, confidence, resamples, rng) for sample in (top, bottom))
    if bottoms.min() <= 0:
        return None
    if top.is_constant and bottom.is_constant:
        ratio = float(top.values[0] / bottom.values[0])
        return Interval(ratio, ratio)
    if statistic != "mean":
        return _between(tops / bottoms, _wings(None, confidence))
    jackknives = [top.jackknife_means() / bottom.mean, top.mean / bottom.jackknife_means()]
    wings = _wings(min(len(top.sizes), len(bottom.sizes)), confidence)
    return _between(tops / bottoms, _bca(wings, top.mean / bottom.mean, tops / bottoms, jackknives))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion by Wilson's score method (1927, "Probable inference", JASA 22, 209-212).

    Args:
        successes: Items that were right, from 0 to `n`.
        n: Items.
        confidence: Share of such intervals that contain the truth.

    Raises:
        ValueError: There are no items, or more successes than items.
    """
    from scipy.stats import binomtest

    if n < 1:
        raise ValueError("a proportion needs at least one item")
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def drift_p_value(values: Sequence[float]) -> float | None:
    """P-value of a trend in time: small where a series rises or falls throughout.

    Two-sided test of Kendall's rank correlation with the order (Mann 1945, "Nonparametric tests against trend",
    Econometrica 13, 245-259).

    Args:
        values: One number an iteration, in the order of time.

    Returns:
        1.0 where all values are equal; None below 5 values, where no order at all could be significant at 5 %.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    from scipy.stats import kendalltau

    series = np.asarray(values, dtype=np.float64)
    if not np.isfinite(series).all():
        raise ValueError("values must be finite")
    if len(series) < 5:
        return None
    if np.ptp(series) == 0:
        return 1.0
    return float(kendalltau(np.arange(len(series)), series).pvalue)


@dataclass(frozen=True)
class _Sample:
    """Requests in the order of their iterations, and how many each iteration has."""

    values: FloatArray
    sizes: IntArray

    @classmethod
    def of(cls, clusters: Any) -> _Sample:
        rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in clusters]
        if any(row.ndim != 1 or not row.size for row in rows):
            raise ValueError("an iteration must be one number or a sequence of numbers that is not empty")
        values = np.concatenate(rows) if rows else np.empty(0)
        if not np.isfinite(values).all():
            raise ValueError("values must be finite")
        return cls(values, np.array([row.size for row in rows], dtype=np.int64))

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def is_constant(self) -> bool:
        return bool(np.ptp(self.values) == 0)

    def sums(self, values: FloatArray) -> FloatArray:
        """Sums by iteration of one number a request."""
        return np.asarray(np.add.reduceat(values, np.cumsum(self.sizes) - self.sizes), dtype=np.float64)

    def supports(self, statistic: Statistic, confidence: float) -> bool:
        """Whether the sample holds the quantile between its ends at this confidence; for a mean, whether it varies."""
        if statistic == "mean":
            return len(self.sizes) > 1
        return bool(_QUANTILES[statistic] ** len(self.sizes) <= (1 - confidence) / 2)

    def jackknife_means(self) -> FloatArray:
        """The mean without each iteration in turn."""
        return np.asarray((self.values.sum() - self.sums(self.values)) / (self.values.size - self.sizes))

    def design_effect(self, q: float) -> float:
        """By how much dependence within iterations multiplies the variance of the share below the `q` quantile.

        At least 1: less would be chance.
        """
        n, size = len(self.sizes), self.values.size
        below = (self.values <= np.quantile(self.values, q)).astype(np.float64)
        share = float(below.mean())
        if n == size or share == 1:
            return 1.0
        between = float(np.sum(self.sums(below - share) ** 2)) * n / (n - 1)
        return max(1.0, between / (size * share * (1 - share)) * (size - 1) / size)


def _check(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")


def _mean_replicates(sample: _Sample, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means of resamples: the mean of all plus the sum of what each iteration adds to it.

    What it adds is small, so single precision holds it to a millionth of the standard error, in half of the time.
    """
    mean = sample.mean
    excess = sample.sums(sample.values - mean)
    scale = float(np.abs(excess).max()) or 1.0
    table = (excess / scale).astype(np.float32)[None]
    equal = bool(np.ptp(sample.sizes) == 0)
    if not equal:
        table = np.concatenate([table, sample.sizes.astype(np.float32)[None]])
    sums = _resampled_sums(table, resamples, rng)
    return np.asarray(mean + scale * sums[0] / (sample.values.size if equal else sums[1]))


def _resampled_sums(table: npt.NDArray[np.float32], resamples: int, rng: np.random.Generator) -> FloatArray:
    """Sums over n columns drawn with replacement from a table of n, for each of its rows and each resample.

    Two columns are drawn at once from the table of all pairs, as long as that fits a processor's cache: half the work.
    """
    n = table.shape[1]
    pairs = (table[:, :, None] + table[:, None, :]).reshape(len(table), -1) if n <= _MOST_PAIRED else None
    found = np.empty((len(table), resamples))
    step = max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        if pairs is None:
            sums = table.take(_below(n, (rows, n), rng), axis=1).sum(axis=2)
        else:
            sums = pairs.take(_below(n * n, (rows, n // 2), rng), axis=1).sum(axis=2)
            if n % 2:
                sums += table.take(_below(n, (rows, 1), rng), axis=1)[:, :, 0]
        found[:, start : start + rows] = sums
    return found


def _below(n: int, shape: tuple[int, int], rng: np.random.Generator) -> IntArray:
    """Random whole numbers below n.

    32 random bits scaled to n: twice as fast as `rng.integers`, and uneven by no more than n in four billion.
    """
    count = shape[0] * shape[1]
    numbers = rng.bit_generator.random_raw((count + 1) // 2).view(np.uint32)[:count].astype(np.int64)
    numbers *= n
    numbers >>= 32
    return numbers.reshape(shape)


def _quantile_interval(sample: _Sample, q: float, confidence: float) -> Interval:
    from scipy.special import betaincinv

    right, wrong, weight = _quantile_beta(sample, q, confidence)
    levels = betaincinv(right, wrong, [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = _at_levels(sample, levels, weight)
    return Interval(float(low), float(high))


def _quantile_replicates(
    sample: _Sample, q: float, confidence: float, resamples: int, rng: np.random.Generator
) -> FloatArray:
    right, wrong, weight = _quantile_beta(sample, q, confidence)
    return _at_levels(sample, rng.beta(right, wrong, resamples), weight)


def _quantile_beta(sample: _Sample, q: float, confidence: float) -> tuple[float, float, float]:
    """The two parameters of Jeffreys' beta distribution of a quantile's level, and the requests that weigh as one.

    Few requests of a tail tell how they depend on each other, and fewest where a run misses the tail, so the design
    effect is that of one and a half times the tail. Being an estimate, it costs Korn and Graubard's factor of t.
    """
    from scipy.special import ndtri, stdtrit

    n, size = len(sample.sizes), sample.values.size
    weight = sample.design_effect(max(0.5, q - (1 - q) / 2))
    effective = size / weight
    if size > n:
        upper = (1 + confidence) / 2
        effective *= float(ndtri(upper) / stdtrit(n - 1, upper)) ** 2
    return q * effective + 0.5, (1 - q) * effective + 0.5, weight


def _at_levels(sample: _Sample, levels: FloatArray, weight: float) -> FloatArray:
    """Values at levels from 0 to 1, linear between the expected levels of ranks, `weight` requests to a rank."""
    ranks = levels * (sample.values.size + weight) - (weight + 1) / 2
    return np.interp(ranks, np.arange(sample.values.size), np.sort(sample.values))


def _wings(n: int | None, confidence: float) -> FloatArray:
    """The normal quantiles between which an interval lies: Hesterberg's expanded ones for n iterations."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    wing = float(ndtri(upper) if n is None else np.sqrt(n / (n - 1)) * stdtrit(n - 1, upper))
    return np.array([-wing, wing])


def _bca(wings: FloatArray, estimate: float, replicates: FloatArray, jackknives: list[FloatArray]) -> FloatArray:
    """Quantiles corrected for bias and skewness; `jackknives` holds the statistic without each iteration, by sample."""
    from scipy.special import ndtri

    share = np.mean(replicates < estimate) + np.mean(replicates == estimate) / 2
    edge = 0.5 / len(replicates)
    bias = ndtri(np.clip(share, edge, 1 - edge))
    skew, spread = 0.0, 0.0
    for jackknife in jackknives:
        n = len(jackknife)
        influence = (n - 1) * (jackknife.mean() - jackknife)
        skew += float(np.sum(influence**3)) / n**3
        spread += float(np.sum(influence**2)) / n**2
    acceleration = skew / (6 * spread**1.5) if spread > 0 else 0.0
    # Beyond the pole of the formula the level is that of its limit, 0 or 1.
    return np.asarray(bias + (bias + wings) / np.maximum(1 - acceleration * (bias + wings), 1e-12))


def _between(replicates: FloatArray, wings: FloatArray) -> Interval:
    """The replicates' quantiles at the levels of two normal quantiles."""
    from scipy.special import ndtr

    low, high = np.quantile(replicates, ndtr(wings))
    return Interval(float(low), float(high))
