"""Figures of rows, read back: speed-ups, drops, verdicts, stacks, power, distributions, heatmap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slim_eval.analysis.figures.distributions import _spread
from slim_eval.analysis.figures.drawing import draw_figure
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.figures.layout import NOT_COMPARABLE, NOT_MEASURED
from slim_eval.analysis.study import Study
from slim_eval.metrics import TPOT
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Variant
from tests.unit.analysis.many_variants import SampledStudy

Make = Callable[..., Variant]


def maybe(name: str, study: Study) -> Figure | None:
    return draw_figure(FIGURES[name], study)


def figure(name: str, variants: Sequence[Variant], paired: Mapping[Path, Sequence[PairedTask]] | None = None) -> Figure:
    made = maybe(name, replace(Study.of(variants), paired=paired or {}))
    assert made is not None
    return made


def patches(axes: Axes) -> dict[str, Rectangle]:
    return {str(p.get_gid()): p for p in axes.patches if isinstance(p, Rectangle) and "|" in str(p.get_gid())}


def lengths(axes: Axes) -> dict[str, float]:
    return {key: round(float(patch.get_width()), 6) for key, patch in patches(axes).items()}


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def line(axes: Axes, gid: str) -> tuple[list[float], list[float]]:
    (found,) = [line for line in axes.lines if line.get_gid() == gid]
    return [float(x) for x in found.get_xdata()], [float(y) for y in found.get_ydata()]


def whiskers(axes: Axes) -> list[tuple[float, float]]:
    return [
        (round(float(segment[0][0]), 6), round(float(segment[1][0]), 6))
        for container in axes.containers if hasattr(container, "has_xerr")
        for segment in container.lines[2][0].get_segments()
    ]  # fmt: skip


def notes(made: Figure) -> str:
    """The texts around the panels, top down; a note that was broken is one again."""
    return " ".join(text.get_text() for text in sorted(made.texts, key=lambda text: -text.get_position()[1]))


def legend(made: Figure) -> list[str]:
    return [text.get_text() for text in made.legends[0].get_texts()]


def test_speed_ups_are_ratios_to_fp16_with_the_confounded_one_marked(make_variant: Make) -> None:
    variants = [
        make_variant(),
        make_variant(precision="int8", performance={"tokens_per_second": 640.0, "mean_latency_s": 0.1, "tpot_s": 0.002,
                                                 "output_tokens": 58.0}),
    ]  # fmt: skip
    made = figure("speedup_by_model", variants)
    token, tpot, latency = made.axes
    assert (lengths(token), lengths(tpot), lengths(latency)) == (
        {"Tiny|int8": 1.28}, {"Tiny|int8": 2.0}, {"Tiny|int8": 2.0},
    )  # fmt: skip
    assert [patch.get_hatch() for axes in made.axes for patch in patches(axes).values()] == [None, None, "////"]
    assert "2.00 †" in texts(latency)
    assert "2.00" in texts(tpot)
    for axes in made.axes:
        assert [float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == "--"] == [1.0]
    assert "not comparable with the baseline" in legend(made)


def test_a_speed_ups_whiskers_are_the_interval_of_the_ratio(make_variant: Make) -> None:
    slow = make_variant(performance={"intervals": {"tpot_s": (0.0038, 0.0042)}})
    fast = make_variant(precision="int8", performance={"tpot_s": 0.002, "intervals": {"tpot_s": (0.0019, 0.0021)}})
    _, tpot, _ = figure("speedup_by_model", [slow, fast]).axes
    ((low, high),) = whiskers(tpot)
    assert 1.8 < low < 2.0 < high < 2.2
    assert low * high == pytest.approx(4.0, rel=1e-4)  # symmetric in logarithms


def test_a_refused_comparison_is_told_from_a_missing_measurement(make_variant: Make) -> None:
    variants = [
        make_variant(), make_variant(precision="int8", performance={"batch_size": 4}),
        make_variant(precision="int4", performance={"tpot_s": None}), make_variant("b/B"), make_variant("b/B", "int8"),
    ]  # fmt: skip
    made = figure("speedup_by_model", variants)
    throughput, tpot, _ = made.axes
    assert [text for text in texts(throughput) if text.startswith("not ")] == [NOT_COMPARABLE]
    assert [text for text in texts(tpot) if text.startswith("not ")] == [NOT_COMPARABLE, NOT_MEASURED]
    assert lengths(tpot) == {"B|int8": 1.0}
    assert "not comparable: measured with different settings" in notes(made)


def test_a_model_without_quantized_configurations_has_no_speed_up(make_variant: Make) -> None:
    assert maybe("speedup_by_model", Study.of([make_variant()])) is None
    made = figure("speedup_by_model", [make_variant("a/Alone"), make_variant("b/Pair"), make_variant("b/Pair", "int8")])
    assert not any("Alone" in text for text in texts(made.axes[0]))


def test_whiskers_of_metrics_are_the_recorded_intervals(make_variant: Make) -> None:
    performance = {"intervals": {"ttft_s": (0.018, 0.025), "tokens_per_second": (480.0, 530.0)}}
    variants = [make_variant(performance=performance), make_variant(precision="int8")]
    made = figure("latency_comparison", variants)
    assert [whiskers(axes) for axes in made.axes] == [[], [(18.0, 25.0)], []]
    assert "Whiskers: 95 % interval." in notes(made)
    assert whiskers(figure("throughput_comparison", variants).axes[0]) == [(480.0, 530.0)]
    assert "Whiskers" not in notes(figure("latency_comparison", [make_variant()]))


def test_power_shows_its_least_and_greatest_sample_and_idle(make_variant: Make) -> None:
    energy = {"avg_power_watts": 200.0, "min_power_watts": 150.0, "max_power_watts": 240.0, "idle_power_watts": 80.0}
    made = figure("power_consumption", [make_variant(energy=energy), make_variant(precision="int8", energy=None)])
    (axes,) = made.axes
    assert lengths(axes) == {"Tiny|fp16": 200.0}
    assert whiskers(axes) == [(150.0, 240.0)]
    assert line(axes, "tick")[0] == [80.0]
    assert NOT_MEASURED in texts(axes)
    assert "idle, engine loaded" in legend(made)


def test_energy_of_a_request_is_split_where_idle_is_known(make_variant: Make) -> None:
    variants = [
        make_variant(energy={"energy_joules_net": 750.0, "intervals": {"energy_joules": (900.0, 1100.0)}}),
        make_variant(precision="int8"),
        make_variant(precision="int4", energy=None),
    ]
    request, window = figure("energy_consumption", variants).axes
    assert lengths(request) == {
        "Tiny|fp16|above idle": 37.5, "Tiny|fp16|idle": 12.5, "Tiny|int8|not split: idle power unknown": 50.0,
    }  # fmt: skip
    assert patches(request)["Tiny|fp16|idle"].get_x() == 37.5
    assert lengths(window) == {"Tiny|fp16": 1000.0, "Tiny|int8": 1000.0}
    assert whiskers(window) == [(900.0, 1100.0)]
    assert NOT_MEASURED in texts(request)


def test_memory_is_weights_then_cache_then_the_rest_of_the_peak(make_variant: Make) -> None:
    variants = [
        make_variant(performance={"weights_gb": 3.0, "kv_cache_gb": 4.0, "mean_peak_mem_mb": 8192.0}),
        make_variant(precision="int8", performance={"weights_gb": None, "mean_peak_mem_mb": 6144.0}),
        make_variant(precision="int4", performance=None),
    ]
    made = figure("memory_breakdown", variants)
    (axes,) = made.axes
    assert lengths(axes) == {
        "Tiny|fp16|weights": 3.0, "Tiny|fp16|KV cache": 4.0, "Tiny|fp16|rest of the peak": 1.0,
        "Tiny|int8|weights": 4.0, "Tiny|int8|rest of the peak": 2.0,
    }  # fmt: skip
    assert [patches(axes)[f"Tiny|fp16|{part}"].get_x() for part in ("weights", "KV cache", "rest of the peak")] == [
        0, 3, 7
    ]  # fmt: skip
    assert {"8.00", "6.00 *", NOT_MEASURED} <= set(texts(axes))
    assert "size on disk is shown instead" in notes(made)
    assert to_hex(patches(axes)["Tiny|fp16|weights"].get_facecolor()).upper() == "#0072B2"
    assert {"weights", "KV cache", "rest of the peak"} <= set(legend(made))


def test_a_peak_below_the_known_parts_has_no_rest(make_variant: Make) -> None:
    variants = [make_variant(performance={"weights_gb": 3.0, "kv_cache_gb": 4.0, "mean_peak_mem_mb": 1024.0})]
    assert lengths(figure("memory_breakdown", variants).axes[0]) == {
        "Tiny|fp16|weights": 3.0,
        "Tiny|fp16|KV cache": 4.0,
    }


def test_drops_are_shown_in_points_and_relative_with_both_intervals(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.80}),
        make_variant(precision="int8", tasks={"mmlu": 0.76}),
        make_variant(precision="int4", tasks={"mmlu": 0.82}),
    ]
    made = figure("task_accuracy_degradation", variants)
    points, relative = made.axes
    assert lengths(points) == {"Tiny|int8": 4.0, "Tiny|int4": -2.0}
    assert lengths(relative) == {"Tiny|int8": 5.0, "Tiny|int4": -2.5}
    half = 1.959964 * 2**0.5
    assert whiskers(points)[0] == (pytest.approx(4 - half, abs=1e-5), pytest.approx(4 + half, abs=1e-5))
    assert whiskers(relative)[0] == (pytest.approx(5 - half / 0.8, abs=1e-5), pytest.approx(5 + half / 0.8, abs=1e-5))
    assert {"+4.00", "-2.00"} <= set(texts(points))
    assert points.get_xlim()[0] < -2 - half
    assert relative.get_xlabel() == "% of the baseline's accuracy"


def paired(variants: Sequence[Variant], *tasks: PairedTask) -> dict[Path, Sequence[PairedTask]]:
    return {variants[1].directory: tasks}


def test_a_drops_interval_is_the_paired_one_where_items_were_kept(make_variant: Make) -> None:
    variants = [make_variant(tasks={"mmlu": 0.80}), make_variant(precision="int8", tasks={"mmlu": 0.76})]
    found = paired(variants, PairedTask(task="mmlu", drop_pp=4.0, interval_pp=(3.0, 5.0)))
    assert whiskers(figure("task_accuracy_degradation", variants, paired=found).axes[0]) == [(3.0, 5.0)]


def test_the_forest_shows_drop_interval_margin_and_verdict(make_variant: Make) -> None:
    tasks = dict.fromkeys(("mmlu", "gsm8k", "hellaswag"), 0.8)
    variants = [make_variant(tasks=tasks), make_variant(precision="int8", tasks=tasks)]
    found = paired(
        variants,
        PairedTask(task="mmlu", drop_pp=2.5, interval_pp=(1.5, 3.5), margin_pp=1.0, verdict="degraded"),
        PairedTask(task="gsm8k", drop_pp=0.5, interval_pp=(-2.0, 3.0), margin_pp=1.0, verdict="underpowered"),
        PairedTask(task="hellaswag", refused="other items"),
    )
    made = figure("paired_accuracy_drops", variants, paired=found)
    mmlu, gsm8k = made.axes  # a task without any number is left out
    assert line(mmlu, "Tiny|int8")[0] == [2.5]
    assert line(mmlu, "Tiny|int8|interval")[0] == [1.5, 3.5]
    assert line(gsm8k, "Tiny|int8|interval")[0] == [-2.0, 3.0]
    assert "+2.5 degraded" in texts(mmlu)
    assert "+0.5 inconclusive" in texts(gsm8k)
    faces = [next(x for x in axes.lines if x.get_gid() == "Tiny|int8").get_markerfacecolor() for axes in made.axes]
    assert faces == ["#E69F00", "white"]
    (margin,) = [patch for patch in mmlu.patches if patch.get_gid() == "margin"]
    assert margin.get_x() + margin.get_width() == 1.0
    assert mmlu.get_xlim() == gsm8k.get_xlim() or mmlu.get_xlim()[0] == pytest.approx(gsm8k.get_xlim()[0], abs=0.5)
    assert "within the margin of 1 pp" in legend(made)


def test_a_task_that_could_not_be_paired_says_so_beside_those_that_could(make_variant: Make) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.8}),
        *(make_variant(precision=p, tasks={"mmlu": 0.8}) for p in ("int8", "int4")),
    ]
    found = (
        {variants[1].directory: [PairedTask(task="mmlu", drop_pp=0.0, interval_pp=(-0.1, 0.1), verdict="equivalent")],
         variants[2].directory: [PairedTask(task="mmlu", refused="other items")]}
    )  # fmt: skip
    (axes,) = figure("paired_accuracy_drops", variants, paired=found).axes
    assert {"+0.0 equivalent", "not paired"} <= set(texts(axes))
    assert maybe("paired_accuracy_drops", Study.of(variants)) is None


def test_distributions_are_boxes_of_samples_by_batch_and_by_request(make_variant: Make) -> None:
    samples = [
        {"iteration": index // 2, "wall_s": 0.8 + 0.08 * (index // 2), "ttft_s": 0.01 * (index + 1)}
        for index in range(10)
    ]  # five batches of two requests

    variants = [make_variant(), make_variant(precision="int8", performance={
        "median_latency_s": 0.15, "mean_latency_s": 0.16, "p95_latency_s": 0.2, "p99_latency_s": 0.3})]  # fmt: skip
    plain = Study.of(variants)
    made = maybe(
        "latency_distribution", SampledStudy(plain.variants, plain.tasks, kept={variants[0].directory: samples})
    )
    assert made is not None
    amortised, ttft = made.axes
    (box,) = amortised.patches
    assert box.get_gid() == "Tiny|fp16"
    ends = box.get_path().get_extents()
    assert (ends.x0, ends.x1) == (pytest.approx(110), pytest.approx(130))  # quartiles of 100, 110, …, 140
    assert line(amortised, "Tiny|fp16|median")[0] == [pytest.approx(120)]
    assert line(ttft, "Tiny|fp16|median")[0] == [pytest.approx(55)]  # of ten requests
    assert line(amortised, "Tiny|int8|range")[0] == [pytest.approx(150), pytest.approx(200)]
    assert line(amortised, "Tiny|int8|mean")[0] == [pytest.approx(160)]
    assert line(amortised, "Tiny|int8|p99")[0] == [pytest.approx(300)]
    assert {"120", "150 *"} <= set(texts(amortised))
    assert NOT_MEASURED in texts(ttft)
    assert "* no samples were recorded" in notes(made)
    assert "Box: quartiles" in notes(made)


def test_a_spread_of_few_samples_names_its_greatest_value_not_a_tail(make_variant: Make) -> None:
    plain = Study.of([make_variant()])
    samples: list[dict[str, Any]] = [{"tpot_s": 0.001}, {"tpot_s": 0.002}, {"tpot_s": 0.003}]
    kept = {plain.variants[0].directory: samples}
    made = maybe("latency_distribution", SampledStudy(plain.variants, plain.tasks, kept=kept))
    assert made is not None
    (axes,) = made.axes  # the others have neither samples nor a summary
    assert line(axes, "Tiny|fp16|median")[0] == [pytest.approx(2)]
    assert line(axes, "Tiny|fp16|mean")[0] == [pytest.approx(2)]
    assert line(axes, "Tiny|fp16|p99")[0] == [pytest.approx(3)]
    spread = _spread(TPOT, plain.variants[0], samples)
    assert spread is not None
    assert (spread.p95, spread.p99) == (pytest.approx(3), pytest.approx(3))


def test_notes_and_legend_have_one_order_whichever_panel_needs_them(make_variant: Make) -> None:
    interval = {"intervals": {"ttft_s": (0.01, 0.02)}}  # of the second panel; the first has a note of its own
    found = notes(figure("latency_comparison", [make_variant(performance=interval)]))
    assert 0 < found.index("Whiskers: 95 % interval.") < found.index("Amortised latency: wall time")
    variants = [make_variant(), make_variant(precision="int8", energy={"valid": False})]
    names = legend(figure("energy_consumption", variants))
    assert names[:3] == ["fp16", "int8", "not comparable with the baseline"]
    assert names[3:] == ["not split: idle power unknown"]


def test_the_heatmap_has_a_cell_a_task_and_a_white_gap(make_variant: Make) -> None:
    variants = [make_variant(tasks={"mmlu": 0.25, "gsm8k": 0.75}), make_variant(precision="int8", tasks={"mmlu": 0.5})]
    (axes,) = figure("accuracy_heatmap", variants).axes
    (mesh,) = axes.collections
    values = mesh.get_array()
    assert values is not None
    assert values.shape == (2, 2)
    assert values.mask.tolist() == [[False, False], [False, True]]
    assert values.compressed().tolist() == [25.0, 75.0, 50.0]
    light = [sum(colour[:3]) for colour in mesh.to_rgba([25.0, 50.0, 75.0])]
    assert light == sorted(light)
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert [shown[x + 0.5, y + 0.5] for y in (0, 1) for x in (0, 1)] == ["25.0", "75.0", "50.0", NOT_MEASURED]
