"""The Pareto frontiers of a study: objectives by name, and which variants are on the frontier of comparable ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slim_eval.analysis.comparability import Groups, comparable_groups, confounding
from slim_eval.analysis.pareto import dominance
from slim_eval.analysis.study import Study
from slim_eval.errors import UsageError
from slim_eval.metrics import ACCURACY_MEAN, DEFAULT_OBJECTIVES, METRICS, Metric
from slim_eval.results.variants import Estimate, Variant, tasks_of
from slim_eval.utils import did_you_mean

_DIRECTIONS = {"min": False, "max": True}
# Above this number of variants, fewer resamples, which still give P to 0.015: the analysis takes seconds.
_MANY_VARIANTS, _FEW_DRAWS = 1000, 200


@dataclass(frozen=True)
class Objective:
    """A metric to make as large or as small as possible."""

    metric: Metric
    maximise: bool

    @property
    def key(self) -> str:
        """The metric's key."""
        return self.metric.key

    def __str__(self) -> str:
        """As written on the command line: ``tpot_s:min``."""
        return f"{self.key}:{'max' if self.maximise else 'min'}"


@dataclass(frozen=True)
class Standing:
    """One variant among those that it may be compared with."""

    variant: Variant
    group: str  # the settings of its measurements; variants with different settings are not compared
    excluded: str | None  # why it was not compared: ``not measured: tpot_s``
    verdict: dominance.DominanceVerdict | None = None  # None if the variant was not compared
    rivals: int | None = None  # it was compared with so many; without any, it is on the frontier by definition
    no_interval: tuple[str, ...] = ()  # objectives with an interval in other variants but not in this one: do not vary
    confounded: str | None = None  # why an objective compares different work in its group
    hypervolume_lost: float | None = None  # see `dominance.Hypervolume`

    @property
    def on_frontier(self) -> bool:
        """Whether it was compared and is not dominated, by the point values."""
        return self.verdict is not None and self.verdict.on_frontier

    @property
    def state(self) -> str | None:
        """*on the frontier*, *dominated* or *inconclusive*; None if it was not compared."""
        return None if self.verdict is None else self.verdict.state.value


