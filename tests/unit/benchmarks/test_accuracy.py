"""The accuracy benchmark through the real lm-eval, over tasks of its own and a model that answers by rule."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.benchmarks import accuracy, prompts
from slim_eval.benchmarks.accuracy import Accuracy
from slim_eval.benchmarks.base import no_progress
from slim_eval.config import AccuracyConfig, RunConfig
from slim_eval.demo import TASKS
from slim_eval.errors import BenchmarkError, EngineError, UsageError
from slim_eval.results.records import AccuracyMetrics, AccuracyRecord, Measurement
from slim_eval.results.variants import Variant

pytest.importorskip("lm_eval")

CHOICE_YAML = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/choice.test.jsonl
    train: {folder}/choice.train.jsonl
test_split: test
training_split: train
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 7.0
"""

GENERATE_YAML = """task: own_generate
dataset_path: json
dataset_kwargs:
  data_files: {folder}/generate.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
filter_list:
  - name: whole
    filter:
      - function: take_first
  - name: number
    filter:
      - function: regex
        regex_pattern: "#### (-?[0-9]+)"
      - function: take_first
"""

NAN_YAML = """task: own_nan
dataset_path: json
dataset_kwargs:
  data_files: {folder}/generate.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
process_results: !function nan.process_results
metric_list:
  - metric: oddness
    aggregation: mean
    higher_is_better: true
"""

