"""Turns on one machine: which stages of the workers there may run at the same time, and what ran beside what.

Neighbours share power, PCIe, memory bandwidth and CPUs. A stage that needs a quiet host (performance, energy, serving)
runs alone; all other stages run side by side. Nothing is interrupted: a stage that must be alone waits until nothing
else runs. Those that wait are then measured one after another, before anything else begins. So the machine is emptied
once for all of them, and a worker never waits for more than one round of the others.

The state is a folder of files that the workers themselves write, so that workers of several runs, and of several tasks
of a cluster on one machine, take turns too. A claim is a file whose lock its worker holds: the claim of a killed worker
is free, and is removed by the next one that looks.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

#: Variable with the folder of turns of a worker's machine; without it, a worker waits for nobody.
FOLDER = "SLIM_EVAL_TURNS"
_POLL_S = 0.1

#: Other stages of slim-eval that ran on the same machine, in words; empty if none did, None if that is not known.
Beside = tuple[str, ...] | None


@dataclass(frozen=True)
class _Claim:
    """What a worker does, or waits to do."""

    what: str
    alone: bool
    since: float  # when it was made, to order those that wait
    active: bool = False
    beside: tuple[str, ...] = ()  # what else was active at any time while this one was


def of_this_machine() -> Path:
    """The folder of turns that all runs of this user on this machine share."""
    return Path(tempfile.gettempdir(), f"slim-eval-turns-{os.getuid()}")


@contextmanager
def turn(what: str, *, alone: bool, waiting: Callable[[float], None]) -> Iterator[Callable[[], Beside]]:
    """Wait for the turn of a stage, and hold it for the block.

    Args:
        what: The work, in words for others.
        alone: Whether nothing else may run at the same time.
        waiting: Called several times a second with the seconds waited so far.

    Yields:
        A function that returns what has run beside it until now.
    """
    given = os.environ.get(FOLDER)
    if given is None:
        yield lambda: None
        return
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f"{uuid.uuid4().hex}.json"
    claim, began = _Claim(what, alone, time.time()), time.monotonic()
    mutex = FileLock(folder / "mutex")
    with FileLock(mine.with_suffix(".lock")):
        try:
            while not claim.active:
                with mutex:
                    others = _others(folder, mine)
                    running = {path: other for path, other in others.items() if other.active}
                    if _may_begin(claim, list(others.values())):
                        claim = replace(claim, active=True, beside=tuple(other.what for other in running.values()))
                        for path, other in running.items():
                            _write(path, replace(other, beside=(*other.beside, what)))
                    _write(mine, claim)
                if not claim.active:
                    waiting(time.monotonic() - began)
                    time.sleep(_POLL_S)

            def beside() -> Beside:
                with mutex:
                    now = _read(mine)
                return None if now is None else tuple(dict.fromkeys(now.beside))

            yield beside
        finally:
            with mutex:
                mine.unlink(missing_ok=True)
    mine.with_suffix(".lock").unlink(missing_ok=True)


def _may_begin(claim: _Claim, others: list[_Claim]) -> bool:
    running = [other for other in others if other.active]
    waiting_alone = [other for other in others if other.alone and not other.active]
    if claim.alone:
        return not running and all(claim.since <= other.since for other in waiting_alone)
    if any(other.alone for other in running):
        return False
    return bool(running) or not waiting_alone


def _others(folder: Path, mine: Path) -> dict[Path, _Claim]:
    """The claims of the other workers that are alive; those of the dead are removed."""
    found = {}
    for path in folder.glob("*.json"):
        if path == mine:
            continue
        lock = FileLock(path.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        except Timeout:
            if (claim := _read(path)) is not None:
                found[path] = claim
    return found


def _read(path: Path) -> _Claim | None:
    with suppress(OSError, ValueError, TypeError):  # removed, or not one of ours
        content = json.loads(path.read_text(encoding="utf-8"))
        return _Claim(**{**content, "beside": tuple(content["beside"])})
    return None


def _write(path: Path, claim: _Claim) -> None:
    path.write_text(json.dumps(asdict(claim)), encoding="utf-8")
