"""What users read when they interrupt a run: on a terminal by Ctrl-C, in a pipe by a signal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.commands import WITH_INSTANT, heed_ctrl_c

RUN = ("run", "--models", "demo", "--tasks", "performance", "--engine", "instant", "--num-runs", "100000",
       "--no-wandb-enabled")  # fmt: skip
RESUME = "to continue: slim-eval " + " ".join(RUN)


#: A plugin with an engine that takes ten minutes to load and does not end when told to.
DEAF = """
import signal, time
from slim_eval.engines import ENGINES, EngineType

class Deaf(EngineType):
    name, label = "deaf", "Deaf"

    def load(self, request):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf now", flush=True)
        time.sleep(600)

ENGINES.register(Deaf())
"""


class Terminal:
    """A run on a pseudo-terminal, as in the window of a user."""

    def __init__(self, folder: Path, *words: str, **variables: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:  # the child, whose terminal the other end is
            os.chdir(folder)
            heed_ctrl_c()
            settings = {**os.environ, "COLUMNS": "160", "TERM": "xterm", "HF_HUB_OFFLINE": "1", **variables}
            os.execvpe(sys.executable, [sys.executable, "-m", "slim_eval", *words], settings)
        self._shown = b""

    @property
    def text(self) -> str:
        """Everything shown so far, on one line."""
        return " ".join(self._shown.decode(errors="replace").split())

    def read(self) -> bool:
        """Wait for more to be shown; False after the end."""
        try:
            more = os.read(self._terminal, 4096)
        except OSError:  # the child has closed its end
            more = b""
        self._shown += more
        return bool(more)

    def press_ctrl_c(self) -> None:
        """As the user does."""
        os.write(self._terminal, b"\x03")

    def workers(self) -> list[int]:
        """The processes that it has started."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self.read():
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_an_interrupt_on_a_terminal_prints_the_command_that_resumes(by: str, tmp_path: Path) -> None:
    run = Terminal(tmp_path, *RUN, "--force", **WITH_INSTANT)
    while "✓" not in run.text:  # the engine is loaded
        assert run.read(), run.text
    workers = run.workers()
    if by == "Ctrl-C":
        run.press_ctrl_c()
    else:
        os.kill(run.pid, signal.SIGTERM)
    assert run.end() == 130
    assert "interrupted" in run.text
    assert RESUME in run.text
    assert "--force" not in run.text
    assert "Traceback" not in run.text
    assert workers
    assert not [worker for worker in workers if psutil.pid_exists(worker)]


def test_a_second_ctrl_c_ends_a_worker_that_does_not_heed_the_first(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(DEAF)
    words = ("run", "--models", "demo", "--tasks", "performance", "--engine", "deaf", "--no-wandb-enabled")
    run = Terminal(tmp_path, *words, "--verbose", SLIM_EVAL_PLUGINS=str(tmp_path / "deaf.py"))
    while "deaf now" not in run.text:
        assert run.read(), run.text
    workers = run.workers()
    run.press_ctrl_c()
    time.sleep(1)
    assert any(psutil.pid_exists(worker) for worker in workers), "it heeded the first"
    run.press_ctrl_c()
    start = time.monotonic()
    assert run.end() == 130
    assert time.monotonic() - start < 8, "the first leaves it ten seconds"
    assert "to continue: slim-eval run --models demo" in run.text
    assert "Traceback" not in run.text
    assert not [worker for worker in workers if psutil.pid_exists(worker)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_pipe_prints_it_too(number: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from slim_eval.cli import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *RUN], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **WITH_INSTANT, "HF_HUB_OFFLINE": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        while "engine …" not in (line := process.stderr.readline()):
            assert line, "the run ended before it loaded the engine"
        process.send_signal(number)
        *_, first, second = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert (first, second) == ("interrupted", f"  finished measurements are kept; {RESUME}")