ROLLING_YAML = """task: own_rolling
dataset_path: json
dataset_kwargs:
  data_files: {folder}/generate.jsonl
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}} is {{{{answer}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""

ERROR_YAML = NAN_YAML.replace("own_nan", "own_error").replace("nan.process_results", "nan.absolute_error").replace(
    "metric: oddness", "metric: mae"
).replace("higher_is_better: true", "higher_is_better: false")  # fmt: skip

FILES = {
    "own_rolling.yaml": ROLLING_YAML,
    "own_error.yaml": ERROR_YAML,
    "own_choice.yaml": "task: own_choice\ntag: own_tag" + CHOICE_YAML,
    "own_other.yaml": "task: own_other\ntag: own_tag" + CHOICE_YAML.replace("choice.test", "other.test"),
    "own_group.yaml": "group: own_group\ntask: [own_choice, own_other]\n"
    "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n",
    "own_inherited.yaml": "include: _own_template\ntask: own_inherited\n",
    "_own_template": "tag: [own_heir]" + CHOICE_YAML,
    "own_bare_group.yaml": "group: own_bare_group\ntask: [own_choice, own_other]\n",
    "own_generate.yaml": GENERATE_YAML,
    "own_nan.yaml": NAN_YAML,
    "nan.py": "import datasets\n\n"
    'def process_results(doc, results):\n    return {{"oddness": float("nan")}}\n\n'
    'def absolute_error(doc, results):\n    return {{"mae": abs(len(results[0]) - 3.0)}}\n\n'
    'def no_items(**_):\n    return {{"train": datasets.Dataset.from_dict({{"question": []}})}}\n',
    "own_empty.yaml": GENERATE_YAML.replace("own_generate", "own_empty").replace("generate.jsonl", "empty.jsonl"),
    "own_empty_split.yaml": GENERATE_YAML.replace("own_generate", "own_empty_split").replace(
        "dataset_path: json", "custom_dataset: !function nan.no_items"
    ),
    "own_broken.yaml": GENERATE_YAML.replace("own_generate", "own_broken").replace("generate.jsonl", "broken.jsonl"),
    "own_absent.yaml": GENERATE_YAML.replace("own_generate", "own_absent").replace("generate.jsonl", "absent.jsonl"),
    "own_split.yaml": GENERATE_YAML.replace("own_generate", "own_split").replace(
        "test_split: train", "test_split: nowhere"
    ),
    "own_described.yaml": GENERATE_YAML.replace("own_generate", "own_described") + "description: Add the numbers.\n",
    "own_unsafe.yaml": GENERATE_YAML.replace("own_generate", "own_unsafe") + "unsafe_code: true\n",
}


def _choices(count: int, seed: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Question {seed}-{index}?", "choices": ["one", "two", "three"], "answer": index % 3}
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "choice.test": _choices(6, 0),
        "choice.train": _choices(3, 1),
        "other.test": _choices(2, 2),
        "generate": [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)],
        "empty": [],
    }
    for name, items in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "broken.jsonl").write_text('{"question": "half a li')
    for name, text in FILES.items():
        (folder / name).write_text(text.format(folder=folder))
    return folder


class RuleEngine:
    """An engine whose model scores a choice by a hash and answers ``n + 1?`` rightly, but only for even ``n``."""

    name = "rule"
    dtype = "float32"

    def __init__(self, *, chat_template: str | None = None, max_model_len: int = 512) -> None:
        self.chat_template = chat_template
        self.max_model_len = max_model_len
        self.prompts: list[str] = []
        self.batch_sizes: list[int] = []

    def lm_eval_model(self, batch_size: int) -> Any:
        from lm_eval.api.model import LM

        engine = self
        self.batch_sizes.append(batch_size)

        class RuleModel(LM):  # type: ignore[misc]
            tokenizer_name = "rule"

            def tok_encode(self, text: str) -> list[str]:
                return text.split()

            def _answer(self, kind: str, requests: Sequence[Any], rule: Any) -> list[Any]:
                answers = []
                for request in requests:
                    engine.prompts.append(request.args[0])
                    answers.append(rule(*request.args))
                    self.cache_hook.add_partial(kind, request.args, answers[-1])
                return answers

            def loglikelihood(self, requests: Any) -> Any:
                return self._answer("loglikelihood", requests, lambda text, end: (score(text, end), False))

            def loglikelihood_rolling(self, requests: Any) -> Any:
                return self._answer("loglikelihood_rolling", requests, lambda text: 10 * score(text, ""))

            def generate_until(self, requests: Any) -> Any:
                return self._answer("generate_until", requests, lambda text, _: reply(text))

            def chat_template(self, chat_template: bool | str = False) -> Any:
                return engine.chat_template

            def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
                return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)

        return RuleModel()


def score(text: str, end: str) -> float:
    digest = hashlib.sha256((text.rsplit("Question", 1)[-1] + end).encode()).digest()
    return -1.0 - digest[0] / 64


def reply(text: str) -> str:
    number = int(re.findall(r"(\d+) \+", text)[-1])
    return f"I think #### {number + 1}" if number % 2 == 0 else "no idea"


def _run(task: str, folder: Path | None, engine: RuleEngine | None = None, **changes: Any) -> Measurement:
    config = AccuracyConfig(tasks=(task,), include_path=folder, **{"num_fewshot": 2, **changes})
    return accuracy.run(engine or RuleEngine(), task, config, 0, no_progress)  # type: ignore[arg-type]


def _metrics(measured: Measurement) -> AccuracyMetrics:
    assert isinstance(measured.metrics, AccuracyMetrics)
    return measured.metrics


def test_choices_are_kept_item_by_item(folder: Path) -> None:
    measured = _run("own_choice", folder)
    metrics = _metrics(measured)
    rows = _choices(6, 0)
    scores = [[score(f" 0-{i}?", f" {choice}") for choice in row["choices"]] for i, row in enumerate(rows)]
    assert [sample["loglikelihoods"] for sample in measured.samples] == [pytest.approx(values) for values in scores]
    right = [
        float(max(range(3), key=values.__getitem__) == row["answer"]) for values, row in zip(scores, rows, strict=True)
    ]
    assert [sample["acc,none"] for sample in measured.samples] == right
    assert metrics.metrics["acc,none"] == pytest.approx(sum(right) / 6)
    assert metrics.metric == "acc_norm,none", "the first metric that the task lists, not the first that lm-eval reports"
    assert metrics.accuracy == metrics.metrics["acc_norm,none"]
    mean = sum(right) / 6
    assert metrics.metrics["acc_stderr,none"] == pytest.approx(math.sqrt(mean * (1 - mean) / 5))
    assert (metrics.num_items, metrics.num_fewshot, metrics.subtasks) == (6, 2, {})
    assert metrics.task_versions == {"own_choice": 7.0}
    assert [sample["target"] for sample in measured.samples] == [row["answer"] for row in rows]
    assert len({sample["doc_hash"] for sample in measured.samples}) == 6
    assert measured.notes == ()
    json.dumps(measured.samples, allow_nan=False)


@pytest.mark.parametrize(
    ("task", "window", "cut"),
    [
        ("own_choice", 9, 0),  # two examples and a question of three words each, the answer included
        ("own_choice", 8, 6 * 3),
        ("own_generate", 256 + 3, 0),  # "0 + 1?", and the default length of an answer
        ("own_generate", 256 + 2, 4),
    ],
)
def test_prompts_that_lm_eval_cuts_are_counted(folder: Path, task: str, window: int, cut: int) -> None:
    measured = _run(task, folder, RuleEngine(max_model_len=window))
    metrics = _metrics(measured)
    assert (metrics.max_model_len, metrics.truncated_requests) == (window, cut)
    assert any(f"{cut} prompts are cut" in note for note in measured.notes) is (cut > 0)


def test_generated_answers_are_one_row_with_every_filter(folder: Path) -> None:
    measured = _run("own_generate", folder)
    first, second, *_ = measured.samples
    assert len(measured.samples) == 4
    assert first["response"] == "I think #### 1"
    assert first["extracted"] == {"whole": "I think #### 1", "number": "1"}
    assert (first["exact_match,whole"], first["exact_match,number"]) == (0.0, 1.0)
    assert (second["exact_match,whole"], second["exact_match,number"]) == (0.0, 0.0)
    assert "loglikelihoods" not in first
    metrics = _metrics(measured)
    assert metrics.metrics["exact_match,number"] == 0.5
    assert (metrics.metric, metrics.accuracy) == ("exact_match,whole", 0.0)


def test_a_task_that_fixes_its_few_shot_number_says_so(folder: Path) -> None:
    measured = _run("own_generate", folder, num_fewshot=2)
    assert _metrics(measured).num_fewshot == 0
    assert measured.notes == ("own_generate: few-shot examples are fixed by the task (own_generate: 0)",)


@pytest.mark.large
def test_a_group_keeps_its_subtasks_and_their_sizes(folder: Path) -> None:
    measured = _run("own_group", folder)
    metrics = _metrics(measured)
    one, two = metrics.subtasks["own_choice"], metrics.subtasks["own_other"]
    assert (one["num_items"], two["num_items"], metrics.num_items) == (6, 2, 8)
    assert metrics.metric == "acc,none"
    assert metrics.accuracy == pytest.approx((6 * one["acc,none"] + 2 * two["acc,none"]) / 8)
    assert metrics.stderr == metrics.metrics["acc_stderr,none"]
    assert metrics.stderr is not None
    assert {sample["task"] for sample in measured.samples} == {"own_choice", "own_other"}
    assert set(metrics.task_hashes) == {"own_choice", "own_other"}


@pytest.mark.parametrize("name", ["own_tag", "own_bare_group"])
def test_tasks_without_a_common_score_get_none(folder: Path, name: str) -> None:
    measured = _run(name, folder)
    metrics = _metrics(measured)
    assert (metrics.accuracy, metrics.metric, metrics.stderr) == (None, None, None)
    assert metrics.num_items == 8
    assert metrics.subtasks["own_choice"]["acc,none"] is not None
    assert "no metric" in measured.notes[0]


@pytest.mark.parametrize("name", ["own_tag", "own_bare_group"])
def test_in_their_place_their_tasks_are_shown(folder: Path, name: str) -> None:
    record = AccuracyRecord(model="m", precision="fp16", **_metrics(_run(name, folder)).model_dump())
    assert Accuracy().flaw(record, RunConfig(models=("m",))) == ""
    variant = Variant.of(folder, [record])
    assert {task: (found.metric, found.num_items) for task, found in variant.accuracy.items()} == {
        "own_choice": ("acc_norm,none", 6), "own_other": ("acc_norm,none", 2),
    }  # fmt: skip
    assert {found.higher_is_better for found in variant.accuracy.values()} == {True}


def test_a_perplexity_knows_its_direction_and_keeps_words_and_log_likelihoods(folder: Path) -> None:
    measured = _run("own_rolling", folder, num_fewshot=0)
    metrics = _metrics(measured)
    assert (metrics.metric, metrics.higher_is_better) == ("word_perplexity,none", False)
    pairs = [item["word_perplexity,none"] for item in measured.samples]
    total, words = (sum(part) for part in zip(*pairs, strict=True))
    assert metrics.accuracy == pytest.approx(math.exp(-total / words))
    assert words == 20  # five words in each of four documents
    assert [item["loglikelihoods"] for item in measured.samples] == [[value] for value, _ in pairs]


def test_an_error_of_which_less_is_better_says_so(folder: Path) -> None:
    metrics = _metrics(_run("own_error", folder, num_fewshot=0))
    assert (metrics.metric, metrics.higher_is_better) == ("mae,none", False)


def test_a_metric_that_is_no_number_is_none(folder: Path) -> None:
    measured = _run("own_nan", folder, num_fewshot=0)
    metrics = _metrics(measured)
    assert (metrics.accuracy, metrics.metric) == (None, "oddness,none")
    assert measured.notes == ("own_nan: oddness,none is not a finite number",)


def test_limit_counts_items_of_each_subtask(folder: Path) -> None:
    measured = _run("own_group", folder, limit=1)
    metrics = _metrics(measured)
    assert (metrics.num_items, metrics.limit) == (2, 1)
    assert [sample["doc_id"] for sample in measured.samples] == [0, 0]


def test_few_shot_examples_are_those_of_lm_evals_default_seed(folder: Path) -> None:
    from random import Random

    engine = RuleEngine()
    _run("own_choice", folder, engine, limit=1)
    examples = [f"{row['question']} {row['choices'][row['answer']]}" for row in Random(1234).sample(_choices(3, 1), 2)]
    assert engine.prompts[0] == "\n\n".join([*examples, "Question 0-0?"])


def test_the_batch_size_of_a_task_is_its_own(folder: Path) -> None:
    engine = RuleEngine()
    measured = _run("own_choice", folder, engine, batch_size=4, batch_sizes={"own_choice": 3})
    assert engine.batch_sizes == [3]
    assert _metrics(measured).batch_size == 3


def test_progress_counts_requests(folder: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    config = AccuracyConfig(tasks=("own_choice",), include_path=folder, num_fewshot=1)

    def progress(done: int, total: int, unit: str = "") -> None:
        calls.append((done, total, unit))

    accuracy.run(RuleEngine(), "own_choice", config, 0, progress)  # type: ignore[arg-type]
    assert calls == [(done, 18, "requests") for done in range(1, 19)]


def test_the_chat_template_is_applied(folder: Path) -> None:
    engine = RuleEngine(chat_template="some template")
    measured = _run("own_choice", folder, engine, num_fewshot=1, limit=1, apply_chat_template=True)
    assert engine.prompts[0].count("<user>") == 2
    assert "<assistant>" in engine.prompts[0]
    assert _metrics(measured).apply_chat_template is True


class CoarseEngine(RuleEngine):
    """A rule engine whose scores are whole numbers, as if computed in few bits."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def lm_eval_model(self, batch_size: int) -> Any:
        model = super().lm_eval_model(batch_size)
        model.loglikelihood = lambda requests: model._answer(
            "loglikelihood", requests, lambda text, end: (float(round(score(text, end))), False)
        )
        return model


