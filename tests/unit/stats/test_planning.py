"""Planning, by hand, as inverses of each other, and by running the experiments that were planned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from slim_eval.stats import items_needed, items_to_decide, mcnemar_p_value, minimum_detectable_drop, paired_difference

RUNS = 2000


def _power(items: int, drop: float, flip_rate: float) -> float:
    """Share of simulated comparisons in which McNemar's test finds the drop."""
    rng = np.random.default_rng(0)
    lost, gained = (flip_rate + drop) / 2, (flip_rate - drop) / 2
    flips = rng.multinomial(items, [lost, gained, 1 - flip_rate], RUNS)[:, :2]
    kinds, counts = np.unique(flips, axis=0, return_counts=True)
    found = [mcnemar_p_value(int(losses), int(gains)) <= 0.05 for losses, gains in kinds]
    return float(counts[found].sum() / RUNS)


@pytest.mark.parametrize(
    ("drop", "flip_rate"), [(0.01, 0.05), (0.02, 0.10), (0.05, 0.10), (0.09, 0.10), (0.05, 0.20), (0.2, 0.2)]
)
@pytest.mark.large
def test_the_planned_number_of_items_finds_the_drop_as_often_as_planned(drop: float, flip_rate: float) -> None:
    assert 0.75 <= _power(items_needed(drop, flip_rate=flip_rate), drop, flip_rate) <= 0.87


