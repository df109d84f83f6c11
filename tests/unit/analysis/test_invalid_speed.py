"""Numbers of an invalid performance record are shown, marked, and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slim_eval.analysis.caveats import BUSY_HOST, INVALID
from slim_eval.analysis.compare.comparison import MetricVerdict, compare
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.analysis.compare.noise_floor import within_noise
from slim_eval.analysis.compare.repeats import noise_record
from slim_eval.analysis.figures import distributions
from slim_eval.analysis.findings import find
from slim_eval.analysis.pareto.frontier import Objective, find_frontiers, frontier
from slim_eval.analysis.recommend.cost import Costs, Prices
from slim_eval.analysis.recommend.question import Question
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.report.provenance import report_caveats, settings_of
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import columns_of, summary_statistics
from slim_eval.metrics import AMORTISED, DISK, J_PER_TOKEN, PEAK_MEMORY, THROUGHPUT, TPOT, TTFT, WEIGHTS
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.variants import Variant
from slim_eval.utils.host import HostUse

MakeVariant = Callable[..., Variant]
REASON = "other processes took 48.0% of the 2 CPUs (limit 10%)"
DISTURBED = {
    "valid": False, "invalid_reasons": (REASON,), "tpot_s": 0.001, "tokens_per_second": 9000.0,
    "mean_latency_s": 0.001, "ttft_s": 0.001, "host": HostUse(cpus=2, other_share=0.48), "max_contention": 0.1,
}  # fmt: skip
CLOSE = {"tpot_s": (0.0039, 0.0041), "tokens_per_second": (490.0, 510.0)}


@pytest.fixture
def pair(make_variant: MakeVariant) -> list[Variant]:
    """fp16, and an int8 whose speed looks best and is invalid; its energy and weights are good."""
    return [
        make_variant(performance={"intervals": CLOSE}),
        make_variant(precision="int8", performance={"weights_gb": 1.0, **DISTURBED}, energy={"intervals": {}}),
    ]


def test_only_what_the_window_decided_is_refused(pair: list[Variant]) -> None:
    (good, bad) = pair
    for metric in (TPOT, TTFT, AMORTISED, THROUGHPUT, PEAK_MEMORY):
        assert (good.counts(metric), bad.counts(metric)) == (True, False)
        assert (good.reasons(metric), bad.reasons(metric)) == ((), (REASON,))
    assert all(bad.counts(metric) for metric in (J_PER_TOKEN, WEIGHTS, DISK))
    assert bad.number(TPOT) == 0.001, "it stays as evidence"
    assert bad.invalid == {"performance": (REASON,)}


def test_compare_and_a_gate_decide_nothing(pair: list[Variant]) -> None:
    found = compare(*pair, 1.0)
    (row,) = (each for each in found.metrics if each.metric is TPOT)
    assert (row.verdict, row.ratio, row.b) == (MetricVerdict.NOT_COMPARABLE, None, 0.001)
    assert REASON in str(row.reason)
    for condition in ("tpot_s>5%", "tokens_per_second<-5%"):
        (parsed,) = parse([condition], [])
        assert decide(parsed, found).decision is Decision.UNDECIDED
    (energy,) = (each for each in found.metrics if each.metric is J_PER_TOKEN)
    assert energy.verdict is not MetricVerdict.NOT_COMPARABLE


def test_no_speed_up_is_reported_and_the_reason_is(pair: list[Variant]) -> None:
    (impact,) = Study.of(pair).impacts
    assert (impact.speedups, impact.memory_reduction) == ({}, None)
    assert impact.weights_ratio == 2.0
    assert f"speed: this measurement is marked invalid ({REASON})" in str(impact.not_comparable)


def test_it_is_in_no_mean_and_never_the_best(pair: list[Variant]) -> None:
    study = Study.of(pair)
    table = summary_statistics(study)
    rows = table[table["metric"] == "tpot_s"]
    assert rows[rows["precision"] == "int8"][["n", "num_invalid"]].to_numpy().tolist() == [[0, 1]]
    assert set(rows["max"].dropna()) == {0.004}
    sections = find(study, find_frontiers(study))
    (best,) = (section for section in sections if section.heading == "Best by each measure")
    assert not any("int8" in text for text in best.sentences if TPOT.title in text)
    everything = " ".join(text for section in sections for text in section.sentences)
    assert "Performance marked invalid in the record, and therefore not compared: Tiny int8." in everything


def test_it_is_on_no_frontier_and_not_ranked(pair: list[Variant]) -> None:
    study = Study.of(pair)
    (good, bad) = frontier(study, [Objective(TPOT, False)]).standings
    assert (good.excluded, bad.excluded) == (None, "invalid: tpot_s")
    found = recommend(study, Question(objective="tpot_s"))
    excluded = {c.variant.precision: c.excluded for c in found.ranking.candidates}
    assert excluded == {"fp16": None, "int8": f"invalid: tpot_s ({REASON})"}
    by_energy = recommend(study, Question(objective="joules_per_output_token"))
    assert [c.excluded for c in by_energy.ranking.candidates] == [None, None]


def test_it_has_no_price(pair: list[Variant]) -> None:
    costs = [Costs.of(variant, Prices(per_gpu_hour=2.0)) for variant in pair]
    assert [cost.money_per_million_tokens is None for cost in costs] == [False, True]


def test_a_noise_floor_neither_takes_nor_hides_it(pair: list[Variant], make_variant: MakeVariant) -> None:
    floor = NoiseRecord(
        model="org/Tiny", precision="fp16", timestamp="", metrics={"tpot_s": FloorEntry(values=(), floor=99.0)}
    )
    assert within_noise(pair[1], pair[0], floor) == frozenset()
    runs = [
        make_variant(performance={"intervals": CLOSE}),
        make_variant(performance={"intervals": CLOSE, "tpot_s": 0.0041}),
        make_variant(performance={"intervals": CLOSE, **DISTURBED}),
    ]
    entry = noise_record(runs).metrics["tpot_s"]
    assert entry.values == (0.004, 0.0041, None)
    assert entry.floor is not None
    assert entry.floor < 1, "TPOT of the disturbed run is a quarter of the others"


def test_every_number_is_marked_and_the_report_says_why(pair: list[Variant]) -> None:
    study = Study.of(pair)
    for metric in (TPOT, THROUGHPUT, AMORTISED):
        assert INVALID in study.marks(pair[1], metric)
        assert INVALID not in study.marks(pair[0], metric)
    assert INVALID not in study.marks(pair[1], J_PER_TOKEN)
    caveats = [c for c in report_caveats(study, settings_of(study), ()) if c.kind is INVALID]
    assert [(c.text, c.variants) for c in caveats] == [(f"performance is not used: {REASON}", ("Tiny int8",))]


def test_the_figure_of_distributions_marks_it(make_variant: MakeVariant, monkeypatch: pytest.MonkeyPatch) -> None:
    medians = {"median_tpot_s": 0.004, "median_latency_s": 0.2}
    study = Study.of([
        make_variant(performance=medians), make_variant(precision="int8", performance={**DISTURBED, **medians}),
    ])  # fmt: skip
    panels: list[Any] = []
    monkeypatch.setattr(distributions, "draw_rows", lambda title, variants, found: panels.extend(found))
    distributions._draw_distributions("", study)
    assert len(panels) >= 2
    for panel in panels:
        good, bad = panel.spreads
        assert (good.marks, bad.marks) == (frozenset(), {INVALID})
        assert panel.marks() == {INVALID}


def test_columns_keep_the_validity_of_energy_under_its_name(pair: list[Variant]) -> None:
    row = columns_of(pair[1], ())
    assert (row["valid"], row["performance_valid"]) == (True, False)
    assert row["performance_invalid_reasons"] == (REASON,)
    assert (row["host_other_share"], row["energy_host_other_share"]) == (0.48, None)
    old = columns_of(pair[0], ())
    assert (old["performance_valid"], old["host_other_share"]) == (None, None)


@pytest.mark.parametrize("part", ["performance", "energy"])
def test_a_busy_host_that_was_accepted_is_a_caveat(part: str, make_variant: MakeVariant) -> None:
    use = HostUse(cpus=2, other_share=0.48)
    changes: dict[str, Any] = {part: {"host": use, "max_contention": 1.0, "valid": True}}
    (caveat,) = (c for c in Study.of([make_variant(**changes)]).caveats if c.kind is BUSY_HOST)
    assert caveat.text == f"{part}, accepted (--max-contention 1): {REASON}"
    quiet: dict[str, Any] = {part: changes[part] | {"host": replace(use, other_share=0.01)}}
    assert not [c for c in Study.of([make_variant(**quiet)]).caveats if c.kind is BUSY_HOST]
