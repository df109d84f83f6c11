"""Sentences of the README and of --help about the output of a run, read from the output of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command

RUN = ("run", "--models", "demo", *INSTANT, "--tasks", "performance")


def test_without_a_key_one_line_says_that_logging_is_off_and_quiet_leaves_the_closing_table(tmp_path: Path) -> None:
    variables = {**WITH_INSTANT, "WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": ""}
    plain = run_command(*RUN, "--wandb-enabled", cwd=tmp_path, env=variables)
    assert plain.returncode == 0, plain.stderr
    told = [line for line in plain.stderr.splitlines() if "Weights & Biases" in line]
    assert len(told) == 1
    assert "logging is off: no key: set WANDB_API_KEY, or run `wandb login`" in told[0]

    quiet = run_command(*RUN, "--wandb-enabled", "--quiet", "--force", cwd=tmp_path, env=variables)
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stderr == ""
    assert "tokens/s" in quiet.stdout
    assert "results: outputs/demo/demo_fp16" in quiet.stdout

    off = run_command(*RUN, "--force", cwd=tmp_path, env=variables)
    assert off.returncode == 0, off.stderr
    assert "Weights & Biases" not in off.stderr + off.stdout


def test_a_failure_is_shown_even_if_quiet(tmp_path: Path) -> None:
    run = run_command(*RUN, "--quiet", "--prompt", "a " * 9000, cwd=tmp_path, env=WITH_INSTANT)
    assert run.returncode == 1
    said = " ".join(run.stderr.split())
    assert "exceed the context window" in said
    assert "rerunning the command does only the missing work" in said


def test_the_doctor_says_what_a_run_would_and_warnings_do_not_block(tmp_path: Path) -> None:
    """Exit 0 if `run` would work, though with a note; else 1, with the cause and the remedy of `run`."""
    model = Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))
    words = ("--engine", "instant", "--tasks", "performance")
    variables = {**WITH_INSTANT, "HF_HUB_OFFLINE": "1"}

    sound = run_command("doctor", str(model), "--precision", "fp16", *words, cwd=tmp_path, env=variables)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "! NVML" in sound.stdout  # no GPU, which blocks nothing
    run = run_command("run", "--models", str(model), *INSTANT, "--tasks", "performance", cwd=tmp_path, env=variables)
    assert run.returncode == 0, run.stderr

    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/base"}))
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    ill = run_command("doctor", str(model), "--precision", "fp16", *words, cwd=tmp_path, env=variables)
    run = run_command("run", "--models", str(model), *INSTANT, "--tasks", "performance", cwd=tmp_path, env=variables)
    assert (ill.returncode, run.returncode) == (1, 2)
    cause, remedy = (line.partition(": ")[2] for line in run.stderr.splitlines()[:2])
    assert "contains an adapter of acme/base" in cause
    told = " ".join(ill.stdout.split())
    assert cause.partition(" contains ")[2] in told
    assert remedy in told


def test_progress_as_json_is_one_object_per_line_and_the_run_ends_well(tmp_path: Path) -> None:
    run = run_command(*RUN, "--log-format", "json", cwd=tmp_path, env=WITH_INSTANT)
    assert run.returncode == 0, run.stderr
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert events
    assert all(isinstance(event, dict) for event in events)


def test_a_list_can_be_given_in_four_ways(tmp_path: Path) -> None:
    plans = []
    for words in (
        ("--precision", "fp16 int8"), ("--precision", "fp16,int8"), ("--precision", "fp16", "int8"),
        ("--precision", "fp16", "--precision", "int8"),
    ):  # fmt: skip
        run = run_command(*RUN, *words, "--dry-run", cwd=tmp_path, env=WITH_INSTANT)
        assert run.returncode == 0, run.stderr
        plans.append(run.stdout)
    assert len(set(plans)) == 1
    assert "int8" in plans[0]
    assert not (tmp_path / "outputs").exists()
