"""Two runs on the same items: their difference and its interval, changed answers, and how many items a test needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slim_eval.stats.intervals import CONFIDENCE, FloatArray, Interval

_MOST_ITEMS = 10**9  # beyond it, more items do not help
_LEVELS = 256  # of the distribution of an estimated variance
Scores = Sequence[float] | npt.NDArray[np.generic]


@dataclass(frozen=True)
class PairedDifference:
    """Run a, the baseline, compared with run b, item by item."""

    num_items: int
    difference: float  # mean of a - b, in the unit of the scores; if above 0, b is worse
    interval: Interval | None  # 95 %; None if the spread of the items is unknown
    stderr: float | None  # of `difference`; None if the spread of the items is unknown
    lost: int | None  # right in a and wrong in b; None for graded scores
    gained: int | None  # wrong in a and right in b; None for graded scores
    flips: float | None  # share of items whose correctness changed (arXiv 2407.09141); None for graded scores
    p_value: float | None  # of no difference; None if the spread of the items is unknown
    num_clusters: int  # the number of items if no clusters were given


def paired_difference(a: Scores, b: Scores, clusters: Sequence[Hashable] | None = None) -> PairedDifference:
    """Compare two runs on the same items in the same order (Miller, arXiv 2411.00640, on paired differences).

    Scores that are all 0 and 1, or booleans, are wrong and right answers: the adjusted Wald interval of Bonett and
    Price, and McNemar's exact test, which takes items as independent. Other scores: the t interval and t test of the
    differences. Items of one of the `clusters`, such as the subject of a question, are not independent: the standard
    error is the clustered one if that is larger, and the quantiles are those of t with as many degrees of freedom as
    there are clusters, less one. With a single cluster its effect is unknown: no interval. Intervals are of 95 %.
    Raises `ValueError` if the lengths differ, there are no items, or a score is NaN or infinite.
    """
    from scipy.special import ndtri, stdtr, stdtrit

    first, second = _scores(a), _scores(b)
    if first.size != second.size or (clusters is not None and len(clusters) != first.size):
        raise ValueError("a, b and clusters must have one entry per item")
    codes = np.arange(first.size) if clusters is None else _codes(clusters)
    n, groups, upper = first.size, int(codes.max()) + 1, (1 + CONFIDENCE) / 2
    difference = float((first - second).mean())
    stderr, design_effect = None, 1.0 if n == 1 else None
    if groups > 1:
        stderr = simple = float((first - second).std(ddof=1)) / math.sqrt(n)
        if groups < n:
            # A clustered error below the usual one would mean that items of a cluster differ more than items in
            # general: that is noise of few clusters, and would be too optimistic.
            stderr = max(simple, _clustered(first - second, codes) * math.sqrt(groups / (groups - 1)))
        design_effect = (stderr / simple) ** 2 if simple else 1.0
    interval, p_value, lost, gained = None, None, None, None
    if all(bool(((scores == 0) | (scores == 1)).all()) for scores in (first, second)):
        lost, gained = int(np.sum(first > second)), int(np.sum(second > first))
        difference, p_value = (lost - gained) / n, mcnemar_p_value(lost, gained)
        if design_effect is not None:
            # The adjusted Wald interval: one item is added to each kind of flip, so that few items without flips do not
            # appear certain (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
            # proportions based on paired data", Journal of Educational and Behavioral Statistics 37, 479-488). On the
            # effective sample size, all counts over the design effect: Kish 1965, "Survey Sampling".
            quantile = float(ndtri(upper) if groups == n else stdtrit(groups - 1, upper))
            total = n / design_effect + 2
            losses, gains = (lost / design_effect + 1) / total, (gained / design_effect + 1) / total
            wing = quantile * math.sqrt((losses + gains - (losses - gains) ** 2) / total)
            interval = Interval(max(-1.0, losses - gains - wing), min(1.0, losses - gains + wing))
    elif stderr is not None:
        wing = float(stdtrit(groups - 1, upper)) * stderr
        interval = Interval(difference - wing, difference + wing)
        p_value = float(difference == 0) if stderr == 0 else float(2 * stdtr(groups - 1, -abs(difference) / stderr))
    flips = None if lost is None or gained is None else (lost + gained) / n
    return PairedDifference(n, difference, interval, stderr, lost, gained, flips, p_value, groups)


@dataclass(frozen=True)
class PairedRatio:
    """A perplexity of run b relative to that of run a, on the same documents."""

    num_items: int
    ratio: float  # b / a
    interval: Interval | None  # 95 %; None if the spread of the documents is unknown
    p_value: float | None  # of a ratio of 1; None likewise


def perplexity_ratio(a: Scores, b: Scores, weights: Scores, clusters: Sequence[Hashable] | None = None) -> PairedRatio:
    """The ratio of two perplexities from the log-likelihoods of the same documents in the same order.

    A perplexity is ``exp(-Σ log-likelihood / Σ weight)``; the weights of the documents are their words or bytes, or 1.
    The logarithm of the ratio is ``Σ (a - b) / Σ weight``, a ratio of two sums; its standard error is that of their
    linear approximation (Cochran 1977, "Sampling Techniques", section 6.3), its quantiles are those of t. `clusters`
    and errors are those of `paired_difference`.
    """
    first, second, size = _scores(a), _scores(b), _scores(weights)
    if not first.size == second.size == size.size:
        raise ValueError("a, b and weights must have one entry per document")
    total = float(size.sum())
    log_ratio = float((first - second).sum()) / total
    return _log_ratio(log_ratio, (first - second - log_ratio * size) / total, clusters)


def total_ratio(a: Scores, b: Scores, clusters: Sequence[Hashable] | None = None) -> PairedRatio:
    """The ratio of two sums over the same documents, both of one sign, such as their bits; see `perplexity_ratio`."""
    first, second = _scores(a), _scores(b)
    above, below = float(second.sum()), float(first.sum())
    return _log_ratio(math.log(above / below), second / above - first / below, clusters)


def _log_ratio(log_ratio: float, parts: FloatArray, clusters: Sequence[Hashable] | None) -> PairedRatio:
    """A ratio with its interval, given what each document adds to the linear approximation of its logarithm."""
    n, ratio = parts.size, math.exp(log_ratio)
    if n > 1 and log_ratio == 0 and not parts.any():  # the same outputs: not the scores of wrong answers
        return PairedRatio(n, 1.0, Interval(1.0, 1.0), 1.0)
    found = paired_difference(log_ratio + n * parts, np.zeros(n), clusters)
    ends = found.interval
    return PairedRatio(
        n, ratio, None if ends is None else Interval(*np.exp([ends.low, ends.high]).tolist()), found.p_value
    )


def mcnemar_p_value(lost: int, gained: int) -> float:
    """P-value of no difference between two runs, from the items right in the first and in the second run only.

    Exact and two-sided: given the flips, losses are binomial with probability one half (McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages", Psychometrika 12, 153-157). It is
    1.0 if no item changed; a negative count is a `ValueError`.
    """
    from scipy.stats import binomtest

    if lost < 0 or gained < 0:
        raise ValueError(f"counts must not be negative, got {lost} and {gained}")
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def clustered_stderr(values: Scores, clusters: Sequence[Hashable]) -> float | None:
    """Standard error of a mean of items that are not independent within clusters; None below 2 clusters.

    ``sqrt(Σ_c (Σ_i∈c (x_i - mean))²) / n`` (Miller, arXiv 2411.00640, on clustered standard errors; Liang and Zeger
    1986, "Longitudinal data analysis using generalized linear models"), without a correction for few clusters: if
    each item is its own cluster, it is ``sqrt((n - 1) / n)`` times the usual ``s / sqrt(n)``. Errors are those of
    `paired_difference`.
    """
    scores = _scores(values)
    if len(clusters) != scores.size:
        raise ValueError("values and clusters must have one entry per item")
    codes = _codes(clusters)
    return _clustered(scores, codes) if codes.max() else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values of all comparisons that are shown together, adjusted for their number; None stays and does not count.

    Calling those below alpha significant keeps the chance of any false alarm among all at alpha (Holm 1979, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 65-70). A p-value that is not
    from 0 to 1 is a `ValueError`.
    """
    # Not by statsmodels: it collects the garbage of the whole process in each call, a third of a second in a large one.
    present = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    if not all(0 <= value <= 1 for value, _ in present):
        raise ValueError("p-values must be from 0 to 1")
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, place) in enumerate(present):
        adjusted[place] = highest = max(highest, min(1.0, (len(present) - rank) * value))
    return adjusted


