"""Paired comparisons, against statsmodels and SciPy, by hand, and by counting how often they are right."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.special import rel_entr, softmax
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from slim_eval import stats
from slim_eval.stats import (
    Interval,
    PairedDifference,
    answer_kl,
    clustered_stderr,
    holm,
    mcnemar_p_value,
    paired_difference,
)
from tests.generated import examples

Array = npt.NDArray[np.float64]
RUNS = 2000
# `make check` simulates fewer runs, whose share scatters more: 0.02 is nearly twice its standard error there.
SIMULATED = examples(RUNS)
SLACK = 0.0 if SIMULATED >= RUNS else 0.02

answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
graded = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)
probabilities = st.lists(st.none() | st.floats(0, 1), max_size=20)


def _pairs(lost: int, gained: int, same: int) -> tuple[list[int], list[int]]:
    """Answers of two runs with so many flips."""
    return [1] * lost + [0] * gained + [1] * same, [0] * lost + [1] * gained + [1] * same


@cache
def _of_counts(lost: int, gained: int, same: int) -> PairedDifference:
    return paired_difference(*_pairs(lost, gained, same))


def _simulated(items: int, flip_rate: float, drop: float) -> list[PairedDifference]:
    shares = [(flip_rate + drop) / 2, (flip_rate - drop) / 2, 1 - flip_rate]
    runs = np.random.default_rng(0).multinomial(items, shares, RUNS)
    return [_of_counts(*map(int, counts)) for counts in runs]


def _share(found: list[PairedDifference], truth: float) -> float:
    return float(np.mean([each.interval is not None and truth in each.interval for each in found]))


@pytest.mark.parametrize("items", [100, 400])
@pytest.mark.parametrize("drop", [0.0, 0.01, 0.03, 0.05])
def test_intervals_of_right_and_wrong_hold_what_they_promise(items: int, drop: float) -> None:
    assert 0.93 <= _share(_simulated(items, 0.10, drop), drop) <= 0.97


@pytest.mark.parametrize(("items", "flip_rate", "drop"), [(20, 0.05, 0.02), (100, 0.01, 0.005), (400, 0.002, 0.0)])
def test_with_hardly_any_flips_intervals_are_on_the_safe_side(items: int, flip_rate: float, drop: float) -> None:
    # The added flip of each kind outweighs the few real ones: no method is exact where most runs see no flip at all.
    assert _share(_simulated(items, flip_rate, drop), drop) >= 0.95


@pytest.mark.parametrize(("items", "flip_rate"), [(50, 0.05), (100, 0.10), (400, 0.10), (1000, 0.2)])
@pytest.mark.large
def test_mcnemar_gives_no_more_false_alarms_than_agreed(items: int, flip_rate: float) -> None:
    p_values = [found.p_value for found in _simulated(items, flip_rate, 0.0)]
    assert np.mean([value is not None and value <= 0.05 for value in p_values]) <= 0.05


def _subjects(rng: np.random.Generator, sizes: npt.NDArray[np.int64]) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Answers of two runs that differ more in some subjects than in others; the mean drop is 2 points."""
    subjects = np.repeat(np.arange(sizes.size), sizes)
    lost = rng.beta(0.6, 9.4, sizes.size)[subjects]  # 6 % on average, from hardly any to a third
    gained = rng.beta(0.4, 9.6, sizes.size)[subjects]
    draw = rng.random(subjects.size)
    a = np.where(draw < lost, 1.0, np.where(draw < lost + gained, 0.0, 1.0))
    b = np.where(draw < lost, 0.0, 1.0)
    return a, b, subjects


def _covered(found: PairedDifference, truth: float) -> bool:
    return found.interval is not None and truth in found.interval


