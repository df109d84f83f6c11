"""The hypervolume of a frontier, and what each configuration adds to it."""

from __future__ import annotations

import pytest

from slim_eval.analysis.pareto.hypervolumes import covered


def test_worked_by_hand() -> None:
    # Scaled: (0, 1), (1, 0) and (0.5, 0.5); dominated: (0.25, 0.25). The reference is (-0.1, -0.1), the box 1.1 by 1.1.
    found = covered([[10, 200], [20, 100], [15, 150], [12.5, 125]], [True, True])
    assert found is not None
    total = 0.1 * 1.1 + 0.5 * 0.6 + 0.5 * 0.1
    assert found.total == pytest.approx(total / 1.21)
    without_first = 0.6 * 0.6 + 0.5 * 0.1  # the first and the second are mirror images
    without_third = 0.1 * 1.1 + 1.0 * 0.1 + 0.25 * 0.25  # the fourth would be on the frontier
    assert found.lost == pytest.approx((1 - without_first / total,) * 2 + (1 - without_third / total, 0))


@pytest.mark.parametrize("maximise", [True, False])
def test_one_that_is_best_in_everything_covers_all(maximise: bool) -> None:
    best, worst = (2.0, 1.0) if maximise else (1.0, 2.0)
    found = covered([[best, best], [worst, worst]], [maximise, maximise])
    assert found is not None
    assert found.total == pytest.approx(1)
    assert found.lost == pytest.approx((1 - (0.1 / 1.1) ** 2, 0))


def test_of_two_equal_ones_neither_would_be_missed() -> None:
    found = covered([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]], [True, True])
    assert found is not None
    assert found.lost[:2] == (0.0, 0.0)
    assert found.lost[2] > 0


def test_where_it_means_nothing_there_is_none() -> None:
    assert covered([[1.0, 2.0]], [True, True]) is None
    assert covered([[n, -n] for n in range(60)], [True, True]) is None
    assert covered([[-1.7e308, 0.0], [1.7e308, 1.0]], [True, True]) is None
