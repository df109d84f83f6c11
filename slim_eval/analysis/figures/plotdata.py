"""What figures are drawn from: configurations with all their columns, and the metrics that a figure can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slim_eval.analysis.evidence import Evidence
from slim_eval.analysis.pareto.objectives import with_accuracy_mean
from slim_eval.analysis.rules import BASELINE, Doubt, baseline_of, comparison, doubts, ends
from slim_eval.results.rows import Row, by_model

Z95 = 1.959964  # half width of a 95 % normal interval in standard errors
Samples = Callable[[Row, str], Sequence[Mapping[str, Any]]]


def no_samples(row: Row, name: str) -> Sequence[Mapping[str, Any]]:
    """For results of which only the records are at hand."""
    return ()


@dataclass(frozen=True)
class Configuration:
    """One configuration.

    Attributes:
        row: Its row, with the columns of `rules.comparison` where it is quantized, and with ``accuracy_mean``.
        base: The row of its 16-bit one; None where there is none.
        doubts: Why it must not be compared with that.
    """

    row: Row
    base: Row | None
    doubts: frozenset[Doubt]

    @property
    def quantized(self) -> bool:
        """Whether it is to be compared with another one."""
        return bool(self.row["precision"] != BASELINE)


@dataclass(frozen=True)
class PlotData:
    """What figures are drawn from.

    Attributes:
        rows: See `rows`.
        tasks: The tasks to show.
        evidence: Items paired with the baseline's; None where nothing was paired.
        samples: Raw samples of a row's record, by its name: ``samples(row, "performance")``.
    """

    rows: Sequence[Row]
    tasks: Sequence[str] = ()
    evidence: Evidence | None = None
    samples: Samples = no_samples

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The configurations, those of one model together, otherwise in their order."""
        rows = with_accuracy_mean(self.rows, self.tasks) if self.tasks else list(self.rows)
        places = {name: place for place, name in enumerate(dict.fromkeys(row["name"] for row in rows))}
        models = by_model(rows)
        found = []
        for row in sorted(rows, key=lambda row: places[row["name"]]):
            base = baseline_of(row, models[row["model"]])
            compared = comparison(row, base, self.tasks) if row["precision"] != BASELINE else {}
            found.append(Configuration({**row, **compared}, base, doubts(row, base)))
        return found

    @cached_property
    def quantized(self) -> list[Configuration]:
        """The configurations that are compared with a 16-bit one."""
        return [configuration for configuration in self.configurations if configuration.quantized]


@dataclass(frozen=True)
class Measure:
    """One metric as figures show it.

    Attributes:
        column: Where its values stand; its interval is beside it (``_ci95_low``), or follows from its ``_stderr``.
        title: What is shown.
        unit: Label of the axis, with the unit.
        scale: Factor from the column's unit to the axis' unit.
        lower: Less is better.
        hint: What the number cannot say; by default, which direction is better.
        doubts: Doubts that concern this metric.
        settings: Columns that must be the same in two rows before they are compared.
        limit: Upper end of the scale; None takes it from the data.
        reference: Where a line is drawn, for ratios.
        signed: Values may be below 0.
    """

    column: str
    title: str
    unit: str
    scale: float = 1.0
    lower: bool = True
    hint: str | None = None
    doubts: frozenset[Doubt] = frozenset()
    settings: tuple[str, ...] = ()
    limit: float | None = None
    reference: float | None = None
    signed: bool = False

    def value(self, row: Mapping[str, Any]) -> float | None:
        """A row's value in the unit of the axis; None where it has none."""
        value = row.get(self.column)
        return None if value is None else float(value) * self.scale

    def interval(self, row: Mapping[str, Any]) -> tuple[float, float] | None:
        """Its 95 % interval, in the unit of the axis; None where there is none."""
        value, error = row.get(self.column), row.get(f"{self.column}_stderr")
        if value is None:
            return None
        found = ends(row, self.column)
        if found is None and error is not None:
            found = (value - Z95 * error, value + Z95 * error)
        return None if found is None else (found[0] * self.scale, found[1] * self.scale)

    @property
    def better(self) -> str:
        """What is better, in words."""
        return f"{'lower' if self.lower else 'higher'} is better"


def groups_of(found: Sequence[Configuration]) -> list[tuple[str, list[str]]]:
    """Each model's name with its precisions."""
    groups: dict[str, list[str]] = {}
    for configuration in found:
        groups.setdefault(configuration.row["name"], []).append(configuration.row["precision"])
    return list(groups.items())


def measured(measures: Sequence[Measure], found: Sequence[Configuration]) -> list[Measure]:
    """The metrics that at least one configuration has."""
    return [measure for measure in measures if any(measure.value(c.row) is not None for c in found)]


def preferred(measures: Sequence[Measure], found: Sequence[Configuration]) -> Measure | None:
    """Of several ways to say one thing, in the order of preference, the first that is widely measured.

    Returns:
        The first that at least half as many configurations have as the most common one: a few older records do not
        push a better metric aside. None where nothing was measured.
    """
    counts = [sum(measure.value(c.row) is not None for c in found) for measure in measures]
    return next((m for m, count in zip(measures, counts, strict=True) if count and 2 * count >= max(counts)), None)
