"""Pareto frontiers and volumes against brute force, probabilities against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slim_eval.analysis.pareto import dominance
from slim_eval.analysis.pareto.dominance import (
    DRAWS,
    MIN_DRAWS,
    FrontierState,
    affordable_draws,
    draws_from_intervals,
    hypervolume,
    judge,
    non_dominated,
    share_non_dominated,
)
from tests.generated import examples

NAN = math.nan
Points = list[list[float]]


def dominates(a: Sequence[float], b: Sequence[float], maximise: Sequence[bool]) -> bool:
    """The definition, word for word."""
    pairs = [(x, y) if more else (y, x) for x, y, more in zip(a, b, maximise, strict=True)]
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def brute_force(points: Points, maximise: Sequence[bool]) -> list[bool]:
    whole = [not any(math.isnan(x) for x in point) for point in points]
    rivals = [point for point, complete in zip(points, whole, strict=True) if complete]
    return [
        complete and not any(dominates(other, point, maximise) for other in rivals)
        for point, complete in zip(points, whole, strict=True)
    ]


@st.composite
def problems(draw: st.DrawFn, values: st.SearchStrategy[float], most: int = 40) -> tuple[Points, list[bool]]:
    """Points of 1 to 6 objectives, and the directions of these."""
    d = draw(st.integers(1, 6))
    points = draw(st.lists(st.lists(values, min_size=d, max_size=d), max_size=most))
    return points, draw(st.lists(st.booleans(), min_size=d, max_size=d))


def array(points: Points, maximise: Sequence[bool]) -> np.ndarray:
    return np.array(points, dtype=float).reshape(-1, len(maximise))


@settings(max_examples=examples(400))
@given(problems(st.integers(0, 3)))
def test_ties_and_duplicates_against_brute_force(problem: tuple[Points, list[bool]]) -> None:
    points, maximise = problem
    assert non_dominated(array(points, maximise), maximise).tolist() == brute_force(points, maximise)


@settings(max_examples=examples(300))
@given(problems(st.one_of(st.floats(allow_nan=True), st.sampled_from([0.0, -0.0, 1.0, NAN, math.inf, -math.inf]))))
@example(([[math.inf, math.inf]], [False, False]))
@example(([[0.0, math.inf], [0.0, NAN], [1.0, 1.0]], [False, False]))
def test_any_float_against_brute_force(problem: tuple[Points, list[bool]]) -> None:
    points, maximise = problem
    assert non_dominated(array(points, maximise), maximise).tolist() == brute_force(points, maximise)


@pytest.mark.parametrize("d", range(1, 7))
@pytest.mark.parametrize("shape", ["uniform", "grid", "front"])
def test_many_points_against_brute_force(d: int, shape: str) -> None:
    rng = np.random.default_rng(d)
    points = {
        "uniform": rng.random((300, d)),
        "grid": rng.integers(0, 6, (300, d)).astype(float),
        "front": rng.dirichlet(np.ones(d), 300),  # none dominates another, but for rounding
    }[shape]
    points[::50, d - 1] = NAN
    maximise = [bool(k % 2) for k in range(d)] if shape != "front" else [False] * d
    found = non_dominated(points, maximise)
    assert found.tolist() == brute_force(points.tolist(), maximise)
    assert 0 < found.sum() < len(points)


def test_a_few_points_dominate_thousands() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.random((5000, 3)) + 2
    best = rng.dirichlet(np.ones(3), 150)
    points = np.concatenate([cloud, best])
    assert np.flatnonzero(non_dominated(points, [False] * 3)).tolist() == list(range(5000, 5150))


def test_a_difference_that_a_sum_of_floats_would_lose_still_dominates() -> None:
    points = [[1e16, 1.0, 0.0], [1e16, 0.0, 0.0]]
    assert sum(points[0][:2]) == sum(points[1][:2])
    assert non_dominated(points, [False] * 3).tolist() == [False, True]


def test_equal_points_are_on_the_frontier_together() -> None:
    assert non_dominated([[1, 2], [1, 2], [2, 2]], [False, False]).tolist() == [True, True, False]
    assert non_dominated([[1, 2, 3], [1, 2, 3]], [True, False, True]).tolist() == [True, True]


def test_directions_decide() -> None:
    points = [[0.5, 1.0], [0.7, 2.0], [0.6, 3.0]]
    assert non_dominated(points, [True, False]).tolist() == [True, True, False]
    assert non_dominated(points, [True, True]).tolist() == [False, True, True]
    assert non_dominated(points, [False, False]).tolist() == [True, False, False]


def test_a_point_with_a_missing_value_is_neither_on_the_frontier_nor_dominates() -> None:
    assert non_dominated([[0.0, NAN], [1.0, 1.0]], [False, False]).tolist() == [False, True]
    assert non_dominated([[NAN], [NAN]], [False]).tolist() == [False, False]


def test_no_points_make_no_frontier() -> None:
    for d in range(1, 5):
        assert non_dominated(np.empty((0, d)), [True] * d).tolist() == []


@pytest.mark.parametrize(("values", "maximise"), [([1.0, 2.0], [True]), ([[1.0, 2.0]], [True]), ([[]], [])])
def test_shapes_that_do_not_fit_are_refused(values: list[float], maximise: list[bool]) -> None:
    with pytest.raises(ValueError, match="objectives, got"):
        non_dominated(values, maximise)


# Volumes


def cells_dominated(scaled: np.ndarray) -> float:
    """Volume of the cells between the reference, -0.1, and all coordinates that some point dominates."""
    edges = [np.unique([-0.1, *column]) for column in scaled.T]
    upper = np.array(list(product(*(edge[1:] for edge in edges))))
    widths = np.array(list(product(*(np.diff(edge) for edge in edges)))).prod(axis=1)
    dominated = (scaled[:, None, :] >= upper[None, :, :]).all(axis=2).any(axis=0)
    return float(widths[dominated].sum())


@settings(max_examples=examples(100), deadline=None)
@given(problems(st.integers(0, 3), most=8))
def test_the_volume_and_its_losses_against_counted_cells(problem: tuple[Points, list[bool]]) -> None:
    points, maximise = problem
    found = hypervolume(array(points, maximise), maximise)
    if len(points) < 2:
        assert found is None
        return
    turned = array(points, maximise) * np.where(maximise, 1, -1)
    spans = np.ptp(turned, axis=0)
    scaled = 1 - (turned.max(axis=0) - turned) / np.where(spans > 0, spans, 1)
    volume = cells_dominated(scaled)
    assert found is not None
    assert found.total == pytest.approx(volume / 1.1 ** len(maximise))
    lost = [1 - cells_dominated(np.delete(scaled, index, axis=0)) / volume for index in range(len(points))]
    assert found.lost == pytest.approx(lost, abs=1e-12)


def test_the_volume_worked_by_hand() -> None:
    # Scaled: (0, 1), (1, 0) and (0.5, 0.5); dominated: (0.25, 0.25). The reference is (-0.1, -0.1), the box 1.1 by 1.1.
    found = hypervolume([[10, 200], [20, 100], [15, 150], [12.5, 125]], [True, True])
    assert found is not None
    total = 0.1 * 1.1 + 0.5 * 0.6 + 0.5 * 0.1
    assert found.total == pytest.approx(total / 1.21)
    without_first = 0.6 * 0.6 + 0.5 * 0.1  # the first and the second are mirror images
    without_third = 0.1 * 1.1 + 1.0 * 0.1 + 0.25 * 0.25  # the fourth would be on the frontier
    assert found.lost == pytest.approx((1 - without_first / total,) * 2 + (1 - without_third / total, 0))


def test_the_volume_does_not_depend_on_order_or_on_which_way_is_better() -> None:
    points = np.random.default_rng(0).random((30, 4))
    found = hypervolume(points, [False] * 4)
    turned = hypervolume(1 - points[::-1][:, [2, 0, 3, 1]], [True] * 4)
    assert found is not None
    assert turned is not None
    assert 0.3 < found.total < 1
    assert turned.total == pytest.approx(found.total, rel=1e-12)
    assert turned.lost[::-1] == pytest.approx(found.lost, abs=1e-12)


@pytest.mark.parametrize("maximise", [True, False])
def test_one_that_is_best_in_everything_covers_the_whole_box(maximise: bool) -> None:
    best, worst = (2.0, 1.0) if maximise else (1.0, 2.0)
    found = hypervolume([[best, best], [worst, worst]], [maximise, maximise])
    assert found is not None
    assert found.total == pytest.approx(1)
    assert found.lost == pytest.approx((1 - (0.1 / 1.1) ** 2, 0))


def test_nothing_is_lost_without_one_of_two_equal_ones() -> None:
    found = hypervolume([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]], [True, True])
    assert found is not None
    assert found.lost[:2] == (0.0, 0.0)
    assert found.lost[2] > 0


def test_no_volume_of_one_variant_of_a_large_frontier_or_of_an_infinite_span() -> None:
    assert hypervolume([[1.0, 2.0]], [True, True]) is None
    assert hypervolume([[n, -n] for n in range(60)], [True, True]) is None
    assert hypervolume([[n, -n] for n in range(30)], [True, True]) is not None
    assert hypervolume([[-1.7e308, 0.0], [1.7e308, 1.0]], [True, True]) is None


# Probabilities


def probabilities(values: Points, spreads: Points, maximise: list[bool], seed: int = 0) -> np.ndarray:
    """P(non-dominated) of normal measurements with some standard deviations."""
    points, half = np.array(values), NormalDist().inv_cdf(0.975) * np.array(spreads)
    return share_non_dominated(draws_from_intervals(points, points - half, points + half, DRAWS, seed), maximise)


def close_to(probability: float, draws: int = 2000) -> object:
    """Within five standard errors of a share of that many draws."""
    return pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / draws))


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0])
def test_probability_of_two_in_one_objective_is_that_of_a_normal_difference(gap: float) -> None:
    less = NormalDist().cdf(gap / math.hypot(0.6, 0.8))
    found = probabilities([[1.0], [1.0 + gap]], [[0.6], [0.8]], [False])
    assert found.tolist() == [close_to(less), close_to(1 - less)]
    more = probabilities([[1.0], [1.0 + gap]], [[0.6], [0.8]], [True])
    assert more.tolist() == [close_to(1 - less), close_to(less)]


def test_probability_of_two_in_three_objectives_is_that_of_not_being_worse_in_all() -> None:
    values, spreads, maximise = [[0.0, 0.0, 0.0], [1.0, 0.5, 0.2]], [[1.0, 0.3, 0.4]] * 2, [False, True, False]
    worse = [
        NormalDist().cdf((a - b) * (-1 if more else 1) / (math.sqrt(2) * s))
        for a, b, s, more in zip(*values, spreads[0], maximise, strict=True)
    ]
    found = probabilities(values, spreads, maximise)
    assert found.tolist() == [close_to(1 - math.prod(worse)), close_to(1 - math.prod(1 - p for p in worse))]


def test_one_of_several_equals_is_the_best_as_often_as_another() -> None:
    found = probabilities([[1.0]] * 5, [[0.1]] * 5, [False])
    assert found.tolist() == [close_to(0.2)] * 5
    assert found.sum() == pytest.approx(1)


def test_a_value_without_a_spread_stays_where_it_is() -> None:
    found = probabilities([[1.0], [2.0]], [[NAN], [0.5]], [False])
    assert found[0] == close_to(1 - NormalDist(2, 0.5).cdf(1))
    assert probabilities([[1.0], [2.0], [1.0]], [[NAN]] * 3, [False]).tolist() == [1, 0, 1]


def test_a_missing_value_has_no_probability_and_takes_none_away() -> None:
    found = probabilities([[1.0, 1.0], [0.0, NAN]], [[0.1, 0.1]] * 2, [False, False])
    assert found[0] == 1
    assert math.isnan(found[1])


def test_the_same_seed_draws_the_same() -> None:
    def shares(seed: int) -> list[float]:
        return probabilities([[1.0], [1.1]], [[0.3], [0.3]], [False], seed=seed).tolist()

    assert shares(1) == shares(1)
    assert shares(1) != shares(2)


@pytest.mark.parametrize("d", range(1, 7))
def test_shares_are_the_mean_of_the_draws_one_by_one(d: int) -> None:
    draws = np.random.default_rng(d).integers(0, 4, (25, 8, d)).astype(float)
    draws[3, 2, d - 1] = NAN  # missing once is missing
    maximise = [bool(k % 2) for k in range(d)]
    there = [0, 1, 3, 4, 5, 6, 7]
    expected = np.mean([brute_force(draw[there].tolist(), maximise) for draw in draws], axis=0)
    found = share_non_dominated(draws, maximise)
    assert found[there].tolist() == pytest.approx(expected.tolist())
    assert math.isnan(found[2])


@pytest.mark.parametrize("d", range(1, 5))
def test_both_ways_to_share_agree(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(d).integers(0, 5, (70, 90, d)).astype(float)  # more draws than go at once
    maximise = [bool(k % 2) for k in range(d)]
    monkeypatch.setattr(dominance, "_PAIRWISE_POINTS", 90)
    pairwise = share_non_dominated(draws, maximise)
    monkeypatch.setattr(dominance, "_PAIRWISE_POINTS", 0)
    assert share_non_dominated(draws, maximise).tolist() == pytest.approx(pairwise.tolist())
    assert 0 < pairwise.max() <= 1


def test_draws_without_a_draw_or_of_another_shape_are_refused() -> None:
    for draws in (np.empty((0, 2, 1)), np.ones((3, 2)), np.ones((3, 2, 2))):
        with pytest.raises(ValueError, match="draws must be"):
            share_non_dominated(draws, [True])


def test_intervals_give_draws_with_their_quantiles_on_both_sides() -> None:
    draws = draws_from_intervals([[10.0, 5.0]], [[8.0, NAN]], [[11.0, 6.0]], 40_000)
    assert draws.shape == (40_000, 1, 2)
    low, middle, high = np.percentile(draws[:, 0, 0], [2.5, 50, 97.5])
    assert (low, middle, high) == (pytest.approx(8, abs=0.1), pytest.approx(10, abs=0.02), pytest.approx(11, abs=0.05))
    assert set(draws[:, 0, 1]) == {5.0}  # one end alone is no interval


def test_an_end_on_the_wrong_side_counts_as_equal_to_the_value() -> None:
    draws = draws_from_intervals([[1.0]], [[1.1]], [[1.2]], 500)
    assert draws.min() == 1.0
    assert draws.max() > 1.1


def test_symmetric_intervals_and_their_spreads_are_one_distribution() -> None:
    half = NormalDist().inv_cdf(0.975) * 0.2
    draws = draws_from_intervals([[3.0]], [[3 - half]], [[3 + half]], 40_000)
    assert draws.std() == pytest.approx(0.2, rel=0.02)
    assert draws.mean() == pytest.approx(3, abs=0.005)


def test_intervals_of_another_shape_are_refused() -> None:
    for lows, highs in (([[1.0, 2.0]], [[1.0, 2.0]]), ([[1.0]], [[1.0], [2.0]])):
        with pytest.raises(ValueError, match="must all be"):
            draws_from_intervals([[1.0]], lows, highs, 10)
        with pytest.raises(ValueError, match="must all be"):
            judge([[1.0]], lows, highs, [True])


def test_the_budget_caps_draws_but_never_below_the_least() -> None:
    assert affordable_draws((60, 4), 2000) == 2000
    assert affordable_draws((2000, 4), 2000) == 1250  # 2e10 / (2000² x 4)
    assert affordable_draws((50_000, 6), 2000) == MIN_DRAWS
    assert affordable_draws((50_000, 6), 50) == 50
    assert affordable_draws((0, 3), 2000) == 2000


def test_many_variants_are_drawn_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = dominance.draws_from_intervals

    def spy(*args: object) -> np.ndarray:
        made = original(*args)  # type: ignore[arg-type]
        asked.append(len(made))
        return made

    monkeypatch.setattr(dominance, "draws_from_intervals", spy)
    values = np.random.default_rng(0).random((5000, 2))
    values[7] = [2.0, -1.0]  # beyond all the others
    found = [verdict.probability for verdict in judge(values, values - 0.02, values + 0.02, [True, False]) if verdict]
    assert asked == [400]  # 2e10 / (5000² x 2)
    assert found[7] == 1
    assert max(p for index, p in enumerate(found) if index != 7 and p is not None) == 0


def test_verdicts_are_on_the_frontier_dominated_or_inconclusive() -> None:
    values = np.array([[1.0, 0.9], [2.0, 0.5], [1.01, 0.9], [NAN, 0.9]])
    half = np.array([[0.05, 0.001]] * 4)
    best, worst, near, missing = judge(values, values - half, values + half, [False, True])
    assert best is not None
    assert worst is not None
    assert near is not None
    assert missing is None
    assert (worst.state, worst.probability, worst.certain, worst.on_frontier) == (
        FrontierState.DOMINATED,
        0,
        True,
        False,
    )
    assert (near.state, near.certain, near.on_frontier) == (FrontierState.INCONCLUSIVE, False, False)
    assert (best.state, best.on_frontier) == (FrontierState.INCONCLUSIVE, True)
    (alone,) = judge([[1.0]], [[0.9]], [[1.1]], [True])
    assert alone is not None
    assert (alone.state, alone.probability, alone.certain) == (FrontierState.ON_FRONTIER, 1, True)


def test_without_any_uncertainty_the_point_values_decide_and_it_is_marked() -> None:
    none = [[NAN], [NAN], [NAN]]
    first, second, third = judge([[1.0], [2.0], [NAN]], none, none, [True])
    assert second is not None
    assert first is not None
    assert third is None
    assert (first.state, first.probability, first.certain) == (FrontierState.DOMINATED, None, None)
    assert (second.state, second.probability, second.certain) == (FrontierState.ON_FRONTIER, None, None)


def test_the_uncertainty_of_a_rival_is_enough() -> None:
    first, second = judge([[1.0], [1.1]], [[NAN], [0.9]], [[NAN], [1.3]], [True])
    assert first is not None
    assert second is not None
    assert first.probability == close_to(NormalDist(1.1, 0.2 / NormalDist().inv_cdf(0.975)).cdf(1.0))
    assert first.state is second.state is FrontierState.INCONCLUSIVE


def test_an_interval_of_a_variant_that_is_not_compared_does_not_count() -> None:
    first, missing = judge([[1.0, 1.0], [1.0, NAN]], [[NAN, NAN], [0.9, NAN]], [[NAN, NAN], [1.1, NAN]], [True, True])
    assert first is not None
    assert missing is None
    assert first.certain is None


@pytest.mark.parametrize(
    ("probability", "state"),
    [
        (1.0, FrontierState.ON_FRONTIER), (0.95, FrontierState.ON_FRONTIER), (0.949, FrontierState.INCONCLUSIVE),
        (0.051, FrontierState.INCONCLUSIVE),
        (0.05, FrontierState.DOMINATED), (0.0, FrontierState.DOMINATED),
    ],
)  # fmt: skip
def test_states_begin_at_their_bounds(
    probability: float, state: FrontierState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dominance, "share_non_dominated", lambda *_: np.array([probability]))
    (verdict,) = judge([[1.0]], [[0.0]], [[2.0]], [True])
    assert verdict is not None
    assert verdict.state is state
    assert verdict.certain is (state is not FrontierState.INCONCLUSIVE)
