"""Who wins: variants as arrays of numbers, resamplings of them, and the same rules for both.

The resamplings take every measured value to be independent of the others. Accuracies of two variants on the same items
are not, and differ by less: the result is rather too uncertain than too certain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slim_eval.analysis.comparability import NOT_MEASURED, SPEEDS, comparable_groups
from slim_eval.analysis.impact import impact_of
from slim_eval.analysis.pareto.dominance import Bools, Floats, draws_from_intervals
from slim_eval.analysis.pareto.frontier import Objective, value_and_ends
from slim_eval.analysis.recommend.cost import Prices, num_gpus
from slim_eval.analysis.recommend.question import COST, MEMORY, OF_BEST, RECOVERY, Constraint, Plan
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, DISK, J_PER_TOKEN, THROUGHPUT, WEIGHTS, Metric
from slim_eval.results.variants import Estimate, Variant
from slim_eval.schemes import find
from slim_eval.utils import GIB

#: Metrics by key, each ``(draws, variants)``, NaN if unknown.
Numbers = Mapping[str, Floats]

# Times, rates, joules and shares are positive. A draw below this share of the value is moved up to it: only intervals
# as wide as the value itself reach so far, and a time of 0 would win against everything.
_LEAST = 0.01


@dataclass(frozen=True)
class Table:
    """The numbers that a plan needs of n variants: k measured metrics."""

    variants: tuple[Variant, ...]  # with their mean accuracy
    tasks: tuple[str, ...]  # of the mean accuracy and the recovery
    parts: Mapping[str, tuple[Metric, ...]]  # key of a metric that decides -> measured ones that it is computed from
    metrics: tuple[Metric, ...]  # all measured ones
    values: Floats  # ``(n, k)``, NaN if not measured
    lows: Floats  # lower ends of the 95 % intervals, NaN if unknown
    highs: Floats  # upper ends, likewise
    bases: tuple[int | None, ...]  # place of each variant's baseline, its own for a baseline; None: not to compare with
    unbased: tuple[str | None, ...]  # why `bases` has None
    prices: Prices

    @classmethod
    def of(cls, study: Study, plan: Plan, prices: Prices) -> Table:
        """The numbers that a plan needs; the variants have their mean accuracy."""
        tasks = next((variant.mean_tasks for variant in study.variants), ())
        asked = [objective.metric for part in plan.goal.parts for objective in part]
        asked += [constraint.metric for constraint in plan.constraints]
        # What stands in for a latency of unequal work has to be at hand.
        parts = {metric.key: _parts(metric, study, tasks, prices) for metric in (*asked, THROUGHPUT)}
        metrics = tuple({part.key: part for found in parts.values() for part in found}.values())
        found = [[value_and_ends(estimate_of(variant, metric)) for metric in metrics] for variant in study.variants]
        values, lows, highs = np.moveaxis(np.array(found, dtype=np.float64), 2, 0)
        places = {id(variant): place for place, variant in enumerate(study.variants)}
        bases: list[int | None] = []
        unbased: list[str | None] = []
        for variant in study.variants:
            base, why = study.baseline(variant), None
            if base is not variant:
                made = impact_of(variant, base, tasks)
                refused = [task for task in tasks if task not in made.drops]
                reasons = [text for text in made.reasons if base is None or text.split(":")[0] in refused]
                why = "; ".join(reasons) or (f"no {', '.join(refused)}" if refused else None)
            comparable = base is variant or (bool(tasks) and why is None)
            bases.append(places[id(base)] if base is not None and comparable else None)
            unbased.append(why)
        return cls(study.variants, tasks, parts, metrics, values, lows, highs, tuple(bases), tuple(unbased), prices)

    def column(self, metric: Metric) -> int:
        """The place of a measured metric."""
        return next(index for index, found in enumerate(self.metrics) if found.key == metric.key)

    def draws(self, count: int, seed: int) -> Floats:
        """The measured values redrawn from their intervals, ``(count, n, k)``."""
        least = np.where(self.values > 0, _LEAST * self.values, -np.inf)
        most = np.where([metric.is_share for metric in self.metrics], 1.0, np.inf)
        made = draws_from_intervals(self.values, self.lows, self.highs, count, seed)
        bounded: Floats = np.minimum(np.maximum(made, least), most)
        return bounded

    def missing(self, index: int, metric: Metric) -> str | None:
        """Why a variant has no number of a metric that decides; None if it has one."""
        variant = self.variants[index]
        absent = [part for part in self.parts[metric.key] if math.isnan(self.values[index, self.column(part)])]
        invalid = [part.key for part in absent if not variant.counts(part)]
        if invalid:
            if all(variant.used_inexact_kernels(part) for part in absent):
                return f"inexact kernels: {', '.join(invalid)}"
            why = ", ".join(dict.fromkeys(reason for part in absent for reason in variant.reasons(part)))
            return f"invalid: {', '.join(invalid)}{f' ({why})' if why else ''}"
        keys = [part.key for part in absent]
        if keys:
            return f"not measured: {metric.key}" + ("" if keys == [metric.key] else f" (no {', '.join(keys)})")
        if metric is RECOVERY and self.bases[index] is None:
            return f"not measured: {metric.key} ({self.unbased[index]})"
        return None


@dataclass(frozen=True)
class ChoiceSet:
    """Variants of one setting, an objective of one or more parts, and constraints."""

    table: Table  # all variants
    members: tuple[int, ...]  # places of those that are compared, in the table
    objectives: tuple[Objective, ...]  # several count with the same weight, by the geometric mean of their ratios
    constraints: tuple[Constraint, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that decide, also the computed ones."""
        found = [objective.metric for objective in self.objectives] + [c.metric for c in self.constraints]
        return tuple({metric.key: metric for metric in found}.values())

    def numbers(self, draws: Floats | None = None) -> Numbers:
        """The metrics that decide, and the measured ones.

        Args:
            draws: ``(draws, n, k)``, of `Table.draws`; by default the values themselves as a single draw.
        """
        table, keys = self.table, {metric.key for metric in self.metrics}
        made = table.values[None] if draws is None else draws
        found = {metric.key: made[:, :, index] for index, metric in enumerate(table.metrics)}
        accuracies = [found[task] for task in table.tasks if task in found]
        if accuracies and keys & {ACCURACY_MEAN.key, OF_BEST.key}:
            mean = found[ACCURACY_MEAN.key] = np.asarray(sum(accuracies)) / len(accuracies)
            best = np.fmax.reduce(mean[:, list(self.members)], axis=1, keepdims=True)
            found[OF_BEST.key] = mean / np.where(best > 0, best, np.nan)
        if accuracies and RECOVERY.key in keys:
            known = np.array([base is not None for base in table.bases], dtype=np.bool_)
            places = [base or 0 for base in table.bases]
            shares = []
            for accuracy in accuracies:
                base = accuracy[:, places]
                shares.append(np.where(known & (base > 0), accuracy / np.where(base > 0, base, 1), np.nan))
            found[RECOVERY.key] = np.asarray(sum(shares)) / len(shares)
        if COST.key in keys:
            gpus = np.array([float(num_gpus(variant) or 1) for variant in table.variants])
            paid = table.prices.per_million_tokens(found.get(THROUGHPUT.key), found.get(J_PER_TOKEN.key), gpus)
            found |= {} if paid is None else {COST.key: paid}
        return found

    def scores(self, numbers: Numbers) -> Floats:
        """How good each variant is, ``(draws, n)``: higher is better, minus infinity if a number is missing.

        One objective: its value, the sign turned if less is better. Several: the mean of their logarithms, likewise
        turned, which orders as the geometric mean of the ratios to any fixed values does.
        """
        columns = [numbers[objective.key] for objective in self.objectives]
        if len(columns) > 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns = [np.log(column) for column in columns]
        turned = [column if o.maximise else -column for o, column in zip(self.objectives, columns, strict=True)]
        score = np.mean(turned, axis=0)
        return np.where(np.isnan(score), -np.inf, score)

    def meets_constraints(self, numbers: Numbers) -> Bools:
        """Whether each variant meets every constraint, ``(draws, n)``; False if a number is missing."""
        result = np.ones_like(numbers[self.objectives[0].key], dtype=np.bool_)
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
        """The variants on which a choice depends: the running, their baselines, and the most accurate in any draw."""
        found = list(running)
        limited = {constraint.metric.key for constraint in self.constraints}
        if RECOVERY.key in limited:
            found += [base for index in running if (base := self.table.bases[index]) is not None]
        if OF_BEST.key in limited:
            best = (self.numbers(draws)[OF_BEST.key] == 1).any(axis=0)
            found += [index for index in self.members if best[index]]
        return list(dict.fromkeys(found))

    def subset(self, places: Sequence[int]) -> ChoiceSet:
        """The same choice among some of the variants, in the order given; a baseline that is left out is forgotten."""
        table, chosen, new = self.table, list(places), {index: place for place, index in enumerate(places)}
        bases = (table.bases[index] for index in places)
        smaller = replace(
            table,
            variants=tuple(table.variants[index] for index in places),
            values=table.values[chosen],
            lows=table.lows[chosen],
            highs=table.highs[chosen],
            bases=tuple(None if base is None else new.get(base) for base in bases),
            unbased=tuple(table.unbased[index] for index in places),
        )
        members = set(self.members)
        return replace(self, table=smaller, members=tuple(new[index] for index in places if index in members))

    def uncertain(self, places: Sequence[int]) -> list[tuple[int, Metric]]:
        """The measured values of some variants that decide and have an interval wider than nothing."""
        parts = {part.key: part for metric in self.metrics for part in self.table.parts[metric.key]}
        wide = self.table.highs > self.table.lows
        return [(i, part) for i in places for part in parts.values() if wide[i, self.table.column(part)]]


