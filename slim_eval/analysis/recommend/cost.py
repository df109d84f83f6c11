"""What output costs: money per million tokens, joules and money per correct answer. Pure arithmetic.

A quantity that is not known is None, and so is what it would give. A price that is None is not asked for: its part is
left out. Money is in the currency of the prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Number = TypeVar("_Number", float, "NDArray[np.float64]")

_SECONDS_AN_HOUR = 3600.0
_JOULES_A_KWH = 3.6e6
_MILLION = 1e6


@dataclass(frozen=True)
class Prices:
    """The prices. Whoever rents a GPU has often paid its electricity already: one price is enough then.

    Attributes:
        per_gpu_hour: Money for one GPU for one hour.
        per_kwh: Money for 1 kWh.
    """

    per_gpu_hour: float | None = None
    per_kwh: float | None = None

    def __bool__(self) -> bool:
        """Whether any price is given."""
        return self.per_gpu_hour is not None or self.per_kwh is not None


def money_per_million_tokens(
    tokens_per_second: _Number | None,
    joules_per_output_token: _Number | None,
    prices: Prices,
    gpus: _Number | float = 1,
) -> _Number | None:
    """Money per million output tokens: the hours that the GPUs are rented, and the electricity.

    per_gpu_hour x gpus / (tokens_per_second x 3600) x 1e6 + joules_per_output_token x 1e6 / 3.6e6 x per_kwh.

    Args:
        tokens_per_second: Output tokens per second over all requests, above 0; a number or an array.
        joules_per_output_token: Gross energy of the GPUs per output token, likewise.
        prices: The prices.
        gpus: GPUs that share the model.

    Returns:
        None if no price is given, or a quantity that a price needs is unknown.
    """
    seconds = None if tokens_per_second is None else _MILLION / tokens_per_second
    joules = None if joules_per_output_token is None else _MILLION * joules_per_output_token
    return _money(seconds, joules, prices, gpus)


def joules_per_correct_answer(joules_per_request: float | None, accuracy: float | None) -> float | None:
    """Joules per correct answer; wrong answers cost energy, too.

    Args:
        joules_per_request: Energy of a request in the energy benchmark. Its length is that benchmark's, not the
            task's, so the number ranks configurations; it is not the cost of the task.
        accuracy: Share of the task's answers that are correct, from 0 to 1.

    Returns:
        None if one of them is unknown, or no answer is correct.
    """
    return None if joules_per_request is None or not accuracy else joules_per_request / accuracy


def money_per_correct_answer(
    seconds_per_request: float | None,
    joules_per_request: float | None,
    accuracy: float | None,
    prices: Prices,
    gpus: float = 1,
) -> float | None:
    """Money per correct answer; see `joules_per_correct_answer` for its limits.

    Args:
        seconds_per_request: Amortised: wall time of a batch over its requests, so that no second is paid twice.
        joules_per_request: Energy of a request.
        accuracy: Share of answers that are correct, from 0 to 1.
        prices: The prices.
        gpus: GPUs that share the model.

    Returns:
        None if no price is given, a quantity that a price needs is unknown, or no answer is correct.
    """
    total = _money(seconds_per_request, joules_per_request, prices, gpus)
    return None if total is None or not accuracy else total / accuracy


def _money(seconds: _Number | None, joules: _Number | None, prices: Prices, gpus: _Number | float) -> _Number | None:
    """The cost of GPU seconds and joules; None if a price has no known quantity."""
    total: _Number | None = None
    for price, amount in (
        (prices.per_gpu_hour, None if seconds is None else seconds * (gpus / _SECONDS_AN_HOUR)),
        (prices.per_kwh, None if joules is None else joules / _JOULES_A_KWH),
    ):
        if price is None:
            continue
        if amount is None:
            return None
        total = price * amount if total is None else total + price * amount
    return total
