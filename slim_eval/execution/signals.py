"""A run that is told to end: by Ctrl-C, by a signal, or with its terminal; and how to go on with it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

_RESUMABLE = ("run", "demo")
_ONCE = ("--force", "--requantize")  # would do again what is done
_KEY_OPTION = "--wandb-api-key"


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A run that is told to end (SIGTERM, or its terminal closes) stops its workers in order, as on Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def resume_command(words: Sequence[str]) -> str | None:
    """The command that does what is left of one, without a key that it was given; None for one that starts over."""
    if words[0] not in _RESUMABLE:
        return None
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == _KEY_OPTION:
            next(rest, None)
        elif word not in _ONCE and not word.startswith(f"{_KEY_OPTION}="):
            kept.append(word)
    return shlex.join(["slim-eval", *kept])
