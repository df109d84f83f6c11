"""Percentiles and summaries, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.stats import percentile, resolving_count, summarize
from slim_eval.stats.summary import Summary

finite = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


def test_an_empty_sample_says_nothing() -> None:
    assert summarize([]) == Summary(count=0, mean=None, median=None, p95=None, p99=None, std=None)
    assert percentile([], 50) is None


def test_one_value_has_no_spread() -> None:
    assert summarize([3.0]) == Summary(count=1, mean=3.0, median=3.0, p95=3.0, p99=3.0, std=None)


def test_missing_values_stay_out_and_are_not_zero() -> None:
    assert summarize([None, 2.0, None, 4.0]) == summarize([2.0, 4.0])
    assert summarize([None, None]).mean is None


def test_the_deviation_is_that_of_a_sample() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0]).std == pytest.approx(np.sqrt(5 / 3))


@pytest.mark.parametrize(("q", "count"), [(0, 1), (50, 2), (90, 10), (95, 20), (99, 100), (99.9, 1000)])
def test_resolving_count(q: float, count: int) -> None:
    assert resolving_count(q) == count


@pytest.mark.parametrize("q", [-1, 100, 101])
def test_no_sample_resolves_what_is_no_percentile(q: float) -> None:
    with pytest.raises(ValueError, match="from 0 to below 100"):
        resolving_count(q)


@pytest.mark.parametrize(
    ("q", "size", "is_maximum"), [(95, 19, True), (95, 20, False), (99, 99, True), (99, 100, False)]
)
def test_a_sample_too_small_for_a_percentile_gives_its_maximum(q: float, size: int, is_maximum: bool) -> None:
    values = [float(value) for value in range(size)]
    assert (percentile(values, q) == values[-1]) is is_maximum


@given(st.lists(finite, min_size=100, max_size=300), st.sampled_from([0, 25, 50, 95, 99]))
def test_a_large_sample_agrees_with_numpy(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)))


@given(st.lists(finite, min_size=1, max_size=150))
def test_percentiles_are_ordered_and_inside_the_sample(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.median is not None
    assert summary.p95 is not None
    assert summary.p99 is not None
    assert min(values) <= summary.median <= summary.p95 <= summary.p99 <= max(values)
