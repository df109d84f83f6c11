"""Log-probabilities of the same tokens by two models: how far apart they are, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slim_eval.stats.intervals import Interval
from slim_eval.stats.paired import paired_difference


@dataclass(frozen=True)
class Departure:
    """Log-probabilities of one model against those of another, in nats per token."""

    tokens: int
    mean: float  # absolute difference
    largest: float  # absolute difference
    loss: float  # the other's mean log-probability minus this one's: above 0 this one predicts the tokens worse
    loss_interval: Interval | None  # 95 %, paired
    unexplained: (
        float  # mean squared difference / variance of the other's: 0 for equal ones, 1 or more for unrelated ones
    )


def departure(these: Sequence[float], others: Sequence[float]) -> Departure:
    """Compare log-probabilities of the same tokens; a ValueError without tokens, or if a value is NaN or infinite."""
    paired = paired_difference(others, these)
    difference = np.asarray(these, dtype=float) - np.asarray(others, dtype=float)
    squared, variance = float((difference**2).mean()), float(np.var(np.asarray(others, dtype=float)))
    return Departure(
        tokens=difference.size,
        mean=float(np.abs(difference).mean()),
        largest=float(np.abs(difference).max()),
        loss=paired.difference,
        loss_interval=paired.interval,
        unexplained=squared / variance if variance else (0.0 if squared == 0 else math.inf),
    )


def excess_distance(
    these: Sequence[float], others: Sequence[float], source: Sequence[float]
) -> tuple[float, Interval | None]:
    """By how much these are farther from a source than others are, in nats per token, and its 95 % paired interval.

    Two roundings of one quantized model are equally far from its source, however much they differ from each other;
    errors beyond rounding add to the distance. It is a first-order effect of an error: over the same tokens it is seen
    several times sooner than the loss, which is of second order.
    """
    source_array = np.asarray(source, dtype=float)
    far, near = (np.abs(np.asarray(each, dtype=float) - source_array) for each in (these, others))
    paired = paired_difference(list(far), list(near))
    return paired.difference, paired.interval
