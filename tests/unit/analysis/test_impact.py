"""A variant against its baseline: worked by hand, and every refusal to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.caveats import EMULATED, SETTING, marks_of
from slim_eval.analysis.comparability import baseline_of
from slim_eval.analysis.impact import BASIS_PER_RUN, BASIS_PER_TOKEN, impact_columns, impact_of
from slim_eval.metrics import ENERGY, J_PER_TOKEN, METRICS, TPOT
from slim_eval.results.variants import Variant, labelled

QUICKER = {"mean_latency_s": 0.1, "tokens_per_second": 1000.0, "ttft_s": 0.01, "tpot_s": 0.002, "weights_gb": 1.0}


def compared(variants: list[Variant], tasks: tuple[str, ...] = ("mmlu",)) -> dict[str, Any]:
    return impact_columns(impact_of(variants[1], variants[0], tasks), tasks)


def test_hand_worked_values(make_variant: Callable[..., Variant]) -> None:
    base = make_variant(tasks={"mmlu": 0.8})
    this = make_variant(
        precision="int8", performance=QUICKER, energy={"joules_per_output_token": 0.3}, tasks={"mmlu": 0.6},
        head={"model_size_gb": 1.0},
    )  # fmt: skip
    result = compared(labelled([base, this]))
    assert {key: value for key, value in result.items() if "_ci95_" not in key} == {
        "model": "org/Tiny", "precision": "int8", "name": "Tiny", "memory_reduction_pct": 0.0,
        "energy_reduction_pct": pytest.approx(40.0), "mmlu_acc_drop_pct": pytest.approx(25.0),
        "speedup": 2.0, "per_token_speedup": 2.0, "ttft_speedup": 2.0, "tpot_speedup": 2.0, "length_confounded": False,
        "energy_reduction_percent": pytest.approx(40.0), "energy_basis": BASIS_PER_TOKEN,
        "model_size_ratio": 4.0, "weights_ratio": 2.0,
        "mmlu_drop_percent": pytest.approx(25.0), "mmlu_drop_pp": pytest.approx(20.0), "not_comparable": None,
    }  # fmt: skip


def test_ratios_have_intervals_where_both_sides_have(make_variant: Callable[..., Variant]) -> None:
    tight = {"tpot_s": (0.0039, 0.0041)}
    base = make_variant(
        performance={"intervals": tight}, energy={"intervals": {"joules_per_output_token": (0.49, 0.51)}}
    )
    this = make_variant(
        precision="int8",
        performance=QUICKER | {"intervals": {"tpot_s": (0.00195, 0.00205)}},
        energy={"joules_per_output_token": 0.3, "intervals": {"joules_per_output_token": (0.294, 0.306)}},
    )
    result = compared(labelled([base, this]))
    # Each side is known within 2.5 % (2 % for energy): the ratio within the square root of 2 times that.
    assert result["tpot_speedup_ci95_low"] == pytest.approx(2.0 / 1.036, rel=1e-3)
    assert result["tpot_speedup_ci95_high"] == pytest.approx(2.0 * 1.036, rel=1e-3)
    assert result["energy_reduction_percent_ci95_low"] == pytest.approx(100 * (1 - 0.6 * 1.0287), abs=0.02)
    assert result["energy_reduction_percent_ci95_high"] == pytest.approx(100 * (1 - 0.6 / 1.0287), abs=0.02)
    assert result["ttft_speedup_ci95_low"] is None


def test_emulated_kernels_say_nothing_about_speed_energy_or_loaded_size(make_variant: Callable[..., Variant]) -> None:
    base = make_variant(tasks={"mmlu": 0.8}, head={"kernels": "native"})
    this = make_variant(
        precision="int8", performance=QUICKER, energy={"joules_per_output_token": 0.3}, tasks={"mmlu": 0.6},
        head={"kernels": "emulated", "model_size_gb": 1.0},
    )  # fmt: skip
    rows = labelled([base, this])
    result = compared(rows)
    for column in ("speedup", "per_token_speedup", "ttft_speedup", "tpot_speedup", "energy_reduction_percent"):
        assert result[column] is None
    assert result["weights_ratio"] is None
    assert result["model_size_ratio"] == 4.0
    assert result["mmlu_drop_pp"] == pytest.approx(20.0)
    assert "speed: kernels emulated against native" in result["not_comparable"]
    assert marks_of(TPOT, rows[1], rows[0]) == (EMULATED,)


def test_other_output_length_is_flagged_above_one_percent(make_variant: Callable[..., Variant]) -> None:
    for tokens, confounded in ((100.9, False), (99.1, False), (101.1, True), (50.0, True), (None, False)):
        this = make_variant(precision="int8", performance={"output_tokens": tokens})
        assert compared(labelled([make_variant(), this]))["length_confounded"] is confounded, tokens
    unknown = make_variant(precision="int8", performance={"output_tokens": None, "tokens_per_second": None})
    assert compared(labelled([make_variant(), unknown]))["length_confounded"] is None


@pytest.mark.parametrize(
    ("performance", "head", "words"),
    [
        ({}, {"engine": "transformers"}, "speed: engine transformers against vllm"),
        ({}, {"engine": None}, "speed: engine not known against vllm"),
        ({}, {"environment": {"cpu": "Other"}}, "speed: hardware Other against Test GPU, Test CPU"),
        ({"batch_size": 4}, {}, "speed: batch size 4 against 8"),
        ({}, {"config": {"performance": {"max_new_tokens": 7}}}, "speed: output length setting 7 against 100"),
        ({"prompt_tokens": 20.0}, {}, "speed: prompt tokens 20 against 12"),
    ],
)
def test_speed_is_not_compared_across_settings(
    performance: dict[str, Any], head: dict[str, Any], words: str, make_variant: Callable[..., Variant]
) -> None:
    this = make_variant(precision="int8", performance=performance, head=head, energy=None, tasks={"mmlu": 0.5})
    rows = labelled([make_variant(tasks={"mmlu": 0.5}), this])
    result = compared(rows)
    assert [result[key] for key in ("speedup", "per_token_speedup", "ttft_speedup", "tpot_speedup")] == [None] * 4
    assert words in result["not_comparable"]
    assert result["mmlu_drop_pp"] == 0.0  # accuracy is no matter of speed
    assert result["model_size_ratio"] == 1.0
    assert SETTING in marks_of(TPOT, rows[1], rows[0])


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        ({"valid": False, "invalid_reasons": ("window 1 s",)}, "this measurement is marked invalid (window 1 s)"),
        ({"batch_size": 2}, "batch size 2 against 1"),
        ({"energy_source": "codecarbon (cpu load)"}, "energy source codecarbon against nvml"),
        ({"joules_per_output_token": None, "num_runs": 10}, "requests 10 against 20"),
        ({"joules_per_output_token": None, "energy_joules": None}, "energy: not measured at int8"),
    ],
)
def test_energy_is_not_compared_across_settings(
    energy: dict[str, Any], words: str, make_variant: Callable[..., Variant]
) -> None:
    rows = labelled([make_variant(), make_variant(precision="int8", energy=energy)])
    result = compared(rows, ())
    assert result["energy_reduction_percent"] is None
    assert result["energy_basis"] is None
    assert words in result["not_comparable"]
    assert result["speedup"] == 1.0


def test_an_invalid_baseline_is_named(make_variant: Callable[..., Variant]) -> None:
    rows = labelled([make_variant(energy={"valid": False}), make_variant(precision="int8")])
    assert compared(rows, ())["not_comparable"] == "energy: the fp16 measurement is marked invalid"


def test_counter_and_integral_of_nvml_are_one_source(make_variant: Callable[..., Variant]) -> None:
    rows = labelled([make_variant(), make_variant(precision="int8", energy={"energy_source": "nvml-integral"})])
    assert compared(rows, ())["energy_reduction_percent"] == 0.0


@pytest.mark.parametrize("requests", [20, None])
def test_energy_of_equal_runs_is_compared_as_a_whole(
    requests: int | None, make_variant: Callable[..., Variant]
) -> None:
    changes = {"joules_per_output_token": None, "num_runs": requests}
    this = make_variant(precision="int8", energy=changes | {"energy_joules": 250.0})
    result = compared(labelled([make_variant(energy=changes), this]), ())
    assert result["energy_reduction_percent"] == 75.0
    assert result["energy_basis"] == BASIS_PER_RUN


@pytest.mark.parametrize("unknown", [0, 1])
def test_energy_is_per_token_only_where_both_know_it(unknown: int, make_variant: Callable[..., Variant]) -> None:
    changes: list[dict[str, Any]] = [{}, {"energy_joules": 600.0}]
    changes[unknown] = changes[unknown] | {"joules_per_output_token": None}
    result = compared(
        labelled([make_variant(energy=changes[0]), make_variant(precision="int8", energy=changes[1])]), ()
    )
    assert result["energy_reduction_percent"] == pytest.approx(40.0)
    assert result["energy_basis"] == BASIS_PER_RUN


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"metric": "acc_norm,none"}, "metric acc_norm against acc"),
        ({"num_fewshot": 0}, "few-shot examples 0 against 5"),
        ({"limit": 100}, "limit 100 against all items"),
        ({"num_items": 399}, "items 399 against 400"),
        ({"apply_chat_template": True}, "chat template True against False"),
        ({"task_versions": {"mmlu": 2}}, "task version 2 against 1"),
        ({"task_hashes": {"mmlu": "b"}}, "items (by hash)"),
    ],
)
def test_accuracy_is_not_compared_across_settings(
    task: dict[str, Any], words: str, make_variant: Callable[..., Variant]
) -> None:
    known = {"accuracy": 0.5, "apply_chat_template": False, "task_versions": {"mmlu": 1}, "task_hashes": {"mmlu": "a"}}
    rows = labelled([make_variant(tasks={"mmlu": known}), make_variant(precision="int8", tasks={"mmlu": known | task})])
    result = compared(rows)
    assert result["mmlu_drop_pp"] is None
    assert result["mmlu_drop_percent"] is None
    assert result["not_comparable"].startswith("mmlu: ")
    assert words in result["not_comparable"]
    assert result["speedup"] == 1.0


def test_a_metric_without_filter_is_the_same_metric(make_variant: Callable[..., Variant]) -> None:
    old = {"accuracy": 0.5, "metric": "acc", "task_versions": {}, "num_items": None}
    rows = labelled([make_variant(tasks={"mmlu": old}), make_variant(precision="int8", tasks={"mmlu": 0.4})])
    assert compared(rows)["mmlu_drop_pp"] == pytest.approx(10.0)


def test_zero_is_a_value_and_none_is_not(make_variant: Callable[..., Variant]) -> None:
    rows = labelled(
        [
            make_variant(
                performance={"mean_latency_s": 0.0}, energy={"joules_per_output_token": 0.0}, tasks={"mmlu": 0.0}
            ),
            make_variant(precision="int8", performance={"ttft_s": 0.0}, tasks={"mmlu": 0.0}),
        ]
    )
    result = compared(rows)
    assert result["speedup"] == 0.0
    assert result["ttft_speedup"] is None  # division by zero is no number
    assert result["energy_reduction_percent"] is None
    assert (result["mmlu_drop_pp"], result["mmlu_drop_percent"]) == (0.0, None)


def test_without_a_baseline_everything_is_none_and_says_why(make_variant: Callable[..., Variant]) -> None:
    (variant,) = labelled([make_variant(precision="int8", tasks={"mmlu": 0.5})])
    assert baseline_of(variant, [variant]) is None
    result = impact_columns(impact_of(variant, None, ("mmlu",)), ("mmlu",))
    assert result.pop("not_comparable") == "no fp16 measurement of this model"
    assert {key: value for key, value in result.items() if value is not None} == {
        "model": "org/Tiny", "precision": "int8", "name": "Tiny",
    }  # fmt: skip
    assert not any(marks_of(metric, variant, None) for metric in METRICS.values())


def test_missing_parts_say_where(make_variant: Callable[..., Variant]) -> None:
    rows = labelled([make_variant(performance=None), make_variant(precision="int8", energy=None, tasks={"mmlu": 0.5})])
    reasons = compared(rows)["not_comparable"].split("; ")
    assert reasons == ["speed: not measured at fp16", "energy: not measured at int8", "mmlu: not measured at fp16"]
    neither = {"performance": None, "energy": None, "tasks": {"mmlu": 0.5}}
    nothing = labelled([make_variant(**neither), make_variant(precision="int8", **neither)])
    assert compared(nothing)["not_comparable"] is None


def test_energy_per_token_is_compared_whatever_the_number_of_requests(make_variant: Callable[..., Variant]) -> None:
    a, b = make_variant(energy={"num_runs": 40}), make_variant(precision="int8", energy={"num_runs": 200})
    per_token, per_run = impact_of(b, a, ()), {"joules_per_output_token": None}
    assert (per_token.energy_basis, per_token.reasons) == (BASIS_PER_TOKEN, ())
    assert marks_of(J_PER_TOKEN, b, a) == ()
    assert SETTING in marks_of(ENERGY, b, a)
    assert per_token.energy_reduction is not None
    a, b = (
        make_variant(energy={**per_run, "num_runs": 40}),
        make_variant(precision="int8", energy={**per_run, "num_runs": 200}),
    )
    assert impact_of(b, a, ()).energy_reduction is None
    assert impact_of(b, a, ()).reasons == ("energy: requests 200 against 40",)


def test_the_baseline_is_that_of_the_same_model_and_run(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(model, precision, directory=Path("runs", run, model, precision))
        for model, run in (("a/Tiny", "one"), ("a/Tiny", "two"), ("b/Tiny", "one"))
        for precision in ("fp16", "int8")
    ]
    rows = labelled(variants)
    for fp16, int8 in zip(rows[::2], rows[1::2], strict=True):
        assert baseline_of(int8, rows) is fp16
        assert fp16.is_baseline
        assert not int8.is_baseline


def test_of_several_runs_the_baseline_with_the_same_tasks_is_taken(make_variant: Callable[..., Variant]) -> None:
    """However many numbers of speed another one has."""

    def at(run: str, precision: str, **parts: Any) -> Variant:
        return make_variant(precision=precision, directory=Path("runs", run, "Tiny", precision), **parts)

    speed = at("speed", "fp16")
    scores = at("scores", "fp16", performance=None, energy=None, tasks={"mmlu": 0.6})
    rows = labelled([speed, scores, at("both", "int8", tasks={"mmlu": 0.5})])
    assert baseline_of(rows[-1], rows) is rows[1]


def test_a_checkpoint_of_others_takes_the_baseline_of_its_own_run(make_variant: Callable[..., Variant]) -> None:
    rows = labelled([
        make_variant("org/X", directory=Path("runs", run, "X", "X_fp16")) for run in ("one", "two")
    ] + [
        make_variant("org/X-AWQ", "as-is", head={"base_model": "org/X"}, directory=Path("runs/two/X-AWQ/X-AWQ_as-is"))
    ])  # fmt: skip
    found = baseline_of(rows[-1], rows)
    assert found is not None
    assert found.directory == Path("runs/two/X/X_fp16")


@pytest.mark.parametrize("asked", [1, 8, 64])
def test_of_several_runs_the_baseline_in_the_same_settings_is_taken(
    make_variant: Callable[..., Variant], asked: int
) -> None:
    def at(precision: str, batch_size: int, tasks: dict[str, Any] | None = None) -> Variant:
        folder = Path("runs", f"{precision}-{batch_size}", "Tiny", precision)
        speed = {"batch_size": batch_size}
        return make_variant(precision=precision, performance=speed, energy=None, tasks=tasks, directory=folder)

    bases = [at("fp16", size) for size in (1, 8, 64)]
    rows = labelled([*bases, at("int8", asked)])
    found = baseline_of(rows[-1], rows)
    assert found is not None
    assert found.directory == bases[[1, 8, 64].index(asked)].directory
    # One with a task that the variant has as well is of more use than one without.
    rows = labelled([*bases, at("fp16", 256, {"mmlu": 0.6}), at("int8", 512, {"mmlu": 0.5})])
    assert baseline_of(rows[-1], rows) is rows[-2]


def test_a_checkpoint_that_came_quantized_is_no_baseline(make_variant: Callable[..., Variant]) -> None:
    """Measured as it stands, at fp16: the records name its own method."""
    came = make_variant(head={"quantization_scheme": "awq"})
    assert not came.is_baseline
    assert baseline_of(came, [came]) is None
    other = make_variant("org/Tiny", "int8")
    assert baseline_of(other, [came, other]) is None
    plain = make_variant("org/Base")
    made = make_variant(head={"quantization_scheme": "awq", "base_model": "org/Base"})
    assert baseline_of(made, [plain, made, other]) is plain
