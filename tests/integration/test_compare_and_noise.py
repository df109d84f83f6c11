"""Comparison, gate and noise floor on real measurements of the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slim_eval.demo import TASKS
from slim_eval.results.store import find_results, read_noise
from tests.commands import INSTANT, QUICK, WITH_INSTANT, Run, run_command

VERDICTS = {"equivalent", "degraded", "underpowered"}


def test_the_limit_is_said_to_be_small_before_anything_runs(demo_run: Run) -> None:
    lines = demo_run.process.stderr.splitlines()
    (said,) = [line for line in lines if "cannot be detected" in " ".join(line.split())]
    assert "with 40 items per (sub)task, drops under about 18 points" in said
    assert lines.index(said) < next(number for number, line in enumerate(lines) if "demo fp16" in line)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_variants_are_paired_with_the_baseline(demo_run: Run, precision: str) -> None:
    content = json.loads((demo_run.variant(precision) / "paired.json").read_text())
    assert (content["baseline"], content["margin_pp"]) == ("../demo_fp16", 1.0)
    tasks = {task["task"]: task for task in content["tasks"]}
    assert tasks.keys() == set(TASKS)
    for task in tasks.values():
        assert task["refused"] is None
        assert task["verdict"] in VERDICTS
        assert task["interval_pp"][0] <= task["drop_pp"] <= task["interval_pp"][1]
    assert tasks["demo_mmlu"]["num_clusters"] == 3
    assert tasks["demo_mmlu"]["answer_kl"] > 0
    assert tasks["demo_gsm8k"]["answer_kl"] is None
    assert not (demo_run.variant("fp16") / "paired.json").exists()


def test_compare_has_a_verdict_for_each_task(demo_run: Run) -> None:
    process = run_command(
        "compare", str(demo_run.variant("fp16")), str(demo_run.variant("int4")), "--json", cwd=demo_run.folder
    )
    assert process.returncode == 0, process.stderr
    (pair,) = json.loads(process.stdout)["pairs"]
    assert {task["verdict"] for task in pair["tasks"].values()} <= VERDICTS
    assert pair["metrics"]["tpot_s"]["verdict"] == "not comparable"  # Transformers emulates int4
    assert pair["metrics"]["model_size_gb"]["verdict"] == "better"


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("model_size_gb<-10%", 3),
        ("demo_mmlu_drop>0.1pp", 4),
        ("tpot_s>5%", 4),
        ("demo_hellaswag_drop>60pp", 0),
        ("demo_mmlu_drip>1pp", 2),
    ],
)
def test_the_gate(demo_run: Run, condition: str, code: int) -> None:
    variants = (str(demo_run.variant("fp16")), str(demo_run.variant("int4")))
    process = run_command("compare", *variants, "--fail-if", condition, cwd=demo_run.folder)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr


def test_noise_measures_one_variant_again_and_says_which_differences_are_noise(tmp_path: Path) -> None:
    process = run_command(
        "noise", "--models", "demo", "--engine", "transformers", *QUICK, "--num-runs", "160", "--energy-source", "none",
        "--num-repeats", "2", "--tasks", "performance accuracy", "--accuracy-tasks", "demo_gsm8k", "--no-wandb-enabled",
        cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = read_noise(tmp_path / "outputs" / "demo")
    assert record is not None
    entry = record.metrics["tpot_s"]
    assert len(entry.values) == 2
    assert None not in entry.values
    assert entry.floor is not None
    assert entry.floor_interval is not None
    assert entry.within is not None
    assert 0 < entry.floor_interval[0] <= entry.floor <= entry.floor_interval[1]
    assert entry.floor >= 1.96 * 2**0.5 * entry.within  # never less than the iterations of a run imply
    assert record.iterations == (20, 20)
    assert record.tasks["demo_gsm8k"].floor == 0  # the same kernels on the same items: not one answer changes
    assert record.flips == {"demo_gsm8k": 0}
    said = " ".join(process.stdout.split())
    assert said.startswith("demo fp16: differences of up to ")
    assert "rough floors: 2 runs determine a floor only within a factor of " in said
    assert find_results(tmp_path / "outputs").variants == ()


def test_repeats_are_five_each_in_its_own_worker_and_short(tmp_path: Path) -> None:
    process = run_command(
        "noise", "--models", "demo", *INSTANT, "--energy-source", "none", "--tasks", "performance",
        "--no-wandb-enabled", cwd=tmp_path, env=WITH_INSTANT,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = read_noise(tmp_path / "outputs" / "demo")
    assert record is not None
    assert len(record.metrics["tpot_s"].values) == 5
    folder = tmp_path / "outputs" / "demo" / "demo_noise"
    records = [json.loads((folder / f"run-{n}" / "performance.json").read_text()) for n in range(1, 6)]
    assert {found["target_ci"] for found in records} == {0.05}
    assert "measured 5 times, each in a fresh process" in process.stdout
