"""Repeated runs: planted variation within and between processes is found, and floors are as wide as they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import f_oneway

from slim_eval.stats import RunValue, limit_factor, log_mean, variation

LENGTHS = (20, 25, 32, 24, 27)  # iterations of successive runs


def planted(rng: np.random.Generator, count: int, between: float, within: float) -> list[RunValue]:
    """Runs whose processes differ by the one standard deviation, and their iterations by the other."""
    lengths = (LENGTHS[number % len(LENGTHS)] for number in range(count))
    runs = (log_mean(rng.lognormal(rng.normal(0, between), within, length)) for length in lengths)
    return [run for run in runs if run is not None]


def limit(count: int, between: float, within: float) -> float:
    """What two of those runs differ by in 95 % of cases."""
    shares = [1 / LENGTHS[number % len(LENGTHS)] for number in range(count)]
    return 1.959964 * math.sqrt(2 * (between**2 + within**2 * sum(shares) / count))


@pytest.mark.parametrize(
    ("count", "between"),
    [(2, 0.02), (5, 0.0), (5, 0.02), pytest.param(3, 0.06, marks=pytest.mark.large)]
    + [pytest.param(10, between, marks=pytest.mark.large) for between in (0.0, 0.02, 0.06)],
)
def test_intervals_contain_the_planted_limit_and_floors_keep_equal_runs_from_being_called(
    count: int, between: float
) -> None:
    rng, rounds = np.random.default_rng(count), 1000
    within, contained, called = 0.1, 0, 0
    truth = limit(count, between, within)  # iterations contribute 0.02 to a run's value
    for _ in range(rounds):
        found = variation(planted(rng, count, between, within))
        assert found is not None
        assert found.interval is not None
        assert found.interval.low <= found.floor <= found.interval.high
        contained += truth in found.interval
        called += abs(rng.normal(0, truth / 1.959964)) > found.floor
    assert 0.925 <= contained / rounds <= 0.985  # 0.95 to 0.975 by theory; the rest is chance
    assert called / rounds <= 0.07  # 0.05 at most


def test_both_parts_of_the_variance_are_found() -> None:
    rng = np.random.default_rng(7)
    found = [variation(planted(rng, 10, 0.06, 0.1)) for _ in range(300)]
    assert np.mean([one.between**2 for one in found if one]) == pytest.approx(0.06**2, rel=0.1)
    assert np.mean([(one.within or 0.0) ** 2 for one in found if one]) == pytest.approx(0.02**2, rel=0.05)
    assert np.mean([(one.between_p_value or 0.0) < 0.05 for one in found if one]) > 0.95


def test_runs_that_differ_by_their_iterations_alone_seldom_show_a_process() -> None:
    rng = np.random.default_rng(8)
    found = [variation(planted(rng, 5, 0.0, 0.1)) for _ in range(500)]
    assert np.mean([(one.between_p_value or 0.0) < 0.05 for one in found if one]) == pytest.approx(0.05, abs=0.03)


def test_equally_long_runs_are_a_one_way_anova() -> None:
    rng = np.random.default_rng(9)
    rows = rng.normal(10, 1, (5, 30)) + rng.normal(0, 0.5, (5, 1))
    found = variation([RunValue(row.mean(), row.std(ddof=1) / math.sqrt(30), 29) for row in rows])
    anova = f_oneway(*rows)
    within = rows.var(axis=1, ddof=1).mean() / 30
    assert found is not None
    assert found.within == pytest.approx(math.sqrt(within))
    assert found.between == pytest.approx(math.sqrt(within * (anova.statistic - 1)))
    # Satterthwaite's degrees of freedom are a little below 5 x 29, as the runs' variances are not assumed equal.
    assert math.log(found.between_p_value or 1.0) == pytest.approx(math.log(anova.pvalue), rel=0.02)


def test_the_floor_is_what_two_further_runs_differ_by() -> None:
    two = variation([RunValue(0.0), RunValue(0.01)])
    assert two is not None
    assert (two.within, two.between_p_value, two.between) == (None, None, pytest.approx(0.01 / math.sqrt(2)))
    assert two.floor == pytest.approx(0.01 * 12.706, rel=1e-3)  # t of one degree of freedom
    three = variation([RunValue(value) for value in (0.0, 0.01, 0.005)])
    assert three is not None
    assert three.floor == pytest.approx(4.303 * 0.005 * math.sqrt(2), rel=1e-3)
    assert variation([RunValue(1.0)]) is None
    assert variation([]) is None


def test_runs_that_agree_by_chance_have_the_floor_that_their_iterations_imply() -> None:
    found = variation([RunValue(1.0, 0.02)] * 5)
    assert found is not None
    assert (found.between, found.between_p_value) == (0.0, 1.0)
    assert found.floor == pytest.approx(1.96 * 0.02 * math.sqrt(2), rel=1e-3)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(found.floor, rel=1e-2)


def test_runs_without_any_difference_have_a_floor_of_nothing() -> None:
    for error in (None, 0.0):
        found = variation([RunValue(1.0, error, 9)] * 3)
        assert found is not None
        assert (found.floor, found.interval) == (0.0, None)


def test_a_run_of_constant_times_differs_by_its_process_alone() -> None:
    found = variation([RunValue(0.0, 0.0, 9), RunValue(0.1, 0.0, 9)])
    assert found is not None
    assert (found.within, found.between_p_value) == (0.0, 0.0)


def test_what_has_no_logarithm_has_no_value() -> None:
    assert [log_mean(values) for values in ([], [0.0, 0.0], [1.0, math.inf], [-1.0])] == [None] * 4
    assert log_mean([2.0]) == RunValue(math.log(2.0), None, 0)


def test_how_rough_a_floor_is_follows_from_the_number_of_runs() -> None:
    assert [limit_factor(count) for count in (2, 5, 10)] == pytest.approx([71.5, 4.80, 2.65], rel=5e-3)
