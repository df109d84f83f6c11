"""The noise floor: how much the numbers of one variant differ from run to run though nothing changed.

A bootstrap over the iterations of one run cannot see what changes between runs: where memory was placed, how warm the
device was, what else the machine did. Measuring the same variant again can: `repeats.noise_record` computes the floor,
`within_noise` and `comparison.compare_all` apply it, `answer` and `remarks` say what it means.
"""

from __future__ import annotations

import math
from typing import Any

from slim_eval.analysis.comparability import Setting, settings_of
from slim_eval.metrics import J_PER_TOKEN, METRICS, PEAK_MEMORY, THROUGHPUT, TPOT, TTFT
from slim_eval.results.records import NoiseRecord
from slim_eval.results.store import read_noise
from slim_eval.results.variants import Variant
from slim_eval.utils import number, short_name

#: A floor whose interval is wider than this factor, from end to end, is rough.
ROUGH = 3.0
#: P-values below this show variation between processes.
_ALPHA = 0.05
#: The metrics of the answer, most important first.
_HEADLINES = (TPOT, THROUGHPUT, TTFT, J_PER_TOKEN, PEAK_MEMORY)


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


def floor_words(record: NoiseRecord, key: str) -> str:
    """The floor of a metric or task with its interval: ``±4.20 % [2.10, 9.90]``."""
    is_task = key in record.tasks
    entry = record.tasks[key] if is_task else record.metrics[key]
    if entry.floor is None:
        return "not known"
    scale, unit = (1.0, "pp") if is_task else (100.0, "%")
    ends = (
        "" if entry.floor_interval is None else " [{}, {}]".format(*(number(e * scale) for e in entry.floor_interval))
    )
    return f"±{number(entry.floor * scale)} {unit}{ends}"


def answer(record: NoiseRecord) -> str:
    """One sentence: which differences are noise. Headline metrics and tasks only."""
    name = f"{short_name(record.model)} {record.precision}"
    labels = {metric.key: metric.label for metric in _HEADLINES if metric.key in record.metrics}
    labels |= {task: task for task in record.tasks}
    parts = [f"{floor_words(record, key).split(' [')[0].removeprefix('±')} in {label}" for key, label in labels.items()]
    if not parts:
        return f"{name}: no metric has a valid value in two runs, so that no noise floor is known"
    *most, last = parts
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"{name}: differences of up to {listed} are noise"


def remarks(record: NoiseRecord) -> list[str]:
    """What is uncertain about a noise floor, in words; empty for a record of 0.2.0, which does not say."""
    found = []
    for index in range(min((len(entry.values) for entry in record.metrics.values()), default=0)):
        missing = [_label(key) for key, entry in record.metrics.items() if entry.values[index] is None]
        if missing:
            found.append(
                f"run {index + 1} does not count for {', '.join(missing)}: not measured, invalid, or still drifting"
            )
    tested = {
        _label(key): entry.between_p_value for key, entry in record.metrics.items() if entry.between_p_value is not None
    }
    if apart := [label for label, p_value in tested.items() if p_value < _ALPHA]:
        found.append(
            f"{', '.join(apart)}: processes differ by more than their iterations explain (F test, p < {_ALPHA:g}); "
            "longer runs do not lower this part of the floor"
        )
    if same := [label for label, p_value in tested.items() if p_value >= _ALPHA]:
        found.append(
            f"{', '.join(same)}: variation between processes cannot be distinguished from zero (F test, "
            f"p ≥ {_ALPHA:g}); the floor is at least what variation within a process implies"
        )
    if rough := rough_floors(record):
        found.append(rough)
    return found


def rough_floors(record: NoiseRecord) -> str | None:
    """A sentence if a floor has an interval wider than the factor `ROUGH`; else None."""
    from slim_eval.stats import limit_factor

    # Relative changes widen as exponentials of the limits that the number of runs determines.
    ends = [(entry, entry.floor_interval, math.log1p) for entry in record.metrics.values()]
    ends += [(entry, entry.floor_interval, float) for entry in record.tasks.values()]
    factors = [
        (scale(interval[1]) / scale(interval[0]), sum(value is not None for value in entry.values))
        for entry, interval, scale in ends
        if interval is not None
    ]
    worst, runs = max(factors, default=(0.0, 0))
    if worst <= ROUGH:
        return None
    more = next(count for count in (10, 20, 2 * runs) if count > runs)
    return (
        f"rough floors: {runs} runs determine a floor only within a factor of {number(worst)}; "
        f"--num-repeats {more} narrows this to {number(limit_factor(more))}"
    )


def _label(key: str) -> str:
    metric = METRICS.get(key)  # None: of a plugin that is not loaded now
    return key if metric is None else metric.label
