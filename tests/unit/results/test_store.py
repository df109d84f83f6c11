"""Records: what is written is what is read back, and a file that is not a record says so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.records import (
    SCHEMA_VERSION,
    AccuracyRecord,
    EnergyRecord,
    ErrorRecord,
    Metadata,
    PerformanceRecord,
    Record,
)
from slim_eval.results.store import (
    find_results,
    model_directory,
    read_record,
    read_samples,
    record_name,
    relabel,
    variant_directory,
    write_error,
    write_record,
)
from slim_eval.results.variants import Variant

HEAD: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "model": "org/Tiny",
    "precision": "int8",
    "engine": "vllm",
    "dtype": "bfloat16",
    "environment": {"cpu": "a cpu", "gpus": [{"name": "a gpu"}], "packages": {"torch": "2"}},
    "config": {"performance": {"max_new_tokens": 4}},
    "notes": ("one", "zwei: ü"),
}
RECORDS: dict[str, Record] = {
    "performance": PerformanceRecord(**HEAD, mean_latency_s=0.1, tokens_per_second=40.0, ttft_s=None, batch_size=8),
    "energy": EnergyRecord(**HEAD, energy_joules=12.5, valid=False, invalid_reasons=("1 s",), devices=("GPU-1",)),
    "my_task": AccuracyRecord(
        **HEAD, task="my/task", accuracy=0.5, metric="acc,none", metrics={"acc,none": 0.5, "acc_stderr,none": None},
        subtasks={"a": {"acc,none": 0.25, "num_items": 4}}, task_versions={"my/task": 1.0}, task_hashes={"a": "ff"},
    ),
    "bare": AccuracyRecord(model="m", precision="fp16", schema_version=SCHEMA_VERSION, task="bare"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_back_equal(name: str, tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORDS[name])
    assert path == tmp_path / f"{name}.json"
    assert record_name(RECORDS[name]) == name
    assert read_record(path) == RECORDS[name]


def test_an_error_record_is_read_back_equal(tmp_path: Path) -> None:
    record = ErrorRecord(**HEAD, stage="energy", cause="no meter", remedy="use a GPU", log="run.log")
    assert read_record(write_error(tmp_path, "energy", record)) == record


def test_samples_are_read_back_with_null_for_what_json_cannot_say(tmp_path: Path) -> None:
    samples = [{"e2e_s": 0.5, "text": "ü\n"}, {"e2e_s": math.nan, "nested": {"x": [math.inf, 1]}}]
    write_record(tmp_path, RECORDS["energy"], samples)
    assert read_samples(tmp_path, "energy") == [samples[0], {"e2e_s": None, "nested": {"x": [None, 1]}}]
    assert read_samples(tmp_path, "performance") == []


def test_a_record_without_samples_removes_those_of_an_earlier_one(tmp_path: Path) -> None:
    write_record(tmp_path, RECORDS["energy"], [{"a": 1}])
    write_record(tmp_path, RECORDS["energy"])
    assert read_samples(tmp_path, "energy") == []


def test_truncated_samples_are_named(tmp_path: Path) -> None:
    write_record(tmp_path, RECORDS["energy"], [{"a": index} for index in range(1000)])
    path = tmp_path / "energy.samples.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ResultFileError, match=r"energy\.samples"):
        read_samples(tmp_path, "energy")


def test_a_success_removes_the_error_of_an_earlier_run(tmp_path: Path) -> None:
    error = ErrorRecord(**HEAD, stage="energy", cause="no meter")
    write_record(tmp_path, RECORDS["performance"])
    write_error(tmp_path, "energy", error)
    assert find_results(tmp_path).variants[0].errors == {"energy": error}
    write_record(tmp_path, RECORDS["energy"])
    variant = find_results(tmp_path).variants[0]
    assert variant.errors == {}
    assert variant.energy == RECORDS["energy"]


def test_an_error_leaves_an_earlier_good_record(tmp_path: Path) -> None:
    write_record(tmp_path, RECORDS["energy"])
    write_error(tmp_path, "energy", ErrorRecord(**HEAD, stage="energy", cause="no meter"))
    assert find_results(tmp_path).variants[0].energy == RECORDS["energy"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_is_never_nan_or_infinite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        PerformanceRecord(**HEAD, mean_latency_s=value)


def test_files_hold_strict_json_with_null_for_what_was_not_measured(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for record in RECORDS.values():
        text = write_record(tmp_path, record, [{"x": math.nan}]).read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=refuse)
        assert content["num_parameters"] is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("energy.json", '{"model": "m", "preci', "not readable as JSON"),
        ("energy.json", "", "not readable as JSON"),
        ("energy.json", "[1, 2]", "a JSON list, not a record"),
        ("energy.json", '{"precision": "fp16"}', "'model'"),
        ("energy.json", '{"model": "m", "precision": "fp16", "energy_joules": "many"}', "'energy_joules'"),
        ("energy.json", '{"model": "m", "precision": "fp16", "energy_joules": NaN}', "'energy_joules'"),
        ("task.json", '{"model": "m", "precision": "fp16", "accuracy": 0.5}', "'task'"),
        ("energy.json", '{"schema_version": 99, "model": "m", "precision": "fp16"}', "99 is newer"),
        ("energy.json", '{"schema_version": "1", "model": "m", "precision": "fp16"}', "schema_version '1'"),
        ("energy.json", '{"schema_version": null, "model": "m", "precision": "fp16"}', "schema_version None"),
        ("energy.json", "[" * 100_000, "not readable as JSON"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultFileError) as caught:
        read_record(path)
    assert name in caught.value.cause
    assert words in caught.value.cause
    assert caught.value.remedy


def test_bytes_that_are_no_text_are_a_problem_and_the_rest_is_read(tmp_path: Path) -> None:
    write_record(tmp_path / "a", RECORDS["energy"])
    (tmp_path / "a" / "mmlu.json").write_bytes(b"\xff\xfe\x00")
    results = find_results(tmp_path)
    assert [variant.model for variant in results.variants] == ["org/Tiny"]
    assert len(results.problems) == 1
    assert "mmlu.json" in results.problems[0]


def test_unknown_keys_are_kept_out_not_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORDS["energy"])
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "new_key": 1}), encoding="utf-8")
    assert read_record(path) == RECORDS["energy"]


@pytest.mark.parametrize(("task", "metric"), [("mmlu", "acc"), ("gsm8k", "exact_match"), ("hellaswag", "acc")])
def test_a_published_file_gets_the_metric_it_does_not_name(task: str, metric: str, tmp_path: Path) -> None:
    path = tmp_path / f"{task}.json"
    content = {"model": "m", "precision": "fp16", "task": task, "accuracy": 0.5, "_note": "from a file size"}
    path.write_text(json.dumps(content), encoding="utf-8")
    record = read_record(path)
    assert isinstance(record, AccuracyRecord)
    assert (record.schema_version, record.metric, record.engine) == (0, metric, None)
    assert record.notes == ("from a file size",)


@pytest.mark.parametrize(
    ("name", "numbers", "zeros", "kept"),
    [
        ("mmlu", {"accuracy": 0.0, "error": "CUDA out of memory"}, ("mmlu",), {}),
        ("mmlu", {"accuracy": 0, "num_parameters": 0}, ("mmlu", "num_parameters"), {}),
        ("mmlu", {"accuracy": 1e-9}, (), {"accuracy": 1e-9}),
        ("energy", {"energy_joules": 0, "energy_kwh": 0.0, "min_power_watts": 0}, ("energy",), {}),
        (
            "performance",
            {"mean_latency_s": 0.2, "mean_peak_mem_mb": 0.0},
            ("mean_peak_mem_mb",),
            {"mean_latency_s": 0.2},
        ),
        ("performance", {"mean_latency_s": 0.2, "model_size_gb": 0.0}, ("model_size_gb",), {"mean_latency_s": 0.2}),
    ],
)
def test_a_zero_of_the_predecessor_is_not_a_measurement(
    name: str, numbers: dict[str, float | str], zeros: tuple[str, ...], kept: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.json"
    content = {"model": "m", "precision": "fp16", **({"task": name} if name == "mmlu" else {}), **numbers}
    path.write_text(json.dumps(content), encoding="utf-8")
    record = read_record(path)
    assert isinstance(record, Record)
    assert record.zeros == zeros
    assert {key: getattr(record, key) for key in numbers if key != "error"} == {
        **{key: None for key in numbers if key != "error"}, **kept,
    }  # fmt: skip
    assert record.notes == (("SLiM-Eval recorded an error: CUDA out of memory",) if "error" in numbers else ())
    assert "zeros" not in record.model_dump()
    # A zero of slim-eval's own is one.
    path.write_text(json.dumps({**content, "schema_version": 1}), encoding="utf-8")
    own = read_record(path)
    assert isinstance(own, Record)
    assert own.zeros == ()
    assert {key: getattr(own, key) for key in numbers if key != "error"} == {
        key: value for key, value in numbers.items() if key != "error"
    }


def test_models_that_share_a_short_name_never_share_a_folder(tmp_path: Path) -> None:
    models = ("a/Tiny", "b/Tiny", "c/Other")
    folders = [model_directory(tmp_path, model, models) for model in models]
    assert [folder.name for folder in folders] == ["a--Tiny", "b--Tiny", "Other"]
    assert variant_directory(tmp_path, "a/Tiny", "int8", models) == tmp_path / "a--Tiny" / "a--Tiny_int8"


def test_a_folder_of_another_models_earlier_run_is_left_alone(tmp_path: Path) -> None:
    first = variant_directory(tmp_path, "a/Tiny", "fp16")
    assert first == tmp_path / "Tiny" / "Tiny_fp16"
    write_record(first, EnergyRecord(**{**HEAD, "model": "a/Tiny", "precision": "fp16"}))
    assert model_directory(tmp_path, "b/Tiny") == tmp_path / "b--Tiny"
    assert model_directory(tmp_path, "a/Tiny") == tmp_path / "Tiny"


def test_variants_come_sorted_with_16_bit_first_at_any_depth(tmp_path: Path) -> None:
    for model, precision in (("z/B", "fp16"), ("y/a", "int4"), ("y/a", "fp16"), ("y/a", "int8")):
        folder = variant_directory(tmp_path / "deep" / precision, model, precision)
        write_record(folder, PerformanceRecord(**{**HEAD, "model": model, "precision": precision}))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.json").write_text("{", encoding="utf-8")
    (tmp_path / "complete_results.json").write_text("{", encoding="utf-8")
    results = find_results(tmp_path)
    assert results.problems == ()
    assert [(c.model, c.precision) for c in results.variants] == [
        ("y/a", "fp16"), ("y/a", "int8"), ("y/a", "int4"), ("z/B", "fp16"),
    ]  # fmt: skip


def test_every_record_has_the_metadata() -> None:
    for kind in (PerformanceRecord, EnergyRecord, AccuracyRecord, ErrorRecord):
        assert set(Metadata.model_fields) <= set(kind.model_fields)


def test_a_folder_that_holds_bad_files_alone_is_no_variant(tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_text("{", encoding="utf-8")
    results = find_results(tmp_path)
    assert results.variants == ()
    assert len(results.problems) == 1


def test_a_copy_of_a_record_is_not_read_in_its_place(make_variant: Callable[..., Variant]) -> None:
    variant = make_variant(head={"benchmark": "performance"}, energy=None, write=True)
    record = variant.directory / "performance.json"
    (variant.directory / "performance.old.json").write_text(
        record.read_text().replace("500.0", "7.0"), encoding="utf-8"
    )
    found = find_results(variant.directory.parent)
    assert found.variants[0].number("tokens_per_second") == 500.0
    assert [problem for problem in found.problems if "a copy of performance.json" in problem]


@pytest.mark.parametrize("benchmark", [["a"], {"a": 1}, 7, "no-such"])
def test_a_record_of_an_unknown_benchmark_is_a_problem(benchmark: object, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny" / "Tiny_fp16"
    folder.mkdir(parents=True)
    content = {"model": "Tiny", "precision": "fp16", "benchmark": benchmark}
    (folder / "x.json").write_text(json.dumps(content), encoding="utf-8")
    found = find_results(tmp_path)
    assert found.variants == ()
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("model", "method", "precision"),
    [
        ("org/Tiny-W8A8", "compressed-tensors", "w8a8"),
        ("./mine", "compressed-tensors", "compressed-tensors"),
        ("./mine", "awq", "w4a16-awq"),
        ("./mine", "a method", "a-method"),
        ("org/Tiny", "FP16", "fp16"),
        ("org/Tiny-W8A8", None, "fp16"),
    ],
)
def test_an_older_record_of_a_checkpoint_that_came_quantized_is_not_fp16(
    model: str, method: str | None, precision: str, tmp_path: Path
) -> None:
    record = PerformanceRecord(model=model, precision="fp16", quantization_scheme=method, schema_version=SCHEMA_VERSION)
    found = read_record(write_record(tmp_path, record))
    assert found.precision == precision
    (variant,) = find_results(tmp_path).variants
    assert (variant.precision, variant.is_baseline) == (precision, precision == "fp16")


def test_relabelling_changes_two_words_of_a_record(tmp_path: Path) -> None:
    record = RECORDS["performance"]
    path = write_record(tmp_path, record)
    assert relabel(tmp_path, ["performance"], "int8", None) == []
    assert relabel(tmp_path, ["performance"], "w8a8", "org/Base") == ["performance"]
    assert read_record(path) == record.model_copy(update={"precision": "w8a8", "base_model": "org/Base"})
    assert relabel(tmp_path, ["performance"], "w8a8", None) == []


def test_what_was_made_from_a_model_stands_beside_it(make_variant: Callable[..., Variant], tmp_path: Path) -> None:
    make_variant("org/Zebra-AWQ", "w4a16-awq", head={"base_model": "org/Apple"}, write=True)
    for model, precision in (("org/Banana", "fp16"), ("org/Apple", "int8"), ("org/Apple", "fp16")):
        make_variant(model, precision, write=True)
    found = [(v.model, v.precision) for v in find_results(tmp_path).variants]
    assert found == [
        ("org/Apple", "fp16"), ("org/Apple", "int8"), ("org/Zebra-AWQ", "w4a16-awq"), ("org/Banana", "fp16"),
    ]  # fmt: skip
