"""The noise floor of planted repeats, what is said about it, and floors that earlier versions wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slim_eval.analysis.compare import formats
from slim_eval.analysis.compare.comparison import compare
from slim_eval.analysis.compare.folders import ComparisonReport
from slim_eval.analysis.compare.noise_floor import answer, floor_words, noise_floor, remarks, within_noise
from slim_eval.analysis.compare.repeats import noise_record
from slim_eval.analysis.report import provenance
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.terminal import noise_table
from slim_eval.cli import main
from slim_eval.results.records import NoiseRecord
from slim_eval.results.store import find_results, noise_directory, read_noise, write_noise
from slim_eval.results.variants import Variant
from tests.planted import items, performance, requests

MakeRuns = Callable[..., list[Variant]]
EQUAL = (1.0, 1.001, 0.999, 1.0005, 0.9995)
APART = (1.0, 1.06, 0.94, 1.03, 0.97)


@pytest.fixture
def runs_of(make_variant: Callable[..., Variant], tmp_path: Path) -> MakeRuns:
    """Runs of one variant whose processes are slower or faster by these factors; times vary by 10 % within a run."""

    def make(factors: tuple[float, ...], *, iterations: int = 25, jitter: float = 0.1, **more: Any) -> list[Variant]:
        made = []
        for number, factor in enumerate(factors, start=1):
            rows = requests(0.01 * factor, seed=number, iterations=iterations, jitter=jitter)
            if jitter:  # the factor alone is what runs differ by
                scale = 0.01 * factor / performance(rows)["tpot_s"]
                timed = ("wall_s", "ttft_s", "tpot_s", "e2e_s")
                rows = [row | {key: row[key] * scale for key in timed} for row in rows]
            numbers = performance(rows) | {"num_iterations": iterations}
            folder = noise_directory(tmp_path / "outputs" / "Tiny") / f"run-{number}"
            made.append(make_variant(performance=numbers, samples={"performance": rows}, directory=folder, **more))
        return made

    return make


def shown(record: NoiseRecord, width: int = 120) -> str:
    out = Console(file=io.StringIO(), width=width, legacy_windows=False)
    out.print(noise_table(record))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_variation_within_and_between_processes_is_recorded(runs_of: MakeRuns, tmp_path: Path) -> None:
    record = noise_record(runs_of(APART))
    for key in ("tpot_s", "tokens_per_second"):
        entry = record.metrics[key]
        assert entry.within == pytest.approx(0.02, rel=0.15)  # 10 % over the square root of 25 iterations
        assert entry.between == pytest.approx((0.0478**2 - 0.02**2) ** 0.5, rel=0.1)
        assert entry.between_p_value is not None
        assert entry.between_p_value < 0.01
        assert entry.floor == pytest.approx(2.776 * 0.0478 * 2**0.5, rel=0.15)
        assert entry.floor_interval is not None
        assert entry.floor_interval[0] < entry.floor < entry.floor_interval[1]
    assert record.metrics["tpot_s"].mean == pytest.approx(0.01, rel=0.01)
    assert record.iterations == (25,) * 5
    assert "model_size_gb" not in record.metrics
    model = tmp_path / "outputs" / "Tiny"
    write_noise(model, record)
    assert read_noise(model) == record
    assert find_results(tmp_path).variants == ()  # the runs are no results of their own


def test_processes_that_do_not_differ_are_said_to_and_theory_gives_the_floor(runs_of: MakeRuns) -> None:
    record = noise_record(runs_of(EQUAL))
    entry = record.metrics["tpot_s"]
    assert entry.between == 0
    assert entry.floor == pytest.approx(1.98 * 0.02 * 2**0.5, rel=0.15)  # the runs agree more closely, by chance
    (same,) = (text for text in remarks(record) if "cannot be distinguished" in text)
    assert "TPOT, " in same
    assert "p ≥ 0.05" in same
    apart = [text for text in remarks(noise_record(runs_of(APART))) if "cannot be distinguished" in text]
    assert not any("TPOT" in text for text in apart)
    assert any("TPOT" in text and "differ by more than" in text for text in remarks(noise_record(runs_of(APART))))
    assert not any("differ by more than" in text for text in remarks(record))


def test_what_has_no_samples_has_the_spread_of_the_runs(make_variant: Callable[..., Variant], tmp_path: Path) -> None:
    runs = [
        make_variant(
            performance={"mean_peak_mem_mb": 1000.0 * factor, "tpot_s": 0.01}, directory=tmp_path / str(factor)
        )
        for factor in (1.0, 1.01, 0.99)
    ]
    record = noise_record(runs)
    memory = record.metrics["mean_peak_mem_mb"]
    assert (memory.within, memory.between_p_value) == (None, None)
    assert memory.between == pytest.approx(0.01, rel=0.02)
    assert memory.floor == pytest.approx(4.303 * 0.01 * 2**0.5, rel=0.05)
    same = record.metrics["tpot_s"]
    assert (same.floor, same.floor_interval) == (0.0, None)


def test_an_interval_of_its_own_is_the_variation_within_a_run(
    make_variant: Callable[..., Variant], tmp_path: Path
) -> None:
    key, runs = "joules_per_output_token", []
    for joules in (0.5, 0.501):
        energy = {key: joules, "intervals": {key: (joules * 0.9608, joules / 0.9608)}}
        runs.append(make_variant(energy=energy, directory=tmp_path / str(joules)))
    assert noise_record(runs).metrics[key].within == pytest.approx(0.0206, rel=0.01)


def test_times_that_drifted_do_not_count(runs_of: MakeRuns, make_variant: Callable[..., Variant]) -> None:
    steady, drifting = runs_of(APART)[:4], runs_of((9.0,), head={})[0]
    numbers = {"tpot_s": 0.09, "warmup_stable": False, "mean_peak_mem_mb": 2048.0}
    record = noise_record([*steady, make_variant(performance=numbers, directory=drifting.directory.parent / "run-9")])
    assert record.metrics["tpot_s"].values[-1] is None
    assert record.metrics["tpot_s"].floor == noise_record(steady).metrics["tpot_s"].floor
    assert record.metrics["mean_peak_mem_mb"].values[-1] == 2048.0
    (said,) = (text for text in remarks(record) if "drift" in text)
    assert said.startswith("run 5 does not count for")
    assert "TPOT" in said
    assert "peak memory" not in said


def test_a_run_on_other_hardware_does_not_count(runs_of: MakeRuns) -> None:
    here = runs_of(APART)[:3]
    elsewhere = runs_of((1.0, 1.0, 1.0, 1.5), head={"environment": {"gpus": [{"name": "Other GPU"}]}})[3]
    assert noise_record([*here, elsewhere]).metrics["tpot_s"].values[3] is None


def test_a_run_on_a_disturbed_host_does_not_count(runs_of: MakeRuns, make_variant: Callable[..., Variant]) -> None:
    runs = runs_of(APART)[:3]
    numbers = {"tpot_s": 0.09, "valid": False, "invalid_reasons": ("host disturbed",)}
    record = noise_record([*runs, make_variant(performance=numbers, directory=runs[0].directory.parent / "run-4")])
    assert record.metrics["tpot_s"].values[3] is None
    assert any(text.startswith("run 4 does not count for") and "invalid" in text for text in remarks(record))


def test_flips_of_two_runs_are_recorded(make_variant: Callable[..., Variant], tmp_path: Path) -> None:
    runs = [
        make_variant(tasks={"quiz": 0.5}, samples={"quiz": items(scores)}, directory=tmp_path / f"run-{number}")
        for number, scores in enumerate(([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]))
    ]
    record = noise_record(runs)
    assert record.flips == {"quiz": 0.25}
    assert (record.tasks["quiz"].floor, record.tasks["quiz"].floor_interval) == (0, None)  # the same share was right
    assert "quiz: 25.0 % of the answers changed between two runs at most" in shown(record)


def test_the_answer_comes_first_then_the_table_then_what_is_uncertain(runs_of: MakeRuns) -> None:
    record = noise_record(runs_of(APART))
    lines = shown(record).splitlines()
    floor = floor_words(record, "tpot_s")
    assert lines[0].startswith(f"Tiny fp16: differences of up to {floor[1:].split(' [')[0]} in TPOT,")
    (row,) = (line for line in lines if "│ TPOT, ms " in line)
    assert floor in " ".join(row.replace("│", " ").split())
    assert "9.99" in row  # the geometric mean
    end = " ".join("\n".join(lines[lines.index(row) :]).split())
    assert "rough floors: 5 runs determine a floor only within a factor of 4.80" in end
    assert "--num-repeats 10 narrows this to 2.65" in end


def test_a_floor_from_many_runs_is_not_rough(runs_of: MakeRuns) -> None:
    record = noise_record(runs_of(APART * 4))
    record = record.model_copy(update={"metrics": {"tpot_s": record.metrics["tpot_s"]}})
    assert not [text for text in remarks(record) if "rough" in text]


def test_nothing_measured_twice_has_no_floor(make_variant: Callable[..., Variant], tmp_path: Path) -> None:
    runs = [make_variant(performance=None, energy=None, directory=tmp_path / name) for name in ("a", "b")]
    assert answer(noise_record(runs)) == (
        "Tiny fp16: no metric has a valid value in two runs, so that no noise floor is known"
    )
    assert shown(noise_record(runs)).strip() == answer(noise_record(runs))


#: What version 0.2.0 wrote, of two runs.
OLD = {
    "schema_version": 2, "model": "org/Tiny", "precision": "fp16", "timestamp": "2026-01-01T00:00:00+00:00",
    "engine": "vllm", "kernels": "native", "hardware": "Test GPU, Test CPU", "batch_size": 8, "max_new_tokens": 100,
    "prompt_tokens": 12.0, "metrics": {"tpot_s": {"values": [0.0100, 0.0104], "floor": 0.52}},
    "tasks": {"quiz": {"values": [0.5, 0.51], "floor": 12.7}}, "flips": {"quiz": 0.01},
}  # fmt: skip


def test_a_floor_of_an_earlier_version_is_used_as_before(make_variant: Callable[..., Variant]) -> None:
    base, slower = make_variant(), make_variant(precision="int8", performance={"tpot_s": 0.0055})
    path = noise_directory(base.directory.parent) / "noise.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(OLD))
    record = noise_floor(slower)
    assert record is not None
    entry = record.metrics["tpot_s"]
    assert (entry.floor, entry.floor_interval, entry.mean, entry.within, entry.between) == (0.52, *[None] * 4)
    assert within_noise(slower, base, record) == {"tpot_s"}
    assert remarks(record) == []
    assert floor_words(record, "tpot_s") == "±52.0 %"
    assert provenance.noise_remarks(Study.read([base, slower])) == []
    assert "-" in shown(record)


def test_compare_and_the_report_say_how_rough_the_floor_is(
    runs_of: MakeRuns, make_variant: Callable[..., Variant]
) -> None:
    rows = [requests(0.01 * factor, seed=seed) for seed, factor in ((31, 1.0), (32, 1.03))]
    a, b = (
        make_variant(precision=precision, performance=performance(side), samples={"performance": side})
        for precision, side in zip(("fp16", "int8"), rows, strict=True)
    )
    record = noise_record(runs_of(APART))
    write_noise(a.directory.parent, record)
    made = compare(a, b, 1.0)
    report = ComparisonReport((made,), (), (), ())
    content = json.loads(formats.to_json(report))["pairs"][0]["metrics"]["tpot_s"]
    assert content["floor"] == record.metrics["tpot_s"].floor
    assert content["floor_interval"] == list(record.metrics["tpot_s"].floor_interval or ())
    assert content["verdict"] == "within noise"
    assert "rough floors: 5 runs" in formats.to_markdown(report)
    study = Study.read([a, b])
    assert any("rough floors: 5 runs" in text for text in provenance.noise_remarks(study))
    (line,) = (row for row in provenance.noise_floors(study).rows if row[2].text == "TPOT, ms")
    assert line[3].text == floor_words(record, "tpot_s")


@pytest.mark.parametrize("floor", [None, "old", "new"])
def test_compare_prints_whether_its_intervals_include_the_noise_floor(
    floor: str | None, runs_of: MakeRuns, make_variant: Callable[..., Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [requests(0.01, seed=seed) for seed in (31, 32)]
    a, b = (
        make_variant(precision=name, performance=performance(side), samples={"performance": side}, write=True)
        for name, side in zip(("fp16", "int8"), rows, strict=True)
    )
    if floor is not None:
        record = NoiseRecord.model_validate(OLD) if floor == "old" else noise_record(runs_of(APART))
        write_noise(a.directory.parent, record)
    assert main(["compare", str(a.directory), str(b.directory)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    none = "no noise floor: these intervals do not include run-to-run variance (see slim-eval noise)"
    widened = "intervals widened by the noise floor that `slim-eval noise` measured: "
    assert (none in said, widened in said, "rough floors: " in said) == (not floor, bool(floor), floor == "new")
