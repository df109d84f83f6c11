"""The command line in a process of its own, as tests run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Callable[..., "subprocess.CompletedProcess[str]"]

#: Small sizes for a run whose numbers do not matter, only that they are measured.
QUICK = (
    "--num-runs", "16", "--num-warmup", "8", "--max-new-tokens", "16", "--energy-sample-runs", "32", "--num-fewshot",
    "2", "--accuracy-limit", "40", "--num-calibration-samples", "32",
)  # fmt: skip

#: Less still, for a run that only has to end well or badly.
SHORT = (
    "--engine", "transformers", "--num-runs", "8", "--num-warmup", "8", "--max-new-tokens", "8",
    "--num-calibration-samples", "8", "--max-sequence-length", "128", "--no-wandb-enabled",
)  # fmt: skip


def run_command(
    *args: str, cwd: Path, env: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``slim-eval ARGS`` in a folder and return what it printed; nothing of W&B's or the hub's is reached.

    Args:
        args: Its words.
        cwd: The folder.
        env: Variables in addition.
        through: A command that starts it.
    """
    variables = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "WANDB_MODE": "offline", "COLUMNS": "200", "HF_HUB_OFFLINE": "1",
        **(env or {}),
    }  # fmt: skip
    command = [*through, sys.executable, "-m", "slim_eval", *args]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


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

    def variant(self, precision: str) -> Path:
        """Folder of the embedded model at a precision."""
        return self.outputs / "demo" / f"demo_{precision}"