def test_choices_that_16_bit_cannot_distinguish_are_counted(folder: Path) -> None:
    measured = _run("own_choice", folder, CoarseEngine("bfloat16"))
    scores = [sample["loglikelihoods"] for sample in measured.samples]
    ties = sum(sorted(values)[-1] == sorted(values)[-2] for values in scores)
    assert 0 < ties < 6
    (note,) = measured.notes
    assert note.startswith(
        f"own_choice: in {ties} of 6 items two choices are equally the most likely, because bfloat16"
    )
    assert _run("own_choice", folder, CoarseEngine("float32")).notes == ()


class SmallEngine(RuleEngine):
    """A `RuleEngine` whose memory holds so many items a batch: a larger one fails at its third request."""

    def __init__(self, holds: int, error: Exception) -> None:
        super().__init__()
        self.holds, self.error = holds, error

    def lm_eval_model(self, batch_size: int) -> Any:
        model, answer = super().lm_eval_model(batch_size), score
        asked = 0

        def fails_at_the_third(requests: Any) -> Any:
            def rule(text: str, end: str) -> Any:
                nonlocal asked
                asked += 1
                if batch_size > self.holds and asked == 3:
                    raise self.error
                return answer(text, end), False

            return model._answer("loglikelihood", requests, rule)

        model.loglikelihood = fails_at_the_third
        return model


