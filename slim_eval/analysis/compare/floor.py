"""The noise floor: how much the numbers of one variant differ from run to run though nothing changed.

A bootstrap over the iterations of one run cannot see what changes between runs: where memory was placed, how warm the
device was, what else the machine did. Measuring the same variant again can (`repeats` makes the floor, this applies it).
"""

from __future__ import annotations

import math

from slim_eval.results.records import NoiseRecord, PairedTask
from slim_eval.results.rows import Row, rows_of
from slim_eval.results.store import Variant, read_noise

#: What must be the same for a floor to hold. Kernels need not: the floor is that of the 16-bit variant.
_SETTINGS = ("engine", "hardware", "batch_size", "max_new_tokens", "prompt_tokens")


def of_model(variant: Variant) -> NoiseRecord | None:
    """The noise floor measured for a variant's model, where it was measured at the variant's own settings; None elsewhere.

    Raises:
        ResultFileError: The file is damaged.
    """
    found = read_noise(variant.directory.parent)
    if found is None or found.model != variant.model:
        return None
    (row,) = rows_of([variant], ())
    known = ((row[key], getattr(found, key)) for key in _SETTINGS if row[key] is not None)
    return found if all(value == measured for value, measured in known) else None


def of_variants(a: Variant, b: Variant) -> NoiseRecord | None:
    """The noise floor that holds for a comparison of two variants: that of the first, else of the second."""
    return of_model(a) or of_model(b)


def floor_of(noise: NoiseRecord | None, key: str) -> float | None:
    """The floor of a metric, a relative change; None where none is known."""
    entry = None if noise is None else noise.metrics.get(key)
    return None if entry is None else entry.floor


def widened(interval: tuple[float, float], floor: float) -> tuple[float, float]:
    """An interval of a ratio, widened by a relative change that may be noise."""
    return interval[0] / (1 + floor), interval[1] * (1 + floor)


def widened_task(task: PairedTask, noise: NoiseRecord | None) -> PairedTask:
    """A pair of runs on a task, the interval of its drop widened by what accuracy differs from run to run."""
    entry = None if noise is None else noise.tasks.get(task.task)
    if entry is None or not entry.floor or task.interval_pp is None:
        return task
    low, high = task.interval_pp
    return task.model_copy(update={"interval_pp": (low - entry.floor, high + entry.floor)})


def within_noise(row: Row, base: Row | None, noise: NoiseRecord | None) -> frozenset[str]:
    """The metrics and tasks in which a row differs from the 16-bit one by no more than the noise floor.

    Args:
        row: A quantized configuration.
        base: The 16-bit one of the same model.
        noise: Its noise floor; without one nothing is within it.

    Returns:
        Columns of the row.
    """
    if base is None or noise is None or base["directory"] == row["directory"]:
        return frozenset()
    found = {
        key for key, entry in noise.metrics.items()
        if entry.floor is not None and row.get(key) and base.get(key)
        and abs(math.log(row[key] / base[key])) <= math.log1p(entry.floor)
    } | {
        task for task, entry in noise.tasks.items()
        if entry.floor is not None and row.get(task) is not None and base.get(task) is not None
        and abs(row[task] - base[task]) * 100 <= entry.floor
    }  # fmt: skip
    return frozenset(found)
