"""Sentences of the README and of --help about the output of a run, read from the output of a run."""

from __future__ import annotations

from pathlib import Path

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
