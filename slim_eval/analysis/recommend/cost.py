"""What output costs: money per million tokens, joules and money per correct answer.

A quantity that is not known is None, and so is what it would give. Money is in the currency of the prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from slim_eval.metrics import ACCURACY_MEAN, AMORTISED, J_PER_REQUEST, J_PER_TOKEN, THROUGHPUT
from slim_eval.results.variants import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Number = TypeVar("_Number", float, "NDArray[np.float64]")

_SECONDS_AN_HOUR = 3600.0
_JOULES_A_KWH = 3.6e6
_MILLION = 1e6


@dataclass(frozen=True)
class Prices:
    """The prices. Whoever rents a GPU has often paid its electricity already: one price is enough then."""

    per_gpu_hour: float | None = None  # money for one GPU for one hour
    per_kwh: float | None = None  # money for 1 kWh

    def cost(self, seconds: _Number | None, joules: _Number | None, gpus: _Number | float = 1) -> _Number | None:
        """Money for seconds of some GPUs, and the joules of all of them; numbers or arrays.

        None if no price is given or a price lacks its quantity; a quantity without a price need not be known.
        """
        total: _Number | None = None
        for price, amount in (
            (self.per_gpu_hour, None if seconds is None else seconds * (gpus / _SECONDS_AN_HOUR)),
            (self.per_kwh, None if joules is None else joules / _JOULES_A_KWH),
        ):
            if price is None:
                continue
            if amount is None:
                return None
            total = price * amount if total is None else total + price * amount
        return total

    def per_million_tokens(
        self, tokens_per_second: _Number | None, joules_per_output_token: _Number | None, gpus: _Number | float = 1
    ) -> _Number | None:
        """Money per million output tokens: the hours that the GPUs are rented, and the electricity; see `cost`.

        per_gpu_hour x gpus / (tokens_per_second x 3600) x 1e6 + joules_per_output_token x 1e6 / 3.6e6 x per_kwh.

        Args:
            tokens_per_second: Output tokens per second over all requests, above 0.
            joules_per_output_token: Gross energy of the GPUs per output token.
            gpus: GPUs that share the model.
        """
        seconds = None if tokens_per_second is None else _MILLION / tokens_per_second
        joules = None if joules_per_output_token is None else _MILLION * joules_per_output_token
        return self.cost(seconds, joules, gpus)


def per_correct_answer(per_request: float | None, accuracy: float | None) -> float | None:
    """Joules or money per correct answer; wrong answers cost, too.

    Args:
        per_request: Joules or money of a request in a benchmark. Its length is that benchmark's, not the task's, so the
            result ranks variants; it is not the cost of the task.
        accuracy: Share of the task's answers that are correct, from 0 to 1.

    Returns:
        None if one of them is unknown, or no answer is correct.
    """
    return None if per_request is None or not accuracy else per_request / accuracy


@dataclass(frozen=True)
class Costs:
    """What the output of a variant costs; None if a price or a quantity is missing, or its record is invalid."""

    money_per_million_tokens: float | None
    joules_per_correct_answer: float | None
    money_per_correct_answer: float | None

    @classmethod
    def of(cls, variant: Variant, prices: Prices) -> Costs:
        """The costs of a variant."""
        per_token, per_request, latency, rate = (
            variant.number(metric) if variant.counts(metric) else None
            for metric in (J_PER_TOKEN, J_PER_REQUEST, AMORTISED, THROUGHPUT)
        )
        gpus, accuracy = num_gpus(variant) or 1, variant.number(ACCURACY_MEAN)
        # Amortised: wall time of a batch over its requests, so that no second is paid twice.
        paid = prices.cost(latency, per_request, gpus)
        return cls(
            prices.per_million_tokens(rate or None, per_token, gpus),
            per_correct_answer(per_request, accuracy),
            per_correct_answer(paid, accuracy),
        )


def num_gpus(variant: Variant) -> int | None:
    """GPUs that share the model: those whose energy was measured; None if they were not recorded."""
    return len(variant.energy.devices if variant.energy is not None else ()) or None
