"""vLLM's own benchmarks: files that it wrote, and worked by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers import ImportedRecord
from slim_eval.results.importers.vllm_bench import VllmBench
from slim_eval.results.records import PerformanceMetrics, PerformanceRecord
from tests.unit.results.importers import conftest


def read(path: Path, **options: Any) -> tuple[ImportedRecord, PerformanceMetrics, dict[str, Any]]:
    (imported,) = conftest.read(path, **options)
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported, imported.metrics, json.loads(path.read_text(encoding="utf-8"))


def alone(folder: Path, source: Path, **changes: Any) -> Path:
    """A copy without the file of arguments beside it."""
    path = folder / source.name
    path.write_text(json.dumps(json.loads(source.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return path


def test_latency_is_amortised_over_the_batch(data: Path) -> None:
    imported, metrics, content = read(data / "vllm_latency.json")
    assert metrics.mean_latency_s == pytest.approx(content["avg_latency"] / 2)
    assert metrics.median_latency_s == pytest.approx(content["percentiles"]["50"] / 2)
    assert metrics.std_latency_s == pytest.approx(statistics.stdev(content["latencies"]) / 2)
    assert metrics.tokens_per_second == pytest.approx(2 * 8 * 5 / sum(content["latencies"]))
    assert (metrics.batch_size, metrics.num_iterations, metrics.num_runs, metrics.num_warmup) == (2, 5, 10, 2)
    assert (metrics.input_len, metrics.prompt_tokens, metrics.output_tokens) == (16, 16, 8)
    assert imported.head == {"engine": "vllm"}
    assert imported.config["max_new_tokens"] == 8
    assert imported.config["enforce_eager"] is True
    assert [row["wall_s"] for row in imported.samples] == content["latencies"]
    assert "every p95 equals the maximum: 5 iterations, 20 needed" in imported.notes


def test_a_batch_has_no_mean_end_to_end_latency(data: Path) -> None:
    _, metrics, _ = read(data / "vllm_latency.json")
    assert (metrics.e2e_latency_s, metrics.ttft_s, metrics.tpot_s) == (None, None, None)


def test_latency_without_its_arguments_asks_for_the_batch_size(data: Path, tmp_path: Path) -> None:
    path = alone(tmp_path, data / "vllm_latency.json")
    with pytest.raises(UsageError, match="batch size") as failure:
        read(path)
    assert "--batch-size" in failure.value.remedy
    imported, metrics, _ = read(path, batch_size=2)
    assert metrics.mean_latency_s == read(data / "vllm_latency.json")[1].mean_latency_s
    assert metrics.tokens_per_second is None
    assert metrics.output_tokens is None
    assert imported.config["max_new_tokens"] is None
    assert any("--max-new-tokens" in note for note in imported.notes)
    _, metrics, _ = read(path, batch_size=2, max_new_tokens=8)
    assert metrics.tokens_per_second == read(data / "vllm_latency.json")[1].tokens_per_second


def test_arguments_of_another_run_are_refused(changed: Callable[..., Path]) -> None:
    path = changed("vllm_latency.json", lambda c: c.update(latencies=[1.0, 2.0], avg_latency=1.5))
    with pytest.raises(
        ResultFileError, match=r"pytorch\.json: field '\[0\]\.metric\.benchmark_values' is from a different run"
    ):
        read(path)


@pytest.mark.parametrize(("key", "value"), [("n", 2), ("use_beam_search", True)])
def test_several_outputs_a_prompt_are_refused(changed: Callable[..., Path], key: str, value: Any) -> None:
    path = changed("vllm_latency.json", lambda content: None)
    beside = path.with_name("vllm_latency.pytorch.json")
    content = json.loads(beside.read_text(encoding="utf-8"))
    content[0]["benchmark"]["extra_info"]["args"][key] = value
    beside.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultFileError, match=rf"args\.{key}' requests several outputs"):
        read(path)


def test_a_secret_among_the_arguments_goes_nowhere(changed: Callable[..., Path]) -> None:
    path = changed("vllm_latency.json", lambda content: None)
    beside = path.with_name("vllm_latency.pytorch.json")
    beside.write_text(beside.read_text(encoding="utf-8").replace('"hf_token": null', '"hf_token": "hf_SECRET"'))
    assert "hf_SECRET" in beside.read_text(encoding="utf-8")
    assert "SECRET" not in conftest.dump(path, read(path)[0])


def test_throughput_counts_output_tokens_only(data: Path) -> None:
    imported, metrics, content = read(data / "vllm_throughput.json")
    assert metrics.tokens_per_second == pytest.approx(6 * 8 / content["elapsed_time"])
    assert metrics.tokens_per_second < content["tokens_per_second"]  # which counts the prompts' too
    assert metrics.mean_latency_s == pytest.approx(content["elapsed_time"] / 6)
    assert (metrics.batch_size, metrics.num_runs, metrics.num_iterations) == (6, 6, 1)
    assert metrics.prompt_tokens == pytest.approx((146 - 48) / 6)
    assert imported.head == {"engine": "vllm"}
    assert imported.config["max_new_tokens"] == 8


def test_throughput_without_its_arguments_knows_no_tokens_and_no_engine(data: Path, tmp_path: Path) -> None:
    path = alone(tmp_path, data / "vllm_throughput.json")
    imported, metrics, content = read(path)
    assert metrics.tokens_per_second is None
    assert metrics.prompt_tokens is None
    assert metrics.mean_latency_s == content["elapsed_time"] / 6
    assert imported.head == {"engine": None}
    assert read(path, max_new_tokens=8)[1].tokens_per_second == pytest.approx(6 * 8 / content["elapsed_time"])
    with pytest.raises(UsageError, match="do not fit into its 146 tokens"):
        read(path, max_new_tokens=25)


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ({"random_range_ratio": "0.5"}, None),
        ({"dataset_name": "sharegpt"}, None),
        ({"random_output_len": None, "output_len": 4}, 4),
        ({"random_range_ratio": 0.0}, 8),
    ],
)
def test_output_tokens_are_known_only_where_all_are_equal(
    changed: Callable[..., Path], arguments: dict[str, Any], tokens: int | None
) -> None:
    path = changed("vllm_throughput.json", lambda content: None)
    beside = path.with_name("vllm_throughput.pytorch.json")
    content = json.loads(beside.read_text(encoding="utf-8"))
    content[0]["benchmark"]["extra_info"]["args"].update(arguments)
    beside.write_text(json.dumps(content), encoding="utf-8")
    assert read(path)[1].output_tokens == tokens


def test_serving_metrics_from_requests_equal_vllms_own(data: Path) -> None:
    imported, metrics, content = read(data / "vllm_serve_detailed.json")
    assert metrics.ttft_s == pytest.approx(content["mean_ttft_ms"] / 1000)
    assert metrics.median_ttft_s == pytest.approx(content["median_ttft_ms"] / 1000)
    assert metrics.tpot_s == pytest.approx(content["mean_tpot_ms"] / 1000)
    assert metrics.median_tpot_s == pytest.approx(content["median_tpot_ms"] / 1000)
    assert metrics.std_tpot_s == pytest.approx(content["std_tpot_ms"] / 1000 * (8 / 7) ** 0.5)
    assert metrics.e2e_latency_s == pytest.approx(statistics.mean(content["latencies"]))
    assert metrics.p95_ttft_s == max(content["ttfts"])  # eight requests have no 95th percentile
    assert metrics.tokens_per_second == content["output_throughput"]
    assert (metrics.batch_size, metrics.num_runs) == (2, 8)
    assert (metrics.prompt_tokens, metrics.output_tokens) == (193 / 8, 12)
    assert metrics.mean_latency_s is None
    assert imported.config["max_new_tokens"] == 12
    assert imported.config["request_rate"] == "inf"
    assert imported.label == "rate-inf-concurrency-2"
    assert imported.head == {}
    assert len(imported.samples) == 8
    assert {row["output_tokens"] for row in imported.samples} == {12}


def test_serving_metrics_without_requests_are_converted(data: Path) -> None:
    imported, metrics, content = read(data / "vllm_serve.json")
    assert metrics.ttft_s == content["mean_ttft_ms"] / 1000
    assert metrics.e2e_latency_s == content["mean_e2el_ms"] / 1000
    assert metrics.std_e2e_latency_s == pytest.approx(content["std_e2el_ms"] / 1000 * (8 / 7) ** 0.5)
    assert metrics.std_tpot_s is None
    assert (metrics.p95_ttft_s, metrics.p99_ttft_s) == (None, None)  # interpolated between eight requests
    assert metrics.batch_size is None
    assert imported.samples == []
    assert imported.config["max_new_tokens"] is None
    assert imported.label == "rate-4.0"


@pytest.mark.parametrize(
    ("change", "load"),
    [
        ({}, "rate-4.0"),
        ({"burstiness": 0.5, "max_concurrency": 3}, "rate-4.0-burstiness-0.5-concurrency-3"),
        (
            {"request_rate": "inf", "ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9},
            "rate-linear-1-9",
        ),
    ],
)
def test_the_load_is_kept_in_words(changed: Callable[..., Path], change: dict[str, Any], load: str) -> None:
    imported, _, _ = read(changed("vllm_serve.json", lambda content: content.update(change)))
    assert imported.label == load
    assert imported.config["load"] == f"vllm bench serve, {load}"


def test_tails_are_taken_where_there_are_enough_requests(changed: Callable[..., Path]) -> None:
    enough = {"completed": 100, "num_prompts": 100}
    metrics = read(changed("vllm_serve.json", lambda content: content.update(enough)))[1]
    assert metrics.p95_tpot_s == pytest.approx(0.008570317845452667)
    assert metrics.p99_tpot_s == pytest.approx(0.008711877750910885)


def test_failed_requests_are_left_out_and_counted(changed: Callable[..., Path]) -> None:
    def fail_the_first(content: dict[str, Any]) -> None:
        content["errors"][0] = "connection refused"
        content["ttfts"][0] = content["latencies"][0] = 0.0
        content["output_lens"][0] = 0
        content.update(completed=7, failed=1, total_output_tokens=84, total_input_tokens=169)

    imported, metrics, content = read(changed("vllm_serve_detailed.json", fail_the_first))
    assert len(imported.samples) == metrics.num_runs == 7
    assert metrics.ttft_s == pytest.approx(statistics.mean(content["ttfts"][1:]))
    assert "1 of 8 requests failed and are not in the numbers" in imported.notes


def test_zero_is_vllms_word_for_no_values(changed: Callable[..., Path]) -> None:
    """An endpoint that does not stream has no first token; one that stops at once has no time per output token."""
    metrics = read(changed("vllm_serve.json", lambda c: c.update(mean_ttft_ms=0.0, mean_tpot_ms=0.0)))[1]
    assert (metrics.ttft_s, metrics.median_ttft_s, metrics.tpot_s) == (None, None, None)
    metrics = read(changed("vllm_serve_detailed.json", lambda c: c.update(ttfts=[0.0] * 8)))[1]
    assert (metrics.ttft_s, metrics.tpot_s) == (None, None)
    assert metrics.e2e_latency_s is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0])
def test_a_time_that_cannot_be_is_missing_and_the_rest_is_taken(changed: Callable[..., Path], value: float) -> None:
    path = changed("vllm_serve.json", lambda c: c.update(mean_ttft_ms=value, duration=value))
    file = conftest.foreign(path, model="m", precision="fp16")
    (imported,) = VllmBench().read(file)
    record = imported.record(file)
    assert isinstance(record, PerformanceRecord)
    assert record.ttft_s is None
    assert record.tpot_s is not None
    for key in ("mean_ttft_ms", "duration"):
        assert f"{key} is {value}, no measurement: missing" in record.notes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, None])
@pytest.mark.parametrize("key", ["ttfts", "latencies", "itls"])
def test_where_a_time_of_a_request_cannot_be_the_files_own_summary_is_taken(
    changed: Callable[..., Path], key: str, value: float | None
) -> None:
    """Its numbers are of all requests; those of the others would be of fewer."""

    def plant(content: dict[str, Any]) -> None:
        if key == "itls":
            del content["latencies"]
            content["itls"][2][-1] = value
        else:
            content[key][2] = value

    content = json.loads(changed("vllm_serve_detailed.json", lambda _: None).read_text())
    whole = read(changed("vllm_serve_detailed.json", lambda _: None))
    file = conftest.foreign(changed("vllm_serve_detailed.json", plant), model="m", precision="fp16")
    (imported,) = VllmBench().read(file)
    assert imported.samples == []
    assert imported.level is not None
    assert whole[0].level is not None
    assert imported.level.num_errors == whole[0].level.num_errors == 0
    record = imported.record(file)
    assert isinstance(record, PerformanceRecord)
    assert (record.num_runs, record.output_tokens) == (whole[1].num_runs, whole[1].output_tokens)
    assert record.ttft_s == pytest.approx(content["mean_ttft_ms"] / 1000)
    assert record.tpot_s == pytest.approx(content["mean_tpot_ms"] / 1000)
    assert "times of 1 of 8 requests are unknown: numbers are of the summary" in record.notes


def test_many_numbers_that_cannot_be_take_few_notes(changed: Callable[..., Path]) -> None:
    nothing = [float("nan")] * 8
    path = changed("vllm_serve_detailed.json", lambda c: c.update(ttfts=nothing, latencies=nothing))
    file = conftest.foreign(path, model="m", precision="fp16")
    (imported,) = VllmBench().read(file)
    notes = imported.record(file).notes
    assert "times of 8 of 8 requests are unknown: numbers are of the summary" in notes
    assert len([note for note in notes if "no measurement" in note]) == 11
    assert "5 more notes on impossible numbers are left out" in notes  # of 16, and one on the requests


def test_what_the_user_wrote_of_the_server_labels_the_run(changed: Callable[..., Path]) -> None:
    imported = read(changed("vllm_serve.json", lambda c: c.update(model_id="org/T", quantization="awq")))[0]
    assert imported.precision == "w4a16-awq"
    path = changed("vllm_serve.json", lambda c: c.update(model_id="org/T", kv_cache_dtype="fp8"))
    assert read(path)[0].precision is None
    file = conftest.foreign(path, precision="fp16")
    assert [each.record(file).precision for each in VllmBench().read(file)] == ["fp16+kv8"]


def test_an_older_version_writes_goodput_with_a_colon(changed: Callable[..., Path]) -> None:
    imported = read(
        changed("vllm_serve.json", lambda c: c.update({"request_goodput:": c.pop("request_goodput", 0) or 2.5}))
    )[0]
    assert imported.level is not None
    assert imported.level.goodput == 2.5
    assert not imported.level.metadata


def test_versions_without_latencies_have_them_in_the_gaps(changed: Callable[..., Path], data: Path) -> None:
    expected = read(data / "vllm_serve_detailed.json")[1]
    found = read(changed("vllm_serve_detailed.json", lambda content: content.pop("latencies")))[1]
    assert found.e2e_latency_s == pytest.approx(expected.e2e_latency_s, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("vllm_latency.json", {"latencies": []}, "'latencies' is empty"),
        ("vllm_latency.json", {"latencies": [0.1, float("nan")]}, "'latencies[1]' is nan"),
        ("vllm_latency.json", {"avg_latency": 9.0}, "'avg_latency' is not the mean"),
        ("vllm_throughput.json", {"num_requests": 0}, "'num_requests' is 0: no request"),
        ("vllm_throughput.json", {"elapsed_time": None}, "'elapsed_time' is null"),
        ("vllm_serve.json", {"completed": 0}, "'completed' is 0: no request succeeded"),
        ("vllm_serve.json", {"output_throughput": None}, "'output_throughput' is null"),
        ("vllm_serve.json", {"total_input_sequences": 3}, "'total_input_sequences' is 3"),
        ("vllm_serve_detailed.json", {"ttfts": [0.1]}, "'input_lens' has 8 values, 'ttfts' 1"),
        ("vllm_serve_detailed.json", {"completed": 7}, "'errors' contains 8 requests without an error, but"),
        ("vllm_serve_detailed.json", {"latencies": None, "itls": []}, "'itls' has 0 values, 'ttfts' 8"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(
    changed: Callable[..., Path], name: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ResultFileError) as failure:
        read(changed(name, lambda content: content.update(change)))
    assert words in failure.value.cause
    assert name in failure.value.cause