@pytest.mark.large
def test_clustered_intervals_hold_what_they_promise_and_unclustered_ones_do_not() -> None:
    rng, sizes = np.random.default_rng(0), np.tile([15, 20, 25], 19)
    clustered, unclustered = [], []
    for _ in range(SIMULATED):
        a, b, subjects = _subjects(rng, sizes)
        clustered.append(_covered(paired_difference(a, b, subjects.tolist()), 0.02))
        unclustered.append(_covered(paired_difference(a, b), 0.02))
    assert 0.93 - SLACK <= np.mean(clustered) <= 0.97 + SLACK
    assert np.mean(unclustered) < 0.90


@pytest.mark.parametrize("clusters", [None, 20])
def test_intervals_of_graded_scores_hold_what_they_promise(clusters: int | None) -> None:
    rng = np.random.default_rng(0)
    labels = None if clusters is None else np.repeat(np.arange(clusters), 3).tolist()
    found = []
    for _ in range(SIMULATED):
        a, b = rng.beta(4, 2, 60), rng.beta(4, 2, 60)
        if clusters is not None:
            a += np.repeat(rng.normal(0, 0.2, clusters), 3)
        found.append(paired_difference(a, b, labels))
    assert 0.93 - SLACK <= _share(found, 0.0) <= 0.97 + SLACK
    alarms = np.mean([each.p_value is not None and each.p_value <= 0.05 for each in found])
    assert 0.03 - SLACK <= alarms <= 0.07 + SLACK


def test_the_published_example_of_the_adjusted_wald_interval() -> None:
    # R, statpsych::ci.prop.ps(.05, 12, 4, 26, 6): 0.2548067 to 0.6251933.
    found = paired_difference(*_pairs(26, 4, 18)).interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)


def test_right_and_wrong_answers_by_hand() -> None:
    found = paired_difference([1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1])
    differences = np.array([1, 1, 0, -1, 0, 1, 0, 0])
    assert (found.num_items, found.lost, found.gained, found.num_clusters) == (8, 3, 1, 8)
    assert found.difference == 0.25
    assert found.flips == 0.5
    assert found.p_value == pytest.approx(0.625)
    assert found.stderr == pytest.approx(differences.std(ddof=1) / np.sqrt(8))


def test_booleans_are_right_and_wrong() -> None:
    a, b = np.array([True, True, False]), np.array([True, False, False])
    assert paired_difference(a, b) == paired_difference([1.0, 1.0, 0.0], [1, 0, 0])


def test_graded_scores_by_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    found, peer = paired_difference(a, b), scipy_stats.ttest_rel(a, b)
    expected = peer.confidence_interval()
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value == pytest.approx(peer.pvalue)
    assert (found.lost, found.gained, found.flips) == (None, None, None)


def test_one_item_says_little() -> None:
    same, lost = paired_difference([1], [1]), paired_difference([1], [0])
    for found in (same, lost):
        assert found.interval is not None
        assert found.interval.half_width > 0.5
        assert (found.stderr, found.p_value) == (None, 1.0)
    assert lost.difference == 1.0
    graded_item = paired_difference([0.7], [0.4])
    assert graded_item.difference == pytest.approx(0.3)
    assert (graded_item.interval, graded_item.stderr, graded_item.p_value) == (None, None, None)


@pytest.mark.parametrize("value", [0, 1])
def test_no_flips_among_few_items_are_no_certainty(value: int) -> None:
    few, many = paired_difference([value] * 10, [value] * 10), paired_difference([value] * 1000, [value] * 1000)
    assert few.interval is not None
    assert many.interval is not None
    assert (few.difference, few.flips, few.p_value) == (0.0, 0.0, 1.0)
    assert 0.1 < few.interval.half_width < 0.3
    assert 0 < many.interval.half_width < 0.005


def test_everything_lost_stays_inside_what_is_possible() -> None:
    found = paired_difference([1] * 50, [0] * 50)
    assert found.interval is not None
    assert 0.8 < found.interval.low < found.interval.high == found.difference == 1.0
    assert paired_difference([1], [0]).interval == Interval(pytest.approx(-0.7338, abs=1e-3), 1.0)  # type: ignore[arg-type]