def setting_groups(table: Table, plan: Plan) -> dict[str, list[int]]:
    """Places of variants that may be ranked together, by the settings that the objective depends on; a limit: on none.

    The names are those of `comparability.comparable_groups`; variants with none of the metrics are in the first group.
    """
    ranked = [objective.metric for part in plan.goal.parts for objective in part]
    ranked += [constraint.metric for constraint in plan.constraints if constraint.metric is OF_BEST]
    keys = {part.key for metric in ranked for part in table.parts[metric.key]}
    groups = comparable_groups(table.variants, [metric for metric in table.metrics if metric.key in keys])
    found: dict[str, list[int]] = {name: [] for name in groups.names}
    for index, label in enumerate(groups.labels):
        found[groups.names[0] if label == NOT_MEASURED else label].append(index)
    return {name: members for label, group in found.items() for name, members in _by_load(table, label, group).items()}


def _by_load(table: Table, label: str, members: Sequence[int]) -> dict[str, list[int]]:
    """Members of a group by load, if a limit depends on it: a variant may keep it under one load and not another."""
    folders = Counter(table.variants[index].directory for index in members)
    if max(folders.values(), default=0) < 2:
        return {label: list(members)}
    groups = comparable_groups([table.variants[index] for index in members], SPEEDS)
    found: dict[str, list[int]] = {name: [] for name in groups.names}
    for index, name in zip(members, groups.labels, strict=True):
        # A variant without any speed takes part under each load.
        for each in groups.names if name == NOT_MEASURED else (name,):
            found[each].append(index)
    return {name if label == "all" else f"{label}, {name}": group for name, group in found.items()}


