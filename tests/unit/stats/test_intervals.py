"""Intervals, against SciPy and statsmodels, by hand, and by counting how often they contain a truth that is known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from slim_eval.stats import (
    Interval,
    Statistic,
    bootstrap_interval,
    bootstrap_ratio,
    drift_p_value,
    wilson_interval,
)
from tests.generated import examples

Array = npt.NDArray[np.float64]
RUNS = 2000
# `make check` simulates fewer runs, whose share scatters more: 0.02 is nearly twice its standard error there.
SIMULATED = examples(RUNS)
SLACK = 0.0 if SIMULATED >= RUNS else 0.02
STATISTICS: tuple[Statistic, ...] = ("mean", "median", "p95")
MEAN_LOGNORMAL = math.exp(0.3**2 / 2)
P95_LOGNORMAL = math.exp(0.3 * float(scipy_stats.norm.ppf(0.95)))

times = st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=2, max_size=40)


def _normal(rng: np.random.Generator, iterations: int, requests: int, correlation: float = 0.5) -> Array:
    """Standard normal requests that share a part with the others of their iteration."""
    shared, own = rng.standard_normal((iterations, 1)), rng.standard_normal((iterations, requests))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own


def _normal_times(rng: np.random.Generator, iterations: int, requests: int = 8) -> Array:
    return 10 + _normal(rng, iterations, requests)


def _lognormal_times(rng: np.random.Generator, iterations: int, requests: int = 8) -> Array:
    return np.exp(0.3 * _normal(rng, iterations, requests))


def _coverage(
    truth: float, interval: Callable[[np.random.Generator, int], Interval | None], runs: int = SIMULATED
) -> float:
    """Share of simulated runs whose interval contains the truth."""
    rng = np.random.default_rng(20)
    found = [interval(rng, run) for run in range(runs)]
    assert None not in found
    return float(np.mean([each is not None and truth in each for each in found]))


def _interval(clusters: npt.ArrayLike, statistic: Statistic = "mean", **options: float) -> Interval:
    found = bootstrap_interval(clusters, statistic, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_an_interval_knows_what_it_contains() -> None:
    interval = Interval(1.0, 4.0)
    assert interval.half_width == 1.5
    assert 1.0 in interval
    assert 4.0 in interval
    assert 0.99 not in interval
    assert math.nan not in interval


@pytest.mark.parametrize("iterations", [20, 50])
@pytest.mark.parametrize(("make", "truth"), [(_normal_times, 10.0), (_lognormal_times, MEAN_LOGNORMAL)])
@pytest.mark.large
def test_mean_intervals_hold_what_they_promise(make: Callable[..., Array], truth: float, iterations: int) -> None:
    def interval(rng: np.random.Generator, run: int) -> Interval | None:
        return bootstrap_interval(make(rng, iterations), resamples=500, seed=run)

    # Over 3,000 simulated runs 93.6 to 94.1 %; 800 leave it uncertain by one point either way.
    assert 0.92 - SLACK <= _coverage(truth, interval, runs=max(400, examples(800))) <= 0.97 + SLACK


@pytest.mark.large
def test_taking_requests_for_independent_would_promise_too_much() -> None:
    def interval(rng: np.random.Generator, run: int) -> Interval | None:
        return bootstrap_interval(_lognormal_times(rng, 20).ravel(), resamples=500, seed=run)

    assert _coverage(MEAN_LOGNORMAL, interval, runs=300) < 0.8


@pytest.mark.parametrize(("iterations", "requests"), [(20, 1), (50, 1), (20, 8), (50, 8)])
def test_median_intervals_hold_what_they_promise(iterations: int, requests: int) -> None:
    def interval(rng: np.random.Generator, _: int) -> Interval | None:
        return bootstrap_interval(_lognormal_times(rng, iterations, requests), "median")

    assert 0.93 - SLACK <= _coverage(1.0, interval) <= 0.97 + SLACK


@pytest.mark.parametrize(
    ("iterations", "requests", "correlation"),
    [(72, 1, 0.0), (100, 1, 0.0), (100, 8, 0.2), (100, 8, 0.5), (100, 8, 0.9)],
)
def test_p95_intervals_hold_what_they_promise(iterations: int, requests: int, correlation: float) -> None:
    def interval(rng: np.random.Generator, _: int) -> Interval | None:
        return bootstrap_interval(np.exp(0.3 * _normal(rng, iterations, requests, correlation)), "p95")

    assert 0.93 - SLACK <= _coverage(P95_LOGNORMAL, interval) <= 0.97 + SLACK


@pytest.mark.parametrize(("statistic", "iterations"), [("median", 20), ("p95", 100)])
def test_requests_that_turn_out_to_be_independent_leave_quantiles_on_the_safe_side(
    statistic: Statistic, iterations: int
) -> None:
    # A design effect that comes out below 1 by chance is not believed, so on average it is a little above 1.
    truth = {"median": 1.0, "p95": P95_LOGNORMAL}[statistic]

    def interval(rng: np.random.Generator, _: int) -> Interval | None:
        return bootstrap_interval(np.exp(0.3 * _normal(rng, iterations, 8, 0.0)), statistic)

    assert 0.95 - SLACK <= _coverage(truth, interval) <= 0.985 + SLACK


@pytest.mark.parametrize(("statistic", "iterations"), [("mean", (20, 30)), ("median", (50, 40)), ("p95", (200, 250))])
# A p95 of 100 and 120 iterations errs on the safe side (see the docstring), so larger runs are held to the band here.
@pytest.mark.large
def test_ratio_intervals_hold_what_they_promise(statistic: Statistic, iterations: tuple[int, int]) -> None:
    def interval(rng: np.random.Generator, run: int) -> Interval | None:
        above, below = (_lognormal_times(rng, count) for count in iterations)
        return bootstrap_ratio(2 * above, below, statistic, resamples=1000, seed=run)

    assert 0.93 - SLACK <= _coverage(2.0, interval, runs=max(400, examples(1000))) <= 0.97 + SLACK


@pytest.mark.parametrize(("n", "share"), [(100, 0.5), (100, 0.8), (1000, 0.95)])
def test_wilson_intervals_hold_what_they_promise(n: int, share: float) -> None:
    right = np.random.default_rng(0).binomial(n, share, RUNS)
    intervals = {count: wilson_interval(count, n) for count in np.unique(right).tolist()}
    assert 0.93 <= np.mean([share in intervals[count] for count in right.tolist()]) <= 0.97


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_a_mean_agrees_with_scipy_where_the_sample_is_large(confidence: float) -> None:
    values = np.random.default_rng(0).lognormal(0, 0.8, 400)
    peer = scipy_stats.bootstrap(
        (values,), np.mean, method="BCa", confidence_level=confidence, n_resamples=20_000, rng=0
    ).confidence_interval
    ours = _interval(values, confidence=confidence, resamples=20_000)
    width = peer.high - peer.low
    assert ours.low == pytest.approx(peer.low, abs=0.03 * width)
    assert ours.high == pytest.approx(peer.high, abs=0.03 * width)


def test_a_ratio_of_means_agrees_with_scipy_where_the_samples_are_large() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.lognormal(0.2, 0.8, 400), rng.lognormal(0, 0.5, 300)
    peer = scipy_stats.bootstrap(
        (above, below), lambda x, y, axis: x.mean(axis) / y.mean(axis), method="BCa", n_resamples=20_000, rng=0
    ).confidence_interval
    ours = bootstrap_ratio(above, below, resamples=20_000)
    assert ours is not None
    width = peer.high - peer.low
    assert ours.low == pytest.approx(peer.low, abs=0.03 * width)
    assert ours.high == pytest.approx(peer.high, abs=0.03 * width)


def test_a_mean_of_few_normal_values_has_the_width_of_the_t_interval() -> None:
    values = scipy_stats.norm.ppf((np.arange(10) + 0.5) / 10)
    t_interval = scipy_stats.t.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    assert _interval(values).half_width == pytest.approx(t_interval, rel=0.06)


def test_a_median_lies_between_the_order_statistics_of_the_binomial() -> None:
    exact = scipy_stats.binom.ppf([0.025, 0.975], 100, 0.5)  # ranks 40 and 60, from 0 to 100
    interval = _interval(np.arange(1.0, 101.0), "median")
    assert exact[0] <= interval.low <= exact[0] + 1.5
    assert exact[1] - 0.5 <= interval.high <= exact[1] + 1


def test_copies_of_a_request_add_no_certainty() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, 100)
    copies = np.repeat(values[:, None], 8, axis=1)
    for statistic in STATISTICS:
        alone, together = _interval(values, statistic), _interval(copies, statistic)
        assert together.half_width == pytest.approx(alone.half_width, rel=0.15)


def test_unequal_iterations_weigh_by_their_requests() -> None:
    long, short = [1.0] * 30, [2.0]
    interval = _interval([long, short, long, short, long, short])
    assert 93 / 93 <= interval.low <= 96 / 93 <= interval.high <= 2
    assert np.mean([*long * 3, *short * 3]) in interval


def test_many_iterations_are_drawn_as_few_are() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, 2001)
    standard_error = values[:511].std() / np.sqrt(511)
    for few in (values[:511], values[:512], values[:513]):  # by pairs and one, by pairs, one by one
        assert _interval(few).half_width == pytest.approx(1.96 * standard_error, rel=0.05)
    assert _interval(values).half_width == pytest.approx(1.96 * values.std() / np.sqrt(2001), rel=0.05)


def test_a_ragged_table_of_equal_rows_is_the_table() -> None:
    table = np.random.default_rng(0).lognormal(0, 0.3, (80, 4))
    for statistic in STATISTICS:
        assert _interval(table, statistic) == _interval(table.tolist(), statistic)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_constants_are_certain(statistic: Statistic) -> None:
    assert bootstrap_interval(np.full((80, 3), 0.1), statistic) == Interval(0.1, 0.1)
    assert bootstrap_ratio([0.3] * 80, [0.1] * 80, statistic) == Interval(0.3 / 0.1, 0.3 / 0.1)


@pytest.mark.parametrize(("statistic", "enough"), [("mean", 2), ("median", 6), ("p95", 72)])
def test_too_few_iterations_say_nothing(statistic: Statistic, enough: int) -> None:
    few = np.random.default_rng(0).lognormal(0, 0.3, (enough - 1, 50))
    many = np.random.default_rng(0).lognormal(0, 0.3, (enough, 50))
    assert bootstrap_interval(few, statistic) is None
    assert bootstrap_ratio(few, many, statistic) is None
    assert bootstrap_ratio(many, few, statistic) is None
    assert bootstrap_interval(many, statistic) is not None
    assert bootstrap_ratio(many, many, statistic) is not None
    assert bootstrap_interval([], statistic) is None


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_ratio_to_nothing_is_none(statistic: Statistic) -> None:
    above = np.ones(80)
    assert bootstrap_ratio(above, np.zeros(80), statistic) is None
    assert bootstrap_ratio(above, np.linspace(-1, 0, 80), statistic) is None
    assert bootstrap_ratio(above, np.repeat([-1.0, 1.0], [78, 2]), statistic) is None
    assert bootstrap_ratio(np.zeros(80), above, statistic) == Interval(0.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([1.0, value, 2.0])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ratio([1.0, 2.0], [[1.0], [value]])
    with pytest.raises(ValueError, match="finite"):
        drift_p_value([1.0, value])


def test_malformed_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        bootstrap_interval([[1.0], []])
    with pytest.raises(ValueError, match="one number or a sequence"):
        bootstrap_interval(np.ones((3, 3, 3)))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=1.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_ratio([1.0, 2.0], [1.0, 2.0], resamples=0)


@settings(deadline=None)
@given(times)
def test_a_mean_lies_in_its_interval(values: list[float]) -> None:
    interval = _interval(values, resamples=500)
    slack = 1e-6 * (max(values) - min(values)) + 1e-12
    assert interval.low - slack <= np.mean(values) <= interval.high + slack
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(min_value=1e-6, max_value=1e6), st.sampled_from(STATISTICS))
def test_intervals_are_in_the_unit_of_the_sample(seed: int, factor: float, statistic: Statistic) -> None:
    values = np.random.default_rng(seed).lognormal(0, 0.3, (75, 2))
    one, other = _interval(values, statistic, resamples=300), _interval(values * factor, statistic, resamples=300)
    assert other.low == pytest.approx(one.low * factor, rel=1e-5)
    assert other.high == pytest.approx(one.high * factor, rel=1e-5)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from(STATISTICS))
def test_more_confidence_is_a_wider_interval(seed: int, statistic: Statistic) -> None:
    values = np.random.default_rng(seed).lognormal(0, 0.3, (75, 2))
    wide = _interval(values, statistic, resamples=500)
    narrow = _interval(values, statistic, confidence=0.5, resamples=500)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_seed_repeats_an_interval_and_another_does_not() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, 50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_ratio(values, values, seed=1) == bootstrap_ratio(values, values, seed=1)


def test_two_runs_are_resampled_independently() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, 50)
    same = bootstrap_ratio(values, values)
    assert same is not None
    assert 1.0 in same
    assert same.half_width == pytest.approx(np.sqrt(2) * _interval(values).half_width / values.mean(), rel=0.1)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 20), (9500, 10000)])
def test_wilson_agrees_with_statsmodels(right: int, n: int) -> None:
    low, high = proportion_confint(right, n, method="wilson")
    interval = wilson_interval(right, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.half_width > 0
    assert 0 <= interval.low <= right / n <= interval.high <= 1


def test_a_proportion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="k"):
        wilson_interval(3, 2)


def test_a_trend_is_drift() -> None:
    assert drift_p_value([1.0, 2.0, 3.0, 4.0]) is None
    assert drift_p_value([]) is None
    assert drift_p_value([3.0] * 5) == 1.0
    assert drift_p_value([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / math.factorial(5))
    assert drift_p_value([5.0, 4.0, 3.0, 2.0, 1.0]) == pytest.approx(2 / math.factorial(5))
    rng = np.random.default_rng(0)
    rising = drift_p_value((rng.lognormal(0, 0.1, 30) + np.linspace(0, 0.5, 30)).tolist())
    assert rising is not None
    assert rising < 0.001


@pytest.mark.large
def test_noise_is_no_drift() -> None:
    series = np.random.default_rng(0).lognormal(0, 0.3, (RUNS, 12))
    alarms = [drift_p_value(row.tolist()) for row in series]
    assert 0.03 <= np.mean([value is not None and value <= 0.05 for value in alarms]) <= 0.06


def test_the_room_is_light_to_import_and_intervals_need_no_statsmodels() -> None:
    script = (
        "import sys, slim_eval.stats as s; heavy = ('scipy', 'statsmodels', 'pandas');"
        "print([m for m in heavy if m in sys.modules]);"
        "s.bootstrap_interval([1.0, 2.0, 4.0]); s.wilson_interval(3, 4); s.drift_p_value([1.0, 2.0, 3.0, 5.0, 4.0]);"
        "print([m for m in heavy if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["[]", "['scipy']"]
