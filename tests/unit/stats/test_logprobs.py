"""Rounding and errors beyond it are told apart by the distance from the source, on simulated log-probabilities."""

from __future__ import annotations

import math
import random

import pytest

from slim_eval.stats import departure, excess_distance

TOKENS = 455  # as many as SmolLM2's tokenizer makes of the text
ROUNDING = 0.21  # standard deviation of W8A8's rounding on SmolLM2, nats: a mean distance of 0.17


def simulated(seed: int, error: float) -> tuple[list[float], list[float], list[float]]:
    """Log-probabilities as served, by the reference, and by the source; `error` is what kernels add to rounding."""
    draw = random.Random(seed)
    source = [-draw.expovariate(0.5) for _ in range(TOKENS)]
    reference = [value + draw.gauss(0, ROUNDING) for value in source]
    served = [value + draw.gauss(0, ROUNDING) + draw.gauss(0, error) for value in source]
    return served, reference, source


def ends(seed: int, error: float) -> tuple[float, float]:
    _, interval = excess_distance(*simulated(seed, error))
    assert interval is not None
    return interval.low, interval.high


def test_two_roundings_are_equally_far_from_the_source() -> None:
    """An interval of 95 % lies above 0 in 2.5 % of cases, although the two differ from each other at every token."""
    above = sum(ends(seed, 0.0)[0] > 0 for seed in range(200))
    assert above <= 12
    assert departure(*simulated(0, 0.0)[:2]).mean > 0.2


def test_errors_beyond_rounding_are_seen_by_the_distance_and_not_by_the_loss() -> None:
    """Saturation on SmolLM2: the distance grows from 0.17 to 0.25, and the loss is within its interval."""
    assert sum(ends(seed, 0.22)[0] > 0 for seed in range(50)) >= 48
    losses = [departure(*simulated(seed, 0.22)[:2]).loss_interval for seed in range(50)]
    assert sum(interval is not None and interval.low > 0 for interval in losses) < 10


def test_departure_of_planted_values() -> None:
    found = departure([-1.5, -2.0, -4.0], [-1.0, -2.0, -3.0])
    assert (found.tokens, found.mean, found.largest, found.loss) == (3, 0.5, 1.0, 0.5)
    assert found.unexplained == pytest.approx((0.25 + 1) / 3 / (2 / 3))
    same = departure([-1.0, -2.0], [-1.0, -2.0])
    assert (same.mean, same.loss, same.unexplained) == (0, 0, 0)
    assert departure([-1.0, -2.0], [-1.5, -1.5]).unexplained == math.inf
    for values in ([], [math.nan]):
        with pytest.raises(ValueError, match=r"."):
            departure(values, values)