def test_half_of_the_items_find_it_less_often() -> None:
    assert _power(items_needed(0.02, flip_rate=0.1) // 2, 0.02, 0.1) < 0.6


def test_a_hundred_items_see_nine_points() -> None:
    assert minimum_detectable_drop(100) == pytest.approx(0.09, abs=0.005)
    assert minimum_detectable_drop(400) == pytest.approx(0.045, abs=0.003)


def test_many_items_follow_the_normal_approximation() -> None:
    quantiles = norm.ppf(0.975) + norm.ppf(0.8)
    assert minimum_detectable_drop(10**6) == pytest.approx(quantiles * np.sqrt(0.1 / 10**6), rel=1e-4)
    assert items_needed(0.001, flip_rate=0.1) == pytest.approx(quantiles**2 * 0.1 / 0.001**2, rel=1e-3)


def test_a_drop_needs_as_many_flips_as_it_is_large() -> None:
    assert items_needed(0.3, flip_rate=0.1) == items_needed(0.3, flip_rate=0.3) == items_needed(0.3, flip_rate=0.0)
    assert items_needed(0.3, flip_rate=0.4) > items_needed(0.3, flip_rate=0.3)


def test_too_few_items_see_nothing() -> None:
    assert minimum_detectable_drop(1) == minimum_detectable_drop(3) == 1.0
    assert minimum_detectable_drop(4) < 1.0


@settings(deadline=None)
@given(st.integers(4, 10**6), st.floats(0, 1), st.floats(0.5, 0.99), st.floats(0.001, 0.5))
def test_the_two_are_inverses(items: int, flip_rate: float, power: float, alpha: float) -> None:
    drop = minimum_detectable_drop(items, flip_rate=flip_rate, power=power, alpha=alpha)
    assert 0 < drop <= 1
    if drop < 1:
        again = items_needed(drop, flip_rate=flip_rate, power=power, alpha=alpha)
        assert again == pytest.approx(items, rel=1e-4, abs=1)


@settings(deadline=None)
@given(st.floats(0.001, 0.99), st.floats(0.001, 1), st.floats(1.001, 2))
def test_smaller_drops_more_flips_and_more_power_take_more_items(drop: float, flip_rate: float, more: float) -> None:
    items = items_needed(drop, flip_rate=flip_rate)
    assert items >= 1
    assert items_needed(drop / more, flip_rate=flip_rate) >= items
    assert items_needed(drop, flip_rate=min(1.0, flip_rate * more)) >= items
    assert items_needed(drop, flip_rate=flip_rate, power=0.9) >= items
    assert items_needed(drop, flip_rate=flip_rate, alpha=0.01) >= items
    assert minimum_detectable_drop(items + 1, flip_rate=flip_rate) <= drop + 1e-9


@pytest.mark.parametrize("effect", [0.0, -0.01, 1.01, float("nan")])
def test_an_effect_that_is_no_drop_is_refused(effect: float) -> None:
    with pytest.raises(ValueError, match="effect"):
        items_needed(effect, flip_rate=0.1)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_items"):
        minimum_detectable_drop(0)
    with pytest.raises(ValueError, match="flip_rate"):
        minimum_detectable_drop(100, flip_rate=1.5)
    with pytest.raises(ValueError, match="power"):
        minimum_detectable_drop(100, power=1.0)
    with pytest.raises(ValueError, match="alpha"):
        items_needed(0.1, flip_rate=0.1, alpha=0.0)


def _decided(items: int, drop: float, flip_rate: float, clusters: int, spread: float, alpha: float, runs: int) -> float:
    """Share of simulated comparisons whose interval is above 0 and whose p-value is at most `alpha`.

    The drops of the clusters have the standard deviation `spread`; 0 clusters are independent items.
    """
    rng = np.random.default_rng(2)
    members = np.arange(items) % max(clusters, 1)
    hits = 0
    for _ in range(runs):
        drops = np.clip(drop + spread * rng.standard_normal(max(clusters, 1)), -flip_rate, flip_rate)[members]
        chance = rng.random(items)
        lost = chance < (flip_rate + drops) / 2
        gained = (chance < flip_rate) & ~lost
        same = (rng.random(items) < 0.6) & ~lost & ~gained
        found = paired_difference(same + lost * 1.0, same + gained * 1.0, members.tolist() if clusters else None)
        hits += found.interval is not None and found.interval.low > 0 and (found.p_value or 0.0) <= alpha
    return hits / runs


@pytest.mark.parametrize(
    ("drop", "flip_rate", "clusters", "alpha"),
    [
        (0.05, 0.1, 0, 0.05 / 6),
        (0.03, 0.06, 0, 0.05),
        (0.05, 0.1, 3, 0.05),
        (0.05, 0.2, 4, 0.05 / 8),
        (0.05, 0.1, 20, 0.05),
    ],
)
def test_the_number_that_a_verdict_names_decides(drop: float, flip_rate: float, clusters: int, alpha: float) -> None:
    items = items_to_decide(drop, flip_rate=flip_rate, num_items=100, num_clusters=clusters or None, alpha=alpha)
    assert items is not None
    assert 0.75 <= _decided(items, drop, flip_rate, clusters, 0.0, alpha, 300) <= 0.88


def test_few_subtasks_that_differ_need_more_items_or_further_subtasks() -> None:
    drop, flip_rate, clusters, spread = 0.05, 0.12, 6, 0.015
    between = spread**2 / (flip_rate - drop**2) / clusters  # of the variance of the mean, over that of an item
    plan = {"flip_rate": flip_rate, "num_items": 600, "num_clusters": clusters}
    items = items_to_decide(drop, design_effect=1 + 600 * between, **plan)
    alone = items_to_decide(drop, **plan)
    assert items is not None
    assert alone is not None
    assert items > alone > items_needed(drop, flip_rate=flip_rate)
    assert 0.73 <= _decided(items, drop, flip_rate, clusters, spread, 0.05, 300) <= 0.88
    assert items_to_decide(0.01, design_effect=1 + 600 * between, **plan) is None  # no number of items of these six


def test_a_plan_for_a_verdict_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"num_items": 0}, {"num_clusters": 1}, {"design_effect": 0.5}):
        with pytest.raises(ValueError, match="two clusters"):
            items_to_decide(0.1, **({"flip_rate": 0.1, "num_items": 100} | wrong))
    with pytest.raises(ValueError, match="effect"):
        items_to_decide(0.0, flip_rate=0.1, num_items=100)
