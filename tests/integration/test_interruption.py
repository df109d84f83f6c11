"""What users read when they interrupt a run: on a terminal by Ctrl-C, in a pipe by a signal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.commands import WITH_INSTANT

RUN = ("run", "--models", "demo", "--tasks", "performance", "--engine", "instant", "--num-runs", "100000",
       "--no-wandb-enabled")  # fmt: skip
RESUME = "to continue: slim-eval " + " ".join(RUN)


def test_ctrl_c_on_a_terminal_prints_the_command_that_resumes(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # the child, whose terminal the other end is
        os.chdir(tmp_path)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, "-m", "slim_eval", *RUN, "--force"]
        os.execvpe(
            command[0],
            command,
            {**os.environ, **WITH_INSTANT, "COLUMNS": "160", "TERM": "xterm", "HF_HUB_OFFLINE": "1"},
        )
    shown, workers = b"", list[int]()
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the child has closed its end
            break
        if not workers and "✓".encode() in shown:  # the engine is loaded
            workers = [child.pid for child in psutil.Process(pid).children(recursive=True)]
            os.write(terminal, b"\x03")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = " ".join(shown.decode().split())
    assert os.waitstatus_to_exitcode(status) == 130
    assert "interrupted" in text
    assert RESUME in text
    assert "--force" not in text
    assert "Traceback" not in text
    assert workers
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
