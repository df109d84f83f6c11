"""A configuration against the 16-bit one of the same model: which numbers may be compared, and what comes out.

Pure functions over rows (see `rows`), without pandas. Every refusal to compare is put in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from slim_eval.results.rows import Row
from slim_eval.schemes import DEFAULT_BASELINE

BASELINE = DEFAULT_BASELINE
# Above this relative difference in output tokens a request, two latencies are of different work (docs/metrics.md).
LENGTH_TOLERANCE = 0.01


class Doubt(Enum):
    """Why a number must not be set beside its 16-bit one without a word."""

    LENGTH = "length"
    SPEED_SETUP = "speed setup"
    ENERGY_SETUP = "energy setup"
    INVALID_ENERGY = "invalid energy"
    EMULATED = "emulated"


@dataclass(frozen=True)
class _Setting:
    """Something that must be the same in two measurements before their numbers are compared.

    Attributes:
        key: Its column; for a task, the part after the task's name.
        words: What the reason calls it.
        same: Brings a value to the form in which it is compared.
        none: What None stands for, in words.
        strict: None against a known value counts as a difference. Off for facts that older records do not hold.
        tolerance: Relative difference of numbers that still counts as the same.
    """

    key: str
    words: str
    same: Callable[[Any], Any] = lambda value: value
    none: str = "not known"
    strict: bool = True
    tolerance: float = 0.0

    def difference(self, this: Any, base: Any) -> str | None:
        """The reason why two values forbid a comparison, or None where they do not."""
        if not self.strict and (this is None or base is None):
            return None
        a, b = self.same(this), self.same(base)
        if a == b or _close(a, b, self.tolerance):
            return None
        return f"{self.words} {self._say(this)} against {self._say(base)}"

    def _say(self, value: Any) -> str:
        if value is None:
            return self.none
        return f"{value:g}" if isinstance(value, float) else str(value)


def _without_filter(metric: Any) -> Any:
    """lm-eval names a metric with its filter; the filter ``none`` says nothing: ``acc,none`` is ``acc``."""
    return metric.removesuffix(",none") if isinstance(metric, str) else metric


def _source_family(source: Any) -> Any:
    """``nvml-counter`` and ``nvml-integral`` agree within 5 % or the record says so; NVML and CodeCarbon need not."""
    return source.split("-")[0].split(" ")[0] if isinstance(source, str) else source


_SPEED_SETTINGS = (
    _Setting("engine", "engine"),
    _Setting("hardware", "hardware"),
    _Setting("batch_size", "batch size"),
    _Setting("load", "load", none="batches of slim-eval's own"),
    _Setting("max_new_tokens", "output length setting"),
    _Setting("prompt_tokens", "prompt tokens", strict=False, tolerance=LENGTH_TOLERANCE),
)
_ENERGY_SETTINGS = (
    _Setting("energy_engine", "engine"),
    _Setting("energy_hardware", "hardware"),
    _Setting("energy_batch_size", "batch size"),
    _Setting("energy_max_new_tokens", "output length setting"),
    _Setting("energy_prompt_tokens", "prompt tokens", strict=False, tolerance=LENGTH_TOLERANCE),
    _Setting("energy_source", "energy source", same=_source_family),
)
# Emulated kernels have a mark of their own in figures (`Doubt.EMULATED`), so they stand apart from the other settings.
_SPEED_KERNELS = _Setting("kernels", "kernels", strict=False)
_ENERGY_KERNELS = _Setting("energy_kernels", "kernels", strict=False)
_TASK_SETTINGS = (
    _Setting("_metric", "metric", same=_without_filter),
    _Setting("_num_fewshot", "few-shot examples"),
    _Setting("_limit", "limit", none="all items"),
    _Setting("_num_items", "items", strict=False),
    _Setting("_apply_chat_template", "chat template", strict=False),
    _Setting("_version", "task version", strict=False),
    _Setting("_items_hash", "items (by hash)", strict=False),
)
# Column -> (metric, baseline over this?): above 1 the quantized model is faster.
_SPEED_RATIOS = {
    "speedup": ("mean_latency_s", True),
    "per_token_speedup": ("tokens_per_second", False),
    "ttft_speedup": ("ttft_s", True),
    "tpot_speedup": ("tpot_s", True),
}
_SPEED_KEYS = tuple(key for key, _ in _SPEED_RATIOS.values())
_CI95 = ("_ci95_low", "_ci95_high")
_ENERGY_KEYS = ("energy_joules", "joules_per_output_token")
_SIZE_RATIOS = {"model_size_ratio": "model_size_gb", "weights_ratio": "weights_gb"}
BASIS_PER_TOKEN = "per output token"
BASIS_PER_RUN = "whole run; output lengths not known"


def baseline_of(row: Mapping[str, Any], rows: Iterable[Row]) -> Row | None:
    """The 16-bit row of the same model, of the same run where there are several; None where there is none."""
    found = [other for other in rows if other["model"] == row["model"] and other["precision"] == BASELINE]
    return min(found, key=lambda other: other["name"] != row["name"], default=None)


def comparison(row: Mapping[str, Any], base: Mapping[str, Any] | None, tasks: Sequence[str]) -> Row:
    """What changed against the 16-bit row.

    Args:
        row: The quantized configuration.
        base: The 16-bit one of the same model, or None.
        tasks: Tasks to compare.

    Returns:
        ``speedup`` (ratio of amortised latency), ``per_token_speedup`` (of throughput), ``ttft_speedup`` and
        ``tpot_speedup``, all above 1 where this is faster, each with the ends of its 95 % interval where both sides
        have one (``tpot_speedup_ci95_low``, …); ``length_confounded``: tokens a request differ by more than
        1 %, so ``speedup`` compares different work; ``energy_reduction_percent`` and ``energy_basis``;
        ``model_size_ratio`` (on disk) and ``weights_ratio`` (loaded), above 1 where this is smaller;
        ``{task}_drop_percent`` (of the 16-bit accuracy) and ``{task}_drop_pp`` (percentage points), above 0 where
        this is worse; ``not_comparable``: what was not compared and why. None where a number does not exist.
    """
    if base is None:
        return no_comparison(tasks, f"no {BASELINE} measurement of this model")
    reasons: list[str] = []
    result = {
        **_speed(row, base, reasons),
        **_energy(row, base, reasons),
        **{column: _ratio(base[key], row[key]) for column, key in _SIZE_RATIOS.items()},
    }
    if row["kernels"] == "emulated":
        result["weights_ratio"] = None  # they were loaded as 16 bit
    for task in tasks:
        result.update(_drops(task, row, base, reasons))
    result["not_comparable"] = "; ".join(reasons) or None
    return result


def lengths_differ(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> bool | None:
    """Whether two rows generated a different number of tokens a request; None where one is not known."""
    this, that = row["tokens_per_request"], base["tokens_per_request"] if base else None
    return None if not this or not that else not _close(this, that, LENGTH_TOLERANCE)


def no_comparison(tasks: Sequence[str], reason: str) -> Row:
    """What `comparison` returns where there is nothing to compare with."""
    columns = (
        *_with_ends(_SPEED_RATIOS), "length_confounded", *_with_ends(["energy_reduction_percent"]), "energy_basis",
        *_SIZE_RATIOS,
    )  # fmt: skip
    drops = (f"{task}_drop_{unit}" for task in tasks for unit in ("percent", "pp"))
    return {**dict.fromkeys((*columns, *drops)), "not_comparable": reason}


def speed_obstacles(row: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Why the speeds of two rows must not be compared; empty where they may, or where neither was measured."""
    return _reasons(row, base, _SPEED_KEYS, (*_SPEED_SETTINGS, _SPEED_KERNELS))


