"""Two variants beside each other: planted slowdowns, noise floors, and what must not be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.compare.comparison import (
    MetricComparison,
    MetricVerdict,
    VariantComparison,
    compare,
)
from slim_eval.analysis.compare.noise_floor import noise_floor
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.store import write_noise
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes, performance, requests

MakeCell = Callable[..., Variant]


@pytest.fixture
def variant_of(make_variant: MakeCell) -> Callable[..., Variant]:
    """A variant whose requests took these times."""

    def make(
        precision: str, tpot_s: float, *, seed: int = 0, changed: dict[str, Any] | None = None, **more: Any
    ) -> Variant:
        planted = {key: more.pop(key) for key in ("iterations", "jitter") if key in more}
        rows = requests(tpot_s, seed=seed, **planted)
        return make_variant(
            precision=precision, performance=performance(rows) | (changed or {}), samples={"performance": rows}, **more
        )

    return make


def of(comparison: VariantComparison, key: str) -> MetricComparison:
    return next(made for made in comparison.metrics if made.metric.key == key)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize(("slowdown", "verdict"), [(1.03, MetricVerdict.WORSE), (0.97, MetricVerdict.BETTER)])
def test_a_planted_change_of_three_percent_is_called(
    variant_of: Callable[..., Variant], seed: int, slowdown: float, verdict: MetricVerdict
) -> None:
    made = compare(variant_of("fp16", 0.01), variant_of("int8", 0.01 * slowdown, seed=seed), 1.0)
    tpot = of(made, "tpot_s")
    assert tpot.verdict is verdict
    assert tpot.ratio == pytest.approx(slowdown, rel=0.01)
    assert of(made, "tokens_per_second").verdict is verdict


@pytest.mark.large
def test_a_planted_change_of_nothing_is_called_one_time_in_twenty_at_most(variant_of: Callable[..., Variant]) -> None:
    base = variant_of("fp16", 0.01, seed=1000)
    called = sum(
        of(compare(base, variant_of("int8", 0.01, seed=seed), 1.0), "tpot_s").verdict is not MetricVerdict.UNDECIDED
        for seed in range(40)
    )
    assert called <= 6  # 2 expected; more than 6 of 40 would be rare


def test_throughput_and_wall_time_are_each_others_inverse(variant_of: Callable[..., Variant]) -> None:
    made = compare(variant_of("fp16", 0.01), variant_of("int8", 0.012, seed=1), 1.0)
    wall, speed = of(made, "mean_latency_s"), of(made, "tokens_per_second")
    assert wall.ratio is not None
    assert wall.interval is not None
    assert speed.interval is not None
    assert speed.ratio == pytest.approx(1 / wall.ratio)
    assert speed.gain == pytest.approx(wall.gain)
    assert speed.interval == pytest.approx((1 / wall.interval[1], 1 / wall.interval[0]), rel=2e-3)


def test_constant_times_have_an_interval_of_no_width(variant_of: Callable[..., Variant]) -> None:
    same = compare(variant_of("fp16", 0.01, jitter=0.0), variant_of("int8", 0.01, jitter=0.0), 1.0)
    assert of(same, "tpot_s").interval == pytest.approx((1.0, 1.0))
    assert of(same, "tpot_s").verdict is MetricVerdict.UNDECIDED
    slower = compare(variant_of("fp16", 0.01, jitter=0.0), variant_of("int8", 0.0101, jitter=0.0), 1.0)
    assert of(slower, "tpot_s").verdict is MetricVerdict.WORSE


def test_other_lengths_are_confounded_and_throughput_says_what_is_left(make_variant: MakeCell) -> None:
    numbers = {"mean_latency_s": 0.1, "tokens_per_second": 640.0, "output_tokens": 64.0}
    made = compare(make_variant(), make_variant(precision="int8", performance=numbers), 1.0)
    latency, speed = of(made, "mean_latency_s"), of(made, "tokens_per_second")
    assert (latency.verdict, latency.gain) == (MetricVerdict.CONFOUNDED, pytest.approx(2.0))
    assert latency.reason == "64.0 against 100.0 output tokens per request: different work"
    assert (speed.verdict, speed.gain) == (MetricVerdict.NO_INTERVAL, pytest.approx(1.28))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"engine": "transformers"}, "engine transformers against vllm"),
        ({"environment": {"gpus": [{"name": "Other GPU"}]}}, "hardware"),
        ({"kernels": "emulated"}, "kernels"),
    ],
)
def test_other_settings_are_not_compared(make_variant: MakeCell, head: dict[str, Any], said: str) -> None:
    base = make_variant(head={"kernels": "native"})
    made = compare(base, make_variant(precision="int8", head={"kernels": "native"} | head), 1.0)
    for key in ("tpot_s", "joules_per_output_token"):
        found = of(made, key)
        assert (found.verdict, found.ratio, found.interval) == (MetricVerdict.NOT_COMPARABLE, None, None)
        assert said in (found.reason or "")


def test_invalid_energy_is_not_compared(make_variant: MakeCell) -> None:
    energy = {"valid": False, "invalid_reasons": ("throttled",)}
    found = of(compare(make_variant(), make_variant(precision="int8", energy=energy), 1.0), "joules_per_output_token")
    assert found.verdict is MetricVerdict.NOT_COMPARABLE
    assert "throttled" in (found.reason or "")


def test_what_one_side_did_not_measure_is_said(make_variant: MakeCell) -> None:
    found = of(compare(make_variant(), make_variant(precision="int8", performance={"tpot_s": None}), 1.0), "tpot_s")
    assert (found.verdict, found.b, found.reason) == (MetricVerdict.NOT_COMPARABLE, None, "measured on one side only")


def test_recorded_intervals_serve_where_there_are_no_samples(make_variant: MakeCell) -> None:
    variants = [
        make_variant(precision=precision, energy={"joules_per_output_token": joules, "intervals": {
            "joules_per_output_token": (joules * 0.99, joules * 1.01)}})
        for precision, joules in (("fp16", 0.5), ("int8", 0.4))
    ]  # fmt: skip
    found = of(compare(*variants, 1.0), "joules_per_output_token")
    assert found.verdict is MetricVerdict.BETTER
    assert found.interval == pytest.approx((0.8 * (1 - 0.0141), 0.8 * (1 + 0.0142)), rel=1e-3)


def test_sizes_are_exact(make_variant: MakeCell) -> None:
    made = compare(make_variant(), make_variant(precision="int8", head={"model_size_gb": 2.0}), 1.0)
    assert (of(made, "model_size_gb").verdict, of(made, "model_size_gb").gain) == (MetricVerdict.BETTER, 2.0)
    assert of(made, "weights_gb").verdict is MetricVerdict.SAME


def test_a_difference_below_the_noise_floor_is_noise(variant_of: Callable[..., Variant]) -> None:
    base, variant = variant_of("fp16", 0.01), variant_of("int8", 0.0103, seed=1)
    record = NoiseRecord(
        model=base.model, precision="fp16", timestamp="2026-01-01T00:00:00+00:00", engine="vllm",
        hardware="Test GPU, Test CPU", batch_size=8, max_new_tokens=100, prompt_tokens=12.0,
        metrics={"tpot_s": FloorEntry(values=(0.01, 0.0104), floor=0.05)},
    )  # fmt: skip
    write_noise(base.directory.parent, record)
    found = of(compare(base, variant, 1.0), "tpot_s")
    assert (found.verdict, found.floor) == (MetricVerdict.NOISE, 0.05)
    assert of(compare(base, variant, 1.0), "tokens_per_second").floor is None
    write_noise(base.directory.parent, record.model_copy(update={"batch_size": 1}))
    assert noise_floor(base) is None
    assert noise_floor(variant) is None
    assert of(compare(base, variant, 1.0), "tpot_s").verdict is MetricVerdict.WORSE


def test_the_floor_of_a_task_widens_its_drop(make_variant: MakeCell) -> None:
    before, after = outcomes(2000, right=1400, lost=150, gained=40)
    base, variant = (
        make_variant(precision=precision, tasks={"quiz": 0.7}, samples={"quiz": items(scores)})
        for precision, scores in (("fp16", before), ("int8", after))
    )
    assert compare(base, variant, 1.0).tasks[0].verdict == "degraded"
    record = NoiseRecord(
        model=base.model, precision="fp16", timestamp="2026-01-01T00:00:00+00:00", engine="vllm",
        hardware="Test GPU, Test CPU", batch_size=8, max_new_tokens=100, prompt_tokens=12.0,
        tasks={"quiz": FloorEntry(values=(0.7, 0.71), floor=10.0)},
    )  # fmt: skip
    write_noise(base.directory.parent, record)
    assert compare(base, variant, 1.0).tasks[0].verdict == "underpowered"


def test_runs_of_other_lengths_do_not_compare_the_energy_of_a_whole_run(make_variant: MakeCell) -> None:
    longer = {"energy_joules": 5000.0, "num_runs": 100}
    found = of(compare(make_variant(), make_variant(precision="int8", energy=longer), 1.0), "energy_joules")
    assert (found.verdict, found.reason) == (MetricVerdict.NOT_COMPARABLE, "requests 100 against 20")


def test_times_that_still_drifted_are_not_compared(variant_of: Callable[..., Variant]) -> None:
    drifting = variant_of("int8", 0.011, changed={"warmup_stable": False})
    found = of(compare(variant_of("fp16", 0.01), drifting, 1.0), "tpot_s")
    assert (found.verdict, found.reason) == (
        MetricVerdict.NOT_COMPARABLE,
        "times still drifted when they were measured",
    )


def test_a_task_that_one_side_lacks_is_refused(make_variant: MakeCell) -> None:
    base = make_variant(tasks={"quiz": {"accuracy": None}}, samples={"quiz": items([1.0])})
    made = compare(base, make_variant(precision="int8"), 1.0)
    assert made.tasks[0].refused == "measured on one side only"


def test_two_runs_of_one_variant_are_told_apart_by_their_folders(make_variant: MakeCell, tmp_path: Path) -> None:
    a, b = (make_variant(directory=tmp_path / name) for name in ("before", "after"))
    assert compare(a, b, 1.0).names == (str(tmp_path / "before"), str(tmp_path / "after"))
    assert compare(a, replace(b, precision="int8"), 1.0).names == ("Tiny fp16", "Tiny int8")
