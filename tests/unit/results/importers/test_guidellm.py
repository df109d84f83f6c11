"""guidellm's reports: files that two versions wrote, and worked by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord
from slim_eval.results.importers.guidellm import Guidellm
from slim_eval.results.records import PerformanceMetrics
from tests.unit.results.importers import conftest


def read(path: Path) -> tuple[list[ImportedRecord], dict[str, Any]]:
    return conftest.read(path), json.loads(path.read_text(encoding="utf-8"))


def numbers(imported: ImportedRecord) -> PerformanceMetrics:
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported.metrics


@pytest.mark.parametrize(
    ("name", "version", "count"), [("guidellm_v1.json", "0.5.3", 2), ("guidellm_v2.json", "0.7.2", 1)]
)
def test_each_benchmark_of_both_versions_is_found(data: Path, name: str, version: str, count: int) -> None:
    records, content = read(data / name)
    assert len(records) == len(content["benchmarks"]) == count
    for imported, benchmark in zip(records, content["benchmarks"], strict=True):
        metrics, theirs = numbers(imported), benchmark["metrics"]
        assert imported.version == version
        assert metrics.ttft_s == pytest.approx(theirs["time_to_first_token_ms"]["successful"]["mean"] / 1000)
        assert metrics.tpot_s == pytest.approx(theirs["inter_token_latency_ms"]["successful"]["mean"] / 1000)
        assert metrics.tokens_per_second == pytest.approx(6 * 12 / benchmark["duration"])
        assert (metrics.num_runs, metrics.prompt_tokens, metrics.output_tokens) == (6, 24, 12)
        assert metrics.mean_latency_s is None
        assert imported.config["max_new_tokens"] == 12
        assert imported.head["engine"] is None
        assert len(imported.samples) == 6


def test_its_time_per_output_token_is_not_taken(data: Path) -> None:
    """It divides the whole latency by n, ours the time after the first token by n - 1."""
    (imported,), content = read(data / "guidellm_v2.json")
    theirs = content["benchmarks"][0]["metrics"]["time_per_output_token_ms"]["successful"]["mean"] / 1000
    requests = content["benchmarks"][0]["requests"]["successful"]
    by_hand = [(r["request_latency"] - r["time_to_first_token_ms"] / 1000) / 11 for r in requests]
    tpot = numbers(imported).tpot_s
    assert tpot is not None
    assert tpot != pytest.approx(theirs, rel=0.05)
    assert tpot == pytest.approx(
        statistics.mean(by_hand), rel=0.05
    )  # the response closes a moment after its last token


def test_end_to_end_ends_with_the_last_token(data: Path) -> None:
    records, content = read(data / "guidellm_v1.json")
    for imported, benchmark in zip(records, content["benchmarks"], strict=True):
        for row, request in zip(imported.samples, benchmark["requests"]["successful"], strict=True):
            assert row["e2e_s"] == pytest.approx(row["ttft_s"] + 11 * row["tpot_s"])
            assert 0 < request["request_latency"] - row["e2e_s"] < 0.05


@pytest.mark.parametrize(
    ("strategy", "setting", "concurrency"),
    [
        ({"type_": "synchronous"}, "synchronous", 1),
        ({"type_": "concurrent", "streams": 8}, "concurrent-8", 8),
        ({"type_": "throughput", "max_concurrency": 512}, "throughput", None),
        ({"type_": "constant", "rate": 2.5, "max_concurrency": 10240}, "constant-2.5", None),
        ({"type_": "poisson", "rate": 4.0}, "poisson-4", None),
    ],
)
def test_the_strategy_is_the_setting(
    changed: Callable[..., Path], strategy: dict[str, Any], setting: str, concurrency: int | None
) -> None:
    path = changed("guidellm_v2.json", lambda c: c["benchmarks"][0]["config"].update(strategy=strategy))
    (imported,), _ = read(path)
    assert imported.label == setting
    assert numbers(imported).batch_size == concurrency
    assert imported.config["type"] == strategy["type_"]
    assert imported.config["load"] == f"guidellm, {setting}"
    assert imported.config.get("rate") == strategy.get("rate")


def sampled(content: dict[str, Any]) -> None:
    """As ``sample_requests`` leaves a report: totals of all, details of some."""
    for benchmark in content["benchmarks"]:
        del benchmark["requests"]["successful"][2:]


def test_a_sample_of_requests_is_not_taken_for_all(changed: Callable[..., Path], data: Path) -> None:
    whole = [numbers(imported) for imported in read(data / "guidellm_v1.json")[0]]
    for imported, expected in zip(read(changed("guidellm_v1.json", sampled))[0], whole, strict=True):
        metrics = numbers(imported)
        assert metrics.ttft_s == pytest.approx(expected.ttft_s)
        assert metrics.std_ttft_s == pytest.approx(expected.std_ttft_s)
        assert metrics.tpot_s == pytest.approx(expected.tpot_s)
        assert metrics.std_tpot_s == pytest.approx(expected.std_tpot_s)
        assert metrics.tokens_per_second == expected.tokens_per_second
        assert (metrics.e2e_latency_s, metrics.p95_ttft_s, metrics.p99_ttft_s) == (None, None, None)
        assert imported.samples == []
        assert any("sample of the requests" in note for note in imported.notes)


def test_a_mean_that_is_weighted_by_length_is_not_taken(changed: Callable[..., Path]) -> None:
    def unequal(content: dict[str, Any]) -> None:
        sampled(content)
        content["benchmarks"][0]["metrics"]["output_token_count"]["successful"]["min"] = 3.0

    records, _ = read(changed("guidellm_v1.json", unequal))
    assert numbers(records[0]).tpot_s is None
    assert numbers(records[0]).ttft_s is not None
    assert records[0].config["max_new_tokens"] is None
    assert any("weights them" in note for note in records[0].notes)
    assert numbers(records[1]).tpot_s is not None


def test_tails_of_summaries_need_enough_requests(changed: Callable[..., Path]) -> None:
    def many(content: dict[str, Any]) -> None:
        for benchmark in content["benchmarks"]:
            benchmark["metrics"]["request_totals"]["successful"] = 50

    metrics = numbers(read(changed("guidellm_v1.json", many))[0][0])
    assert metrics.p95_ttft_s == pytest.approx(0.163643598, rel=1e-6)
    assert metrics.p99_ttft_s is None


@pytest.mark.parametrize("key", ["warmup_duration", "cooldown_duration"])
def test_throughput_is_unknown_where_requests_may_have_been_cut(changed: Callable[..., Path], key: str) -> None:
    def cut(content: dict[str, Any]) -> None:
        sampled(content)
        content["benchmarks"][0][key] = 0.5

    imported = read(changed("guidellm_v2.json", cut))[0][0]
    assert numbers(imported).tokens_per_second is None
    assert numbers(imported).ttft_s is not None
    assert any(note.startswith("no throughput") for note in imported.notes)


def shifted(seconds: float) -> Callable[[dict[str, Any]], None]:
    """Ends the measured time so much earlier than the last request."""

    def change(content: dict[str, Any]) -> None:
        benchmark = content["benchmarks"][0]
        benchmark["end_time"] -= seconds
        benchmark["duration"] -= seconds

    return change


def test_requests_that_end_after_the_measured_time_are_not_in_the_throughput(changed: Callable[..., Path]) -> None:
    (imported,), content = read(changed("guidellm_v2.json", shifted(0.01)))
    benchmark = content["benchmarks"][0]
    within = [r for r in benchmark["requests"]["successful"] if r["request_end_time"] <= benchmark["end_time"]]
    assert len(within) == 5
    assert numbers(imported).tokens_per_second == pytest.approx(
        sum(r["output_tokens"] for r in within) / benchmark["duration"]
    )
    assert numbers(imported).num_runs == 6, "its times are still of every request"
    assert "1 of 6 requests ended after the measured time: not in the throughput" in imported.notes


def test_totals_that_count_late_requests_give_no_throughput(changed: Callable[..., Path]) -> None:
    def late(content: dict[str, Any]) -> None:
        sampled(content)
        shifted(0.01)(content)

    imported = read(changed("guidellm_v2.json", late))[0][0]
    assert numbers(imported).tokens_per_second is None


def test_requests_of_the_warm_up_are_left_out(changed: Callable[..., Path], data: Path) -> None:
    def warm(content: dict[str, Any]) -> None:
        benchmark = content["benchmarks"][0]
        first = benchmark["requests"]["successful"][0]
        times = {key: first[key] - 60 for key in ("request_start_time", "request_end_time")}
        benchmark["requests"]["successful"].insert(0, {**first, **times, "time_to_first_token_ms": 9e5})
        benchmark["warmup_duration"] = 60.0

    (whole,), _ = read(data / "guidellm_v2.json")
    (imported,), _ = read(changed("guidellm_v2.json", warm))
    assert numbers(imported) == numbers(whole)
    assert imported.samples == whole.samples
    assert "1 of 7 requests are outside of the measured time" in imported.notes
    assert not any("only a sample" in note for note in imported.notes)


def old(content: dict[str, Any]) -> None:
    """As guidellm 0.3 writes the same benchmark."""
    del content["metadata"], content["config"]
    for benchmark in content["benchmarks"]:
        config = benchmark.pop("config")
        del benchmark["scheduler_metrics"], benchmark["duration"]
        benchmark["args"] = {"strategy": config["strategy"], "profile": config["strategy"]}
        benchmark["worker"] = {"backend_type": "openai_http", "backend_model": config["backend"]["model"]}
        benchmark["request_totals"] = benchmark["metrics"].pop("request_totals")
        benchmark["run_stats"] = {"requests_made": benchmark["request_totals"]}
        for request in benchmark["requests"]["successful"]:
            for end in ("start", "end"):
                request[f"{end}_time"] = request.pop(f"request_{end}_time")


def test_a_report_of_guidellm_0_3_has_the_same_numbers(changed: Callable[..., Path], data: Path) -> None:
    (new,), _ = read(data / "guidellm_v2.json")
    (imported,), _ = read(changed("guidellm_v2.json", old))
    assert numbers(imported) == numbers(new)
    assert (imported.model, imported.label, imported.version) == (new.model, new.label, None)
    assert imported.config == new.config


def test_a_report_in_yaml_is_the_report_in_json(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "guidellm_v2.json").read_text(encoding="utf-8"))
    path = tmp_path / "benchmarks.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert conftest.read(path) == conftest.read(data / "guidellm_v2.json")


def test_a_benchmark_is_a_level_of_a_sweep(data: Path) -> None:
    for imported in conftest.read(data / "guidellm_v1.json"):
        level, metrics = imported.level, numbers(imported)
        assert level is not None
        assert (level.load, level.label) == (imported.config["load"], imported.label)
        assert (level.arrivals, level.max_concurrency) == ("closed loop", metrics.batch_size)
        assert level.num_errors == 0


def test_no_values_are_none(changed: Callable[..., Path]) -> None:
    def not_streamed(content: dict[str, Any]) -> None:
        for request in content["benchmarks"][0]["requests"]["successful"]:
            request.update(time_to_first_token_ms=None, inter_token_latency_ms=None)

    (imported,), _ = read(changed("guidellm_v2.json", not_streamed))
    assert (numbers(imported).ttft_s, numbers(imported).tpot_s, numbers(imported).e2e_latency_s) == (None, None, None)
    assert numbers(imported).tokens_per_second is not None

    def zero(content: dict[str, Any]) -> None:
        sampled(content)
        for key in ("time_to_first_token_ms", "inter_token_latency_ms"):
            content["benchmarks"][0]["metrics"][key]["successful"]["mean"] = 0.0

    assert numbers(read(changed("guidellm_v1.json", zero))[0][0]).ttft_s is None


def test_failed_requests_are_counted(changed: Callable[..., Path]) -> None:
    path = changed("guidellm_v2.json", lambda c: c["benchmarks"][0]["metrics"]["request_totals"].update(errored=2))
    (imported,), _ = read(path)
    assert "2 of 8 requests failed or were cut off and are not in the numbers" in imported.notes


def test_an_engine_in_the_same_process_is_named_and_a_key_is_not(changed: Callable[..., Path]) -> None:
    secret = {"kind": "vllm_python", "api_key": "sk-SECRET"}
    path = changed("guidellm_v2.json", lambda c: c["benchmarks"][0]["config"]["backend"].update(secret))
    (imported,), _ = read(path)
    assert imported.head["engine"] == "vllm"
    assert imported.config["backend"] == "vllm_python"
    assert "SECRET" not in conftest.dump(path, imported)


def test_the_model_is_the_one_that_was_asked(data: Path, changed: Callable[..., Path]) -> None:
    assert read(data / "guidellm_v2.json")[0][0].model == "demo"
    assert {imported.model for imported in read(data / "guidellm_v1.json")[0]} == {None}
    path = changed("guidellm_v1.json", lambda content: content["args"].update(model="org/Tiny"))
    assert {imported.model for imported in read(path)[0]} == {"org/Tiny"}


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["benchmarks"][0]["metrics"].pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["metadata"].update(version=3), "field 'metadata.version' is 3, but only 1 and 2 are supported"),
        (lambda c: c["metadata"].pop("version"), "field 'metadata.version' is missing"),
        (lambda c: c.update(benchmarks=[]), "field 'benchmarks' is empty"),
        (lambda c: c["benchmarks"][0].pop("config"), "field 'benchmarks[0].config.strategy' is missing"),
        (drop("request_totals"), "field 'benchmarks[0].metrics.request_totals.successful' is missing"),
        (
            lambda c: c["benchmarks"][0]["metrics"]["request_totals"].update(successful=0),
            "'benchmarks[0].metrics.request_totals.successful' is 0: no request succeeded",
        ),
    ],
)
def test_unknown_and_damaged_reports_are_named_with_the_field(
    changed: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(ResultFileError) as failure:
        read(changed("guidellm_v2.json", change))
    assert words in failure.value.cause
    assert "guidellm_v2.json" in failure.value.cause
    assert failure.value.remedy


def test_a_time_that_cannot_be_is_missing_in_its_own_record(changed: Callable[..., Path]) -> None:
    def damage(content: dict[str, Any]) -> None:
        content["benchmarks"].append(json.loads(json.dumps(content["benchmarks"][0])))
        content["benchmarks"][1]["requests"]["successful"][1].update(time_to_first_token_ms=-5.0)

    file = conftest.foreign(changed("guidellm_v2.json", damage), model="m", precision="fp16")
    records = [imported.record(file) for imported in Guidellm().read(file)]
    said = [[note for note in record.notes if "no measurement" in note] for record in records]
    note = "benchmarks[1].requests.successful[1].time_to_first_token_ms is -5.0, no measurement: missing"
    assert said[0] == []
    assert said[1] == [note]
