"""The noise floor: how much the numbers of one variant differ from run to run though nothing changed.

A bootstrap over the iterations of one run cannot see what changes between runs: where memory was placed, how warm the
device was, what else the machine did. Measuring the same variant again can: `comparison.noise_record` computes the
floor, this module and `comparison.compare_all` apply it.
"""

from __future__ import annotations

import math
from typing import Any

from slim_eval.analysis.comparability import Setting, settings_of
from slim_eval.metrics import METRICS, TPOT
from slim_eval.results.records import NoiseRecord
from slim_eval.results.store import read_noise
from slim_eval.results.variants import Variant


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
        recorded = getattr(found, setting.name, None)
        is_known = value is not None and (setting.strict or recorded is not None)
        if setting.name != "kernels" and is_known and value != recorded:
            return None
    return found


def speed_setting(variant: Variant, setting: Setting) -> Any:
    """A setting of speed; without a performance record, what another record says of engine, hardware and kernels."""
    record = variant.performance or next(iter(variant.records), None)
    if record is None or (variant.performance is None and setting.name not in ("engine", "hardware", "kernels")):
        return None
    return setting.read(record)


def within_noise(variant: Variant, baseline: Variant | None, noise: NoiseRecord | None) -> frozenset[str]:
    """The metric keys and tasks in which a variant differs from its baseline by no more than the model's noise floor.

    Nothing is without a baseline or a floor.
    """
    if baseline is None or noise is None or baseline.directory == variant.directory:
        return frozenset()
    found = set()
    for key, entry in (noise.metrics | noise.tasks).items():
        metric = METRICS.get(key)
        if metric is not None and not (variant.counts(metric) and baseline.counts(metric)):
            continue
        here, there = variant.number(key), baseline.number(key)
        if entry.floor is None or here is None or there is None:
            continue
        if key in noise.tasks:
            within = abs(here - there) * 100 <= entry.floor
        else:
            within = bool(here and there) and abs(math.log(here / there)) <= math.log1p(entry.floor)
        if within:
            found.add(key)
    return frozenset(found)
