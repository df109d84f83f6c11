"""Older layouts of lm-eval's files: files of today, rewritten as each version wrote them, give the same records."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord, import_results, importer_of
from slim_eval.results.records import AccuracyMetrics
from tests.generated import examples
from tests.unit.results.importers import conftest

DATA = conftest.DATA / "lm_eval"
RESULTS = next(DATA.glob("results_*.json"))
DATE = RESULTS.stem.removeprefix("results")
TASKS = [path.name.removeprefix("samples_").removesuffix(f"{DATE}.jsonl") for path in sorted(DATA.glob("samples_*"))]
ARGUMENTS = "pretrained=models/demo,dtype=bfloat16"

Document = dict[str, Any]
Row = dict[str, Any]


def today() -> tuple[Document, dict[str, list[Row]]]:
    rows = {
        task: [json.loads(line) for line in (DATA / f"samples_{task}{DATE}.jsonl").read_text("utf-8").splitlines()]
        for task in TASKS
    }
    return json.loads(RESULTS.read_text("utf-8")), rows


def with_filters(document: Document) -> Document:
    """With what versions that do not name the filter of a sample write of a task."""
    names = ("strict-match", "flexible-extract")
    document["configs"]["demo_gsm8k"]["filter_list"] = [{"name": name, "filter": []} for name in names]
    return document


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def raw(answer: Any) -> Any:
    """What lm-eval turned into texts before it wrote them."""
    if isinstance(answer, list):
        return [raw(part) for part in answer]
    try:
        return {"True": True, "False": False}.get(answer) if answer in ("True", "False") else float(answer)
    except ValueError:
        return answer


def write_046(folder: Path) -> Path:
    document, samples = today()
    del with_filters(document)["lm_eval_version"]
    for task, rows in samples.items():
        for row in rows:
            del row["filter"], row["metrics"]
        (folder / f"samples_{task}{DATE}.jsonl").write_text(lines(rows), encoding="utf-8")
    path = folder / RESULTS.name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_043(folder: Path) -> Path:
    path = write_046(folder)
    for samples in folder.glob("samples_*.jsonl"):
        rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
        samples.unlink()
        samples.with_suffix(".json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return path


def write_042(folder: Path) -> Path:
    document, samples = today()
    with_filters(document)
    members = document["group_subtasks"]
    inner = {member for group in members.values() for member in group}
    groups = {name for name in document["results"] if members.get(name)}
    document = {
        key: document[key] for key in ("results", "configs", "versions", "n-shot", "config") if key in document
    } | {"git_hash": "0000000", "groups": {group: document["results"][group] for group in groups}}
    document["config"] |= {"model_args": ARGUMENTS}
    for name, scores in document["results"].items():
        scores["alias"] = f" - {name}" if name in inner else name
    for group in groups:
        for member in members[group]:
            document["configs"][member]["group"] = group
    for task, rows in samples.items():
        for row in rows:
            for key in ("filter", "metrics", "doc_hash", "prompt_hash", "target_hash"):
                del row[key]
            row["doc"] = {"question": f"{task} {row['doc_id']}?", "é": [1, 2.5, None]}
            row["arguments"] = [[f"Question: {task} {row['doc_id']}", " a"]]
            if document["configs"][task]["output_type"] == "multiple_choice":
                row["resps"], row["filtered_resps"] = raw(row["resps"]), raw(row["filtered_resps"])
        name = f"{re.sub('/|=', '__', ARGUMENTS)}_{task}.jsonl"
        (folder / name).write_text(json.dumps(rows, indent=2), encoding="utf-8")
    path = folder / "results.json"
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, ImportedRecord]:
    found: dict[str, ImportedRecord] = {}
    for imported in conftest.read(path):
        assert isinstance(imported.metrics, AccuracyMetrics)
        found[imported.metrics.task] = imported
    return found


def hashes(task: str, number: int, target: str) -> Row:
    """As `lm_eval.evaluator` computes them."""
    doc = json.dumps({"question": f"{task} {number}?", "é": [1, 2.5, None]}, indent=2, ensure_ascii=False)
    texts = {"doc_hash": doc, "prompt_hash": f"Question: {task} {number}", "target_hash": target}
    return {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}


@pytest.mark.parametrize("write", [write_046, write_043, write_042])
def test_the_same_run_in_an_older_layout_gives_the_same_records(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    new, old = read(RESULTS), read(write(tmp_path))
    assert old.keys() == new.keys()
    for task, imported in new.items():
        older = old[task]
        assert isinstance(older.metrics, AccuracyMetrics)
        assert isinstance(imported.metrics, AccuracyMetrics)
        expected = imported.metrics.model_dump(exclude={"task_hashes", "subtasks", "limit", "num_fewshot"})
        assert older.metrics.model_dump(exclude={"task_hashes", "subtasks", "limit", "num_fewshot"}) == expected
        assert older.metrics.subtasks.keys() == imported.metrics.subtasks.keys()
        # Items pair: their hashes are lm-eval's, also where they had to be computed.
        assert len(imported.samples) == len(older.samples) > 0
        for row, theirs in zip(older.samples, imported.samples, strict=True):
            computed = hashes(row["task"], row["doc_id"], row["target"]) if write is write_042 else {}
            assert dict(row) == {**theirs, **computed}


def test_a_folder_of_an_old_run_is_one_run(tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    write_042(folder)
    report = import_results(ImportConfig(paths=(folder,), output_dir=tmp_path / "out"))
    assert report.problems == ()
    assert len(report.paths) == 3


V03 = {
    "results": {
        "arc_easy": {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.45, "acc_norm_stderr": 0.02},
        "wikitext": {"word_perplexity": 12.5, "byte_perplexity": 1.6, "bits_per_byte": 0.7},
    },
    "versions": {"arc_easy": 0, "wikitext": 1},
    "config": {
        "model": "hf-causal", "model_args": "pretrained=org/Tiny-1B,dtype=float16", "num_fewshot": 5, "batch_size": 8,
        "device": "cuda", "no_cache": True, "limit": None, "bootstrap_iters": 100000, "description_dict": {},
    },
}  # fmt: skip


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_lm_eval_0_3_names_its_metrics_without_a_filter(tmp_path: Path) -> None:
    found = read(write(tmp_path / "results.json", V03))
    metrics = found["arc_easy"].metrics
    assert isinstance(metrics, AccuracyMetrics)
    assert (metrics.metric, metrics.accuracy, metrics.stderr) == ("acc,none", 0.5, 0.01)
    assert metrics.metrics["acc_norm_stderr,none"] == 0.02
    assert (metrics.num_fewshot, metrics.num_items, metrics.batch_size) == (5, None, 8)
    assert (found["arc_easy"].model, found["arc_easy"].precision) == ("org/Tiny-1B", "fp16")
    assert metrics.task_versions == {"arc_easy": 0}
    assert found["wikitext"].metrics.model_dump()["metric"] == "word_perplexity,none"


GROUPED = {
    "results": {
        "mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.1, "alias": "mmlu"},
        "mmlu_stem": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": " - stem"},
        "mmlu_anatomy": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "  - anatomy"},
        "mmlu_other": {"acc,none": 0.3, "acc_stderr,none": 0.1, "alias": " - other"},
        "mmlu_nutrition": {"acc,none": 0.3, "acc_stderr,none": 0.1, "alias": "  - nutrition"},
        "arc_easy": {"acc,none": 0.7, "acc_stderr,none": 0.1, "alias": "arc_easy"},
    },
    "groups": {name: {} for name in ("mmlu", "mmlu_stem", "mmlu_other")},
    "configs": {
        "mmlu_anatomy": {"group": "mmlu_stem", "output_type": "multiple_choice"},
        "mmlu_nutrition": {"group": ["mmlu_other"], "output_type": "multiple_choice"},
        "arc_easy": {"group": ["ai2_arc"], "output_type": "multiple_choice"},
    },
    "versions": {"mmlu_anatomy": 0.0, "mmlu": "N/A", "arc_easy": 1.0},
    "n-shot": {"mmlu": 5, "mmlu_anatomy": 5, "mmlu_nutrition": 5, "arc_easy": 0},
    "config": {"model": "hf", "model_args": "pretrained=org/Tiny", "limit": 10.0},
}  # fmt: skip


def shuffled(content: Any, chance: random.Random) -> Any:
    """The same content with the keys of every object in another order."""
    if isinstance(content, list):
        return [shuffled(part, chance) for part in content]
    if not isinstance(content, dict):
        return content
    keys = chance.sample(list(content), len(content))
    return {key: shuffled(content[key], chance) for key in keys}


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=examples(40))
def test_groups_are_found_whatever_the_order_of_keys(tmp_path_factory: pytest.TempPathFactory, chance: Any) -> None:
    folder = tmp_path_factory.mktemp("grouped")
    found = read(write(folder / "results.json", shuffled(GROUPED, chance)))
    assert sorted(found) == ["arc_easy", "mmlu"]
    mmlu = found["mmlu"].metrics.model_dump()
    assert sorted(mmlu["subtasks"]) == ["mmlu_anatomy", "mmlu_nutrition", "mmlu_other", "mmlu_stem"]
    assert mmlu["subtasks"]["mmlu_stem"]["subtasks"] == ["mmlu_anatomy"]
    assert (mmlu["accuracy"], mmlu["num_fewshot"], mmlu["num_items"], mmlu["limit"]) == (0.4, 5, None, 10)


OPTIONAL = ("groups", "configs", "versions", "n-shot", "config")


@given(missing=st.sets(st.sampled_from(OPTIONAL)), chance=st.randoms(use_true_random=False))
@settings(max_examples=examples(40))
def test_scores_do_not_depend_on_optional_fields(
    tmp_path_factory: pytest.TempPathFactory, missing: set[str], chance: Any
) -> None:
    kept = {key: value for key, value in shuffled(GROUPED, chance).items() if key not in missing}
    path = write(tmp_path_factory.mktemp("optional") / "results.json", kept)
    if len({"results", "versions", "configs", "n-shot"} & kept.keys()) < 2:
        return  # nothing shows that it is lm-eval's
    metrics = read(path)["arc_easy"].metrics
    assert isinstance(metrics, AccuracyMetrics)
    assert (metrics.accuracy, metrics.stderr) == (0.7, 0.1)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), "N/A", None, True, "0.5", 10**400, [1]])
@pytest.mark.parametrize("key", ["acc,none", "acc_stderr,none"])
def test_a_score_that_is_no_number_costs_no_other(tmp_path: Path, value: Any, key: str) -> None:
    content = json.loads(json.dumps(GROUPED))
    content["results"]["arc_easy"][key] = value
    found = read(write(tmp_path / "results.json", content))
    assert found["mmlu"].metrics.model_dump()["accuracy"] == 0.4
    assert found["arc_easy"].metrics.model_dump()["metrics"][key] is None
    assert any("no score" in note for note in found["arc_easy"].notes) == (key == "acc,none")


def test_answers_that_no_filter_claims_are_refused(tmp_path: Path) -> None:
    path = write_046(tmp_path)
    samples = next(tmp_path.glob("samples_demo_gsm8k*"))
    text = samples.read_text(encoding="utf-8")
    samples.write_text(text + text, encoding="utf-8")
    with pytest.raises(
        ResultFileError, match=r"line 9\.doc_id' is 0 again, but the number of filters of demo_gsm8k is 2"
    ):
        read(path)
    document = json.loads(path.read_text("utf-8"))
    del document["configs"]["demo_gsm8k"]["filter_list"]
    write(path, document)
    with pytest.raises(ResultFileError, match=r"line 1\.filter' is missing, and results_.* does not list demo_gsm8k's"):
        read(path)


def test_lighteval_is_not_lm_eval(tmp_path: Path) -> None:
    content = {"config_general": {}, "results": {"x|5": {"acc": 0.5}}, "versions": {"x|5": 0}}
    assert importer_of(conftest.foreign(write(tmp_path / "results.json", content))) is None
