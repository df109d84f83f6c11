"""What a Pareto frontier is made of: objectives by name, and the frontier of rows, ready for ``pareto.csv``."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from slim_eval.errors import UsageError
from slim_eval.results.rows import Row, tasks_of
from slim_eval.utils import did_you_mean

if TYPE_CHECKING:
    from slim_eval.analysis.pareto.dominance import Verdict

#: Column of the mean over the accuracy tasks; `with_accuracy_mean` makes it.
ACCURACY_MEAN = "accuracy_mean"
_TASKS_IN_MEAN = f"{ACCURACY_MEAN}_tasks"
_DIRECTIONS = {"min": False, "max": True}
_MORE_IS_BETTER = (
    "tokens_per_second", "kv_cache_gb", "kv_cache_tokens", "max_concurrency", "mbu", "tokens_per_joule", ACCURACY_MEAN,
)  # fmt: skip
_TIMES = tuple(
    f"{kind}{key}"
    for key in ("latency_s", "ttft_s", "tpot_s", "e2e_latency_s")
    for kind in ("mean_" if key == "latency_s" else "", "median_", "p95_", "p99_", "std_")
)
_LESS_IS_BETTER = (
    *_TIMES, "mean_peak_mem_mb", "mean_avg_mem_mb", "weights_gb", "kv_cache_bytes_per_token", "load_time_s",
    "energy_joules", "energy_joules_net", "energy_kwh", "joules_per_output_token", "joules_per_total_token",
    "energy_per_query_j", "avg_power_watts", "min_power_watts", "max_power_watts", "std_power_watts",
    "idle_power_watts", "mean_temperature_celsius", "max_temperature_celsius", "model_size_gb", "num_parameters",
    "num_parameters_b",
)  # fmt: skip
#: Metrics whose better direction is known without being told, to whether more is better. Tasks: see `directions`.
KNOWN_DIRECTIONS = {**dict.fromkeys(_MORE_IS_BETTER, True), **dict.fromkeys(_LESS_IS_BETTER, False)}
_OF_ENERGY = re.compile(r"energy|joule|watts")
# lm-eval's metrics of which less is better; any other headline metric of a task is a share of right answers or a score.
_LOSSES = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
# Of each group the first that was measured: older files know fewer.
_DEFAULTS = (
    (ACCURACY_MEAN,),
    ("tpot_s", "tokens_per_second", "mean_latency_s"),
    ("joules_per_output_token", "energy_per_query_j"),
    ("weights_gb", "model_size_gb"),
)
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Objective:
    """A column to make as large or as small as possible.

    Attributes:
        key: Column of the rows, with its unit in the name.
        maximise: More is better.
    """

    key: str
    maximise: bool

    def __str__(self) -> str:
        """As it is written on the command line: ``tpot_s:min``."""
        return f"{self.key}:{'max' if self.maximise else 'min'}"


def parse_objectives(texts: str | Iterable[str], rows: Sequence[Row]) -> tuple[Objective, ...]:
    """Objectives from what the user wrote, against what was measured.

    Args:
        texts: ``"mmlu:max tpot_s:min"``, or its parts. The direction may be left out where it is known: see
            `directions`.
        rows: Rows as `rows.rows_of` makes them.

    Raises:
        UsageError: There is no objective, one that no row has, one without a known direction, a direction that is
            neither min nor max, or the same objective twice.
    """
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"[\s,]+", text)]
    wanted = [part for part in parts if part]
    prepared = with_accuracy_mean(rows)
    measured, known = _measured(prepared), directions(prepared)
    example = f"for example: {' '.join(map(str, default_objectives(prepared)))}"
    if not wanted:
        raise UsageError("no objective is named", example)
    found = tuple(_objective(text, measured, known, example) for text in wanted)
    for index, objective in enumerate(found):
        if objective.key in (other.key for other in found[:index]):
            raise UsageError(f"objective {objective.key!r} is named twice", "name each objective once")
    return found


def default_objectives(rows: Sequence[Row]) -> tuple[Objective, ...]:
    """Accuracy, time per token, energy per token, memory: of each what was measured, nothing where it was not.

    Returns:
        ``accuracy_mean``; ``tpot_s``; where no row has it ``tokens_per_second``, which counts the same tokens whatever
        the output length, and last ``mean_latency_s``; likewise ``joules_per_output_token`` or ``energy_per_query_j``,
        and ``weights_gb`` or ``model_size_gb``.
    """
    measured = _measured(with_accuracy_mean(rows))
    firsts = (next((key for key in group if key in measured), None) for group in _DEFAULTS)
    return tuple(Objective(key, KNOWN_DIRECTIONS[key]) for key in firsts if key is not None)


def directions(rows: Sequence[Row]) -> dict[str, bool]:
    """For each column whose better direction is known, whether more is better: `KNOWN_DIRECTIONS` and the tasks.

    Of a task more is better, unless its headline metric is a loss, such as a perplexity.
    """
    tasks = tasks_of(rows[0]) if rows else ()
    return {**KNOWN_DIRECTIONS, **{task: not _is_loss(task, rows) for task in tasks}}


def with_accuracy_mean(rows: Sequence[Row], tasks: Sequence[str] | None = None) -> list[Row]:
    """Rows with the mean of their accuracies; rows that have it already are returned as they are.

    The mean is over the same tasks in every row, so that it means the same: all tasks shown that are not losses or,
    where no row has all of them, the most that any row has. A row that lacks one of them has no mean.

    Args:
        rows: Rows as `rows.rows_of` makes them.
        tasks: Tasks to take the mean of; those of the rows by default.

    Returns:
        New rows, with ``accuracy_mean``, ``accuracy_mean_ci95_low`` and ``_high``, and ``accuracy_mean_tasks``, the
        names of the tasks. The interval is there if each task has one, or a standard error: the distances of the
        tasks' ends from their accuracies add up in squares, as tasks share no items (MOVER; Zou and Donner 2008,
        Statistics in Medicine 27:1693).
    """
    if not rows or ACCURACY_MEAN in rows[0]:
        return list(rows)
    shown = [task for task in (tasks_of(rows[0]) if tasks is None else tasks) if not _is_loss(task, rows)]
    sets = [tuple(task for task in shown if _number(row.get(task)) is not None) for row in rows]
    # Of two sets of one size the one that more rows have, then the first.
    mean_of = max(dict.fromkeys(sets), key=lambda found: (len(found), sets.count(found)))
    return [{**row, **_accuracy_mean(row, mean_of)} for row in rows]


def frontier(
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> list[Row]:
    """Where each configuration stands among those it may be compared with.

    Args:
        rows: Rows as `rows.rows_of` makes them.
        objectives: What to compare by, at least one.
        groups: The setting in which each row was measured, one a row; rows of different settings are not compared. All
            rows are compared by default.
        draws: Resamplings for the probabilities; `pareto.DRAWS` by default.
        seed: Of the resamplings.

    Returns:
        One row a configuration, in their order:

        - ``name``, ``model``, ``precision``, and ``group`` where groups are given;
        - each objective, with ``_ci95_low`` and ``_ci95_high`` where any row has an interval of it; for
          ``accuracy_mean`` also ``accuracy_mean_tasks``;
        - ``on_frontier``: not dominated, by the point values; ``p_non_dominated``: by the intervals; ``state``:
          *on the frontier*, *dominated*, *cannot tell*; ``certain``: as in `pareto.Verdict`;
        - ``rivals``: configurations it was compared with; alone, it is on the frontier of course;
        - ``no_interval``: objectives that have an interval in other rows but not in this one, and were held fixed;
        - ``excluded``: why it was not compared: ``not measured: tpot_s``. The six before are None then.

    Raises:
        ValueError: There is no objective, or not one group a row.
    """
    from slim_eval.analysis.pareto import dominance

    if not objectives or (groups is not None and len(groups) != len(rows)):
        raise ValueError("a frontier needs an objective, and one group a row where there are groups")
    prepared = with_accuracy_mean(rows)
    table = [_entry(row, objectives) for row in prepared]
    varying = [o.key for o in objectives if any(entry[f"{o.key}_ci95_low"] is not None for entry in table)]
    verdicts: dict[int, tuple[Verdict, int]] = {}
    for members in _grouped(table, groups):
        entries = [table[index] for index in members]
        points, lows, highs = (_matrix(entries, objectives, end) for end in ("", "_ci95_low", "_ci95_high"))
        maximise = [objective.maximise for objective in objectives]
        judged = dominance.judge(
            points, lows, highs, maximise, draws=dominance.DRAWS if draws is None else draws, seed=seed
        )
        verdicts |= {i: (found, len(members) - 1) for i, found in zip(members, judged, strict=True) if found}
    return [
        {
            **{key: row[key] for key in ("name", "model", "precision")},
            **({} if groups is None else {"group": groups[index]}),
            **_shown(entry, objectives, varying),
            **_standing(entry, varying, *verdicts.get(index, (None, None))),
        }
        for index, (row, entry) in enumerate(zip(prepared, table, strict=True))
    ]


def _objective(text: str, measured: Iterable[str], known: Mapping[str, bool], example: str) -> Objective:
    # A task's name may hold a colon itself, so the whole text is tried first.
    name, colon, direction = (text, "", "") if text in measured else text.rpartition(":")
    if not colon:
        name = text
    elif direction not in _DIRECTIONS:
        cause = f"objective {text!r}: {direction!r} is not a direction"
        raise UsageError(cause, did_you_mean(direction, _DIRECTIONS))
    if name not in measured:
        near = did_you_mean(name, (key for key in measured if key in known))
        raise UsageError(f"objective {name!r}: no result has such a number", near or example)
    if colon:
        return Objective(name, _DIRECTIONS[direction])
    if name not in known:
        raise UsageError(f"objective {name!r}: which direction is better is not known", f"{name}:min or {name}:max")
    return Objective(name, known[name])


def _measured(rows: Sequence[Row]) -> list[str]:
    """Columns in which some row has a number."""
    return [key for key in (rows[0] if rows else ()) if any(_number(row.get(key)) is not None for row in rows)]


def _is_loss(task: str, rows: Sequence[Row]) -> bool:
    """Whether the headline metric of a task is one of which less is better; lm-eval names it ``metric,filter``."""
    metrics = {str(row.get(f"{task}_metric") or "").split(",")[0] for row in rows}
    return bool(metrics & _LOSSES)


def _accuracy_mean(row: Row, tasks: Sequence[str]) -> Row:
    values = [_number(row[task]) for task in tasks]
    present = [value for value in values if value is not None]
    result: Row = dict.fromkeys((ACCURACY_MEAN, f"{ACCURACY_MEAN}_ci95_low", f"{ACCURACY_MEAN}_ci95_high"))
    result[_TASKS_IN_MEAN] = ", ".join(tasks) or None
    if not tasks or len(present) < len(tasks):
        return result
    mean = sum(present) / len(present)
    result[ACCURACY_MEAN] = mean
    found = [ends for task in tasks if (ends := _interval(row, task)) is not None]
    if len(found) == len(tasks):
        below, above = (math.hypot(*(v - e[k] for v, e in zip(present, found, strict=True))) for k in (0, 1))
        result[f"{ACCURACY_MEAN}_ci95_low"] = mean - below / len(tasks)
        result[f"{ACCURACY_MEAN}_ci95_high"] = mean + above / len(tasks)
    return result


def _interval(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a value; from its standard error where a record has only that."""
    low, high = _number(row.get(f"{key}_ci95_low")), _number(row.get(f"{key}_ci95_high"))
    if low is not None and high is not None:
        return low, high
    value, error = _number(row.get(key)), _number(row.get(f"{key}_stderr"))
    if value is None or error is None:
        return None
    return value - _Z95 * error, value + _Z95 * error


