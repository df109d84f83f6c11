"""Who wins: the same rules for the measured values and for every resampling of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slim_eval.analysis.pareto.dominance import Bools, Floats
from slim_eval.analysis.pareto.objectives import Objective
from slim_eval.analysis.recommend.candidates import Field, Numbers
from slim_eval.analysis.recommend.wishes import OF_BEST, RECOVERY, Constraint


@dataclass(frozen=True)
class Contest:
    """Configurations of one setting, an objective of one or more parts, and constraints.

    Attributes:
        field: All configurations.
        members: Places of those that are compared, in the field.
        objectives: What should be best. Several count with the same weight, by the geometric mean of their ratios.
        constraints: What has to be kept.
    """

    field: Field
    members: tuple[int, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The measured columns that decide."""
        return tuple(dict.fromkeys(column for key in self.keys for column in self.field.measured(key)))

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that decide, also those worked out from others."""
        keys = [objective.key for objective in self.objectives] + [constraint.key for constraint in self.constraints]
        return tuple(dict.fromkeys(keys))

    @property
    def point(self) -> Floats:
        """The measured values as a single draw, ``(1, n, k)``."""
        return self.field.values[None]

    def numbers(self, draws: Floats) -> Numbers:
        """See `Field.numbers`."""
        return self.field.numbers(draws, self.members, self.keys)

    def scores(self, numbers: Numbers) -> Floats:
        """How good each configuration is, ``(draws, n)``: more is better, minus infinity where a number is missing.

        One objective: its value, the sign turned where less is better. Several: the mean of their logarithms, likewise
        turned, which orders as the geometric mean of the ratios to any fixed values does.
        """
        turned = [1.0 if objective.maximise else -1.0 for objective in self.objectives]
        columns = [numbers[objective.key] for objective in self.objectives]
        if len(columns) > 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns = [np.log(column) for column in columns]
        score = np.mean([sign * column for sign, column in zip(turned, columns, strict=True)], axis=0)
        return np.where(np.isnan(score), -np.inf, score)

    def kept(self, numbers: Numbers) -> Bools:
        """Whether each configuration keeps every constraint, ``(draws, n)``; not where a number is missing."""
        result = np.ones(next(iter(numbers.values())).shape, dtype=np.bool_)
        for constraint in self.constraints:
            column = numbers[constraint.key]  # a comparison with NaN is false
            result &= column <= constraint.limit if constraint.at_most else column >= constraint.limit
        return result

    def winners(self, draws: Floats, running: Sequence[int]) -> Bools:
        """Who is best of those that keep every constraint, ``(draws, running)``: several at a tie, or none."""
        numbers, chosen = self.numbers(draws), list(running)
        kept = self.kept(numbers)[:, chosen]
        scores = np.where(kept, self.scores(numbers)[:, chosen], -np.inf)
        best = scores.max(axis=1, keepdims=True, initial=-np.inf)
        return np.asarray(kept & (scores == best) & (best > -np.inf))

    def relevant(self, running: Sequence[int], draws: Floats) -> list[int]:
        """The rows on which the choice among some depends: themselves, their 16-bit rows, the most accurate in a draw.

        Args:
            running: Those that are chosen from.
            draws: ``(draws, n, k)``.
        """
        found = list(running)
        if any(constraint.key == RECOVERY for constraint in self.constraints):
            found += [base for index in running if (base := self.field.bases[index]) is not None]
        if any(constraint.key == OF_BEST for constraint in self.constraints):
            best = (self.numbers(draws)[OF_BEST] == 1).any(axis=0)
            found += [index for index in self.members if best[index]]
        return list(dict.fromkeys(found))

    def among(self, rows: Sequence[int]) -> Contest:
        """The same contest with some of the rows only, which keep their order and get new places."""
        members = set(self.members)
        places = tuple(place for place, index in enumerate(rows) if index in members)
        return replace(self, field=self.field.among(rows), members=places)

    def uncertain(self, rows: Sequence[int]) -> list[tuple[int, str]]:
        """The measured values of some rows that decide and have an interval wider than nothing."""
        return [
            (index, column)
            for index in rows
            for column in self.columns
            if self.field.highs[index, self.field.columns.index(column)]
            > self.field.lows[index, self.field.columns.index(column)]
        ]


def shares(winners: Bools) -> Floats:
    """Share of draws that each one wins, ``(running,)``; a tie counts in equal parts."""
    count = winners.sum(axis=1, keepdims=True)
    return np.asarray(np.mean(winners / np.maximum(count, 1), axis=0))
