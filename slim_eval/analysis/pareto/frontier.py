"""The Pareto frontiers of a study: objectives by name, and where each variant stands among those it may be compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.analysis.comparability import Groups, comparable_groups, confounding
from slim_eval.analysis.pareto import dominance
from slim_eval.analysis.pareto.hypervolumes import covered
from slim_eval.analysis.study import Study
from slim_eval.errors import UsageError
from slim_eval.metrics import ACCURACY_MEAN, DEFAULT_OBJECTIVES, METRICS, Metric
from slim_eval.results.variants import Estimate, Variant, tasks_of
from slim_eval.utils import did_you_mean

_DIRECTIONS = {"min": False, "max": True}
# Up to here all resamplings; above, as few as still give P to 0.015: the whole analysis stays within seconds.
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
        """As it is written on the command line: ``tpot_s:min``."""
        return f"{self.key}:{'max' if self.maximise else 'min'}"


@dataclass(frozen=True)
class Standing:
    """Where one variant stands.

    Attributes:
        variant: The variant.
        group: The setting in which it was measured; variants of different settings are not compared.
        values: Objective key -> its number; None where it was not measured.
        verdict: Where it stands among the variants of its group; None if it was not compared.
        rivals: Variants that it was compared with; alone, it is on the frontier of course.
        no_interval: Objectives that have an interval in other variants but not in this one, and were held fixed.
        excluded: Why it was not compared: ``not measured: tpot_s``.
        confounded: Why an objective compares different work in its group.
        hypervolume_lost: See `hypervolumes.Covered`.
    """

    variant: Variant
    group: str
    values: Mapping[str, Estimate | None]
    verdict: dominance.Verdict | None = None
    rivals: int | None = None
    no_interval: tuple[str, ...] = ()
    excluded: str | None = None
    confounded: str | None = None
    hypervolume_lost: float | None = None

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
    """One set of objectives and where each variant stands.

    Attributes:
        objectives: What was compared by.
        standings: One per variant, in the order of the study.
        groups: The settings, for the objectives.
        hypervolumes: Of each group that was compared, as `hypervolumes.Covered.total`; None if it was not computed.
    """

    objectives: tuple[Objective, ...]
    standings: tuple[Standing, ...]
    groups: Groups
    hypervolumes: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The objectives as they are written on the command line: ``mmlu:max tpot_s:min``."""
        return " ".join(map(str, self.objectives))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat row per variant, as ``pareto.csv`` and ``complete_results.json`` have it."""
        varying = [
            o.key for o in self.objectives if any((e := s.values[o.key]) and e.interval for s in self.standings)
        ]  # fmt: skip
        return [_row(standing, self.objectives, varying) for standing in self.standings]


def parse_objectives(texts: str | Iterable[str], study: Study) -> tuple[Objective, ...]:
    """Objectives from what the user wrote, against what was measured.

    Args:
        texts: ``"mmlu:max tpot_s:min"``, or its parts. The direction may be left out if the metric table has it.
        study: What was measured.

    Raises:
        UsageError: There is no objective, one that no variant has, one without a known direction, a direction that is
            neither min nor max, or the same objective twice.
    """
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"[\s,]+", text)]
    wanted = [part for part in parts if part]
    example = f"for example: {' '.join(map(str, default_objectives(study)))}"
    if not wanted:
        raise UsageError("no objective is named", example)
    measured = [
        metric for key in (*METRICS, *tasks_of(study.variants)) if study.is_measured(metric := study.metric(key))
    ]
    found = tuple(_objective(text, {metric.key: metric for metric in measured}, example) for text in wanted)
    for index, objective in enumerate(found):
        if objective.key in (other.key for other in found[:index]):
            raise UsageError(f"objective {objective.key!r} is named twice", "name each objective once")
    return found


def default_objectives(study: Study, variants: Sequence[Variant] | None = None) -> tuple[Objective, ...]:
    """Accuracy, time per token, energy per token, memory: of each the first metric that was measured.

    Args:
        study: The study.
        variants: Those that are compared; all by default. One that less than half of them have is left out.
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
    """The frontier by the default objectives, and by those that were asked for.

    Each setting of the measurements has its own default objectives: older files have fewer numbers.

    Args:
        study: The study.
        wanted: Objectives as `parse_objectives` reads them; none by default.

    Returns:
        Sets of objectives that differ, each over all variants, the default ones first; none if nothing was measured.

    Raises:
        UsageError: An objective that no variant has, or that cannot be understood.
    """
    asked = parse_objectives(wanted, study) if wanted else ()
    settings = comparable_groups(study.variants).members(study.variants).values()
    sets = [*(default_objectives(study, members) for members in settings), asked]
    return [frontier(study, objectives) for objectives in dict.fromkeys(sets) if objectives]