TORCH = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB is free."
)


def _out_of_memory(kind: str) -> Exception:
    if kind == "torch":
        torch = pytest.importorskip("torch")
        error: Exception = torch.OutOfMemoryError(TORCH)
        return error
    return {
        "allocator": RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes."
        ),
        "python": MemoryError(),
        "vllm": EngineError(f"vLLM stopped: {TORCH}", "lower something"),
    }[kind]


@pytest.mark.parametrize("kind", ["torch", "allocator", "python", "vllm"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(folder: Path, kind: str) -> None:
    engine, undisturbed = SmallEngine(8, _out_of_memory(kind)), RuleEngine()
    measured = _run("own_choice", folder, engine, batch_size=32)
    plain = _run("own_choice", folder, undisturbed, batch_size=8)
    assert engine.batch_sizes == [32, 16, 8]
    assert measured.notes == (
        "accuracy batch size 32 did not fit in memory: retried with 16",
        "accuracy batch size 16 did not fit in memory: retried with 8",
    )
    assert _metrics(measured).batch_size == 8
    # The task starts over: prompts with their few-shot examples, scores and items are those of an undisturbed run.
    assert engine.prompts[-18:] == undisturbed.prompts
    assert measured.samples == plain.samples
    assert _metrics(measured).model_copy(update={"duration_seconds": None}) == _metrics(plain).model_copy(
        update={"duration_seconds": None}
    )


def test_progress_starts_over_with_the_task(folder: Path) -> None:
    calls: list[int] = []
    config = AccuracyConfig(tasks=("own_choice",), include_path=folder, num_fewshot=1, batch_size=2)
    engine = SmallEngine(1, _out_of_memory("python"))
    accuracy.run(engine, "own_choice", config, 0, lambda done, total, unit="": calls.append(done))  # type: ignore[arg-type]
    assert calls[-18:] == list(range(1, 19))


@pytest.mark.parametrize(
    ("kind", "told"), [("torch", ": 2.00 GiB more were needed, 1.50 GiB were free"), ("python", "")]
)
def test_a_task_of_which_no_item_fits_is_an_error_with_a_remedy(folder: Path, kind: str, told: str) -> None:
    engine = SmallEngine(0, _out_of_memory(kind))
    with pytest.raises(BenchmarkError) as caught:
        _run("own_choice", folder, engine, batch_size=6)
    assert engine.batch_sizes == [6, 3, 1]
    assert caught.value.cause == f"own_choice: out of memory at accuracy batch size 1{told}"
    for option in ("--max-model-len", "--num-fewshot", "--gpu-memory-utilization", "int8"):
        assert option in caught.value.remedy


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), EngineError("vLLM stopped: no kernel")])
def test_another_failure_is_not_tried_again(folder: Path, error: Exception) -> None:
    engine = SmallEngine(8, error)
    with pytest.raises(type(error)) as caught:
        _run("own_choice", folder, engine, batch_size=32)
    assert caught.value is error
    assert engine.batch_sizes == [32]


