"""Figures, read back: bars, gaps, labels, marks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slim_eval.analysis import style
from slim_eval.analysis.bars import NOT_MEASURED
from slim_eval.analysis.plots import FIGURES, PlotData, write_plots
from slim_eval.results import Cell, find_results
from slim_eval.rows import rows_of, tasks_of
from slim_eval.utils import number


def figure(name: str, cells: Sequence[Cell]) -> Figure:
    rows = rows_of(cells)
    spec = next(spec for spec in FIGURES if spec.name == name)
    made = spec.draw(spec, PlotData(rows, tasks_of(rows[0])))
    assert made is not None
    return made


def bars(axes: Axes) -> dict[str, Rectangle]:
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return {str(patch.get_gid()): patch for patch in found}


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lengths(axes: Axes) -> dict[str, float]:
    return {key: round(bar.get_width(), 6) for key, bar in bars(axes).items()}


def test_bars_have_the_lengths_of_their_values_in_the_unit_of_the_axis(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(), make_cell(precision="int8", performance={"mean_latency_s": 0.15, "ttft_s": 0.01})]
    latency, ttft, tpot = figure("latency_comparison", cells).axes
    assert lengths(latency) == {"Tiny|fp16": 200.0, "Tiny|int8": 150.0}
    assert lengths(ttft) == {"Tiny|fp16": 20.0, "Tiny|int8": 10.0}
    assert lengths(tpot) == {"Tiny|fp16": 4.0, "Tiny|int8": 4.0}
    assert "ms" in latency.get_xlabel()
    assert "lower is better" in texts(latency)
    assert all(bar.get_x() == 0 for bar in bars(latency).values())
    assert all(axes.get_xlim()[0] == 0 for axes in (latency, ttft, tpot))


def test_bars_of_a_model_stand_together_in_order_and_never_overlap(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(f"org/M{i}", p) for i in range(3) for p in ("fp16", "int8", "int4")[: 3 - i % 2]]
    axes = figure("latency_comparison", cells).axes[0]
    found = bars(axes)
    assert list(found) == [f"{cell.model[4:]}|{cell.precision}" for cell in cells]
    tops = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in found.values()]
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(tops)]
    assert min(gaps) > 0
    assert min(gaps[i] for i in (2, 4)) > 2 * max(gaps[i] for i in (0, 1, 3, 5, 6))  # models stand apart
    assert axes.yaxis_inverted()


def test_a_missing_value_is_a_gap_that_says_so_never_a_bar_of_zero(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(tasks={"mmlu": 0.0}), make_cell(precision="int8", tasks={"arc": 0.5})]
    mmlu, arc = figure("accuracy_comparison", cells).axes
    assert lengths(mmlu) == {"Tiny|fp16": 0.0}  # a measured zero is a bar
    assert lengths(arc) == {"Tiny|int8": 50.0}
    (gap,) = [text for text in arc.texts if text.get_text() == NOT_MEASURED]
    first = bars(mmlu)["Tiny|fp16"]
    assert gap.xy == (0, pytest.approx(first.get_y() + first.get_height() / 2))
    assert texts(mmlu).count(NOT_MEASURED) == 1


def test_panels_without_data_are_left_out(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(performance={"ttft_s": None, "tpot_s": None})]
    (axes,) = figure("latency_comparison", cells).axes
    assert "Amortised latency" in texts(axes)


def test_a_precision_has_one_colour_everywhere(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(model, p, tasks={"mmlu": 0.5}) for model in ("a/A", "b/B") for p in ("fp16", "int8", "fp8")]
    seen: dict[str, set[str]] = {}
    for spec in FIGURES:
        for axes in figure(spec.name, cells).axes:
            for key, bar in bars(axes).items():
                seen.setdefault(key.split("|")[1], set()).add(to_hex(bar.get_facecolor()).upper())
    assert seen["fp16"] == {style.OKABE_ITO["blue"]}
    assert seen["int8"] == {style.OKABE_ITO["orange"]}
    assert len(seen["fp8"]) == 1
    assert len(set.union(*seen.values())) == 3
    assert style.colours(["int8"])["int8"] == style.OKABE_ITO["orange"]


def test_other_output_lengths_are_marked_where_they_matter(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(), make_cell(precision="int8", performance={"output_tokens": 50.0}), make_cell(precision="int4")]
    made = figure("latency_comparison", cells)
    latency, ttft, _ = made.axes
    assert {key: bar.get_hatch() for key, bar in bars(latency).items() if bar.get_hatch()} == {"Tiny|int8": "////"}
    assert "200 †" in texts(latency)
    assert not any(bar.get_hatch() for bar in bars(ttft).values())
    assert any(text.get_text().startswith("† different output length") for text in made.texts)


def test_invalid_energy_and_another_engine_are_marked(make_cell: Callable[..., Cell]) -> None:
    cells = [
        make_cell(), make_cell(precision="int8", energy={"valid": False}),
        make_cell(precision="int4", head={"engine": "transformers"}),
    ]  # fmt: skip
    made = figure("energy_comparison", cells)
    assert [text for text in texts(made.axes[0]) if text[-1] in "†‡§"] == ["0.500 §", "0.500 ‡"]
    assert {text.get_text()[0] for text in made.texts} >= {"‡", "§"}


def test_memory_shows_weights_beside_what_the_engine_reserved(make_cell: Callable[..., Cell]) -> None:
    made = figure("memory_comparison", [make_cell()])
    disk, loaded, peak = made.axes
    assert (lengths(disk), lengths(loaded), lengths(peak)) == (
        {"Tiny|fp16": 4.0}, {"Tiny|fp16": 2.0}, {"Tiny|fp16": 2.0},
    )  # fmt: skip
    assert "Reserved by the engine (peak)" in texts(peak)
    assert any("reserves a fixed share" in text.get_text() for text in made.texts)
    other = figure("memory_comparison", [make_cell(head={"engine": "transformers"})])
    assert "Peak while serving" in texts(other.axes[2])
    assert not any("reserves" in text.get_text() for text in other.texts)


def test_accuracy_has_a_panel_a_task_its_metric_and_its_interval(make_cell: Callable[..., Cell]) -> None:
    made = figure("accuracy_comparison", [make_cell(tasks={"mmlu": 0.5, "gsm8k": {"accuracy": 0.2, "stderr": None}})])
    mmlu, gsm8k = made.axes
    assert mmlu.get_xlabel() == "% (acc)"
    assert "higher is better" in texts(mmlu)
    assert mmlu.get_xlim()[1] >= 100
    ((low, high),) = [
        (segment[0][0], segment[1][0]) for container in mmlu.containers if hasattr(container, "has_xerr")
        for segment in container.lines[2][0].get_segments()
    ]  # fmt: skip
    assert (low, high) == (pytest.approx(50 - 1.96, abs=0.001), pytest.approx(50 + 1.96, abs=0.001))
    assert not any(hasattr(container, "has_xerr") for container in gsm8k.containers)


@pytest.mark.parametrize(("models", "precisions"), [(1, 3), (5, 3), (20, 3), (6, 1), (30, 1)])
def test_no_two_texts_overlap(models: int, precisions: int, make_cell: Callable[..., Cell]) -> None:
    names = [f"org/A-very-long-family-name-with-parts-{i}B-Instruct-v0.{i}-preview-of-2026" for i in range(models)]
    tasks = ("mmlu", "gsm8k", "hellaswag", "a_task_of_another_name")
    shares = dict.fromkeys(tasks, 0.999)
    cells = [
        make_cell(name, precision, tasks=shares, performance={"mean_latency_s": 12.345, "ttft_s": None})
        for name in names
        for precision in ("fp16", "int8", "int4")[: precisions if name != names[-1] else 1]
    ]
    for spec in FIGURES:
        made = figure(spec.name, cells)
        made.draw_without_rendering()
        renderer = FigureCanvasAgg(made).get_renderer()
        shown = [*made.texts, *(text for axes in made.axes for text in axes.texts)]
        shown += [axes.xaxis.label for axes in made.axes]
        shown += [label for axes in made.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown if text.get_text()]
        inner = [(text, *box.padded(-1).extents) for text, box in boxes]
        for (a, left, low, right, high), (b, x0, y0, x1, y1) in itertools.combinations(inner, 2):
            assert right <= x0 or x1 <= left or high <= y0 or y1 <= low, (spec.name, a, b)
        width, height = made.canvas.get_width_height()
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (spec.name, text)  # noqa: PT018


def test_names_that_differ_only_in_their_middle_stay_different() -> None:
    names = [f"org/A-very-long-model-name-with-many-parts-{size}B-Instruct-v0.3-preview-2026-01-01" for size in (3, 8)]
    wrapped = [style.wrapped_name(name) for name in names]
    assert wrapped[0] != wrapped[1]
    assert [text.replace("\n", "") for text in wrapped] == names
    assert max(len(line) for text in wrapped for line in text.splitlines()) <= 24
    assert style.wrapped_name("x" * 50) == "\n".join(("x" * 24, "x" * 24, "xx"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0125, "0.0125"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (100, "100")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_figures_without_data_are_not_written_and_old_ones_go(make_cell: Callable[..., Cell], tmp_path: Path) -> None:
    rows = rows_of([make_cell(energy=None, tasks={"mmlu": 0.5})])
    stale = tmp_path / "energy_comparison.png"
    stale.write_bytes(b"old")
    written, empty = write_plots(PlotData(rows, ("mmlu",)), tmp_path)
    assert empty == ["energy_comparison"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert len(written) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_the_same_results_give_the_same_file(make_cell: Callable[..., Cell], tmp_path: Path) -> None:
    data = PlotData(rows_of([make_cell(tasks={"mmlu": 0.5})]), ("mmlu",))
    first, second = (write_plots(data, tmp_path / name)[0] for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_published_latencies_are_marked_where_the_published_lengths_differ(published: Path) -> None:
    axes = figure("latency_comparison", find_results(published).cells).axes[0]
    assert len(bars(axes)) == 13
    assert {key for key, bar in bars(axes).items() if bar.get_hatch()} == {
        "Llama-3.2-3B-Instruct|int8", "Mistral-7B-Instruct-v0.3|int8", "Mistral-7B-Instruct-v0.3|int4",
        "Qwen2.5-3B-Instruct|int8", "Qwen2.5-3B-Instruct|int4",
    }  # fmt: skip