def _parts(metric: Metric, study: Study, tasks: Sequence[str], prices: Prices) -> tuple[Metric, ...]:
    """The measured metrics that a metric is computed from."""
    if tasks and metric.key in (ACCURACY_MEAN.key, RECOVERY.key, OF_BEST.key):
        return tuple(study.metric(task) for task in tasks)
    if metric is COST:
        parts = ((THROUGHPUT, prices.per_gpu_hour), (J_PER_TOKEN, prices.per_kwh))
        return tuple(part for part, price in parts if price is not None)
    return (metric,)


def with_computed_sizes(study: Study) -> list[Variant]:
    """The variants; those whose size was neither measured nor recorded get one that is computed, in `derived`.

    It is parameters x bits per weight of the scheme, scales of groups included. The parameters are those that the
    baseline's size on disk implies or, without it, the recorded number. Layers that a scheme leaves at 16 bit are not
    known, so that the real files are larger. A variant of which neither is known, or whose scheme is not, has no size.
    """
    made = []
    for variant in study.variants:
        scheme, base = find(variant.precision), study.baseline(variant)
        bits = (
            None if scheme is None or variant.is_baseline != (scheme.name == variant.baseline) else scheme.stored_bits
        )
        parameters = _parameters_of(variant, base)
        if estimate_of(variant, MEMORY) is None and bits is not None and parameters is not None:
            size = Estimate(parameters * bits / 8 / GIB)
            variant = replace(variant, derived={**variant.derived, DISK.key: size})
        made.append(variant)
    return made


def _parameters_of(variant: Variant, base: Variant | None) -> float | None:
    """The number of parameters of a model: by the size of its baseline on disk, else as recorded."""
    whole = None if base is None else base.number(DISK)
    scheme = None if base is None else find(base.precision)
    if whole is not None and scheme is not None and not scheme.is_quantized:
        return whole * GIB * 8 / scheme.weight_bits
    recorded = (side.fact("num_parameters") for side in (variant, base) if side is not None)
    return next((float(count) for count in recorded if count), None)


def is_computed(variant: Variant, metric: Metric) -> bool:
    """Whether a number is a computed size, see `with_computed_sizes`."""
    return metric is MEMORY and DISK.key in variant.derived and estimate_of(variant, MEMORY) == variant.estimate(DISK)


def estimate_of(variant: Variant, metric: Metric) -> Estimate | None:
    """A measured number; one of an invalid record is none. Memory is that of the weights as loaded, else on disk.

    An engine that emulates quantized kernels loads 16 bit, and one that computes in float32 widens what it loads: the
    size on disk counts, then.
    """
    if metric is MEMORY:
        loaded = variant.estimate(WEIGHTS) if variant.loads_as_stored else None
        return loaded or variant.estimate(DISK)
    return variant.estimate(metric) if variant.counts(metric) else None
