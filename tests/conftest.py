"""What tests share: the command line in a process of its own, and runs of it made once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `standins` is importable from every test

Command = Callable[..., "subprocess.CompletedProcess[str]"]

#: Small sizes for a run whose numbers do not matter, only that they are measured.
QUICK = (
    "--num-runs", "16", "--num-warmup", "8", "--max-new-tokens", "16", "--energy-sample-runs", "4", "--num-fewshot", "5",
    "--accuracy-limit", "40", "--num-calibration-samples", "32",
)  # fmt: skip


def run_command(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``slim-eval ARGS`` in a folder and return what it printed; nothing of W&B's or the hub's is reached."""
    variables = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "WANDB_MODE": "offline", "COLUMNS": "200", "HF_HUB_OFFLINE": "1",
        **(env or {}),
    }  # fmt: skip
    command = [sys.executable, "-m", "slim_eval", *args]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def slim_eval_command(tmp_path: Path) -> Command:
    """`run_command` in the test's own folder."""

    def call(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run_command(*args, cwd=tmp_path, env=env)

    return call


@dataclass(frozen=True)
class Run:
    """A run of the command line and what it left.

    Attributes:
        folder: Where it ran; ``outputs`` and ``quantized-models`` are in it.
        process: What it printed and its exit code.
    """

    folder: Path
    process: subprocess.CompletedProcess[str]

    @property
    def outputs(self) -> Path:
        """Folder of results."""
        return self.folder / "outputs"

    def cell(self, precision: str) -> Path:
        """Folder of the embedded model at a precision."""
        return self.outputs / "demo" / f"demo_{precision}"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that runs of one session share, with its quantized checkpoints."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def demo_run(workspace: Path) -> Run:
    """The whole command on the embedded model: Transformers engine, three precisions, all benchmarks, W&B offline."""
    process = run_command(
        "run", "--models", "demo", "--precision", "fp16 int8 int4", "--engine", "transformers", *QUICK, cwd=workspace
    )
    return Run(workspace, process)


@pytest.fixture(scope="session")
def vllm_run(workspace: Path, demo_run: Run) -> Run:
    """The same on vLLM's CPU build where it runs the precision, with the checkpoints that `demo_run` made."""
    folder = workspace / "vllm"
    folder.mkdir()
    process = run_command(
        "run", "--models", "demo", "--precision", "fp16 int8 int4", "--engine", "auto", "--enforce-eager", *QUICK,
        "--quantized-models-dir", str(workspace / "quantized-models"), "--no-wandb-enabled", cwd=folder,
    )  # fmt: skip
    return Run(folder, process)
