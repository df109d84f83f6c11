"""Findings in words: every claim is one that the numbers carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from slim_eval.analysis.findings import (
    SUMMARY_LINES,
    WIDTH,
    Section,
    executive_summary,
    find,
    findings_markdown,
    is_better,
    listed,
)
from slim_eval.analysis.pareto.frontier import find_frontiers
from slim_eval.analysis.study import Study
from slim_eval.analysis.verdict import verdict_of
from slim_eval.results.variants import Estimate, Variant
from tests.planted import items, outcomes

MakeCell = Callable[..., Variant]
NARROW = {"intervals": {"tpot_s": (0.0039, 0.0041)}}


def sections(variants: Sequence[Variant], problems: Sequence[str] = ()) -> list[Section]:
    study = Study.read(variants)
    return find(study, find_frontiers(study), problems)


def said(variants: Sequence[Variant], heading: str, problems: Sequence[str] = ()) -> list[str]:
    """The sentences under one heading; none where it is left out."""
    return [s for section in sections(variants, problems) if section.heading == heading for s in section.sentences]


def best(variants: Sequence[Variant]) -> list[str]:
    return said(variants, "Best by each measure")


def against_fp16(variants: Sequence[Variant], start: str) -> str:
    return next(text for text in said(variants, "Quantized against the baseline") if text.startswith(start))


def fast(tpot_s: float, half: float, **further: Any) -> dict[str, Any]:
    return {"tpot_s": tpot_s, "intervals": {"tpot_s": (tpot_s - half, tpot_s + half)}} | further


def bare(accuracy: float) -> dict[str, Any]:
    """An accuracy of an unknown number of items: nothing gives it an interval."""
    return {"accuracy": accuracy, "stderr": None, "num_items": None, "limit": 50}


def test_a_change_has_its_interval_and_its_verdict(make_variant: MakeCell) -> None:
    before, after = outcomes(2000, right=1400, lost=150, gained=40)
    joules = {"intervals": {"joules_per_output_token": (0.49, 0.51)}}
    less = {"joules_per_output_token": 0.25, "intervals": {"joules_per_output_token": (0.24, 0.26)}}
    variants = [
        make_variant(performance=fast(0.004, 0.0001), energy=joules, tasks={"quiz": 0.7},
                     samples={"quiz": items(before)}),
        make_variant(
            precision="int8", performance=fast(0.002, 0.0001), energy=less, tasks={"quiz": 0.645},
            samples={"quiz": items(after)}, head={"model_size_gb": 2.0},
        ),
    ]  # fmt: skip
    text = against_fp16(variants, "Tiny int8")
    assert "TPOT speed-up 2.00x (95 % interval 1.89 to 2.12x)" in text
    assert "50.0 % less energy per output token (95 % interval 47.7 to 52.2 %)" in text
    assert "2.00x smaller on disk" in text
    assert "quiz drops 5.5 pp (95 % interval 4.2 to 6.8 pp): degraded (margin 1 pp)" in text


def test_more_energy_is_said_with_its_interval_the_same_way_round(make_variant: MakeCell) -> None:
    ends = {"intervals": {"joules_per_output_token": (0.49, 0.51)}}
    more = {"joules_per_output_token": 1.0, "intervals": {"joules_per_output_token": (0.98, 1.02)}}
    text = against_fp16([make_variant(energy=ends), make_variant(precision="int8", energy=more)], "Tiny int8")
    assert "100.0 % more energy per output token (95 % interval 94.4 to 105.7 %)" in text


def test_an_undecided_drop_names_the_items_it_would_take(make_variant: MakeCell) -> None:
    before, after = outcomes(100, right=70, lost=4, gained=3)
    variants = [
        make_variant(tasks={"quiz": 0.7}, samples={"quiz": items(before)}),
        make_variant(precision="int8", tasks={"quiz": 0.69}, samples={"quiz": items(after)}),
    ]
    (found,) = Study.read(variants).paired[variants[1].directory]
    assert found.verdict == "underpowered"
    assert f"inconclusive: needs {found.items_needed:,} items, 100 were measured" in against_fp16(variants, "Tiny int8")


def test_without_intervals_and_outcomes_nothing_is_claimed(make_variant: MakeCell) -> None:
    variants = [
        make_variant(tasks={"mmlu": bare(0.5)}),
        make_variant(precision="int8", performance={"tpot_s": 0.002}, tasks={"mmlu": bare(0.4)}),
    ]
    text = against_fp16(variants, "Tiny int8")
    assert "TPOT speed-up 2.00x (no interval)" in text
    assert "accuracy drops: mmlu 10.0 pp (no per-item outcomes, so this may be chance)" in text


def test_a_latency_ratio_of_different_work_is_no_speed_up(make_variant: MakeCell) -> None:
    lacking = {"tpot_s": None, "ttft_s": None}
    short = lacking | {"mean_latency_s": 0.1, "output_tokens": 50.0}
    variants = [make_variant(performance=lacking), make_variant(precision="int8", performance=short)]
    text = against_fp16(variants, "Tiny int8")
    assert "throughput ratio 1.00x" in text
    assert "the latency ratio 2.00x compares different work (50.0 output tokens per request against 100.0)" in text
    fastest, latency = said(variants, "Best by each measure")[:2]
    assert fastest.startswith("Fastest per output token: Tiny fp16, Tiny int8, 500 tokens/s output throughput")
    assert latency.startswith("Lowest amortised latency: Tiny int8, 100 ms")
    assert "Confounded: mean_latency_s: 50.0 to 100.0 output tokens per request: different work" in latency


def test_at_equal_lengths_the_lowest_latency_is_not_said_apart(make_variant: MakeCell) -> None:
    found = said(
        [make_variant("a/A"), make_variant("b/B", performance={"mean_latency_s": 0.1})], "Best by each measure"
    )
    assert not any("latency" in text for text in found)


def test_many_models_are_summed_up_and_what_none_has_is_said_once(make_variant: MakeCell) -> None:
    variants = []
    for number in range(12):
        variants.append(make_variant(f"org/M{number}", tasks={"mmlu": bare(0.5), "arc": bare(0.5)}))
        quick = {"tpot_s": 0.004 / (1 + number / 10)}
        tasks = {"mmlu": bare(0.48), "arc": bare(0.5)}
        variants.append(make_variant(f"org/M{number}", "int8", performance=quick, tasks=tasks))
    texts = said(variants, "Quantized against the baseline")
    assert texts[0] == (
        "int8, 12 of 12 variants: TPOT speed-up 1.00x to 2.10x (median 1.55x); no intervals, so this may be chance."
    )
    assert "int8, 12 of 12 variants: 1.00x smaller on disk." in texts
    assert "accuracy drops: mmlu 2.0 pp, arc 0.0 pp (12 of 12 variants: all without per-item outcomes" in texts[3]
    single = [text for text in texts if text.startswith("M")]
    assert len(single) == 8
    assert not any("no interval" in text or "chance" in text for text in single)
    assert texts[-1] == "int8: 4 more variants in quantization_impact.csv."


def test_intervals_are_counted_by_side(make_variant: MakeCell) -> None:
    variants = []
    for number, tpot_s in enumerate((0.002, 0.008, 0.00401)):
        variants.append(make_variant(f"org/M{number}", performance=fast(0.004, 0.0001)))
        variants.append(make_variant(f"org/M{number}", "int4", performance=fast(tpot_s, 0.0001)))
    assert "by the 95 % interval: 1 better, 1 worse, 1 inconclusive" in against_fp16(variants, "int4, 3 of 3")


def test_the_best_is_said_only_as_sure_as_its_lead(make_variant: MakeCell) -> None:
    def fastest(second: float, half: float) -> str:
        variants = [
            make_variant("a/A", performance=fast(0.004, half)),
            make_variant("b/B", performance=fast(second, half)),
        ]
        return said(variants, "Best by each measure")[0]

    sure = fastest(0.005, 0.0001)
    assert sure.startswith(
        "Fastest per output token: A fp16, 4.00 ms time per output token [3.90 to 4.10], out of 2 variants; ahead of"
    )
    assert "not clearly ahead of B fp16" in fastest(0.0041, 0.0001)
    bare = said([make_variant("a/A"), make_variant("b/B", performance={"tpot_s": 0.005})], "Best by each measure")
    assert "next B fp16, 5.00 ms time per output token; no intervals, so this may be chance" in bare[0]
    assert "run-to-run" not in " ".join(bare)


@pytest.mark.parametrize(
    ("other", "maximise", "expected"),
    [(0.74, True, None), (0.60, True, False), (0.55, True, True), (0.80, False, False), (0.90, False, True)],
)
def test_two_numbers_are_told_apart_by_the_interval_of_their_difference(
    other: float, maximise: bool, expected: bool | None
) -> None:
    ends = None if expected is None else (other - 0.1, other + 0.1)
    leader = Estimate(0.7, (0.6, 0.8))
    assert is_better(leader, Estimate(other, ends), maximise=maximise) is expected  # sqrt(0.1² + 0.1²) = 0.141


def test_superlatives_stay_within_a_setting_and_name_it(make_variant: MakeCell) -> None:
    other = {"engine": "transformers"}
    variants = [
        make_variant("a/A"), make_variant("b/B", performance={"tpot_s": 0.005}),
        make_variant("c/C", head=other, performance={"tpot_s": 0.001}),
        make_variant("d/D", head=other, performance={"tpot_s": 0.002}),
    ]  # fmt: skip
    texts = best(variants)
    assert texts[0].startswith("Fastest per output token (vllm, Test GPU, Test CPU): A fp16")
    assert texts[1].startswith("Fastest per output token (transformers, Test GPU, Test CPU): C fp16")
    assert any(text.startswith("Smallest on disk: A fp16, B fp16, C fp16, D fp16, 4.00 GiB") for text in texts)


def test_emulated_kernels_and_invalid_energy_are_never_the_best(make_variant: MakeCell) -> None:
    variants = [
        make_variant("a/A"), make_variant("b/B", performance={"tpot_s": 0.005}),
        make_variant("c/C", head={"kernels": "emulated"}, performance={"tpot_s": 0.0001}),
        make_variant("d/D", energy={"joules_per_output_token": 0.001, "valid": False}),
    ]  # fmt: skip
    texts = best(variants)
    assert texts[0].startswith("Fastest per output token: A fp16, D fp16")
    energy = next(text for text in texts if text.startswith("Lowest energy"))
    assert energy.startswith("Lowest energy: A fp16, B fp16, 0.500 J")
    assert "C fp16" not in energy.split(";")[0]


def test_a_configuration_alone_is_the_best_of_nothing(make_variant: MakeCell) -> None:
    assert best([make_variant()])[0] == (
        "Fastest per output token: only Tiny fp16 was measured (4.00 ms time per output token)."
    )


def test_settings_and_versions_that_differ_are_said(make_variant: MakeCell) -> None:
    variants = [
        make_variant("a/A", head={"engine_version": "1.0"}),
        make_variant("b/B", head={"engine_version": "2.0"}),
        make_variant("c/C", head={"engine": "transformers"}),
    ]
    count, apart, versions = said(variants, "What differs between the measurements")
    assert count.startswith("2 settings, whose speed and energy are not compared with each other: vllm")
    assert "engine transformers against vllm" in apart
    assert versions == "vllm, Test GPU, Test CPU: engine versions differ (1.0, 2.0); the variants are still compared."
    assert said(variants[:1], "What differs between the measurements") == []


def test_the_frontier_is_said_with_its_doubt(make_variant: MakeCell) -> None:
    def frontier(half: float | None) -> str:
        def perf(tpot_s: float) -> dict[str, Any]:
            return {"tpot_s": tpot_s} if half is None else fast(tpot_s, half)

        variants = [
            make_variant("a/A", performance=perf(0.004), energy=None),
            make_variant("b/B", performance=perf(0.005), energy=None),
        ]
        return said(variants, "Pareto frontier")[0]

    assert "on the frontier by the point values: A fp16; without intervals" in frontier(None)
    assert "on the frontier (P ≥ 0.95): A fp16 (P 1.00); inconclusive: none; 1 dominated" in frontier(0.0001)
    assert "on the frontier (P ≥ 0.95): none; inconclusive: A fp16 (P 0." in frontier(0.003)


def test_a_frontier_of_different_work_says_so_and_what_is_left_out(make_variant: MakeCell) -> None:
    old = {"tpot_s": None, "ttft_s": None, "tokens_per_second": None, "weights_gb": None}
    variants = [
        make_variant("a/A", performance=old, energy=None),
        make_variant("b/B", performance=old | {"output_tokens": 200.0}, energy=None),
        make_variant("c/C", performance=None, energy=None),
    ]
    first, left_out = said(variants, "Pareto frontier")
    assert "confounded: mean_latency_s: 100.0 to 200.0 output tokens per request" in first
    assert left_out.endswith("excluded: 1 not measured: mean_latency_s, model_size_gb.")


def test_what_was_not_measured_failed_or_is_invalid_is_said(make_variant: MakeCell) -> None:
    variants = [
        make_variant("a/A", tasks={"mmlu": 0.5}, energy={"valid": False}),
        make_variant("b/B", performance={"ttft_s": None}, energy=None, tasks={}),
    ]
    texts = said(variants, "What was not measured", problems=[f"file {n}: broken." for n in range(12)])
    assert texts[0] == "Not measured in any variant: end-to-end latency."
    assert "time to first token, energy per output token, mmlu: missing in B fp16." in texts
    assert "Energy marked invalid in the record, and therefore not compared: A fp16." in texts
    assert texts[-1] == "2 more problems in complete_results.json."
    assert "Problem: file 0: broken." in texts


def test_notes_of_the_records_and_caveats_are_carried_over(make_variant: MakeCell) -> None:
    bare = {"engine": None}
    variants = [
        make_variant("a/A", head=bare | {"notes": ("estimated.", "guessed")}),
        make_variant("b/B", head=bare | {"notes": ("estimated.",)}),
    ]
    texts = said(variants, "Notes in the records")
    assert texts == ["all variants: estimated.", "A fp16: guessed."]
    caveats = said(variants, "What these results cannot support")
    assert any(text.startswith("all variants: no intervals and no per-item outcomes") for text in caveats)


def test_the_text_is_plain_wrapped_and_the_same_each_time(make_variant: MakeCell) -> None:
    variants = [
        make_variant("org/" + "name-" * 30),
        make_variant("org/模型", "int8"),
        make_variant("org/B", tasks={"mmlu": 0.5}),
    ]
    found = sections(variants)
    study = Study.of(variants)
    verdict = verdict_of(study)
    text = executive_summary(verdict, study)
    assert text == executive_summary(verdict_of(study), study)
    assert text.startswith("slim-eval: executive summary\n=====")
    assert len(text.splitlines()) <= SUMMARY_LINES
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert all("name-name" in line for line in long)  # a name is never broken
    whole = findings_markdown(verdict, found)
    assert "\n## What was measured\n\n- 3 variants of 3 models: 2 at fp16, 1 at int8.\n" in whole
    for sentence in (sentence for section in found for sentence in section.sentences):
        assert f"- {sentence}\n" in whole


def test_nothing_to_compare_is_said(make_variant: MakeCell) -> None:
    assert said([make_variant()], "Quantized against the baseline") == [
        "No model has both a baseline and another variant."
    ]
    alone = said([make_variant(precision="int4")], "Quantized against the baseline")
    assert alone == ["Tiny int4: not compared: no fp16 measurement of this model."]


def test_names_in_a_row_are_counted_beyond_the_first() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg"), 3) == "a, b, c and 4 more"
