"""Every figure of the analysis as one table, and the function that writes them.

To add a figure, add a `FigureSpec`; to add a kind of figure, add a function that takes `PlotData` and draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from slim_eval.analysis.bars import Bar, BarChart, BarPanel, grouped_bars
from slim_eval.comparison.rules import Doubt, baseline_of, doubts
from slim_eval.rows import Row
from slim_eval.utils import atomic_path

_LOWER = "lower is better"
_Z95 = 1.959964  # half width of a 95 % normal interval in standard errors


@dataclass(frozen=True)
class PlotData:
    """What figures are drawn from: rows (see `rows`), grouped by model, and the tasks to show."""

    rows: Sequence[Row]
    tasks: Sequence[str] = ()

    @cached_property
    def ordered(self) -> list[Row]:
        """The rows, those of one model together, otherwise in their order."""
        names = list(dict.fromkeys(row["name"] for row in self.rows))
        return sorted(self.rows, key=lambda row: names.index(row["name"]))

    @cached_property
    def groups(self) -> list[tuple[str, list[str]]]:
        """Each model's name with its precisions."""
        found: dict[str, list[str]] = {}
        for row in self.ordered:
            found.setdefault(row["name"], []).append(row["precision"])
        return list(found.items())

    @cached_property
    def doubts(self) -> list[frozenset[Doubt]]:
        """Why each row must not be compared with its 16-bit one, in the order of `ordered`."""
        return [doubts(row, baseline_of(row, self.rows)) for row in self.ordered]

    def has(self, column: str) -> bool:
        """Whether any row has a value there."""
        return any(row.get(column) is not None for row in self.rows)


@dataclass(frozen=True)
class Panel:
    """One metric of a figure of bars.

    Attributes:
        column: Where its values stand.
        title: What is shown.
        axis: Label of the axis, with the unit.
        scale: Factor from the column's unit to the axis' unit.
        hint: What is better, or what the number cannot say.
        standard_error: Column of the standard error; None draws no intervals.
        doubts: Doubts that concern this metric.
        limit: Upper end of the scale; None takes it from the data.
    """

    column: str
    title: str
    axis: str
    scale: float = 1.0
    hint: str = _LOWER
    standard_error: str | None = None
    doubts: frozenset[Doubt] = frozenset()
    limit: float | None = None


@dataclass(frozen=True)
class FigureSpec:
    """A figure: its file name, its title, what it shows, and how it is drawn.

    Attributes:
        panels: The metrics, given the data; those without any value are left out.
        notes: Lines below the figure, given the panels that are shown.
        draw: Makes the figure; None from it means that there is nothing to show.
    """

    name: str
    title: str
    panels: Callable[[PlotData], Sequence[Panel]]
    notes: Callable[[PlotData, Sequence[Panel]], Sequence[str]] = field(default=lambda data, panels: ())
    draw: Callable[[FigureSpec, PlotData], Figure | None] = field(default=lambda spec, data: draw_bars(spec, data))


def draw_bars(spec: FigureSpec, data: PlotData) -> Figure | None:
    """Grouped bars of all panels that have data; None where none has."""
    panels = [panel for panel in spec.panels(data) if data.has(panel.column)]
    if not panels:
        return None
    made = [
        BarPanel(
            panel.title, panel.hint, panel.axis,
            [_bar(panel, row, found) for row, found in zip(data.ordered, data.doubts, strict=True)], panel.limit,
        )
        for panel in panels
    ]  # fmt: skip
    return grouped_bars(BarChart(spec.title, data.groups, made, spec.notes(data, panels)))


def _bar(panel: Panel, row: Row, found: frozenset[Doubt]) -> Bar:
    value = _number(row.get(panel.column))
    if value is None:
        return Bar(None)
    error = _number(row.get(panel.standard_error)) if panel.standard_error else None
    return Bar(value * panel.scale, None if error is None else error * _Z95 * panel.scale, found & panel.doubts)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


