"""An engine from one file outside the package, through the command line to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import Run, run_command

TOYS = {"SLIM_EVAL_PLUGINS": str(Path(__file__).with_name("toys") / "engine.py")}
SMALL = (
    "--num-runs", "8", "--batch-size", "4", "--max-new-tokens", "8", "--num-warmup", "0", "--no-wandb-enabled",
)  # fmt: skip
RUN = ("run", "--models", "demo", "--engine", "echo", "--tasks", "performance", *SMALL)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("echo")
    return Run(folder, run_command(*RUN, cwd=folder, env=TOYS))


def test_it_serves_and_its_name_reaches_the_report(echo: Run) -> None:
    assert echo.process.returncode == 0, echo.process.stderr
    record = json.loads((echo.variant("fp16") / "performance.json").read_text())
    assert (record["engine"], record["engine_version"]) == ("echo", "1.0")
    assert record["engine_reason"] == "requested with --engine echo"
    assert record["tpot_s"] > 0
    process = run_command("analyze", cwd=echo.folder, env=TOYS)
    assert process.returncode == 0, process.stderr
    analysis = echo.folder / "analysis_results"
    assert pd.read_csv(analysis / "results_table.csv")["engine"].tolist() == ["echo"]
    assert "echo" in (analysis / "report.html").read_text()


def test_its_own_settings_are_recorded_and_no_others(echo: Run) -> None:
    record = json.loads((echo.variant("fp16") / "performance.json").read_text())
    assert record["measured_with"]["engine"] == "echo"
    assert record["measured_with"]["enforce_eager"] is False
    assert "gpu_memory_utilization" not in record["measured_with"]


def test_the_same_command_reuses_its_records(echo: Run) -> None:
    process = run_command(*RUN, cwd=echo.folder, env=TOYS)
    assert process.returncode == 0, process.stderr
    assert "reused 1 of 1 stages" in process.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tasks", "accuracy"), "Echo cannot measure accuracy"),
        (("--engine-arg", "a=1"), "Echo has no engine arguments"),
    ],
)
def test_what_it_cannot_do_is_refused_when_planned(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    process = run_command("run", "--models", "demo", "--engine", "echo", *SMALL, *options, cwd=tmp_path, env=TOYS)
    assert process.returncode == 2
    assert message in process.stderr
    assert not (tmp_path / "outputs" / "demo").exists()


def test_without_the_plugin_its_name_is_unknown(tmp_path: Path) -> None:
    process = run_command(*RUN, cwd=tmp_path)
    assert process.returncode == 2
    assert "unknown engine 'echo'" in process.stderr
    assert "auto, openai, transformers, vllm" in process.stderr


def test_doctor_lists_it(tmp_path: Path) -> None:
    process = run_command("doctor", "--engine", "echo", "--precision", "fp16", "--json", cwd=tmp_path, env=TOYS)
    assert "fp16 on echo" in process.stdout
