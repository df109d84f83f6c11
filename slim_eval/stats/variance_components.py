"""Repeated runs of the same work: variation within and between processes, and how much two runs differ by chance.

The model is the one-way random-effects model. The value of run i is ``mean + b_i + e_i``: its process contributes b_i,
with variance B (memory placement, clocks, other processes), and its n iterations contribute e_i, with variance W / n.
Two single runs differ by no more than ``1.96 √2 √(B + W / n)`` in 95 % of cases: the repeatability limit of ISO 5725-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slim_eval.stats.intervals import CONFIDENCE, FloatArray, Interval

_UPPER = (1 + CONFIDENCE) / 2
_CERTAIN = 1e-9  # one over the degrees of freedom of an error that is known, as far as SciPy computes with them


@dataclass(frozen=True)
class RunValue:
    """A number of one run, and its standard error as the variation within the run implies it, in the same unit."""

    value: float
    error: float | None = None  # None if the run contains nothing to estimate it from
    degrees: float = math.inf  # degrees of freedom of `error`


@dataclass(frozen=True)
class Variation:
    """How much runs of the same work differ, in the unit of their values; standard deviations are of one run."""

    num_runs: int
    mean: float
    within: float | None  # standard deviation due to the iterations of a run; None if a run has no `error`
    between: float  # standard deviation due to its process; all of the spread if `within` is None
    between_p_value: float | None  # of no variation between processes; None if `within` is None
    floor: float  # two further runs differ by no more than this, with 95 % confidence
    interval: Interval | None  # 95 %, of the repeatability limit; None if the runs do not differ at all


def log_mean(iterations: Sequence[float]) -> RunValue | None:
    """The logarithm of a run's mean over independent iterations, and its standard error ``s / (mean √n)``.

    None if there are no iterations, a value is not finite or the mean is not above 0.
    """
    values: FloatArray = np.asarray(iterations, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or values.mean() <= 0:
        return None
    n, mean = values.size, float(values.mean())
    error = float(values.std(ddof=1)) / (mean * math.sqrt(n)) if n > 1 else None
    return RunValue(math.log(mean), error, n - 1)


def variation(runs: Sequence[RunValue]) -> Variation | None:
    """Variation within and between the runs, and what two further runs may differ by; None below two runs.

    The analysis of variance of unweighted means, for runs of unequal length too: S², the variance of the runs' values,
    estimates ``B + W / n``, and E², the mean square of their errors, estimates ``W / n``, so that ``B = max(0, S² -
    E²)`` with the F test of ``S² / E²`` (Thomas and Hultquist 1978, "Interval estimation for the unbalanced case of the
    one-way random effects model", Annals of Statistics 6, 582-587; the degrees of freedom of E² are Satterthwaite's,
    1946, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2, 110-114). If runs
    are equally long, it is the usual one-way ANOVA.

    The floor is the prediction limit ``t S √2`` of the difference of two further runs, with k - 1 degrees of freedom,
    so that few runs cost a larger factor: t is 12.7 with two, 2.8 with five. Its interval is that of the repeatability
    limit, from the chi-square distribution of ``(k - 1) S² / (B + W / n)`` (both: Hahn and Meeker 1991, "Statistical
    Intervals", chapter 4). Runs that agree by chance do not lower them: floor and ends are at least what E² alone
    implies, which is the theory for B = 0. Taking the larger of two limits keeps the confidence at 95 % or more: if B =
    0, one lower limit of two is too high in 1 - 0.975² of cases, and the larger upper one is almost never too low.
    """
    from scipy.special import chdtri, fdtrc, ndtri, stdtrit

    k = len(runs)
    if k < 2:
        return None
    values = np.array([run.value for run in runs])
    spread = float(values.var(ddof=1))
    parts = [(spread, k - 1.0)]
    within, p_value = None, None
    errors = np.array([run.error for run in runs if run.error is not None]) ** 2
    if len(errors) == k:
        within = float(errors.mean())
        if within > 0:
            shares = errors / errors.sum()
            used = sum(share**2 / run.degrees for share, run in zip(shares, runs, strict=True))
            degrees = 1 / max(float(used), _CERTAIN)  # Satterthwaite's
            parts.append((within, degrees))
            p_value = float(fdtrc(k - 1, degrees, spread / within))
        else:
            p_value = float(spread == 0)
    limit, root = float(ndtri(_UPPER)), math.sqrt(2)
    floor = max(float(stdtrit(degrees, _UPPER)) * math.sqrt(square) for square, degrees in parts) * root
    low, high = (
        limit * root * max(math.sqrt(square * degrees / float(chdtri(degrees, tail))) for square, degrees in parts)
        for tail in (1 - _UPPER, _UPPER)
    )
    return Variation(
        num_runs=k,
        mean=float(values.mean()),
        within=None if within is None else math.sqrt(within),
        between=math.sqrt(max(0.0, spread - (within or 0.0))),
        between_p_value=p_value,
        floor=floor,
        interval=Interval(low, high) if high > 0 else None,
    )


def limit_factor(num_runs: int) -> float:
    """Upper end of the interval of a repeatability limit from that many runs, over its lower end: 4.8 with five."""
    from scipy.special import chdtri

    tails = (1 - _UPPER, _UPPER)
    high, low = (float(chdtri(num_runs - 1, tail)) for tail in tails)
    return math.sqrt(high / low)
