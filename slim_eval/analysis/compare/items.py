"""Two variants on the same items: the drop per task, its confidence, and a verdict. The first variant is the baseline.

Items are matched by subtask and lm-eval's document hash. Different work is refused, with the difference named: a
different metric, limit, few-shot count or task version, different items, different prompts.

Without outcomes of single items, the two accuracies are compared as independent shares, from what `evidence_of` finds
in their records, and scores in a unit of their own by their standard errors; both are marked as unpaired. On the same
items that interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import baseline_of, obstacles
from slim_eval.errors import ResultFileError
from slim_eval.metrics import Change, Metric
from slim_eval.results.records import MemberRecord, PairedRecord, PairedTask
from slim_eval.results.store import PAIRED, find_results, read_samples, write_paired
from slim_eval.results.variants import Variant, by_model, evidence_of, metric_of, ordered_tasks
from slim_eval.utils import environment, safe_json

ALPHA = 0.05
POWER = 0.8

EQUIVALENT, DEGRADED, UNDERPOWERED, IMPROVED = "equivalent", "degraded", "underpowered", "improved"
#: Verdict in records -> the word that people read.
VERDICT_WORDS = {EQUIVALENT: "equivalent", DEGRADED: "degraded", IMPROVED: "improved", UNDERPOWERED: "inconclusive"}

_LARGEST_LOG = 700.0  # exp of more overflows
_SAME = 1e-3  # relative; a value and what the scores of its items give

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
    row = metric_of(task, (variant, base))
    why = obstacles(row, variant, base)
    if why or task not in base.accuracy or task not in variant.accuracy:
        return PairedTask(task=task, refused=", ".join(why) or "measured on one side only")
    metric = variant.accuracy[task].metric
    if row.better is None:
        return PairedTask(task=task, metric=metric, refused=f"whether more or less {row.unit} is better is not known")
    try:
        here, there = _items(variant, task), _items(base, task)
    except ResultFileError as error:
        return PairedTask(task=task, metric=metric, refused=error.cause)
    both = [key for key in here if key in there]
    prompts = sum(there[key].get("prompt_hash") != here[key].get("prompt_hash") for key in both)
    read = _log_likelihood if row.change is Change.RATIO else _score
    scores = {key: (read(there[key], metric), read(here[key], metric)) for key in both}
    lopsided = sum((a is None) != (b is None) for a, b in scores.values())
    scored = {key: (a, b) for key, (a, b) in scores.items() if a is not None and b is not None}
    refused = None
    if not there or not here:
        lack = f"{(variant if there else base).precision} has {NO_ITEM_OUTCOMES}"
        if not row.is_share:
            return _in_own_unit(PairedTask(task=task, metric=metric, no_interval=lack), row, base, variant, {})
        return _unpaired(task, base, variant) or PairedTask(task=task, metric=metric, refused=lack)
    if here.keys() != there.keys():
        only_there, only_here = len(there) - len(both), len(here) - len(both)
        refused = f"items differ: {only_there} only in the first, {only_here} only in the second, {len(both)} in both"
    elif prompts:
        refused = f"prompts differ for {prompts} of {len(here)} items: few-shot examples, seed or chat template"
    elif lopsided:  # an answer without a score is seldom missing by chance: left out, it would hide a broken model
        refused = f"{lopsided} of {len(scores)} items have a score on one side only"
    elif not scored:
        refused = f"no item has a score of its own for {metric}"
        if not row.is_share:
            return _in_own_unit(PairedTask(task=task, metric=metric, no_interval=refused), row, base, variant, {})
    if refused is not None:
        return PairedTask(task=task, metric=metric, refused=refused)

    clusters = [subtask for subtask, *_ in scored]
    if not row.is_share:
        left_out = len(scores) - len(scored)
        made = PairedTask(task=task, metric=metric, num_left_out=left_out, num_clusters=len(set(clusters)))
        return _in_own_unit(made, row, base, variant, scored)
    before, after = zip(*scored.values(), strict=True)
    # If less is better, the first of the two is the one that should be below.
    sides = (before, after) if row.maximise else (after, before)
    found = stats.paired_difference(*sides, clusters if len(set(clusters)) > 1 else None)
    choices = [(there[key].get("loglikelihoods"), here[key].get("loglikelihoods")) for key in scored]
    usable = [
        (p, q) for p, q in choices if p and q and len(p) == len(q) > 1 and None not in p and None not in q
    ]  # fmt: skip
    return PairedTask(
        task=task,
        metric=metric,
        higher_is_better=None if row.maximise else False,
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
    maximise = metric_of(task, (variant, base)).maximise
    above, below = sides if maximise else sides[::-1]
    found = stats.unpaired_difference(*above, *below)
    counts = [evidence.num_items for evidence in (before, after) if evidence.num_items is not None]
    return PairedTask(
        task=task,
        metric=second.metric,
        higher_is_better=None if maximise else False,
        unpaired=True,
        assumed=before.assumed or after.assumed,
        interval_from=" and ".join(dict.fromkeys((before.source, after.source))),
        num_items=min(counts) if len(counts) == 2 else None,
        # Items that depend on each other count less. That graded scores may count more does not come from the design.
        design_effect=max([1.0, *(e.num_items / e.items for e in (before, after) if e.num_items is not None)]),
        baseline_accuracy=first.accuracy,
        accuracy=second.accuracy,
        drop_pp=found.difference * 100,
        interval_pp=(found.interval.low * 100, found.interval.high * 100),
        p_value=found.p_value,
    )


def _in_own_unit(
    made: PairedTask, row: Metric, base: Variant, variant: Variant, scored: Mapping[_Key, tuple[Any, Any]]
) -> PairedTask:
    """A task whose metric is not a share: the ratio of two perplexities, or the loss in the unit of the metric.

    Its interval is paired if the two values are those of its documents' log-likelihoods, or the means of its items'
    scores, else that of their two standard errors; without these it has none.
    """
    a, b = (side.number(row) for side in (base, variant))
    if a is None or b is None:
        return made.model_copy(update={"refused": "not measured"})
    changes: dict[str, Any] = {"higher_is_better": row.maximise, "baseline_accuracy": a, "accuracy": b}
    if row.change is Change.RATIO:
        if min(a, b) <= 0:
            return made.model_copy(update={"refused": f"a {row.unit} of 0 or less has no ratio"})
        changes["ratio"] = b / a
    else:
        changes["loss"] = row.loss(a, b)
    by_errors = _by_standard_errors(row, base, variant)
    if made.no_interval is not None:
        return made.model_copy(update=changes | by_errors)
    there, here = ([pair[side] for pair in scored.values()] for side in (0, 1))
    clusters: list[str] | None = [subtask for subtask, *_ in scored]
    clusters = clusters if len(set(clusters or ())) > 1 else None
    found: stats.PairedRatio | stats.PairedDifference
    if row.change is Change.RATIO:
        (before, weights), (after, others) = zip(*there, strict=True), zip(*here, strict=True)
        nats = [-math.fsum(side) / math.fsum(weights) for side in (before, after)]
        in_bits = row.unit == "bits per byte"  # nats / ln 2; a perplexity is their exponential
        own = [nat / math.log(2) if in_bits else math.exp(min(nat, _LARGEST_LOG)) for nat in nats]
        if weights != others:
            return made.model_copy(update={"refused": "documents differ in their numbers of words or bytes"})
        is_same = _same(own, (a, b))
        if is_same:
            pair = stats.total_ratio(before, after, clusters) if in_bits else None
            found = pair or stats.perplexity_ratio(before, after, weights, clusters)
            changes |= {"ratio": found.ratio, "ratio_interval": _ends(found.interval)}
    else:
        is_same = _same([math.fsum(side) / len(scored) for side in (there, here)], (a, b))
        if is_same:
            found = stats.paired_difference(*((there, here) if row.maximise else (here, there)), clusters)
            changes |= {"loss": found.difference, "loss_interval": _ends(found.interval)}
            changes |= {"lost": found.lost, "gained": found.gained, "flips": found.flips}
    if not is_same:
        lack = {"no_interval": f"{row.unit} is not the mean of scores of single items"}
        return made.model_copy(update=changes | (by_errors or lack))
    return made.model_copy(update=changes | {"num_items": len(scored), "p_value": found.p_value})


def _by_standard_errors(row: Metric, base: Variant, variant: Variant) -> dict[str, Any]:
    """The interval and the p-value of a score in its own unit from two standard errors, as fields; empty without."""
    (a, error_a), (b, error_b) = ((r.accuracy, r.stderr) for r in (s.accuracy[row.key] for s in (base, variant)))
    if a is None or b is None or not error_a or not error_b:  # 0 says only that all items had the same score
        return {}
    found: dict[str, Any] = {"unpaired": True, "interval_from": "the standard error", "no_interval": None}
    if row.change is Change.RATIO:
        logs = stats.unpaired_amounts(math.log(b), error_b / b, math.log(a), error_a / a)
        ends = (math.exp(logs.interval.low), math.exp(logs.interval.high))
        return found | {"ratio_interval": ends, "p_value": logs.p_value}
    above, below = ((a, error_a), (b, error_b)) if row.maximise else ((b, error_b), (a, error_a))
    loss = stats.unpaired_amounts(*above, *below)
    return found | {"loss_interval": _ends(loss.interval), "p_value": loss.p_value}


def _same(values: Sequence[float], recorded: Sequence[float]) -> bool:
    return all(math.isclose(x, y, rel_tol=_SAME, abs_tol=1e-6) for x, y in zip(values, recorded, strict=True))


def _ends(interval: stats.Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _items(variant: Variant, task: str) -> _Items:
    seen: Counter[tuple[str, str]] = Counter()
    found: _Items = {}
    record = variant.accuracy[task]
    member = record if isinstance(record, MemberRecord) else None
    for row in read_samples(variant.directory, task if member is None else member.group):
        if member is not None and str(row.get("task")) not in member.leaves:
            continue
        name = (str(row.get("task", task)), str(row.get("doc_hash")))
        found[(*name, seen[name])] = row
        seen[name] += 1
    return found


def _score(item: Mapping[str, Any], metric: str | None) -> float | None:
    value = item.get(metric or "")
    return float(value) if isinstance(value, (bool, int, float)) and math.isfinite(value) else None


def _log_likelihood(item: Mapping[str, Any], metric: str | None) -> tuple[float, float] | None:
    """The log-likelihood of a document and its weight: its words or bytes, 1 for a perplexity per document."""
    value = item.get(metric or "")
    parts = value if isinstance(value, list) else [value, 1.0]
    found = [float(part) for part in parts if isinstance(part, (int, float)) and math.isfinite(part)]
    return (found[0], found[1]) if len(parts) == len(found) == 2 and found[1] > 0 else None


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
    is in percentage points: a metric in its own unit has none, and is *degraded* or *improved* if the interval and the
    p-value show it.
    """
    p_values = [task.p_value for group in groups for task in group]
    # What is significant at this level is so whatever the other p-values are.
    alpha = ALPHA / max(1, sum(value is not None for value in p_values))
    corrected = iter(stats.holm(p_values))
    return [[_judge(task, next(corrected), margin_pp, alpha) for task in group] for group in groups]


