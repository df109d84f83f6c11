"""Several metrics of one model at once: one small radar chart per model, one polygon per scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import MARGIN, doubtful, heading, hint_of, open_page
from slim_eval.analysis.figures.rowchart import by_name
from slim_eval.analysis.figures.scatter import LATENCIES
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, DISK, ENERGIES, THROUGHPUT, WEIGHTS, Metric
from slim_eval.results.variants import Variant

_SPOKES: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("accuracy", (ACCURACY_MEAN,)),
    ("latency", LATENCIES),
    ("throughput", (THROUGHPUT,)),
    ("energy", ENERGIES),
    ("size", (DISK, WEIGHTS)),
)
_SIZE = (1.6, 1.6)  # inches, of one small chart


def _draw_radars(title: str, study: Study) -> MplFigure | None:
    """Small multiples, one per model; each spoke is relative to the best variant of that model.

    A polygon's corners have the ``gid`` ``{name}|{precision}``, its sides ``{name}|{precision}|side``. A side is drawn
    only between two neighbours that are both there.
    """
    found = [(name, m) for name, metrics in _SPOKES if (m := study.first_measured(metrics)) is not None]
    if len(found) < 3:
        return None
    models: dict[str, list[Variant]] = {}
    for variant in by_name(study.variants):
        models.setdefault(variant.name, []).append(variant)
    shares = {
        name: np.array([_relative(metric, study, mine) for _, metric in found], dtype=float)
        for name, mine in models.items()
    }  # by spokes and variants; NaN for a gap
    columns = math.ceil(len(models) / math.ceil(len(models) / (4 if len(models) <= 12 else 5)))
    precisions = {variant.precision for variant in study.variants}
    colours, markers = style.colours(precisions), style.markers(precisions)
    handles = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=5, linewidth=1.4, label=name)
        for name in colours
    ]
    notes = [
        "Outer ring: the best variant of the model on that axis; half way in: half as good. "
        + "; ".join(f"{name}: {heading(metric)}, {hint_of(metric)}" for name, metric in found) + "."
    ]  # fmt: skip
    if any(np.isnan(values).any() for values in shares.values()):
        notes.append("An axis without a marker: not measured, or not comparable with the model's baseline.")
    figure, panels = open_page(
        title, handles, notes, [(name, "") for name in models], columns, _SIZE, left=MARGIN + 0.5, gap=1.0,
        right=MARGIN + 0.5, head=0.45, foot=0.25, projection="polar",
    )  # fmt: skip
    angles = np.linspace(0, 2 * math.pi, len(found), endpoint=False)
    for axes, (name, mine) in zip(cast("list[PolarAxes]", panels), models.items(), strict=True):
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        axes.set_ylim(0, 1)
        axes.set_yticks((0.25, 0.5, 0.75), [])
        axes.set_xticks(angles, [spoke for spoke, _ in found])
        axes.tick_params(axis="x", pad=-1)
        for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
            across, up = math.sin(angle), math.cos(angle)
            label.set(ha="center" if abs(across) < 0.1 else "left" if across > 0 else "right")
            label.set(va="center" if abs(up) < 0.4 else "bottom" if up > 0 else "top", color=style.TEXT)
        for variant, values in zip(mine, shares[name].T, strict=True):
            colour, gid = colours[variant.precision], f"{variant.name}|{variant.precision}"
            known = ~np.isnan(values)
            if known.all():
                axes.fill(angles, values, color=colour, alpha=0.08, zorder=2)
            # A line ends at NaN.
            axes.plot([*angles, 0.0], [*values, values[0]], color=colour, linewidth=1.4, zorder=3, gid=f"{gid}|side")
            axes.plot(angles[known], values[known], linestyle="none", color=colour, markersize=4.5, zorder=4, gid=gid,
                      marker=markers[variant.precision], clip_on=False)  # fmt: skip
    return figure


def _relative(metric: Metric, study: Study, variants: Sequence[Variant]) -> list[float | None]:
    """Each value relative to the best one: 1 for the best, 0.5 for one that is half as good.

    A value that must not be compared is a gap, as a missing one is.
    """
    values = [None if doubtful(study.marks(v, metric)) else v.number(metric) for v in variants]
    known = [value for value in values if value]
    if not known:
        return [None] * len(values)
    best = max(known) if metric.maximise else min(known)
    return [None if not value else value / best if metric.maximise else best / value for value in values]


add_figure("efficiency_radar", "Efficiency of each precision: further out is better", _draw_radars)