@pytest.mark.parametrize(
    ("task", "changes", "cause", "remedy"),
    [
        ("own_choice", {"num_fewshot": 4}, "4 few-shot examples requested, 3 available", "--num-fewshot 3"),
        ("own_choice", {"apply_chat_template": True}, "no chat template", "--apply-chat-template"),
        ("own_empty", {}, "own_empty: its data set has no items", "check"),
        ("own_empty_split", {}, "own_empty_split: its data set has no items", "check"),
        ("own_absent", {}, "absent.jsonl", "check"),
        ("own_broken", {}, "JSON", "check"),
        ("own_split", {}, "nowhere", "check"),
        ("own_unsafe", {}, "executes code", "remove it"),
    ],
)
def test_what_cannot_be_run_is_an_error_with_a_remedy(
    folder: Path, task: str, changes: dict[str, Any], cause: str, remedy: str
) -> None:
    engine = RuleEngine()
    with pytest.raises(BenchmarkError) as caught:
        _run(task, folder, engine, **changes)
    assert cause in caught.value.cause
    assert "\n" not in caught.value.cause
    assert remedy in caught.value.remedy
    assert engine.prompts == [], "the model was not asked"


def test_the_embedded_models_tasks_are_always_known() -> None:
    engine = RuleEngine()
    measured = _run("demo_mmlu", None, engine, limit=2)
    metrics = _metrics(measured)
    assert metrics.metric == "acc,none"
    assert metrics.num_items == 2 * len(metrics.subtasks)


