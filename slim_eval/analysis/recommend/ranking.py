"""Who wins: variants as arrays of numbers, resamplings of them, and the same rules for both.

The resamplings take every measured value to be independent of the others. Accuracies of two variants on the same items
are not, and differ by less: the result is rather too uncertain than too certain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slim_eval.analysis.comparability import NOT_MEASURED, comparable_groups
from slim_eval.analysis.impact import impact_of
from slim_eval.analysis.pareto.dominance import Bools, Floats, draws_from_intervals
from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.cost import Prices, money_per_million_tokens
from slim_eval.analysis.recommend.question import COST, MEMORY, OF_BEST, RECOVERY, Constraint, Plan
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, DISK, J_PER_TOKEN, THROUGHPUT, WEIGHTS, Basis, Metric
from slim_eval.results.variants import Estimate, Interval, Variant

#: Metrics by key, each ``(draws, variants)``, NaN if unknown.
Numbers = Mapping[str, Floats]

# Times, rates, joules and shares are positive. A draw below this share of the value is moved up to it: only intervals
# as wide as the value itself reach so far, and a time of 0 would win against everything.
_LEAST = 0.01


@dataclass(frozen=True)
class Table:
    """All variants, and the numbers that a plan needs of them.

    Attributes:
        variants: With their mean accuracy.
        tasks: Tasks of the mean accuracy and the recovery.
        metrics: Measured metrics, k of them.
        values: ``(n, k)``, NaN if not measured.
        lows: Lower ends of the 95 % intervals, NaN if unknown.
        highs: Upper ends, likewise.
        bases: For each variant, the place of its baseline: its own for a baseline, None if there is none to compare
            with.
        unbased: For each variant, why `bases` has None; None otherwise.
        prices: What is paid.
    """

    variants: tuple[Variant, ...]
    tasks: tuple[str, ...]
    metrics: tuple[Metric, ...]
    values: Floats
    lows: Floats
    highs: Floats
    bases: tuple[int | None, ...]
    unbased: tuple[str | None, ...]
    prices: Prices

    @classmethod
    def of(cls, study: Study, plan: Plan, prices: Prices) -> Table:
        """The numbers that a plan needs."""
        variants = study.variants
        tasks = next((variant.mean_tasks for variant in variants), ())
        asked = [objective.metric for part in plan.goal.parts for objective in part]
        asked += [constraint.metric for constraint in plan.constraints]
        # What stands in for a latency of unequal work has to be at hand.
        needed = [part for metric in (*asked, THROUGHPUT) for part in parts_of(metric, study, tasks, prices)]
        metrics = tuple({metric.key: metric for metric in needed}.values())
        found = [[estimate_of(variant, metric) for metric in metrics] for variant in variants]
        shape = (len(variants), len(metrics))
        values, lows, highs = (
            np.array([[_end(each, end) for each in line] for line in found], dtype=np.float64).reshape(shape)
            for end in (None, 0, 1)
        )
        based = [_base(variant, study, tasks) for variant in variants]
        return cls(
            variants, tasks, metrics, values, lows, highs, tuple(place for place, _ in based),
            tuple(why for _, why in based), prices,
        )  # fmt: skip

    def column(self, metric: Metric) -> int:
        """The place of a measured metric."""
        return next(index for index, found in enumerate(self.metrics) if found.key == metric.key)

    def draws(self, count: int, seed: int) -> Floats:
        """The measured values redrawn from their intervals, ``(count, n, k)``."""
        least = np.where(self.values > 0, _LEAST * self.values, -np.inf)
        tasks = np.array([metric.basis is Basis.TASK for metric in self.metrics], dtype=np.bool_)
        most = np.where(tasks & (self.values <= 1), 1.0, np.inf)  # a task above 1 is a score, not a share
        made = draws_from_intervals(self.values, self.lows, self.highs, count, seed)
        bounded: Floats = np.minimum(np.maximum(made, least), most)
        return bounded

    def numbers(self, draws: Floats, members: Sequence[int], wanted: Collection[Metric]) -> dict[str, Floats]:
        """Metrics, measured or computed from measured ones.

        Args:
            draws: ``(draws, n, k)``, of `draws`, or the values themselves as a single draw.
            members: The variants that are compared: the best mean accuracy is the best of these.
            wanted: The metrics wanted.
        """
        keys = {metric.key for metric in wanted}
        found = {metric.key: draws[:, :, index] for index, metric in enumerate(self.metrics)}
        accuracies = [found[task] for task in self.tasks if task in found]
        result = {key: found[key] for key in keys if key in found}
        if accuracies and not {ACCURACY_MEAN.key, OF_BEST.key}.isdisjoint(keys):
            mean = result[ACCURACY_MEAN.key] = np.asarray(sum(accuracies)) / len(accuracies)
            best = np.fmax.reduce(mean[:, list(members)], axis=1, keepdims=True)
            result[OF_BEST.key] = mean / np.where(best > 0, best, np.nan)
        if accuracies and RECOVERY.key in keys:
            result[RECOVERY.key] = np.asarray(sum(map(self._recovery, accuracies))) / len(accuracies)
        if COST.key in keys:
            rate, joules = found.get(THROUGHPUT.key), found.get(J_PER_TOKEN.key)
            gpus = np.array([float(num_gpus(variant) or 1) for variant in self.variants])
            paid = money_per_million_tokens(rate, joules, self.prices, gpus)
            result |= {} if paid is None else {COST.key: paid}
        return result

    def subset(self, places: Sequence[int]) -> Table:
        """Some of the variants only, in the order given; a baseline that is not one of them is forgotten."""
        chosen, new = list(places), {index: place for place, index in enumerate(places)}
        bases = (self.bases[index] for index in places)
        return replace(
            self,
            variants=tuple(self.variants[index] for index in places),
            values=self.values[chosen],
            lows=self.lows[chosen],
            highs=self.highs[chosen],
            bases=tuple(None if base is None else new.get(base) for base in bases),
            unbased=tuple(self.unbased[index] for index in places),
        )

    def parts(self, metric: Metric) -> list[Metric]:
        """The measured metrics that a metric is computed from."""
        known = {found.key: found for found in self.metrics}
        return [known[key] for key in _part_keys(metric, self.tasks, self.prices) if key in known]

    def missing(self, index: int, metric: Metric) -> str | None:
        """Why a variant has no number of a metric; None if it has one."""
        variant = self.variants[index]
        absent = [part for part in self.parts(metric) if math.isnan(self.values[index, self.column(part)])]
        invalid = [part.key for part in absent if not variant.counts(part)]
        if invalid:
            why = ", ".join(variant.invalid_reasons)
            return f"invalid: {', '.join(invalid)}{f' ({why})' if why else ''}"
        keys = [part.key for part in absent]
        if keys:
            return f"not measured: {metric.key}" + ("" if keys == [metric.key] else f" (no {', '.join(keys)})")
        if metric is RECOVERY and self.bases[index] is None:
            return f"not measured: {metric.key} ({self.unbased[index]})"
        return None

    def interval(self, index: int, metric: Metric, drawn: Floats) -> Interval | None:
        """The 95 % interval of a number: as recorded or, if it is computed, from its draws.

        Args:
            index: Place of the variant.
            metric: The metric.
            drawn: Its draws, ``(draws, n)``.
        """
        recorded = estimate_of(self.variants[index], metric)
        if any(found.key == metric.key for found in self.metrics) or (recorded and recorded.interval):
            return None if recorded is None else recorded.interval
        own = drawn[:, index]
        if np.isnan(own).any() or own.min() == own.max():
            return None
        low, high = np.quantile(own, (0.025, 0.975))
        return float(low), float(high)

    def _recovery(self, accuracy: Floats) -> Floats:
        """Accuracy over that of the baseline, ``(draws, n)``."""
        bases = [0 if base is None else base for base in self.bases]
        known = np.array([base is not None for base in self.bases], dtype=np.bool_)
        base = accuracy[:, bases]
        return np.where(known & (base > 0), accuracy / np.where(base > 0, base, 1), np.nan)


@dataclass(frozen=True)
class ChoiceSet:
    """Variants of one setting, an objective of one or more parts, and constraints.

    Attributes:
        table: All variants.
        members: Places of those that are compared, in the table.
        objectives: What should be best. Several count with the same weight, by the geometric mean of their ratios.
        constraints: What has to be kept.
    """

    table: Table
    members: tuple[int, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that decide, also the computed ones."""
        found = [objective.metric for objective in self.objectives] + [c.metric for c in self.constraints]
        return tuple({metric.key: metric for metric in found}.values())

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The measured metrics that decide."""
        found = [part for metric in self.metrics for part in self.table.parts(metric)]
        return tuple({metric.key: metric for metric in found}.values())

    @property
    def point(self) -> Floats:
        """The measured values as a single draw, ``(1, n, k)``."""
        return self.table.values[None]

    def numbers(self, draws: Floats) -> Numbers:
        """See `Table.numbers`."""
        return self.table.numbers(draws, self.members, self.metrics)

    def scores(self, numbers: Numbers) -> Floats:
        """How good each variant is, ``(draws, n)``: higher is better, minus infinity if a number is missing.

        One objective: its value, the sign turned if less is better. Several: the mean of their logarithms, likewise
        turned, which orders as the geometric mean of the ratios to any fixed values does.
        """
        turned = [1.0 if objective.maximise else -1.0 for objective in self.objectives]
        columns = [numbers[objective.key] for objective in self.objectives]
        if len(columns) > 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns = [np.log(column) for column in columns]
        score = np.mean([sign * column for sign, column in zip(turned, columns, strict=True)], axis=0)
        return np.where(np.isnan(score), -np.inf, score)

    def meets_constraints(self, numbers: Numbers) -> Bools:
        """Whether each variant meets every constraint, ``(draws, n)``; False if a number is missing."""
        result = np.ones(next(iter(numbers.values())).shape, dtype=np.bool_)
        for constraint in self.constraints:
            column = numbers[constraint.metric.key]  # a comparison with NaN is false
            result &= column <= constraint.limit if constraint.at_most else column >= constraint.limit
        return result

    def winners(self, draws: Floats, running: Sequence[int]) -> Bools:
        """Who is best of those that meet every constraint, ``(draws, running)``: several at a tie, or none."""
        numbers, chosen = self.numbers(draws), list(running)
        kept = self.meets_constraints(numbers)[:, chosen]
        scores = np.where(kept, self.scores(numbers)[:, chosen], -np.inf)
        best = scores.max(axis=1, keepdims=True, initial=-np.inf)
        return np.asarray(kept & (scores == best) & (best > -np.inf))

    def relevant(self, running: Sequence[int], draws: Floats) -> list[int]:
        """The variants on which the choice among some depends: they, their baselines, the most accurate in a draw.

        Args:
            running: Those that are chosen from.
            draws: ``(draws, n, k)``.
        """
        found = list(running)
        limited = {constraint.metric.key for constraint in self.constraints}
        if RECOVERY.key in limited:
            found += [base for index in running if (base := self.table.bases[index]) is not None]
        if OF_BEST.key in limited:
            best = (self.numbers(draws)[OF_BEST.key] == 1).any(axis=0)
            found += [index for index in self.members if best[index]]
        return list(dict.fromkeys(found))

    def subset(self, places: Sequence[int]) -> ChoiceSet:
        """The same choice_set with some of the variants only, which keep their order and get new places."""
        members = set(self.members)
        kept = tuple(place for place, index in enumerate(places) if index in members)
        return replace(self, table=self.table.subset(places), members=kept)

    def uncertain(self, places: Sequence[int]) -> list[tuple[int, Metric]]:
        """The measured values of some variants that decide and have an interval wider than nothing."""
        columns = [(metric, self.table.column(metric)) for metric in self.measured]
        wide = self.table.highs > self.table.lows
        return [(index, metric) for index in places for metric, column in columns if wide[index, column]]


def win_shares(winners: Bools) -> Floats:
    """Share of draws that each one wins, ``(running,)``; a tie counts in equal parts."""
    count = winners.sum(axis=1, keepdims=True)
    return np.asarray(np.mean(winners / np.maximum(count, 1), axis=0))


def setting_groups(table: Table, plan: Plan) -> dict[str, list[int]]:
    """Variants that may be ranked together, by the settings that the objective depends on; a limit depends on none.

    Returns:
        Groups by their names (see `comparability.comparable_groups`), in the order of their first variants, as places.
        Variants with none of the metrics are in the first group.
    """
    ranked = [objective.metric for part in plan.goal.parts for objective in part]
    ranked += [constraint.metric for constraint in plan.constraints if constraint.metric is OF_BEST]
    keys = {part.key for metric in ranked for part in table.parts(metric) if metric is not RECOVERY}
    groups = comparable_groups(table.variants, [metric for metric in table.metrics if metric.key in keys])
    found: dict[str, list[int]] = {name: [] for name in groups.names}
    for index, label in enumerate(groups.labels):
        found[groups.names[0] if label == NOT_MEASURED else label].append(index)
    return found


def parts_of(metric: Metric, study: Study, tasks: Sequence[str], prices: Prices) -> list[Metric]:
    """The measured metrics that a metric is computed from."""
    return [metric if key == metric.key else study.metric(key) for key in _part_keys(metric, tasks, prices)]


def _part_keys(metric: Metric, tasks: Sequence[str], prices: Prices) -> tuple[str, ...]:
    if metric.key in (ACCURACY_MEAN.key, RECOVERY.key, OF_BEST.key):
        return tuple(tasks) or (metric.key,)
    if metric is COST:
        parts = ((THROUGHPUT.key, prices.per_gpu_hour), (J_PER_TOKEN.key, prices.per_kwh))
        return tuple(key for key, price in parts if price is not None)
    return (metric.key,)


def num_gpus(variant: Variant) -> int | None:
    """GPUs that share the model: those whose energy was measured; None if they were not recorded."""
    return len(variant.energy.devices if variant.energy is not None else ()) or None


def estimate_of(variant: Variant, metric: Metric) -> Estimate | None:
    """A measured number; invalid energy is none. Memory is that of the weights as loaded, else on disk.

    An engine that emulates quantized kernels loads 16 bit: the size on disk counts, then.
    """
    if metric is MEMORY:
        loaded = None if variant.kernels == "emulated" else variant.estimate(WEIGHTS)
        return loaded or variant.estimate(DISK)
    return variant.estimate(metric) if variant.counts(metric) else None


def _end(estimate: Estimate | None, end: int | None) -> float:
    if estimate is None or (end is not None and estimate.interval is None):
        return math.nan
    return estimate.value if end is None or estimate.interval is None else estimate.interval[end]


def _base(variant: Variant, study: Study, tasks: Sequence[str]) -> tuple[int | None, str | None]:
    """The place of a variant's baseline whose accuracies it may be compared with, or why there is none."""
    base = study.baseline(variant)
    if base is not variant:
        made = impact_of(variant, base, tasks)
        refused = [task for task in tasks if task not in made.drops]
        found = [text for text in made.reasons if base is None or text.split(":")[0] in refused]
        why = "; ".join(found) or (f"no {', '.join(refused)}" if refused else None)
        if base is None or not tasks or why is not None:
            return None, why
    return next(index for index, other in enumerate(study.variants) if other is base), None
