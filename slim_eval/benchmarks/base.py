"""What the three benchmarks share: how they report progress, and prompts as work of a known size."""

from __future__ import annotations

import math
from typing import Protocol


class Progress(Protocol):
    """Told by a benchmark how far it is."""

    def __call__(self, done: int, total: int, unit: str = "requests") -> None:
        """Report that `done` of `total` units are finished."""
        ...


def no_progress(done: int, total: int, unit: str = "requests") -> None:
    """A `Progress` that tells nobody."""


def full_batches(requests: int, batch_size: int) -> int:
    """Iterations of `batch_size` requests that hold at least `requests`: rounded up to full batches."""
    return math.ceil(requests / batch_size)
