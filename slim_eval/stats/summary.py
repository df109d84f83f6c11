"""One sample: its mean, percentiles and spread, and its trend in time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Summary:
    """Statistics of a sample in its unit; None if it is empty. Missing values do not count."""

    count: int
    mean: float | None
    median: float | None
    p95: float | None  # as `percentile` defines it
    p99: float | None
    std: float | None  # of a sample, n - 1 in the denominator; None below two values


def summarize(values: Iterable[float | None], independent: int | None = None) -> Summary:
    """Summarize a sample; None is "not measured" and does not count. `independent` is as in `percentile`."""
    present = np.array([value for value in values if value is not None], dtype=float)
    mean = float(np.mean(present)) if len(present) else None
    std = float(np.std(present, ddof=1)) if len(present) > 1 else None
    median, p95, p99 = (percentile(present, q, independent) for q in (50, 95, 99))
    return Summary(len(present), mean, median, p95, p99, std)


def percentile(values: Sequence[float] | NDArray[np.float64], q: float, independent: int | None = None) -> float | None:
    """The `q`-th percentile (0 to 100), linear between neighbours as in numpy; None for an empty sample.

    It is the maximum if the sample is too small for it: interpolation below `resolving_count` values would give a point
    of the tail that no value supports. `independent` is the number of independent values if fewer than all (requests of
    one batch are not).
    """
    if len(values) == 0:
        return None
    if q > 50 and (len(values) if independent is None else independent) < resolving_count(q):
        return float(max(values))
    return float(np.percentile(values, q))


def resolving_count(q: float) -> int:
    """Number of values of which one is expected above the `q`-th percentile: 20 for p95, 100 for p99.

    A `ValueError` is raised if `q` is not from 0 to below 100.
    """
    if not 0 <= q < 100:
        raise ValueError(f"q must be from 0 to below 100, got {q}")
    return int(np.ceil(round(100 / (100 - q), 9)))


def drift_p_value(values: Sequence[float]) -> float | None:
    """P-value of a trend in time, of one number per iteration: small if a series rises or falls throughout.

    Two-sided test of Kendall's rank correlation with the order (Mann 1945, "Nonparametric tests against trend",
    Econometrica 13, 245-259). 1.0 if all values are equal; None below 5 values, of which no order could be significant
    at 5 %. NaN or infinity is a `ValueError`.
    """
    from scipy.stats import kendalltau

    series = np.asarray(values, dtype=np.float64)
    if not np.isfinite(series).all():
        raise ValueError("values must be finite")
    if len(series) < 5:
        return None
    return 1.0 if np.ptp(series) == 0 else float(kendalltau(np.arange(len(series)), series).pvalue)
