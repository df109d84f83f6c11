"""Ending what hangs: something that has to give a sign of life, and what is done where it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Watchdog:
    """Calls `bite` once where `feed` is not called for `limit_s` seconds; use as a context manager.

    Args:
        limit_s: Seconds without a sign of life; None waits for ever.
        bite: What is done then, in a thread of its own.
    """

    def __init__(self, limit_s: float | None, bite: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._bite = bite
        self._fed_at = time.monotonic()
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.has_bitten = False

    def __enter__(self) -> Watchdog:
        if self._limit_s is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def feed(self) -> None:
        """A sign of life."""
        self._fed_at = time.monotonic()

    def _watch(self) -> None:
        assert self._limit_s is not None
        with self._changed:
            while not self._over and not self.has_bitten:
                left = self._fed_at + self._limit_s - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self.has_bitten = True
        if self.has_bitten:
            self._bite()
