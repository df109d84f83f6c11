"""Outcomes of single items: as rows, and how sure the accuracy is that they make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.stats import clustered_stderr, wilson_interval

_LOGLIKELIHOOD_TYPES = {"multiple_choice", "loglikelihood", "loglikelihood_rolling"}
_NORMAL_95 = 1.96  # standard errors to each side of a 95 % interval
_SAME_MEAN = 1e-6


@dataclass(frozen=True)
class Uncertainty:
    """How sure an accuracy is.

    Attributes:
        clustered_stderr: Its standard error where items of a subtask may succeed and fail together; None for one task.
        interval: 95 %, in the unit of the accuracy; None where the items do not say it.
    """

    clustered_stderr: float | None = None
    interval: tuple[float, float] | None = None


def uncertainty(
    items: Sequence[Mapping[str, Any]], metric: str | None, accuracy: float | None, stderr: float | None
) -> Uncertainty:
    """How sure an accuracy is, by the scores of its items.

    Where each item is right (1) or wrong (0): Wilson's interval. Over several subtasks: accuracy ± 1.96 clustered
    standard errors, subtasks being the clusters (Miller, arXiv 2411.00640), where that is wider; within
    0 and 1. Where items are graded: accuracy ± 1.96 standard errors, the larger one of two.

    Args:
        items: One row an item, with ``task`` and its score under `metric`.
        metric: Name of the headline metric.
        accuracy: Its value. Nothing is said of one that is not the mean of the items' scores: an F1, a perplexity, a
            mean over subtasks of different size.
        stderr: Its standard error as lm-eval gives it.
    """
    scores = [finite(item.get(metric or "")) for item in items]
    known = [score for score in scores if score is not None]
    if accuracy is None or not known or len(known) < len(scores):
        return Uncertainty()
    if abs(math.fsum(known) / len(known) - accuracy) > _SAME_MEAN:
        return Uncertainty()
    tasks = [str(item["task"]) for item in items]
    clustered = clustered_stderr(known, tasks) if len(set(tasks)) > 1 else None
    if set(known) <= {0.0, 1.0}:
        return Uncertainty(clustered, _of_right_and_wrong(known, accuracy, clustered))
    errors = [error for error in (stderr, clustered) if error is not None]
    return Uncertainty(clustered, _normal(accuracy, max(errors)) if errors else None)


def _of_right_and_wrong(scores: Sequence[float], accuracy: float, clustered: float | None) -> tuple[float, float]:
    wilson = wilson_interval(int(sum(scores)), len(scores))
    if clustered is not None and 2 * _NORMAL_95 * clustered > wilson.high - wilson.low:
        low, high = _normal(accuracy, clustered)
        return max(low, 0.0), min(high, 1.0)
    return wilson.low, wilson.high


def _normal(value: float, stderr: float) -> tuple[float, float]:
    return value - _NORMAL_95 * stderr, value + _NORMAL_95 * stderr


def items(task: str, rows: Iterable[Mapping[str, Any]], kind: str | None) -> list[dict[str, Any]]:
    """One row an item; lm-eval has one an item and filter.

    Args:
        task: The (sub)task.
        rows: What lm-eval logged of it.
        kind: The task's output type.
    """
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        item = found.setdefault(row["doc_id"], _item(task, row, kind))
        item.update({f"{metric},{row['filter']}": plain(row[metric]) for metric in row["metrics"]})
        if "extracted" in item:
            item["extracted"][row["filter"]] = plain(row["filtered_resps"][0])
    return list(found.values())


def _item(task: str, row: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """What an item has whatever the filter."""
    item = {"task": task, **{key: row[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")}}
    item["target"] = plain(row["target"])
    if kind in _LOGLIKELIHOOD_TYPES:
        # A choice's answer is (log-likelihood, is greedy); a rolling one's is the log-likelihood alone.
        answers = [repeats[0] for repeats in row["resps"]]
        item["loglikelihoods"] = [plain(x[0] if isinstance(x, (tuple, list)) else x) for x in answers]
    else:
        repeats = row["resps"][0]
        item["response"] = plain(repeats[0] if len(repeats) == 1 else repeats)
        item["extracted"] = {}
    return item


def finite(value: Any) -> float | None:
    """A number as float; None for what is no number, and for one that is not finite."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A value as JSON has it; NumPy and torch values as the Python numbers they hold."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value if isinstance(value, (int, float)) else str(value)
