"""Several loads of one server: one record with levels, whatever the files, their order and that of their keys."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval.config import ImportConfig
from slim_eval.results.importers import ImportReport, import_results
from slim_eval.results.records import PerformanceRecord, ServingLevel, ServingRecord
from slim_eval.results.store import read_record, read_samples
from tests.generated import examples
from tests.unit.results.importers.conftest import DATA

FAULTS = Path(__file__).resolve().parents[5] / "shared" / "faults" / "import"


def run(folder: Path, *paths: Path) -> ImportReport:
    return import_results(ImportConfig(paths=paths, output_dir=folder, model="org/Tiny", precision="int4"))


def result(**changes: Any) -> dict[str, Any]:
    """A result of ``vllm bench serve`` in short form."""
    content = {
        "date": "20260101-000000", "backend": "openai", "model_id": "org/Tiny", "tokenizer_id": "org/Tiny",
        "num_prompts": 200, "request_rate": 1.0, "burstiness": 1.0, "max_concurrency": None, "duration": 100.0,
        "completed": 200, "failed": 0, "total_input_tokens": 100_000, "total_output_tokens": 20_000,
        "request_throughput": 2.0, "output_throughput": 200.0, "total_token_throughput": 1200.0,
        **{f"{part}_{name}_ms": 10.0 for name in ("ttft", "tpot", "itl") for part in ("mean", "median", "std", "p99")},
    }  # fmt: skip
    return content | changes


def write(path: Path, *documents: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    return path


def levels(report: ImportReport) -> tuple[ServingLevel, ...]:
    report.raise_for_problems()
    (record,) = map(read_record, report.paths)
    assert isinstance(record, ServingRecord)
    return record.levels


def test_a_sweep_over_files_is_one_record_beside_the_accuracies(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{c}.json", result(max_concurrency=c, mean_tpot_ms=float(c))) for c in (16, 1, 4)]
    report = run(tmp_path / "out", *files)
    assert report.paths == (tmp_path / "out" / "Tiny" / "Tiny_int4" / "serving.json",)
    found = levels(report)
    assert [level.max_concurrency for level in found] == [1, 4, 16]
    assert [level.tpot_s for level in found] == [0.001, 0.004, 0.016]
    assert {level.source for level in found} == {"1.json", "4.json", "16.json"}
    level = found[0]
    assert (level.request_rate, level.arrivals, level.num_runs, level.num_errors) == (1.0, "poisson", 200, 0)
    assert (level.tokens_per_second, level.total_tokens_per_second, level.requests_per_second) == (200.0, 1200.0, 2.0)
    assert (level.itl_s, level.prompt_tokens, level.output_tokens, level.duration_s) == (0.01, 500.0, 100.0, 100.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_rate": 2.0},
        {"request_rate": "inf"},
        {"burstiness": 0.5},
        {"max_concurrency": 8},
        {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9},
        {"total_input_tokens": 200_000},
        {"total_output_tokens": 40_000},
        {"dataset_name": "sharegpt"},
        {"deployment": "two-gpus"},
        {"spec_decode_acceptance_rate": 0.7},
        {"speculative_config": "ngram"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_load_or_workload_is_another_level(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = levels(run(tmp_path / "out", write(tmp_path / "all.json", result(), result(**changes))))
    assert len({level.label for level in found}) == len(found) == 2
    assert not any(level.replaced for level in found)


@pytest.mark.parametrize(
    "changes",
    [
        {"date": "20260102-000000"},
        {"total_input_tokens": 100_400},
        {"total_output_tokens": 20_500, "num_prompts": 190, "completed": 190, "total_input_tokens": 95_000},
        {"iteration": "2"},
        {"mean_tpot_ms": 11.0, "backend": "openai-chat"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_same_settings_again_replace_the_older_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    other = result(request_rate=9.0)
    newer = result(**{"mean_ttft_ms": 50.0} | changes)
    found = levels(report := run(tmp_path / "out", write(tmp_path / "all.json", result(), newer, other)))
    assert [level.request_rate for level in found] == [1.0, 9.0]
    assert found[0].ttft_s == 0.05
    assert found[0].replaced == ("all.json of 20260101-000000",)
    assert any("not imported: all.json of 20260101-000000" in note for note in report.notes)


def test_the_date_decides_and_not_the_place_in_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json", result(date="20260102-000000", mean_ttft_ms=50.0), result(), result(request_rate=2)
    )
    assert levels(run(tmp_path / "out", path))[0].ttft_s == 0.05


@pytest.mark.parametrize("mark", [{"type": "warmup"}, {"run_number": -1}])
def test_a_warm_up_is_not_a_measurement(tmp_path: Path, mark: dict[str, Any]) -> None:
    path = write(tmp_path / "a.json", result(date="20270101-000000", num_prompts=5, **mark), result())
    report = run(tmp_path / "out", path)
    (record,) = map(read_record, report.paths)
    assert isinstance(record, PerformanceRecord)
    assert "a.json: 1 warm-up not imported" in report.notes


def test_a_sweep_of_vllm_is_a_list_and_its_parameters_tell_levels_apart(tmp_path: Path) -> None:
    runs = [result(run_number=n, max_num_seqs=s, mean_ttft_ms=float(n + s)) for s in (8, 32) for n in (0, 1)]
    folder = tmp_path / "sweep"
    for content in runs:
        write(folder / str(content["max_num_seqs"]) / f"run={content['run_number']}.json", content)
    for seqs in (8, 32):
        write(folder / str(seqs) / "summary.json", [content for content in runs if content["max_num_seqs"] == seqs])
    found = levels(run(tmp_path / "out", folder))
    assert [level.metadata for level in found] == [{"max_num_seqs": "32"}, {"max_num_seqs": "8"}]
    assert [level.ttft_s for level in found] == [0.033, 0.009]
    assert [len(level.replaced) for level in found] == [1, 1]


def test_what_a_newer_version_measures_is_no_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", result(new_gap_ms=1.0, burst=3), result(new_gap_ms=2.0, burst=4))
    (record,) = map(read_record, run(tmp_path / "out", path).paths)
    assert isinstance(record, PerformanceRecord)


def test_requests_give_intervals_that_contain_their_mean(tmp_path: Path) -> None:
    content = json.loads((DATA / "vllm_serve_detailed.json").read_text(encoding="utf-8"))
    other = {**content, "max_concurrency": 4}
    report = run(tmp_path / "out", write(tmp_path / "a.json", content, other))
    for level in levels(report):
        for key, values in {"ttft_s": content["ttfts"], "e2e_latency_s": content["latencies"]}.items():
            low, high = level.intervals[key]
            assert getattr(level, key) == pytest.approx(statistics.mean(values))
            assert low < statistics.mean(values) < high
    rows = read_samples(report.paths[0].parent, "serving")
    assert [row["level"] for row in rows] == ["concurrency-2"] * 8 + ["concurrency-4"] * 8
    # Little's law: the sum of the times in flight over the duration.
    assert levels(report)[0].achieved_concurrency == pytest.approx(sum(content["latencies"]) / content["duration"])


def test_a_result_without_its_totals_has_its_times(tmp_path: Path) -> None:
    gone = ("duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
            "output_throughput", "total_token_throughput")  # fmt: skip
    path = write(tmp_path / "a.json", {key: value for key, value in result().items() if key not in gone})
    (record,) = map(read_record, run(tmp_path / "out", path).paths)
    assert isinstance(record, PerformanceRecord)
    assert (record.ttft_s, record.p99_tpot_s) == (0.01, 0.01)
    assert (record.tokens_per_second, record.num_runs, record.prompt_tokens, record.output_tokens) == (None,) * 4


def test_a_sweep_with_more_levels_replaces_one_of_the_same_files(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{rate}.json", result(request_rate=float(rate))) for rate in (1, 2, 3)]
    assert len(levels(run(tmp_path / "out", *files[:2]))) == 2
    assert len(levels(run(tmp_path / "out", *files))) == 3
    report = run(tmp_path / "out", *files[:2])
    assert report.paths == ()
    assert "import all files of a sweep at once" in report.problems[0]


def test_a_batch_of_its_own_does_not_displace_a_load(tmp_path: Path) -> None:
    for name in ("vllm_latency.json", "vllm_latency.pytorch.json"):
        shutil.copy(DATA / name, tmp_path)
    report = run(tmp_path / "out", tmp_path / "vllm_latency.json", write(tmp_path / "a.json", result()))
    assert sorted(path.name for path in report.paths) == ["performance.json", "serving.json"]
    assert len({path.parent for path in report.paths}) == 1


def shuffled(pick: st.DataObject, document: dict[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in pick.draw(st.permutations(list(document)))}


DOCUMENTS = [
    result(),
    result(mean_ttft_ms=20.0),
    result(mean_ttft_ms=30.0, iteration="3"),
    result(request_rate=2.0, deployment="a"),
    result(request_rate=2.0, deployment="b"),
    result(request_rate="inf", max_concurrency=8, total_input_tokens=5_000),
    result(request_rate="inf", max_concurrency=8),
    result(type="warmup"),
]


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pick=st.data())
def test_neither_files_nor_keys_have_an_order(pick: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    plain = [write(tmp_path / "plain" / f"{n}.json", document) for n, document in enumerate(DOCUMENTS)]
    expected = run(tmp_path / "expected", *plain)
    mixed = [write(tmp_path / "mixed" / f"{n}.json", shuffled(pick, d)) for n, d in enumerate(DOCUMENTS)]
    found = run(tmp_path / "found", *pick.draw(st.permutations(mixed)))
    assert set(found.notes) == set(expected.notes)
    assert [strip(level) for level in levels(found)] == [strip(level) for level in levels(expected)]


def strip(level: ServingLevel) -> dict[str, Any]:
    """All but what depends on the bytes of the file."""
    return level.model_dump(exclude={"sha256"})


@pytest.mark.skipif(not FAULTS.is_dir(), reason="the files of other people are not beside this repository")
class TestFilesThatPeoplePublished:
    def test_appended_results(self, tmp_path: Path) -> None:
        short, long = levels(run(tmp_path, FAULTS / "serve_append.json"))
        assert (short.ttft_s, long.ttft_s) == (0.09, 9.0)
        assert (short.metadata, long.metadata) == ({"input_len": "100"}, {"input_len": "10000"})
        assert short.replaced == ("serve_append.json of 20260101-000000, repetition 1",)

    def test_a_summary_of_a_sweep(self, tmp_path: Path) -> None:
        (record,) = map(read_record, run(tmp_path, FAULTS / "vllm_sweep_summary.json").paths)
        assert isinstance(record, PerformanceRecord)
        assert (record.tpot_s, record.num_runs) == (0.01, 8)

    def test_rates(self, tmp_path: Path) -> None:
        slow, fast = levels(run(tmp_path, FAULTS / "serve_rates"))
        assert (slow.request_rate, slow.tpot_s, fast.request_rate, fast.tpot_s) == (0.1, 0.008, 1.0, 0.02)

    def test_a_stripped_file(self, tmp_path: Path) -> None:
        (record,) = map(read_record, run(tmp_path, FAULTS / "serve_stripped.json").paths)
        assert isinstance(record, PerformanceRecord)
        assert (record.tpot_s, record.tokens_per_second) == (0.01, None)
