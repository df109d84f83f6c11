"""What `slim-eval noise` prints: which differences are noise, how the runs varied, and what is uncertain about it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from slim_eval.analysis.compare.noise_floor import answer, floor_words, remarks
from slim_eval.metrics import METRICS, task_metric
from slim_eval.results.records import NoiseRecord
from slim_eval.utils import number

_ABSENT = "-"
_LEGEND = (
    "within, between: standard deviation of one run's value due to its iterations, and due to its process. "
    "noise floor: 95 % of differences between two single runs are smaller"
)


def noise_table(record: NoiseRecord) -> RenderableType:
    """The answer, one row per metric and task, and remarks."""
    runs = max((len(entry.values) for entry in (*record.metrics.values(), *record.tasks.values())), default=0)
    lines = [Text(answer(record))]
    if not runs:
        return lines[0]
    title = f"the same variant, measured {runs} times, each in a fresh process"
    table = Table(title=title, title_justify="left")
    table.add_column("metric", overflow="fold")
    for header in ("mean", "within\nprocess", "between\nprocesses", "noise\nfloor", "its 95 %\ninterval"):
        table.add_column(header, justify="right", no_wrap=True)
    for key, entry in (*record.metrics.items(), *record.tasks.items()):
        is_task = key in record.tasks
        metric = task_metric(key) if is_task else METRICS[key]
        scale, unit = (1.0, "pp") if is_task else (100.0, "%")
        parts = (
            _ABSENT if part is None else f"{number(part * scale)} {unit}" for part in (entry.within, entry.between)
        )
        mean = _ABSENT if entry.mean is None else number(metric.in_unit(entry.mean))
        floor, _, ends = floor_words(record, key).partition(" [")
        table.add_row(escape(metric.header), mean, *parts, floor, f"[{ends}" if ends else _ABSENT)
    notes = [_LEGEND, *remarks(record)]
    notes += [
        f"{task}: {number(share * 100)} % of the answers changed between two runs at most"
        for task, share in record.flips.items()
    ]
    return Group(*lines, table, *map(Text, notes))
