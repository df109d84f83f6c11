"""Several metrics of one model at once: one small radar chart per model, one polygon per scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import cast

import numpy as np
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.labels import Floats
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


def _draw_radars(title: str, study: Study) -> MplFigure | None:
    """Small multiples, one per model; each spoke is relative to the best variant of that model.

    A polygon's corners have the ``gid`` ``{name}|{precision}``, its sides ``{name}|{precision}|side``. A side is drawn
    only between two neighbours that are both there.
    """
    found = [(name, m) for name, metrics in _SPOKES if (m := study.first_measured(metrics)) is not None]
    if len(found) < 3:
        return None
    models = {name: list(mine) for name, mine in groupby(by_name(study.variants), lambda variant: variant.name)}
    shares = {name: _shares([metric for _, metric in found], study, mine) for name, mine in models.items()}
    columns = math.ceil(len(models) / math.ceil(len(models) / (4 if len(models) <= 12 else 5)))
    looks = style.looks(variant.precision for variant in study.variants)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
        for name, (colour, marker) in looks.items()
    ]
    notes = [
        "Outer ring: the best variant of the model on that axis; half way in: half as good. "
        + "; ".join(f"{name}: {heading(metric)}, {hint_of(metric)}" for name, metric in found) + "."
    ]  # fmt: skip
    if any(np.isnan(values).any() for values in shares.values()):
        notes.append("An axis without a marker: not measured, or not comparable with the model's baseline.")
    numbers = [
        {"model": name, "precision": variant.precision, "axis": spoke, "metric": metric.key,
         "relative to the best": None if math.isnan(share) else float(share)}
        for name, mine in models.items() for variant, values in zip(mine, shares[name], strict=True)
        for (spoke, metric), share in zip(found, values, strict=True)
    ]  # fmt: skip
    figure, panels = open_page(
        title, handles, notes, [(name, "") for name in models], columns, (2.6, 1.65), left=MARGIN, gap=0.0,
        right=MARGIN, head=0.46, foot=0.25, projection="polar", numbers=numbers,
    )  # fmt: skip
    angles = np.linspace(0, 2 * math.pi, len(found), endpoint=False)
    for axes, (name, mine) in zip(cast("list[PolarAxes]", panels), models.items(), strict=True):
        axes.spines["polar"].set_color("#bdbdbd")
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
        for variant, values in zip(mine, shares[name], strict=True):
            (colour, marker), gid = looks[variant.precision], f"{variant.name}|{variant.precision}"
            known = ~np.isnan(values)
            if known.all():
                axes.fill(angles, values, color=colour, alpha=0.08, zorder=2)
            # A line ends at NaN.
            axes.plot([*angles, 0.0], [*values, values[0]], color=colour, linewidth=1.4, zorder=3, gid=f"{gid}|side")
            axes.plot(angles[known], values[known], linestyle="none", color=colour, markersize=4.5, zorder=4, gid=gid,
                      marker=marker, clip_on=False)  # fmt: skip
    return figure


def _shares(metrics: Sequence[Metric], study: Study, variants: Sequence[Variant]) -> Floats:
    """Each value relative to the best one of its metric, ``(variants, metrics)``: 0.5 for one that is half as good.

    A value that must not be compared is a gap (NaN), as a missing one is.
    """
    values = np.array(
        [[math.nan if doubtful(study.marks(v, m)) else v.number(m) or math.nan for m in metrics] for v in variants]
    )
    maximise = [metric.maximise for metric in metrics]
    best = np.where(maximise, np.fmax.reduce(values), np.fmin.reduce(values))
    return np.where(maximise, values / best, best / values)


add_figure("efficiency_radar", "Efficiency of each precision: further out is better", _draw_radars)