def test_constant_graded_differences_are_certain() -> None:
    assert paired_difference([0.5, 0.25], [0.5, 0.25]).interval == Interval(0.0, 0.0)
    assert paired_difference([0.5, 0.25], [0.5, 0.25]).p_value == 1.0
    found = paired_difference([0.75, 0.5], [0.5, 0.25])
    assert (found.interval, found.p_value) == (Interval(0.25, 0.25), 0.0)


def test_copies_of_an_item_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(200) < 0.7).astype(float), (rng.random(200) < 0.6).astype(float)
    alone = paired_difference(a, b)
    together = paired_difference(np.repeat(a, 5), np.repeat(b, 5), np.repeat(np.arange(200), 5).tolist())
    assert alone.interval is not None
    assert together.interval is not None
    assert together.stderr == pytest.approx(alone.stderr, rel=0.01)
    assert together.interval.half_width == pytest.approx(alone.interval.half_width, rel=0.02)
    assert together.num_clusters == 200


def test_items_that_are_their_own_clusters_are_not_clustered() -> None:
    a, b = _pairs(9, 4, 30)
    assert paired_difference(a, b, [f"item {number}" for number in range(43)]) == paired_difference(a, b)


def test_clusters_never_make_surer() -> None:
    a, b = [0.9, 0.1, 0.8, 0.2] * 5, [0.5] * 20  # both clusters have the same mean
    plain, clustered = paired_difference(a, b), paired_difference(a, b, [1, 1, 2, 2] * 5)
    assert clustered.stderr == plain.stderr
    assert clustered.interval is not None
    assert plain.interval is not None
    assert clustered.interval.half_width > plain.interval.half_width  # one degree of freedom


def test_one_cluster_has_nothing_to_tell_its_effect_from() -> None:
    found = paired_difference(*_pairs(3, 1, 4), ["algebra"] * 8)
    assert (found.interval, found.stderr, found.num_clusters) == (None, None, 1)
    assert found.difference == 0.25
    assert paired_difference([0.5, 0.1], [0.2, 0.3], [0, 0]).p_value is None


@pytest.mark.parametrize(
    ("a", "b", "clusters", "message"),
    [
        ([1, 0], [1], None, "one entry per item"),
        ([1, 0], [1, 0], ["x"], "one entry per item"),
        ([], [], None, "at least one item"),
        ([[1, 0]], [[1, 0]], None, "one number per item"),
        ([1, math.nan], [1, 0], None, "finite"),
        ([1, 0], [math.inf, 0], None, "finite"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float], clusters: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b, clusters)


def _mirrored(found: PairedDifference) -> PairedDifference:
    interval = found.interval and Interval(-found.interval.high, -found.interval.low)
    return replace(found, difference=-found.difference, interval=interval, lost=found.gained, gained=found.lost)


def _assert_close(found: PairedDifference, expected: PairedDifference) -> None:
    for name, value in vars(found).items():
        other = getattr(expected, name)
        if isinstance(value, Interval):
            assert (value.low, value.high) == pytest.approx((other.low, other.high), abs=1e-12)
        else:
            assert value == (None if other is None else pytest.approx(other, abs=1e-9))


@settings(deadline=None)
@given(answers | graded, st.integers(1, 6))
def test_swapping_the_runs_mirrors_the_difference(pairs: list[tuple[float, float]], clusters: int) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    labels = [number % clusters for number in range(len(pairs))]
    _assert_close(paired_difference(b, a, labels), _mirrored(paired_difference(a, b, labels)))


@settings(deadline=None)
@given(answers)
def test_the_difference_lies_in_its_interval(pairs: list[tuple[int, int]]) -> None:
    found = paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert found.interval is not None
    assert -1 <= found.interval.low <= found.difference <= found.interval.high <= 1


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (5, 0), (0, 6), (12, 4), (7, 7), (300, 250)])
def test_mcnemar_agrees_with_statsmodels(lost: int, gained: int) -> None:
    assert mcnemar_p_value(lost, gained) == pytest.approx(mcnemar([[9, lost], [gained, 9]], exact=True).pvalue)
    assert mcnemar_p_value(lost, gained) == mcnemar_p_value(gained, lost)