# --- What a model sees of the prompts ---


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
DEAF = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def served(tmp_path: Path) -> Any:
    """A model with the tokenizer of the embedded one and another chat template."""
    from slim_eval.benchmarks.base import ServedModel
    from slim_eval.demo import MODEL_DIR
    from slim_eval.models import ModelSource

    def make(stages: tuple[str, ...], template: str | None = CHAT, window: int = 512) -> ServedModel:
        folder = tmp_path / "model"
        shutil.copytree(MODEL_DIR, folder, dirs_exist_ok=True)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        source = ModelSource(name="org/Tiny", kind="local", config_dir=folder, path=folder)
        return ServedModel(source=source, max_model_len=window, stages=stages)

    return make


def _run_config(folder: Path, *tasks: str, **changes: Any) -> RunConfig:
    accuracy = AccuracyConfig(tasks=tasks, include_path=folder, **{"num_fewshot": 2, **changes})
    return RunConfig(models="org/Tiny", accuracy=accuracy)


def _preview(folder: Path, model: Any, **changes: Any) -> list[str]:
    return list(accuracy.Accuracy().preview(_run_config(folder, *model.stages, **changes), [model]))


class DemoEngine(RuleEngine):
    """The rule engine with the tokenizer of a served model."""

    def __init__(self, model: Any) -> None:
        super().__init__(chat_template="yes", max_model_len=model.max_model_len)
        self._reader = prompts.PromptReader(accuracy._tokenizer(RunConfig(models="x"), model))

    def lm_eval_model(self, batch_size: int) -> Any:
        model = super().lm_eval_model(batch_size)
        model.tok_encode = self._reader.tok_encode
        model.apply_chat_template = self._reader.apply_chat_template
        return model


@pytest.mark.parametrize("template", [CHAT, STRICT, DEAF], ids=["plain", "strict", "deaf"])
@pytest.mark.parametrize("window", [257, 1024])
@pytest.mark.parametrize("limit", [None, 1, 0.5])
def test_what_is_foretold_is_what_is_measured(
    folder: Path, served: Any, template: str, window: int, limit: float | None
) -> None:
    model = served(("own_group", "own_described"), template, window)
    options = {"apply_chat_template": True, "num_fewshot": 1, "limit": limit}
    foretold = _preview(folder, model, **options)
    measured = [_run(task, folder, DemoEngine(model), **options) for task in model.stages]
    notes = [note for each in measured for note in each.notes if "prompts" in note]
    assert foretold == [f"org/Tiny: {note}" for note in notes]
    described = _metrics(measured[1])
    dropped = {None: 4, 1: 1, 0.5: 2}[limit] if template != CHAT else 0
    assert described.prompts_without_turns == dropped
    assert any("drops the system turn" in note for note in notes) is (dropped > 0)
    assert described.truncated_requests == (described.num_items if window == 257 else 0)


