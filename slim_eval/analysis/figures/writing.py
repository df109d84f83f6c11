"""Figures onto the disk, by all cores: drawing twenty figures twice is most of the time that an analysis takes."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from slim_eval.utils import atomic_path

ENDINGS = ("png", "pdf")
_T = TypeVar("_T")
# Neither creation date nor version inside: the same results give the same files.
_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 2}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": "slim-eval"}},
}
_MOST_PROCESSES = 4  # more than that wait for each other's memory
_work: list[Callable[[int], Any]] = []  # in a child: what it was started for


def save(figure: Figure | None, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF; without one, remove what an earlier analysis left.

    Returns:
        Paths written.
    """
    if figure is None:
        remove(directory, name)
        return []
    for path, ending in zip(_paths(directory, name), ENDINGS, strict=True):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=ending, **_OPTIONS[ending])
    return _paths(directory, name)


def remove(directory: Path, name: str) -> None:
    """Remove what an earlier analysis left of a figure."""
    for path in _paths(directory, name):
        path.unlink(missing_ok=True)


def _paths(directory: Path, name: str) -> list[Path]:
    return [directory / f"{name}.{ending}" for ending in ENDINGS]


def each(work: Callable[[int], _T], count: int) -> list[_T]:
    """``[work(0), …, work(count - 1)]``, by as many processes as there are cores, up to four.

    Children are forked, so that nothing is imported or passed again; where that is not possible or not safe, because
    other threads may hold a lock, this process does all of it.

    Raises:
        Exception: The first that `work` raises.
    """
    processes = min(_MOST_PROCESSES, count, _cores())
    if processes < 2 or "fork" not in get_all_start_methods() or threading.active_count() > 1:
        return [work(number) for number in range(count)]
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread beside a fork. Those that are left belong to BLAS, which is ready for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(processes, get_context("fork"), _work.append, (work,)) as pool:
            return list(pool.map(_do, range(count)))


def _do(number: int) -> Any:
    return _work[-1](number)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