def answer_kl(p: Sequence[Sequence[float]], q: Sequence[Sequence[float]]) -> float | None:
    """Mean Kullback-Leibler divergence of the answers' distribution in run q from that in run p, in nats per item.

    It detects changes that accuracy does not show (Dutta et al., arXiv 2407.09141). The distribution of an item is the
    softmax of the log-likelihoods of its choices, in nats, in the same order in both runs. Items with a choice that is
    not finite are left out; None if no others remain. Runs that differ in their number of items, or of choices of an
    item, are a `ValueError`.
    """
    from scipy.special import log_softmax

    sizes = np.array([len(row) for row in p], dtype=np.int64)
    if not np.array_equal(sizes, [len(row) for row in q]):
        raise ValueError("both runs must have the same items, with the same choices")
    divergences = [np.empty(0)]
    for size in np.unique(sizes[sizes > 0]):  # items of as many choices at once
        rows = np.flatnonzero(sizes == size)
        base, other = (np.array([run[row] for row in rows], dtype=np.float64) for run in (p, q))
        known = np.isfinite(base).all(axis=1) & np.isfinite(other).all(axis=1)
        log_p, log_q = log_softmax(base[known], axis=1), log_softmax(other[known], axis=1)
        # Not rel_entr of probabilities: one that underflows to 0 would make the divergence infinite.
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    found = np.concatenate(divergences)
    return max(0.0, float(found.mean())) if found.size else None