def frontier(study: Study, objectives: Sequence[Objective], *, draws: int | None = None, seed: int = 0) -> Frontier:
    """Where each variant stands among those it may be compared with.

    Args:
        study: The study.
        objectives: What to compare by, at least one.
        draws: Resamplings for the probabilities; as many as the number of variants allows by default.
        seed: Of the resamplings.
    """
    metrics = [objective.metric for objective in objectives]
    groups = comparable_groups(study.variants, metrics)
    maximise = [objective.maximise for objective in objectives]
    count = draws or (_FEW_DRAWS if len(study.variants) > _MANY_VARIANTS else dominance.DRAWS)
    values = [{metric.key: variant.estimate(metric) for metric in metrics} for variant in study.variants]
    excluded = [_excluded(variant, metrics) for variant in study.variants]
    varying = [m.key for m in metrics if any((e := found[m.key]) and e.interval for found in values)]
    members: dict[str, list[int]] = {}
    for index, label in enumerate(groups.labels):
        if excluded[index] is None:
            members.setdefault(label, []).append(index)
    made: dict[int, Standing] = {}
    volumes: dict[str, float | None] = {}
    for label, indices in members.items():
        points, lows, highs = (_matrix([values[i] for i in indices], metrics, end) for end in (None, 0, 1))
        verdicts = dominance.judge(points, lows, highs, maximise, draws=count, seed=seed)
        volume = covered(points, maximise)
        volumes[label] = None if volume is None else volume.total
        why = confounding([study.variants[i] for i in indices], metrics)
        for place, (index, verdict) in enumerate(zip(indices, verdicts, strict=True)):
            fixed = tuple(key for key in varying if (e := values[index][key]) is not None and e.interval is None)
            lost = None if volume is None else volume.lost[place]
            made[index] = Standing(
                study.variants[index], label, values[index], verdict, len(indices) - 1, fixed, None, why, lost
            )
    return Frontier(
        tuple(objectives),
        tuple(
            made.get(index) or Standing(variant, groups.labels[index], values[index], excluded=excluded[index])
            for index, variant in enumerate(study.variants)
        ),
        groups,
        volumes,
    )


def _objective(text: str, measured: Mapping[str, Metric], example: str) -> Objective:
    # A task's name may contain a colon itself, so the whole text is tried first.
    name, colon, direction = (text, "", "") if text in measured else text.rpartition(":")
    if not colon:
        name = text
    elif direction not in _DIRECTIONS:
        cause = f"objective {text!r}: {direction!r} is not a direction"
        raise UsageError(cause, did_you_mean(direction, _DIRECTIONS))
    if name not in measured:
        near = did_you_mean(name, (key for key, metric in measured.items() if metric.better is not None))
        raise UsageError(f"objective {name!r}: no result has such a number", near or example)
    if colon:
        return Objective(measured[name], _DIRECTIONS[direction])
    if measured[name].better is None:
        raise UsageError(f"objective {name!r}: the better direction is unknown", f"{name}:min or {name}:max")
    return Objective(measured[name], measured[name].maximise)


def _excluded(variant: Variant, metrics: Sequence[Metric]) -> str | None:
    """Why a variant cannot take part; None if it can."""
    absent = [_missing(variant, metric) for metric in metrics if variant.number(metric) is None]
    invalid = [m.key for m in metrics if variant.number(m) is not None and not variant.counts(m)]
    why = [f"{words}: {', '.join(keys)}" for words, keys in (("not measured", absent), ("invalid", invalid)) if keys]
    return "; ".join(why) or None


def _missing(variant: Variant, metric: Metric) -> str:
    """A missing objective, with the tasks that a mean lacks."""
    lacking = [task for task in variant.mean_tasks if metric is ACCURACY_MEAN and variant.number(task) is None]
    return f"{metric.key} (no {', '.join(lacking)})" if lacking else metric.key


def _matrix(values: Sequence[Mapping[str, Estimate | None]], metrics: Sequence[Metric], end: int | None) -> Any:
    """Variants by objectives: the values, or the lower or upper ends of their intervals; NaN if there is none."""

    def number(estimate: Estimate | None) -> float:
        if estimate is None:
            return math.nan
        if end is None:
            return estimate.value
        return math.nan if estimate.interval is None else estimate.interval[end]

    return [[number(found[metric.key]) for metric in metrics] for found in values]


def _row(standing: Standing, objectives: Sequence[Objective], varying: Sequence[str]) -> dict[str, Any]:
    variant, verdict = standing.variant, standing.verdict
    row: dict[str, Any] = {
        "name": variant.name, "model": variant.model, "precision": variant.precision, "group": standing.group,
    }  # fmt: skip
    for objective in objectives:
        estimate = standing.values[objective.key]
        row[objective.key] = None if estimate is None else estimate.value
        if objective.key in varying:
            low, high = (estimate.interval if estimate and estimate.interval else None) or (None, None)
            row |= {f"{objective.key}_ci95_low": low, f"{objective.key}_ci95_high": high}
        if objective.metric is ACCURACY_MEAN:
            row["accuracy_mean_tasks"] = ", ".join(variant.mean_tasks) or None
    return row | {
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
