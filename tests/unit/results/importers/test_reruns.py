"""Measurements that are no levels: reruns, copies and other settings, in any order of any files in any folders."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval.config import ImportConfig
from slim_eval.results.importers import ImportReport, import_results
from slim_eval.results.importers.importer import moment
from slim_eval.results.records import AccuracyRecord, PerformanceRecord, Record
from slim_eval.results.store import read_record
from tests.generated import examples
from tests.unit.results.importers import test_lm_eval_versions as lm_eval
from tests.unit.results.importers.test_llama_bench import GENERATION, PROMPT
from tests.unit.results.importers.test_sweeps import result, write


def run(folder: Path, *paths: Path) -> ImportReport:
    return import_results(ImportConfig(paths=paths, output_dir=folder, model="org/Tiny", precision="int4"))


def scores(accuracy: float, date: float | None, shots: int = 0, limit: int | None = None) -> dict[str, Any]:
    """A result file of lm-eval with one task."""
    content = {
        "results": {"arc_easy": {"acc,none": accuracy, "acc_stderr,none": 0.01}}, "group_subtasks": {"arc_easy": []},
        "configs": {"arc_easy": {"metric_list": [{"metric": "acc"}]}}, "versions": {"arc_easy": 1.0},
        "n-shot": {"arc_easy": shots}, "n-samples": {"arc_easy": {"original": 1000, "effective": limit or 1000}},
        "config": {"model": "hf", "model_args": "pretrained=org/Tiny", "limit": limit},
    }  # fmt: skip
    return content if date is None else content | {"date": date}


def found(report: ImportReport, root: Path) -> dict[str, Record]:
    report.raise_for_problems()
    read = {str(path.relative_to(root)): read_record(path) for path in report.paths}
    assert all(isinstance(record, Record) for record in read.values())
    return read  # type: ignore[return-value]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_newest_rerun_of_a_task_stands_whatever_the_order(tmp_path: Path, order: tuple[int, int]) -> None:
    # The older one has the later name.
    files = [write(tmp_path / "b.json", scores(0.5, 1.75e9)), write(tmp_path / "a.json", scores(0.6, 1.76e9))]
    report = run(tmp_path / "out", *(files[place] for place in order))
    (record,) = found(report, tmp_path / "out").values()
    assert isinstance(record, AccuracyRecord)
    assert record.accuracy == 0.6
    said = "the newest of 2 runs with these settings; not imported: b.json of 2025-06-15T15:06:40+00:00"
    assert sum(said in note for note in record.notes) == sum(said in note for note in report.notes) == 1


@pytest.mark.parametrize("date", [None, 1.75e9])
def test_without_a_newest_one_the_last_file_name_stands_and_that_is_said(tmp_path: Path, date: float | None) -> None:
    files = [write(tmp_path / "z" / "a.json", scores(0.6, date)), write(tmp_path / "y" / "b.json", scores(0.5, date))]
    for place, order in enumerate(itertools.permutations(files)):
        (record,) = found(run(tmp_path / str(place), *order), tmp_path / str(place)).values()
        assert isinstance(record, AccuracyRecord)
        assert record.accuracy == 0.5
        assert any("last by file name" in note and "not imported: a.json" in note for note in record.notes)


def test_other_settings_of_a_task_are_kept_apart(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.json", scores(0.5, 1.0e9)), write(tmp_path / "b.json", scores(0.6, 1.1e9, shots=5)),
        write(tmp_path / "c.json", scores(0.7, 1.2e9, limit=10)),
    ]  # fmt: skip
    out = tmp_path / "out"
    records = found(run(out, *files), out)
    assert {path.split("/")[0] for path in records} == {"num_fewshot-0", "num_fewshot-5", "limit-10-num_fewshot-0"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_settings_of_llama_bench_are_kept_apart_across_files(tmp_path: Path, order: tuple[int, ...]) -> None:
    tests = [GENERATION, GENERATION | {"n_threads": 4, "n_gpu_layers": 0}, GENERATION | {"gpu_info": "NVIDIA H100"}]
    files = [write(tmp_path / f"{place}.json", [test]) for place, test in enumerate(tests)]
    apart = found(run(tmp_path / "out", *(files[place] for place in order)), tmp_path / "out")
    together = found(run(tmp_path / "one", write(tmp_path / "all.json", tests)), tmp_path / "one")
    assert len(apart) == 3
    assert apart.keys() == together.keys()
    assert sum("gpu_layers-0-" in path and "threads-4" in path for path in apart) == 1
    assert sum("H100" in path for path in apart) == 1


@pytest.mark.parametrize("flag", ["0", "False", "false"])
def test_a_csv_and_a_json_file_of_the_same_settings_are_reruns(tmp_path: Path, flag: str) -> None:
    text = {key: str(value) for key, value in GENERATION.items() if not isinstance(value, list)}
    newer = text | {"flash_attn": flag, "test_time": "2026-02-01T00:00:00Z"}
    (path := tmp_path / "b.csv").write_text("\n".join(",".join(line) for line in (newer, newer.values())))
    (record,) = found(run(tmp_path / "out", write(tmp_path / "a.json", [GENERATION]), path), tmp_path / "out").values()
    assert isinstance(record, PerformanceRecord)
    assert record.timestamp == "2026-02-01T00:00:00Z"


def test_a_second_command_loses_nothing_and_says_which_stands(tmp_path: Path) -> None:
    older, newer = (write(tmp_path / f"{n}.json", scores(n / 10, 1.7e9 + n)) for n in (5, 6))
    out = tmp_path / "out"
    (path,) = run(out, older).paths
    before = path.read_bytes()
    report = run(out, newer)
    assert (report.paths, path.read_bytes()) == ((), before)
    assert "from 5.json of 2023-11-14" in report.problems[0]
    assert "import both files in one command, and the newest stands" in report.problems[0]
    found(run(out, older, newer), out)
    assert read_record(path).accuracy == 0.6  # type: ignore[union-attr]
    report = run(out, write(tmp_path / "7.json", scores(0.7, 1.8e9, shots=5)))
    assert "they differ in settings: import both files at once into a new --output-dir" in report.problems[0]


def test_a_sweep_is_replaced_by_one_that_knows_a_newer_run(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.json", result(date=f"2026010{n}-000000", request_rate=r))
             for n, r in ((1, 1.0), (2, 2), (3, "1"))]  # fmt: skip
    run(tmp_path / "out", *files[:2]).raise_for_problems()
    (record,) = found(run(tmp_path / "out", *files), tmp_path / "out").values()
    assert [level.source for level in record.levels] == ["3.json", "2.json"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "values"), [("request_rate", (1, 1.0, "1", "1.0")), ("max_concurrency", (8, 8.0, "8"))]
)
def test_equal_numbers_are_one_load(tmp_path: Path, key: str, values: tuple[Any, ...]) -> None:
    files = [write(tmp_path / f"{n}.json", result(**{key: value, "date": f"2026010{n}-000000"}))
             for n, value in enumerate(values)]  # fmt: skip
    loads = set()
    for file in files:
        (record,) = found(run(tmp_path / file.stem, file), tmp_path / file.stem).values()
        loads.add(json.dumps([record.config["performance"]["load"], record.batch_size]))  # type: ignore[index,attr-defined]
    assert len(loads) == 1
    assert len(run(tmp_path / "all", *files).paths) == 1


def test_time_stamps_of_all_tools_are_compared(tmp_path: Path) -> None:
    stamps = [
        "2026-01-01T00:00:00Z",
        "20260101-000001",
        "2026-01-01T01:00:02+01:00",
        "1767225603",
        "2026-01-01T00:00:04",
    ]
    assert [moment(stamp) for stamp in stamps] == [1767225600.0 + second for second in range(5)]
    assert moment(None) == moment("yesterday") == float("-inf")


#: A file each -> its content.
CONTENTS: list[Any] = [
    scores(0.5, 1.75e9), scores(0.6, 1.76e9), scores(0.6, 1.76e9), scores(0.7, 1.77e9, shots=5), scores(0.4, None),
    [GENERATION], [GENERATION | {"n_threads": 4}], [GENERATION | {"test_time": "2026-02-01T00:00:00Z"}],
    [PROMPT, GENERATION | {"n_threads": 4, "avg_ns": 1_280_000_001}], lm_eval.V03,
]  # fmt: skip


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pick=st.data())
def test_neither_order_nor_folders_matter(pick: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    plain = [write(tmp_path / "plain" / f"{n}.json", content) for n, content in enumerate(CONTENTS)]
    folders = [pick.draw(st.sampled_from("abc")) for _ in CONTENTS]
    mixed = [write(tmp_path / folders[n] / f"{n}.json", copy.deepcopy(c)) for n, c in enumerate(CONTENTS)]
    expected = found(run(tmp_path / "expected", *plain), tmp_path / "expected")
    records = found(run(tmp_path / "found", *pick.draw(st.permutations(mixed))), tmp_path / "found")
    assert len(expected) > 4
    assert records == expected


def test_a_variant_stays_beside_the_baseline_with_its_settings(tmp_path: Path) -> None:
    """fp16 with 0 and 5 examples, fp8 with 5 alone, in another 16-bit type: the two with 5 are one comparison."""

    def made(name: str, shots: int, model_args: str, accuracy: float) -> Path:
        content = scores(accuracy, 1.75e9, shots=shots)
        content["config"]["model_args"] = f"pretrained=org/Tiny{model_args}"
        return write(tmp_path / name, content)

    files = [
        made("base0.json", 0, ",dtype=bfloat16", 0.7), made("base5.json", 5, ",dtype=bfloat16", 0.8),
        made("fp8.json", 5, ",dtype=float16,quantization=fp8", 0.6),
    ]  # fmt: skip
    config = ImportConfig(paths=tuple(files), output_dir=tmp_path / "out")
    kept = found(import_results(config), tmp_path / "out")
    places = {Path(name).parts[0]: set[str]() for name in kept}
    for name, record in kept.items():
        places[Path(name).parts[0]].add(record.precision)
    assert places == {"num_fewshot-0": {"fp16"}, "num_fewshot-5": {"fp16", "fp8"}}


@pytest.mark.parametrize("rate", [10**400, "1e400", "nan", True, None])
def test_a_rate_that_is_no_number_of_a_server_is_no_crash(tmp_path: Path, rate: Any) -> None:
    content = {
        "backend": "vllm", "model_id": "org/Tiny", "num_prompts": 10, "request_rate": rate, "duration": 5.0,
        "completed": 10, "total_input_tokens": 100, "total_output_tokens": 100, "request_throughput": 2.0,
        "output_throughput": 20.0, "mean_ttft_ms": 9.0, "mean_tpot_ms": 5.0,
    }  # fmt: skip
    assert len(run(tmp_path / "out", write(tmp_path / "a.json", content)).paths) == 1
