"""A comparison as a terminal table, as Markdown and as JSON, from the same columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from slim_eval.analysis.compare.comparison import MetricComparison, TaskComparison, VariantComparison
from slim_eval.analysis.compare.folders import ComparisonReport
from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.results.variants import Interval
from slim_eval.utils import number

_ABSENT = "-"
_LONGEST_WORD = 24
_STYLES = {
    "better": "green", "worse": "red", "degraded": "red", "equivalent": "green", "confounded": "yellow",
    "within noise": "dim", "no difference seen": "dim",
}  # fmt: skip
_GAIN_NOTE = "gain: B relative to A, above 1x is better (for power: B / A); 95 % interval in brackets"


@dataclass(frozen=True)
class _Column:
    """A column: its header, and the text of each row."""

    header: str
    text: Callable[[Any], str]
    justify: Literal["left", "right"] = "right"


def _value(value: float | None, interval: Interval | None, scale: float) -> str:
    if value is None:
        return _ABSENT
    half = "" if interval is None else f" ±{number((interval[1] - interval[0]) / 2 * scale)}"
    return f"{number(value * scale)}{half}"


def _gain(made: MetricComparison) -> str:
    shown = made.ratio if made.metric.better is None else made.gain
    if shown is None:
        return _ABSENT
    if made.interval is None or made.interval[0] == made.interval[1] or min(made.interval) <= 0:
        return f"{shown:.2f}x"
    ends = made.interval if made.metric.better != "lower" else (1 / made.interval[1], 1 / made.interval[0])
    return f"{shown:.2f}x [{ends[0]:.2f}, {ends[1]:.2f}]"


def _percent(share: float | None) -> str:
    return _ABSENT if share is None else f"{share * 100:.1f}"


def _drop(task: TaskComparison) -> str:
    paired = task.paired
    if paired.drop_pp is None:
        return _ABSENT if task.a is None or task.b is None else _points((task.a - task.b) * 100)
    ends = paired.interval_pp
    return _points(paired.drop_pp) + ("" if ends is None else f" [{_points(ends[0])}, {_points(ends[1])}]")


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def _p_value(task: TaskComparison) -> str:
    p = task.paired.p_value_holm
    return _ABSENT if p is None else ("<0.001" if p < 0.001 else f"{p:.3f}")


def _kl(task: TaskComparison) -> str:
    return _ABSENT if task.paired.answer_kl is None else f"{task.paired.answer_kl:.2g}"


def _task_verdict(task: TaskComparison) -> str:
    paired = task.paired
    if paired.refused is not None:
        return "not paired"
    more = f" (needs {paired.items_needed:,} items)" if paired.items_needed else ""
    if paired.verdict == UNDERPOWERED and not more:
        more = " (the drop is close to the margin)"
    return f"{paired.verdict}{more}"


_METRIC_COLUMNS = (
    _Column("metric", lambda made: made.metric.header, "left"),
    _Column("A", lambda made: _value(made.a, made.a_interval, made.metric.scale)),
    _Column("B", lambda made: _value(made.b, made.b_interval, made.metric.scale)),
    _Column("gain", _gain),
    _Column("verdict", lambda made: made.verdict.value, "left"),
)
_TASK = _Column("task", lambda task: task.paired.task, "left")
_VERDICT_COLUMNS = (
    _TASK,
    _Column("items", lambda task: _ABSENT if task.paired.num_items is None else f"{task.paired.num_items:,}"),
    _Column("A %", lambda task: _percent(task.a)),
    _Column("B %", lambda task: _percent(task.b)),
    _Column("drop, pp", _drop),
    _Column("verdict", _task_verdict, "left"),
)
_EVIDENCE_COLUMNS = (
    _TASK,
    _Column("flips %", lambda task: _percent(task.paired.flips)),
    _Column("p (Holm)", _p_value),
    _Column("KL, nats", _kl),
)
# All in one where width does not matter; a terminal of 80 columns would break words and numbers.
_TASK_COLUMNS = (*_VERDICT_COLUMNS[:-1], *_EVIDENCE_COLUMNS[1:], _VERDICT_COLUMNS[-1])


def renderable(report: ComparisonReport) -> RenderableType:
    """The comparison for a terminal."""
    parts: list[RenderableType] = []
    for pair in report.pairs:
        parts.append(Text(_title(pair), style="bold"))
        for columns, rows in _tables(pair, _VERDICT_COLUMNS, _EVIDENCE_COLUMNS):
            parts.append(_table(columns, rows))
        parts += [Text(line, style="dim") for line in _notes(pair)]
    parts += [Text(f"caveat: {text}", style="yellow") for text in _caveat_lines(report)]
    parts += [Text(f"note: {text}") for text in report.notes]
    parts += [Text(line) for line in _outcome_lines(report)]
    return Group(*parts)


def to_markdown(report: ComparisonReport) -> str:
    """The comparison as Markdown."""
    lines: list[str] = []
    for pair in report.pairs:
        lines += [f"## {_title(pair)}", ""]
        for columns, rows in _tables(pair, _TASK_COLUMNS):
            lines += _markdown_table(columns, rows)
        lines += [*(f"- {line}" for line in _notes(pair)), ""]
    sections = (
        ("Caveats", _caveat_lines(report)), ("Notes", report.notes), ("Conditions", _outcome_lines(report)),
    )  # fmt: skip
    for title, found in sections:
        lines += [f"### {title}", "", *(f"- {line}" for line in found), ""] if found else []
    return "\n".join(lines).rstrip() + "\n"


def to_json(report: ComparisonReport) -> str:
    """The comparison as JSON at full precision; missing values are null."""
    content = {
        "schema_version": 1,
        "pairs": [_pair_json(pair) for pair in report.pairs],
        "conditions": [
            {"condition": outcome.condition.text, "decision": outcome.decision.value, "reason": outcome.reason}
            for outcome in report.outcomes
        ],
        "caveats": [{"kind": c.kind.name, "text": c.text, "cells": list(c.variants)} for c in report.caveats],
        "notes": list(report.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _pair_json(pair: VariantComparison) -> dict[str, Any]:
    sides = {
        side: {"model": variant.model, "precision": variant.precision, "directory": str(variant.directory)}
        for side, variant in (("a", pair.a), ("b", pair.b))
    }
    metrics = {
        made.metric.key: {
            "a": made.a, "b": made.b, "a_interval": made.a_interval, "b_interval": made.b_interval,
            "ratio": made.ratio, "interval": made.interval, "gain": made.gain, "floor": made.floor,
            "verdict": made.verdict.value, "reason": made.reason,
        }
        for made in pair.metrics
    }  # fmt: skip
    tasks = {
        task.paired.task: {"a": task.a, "b": task.b, **task.paired.model_dump(mode="json", exclude={"task"})}
        for task in pair.tasks
    }
    return {**sides, "metrics": metrics, "tasks": tasks}


def _title(pair: VariantComparison) -> str:
    a, b = pair.names
    return f"A: {a}   B: {b}"


def _tables(pair: VariantComparison, *of_tasks: Sequence[_Column]) -> list[tuple[Sequence[_Column], Sequence[Any]]]:
    found: list[tuple[Sequence[_Column], Sequence[Any]]] = [
        (_METRIC_COLUMNS, pair.metrics), *((columns, pair.tasks) for columns in of_tasks),
    ]  # fmt: skip
    return [(columns, rows) for columns, rows in found if rows]


def _table(columns: Sequence[_Column], rows: Sequence[Any]) -> Table:
    table = Table()
    for column in columns:
        # Lines are broken between words alone: no column is narrower than its longest one, but for very long names.
        words = (word for row in rows for word in column.text(row).split())
        longest = min(_LONGEST_WORD, max(map(len, (column.header, *words))))
        table.add_column(column.header, justify=column.justify, overflow="fold", min_width=longest)
    for row in rows:
        texts = [column.text(row) for column in columns]
        style = _STYLES.get(texts[-1].split(" (")[0], "")
        table.add_row(*map(escape, texts[:-1]), f"[{style}]{escape(texts[-1])}[/]" if style else escape(texts[-1]))
    return table


def _markdown_table(columns: Sequence[_Column], rows: Sequence[Any]) -> list[str]:
    def line(variants: Sequence[str]) -> str:
        return "| " + " | ".join(variant.replace("|", "\\|") for variant in variants) + " |"

    rule = ["---:" if column.justify == "right" else "---" for column in columns]
    head = [line([column.header for column in columns]), line(rule)]
    return [*head, *(line([column.text(row) for column in columns]) for row in rows), ""]


def _notes(pair: VariantComparison) -> list[str]:
    """Reasons for missing verdicts, each once, and the meaning of the columns."""
    reasons: dict[str, list[str]] = {}
    for made in pair.metrics:
        if made.reason:
            reasons.setdefault(f"{made.verdict.value}: {made.reason}", []).append(made.metric.label)
    for task in pair.tasks:
        if task.paired.refused:
            reasons.setdefault(f"not paired: {task.paired.refused}", []).append(task.paired.task)
    lines = [_GAIN_NOTE] if pair.metrics else []
    widened = [made.metric.label for made in pair.metrics if made.floor is not None]
    if widened:
        lines.append(f"intervals widened by the noise floor that `slim-eval noise` measured: {', '.join(widened)}")
    elif any(made.interval is not None and not made.metric.exact for made in pair.metrics):
        lines.append("no noise floor: these intervals do not include run-to-run variance (see slim-eval noise)")
    for task in pair.tasks:
        if task.paired.num_left_out:
            lines.append(
                f"{task.paired.task}: left out {task.paired.num_left_out} items that have no score on either side"
            )
    if any(task.paired.verdict for task in pair.tasks):
        margin = next(task.paired.margin_pp for task in pair.tasks if task.paired.verdict)
        lines.append(
            f"drop: percentage points that B lost on the same items, with 95 % interval; equivalent: the "
            f"whole interval is below {margin:g}"
        )
    return [*lines, *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())]


def _caveat_lines(report: ComparisonReport) -> list[str]:
    return [f"{', '.join(caveat.variants)}: {caveat.text}" for caveat in report.caveats]


def _outcome_lines(report: ComparisonReport) -> list[str]:
    return [
        f"fail if {outcome.condition.text}{outcome.where}: {outcome.decision.value} — {outcome.reason}"
        for outcome in report.outcomes
    ]
