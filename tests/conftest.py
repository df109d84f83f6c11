"""What tests share: runs of the command line, made once per session."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from tests import generated  # noqa: F401 - registers the profiles before pytest chooses one
from tests.commands import QUICK, Command, Run, run_command


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while test files are imported, and later not in what has been imported."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Runs the tests of a file in one process, and those of the files that share `demo_run`: neither process waits."""

    _TOGETHER = ("test_run_demo.py", "test_run_vllm_cpu.py", "test_compare_and_noise.py")

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "demo_run" if file.endswith(self._TOGETHER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Hand files of tests out in their order, each to the next free process, whatever ``--dist`` says."""
    return ByFile(config, log)


# No test uses the environments of the user's own `slim-eval setup`.
os.environ["SLIM_EVAL_HOME"] = str(Path(tempfile.gettempdir(), "slim-eval-without-environments"))


@pytest.fixture
def slim_eval_command(tmp_path: Path) -> Command:
    """`run_command` in the test's own folder."""

    def call(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run_command(*args, cwd=tmp_path, env=env)

    return call


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every process of the session shares, so that expensive runs are made once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workspace"
    folder.mkdir(exist_ok=True)
    return folder


def run_once(folder: Path, *args: str, preloaded_imports: bool = True) -> Run:
    """Run the command line in `folder`, or return what it printed when another process of the session ran it."""
    printed = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not printed.exists():
            folder.mkdir()
            done = run_command(*args, cwd=folder, preloaded_imports=preloaded_imports)
            printed.write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]), encoding="utf-8")
        return Run(folder, subprocess.CompletedProcess(*json.loads(printed.read_text(encoding="utf-8"))))


@pytest.fixture(scope="session")
def demo_run(workspace: Path) -> Run:
    """The whole command on the embedded model: Transformers engine, three schemes, all benchmarks, W&B offline.

    Every process of it starts with its own interpreter, as for a user.
    """
    return run_once(
        workspace / "transformers", "run", "--models", "demo", "--precision", "fp16 int8 int4", "--engine",
        "transformers", *QUICK, preloaded_imports=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def quantized_models(demo_run: Run) -> Path:
    """Checkpoints of the embedded model, for ``--quantized-models-dir`` of a run with the settings of `QUICK`."""
    return demo_run.folder / "quantized-models"


@pytest.fixture(scope="session")
def vllm_run(workspace: Path, quantized_models: Path) -> Run:
    """The same on vLLM's CPU build, except for a scheme that it does not run on every CPU; int8 is in test_engines."""
    return run_once(
        workspace / "vllm", "run", "--models", "demo", "--precision", "fp16 int4", "--engine", "auto",
        "--enforce-eager", *QUICK, "--quantized-models-dir", str(quantized_models), "--no-wandb-enabled",
    )  # fmt: skip