def _scores(values: Scores) -> FloatArray:
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
    """The smallest true drop, a share, that a paired comparison detects; the inverse of `items_needed`.

    With 100 items of which 10 % flip it is 0.09; with four times as many, half of that; 1 if the items are too few for
    any drop. `flip_rate` is the share of items whose correctness differs between the runs; for larger drops it is the
    drop, because accuracy does not fall without flips. `power` is the share of experiments that detect such a drop, at
    least 0.5, and `alpha` the level of the two-sided test. An argument out of its range is a `ValueError`.
    """
    from scipy.special import ndtri

    _check_plan(flip_rate, power, alpha)
    if num_items < 1:
        raise ValueError(f"num_items must be at least 1, got {num_items}")
    significant, missed = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    if significant**2 >= num_items:
        return 1.0
    # Connor's equation for the drop d: sqrt(n) sin(x) = z_alpha + z_power cos(x), with d = sqrt(f) sin(x) for the given
    # share f of items that flip, and d = sin²(x) if that share is d itself.
    angle = math.asin(significant / math.sqrt(num_items + missed**2)) + math.atan(missed / math.sqrt(num_items))
    return max(math.sqrt(flip_rate) * math.sin(angle), math.sin(angle) ** 2)


def items_needed(effect: float, *, flip_rate: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items with which a paired comparison detects a drop of `effect`, a share, rounded up.

    ``(z_alpha sqrt(f) + z_power sqrt(f - d²))² / d²`` for a drop d and a share f of items that flip: `flip_rate`, or
    the drop if that is larger (Connor 1987, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43, 207-211). `flip_rate`, `power` and `alpha` are those of `minimum_detectable_drop`. A
    `ValueError` is raised if `effect` is not above 0 and at most 1, or another argument is out of its range.
    """
    from scipy.special import ndtri

    _check_plan(flip_rate, power, alpha)
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be above 0 and at most 1, got {effect}")
    flips = max(flip_rate, effect)
    root = ndtri(1 - alpha / 2) * math.sqrt(flips) + ndtri(power) * math.sqrt(flips - effect**2)
    return math.ceil(round(float(root / effect) ** 2, 6))


def items_to_decide(
    effect: float,
    *,
    flip_rate: float,
    num_items: int,
    num_clusters: int | None = None,
    design_effect: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int | None:
    """Number of items with which `paired_difference` shows a drop of `effect` in a share `power` of the experiments.

    To show means that the 95 % interval is above 0 and McNemar's exact p-value at most `alpha`, which is lower if it is
    corrected for other comparisons. `items_needed` is the textbook's number: it counts neither the conservatism of the
    exact test (here the continuity correction, which is close to it) nor what few clusters cost.

    With `num_clusters`, the further items belong to the same clusters. Their interval has quantiles of t with as many
    degrees of freedom as clusters, less one, and an estimated error, whose distribution is that of chi-square (as in
    the usual t test). What the clusters differ in by themselves, `design_effect` at `num_items` items, does not become
    less with further items: the variance of the difference is ``σ² (1 / n + (design_effect - 1) / num_items)``.

    None if no number of items suffices: there are too few clusters. A `ValueError` is raised as by `items_needed`, and
    if there is no item, fewer than two clusters, or a design effect below 1.
    """
    _check_plan(flip_rate, power, alpha)
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be above 0 and at most 1, got {effect}")
    if num_items < 1 or design_effect < 1 or (num_clusters is not None and num_clusters < 2):
        raise ValueError("there must be an item, two clusters if any, and a design effect of at least 1")
    chances = _chances(effect, max(flip_rate, effect), alpha, num_clusters, (design_effect - 1) / num_items)
    high = 1
    while chances(high) < power:
        high *= 2
        if high > _MOST_ITEMS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if chances(middle) < power else (low, middle)
    return high


def _chances(effect: float, flips: float, alpha: float, clusters: int | None, between: float) -> Callable[[int], float]:
    """The power of a paired comparison as a function of its items; see `items_to_decide`."""
    from scipy.special import chdtri, ndtr, ndtri, stdtrit

    spread, significant = math.sqrt(flips - effect**2), float(ndtri(1 - alpha / 2))
    limit, errors = float(ndtri((1 + CONFIDENCE) / 2)), np.ones(1)
    if clusters is not None:
        limit = float(stdtrit(clusters - 1, (1 + CONFIDENCE) / 2))
        levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
        errors = chdtri(clusters - 1, levels) / (clusters - 1)  # estimated variance over the true one, equally likely

    def chances(items: int) -> float:
        design_effect, root = 1 + between * items, math.sqrt(items)
        gap = effect * root - significant * math.sqrt(flips) - 1 / root  # beyond what McNemar's test asks for
        wing = limit * np.sqrt(np.maximum(1.0, design_effect * errors)) * spread
        if spread == 0:
            return float(gap >= 0)
        return float(np.mean(ndtr(np.minimum(gap, effect * root - wing) / (spread * math.sqrt(design_effect)))))

    return chances


def _check_plan(flip_rate: float, power: float, alpha: float) -> None:
    if not 0 <= flip_rate <= 1:
        raise ValueError(f"flip_rate must be from 0 to 1, got {flip_rate}")
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be from 0.5 to below 1, got {power}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
