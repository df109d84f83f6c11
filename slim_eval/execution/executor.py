"""Executors: where jobs run. The evaluator hands every job to one of them and knows no other way to start work.

`--executor` names one. A further executor is one class, registered by a plugin: ``EXECUTORS.register(MyExecutor())``.
An `Executor` runs single jobs near this process, which then sees the files that they make. A `Cluster` runs whole
variants on other machines, which need not share any file with this one.

The local one starts a child process per job, reads its events, logs its output and stops it. The worker leads a process
group. When it ends, for whatever reason, everything left in the group is killed: processes of an engine never outlive
the job, and the driver frees their memory. The worker also holds one end of a pipe, its lifeline: if this process is
killed, the pipe closes and the worker kills its group itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from slim_eval.errors import SlimEvalError, unknown_name
from slim_eval.execution import messages
from slim_eval.execution.messages import Event, Job, Outcome
from slim_eval.utils.environment import oom_kills
from slim_eval.utils.log_tail import RUN_LOG
from slim_eval.utils.redaction import redact
from slim_eval.utils.registry import Registry

if TYPE_CHECKING:
    from slim_eval.config import RunConfig
    from slim_eval.execution.machines import Machines
    from slim_eval.execution.plan import PlannedVariant

#: Bytes of a log, and of the older part that is kept beside it as ``run.log.1``.
MAX_LOG_BYTES = 8 * 2**20

_PACKAGE = Path(__file__).resolve().parents[1]
_GRACE_S = 10.0
_STACKS_S = 1.0  # for a hanging worker to log its stacks
_POLL_S = 0.5
_ORPHANS_S = 5.0  # for output that processes outside the group hold open after the worker has ended
_LONGEST_EVENT = 2**20
_LONGEST_LINE = 2**16  # a progress bar that never ends its line is cut into lines
_TAIL_LINES = 300
_CAUSE_CHARACTERS = 300
# What faulthandler prints: places in the code, not causes.
_PLACES = ("File ", "Thread 0x", "Current thread 0x", "Extension modules:", "Stack (most recent call first)")


class Executor(Protocol):
    """Runs jobs, each in a process of its own whose death harms nothing else."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def parallel(self) -> int:
        """Variants to run at the same time; with more than 1, `submit` is called from several threads."""

    def submit(
        self,
        job: Job,  # as `slim_eval.execution.worker` reads it, in JSON, from standard input
        *,
        log: Path,  # file to append the output of the worker and its engine to; the worker finds it in `RUN_LOG`
        python: Path | None = None,  # interpreter of the worker; None for this one
        environment: Mapping[str, str] | None = None,  # variables of the worker in addition to those of this process
        silence_s: float | None = None,  # without an event for so long it counts as hung and is stopped; None: no limit
        echo: Callable[[str], None] | None = None,  # called with each line of the log
    ) -> Generator[Event | Outcome, None, None]:
        """Run one job; yield its events as they come, and last its outcome; `SlimEvalError` if it cannot be started.

        Closing the generator early stops the job and everything the job has started.
        """
        ...

    def cancel(self) -> None:
        """Stop every job that is under way; called from another thread than those that run `submit`."""
        ...


class Cluster(ABC):
    """Runs variants on other machines, each from its first job to its last on one of them."""

    name: str  # on the command line

    @abstractmethod
    def check_options(self, config: RunConfig) -> None:
        """Refuse, before anything is started, options that it does not support; a `SlimEvalError`."""

    @abstractmethod
    def open(self, config: RunConfig, variants: Sequence[PlannedVariant]) -> AbstractContextManager[Machines]:
        """The machines for a run of these variants; `SlimEvalError` if they cannot be reached or can never do it."""


class LocalExecutor:
    """Runs jobs on this machine, one variant at a time."""

    name = "local"
    parallel = 1

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()

    def submit(
        self,
        job: Job,
        *,
        log: Path,
        python: Path | None = None,
        environment: Mapping[str, str] | None = None,
        silence_s: float | None = None,
        echo: Callable[[str], None] | None = None,
    ) -> Generator[Event | Outcome, None, None]:
        """Run one job in a child process; see `Executor.submit`."""
        kills_before = oom_kills()
        running: str | None = None
        hung = False
        variables = {RUN_LOG: str(log.resolve()), **(environment or {})}
        with RunLog(log, echo) as run_log, _worker(python, variables) as process, contextlib.ExitStack() as stack:
            self._running.add(process)
            stack.callback(self._running.discard, process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(job.model_dump_json().encode())
            heard = time.monotonic()
            for output in _lines(process):
                if output is not None:
                    may_be_event, line = output
                    try:
                        event = messages.parse_event(line.decode("utf-8", "replace")) if may_be_event else None
                    except ValidationError:  # an engine wrote the line
                        event = None
                    if event is None:
                        run_log.write(line)
                        continue
                    heard = time.monotonic()
                    if isinstance(event, (messages.Started, messages.Advanced)):
                        running = event.stage
                    yield event
                    if isinstance(event, (messages.Finished, messages.Failed)):
                        running = None
                elif silence_s is not None and not hung and time.monotonic() - heard >= silence_s:
                    hung = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGUSR1)  # the worker logs the stacks of its threads
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_STACKS_S)
                    _stop(process)
            status = process.wait()
            cause = run_log.cause() if status else ""
            out_of_memory = kills_before is not None and oom_kills() != kills_before
            yield Outcome(status, running, cause, silence_s if hung else None, out_of_memory)

    def cancel(self) -> None:
        """Stop the workers, all at once: each job ends as if its worker had died."""
        running = tuple(self._running)
        for process in running:
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + _GRACE_S
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            time.sleep(_POLL_S / 10)
        for process in running:
            _signal_group(process, signal.SIGKILL)


