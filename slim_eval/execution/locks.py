"""Who is at work on a folder: locks that die with their holder, and that can name it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from slim_eval.errors import BusyError
from slim_eval.utils import environment, write_text

_LOCK = ".lock"
_HOLDER = ".lock.json"


@contextmanager
def alone(folders: Iterable[Path]) -> Iterator[None]:
    """Hold folders against every other run; they are made where they are not there.

    Raises:
        BusyError: Another process holds one of them; none is held then.
        OSError: A folder cannot be made or written.
    """
    with ExitStack() as held:
        for folder in sorted(set(folders)):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(_held(folder / _LOCK, folder / _HOLDER, f"{folder} is being measured", None))
        yield


@contextmanager
def waiting_for(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold what is going to be written to `path`; wait for another process that writes it, and say so.

    Args:
        path: A file or folder, which need not be there.
        note: Told whom it waits for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = (path.with_name(f".{path.name}{ending}") for ending in (_LOCK, _HOLDER))
    with _held(lock, holder, f"{path} is being made", note):
        yield


@contextmanager
def _held(lock: Path, holder: Path, what: str, note: Callable[[str], None] | None) -> Iterator[None]:
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        text = f"{what} by {_named(holder)}"
        if note is None:
            raise BusyError(text, "wait until it has ended, or give another --output-dir") from None
        note(f"{text}: waiting for it")
        file_lock.acquire()
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": environment.now()}
        write_text(holder, json.dumps(me) + "\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        file_lock.release()


def _named(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another process"
