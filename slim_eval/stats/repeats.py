"""One number measured again and again: by how much two further measurements may differ though nothing changed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def repeat_spread(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """The largest difference that two further runs of the same kind are expected to show, by chance alone.

    ``t s sqrt(2)`` with the runs' standard deviation s and the quantile t of n - 1 degrees of freedom (Hahn and Meeker
    1991, "Statistical Intervals", section 4.6). Two runs tell little of s, and t is 12.7: a third makes it 4.3.

    Args:
        values: One number a run.
        confidence: Share of pairs of further runs that differ by less.

    Returns:
        In the unit of the values; None below two runs.
    """
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return quantile * statistics.stdev(values) * math.sqrt(2)


def repeat_bound(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """The same as a relative change, up or down: `repeat_spread` of the logarithms.

    Returns:
        None below two runs, or where a value is not above 0.
    """
    if not values or min(values) <= 0:
        return None
    spread = repeat_spread([math.log(value) for value in values], confidence)
    return None if spread is None else math.expm1(min(spread, 700.0))
