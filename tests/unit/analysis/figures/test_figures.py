"""Figures, read back: bars, gaps, labels, marks."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.drawing import draw_figure, font_settings, write_figures
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.figures.layout import NOT_MEASURED, size_of
from slim_eval.analysis.figures.numbers import DrawnFigure, csv_of
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.store import find_results
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils import number, wrapped_name
from tests.unit.analysis.many_variants import PRECISIONS, many_study
from tests.unit.variants import variant_maker


def figure(name: str, variants: Sequence[Variant]) -> Figure:
    made = maybe(name, Study.of(variants))
    assert made is not None
    return made


def maybe(name: str, study: Study) -> Figure | None:
    return draw_figure(FIGURES[name], study)


def bars(axes: Axes) -> dict[str, Rectangle]:
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return {str(patch.get_gid()): patch for patch in found if str(patch.get_gid()).count("|") == 1}


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lengths(axes: Axes) -> dict[str, float]:
    return {key: round(bar.get_width(), 6) for key, bar in bars(axes).items()}


def test_bars_have_the_lengths_of_their_values_in_the_unit_of_the_axis(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(), make_variant(precision="int8", performance={"mean_latency_s": 0.15, "ttft_s": 0.01})]
    latency, ttft, tpot = figure("latency_comparison", variants).axes
    assert lengths(latency) == {"Tiny|fp16": 200.0, "Tiny|int8": 150.0}
    assert lengths(ttft) == {"Tiny|fp16": 20.0, "Tiny|int8": 10.0}
    assert lengths(tpot) == {"Tiny|fp16": 4.0, "Tiny|int8": 4.0}
    assert "ms" in latency.get_xlabel()
    assert "lower is better" in texts(latency)
    assert all(bar.get_x() == 0 for bar in bars(latency).values())
    assert all(axes.get_xlim()[0] == 0 for axes in (latency, ttft, tpot))


def test_bars_of_a_model_stand_together_in_order_and_never_overlap(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(f"org/M{i}", p) for i in range(3) for p in ("fp16", "int8", "int4")[: 3 - i % 2]]
    axes = figure("latency_comparison", variants).axes[0]
    found = bars(axes)
    assert list(found) == [f"{variant.model[4:]}|{variant.precision}" for variant in variants]
    tops = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in found.values()]
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(tops)]
    assert min(gaps) > 0
    assert min(gaps[i] for i in (2, 4)) > 2 * max(gaps[i] for i in (0, 1, 3, 5, 6))  # models stand apart
    assert axes.yaxis_inverted()


def test_a_missing_value_is_a_gap_that_says_so_never_a_bar_of_zero(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(tasks={"mmlu": 0.0}), make_variant(precision="int8", tasks={"arc": 0.5})]
    mmlu, arc = figure("accuracy_comparison", variants).axes
    assert lengths(mmlu) == {"Tiny|fp16": 0.0}  # a measured zero is a bar
    assert lengths(arc) == {"Tiny|int8": 50.0}
    (gap,) = [text for text in arc.texts if text.get_text() == NOT_MEASURED]
    first = bars(mmlu)["Tiny|fp16"]
    assert isinstance(gap, Annotation)
    assert gap.xy == (0, pytest.approx(first.get_y() + first.get_height() / 2))
    assert 0 < gap.xyann[0] < 5  # points: right beside the axis
    assert texts(mmlu).count(NOT_MEASURED) == 1


def test_panels_without_data_are_left_out(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(performance={"ttft_s": None, "tpot_s": None})]
    (axes,) = figure("latency_comparison", variants).axes
    assert "Amortised latency" in texts(axes)


@pytest.fixture(scope="module")
def of_four_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    """All figures of four models, drawn once for what is asserted of every figure."""
    return draw_all(many_study(variant_maker(tmp_path_factory.mktemp("four")), 4))


def draw_all(study: Study) -> dict[str, Figure]:
    return {spec.name: made for spec in FIGURES.values() if (made := draw_figure(spec, study)) is not None}


#: Of servers under load; tests/unit/analysis/figures/test_serving_figures.py draws them.
OF_SERVERS = {"latency_throughput", "goodput_by_load", "energy_by_load", "crossover_map"}


def test_all_that_is_measured_is_drawn(of_four_models: dict[str, Figure]) -> None:
    assert set(FIGURES) - set(of_four_models) == {"other_metrics", *OF_SERVERS}


def test_a_precision_has_one_colour_and_one_shape_in_every_figure(of_four_models: dict[str, Figure]) -> None:
    colours: dict[str, set[str]] = {}
    shapes: dict[str, set[str]] = {}
    for name, made in of_four_models.items():
        for axes in made.axes:
            for key, bar in bars(axes).items():
                if name != "latency_distribution":  # boxes are tinted
                    colours.setdefault(key.split("|")[1], set()).add(to_hex(bar.get_facecolor()).upper())
            for line in axes.lines:
                parts = str(line.get_gid()).split("|")
                if len(parts) == 2 and parts[1] in PRECISIONS:
                    shapes.setdefault(parts[1], set()).add(str(line.get_marker()))
                    edge = line.get_markeredgecolor()
                    face = line.get_markerfacecolor()
                    colours[parts[1]].add(to_hex(edge if face == "white" else face).upper())
    assert colours == {
        "fp16": {"#0072B2"}, "int8": {"#E69F00"}, "int4": {"#009E73"},
    }  # fmt: skip
    assert shapes == {"fp16": {"o"}, "int8": {"s"}, "int4": {"^"}}


def test_further_precisions_differ_in_colour_or_shape() -> None:
    names = [f"fp{i}" for i in range(5, 13)]
    assert len(set(style.looks(names).values())) == len(names)
    assert style.looks(["int8", "x"])["int8"] == ("#E69F00", "s")
    assert style.tint("#0072B2", 0) == "#0072B2"
    assert style.tint("#000000", 0.5) == "#808080"
    assert style.tint("#123456", 1) == "#FFFFFF"


def test_other_output_lengths_are_marked_where_they_matter(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(),
        make_variant(precision="int8", performance={"output_tokens": 50.0}),
        make_variant(precision="int4"),
    ]
    made = figure("latency_comparison", variants)
    latency, ttft, _ = made.axes
    assert {key: bar.get_hatch() for key, bar in bars(latency).items() if bar.get_hatch()} == {"Tiny|int8": "////"}
    assert "200 †" in texts(latency)
    assert not any(bar.get_hatch() for bar in bars(ttft).values())
    assert any(text.get_text().startswith("† output length differs") for text in made.texts)


def test_invalid_energy_and_another_engine_are_marked(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(), make_variant(precision="int8", energy={"valid": False}),
        make_variant(precision="int4", head={"engine": "transformers"}),
    ]  # fmt: skip
    made = figure("energy_comparison", variants)
    assert [text for text in texts(made.axes[0]) if text[-1] in "†‡§"] == ["0.500 §", "0.500 ‡"]
    assert {text.get_text()[0] for text in made.texts} >= {"‡", "§"}


def test_memory_shows_weights_beside_what_the_engine_reserved(make_variant: Callable[..., Variant]) -> None:
    made = figure("memory_comparison", [make_variant()])
    disk, loaded, peak = made.axes
    assert (lengths(disk), lengths(loaded), lengths(peak)) == (
        {"Tiny|fp16": 4.0}, {"Tiny|fp16": 2.0}, {"Tiny|fp16": 2.0},
    )  # fmt: skip
    assert "Reserved by the engine (peak)" in texts(peak)
    assert any("reserves a fixed share" in text.get_text() for text in made.texts)
    other = figure("memory_comparison", [make_variant(head={"engine": "transformers"})])
    assert "Peak memory while serving" in texts(other.axes[2])
    assert not any("reserves" in text.get_text() for text in other.texts)


def test_accuracy_has_a_panel_a_task_its_metric_and_its_interval(make_variant: Callable[..., Variant]) -> None:
    unknown = {"accuracy": 0.2, "stderr": None, "num_items": None, "limit": 50}
    made = figure("accuracy_comparison", [make_variant(tasks={"mmlu": 0.5, "gsm8k": unknown})])
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


@pytest.mark.parametrize("models", [1, pytest.param(20, marks=pytest.mark.large)])
def test_no_two_texts_overlap_and_none_leaves_the_page(models: int, make_variant: Callable[..., Variant]) -> None:
    check_texts(draw_all(many_study(make_variant, models)))


def test_no_two_texts_overlap_at_four_models_either(of_four_models: dict[str, Figure]) -> None:
    check_texts(of_four_models)


@pytest.mark.parametrize(("models", "precisions"), [(2, 3), (5, 1), pytest.param(30, 1, marks=pytest.mark.large)])
def test_long_names_and_gaps_leave_every_text_readable(
    models: int, precisions: int, make_variant: Callable[..., Variant]
) -> None:
    names = [f"org/A-very-long-family-name-with-parts-{i}B-Instruct-v0.{i}-preview-of-2026" for i in range(models)]
    shares = dict.fromkeys(("mmlu", "gsm8k", "hellaswag", "a_task_of_another_name_that_is_long_too"), 0.999)
    variants = [
        make_variant(name, precision, tasks=shares, performance={"mean_latency_s": 12.345, "ttft_s": None})
        for name in names
        for precision in ("fp16", "int8", "int4")[: precisions if name != names[-1] else 1]
    ]
    check_texts(draw_all(Study.of(variants)))


def ticks(axis: Axis) -> list[Text]:
    """The labels that are drawn: those of ticks within the limits."""
    low, high = sorted(axis.get_view_interval())
    major = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
    minor = zip(axis.get_minorticklocs(), axis.get_minorticklabels(), strict=False)
    return [label for place, label in (*major, *minor) if low <= place <= high]


def check_texts(drawn: dict[str, Figure]) -> None:
    for name, made in drawn.items():
        check_texts_of(made, name)


def check_texts_of(made: Figure, name: str) -> None:
    with mpl.rc_context(font_settings()):
        made.draw_without_rendering()
        renderer = FigureCanvasAgg(made).get_renderer()
        shown = [*made.texts, *(text for axes in made.axes for text in axes.texts)]
        shown += [text for legend in made.legends for text in legend.get_texts()]
        framed = [axes for axes in made.axes if axes.axison]
        shown += [label for axes in framed for label in (axes.xaxis.label, axes.yaxis.label)]
        shown += [label for axes in framed for axis in (axes.xaxis, axes.yaxis) for label in ticks(axis)]
        boxes = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown if text.get_text()]
    names = [text for text, _ in boxes]
    left, low, right, high = np.array([box.extents for _, box in boxes]).T
    across = (left + 2 < right[:, None]) & (left[:, None] + 2 < right)
    up = (low + 2 < high[:, None]) & (low[:, None] + 2 < high)
    pairs = [(names[i], names[j]) for i, j in zip(*np.nonzero(np.triu(across & up, 1)), strict=True)]
    assert pairs == [], name
    width, height = made.canvas.get_width_height()
    out = (left < 0) | (low < 0) | (right > width) | (high > height)
    assert [text for text, outside in zip(names, out, strict=True) if outside] == [], name


def test_a_figure_says_what_is_better_and_names_its_units(of_four_models: dict[str, Figure]) -> None:
    units = ("ms", "GiB", "J", "W", "%", "tokens/s", "ratio", "percentage points")
    for name, made in of_four_models.items():
        (title,) = [text.get_text() for text in made.texts if text.get_fontweight() == "bold"]
        assert "better" in title
        for axes in made.axes:
            labels = [axes.get_xlabel(), axes.get_ylabel()]
            if axes.name != "polar":  # the radar's axes are relative: its notes say to what
                assert labels[0], name
            assert all(any(unit in label for unit in units) for label in labels if label), labels


def test_all_figures_of_the_list_are_there() -> None:
    assert set(FIGURES) == {
        "latency_comparison", "memory_comparison", "energy_comparison", "accuracy_comparison", "speedup_by_model",
        "throughput_comparison", "latency_vs_memory", "energy_vs_accuracy", "pareto_latency_accuracy",
        "pareto_energy_accuracy", "pareto_size_accuracy", "task_accuracy_degradation", "energy_consumption",
        "power_consumption", "latency_distribution", "accuracy_heatmap", "efficiency_radar", "paired_accuracy_drops",
        "memory_breakdown", "tpot_vs_throughput", "other_metrics", *OF_SERVERS,
    }  # fmt: skip


def test_names_that_differ_only_in_their_middle_stay_different() -> None:
    names = [f"org/A-very-long-model-name-with-many-parts-{size}B-Instruct-v0.3-preview-2026-01-01" for size in (3, 8)]
    wrapped = [wrapped_name(name) for name in names]
    assert wrapped[0] != wrapped[1]
    assert [text.replace("\n", "") for text in wrapped] == names
    assert max(len(line) for text in wrapped for line in text.splitlines()) <= 24
    assert wrapped_name("x" * 50) == "\n".join(("x" * 24, "x" * 24, "xx"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0125, "0.0125"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (100, "100")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.fixture(scope="module")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[str]]:
    """The figures of one variant without energy, as files: their folder, which had old files, paths, and the others."""
    folder = tmp_path_factory.mktemp("written")
    for ending in ("png", "pdf", "csv"):
        (folder / f"energy_comparison.{ending}").write_bytes(b"old")
    make_variant = variant_maker(folder)
    return (folder, *write_figures(Study.of([make_variant(energy=None, tasks={"mmlu": 0.5})]), folder))


def test_figures_without_data_are_not_written_and_old_ones_go(
    written_once: tuple[Path, list[Path], list[str]],
) -> None:
    folder, written, empty = written_once
    assert sorted(empty) == sorted([
        "other_metrics", "energy_comparison", "speedup_by_model", "energy_vs_accuracy", "pareto_energy_accuracy",
        "task_accuracy_degradation", "energy_consumption", "power_consumption", "latency_distribution",
        "paired_accuracy_drops", *OF_SERVERS,
    ])  # fmt: skip
    assert sorted(path.name for path in folder.glob("*.*")) == sorted(path.name for path in written)
    assert len(written) == 3 * (len(FIGURES) - len(empty))
    for path in written:
        start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".csv": b""}[path.suffix]
        assert path.read_bytes().startswith(start)
        assert path.suffix != ".csv" or len(path.read_text(encoding="utf-8").splitlines()) > 1


@pytest.mark.large
def test_the_same_results_give_the_same_files(make_variant: Callable[..., Variant], tmp_path: Path) -> None:
    study = many_study(make_variant, 1)
    first, second = (write_figures(study, tmp_path / name)[0] for name in ("first", "second"))
    assert len(first) == 3 * (len(FIGURES) - 1 - len(OF_SERVERS))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_pdf_has_its_fonts_inside_as_truetype_and_no_date(written_once: tuple[Path, list[Path], list[str]]) -> None:
    for path in written_once[1]:
        content = path.read_bytes()
        if path.suffix != ".pdf":
            assert b"Software" not in content
            continue
        fonts = content.count(b"/Type /FontDescriptor")
        assert fonts >= 2  # of titles and of the rest
        assert content.count(b"/FontFile2") == fonts
        assert b"/Subtype /Type3" not in content
        assert b"CreationDate" not in content


def numbers_of(made: Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_of(made))))


def test_the_csv_beside_a_figure_has_what_each_bar_shows(make_variant: Callable[..., Variant]) -> None:
    interval = {"tpot_s": 0.002, "intervals": {"tpot_s": (0.0019, 0.0022)}, "output_tokens": 50.0}
    variants = [make_variant(), make_variant(precision="int8", performance={**interval, "ttft_s": None})]
    made = figure("latency_comparison", variants)
    rows = {(row["panel"], row["precision"]): row for row in numbers_of(made)}
    titles = "Amortised latency", "Time to first token (TTFT)", "Time per output token (TPOT)"
    for axes, panel in zip(made.axes, titles, strict=True):
        shown = {precision: row["value"] for (title, precision), row in rows.items() if title == panel}
        drawn = {key.split("|")[1]: bar.get_width() for key, bar in bars(axes).items()}
        assert {key: float(value) for key, value in shown.items() if value} == pytest.approx(drawn)
    tpot = rows["Time per output token (TPOT)", "int8"]
    assert (tpot["low"], tpot["high"], tpot["unit"]) == ("1.9", "2.2", "ms")
    assert rows["Amortised latency", "int8"]["note"] == "confounded"
    missing = rows["Time to first token (TTFT)", "int8"]
    assert (missing["value"], missing["note"]) == ("", NOT_MEASURED)


def test_the_csv_of_every_figure_names_the_variants_drawn_with_their_numbers(
    of_four_models: dict[str, Figure],
) -> None:
    for name, made in of_four_models.items():
        rows = numbers_of(made)
        marks = {str(artist.get_gid()) for axes in made.axes for artist in (*axes.lines, *axes.patches)}
        drawn = {gid for gid in marks if gid.count("|") == 1 and not gid.startswith(("frontier", "path"))}
        told = {f"{row['model']}|{row['precision']}" for row in rows}
        assert drawn <= told or name == "accuracy_heatmap", name
        for column in ("value", "x", "median", "drop", "relative to the best"):
            texts_there = [row[column] for row in rows if row.get(column)]
            assert all(np.isfinite(float(text)) for text in texts_there), name
        assert {"value", "x", "median", "drop", "relative to the best"} & set(rows[0]), name


def test_of_a_figure_of_a_plugin_what_is_on_its_axes_is_read_back() -> None:
    made = Figure()
    left, right = made.subplots(1, 2)
    left.barh(["first", "second"], [3.0, 4.5], label="energy")
    left.set(xlabel="J", title="Bars")
    right.scatter([1.0, 2.0], [10.0, float("nan")], label="seen")
    right.plot([0.5, 0.7], [7.0, 8.0], marker="o")
    right.set(xlabel="load", ylabel="ms")
    FigureCanvasAgg(made).draw()
    assert csv_of(made).splitlines() == [
        "panel,kind,series,J,y,load,ms", "Bars,bar,energy,3.0,first,,", "Bars,bar,energy,4.5,second,,",
        ",line,,,,0.5,7.0", ",line,,,,0.7,8.0", ",points,seen,,,1.0,10.0",
    ]  # fmt: skip
    cells = Figure()
    cells.subplots().imshow([[1.0, 2.0]])
    assert csv_of(cells).splitlines() == ["kind,row,column,value", "cell,0,0,1.0", "cell,0,1,2.0"]
    assert csv_of(Figure()) == ""


def test_a_plugin_may_state_the_numbers_of_its_figure() -> None:
    made = DrawnFigure()
    made.subplots().plot([1, 2], [3, 4])
    made.numbers = [{"model": "a, b", "load": 1, "nothing": None}]
    assert csv_of(made) == 'model,load\n"a, b",1\n'


def test_the_lean_font_draws_what_the_original_draws() -> None:
    settings = font_settings()
    assert settings["pdf.fonttype"] == 42
    text = "Latency † ‡ § ¶ 12.3 ± 0.4 pp Ä é"
    original = size_of(text, 10)
    with mpl.rc_context(settings):
        lean = size_of(text, 10)
    assert lean == pytest.approx(original, rel=0.05)  # it neither kerns nor hints


@pytest.mark.large
def test_letters_that_the_lean_font_lacks_are_the_originals(
    make_variant: Callable[..., Variant], tmp_path: Path
) -> None:
    write_figures(Study.of([make_variant("org/Модель")]), tmp_path, [FIGURES["throughput_comparison"]])
    content = (tmp_path / "throughput_comparison.pdf").read_bytes()
    assert b"DejaVuSans" in content
    assert b"slim-evalSans" in content


def test_published_latencies_are_marked_where_the_published_lengths_differ(published: Path) -> None:
    axes = figure("latency_comparison", find_results(published).variants).axes[0]
    assert len(bars(axes)) == 13
    assert {key for key, bar in bars(axes).items() if bar.get_hatch()} == {
        "Llama-3.2-3B-Instruct|int8", "Mistral-7B-Instruct-v0.3|int8", "Mistral-7B-Instruct-v0.3|int4",
        "Qwen2.5-3B-Instruct|int8", "Qwen2.5-3B-Instruct|int4",
    }  # fmt: skip


def test_a_metric_of_a_plugins_benchmark_has_a_panel_in_a_figure_of_its_own(
    make_variant: Callable[..., Variant],
) -> None:
    variants = [make_variant(), make_variant(precision="int8")]
    assert maybe("other_metrics", Study.of(variants)) is None
    metric = METRICS.register(Metric("toy_score", "toy", "toy score", "points", benchmark="toy", basis=Basis.OWN))
    try:
        measured = [replace(variant, derived={metric.key: Estimate(3.0)}) for variant in variants[:1]]
        (axes,) = figure("other_metrics", [*measured, variants[1]]).axes
    finally:
        METRICS.unregister(metric.key)
    assert lengths(axes) == {"Tiny|fp16": 3.0}
    assert {"Toy score", NOT_MEASURED} <= set(texts(axes))
    assert axes.get_xlabel() == "points"
