"""The tables on the terminal: a run's, one row per variant, and that of `slim-eval noise`. Neither needs pandas."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.text import Text

from slim_eval import metrics
from slim_eval.analysis.caveats import PROMPTS
from slim_eval.analysis.compare.noise_floor import answer, floor_words, remarks
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS, Basis, Change, Metric, task_metric
from slim_eval.results.records import NoiseRecord
from slim_eval.results.variants import Variant, metric_of
from slim_eval.schemes import INEXACT_KERNELS
from slim_eval.utils import number, wrapped_name
from slim_eval.utils.word_table import Column, WordTable, columns_of

_ABSENT = "-"
_GREY = "bright_black"
_NOISE_LEGEND = (
    "within, between: standard deviation of one run's value due to its iterations, and due to its process. "
    "noise floor: 95 % of differences between two single runs are smaller"
)
_METRICS = (
    metrics.TTFT, metrics.TPOT, metrics.THROUGHPUT, metrics.AMORTISED, metrics.DISK, metrics.WEIGHTS,
    metrics.PEAK_MEMORY, metrics.J_PER_TOKEN,
)  # fmt: skip
_THREE_DECIMALS = (metrics.DISK, metrics.WEIGHTS)  # of small models


def comparison_table(
    study: Study, *, tasks: Sequence[str] | None = None, width: int | None = None, reused: Sequence[str] = ()
) -> RenderableType:
    """The table that ends `slim-eval run` and `slim-eval analyze`.

    Args:
        study: What was measured. Numbers within the noise floor are shown in grey.
        tasks: Tasks to show; those of the study by default. Each shows accuracy in %, its standard error, and in
            brackets the difference to the baseline in percentage points, if the two may be compared. Another metric
            is shown in its own unit, with the ratio to the baseline's perplexity or the difference.
        width: Columns of the terminal; found out by default.
        reused: For each variant, which of its numbers an earlier run measured; empty if none.

    Returns:
        A table that breaks no word; columns without any value are left out, and ``-`` marks what was not measured.
    """
    variants = study.variants
    if not variants:
        return Text("")
    names = [variant.name for variant in variants]
    starts = [index == 0 or names[index - 1] != name for index, name in enumerate(names)]
    head = [Column("precision", [variant.shown_precision for variant in variants], left=True, key=True)]
    if len(set(names)) > 1:
        shown = [wrapped_name(name) if first else "" for name, first in zip(names, starts, strict=True)]
        head.insert(0, Column("model", shown, left=True, key=True))
    marked = {"emulated": " (emulated)", INEXACT_KERNELS: " (inexact)"}
    engines = [f"{v.engine or _ABSENT}{marked.get(v.kernels or '', '')}" for v in variants]
    columns = [Column("engine", engines, left=True)]
    noise = [study.within_noise(variant) for variant in variants]
    for metric in (*_METRICS, *(metric for metric in METRICS.values() if metric.basis is Basis.OWN)):
        fields = [_number(variant, metric) for variant in variants]
        grey = [_GREY if metric.key in found else "" for found in noise]
        columns.append(Column("\n".join(filter(None, (metric.label, metric.unit))), fields, styles=grey))
    shown_tasks = study.tasks if tasks is None else [task for task in tasks if task in study.tasks]
    for task in shown_tasks:
        fields = [_accuracy(study, variant, task) for variant in variants]
        grey = [_GREY if task in found else "" for found in noise]
        columns.append(Column(f"{task}\n{_task_unit(study.metric(task))}", fields, styles=grey))
    if any(reused):
        columns.append(Column("reused", [text or _ABSENT for text in reused], left=True))
    columns = [column for column in columns if set(column.cells) - {_ABSENT}]
    notes = []
    if any("(pp)" in column.header for column in columns):
        notes.append("% (pp): accuracy ± its standard error (difference from the baseline in percentage points)")
    others = [metric for task in shown_tasks if not (metric := study.metric(task)).is_accuracy]
    notes += [f"{metric.key}: {metric.better} is better" for metric in others if metric.better is not None]
    if any(metric.change is Change.RATIO for metric in others):
        notes.append("(B/A): the perplexity divided by the baseline's")
    if any(PROMPTS in study.marks(v, study.metric(task)) for v in variants for task in shown_tasks):
        notes.append(f"{PROMPTS.sign} {PROMPTS.meaning}")
    if any(any(column.styles) for column in columns):
        notes.append("grey: the difference from the baseline does not exceed the noise floor")
    sections = [index for index, first in enumerate(starts) if first and index]
    title = names[0] if len(set(names)) == 1 else ""
    table = WordTable([*head, *columns], title, "\n".join(notes), sections)
    return table if width is None else Constrain(table, width)


def _number(variant: Variant, metric: Metric) -> str:
    value, invalid = variant.number(metric), not variant.counts(metric)
    if value is None:
        return "invalid" if invalid else _ABSENT
    decimals = 3 if metric in _THREE_DECIMALS else metric.decimals
    shown = metric.text(value, unit=False) if metric.is_energy else f"{metric.in_unit(value):,.{decimals}f}"
    return shown + (" (invalid)" if invalid else "")


def _task_unit(metric: Metric) -> str:
    """The unit of a task's column, and in brackets that of the difference from the baseline."""
    if metric.is_share:
        return "% (pp)"
    return f"{metric.unit} ({'B/A' if metric.change is Change.RATIO else 'difference'})"


