"""A benchmark that fails yields no number; the others are still measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from slim_eval.demo import MODEL_DIR, TASKS_DIR
from tests.commands import QUICK, WITH_INSTANT, Run, run_command
from tests.standins.tasks import write_task


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three tasks: one without data, one that kills its process, and a valid one."""
    folder = tmp_path_factory.mktemp("broken")
    tasks = folder / "tasks"
    tasks.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"is {n} even?", "answer": n % 2}) + "\n" for n in range(8)))
    write_task(tasks, "sound_task", rows)
    write_task(tasks, "no_data_task", folder / "missing.jsonl")
    write_task(tasks, "killing_task", rows, target="!function killer.kill")
    (tasks / "killer.py").write_text("import os, signal\n\ndef kill(doc):\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    process = run_command(
        "run", "--models", "demo", "--engine", "instant", *QUICK, "--include-path", str(tasks), "--num-fewshot",
        "0", "--accuracy-tasks", "no_data_task killing_task sound_task", "--no-wandb-enabled", cwd=folder,
        env=WITH_INSTANT,
    )  # fmt: skip
    return Run(folder, process)


def test_exit_code_and_table(broken_run: Run) -> None:
    assert broken_run.process.returncode == 1
    assert "Traceback" not in broken_run.process.stderr
    assert "no_data_task" in broken_run.process.stderr
    assert "SIGKILL" in broken_run.process.stderr


@pytest.mark.parametrize("name", ["no_data_task", "killing_task"])
def test_no_number_is_made(broken_run: Run, name: str) -> None:
    assert not (broken_run.variant("fp16") / f"{name}.json").exists()
    error = json.loads((broken_run.variant("fp16") / f"{name}.error.json").read_text())
    assert error["cause"]
    assert error["stage"] == name


@pytest.mark.parametrize("name", ["performance", "energy", "sound_task"])
def test_the_others_still_run(broken_run: Run, name: str) -> None:
    assert (broken_run.variant("fp16") / f"{name}.json").exists()


def test_weights_that_are_cut_off_are_named_before_anything_runs(tmp_path: Path) -> None:
    for name in ("sound", "broken"):
        shutil.copytree(MODEL_DIR, tmp_path / name)
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    process = run_command("run", "--models", "./broken ./sound", "--engine", "transformers", *QUICK, cwd=tmp_path)
    assert process.returncode == 2
    assert "model.safetensors" in process.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_engine_that_does_not_start_leaves_the_other_model_to_be_measured(tmp_path: Path) -> None:
    for name in ("sound", "broken"):
        shutil.copytree(MODEL_DIR, tmp_path / name)
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    process = run_command(
        "run", "--models", "./broken ./sound", "--tasks", "performance", "--engine", "transformers", *QUICK,
        "--no-wandb-enabled", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "outputs" / "broken").glob("*/performance.json"))
    assert list((tmp_path / "outputs" / "broken").glob("*/performance.error.json"))
    assert list((tmp_path / "outputs" / "sound").glob("*/performance.json"))


def test_a_run_told_to_end_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slim_eval", "run", "--models", "demo", "--tasks", "performance", "--engine",
               "transformers", "--num-runs", "100000", "--no-wandb-enabled"]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "performance" not in (line := process.stderr.readline()) or "…" not in line:
            assert line, "the run ended before it measured"
        workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert workers
        process.terminate()
        process.stderr.read()
    assert process.returncode == 130
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


def test_the_demo_tasks_are_found_without_include_path() -> None:
    assert (TASKS_DIR / "demo_mmlu.yaml").exists()
