"""Starting child processes for stages and hearing them out: one job in, events out, engine chatter to a log.

A worker leads a process group of its own. When it ends, by itself or not, everything left in its group is killed: an
engine's own processes never outlive the stage, and the driver frees their memory. It holds one end of a pipe, its
lifeline: should this process be killed, the pipe ends, and the worker kills its group itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from slim_eval.errors import SlimEvalError
from slim_eval.execution import messages
from slim_eval.execution.run_log import RunLog
from slim_eval.execution.watchdog import Watchdog
from slim_eval.utils.environment import oom_kills

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_GRACE_S = 10.0
_STACK_S = 1.0  # to write down where it hangs
_LAST_LINES_S = 5.0  # for what a dead worker's children may still hold back
_LONGEST_EVENT = 2**20


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    Attributes:
        status: Exit status; negative where a signal ended it.
        stage: The stage that was running; None where none was.
        last_words: The last telling line of its log; empty where there is none.
        silent_s: Seconds without an event after which it was ended as one that hangs; None where it was not.
        out_of_memory: Whether the kernel killed a process for want of memory while it ran.
    """

    status: int
    stage: str | None
    last_words: str
    silent_s: float | None = None
    out_of_memory: bool = False

    @property
    def died(self) -> bool:
        """Whether it ended otherwise than by finishing its job."""
        return self.status != 0 or self.silent_s is not None

    def describe(self) -> str:
        """One line: what ended it, and its last words."""
        status = self.status
        if self.silent_s is not None:
            return f"no progress for {self.silent_s:g} s, so it was ended; where it stood is in the log"
        if status == -signal.SIGKILL and self.out_of_memory:
            return "killed by the kernel: memory ran out"
        if status == 0:
            return "the worker ended without a word of what it had still to do"
        how = f"killed by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
        return f"{self.last_words} ({how})" if self.last_words else f"the worker ended with {how}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def run(
    job: BaseModel,
    *,
    log: Path,
    on_event: Callable[[Any], None],
    python: Path | None = None,
    environment: Mapping[str, str] | None = None,
    silence_s: float | None = None,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Run one job in a child process and pass its events on as they come.

    Args:
        job: A job of `protocol`.
        log: File that the worker's and its engine's output is appended to.
        on_event: Called with each event.
        python: Interpreter of the stage; None is this one.
        environment: Variables set for the worker, over those of this process.
        silence_s: Seconds without an event after which it is taken to hang and is ended; None waits for ever.
        echo: Called with each line of the log.

    Raises:
        SlimEvalError: The interpreter cannot be started.
    """
    kills = oom_kills()
    running: str | None = None
    with RunLog(log, echo) as lines, _started(python, environment or {}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        chatter = threading.Thread(target=lines.take, args=(process.stderr,), daemon=True)
        chatter.start()
        _hand_over(job, process)
        with Watchdog(silence_s, partial(_end_hanging, process)) as watchdog:
            for line in iter(partial(process.stdout.readline, _LONGEST_EVENT), b""):
                event = _event(line)
                if event is None:
                    lines.write(line)
                    continue
                watchdog.feed()
                running = event.stage if isinstance(event, (messages.Started, messages.Advanced)) else running
                on_event(event)
                if isinstance(event, (messages.Finished, messages.Failed)):
                    running = None
            status = process.wait()
        chatter.join(_LAST_LINES_S)
        if not chatter.is_alive():  # a process that left the group may hold it open; reading cannot be broken off
            process.stderr.close()
        return Outcome(
            status=status,
            stage=running,
            last_words=lines.last_words() if status else "",
            silent_s=silence_s if watchdog.has_bitten else None,
            out_of_memory=kills is not None and oom_kills() != kills,
        )


def _hand_over(job: BaseModel, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(job.model_dump_json().encode())


def _event(line: bytes) -> Any:
    """The event in a line; None where the line is something that an engine wrote to the worker's output."""
    try:
        return messages.parse_event(line.decode("utf-8", "replace"))
    except ValidationError:
        return None


@contextlib.contextmanager
def _started(python: Path | None, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    lifeline, own_end = os.pipe()
    paths = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    variables = {
        # Logging is done here: no engine, and no code that comes with a model, is handed its key.
        **{name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"},
        # Another interpreter finds this package even where it is not installed there.
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        messages.LIFELINE: str(lifeline),
        **environment,
    }
    command = [str(python or sys.executable), "-m", "slim_eval.execution.worker"]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables, start_new_session=True, pass_fds=(lifeline,)
        )
    except OSError as error:
        os.close(own_end)
        raise SlimEvalError(
            f"{command[0]}: cannot be started: {error.strerror}", "check --quantize-python and --serve-python"
        ) from error
    finally:
        os.close(lifeline)
    # Children of a worker that died may hold its output open; with their end it reaches its end, too.
    reaper = threading.Thread(target=_reap, args=(process,), daemon=True)
    reaper.start()
    try:
        yield process
    finally:
        _end(process)
        reaper.join()
        os.close(own_end)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    _signal_group(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the worker in order if it still runs, then everything that is left in its group.

    Who interrupts again while it is being stopped has it killed at once.
    """
    try:
        _ask_to_end(process)
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _end_hanging(process: subprocess.Popen[bytes]) -> None:
    """Have a worker write down where it stands, and end it and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGUSR1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STACK_S)
    _ask_to_end(process)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