_MEMORY = frozenset({Doubt.EMULATED})
_SPEED = frozenset({Doubt.SPEED_SETUP, Doubt.EMULATED})
_ENERGY = frozenset({Doubt.ENERGY_SETUP, Doubt.INVALID_ENERGY, Doubt.EMULATED})
_LATENCY_PANELS = (
    Panel("mean_latency_s", "Amortised latency", "ms a request (batch time / batch size)", 1000,
          doubts=_SPEED | {Doubt.LENGTH}),
    Panel("ttft_s", "Time to first token (TTFT)", "ms", 1000, doubts=_SPEED),
    Panel("tpot_s", "Time per output token (TPOT)", "ms a token, after the first", 1000, doubts=_SPEED),
)  # fmt: skip
_ENERGY_PANELS = (
    Panel("joules_per_output_token", "Energy per output token", "J a token", doubts=_ENERGY),
    Panel("energy_per_query_j", "Energy per request", "J a request", doubts=_ENERGY | {Doubt.LENGTH}),
)


def _memory_panels(data: PlotData) -> tuple[Panel, ...]:
    peak, hint = _PEAK_WORDS[_engine_reserves(data)]
    return (
        Panel("model_size_gb", "Weights on disk", "GiB"),
        Panel("weights_gb", "Weights as loaded", "GiB", doubts=_MEMORY),
        Panel("mean_peak_mem_mb", peak, "GiB", 1 / 1024, hint, doubts=_MEMORY),
    )


# Whether the peak is what the engine reserved: for none, some, or all of the configurations.
_PEAK_WORDS = {
    "none": ("Peak while serving", _LOWER),
    "some": ("Peak while serving", "vLLM: reserved; others: needed"),
    "all": ("Reserved by the engine (peak)", "set by the engine, not by the model's need"),
}


def _memory_notes(data: PlotData, panels: Sequence[Panel]) -> list[str]:
    if _engine_reserves(data) == "none":
        return []
    return ["vLLM reserves a fixed share of the device for weights and KV cache: its peak does not show what"
            " quantization saves. The weights do."]  # fmt: skip


def _engine_reserves(data: PlotData) -> str:
    """Whether memory in use is what the engine reserved: so it is in vLLM, which made the files that name no engine."""
    found = {row["engine"] in (None, "vllm") for row in data.rows if row["mean_peak_mem_mb"] is not None}
    return "some" if len(found) == 2 else "all" if found == {True} else "none"


def _accuracy_panels(data: PlotData) -> list[Panel]:
    return [
        Panel(task, task, f"% ({_metrics(data, task)})", 100, "higher is better", f"{task}_stderr", limit=100)
        for task in data.tasks
    ]  # fmt: skip


def _metrics(data: PlotData, task: str) -> str:
    found = (row[f"{task}_metric"] for row in data.rows if row.get(task) is not None)
    return " or ".join(dict.fromkeys((metric or "metric not known").removesuffix(",none") for metric in found))


def _accuracy_notes(data: PlotData, panels: Sequence[Panel]) -> list[str]:
    if any(panel.standard_error and data.has(panel.standard_error) for panel in panels):
        return ["Whiskers: 95 % interval of each score by itself (1.96 standard errors)."]
    return []


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("latency_comparison", "Latency by model and precision", lambda data: _LATENCY_PANELS),
    FigureSpec("memory_comparison", "Memory by model and precision", _memory_panels, _memory_notes),
    FigureSpec("energy_comparison", "Energy by model and precision", lambda data: _ENERGY_PANELS),
    FigureSpec("accuracy_comparison", "Accuracy by model and precision", _accuracy_panels, _accuracy_notes),
)


def write_plots(data: PlotData, directory: Path) -> tuple[list[Path], list[str]]:
    """Write every figure that has data as PNG; an old file of a figure without data is removed.

    Returns:
        Paths written, and names of the figures that nothing was measured for.
    """
    written: list[Path] = []
    empty: list[str] = []
    for spec in FIGURES:
        path = directory / f"{spec.name}.png"
        figure = spec.draw(spec, data)
        if figure is None:
            path.unlink(missing_ok=True)
            empty.append(spec.name)
            continue
        with atomic_path(path) as temporary:
            # No creation date or version inside: the same results give the same file.
            figure.savefig(temporary, format="png", metadata={"Software": None})
        written.append(path)
    return written, empty
