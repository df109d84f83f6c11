"""How latencies are distributed: from samples, or from the summaries of records that kept none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.boxes import BoxPanel, Spread, spread_of
from slim_eval.analysis.figures.marks import SUMMARY_SIGN
from slim_eval.analysis.figures.measures import AMORTISED, E2E, TPOT, TTFT
from slim_eval.analysis.figures.plotdata import Measure, PlotData, groups_of
from slim_eval.analysis.figures.rowchart import RowChart, row_chart
from slim_eval.results.rows import Row


@dataclass(frozen=True)
class _Timing:
    """A latency with its samples.

    Attributes:
        measure: What it is called.
        summaries: Columns of its median, mean, 95th and 99th percentile.
        sample: Its value in one sample of `performance`, in the column's unit; None where it is missing.
        batches: One value an iteration, not one a request.
    """

    measure: Measure
    summaries: tuple[str, str, str, str]
    sample: Callable[[Row, Any], float | None]
    batches: bool = False


def _summary_columns(key: str, mean: str) -> tuple[str, str, str, str]:
    return f"median_{key}", mean, f"p95_{key}", f"p99_{key}"


_TIMINGS = (
    _Timing(AMORTISED, _summary_columns("latency_s", "mean_latency_s"),
            lambda row, sample: _per_request(sample.get("wall_s"), row.get("batch_size")), batches=True),
    _Timing(E2E, _summary_columns("e2e_latency_s", "e2e_latency_s"), lambda row, sample: sample.get("e2e_s")),
    _Timing(TTFT, _summary_columns("ttft_s", "ttft_s"), lambda row, sample: sample.get("ttft_s")),
    _Timing(TPOT, _summary_columns("tpot_s", "tpot_s"), lambda row, sample: sample.get("tpot_s")),
)  # fmt: skip


def _per_request(wall_s: float | None, batch_size: int | None) -> float | None:
    return None if wall_s is None or not batch_size else wall_s / batch_size


def draw_distributions(title: str, data: PlotData) -> Figure | None:
    """How the latencies are distributed: boxes from samples, lines from the summaries of records without any."""
    shown = data.configurations
    samples = [list(data.samples(c.row, "performance")) for c in shown]
    panels = []
    for timing in _TIMINGS:
        spreads = [_spread(timing, c.row, found) for c, found in zip(shown, samples, strict=True)]
        if any(spreads):
            measure = timing.measure
            panels.append(BoxPanel(title=measure.title, hint=measure.better, axis=measure.unit, spreads=spreads))
    if not panels:
        return None
    found = [spread for panel in panels for spread in panel.spreads if spread]
    return row_chart(
        RowChart(title, groups_of(shown), panels, _spread_notes(found), [*map(_spread_handle, ("mean", "p99"))])
    )


def _spread_notes(spreads: Sequence[Spread]) -> list[str]:
    notes = ["At the right: the median. p99 is the greatest value where there are fewer than 100."]
    if any(spread.sampled for spread in spreads):
        notes.insert(0, "Box: quartiles and median; line: 5th to 95th percentile of the samples (amortised: of the"
                        " batches, others: of the requests).")  # fmt: skip
    if not all(spread.sampled for spread in spreads):
        notes.append(f"{SUMMARY_SIGN} no samples were kept: dashed from the median to p95, as recorded.")
    return notes


def _spread_handle(name: str) -> Artist:
    marker, face = {"mean": ("D", "white"), "p99": ("o", style.MUTED)}[name]
    return Line2D([], [], linestyle="none", marker=marker, markersize=4, markerfacecolor=face, label=name,
                  markeredgecolor=style.TEXT if name == "mean" else style.MUTED)  # fmt: skip


def _spread(timing: _Timing, row: Row, samples: Iterable[Any]) -> Spread | None:
    found: dict[Any, float] = {}
    for index, sample in enumerate(samples):
        value = timing.sample(row, sample)
        if value is not None:
            found[sample.get("iteration") if timing.batches else index] = value * timing.measure.scale
    if found:
        return spread_of(list(found.values()))
    values = [row.get(column) for column in timing.summaries]
    scaled = [None if value is None else float(value) * timing.measure.scale for value in values]
    return None if scaled[0] is None else Spread(scaled[0], *scaled[1:])
