"""What tests share: runs of the command line, made once a session."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.commands import QUICK, Command, Run, run_command

# No timed tests: a machine that other work shares would fail them.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the tests of one file in one process, and those of the files that share `demo_run`: it is made once."""

    _TOGETHER = ("test_run_demo.py", "test_run_vllm_cpu.py", "test_compare_and_noise.py")

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "demo_run" if file.endswith(self._TOGETHER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Whatever --dist says: files of tests in their order, each to the next process that is free."""
    return ByFile(config, log)


@pytest.fixture
def slim_eval_command(tmp_path: Path) -> Command:
    """`run_command` in the test's own folder."""

    def call(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run_command(*args, cwd=tmp_path, env=env)

    return call


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
