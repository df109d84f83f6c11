"""Two runs on the same items: their difference and its interval, changed answers, and how many items a test needs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slim_eval.stats.intervals import Interval

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """Run a, the baseline, compared with run b, item by item.

    Attributes:
        num_items: Items that both runs answered.
        difference: Mean of a - b, in the unit of the scores; if above 0, b is worse.
        interval: Of the true difference; None if the spread of the items is unknown.
        stderr: Standard error of the difference; None if the spread of the items is unknown.
        lost: Items right in a and wrong in b; None for scores other than right and wrong.
        gained: Items wrong in a and right in b; None for scores other than right and wrong.
        flips: Share of items whose correctness changed (Dutta et al., arXiv 2407.09141); None for scores other than
            right and wrong.
        p_value: For the hypothesis of no difference; None if the spread of the items is unknown.
        num_clusters: Clusters of items; the number of items if none were given.
    """

    num_items: int
    difference: float
    interval: Interval | None
    stderr: float | None
    lost: int | None
    gained: int | None
    flips: float | None
    p_value: float | None
    num_clusters: int


def paired_difference(
    a: Sequence[float] | npt.NDArray[np.generic],
    b: Sequence[float] | npt.NDArray[np.generic],
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare two runs on the same items in the same order (Miller, arXiv 2411.00640, on paired differences).

    Right and wrong answers: the adjusted Wald interval of Bonett and Price, and McNemar's exact test, which takes items
    as independent. Other scores: the t interval and t test of the differences. With clusters, the standard error is the
    clustered one if that is larger, and the quantiles are those of t with as many degrees of freedom as there are
    clusters, less one.

    Args:
        a: Score of each item in the baseline; 0 and 1, or booleans, are wrong and right.
        b: Score of the same items in the other run.
        clusters: Cluster of each item, such as the subject of a question: items of one cluster are not independent.
            With a single cluster its effect is unknown: no interval.
        confidence: Share of such intervals that contain the truth.

    Raises:
        ValueError: The lengths differ, there are no items, a score is NaN or infinite, or `confidence` is out of range.
    """
    first, second = _scores(a), _scores(b)
    if first.size != second.size or (clusters is not None and len(clusters) != first.size):
        raise ValueError("a, b and clusters must have one entry per item")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    codes = np.arange(first.size) if clusters is None else _codes(clusters)
    spread = _spread(first - second, codes)
    n, difference = first.size, float((first - second).mean())
    interval, p_value, lost, gained = None, None, None, None
    if all(bool(((scores == 0) | (scores == 1)).all()) for scores in (first, second)):
        lost, gained = int(np.sum(first > second)), int(np.sum(second > first))
        difference, p_value = (lost - gained) / n, mcnemar_p_value(lost, gained)
        if spread.design_effect is not None:
            quantile = _quantile(confidence, None if spread.num_clusters == n else spread.df)
            interval = _bonett_price(lost, gained, n, spread.design_effect, quantile)
    elif spread.stderr is not None:
        wing = _quantile(confidence, spread.df) * spread.stderr
        interval = Interval(difference - wing, difference + wing)
        p_value = _t_test(difference, spread.stderr, spread.df)
    return PairedDifference(
        num_items=n,
        difference=difference,
        interval=interval,
        stderr=spread.stderr,
        lost=lost,
        gained=gained,
        flips=None if lost is None or gained is None else (lost + gained) / n,
        p_value=p_value,
        num_clusters=spread.num_clusters,
    )


