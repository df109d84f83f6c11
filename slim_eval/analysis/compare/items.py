"""Two variants on the same items: the drop per task, its confidence, and a verdict. The first variant is the baseline.

Items are matched by subtask and lm-eval's document hash. Different work is refused, with the difference named: a
different metric, limit, few-shot count or task version, different items, different prompts.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import task_obstacles
from slim_eval.errors import ResultFileError
from slim_eval.results.records import PairedRecord, PairedTask
from slim_eval.results.store import PAIRED, find_results, read_samples, write_paired
from slim_eval.results.variants import Variant, by_model, ordered_tasks
from slim_eval.utils import environment, safe_json

ALPHA = 0.05
POWER = 0.8

EQUIVALENT, DEGRADED, UNDERPOWERED = "equivalent", "degraded", "underpowered"

#: End of the refusal of a pair if one side kept no samples.
NO_ITEM_OUTCOMES = "no outcomes of single items"

_Key = tuple[str, str, int]  # subtask, document hash, which of several items with that hash


@dataclass(frozen=True)
class _Items:
    """One variant's items of a task."""

    by_key: Mapping[_Key, Mapping[str, Any]]

    @classmethod
    def of(cls, variant: Variant, task: str) -> _Items:
        seen: Counter[tuple[str, str]] = Counter()
        found: dict[_Key, Mapping[str, Any]] = {}
        for row in read_samples(variant.directory, task):
            name = (str(row.get("task", task)), str(row.get("doc_hash")))
            found[(*name, seen[name])] = row
            seen[name] += 1
        return cls(found)


def pair(base: Variant, variant: Variant, tasks: Sequence[str] | None = None) -> list[PairedTask]:
    """Pair two variants on every task that both have; verdicts are given by `give_verdicts`, once all pairs are known.

    Args:
        base: The baseline.
        variant: What is compared with it.
        tasks: Tasks to pair; by default those that both variants have a record of.
    """
    shared = ordered_tasks(set(base.accuracy) & set(variant.accuracy)) if tasks is None else tasks
    return [_paired(task, base, variant, task_obstacles(task, variant, base)) for task in shared]


def _paired(task: str, base: Variant, variant: Variant, obstacles: Sequence[str]) -> PairedTask:
    if obstacles or task not in base.accuracy or task not in variant.accuracy:
        return PairedTask(task=task, refused=", ".join(obstacles) or "measured on one side only")
    metric = variant.accuracy[task].metric
    try:
        here, there = _Items.of(variant, task), _Items.of(base, task)
    except ResultFileError as error:
        return PairedTask(task=task, metric=metric, refused=error.cause)
    refusal = _refusal(base, variant, there, here)
    if refusal is not None:
        return PairedTask(task=task, metric=metric, refused=refusal)
    scores = {key: (_score(there, key, metric), _score(here, key, metric)) for key in here.by_key}
    scored = {key: (a, b) for key, (a, b) in scores.items() if a is not None and b is not None}
    lopsided = sum((a is None) != (b is None) for a, b in scores.values())
    if lopsided:  # an answer without a score is seldom missing by chance: left out, it would hide a broken model
        return PairedTask(
            task=task, metric=metric, refused=f"{lopsided} of {len(scores)} items have a score on one side only"
        )
    if not scored:
        return PairedTask(task=task, metric=metric, refused=f"no item has a score of its own for {metric}")
    keys = list(scored)
    before, after = ([pair[side] for pair in scored.values()] for side in (0, 1))
    clusters = [key[0] for key in keys]
    found = stats.paired_difference(before, after, clusters if len(set(clusters)) > 1 else None)
    interval = found.interval
    return PairedTask(
        task=task,
        metric=metric,
        num_items=found.num_items,
        num_left_out=len(scores) - len(scored),
        num_clusters=len(set(clusters)),
        design_effect=_design_effect(found),
        baseline_accuracy=math.fsum(before) / len(keys),
        accuracy=math.fsum(after) / len(keys),
        drop_pp=found.difference * 100,
        interval_pp=None if interval is None else (interval.low * 100, interval.high * 100),
        lost=found.lost,
        gained=found.gained,
        flips=found.flips,
        p_value=found.p_value,
        answer_kl=_answer_kl(there, here, keys),
    )


def _refusal(base: Variant, variant: Variant, there: _Items, here: _Items) -> str | None:
    """Why the items of two variants are not the same work."""
    for side, items in ((base, there), (variant, here)):
        if not items.by_key:
            return f"{side.precision} has {NO_ITEM_OUTCOMES}"
    only_there, only_here = there.by_key.keys() - here.by_key.keys(), here.by_key.keys() - there.by_key.keys()
    if only_there or only_here:
        return (
            f"items differ: {len(only_there)} only in the first, {len(only_here)} only in the second, "
            f"{len(there.by_key.keys() & here.by_key.keys())} in both"
        )
    other = sum(there.by_key[key].get("prompt_hash") != row.get("prompt_hash") for key, row in here.by_key.items())
    if other:
        return f"prompts differ for {other} of {len(here.by_key)} items: few-shot examples, seed or chat template"
    return None


def _score(items: _Items, key: _Key, metric: str | None) -> float | None:
    value = items.by_key[key].get(metric or "")
    return float(value) if isinstance(value, (bool, int, float)) and math.isfinite(value) else None


