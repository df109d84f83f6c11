"""Figures of points, read back: positions, frontiers, settings, labels; and the radar."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.text import Annotation

from slim_eval.analysis.figures.drawing import draw_figure
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.figures.labels import Label, place
from slim_eval.analysis.figures.scatter import FEW_POINTS, usual_length
from slim_eval.analysis.study import Study
from slim_eval.results.variants import Variant
from tests.unit.analysis.many_variants import many_study
from tests.unit.variants import variant_maker

Make = Callable[..., Variant]
PARETO = ("pareto_latency_accuracy", "pareto_energy_accuracy", "pareto_size_accuracy")


def draw(name: str, study: Study) -> Figure:
    made = draw_figure(FIGURES[name], study)
    assert made is not None
    return made


def lines(axes: Axes) -> dict[str, Any]:
    return {str(line.get_gid()): line for line in axes.lines}


def frontiers(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if str(line.get_gid()).startswith("frontier|")]


def at(axes: Axes, gid: str) -> tuple[float, float]:
    line = lines(axes)[gid]
    return round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6)


def notes(made: Figure) -> str:
    """The texts around the panels, top down; a note that was broken is one again."""
    return " ".join(text.get_text() for text in sorted(made.texts, key=lambda text: -text.get_position()[1]))


def legend(made: Figure) -> list[str]:
    return [text.get_text() for text in made.legends[0].get_texts()]


def variant(make: Make, name: str, precision: str, tpot: float, accuracy: float, **more: Any) -> Variant:
    return make(name, precision, performance={"tpot_s": tpot, **more}, tasks={"mmlu": accuracy})


def test_points_stand_at_their_values_with_intervals(make_variant: Make) -> None:
    performance = {"intervals": {"tpot_s": (0.0035, 0.0045)}}
    data = Study.of([make_variant(performance=performance, tasks={"mmlu": 0.5, "gsm8k": 0.7})])
    (axes,) = draw("pareto_latency_accuracy", data).axes
    assert at(axes, "Tiny|fp16") == (4.0, 60.0)
    across, up = lines(axes)["Tiny|fp16|x"], lines(axes)["Tiny|fp16|y"]
    assert list(across.get_xdata()) == [3.5, 4.5]
    half = 1.959964 * 0.01 * 2**0.5 / 2 * 100  # two tasks with a standard error of 1 %
    assert list(up.get_ydata()) == [pytest.approx(60 - half, abs=1e-3), pytest.approx(60 + half, abs=1e-3)]
    assert axes.get_ylabel() == "Mean accuracy of 2 tasks, %"


def test_the_frontier_is_a_line_of_steps_through_what_no_other_one_beats(make_variant: Make) -> None:
    variants = [
        variant(make_variant, "a/A", "fp16", 0.008, 0.9), variant(make_variant, "a/A", "int8", 0.004, 0.7),
        variant(make_variant, "b/B", "fp16", 0.006, 0.6),  # beaten by A int8
        variant(make_variant, "c/C", "fp16", 0.002, 0.5),
    ]  # fmt: skip
    made = draw("pareto_latency_accuracy", Study.of(variants))
    (axes,) = made.axes
    step = frontiers(axes)[0]
    corners = [(round(float(x), 6), round(float(y), 6)) for x, y in step.get_xydata()]
    left, right = axes.get_xlim()
    bottom = round(float(axes.get_ylim()[0]), 6)
    assert list(dict.fromkeys(corners)) == [
        (2.0, bottom), (2.0, 50.0), (4.0, 50.0), (4.0, 70.0), (8.0, 70.0), (8.0, 90.0), (round(float(right), 6), 90.0),
    ]  # fmt: skip
    assert left < 2.0
    assert legend(made)[-1] == "Pareto frontier"


def test_a_frontier_is_drawn_for_each_setting_and_named_by_what_differs(make_variant: Make) -> None:
    variants = [
        variant(make_variant, "a/A", "fp16", 0.008, 0.9), variant(make_variant, "a/A", "int8", 0.004, 0.7),
        variant(make_variant, "b/B", "fp16", 0.001, 0.8, batch_size=1),
        variant(make_variant, "b/B", "int8", 0.0005, 0.7, batch_size=1),
    ]  # fmt: skip
    made = draw("pareto_latency_accuracy", Study.of(variants))
    first, second = frontiers(made.axes[0])
    assert first.get_linestyle() != second.get_linestyle()
    assert legend(made)[-2:] == ["Pareto frontier: batch size 8", "Pareto frontier: batch size 1"]


def test_emulated_and_invalid_points_are_hollow_and_on_no_frontier(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.5}),
        make_variant(
            precision="int8", performance={"tpot_s": 0.001}, tasks={"mmlu": 0.9}, head={"kernels": "emulated"}
        ),
        make_variant(precision="int4", energy={"joules_per_output_token": 0.01, "valid": False}, tasks={"mmlu": 0.9}),
    ]  # fmt: skip
    latency = draw("pareto_latency_accuracy", Study.of(variants[:2]))
    assert lines(latency.axes[0])["Tiny|int8"].get_markerfacecolor() == "white"
    assert (4.0, 50.0) in [tuple(corner) for corner in frontiers(latency.axes[0])[0].get_xydata().round(6)]
    assert "emulated" in notes(latency)
    energy = draw("pareto_energy_accuracy", Study.of(variants))
    assert lines(energy.axes[0])["Tiny|int4"].get_markerfacecolor() == "white"
    assert lines(energy.axes[0])["Tiny|fp16"].get_markerfacecolor() != "white"
    assert "marked invalid" in notes(energy)
    size = draw("pareto_size_accuracy", Study.of(variants))  # size on disk has no doubt
    assert all(lines(size.axes[0])[f"Tiny|{p}"].get_markerfacecolor() != "white" for p in ("fp16", "int8", "int4"))


def test_a_pareto_figure_of_hollow_points_only_has_no_line(make_variant: Make) -> None:
    energy = {"joules_per_output_token": 0.01, "valid": False}
    variants = [make_variant(precision=p, energy=energy, tasks={"mmlu": 0.5}) for p in ("fp16", "int8")]
    (axes,) = draw("pareto_energy_accuracy", Study.of(variants)).axes
    assert all(lines(axes)[f"Tiny|{p}"].get_markerfacecolor() == "white" for p in ("fp16", "int8"))
    assert not [gid for gid in lines(axes) if gid.startswith(("path|", "frontier|"))]


def test_amortised_latency_of_another_length_is_hollow_time_per_token_is_not(make_variant: Make) -> None:
    variants = [
        make_variant("a/A", tasks={"mmlu": 0.5}), make_variant("b/B", tasks={"mmlu": 0.6}),
        make_variant("b/B", "int8", performance={"output_tokens": 60.0, "mean_latency_s": 0.05}, tasks={"mmlu": 0.6}),
    ]  # fmt: skip
    hollow = lambda made: lines(made.axes[0])["B|int8"].get_markerfacecolor() == "white"  # noqa: E731
    assert not hollow(draw("pareto_latency_accuracy", Study.of(variants)))
    old = [
        make_variant(c.model, c.precision, tasks={"mmlu": 0.5},
                  performance={"tpot_s": None, "output_tokens": c.performance.output_tokens})
        for c in variants if c.performance
    ]  # fmt: skip
    made = draw("pareto_latency_accuracy", Study.of(old))
    assert hollow(made)
    assert "Amortised latency" in made.axes[0].get_xlabel()
    assert usual_length(variants) == 100.0


def test_a_configuration_without_one_of_the_metrics_is_named_not_drawn_at_zero(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.5}),
        make_variant(precision="int8", performance={"tpot_s": None}, tasks={"mmlu": 0.4}),
    ]
    made = draw("pareto_latency_accuracy", Study.of(variants))
    assert "Tiny|int8" not in lines(made.axes[0])
    assert "Missing one or both metrics: Tiny int8." in notes(made)


def test_older_records_without_time_per_token_do_not_push_it_aside(make_variant: Make) -> None:
    new = [make_variant(f"m/{i}", tasks={"mmlu": 0.5}) for i in range(2)]
    old = [make_variant(f"o/{i}", performance={"tpot_s": None}, tasks={"mmlu": 0.5}) for i in range(5)]
    label = lambda variants: draw("pareto_latency_accuracy", Study.of(variants)).axes[0].get_xlabel()  # noqa: E731
    assert "TPOT" in label([*new, *old[:2]])
    assert "Amortised" in label([*new, *old])


def test_energy_over_accuracy_has_a_panel_a_task_and_a_path_a_model(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.5, "gsm8k": 0.2}),
        make_variant(precision="int8", energy={"joules_per_output_token": 0.25}, tasks={"mmlu": 0.4}),
    ]
    mmlu, gsm8k = draw("energy_vs_accuracy", Study.of(variants)).axes
    assert (at(mmlu, "Tiny|fp16"), at(mmlu, "Tiny|int8")) == ((0.5, 50.0), (0.25, 40.0))
    assert list(lines(mmlu)["path|Tiny"].get_xdata()) == [0.5, 0.25]
    assert "Tiny|int8" not in lines(gsm8k)


def test_memory_is_what_the_model_needs_never_what_the_engine_reserved(make_variant: Make) -> None:
    (axes,) = draw("latency_vs_memory", Study.of([make_variant()])).axes
    assert at(axes, "Tiny|fp16") == (2.0, 4.0)
    (axes,) = draw("latency_vs_memory", Study.of([make_variant(performance={"weights_gb": None})])).axes
    assert at(axes, "Tiny|fp16") == (4.0, 4.0)
    assert axes.get_xlabel() == "Weights on disk, GiB"


def test_throughput_and_time_per_token_stand_on_their_axes(make_variant: Make) -> None:
    (axes,) = draw("tpot_vs_throughput", Study.of([make_variant()])).axes
    assert at(axes, "Tiny|fp16") == (500.0, 4.0)
    assert "better: right and down" in [text.get_text() for text in axes.texts]


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Sixty configurations of twenty models."""
    return many_study(variant_maker(tmp_path_factory.mktemp("sixty")), 20)


