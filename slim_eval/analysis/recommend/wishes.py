"""What is wished for, in terms of columns: presets, objectives by a word, constraints, and how a number is said.

Presets:

- ``latency-critical``: least time per output token (output throughput where that was not measured), with a mean
  accuracy of at least 95 % of the best one.
- ``accuracy-critical``: the best mean accuracy.
- ``energy-constrained``: fewest joules per output token (per request where that is not known).
- ``balanced``: mean accuracy, speed, energy and memory, all four with the same weight: the highest geometric mean of
  the ratios to the best value of each. It has no unit, and a gain in any part raises it by the same factor whatever
  the others are. As the best values cancel out of any comparison, adding or removing a configuration never changes the
  order of the others. A part that nothing was measured for is left out, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slim_eval.analysis.pareto.objectives import (
    ACCURACY_MEAN,
    KNOWN_DIRECTIONS,
    Objective,
    directions,
    parse_objectives,
)
from slim_eval.config import Wishes
from slim_eval.errors import UsageError
from slim_eval.results.rows import METRIC_COLUMNS, Row, tasks_of
from slim_eval.utils import did_you_mean, number

#: Columns that `candidates` works out from others.
RECOVERY, OF_BEST, MEMORY, COST = "recovery", "accuracy_of_best", "memory_gb", "money_per_million_tokens"
DERIVED = {ACCURACY_MEAN: True, RECOVERY: True, OF_BEST: True, MEMORY: False, COST: False}
BALANCED = "balanced"
#: Columns that are counted, not measured: they have no interval because they need none.
CERTAIN = frozenset({MEMORY, "weights_gb", "model_size_gb", "num_parameters", "num_parameters_b"})
_SHARE_OF_BEST = 0.95
# What a word stands for: of each the first column that was measured.
_WORDS: dict[str, tuple[str, ...]] = {
    "latency": ("tpot_s", "tokens_per_second", "mean_latency_s"),
    "throughput": ("tokens_per_second",),
    "accuracy": (ACCURACY_MEAN,),
    "energy": ("joules_per_output_token", "energy_per_query_j"),
    "memory": (MEMORY,),
    "cost": (COST,),
}
_BALANCED_PARTS = ("accuracy", "latency", "energy", "memory")
# Preset -> what is to be best, and the least share of the best mean accuracy.
_PRESETS: dict[str, tuple[str, float | None]] = {
    "latency-critical": ("latency", _SHARE_OF_BEST),
    "accuracy-critical": ("accuracy", None),
    "energy-constrained": ("energy", None),
    BALANCED: (BALANCED, None),
}
_SHORT = {name.split("-")[0]: name for name in _PRESETS}


class _Quantity(NamedTuple):
    """How a column is shown: its name, the factor to the unit shown, that unit, and its head in a table."""

    name: str
    scale: int
    unit: str
    heading: str


_QUANTITIES = {
    "tpot_s": _Quantity("time per output token", 1000, "ms", "TPOT, ms"),
    "ttft_s": _Quantity("time to the first token", 1000, "ms", "TTFT, ms"),
    "e2e_latency_s": _Quantity("end-to-end latency", 1000, "ms", "E2E, ms"),
    "mean_latency_s": _Quantity("amortised latency", 1000, "ms", "amortised, ms"),
    "tokens_per_second": _Quantity("output throughput", 1, "tokens/s", "output tok/s"),
    "joules_per_output_token": _Quantity("energy per output token", 1, "J", "J / output token"),
    "energy_per_query_j": _Quantity("energy per request", 1, "J", "J / request"),
    MEMORY: _Quantity("weights", 1, "GiB", "weights, GiB"),
    ACCURACY_MEAN: _Quantity("mean accuracy", 100, "%", "accuracy, %"),
    RECOVERY: _Quantity("recovery of the fp16 accuracy", 100, "%", "of own fp16, %"),
    OF_BEST: _Quantity("share of the best mean accuracy", 100, "%", "of the best, %"),
    COST: _Quantity("money per million output tokens", 1, "", "money / M tokens"),
    BALANCED: _Quantity("balance of the parts", 1, "", "balance"),
}


@dataclass(frozen=True)
class Goal:
    """What should be best.

    Attributes:
        word: As asked for: a preset's word such as ``latency``, or a column.
        parts: One for each thing to weigh, all with the same weight; of each part the first objective that was
            measured counts.
        preset: The preset that it comes from.
    """

    word: str
    parts: tuple[tuple[Objective, ...], ...]
    preset: str | None = None


@dataclass(frozen=True)
class Constraint:
    """A limit that a configuration has to keep.

    Attributes:
        option: Where it comes from: ``--max-tpot-ms``, ``--min mmlu``.
        key: Column that is limited.
        limit: In the column's unit.
        at_most: Whether it is the most that is allowed; else the least.
        scale: What the column's unit is multiplied by to get the option's.
    """

    option: str
    key: str
    limit: float
    at_most: bool
    scale: float = 1.0

    def __str__(self) -> str:
        """In words: ``time per output token at most 20.0 ms``."""
        return f"{label(self.key)} at {'most' if self.at_most else 'least'} {said(self.key, self.limit)}"

    def keeps(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return value <= self.limit if self.at_most else value >= self.limit

    def relaxed(self, value: float) -> str:
        """The option with which a value that is beyond the limit is allowed, with three digits."""
        shown = value * self.scale
        step = 10.0 ** (math.floor(math.log10(shown)) - 2) if shown > 0 else 1.0
        # Rounded to the side that allows it; the first rounding takes off what is only binary noise.
        steps = round(shown / step, 6)
        wide = (math.ceil(steps) if self.at_most else math.floor(steps)) * step
        return f"{self.option}{'=' if self.option.startswith('--min ') else ' '}{float(f'{wide:.6g}'):g}"


@dataclass(frozen=True)
class Plan:
    """A goal, the constraints, and the tasks that a mean accuracy is over."""

    goal: Goal
    constraints: tuple[Constraint, ...]
    tasks: tuple[str, ...]


def plan_of(wishes: Wishes, rows: Sequence[Row]) -> Plan:
    """Wishes against what was measured.

    Args:
        wishes: As the user gave them.
        rows: As `rows.rows_of` makes them, with ``accuracy_mean``.

    Raises:
        UsageError: A preset, objective or task is unknown, or cost is the objective and no price is given.
    """
    known = tasks_of(rows[0]) if rows else ()
    preset = _preset(wishes)
    word, share = _PRESETS[preset] if preset is not None else (wishes.objective or "", None)
    if word == "cost" and wishes.price_per_gpu_hour is None and wishes.price_per_kwh is None:
        raise UsageError("--objective cost: no price is given", "add --price-per-gpu-hour, --price-per-kwh, or both")
    return Plan(
        goal=Goal(word, _parts(word, rows), preset),
        constraints=tuple(_constraints(wishes, known, directions(rows), preset, share)),
        tasks=tuple(_task(task, known, "--accuracy-tasks") for task in wishes.accuracy_tasks) or known,
    )


def heading(key: str) -> str:
    """The head of a column in a table: ``TPOT, ms``."""
    return _QUANTITIES[key].heading if key in _QUANTITIES else f"{key}, %" if is_task(key) else key


def label(key: str) -> str:
    """What a column is called in a sentence."""
    return _QUANTITIES[key].name if key in _QUANTITIES else key


def said(key: str, value: float, *, unit: bool = True) -> str:
    """A value of a column as it is read: ``12.3 ms``, ``60.5 %``; a task counts as a share from 0 to 1."""
    if key in _QUANTITIES:
        scale, sign = _QUANTITIES[key].scale, _QUANTITIES[key].unit
    elif is_task(key) and 0 <= value <= 1:
        scale, sign = 100, "%"
    else:
        scale, sign = 1, ""
    return f"{number(value * scale)}{f' {sign}' if sign and unit else ''}"


def is_task(key: str) -> bool:
    """Whether a column is the accuracy of a task: every other one has a name that is known."""
    return key not in METRIC_COLUMNS and key not in KNOWN_DIRECTIONS and key not in DERIVED and key != BALANCED


def _preset(wishes: Wishes) -> str | None:
    if wishes.objective is not None:
        return BALANCED if wishes.objective == BALANCED else None
    name = wishes.preset or BALANCED
    found = _SHORT.get(name, name)
    if found not in _PRESETS:
        raise UsageError(f"--preset {name!r}: no such preset", did_you_mean(name, [*_PRESETS, *_SHORT]))
    return found


def _parts(word: str, rows: Sequence[Row]) -> tuple[tuple[Objective, ...], ...]:
    if word == BALANCED:
        return tuple(_options(part) for part in _BALANCED_PARTS)
    return (_options(word),) if word in _WORDS else (_column(word, rows),)


def _options(word: str) -> tuple[Objective, ...]:
    return tuple(Objective(key, ({**KNOWN_DIRECTIONS, **DERIVED})[key]) for key in _WORDS[word])


def _column(text: str, rows: Sequence[Row]) -> tuple[Objective, ...]:
    """An objective that is named as a column is."""
    words = text.split()
    if len(words) != 1:
        raise UsageError(
            f"--objective {text!r}: names {len(words)} objectives", "name one; for several: --preset balanced"
        )
    try:
        return parse_objectives(words, rows)
    except UsageError as error:
        near = did_you_mean(text, _WORDS)
        raise UsageError(f"--objective: {error.cause}", near if near.startswith("did") else error.remedy) from None


def _constraints(
    wishes: Wishes, tasks: Collection[str], known: Mapping[str, bool], preset: str | None, share: float | None
) -> list[Constraint]:
    limits = (
        ("--max-tpot-ms", "tpot_s", wishes.max_tpot_ms, 1000.0),
        ("--max-ttft-ms", "ttft_s", wishes.max_ttft_ms, 1000.0),
        ("--max-latency-ms", "mean_latency_s", wishes.max_latency_ms, 1000.0),
        ("--max-memory-gb", MEMORY, wishes.max_memory_gb, 1.0),
        ("--max-energy-j", "joules_per_output_token", wishes.max_energy_j, 1.0),
    )
    found = [Constraint(option, key, top / by, True, by) for option, key, top, by in limits if top is not None]
    for text, least in wishes.min_accuracy.items():
        task = _task(text, tasks, "--min")
        if not known[task]:
            raise UsageError(
                f"--min {task}: less is better in its metric", "give a task that is scored by right answers"
            )
        found.append(Constraint(f"--min {task}", task, least, False))
    if wishes.min_recovery is not None:
        found.append(Constraint("--min-recovery", RECOVERY, wishes.min_recovery, False))
    if share is not None:
        found.append(Constraint(f"--preset {preset}", OF_BEST, share, False))
    return found


def _task(text: str, known: Collection[str], option: str) -> str:
    """The task that is meant; dashes count as underscores."""
    found = next((task for task in known if task.replace("-", "_") == text.replace("-", "_")), None)
    if found is None:
        raise UsageError(f"{option} {text!r}: no result has this task", did_you_mean(text, known))
    return found
