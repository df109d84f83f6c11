"""A meter from one file outside the package, from the command line to the report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands import WITH_INSTANT, run_command

TOY = str(Path(__file__).with_name("toys") / "meter.py")
PLUGIN = {"SLIM_EVAL_PLUGINS": os.pathsep.join([TOY, *WITH_INSTANT.values()])}
RUN = (
    "run", "--models", "demo", "--precision", "fp16", "--tasks", "energy", "--engine", "instant",
    "--energy-sample-runs", "4", "--max-new-tokens", "8", "--no-wandb-enabled",
)  # fmt: skip


def test_a_toy_meter_reaches_the_record_the_table_and_the_report(tmp_path: Path) -> None:
    ran = run_command(*RUN, "--energy-source", "toy", cwd=tmp_path, env=PLUGIN)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "outputs/demo/demo_fp16/energy.json").read_text())
    assert record["energy_source"] == "toy"
    assert record["energy_joules"] == pytest.approx(5.0 * record["duration_seconds"])
    assert record["idle_power_watts"] == pytest.approx(5.0)

    analyzed = run_command("analyze", "--no-plots", cwd=tmp_path)
    assert analyzed.returncode == 0, analyzed.stderr
    results = tmp_path / "analysis_results"
    assert ",toy," in (results / "results_table.csv").read_text()
    assert "toy" in (results / "report.html").read_text()


def test_without_the_plugin_the_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    refused = run_command(*RUN, "--energy-source", "toy", cwd=tmp_path, env=WITH_INSTANT)
    assert refused.returncode == 2
    assert "unknown energy source 'toy'" in refused.stderr
    assert "known: auto, codecarbon, nvml, none" in refused.stderr
    assert not (tmp_path / "outputs/demo").exists()
