"""Servers under load, one row per variant and load: `serving_levels.csv` and the table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from slim_eval.analysis.loads import asked, by_load, load_of, order
from slim_eval.metrics import ITL, METRICS, REQUEST_RATE, THROUGHPUT, TPOT, TTFT
from slim_eval.results.records import ServingLevel
from slim_eval.results.variants import Variant, config_value
from slim_eval.utils import wrapped_name
from slim_eval.utils.word_table import Column, WordTable

if TYPE_CHECKING:
    import pandas as pd

_ABSENT = "-"
_HEAD = ("name", "model", "precision", "engine", "hardware")
_NESTED = {"intervals", "metadata", "host", "invalid_reasons", "max_contention", "replaced", "notes"}
_INTERVALS = ("ttft_s", "p95_ttft_s", "tpot_s", "p95_tpot_s", "e2e_latency_s", "p95_e2e_latency_s")
_MOST_ROWS = 60  # of the terminal's table: with more, each variant has two
#: Metrics of the terminal's table; those that no level has are left out.
_SHOWN = (REQUEST_RATE, TTFT, METRICS["p95_ttft_s"], TPOT, METRICS["p95_tpot_s"], ITL, THROUGHPUT)


def levels_of(variants: Iterable[Variant]) -> list[Variant]:
    """All views of variants that were measured under a load, by load within each variant."""
    views = [view for members in by_load(variants).values() for view in members]
    places = {variant: place for place, variant in enumerate(dict.fromkeys((v.name, v.precision) for v in variants))}
    return sorted(views, key=lambda view: (places[view.name, view.precision], order(view)))


def serving_levels(variants: Iterable[Variant]) -> pd.DataFrame:
    """Everything that is known of each level: what was asked for, the work, and the metrics with their intervals."""
    import pandas as pd

    columns = [key for key in ServingLevel.model_fields if key not in _NESTED]
    ends = [f"{key}_ci95_{end}" for key in _INTERVALS for end in ("low", "high")]
    rows: list[dict[str, Any]] = []
    for view in levels_of(variants):
        source: Any = view.level or view.performance
        row: dict[str, Any] = {"name": view.name, "model": view.model, "precision": view.precision}
        row |= {"engine": view.engine, "hardware": view.hardware}
        row |= {key: getattr(source, key, None) for key in columns}
        if view.level is None:  # a single load, which has the form of any other measurement of speed
            row |= {"label": load_of(view), "load": config_value(source, "load")}
            row |= dict(zip(("request_rate", "max_concurrency"), asked(view), strict=True))
        else:
            row["metadata"] = " ".join(f"{key}={value}" for key, value in view.level.metadata.items()) or None
            row["replaced"] = "; ".join(view.level.replaced) or None
        for key in _INTERVALS:
            row[f"{key}_ci95_low"], row[f"{key}_ci95_high"] = source.intervals.get(key, (None, None))
        rows.append(row)
    return pd.DataFrame(
        rows, columns=[*_HEAD, "label", *(c for c in columns if c != "label"), *ends, "metadata", "replaced"]
    )


def levels_table(variants: Sequence[Variant]) -> WordTable:
    """What `slim-eval analyze` prints of servers under load."""
    views = levels_of(variants)
    caption = "levels of different loads are not compared; every number with its interval: serving_levels.csv"
    if len(views) > _MOST_ROWS:
        views = _ends(views)
        caption = "the lowest and highest load of each; all levels, every number with its interval: serving_levels.csv"
    metrics = [metric for metric in _SHOWN if any(view.number(metric) is not None for view in views)]
    who = [(view.name, view.precision) for view in views]
    starts = [place == 0 or who[place - 1] != each for place, each in enumerate(who)]
    columns = []
    if len({name for name, _ in who}) > 1:
        names = [wrapped_name(view.name) if first else "" for view, first in zip(views, starts, strict=True)]
        columns.append(Column("model", names, left=True, key=True))
    precisions = [view.precision if first else "" for view, first in zip(views, starts, strict=True)]
    columns.append(Column("precision", precisions, left=True, key=True))
    columns.append(Column("load", [load_of(view) or _ABSENT for view in views], left=True, key=True))
    for metric in metrics:
        found = [view.number(metric) for view in views]
        cells = [_ABSENT if value is None else metric.text(value, unit=False) for value in found]
        columns.append(Column("\n".join(filter(None, (metric.label, metric.unit))), cells))
    sections = [place for place, first in enumerate(starts) if first and place]
    return WordTable(columns, "servers under load", caption, sections)


def _ends(views: Sequence[Variant]) -> list[Variant]:
    """The first and the last load of each variant."""
    by_variant = [list(each) for _, each in groupby(views, key=lambda view: (view.name, view.precision))]
    return [view for each in by_variant for view in (each if len(each) < 3 else (each[0], each[-1]))]