def mcnemar_p_value(lost: int, gained: int) -> float:
    """P-value of no difference between two runs, from the items whose correctness changed.

    Exact and two-sided: given the flips, losses are binomial with probability one half (McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages", Psychometrika 12, 153-157).

    Args:
        lost: Items right in the first run only.
        gained: Items right in the second run only.

    Returns:
        1.0 if no item changed.

    Raises:
        ValueError: A count is negative.
    """
    from scipy.stats import binomtest

    if lost < 0 or gained < 0:
        raise ValueError(f"counts must not be negative, got {lost} and {gained}")
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def clustered_stderr(values: Sequence[float] | npt.NDArray[np.generic], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of a mean of items that are not independent within clusters.

    ``sqrt(Σ_c (Σ_i∈c (x_i - mean))²) / n`` (Miller, arXiv 2411.00640, on clustered standard errors; Liang and Zeger
    1986, "Longitudinal data analysis using generalized linear models"), without a correction for few clusters: if
    each item is its own cluster, it is ``sqrt((n - 1) / n)`` times the usual ``s / sqrt(n)``.

    Args:
        values: One number per item.
        clusters: Cluster of each item.

    Returns:
        In the unit of the values; None below 2 clusters.

    Raises:
        ValueError: The lengths differ, there are no items, or a value is NaN or infinite.
    """
    scores = _scores(values)
    if len(clusters) != scores.size:
        raise ValueError("values and clusters must have one entry per item")
    codes = _codes(clusters)
    return _clustered(scores, codes) if codes.max() else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number, in their order.

    Calling those below alpha significant keeps the chance of any false alarm among all at alpha (Holm 1979, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 65-70).

    Args:
        p_values: For all comparisons that are shown together. None stays None and does not count.

    Raises:
        ValueError: A p-value is not from 0 to 1.
    """
    from statsmodels.stats.multitest import multipletests

    present = [value for value in p_values if value is not None]
    if not all(0 <= value <= 1 for value in present):
        raise ValueError("p-values must be from 0 to 1")
    if not present:
        return [None for _ in p_values]
    adjusted = iter(multipletests(present, method="holm")[1])
    return [None if value is None else float(next(adjusted)) for value in p_values]


def answer_kl(p: Sequence[Sequence[float]], q: Sequence[Sequence[float]]) -> float | None:
    """Mean Kullback-Leibler divergence of the answers' distribution in run q from that in run p, in nats per item.

    It detects changes that accuracy does not show (Dutta et al., arXiv 2407.09141). The distribution of an item is the
    softmax of the log-likelihoods of its choices.

    Args:
        p: Log-likelihood of each choice of each item in the baseline, in nats.
        q: The same in the other run, items and choices in the same order.

    Returns:
        None without items whose choices are all finite; other items are left out.

    Raises:
        ValueError: The runs differ in their number of items, or in the number of choices of an item.
    """
    from scipy.special import log_softmax

    sizes = np.array([len(row) for row in p], dtype=np.int64)
    if not np.array_equal(sizes, [len(row) for row in q]):
        raise ValueError("both runs must have the same items, with the same choices")
    divergences = []
    for size in np.unique(sizes[sizes > 0]):  # items of as many choices at once
        rows = np.flatnonzero(sizes == size)
        base, other = (np.array([run[row] for row in rows], dtype=np.float64) for run in (p, q))
        known = np.isfinite(base).all(axis=1) & np.isfinite(other).all(axis=1)
        log_p, log_q = log_softmax(base[known], axis=1), log_softmax(other[known], axis=1)
        # Not rel_entr of probabilities: one that underflows to 0 would make the divergence infinite.
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    found = np.concatenate(divergences) if divergences else np.empty(0)
    return max(0.0, float(found.mean())) if found.size else None


@dataclass(frozen=True)
class _Spread:
    """Spread of a mean.

    Attributes:
        stderr: Standard error; None if unknown.
        design_effect: Factor by which clusters multiply the variance of the mean, at least 1; None if unknown.
        num_clusters: Independent units.
        df: Degrees of freedom of the standard error.
    """

    stderr: float | None
    design_effect: float | None
    num_clusters: int
    df: int


def _spread(values: FloatArray, codes: npt.NDArray[np.intp]) -> _Spread:
    """The usual standard error, or the clustered one with the factor ``G / (G - 1)`` for G clusters if that is larger.

    A clustered error below the usual one would mean that items of a cluster differ more than items in general: that is
    noise of few clusters, and would be too optimistic.
    """
    n, groups = values.size, int(codes.max()) + 1
    if groups < 2:
        return _Spread(None, 1.0 if n == 1 else None, groups, 0)
    simple = float(values.std(ddof=1)) / math.sqrt(n)
    clustered = simple if groups == n else _clustered(values, codes) * math.sqrt(groups / (groups - 1))
    stderr = max(simple, clustered)
    return _Spread(stderr, (stderr / simple) ** 2 if simple else 1.0, groups, groups - 1)


def _bonett_price(lost: int, gained: int, n: int, design_effect: float, quantile: float) -> Interval:
    """The adjusted Wald interval, on the effective sample size: all counts over the design effect.

    One item is added to each kind of flip, so that few items without flips do not appear certain (Bonett and Price
    2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
    Educational and Behavioral Statistics 37, 479-488). Effective sample size: Kish 1965, "Survey Sampling".
    """
    total = n / design_effect + 2
    losses, gains = (lost / design_effect + 1) / total, (gained / design_effect + 1) / total
    wing = quantile * math.sqrt((losses + gains - (losses - gains) ** 2) / total)
    return Interval(max(-1.0, losses - gains - wing), min(1.0, losses - gains + wing))


def _t_test(difference: float, stderr: float, df: int) -> float:
    from scipy.special import stdtr

    if stderr == 0:
        return 0.0 if difference else 1.0
    return float(2 * stdtr(df, -abs(difference) / stderr))


def _quantile(confidence: float, df: int | None) -> float:
    """Half-width in standard errors: of t, or of the normal distribution if `df` is None."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(ndtri(upper) if df is None else stdtrit(df, upper))


def _scores(values: Sequence[float] | npt.NDArray[np.generic]) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError("scores must be one number per item, of at least one item")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    return scores


def _codes(clusters: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    """Clusters numbered from 0 in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _clustered(values: FloatArray, codes: npt.NDArray[np.intp]) -> float:
    totals = np.bincount(codes, weights=values - values.mean())
    return math.sqrt(float(np.sum(totals**2))) / values.size


def minimum_detectable_drop(
    num_items: int, *, flip_rate: float = 0.10, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true drop that a paired comparison detects with this power; the inverse of `items_needed`.

    With 100 items of which 10 % flip it is 0.09; with four times as many, half of that.

    Args:
        num_items: Items that both runs answer.
        flip_rate: Share of items whose correctness differs between the runs. For larger drops, the drop: accuracy
            does not fall without flips.
        power: Share of experiments that detect such a drop, at least 0.5.
        alpha: Level of the two-sided test.

    Returns:
        A share from 0 to 1; 1 if the items are too few for any drop.

    Raises:
        ValueError: An argument is out of its range.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    _check_plan(flip_rate, power, alpha)
    if num_items < 1:
        raise ValueError(f"num_items must be at least 1, got {num_items}")
    always_missed = float(ndtri(1 - alpha / 2)) ** 2 / num_items
    if always_missed >= 1:
        return 1.0
    # Half of it, because a power of 0.5 puts the root on this bound.
    lower = always_missed / 2
    return float(brentq(lambda drop: _items_for(drop, flip_rate, power, alpha) - num_items, lower, 1.0, xtol=1e-12))


def items_needed(effect: float, *, flip_rate: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items with which a paired comparison detects a drop of `effect` with this power, rounded up.

    Args:
        effect: The true drop, as a share: 0.01 is one percentage point.
        flip_rate: As in `minimum_detectable_drop`.
        power: As in `minimum_detectable_drop`.
        alpha: Level of the two-sided test.

    Raises:
        ValueError: The effect is not above 0 and at most 1, or another argument is out of its range.
    """
    _check_plan(flip_rate, power, alpha)
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be above 0 and at most 1, got {effect}")
    return math.ceil(round(_items_for(effect, flip_rate, power, alpha), 6))


def _items_for(drop: float, flip_rate: float, power: float, alpha: float) -> float:
    """``(z_alpha sqrt(f) + z_power sqrt(f - d²))² / d²`` for a drop d and a share f of items that flip.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43,
    207-211.
    """
    from scipy.special import ndtri

    flips = max(flip_rate, drop)
    root = ndtri(1 - alpha / 2) * math.sqrt(flips) + ndtri(power) * math.sqrt(flips - drop**2)
    return float(root / drop) ** 2


def _check_plan(flip_rate: float, power: float, alpha: float) -> None:
    if not 0 <= flip_rate <= 1:
        raise ValueError(f"flip_rate must be from 0 to 1, got {flip_rate}")
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be from 0.5 to below 1, got {power}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
