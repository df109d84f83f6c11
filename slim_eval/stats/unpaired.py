"""Two numbers that were measured separately: their difference, its interval, and how many items a test needs.

It needs no outcomes of single items. On the same items the two runs agree more than independent ones do, so that the
interval is then wider than the paired one of `paired`, never too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slim_eval.stats.intervals import CONFIDENCE, Interval

_UPPER = (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class UnpairedDifference:
    """Run a, the baseline, compared with run b."""

    difference: float  # a - b; if above 0, b is worse
    interval: Interval  # 95 %
    p_value: float  # of no difference


def effective_items(share: float, stderr: float | None, num_items: int | None) -> float | None:
    """The number of independent items, right or wrong, that is as informative as a measured share.

    ``share (1 - share) / stderr²``, which contains what a standard error knows of graded scores and of items that are
    not independent (Kish 1965, "Survey Sampling", section 8.2); without a standard error above 0, `num_items`. A
    standard error of 0 says only that all items had the same score. None if neither is known.
    """
    if stderr is not None and math.isfinite(stderr) and stderr > 0 and 0 < share < 1:
        return share * (1 - share) / stderr**2
    return float(num_items) if num_items else None


def score_interval(share: float, items: float) -> Interval:
    """95 % interval of a share by Wilson's score method; `items` may be an effective number, not whole.

    The method is that of `intervals.wilson_interval`. A `ValueError` is raised if `items` is not above 0 or `share` is
    not from 0 to 1.
    """
    from scipy.special import ndtri

    _check(share, items)
    square = float(ndtri(_UPPER)) ** 2
    centre = (share + square / (2 * items)) / (1 + square / items)
    half = math.sqrt(square * (share * (1 - share) / items + square / (4 * items**2))) / (1 + square / items)
    # At 0 and 1 the end is exact; rounding must not move it across the share.
    return Interval(max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def unpaired_difference(a: float, items_a: float, b: float, items_b: float) -> UnpairedDifference:
    """Compare two shares from 0 to 1 that come from so many (effective) items each.

    The interval is Newcombe's hybrid score interval (1998, "Interval estimation for the difference between independent
    proportions: comparison of eleven methods", Statistics in Medicine 17, 873-890, method 10), which keeps its level
    with few items and near 0 and 1. The p-value is that of the two-sided score test, with the pooled share. Errors are
    those of `score_interval`.
    """
    from scipy.special import ndtr

    first, second = score_interval(a, items_a), score_interval(b, items_b)
    difference = a - b
    below = math.hypot(a - first.low, second.high - b)
    above = math.hypot(first.high - a, b - second.low)
    pooled = (a * items_a + b * items_b) / (items_a + items_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / items_a + 1 / items_b))
    p_value = 2 * float(ndtr(-abs(difference) / error)) if error > 0 else 1.0
    return UnpairedDifference(difference, Interval(difference - below, difference + above), p_value)


def unpaired_amounts(a: float, error_a: float, b: float, error_b: float) -> UnpairedDifference:
    """Compare two numbers of any unit by their standard errors, both above 0, as normally distributed.

    A mean of many scores is, whatever the scores are. For a ratio, compare logarithms: their standard errors are those
    of the numbers divided by the numbers. A `ValueError` is raised for an error that is not above 0.
    """
    from scipy.special import ndtr, ndtri

    if not (error_a > 0 and error_b > 0):
        raise ValueError(f"standard errors must be above 0, got {error_a} and {error_b}")
    difference, error = a - b, math.hypot(error_a, error_b)
    half = float(ndtri(_UPPER)) * error
    p_value = 2 * float(ndtr(-abs(difference) / error))
    return UnpairedDifference(difference, Interval(difference - half, difference + half), p_value)


def unpaired_items_needed(share: float, effect: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items per run with which an unpaired comparison detects a drop of `effect` from `share`, rounded up.

    ``(z_alpha √(2 m (1 - m)) + z_power √(a (1 - a) + b (1 - b)))² / effect²`` for a = `share`, b = a - `effect`, and m,
    their mean (Fleiss, Levin and Paik 2003, "Statistical Methods for Rates and Proportions", section 4.2). If the share
    is less than the drop, that of a fall to 0. A `ValueError` is raised if an argument is out of its range.
    """
    from scipy.special import ndtri

    _check(share, 1.0)
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be above 0 and at most 1, got {effect}")
    if not 0.5 <= power < 1 or not 0 < alpha < 1:
        raise ValueError(f"power must be from 0.5 to below 1 and alpha between 0 and 1, got {power} and {alpha}")
    before = max(share, effect)
    after = before - effect
    mean = (before + after) / 2
    spread = before * (1 - before) + after * (1 - after)
    root = float(ndtri(1 - alpha / 2)) * math.sqrt(2 * mean * (1 - mean)) + float(ndtri(power)) * math.sqrt(spread)
    return max(1, math.ceil(round((root / effect) ** 2, 6)))


def _check(share: float, items: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"a share must be from 0 to 1, got {share}")
    if not items > 0:
        raise ValueError(f"the number of items must be above 0, got {items}")
