"""The log of a variant: all that workers and their engines print, without secrets, capped, its last lines at hand."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO

from slim_eval.utils.redaction import redact

#: Bytes of a log, and of the older part that is kept beside it as ``run.log.1``.
MAX_BYTES = 8 * 2**20
_LONGEST_LINE = 2**16  # a progress bar that never ends its line is cut into lines
_TAIL_LINES = 300
_CAUSE_CHARACTERS = 300
# What faulthandler prints: places in the code, no causes.
_PLACES = ("File ", "Thread 0x", "Current thread 0x", "Extension modules:", "Stack (most recent call first)")


class _FileHandler(RotatingFileHandler):
    """A log that cannot be written, as on a full disk, must not end the run that it is about."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do without the line."""


class RunLog:
    """A file that lines are appended to, from several threads; use as a context manager.

    Args:
        path: The file; what earlier runs wrote stays.
        echo: Called with each line, too.
    """

    def __init__(self, path: Path, echo: Callable[[str], None] | None = None) -> None:
        self._handler = _FileHandler(
            path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8", errors="replace", delay=True
        )
        self._path = path
        self._echo = echo
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._lock = threading.Lock()

    def __enter__(self) -> RunLog:
        with contextlib.suppress(OSError):
            self._path.touch()  # it is there to be looked into, also where nothing is said
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of what a full disk did not take
            self._handler.close()

    def write(self, line: bytes) -> None:
        """Append a line, of whatever bytes."""
        text = redact(line.decode("utf-8", "replace").rstrip("\r\n"))
        with self._lock:
            self._tail.append(text)
            self._handler.emit(logging.makeLogRecord({"msg": text}))
            if self._echo is not None:
                self._echo(text)

    def take(self, stream: IO[bytes]) -> None:
        """Append everything that a stream gives until it ends."""
        for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
            self.write(line)

    def last_words(self) -> str:
        """The last line that says something: an exception's own line where there is one; empty where there is none."""
        with self._lock:
            lines = [line.strip() for line in self._tail]
        said = [line for line in lines if line and not line.startswith(_PLACES)]
        telling = [line for line in said if "Error" in line.split(":", 1)[0] or line.startswith("Fatal Python error")]
        return next(iter((telling or said)[-1:]), "")[:_CAUSE_CHARACTERS]
