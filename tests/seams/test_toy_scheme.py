"""A scheme from one file outside the package, quantized, served and analysed through the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import Run, run_command

TOYS = {"SLIM_EVAL_PLUGINS": str(Path(__file__).with_name("toys") / "scheme.py")}
RUN = (
    "run", "--models", "demo", "--precision", "fp16 w8a16-rtn", "--engine", "transformers", "--tasks", "performance",
    "--num-runs", "8", "--batch-size", "4", "--max-new-tokens", "8", "--num-warmup", "0", "--no-wandb-enabled",
)  # fmt: skip


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    if importlib.util.find_spec("llmcompressor") is None:
        pytest.skip("llm-compressor is not installed")
    folder = tmp_path_factory.mktemp("rtn8")
    return Run(folder, run_command(*RUN, cwd=folder, env=TOYS))


def test_it_is_quantized_without_calibration(rounded: Run) -> None:
    assert rounded.process.returncode == 0, rounded.process.stderr
    made = json.loads((rounded.folder / "quantized-models" / "demo_rtn8" / "quantization.json").read_text())
    assert (made["precision"], made["scheme"]) == ("rtn8", "RTN (W8A16)")
    assert made["recipe"]["modifier"] == made["settings"]["modifier"] == "QuantizationModifier"
    assert made["calibration"] == {}
    assert not any("calibration" in name for name in made["settings"])
    assert 8 < made["bits_per_weight"] < 16


def test_its_name_and_label_reach_records_table_and_report(rounded: Run) -> None:
    record = json.loads((rounded.variant("rtn8") / "performance.json").read_text())
    assert (record["precision"], record["quantization_scheme"]) == ("rtn8", "RTN (W8A16)")
    assert record["kernels"] == "emulated"
    process = run_command("analyze", cwd=rounded.folder, env=TOYS)
    assert process.returncode == 0, process.stderr
    analysis = rounded.folder / "analysis_results"
    table = pd.read_csv(analysis / "results_table.csv")
    assert table["precision"].tolist() == ["fp16", "rtn8"]
    assert table["quantization_scheme"].tolist() == ["FP16", "RTN (W8A16)"]
    report = (analysis / "report.html").read_text()
    assert "rtn8" in report
    assert "RTN (W8A16)" in report


def test_other_calibration_changes_nothing(rounded: Run) -> None:
    """Options that its recipe does not read are not among its settings: the same command with others reuses it."""
    process = run_command(*RUN, "--num-calibration-samples", "7", cwd=rounded.folder, env=TOYS)
    assert process.returncode == 0, process.stderr
    assert "reused 2 of 2 stages" in process.stdout


def test_without_the_plugin_its_name_is_unknown(tmp_path: Path) -> None:
    process = run_command(*RUN, cwd=tmp_path)
    assert process.returncode == 2
    assert "unknown precision 'w8a16-rtn'" in process.stderr
    assert "did you mean int8-rtn" in process.stderr
