"""Every figure of the analysis as one table, and the function that writes them.

To add a figure, add a `FigureSpec`; to add a kind of figure, add a function from a title and `PlotData` to a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from slim_eval.analysis.figures import figures_points as points
from slim_eval.analysis.figures.figures_accuracy import draw_degradation, draw_forest, draw_heatmap
from slim_eval.analysis.figures.figures_latency import draw_distributions
from slim_eval.analysis.figures.figures_rows import (
    draw_bars,
    draw_energy_parts,
    draw_memory_parts,
    draw_power,
    memory_measures,
    memory_notes,
    no_notes,
)
from slim_eval.analysis.figures.fonts import font_settings
from slim_eval.analysis.figures.measures import AMORTISED, E2E, ENERGIES, SPEEDUPS, THROUGHPUT, TPOT, TTFT, accuracies
from slim_eval.analysis.figures.plotdata import PlotData
from slim_eval.analysis.figures.writing import each, remove, save

__all__ = ["FIGURES", "FigureSpec", "PlotData", "write_plots"]


@dataclass(frozen=True)
class FigureSpec:
    """A figure.

    Attributes:
        name: Of its files.
        title: What it shows and what is better.
        draw: Makes it from its title and the data; None from it means that there is nothing to show.
    """

    name: str
    title: str
    draw: Callable[[str, PlotData], Figure | None]

    def figure(self, data: PlotData) -> Figure | None:
        """Draw it."""
        with mpl.rc_context(font_settings()):
            return self.draw(self.title, data)


_LATENCY = partial(draw_bars, lambda data: (AMORTISED, TTFT, TPOT, E2E), no_notes)
_MEMORY = partial(draw_bars, memory_measures, memory_notes)
_ENERGY = partial(draw_bars, lambda data: ENERGIES, no_notes)
_ACCURACY = partial(draw_bars, accuracies, no_notes)
_SPEEDUP = partial(draw_bars, lambda data: SPEEDUPS, no_notes, quantized=True)
_THROUGHPUT = partial(draw_bars, lambda data: (THROUGHPUT,), no_notes)
_LATENCY_MEMORY = partial(points.draw_points, points.memories, points.latencies)
_ENERGY_ACCURACY = partial(points.draw_points_by_task, points.energies)
_TPOT_THROUGHPUT = partial(points.draw_points, points.throughputs, points.tpots)


def _pareto(cost: points.Choice) -> Callable[[str, PlotData], Figure | None]:
    return partial(points.draw_points, cost, points.mean_accuracies, steps=True)


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("latency_comparison", "Latency by model and precision: lower is better", _LATENCY),
    FigureSpec("memory_comparison", "Memory by model and precision: smaller weights are better", _MEMORY),
    FigureSpec("energy_comparison", "Energy per work done, by model and precision: lower is better", _ENERGY),
    FigureSpec("accuracy_comparison", "Accuracy by model and precision: higher is better", _ACCURACY),
    FigureSpec("speedup_by_model", "Speed-up over fp16 by model and precision: higher is better", _SPEEDUP),
    FigureSpec("throughput_comparison", "Throughput by model and precision: higher is better", _THROUGHPUT),
    FigureSpec("latency_vs_memory", "Latency over memory: low and left is better", _LATENCY_MEMORY),
    FigureSpec("energy_vs_accuracy", "Accuracy of each task over energy: high and left is better", _ENERGY_ACCURACY),
    FigureSpec("pareto_latency_accuracy", "Accuracy over latency, with frontier: high and left is better",
               _pareto(points.latencies)),
    FigureSpec("pareto_energy_accuracy", "Accuracy over energy, with frontier: high and left is better",
               _pareto(points.energies)),
    FigureSpec("pareto_size_accuracy", "Accuracy over size, with frontier: high and left is better",
               _pareto(points.sizes)),
    FigureSpec("task_accuracy_degradation", "Accuracy lost against fp16, by task: lower is better", draw_degradation),
    FigureSpec("energy_consumption", "Energy of a request and of the whole window: lower is better per request",
               draw_energy_parts),
    FigureSpec("power_consumption", "Power by model and precision: lower is better", draw_power),
    FigureSpec("latency_distribution", "How latencies are distributed: lower and narrower is better",
               draw_distributions),
    FigureSpec("accuracy_heatmap", "Accuracy by model, precision and task: higher is better", draw_heatmap),
    FigureSpec("efficiency_radar", "Efficiency of each precision: further out is better", points.draw_radar),
    FigureSpec("paired_accuracy_drops", "Accuracy drops on the same items, with verdicts: left is better", draw_forest),
    FigureSpec("memory_breakdown", "What the memory holds: smaller weights are better", draw_memory_parts),
    FigureSpec("tpot_vs_throughput", "Time per token over throughput: low and right is better", _TPOT_THROUGHPUT),
)  # fmt: skip


def write_plots(
    data: PlotData, directory: Path, chosen: Sequence[FigureSpec] = FIGURES
) -> tuple[list[Path], list[str]]:
    """Write every chosen figure that has data as PNG and PDF; old files of all others are removed.

    Returns:
        Paths written, and names of the chosen figures that nothing was measured for.
    """

    def write(number: int) -> list[Path]:
        return save(chosen[number].figure(data), directory, chosen[number].name)

    for spec in FIGURES:
        if spec not in chosen:
            remove(directory, spec.name)
    _ = data.configurations  # worked out once, for all processes
    with mpl.rc_context(font_settings()):
        found = each(write, len(chosen))
    empty = [spec.name for spec, paths in zip(chosen, found, strict=True) if not paths]
    return [path for paths in found for path in paths], empty
