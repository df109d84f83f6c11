"""Money and joules, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from slim_eval.analysis.recommend.cost import Prices, per_correct_answer

BOTH = Prices(per_gpu_hour=3.6, per_kwh=0.36)


def test_a_million_tokens_cost_the_hours_and_the_kilowatt_hours() -> None:
    # 1,000 tokens/s: 1,000 s a million tokens, which are 1/3.6 h; 0.5 J a token: 500,000 J, which are 1/7.2 kWh.
    assert BOTH.per_million_tokens(1000.0, 0.5) == pytest.approx(1.0 + 0.05)
    assert Prices(per_gpu_hour=3.6).per_million_tokens(1000.0, 0.5) == pytest.approx(1.0)
    assert Prices(per_kwh=0.36).per_million_tokens(1000.0, 0.5) == pytest.approx(0.05)


def test_every_gpu_is_paid_but_its_energy_is_measured_as_a_whole() -> None:
    assert BOTH.per_million_tokens(1000.0, 0.5, gpus=4) == pytest.approx(4.0 + 0.05)


@pytest.mark.parametrize(
    ("rate", "joules", "prices"),
    [
        (1000.0, 0.5, Prices()),
        (None, 0.5, Prices(per_gpu_hour=1.0)),
        (1000.0, None, Prices(per_kwh=1.0)),
        (1000.0, None, BOTH),
        (None, 0.5, BOTH),
    ],
)
def test_a_price_without_its_quantity_gives_nothing_rather_than_a_part(
    rate: float | None, joules: float | None, prices: Prices
) -> None:
    assert prices.per_million_tokens(rate, joules) is None


def test_what_no_price_asks_for_need_not_be_known() -> None:
    assert Prices(per_gpu_hour=3.6).per_million_tokens(1000.0, None) == pytest.approx(1.0)
    assert Prices(per_kwh=0.36).per_million_tokens(None, 0.5) == pytest.approx(0.05)


def test_a_price_of_zero_is_a_price() -> None:
    assert Prices(per_gpu_hour=0.0).per_million_tokens(1000.0, None) == 0.0


def test_arrays_give_arrays() -> None:
    rates, joules = np.array([[1000.0, 2000.0]]), np.array([[0.5, 0.25]])
    made = BOTH.per_million_tokens(rates, joules, np.array([1.0, 2.0]))
    assert made is not None
    assert made.tolist() == [[pytest.approx(1.05), pytest.approx(1.025)]]


def test_wrong_answers_are_paid_for_too() -> None:
    assert per_correct_answer(50.0, 0.5) == 100.0
    assert per_correct_answer(50.0, 1.0) == 50.0


@pytest.mark.parametrize(("joules", "accuracy"), [(None, 0.5), (50.0, None), (50.0, 0.0)])
def test_joules_per_correct_answer_are_not_known_without_both(joules: float | None, accuracy: float | None) -> None:
    assert per_correct_answer(joules, accuracy) is None


def test_a_correct_answer_costs_its_seconds_and_joules() -> None:
    # 0.2 s on two GPUs at 3.6 an hour: 0.0004; 36 J at 0.36 a kWh: 0.0000036; half of the answers are right.
    assert per_correct_answer(BOTH.cost(0.2, 36.0, gpus=2), 0.5) == pytest.approx((0.0004 + 0.0000036) / 0.5)


@pytest.mark.parametrize(
    ("seconds", "joules", "accuracy", "prices"),
    [(0.2, 36.0, 0.5, Prices()), (None, 36.0, 0.5, BOTH), (0.2, None, 0.5, BOTH), (0.2, 36.0, 0.0, BOTH),
     (0.2, 36.0, None, BOTH)],
)  # fmt: skip
def test_money_per_correct_answer_is_not_known_without_all_it_needs(
    seconds: float | None, joules: float | None, accuracy: float | None, prices: Prices
) -> None:
    assert per_correct_answer(prices.cost(seconds, joules), accuracy) is None
