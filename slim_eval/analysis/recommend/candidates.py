"""Rows as arrays of numbers to decide with: measured values, resamplings of them, and what is worked out from both.

The resamplings take every measured value to be independent of the others. Accuracies of two precisions on the same
items are not, and differ by less than that: what is worked out is rather too unsure than too sure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np

from slim_eval.analysis.pareto.dominance import Floats, draws_from_intervals
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN
from slim_eval.analysis.recommend.cost import Prices, money_per_million_tokens
from slim_eval.analysis.recommend.wishes import COST, MEMORY, OF_BEST, RECOVERY, Plan, is_task
from slim_eval.analysis.rules import BASELINE, baseline_of, comparison
from slim_eval.results.rows import Row

#: Columns by name, each ``(draws, rows)``, NaN where not known.
Numbers = Mapping[str, Floats]

_Z95 = NormalDist().inv_cdf(0.975)
_OF_ENERGY = re.compile(r"energy|joule|watts")
# Times, rates, joules and shares are positive. A draw below this share of the value is moved up to it: only intervals
# as wide as the value itself reach so far, and a time of 0 would win against everything.
_LEAST = 0.01


@dataclass(frozen=True)
class Field:
    """All configurations, and the numbers that a plan needs of them.

    Attributes:
        rows: With ``accuracy_mean``.
        tasks: Tasks of the mean accuracy and the recovery.
        columns: Measured columns, k of them.
        values: ``(n, k)``, NaN where not measured.
        lows: Lower ends of the 95 % intervals, NaN where not known.
        highs: Upper ends, likewise.
        bases: For each row, the row whose accuracy is its 16-bit one: itself at 16 bit, None where there is none to
            compare with.
        prices: What is paid.
    """

    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    values: Floats
    lows: Floats
    highs: Floats
    bases: tuple[int | None, ...]
    prices: Prices

    def draws(self, count: int, seed: int) -> Floats:
        """The measured values drawn anew from their intervals, ``(count, n, k)``."""
        least = np.where(self.values > 0, _LEAST * self.values, -np.inf)
        tasks = np.array([is_task(key) for key in self.columns], dtype=np.bool_)
        most = np.where(tasks & (self.values <= 1), 1.0, np.inf)  # a task above 1 is a score, not a share
        made = draws_from_intervals(self.values, self.lows, self.highs, count, seed)
        bounded: Floats = np.minimum(np.maximum(made, least), most)
        return bounded

    def numbers(self, draws: Floats, members: Sequence[int], keys: Collection[str]) -> dict[str, Floats]:
        """Columns, measured or worked out from measured ones.

        Args:
            draws: ``(draws, n, k)``, of `draws`, or the values themselves as a single draw.
            members: The rows that are compared: the best mean accuracy is the best of these.
            keys: The columns wanted.
        """
        found = {key: draws[:, :, index] for index, key in enumerate(self.columns)}
        accuracies = [found[task] for task in self.tasks if task in found]
        result = {key: found[key] for key in keys if key in found}
        if accuracies and not {ACCURACY_MEAN, OF_BEST}.isdisjoint(keys):
            mean = result[ACCURACY_MEAN] = np.asarray(sum(accuracies)) / len(accuracies)
            best = np.fmax.reduce(mean[:, list(members)], axis=1, keepdims=True)
            result[OF_BEST] = mean / np.where(best > 0, best, np.nan)
        if accuracies and RECOVERY in keys:
            result[RECOVERY] = np.asarray(sum(map(self._recovery, accuracies))) / len(accuracies)
        if COST in keys:
            rate, joules = found.get("tokens_per_second"), found.get("joules_per_output_token")
            gpus = np.array([float(gpus_of(row) or 1) for row in self.rows])
            paid = money_per_million_tokens(rate, joules, self.prices, gpus)
            result |= {} if paid is None else {COST: paid}
        return result

    def among(self, rows: Sequence[int]) -> Field:
        """Some of the rows only, in the order given; a 16-bit row that is not among them is forgotten."""
        chosen, places = list(rows), {index: place for place, index in enumerate(rows)}
        bases = (self.bases[index] for index in rows)
        return replace(
            self,
            rows=tuple(self.rows[index] for index in rows),
            values=self.values[chosen],
            lows=self.lows[chosen],
            highs=self.highs[chosen],
            bases=tuple(None if base is None else places.get(base) for base in bases),
        )

    def measured(self, key: str) -> list[str]:
        """The measured columns that a column is made of."""
        return [column for column in needs(key, self.tasks, self.prices) if column in self.columns]

    def lacking(self, index: int, key: str) -> str | None:
        """Why a row has no number in a column; None where it has one."""
        row = self.rows[index]
        absent = [column for column in self.measured(key) if math.isnan(self.values[index, self.columns.index(column)])]
        invalid = [column for column in absent if _invalid(row, column)]
        if invalid:
            why = ", ".join(row["invalid_reasons"] or ())
            return f"invalid: {', '.join(invalid)}{f' ({why})' if why else ''}"
        if absent and absent != [key]:
            return f"not measured: {key} (no {', '.join(absent)})"
        if absent:
            return f"not measured: {key}"
        if key == RECOVERY and self.bases[index] is None:
            return f"not measured: {key} ({_no_base(row, self.rows, self.tasks)})"
        return None

    def ends(self, index: int, key: str, drawn: Floats) -> tuple[float, float] | None:
        """The 95 % interval of a number: as recorded or, where it is worked out, as its draws have it.

        Args:
            index: Of the row.
            key: Of the column.
            drawn: The column's draws, ``(draws, n)``.

        Returns:
            None where no uncertainty is known.
        """
        recorded = _ends(self.rows[index], key)
        if recorded is not None or key in self.columns:
            return recorded
        own = drawn[:, index]
        if np.isnan(own).any() or own.min() == own.max():
            return None
        low, high = np.quantile(own, (0.025, 0.975))
        return float(low), float(high)

    def _recovery(self, accuracy: Floats) -> Floats:
        """Accuracy over that of the 16-bit row, ``(draws, n)``."""
        bases = [0 if base is None else base for base in self.bases]
        known = np.array([base is not None for base in self.bases], dtype=np.bool_)
        base = accuracy[:, bases]
        return np.where(known & (base > 0), accuracy / np.where(base > 0, base, 1), np.nan)


def field_of(rows: Sequence[Row], plan: Plan, prices: Prices) -> Field:
    """The numbers that a plan needs.

    Args:
        rows: With ``accuracy_mean``.
        plan: Of `wishes.plan_of`.
        prices: What is paid.
    """
    tasks = tuple(filter(None, str(rows[0].get(f"{ACCURACY_MEAN}_tasks") or "").split(", ")))
    keys = [objective.key for part in plan.goal.parts for objective in part] + [c.key for c in plan.constraints]
    # What stands in for a latency of unequal work has to be at hand.
    columns = tuple(dict.fromkeys(c for key in (*keys, "tokens_per_second") for c in needs(key, tasks, prices)))
    values = [[_value(row, column) for column in columns] for row in rows]
    ends = [[_ends(row, column) or (math.nan, math.nan) for column in columns] for row in rows]
    shape = (len(rows), len(columns))
    return Field(
        rows=tuple(rows),
        tasks=tasks,
        columns=columns,
        values=np.array(values, dtype=np.float64).reshape(shape),
        lows=np.array([[low for low, _ in line] for line in ends], dtype=np.float64).reshape(shape),
        highs=np.array([[high for _, high in line] for line in ends], dtype=np.float64).reshape(shape),
        bases=tuple(_base(row, rows, tasks) for row in rows),
        prices=prices,
    )


def needs(key: str, tasks: Sequence[str], prices: Prices) -> tuple[str, ...]:
    """The measured columns that a column is made of."""
    if key in (ACCURACY_MEAN, RECOVERY, OF_BEST):
        return tuple(tasks) or (key,)
    if key == COST:
        parts = (("tokens_per_second", prices.per_gpu_hour), ("joules_per_output_token", prices.per_kwh))
        return tuple(column for column, price in parts if price is not None)
    return (key,)


def gpus_of(row: Row) -> int | None:
    """GPUs that share the model: those whose energy was measured; None where they were not recorded."""
    return len(row["devices"] or ()) or None


def is_energy(key: str) -> bool:
    """Whether a column was measured by the energy benchmark."""
    return _OF_ENERGY.search(key) is not None and not is_task(key)


def _value(row: Row, key: str) -> float:
    """A measured number, NaN where there is none; invalid energy is none."""
    value = _memory(row) if key == MEMORY else row.get(key)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or _invalid(row, key):
        return math.nan
    return float(value)


def _memory(row: Row) -> Any:
    """GiB of weights as loaded, else on disk. An engine that imitates quantized kernels loads 16 bit: on disk, then."""
    loaded = None if row["kernels"] == "emulated" else row["weights_gb"]
    return row["model_size_gb"] if loaded is None else loaded


def _invalid(row: Row, key: str) -> bool:
    return row["valid"] is False and is_energy(key)


def _ends(row: Row, key: str) -> tuple[float, float] | None:
    """The recorded 95 % interval, or the one of its standard error."""
    value = _value(row, key)
    if math.isnan(value):
        return None
    if key == "energy_per_query_j":  # the window's energy over its requests, whose number is certain
        whole, ends = _value(row, "energy_joules"), _ends(row, "energy_joules")
        return None if ends is None or not whole else (ends[0] * value / whole, ends[1] * value / whole)
    low, high, error = (_value(row, f"{key}{suffix}") for suffix in ("_ci95_low", "_ci95_high", "_stderr"))
    if not (math.isnan(low) or math.isnan(high)):
        return low, high
    return None if math.isnan(error) else (value - _Z95 * error, value + _Z95 * error)


def _base(row: Row, rows: Sequence[Row], tasks: Sequence[str]) -> int | None:
    if row["precision"] == BASELINE:
        return next(index for index, other in enumerate(rows) if other is row)
    if not tasks or _no_base(row, rows, tasks) is not None:
        return None
    base = baseline_of(row, rows)
    return next(index for index, other in enumerate(rows) if other is base)


def _no_base(row: Row, rows: Iterable[Row], tasks: Sequence[str]) -> str | None:
    """Why there is no 16-bit accuracy to compare with; None where there is one for every task."""
    base = baseline_of(row, rows)
    made = comparison(row, base, tasks)
    if base is None:
        return str(made["not_comparable"])
    refused = [task for task in tasks if made[f"{task}_drop_pp"] is None]
    found = [text for text in (made["not_comparable"] or "").split("; ") if text.split(":")[0] in refused]
    return "; ".join(found) or (f"no {', '.join(refused)}" if refused else None)
