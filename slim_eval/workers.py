"""Starting child processes for stages and hearing them out: one job in, events out, engine chatter to a log.

A worker leads a process group of its own. When it ends, by itself or not, everything left in its group is killed: an
engine's own processes never outlive the stage, and the driver frees their memory.
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
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ValidationError

from slim_eval import protocol
from slim_eval.errors import SlimEvalError

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent
_GRACE_S = 10.0
_TAIL_BYTES = 20_000


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    Attributes:
        status: Exit status; negative where a signal ended it.
        stage: The stage that was running; None where none was.
        last_words: The last telling line of its log; empty where there is none.
    """

    status: int
    stage: str | None
    last_words: str

    @property
    def died(self) -> bool:
        """Whether it ended otherwise than by finishing its job."""
        return self.status != 0

    def describe(self) -> str:
        """One line: signal or status, and its last words."""
        status = self.status
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
) -> Outcome:
    """Run one job in a child process and pass its events on as they come.

    Args:
        job: A job of `protocol`.
        log: File that the worker's and its engine's output is appended to.
        on_event: Called with each event.
        python: Interpreter of the stage; None is this one.
        environment: Variables set for the worker, over those of this process.

    Raises:
        SlimEvalError: The interpreter cannot be started.
    """
    offset = log.stat().st_size if log.exists() else 0
    running: str | None = None
    with log.open("ab") as output, _started(python, output, environment or {}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(job.model_dump_json().encode())
        for line in process.stdout:
            event = _event(line)
            if event is None:
                output.write(line)
                continue
            running = event.stage if isinstance(event, (protocol.Started, protocol.Advanced)) else running
            on_event(event)
            if isinstance(event, (protocol.Finished, protocol.Failed)):
                running = None
        status = process.wait()
    return Outcome(status, running, _last_words(log, offset) if status else "")


def _event(line: bytes) -> Any:
    """The event in a line; None where the line is something that an engine wrote to the worker's output."""
    try:
        return protocol.parse_event(line.decode("utf-8", "replace"))
    except ValidationError:
        return None


@contextlib.contextmanager
def _started(
    python: Path | None, output: IO[bytes], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    paths = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    variables = {
        # Logging is done here: no engine, and no code that comes with a model, is handed its key.
        **{name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"},
        # Another interpreter finds this package even where it is not installed there.
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        **environment,
    }
    command = [str(python or sys.executable), "-m", "slim_eval.worker"]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env=variables, start_new_session=True
        )
    except OSError as error:
        raise SlimEvalError(
            f"{command[0]}: cannot be started: {error.strerror}", "check --quantize-python and --serve-python"
        ) from error
    # Children of a worker that died may hold its output open; with their end it reaches its end, too.
    reaper = threading.Thread(target=_reap, args=(process,), daemon=True)
    reaper.start()
    try:
        yield process
    finally:
        _end(process)
        reaper.join()


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    _signal_group(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the worker in order if it still runs, then everything that is left in its group."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _last_words(log: Path, offset: int) -> str:
    """The last line of what a worker logged that says something: an exception's own line where there is one."""
    with log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line.split(":", 1)[0] and not line.startswith("File ")]
    chosen = (telling or lines)[-1:]
    return chosen[0][:300] if chosen else ""