def test_of_many_items_the_longest_are_read(folder: Path, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_MOST_READ", 4)
    monkeypatch.setattr(accuracy, "_FEWEST_READ", 1)
    (text,) = _preview(folder, served(("own_group",), window=8))
    assert text.startswith("org/Tiny: own_group: 12 prompts (among the 4 longest of 8 items) are cut")
    assert accuracy._longest(["a", "ccc", "bb", "dddd"], 3, 2) == [1, 2]
    assert accuracy._longest(["a", "ccc", "bb", "dddd"], 2, 2) == [0, 1]


def test_a_model_without_the_template_is_refused_before_it_is_loaded(folder: Path, served: Any) -> None:
    asked = _run_config(folder, "own_choice", apply_chat_template=True)
    accuracy.Accuracy().check_model(asked, served(("own_choice",)))
    with pytest.raises(UsageError, match="org/Tiny: its tokenizer has no chat template"):
        accuracy.Accuracy().check_model(asked, served(("own_choice",), None))
    accuracy.Accuracy().check_model(_run_config(folder, "own_choice"), served(("own_choice",), None))


def test_answers_longer_than_the_window_are_refused(folder: Path, served: Any) -> None:
    asked = _run_config(folder, "own_generate")
    with pytest.raises(UsageError, match="own_generate generates up to 256 tokens"):
        accuracy.Accuracy().check_model(asked, served(("own_generate",), window=256))
    with pytest.raises(BenchmarkError, match="own_generate generates up to 256 tokens"):
        _run("own_generate", folder, RuleEngine(max_model_len=256))


@pytest.mark.parametrize("task", ["own_absent", "own_broken", "own_empty"])
def test_a_task_without_data_is_left_to_the_run(folder: Path, served: Any, task: str) -> None:
    assert _preview(folder, served((task, "own_described"), window=257), apply_chat_template=False) != []
    assert _preview(folder, served((task,), window=257)) == []


def test_a_tokenizer_that_does_not_load_is_left_to_the_run(folder: Path, served: Any) -> None:
    model = served(("own_choice",), window=8)
    assert _preview(folder, model) != []
    (model.source.path / "tokenizer.json").write_text("{")
    assert _preview(folder, model) == []


def test_the_tokenizer_that_is_asked_for_is_the_one_that_is_checked(folder: Path, served: Any) -> None:
    from slim_eval.demo import MODEL_DIR

    asked = _run_config(folder, "own_choice", apply_chat_template=True)
    engine = asked.engine.model_copy(update={"tokenizer": str(MODEL_DIR)})
    accuracy.Accuracy().check_model(asked.model_copy(update={"engine": engine}), served(("own_choice",), None))


@pytest.mark.large
def test_prompts_of_the_embedded_tasks_fit_the_embedded_model(served: Any) -> None:
    """What `to_preview` leaves out must need no preview."""
    from slim_eval.models import resolve

    model = served(TASKS, window=1024).model_copy(update={"source": resolve("demo", None)})
    config = RunConfig(models="demo", accuracy=AccuracyConfig(tasks=TASKS, num_fewshot=5))
    benchmark = accuracy.Accuracy()
    assert benchmark.to_preview(config, model) == ()
    assert list(benchmark.preview(config, [model])) == []
    smaller = model.model_copy(update={"max_model_len": 100})
    assert benchmark.to_preview(config, smaller) == TASKS
    assert len(list(benchmark.preview(config, [smaller]))) > 0


# --- A share of the items ---


@pytest.mark.parametrize(
    ("limit", "total", "items"), [(None, 7, None), (3, 7, 3), (0.1, 7, 1), (0.5, 7, 4), (0.999, 7, 7), (0.1, 1000, 100)]
)
def test_a_limit_below_one_is_a_share_as_in_lm_eval(limit: float | None, total: int, items: int | None) -> None:
    from types import SimpleNamespace

    from lm_eval.evaluator_utils import get_sample_size

    assert accuracy.items_of(limit, total) == items == get_sample_size(SimpleNamespace(eval_docs=[0] * total), limit)


def test_a_share_counts_items_of_each_subtask(folder: Path) -> None:
    metrics = _metrics(_run("own_group", folder, limit=0.5))
    assert (metrics.num_items, metrics.limit) == (3 + 1, 0.5)
    assert AccuracyMetrics.model_validate_json(metrics.model_dump_json()).limit == 0.5


def test_a_share_and_a_number_are_other_settings_and_a_number_is_the_recorded_one() -> None:
    def setting(limit: Any) -> str:
        config = RunConfig(models="demo", accuracy=AccuracyConfig(limit=limit))
        sent = RunConfig.model_validate_json(config.model_dump_json())  # as a worker reads it
        assert sent == config
        return json.dumps(accuracy.Accuracy().settings(sent, "mmlu", None)["accuracy_limit"])

    assert [setting(limit) for limit in (100, 100.0, "100", 0.1, None)] == ["100", "100", "100", "0.1", "null"]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (100, "--accuracy-limit 100: with 100 items per (sub)task, drops under about 9 points"),
        (0.1, "--accuracy-limit 0.1: of a (sub)task of 1,000 items 100 are used, and drops under about 9 points"),
    ],
)
def test_the_smallest_drop_that_a_limit_leaves_visible_is_said(limit: float, words: str) -> None:
    (text,) = accuracy.Accuracy().limitations(RunConfig(models="demo", accuracy=AccuracyConfig(limit=limit)))
    assert text.startswith(words)


# --- How sure an accuracy is ---


def rows(scores: Sequence[float | None], tasks: Sequence[str] | None = None) -> list[dict[str, Any]]:
    names = tasks or ["one"] * len(scores)
    return [{"task": task, "acc,none": score} for task, score in zip(names, scores, strict=True)]