def _entry(row: Row, objectives: Sequence[Objective]) -> Row:
    """The values and intervals that a row brings to the comparison, and ``excluded``: why it cannot take part."""
    entry: Row = {}
    absent, invalid = [], []
    for key in (objective.key for objective in objectives):
        value = _number(row.get(key))
        ends = None if value is None else _interval(row, key)
        entry |= {key: value, f"{key}_ci95_low": ends and ends[0], f"{key}_ci95_high": ends and ends[1]}
        if value is None:
            absent.append(_named(row, key))
        elif row.get("valid") is False and _OF_ENERGY.search(key) and key not in tasks_of(row):
            invalid.append(key)
    why = [f"{words}: {', '.join(keys)}" for words, keys in (("not measured", absent), ("invalid", invalid)) if keys]
    return {**entry, _TASKS_IN_MEAN: row.get(_TASKS_IN_MEAN), "excluded": "; ".join(why) or None}


def _named(row: Mapping[str, Any], key: str) -> str:
    """A missing objective, with the tasks that a mean lacks."""
    tasks = str(row.get(_TASKS_IN_MEAN) or "").split(", ") if key == ACCURACY_MEAN else []
    lacking = [task for task in tasks if task and _number(row.get(task)) is None]
    return f"{key} (no {', '.join(lacking)})" if lacking else key


