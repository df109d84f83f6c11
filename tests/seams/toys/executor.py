"""A toy executor in one file: two variants at the same time, each worker at a lower priority (``nice``)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from slim_eval.execution.executor import EXECUTORS
from slim_eval.execution.messages import Event, Job, Outcome, parse_event


class NicePair:
    """Starts workers through ``nice``; what they print besides events goes to their log."""

    name = "nice-pair"
    parallel = 2

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._measurements = itertools.count()
        self._both = threading.Barrier(2)

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
        """Run a job; the first measurement waits until another variant is about to be measured."""
        if job.kind == "measure" and next(self._measurements) < 2:
            self._both.wait(timeout=600)
        command = ["nice", "-n", "1", str(python or sys.executable), "-m", "slim_eval.execution.worker"]
        variables = {**os.environ, **(environment or {})}
        pipe = subprocess.PIPE
        with (
            log.open("ab") as output,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=output, env=variables, text=True) as process,
        ):
            self._running.add(process)
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(job.model_dump_json())
                process.stdin.close()
                for line in process.stdout:
                    yield parse_event(line)
                yield Outcome(process.wait())
            finally:
                process.kill()
                self._running.discard(process)

    def cancel(self) -> None:
        """Kill the workers."""
        for process in tuple(self._running):
            process.kill()
        self._both.abort()


EXECUTORS.register(NicePair())
