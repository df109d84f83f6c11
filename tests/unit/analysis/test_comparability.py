"""Which variants may be compared, and what is said of those that may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slim_eval.analysis.comparability import ENERGIES, NOT_MEASURED, SPEEDS, comparable_groups, confounding, obstacles
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    DISK,
    ENERGY,
    J_PER_REQUEST,
    J_PER_TOKEN,
    THROUGHPUT,
    TPOT,
    Metric,
    task_metric,
)
from slim_eval.results.variants import Variant, by_model, labelled, with_accuracy_mean

MakeCell = Callable[..., Variant]


def rows(make_variant: MakeCell, *changes: dict[str, Any]) -> list[Variant]:
    """One variant per change of the usual one, each of a model of its own."""
    return labelled([make_variant(f"org/M{number}", **change) for number, change in enumerate(changes)])


def test_one_setting_is_one_group_named_by_engine_and_hardware(make_variant: MakeCell) -> None:
    groups = comparable_groups(rows(make_variant, {}, {"precision": "int8"}, {}))
    assert groups.labels == ("vllm, Test GPU, Test CPU",) * 3
    assert groups.differences == ()
    (setting,) = groups.settings
    assert setting.startswith("vllm, Test GPU, Test CPU, batch size 8, output length setting 100, prompt tokens 12, ")
    assert setting.endswith("output length setting of the energy run 100, energy source nvml")


def test_a_setting_that_no_record_says_is_empty(make_variant: MakeCell) -> None:
    bare = {"head": {"engine": None, "environment": None, "config": None}, "performance": {"batch_size": None}}
    assert comparable_groups(rows(make_variant, bare, bare), [TPOT]).settings == ("prompt tokens 12",)
    assert comparable_groups(rows(make_variant, {}), [DISK]).settings == ("",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": {"engine": "transformers"}}, "engine transformers against vllm"),
        ({"head": {"environment": {"gpus": [{"name": "Other"}]}}}, "hardware Other against Test GPU, Test CPU"),
        ({"head": {"kernels": "emulated"}}, "kernels emulated against native"),
        ({"head": {"config": {"performance": {"max_new_tokens": 50}}}}, "output length setting 50 against 100"),
        ({"performance": {"batch_size": 4}}, "batch size 4 against 8"),
        ({"performance": {"prompt_tokens": 512.0}}, "prompt tokens 512 against 12"),
        ({"energy": {"batch_size": 2}}, "batch size of the energy run 2 against 1"),
        ({"energy": {"energy_source": "codecarbon (x)"}}, "energy source codecarbon against nvml"),
    ],
)
def test_a_setting_that_the_rules_refuse_makes_a_group_and_is_named(
    change: dict[str, Any], words: str, make_variant: MakeCell
) -> None:
    found = rows(
        make_variant, {"head": {"kernels": "native"}}, change | {"head": {"kernels": "native"} | change.get("head", {})}
    )
    groups = comparable_groups(found)
    assert len(groups.names) == 2
    assert words in groups.differences[0]
    assert obstacles(SPEEDS, found[1], found[0]) or obstacles(ENERGIES, found[1], found[0])


def test_what_does_not_change_a_measurement_does_not_part_rows(make_variant: MakeCell) -> None:
    alike = rows(
        make_variant,
        {},
        {"performance": {"prompt_tokens": 15.0}},  # the same prompt under another tokenizer
        {"performance": {"prompt_tokens": None}},
        {"energy": {"energy_source": "nvml-integral"}},
        {"head": {"kernels": "native"}},  # the first does not say, and cannot be emulated
        {"head": {"engine_version": "0.2"}},
    )
    assert len(comparable_groups(alike).names) == 1


def test_each_number_brings_the_settings_that_it_depends_on(make_variant: MakeCell) -> None:
    found = rows(
        make_variant,
        {"tasks": {"mmlu": 0.5}},
        {"tasks": {"mmlu": {"accuracy": 0.5, "num_fewshot": 0}}},
        {"tasks": {"mmlu": 0.5}, "head": {"engine": "transformers"}},
        {"tasks": {"mmlu": 0.5}, "energy": {"num_runs": 5}},
    )

    def sizes(*metrics: Metric) -> list[int]:
        groups = comparable_groups(found, metrics)
        return [len(members) for members in groups.members(found).values()]

    assert sizes(TPOT) == [3, 1]
    assert sizes(task_metric("mmlu")) == [3, 1]
    assert sizes(task_metric("mmlu"), TPOT) == [2, 1, 1]
    assert sizes(J_PER_TOKEN) == [3, 1]
    assert sizes(ENERGY) == [2, 1, 1]  # of a whole run: its number of requests counts
    assert sizes(DISK) == [4]


def test_means_over_different_tasks_are_not_compared(make_variant: MakeCell) -> None:
    found = rows(make_variant, {"tasks": {"mmlu": 0.5}}, {"tasks": {"arc": 0.5}})
    found = [with_accuracy_mean([variant])[0] for variant in found]
    groups = comparable_groups(found, [ACCURACY_MEAN])
    assert groups.labels == ("mean of mmlu", "mean of arc")
    assert groups.differences == ("mean of arc: tasks of the mean arc against mmlu",)


def test_rows_that_lack_a_number_go_where_the_others_fit(make_variant: MakeCell) -> None:
    other = {"head": {"engine": "transformers"}}
    found = rows(make_variant, {"performance": None}, other | {"energy": None}, {}, other)
    assert comparable_groups(found).labels == (
        "vllm, Test GPU, Test CPU", "transformers, Test GPU, Test CPU",
        "vllm, Test GPU, Test CPU", "transformers, Test GPU, Test CPU",
    )  # fmt: skip


def test_rows_without_any_number_are_said_to_be_so_where_there_are_several_settings(make_variant: MakeCell) -> None:
    bare = {"performance": None, "energy": None, "tasks": {"mmlu": 0.5}}
    several = comparable_groups(rows(make_variant, {}, bare, {"head": {"engine": "transformers"}}))
    assert several.labels[1] == NOT_MEASURED
    assert NOT_MEASURED not in several.names
    one = comparable_groups(rows(make_variant, {}, bare))
    assert len(set(one.labels)) == 1


def test_labels_are_told_apart_by_what_differs_alone(make_variant: MakeCell) -> None:
    found = rows(make_variant, {}, {"performance": {"batch_size": 4}}, {"head": {"engine": "transformers"}})
    assert comparable_groups(found).labels == (
        "vllm, Test GPU, Test CPU, batch size 8", "vllm, Test GPU, Test CPU, batch size 4",
        "transformers, Test GPU, Test CPU",
    )  # fmt: skip


def test_no_rows_and_rows_without_settings(make_variant: MakeCell) -> None:
    assert comparable_groups([]).labels == ()
    bare = rows(make_variant, {"performance": None, "energy": None, "head": {"engine": None, "environment": None}})
    assert comparable_groups(bare).labels == ("all",)


def test_different_work_is_named(make_variant: MakeCell) -> None:
    found = rows(make_variant, {"energy": {"output_tokens": 100.0}}, {"performance": {"output_tokens": 150.0}})
    assert confounding(found, [TPOT, THROUGHPUT, J_PER_TOKEN]) is None
    assert confounding(found, [AMORTISED]) == (
        "mean_latency_s: 100.0 to 150.0 output tokens per request: different work"
    )
    assert confounding(found, [J_PER_REQUEST]) == "energy_per_query_j: output lengths are not known"
    assert confounding(found[:1], [AMORTISED]) is None  # nothing to compare with


def test_lengths_within_the_tolerance_are_the_same_work(make_variant: MakeCell) -> None:
    near = rows(make_variant, {}, {"performance": {"output_tokens": 100.9}})
    far = rows(make_variant, {}, {"performance": {"output_tokens": 101.5}})
    assert confounding(near, [AMORTISED]) is None
    assert confounding(far, [AMORTISED]) is not None


def test_rows_by_model(make_variant: MakeCell) -> None:
    found = labelled([make_variant("a/X"), make_variant("b/X"), make_variant("a/X", "int8")])
    assert {model: [variant.precision for variant in members] for model, members in by_model(found).items()} == {
        "a/X": ["fp16", "int8"],
        "b/X": ["fp16"],
    }
