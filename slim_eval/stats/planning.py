"""Beforehand: what a number of items can show, and how many it takes.

Planned for is the paired, two-sided test of right and wrong answers: only items on which the two runs differ speak.
"""

from __future__ import annotations

import math


def minimum_detectable_drop(
    num_items: int, *, flip_rate: float = 0.10, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true drop that a paired comparison sees with this power; the inverse of `items_needed`.

    100 items of which 10 % flip see drops from 0.09 on; four times as many see half of that.

    Args:
        num_items: Items that both runs answer.
        flip_rate: Share of items whose correctness differs between the runs. For drops above it the drop itself
            counts: accuracy does not fall without flips.
        power: Share of experiments that find such a drop, at least 0.5.
        alpha: Level of the two-sided test.

    Returns:
        A share from 0 to 1; 1 where the items are too few for any drop.

    Raises:
        ValueError: An argument is out of its range.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    _check(flip_rate, power, alpha)
    if num_items < 1:
        raise ValueError(f"num_items must be at least 1, got {num_items}")
    always_missed = float(ndtri(1 - alpha / 2)) ** 2 / num_items
    if always_missed >= 1:
        return 1.0
    # Half of it, because a power of 0.5 puts the root on this bound.
    lower = always_missed / 2
    return float(brentq(lambda drop: _items(drop, flip_rate, power, alpha) - num_items, lower, 1.0, xtol=1e-12))


def items_needed(effect: float, *, flip_rate: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items it takes for a paired comparison to see a drop of `effect` with this power, rounded up.

    Args:
        effect: The true drop, as a share: 0.01 is one percentage point.
        flip_rate: As in `minimum_detectable_drop`.
        power: As in `minimum_detectable_drop`.
        alpha: Level of the two-sided test.

    Raises:
        ValueError: The effect is not above 0 and at most 1, or another argument is out of its range.
    """
    _check(flip_rate, power, alpha)
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be above 0 and at most 1, got {effect}")
    return math.ceil(round(_items(effect, flip_rate, power, alpha), 6))


def _items(drop: float, flip_rate: float, power: float, alpha: float) -> float:
    """``(z_alpha sqrt(f) + z_power sqrt(f - d²))² / d²`` for a drop d and a share f of items that flip.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43,
    207-211.
    """
    from scipy.special import ndtri

    flips = max(flip_rate, drop)
    root = ndtri(1 - alpha / 2) * math.sqrt(flips) + ndtri(power) * math.sqrt(flips - drop**2)
    return float(root / drop) ** 2


def _check(flip_rate: float, power: float, alpha: float) -> None:
    if not 0 <= flip_rate <= 1:
        raise ValueError(f"flip_rate must be from 0 to 1, got {flip_rate}")
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be from 0.5 to below 1, got {power}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
