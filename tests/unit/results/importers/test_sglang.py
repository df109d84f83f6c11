"""sglang's serving benchmark: files by its documented fields, numbers computed again by hand."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord, importer_of
from slim_eval.results.records import PerformanceMetrics
from tests.unit.results.importers import conftest

SUMMARY: dict[str, Any] = {
    "tag": None, "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": 4,
    "sharegpt_output_len": None, "random_input_len": 32, "random_output_len": 5, "random_range_ratio": 1.0,
    "server_info": {"model_path": "org/Tiny", "dtype": "bfloat16", "quantization": None, "version": "0.5.3",
                    "api_key": "sk-SECRET"},
    "duration": 2.0, "completed": 3, "total_input_tokens": 96, "total_output_tokens": 15,
    "total_output_tokens_retokenized": 15, "request_throughput": 1.5, "input_throughput": 48.0,
    "output_throughput": 7.5, "total_throughput": 55.5, "mean_e2e_latency_ms": 140.0, "median_e2e_latency_ms": 140.0,
    "std_e2e_latency_ms": 10.0, "p99_e2e_latency_ms": 150.0, "mean_ttft_ms": 100.0, "median_ttft_ms": 90.0,
    "std_ttft_ms": 20.0, "p99_ttft_ms": 130.0, "mean_tpot_ms": 10.0, "median_tpot_ms": 10.0, "std_tpot_ms": 1.0,
    "p99_tpot_ms": 11.0, "mean_itl_ms": 10.0, "median_itl_ms": 10.0, "std_itl_ms": 1.0, "p95_itl_ms": 11.0,
    "p99_itl_ms": 12.0, "concurrency": 3.5, "accept_length": None,
}  # fmt: skip
DETAILS: dict[str, Any] = {
    "input_lens": [32, 32, 32, 32], "output_lens": [5, 5, 0, 5], "ttfts": [0.1, 0.12, 0.0, 0.08],
    "itls": [[0.01] * 4, [0.012] * 4, [], [0.008] * 4], "generated_texts": ["a", "b", "", "c"],
    "errors": ["", "", "refused", ""],
}  # fmt: skip


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def numbers(imported: ImportedRecord) -> PerformanceMetrics:
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported.metrics


@pytest.mark.parametrize("name", ["run.jsonl", "run.json", "run"])
def test_it_is_not_taken_for_vllm(tmp_path: Path, name: str) -> None:
    importer = importer_of(conftest.foreign(write(tmp_path / name, SUMMARY)))
    assert importer is not None
    assert importer.name == "sglang"
    (imported,) = conftest.read(tmp_path / name)
    assert imported.tool == "sglang bench_serving"
    assert (imported.head["engine"], imported.head["engine_version"], imported.version) == ("sglang", "0.5.3", "0.5.3")
    assert imported.config["load"] == "sglang bench_serving, rate-inf-concurrency-4"


def test_a_summary_is_taken_in_seconds(tmp_path: Path) -> None:
    (imported,) = conftest.read(write(tmp_path / "run.jsonl", SUMMARY))
    metrics = numbers(imported)
    assert (metrics.ttft_s, metrics.median_ttft_s, metrics.tpot_s) == (0.1, 0.09, 0.01)
    assert (metrics.e2e_latency_s, metrics.tokens_per_second) == (0.14, 7.5)
    assert metrics.std_ttft_s == pytest.approx(0.02 * (3 / 2) ** 0.5)
    assert metrics.p99_ttft_s is None, "three requests do not resolve it"
    assert (metrics.num_runs, metrics.prompt_tokens, metrics.output_tokens) == (3, 32, 5)
    assert (metrics.batch_size, imported.config["max_new_tokens"], imported.model) == (4, 5, "org/Tiny")
    level = imported.level
    assert level is not None
    assert (level.arrivals, level.max_concurrency, level.achieved_concurrency) == ("closed loop", 4, 3.5)
    assert (level.duration_s, level.requests_per_second, level.itl_s, level.dataset) == (2.0, 1.5, 0.01, "random")
    assert "SECRET" not in conftest.dump(tmp_path / "run.jsonl", imported)


def test_details_give_the_numbers_of_each_request(tmp_path: Path) -> None:
    (imported,) = conftest.read(write(tmp_path / "run.jsonl", SUMMARY | DETAILS))
    metrics = numbers(imported)
    ends = [0.1 + 0.04, 0.12 + 0.048, 0.08 + 0.032]
    assert metrics.ttft_s == pytest.approx(0.1)
    assert metrics.std_ttft_s == pytest.approx(statistics.stdev([0.1, 0.12, 0.08]))
    assert metrics.e2e_latency_s == pytest.approx(statistics.mean(ends))
    assert metrics.tpot_s == pytest.approx(0.01)
    assert [row["request"] for row in imported.samples] == [0, 1, 3], "the one that failed is left out"


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None])
@pytest.mark.parametrize("key", ["ttfts", "itls"])
def test_where_a_time_of_a_request_is_not_known_the_summary_is_taken(
    tmp_path: Path, key: str, value: float | None
) -> None:
    column: list[Any] = [*DETAILS[key]]
    column[1] = [0.01, value] if key == "itls" else value
    (imported,) = conftest.read(write(tmp_path / "run.jsonl", SUMMARY | DETAILS | {key: column}))
    metrics = numbers(imported)
    assert (imported.samples, metrics.num_runs, metrics.output_tokens) == ([], 3, 5)
    assert (metrics.ttft_s, metrics.median_ttft_s) == (0.1, 0.09)  # the file's own


def test_each_line_is_a_run(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", SUMMARY, SUMMARY | {"request_rate": 2.5, "max_concurrency": None})
    assert [imported.label for imported in conftest.read(path)] == ["rate-inf-concurrency-4", "rate-2.5"]


def test_a_file_of_an_older_version_names_no_model(tmp_path: Path) -> None:
    old = {key: SUMMARY[key] for key in (
        "backend", "request_rate", "total_input_tokens", "total_output_tokens", "total_output_tokens_retokenized",
        "mean_e2e_latency_ms", "median_e2e_latency_ms", "median_ttft_ms", "median_itl_ms", "output_throughput",
        "duration", "completed")}  # fmt: skip
    (imported,) = conftest.read(write(tmp_path / "run.jsonl", old))
    assert (imported.model, imported.precision) == (None, None)
    assert numbers(imported).ttft_s is None, "a median alone is no mean"
    assert numbers(imported).tokens_per_second == 7.5


def test_another_server_and_its_quantization_are_named(tmp_path: Path) -> None:
    server = SUMMARY["server_info"] | {"quantization": "fp8", "speculative_algorithm": "EAGLE"}
    (imported,) = conftest.read(write(tmp_path / "a.jsonl", SUMMARY | {"server_info": server, "accept_length": 2.5}))
    assert imported.config["speculative"] == "EAGLE"
    assert "fp8" in str(imported.precision or imported.config["quantization"])
    (other,) = conftest.read(write(tmp_path / "b.jsonl", SUMMARY | {"backend": "vllm", "server_info": None}))
    assert other.head["engine"] == "vllm"
    assert other.tool == "sglang bench_serving"


@pytest.mark.parametrize(
    ("change", "scheme"),
    [
        ({"torchao_config": "int4wo-128"}, "torchao-4bit g128"),
        ({"kv_cache_dtype": "fp8_e4m3"}, "fp16+kv8"),
        ({"load_format": "bitsandbytes"}, "bnb-4bit"),
        ({"quantization": "fp8"}, "fp8"),
        ({"torchao_config": "", "kv_cache_dtype": "auto", "lora_paths": None}, "fp16"),
    ],
)
def test_the_servers_arguments_say_how_its_model_is_quantized(
    tmp_path: Path, change: dict[str, Any], scheme: str
) -> None:
    server = SUMMARY["server_info"] | {"dtype": "bfloat16", "model_path": "org/Tiny"} | change
    (imported,) = conftest.read(write(tmp_path / "a.jsonl", SUMMARY | {"server_info": server}))
    assert imported.precision == scheme


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"completed": 0}, "'completed' is 0: no request succeeded"),
        ({"completed": 2, **DETAILS}, "'errors' contains 3 requests without an error, but 'completed' is 2"),
        ({**DETAILS, "itls": []}, "'itls' has 0 values, 'ttfts' 4"),
    ],
)
def test_a_damaged_file_is_named_with_the_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultFileError) as failure:
        conftest.read(write(tmp_path / "run.jsonl", SUMMARY | change))
    assert words in failure.value.cause
