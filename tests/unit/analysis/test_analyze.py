"""The whole analysis of a folder: what it writes, what it warns of, what it refuses."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis import analyze, load_results
from slim_eval.analysis.figures.style import looks
from slim_eval.cli import main
from slim_eval.config import AnalysisConfig
from slim_eval.errors import UsageError
from slim_eval.results.records import SCHEMA_VERSION, ErrorRecord, FloorEntry, NoiseRecord
from slim_eval.results.store import write_error, write_noise
from slim_eval.results.variants import Variant
from slim_eval.utils import short_name
from tests.planted import items, outcomes

FILES = {
    "complete_results.json", "executive_summary.txt", "findings.md", "results_table.csv", "results_table.tex",
    "results_table.md", "quantization_impact.csv", "paired_accuracy.csv", "summary_statistics.csv", "pareto.csv",
    "report.html",
}  # fmt: skip
PLOTS = {
    f"{name}_comparison.{ending}"
    for name in ("latency", "memory", "energy", "accuracy")
    for ending in ("png", "pdf", "csv")
}


@pytest.fixture
def outputs(tmp_path: Path, make_variant: Callable[..., Variant]) -> Path:
    make_variant(tasks={"mmlu": 0.5, "winogrande": 0.75}, write=True)
    make_variant(precision="int8", performance={"ttft_s": None}, tasks={"mmlu": 0.25}, write=True)
    return tmp_path / "outputs"


def config(outputs: Path, **options: Any) -> AnalysisConfig:
    """Without figures, which take most of the time, unless a test is about them."""
    return AnalysisConfig(**{"input_dir": outputs, "output_dir": outputs.parent / "analysis", "plots": False} | options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def strict_json(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_everything_is_written_and_named(outputs: Path) -> None:
    report = analyze(config(outputs, plots=True))
    folder = outputs.parent / "analysis"
    assert {path.name for path in report.paths} >= FILES | PLOTS
    assert {path for path in folder.rglob("*") if path.is_file()} == set(report.paths)
    assert (report.num_variants, report.problems, report.tasks) == (2, (), ("mmlu", "winogrande"))
    assert [variant.precision for variant in report.study.variants] == ["fp16", "int8"]
    assert rows(folder / "quantization_impact.csv")[0]["mmlu_drop_percent"] == "50.0"
    assert "Tiny int8: not compared: winogrande: not measured at int8" in report.warnings


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


def test_without_figures_none_of_an_earlier_analysis_stays(outputs: Path) -> None:
    folder = outputs.parent / "analysis" / "plots"
    folder.mkdir(parents=True)
    for name in PLOTS:
        (folder / name).write_bytes(b"of an earlier analysis")
    (folder / "own.png").write_bytes(b"a picture that is not slim-eval's")
    report = analyze(config(outputs))
    assert {path.name for path in report.paths} == FILES
    assert [path.name for path in folder.iterdir()] == ["own.png"]
    assert not any("not drawn" in warning for warning in report.warnings)


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
        assert ("slim-eval import" if kind == "file" else "--input-dir") in caught.value.remedy
        assert ("performance.json" in caught.value.cause) == (kind == "only rubbish")
    assert not (tmp_path / "analysis").exists()


def test_bad_files_are_named_and_the_rest_is_analysed(outputs: Path) -> None:
    variant = outputs / "Tiny" / "Tiny_int8"
    text = (variant / "energy.json").read_text(encoding="utf-8")
    (variant / "energy.json").write_text(text[: len(text) // 2], encoding="utf-8")
    (variant / "gsm8k.json").write_text("not json", encoding="utf-8")
    report = analyze(config(outputs))
    assert report.num_variants == 2
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
    assert report.num_variants == 2  # a folder that holds an error alone is no measurement
    assert len(report.problems) == 2
    assert all("no memory" in problem for problem in report.problems)


def test_a_task_that_no_result_has_is_a_warning_with_the_nearest_names(outputs: Path) -> None:
    report = analyze(config(outputs, accuracy_tasks="mmlu winogrand"))
    assert report.tasks == ("mmlu",)
    assert report.warnings[0] == "accuracy task 'winogrand': no result contains it; did you mean winogrande?"
    assert "winogrande" not in rows(outputs.parent / "analysis" / "results_table.csv")[0]
    assert "winogrande" not in report.study.tasks


def test_the_default_tasks_are_shown_only_where_they_are_there(outputs: Path) -> None:
    assert analyze(config(outputs)).tasks == ("mmlu", "winogrande")


def test_one_configuration_is_enough(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    make_variant(precision="int4", energy=None, write=True)
    report = analyze(config(tmp_path / "outputs", plots=True))
    names = {path.name for path in report.paths}
    assert names >= FILES | {"latency_comparison.png", "memory_comparison.pdf"}
    assert not names & {"accuracy_comparison.png", "energy_comparison.png"}
    drawn, compared = report.warnings
    assert drawn.startswith("not drawn, because nothing was measured: energy_comparison, accuracy_comparison")
    assert compared == "Tiny int4: not compared: no fp16 measurement of this model"


def test_two_models_with_one_short_name_stay_two(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    for model in ("a/Tiny", "b/Tiny"):
        for precision in ("fp16", "int8"):
            make_variant(model, precision, write=True)
    frame = load_results(tmp_path / "outputs")
    assert list(frame["name"]) == ["a/Tiny", "a/Tiny", "b/Tiny", "b/Tiny"]
    report = analyze(config(tmp_path / "outputs"))
    assert report.num_variants == 4
    impact = rows(tmp_path / "analysis" / "quantization_impact.csv")
    assert [(row["name"], row["speedup"]) for row in impact] == [("a/Tiny", "1.0"), ("b/Tiny", "1.0")]


@pytest.mark.large
def test_the_published_results_are_drawn(published: Path, tmp_path: Path) -> None:
    report = analyze(AnalysisConfig(input_dir=published, output_dir=tmp_path))
    assert {path.name for path in report.paths} >= FILES | PLOTS


def words_and_numbers(path: Path) -> tuple[str, list[float]]:
    """A text without its numbers, and these: their last digits differ between CPUs."""
    number, text = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?"), path.read_text(encoding="utf-8")
    return number.sub("#", text), [float(found) for found in number.findall(text)]


def test_the_committed_analysis_is_that_of_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`slim-eval analyze --input-dir outputs/published-a100 --output-dir analysis_results/published-a100`."""
    monkeypatch.chdir(Path(__file__).parents[3])
    analyze(AnalysisConfig(input_dir=Path("outputs/published-a100"), output_dir=tmp_path, plots=False))
    for name in sorted(FILES - {"report.html"}):  # which shows figures
        words, numbers = words_and_numbers(tmp_path / name)
        expected_words, expected = words_and_numbers(Path("analysis_results/published-a100", name))
        assert words == expected_words, f"{name}: write it again"
        assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-12), f"{name}: write it again"


