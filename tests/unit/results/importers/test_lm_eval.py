"""lm-eval's results: files that it wrote, and every way in which they may not fit together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord, import_results
from slim_eval.results.records import AccuracyMetrics
from slim_eval.results.variants import Variant
from tests.unit.results.importers import conftest

NAME = "lm_eval/results_2026-11-24T14-46-58.266836.json"
TASKS = ("demo_gsm8k", "demo_hellaswag", "demo_mmlu")


def read(path: Path) -> dict[str, ImportedRecord]:
    return {numbers(imported).task: imported for imported in conftest.read(path)}


def numbers(imported: ImportedRecord) -> AccuracyMetrics:
    assert isinstance(imported.metrics, AccuracyMetrics)
    return imported.metrics


def samples_of(path: Path, task: str) -> Path:
    (found,) = path.parent.glob(f"samples_{task}_2*.jsonl")
    return found


def unchanged(content: dict[str, Any]) -> None:
    """Only the copy is wanted."""


def test_each_task_and_each_group_is_found_once(data: Path) -> None:
    assert tuple(sorted(read(data / NAME))) == TASKS


def test_scores_are_lm_evals_to_the_digit(data: Path) -> None:
    content = json.loads((data / NAME).read_text(encoding="utf-8"))
    for task, imported in read(data / NAME).items():
        metrics = numbers(imported)
        assert metrics.metrics == {key: value for key, value in content["results"][task].items() if "," in key}
        assert (metrics.num_fewshot, metrics.limit, metrics.batch_size) == (5, 4, 8)
        assert metrics.apply_chat_template is False
        assert metrics.task_versions[task] == content["versions"][task]
        assert metrics.duration_seconds is None
    mmlu = numbers(read(data / NAME)["demo_mmlu"])
    assert (mmlu.metric, mmlu.accuracy, mmlu.stderr) == ("acc,none", 0.8333333333333334, 0.09622504486493763)
    assert numbers(read(data / NAME)["demo_hellaswag"]).metric == "acc_norm,none"
    assert numbers(read(data / NAME)["demo_gsm8k"]).metric == "exact_match,flexible-extract"


def test_a_group_keeps_its_subtasks(data: Path) -> None:
    metrics = numbers(read(data / NAME)["demo_mmlu"])
    assert list(metrics.subtasks) == ["demo_mmlu_animals", "demo_mmlu_foods", "demo_mmlu_jobs"]
    assert metrics.subtasks["demo_mmlu_jobs"] == {
        "acc,none": 0.5, "acc_stderr,none": 0.28867513459481287, "num_items": 4, "num_fewshot": 5,
    }  # fmt: skip
    assert metrics.num_items == 12
    assert set(metrics.task_hashes) == set(metrics.subtasks)


def test_the_hash_of_the_items_is_lm_evals(data: Path) -> None:
    for imported in read(data / NAME).values():
        for leaf, digest in numbers(imported).task_hashes.items():
            lines = samples_of(data / NAME, leaf).read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            text = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
            assert digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_items_have_the_scores_that_the_headline_is_the_mean_of(data: Path, task: str) -> None:
    imported = read(data / NAME)[task]
    metric = numbers(imported).metric
    assert metric is not None
    scores = [item[metric] for item in imported.samples]
    assert len(scores) == numbers(imported).num_items
    assert sum(scores) / len(scores) == pytest.approx(numbers(imported).accuracy)
    assert len({(item["task"], item["doc_hash"]) for item in imported.samples}) == len(scores)


def test_choices_keep_log_likelihoods_as_numbers_and_answers_what_each_filter_found(data: Path) -> None:
    choice = read(data / NAME)["demo_hellaswag"].samples[0]
    assert set(choice) == {
        "task", "doc_id", "doc_hash", "prompt_hash", "target_hash", "target", "loglikelihoods", "acc,none",
        "acc_norm,none",
    }  # fmt: skip
    assert len(choice["loglikelihoods"]) == 4
    assert choice["loglikelihoods"].index(max(choice["loglikelihoods"])) == int(choice["target"])
    answer = read(data / NAME)["demo_gsm8k"].samples[0]
    assert set(answer["extracted"]) == {"strict-match", "flexible-extract"}
    assert answer["extracted"]["strict-match"] in answer["response"]
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} < set(answer)


def test_what_the_file_says_of_the_model(data: Path) -> None:
    imported = read(data / NAME)["demo_mmlu"]
    assert (imported.model, imported.precision) == ("models/demo", "fp16")
    assert imported.version == "0.4.13"
    head = imported.head
    assert (head["engine"], head["engine_version"], head["dtype"]) == ("transformers", "5.17.0", "bfloat16")
    assert head["num_parameters"] == 2033408
    assert head["timestamp"].startswith("2026-11-24T14:")
    assert head["environment"]["packages"] == {"lm_eval": "0.4.13", "transformers": "5.17.0"}
    assert head["environment"]["cpu"] == "AMD EPYC"
    assert head["environment"]["gpus"] == []


def test_gpus_are_read_from_the_environment_report(changed: Callable[..., Path]) -> None:
    text = "GPU models and configuration: GPU 0: NVIDIA A100\nGPU 1: NVIDIA A100\n\nNvidia driver version: 1"
    imported = read(changed(NAME, lambda c: c.update(pretty_env_info=text)))["demo_mmlu"]
    assert imported.head["environment"]["gpus"] == [{"name": "NVIDIA A100"}] * 2


@pytest.mark.parametrize(
    ("arguments", "dtype", "model", "precision"),
    [
        ({"pretrained": "org/Tiny"}, "torch.float16", "org/Tiny", "fp16"),
        ("pretrained=org/Tiny,dtype=auto", "torch.bfloat16", "org/Tiny", "fp16"),
        ({"pretrained": "org/Tiny", "dtype": "bfloat16"}, None, "org/Tiny", "fp16"),
        ({"pretrained": "org/Tiny", "dtype": "auto"}, None, "org/Tiny", None),
        ({"pretrained": "org/Tiny"}, "torch.float32", "org/Tiny", "fp32"),
        ({"pretrained": "org/Tiny-quantized.w8a8"}, "torch.bfloat16", "org/Tiny-quantized.w8a8", "w8a8"),
        ({"pretrained": "org/Tiny-GPTQ-Int4"}, "torch.float16", "org/Tiny-GPTQ-Int4", "w4a16-gptq"),
        ({"pretrained": "org/Tiny-AWQ"}, "torch.float16", "org/Tiny-AWQ", "w4a16-awq"),
        ({"pretrained": "org/Tiny", "load_in_8bit": True}, "torch.float16", "org/Tiny", "bnb-8bit"),
        ("pretrained=org/Tiny,load_in_4bit=True", "torch.float16", "org/Tiny", "bnb-4bit"),
        ({"pretrained": "org/Tiny", "peft": "org/adapter"}, "torch.float16", "org/adapter", "fp16+lora"),
        ({"model": "served", "base_url": "http://x"}, None, "served", None),
        (
            'pretrained=org/Tiny,quantization_config={"quant_method":"gptq","bits":4,"group_size":128},dtype=float16',
            None,
            "org/Tiny",
            "w4a16-gptq g128",
        ),
        ('pretrained=org/Tiny,dtype=float16,speculative_config={"model":"a,b}","n":5}', None, "org/Tiny", "fp16"),
        ("pretrained=org/Tiny,dtype=float16,note={,load_in_8bit=True", None, "org/Tiny", "bnb-8bit"),
        ({"pretrained": "org/Tiny"}, "torch.uint8", "org/Tiny", None),
        ("", None, None, None),
    ],
)
def test_model_and_precision_are_taken_only_where_the_file_says_them(
    changed: Callable[..., Path], arguments: Any, dtype: str | None, model: str | None, precision: str | None
) -> None:
    path = changed(NAME, lambda c: c["config"].update(model_args=arguments, model_dtype=dtype))
    imported = read(path)["demo_mmlu"]
    assert (imported.model, imported.precision) == (model, precision)
    assert (imported.head["num_parameters"] is not None) == (precision in ("fp16", "fp32", "fp16+lora"))


def test_a_folder_of_this_machine_says_for_itself_what_it_holds(changed: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    path = changed(NAME, lambda c: c["config"].update(model_args={"pretrained": str(folder)}))
    assert read(path)["demo_mmlu"].precision == "fp16"
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert read(path)["demo_mmlu"].precision == "gptq"


def test_without_samples_there_are_scores_and_a_word_on_pairing(changed: Callable[..., Path]) -> None:
    path = changed(NAME, unchanged)
    samples_of(path, "demo_mmlu_foods").unlink()
    found = read(path)
    assert found["demo_mmlu"].samples == []
    assert numbers(found["demo_mmlu"]).accuracy == 0.8333333333333334
    assert any("demo_mmlu_foods" in note and "cannot be paired" in note for note in found["demo_mmlu"].notes)
    assert len(found["demo_gsm8k"].samples) == 4


def test_a_file_without_model_arguments_names_no_model(changed: Callable[..., Path]) -> None:
    imported = read(changed(NAME, lambda content: content["config"].pop("model_args")))["demo_mmlu"]
    assert (imported.model, imported.precision) == (None, None)


def test_a_file_without_a_date_has_scores(changed: Callable[..., Path]) -> None:
    path = changed(NAME, unchanged)
    imported = read(path.rename(path.with_name("results.json")))["demo_mmlu"]
    assert imported.samples == []
    assert numbers(imported).accuracy == 0.8333333333333334


def test_samples_of_another_run_are_not_taken(changed: Callable[..., Path]) -> None:
    path = changed(NAME, unchanged)
    for samples in path.parent.glob("samples_*"):
        samples.rename(samples.with_name(samples.name.replace("14-46", "15-46")))
    assert all(imported.samples == [] for imported in read(path).values())


def test_missing_items_are_noticed(changed: Callable[..., Path]) -> None:
    path = changed(NAME, unchanged)
    samples = samples_of(path, "demo_hellaswag")
    lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    samples.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(ResultFileError, match=r"n-samples\.demo_hellaswag\.effective' is 4, but samples_.* contains 3"):
        read(path)
    samples.write_text("".join(lines)[:-20], encoding="utf-8")
    with pytest.raises(ResultFileError, match=r"samples_demo_hellaswag.*: line 4 is not JSON"):
        read(path)


@pytest.mark.parametrize(
    ("task", "old", "new", "words"),
    [
        ("demo_hellaswag", '"doc_hash"', '"document"', "field 'line 1.doc_hash' is missing"),
        ("demo_hellaswag", '"filter"', '"filters"', "field 'line 1.filter' is missing"),
        ("demo_hellaswag", '"resps": [[["-', '"resps": [[["x', "field 'line 1.resps' contains 'x"),
        ("demo_gsm8k", '"resps": [[', '"resps": [[], [', "field 'line 1.resps[0]' is empty"),
    ],
)
def test_a_damaged_sample_is_named(changed: Callable[..., Path], task: str, old: str, new: str, words: str) -> None:
    path = changed(NAME, unchanged)
    samples = samples_of(path, task)
    text = samples.read_text(encoding="utf-8")
    assert old in text
    samples.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ResultFileError) as failure:
        read(path)
    assert samples.name in failure.value.cause
    assert words in failure.value.cause


def test_an_impossible_choice_has_no_log_likelihood(changed: Callable[..., Path]) -> None:
    path = changed(NAME, unchanged)
    samples = samples_of(path, "demo_hellaswag")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    rows[0]["resps"][1] = [["-inf", "False"]]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, *others = read(path)["demo_hellaswag"].samples
    assert first["loglikelihoods"][1] is None
    assert all(None not in other["loglikelihoods"] for other in others)


def test_a_score_that_is_no_number_is_missing_and_named(changed: Callable[..., Path]) -> None:
    nan = float("nan")
    path = changed(NAME, lambda c: c["results"]["demo_hellaswag"].update({"acc,none": nan, "acc_stderr,none": "N/A"}))
    imported = read(path)["demo_hellaswag"]
    assert numbers(imported).metrics["acc,none"] is None
    assert "demo_hellaswag: acc,none is nan, not a finite number: no score" in imported.notes
    path = changed(NAME, lambda c: c["results"]["demo_hellaswag"].update({"acc_norm,none": nan}))
    found = read(path)
    assert numbers(found["demo_hellaswag"]).accuracy is None
    assert "demo_hellaswag: acc_norm,none is nan, not a finite number: no score" in found["demo_hellaswag"].notes
    assert numbers(found["demo_mmlu"]).accuracy == 0.8333333333333334, "one score does not cost the others"


def test_another_task_is_known_by_the_first_metric_that_it_lists(changed: Callable[..., Path]) -> None:
    def renamed(content: dict[str, Any]) -> None:
        for key in ("results", "versions", "n-shot", "n-samples", "configs"):
            content[key]["own"] = content[key].pop("demo_hellaswag")
        content["configs"]["own"]["metric_list"] = [{"metric": "acc_norm"}, {"metric": "acc"}]

    assert numbers(read(changed(NAME, renamed))["own"]).metric == "acc_norm,none"


def test_settings_that_change_prompts_are_kept(changed: Callable[..., Path]) -> None:
    change = {"chat_template": "{{ x }}", "system_instruction": "Be brief.", "system_instruction_sha": "abc"}
    imported = read(changed(NAME, lambda content: content.update(change)))["demo_mmlu"]
    assert numbers(imported).apply_chat_template is True
    assert imported.config["system_instruction_sha"] == "abc"
    assert any("system instruction" in note for note in imported.notes)


def test_a_share_is_kept_as_a_limit(changed: Callable[..., Path]) -> None:
    imported = read(changed(NAME, lambda content: content["config"].update(limit=0.25)))["demo_mmlu"]
    assert numbers(imported).limit == 0.25
    assert imported.config["limit"] == 0.25
    assert any("share of 0.25" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("results"), "'results' is missing"),
        (lambda c: c["results"].clear(), "'results' names no task"),
        (lambda c: c["n-samples"].pop("demo_mmlu_jobs"), "'n-samples.demo_mmlu_jobs' is missing"),
        (lambda c: c["results"].update(demo_mmlu=[1]), "'results.demo_mmlu' is a list, not an object"),
        (lambda c: c["config"].update(model_args=7), "'config.model_args' is 7, not a string"),
    ],
)
def test_newer_and_damaged_files_are_named_with_the_field(
    changed: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(ResultFileError) as failure:
        read(changed(NAME, change))
    assert f"field {words}" in failure.value.cause
    assert "results_2026" in failure.value.cause


def test_groups_that_contain_each_other_end(changed: Callable[..., Path]) -> None:
    def knotted(content: dict[str, Any]) -> None:
        content["group_subtasks"] = {"demo_mmlu": ["demo_gsm8k"], "demo_gsm8k": ["demo_hellaswag", "demo_gsm8k"]}

    assert "demo_mmlu" in read(changed(NAME, knotted))


# Metrics that are not shares of right answers, and groups


def document(tmp_path: Path, results: dict[str, dict[str, Any]], name: str = "results", **more: Any) -> Path:
    """A small result file of lm-eval 0.4.12."""
    tasks = [task for task in results if not more.get("group_subtasks", {}).get(task)]
    content = {
        "results": results, "configs": {task: {} for task in tasks}, "versions": dict.fromkeys(results, 1),
        "n-shot": dict.fromkeys(results, 0), "config": {"model": "hf", "model_args": "pretrained=org/T"},
        "n-samples": {task: {"original": 3, "effective": 3} for task in tasks}, "lm_eval_version": "0.4.12", **more,
    }  # fmt: skip
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_what_is_no_score_is_named_as_what_it_is(tmp_path: Path) -> None:
    scores = {"e": {"acc,none": "0.5"}, "c": {"acc,none": 10**400}, "f": {"alias": "f"}}
    found = {numbers(imported).task: imported.notes for imported in conftest.read(document(tmp_path, scores))}
    assert "e: acc,none is '0.5', a text, not a number: no score" in found["e"]
    assert [len(note) < 100 for note in found["c"] if "no score" in note] == [True]
    assert "f: the file contains no score of it" in found["f"]
    assert not any("subtasks" in note for note in found["f"])


def test_a_task_named_like_another_file_is_left_out_and_the_rest_imported(tmp_path: Path) -> None:
    scores = {task: {"acc,none": 0.5} for task in ("performance", "arc_easy", "serving")}
    path = document(tmp_path, scores, config={"model": "hf", "model_args": "pretrained=/x/T/,dtype=float16"})
    report = import_results(ImportConfig(paths=(path,), output_dir=tmp_path / "out"))
    assert [written.name for written in report.paths] == ["arc_easy.json"]
    assert json.loads(report.paths[0].read_text(encoding="utf-8"))["model"] == "/x/T"
    assert ["'performance'" in problem or "'serving'" in problem for problem in report.problems] == [True, True]


def test_the_direction_is_what_the_file_says_of_the_headline(tmp_path: Path) -> None:
    results = {"t": {"own_error,none": 2.5}, "u": {"own_error,none": 2.5}, "v": {"own_error,none": 2.5}}
    configs = {
        "t": {"metric_list": [{"metric": "own_error"}]},
        "u": {"metric_list": [{"metric": "own_error", "higher_is_better": False}]},
        "v": {"metric_list": [{"metric": "own_error"}]},
    }
    found = read(document(tmp_path, results, configs=configs, higher_is_better={"t": {"own_error": True}}))
    assert {task: numbers(each).higher_is_better for task, each in found.items()} == {"t": True, "u": False, "v": None}


def test_a_group_of_which_the_tasks_disagree_has_no_direction(tmp_path: Path) -> None:
    results = {"g": {"s,none": 1.0}, "t": {"s,none": 1.0}, "u": {"s,none": 1.0}}
    stated = {"t": {"s": True}, "u": {"s": False}, "g": {"s": None}}
    configs = {task: {"metric_list": [{"metric": "s", "higher_is_better": stated[task]["s"]}]} for task in "tu"}
    groups = {"g": ["t", "u"]}
    path = document(tmp_path, results, configs=configs, higher_is_better=stated, group_subtasks=groups)
    assert numbers(read(path)["g"]).higher_is_better is None


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_keys_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    scores = {
        "glue": {"mcc,none": 0.1, "mcc_stderr,none": 0.03, "f1,none": 0.7, "acc,none": 0.9, "acc_stderr,none": 0.01},
        "cola": {"mcc,none": 0.1, "mcc_stderr,none": 0.03},
        "sst2": {"acc,none": 0.9, "acc_stderr,none": 0.01},
        "math": {"exact_match,strict": 0.2, "exact_match,flexible": 0.4},
        "wiki": {"word_perplexity,none": 17.25, "byte_perplexity,none": 1.7, "bits_per_byte,none": 0.8},
    }
    configs = {"math": {"metric_list": [{"metric": "exact_match"}], "filter_list": [{"name": "strict"}]}}
    shuffled = {
        task: dict(data.draw(st.permutations(list(scores[task].items()))))
        for task in data.draw(st.permutations(list(scores)))
    }
    found = read(document(tmp_path, shuffled, configs=configs, group_subtasks={"glue": ["cola", "sst2"]}))
    shown = {task: numbers(each) for task, each in found.items()}
    assert {task: (one.metric, one.accuracy, one.stderr) for task, one in shown.items()} == {
        "glue": ("acc,none", 0.9, 0.01), "math": ("exact_match,strict", 0.2, None),
        "wiki": ("word_perplexity,none", 17.25, None),
    }  # fmt: skip


def imported_variant(path: Path) -> Variant:
    """The variant that an import of the file makes, without the files."""
    records = [each.record(conftest.foreign(path, model="m", precision="fp16")) for each in conftest.read(path)]
    return Variant.of(path.parent, records)


def test_a_group_without_a_metric_shows_its_members(tmp_path: Path) -> None:
    results: dict[str, dict[str, Any]] = {
        "bench": {" ": " ", "alias": "bench"},
        "inner": {"acc,none": 0.6, "acc_stderr,none": 0.02},
        "one": {"acc,none": 0.5}, "two": {"acc,none": 0.7},
        "hella": {"acc,none": 0.3, "acc_norm,none": 0.4, "acc_norm_stderr,none": 0.01},
        "gen": {"own_error,none": 3.5}, "empty": {"alias": "empty"},
    }  # fmt: skip
    configs = {"hella": {"metric_list": [{"metric": "acc_norm"}]}}
    groups = {"bench": ["inner", "hella", "gen", "empty"], "inner": ["one", "two"]}
    stated = {"gen": {"own_error": False}}
    for order in (1, -1):
        shuffled = dict(list(results.items())[::order])
        path = document(tmp_path, shuffled, configs=configs, group_subtasks=groups, higher_is_better=stated)
        variant = imported_variant(path)
        shown = {task: (record.metric, record.accuracy, record.num_items) for task, record in variant.accuracy.items()}
        assert shown == {
            "inner": ("acc,none", 0.6, 6), "hella": ("acc_norm,none", 0.4, 3), "gen": ("own_error,none", 3.5, 3),
        }  # fmt: skip
        assert set(variant.accuracy["inner"].subtasks) == {"one", "two"}
        assert variant.accuracy["gen"].higher_is_better is False
        assert list(variant.measured) == ["bench"]


def test_rolling_log_likelihoods_keep_their_words(tmp_path: Path) -> None:
    results = {"wiki": {"word_perplexity,none": 3.5}}
    stated, configs = {"wiki": {"word_perplexity": False}}, {"wiki": {"output_type": "loglikelihood_rolling"}}
    path = document(tmp_path, results, "results_2026-01-01T00-00-00.0", higher_is_better=stated, configs=configs)
    rows = [
        {"doc_id": n, "filter": "none", "metrics": ["word_perplexity"], "word_perplexity": [-10.5 - n, 8],
         "doc_hash": f"d{n}", "prompt_hash": "p", "target_hash": "t", "resps": [[str(-10.5 - n)]],
         "filtered_resps": [-10.5 - n]}
        for n in range(3)
    ]  # fmt: skip
    samples = tmp_path / "samples_wiki_2026-01-01T00-00-00.0.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    imported = read(path)["wiki"]
    assert [item["word_perplexity,none"] for item in imported.samples] == [[-10.5, 8], [-11.5, 8], [-12.5, 8]]
    assert numbers(imported).higher_is_better is False
