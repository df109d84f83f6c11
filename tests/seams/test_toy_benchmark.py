"""The benchmark seam: a benchmark in one file outside the package, from the command line to the report."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.commands import WITH_INSTANT, run_command
from tests.standins.nvml import UUIDS, StandInGpu, build, environment

TOY = Path(__file__).with_name("toys") / "benchmark.py"
PLUGIN = {"SLIM_EVAL_PLUGINS": os.pathsep.join([str(TOY), *WITH_INSTANT.values()])}
RUN = ("run", "--models", "demo", "--engine", "instant", "--no-wandb-enabled")
TASKS = ("--tasks", "prefill", "--benchmark-option", "prefill.requests=3")


def call(folder: Path, *args: str, plugin: bool = True) -> subprocess.CompletedProcess[str]:
    return run_command(*args, cwd=folder, env=PLUGIN if plugin else WITH_INSTANT)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the toy was measured."""
    folder = tmp_path_factory.mktemp("toy")
    process = call(folder, *RUN, *TASKS)
    assert process.returncode == 0, process.stderr
    return folder


def record(folder: Path) -> dict[str, Any]:
    text = (folder / "outputs" / "demo" / "demo_fp16" / "prefill.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def test_its_record_has_a_head_its_settings_and_its_number(measured: Path) -> None:
    content = record(measured)
    assert content["prefill_tokens_per_s"] > 0
    assert {key: content[key] for key in ("benchmark", "model", "base_model", "precision", "baseline")} == {
        "benchmark": "prefill", "model": "demo", "base_model": "demo", "precision": "fp16", "baseline": "fp16",
    }  # fmt: skip
    assert content["measured_with"]["prefill.requests"] == 3
    assert content["config"]["benchmark_options"] == {"prefill.requests": 3}
    assert "a note of the toy" in content["notes"]
    assert (measured / "outputs" / "demo" / "demo_fp16" / "prefill.samples.jsonl.gz").exists()


def test_a_second_run_measures_nothing(measured: Path) -> None:
    before = record(measured)
    process = call(measured, *RUN, *TASKS)
    assert process.returncode == 0, process.stderr
    assert "reused 1 of 1 stages" in process.stdout
    assert record(measured) == before


def test_another_value_of_its_option_is_refused_by_name(measured: Path) -> None:
    process = call(measured, *RUN, "--tasks", "prefill", "--benchmark-option", "prefill.requests=4")
    assert process.returncode == 2
    assert "prefill.requests: recorded with 3, requested 4" in process.stderr


def test_a_dry_run_names_it(tmp_path: Path) -> None:
    process = call(tmp_path, *RUN, "--tasks", "prefill performance", "--dry-run")
    assert process.returncode == 0, process.stderr
    words = process.stdout.split()
    assert words.index("performance") < words.index("prefill")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "plugin", "text"),
    [
        (("--tasks", "prefill"), False, "unknown benchmark 'prefill'"),
        ((*TASKS[:2], "--benchmark-option", "prefill.request=3"), True, "options of prefill: requests"),
        ((*TASKS[:2], "--benchmark-option", "prefill.requests=0"), True, "prefill.requests: Input should be greater"),
        ((*TASKS[:2], "--benchmark-option", "prefil.requests=3"), True, "unknown benchmark 'prefil'"),
        ((*TASKS[:2], "--benchmark-option", "requests=3"), True, "NAME.OPTION=VALUE"),
        ((*TASKS[:2], "--benchmark-option", "performance.num_runs=3"), True, "command-line options of its own"),
        (("--tasks", "prefill accuracy", "--accuracy-tasks", "Prefill"), True, "would share the file prefill.json"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_starts(
    options: tuple[str, ...], plugin: bool, text: str, tmp_path: Path
) -> None:
    process = call(tmp_path, *RUN, *options, plugin=plugin)
    assert process.returncode == 2, process.stderr
    assert text in process.stderr
    assert not list(tmp_path.iterdir())


def test_analyze_reads_it(measured: Path) -> None:
    process = call(measured, "analyze", "--no-plots")
    assert process.returncode == 0, process.stderr
    folder = measured / "analysis_results"
    (variant,) = json.loads((folder / "complete_results.json").read_text())["cells"]
    assert (variant["model"], variant["precision"]) == ("demo", "fp16")
    number = record(measured)["prefill_tokens_per_s"]
    assert variant["prefill"]["prefill_tokens_per_s"] == number
    assert pd.read_csv(folder / "results_table.csv")["prefill_tokens_per_s"].tolist() == [pytest.approx(number)]
    assert "prefill, tokens/s" in (folder / "report.html").read_text()


def test_without_the_plugin_its_record_is_skipped_and_named(measured: Path) -> None:
    process = call(measured, "run", "--models", "demo", "--tasks", "prefill", "--dry-run", plugin=False)
    assert process.returncode == 2
    process = call(measured, "analyze", "--no-plots", "--output-dir", "without", plugin=False)
    assert "'prefill', which is not registered" in process.stdout + process.stderr


def test_the_worker_finds_its_device_and_resume_knows_it_again(tmp_path: Path) -> None:
    gpus = [StandInGpu(), StandInGpu(UUIDS[1])]
    machine = {**environment(build(tmp_path), gpus), **PLUGIN, "CUDA_VISIBLE_DEVICES": "1,0"}
    again = [run_command(*RUN, *TASKS, "--gpu-index", "0", cwd=tmp_path, env=machine) for _ in range(2)]
    assert [process.returncode for process in again] == [0, 0], again[0].stderr
    assert record(tmp_path)["measured_with"]["device"] == f"Stand-in {UUIDS[1][4:12]}"
    assert "reused 1 of 1 stages" in again[1].stdout
    other = run_command(*RUN, *TASKS, "--gpu-index", "1", cwd=tmp_path, env=machine)
    assert other.returncode == 2
    assert f"device: recorded with Stand-in {UUIDS[1][4:12]}" in other.stderr
