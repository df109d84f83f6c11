"""Executors: where jobs run. The evaluator hands every job to one of them and knows no other way to start work.

`--executor` names one. A further executor is one class, registered by a plugin: ``EXECUTORS.register(MyExecutor())``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Protocol

from slim_eval.errors import unknown_name
from slim_eval.execution.local import LocalExecutor
from slim_eval.execution.messages import Event, Job, Outcome
from slim_eval.utils.registry import Registry


class Executor(Protocol):
    """Runs jobs, each in a process of its own whose death harms nothing else."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    @property
    def parallel(self) -> int:
        """Variants to run at the same time; with more than 1, `submit` is called from several threads."""
        ...

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
        """Run one job; yield its events as they come, and last its outcome.

        Closing the generator early stops the job and everything the job has started.

        Args:
            job: What to do, as `slim_eval.execution.worker` reads it from standard input.
            log: File to append the output of the worker and its engine to.
            python: Interpreter of the worker; None for this one.
            environment: Variables of the worker in addition to those of this process.
            silence_s: Seconds without an event after which the worker counts as hung and is stopped; None: no limit.
            echo: Called with each line of the log.

        Raises:
            SlimEvalError: The worker cannot be started.
        """
        ...

    def cancel(self) -> None:
        """Stop every job that is under way; called from another thread than those that run `submit`."""
        ...


EXECUTORS: Registry[Executor] = Registry("executor")
EXECUTORS.register(LocalExecutor())


def executor(name: str) -> Executor:
    """The executor of that name.

    Raises:
        UsageError: No executor has it.
    """
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name]
