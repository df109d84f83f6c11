"""A checkpoint that came quantized, beside the model that it was made from, from the command line to the report."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, Run, run_command

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A plain folder and one whose configuration and card say that it was made from it."""
    folder = tmp_path_factory.mktemp("came")
    shutil.copytree(MODEL_DIR, folder / "tiny")
    shutil.copytree(MODEL_DIR, folder / "tiny-4")
    config = json.loads((folder / "tiny-4" / "config.json").read_text()) | {"quantization_config": AWQ}
    (folder / "tiny-4" / "config.json").write_text(json.dumps(config))
    (folder / "tiny-4" / "README.md").write_text("---\nbase_model: acme/Tiny\n---\n")
    words = ("run", "--models", "./tiny ./tiny-4", "--tasks", "performance", *INSTANT)
    return Run(folder, run_command(*words, cwd=folder, env=WITH_INSTANT))


def test_it_is_called_what_it_is(measured: Run) -> None:
    assert measured.process.returncode == 0, measured.process.stderr
    assert "./tiny-4 w4a16-awq g128: performance done" in measured.process.stderr + measured.process.stdout
    assert "./tiny-4 fp16" not in measured.process.stderr + measured.process.stdout
    record = json.loads((measured.folder / "outputs/tiny-4/tiny-4_w4a16-awq_g128/performance.json").read_text())
    assert (record["precision"], record["base_model"]) == ("w4a16-awq g128", "./tiny")
    assert record["quantization_scheme"] == "awq"


def test_it_is_compared_with_its_base_model(measured: Run) -> None:
    words = ("analyze", "--input-dir", "outputs", "--output-dir", "analysis", "--no-plots")
    process = run_command(*words, cwd=measured.folder)
    assert process.returncode == 0, process.stderr
    with (measured.folder / "analysis" / "quantization_impact.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert row["precision"] == "w4a16-awq g128"
    assert float(row["speedup"]) > 0


def test_measuring_it_again_finds_everything_done(measured: Run) -> None:
    words = ("run", "--models", "./tiny-4", "--precision", "as-is", "--base-model", "./tiny", "--tasks", "performance")
    process = run_command(*words, *INSTANT, cwd=measured.folder, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    assert "reused 1 of 1 stages" in process.stdout + process.stderr


def test_a_further_scheme_is_refused_before_the_run(measured: Run) -> None:
    words = ("run", "--models", "./tiny-4", "--precision", "fp16 int8", "--tasks", "performance")
    process = run_command(*words, *INSTANT, cwd=measured.folder, env=WITH_INSTANT)
    assert process.returncode == 2
    assert "already quantized (w4a16-awq g128) and cannot be quantized to int8" in process.stderr
