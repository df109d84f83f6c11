"""Crossovers: found where one was planted, with an interval that holds what it promises, and never without one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from slim_eval.stats import Crossovers, Curve, Interval, crossovers

LOADS = (1, 2, 4, 8, 16, 32, 64)


def low(load: float) -> float:
    """A time per token that is lower than `high` below a load of 12."""
    return 10 + load


def high(load: float) -> float:
    return 16 + load / 2


def curve(of: Callable[[float], float], rng: np.random.Generator, spread: float, requests: int = 120) -> Curve:
    """What requests with a log-normal spread give: means, and their intervals."""
    sigma = np.sqrt(np.log(1 + spread**2))
    values, intervals = [], []
    for load in LOADS:
        drawn = of(load) * rng.lognormal(-(sigma**2) / 2, sigma, requests)
        mean, half = float(drawn.mean()), 1.98 * float(drawn.std(ddof=1)) / np.sqrt(requests)
        values.append(mean)
        intervals.append(Interval(mean - half, mean + half))
    return Curve(values, intervals)


def simulate(
    seed: int, a: Callable[[float], float], b: Callable[[float], float], spread: float = 0.15, **options: float
) -> Crossovers:
    rng = np.random.default_rng(seed)
    return crossovers(LOADS, curve(a, rng, spread), curve(b, rng, spread), draws=1000, seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        (low, high, {"trend": 1}),
        (lambda c: c / low(c), lambda c: c / high(c), {"trend": 1, "power": -1}),
        (lambda c: low(c) / c, lambda c: high(c) / c, {"trend": -1, "power": 1}),
    ],
    ids=["time per token", "throughput", "joules per token"],
)
@pytest.mark.parametrize("spread", [0.05, 0.4])
def test_a_planted_crossover_is_in_the_interval_in_95_of_100_runs(
    a: Callable[[float], float], b: Callable[[float], float], options: dict[str, float], spread: float
) -> None:
    found = [simulate(seed, a, b, spread, **options) for seed in range(100)]
    assert all(len(each.crossings) == 1 for each in found)
    assert sum(12 in each.crossings[0].interval for each in found) >= 95
    assert np.median([each.crossings[0].load for each in found]) == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize(("gap", "most"), [(1.0, 2), (1.01, 2), (1.3, 0)])
def test_none_is_claimed_where_the_curves_do_not_cross(gap: float, most: int) -> None:
    found = [simulate(seed, low, lambda load: gap * low(load), trend=1) for seed in range(200)]
    assert sum(bool(each.crossings) for each in found) <= most
    if gap == 1.3:
        assert all(set(each.signs) == {-1} for each in found)


def test_values_without_spread_cross_where_they_cross() -> None:
    sides = [
        Curve([of(load) for load in LOADS], [Interval(of(load), of(load)) for load in LOADS]) for of in (low, high)
    ]
    found = crossovers(LOADS, *sides, trend=1)
    assert found.crossings[0].load == pytest.approx(12)
    assert found.signs == (-1, -1, -1, -1, 1, 1, 1)


def test_curves_may_cross_twice() -> None:
    values = ([10.0] * 5, [12.0, 11.5, 8.0, 11.5, 12.0])
    sides = [Curve(each, [Interval(0.99 * v, 1.01 * v) for v in each]) for each in values]
    found = crossovers([1, 2, 3, 4, 5], *sides)
    assert [round(each.load, 1) for each in found.crossings] == [2.4, 3.6]


@pytest.mark.parametrize(
    ("loads", "values"), [([1], [1.0]), ([2, 1], [1.0, 1.0]), ([1, 2], [1.0, 0.0]), ([1, 2], [1.0])]
)
def test_curves_that_are_none_are_refused(loads: list[float], values: list[float]) -> None:
    side = Curve(values, [Interval(value, value) for value in values])
    with pytest.raises(ValueError, match=r"loads|curve|values"):
        crossovers(loads, side, side)
