"""The noise floor: how much the numbers of one variant differ from run to run though nothing changed.

A bootstrap over the iterations of one run cannot see what changes between runs: where memory was placed, how warm the
device was, what else the machine did. Measuring the same variant again can: `comparison.noise_record` computes the
floor, this module applies it.
"""

from __future__ import annotations

import math
from typing import Any

from slim_eval.analysis.comparability import Setting, settings_of
from slim_eval.metrics import TPOT
from slim_eval.results.records import NoiseRecord, PairedTask
from slim_eval.results.store import read_noise
from slim_eval.results.variants import Interval, Variant


def noise_floor(variant: Variant) -> NoiseRecord | None:
    """The noise floor of a variant's model, if it was measured at the variant's own settings; else None.

    Kernels may differ: the floor is the baseline's.

    Raises:
        ResultFileError: The file is damaged.
    """
    found = read_noise(variant.directory.parent)
    if found is None or found.model != variant.model:
        return None
    for setting in settings_of(TPOT):
        value = speed_setting(variant, setting)
        if setting.name != "kernels" and value is not None and value != getattr(found, setting.name, None):
            return None
    return found


def speed_setting(variant: Variant, setting: Setting) -> Any:
    """A setting of speed; without a performance record, what another record says of engine, hardware and kernels."""
    record = variant.performance or next(iter(variant.records), None)
    if record is None or (variant.performance is None and setting.name not in ("engine", "hardware", "kernels")):
        return None
    return setting.read(record)


def floor_of(noise: NoiseRecord | None, key: str) -> float | None:
    """The floor of a metric, a relative change; None if none is known."""
    entry = None if noise is None else noise.metrics.get(key)
    return None if entry is None else entry.floor


def widened(interval: Interval, floor: float) -> Interval:
    """An interval of a ratio, widened by a relative change that may be noise."""
    return interval[0] / (1 + floor), interval[1] * (1 + floor)


def widened_task(task: PairedTask, noise: NoiseRecord | None) -> PairedTask:
    """A pair of runs on a task, the interval of its drop widened by what accuracy differs from run to run."""
    entry = None if noise is None else noise.tasks.get(task.task)
    if entry is None or not entry.floor or task.interval_pp is None:
        return task
    low, high = task.interval_pp
    return task.model_copy(update={"interval_pp": (low - entry.floor, high + entry.floor)})


def within_noise(variant: Variant, baseline: Variant | None, noise: NoiseRecord | None) -> frozenset[str]:
    """The metrics and tasks in which a variant differs from its baseline by no more than the noise floor.

    Args:
        variant: The variant.
        baseline: What it is compared with.
        noise: The floor of the model; without one nothing is within it.

    Returns:
        Metric keys and tasks.
    """
    if baseline is None or noise is None or baseline.directory == variant.directory:
        return frozenset()
    found = set()
    for key, entry in noise.metrics.items():
        here, there = variant.number(key), baseline.number(key)
        if entry.floor is not None and here and there and abs(math.log(here / there)) <= math.log1p(entry.floor):
            found.add(key)
    for task, entry in noise.tasks.items():
        here, there = variant.number(task), baseline.number(task)
        if (
            entry.floor is not None
            and here is not None
            and there is not None
            and abs(here - there) * 100 <= entry.floor
        ):
            found.add(task)
    return frozenset(found)
