"""Receipts of kernels in an analysis: beside those at 16 bit, as a caveat beyond rounding, unknown in older records."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.caveats import KERNELS, find_caveats
from slim_eval.analysis.findings import find
from slim_eval.analysis.receipts import in_words, rounding_at_16_bit
from slim_eval.analysis.study import Study
from slim_eval.results.records import KernelReceipt
from slim_eval.results.store import RECEIPT, write_samples
from slim_eval.results.variants import Variant

MakeVariant = Callable[..., Variant]
_HEADING = "Kernels against their reference"


def with_receipt(
    make_variant: MakeVariant, precision: str, excess: tuple[float, float], seed: int = 0, **head: Any
) -> Variant:
    receipt = {
        "agreement_tokens": 400, "agreement_nll": 2.0, "agreement_mean": 0.247, "agreement_max": 1.56,
        "agreement_loss": 0.017, "agreement_loss_interval": (-0.019, 0.052), "agreement_served": 0.25,
        "agreement_reference": 0.171, "agreement_excess_interval": excess, "quantized_kernel": ("PlannedKernel",),
    }  # fmt: skip
    made = make_variant(precision=precision, tasks={"quiz": 0.7}, head={"kernels": "native"} | receipt | head)
    write_samples(made.directory, RECEIPT, rows(seed, reference=True))
    return made


def rows(seed: int, *, reference: bool, offset: float = 0.03) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    found = []
    for token in range(400):
        value = -draw.expovariate(0.5)
        sides = {"reference": value - 0.2, "source": value} if reference else {}
        found.append({"excerpt": 0, "token": token, "served": value + offset, **sides})
    return found


def baseline(make_variant: MakeVariant, samples: Sequence[dict[str, Any]], **head: Any) -> Variant:
    known = {"agreement_tokens": 400, "agreement_nll": 2.0}
    made = make_variant(precision="fp16", tasks={"quiz": 0.7}, head={"kernels": "native"} | known | head)
    write_samples(made.directory, RECEIPT, samples)
    return made


def kernels_of(variants: Sequence[Variant]) -> list[str]:
    return [caveat.text for caveat in find_caveats(variants) if caveat.kind is KERNELS]


def test_beyond_rounding_is_a_caveat_with_the_numbers(make_variant: MakeVariant) -> None:
    base = baseline(make_variant, rows(0, reference=False))
    int8 = with_receipt(make_variant, "int8", (0.054, 0.104))
    assert rounding_at_16_bit(int8, [base, int8]) == pytest.approx(0.03)
    (text,) = kernels_of([base, int8])
    for words in ("PlannedKernel", "0.247 nats per token on average", "1.56 at most", "at 16 bit 0.0300 on average",
                  "-0.0190 to 0.0520", "beyond rounding", "not that of its scheme"):  # fmt: skip
        assert words in text


def test_within_rounding_is_a_finding_and_no_caveat(make_variant: MakeVariant) -> None:
    variants = [baseline(make_variant, rows(0, reference=False)), with_receipt(make_variant, "int8", (-0.02, 0.02))]
    assert kernels_of(variants) == []
    (section,) = (each for each in find(Study.of(variants)) if each.heading == _HEADING)
    (sentence,) = section.sentences
    assert sentence.startswith("Tiny int8 on vllm: kernels as served (PlannedKernel)")
    assert "within rounding" in sentence


def test_what_an_engine_does_at_16_bit_is_no_fault_of_its_quantized_kernels(make_variant: MakeVariant) -> None:
    """An interval that is beyond the assumed rounding, on an engine that was measured to round more."""
    int8 = with_receipt(make_variant, "int8", (0.054, 0.104))
    assert len(kernels_of([int8])) == 1
    coarse = baseline(make_variant, rows(0, reference=False, offset=0.2))
    assert kernels_of([coarse, int8]) == []
    elsewhere = baseline(make_variant, rows(0, reference=False, offset=0.2), engine="transformers")
    assert rounding_at_16_bit(int8, [elsewhere, int8]) is None
    assert len(kernels_of([elsewhere, int8])) == 1


def test_other_tokens_are_not_compared(make_variant: MakeVariant) -> None:
    int8 = with_receipt(make_variant, "int8", (-0.02, 0.02))
    for samples in (rows(0, reference=False)[:-1], [{**row, "token": 1} for row in rows(0, reference=False)], []):
        base = baseline(make_variant, samples)
        assert rounding_at_16_bit(int8, [base, int8]) is None
        assert kernels_of([base, int8]) == []


def test_a_variant_that_is_not_its_baseline_at_all_is_a_caveat(make_variant: MakeVariant) -> None:
    """Such as a checkpoint that came quantized, whose experts have other names than the engine knows."""
    base = baseline(make_variant, rows(0, reference=False))
    other = with_receipt(make_variant, "int4", (-0.02, 0.02), seed=5)
    (text,) = kernels_of([base, other])
    assert "it is not the same model" in text


def test_older_and_damaged_receipts_are_unknown(make_variant: MakeVariant) -> None:
    old = [make_variant(precision=precision, tasks={"quiz": 0.7}) for precision in ("fp16", "int8")]
    assert kernels_of(old) == []
    assert not any(each.heading == _HEADING for each in find(Study.of(old)))
    base, int8 = baseline(make_variant, rows(0, reference=False)), with_receipt(make_variant, "int8", (-0.02, 0.02))
    damaged: Path = base.directory / f"{RECEIPT}.samples.jsonl.gz"
    damaged.write_bytes(b"not gzip")
    assert kernels_of([base, int8]) == []


def test_an_engine_that_computes_as_the_reference_needs_few_words() -> None:
    same = {"agreement_tokens": 508, "agreement_mean": 0.0, "agreement_max": 0.0, "agreement_loss": 0.0}
    receipt = KernelReceipt(**same, agreement_served=0.722, agreement_reference=0.722)
    assert in_words(receipt) == (
        "kernels as served equal the emulated reference on all of 508 tokens; "
        "distance from the source 0.722 nats per token"
    )
    assert in_words(KernelReceipt(**same)).endswith("on all of 508 tokens")
