"""Two variants on the same items: the drop per task, its confidence, and a verdict. The first variant is the baseline.

Items are matched by subtask and lm-eval's document hash. Different work is refused, with the difference named: a
different metric, limit, few-shot count or task version, different items, different prompts.

Without outcomes of single items, the two accuracies are compared as independent shares, from what `evidence_of` finds
in their records, and marked as unpaired. On the same items that interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import obstacles
from slim_eval.errors import ResultFileError
from slim_eval.results.records import PairedRecord, PairedTask
from slim_eval.results.store import PAIRED, find_results, read_samples, write_paired
from slim_eval.results.variants import Variant, by_model, evidence_of, metric_of, ordered_tasks
from slim_eval.utils import environment, safe_json

ALPHA = 0.05
POWER = 0.8

EQUIVALENT, DEGRADED, UNDERPOWERED = "equivalent", "degraded", "underpowered"

#: End of the refusal of a pair if one side kept no samples.
NO_ITEM_OUTCOMES = "no outcomes of single items"
#: How to get a narrower interval.
LOG_SAMPLES = "log samples (lm_eval --log_samples) to compare item by item"

_Key = tuple[str, str, int]  # subtask, document hash, which of several items with that hash
_Items = dict[_Key, Mapping[str, Any]]


def pair(base: Variant, variant: Variant, tasks: Sequence[str] | None = None) -> list[PairedTask]:
    """Pair a variant with its baseline on tasks; by default on those that both have a record of.

    Verdicts are given by `give_verdicts`, once all pairs are known.
    """
    shared = ordered_tasks(set(base.accuracy) & set(variant.accuracy)) if tasks is None else tasks
    return [_paired(task, base, variant) for task in shared]


def _paired(task: str, base: Variant, variant: Variant) -> PairedTask:
    why = obstacles(metric_of(task, (variant, base)), variant, base)
    if why or task not in base.accuracy or task not in variant.accuracy:
        return PairedTask(task=task, refused=", ".join(why) or "measured on one side only")
    metric = variant.accuracy[task].metric
    try:
        here, there = _items(variant, task), _items(base, task)
    except ResultFileError as error:
        return PairedTask(task=task, metric=metric, refused=error.cause)
    both = [key for key in here if key in there]
    prompts = sum(there[key].get("prompt_hash") != here[key].get("prompt_hash") for key in both)
    scores = {key: (_score(there[key], metric), _score(here[key], metric)) for key in both}
    lopsided = sum((a is None) != (b is None) for a, b in scores.values())
    scored = {key: (a, b) for key, (a, b) in scores.items() if a is not None and b is not None}
    refused = None
    if not there or not here:
        side = (variant if there else base).precision
        return _unpaired(task, base, variant) or PairedTask(
            task=task, metric=metric, refused=f"{side} has {NO_ITEM_OUTCOMES}"
        )
    if here.keys() != there.keys():
        only_there, only_here = len(there) - len(both), len(here) - len(both)
        refused = f"items differ: {only_there} only in the first, {only_here} only in the second, {len(both)} in both"
    elif prompts:
        refused = f"prompts differ for {prompts} of {len(here)} items: few-shot examples, seed or chat template"
    elif lopsided:  # an answer without a score is seldom missing by chance: left out, it would hide a broken model
        refused = f"{lopsided} of {len(scores)} items have a score on one side only"
    elif not scored:
        refused = f"no item has a score of its own for {metric}"
    if refused is not None:
        return PairedTask(task=task, metric=metric, refused=refused)

    before, after = zip(*scored.values(), strict=True)
    clusters = [subtask for subtask, *_ in scored]
    found = stats.paired_difference(before, after, clusters if len(set(clusters)) > 1 else None)
    choices = [(there[key].get("loglikelihoods"), here[key].get("loglikelihoods")) for key in scored]
    usable = [
        (p, q) for p, q in choices if p and q and len(p) == len(q) > 1 and None not in p and None not in q
    ]  # fmt: skip
    return PairedTask(
        task=task,
        metric=metric,
        num_items=found.num_items,
        num_left_out=len(scores) - len(scored),
        num_clusters=len(set(clusters)),
        design_effect=_design_effect(found),
        baseline_accuracy=math.fsum(before) / len(scored),
        accuracy=math.fsum(after) / len(scored),
        drop_pp=found.difference * 100,
        interval_pp=None if found.interval is None else (found.interval.low * 100, found.interval.high * 100),
        lost=found.lost,
        gained=found.gained,
        flips=found.flips,
        p_value=found.p_value,
        answer_kl=stats.answer_kl(*zip(*usable, strict=True)) if usable else None,
    )


def _unpaired(task: str, base: Variant, variant: Variant) -> PairedTask | None:
    """A task from the two accuracies alone; None if one of them rests on nothing that is known."""
    first, second = base.accuracy[task], variant.accuracy[task]
    before, after = evidence_of(first), evidence_of(second)
    if before is None or after is None or first.accuracy is None or second.accuracy is None:
        return None
    # If less is better, the first of the two is the one that should be below.
    sides = [(first.accuracy, before.items), (second.accuracy, after.items)]
    above, below = sides if metric_of(task, (variant, base)).maximise else sides[::-1]
    found = stats.unpaired_difference(*above, *below)
    counts = [evidence.num_items for evidence in (before, after) if evidence.num_items is not None]
    return PairedTask(
        task=task,
        metric=second.metric,
        unpaired=True,
        assumed=before.assumed or after.assumed,
        interval_from=" and ".join(dict.fromkeys((before.source, after.source))),
        num_items=min(counts) if len(counts) == 2 else None,
        # Items that depend on each other count less. Graded scores may count more, which is no effect of the design.
        design_effect=max([1.0, *(e.num_items / e.items for e in (before, after) if e.num_items is not None)]),
        baseline_accuracy=first.accuracy,
        accuracy=second.accuracy,
        drop_pp=found.difference * 100,
        interval_pp=(found.interval.low * 100, found.interval.high * 100),
        p_value=found.p_value,
    )


def _items(variant: Variant, task: str) -> _Items:
    seen: Counter[tuple[str, str]] = Counter()
    found: _Items = {}
    for row in read_samples(variant.directory, task):
        name = (str(row.get("task", task)), str(row.get("doc_hash")))
        found[(*name, seen[name])] = row
        seen[name] += 1
    return found


def _score(item: Mapping[str, Any], metric: str | None) -> float | None:
    value = item.get(metric or "")
    return float(value) if isinstance(value, (bool, int, float)) and math.isfinite(value) else None


def _design_effect(found: stats.PairedDifference) -> float | None:
    """By how much dependence within subtasks multiplies the variance of the difference; None for graded scores."""
    if found.lost is None or found.gained is None or found.stderr is None or found.num_items < 2:
        return None
    n, net = found.num_items, found.lost - found.gained
    simple = (found.lost + found.gained - net * net / n) / (n - 1) / n
    return max(1.0, found.stderr**2 / simple) if simple > 0 else 1.0


def give_verdicts(groups: Sequence[Sequence[PairedTask]], margin_pp: float) -> list[list[PairedTask]]:
    """Give verdicts to all pairs that are shown together; their p-values are corrected for each other (Holm).

    *equivalent*: the drop is below the margin with 97.5 % confidence (the upper end of the interval is). *degraded*:
    otherwise, the interval lies above 0 and the corrected p-value is at most 0.05. *underpowered*: neither;
    `items_needed` would show a drop of the margin's size with 80 % power, beside as many other comparisons. The margin
    is in percentage points.
    """
    p_values = [task.p_value for group in groups for task in group]
    # What is significant at this level is so whatever the other p-values are.
    alpha = ALPHA / max(1, sum(value is not None for value in p_values))
    corrected = iter(stats.holm(p_values))
    return [[_judge(task, next(corrected), margin_pp, alpha) for task in group] for group in groups]


def _judge(task: PairedTask, p_holm: float | None, margin_pp: float, alpha: float) -> PairedTask:
    judgement = None if task.drop_pp is None else verdict(task.interval_pp, p_holm, margin_pp)
    changes: dict[str, Any] = {"margin_pp": margin_pp, "p_value_holm": p_holm, "verdict": judgement}
    if judgement == UNDERPOWERED and margin_pp > 0:
        changes |= _items_needed(task, margin_pp / 100, alpha)
    return task.model_copy(update=changes)


def _items_needed(task: PairedTask, effect: float, alpha: float) -> dict[str, Any]:
    """How many items would show a drop of `effect`, as fields; `items_needed` is None if there are already as many.

    Then the true drop is close to the margin.
    """
    n, lost, gained = task.num_items, task.lost, task.gained
    if task.unpaired and task.baseline_accuracy is not None:
        independent = stats.unpaired_items_needed(task.baseline_accuracy, effect, power=POWER, alpha=alpha)
        needed: int | None = math.ceil(independent * (task.design_effect or 1.0))
        return {"items_needed": needed if n is None or (needed or 0) > n else None}
    if n is None or lost is None or gained is None or task.num_clusters == 0:
        return {}
    # At the rate of flips that was seen (one more each way, for none).
    needed = stats.items_to_decide(
        effect,
        flip_rate=min((lost + gained + 2) / (n + 2), 1.0),
        num_items=n,
        num_clusters=task.num_clusters if (task.num_clusters or 1) > 1 else None,
        design_effect=task.design_effect or 1.0,
        power=POWER,
        alpha=alpha,
    )
    if needed is None:
        return {"needs_subtasks": True}
    return {"items_needed": needed if needed > n else None}


def verdict(interval_pp: tuple[float, float] | None, p_holm: float | None, margin_pp: float) -> str:
    """The verdict on a drop, from its interval and its corrected p-value; see `give_verdicts`."""
    if interval_pp is None:
        return UNDERPOWERED
    low, high = interval_pp
    if high < margin_pp:
        return EQUIVALENT
    return DEGRADED if low > 0 and p_holm is not None and p_holm <= ALPHA else UNDERPOWERED


def update_paired(folders: Path | Sequence[Path], margin_pp: float) -> list[PairedRecord]:
    """Update `paired.json` in every quantized variant of a model, and return what these files contain.

    `folders` are those of the model, and of the checkpoints that others made from it.

    All of them at once: their p-values are corrected for each other. A file with the same content is left unchanged.
    None are written if the baseline is missing.
    """
    records = []
    found_in = [folders] if isinstance(folders, Path) else folders
    variants = [variant for folder in found_in for variant in find_results(folder).variants]
    for (base, variant), tasks in pair_all(variants, margin_pp):
        record = PairedRecord(
            model=variant.model,
            precision=variant.precision,
            baseline=Path(os.path.relpath(base.directory, variant.directory)).as_posix(),
            timestamp=environment.now(),
            margin_pp=margin_pp,
            tasks=tuple(tasks),
        )
        try:
            found = PairedRecord.model_validate(safe_json.read_json(variant.directory / PAIRED))
            unchanged = found.model_copy(update={"timestamp": record.timestamp}) == record
        except (OSError, ValueError):
            unchanged = False
        if not unchanged:
            write_paired(variant.directory, record)
        records.append(record)
    return records


def pair_all(variants: Sequence[Variant], margin_pp: float) -> list[tuple[tuple[Variant, Variant], list[PairedTask]]]:
    """Every quantized variant with its baseline and their shared tasks, judged together; pairs without any left out.

    Of several baselines, the one in the same folder. A drop of `margin_pp` points still counts as equivalent.
    """
    models = by_model(variants)
    pairs = []
    for variant in variants:
        model, name = variant.base_model, variant.baseline
        bases = (v for v in models[model] if v.is_baseline and v.precision == name and v.model == model)
        base = min(bases, key=lambda other: other.directory.parent != variant.directory.parent, default=None)
        if not variant.is_baseline and base is not None and set(base.accuracy) & set(variant.accuracy):
            pairs.append((base, variant))
    verdicts = give_verdicts([pair(base, variant) for base, variant in pairs], margin_pp)
    return list(zip(pairs, verdicts, strict=True))