def test_mcnemar_without_flips_and_with_impossible_ones() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_p_value(-1, 3)


def test_the_clustered_error_is_that_of_a_regression() -> None:
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 57, 1000)
    values = rng.random(1000) + rng.normal(0, 0.3, 57)[codes]
    fit = OLS(values, np.ones(1000)).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
    names = [f"subject {code}" for code in codes]
    assert clustered_stderr(values, names) == pytest.approx(float(fit.bse[0]))
    assert paired_difference(values, np.zeros(1000), names).stderr == pytest.approx(fit.bse[0] * np.sqrt(57 / 56))


def test_the_clustered_error_of_independent_items_is_the_usual_one() -> None:
    values = np.random.default_rng(0).random(40)
    usual = values.std(ddof=1) / np.sqrt(40)
    assert clustered_stderr(values, list(range(40))) == pytest.approx(usual * np.sqrt(39 / 40))


def test_the_clustered_error_needs_two_clusters_and_matching_lengths() -> None:
    assert clustered_stderr([1.0, 2.0], ["x", "x"]) is None
    assert clustered_stderr([1.0], ["x"]) is None
    with pytest.raises(ValueError, match="one entry per item"):
        clustered_stderr([1.0, 2.0], ["x"])
    with pytest.raises(ValueError, match="at least one item"):
        clustered_stderr([], [])


@given(probabilities)
def test_holm_is_ordered_and_never_lower(values: list[float | None]) -> None:
    adjusted = holm(values)
    assert [value is None for value in values] == [value is None for value in adjusted]
    pairs = sorted((raw, new) for raw, new in zip(values, adjusted, strict=True) if raw is not None and new is not None)
    assert all(raw <= new <= 1 for raw, new in pairs)
    assert [new for _, new in pairs] == sorted(new for _, new in pairs)


@pytest.mark.parametrize("raw", [[0.03, 0.001, 0.2, 0.04, 0.9], [0.01] * 4, [1.0, 0.0, 0.5], [0.04]])
def test_holm_leaves_the_numbers_of_statsmodels_in_their_places(raw: list[float]) -> None:
    expected = multipletests(raw, method="holm")[1].tolist()
    assert holm([None, *raw[:2], None, *raw[2:]]) == [None, *expected[:2], None, *expected[2:]]


def test_holm_agrees_with_statsmodels_on_many_values() -> None:
    rng = np.random.default_rng(0)
    for number in range(2, 40):
        raw = rng.choice(np.round(rng.uniform(0, 1, number) ** 3, 4), number)  # with ties
        assert holm(raw.tolist()) == pytest.approx(multipletests(raw, method="holm")[1].tolist(), rel=1e-12)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([None]) == [None]
    assert holm([0.03, None, 0.01, 0.04]) == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    for value in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            holm([0.5, value])


def test_divergence_agrees_with_scipy_and_is_in_nats() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(-5, 2, (50, 4)), rng.normal(-5, 2, (50, 4))
    expected = rel_entr(softmax(p, axis=1), softmax(q, axis=1)).sum(axis=1).mean()
    assert answer_kl(p.tolist(), q.tolist()) == pytest.approx(expected)
    assert answer_kl([[0.0, 0.0]], [[math.log(3), 0.0]]) == pytest.approx(math.log(2) - math.log(3) / 2)


def test_divergence_over_items_of_different_numbers_of_choices() -> None:
    items = [([0.0, 1.0], [0.5, 0.2]), ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]), ([0.1, 0.2], [0.3, 0.1])]
    alone = [answer_kl([p], [q]) for p, q in items]
    together = answer_kl([p for p, _ in items], [q for _, q in items])
    assert together == pytest.approx(np.mean([value for value in alone if value is not None]))


def test_divergence_does_not_overflow() -> None:
    assert answer_kl([[-1000.0, 0.0]], [[0.0, -1000.0]]) == pytest.approx(1000.0)
    assert answer_kl([[-5000.0, -5001.0]], [[-9000.0, -9001.0]]) == pytest.approx(0.0, abs=1e-12)


