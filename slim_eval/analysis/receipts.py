"""Receipts of kernels in words, and whether what was served is farther from its source than rounding explains.

See `records.KernelReceipt` and decision 035. Nothing is known of records of older versions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from slim_eval.analysis.comparability import baseline_of
from slim_eval.errors import ResultFileError
from slim_eval.results.records import KernelReceipt, Metadata
from slim_eval.results.store import RECEIPT, read_samples
from slim_eval.results.variants import Variant
from slim_eval.utils import number

#: What two engines differ by at 16 bit, nats per token, if it was not measured: the largest of decision 026.
ROUNDING_AT_16_BIT = 0.05
_TOLERANCE = 1.1  # times the distance from the source that the reference and rounding at 16 bit explain
_UNRELATED = 0.5  # share of the variation from token to token that a variant of the same model leaves unexplained


def explained(receipt: KernelReceipt, rounding: float | None = None) -> float | None:
    """The distance from the source up to which a served variant shows nothing but rounding, nats per token.

    `rounding` is what the engine and the reference differ by at 16 bit. The two are independent, so their squares add.
    """
    if receipt.agreement_reference is None:
        return None
    return _TOLERANCE * math.hypot(receipt.agreement_reference, ROUNDING_AT_16_BIT if rounding is None else rounding)


def is_beyond_rounding(receipt: KernelReceipt, rounding: float | None = None) -> bool:
    """Whether the whole interval of the distance as served is beyond what is `explained`."""
    limit, excess = explained(receipt, rounding), receipt.agreement_excess_interval
    return limit is not None and excess is not None and (receipt.agreement_reference or 0.0) + excess[0] > limit


def in_words(receipt: KernelReceipt, rounding: float | None = None) -> str:
    """A receipt in one sentence without an end; empty if nothing was compared."""
    if receipt.agreement_mean is None or receipt.agreement_max is None or receipt.agreement_loss is None:
        return ""
    kernels = "" if not receipt.quantized_kernel else f" ({', '.join(receipt.quantized_kernel)})"
    if not receipt.agreement_max:
        text = f"kernels as served{kernels} equal the emulated reference on all of {receipt.agreement_tokens} tokens"
        distance = receipt.agreement_served
        return text if distance is None else f"{text}; distance from the source {number(distance)} nats per token"
    text = (
        f"kernels as served{kernels} against the emulated reference: {number(receipt.agreement_mean)} nats per token "
        f"on average, {number(receipt.agreement_max)} at most, over {receipt.agreement_tokens} tokens"
    )
    if rounding is not None:
        text += f" (at 16 bit {number(rounding)} on average)"
    text += f"; loss by the kernels {number(receipt.agreement_loss)} nats per token"
    if (ends := receipt.agreement_loss_interval) is not None:
        text += f" ({number(ends[0])} to {number(ends[1])})"
    if receipt.agreement_served is not None and receipt.agreement_reference is not None:
        text += (
            f"; distance from the source {number(receipt.agreement_served)}, of the reference "
            f"{number(receipt.agreement_reference)}"
        )
    return f"{text}: {'beyond' if is_beyond_rounding(receipt, rounding) else 'within'} rounding"


def receipts_of(variant: Variant) -> list[Metadata]:
    """The different receipts of a variant's records, of which each loaded engine made one."""
    found = {
        (record.engine, record.agreement_mean, record.agreement_max): record
        for record in variant.records
        if record.agreement_mean is not None
    }
    return list(found.values())


def rounding_at_16_bit(variant: Variant, variants: Sequence[Variant]) -> float | None:
    """The mean difference, nats per token, of the baseline as served on the same engine from the reference's source.

    None if the baseline was not measured on that engine, or not on the same tokens.
    """
    base = baseline_of(variant, variants)
    if base is None or base is variant or base.engine != variant.engine:
        return None
    pair = _paired(base, "served", variant, "source")
    return None if pair is None else math.fsum(abs(a - b) for a, b in zip(*pair, strict=True)) / len(pair[0])


def unexplained_by_source(variant: Variant, variants: Sequence[Variant]) -> float | None:
    """The share of the baseline's variation from token to token that a variant leaves unexplained, both as served."""
    base = baseline_of(variant, variants)
    if base is None or base is variant:
        return None
    pair = _paired(variant, "served", base, "served")
    variance = 0.0 if pair is None else statistics.pvariance(pair[1])
    if pair is None or not variance:
        return None
    return math.fsum((a - b) ** 2 for a, b in zip(*pair, strict=True)) / len(pair[0]) / variance


def is_unrelated(share: float | None) -> bool:
    """Whether that share is that of another model."""
    return share is not None and share > _UNRELATED


def _paired(one: Variant, key: str, other: Variant, other_key: str) -> tuple[list[float], list[float]] | None:
    """Log-probabilities of two variants for the same tokens; None if these are not known, or not the same."""
    first, second = _logprobs(one, key), _logprobs(other, other_key)
    if not first or not second or first[0] != second[0]:
        return None
    return first[1], second[1]


def _logprobs(variant: Variant, key: str) -> tuple[list[Any], list[float]] | None:
    """The tokens behind a variant's receipt, and one of their log-probabilities; None if they were not kept."""
    if RECEIPT not in variant.memo:
        known = any(record.agreement_tokens is not None for record in variant.records)
        variant.memo[RECEIPT] = []
        with suppress(ResultFileError):  # damaged: as without a receipt
            variant.memo[RECEIPT] = read_samples(variant.directory, RECEIPT) if known else []
    rows = variant.memo[RECEIPT]
    if not rows or not all(isinstance(row.get(key), float) for row in rows):
        return None
    return [(row.get("excerpt"), row.get("token")) for row in rows], [row[key] for row in rows]
