"""Two separate proportions: against statsmodels, by enumeration of every outcome, and by running what was planned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportions_ztest

from slim_eval.stats import effective_items, score_interval, unpaired_difference, unpaired_items_needed


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.data())
def test_interval_and_p_value_are_those_of_statsmodels(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found = unpaired_difference(a / n, n, b / m, m)
    low, high = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-9)
    assert found.difference == pytest.approx(a / n - b / m)
    if 0 < a + b < n + m:
        assert found.p_value == pytest.approx(proportions_ztest([a, b], [n, m])[1], abs=1e-12)
    else:
        assert found.p_value == 1.0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.data())
def test_one_share_has_wilsons_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    found = score_interval(count / n, n)
    assert (found.low, found.high) == pytest.approx(proportion_confint(count, n, method="wilson"), abs=1e-12)
    assert count / n in found


def test_large_samples_follow_the_two_standard_errors() -> None:
    # The gsm8k scores of the issue: 77.5 ± 1.15 and 60.0 ± 1.35.
    items = [effective_items(share, error, None) for share, error in ((0.775, 0.0115), (0.6, 0.0135))]
    assert items == pytest.approx([0.775 * 0.225 / 0.0115**2, 0.24 / 0.0135**2])
    found = unpaired_difference(0.775, items[0] or 0, 0.6, items[1] or 0)
    wald = 1.959964 * np.hypot(0.0115, 0.0135)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.175 - wald, 0.175 + wald), abs=1e-3)
    assert found.p_value < 1e-20


@pytest.mark.parametrize(("n", "m"), [(20, 20), (50, 200), (100, 100)])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.9, 0.8), (0.98, 0.98), (0.7, 0.3)])
def test_the_interval_keeps_its_level_whatever_the_shares(n: int, m: int, a: float, b: float) -> None:
    """Exact: the probability of every pair of outcomes whose interval contains the true difference."""
    first, second = np.arange(n + 1), np.arange(m + 1)
    chances = np.outer(binom.pmf(first, n, a), binom.pmf(second, m, b))
    likely = chances > 1e-6  # leaves out at most 1 %
    covered = sum(
        chances[i, j] for i, j in np.argwhere(likely) if a - b in unpaired_difference(i / n, n, j / m, m).interval
    )
    assert covered >= 0.925  # close to 0 and 1, where few outcomes are possible, it is more than 95 %


@pytest.mark.parametrize(("share", "drop", "alpha"), [(0.8, 0.05, 0.05), (0.6, 0.1, 0.05 / 12), (0.95, 0.1, 0.05)])
def test_the_planned_number_of_items_finds_the_drop_as_often_as_planned(
    share: float, drop: float, alpha: float
) -> None:
    items = unpaired_items_needed(share, drop, alpha=alpha)
    rng = np.random.default_rng(1)
    right = rng.binomial(items, share, 1500) / items, rng.binomial(items, share - drop, 1500) / items
    found = [unpaired_difference(a, items, b, items) for a, b in zip(*right, strict=True)]
    power = np.mean([each.interval.low > 0 and each.p_value <= alpha for each in found])
    assert 0.77 <= power <= 0.86


def test_what_a_share_rests_on() -> None:
    assert effective_items(0.5, None, 100) == 100
    assert effective_items(0.5, 0.1, 100) == pytest.approx(25)
    assert effective_items(1.0, 0.0, 100) == 100  # all right: a standard error of 0 is not certainty
    assert effective_items(1.0, 0.0, None) is None
    assert effective_items(0.5, float("nan"), None) is None


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        unpaired_difference(1.2, 10, 0.5, 10)
    with pytest.raises(ValueError, match="items"):
        unpaired_difference(0.5, 10, 0.5, 0)
    with pytest.raises(ValueError, match="effect"):
        unpaired_items_needed(0.5, 0.0)
    with pytest.raises(ValueError, match="power"):
        unpaired_items_needed(0.5, 0.1, power=1.0)