def test_divergence_leaves_out_what_is_not_finite() -> None:
    p, q = [[0.0, 1.0], [math.nan, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [-math.inf, 0.0]]
    assert answer_kl(p, q) == answer_kl(p[:1], q[:1])
    assert answer_kl(p[1:], q[1:]) is None
    assert answer_kl([], []) is None
    assert answer_kl([[]], [[]]) is None


@pytest.mark.parametrize(
    ("p", "q"), [([[0.0, 1.0]], []), ([[0.0, 1.0]], [[0.0]]), ([[0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0]])]
)
def test_divergence_of_different_choices_is_refused(p: list[list[float]], q: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="same choices"):
        answer_kl(p, q)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-50, 0), min_size=4, max_size=4), min_size=1, max_size=10))
def test_divergence_is_never_negative_and_none_from_itself(items: list[list[float]]) -> None:
    assert answer_kl(items, items) == 0.0
    assert answer_kl(items, [[value + 3 for value in row] for row in items]) == pytest.approx(0.0, abs=1e-9)
    other = answer_kl(items, [row[::-1] for row in items])
    assert other is not None
    assert other >= 0


def _documents(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihoods of two runs on n documents of very different lengths; the second needs `effect` nats more a word.

    A document of many words differs by more, and some documents suffer more than others.
    """
    words = np.ceil(rng.lognormal(5, 1, n))
    first = -words * rng.normal(3, 0.4, n)
    own = rng.normal(effect, 0.05, n)
    return first, first - words * own, words


def test_the_interval_of_a_ratio_of_perplexities_covers_the_true_one() -> None:
    rng = np.random.default_rng(7)
    covered = bits_covered = 0
    for _ in range(400):
        a, b, words = _documents(rng, 62, 0.02)
        found = stats.perplexity_ratio(a, b, words)
        assert found.interval is not None
        covered += math.exp(0.02) in found.interval
        bits = stats.total_ratio(a, b)
        assert bits.interval is not None
        bits_covered += (1 + 0.02 / 3) in bits.interval
    assert 0.91 <= covered / 400 <= 0.985
    assert 0.91 <= bits_covered / 400 <= 0.985


def test_a_ratio_of_perplexities_is_that_of_the_perplexities() -> None:
    a, b, words = _documents(np.random.default_rng(1), 30, 0.1)
    perplexity = [math.exp(-side.sum() / words.sum()) for side in (a, b)]
    found = stats.perplexity_ratio(a, b, words)
    assert found.ratio == pytest.approx(perplexity[1] / perplexity[0])
    back = stats.perplexity_ratio(b, a, words)
    assert found.interval is not None
    assert back.interval is not None
    assert back.interval.low == pytest.approx(1 / found.interval.high)
    assert stats.total_ratio(a, b).ratio == pytest.approx(b.sum() / a.sum())


def test_the_same_log_likelihoods_have_a_ratio_of_exactly_one() -> None:
    a, _, words = _documents(np.random.default_rng(1), 30, 0.1)
    for found in (stats.perplexity_ratio(a, a, words), stats.total_ratio(a, a)):
        assert (found.ratio, found.interval, found.p_value) == (1.0, stats.Interval(1.0, 1.0), 1.0)


def test_one_document_has_no_interval() -> None:
    found = stats.perplexity_ratio([-10.0], [-11.0], [5.0])
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert (found.interval, found.p_value) == (None, None)


def test_documents_of_one_cluster_widen_the_interval() -> None:
    a, _, words = _documents(np.random.default_rng(3), 40, 0.0)
    clusters = [n // 10 for n in range(40)]
    b = a - words * np.array([0.02 * (1 + cluster) for cluster in clusters])
    single, grouped = stats.perplexity_ratio(a, b, words), stats.perplexity_ratio(a, b, words, clusters)
    assert single.interval is not None
    assert grouped.interval is not None
    assert grouped.interval.half_width > 2 * single.interval.half_width
