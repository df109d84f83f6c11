"""The best configuration by each measure, in words that the data carry: how sure, and among which rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.groups import comparable_groups, confounding
from slim_eval.analysis.pareto.frontiers import with_means
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN
from slim_eval.analysis.rules import ends
from slim_eval.results.rows import Row
from slim_eval.utils import number

_Z95 = 1.959964  # half width of a 95 % normal interval in standard errors
_SHOWN_GROUPS, _SHOWN_NAMES = 4, 5
_HOW_TOLD = (
    "Told apart by the 95 % intervals of single runs, as if independent; what changes from run to run is not in them."
)
_LACKING = "without intervals it cannot be told whether that is more than chance"


@dataclass(frozen=True)
class _Measure:
    """What to be best by.

    Attributes:
        words: What the best one is called.
        keys: Columns, the first that was measured in a group counts.
        maximise: More is better, by column.
        only_confounded: Said only where it compares different work, as a warning.
        exact: Counted, not measured: needs no interval.
    """

    words: str
    keys: Mapping[str, bool]
    only_confounded: bool = False
    exact: bool = False


_MEASURES = (
    _Measure("Fastest per output token", {"tpot_s": False, "tokens_per_second": True}),
    _Measure("Lowest amortised latency", {"mean_latency_s": False}, only_confounded=True),
    _Measure("Least energy", {"joules_per_output_token": False, "energy_per_query_j": False}),
    _Measure("Most accurate", {ACCURACY_MEAN: True}),
    _Measure("Smallest on disk", {"model_size_gb": False}, exact=True),
    _Measure("Smallest as loaded", {"weights_gb": False}, exact=True),
)
_WRITTEN: dict[str, Callable[[float], str]] = {
    "tpot_s": lambda value: f"{number(value * 1000)} ms TPOT",
    "tokens_per_second": lambda value: f"{number(value)} output tokens/s",
    "mean_latency_s": lambda value: f"{number(value * 1000)} ms",
    "joules_per_output_token": lambda value: f"{number(value)} J an output token",
    "energy_per_query_j": lambda value: f"{number(value)} J a request",
    ACCURACY_MEAN: lambda value: f"{value * 100:.1f} % mean accuracy",
    "weights_gb": lambda value: f"{number(value)} GiB of weights",
    "model_size_gb": lambda value: f"{number(value)} GiB",
}


def superlatives(rows: Sequence[Row], tasks: Sequence[str]) -> list[str]:
    """The best by speed per token, energy, accuracy and size, a sentence for each setting of the measurements.

    Two numbers are told apart where the 95 % interval of their difference lies on one side of 0; it is worked out from
    their own intervals as if they were independent (MOVER; Zou and Donner 2008, Statistics in Medicine 27:1693).

    Args:
        rows: From `rows.rows_of`.
        tasks: Tasks that the mean accuracy is taken over.

    Returns:
        Sentences. One whose numbers compare different work, or have no interval, says so; emulated kernels and energy
        marked invalid take no part.
    """
    prepared = with_means(rows, tasks)
    made = [sentence for measure in _MEASURES for sentence in _sentences(measure, prepared)]
    known = any(_ends(row, key) for row in prepared for measure in _MEASURES for key in measure.keys)
    return [*made, _HOW_TOLD] if made and known else made


def surely_better(best: Mapping[str, Any], other: Mapping[str, Any], key: str, maximise: bool) -> bool | None:
    """Whether one row is better than another beyond their intervals; None where one of the two has none."""
    a, b = _ends(best, key), _ends(other, key)
    if a is None or b is None:
        return None
    if maximise:
        lead = best[key] - other[key]
        return bool(lead > math.hypot(best[key] - a[0], b[1] - other[key]))
    return bool(other[key] - best[key] > math.hypot(a[1] - best[key], other[key] - b[0]))


def listed(names: Sequence[str], shown: int = _SHOWN_NAMES) -> str:
    """Names in a row, the further ones counted."""
    head = ", ".join(names[:shown])
    return f"{head} and {len(names) - shown} more" if len(names) > shown else head


def label(row: Mapping[str, Any]) -> str:
    """What a configuration is called."""
    return f"{row['name']} {row['precision']}"


def _sentences(measure: _Measure, rows: Sequence[Row]) -> list[str]:
    taking = [row for row in rows if _takes_part(row, measure)]
    groups = comparable_groups(taking, measure.keys).members(taking)
    several = {name: members for name, members in groups.items() if len(members) > 1}
    made = []
    for name, members in (several or groups).items():  # who is alone is the best only where nothing else can be said
        key = next((key for key in measure.keys if any(row[key] is not None for row in members)), None)
        found = [row for row in members if key and row[key] is not None]
        confounded = confounding(found, [key]) if key else None
        if key is None or (measure.only_confounded and not confounded):
            continue
        where = f" ({name})" if len(groups) > 1 else ""
        made.append(f"{measure.words}{where}: {_verdict(measure, key, found)}{_warning(confounded)}.")
    more = len(made) - _SHOWN_GROUPS
    return made[:_SHOWN_GROUPS] + ([f"{measure.words}: {more} more settings in the tables."] if more > 0 else [])


def _takes_part(row: Mapping[str, Any], measure: _Measure) -> bool:
    kernels, valid = ("energy_kernels", row["valid"]) if "energy_per_query_j" in measure.keys else ("kernels", None)
    measured = any(row[key] is not None for key in measure.keys)
    emulated = row[kernels] == "emulated" and not {ACCURACY_MEAN, "model_size_gb"} & set(measure.keys)
    return measured and not emulated and valid is not False


def _verdict(measure: _Measure, key: str, rows: Sequence[Row]) -> str:
    maximise = measure.keys[key]
    ranked = sorted(rows, key=lambda row: -row[key] if maximise else row[key])
    best = ranked[0]
    others = ranked[1:]
    value = _value(best, key)
    if not others:
        return f"only {label(best)} was measured ({value})"
    equal = [row for row in others if row[key] == best[key]]
    said = f"{listed([label(row) for row in (best, *equal)])}, {value}, of {len(rows)} configurations"
    rest = others[len(equal) :]
    if measure.exact or not rest:
        return said + (", all equal" if not rest else "")
    sure = [surely_better(best, row, key, maximise) for row in rest]
    if None in sure:
        return f"{said}; next {label(rest[0])}, {_value(rest[0], key)}; {_LACKING}"
    open_still = [label(row) for row, found in zip(rest, sure, strict=True) if not found]
    if open_still or equal:
        return f"{said}; not told apart from {listed(open_still)}" if open_still else said
    return f"{said}; ahead of all others beyond their 95 % intervals (next {label(rest[0])}, {_value(rest[0], key)})"


def _value(row: Mapping[str, Any], key: str) -> str:
    text = _WRITTEN[key](row[key])
    found = _ends(row, key)
    if found is None:
        return text
    low, high = (_WRITTEN[key](end).split(" ")[0] for end in found)
    return f"{text} [{low} to {high}]"


def _ends(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    found = ends(row, key)
    if found is not None or row.get(f"{key}_stderr") is None:
        return found
    half = _Z95 * row[f"{key}_stderr"]
    return row[key] - half, row[key] + half


def _warning(confounded: str | None) -> str:
    return f". Confounded: {confounded}" if confounded else ""
