"""The processes that an engine starts below this one, and their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slim_eval.engines.memory import empty_caches

_EXIT_TIMEOUT_S = 15.0


def engine_processes() -> list[Any]:
    """Processes of vLLM below this one. Python's own resource tracker is no part of them and outlives the engine."""
    import psutil

    return [
        process
        for process in psutil.Process().children(recursive=True)
        if not any("resource_tracker" in part for part in _command(process))
    ]


def end(processes: Sequence[Any]) -> None:
    """Wait for processes that were told to stop; one that does not is killed."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=_EXIT_TIMEOUT_S)
    for process in alive:
        process.kill()


def clear_failed_start() -> None:
    """Free what an engine that did not start left behind, before it is started otherwise."""
    end(engine_processes())
    empty_caches()


def _command(process: Any) -> list[str]:
    import psutil

    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command