@pytest.mark.parametrize("name", PARETO)
def test_at_sixty_configurations_exactly_the_frontier_is_named(name: str, sixty: Study) -> None:
    made = draw(name, sixty)
    (axes,) = made.axes
    names = {
        str(text.get_gid()).removeprefix("label|") for text in axes.texts if str(text.get_gid()).startswith("label|")
    }
    points = {
        gid: at(axes, gid) for gid, line in lines(axes).items()
        if gid.count("|") == 1 and line.get_marker() != "None" and line.get_markerfacecolor() != "white"
    }  # fmt: skip
    assert len(points) > FEW_POINTS
    best = {
        gid for gid, (x, y) in points.items()
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    }  # fmt: skip
    assert names == best
    assert "Only non-dominated points are named." in notes(made)


def test_at_thirteen_every_label_is_near_its_point(make_variant: Make) -> None:
    made = draw("pareto_size_accuracy", many_study(make_variant, 4))
    (axes,) = made.axes
    made.draw_without_rendering()
    found = [text for text in axes.texts if str(text.get_gid()).startswith("label|")]
    assert len(found) >= 8
    for text in found:
        x, y = axes.transData.transform(at(axes, str(text.get_gid()).removeprefix("label|")))
        box = text.get_window_extent()
        distance = max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1)
        assert isinstance(text, Annotation)
        assert distance < 0.2 * made.dpi or text.arrow_patch is not None


