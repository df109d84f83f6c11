"""One sample described: mean, percentiles, spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """What a sample says of its distribution, in the unit of the sample; None where it says nothing.

    Attributes:
        count: Values that were there; missing ones do not count.
        mean: Arithmetic mean.
        median: Half of the values are at most this.
        p95: As `percentile`.
        p99: As `percentile`.
        std: Sample standard deviation (n - 1 in the denominator); None below two values.
    """

    count: int
    mean: float | None
    median: float | None
    p95: float | None
    p99: float | None
    std: float | None


def summarize(values: Iterable[float | None], independent: int | None = None) -> Summary:
    """Summarize the values that are there; None is "not measured" and stays out.

    Args:
        values: The sample.
        independent: How many of the values are independent of each other, where that is fewer than all: requests of
            one batch are not. The percentiles of the tail follow this count.
    """
    present = [value for value in values if value is not None]
    return Summary(
        count=len(present),
        mean=float(np.mean(present)) if present else None,
        median=percentile(present, 50),
        p95=percentile(present, 95, independent),
        p99=percentile(present, 99, independent),
        std=float(np.std(present, ddof=1)) if len(present) > 1 else None,
    )


def percentile(values: Sequence[float], q: float, independent: int | None = None) -> float | None:
    """The `q`-th percentile, linear between neighbours as in numpy; the maximum where the sample is too small for it.

    Interpolation below `resolving_count` values would name a point of the tail that no value supports.

    Args:
        values: The sample, in any order.
        q: From 0 to 100.
        independent: Independent values in the sample; all of them by default.

    Returns:
        None for an empty sample.
    """
    if not values:
        return None
    if q > 50 and (len(values) if independent is None else independent) < resolving_count(q):
        return float(max(values))
    return float(np.percentile(values, q))


def resolving_count(q: float) -> int:
    """Values it takes for one of them to be expected above the `q`-th percentile: 20 for p95, 100 for p99.

    Raises:
        ValueError: `q` is not from 0 to below 100.
    """
    if not 0 <= q < 100:
        raise ValueError(f"q must be from 0 to below 100, got {q}")
    return int(np.ceil(round(100 / (100 - q), 9)))