def _judge(task: PairedTask, p_holm: float | None, margin_pp: float, alpha: float) -> PairedTask:
    if task.loss is not None or task.ratio is not None:
        return task.model_copy(update={"p_value_holm": p_holm, "verdict": _direction(task, p_holm)})
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


def _direction(task: PairedTask, p_holm: float | None) -> str | None:
    """The verdict on a metric in its own unit, which has no margin; None without an interval."""
    if task.ratio_interval is not None:
        low, high = (end - 1 for end in task.ratio_interval)
        low, high = (-high, -low) if task.higher_is_better else (low, high)
    elif task.loss_interval is not None:
        low, high = task.loss_interval
    else:
        return None
    if p_holm is None or p_holm > ALPHA or low <= 0 <= high:
        return UNDERPOWERED
    return DEGRADED if low > 0 else IMPROVED


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

    Of several baselines, the one that `baseline_of` takes. A drop of `margin_pp` points still counts as equivalent.
    """
    models = by_model(variants)
    pairs = []
    for variant in variants:
        base = baseline_of(variant, models[variant.base_model])
        if not variant.is_baseline and base is not None and set(base.accuracy) & set(variant.accuracy):
            pairs.append((base, variant))
    verdicts = give_verdicts([pair(base, variant) for base, variant in pairs], margin_pp)
    return list(zip(pairs, verdicts, strict=True))
