"""Interrupting a run: by Ctrl-C, by a signal or by closing its terminal; and the command that resumes it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

_RESUMABLE = ("run", "demo")
_REPEATING = ("--force", "--requantize")  # would repeat finished work
_KEY_OPTION = "--wandb-api-key"


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that workers are stopped in order."""

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
    """The command that does the remaining work of `words`, without an API key; None if it would start over."""
    if words[0] not in _RESUMABLE:
        return None
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == _KEY_OPTION:
            next(rest, None)
        elif word not in _REPEATING and not word.startswith(f"{_KEY_OPTION}="):
            kept.append(word)
    return shlex.join(["slim-eval", *kept])
