"""Two sweeps compared: their crossovers in words, and the variant with the highest goodput."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from slim_eval.analysis.compare.folders import compare_folders
from slim_eval.analysis.compare.formats import renderable
from slim_eval.analysis.crossover import MetricCrossover, crossovers_of
from slim_eval.analysis.figures.drawing import write_figures
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.figures.load_curves import _crossover_map, crossover_rows
from slim_eval.analysis.loads import at_highest_goodput
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.recommend.wording import answer_of
from slim_eval.analysis.study import Study
from slim_eval.analysis.verdict import verdict_on
from slim_eval.config import CompareConfig, Question
from slim_eval.metrics import MAX_GOODPUT, METRICS, TPOT
from slim_eval.results.records import PerformanceRecord, ServingLevel, ServingRecord
from slim_eval.results.store import write_record
from slim_eval.results.variants import Variant
from slim_eval.stats import Crossing, Interval

LOADS = (1, 2, 4, 8, 16, 32)


def _served(precision: str, tpot_ms: Callable[[int], float], where: Path, *, spread: float = 0.01) -> Variant:
    found = []
    for load in LOADS:
        tpot = tpot_ms(load) / 1000
        rate = load / (100 * tpot)
        found.append(
            ServingLevel(
                load=f"slim-eval, concurrency-{load}", label=f"concurrency-{load}", max_concurrency=load,
                arrivals="closed loop", tpot_s=tpot, p95_tpot_s=tpot, median_tpot_s=tpot, requests_per_second=rate,
                tokens_per_second=100 * rate, output_tokens=100, prompt_tokens=10, max_new_tokens=100, valid=True,
                joules_per_output_token=100 / (100 * rate), energy_source="nvml-counter",
                intervals={
                    key: (value * (1 - spread), value * (1 + spread))
                    for key, value in (
                        ("tpot_s", tpot), ("p95_tpot_s", tpot), ("tokens_per_second", 100 * rate),
                        ("joules_per_output_token", 1 / rate),
                    )
                },
            )
        )  # fmt: skip
    record = ServingRecord(
        schema_version=1, model="m", base_model="m", precision=precision, baseline="fp16", engine="vllm",
        environment={"cpu": "Test CPU"}, levels=tuple(found),
    )  # fmt: skip
    return Variant.of(where / f"m_{precision}", [record])


def _pair(where: Path, spread: float = 0.01) -> tuple[Variant, Variant]:
    return (
        _served("fp16", lambda load: 10 + load, where, spread=spread),
        _served("int8", lambda load: 16 + load / 2, where, spread=spread),
    )


def test_each_metric_has_its_crossover_and_who_is_better_on_which_side(tmp_path: Path) -> None:
    found = {each.metric.key: each for each in crossovers_of(*_pair(tmp_path))}
    for key in ("tpot_s", "p95_tpot_s", "tokens_per_second", "joules_per_output_token"):
        assert 12 in found[key].crossings[0].interval
        assert found[key].sides("fp16", "int8") == ("fp16 better", "int8 better")
    assert found["tpot_s"].words("fp16", "int8").startswith("time per output token: fp16 better below 12.0 [")
    assert found["tpot_s"].unit == "concurrent requests"


def test_without_a_crossover_the_range_is_named(tmp_path: Path) -> None:
    a, _ = _pair(tmp_path)
    slower = _served("int8", lambda load: 1.5 * (10 + load), tmp_path)
    found = next(each for each in crossovers_of(a, slower) if each.metric is TPOT)
    assert found.words("A", "B") == (
        "time per output token: no crossover between 1 and 32 concurrent requests: A better"
    )
    same = next(each for each in crossovers_of(a, _served("int8", lambda load: 10 + load, tmp_path)))
    assert same.sides("A", "B") == ("no difference seen", "no difference seen")


def test_other_loads_and_wide_intervals_claim_nothing(tmp_path: Path) -> None:
    a, b = _pair(tmp_path)
    assert not any(each.crossings for each in crossovers_of(*_pair(tmp_path, spread=0.9)))
    assert b.serving is not None
    levels = tuple(level.model_copy(update={"load": f"guidellm, {level.label}"}) for level in b.serving.levels)
    other = Variant.of(b.directory, [b.serving.model_copy(update={"levels": levels})])
    assert crossovers_of(a, other) == []


def test_two_crossovers_name_who_is_better_between_them() -> None:
    metric, between = METRICS["tpot_s"], (Crossing(4.0, Interval(3.5, 4.5)), Crossing(20.0, Interval(18.0, 22.0)))
    found = MetricCrossover(metric, (1, 8, 32), "concurrent requests", between, ("A", "B", "A"))
    assert found.words("X", "Y") == (
        "time per output token: X better at first, Y better from 4.00 [3.50, 4.50], X better from 20.0 [18.0, 22.0] "
        "concurrent requests"
    )


def test_prompts_of_a_range_are_compared_by_their_setting(tmp_path: Path) -> None:
    """Of the same requests a faster server ends others in its window: their mean length differs."""
    sweeps = []
    for variant, tokens, seed in zip(_pair(tmp_path), (622.0, 640.0), (0, 0), strict=True):
        assert variant.serving is not None
        named = {"prompt_tokens": tokens, "dataset": f"synthetic prompts of 256 to 1024 tokens, seed {seed}"}
        levels = tuple(level.model_copy(update=named) for level in variant.serving.levels)
        sweeps.append(Variant.of(variant.directory, [variant.serving.model_copy(update={"levels": levels})]))
    assert {each.metric.key for each in crossovers_of(*sweeps)} >= {"tpot_s", "tokens_per_second"}


def test_invalid_energy_of_a_level_is_named_with_its_reason(tmp_path: Path) -> None:
    a, b = _pair(tmp_path)
    assert a.serving is not None
    *levels, last = a.serving.levels
    gone = {"joules_per_output_token": None, "energy_reasons": ("throttled: the power cap",)}
    throttled = a.serving.model_copy(update={"levels": (*levels, last.model_copy(update=gone))})
    for variant, record in ((a, throttled), (b, b.serving)):
        assert record is not None
        write_record(variant.directory, record, [])
    reasons = {
        pair.a.level.label: made.reason or ""
        for pair in compare_folders(CompareConfig(a=a.directory, b=b.directory)).pairs for made in pair.metrics
        if made.metric.key == "joules_per_output_token" and pair.a.level is not None
    }  # fmt: skip
    assert len(reasons) == len(LOADS)
    assert "the fp16 measurement is marked invalid (throttled: the power cap)" in reasons["concurrency-32"]
    assert not any("invalid" in text for label, text in reasons.items() if label != "concurrency-32")


def test_the_highest_goodput_is_at_a_load_of_each_variant(tmp_path: Path) -> None:
    a, b = _pair(tmp_path)
    shown = at_highest_goodput(a, ("tpot_p95:20ms",))  # 10 + load: up to 8
    assert shown.level is not None
    assert (shown.level.label, shown.number(MAX_GOODPUT)) == ("concurrency-8", 8 / 1.8)
    assert shown.interval(MAX_GOODPUT) == (8 / 1.8, 16 / 2.6)
    found = recommend(Study.of([a, b]), Question(max_goodput=True, slo=("tpot_p95:30ms",)))
    assert found.pick is not None
    assert found.pick.variant.precision == "int8"  # 16 requests at 24 ms, against 16 at 26 ms
    assert any("int8 at concurrency-16" in text for text in found.caveats)


def test_what_a_recommendation_gains_is_said_of_its_load(tmp_path: Path) -> None:
    """Also energy per token, although a faster server answered more requests in its window."""
    offline = {"fp16": 10.0, "int8": 40.0}  # batches of the performance benchmark: four times slower
    variants = []
    for variant in _pair(tmp_path):
        assert variant.serving is not None
        levels = tuple(
            level.model_copy(update={"num_runs": 100 + number, "energy_joules": 50.0 + number})
            for number, level in enumerate(variant.serving.levels, start=variant.precision == "int8")
        )
        batches = PerformanceRecord(
            schema_version=1, model="m", base_model="m", precision=variant.precision, baseline="fp16", engine="vllm",
            tpot_s=offline[variant.precision] / 1000, environment={"cpu": "Test CPU"},
        )  # fmt: skip
        serving = variant.serving.model_copy(update={"levels": levels})
        variants.append(Variant.of(variant.directory, [serving, batches]))
    study = Study.of(variants)
    for load, speed, energy in ((32, 42 / 32, -1 + 32 / 42), (2, 12 / 17, -1 + 17 / 12)):
        found = recommend(study, Question(load=str(load), objective="tpot_s"))
        verdict = next(each for each in verdict_on(found, study).variants if each.variant.precision == "int8")
        assert verdict.effect("speed").value == pytest.approx(speed)
        assert verdict.effect("energy").value == pytest.approx(100 * energy)


def test_what_a_pick_by_goodput_gains_is_of_the_loads_that_were_compared(tmp_path: Path) -> None:
    fast, slow = _pair(tmp_path)
    study = Study.of([fast, slow])
    found = recommend(study, Question(max_goodput=True, slo=("tpot_p95:30ms",)))  # both at 16: 26 against 24 ms
    verdict = next(each for each in verdict_on(found, study).variants if each.variant.precision == "int8")
    assert verdict.effect("speed").value == pytest.approx(26 / 24)
    found = recommend(study, Question(max_goodput=True, slo=("tpot_p95:22ms",)))  # both at 8: 18 against 20 ms
    verdict = next(each for each in verdict_on(found, study).variants if each.variant.precision == "int8")
    assert verdict.effect("speed").value == pytest.approx(18 / 20)


def test_the_highest_goodput_is_called_so_once(tmp_path: Path) -> None:
    found = recommend(Study.of(_pair(tmp_path)), Question(max_goodput=True, slo=("tpot_p95:30ms",)))
    assert answer_of(found).count("highest") == 2  # its name, and why it is the pick
    assert "highest highest" not in answer_of(found)


def test_the_map_has_a_row_per_metric(tmp_path: Path) -> None:
    study = Study.of(_pair(tmp_path))
    assert {each.metric.key for _, each in crossover_rows(study)} >= {"tpot_s", "tokens_per_second"}
    assert _crossover_map("title", study) is not None
    assert _crossover_map("title", Study.of(_pair(tmp_path)[:1])) is None


def test_the_figures_of_servers_are_written_and_have_each_variant_as_a_curve(tmp_path: Path) -> None:
    study = Study.of(_pair(tmp_path))
    names = ("latency_throughput", "goodput_by_load", "energy_by_load", "crossover_map")
    written, empty = write_figures(study, tmp_path / "plots", [FIGURES[name] for name in names])
    assert empty == ["goodput_by_load"]  # no objectives were given
    assert {path.stem for path in written} == set(names) - set(empty)
    tables = {path.stem: list(csv.DictReader(path.open())) for path in written if path.suffix == ".csv"}
    assert {row["precision"] for row in tables["energy_by_load"]} == {"fp16", "int8"}
    assert {float(row["load"]) for row in tables["energy_by_load"]} == set(LOADS)
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in tables["energy_by_load"])
    assert "throughput, tokens/s" in tables["latency_throughput"][0]
    (crossed,) = (row for row in tables["crossover_map"] if (row["better"], row["metric"]) == ("crossover", "TPOT, ms"))
    assert float(crossed["low"]) < 12 < float(crossed["high"])
    made = FIGURES["energy_by_load"].draw(study)
    assert made is not None
    curves = [line for axes in made.axes for line in axes.get_lines() if len(line.get_xdata()) == len(LOADS)]
    assert len(curves) >= 2


def test_the_verdict_on_two_sweeps_names_the_load_and_the_crossover(tmp_path: Path) -> None:
    for variant in _pair(tmp_path):
        for record in variant.records:
            write_record(variant.directory, record, [])
    report = compare_folders(CompareConfig(a=tmp_path / "m_fp16", b=tmp_path / "m_int8"))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(renderable(report))
    shown = " ".join(captured.get().replace("\u2502", " ").split())
    assert "energy +50 % [+48, +52] (energy per output token) at concurrency-1" in shown
    assert "The load decides: time per output token: m fp16 better below 12.0 [" in shown
    assert "TPOT 12.0 [11.6, 12.4] A better B better" in shown
