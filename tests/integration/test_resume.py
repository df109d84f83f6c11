"""Rerunning a command: finished records stay byte-identical, missing ones are measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import QUICK, WITH_INSTANT, run_command

COMMAND = (
    "run", "--models", "demo", "--engine", "instant", *QUICK, "--tasks", "performance accuracy",
    "--accuracy-tasks", "demo_gsm8k", "--no-wandb-enabled",
)  # fmt: skip
RECORDS = ("performance.json", "demo_gsm8k.json")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time, in ns, and content of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def again(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_command(*COMMAND, *options, cwd=folder, env=WITH_INSTANT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory after one run of the command; a dry run before it left no files."""
    made = tmp_path_factory.mktemp("resume")
    plan = again(made, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "3 stages to do, 0 reused" in plan.stdout
    assert "time: not known" in plan.stdout
    assert list(made.iterdir()) == []
    process = again(made)
    assert process.returncode == 0, process.stderr
    return made


def variant(folder: Path) -> Path:
    return folder / "outputs" / "demo" / "demo_fp16"


def test_records_say_what_they_were_made_with(folder: Path) -> None:
    performance, task = (json.loads((variant(folder) / name).read_text()) for name in RECORDS)
    assert len(performance["fingerprint"]) == len(task["fingerprint"]) == 64
    assert (performance["measured_with"]["engine"], performance["measured_with"]["num_runs"]) == ("instant", 16)
    assert (task["measured_with"]["task"], task["measured_with"]["accuracy_limit"]) == ("demo_gsm8k", 40)
    assert performance["stage_duration_s"] > 0


def test_nothing_is_measured_twice(folder: Path) -> None:
    before = state(folder)
    process = again(folder)
    assert process.returncode == 0, process.stderr
    assert state(folder) == before  # run.log too: no worker has written to it
    assert "reused 2 of 2 stages" in process.stdout
    assert "engine …" not in process.stderr


def test_changed_settings_are_named_and_nothing_is_touched(folder: Path) -> None:
    before = state(folder)
    for options in (("--num-runs", "24"), ("--num-runs", "24", "--dry-run")):
        process = again(folder, *options)
        assert process.returncode == 2
        assert "num_runs: recorded with 16, requested 24" in process.stderr
        assert "demo_gsm8k" not in process.stderr
        assert "--force" in process.stderr
        assert state(folder) == before


def test_a_dry_run_says_what_is_reused(folder: Path) -> None:
    before = state(folder)
    process = again(folder, "--dry-run", "--force")
    assert process.returncode == 0, process.stderr
    assert "3 stages to do, 0 reused" in process.stdout
    assert "not known" not in process.stdout
    assert "0 stages to do, 2 reused" in again(folder, "--dry-run").stdout
    assert state(folder) == before


def test_only_what_is_missing_is_measured(folder: Path) -> None:
    (variant(folder) / "performance.json").unlink()
    before = state(variant(folder))
    process = again(folder)
    assert process.returncode == 0, process.stderr
    assert "reused 1 of 2 stages" in process.stdout
    after = state(variant(folder))
    assert after.keys() - before.keys() == {"performance.json"}
    assert after["demo_gsm8k.json"] == before["demo_gsm8k.json"]
    assert after["performance.samples.jsonl.gz"] != before["performance.samples.jsonl.gz"]


def test_force_measures_again(folder: Path) -> None:
    before = state(variant(folder))
    process = again(folder, "--force")
    assert process.returncode == 0, process.stderr
    assert "reused" not in process.stdout
    after = state(variant(folder))
    for name in RECORDS:
        assert after[name][0] > before[name][0]
