"""A comparison as a terminal table, as Markdown and as JSON, from the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from slim_eval.analysis.caveats import lines_of
from slim_eval.analysis.compare.comparison import MetricComparison, VariantComparison
from slim_eval.analysis.compare.folders import ComparisonReport
from slim_eval.analysis.compare.items import LOG_SAMPLES, UNDERPOWERED, VERDICT_WORDS
from slim_eval.analysis.compare.noise_floor import rough_floors
from slim_eval.analysis.crossover import MetricCrossover
from slim_eval.analysis.impact import Shift, change_words
from slim_eval.metrics import Metric
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Interval, metric_of
from slim_eval.utils import number
from slim_eval.utils.word_table import Column, WordTable

_ABSENT = "-"
_LONG_NAME = 36
_STYLES = {
    "better": "green", "worse": "red", "degraded": "red", "equivalent": "green", "improved": "green",
    "confounded": "yellow",
    "within noise": "dim", "no difference seen": "dim",
}  # fmt: skip
_GAIN_NOTE = "gain: B relative to A, above 1x is better (for power: B / A); 95 % interval in brackets"
_LEFT = ("metric", "task", "unit", "verdict", "below it", "above it")
_METRIC_COLUMNS = ("metric", "A", "B", "gain", "verdict")
_TASK_COLUMNS = ("task", "items", "A %", "B %", "drop, pp", "flips %", "p (Holm)", "KL, nats", "verdict")
# On a narrow terminal the last columns are in a second table: the verdict is in the first.
_TERMINAL_TASK_COLUMNS = ("task", "items", "A %", "B %", "drop, pp", "verdict", "flips %", "p (Holm)", "KL, nats")
#: Left out of a terminal's table if no row has a value.
_SOMETIMES = frozenset({"flips %", "p (Holm)", "KL, nats"})
_CROSSOVER_COLUMNS = ("metric", "crossover", "below it", "above it")
#: Of tasks whose metric is not a share of answers.
_SCORE_COLUMNS = ("task", "unit", "items", "A", "B", "B against A", "verdict")
_Row = Mapping[str, str]  # header -> text


def _metric_row(made: MetricComparison) -> _Row:
    gain = made.ratio if made.metric.better is None else made.gain
    text = _text(gain, "{:.2f}x")
    low, high = made.interval or (0.0, 0.0)
    if gain is not None and low > 0 and low != high:
        low, high = (1 / high, 1 / low) if made.metric.better == "lower" else (low, high)
        text += f" [{low:.2f}, {high:.2f}]"
    return {
        "metric": made.metric.header,
        "A": _value(made.a, made.a_interval, made.metric.scale),
        "B": _value(made.b, made.b_interval, made.metric.scale),
        "gain": text,
        "verdict": made.verdict.value,
    }


def _task_row(paired: PairedTask, pair: VariantComparison) -> _Row:
    a, b = pair.a.number(paired.task), pair.b.number(paired.task)
    metric = metric_of(paired.task, (pair.a, pair.b))
    lost = None if a is None or b is None else metric.loss(a, b)
    is_usable = all(side.counts(metric) for side in (pair.a, pair.b))
    drop = _ABSENT if lost is None or not is_usable else _points(lost * 100)
    if paired.drop_pp is not None:
        ends = [_points(end) for end in paired.interval_pp or ()]
        drop = _points(paired.drop_pp) + (f" [{', '.join(ends)}]" if ends else "")
    verdict, remarks = str(paired.verdict), ["unpaired"] if paired.unpaired else []
    if paired.refused is not None:
        verdict = "not paired"
    elif paired.items_needed:
        remarks.append(f"needs {paired.items_needed:,} items")
    elif paired.needs_subtasks:
        remarks.append("too few subtasks")
    elif paired.verdict == UNDERPOWERED and not (paired.unpaired and paired.num_items is None):
        remarks.append("the drop is close to the margin")
    verdict += f" ({', '.join(remarks)})" if remarks else ""
    tiny = paired.p_value_holm is not None and paired.p_value_holm < 0.001
    return {
        "task": paired.task,
        "items": _text(paired.num_items, "{:,}"),
        "A %": _text(a, "{:.1f}", 100),
        "B %": _text(b, "{:.1f}", 100),
        "drop, pp": drop,
        "flips %": _text(paired.flips, "{:.1f}", 100),
        "p (Holm)": "<0.001" if tiny else _text(paired.p_value_holm, "{:.3f}"),
        "KL, nats": _text(paired.answer_kl, "{:.2g}"),
        "verdict": verdict,
    }


def _score_row(paired: PairedTask, metric: Metric, pair: VariantComparison) -> _Row:
    """A task whose metric is not a share of answers, in its own unit."""
    a, b = pair.a.number(paired.task), pair.b.number(paired.task)
    change = change_words(paired)
    if not change and a is not None and b is not None and all(side.counts(metric) for side in (pair.a, pair.b)):
        change = Shift(metric, a, b).text
    judged = VERDICT_WORDS.get(paired.verdict or "", "no interval")
    return {
        "task": paired.task,
        "unit": metric.unit,
        "items": _text(paired.num_items, "{:,}"),
        "A": _ABSENT if a is None else number(a),
        "B": _ABSENT if b is None else number(b),
        "B against A": change or _ABSENT,
        "verdict": judged if paired.refused is None else "not paired",
    }


def _text(value: float | None, form: str, scale: int = 1) -> str:
    return _ABSENT if value is None else form.format(value * scale)


def _value(value: float | None, interval: Interval | None, scale: float) -> str:
    if value is None:
        return _ABSENT
    half = "" if interval is None else f" ±{number((interval[1] - interval[0]) / 2 * scale)}"
    return f"{number(value * scale)}{half}"


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def renderable(report: ComparisonReport) -> RenderableType:
    """The comparison for a terminal: the verdict, the tables, then notes and caveats, each once."""
    from slim_eval.analysis.tables import verdict_table

    parts: list[RenderableType] = [verdict_table.panel(report.verdict)]
    if len(report.verdict.variants) > 1:
        parts.append(verdict_table.variants_table(report.verdict))
    notes: dict[str, None] = {}
    for pair in report.pairs:
        title = "A: {}   B: {}" if max(map(len, pair.names)) < _LONG_NAME else "A: {}\nB: {}"
        parts.append(Text(title.format(*pair.names), style="bold", no_wrap=True, overflow="ignore"))
        parts += [_table(columns, rows) for columns, rows in _tables(pair, _TERMINAL_TASK_COLUMNS)]
        notes |= dict.fromkeys(_notes(pair))
    caveats, _ = _ends(report)  # the panel has the conditions
    parts += [Text(line, style="dim") for line in notes]
    parts += [Text(f"caveat: {text}", style="yellow") for text in caveats]
    parts += [Text(f"note: {text}") for text in report.notes]
    return Group(*parts)


def to_markdown(report: ComparisonReport) -> str:
    """The comparison as Markdown, with the verdict first."""
    from slim_eval.analysis.tables import verdict_table

    lines: list[str] = [*verdict_table.markdown(report.verdict), ""]
    for pair in report.pairs:
        lines += ["## A: {}   B: {}".format(*pair.names), ""]
        for columns, rows in _tables(pair, _TASK_COLUMNS):
            rule = ["---" if column in _LEFT else "---:" for column in columns]
            cells = [columns, rule, *([row[column].replace("|", "\\|") for column in columns] for row in rows)]
            lines += [*(f"| {' | '.join(texts)} |" for texts in cells), ""]
        lines += [*(f"- {line}" for line in _notes(pair)), ""]
    caveats, conditions = _ends(report)
    for title, found in (("Caveats", caveats), ("Notes", report.notes), ("Conditions", conditions)):
        lines += [f"### {title}", "", *(f"- {line}" for line in found), ""] if found else []
    return "\n".join(lines).rstrip() + "\n"


def to_json(report: ComparisonReport) -> str:
    """The comparison as JSON at full precision; missing values are null."""
    content = {
        "schema_version": 1,
        "verdict": report.verdict.to_json(),
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
            "floor_interval": made.floor_interval, "verdict": made.verdict.value, "reason": made.reason,
        }
        for made in pair.metrics
    }  # fmt: skip
    tasks = {
        paired.task: {
            "a": pair.a.number(paired.task), "b": pair.b.number(paired.task),
            **paired.model_dump(mode="json", exclude={"task"}),
        }
        for paired in pair.tasks
    }  # fmt: skip
    load = {} if pair.load is None else {"load": pair.load}
    found = [
        {
            "metric": each.metric.key, "unit": each.unit, "loads": each.loads, "better": each.better,
            "crossings": [{"load": c.load, "interval": (c.interval.low, c.interval.high)} for c in each.crossings],
            "words": each.words("A", "B"),
        }
        for each in pair.crossovers
    ]  # fmt: skip
    return {**sides, **load, "metrics": metrics, "tasks": tasks, **({"crossovers": found} if found else {})}


def _crossover_row(each: MetricCrossover) -> _Row:
    below, above = each.sides("A", "B")
    return {"metric": each.metric.label, "crossover": each.place, "below it": below, "above it": above}


def _tables(pair: VariantComparison, *of_tasks: Sequence[str]) -> list[tuple[Sequence[str], Sequence[_Row]]]:
    """Columns and rows: the metrics, the accuracies once in each of the given sets of columns, the other scores."""
    rows = {paired.task: metric_of(paired.task, (pair.a, pair.b)) for paired in pair.tasks}
    metrics = [_metric_row(made) for made in pair.metrics]
    tasks = [_task_row(paired, pair) for paired in pair.tasks if rows[paired.task].is_share]
    others = [_score_row(paired, row, pair) for paired in pair.tasks if not (row := rows[paired.task]).is_share]
    crossings = [_crossover_row(each) for each in pair.crossovers]
    found = [
        (_METRIC_COLUMNS, metrics), *((columns, tasks) for columns in of_tasks), (_SCORE_COLUMNS, others),
        (_CROSSOVER_COLUMNS, crossings),
    ]  # fmt: skip
    return [(columns, rows) for columns, rows in found if rows]


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> WordTable:
    key, verdict = columns[0], "verdict"
    styles = [_STYLES.get(row.get(verdict, "").split(" (")[0], "") for row in rows]  # crossovers have no verdict
    return WordTable(
        [
            Column(
                column,
                [row[column] for row in rows],
                left=column in _LEFT,
                key=column == key,
                styles=styles if column == verdict else (),
            )
            for column in columns
            if column not in _SOMETIMES or any(row[column] != "-" for row in rows)
        ]
    )


def _notes(pair: VariantComparison) -> list[str]:
    """The meaning of the columns, and reasons for missing verdicts, each once."""
    lines = [_GAIN_NOTE] if pair.metrics else []
    if pair.crossovers:
        lines.append(
            f"crossover: {pair.crossovers[0].unit} at which one overtakes the other, with 95 % interval; none is named "
            "unless each is better on its side with confidence"
        )
    widened = [made.metric.label for made in pair.metrics if made.floor is not None]
    if widened:
        lines.append(f"intervals widened by the noise floor that `slim-eval noise` measured: {', '.join(widened)}")
        if pair.noise is not None and (rough := rough_floors(pair.noise)):
            lines.append(rough)
    elif any(made.interval is not None and not made.metric.exact for made in pair.metrics):
        lines.append("no noise floor: these intervals do not include run-to-run variance (see slim-eval noise)")
    reasons: dict[str, list[str]] = {}
    for made in pair.metrics:
        if made.reason:
            reasons.setdefault(f"{made.verdict.value}: {made.reason}", []).append(made.metric.label)
    for paired in pair.tasks:
        if paired.refused:
            reasons.setdefault(f"not paired: {paired.refused}", []).append(paired.task)
        if paired.no_interval:
            reasons.setdefault(f"no interval: {paired.no_interval}", []).append(paired.task)
        if paired.num_left_out:
            lines.append(f"{paired.task}: left out {paired.num_left_out} items that have no score on either side")
        if paired.unpaired:
            source = f"{paired.interval_from}{' (assumed: no number was recorded)' if paired.assumed else ''}"
            why = f"unpaired, from {source}: wider than on the same items; {LOG_SAMPLES}"
            reasons.setdefault(why, []).append(paired.task)
    if any(change_words(paired) for paired in pair.tasks):
        lines.append("B against A: B / A of a perplexity, else B - A; with 95 % interval, on the same items")
    margin = next((paired.margin_pp for paired in pair.tasks if paired.verdict), None)
    if margin is not None:
        same = "" if all(paired.unpaired for paired in pair.tasks if paired.verdict) else " on the same items"
        lines.append(
            f"drop: percentage points that B lost{same}, with 95 % interval; equivalent: the whole interval is below "
            f"{margin:g}"
        )
    return [*lines, *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())]


def _ends(report: ComparisonReport) -> tuple[list[str], list[str]]:
    """The caveats, and the outcomes of the conditions, in words."""
    return lines_of(report.caveats, 2 * len(report.pairs)), [
        f"fail if {outcome.condition.text}{outcome.where}: {outcome.decision.value} — {outcome.reason}"
        for outcome in report.outcomes
    ]