EXECUTORS: Registry[Executor | Cluster] = Registry("executor")
EXECUTORS.register(LocalExecutor())


def executor(name: str) -> Executor | Cluster:
    """The executor of that name; `UsageError` if there is none."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name]


@contextlib.contextmanager
def _worker(python: Path | None, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_started(python, environment, stack.enter_context(_import_path(python))))


@contextlib.contextmanager
def _import_path(python: Path | None) -> Iterator[Path]:
    """A folder from which an interpreter imports this package, installed there or not.

    For another interpreter it contains nothing else: the folder that this package is installed in contains packages of
    this interpreter, which would replace the other one's own.
    """
    if python is None:
        yield _PACKAGE.parent
        return
    with tempfile.TemporaryDirectory(prefix="slim-eval-") as folder:
        Path(folder, _PACKAGE.name).symlink_to(_PACKAGE, target_is_directory=True)
        yield Path(folder)


@contextlib.contextmanager
def _started(
    python: Path | None, environment: Mapping[str, str], import_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    lifeline, own_end = os.pipe()
    paths = [str(import_path), os.environ.get("PYTHONPATH", "")]
    variables = {
        # Logging to W&B is done in this process: no engine and no code of a model gets the key.
        **{name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"},
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
        cause = f"{command[0]}: cannot be started: {error.strerror}"
        raise SlimEvalError(cause, "check --quantize-python and --serve-python") from error
    finally:
        os.close(lifeline)
    try:
        yield process
    finally:
        try:
            _stop(process)
        finally:
            process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stream.close()
            os.close(own_end)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the worker, then kill its group; an interrupt during the grace period kills at once."""
    try:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
    finally:
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[tuple[bool, bytes] | None]:
    """Lines of the worker's output until it ends, with whether they may be events; None while it is silent."""
    assert process.stdout is not None
    assert process.stderr is not None
    limits = {process.stdout: _LONGEST_EVENT, process.stderr: _LONGEST_LINE}
    rest = dict.fromkeys(limits, b"")
    given_up: float | None = None
    with selectors.DefaultSelector() as selector:
        for pipe in limits:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_POLL_S):
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                data = os.read(pipe.fileno(), _LONGEST_LINE)
                *lines, rest[pipe] = (rest[pipe] + data).split(b"\n")
                if rest[pipe] and (not data or len(rest[pipe]) >= limits[pipe]):
                    lines.append(rest[pipe])
                    rest[pipe] = b""
                yield from ((pipe is process.stdout, line) for line in lines)
                if not data:
                    selector.unregister(pipe)
            yield None
            if process.poll() is not None:
                # Children of a worker that has ended may hold its output open; it closes with them.
                _signal_group(process, signal.SIGKILL)
                given_up = given_up or time.monotonic() + _ORPHANS_S
                if time.monotonic() > given_up:
                    return


class RunLog(RotatingFileHandler):
    """The log of a variant: everything that workers and their engines print, redacted and capped; a context manager.

    Lines of earlier runs are kept; `echo` is also called with each line.
    """

    def __init__(self, path: Path, echo: Callable[[str], None] | None = None) -> None:
        super().__init__(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", errors="replace", delay=True)
        self._echo = echo
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def __enter__(self) -> RunLog:
        with contextlib.suppress(OSError):
            Path(self.baseFilename).touch()  # users are pointed to it even if nothing was printed
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # lines that a full disk refused
            self.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a line that cannot be written, e.g. on a full disk: it must not end the run."""

    def write(self, line: bytes) -> None:
        """Append a line of any bytes."""
        text = redact(line.decode("utf-8", "replace").rstrip("\r\n"))
        self._tail.append(text)
        self.emit(logging.makeLogRecord({"msg": text}))
        if self._echo is not None:
            self._echo(text)

    def cause(self) -> str:
        """The last line of an exception in this run's part of the log, else the last line; empty if there is none."""
        lines = [line for line in map(str.strip, self._tail) if line and not line.startswith(_PLACES)]
        errors = [line for line in lines if "Error" in line.split(":", 1)[0] or line.startswith("Fatal Python error")]
        return (errors or lines or [""])[-1][:_CAUSE_CHARACTERS]