def energy_obstacles(row: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Why the energy of two rows must not be compared, as `speed_obstacles`."""
    return _invalid(row, base) or _reasons(row, base, _ENERGY_KEYS, (*_ENERGY_SETTINGS, _ENERGY_KERNELS))


def task_obstacles(task: str, row: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Why the accuracies of two rows on a task must not be compared, as `speed_obstacles`."""
    settings = [replace(setting, key=f"{task}{setting.key}") for setting in _TASK_SETTINGS]
    return _reasons(row, base, [task], settings)


def quotient_interval(
    ratio: float, above: tuple[float, float], below: tuple[float, float]
) -> tuple[float, float] | None:
    """The 95 % interval of a ratio of two independent numbers, from theirs: half-widths add as squares, in logarithms.

    Args:
        ratio: Of the numbers themselves.
        above: Interval of the numerator.
        below: Interval of the denominator.

    Returns:
        None where an end is not positive.
    """
    if min(*above, *below) <= 0:
        return None
    half = math.hypot(*(math.log(high / low) / 2 for low, high in (above, below)))
    return ratio * math.exp(-half), ratio * math.exp(half)


def ends(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric of a row; None where it has none."""
    low, high = (row.get(f"{key}{end}") for end in _CI95)
    return None if low is None or high is None else (low, high)


def _with_ends(columns: Iterable[str]) -> list[str]:
    return [name for column in columns for name in (column, *(f"{column}{end}" for end in _CI95))]


def _named_ends(column: str, interval: tuple[float, float] | None) -> Row:
    return dict(zip((f"{column}{end}" for end in _CI95), interval or (None, None), strict=True))


def doubts(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> frozenset[Doubt]:
    """What a reader must know before setting this row's bars beside those of the 16-bit one."""
    found = {Doubt.INVALID_ENERGY} if row["valid"] is False else set()
    if "emulated" in (row["kernels"], row["energy_kernels"]):
        found.add(Doubt.EMULATED)
    if base is None:
        return frozenset(found)
    if lengths_differ(row, base):
        found.add(Doubt.LENGTH)
    for doubt, keys, settings in (
        (Doubt.SPEED_SETUP, _SPEED_KEYS, _SPEED_SETTINGS),
        (Doubt.ENERGY_SETUP, _ENERGY_KEYS, _ENERGY_SETTINGS),
    ):
        if _measured(keys, row, base) and _differences(settings, row, base):
            found.add(doubt)
    return frozenset(found)


def _speed(row: Mapping[str, Any], base: Mapping[str, Any], reasons: list[str]) -> Row:
    result: Row = dict.fromkeys(_with_ends(_SPEED_RATIOS))
    result["length_confounded"] = lengths_differ(row, base)
    if _blocked("speed", speed_obstacles(row, base), reasons):
        return result
    for column, (key, lower_is_better) in _SPEED_RATIOS.items():
        above, below = (base, row) if lower_is_better else (row, base)
        result[column] = _ratio(above[key], below[key])
        result.update(_named_ends(column, _ratio_interval(key, above, below)))
    return result


def _energy(row: Mapping[str, Any], base: Mapping[str, Any], reasons: list[str]) -> Row:
    result: Row = dict.fromkeys((*_with_ends(["energy_reduction_percent"]), "energy_basis"))
    if _blocked("energy", energy_obstacles(row, base), reasons) or not _measured(_ENERGY_KEYS, row, base):
        return result
    key, basis = "joules_per_output_token", BASIS_PER_TOKEN
    if row[key] is None or base[key] is None:
        key, basis = "energy_joules", BASIS_PER_RUN
        if _blocked("energy", _reasons(row, base, [key], [_Setting("energy_num_runs", "requests")]), reasons):
            return result
    share = _ratio(row[key], base[key])
    if share is not None:
        result.update(energy_reduction_percent=(1 - share) * 100, energy_basis=basis)
        found = _ratio_interval(key, row, base)
        reduction = None if found is None else ((1 - found[1]) * 100, (1 - found[0]) * 100)
        result.update(_named_ends("energy_reduction_percent", reduction))
    return result


def _drops(task: str, row: Mapping[str, Any], base: Mapping[str, Any], reasons: list[str]) -> Row:
    result: Row = {f"{task}_drop_percent": None, f"{task}_drop_pp": None}
    if _blocked(task, task_obstacles(task, row, base), reasons) or not _measured([task], row, base):
        return result
    drop = base[task] - row[task]
    result[f"{task}_drop_pp"] = drop * 100
    result[f"{task}_drop_percent"] = drop / base[task] * 100 if base[task] else None
    return result


def _reasons(
    row: Mapping[str, Any], base: Mapping[str, Any], keys: Sequence[str], settings: Sequence[_Setting]
) -> list[str]:
    """Why numbers cannot be compared; empty where they can, and where neither was measured: nothing to say."""
    here, there = (any(side.get(key) is not None for key in keys) for side in (row, base))
    if not (here and there):
        return [f"not measured at {(row if there else base)['precision']}"] if here or there else []
    return _differences(settings, row, base)


def _differences(settings: Sequence[_Setting], row: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    found = (setting.difference(row[setting.key], base[setting.key]) for setting in settings)
    return [reason for reason in found if reason]


def _measured(keys: Sequence[str], row: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    return all(any(side.get(key) is not None for key in keys) for side in (row, base))


def _invalid(row: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    found = []
    for side, words in ((row, "this measurement"), (base, f"the {base['precision']} measurement")):
        if side["valid"] is False:
            why = ", ".join(side["invalid_reasons"] or ())
            found.append(f"{words} is marked invalid" + (f" ({why})" if why else ""))
    return found


def _blocked(what: str, why: list[str], reasons: list[str]) -> bool:
    """Whether a comparison is off; its reasons are added to the list."""
    if why:
        reasons.append(f"{what}: {', '.join(why)}")
    return bool(why)


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _ratio_interval(key: str, above: Mapping[str, Any], below: Mapping[str, Any]) -> tuple[float, float] | None:
    ratio, upper, lower = _ratio(above[key], below[key]), ends(above, key), ends(below, key)
    return None if ratio is None or upper is None or lower is None else quotient_interval(ratio, upper, lower)


def _close(a: Any, b: Any, tolerance: float) -> bool:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return numbers and tolerance > 0 and abs(a - b) <= tolerance * abs(b)
