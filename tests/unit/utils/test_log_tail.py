"""The cause of a failure that only a child process of the engine knows, through the executor's log to the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slim_eval.utils.log_tail import RUN_LOG, LogTail
from tests.commands import run_command

#: An engine that fails as vLLM does: a process of its own prints the cause, and what is raised only refers to it.
ENGINE = """
import os
from slim_eval.engines import ENGINES, EngineType
from slim_eval.engines.vllm import vllm_error
from slim_eval.utils.log_tail import LogTail

class Broken(EngineType):
    name = "broken"
    label = "Broken"
    quantized_kernels = "emulated"

    def load(self, request):
        log = LogTail()
        os.system("seq 400 >&2; echo 'ValueError: No available memory for the cache blocks' >&2")
        error = RuntimeError("Engine core initialization failed. See root cause above.")
        raise vllm_error(error, log.read(), started=False)

ENGINES.register(Broken())
"""


def test_the_cause_reaches_the_terminal_and_the_record(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(ENGINE)
    plugins = {"SLIM_EVAL_PLUGINS": str(tmp_path / "broken.py")}
    words = ("run", "--models", "demo", "--engine", "broken", "--tasks", "performance", "--no-wandb-enabled")
    for attempt in range(2):  # the second time the log contains the first run's lines
        process = run_command(*words, cwd=tmp_path, env=plugins)
        assert process.returncode == 1, (attempt, process.stderr)
        said = " ".join(process.stderr.split())
        assert "vLLM did not start: No available memory for the cache blocks" in said
        assert "raise --gpu-memory-utilization" in said
    error = json.loads((tmp_path / "outputs" / "demo" / "demo_fp16" / "performance.error.json").read_text())
    assert error["cause"] == "vLLM did not start: No available memory for the cache blocks"


def test_a_log_that_began_anew_is_read_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "run.log"
    log.write_text("x" * 1000)
    monkeypatch.setenv(RUN_LOG, str(log))
    monkeypatch.setattr("slim_eval.utils.log_tail._WAIT_S", 0.1)
    tail = LogTail()
    log.write_text("after\n")
    assert tail.read() == "after\n"


def test_without_a_log_there_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_LOG, "/nowhere/run.log")
    assert isinstance(LogTail().read(), str)
