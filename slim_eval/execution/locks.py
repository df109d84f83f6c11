"""Locks on folders and files: each is released when its process ends, and records which process that is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from slim_eval.errors import BusyError
from slim_eval.utils import environment, write_text

_LOCK = ".lock"
_OWNER = ".lock.json"
_STEP_S = 0.5  # of waiting, after which a run that was cancelled stops to wait


@contextmanager
def lock_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Create and lock folders, all or none: a BusyError if another run has one, an OSError if one is not writable."""
    with ExitStack() as stack:
        for folder in sorted(set(folders)):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(folder / _LOCK, folder / _OWNER, f"{folder} is being measured", None))
        yield


def wait_for_lock(
    path: Path, note: Callable[[str], None], go_on: Callable[[], None] = lambda: None
) -> AbstractContextManager[None]:
    """Lock a file or folder that will be written; while another process writes it, wait, and name it by `note`.

    `go_on` is called again and again meanwhile, and may raise to end the waiting: an interrupt reaches only the main
    thread.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = (path.with_name(f".{path.name}{ending}") for ending in (_LOCK, _OWNER))
    return _lock(lock, owner, f"{path} is being written", note, go_on)


@contextmanager
def _lock(
    lock: Path, owner: Path, what: str, note: Callable[[str], None] | None, go_on: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock; if another process has it, wait for it after a note, or without `note` raise `BusyError`."""
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        try:
            found = json.loads(owner.read_text(encoding="utf-8"))
            process = f"process {found['pid']} on {found['host']} since {found['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
            process = "another process"
        if note is None:
            remedy = "wait until that process ends, or choose another --output-dir"
            raise BusyError(f"{what} by {process}", remedy) from None
        note(f"{what} by {process}: waiting for it")
        while not file_lock.is_locked:
            go_on()
            with suppress(Timeout):
                file_lock.acquire(timeout=_STEP_S)
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": environment.now()}
        write_text(owner, json.dumps(me) + "\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        file_lock.release()
