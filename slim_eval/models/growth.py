"""How far files have come that a library writes without saying so: their folder is watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Told how much is done, of how much (None where that is not known), in which unit.
Progress = Callable[[int, "int | None", str], None]
_LOOK_EVERY_S = 1.0


@contextmanager
def growing(folder: Path, progress: Progress) -> Iterator[None]:
    """Report what comes into a folder, in MB, while something writes there."""
    before, ended = _bytes_in(folder), threading.Event()

    def watch() -> None:
        last = 0
        while not ended.wait(_LOOK_EVERY_S):
            come = _bytes_in(folder) - before
            if come > last:
                last = come
                progress(come // 10**6, None, "MB")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed in the meantime
            continue
    return total