boxes = st.builds(
    lambda x, y, w, h: Label(x, y, w, h),
    st.floats(0, 400), st.floats(0, 300), st.floats(5, 90), st.floats(5, 30),
)  # fmt: skip


Box = tuple[float, float, float, float]  # left, low, right, high


def placed(wishes: list[Label], obstacles: list[Box], room: Box, gap: float) -> list[Box | None]:
    found = place(wishes, np.array(obstacles, dtype=float).reshape(-1, 4), np.array(room), gap)
    return [None if box is None else tuple(box.tolist()) for box in found]


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(st.lists(boxes, max_size=12))
def test_placed_labels_meet_neither_each_other_nor_a_point_nor_the_edge(wishes: list[Label]) -> None:
    points = [(wish.x - 4, wish.y - 4, wish.x + 4, wish.y + 4) for wish in wishes]
    found = [box for box in placed(wishes, points, (0, 0, 400, 300), 6.0) if box is not None]
    assert all(left >= 0 and low >= 0 and right <= 400 and high <= 300 for left, low, right, high in found)
    assert not any(overlap(a, b) for a, b in itertools.combinations(found, 2))
    assert not any(overlap(a, b) for a in found for b in points)


def test_a_label_stands_at_the_right_of_a_free_point_and_moves_when_it_may_not() -> None:
    room, wish = (0, 0, 100, 100), Label(50, 50, 20, 8)
    assert placed([wish], [], room, 5.0) == [(55, 46, 75, 54)]
    (moved,) = placed([wish], [(60, 0, 70, 100)], room, 5.0)
    assert moved is not None
    assert moved[2] <= 60
    assert placed([Label(50, 50, 200, 8)], [], room, 5.0) == [None]


