"""The whole analysis of a folder: what it writes, what it warns of, what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis import analyze, load_results
from slim_eval.config import AnalysisConfig
from slim_eval.errors import UsageError
from slim_eval.records import SCHEMA_VERSION, ErrorRecord
from slim_eval.results import Cell, write_error

FILES = {"complete_results.json", "results_table.csv", "quantization_impact.csv"}
PLOTS = {f"{name}_comparison.png" for name in ("latency", "memory", "energy", "accuracy")}


@pytest.fixture
def outputs(tmp_path: Path, make_cell: Callable[..., Cell]) -> Path:
    make_cell(tasks={"mmlu": 0.5, "winogrande": 0.75}, write=True)
    make_cell(precision="int8", performance={"ttft_s": None}, tasks={"mmlu": 0.25}, write=True)
    return tmp_path / "outputs"


def config(outputs: Path, **options: Any) -> AnalysisConfig:
    return AnalysisConfig(**{"input_dir": outputs, "output_dir": outputs.parent / "analysis"} | options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def strict_json(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_everything_is_written_and_named(outputs: Path) -> None:
    report = analyze(config(outputs))
    folder = outputs.parent / "analysis"
    assert {path.name for path in report.paths} == FILES | PLOTS
    assert {path for path in folder.rglob("*") if path.is_file()} == set(report.paths)
    assert (report.num_cells, report.problems, report.tasks) == (2, (), ("mmlu", "winogrande"))
    assert [row["precision"] for row in report.rows] == ["fp16", "int8"]
    assert rows(folder / "quantization_impact.csv")[0]["mmlu_drop_percent"] == "50.0"
    assert report.warnings == ("not compared: winogrande: not measured at int8: Tiny int8",)


def test_complete_results_hold_every_record_and_null_for_the_missing(outputs: Path) -> None:
    analyze(config(outputs, accuracy_tasks=("winogrande",)))
    content = strict_json(outputs.parent / "analysis" / "complete_results.json")
    fp16, int8 = content["cells"]
    assert (fp16["name"], fp16["directory"]) == ("Tiny", "Tiny/Tiny_fp16")
    assert int8["performance"]["ttft_s"] is None
    assert int8["performance"]["environment"]["cpu"] == "Test CPU"
    assert fp16["accuracy"]["mmlu"]["accuracy"] == 0.5  # all tasks, whichever are shown
    (impact,) = content["quantization_impact"]
    assert impact["mmlu_drop_pp"] == 25.0
    assert impact["ttft_speedup"] is None


@pytest.mark.parametrize("inside", [".", "analysis"])
def test_the_output_may_stand_within_the_input_and_be_written_again(inside: str, outputs: Path) -> None:
    chosen = config(outputs, output_dir=outputs / inside)
    first = analyze(chosen)
    texts = {path: path.read_bytes() for path in first.paths}
    second = analyze(chosen)
    assert second == first
    assert {path: path.read_bytes() for path in second.paths} == texts


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "only rubbish"])
def test_a_folder_without_results_is_a_usage_error(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    if kind == "file":
        folder.write_text("x", encoding="utf-8")
    elif kind != "missing":
        folder.mkdir()
    if kind == "only rubbish":
        (folder / "performance.json").write_text("{", encoding="utf-8")
    for call in (lambda: analyze(config(folder)), lambda: load_results(folder)):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.exit_code == 2
        assert str(folder) in caught.value.cause
        assert "--input-dir" in caught.value.remedy
        assert ("performance.json" in caught.value.cause) == (kind == "only rubbish")
    assert not (tmp_path / "analysis").exists()


def test_bad_files_are_named_and_the_rest_is_analysed(outputs: Path) -> None:
    cell = outputs / "Tiny" / "Tiny_int8"
    text = (cell / "energy.json").read_text(encoding="utf-8")
    (cell / "energy.json").write_text(text[: len(text) // 2], encoding="utf-8")
    (cell / "gsm8k.json").write_text("not json", encoding="utf-8")
    report = analyze(config(outputs))
    assert report.num_cells == 2
    assert len(report.problems) == 2
    for name, problem in zip(("energy.json", "gsm8k.json"), report.problems, strict=True):
        assert name in problem
        assert problem.endswith("skipped")
    (impact,) = rows(outputs.parent / "analysis" / "quantization_impact.csv")
    assert impact["energy_reduction_percent"] == ""
    assert "energy: not measured at int8" in impact["not_comparable"]
    assert impact["mmlu_drop_pp"] == "25.0"
    with pytest.warns(UserWarning, match="skipped"):
        assert len(load_results(outputs)) == 2


def test_failed_benchmarks_are_named(outputs: Path) -> None:
    head = {"schema_version": SCHEMA_VERSION, "model": "org/Tiny", "precision": "int8"}
    error = ErrorRecord(**head, stage="gsm8k", cause="no memory")
    write_error(outputs / "Tiny" / "Tiny_int8", "gsm8k", error)
    write_error(outputs / "Tiny" / "Tiny_int4", "quantization", error.model_copy(update={"precision": "int4"}))
    report = analyze(config(outputs))
    assert report.num_cells == 2  # a folder that holds an error alone is no measurement
    assert len(report.problems) == 2
    assert all("no memory" in problem for problem in report.problems)


def test_a_task_that_no_result_has_is_a_warning_with_the_nearest_names(outputs: Path) -> None:
    report = analyze(config(outputs, accuracy_tasks="mmlu winogrand"))
    assert report.tasks == ("mmlu",)
    assert report.warnings[0] == "accuracy task 'winogrand': no result has it; did you mean winogrande?"
    assert "winogrande" not in rows(outputs.parent / "analysis" / "results_table.csv")[0]
    assert not any(key.startswith("winogrande") for key in report.rows[0])


def test_the_default_tasks_are_shown_only_where_they_are_there(outputs: Path) -> None:
    assert analyze(config(outputs)).tasks == ("mmlu", "winogrande")


def test_one_configuration_is_enough(tmp_path: Path, make_cell: Callable[..., Cell]) -> None:
    make_cell(precision="int4", energy=None, write=True)
    report = analyze(config(tmp_path / "outputs"))
    assert {path.name for path in report.paths} == FILES | {"latency_comparison.png", "memory_comparison.png"}
    assert set(report.warnings) == {
        "accuracy_comparison.png: nothing measured to draw",
        "energy_comparison.png: nothing measured to draw",
        "not compared: no fp16 measurement of this model: Tiny int4",
    }


def test_two_models_with_one_short_name_stay_two(tmp_path: Path, make_cell: Callable[..., Cell]) -> None:
    for model in ("a/Tiny", "b/Tiny"):
        for precision in ("fp16", "int8"):
            make_cell(model, precision, write=True)
    frame = load_results(tmp_path / "outputs")
    assert list(frame["name"]) == ["a/Tiny", "a/Tiny", "b/Tiny", "b/Tiny"]
    report = analyze(config(tmp_path / "outputs"))
    assert report.num_cells == 4
    impact = rows(tmp_path / "analysis" / "quantization_impact.csv")
    assert [(row["name"], row["speedup"]) for row in impact] == [("a/Tiny", "1.0"), ("b/Tiny", "1.0")]


def test_the_published_results_are_analysed_without_a_problem(published: Path, tmp_path: Path) -> None:
    report = analyze(AnalysisConfig(input_dir=published, output_dir=tmp_path))
    assert (report.num_cells, report.problems) == (13, ())
    assert {path.name for path in report.paths} == FILES | PLOTS
    (lengths,) = report.warnings
    assert "other output length" in lengths
    note = next(cell for cell in strict_json(tmp_path / "complete_results.json")["cells"] if "gemma" in cell["name"])
    assert "estimated" in note["performance"]["notes"][0]
