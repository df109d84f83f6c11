"""Tokens planted in every input of a run appear in none of its files and messages."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import run_command

FROM_ENVIRONMENT = {"HF_TOKEN": "hf_" + "Pq7" * 12, "WANDB_API_KEY": "4f" * 20}
IN_PROMPT = "hf_" + "Zx9" * 12
IN_A_NAME = "ghp_" + "Lm4" * 12
AS_OPTION = "planted-key-" + "7c" * 16
PLANTED = (*FROM_ENVIRONMENT.values(), IN_PROMPT, IN_A_NAME, AS_OPTION)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """A whole run with W&B offline, and every command that reads its results."""
    folder = tmp_path_factory.mktemp("secrets")
    shutil.copytree(MODEL_DIR, folder / "models" / f"tiny-{IN_A_NAME}")
    commands = [
        ("run", "--models", f"./models/tiny-{IN_A_NAME}", "--precision", "fp16 int8", "--engine", "transformers",
         "--num-runs", "8", "--num-warmup", "8", "--max-new-tokens", "8", "--energy-sample-runs", "8", "--prompt",
         f"my token is {IN_PROMPT}", "--accuracy-tasks", "demo_gsm8k", "--num-fewshot", "0", "--accuracy-limit", "8",
         "--calibration-dataset", str(MODEL_DIR.parent / "calibration.jsonl"), "--num-calibration-samples", "8",
         "--max-sequence-length", "128", "--wandb-api-key", AS_OPTION, "--wandb-project",
         f"p-{IN_PROMPT}", "-v"),
        ("run", "--models", f"./models/tiny-{IN_A_NAME}", "--revision", IN_PROMPT),
        ("analyze", "--accuracy-tasks", "demo_gsm8k"),
        ("recommend", "--json"),
        ("compare", "outputs", "outputs", "--markdown"),
    ]  # fmt: skip
    env = FROM_ENVIRONMENT | {"WANDB_DIR": str(folder)}
    return folder, [run_command(*command, cwd=folder, env=env) for command in commands]


def test_the_commands_did_their_work(said: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, processes = said
    assert [process.returncode for process in processes] == [0, 2, 0, 0, 0], [process.stderr for process in processes]
    for pattern in ("*.wandb", "run.log", "report.html", "performance.samples.jsonl.gz", "quantization.json"):
        assert list(folder.rglob(pattern)), pattern


def test_no_file_holds_one(said: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, _ = said
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if inside.parts[0] == "models":  # where one was planted
            continue
        content = str(inside).encode()
        if path.is_file():
            raw = path.read_bytes()
            content += gzip.decompress(raw) if path.suffix == ".gz" else raw
        found += [(str(inside), secret) for secret in PLANTED if secret.encode() in content]
    assert found == []


def test_no_command_says_one(said: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    _, processes = said
    for process in processes:
        # Lines are joined: a table may break a long name.
        text = "".join((process.stdout + process.stderr).split())
        assert [secret for secret in PLANTED if secret in text] == []


def test_they_were_really_met(said: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, processes = said
    record = json.loads(next(folder.rglob("performance.json")).read_text())
    assert record["config"]["performance"]["prompt"] == "my token is [redacted]"
    assert "tiny-[redacted]" in record["model"]
    assert "[redacted]" in processes[1].stderr
    assert "tiny-[redacted]" in processes[3].stdout
