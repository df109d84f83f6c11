"""Files of Every Eval Ever that others wrote: the package's converters, other versions of the schema, other scales."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord, import_results
from slim_eval.results.records import AccuracyMetrics, AccuracyRecord
from slim_eval.results.store import find_results, read_samples
from tests.unit.results.importers import conftest

RESULT = {
    "evaluation_name": "quiz",
    "source_data": {"dataset_name": "quiz", "source_type": "other"},
    "metric_config": {
        "metric_name": "accuracy", "metric_kind": "accuracy", "lower_is_better": False, "score_type": "continuous",
        "min_score": 0, "max_score": 1,
    },
    "score_details": {"score": 0.75, "uncertainty": {"num_samples": 40}},
}  # fmt: skip
LOG = {
    "schema_version": "0.3.0",
    "evaluation_id": "quiz/org/Tiny/1",
    "retrieved_timestamp": "1795531618",
    "evaluation_timestamp": "1795531600.5",
    "source_metadata": {
        "source_type": "documentation", "source_organization_name": "Lab", "evaluator_relationship": "third_party",
    },
    "eval_library": {"name": "inspect_ai", "version": "0.3.200"},
    "model_info": {
        "name": "Tiny", "id": "org/Tiny",
        "inference_engine": {"name": "vLLM", "version": "0.19.0"},
        "additional_details": {
            "deployment_type": "unknown", "model_availability": "unknown", "dtype": "torch.bfloat16",
        },
    },
    "evaluation_results": [RESULT],
}  # fmt: skip

#: Changes the log, or its only result.
Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture(autouse=True)
def package() -> None:
    """Skip what needs the package if it is not installed."""
    pytest.importorskip("every_eval_ever", reason="the package every-eval-ever is not installed")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Change], Path]:
    """Writes a changed log."""

    def write(change: Change) -> Path:
        log = copy.deepcopy(LOG)
        change(log, log["evaluation_results"][0])  # type: ignore[index]
        path = tmp_path / "log.json"
        path.write_text(json.dumps(log), encoding="utf-8")
        return path

    return write


def unchanged(log: dict[str, Any], result: dict[str, Any]) -> None:
    """The log as it is."""


def only(path: Path) -> tuple[ImportedRecord, AccuracyMetrics]:
    (imported,) = conftest.read(path)
    assert isinstance(imported.metrics, AccuracyMetrics)
    return imported, imported.metrics


def test_a_log_of_another_harness_is_read(written: Callable[[Change], Path]) -> None:
    imported, numbers = only(written(unchanged))
    assert (imported.model, imported.precision) == ("org/Tiny", "fp16")
    assert (numbers.task, numbers.metric, numbers.accuracy, numbers.num_items) == ("quiz", "accuracy", 0.75, 40)
    assert (numbers.stderr, numbers.intervals, numbers.num_fewshot) == (None, {}, None)
    assert imported.head["engine"] == "vllm"
    assert imported.head["engine_version"] == "0.19.0"
    assert imported.head["timestamp"] == "2026-11-24T14:46:40+00:00"
    assert imported.config["eval_library"] == {"name": "inspect_ai", "version": "0.3.200"}


def test_the_converters_logs_are_what_our_importer_reads(data: Path, tmp_path: Path) -> None:
    from every_eval_ever.converters.lm_eval.adapter import LMEvalAdapter

    source = next((data / "lm_eval").glob("results_*.json"))
    known = {"source_organization_name": "Lab", "evaluator_relationship": "third_party"}
    for number, log in enumerate(LMEvalAdapter().transform_from_file(source, known)):
        content = log.model_dump(mode="json", exclude_none=True)
        (tmp_path / f"{number}.json").write_text(json.dumps(content), encoding="utf-8")
    report = import_results(ImportConfig(paths=(tmp_path,), output_dir=tmp_path / "theirs"))
    assert report.problems == ()
    import_results(ImportConfig(paths=(source,), output_dir=tmp_path / "ours"))
    (theirs,), (ours,) = (find_results(tmp_path / name).variants for name in ("theirs", "ours"))
    assert (theirs.model, theirs.precision, theirs.engine) == (ours.model, ours.precision, ours.engine)
    assert len(ours.accuracy) == 3
    for task, record in ours.accuracy.items():
        other = theirs.accuracy[task]
        for field in ("accuracy", "metric", "stderr", "metrics", "dtype", "num_parameters", "timestamp"):
            assert getattr(other, field) == getattr(record, field), (task, field)
        # The converter finds no number of items of a group.
        assert other.num_items in (record.num_items, None)
        for name, part in record.subtasks.items():
            assert theirs.accuracy[name].metrics == {key: value for key, value in part.items() if "," in key}


def test_items_that_the_converter_kept_pair_with_ours(data: Path, tmp_path: Path) -> None:
    from every_eval_ever import cli

    source = next((data / "lm_eval").glob("results_*.json"))
    command = ["convert", "lm_eval", "--log_path", str(source), "--output_dir", str(tmp_path / "data")]
    assert cli.main([*command, "--include_samples"]) == 0
    theirs = import_results(ImportConfig(paths=(tmp_path / "data",), output_dir=tmp_path / "theirs"))
    import_results(ImportConfig(paths=(source,), output_dir=tmp_path / "ours"))
    (converted,), (read,) = (find_results(tmp_path / name).variants for name in ("theirs", "ours"))
    for task in ("demo_gsm8k", "demo_hellaswag"):
        scores = [
            {
                (row["doc_hash"], row["prompt_hash"], row["target_hash"], row[variant.accuracy[task].metric or ""])
                for row in read_samples(variant.directory, task)
            }
            for variant in (converted, read)
        ]
        assert scores[0] == scores[1]
        assert len(scores[0]) == 4
    # Beside a group the converter puts the items of one subtask.
    assert read_samples(converted.directory, "demo_mmlu") == []
    assert [note for note in theirs.notes if "demo_mmlu: its samples do not give its score" in note]


@pytest.mark.parametrize(("answers", "is_kept"), [((1, 1, 1, 0), True), ((1, 1, 0, 0), False), ((1, 1, 1), False)])
def test_items_are_kept_if_they_give_the_score(
    answers: tuple[int, ...], is_kept: bool, written: Callable[[Change], Path]
) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        result["evaluation_result_id"] = "accuracy"
        result["score_details"]["uncertainty"]["num_samples"] = 4

    path = written(change)
    rows = [
        {
            "evaluation_name": "quiz", "evaluation_result_id": "accuracy", "sample_id": str(number),
            "sample_hash": f"h{number}", "evaluation": {"score": answer, "is_correct": bool(answer)},
        }
        for number, answer in enumerate(answers)
    ]  # fmt: skip
    samples = path.with_name("log_samples.jsonl")
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    imported, _ = only(path)
    assert [row["doc_hash"] for row in imported.samples] == (["h0", "h1", "h2", "h3"] if is_kept else [])
    # An item that was answered twice has no score of its own.
    samples.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]), encoding="utf-8")
    imported, _ = only(path)
    assert imported.samples == []


def test_a_version_that_the_package_does_not_know_is_read_by_its_fields(written: Callable[[Change], Path]) -> None:
    def older(log: dict[str, Any], result: dict[str, Any]) -> None:
        log["schema_version"] = "0.1.0"
        del log["model_info"]["additional_details"], log["eval_library"], result["source_data"]
        log["model_info"]["inference_engine"] = "vllm"
        result["score_details"]["uncertainty"] = {"standard_error": 0.1}

    path = written(older)
    (record,) = (imported.record(conftest.foreign(path, precision="fp16")) for imported in conftest.read(path))
    assert isinstance(record, AccuracyRecord)
    assert (record.model, record.accuracy, record.engine, record.num_items) == ("org/Tiny", 0.75, "vllm", None)


@pytest.mark.parametrize(
    ("metric", "score", "accuracy"),
    [
        ({"metric_unit": "percent", "max_score": 100}, 75.0, 0.75),
        ({"max_score": 100}, 75.0, 0.75),
        (
            {"metric_name": "bleu", "metric_kind": "text_overlap", "metric_unit": "percent", "max_score": 100},
            23.0,
            23.0,
        ),
        ({"metric_name": "perplexity", "metric_kind": "perplexity", "max_score": "Infinity"}, 12.5, 12.5),
    ],
)
def test_a_share_in_percent_becomes_a_share(
    metric: dict[str, Any], score: float, accuracy: float, written: Callable[[Change], Path]
) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        result["metric_config"] |= metric
        ends = {"lower": score - 1, "upper": score + 1, "confidence_level": 0.95}
        result["score_details"] = {
            "score": score, "uncertainty": {"standard_error": {"value": 0.5}, "confidence_interval": ends},
        }  # fmt: skip

    imported, numbers = only(written(change))
    factor = accuracy / score
    assert numbers.accuracy == pytest.approx(accuracy)
    assert numbers.stderr == pytest.approx(0.5 * factor)
    assert numbers.intervals["accuracy"] == pytest.approx(((score - 1) * factor, (score + 1) * factor))
    assert any("given in percent" in note for note in imported.notes) is (factor != 1)


@pytest.mark.parametrize("level", [None, 0.9, 0.99])
def test_an_interval_at_another_level_is_left_out_and_named(
    level: float | None, written: Callable[[Change], Path]
) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        ends = {"lower": 0.7, "upper": 0.8} | ({} if level is None else {"confidence_level": level})
        result["score_details"]["uncertainty"]["confidence_interval"] = ends

    imported, numbers = only(written(change))
    assert numbers.intervals == {}
    assert [note for note in imported.notes if "confidence interval" in note]


@pytest.mark.parametrize(
    "details",
    [
        {"precision": "4bit"}, {"dtype": "float16", "quantization": "awq"}, {"dtype": "torch.float32"}, {},
        {"precision": "bfloat16", "quantization": "GPTQ"},
    ],
)  # fmt: skip
def test_what_is_not_known_to_be_of_16_bit_is_not_called_the_baseline(
    details: dict[str, str], written: Callable[[Change], Path]
) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        del log["model_info"]["additional_details"]["dtype"]
        log["model_info"]["additional_details"] |= details

    imported, _ = only(written(change))
    assert imported.precision == (details["precision"] if details.get("precision") == "4bit" else None)


@pytest.mark.parametrize("quantization", ["none", "None", "no"])
def test_a_file_that_says_that_nothing_was_quantized(quantization: str, written: Callable[[Change], Path]) -> None:
    path = written(lambda log, result: log["model_info"]["additional_details"].update(quantization=quantization))
    assert only(path)[0].precision == "fp16"


def test_a_quantized_name_is_not_the_baseline(written: Callable[[Change], Path], tmp_path: Path) -> None:
    path = written(lambda log, result: log["model_info"].update(id="org/Tiny-AWQ"))
    import_results(ImportConfig(paths=(path,), output_dir=tmp_path / "o"))
    (variant,) = find_results(tmp_path / "o").variants
    assert variant.precision == "w4a16-awq"
    assert not variant.is_baseline


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda log, result: result["score_details"].pop("score"), "score_details.score"),
        (lambda log, result: result["score_details"].update(score="high"), "score_details.score"),
        (lambda log, result: log.pop("source_metadata"), "source_metadata"),
        (lambda log, result: log.update(more=1), "more"),
        (lambda log, result: log["evaluation_results"].append(result), "evaluation_results[1]"),
        (lambda log, result: log["evaluation_results"].clear(), "evaluation_results"),
        (lambda log, result: log.update(schema_version="9.9", model_info={"name": "x"}), "model_info.id"),
    ],
)
def test_an_invalid_file_is_refused_by_the_name_of_the_field(
    change: Change, field: str, written: Callable[[Change], Path]
) -> None:
    with pytest.raises(ResultFileError) as caught:
        conftest.read(written(change))
    assert field in caught.value.cause
    assert "log.json" in caught.value.cause


def test_details_that_are_used_otherwise_are_unknown(written: Callable[[Change], Path]) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        log["model_info"]["additional_details"]["num_parameters"] = "7B"
        result["generation_config"] = {"additional_details": {"num_fewshot": "five", "limit": "[]", "batch_size": "8"}}

    imported, numbers = only(written(change))
    assert imported.head["num_parameters"] is None
    assert (numbers.num_fewshot, numbers.limit, numbers.batch_size) == (None, None, 8)


def test_the_order_of_results_and_keys_does_not_matter(written: Callable[[Change], Path], tmp_path: Path) -> None:
    def change(log: dict[str, Any], result: dict[str, Any]) -> None:
        log["eval_library"]["name"] = "lm_eval"
        result["evaluation_name"] = "gsm8k/strict-match"
        result["evaluation_result_id"] = "exact_match:strict-match"
        result["metric_config"]["metric_name"] = "exact_match"
        other = copy.deepcopy(result)
        other |= {
            "evaluation_name": "gsm8k/flexible-extract",
            "evaluation_result_id": "exact_match:flexible-extract",
            "score_details": {"score": 0.5},
        }
        log["evaluation_results"].append(other)

    def turned(log: dict[str, Any], result: dict[str, Any]) -> None:
        change(log, result)
        log["evaluation_results"].reverse()
        for key in list(log):
            log[key] = log.pop(key)

    _, straight = only(written(change))
    _, reverse = only(written(turned))
    assert straight == reverse
    assert (straight.metric, straight.accuracy) == ("exact_match,flexible-extract", 0.5)