def test_the_published_results_are_analysed_without_a_problem(published: Path, tmp_path: Path) -> None:
    report = analyze(AnalysisConfig(input_dir=published, output_dir=tmp_path, plots=False))
    assert (report.num_variants, report.problems) == (13, ())
    assert {path.name for path in report.paths} >= FILES
    assert any("per token it is 1.28x" in warning for warning in report.warnings)
    assert not any("not compared" in warning or "not paired" in warning for warning in report.warnings)
    note = next(
        variant for variant in strict_json(tmp_path / "complete_results.json")["cells"] if "gemma" in variant["name"]
    )
    assert "estimated" in note["performance"]["notes"][0]


def test_the_frontiers_stand_in_the_csv_and_the_json(outputs: Path) -> None:
    analyze(config(outputs, objectives="mmlu:max tpot_s:min, ttft_s"))
    folder = outputs.parent / "analysis"
    table = rows(folder / "pareto.csv")
    titles = list(dict.fromkeys(row["objectives"] for row in table))
    assert titles[-1] == "mmlu:max tpot_s:min ttft_s:min"
    assert [row["objectives"] for row in table] == [title for title in titles for _ in range(2)]
    assert table[-1]["excluded"] == "not measured: ttft_s"
    content = strict_json(folder / "complete_results.json")
    assert [found["objectives"] for found in content["pareto"]] == titles
    assert content["pareto"][-1]["cells"][1]["excluded"] == "not measured: ttft_s"


