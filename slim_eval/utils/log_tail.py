"""What a worker and its engine have printed, read by the worker: an engine's processes say there why they stopped."""

from __future__ import annotations

import itertools
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

#: Variable with the path of the log to which an executor writes what its worker prints.
RUN_LOG = "SLIM_EVAL_RUN_LOG"
_LOOK_BACK = 200_000  # bytes
_STDERR = 2
_WAIT_S = 5.0  # for the executor to write what is on its way
_POLL_S = 0.02
_marks = itertools.count(1)


class LogTail:
    """Output to stderr from now on, by this process and its children.

    Read from the executor's log, or from stderr itself if that is a file; nothing is known of a terminal or a pipe.
    """

    def __init__(self) -> None:
        given = os.environ.get(RUN_LOG)
        self._is_log = given is not None and Path(given).is_file()
        self._path = Path(given) if given is not None and self._is_log else Path(f"/proc/self/fd/{_STDERR}")
        self._start = self._size()

    def read(self) -> str:
        """The end of the output since then; empty if it cannot be read."""
        if self._start is None:
            return ""
        if not self._is_log:
            return self._since(self._start)
        # What is on its way to the log comes before a line that this process prints now.
        mark = f"slim-eval: looks above for the cause ({os.getpid()}-{next(_marks)})"
        os.write(_STDERR, f"{mark}\n".encode())
        end = time.monotonic() + _WAIT_S
        while mark not in (text := self._since(self._start)) and time.monotonic() < end:
            time.sleep(_POLL_S)
        return text.partition(mark)[0]

    def _since(self, start: int) -> str:
        size = self._size()
        if size is None:
            return ""
        if size < start:  # the log was full and began anew
            start = 0
        with suppress(OSError), self._path.open("rb") as log:
            log.seek(max(start, size - _LOOK_BACK))
            return log.read().decode("utf-8", errors="replace")
        return ""

    def _size(self) -> int | None:
        with suppress(OSError):
            status = self._path.stat()
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None
