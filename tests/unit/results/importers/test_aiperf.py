"""AIPerf's and genai-perf's summaries: files by their documented fields, numbers computed again by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord, importer_of
from slim_eval.results.records import PerformanceMetrics, PerformanceRecord
from tests.unit.results.importers import conftest


def metric(unit: str, avg: float, **parts: float) -> dict[str, Any]:
    return {"unit": unit, "avg": avg, **parts}


AIPERF: dict[str, Any] = {
    "schema_version": "1.0", "aiperf_version": "0.8.0",
    "request_throughput": metric("requests/sec", 13.0),
    "request_latency": metric("ms", 500.0, p50=490.0, p95=600.0, p99=620.0, min=400.0, max=630.0, std=50.0),
    "time_to_first_token": metric("ms", 100.0, p50=90.0, p95=150.0, p99=180.0, min=80.0, max=190.0, std=20.0),
    "inter_token_latency": metric("ms", 8.0, p50=8.0, p95=9.0, p99=9.5, min=7.0, max=9.9, std=0.5),
    "output_token_throughput": metric("tokens/sec", 650.0),
    "output_sequence_length": metric("tokens", 50.0, min=50.0, max=50.0),
    "input_sequence_length": metric("tokens", 128.0, min=120.0, max=130.0),
    "request_count": metric("requests", 200.0), "error_request_count": metric("requests", 3.0),
    "benchmark_duration": metric("sec", 15.4), "was_cancelled": False, "end_time": "2026-01-01T00:00:00",
    "error_summary": [], "goodput": None,
    "input_config": {
        "endpoint": {"model_names": ["org/Tiny"], "type": "chat", "streaming": True, "api_key": "sk-SECRET"},
        "loadgen": {"concurrency": 8, "request_rate_mode": "concurrency_burst"},
    },
}  # fmt: skip
GENAI: dict[str, Any] = {
    key: value for key, value in AIPERF.items()
    if key not in ("schema_version", "aiperf_version", "error_request_count", "benchmark_duration", "was_cancelled",
                   "end_time", "error_summary", "goodput", "input_config")
} | {
    "input_config": {
        "model": ["org/Tiny"], "formatted_model_name": "Tiny", "backend": "vllm", "service_kind": "openai",
        "streaming": True, "concurrency": 4, "request_rate": None, "measurement_interval": 10000,
    },
}  # fmt: skip


def request(ttft: float, itl: float, tokens: int, **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"session_num": 0, "benchmark_phase": "profiling", "was_cancelled": False},
        "metrics": {
            "time_to_first_token": {"value": ttft, "unit": "ms"}, "inter_token_latency": {"value": itl, "unit": "ms"},
            "request_latency": {"value": ttft + itl * (tokens - 1), "unit": "ms"},
            "output_sequence_length": {"value": tokens, "unit": "tokens"},
            "input_sequence_length": {"value": 128, "unit": "tokens"},
        },
        "error": None, **fields,
    }  # fmt: skip


REQUESTS = [
    request(100.0, 8.0, 50), request(110.0, 9.0, 50), request(90.0, 7.0, 50),
    request(1.0, 1.0, 1, error={"code": 500, "type": "X", "message": "x"}, metrics={}),
    request(9000.0, 8.0, 50, metadata={"benchmark_phase": "warmup"}),
]  # fmt: skip


def write(path: Path, content: dict[str, Any], requests: list[dict[str, Any]] | None = None) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    if requests is not None:
        beside = path.with_name("profile_export.jsonl")
        beside.write_text("".join(json.dumps(each) + "\n" for each in requests), encoding="utf-8")
    return path


def read(path: Path) -> tuple[ImportedRecord, PerformanceMetrics]:
    importer = importer_of(conftest.foreign(path))
    assert importer is not None
    assert importer.name == "aiperf"
    (imported,) = conftest.read(path)
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported, imported.metrics


def test_a_summary_of_aiperf(tmp_path: Path) -> None:
    path = write(tmp_path / "profile_export_aiperf.json", AIPERF)
    imported, metrics = read(path)
    assert (imported.tool, imported.version, imported.model) == ("aiperf", "0.8.0", "org/Tiny")
    assert (metrics.ttft_s, metrics.median_ttft_s, metrics.p99_ttft_s, metrics.std_ttft_s) == (0.1, 0.09, 0.18, 0.02)
    assert (metrics.tpot_s, metrics.e2e_latency_s, metrics.tokens_per_second) == (0.008, 0.5, 650.0)
    assert (metrics.batch_size, metrics.num_runs, metrics.prompt_tokens, metrics.output_tokens) == (8, 200, 128, 50)
    assert imported.config == {"load": "aiperf, concurrency-8", "max_new_tokens": 50, "streaming": True}
    assert "3 requests failed and are not in the numbers" in imported.notes
    level = imported.level
    assert level is not None
    assert (level.arrivals, level.duration_s, level.requests_per_second, level.num_errors) == (
        "closed loop",
        15.4,
        13.0,
        3,
    )
    assert "SECRET" not in conftest.dump(path, imported)


def test_where_a_time_of_a_request_cannot_be_the_summary_is_taken(tmp_path: Path) -> None:
    requests = [request(float("nan"), 8.0, 50) for _ in range(40)] + [request(100.0, 8.0, 50)]
    content = AIPERF | {"request_count": metric("requests", 41.0)}
    file = conftest.foreign(write(tmp_path / "profile_export_aiperf.json", content, requests), precision="fp16")
    importer = importer_of(file)
    assert importer is not None
    (imported,) = importer.read(file)
    assert imported.samples == []
    record = imported.record(file)
    assert isinstance(record, PerformanceRecord)
    assert (record.ttft_s, record.median_ttft_s, record.num_runs) == (0.1, 0.09, 41)
    assert "times of 40 of 41 requests are unknown: numbers are of the summary" in record.notes
    # Two of each request: the time to the first token, and the latency that contains it.
    assert record.notes[-1] != record.notes[-2]
    assert "69 more notes on impossible numbers are left out" in record.notes


def test_requests_beside_a_summary_give_the_numbers(tmp_path: Path) -> None:
    content = AIPERF | {"request_count": metric("requests", 3.0)}
    imported, metrics = read(write(tmp_path / "profile_export_aiperf.json", content, REQUESTS))
    ends = [0.1 + 49 * 0.008, 0.11 + 49 * 0.009, 0.09 + 49 * 0.007]
    assert metrics.ttft_s == pytest.approx(0.1)
    assert metrics.std_ttft_s == pytest.approx(0.01)
    assert metrics.tpot_s == pytest.approx(0.008)
    assert metrics.e2e_latency_s == pytest.approx(statistics.mean(ends))
    assert [row["output_tokens"] for row in imported.samples] == [50] * 3
    # Requests of another run, or some of them, are not taken for all.
    imported, metrics = read(write(tmp_path / "profile_export_aiperf.json", AIPERF))
    assert (metrics.ttft_s, imported.samples) == (0.1, [])
    assert "3 requests are beside it, 200 in the summary: numbers are of the summary" in imported.notes


def test_a_summary_of_genai_perf(tmp_path: Path) -> None:
    imported, metrics = read(write(tmp_path / "profile_export_genai_perf.json", GENAI))
    assert (imported.tool, imported.version, imported.model) == ("genai-perf", None, "org/Tiny")
    assert imported.config["load"] == "genai-perf, concurrency-4"
    assert metrics.std_ttft_s == pytest.approx(0.02 * (200 / 199) ** 0.5)
    newer = GENAI["input_config"] | {"perf_analyzer": {"stimulus": {"concurrency": 16}}, "endpoint": None}
    imported, _ = read(write(tmp_path / "other.json", GENAI | {"input_config": newer}))
    assert imported.config["load"] == "genai-perf, concurrency-16"


def test_without_streaming_there_is_no_first_token(tmp_path: Path) -> None:
    config = GENAI["input_config"] | {"streaming": False}
    imported, metrics = read(write(tmp_path / "profile_export_genai_perf.json", GENAI | {"input_config": config}))
    assert (metrics.ttft_s, metrics.tpot_s, metrics.e2e_latency_s) == (None, None, 0.5)
    assert "measured without streaming: no time to the first token" in imported.notes


@pytest.mark.parametrize(("unit", "seconds"), [("s", 100.0), ("ms", 0.1), ("us", 1e-4), ("ns", 1e-7)])
def test_units_are_those_of_the_file(tmp_path: Path, unit: str, seconds: float) -> None:
    _, metrics = read(write(tmp_path / "a.json", AIPERF | {"time_to_first_token": metric(unit, 100.0)}))
    assert metrics.ttft_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_to_first_token": metric("furlongs", 1.0)}, "'time_to_first_token.unit' is 'furlongs', not"),
        ({"request_latency": {"unit": "ms", "avg": "N/A"}}, "'request_latency.avg' is 'N/A', not a number"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultFileError) as failure:
        conftest.read(write(tmp_path / "a.json", AIPERF | change))
    assert words in failure.value.cause