def test_of_two_points_at_one_place_the_first_has_the_nearer_label() -> None:
    first, second = placed([Label(50, 50, 20, 8), Label(50, 50, 20, 8)], [], (0, 0, 200, 100), 5.0)
    assert first is not None
    assert second is not None
    assert first[0] == 55
    assert not overlap(first, second)


def test_the_radar_is_relative_to_the_models_best_and_leaves_gaps(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.8}),
        make_variant(precision="int8", performance={"tpot_s": 0.002, "tokens_per_second": 1000.0}, energy=None,
                  tasks={"mmlu": 0.4}, head={"model_size_gb": 1.0}),
    ]  # fmt: skip
    made = draw("efficiency_radar", Study.of(variants))
    (axes,) = made.axes
    shown = lines(axes)

    def shares(precision: str) -> list[float]:
        return [round(float(share), 6) for share in shown[f"Tiny|{precision}"].get_ydata()]

    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "accuracy", "latency", "throughput", "energy", "size"
    ]  # fmt: skip
    assert shares("fp16") == [1.0, 0.5, 0.5, 1.0, 0.25]
    assert shares("int8") == [0.5, 1.0, 1.0, 1.0]  # no energy: no corner, not one at zero
    ends = np.isnan(shown["Tiny|int8|side"].get_ydata())
    assert sum(~ends[:-1] & ~ends[1:]) == 3  # sides of five: none to or from the gap
    assert "An axis without a marker" in notes(made)


def test_a_doubtful_value_is_a_gap_in_the_radar(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.8}),
        make_variant(precision="int8", tasks={"mmlu": 0.8}, head={"kernels": "emulated"}),
    ]
    (axes,) = draw("efficiency_radar", Study.of(variants)).axes
    assert len(lines(axes)["Tiny|int8"].get_xdata()) == 2  # accuracy and size on disk
    assert len(lines(axes)["Tiny|fp16"].get_xdata()) == 5


def test_the_radars_first_spoke_points_up_and_the_others_follow_clockwise(make_variant: Make) -> None:
    (axes,) = draw("efficiency_radar", Study.of([make_variant(tasks={"mmlu": 0.8})])).axes
    assert isinstance(axes, PolarAxes)
    axes.apply_aspect()  # as drawing does
    angles = lines(axes)["Tiny|fp16"].get_xdata()
    first, second, *_ = axes.transData.transform([(angle, 1.0) for angle in angles]) - axes.transData.transform((0, 0))
    assert first == pytest.approx((0, np.hypot(*first)), abs=1e-6)
    assert np.arctan2(*second) == pytest.approx(2 * np.pi / 5)  # from the top, clockwise


def test_small_multiples_fill_a_grid(sixty: Study) -> None:
    made = draw("efficiency_radar", sixty)
    places = [axes.get_position().bounds for axes in made.axes]
    assert len(places) == 20
    assert len({round(left, 4) for left, *_ in places}) == 5
    assert len({round(low, 4) for _, low, *_ in places}) == 4
