"""Export to Every Eval Ever and back: what its own validator accepts, and the same records again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval.cli import main
from slim_eval.config import ExportConfig, ImportConfig, Relationship
from slim_eval.errors import UsageError
from slim_eval.results.exchange import ExportReport, export_results, model_id
from slim_eval.results.importers import import_results
from slim_eval.results.records import AccuracyRecord, EnergyRecord
from slim_eval.results.store import find_results, read_record, write_record

PUBLISHED = Path(__file__).resolve().parents[3] / "outputs" / "published-a100"
#: Fields that an export leaves out, and those that name the file that a record was read from.
NOT_KEPT = {"config", "environment", "notes", "fingerprint", "measured_with", "engine_reason", "duration_seconds"}
HEAD = {
    "schema_version": 1, "benchmark": "accuracy", "model": "org/Tiny", "precision": "int4",
    "quantization_scheme": "GPTQ (W4A16)", "timestamp": "2026-11-24T14:46:58+00:00",
}  # fmt: skip
#: Every field that the schema, or its details, have a place for.
FULL = {
    **HEAD, "revision": "abc123", "base_model": "org/Base", "baseline": "fp16", "num_parameters": 135_000_000,
    "num_parameters_b": 0.135, "model_size_gb": 0.25, "engine": "vllm", "engine_version": "0.32.0",
    "higher_is_better": True, "dtype": "bfloat16", "kernels": "inexact", "kernel_error": 0.02, "notes": ("a note",),
    "environment": {"gpus": [{"name": "NVIDIA H100"}], "packages": {"lm_eval": "0.4.13"}, "slim_eval": "0.2.0"},
    "config": {"accuracy": {"gen_kwargs": {"temperature": 0.0, "max_gen_toks": 64, "until": ["\n"]}}},
    "task": "group", "accuracy": 0.625, "metric": "acc_norm,none", "stderr": 0.1, "clustered_stderr": 0.2,
    "intervals": {"accuracy": (0.3, 0.9)}, "num_items": 24, "num_fewshot": 5, "limit": 0.5, "batch_size": 8,
    "thinking": "off", "apply_chat_template": False, "max_model_len": 512, "truncated_requests": 0,
    "prompts_without_turns": 3,
    "unfinished_thoughts": 4,
    "metrics": {"acc_norm,none": 0.625, "acc_norm_stderr,none": 0.1, "acc,none": 0.5, "word_perplexity,none": 12.5},
    "subtasks": {
        "group_a": {"acc,none": 0.25, "acc_stderr,none": 0.1, "num_items": 8, "num_fewshot": 5},
        "group_b": {"acc,none": 0.75, "num_items": 16, "num_fewshot": None, "subtasks": ["b1", "b2"]},
    },
    "task_versions": {"group": "1", "group_a": 2.0}, "task_hashes": {"group_a": "d" * 64},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def package(request: pytest.FixtureRequest) -> None:
    """Skip what needs the package if it is not installed."""
    pytest.importorskip("every_eval_ever", reason="the package every-eval-ever is not installed")


def export(folder: Path, output: Path) -> ExportReport:
    return export_results(ExportConfig(paths=(folder,), output_dir=output))


def read_back(exported: Path, output: Path) -> dict[tuple[str, str, str], AccuracyRecord]:
    """The records of what was exported, by model, scheme and task."""
    report = import_results(ImportConfig(paths=(exported,), output_dir=output))
    assert report.problems == ()
    records = [read_record(path) for path in report.paths]
    found = [record for record in records if isinstance(record, AccuracyRecord)]
    assert len(found) == len(records)
    return {(record.model, record.precision, record.task): record for record in found}


def kept(record: AccuracyRecord) -> dict[str, Any]:
    return {key: value for key, value in record.model_dump().items() if key not in NOT_KEPT}


def documents(report: ExportReport) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in report.paths]


def test_the_published_results_come_back_with_their_scores_and_labels(tmp_path: Path) -> None:
    report = export(PUBLISHED, tmp_path / "x")
    assert report.problems == ()
    assert any("23 more: the schema describes evaluations" in note for note in report.notes)
    before = {
        (record.model, record.precision, record.task): record
        for variant in find_results(PUBLISHED).variants for record in variant.accuracy.values()
    }  # fmt: skip
    assert len(report.paths) == len(before) == 39
    after = read_back(tmp_path / "x", tmp_path / "i")
    assert after.keys() == before.keys()
    for key, record in before.items():
        again = after[key]
        for field in ("accuracy", "metric", "stderr", "intervals", "quantization_scheme", "num_parameters", "hardware"):
            assert getattr(again, field) == getattr(record, field), (key, field)
    labels = lambda root: [(v.label, v.is_baseline) for v in find_results(root).variants if v.accuracy]  # noqa: E731
    assert labels(tmp_path / "i") == labels(PUBLISHED)


def test_the_packages_own_command_finds_nothing_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from every_eval_ever.validator import validate

    write_record(tmp_path / "o" / "Tiny" / "Tiny_int4", AccuracyRecord(**FULL))
    export(tmp_path / "o", tmp_path)
    export(PUBLISHED, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert validate.main(["data/*/*/*/*.json"]) == 0
    (tmp_path / "data" / "mmlu" / "x").mkdir()
    (tmp_path / "data" / "mmlu" / "x" / "x.json").write_text("{}", encoding="utf-8")
    assert validate.main(["data/*/*/*.json"]) == 1


def test_what_a_file_says_of_a_score(tmp_path: Path) -> None:
    write_record(tmp_path / "o" / "Tiny" / "Tiny_int4", AccuracyRecord(**FULL), [{"doc_id": 0}])
    config = ExportConfig(
        paths=(tmp_path / "o",), output_dir=tmp_path / "x", organization="Lab", relationship=Relationship.FIRST_PARTY
    )
    report = export_results(config)
    assert any("items of group of Tiny int4: the schema requires the prompt" in note for note in report.notes)
    (log,) = documents(report)
    assert log["source_metadata"]["source_organization_name"] == "Lab"
    assert log["source_metadata"]["evaluator_relationship"] == "first_party"
    assert log["source_metadata"]["source_type"] == "evaluation_run"
    assert log["eval_library"] == {"name": "lm_eval", "version": "0.4.13", "additional_details": {"slim_eval": "0.2.0"}}
    assert log["evaluation_timestamp"] == "1795531618"
    model = log["model_info"]
    assert (model["name"], model["id"], model["developer"]) == ("org/Tiny", "org/Tiny_int4", "org")
    assert model["inference_engine"] == {"name": "vllm", "version": "0.32.0"}
    facts = model["additional_details"]
    assert (facts["base_model"], facts["quantization"], facts["precision"]) == ("org/Base", "GPTQ (W4A16)", "int4")
    first, *others = log["evaluation_results"]
    assert first["evaluation_name"] == "group"
    assert first["score_details"]["score"] == 0.625
    assert first["score_details"]["uncertainty"] == {
        "standard_error": {"value": 0.1}, "num_samples": 24,
        "confidence_interval": {"lower": 0.3, "upper": 0.9, "confidence_level": 0.95},
    }  # fmt: skip
    assert first["generation_config"]["generation_args"] == {"temperature": 0.0, "max_tokens": 64, "reasoning": False}
    assert first["generation_config"]["additional_details"]["num_fewshot"] == "5"
    by_id = {result["evaluation_result_id"]: result for result in others}
    assert by_id["word_perplexity"]["metric_config"]["lower_is_better"] is True
    assert by_id["group_a/acc"]["score_details"]["uncertainty"] == {"standard_error": {"value": 0.1}, "num_samples": 8}


def test_a_quantized_variant_names_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    report = export(PUBLISHED, tmp_path)
    for log in documents(report):
        model = log["model_info"]
        is_quantized = model["additional_details"]["precision"] != "fp16"
        assert (model["id"] == model["name"]) is not is_quantized
        assert model["additional_details"].get("base_model") == (model["name"] if is_quantized else None)


@pytest.mark.parametrize(
    ("model", "precision", "expected"),
    [
        ("org/Tiny", "fp16", "org/Tiny"),
        ("org/Tiny", "int4", "org/Tiny_int4"),
        ("org/Tiny-FP8", "fp8", "org/Tiny-FP8"),
        ("Tiny", "fp16", "local/Tiny"),
        ("/models/a/Tiny", "int8", "local/Tiny_int8"),
        ("./Tiny", "fp16", "local/Tiny"),
    ],
)
def test_ids(model: str, precision: str, expected: str) -> None:
    assert model_id(model, precision) == expected


def test_every_field_that_has_a_place_comes_back(tmp_path: Path) -> None:
    record = AccuracyRecord(**FULL)
    write_record(tmp_path / "o" / "Tiny" / "Tiny_int4", record)
    export(tmp_path / "o", tmp_path / "x")
    (again,) = read_back(tmp_path / "x", tmp_path / "i").values()
    assert kept(again) == kept(record)
    assert again.hardware == record.hardware
    assert "a note" in again.notes
    # What came from elsewhere is exported as what it was.
    (log,) = documents(export(tmp_path / "i", tmp_path / "y"))
    assert (log["eval_library"]["name"], log["eval_library"]["version"]) == ("lm_eval", "0.4.13")


_shares = st.floats(0, 1)
_optional = {
    "stderr": _shares, "clustered_stderr": _shares, "num_items": st.integers(1, 9**6), "num_fewshot": st.integers(0, 9),
    "limit": st.one_of(st.integers(1, 1000), st.floats(0.01, 0.99)), "batch_size": st.integers(1, 64),
    "thinking": st.sampled_from(["on", "off"]), "apply_chat_template": st.booleans(), "engine": st.just("vllm"),
    "max_model_len": st.integers(1, 10**6), "truncated_requests": st.integers(0, 9), "dtype": st.just("float16"),
    "intervals": st.fixed_dictionaries({"accuracy": st.tuples(_shares, _shares).map(lambda ends: tuple(sorted(ends)))}),
}  # fmt: skip


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    accuracy=_shares,
    precision=st.sampled_from(["fp16", "int8", "int4", "fp8", "nvfp4"]),
    model=st.sampled_from(["org/Tiny", "Tiny", "a/b.c-d"]),
    metric=st.sampled_from(["acc,none", "exact_match,flexible-extract", "acc", "pass@1,create_test"]),
    more=st.fixed_dictionaries({}, optional=_optional),  # type: ignore[arg-type]
)
def test_any_record_comes_back(
    accuracy: float, precision: str, model: str, metric: str, more: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("any")
    head = {**HEAD, "model": model, "precision": precision, "quantization_scheme": None}
    task = {"task": "quiz", "accuracy": accuracy, "metric": metric, "higher_is_better": True}
    record = AccuracyRecord(**{**head, **task, **more})
    write_record(folder / "o" / "a", record)
    assert export(folder / "o", folder / "x").problems == ()
    (again,) = read_back(folder / "x", folder / "i").values()
    assert again.metrics[metric] == accuracy  # the export lists every score among the metrics
    assert kept(again) | {"metrics": {}} == kept(record)


def test_exporting_again_replaces_the_same_files(tmp_path: Path) -> None:
    first = export(PUBLISHED, tmp_path)
    assert export(PUBLISHED, tmp_path).paths == first.paths
    assert len(list(tmp_path.rglob("*.json"))) == len(first.paths)
    assert len({log["evaluation_id"] for log in documents(first)}) == len(first.paths)


def test_what_cannot_be_exported_is_named_and_the_rest_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "o" / "Tiny" / "Tiny_int4"
    task = {**HEAD, "metric": "acc,none"}
    write_record(folder, AccuracyRecord(**{**task, "task": "good", "accuracy": 0.5}))
    write_record(folder, AccuracyRecord(**{**task, "task": "none", "accuracy": None}))
    write_record(folder, AccuracyRecord(**{**task, "task": "a//b", "accuracy": 0.5}))
    write_record(folder, EnergyRecord(**{**HEAD, "benchmark": "energy", "energy_joules": 5.0}))
    (folder / "broken.json").write_text("{", encoding="utf-8")
    report = export(tmp_path / "o", tmp_path / "x")
    assert [path.parts[-4] for path in report.paths] == ["good"]
    assert "left out: none of Tiny int4: no score" in report.notes
    assert "left out: energy of Tiny int4: the schema describes evaluations" in report.notes
    broken, refused = report.problems
    assert "broken.json" in broken
    assert refused.startswith("a//b of Tiny int4: refused by the package every-eval-ever: ")
    assert main(["export", str(tmp_path / "o"), "--output-dir", str(tmp_path / "x")]) == 1


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_results_is_refused(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        export(Path(folder), tmp_path / "x")
    assert main(["export", "--format", "every-eval-ever", folder]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


class TestWithoutThePackage:
    """One line of cause and one of remedy; nothing is written."""

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.startswith("every_eval_ever.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "every_eval_ever", None)

    def test_export(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", str(PUBLISHED), "--output-dir", str(tmp_path / "x")]) == 1
        cause, remedy = capsys.readouterr().err.splitlines()
        assert "'every-eval-ever', which is not installed" in cause
        assert 'pip install "slim-eval[every-eval-ever]"' in remedy
        assert not (tmp_path / "x").exists()

    def test_import(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "log.json").write_text('{"model_info": {}, "evaluation_results": []}', encoding="utf-8")
        assert main(["import", str(tmp_path / "log.json"), "--output-dir", str(tmp_path / "x")]) == 1
        cause, remedy = capsys.readouterr().err.splitlines()
        assert "'every-eval-ever', which is not installed" in cause
        assert "pip install" in remedy
