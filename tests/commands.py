"""The command line in a child process, as tests run it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slim_eval.engines.engine import cpu_computes_in, cpu_flags
from tests.standins import preloaded

Command = Callable[..., "subprocess.CompletedProcess[str]"]


#: What the embedded model, whose own type is bfloat16, computes in on this CPU.
DTYPE = "bfloat16" if cpu_computes_in("bfloat16", cpu_flags()) else "float32"

#: Tests run beside each other: whatever they measure is disturbed, and is not refused for it.
ON_A_BUSY_HOST = ("--max-contention", "1")

#: Small sizes, for a run whose numbers are not read.
QUICK = (
    "--num-runs", "16", "--num-warmup", "8", "--max-new-tokens", "16", "--energy-sample-runs", "32", "--num-fewshot",
    "2", "--accuracy-limit", "40", "--num-calibration-samples", "32", *ON_A_BUSY_HOST,
)  # fmt: skip

_SMALLEST = (
    "--num-runs", "8", "--num-warmup", "8", "--max-new-tokens", "8", "--num-calibration-samples", "8",
    "--max-sequence-length", "128", "--no-wandb-enabled", *ON_A_BUSY_HOST,
)  # fmt: skip
#: The smallest sizes, for a run of which only the exit status and the files matter.
SHORT = ("--engine", "transformers", *_SMALLEST)
#: The same on the engine of `tests.standins.instant`, for what happens around an engine; needs `WITH_INSTANT`.
INSTANT = ("--engine", "instant", *_SMALLEST)
WITH_INSTANT = {"SLIM_EVAL_PLUGINS": str(Path(__file__).parent / "standins" / "instant.py")}


#: Commands that start workers which may load a model.
_MEASURING = frozenset({"run", "noise", "demo"})


def heed_ctrl_c() -> None:
    """For `preexec_fn`: a shell's job in the background, as tests may be, ignores the signal, and so would a run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_command(
    *args: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
    preloaded_imports: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run ``slim-eval ARGS`` in a folder, offline; with the imports of `tests.standins.preloaded` if that is the same.

    Args:
        args: Words of the command line.
        cwd: Working directory.
        env: Variables added to this process's environment.
        through: Command that starts it, such as a shell that first joins a control group.
        preloaded_imports: False starts a new interpreter for the command and for each worker, as a user does.

    Returns:
        Exit status and output.
    """
    variables = {
        **preloaded.inherited(), "VLLM_CPU_KVCACHE_SPACE": "1", "WANDB_MODE": "offline", "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
        # For commands that do not take their sizes from here.
        "SLIM_EVAL_MAX_CONTENTION": "1", **(env or {}),
    }  # fmt: skip
    if preloaded_imports and not through:
        server = preloaded.find(variables, models=bool(_MEASURING.intersection(args[:1])))
        if server is not None:
            return server.run(list(args), cwd, variables)
    command = [*through, sys.executable, "-m", "slim_eval", *args]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Run:
    """A finished run of the command line.

    Attributes:
        folder: Its working directory, which contains ``outputs`` and ``quantized-models``.
        process: Its exit status and output.
    """

    folder: Path
    process: subprocess.CompletedProcess[str]

    @property
    def outputs(self) -> Path:
        """Folder of results."""
        return self.folder / "outputs"

    def variant(self, precision: str) -> Path:
        """Results of the embedded model under a scheme."""
        return self.outputs / "demo" / f"demo_{precision}"