def _grouped(table: Sequence[Row], groups: Sequence[Hashable] | None) -> list[list[int]]:
    """The rows that take part, by group."""
    found: dict[Hashable, list[int]] = {}
    for index, entry in enumerate(table):
        if entry["excluded"] is None:
            found.setdefault(None if groups is None else groups[index], []).append(index)
    return list(found.values())


def _matrix(entries: Sequence[Row], objectives: Sequence[Objective], end: str) -> list[list[float]]:
    """Configurations by objectives, NaN where there is no number."""
    keys = [f"{objective.key}{end}" for objective in objectives]
    return [[math.nan if entry[key] is None else entry[key] for key in keys] for entry in entries]


def _shown(entry: Row, objectives: Sequence[Objective], varying: Sequence[str]) -> Row:
    shown: Row = {}
    for key in (objective.key for objective in objectives):
        ends = (f"{key}_ci95_low", f"{key}_ci95_high") if key in varying else ()
        tasks = (_TASKS_IN_MEAN,) if key == ACCURACY_MEAN else ()
        shown |= {column: entry[column] for column in (key, *ends, *tasks)}
    return shown


def _standing(entry: Row, varying: Sequence[str], verdict: Verdict | None, rivals: int | None) -> Row:
    fixed = [key for key in varying if entry[f"{key}_ci95_low"] is None]
    return {
        "on_frontier": verdict and verdict.on_frontier,
        "p_non_dominated": verdict and verdict.probability,
        "state": verdict and verdict.state.value,
        "certain": verdict and verdict.certain,
        "rivals": rivals,
        "no_interval": (", ".join(fixed) or None) if verdict else None,
        "excluded": entry["excluded"],
    }


def _number(value: Any) -> float | None:
    """A finite number, or None: neither a text nor a truth value is one."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)
