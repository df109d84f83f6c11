"""Where each configuration stands in all objectives together, and what that rests on."""

from __future__ import annotations

from collections.abc import Sequence

from slim_eval.analysis.compare.metrics import BY_KEY
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, Objective
from slim_eval.analysis.report.charts import LENGTHS
from slim_eval.analysis.report.concerns import label
from slim_eval.analysis.report.marks import NOISE, Marker
from slim_eval.analysis.report.numbers import finite
from slim_eval.analysis.report.overview import MEAN_LABEL
from slim_eval.analysis.report.settings import Settings
from slim_eval.analysis.rules import LENGTH_TOLERANCE
from slim_eval.results.rows import Row

_NOT_COMPARED = "not compared"


def named(objective: Objective) -> str:
    """An objective as a reader is told: ``TPOT, ms (less is better)``."""
    return f"{_label(objective.key)} ({'more' if objective.maximise else 'less'} is better)"


def standing(
    rows: Sequence[Row], frontier: Sequence[Row], objectives: Sequence[Objective], marker: Marker
) -> list[tuple[str, list[str]]]:
    """The configurations by what can be said of them; each with the marks of its objectives, or why it took no part."""
    found: dict[str, list[str]] = {"on the frontier": [], "cannot tell": [], "dominated": [], _NOT_COMPARED: []}
    metrics = [BY_KEY[objective.key] for objective in objectives if objective.key in BY_KEY]
    for row, entry in zip(rows, frontier, strict=False):
        marks = dict.fromkeys(
            mark.word for metric in metrics for mark in marker.of_metric(row, metric) if mark != NOISE
        )
        why = entry["excluded"] or ", ".join(marks)
        found.setdefault(entry["state"] or _NOT_COMPARED, []).append(f"{label(row)}{f' ({why})' if why else ''}")
    return [(state, labels) for state, labels in found.items() if labels]


def reservations(
    rows: Sequence[Row], frontier: Sequence[Row], objectives: Sequence[Objective], settings: Sequence[Settings]
) -> list[str]:
    """What a reader must know of this frontier: other lengths, other settings."""
    if not frontier:
        return []
    found = [text for objective in objectives if (text := _lengths(objective.key, rows))]
    groups = {str(entry["group"]) for entry in frontier if entry.get("group") is not None}
    several = [entry.kind for entry in settings if len(entry.words) > 1]
    if len(groups) > 1:
        found.append(f"Configurations of {len(groups)} settings, each compared only within its own.")
    elif several and not any("group" in entry for entry in frontier):
        verb = "was" if len(several) == 1 else "were"
        what = " and ".join(several)
        found.append(f"Here configurations are compared though {what} {verb} measured in several settings.")
    return found


def _lengths(key: str, rows: Sequence[Row]) -> str | None:
    metric = BY_KEY.get(key)
    if metric is None or not metric.per_length:
        return None
    taking = [row for row in rows if finite(row.get(key)) is not None]
    lengths = [finite(row.get(LENGTHS[metric.kind.value])) for row in taking]
    known = [length for length in lengths if length is not None]
    if not known or len(known) < len(lengths):
        return (
            f"{metric.label} grows with the output length, which was not recorded for all: it may be of different work."
        )
    low, high = min(known), max(known)
    if high <= low * (1 + LENGTH_TOLERANCE):
        return None
    return (
        f"{metric.label} grows with the output length, and lengths differ ({low:.0f} to {high:.0f} tokens): "
        "it compares different work."
    )


def _label(key: str) -> str:
    if key == ACCURACY_MEAN:
        return MEAN_LABEL
    return BY_KEY[key].label if key in BY_KEY else key