def _answer_kl(there: _Items, here: _Items, keys: Sequence[_Key]) -> float | None:
    """KL divergence over the answer choices, from the baseline to the other; None for tasks without choices."""
    pairs = [(there.by_key[key].get("loglikelihoods"), here.by_key[key].get("loglikelihoods")) for key in keys]
    usable = [
        (p, q) for p, q in pairs
        if p and q and len(p) == len(q) > 1 and None not in p and None not in q
    ]  # fmt: skip
    return stats.answer_kl(*zip(*usable, strict=True)) if usable else None


def give_verdicts(groups: Sequence[Sequence[PairedTask]], margin_pp: float) -> list[list[PairedTask]]:
    """Give verdicts to all pairs that are shown together; their p-values are corrected for each other (Holm).

    *equivalent*: the drop is below the margin with 97.5 % confidence (the upper end of the paired interval is).
    *degraded*: otherwise, the interval lies above 0 and the corrected p-value is at most 0.05. *underpowered*:
    neither; `items_needed` would show a drop of the margin's size with 80 % power.

    Args:
        groups: Pairs a variant.
        margin_pp: Drop in percentage points that still counts as equivalent.
    """
    corrected = iter(stats.holm([task.p_value for group in groups for task in group]))
    return [[_judge(task, next(corrected), margin_pp) for task in group] for group in groups]


def _judge(task: PairedTask, p_holm: float | None, margin_pp: float) -> PairedTask:
    changes: dict[str, Any] = {"margin_pp": margin_pp, "p_value_holm": p_holm}
    if task.drop_pp is not None:
        changes["verdict"] = verdict(task.interval_pp, p_holm, margin_pp)
        if changes["verdict"] == UNDERPOWERED:
            changes["items_needed"] = _items_needed(task, margin_pp)
    return task.model_copy(update=changes)


def verdict(interval_pp: tuple[float, float] | None, p_holm: float | None, margin_pp: float) -> str:
    """The verdict on a drop, from its interval and its corrected p-value; see `give_verdicts`."""
    if interval_pp is None:
        return UNDERPOWERED
    low, high = interval_pp
    if high < margin_pp:
        return EQUIVALENT
    return DEGRADED if low > 0 and p_holm is not None and p_holm <= ALPHA else UNDERPOWERED


def _items_needed(task: PairedTask, margin_pp: float) -> int | None:
    """Items that would show a drop of the margin, at the rate of flips that was seen (one more each way, for none).

    None if there are already as many: then the true drop is close to the margin, or there are too few subtasks.
    """
    if task.lost is None or task.gained is None or task.num_items is None:
        return None
    rate = (task.lost + task.gained + 2) / (task.num_items + 2)
    independent = stats.items_needed(margin_pp / 100, flip_rate=min(rate, 1.0), power=POWER, alpha=ALPHA)
    needed = math.ceil(independent * (task.design_effect or 1.0))
    return needed if needed > task.num_items else None


def _design_effect(found: stats.PairedDifference) -> float | None:
    """By how much dependence within subtasks multiplies the variance of the difference; None for graded scores."""
    if found.lost is None or found.gained is None or found.stderr is None or found.num_items < 2:
        return None
    n, net = found.num_items, found.lost - found.gained
    simple = (found.lost + found.gained - net * net / n) / (n - 1) / n
    return max(1.0, found.stderr**2 / simple) if simple > 0 else 1.0


def update_paired(model_directory: Path, margin_pp: float) -> list[PairedRecord]:
    """Update `paired.json` in every quantized variant of a model; do nothing if its baseline is missing.

    All of them at once: their p-values are corrected for each other. A file with the same content is left unchanged.

    Args:
        model_directory: Folder with the variants of one model.
        margin_pp: Drop in percentage points that still counts as equivalent.

    Returns:
        The content of the files.
    """
    variants = find_results(model_directory).variants
    written = []
    for (base, variant), tasks in pair_all(variants, margin_pp):
        record = PairedRecord(
            model=variant.model,
            precision=variant.precision,
            baseline=Path(os.path.relpath(base.directory, variant.directory)).as_posix(),
            timestamp=environment.now(),
            margin_pp=margin_pp,
            tasks=tuple(tasks),
        )
        if not _stands(variant.directory, record):
            write_paired(variant.directory, record)
        written.append(record)
    return written


def _stands(directory: Path, record: PairedRecord) -> bool:
    """Whether a variant's `paired.json` already has this content, apart from its timestamp."""
    try:
        found = PairedRecord.model_validate(safe_json.read_json(directory / PAIRED))
    except (OSError, ValueError):
        return False
    return found.model_copy(update={"timestamp": record.timestamp}) == record


def pair_all(variants: Sequence[Variant], margin_pp: float) -> list[tuple[tuple[Variant, Variant], list[PairedTask]]]:
    """Every quantized variant with its baseline and their shared tasks, judged together; pairs without any left out.

    Args:
        variants: Variants of any models.
        margin_pp: Drop in percentage points that still counts as equivalent.
    """
    models = by_model(variants)
    pairs = [
        (base, variant) for variant in variants
        if not variant.is_baseline and (base := baseline_variant(variant, models[variant.base_model])) is not None
        and set(base.accuracy) & set(variant.accuracy)
    ]  # fmt: skip
    verdicts = give_verdicts([pair(base, variant) for base, variant in pairs], margin_pp)
    return list(zip(pairs, verdicts, strict=True))


def baseline_variant(variant: Variant, variants: Sequence[Variant]) -> Variant | None:
    """The baseline of a variant's model; from the same folder if there are several; None if there is none."""
    found = [v for v in variants if v.is_baseline and v.precision == variant.baseline and v.model == variant.base_model]
    return min(found, key=lambda other: other.directory.parent != variant.directory.parent, default=None)