def _accuracy(study: Study, variant: Variant, task: str) -> str:
    value = variant.number(study.metric(task))
    if value is None:
        return _ABSENT
    error, impact = variant.accuracy[task].stderr, study.impact(variant)
    mark = PROMPTS.sign if PROMPTS in study.marks(variant, study.metric(task)) else ""
    drop = None if impact is None else impact.drops.get(task)
    metric = metric_of(task, (variant,))  # of a task that the variants know by different metrics, its own
    if not (metric.is_share and study.metric(task).is_share):
        shown = f"{number(value)}{mark}" + (f" ±{number(error)}" if error is not None else "")
        shift = None if impact is None else impact.shifts.get(task)
        change = "" if shift is None else f" ({shift.text})"
        return f"{shown} (inexact)" if variant.used_inexact_kernels(metric) else f"{shown}{change}"
    shown = f"{value * 100:.1f}{mark}" + (f" ±{error * 100:.1f}" if error is not None else "")
    if variant.used_inexact_kernels(metric):
        return f"{shown} (inexact)"
    if drop is None:
        return shown
    points = -drop.pp if metric.maximise else drop.pp
    return f"{shown} ({round(points, 1) + 0.0:+.1f})"  # + 0.0: no negative zero


def noise_table(record: NoiseRecord) -> RenderableType:
    """What `slim-eval noise` prints: which differences are noise, a row per metric and task, and what is uncertain."""
    runs = max((len(entry.values) for entry in (*record.metrics.values(), *record.tasks.values())), default=0)
    lines = [Text(answer(record))]
    if not runs:
        return lines[0]
    rows: list[Sequence[str]] = []
    for key, entry in (*record.metrics.items(), *record.tasks.items()):
        is_task = key in record.tasks
        metric = task_metric(key) if is_task else METRICS[key]
        scale, unit = (1.0, "pp") if is_task else (100.0, "%")
        parts = (
            _ABSENT if part is None else f"{number(part * scale)} {unit}" for part in (entry.within, entry.between)
        )
        mean = _ABSENT if entry.mean is None else number(metric.in_unit(entry.mean))
        floor, _, ends = floor_words(record, key).partition(" [")
        rows.append((metric.header, mean, *parts, floor, f"[{ends}" if ends else _ABSENT))
    headers = ("metric", "mean", "within process", "between processes", "noise floor", "its 95 % interval")
    columns = columns_of(headers, rows, headers[:1])
    table = WordTable(columns, f"the same variant, measured {runs} times, each in a fresh process")
    notes = [_NOISE_LEGEND, *remarks(record)]
    notes += [
        f"{task}: {number(share * 100)} % of the answers changed between two runs at most"
        for task, share in record.flips.items()
    ]
    return Group(*lines, table, *map(Text, notes))