@dataclass(frozen=True)
class Frontier:
    """The variants of a study by one set of objectives."""

    objectives: tuple[Objective, ...]
    standings: tuple[Standing, ...]  # one per variant, in the order of the study
    groups: Groups  # of variants that were compared with each other
    varying: tuple[str, ...]  # objectives with an interval in any variant
    hypervolumes: Mapping[str, float | None]  # group -> `dominance.Hypervolume.total`; None if it was not computed

    @property
    def title(self) -> str:
        """The objectives as written on the command line: ``mmlu:max tpot_s:min``."""
        return " ".join(map(str, self.objectives))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat row per variant, for ``pareto.csv`` and ``complete_results.json``."""
        rows = []
        for standing in self.standings:
            variant, verdict = standing.variant, standing.verdict
            row: dict[str, Any] = {"name": variant.name, "model": variant.model, "precision": variant.precision}
            row["group"] = standing.group
            for objective in self.objectives:
                row[objective.key] = variant.number(objective.key)
                if objective.key in self.varying:
                    low, high = variant.interval(objective.key) or (None, None)
                    row |= {f"{objective.key}_ci95_low": low, f"{objective.key}_ci95_high": high}
                if objective.metric is ACCURACY_MEAN:
                    row["accuracy_mean_tasks"] = ", ".join(variant.mean_tasks) or None
            row |= {
                "on_frontier": verdict and verdict.on_frontier,
                "p_non_dominated": verdict and verdict.probability,
                "state": standing.state,
                "certain": verdict and verdict.certain,
                "rivals": standing.rivals,
                "no_interval": ", ".join(standing.no_interval) or None,
                "excluded": standing.excluded,
                "confounded": standing.confounded,
                "hypervolume_lost": standing.hypervolume_lost,
            }
            rows.append(row)
        return rows


def value_and_ends(estimate: Estimate | None) -> tuple[float, float, float]:
    """A number and the ends of its interval; NaN if missing."""
    if estimate is None:
        return math.nan, math.nan, math.nan
    return estimate.value, *(estimate.interval or (math.nan, math.nan))


def parse_objectives(texts: str | Iterable[str], study: Study) -> tuple[Objective, ...]:
    """Look up objectives, ``"mmlu:max tpot_s:min"`` or its parts, among the metrics that were measured.

    The direction is optional if the table of metrics has one.

    Raises:
        UsageError: There is no objective, an objective was not measured or has no known direction, a direction is
            neither min nor max, or an objective is repeated.
    """
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"[\s,]+", text)]
    wanted = [part for part in parts if part]
    example = f"for example: {' '.join(map(str, default_objectives(study)))}"
    if not wanted:
        raise UsageError("no objective is named", example)
    metrics = map(study.metric, (*METRICS, *tasks_of(study.variants)))
    measured = {metric.key: metric for metric in metrics if study.is_measured(metric)}
    found: list[Objective] = []
    for text in wanted:
        # A task's name may contain a colon itself, so the whole text is tried first.
        name, colon, direction = (text, "", "") if text in measured or ":" not in text else text.rpartition(":")
        if colon and direction not in _DIRECTIONS:
            cause = f"objective {text!r}: {direction!r} is not a direction"
            raise UsageError(cause, did_you_mean(direction, _DIRECTIONS))
        metric = measured.get(name)
        if metric is None:
            near = did_you_mean(name, (key for key, known in measured.items() if known.better is not None))
            raise UsageError(f"objective {name!r}: no result contains this metric", near or example)
        if not colon and metric.better is None:
            raise UsageError(f"objective {name!r}: the better direction is unknown", f"{name}:min or {name}:max")
        found.append(Objective(metric, _DIRECTIONS.get(direction, metric.maximise)))
    keys = [objective.key for objective in found]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise UsageError(f"objective {key!r} is named twice", "name each objective once")
    return tuple(found)


def default_objectives(study: Study, variants: Sequence[Variant] | None = None) -> tuple[Objective, ...]:
    """Accuracy, time per token, energy per token, memory: the first metric of each that was measured.

    Of some variants only, a metric that less than half of them have is not included.
    """
    chosen = study.variants if variants is None else variants
    found = []
    for group in DEFAULT_OBJECTIVES:
        counts = {metric: sum(v.number(metric) is not None for v in chosen) for metric in group}
        first = next((metric for metric in group if counts[metric]), None)
        if first is not None and (variants is None or 2 * counts[first] >= len(chosen)):
            found.append(Objective(first, first.maximise))
    return tuple(found)


def find_frontiers(study: Study, wanted: Sequence[str] = ()) -> list[Frontier]:
    """Find the frontier by the default objectives, and by the requested ones.

    Each group of comparable variants has its own default objectives: older files have fewer numbers.

    Returns:
        One frontier per distinct set of objectives, each over all variants, the default ones first; none if nothing
        was measured.

    Raises:
        UsageError: See `parse_objectives`.
    """
    asked = parse_objectives(wanted, study) if wanted else ()
    settings = comparable_groups(study.variants).members(study.variants).values()
    sets = [*(default_objectives(study, members) for members in settings), asked]
    return [frontier(study, objectives) for objectives in dict.fromkeys(sets) if objectives]


def frontier(study: Study, objectives: Sequence[Objective], *, draws: int | None = None, seed: int = 0) -> Frontier:
    """Judge each variant among those that it may be compared with; by default, with fewer draws of many variants.

    Raises:
        ValueError: There is no objective.
    """
    if not objectives:
        raise ValueError("a frontier needs an objective")
    metrics, maximise = [each.metric for each in objectives], [each.maximise for each in objectives]
    groups = comparable_groups(study.variants, metrics)
    labelled = zip(study.variants, groups.labels, strict=True)
    standings = [Standing(variant, label, _exclusion(variant, metrics)) for variant, label in labelled]
    varying = tuple(m.key for m in metrics if any(variant.interval(m) is not None for variant in study.variants))
    if draws is None:
        draws = _FEW_DRAWS if len(standings) > _MANY_VARIANTS else dominance.DRAWS
    compared: dict[str, list[int]] = {}
    for index, standing in enumerate(standings):
        if standing.excluded is None:
            compared.setdefault(standing.group, []).append(index)
    volumes: dict[str, float | None] = {}
    for label, indices in compared.items():
        members = [study.variants[index] for index in indices]
        ends = [[value_and_ends(variant.estimate(metric)) for metric in metrics] for variant in members]
        points, lows, highs = np.moveaxis(np.array(ends), 2, 0)
        verdicts = dominance.judge(points, lows, highs, maximise, draws=draws, seed=seed)
        volume = dominance.hypervolume(points, maximise)
        volumes[label] = None if volume is None else volume.total
        confounded = confounding(members, metrics)
        for place, (index, variant) in enumerate(zip(indices, members, strict=True)):
            standings[index] = replace(
                standings[index],
                verdict=verdicts[place],
                rivals=len(members) - 1,
                no_interval=tuple(key for key in varying if variant.interval(key) is None),
                confounded=confounded,
                hypervolume_lost=None if volume is None else volume.lost[place],
            )
    return Frontier(tuple(objectives), tuple(standings), groups, varying, volumes)


def _exclusion(variant: Variant, metrics: Sequence[Metric]) -> str | None:
    """Why a variant is not compared; None if it is."""
    found: dict[str, list[str]] = {"not measured": [], "invalid": [], "inexact kernels": []}
    for metric in metrics:
        if variant.estimate(metric) is None:
            tasks = variant.mean_tasks if metric is ACCURACY_MEAN else ()
            missing = [task for task in tasks if variant.number(task) is None]
            found["not measured"].append(f"{metric.key} (no {', '.join(missing)})" if missing else metric.key)
        elif not variant.counts(metric):
            found["inexact kernels" if variant.used_inexact_kernels(metric) else "invalid"].append(metric.key)
    return "; ".join(f"{words}: {', '.join(keys)}" for words, keys in found.items() if keys) or None
