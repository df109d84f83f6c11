"""The whole command on the embedded model, and its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import slim_eval
from slim_eval.demo import MODEL_DIR, TASKS
from slim_eval.results.records import PerformanceRecord
from slim_eval.results.store import read_record, read_samples
from tests.commands import DTYPE, QUICK, Run, run_command

PRECISIONS = ("fp16", "int8", "int4")
RECORDS = ("performance", "energy", *TASKS)


def test_it_ends_well_with_a_table(demo_run: Run) -> None:
    assert demo_run.process.returncode == 0, demo_run.process.stderr
    for precision in PRECISIONS:
        assert precision in demo_run.process.stdout
    assert "Traceback" not in demo_run.process.stderr


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_record_is_there_with_its_samples(demo_run: Run, precision: str) -> None:
    names = {path.name for path in demo_run.variant(precision).iterdir()}
    assert {f"{name}.json" for name in RECORDS} | {"run.log"} <= names
    assert not [name for name in names if name.endswith(".error.json")]
    for name in ("performance", *TASKS):
        assert read_samples(demo_run.variant(precision), name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_performance_did_equal_work(demo_run: Run, precision: str) -> None:
    record = read_record(demo_run.variant(precision) / "performance.json")
    assert isinstance(record, PerformanceRecord)
    assert record.output_tokens == 16
    assert (record.num_runs, record.num_iterations, record.batch_size) == (16, 2, 8)
    assert record.engine == "transformers"
    assert record.dtype == DTYPE
    assert record.num_parameters == 2_033_408
    assert record.environment is not None
    assert record.config is not None
    for key in (
        "ttft_s",
        "tpot_s",
        "e2e_latency_s",
        "tokens_per_second",
        "mean_peak_mem_mb",
        "weights_gb",
        "load_time_s",
    ):
        assert getattr(record, key) > 0
    assert record.ttft_s < record.e2e_latency_s  # type: ignore[operator]
    rows = read_samples(demo_run.variant(precision), "performance")
    assert len(rows) == 16
    wall = sum({row["iteration"]: row["wall_s"] for row in rows}.values())
    assert record.tokens_per_second == pytest.approx(16 * 16 / wall)
    assert record.mean_latency_s == pytest.approx(wall / 2 / 8)


def test_the_16_bit_model_knows_its_tasks(demo_run: Run) -> None:
    for task in TASKS:
        content = json.loads((demo_run.variant("fp16") / f"{task}.json").read_text())
        assert content["accuracy"] >= 0.6
        assert content["num_fewshot"] == 2
        assert content["num_items"] == len(read_samples(demo_run.variant("fp16"), task))


def test_precisions_answered_the_same_items(demo_run: Run) -> None:
    for task in TASKS:
        hashes = [{row["doc_hash"] for row in read_samples(demo_run.variant(p), task)} for p in PRECISIONS]
        assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_checkpoints_are_complete_and_smaller(demo_run: Run, precision: str) -> None:
    folder = demo_run.folder / "quantized-models" / f"demo_{precision}"
    facts = json.loads((folder / "quantization.json").read_text())
    assert (facts["model"], facts["precision"]) == ("demo", precision)
    assert facts["recipe"]["scheme"] == {"int8": "W8A8", "int4": "W4A16"}[precision]
    packed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert packed < sum(path.stat().st_size for path in MODEL_DIR.glob("*.safetensors"))
    assert [path.name for path in folder.parent.iterdir() if ".tmp" in path.name or ".old" in path.name] == []


def test_the_source_checkpoint_is_not_copied(demo_run: Run) -> None:
    assert not (demo_run.folder / "quantized-models" / "demo_fp16").exists()


def test_wandb_logged_each_variant_offline(demo_run: Run) -> None:
    runs = sorted((demo_run.folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 3


def test_a_second_run_uses_the_cached_checkpoint(demo_run: Run, tmp_path: Path) -> None:
    models = demo_run.folder / "quantized-models"
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
    process = run_command(
        "run", "--models", "demo", "--precision", "int8", "--engine", "transformers", *QUICK, "--tasks", "performance",
        "--quantized-models-dir", str(models), "--no-wandb-enabled", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "already there" in process.stderr
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()} == before


def test_a_cache_made_otherwise_is_refused(demo_run: Run, tmp_path: Path) -> None:
    models = tmp_path / "quantized-models"
    shutil.copytree(demo_run.folder / "quantized-models", models)
    process = run_command(
        "run", "--models", "demo", "--precision", "fp16 int8", "--engine", "transformers", *QUICK, "--tasks",
        "performance", "--num-calibration-samples", "48", "--no-wandb-enabled", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 2
    assert "num_calibration_samples" in process.stderr
    assert "--requantize" in process.stderr
    assert not (tmp_path / "outputs").exists()  # said before anything is measured


def test_analyze_reads_it(demo_run: Run) -> None:
    process = run_command(
        "analyze", "--input-dir", "outputs", "--output-dir", "analysis_results", "--accuracy-tasks", *TASKS,
        cwd=demo_run.folder,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    written = demo_run.folder / "analysis_results"
    for name in ("complete_results.json", "results_table.csv", "quantization_impact.csv"):
        assert (written / name).stat().st_size > 0
    for figure in ("latency", "memory", "energy", "accuracy"):
        assert (written / "plots" / f"{figure}_comparison.png").stat().st_size > 10_000
    assert len((written / "quantization_impact.csv").read_text().splitlines()) == 3


def test_the_python_api_reads_it(demo_run: Run) -> None:
    frame = slim_eval.load_results(demo_run.outputs)
    assert list(frame["precision"]) == ["fp16", "int8", "int4"]
    assert (frame["demo_mmlu"] > 0).all()