@pytest.mark.parametrize(
    ("wanted", "cause", "remedy"),
    [
        ("tpot:min", "objective 'tpot'", "tpot_s"),
        ("mmlu:up", "'up' is not a direction", "max, min"),
        ("mmlu mmlu:max", "named twice", "once"),
        ("hellaswag:max", "no result contains this metric", ""),
    ],
)
def test_an_objective_that_cannot_be_is_refused_before_anything_is_written(
    wanted: str, cause: str, remedy: str, outputs: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        analyze(config(outputs, objectives=wanted))
    assert caught.value.exit_code == 2
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert not (outputs.parent / "analysis").exists()


def test_the_command_takes_objectives_as_words_and_refuses_unknown_ones(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--input-dir", str(outputs), "--output-dir", str(tmp_path / "out")]
    assert main(["analyze", *places, "--no-plots", "--objectives", "mmlu:max", "tpot_s:min"]) == 0
    assert "mmlu:max tpot_s:min," in (tmp_path / "out" / "pareto.csv").read_text(encoding="utf-8")
    assert main(["analyze", *places[:3], str(tmp_path / "other"), "--objectives", "mmul:max"]) == 2
    assert "did you mean mmlu" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_findings_are_the_sentences_of_the_file(outputs: Path) -> None:
    report = analyze(config(outputs))
    text = (outputs.parent / "analysis" / "findings.md").read_text(encoding="utf-8")
    flat = " ".join(text.replace("\n- ", "\n").split())
    assert len(report.findings) > 5
    for sentence in report.findings:
        assert " ".join(sentence.split()) in flat


def test_a_file_that_cannot_be_written_is_a_problem_and_the_others_are_there(outputs: Path) -> None:
    folder = outputs.parent / "analysis"
    (folder / "results_table.tex").mkdir(parents=True)
    (folder / "plots").write_text("in the way", encoding="utf-8")
    report = analyze(config(outputs, plots=True))
    assert {path.name for path in report.paths} == FILES - {"results_table.tex"}
    assert len(report.problems) == 2
    for name, problem in zip(("results_table.tex", "plots"), report.problems, strict=True):
        assert str(folder / name) in problem
        assert "not written" in problem


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_an_output_folder_that_cannot_be_is_refused(kind: str, outputs: Path) -> None:
    place = outputs.parent / "taken"
    place.write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="--output-dir"):
        analyze(config(outputs, output_dir=place if kind == "file" else place / "analysis"))


def test_settings_that_differ_are_grouped_and_said(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    make_variant("org/A", write=True)
    make_variant("org/B", head={"engine": "transformers"}, write=True)
    report = analyze(config(tmp_path / "outputs"))
    assert any("2 settings, whose speed and energy are not compared" in warning for warning in report.warnings)
    assert any("engine transformers against vllm" in warning for warning in report.warnings)
    groups = {row["name"]: row["group"] for row in rows(tmp_path / "analysis" / "pareto.csv")}
    assert groups == {"A": "vllm, Test GPU, Test CPU", "B": "transformers, Test GPU, Test CPU"}
    statistics = rows(tmp_path / "analysis" / "summary_statistics.csv")
    assert [row["n"] for row in statistics if row["metric"] == "tpot_s"] == ["1", "1"]


def test_old_and_new_files_stand_in_one_analysis(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    variant = make_variant("org/New", tasks={"mmlu": 0.5}, write=True)
    old = variant.directory.parents[1] / "deep" / "below" / "Old_fp16"
    old.mkdir(parents=True)
    content = {"model": "org/Old", "precision": "fp16", "mean_latency_s": 0.2, "tokens_per_second": 500.0}
    (old / "performance.json").write_text(json.dumps(content), encoding="utf-8")
    newer = {**content, "schema_version": SCHEMA_VERSION + 1, "model": "org/Next"}
    (old.parent / "performance.json").write_text(json.dumps(newer), encoding="utf-8")
    report = analyze(config(tmp_path / "outputs"))
    assert report.num_variants == 2
    assert [problem for problem in report.problems if "newer than this slim-eval" in problem]
    summary = (tmp_path / "analysis" / "findings.md").read_text(encoding="utf-8")
    assert "engine not known against vllm" in " ".join(summary.split())
    assert "Problem:" in summary


@pytest.mark.filterwarnings("ignore:Glyph")  # the font of the figures has no Chinese
@pytest.mark.large
def test_strange_names_and_extreme_numbers_survive(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    root = tmp_path / "outputs"
    names = ["org/模型-é", "org/" + "long-" * 40, "a/Twin", "b/twin"]
    for number, name in enumerate(names):
        odd = {"tpot_s": 10.0 ** (60 * number - 90), "tokens_per_second": 10.0 ** (60 * number - 90)}
        make_variant(
            name, performance=odd, tasks={"mmlu": 0.0}, directory=root / f"m{number}" / f"m{number}_fp16", write=True
        )
    report = analyze(config(root, plots=True))
    assert (report.num_variants, report.problems) == (4, ())
    assert {row["name"] for row in rows(tmp_path / "analysis" / "pareto.csv")} == {
        "模型-é", short_name(names[1]), "a/Twin", "b/twin"
    }  # fmt: skip


def test_items_are_paired_with_the_baselines(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    before, after = outcomes(2000, right=1400, lost=150, gained=40)
    make_variant(tasks={"quiz": 0.7}, samples={"quiz": items(before)})
    make_variant(precision="int8", tasks={"quiz": 0.645}, samples={"quiz": items(after)})
    analyze(config(tmp_path / "outputs"))
    (row,) = rows(tmp_path / "analysis" / "paired_accuracy.csv")
    assert (row["task"], row["verdict"], row["num_items"], row["lost"]) == ("quiz", "degraded", "2000", "150")
    assert float(row["drop_pp_ci95_low"]) < float(row["drop_pp"]) == pytest.approx(5.5)
    content = strict_json(tmp_path / "analysis" / "complete_results.json")
    (paired,) = content["paired"].values()
    assert paired[0]["flips"] == pytest.approx(0.095)


def test_samples_that_cannot_be_read_are_named_and_the_rest_is_analysed(
    tmp_path: Path, make_variant: Callable[..., Variant]
) -> None:
    for precision in ("fp16", "int8"):
        variant = make_variant(precision=precision, tasks={"quiz": 0.5}, samples={"quiz": items([1.0, 0.0])})
    path = variant.directory / "quiz.samples.jsonl.gz"
    path.write_bytes(path.read_bytes()[:20])
    report = analyze(config(tmp_path / "outputs"))
    assert any(str(path) in warning for warning in report.warnings)
    (row,) = rows(tmp_path / "analysis" / "quantization_impact.csv")
    assert row["quiz_drop_pp"] == "0.0"


def test_differences_below_the_noise_floor_are_marked(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    make_variant(write=True)
    variant = make_variant(precision="int8", performance={"tpot_s": 0.0041, "ttft_s": 0.01}, write=True)
    floors = {key: FloorEntry(values=(1.0, 1.0), floor=0.05) for key in ("tpot_s", "ttft_s")}
    record = NoiseRecord(
        model=variant.model, precision="fp16", timestamp="2026-01-01T00:00:00+00:00", engine="vllm",
        hardware="Test GPU, Test CPU", batch_size=8, max_new_tokens=100, prompt_tokens=12.0, metrics=floors,
    )  # fmt: skip
    write_noise(variant.directory.parent, record)
    report = analyze(config(tmp_path / "outputs"))
    found = [report.study.within_noise(variant) for variant in report.study.variants]
    assert found == [frozenset(), frozenset({"tpot_s"})]
    (row,) = rows(tmp_path / "analysis" / "quantization_impact.csv")
    assert row["within_noise"] == "tpot_s"


def test_every_label_reaches_the_tables_the_report_and_the_figures(
    make_variant: Callable[..., Variant], tmp_path: Path
) -> None:
    before, after = outcomes(400, right=300, lost=60)
    labels = [
        "w4a16-awq g128",
        "w8a8",
        "fp8-static+kv8",
        "bnb-4bit",
        "q4_k_m",
        "fp16+lora",
        "mixed-fp8-w4a16",
        "quantized",
    ]
    make_variant("org/Tiny", tasks={"mmlu": 0.75}, samples={"mmlu": items(before)})
    for number, label in enumerate(labels):
        head = {"base_model": "org/Tiny"}
        model = f"org/Tiny-made{number}"
        make_variant(model, label, tasks={"mmlu": 0.6}, samples={"mmlu": items(after)}, head=head)
    analyze(config(tmp_path / "outputs"))
    folder = tmp_path / "analysis"
    table, impact = rows(folder / "results_table.csv"), rows(folder / "quantization_impact.csv")
    assert {row["precision"] for row in table} == {"fp16", *labels}
    assert {row["precision"] for row in impact} == set(labels)
    assert {row["precision"] for row in rows(folder / "paired_accuracy.csv")} == set(labels)
    report, markdown = ((folder / name).read_text() for name in ("report.html", "results_table.md"))
    for label in labels:
        assert label in report
        assert label.replace("_", "\\_") in markdown or label in markdown
    colours = list(looks(["fp16", *labels]).values())
    assert len(set(colours)) == len(colours)