def test_right_and_wrong_items_of_one_task_have_wilsons_interval(folder: Path) -> None:
    metrics = _metrics(_run("own_choice", folder))
    assert metrics.accuracy is not None
    right, n, z = round(6 * metrics.accuracy), 6, 1.959964
    middle = (right + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(right * (n - right) / n + z**2 / 4)
    assert metrics.intervals == {"accuracy": (pytest.approx(middle - half), pytest.approx(middle + half))}
    assert metrics.clustered_stderr is None


def test_a_task_without_a_right_answer_has_an_interval_all_the_same(folder: Path) -> None:
    metrics = _metrics(_run("own_generate", folder))
    low, high = metrics.intervals["accuracy"]
    assert (metrics.accuracy, low) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert 0.3 < high < 0.6


def test_a_group_has_a_clustered_standard_error(folder: Path) -> None:
    measured = _run("own_group", folder)
    metrics = _metrics(measured)
    assert metrics.accuracy is not None
    by_task: dict[str, float] = {}
    for sample in measured.samples:
        by_task[sample["task"]] = by_task.get(sample["task"], 0.0) + sample["acc,none"] - metrics.accuracy
    assert metrics.clustered_stderr == pytest.approx(math.sqrt(sum(value**2 for value in by_task.values())) / 8)
    assert set(metrics.intervals) == {"accuracy"}


@pytest.mark.parametrize("name", ["own_tag", "own_bare_group", "own_nan"])
def test_no_accuracy_has_no_interval(folder: Path, name: str) -> None:
    metrics = _metrics(_run(name, folder))
    assert (metrics.intervals, metrics.clustered_stderr) == ({}, None)


def test_subtasks_that_differ_widen_the_interval() -> None:
    tasks = ["easy"] * 50 + ["hard"] * 50
    clustered, interval = accuracy.uncertainty(
        rows(([1.0] * 30 + [0.0] * 20) + ([1.0] * 15 + [0.0] * 35), tasks), "acc,none", 0.45, 0.05
    )
    # Deviations from the mean add up to 30 - 22.5 in one subtask and to 15 - 22.5 in the other.
    stderr = math.sqrt(2 * 7.5**2) / 100
    assert clustered == pytest.approx(stderr)
    assert interval == (pytest.approx(0.45 - 1.96 * stderr), pytest.approx(0.45 + 1.96 * stderr))


def test_the_interval_of_a_share_ends_at_0_and_1() -> None:
    tasks = ["easy"] * 50 + ["hard"] * 50
    clustered, interval = accuracy.uncertainty(rows([1.0] * 50 + [0.0] * 50, tasks), "acc,none", 0.5, 0.05)
    assert clustered == pytest.approx(math.sqrt(2) / 4)
    assert interval == (0.0, 1.0)


def test_subtasks_that_are_alike_do_not_narrow_the_interval() -> None:
    _, alone = accuracy.uncertainty(rows([1.0, 0.0] * 50), "acc,none", 0.5, 0.05)
    clustered, grouped = accuracy.uncertainty(rows([1.0, 0.0] * 50, ["a"] * 50 + ["b"] * 50), "acc,none", 0.5, 0.05)
    assert clustered == pytest.approx(0.0, abs=1e-12)
    assert grouped == alone is not None


def test_graded_items_go_by_their_standard_error() -> None:
    assert accuracy.uncertainty(rows([0.5, 2.0, 3.5]), "acc,none", 2.0, 0.5) == (None, pytest.approx((1.02, 2.98)))
    assert accuracy.uncertainty(rows([0.5, 2.0, 3.5]), "acc,none", 2.0, None) == (None, None)
    clustered, interval = accuracy.uncertainty(rows([0.5, 0.7, 3.5, 3.3], ["a", "a", "b", "b"]), "acc,none", 2.0, 0.1)
    assert clustered is not None
    assert clustered > 0.1
    assert interval == pytest.approx((2.0 - 1.96 * clustered, 2.0 + 1.96 * clustered))


@pytest.mark.parametrize(
    ("scores", "metric", "value"),
    [
        ([1.0, 0.0], "acc,none", 0.6),  # a mean over subtasks of different size, or no mean at all
        ([1.0, None], "acc,none", 1.0),  # an item without a score
        ([1.0, 0.0], "f1,none", 0.5),  # items do not say it
        ([1.0, 0.0], None, None),
        ([], "acc,none", 0.5),
    ],
)
def test_items_that_do_not_make_the_accuracy_say_nothing_of_it(
    scores: list[float | None], metric: str | None, value: float | None
) -> None:
    assert accuracy.uncertainty(rows(scores), metric, value, 0.1) == (None, None)
