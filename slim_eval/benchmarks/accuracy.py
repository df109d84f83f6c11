"""The accuracy benchmark: an lm-eval task, its metrics as lm-eval gives them, and the outcome of every item.

The harness is lm-eval's own `TaskManager.load` and `evaluate`, called as `simple_evaluate` calls them. That function
itself is not used because it collects a report on the environment after each task, which takes seconds. A test checks
that scores and items equal those of the command ``lm_eval``.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slim_eval.benchmarks import base, lm_eval_tasks, prompts
from slim_eval.config import AccuracyConfig, RunConfig, Thinking, require_task_files
from slim_eval.demo import TASKS_DIR
from slim_eval.engines import memory
from slim_eval.engines.engine import ENGINES, Engine
from slim_eval.errors import BenchmarkError, EngineError, MissingPackageError, UsageError
from slim_eval.metrics import headline_metric
from slim_eval.models import gguf, hub, loading
from slim_eval.results.records import AccuracyMetrics, AccuracyRecord, Measurement

_NO_ITEMS = "its data set has no items"
_NO_TEMPLATE = "omit --apply-chat-template"
_EXAMPLE_ITEMS = 1000
#: Items that `preview` reads of a task or group, and at least of each subtask.
_MOST_READ, _FEWEST_READ = 400, 10
#: With at most so many examples, no prompt of the embedded tasks exceeds so many tokens of the embedded model.
_EMBEDDED_FEWSHOT, _EMBEDDED_WINDOW = 5, 1024
_CHECK_DATA = "check the task's dataset_path, dataset_name and splits"
_LESS_MEMORY = (
    "lower --max-model-len or --num-fewshot (with vLLM also --gpu-memory-utilization), serve int8 or int4, or use a "
    "larger device"
)
_NORMAL_95 = 1.96  # standard errors to each side of a 95 % interval
_SAME_MEAN = 1e-6
_SIXTEEN_BIT = ("bfloat16", "float16")
_log = logging.getLogger(__name__)


class Accuracy(base.Benchmark[AccuracyConfig, AccuracyRecord]):
    """lm-eval tasks, one record each."""

    name = "accuracy"
    options = AccuracyConfig
    record = AccuracyRecord
    modules = ("lm_eval",)
    keeps_samples = True

    def stages(self, config: RunConfig) -> tuple[str, ...]:
        """The tasks."""
        return config.accuracy.tasks

    def run(self, context: base.BenchmarkContext[AccuracyConfig]) -> Measurement:
        """Evaluate the task; see the function `run`."""
        return run(context.engine, context.stage, context.options, context.seed, context.progress)

    def resolved(self, config: RunConfig) -> RunConfig:
        """Patterns among the tasks, such as ``mmlu_*``, become the names that they match."""
        part = config.accuracy
        tasks = lm_eval_tasks.expand(part.tasks, part.include_path, config.serve_python)
        if tasks == part.tasks:
            return config
        resolved = part.model_copy(update={"tasks": require_task_files(tasks)})
        return config.model_copy(update={"accuracy": resolved})

    def settings(self, config: RunConfig, stage: str, device: str | None) -> dict[str, Any]:
        """The task and how it is run; no score depends on the device."""
        part = config.accuracy
        return {
            "task": stage,
            "num_fewshot": part.num_fewshot,
            "fewshot_seed": config.seed,
            "accuracy_limit": part.limit,
            "accuracy_batch_size": part.batch_size_of(stage),
            "apply_chat_template": part.apply_chat_template,
            "include_path": None
            if part.include_path is None
            else f"sha256:{lm_eval_tasks.folder_hash(part.include_path)}",
            **({} if part.thinking is None else {"thinking": part.thinking.value}),  # came later: older records lack it
        }

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """The task's own batch size."""
        return config.accuracy.batch_size_of(stage)

    def flaw(self, record: AccuracyRecord, config: RunConfig) -> str:
        """A record without any metric is not a result; a group may have those of its subtasks alone."""
        has_any = record.members() or any(value is not None for value in (record.accuracy, *record.metrics.values()))
        return "" if has_any else base.NO_NUMBERS

    def check(self, config: RunConfig, stages: Sequence[str]) -> None:
        """Refuse unknown tasks and those that cannot be run here, or not with thinking; see `lm_eval_tasks`."""
        known = lm_eval_tasks.check_tasks(stages, config.accuracy.include_path)
        if config.accuracy.thinking is Thinking.ON:
            lm_eval_tasks.check_thinking(known, stages)

    def check_model(self, config: RunConfig, model: base.ServedModel) -> None:
        """Refuse a model without the chat template or the thinking that is asked for, and answers beyond its window."""
        known, name = lm_eval_tasks.index(config.accuracy.include_path), model.source.name
        lm_eval_tasks.check_answers(known, model.stages, name, model.max_model_len)
        if config.accuracy.apply_chat_template and (tokenizer := _tokenizer(config, model)) is not None:
            if not getattr(tokenizer, "chat_template", None):
                raise UsageError(f"{name}: its tokenizer has no chat template", _NO_TEMPLATE)
            prompts.require_switch(tokenizer.get_chat_template(), config.accuracy.thinking, f"{name}: ")

    def to_preview(self, config: RunConfig, model: base.ServedModel) -> tuple[str, ...]:
        """All tasks but those of the embedded model, which fit its window; see `preview`."""
        part = config.accuracy
        fits = (
            model.source.kind == "demo" and part.include_path is None and not part.apply_chat_template
            and part.num_fewshot <= _EMBEDDED_FEWSHOT and model.max_model_len >= _EMBEDDED_WINDOW
        )  # fmt: skip
        own = lm_eval_tasks.index_of(TASKS_DIR).names if fits else frozenset[str]()
        return tuple(stage for stage in model.stages if stage not in own)

    def preview(self, config: RunConfig, models: Sequence[base.ServedModel]) -> Iterator[str]:
        """The prompts that will be cut to a model's context window, and turns that its chat template leaves out.

        Of a task with many items only the longest are read, a few hundred in all: the rest could hardly change the
        answer, and would take minutes. Of fewer items data, prompts and tokens are those of the run. A task whose data
        is not available is left to the run, which records the failure; a tokenizer that cannot be loaded likewise.
        """
        part = config.accuracy
        tokenizers = [(model, _tokenizer(config, model)) for model in models]
        for task in dict.fromkeys(stage for model in models for stage in model.stages):
            asked = [(m, tokenizer) for m, tokenizer in tokenizers if task in m.stages and tokenizer is not None]
            if not asked:
                continue
            try:
                parts = _load(task, part, config.seed)["tasks"].values()
            except BenchmarkError as error:
                _log.warning("%s: its prompts cannot be checked: %s", task, error)
                continue
            for model, tokenizer in asked:
                adapter, checked, every = prompts.PromptReader(tokenizer, part.thinking), 0, 0
                template = prompts.ChatTemplate(adapter.apply_chat_template) if part.apply_chat_template else None
                for each in parts:
                    each.set_fewshot_seed(seed=1234 + config.seed)
                    total = items_of(part.limit, len(each.eval_docs)) or len(each.eval_docs)
                    longest = _longest(each.eval_docs, total, max(_FEWEST_READ, _MOST_READ // len(parts)))
                    checked, every = checked + len(longest), every + total
                    each.build_all_requests(
                        samples=longest,
                        apply_chat_template=part.apply_chat_template,
                        fewshot_as_multiturn=part.apply_chat_template,
                        chat_template=template,
                    )
                cut = prompts.truncated_requests(adapter, parts, model.max_model_len)
                among = f" (among the {checked:,} longest of {every:,} items)" if checked < every else ""
                for text in prompts.notes(task, cut, model.max_model_len, template, among):
                    yield f"{model.source.name}: {text}"

    def limitations(self, config: RunConfig) -> tuple[str, ...]:
        """The smallest drop that a limit on the items leaves visible."""
        limit = config.accuracy.limit
        if limit is None:
            return ()
        from slim_eval.stats import minimum_detectable_drop

        def points(items: int) -> str:
            return f"{100 * minimum_detectable_drop(items):.0f} points"

        known = "cannot be detected (80 % power, if 10 % of the answers flip)"
        if limit >= 1:
            return (f"--accuracy-limit {limit}: with {limit} items per (sub)task, drops under about "
                    f"{points(int(limit))} {known}",)  # fmt: skip
        # How many items that is, only the data say.
        some, every = items_of(limit, _EXAMPLE_ITEMS) or 0, _EXAMPLE_ITEMS
        return (f"--accuracy-limit {limit:g}: of a (sub)task of {every:,} items {some:,} are used, and drops under "
                f"about {points(some)} {known}; with all of them, under {points(every)}",)  # fmt: skip


def items_of(limit: float | None, total: int) -> int | None:
    """How many items of a (sub)task a limit selects: below 1 it is a share, rounded up as by lm-eval; None is all."""
    if limit is None:
        return None
    return math.ceil(total * limit) if limit < 1 else int(limit)


def run(engine: Engine, task: str, config: AccuracyConfig, seed: int, progress: base.Progress) -> Measurement:
    """Evaluate one task, group or tag.

    Few-shot follows lm-eval: `config.num_fewshot` replaces a task's own number, unless the task fixes it at 0; the
    record and each subtask contain the number used. `config.limit` counts items of each (sub)task, from the first.

    If a batch does not fit in memory, the task starts over with half as many items per batch, down to 1, with a note
    each time; the record's ``batch_size`` is the one that fitted. Data and few-shot examples are drawn again, so that
    each try is the same.

    Every sample is one item: ``task`` (the subtask), ``doc_id``, ``doc_hash``, ``prompt_hash``, ``target_hash``,
    ``target``, one key ``metric,filter`` per metric; for choices ``loglikelihoods`` in nats, one per choice; for
    generated answers ``response`` and ``extracted``, the answer that each filter found.

    A seed of 0 gives lm-eval's default seeds (0 for Python, 1234 for NumPy, torch and few-shot); n adds n to each.
    `progress` is called with the number of the model's requests that are done.

    Returns:
        `AccuracyMetrics` and one sample per item, ordered by subtask and item.

    Raises:
        BenchmarkError: The task's data is unavailable or empty, the task cannot be run with these options, or not even
            one item at a time fits in memory.
        EngineError: The engine stopped for another reason.
        MissingPackageError: lm-eval is not installed.
    """
    notes: list[str] = []
    for size, smaller in memory.halvings(config.batch_size_of(task)):
        try:
            measured = _run(engine, task, config, seed, progress, size)
        except (RuntimeError, MemoryError, OSError, EngineError) as error:
            if not memory.is_out_of_memory(error):
                raise
            short = memory.shortage(error)
            if smaller is None:
                cause = f"{task}: out of memory at accuracy batch size 1" + (f": {short}" if short else "")
                raise BenchmarkError(cause, _LESS_MEMORY) from error
        else:
            return replace(measured, notes=(*notes, *measured.notes))
        # Only here: the error's traceback kept alive what the batch had allocated.
        memory.empty_caches()
        notes.append(f"accuracy batch size {size} did not fit in memory: retried with {smaller}")
        _log.warning("%s: %s%s", task, notes[-1], f" ({short})" if short else "")
    raise AssertionError("batch size 1 either fits or is an error")


def _run(
    engine: Engine, task: str, config: AccuracyConfig, seed: int, progress: base.Progress, batch_size: int
) -> Measurement:
    loaded = _load(task, config, seed)
    from lm_eval.evaluator import evaluate
    from lm_eval.models.utils import postprocess_generated_text

    model, window = engine.lm_eval_model(batch_size), engine.max_model_len
    parts = loaded["tasks"].values()
    for part in parts:
        if part.OUTPUT_TYPE == "generate_until":
            try:
                length = getattr(model, "max_gen_toks", None)
                lm_eval_tasks.require_room(part.task_name, part.config.generation_kwargs, window, default=length)
            except UsageError as error:
                raise BenchmarkError(error.cause, error.remedy) from error
    template, thoughts = None, None
    if config.apply_chat_template:
        text = model.chat_template(True)
        if not text:
            raise BenchmarkError("the model's tokenizer has no chat template", _NO_TEMPLATE)
        if hasattr(model, "tokenizer"):
            try:
                thoughts = prompts.switch(model, text, config.thinking, postprocess_generated_text)
            except UsageError as error:
                raise BenchmarkError(error.cause, error.remedy) from error
        elif config.thinking is not None:
            raise BenchmarkError(f"{engine.name} cannot switch thinking", "leave --thinking out")
        template = model.apply_chat_template = prompts.ChatTemplate(model.apply_chat_template)
    if hook := getattr(model, "set_cache_hook", None):
        hook(_ProgressHook(list(parts), progress))
    start = time.perf_counter()
    # The settings are those of lm-eval's own command.
    output = evaluate(
        lm=model,
        task_dict=loaded,
        limit=config.limit,
        cache_requests=False,  # lm-eval's cache does not distinguish models or schemes
        log_samples=True,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.apply_chat_template,
    )
    duration_s = time.perf_counter() - start
    unread = ENGINES[engine.name].capabilities.lm_eval_unread if engine.name in ENGINES else 0
    asked = _Asked(window, prompts.truncated_requests(model, parts, window, unread), template, thoughts)
    measured = _measurement(task, output, config, batch_size, duration_s, asked)
    if engine.dtype in _SIXTEEN_BIT and (ties := tied(measured.samples)):
        # Not the sum of log-probabilities, which is in float32: the outputs of the last layer are of 16 bit.
        note = (
            f"{task}: in {ties} of {len(measured.samples)} items two choices are equally the most likely, because "
            f"{engine.dtype} cannot distinguish them: --dtype float32 can"
        )
        return replace(measured, notes=(*measured.notes, note))
    return measured


def tied(samples: Iterable[Mapping[str, Any]]) -> int:
    """The items with several choices, of which two or more are the most likely."""
    values = [[value for value in item.get("loglikelihoods") or () if value is not None] for item in samples]
    return sum(len(choices) > 1 and choices.count(max(choices)) > 1 for choices in values)


@dataclass(frozen=True)
class _Asked:
    """How a model was asked the prompts of a task."""

    window: int  # context window in tokens
    cut: int | None  # see `prompts.truncated_requests`
    template: prompts.ChatTemplate | None  # that wrote them; None without one
    thoughts: prompts.Thoughts | None  # before the answers; None without any


def _longest(docs: Any, total: int, most: int) -> list[int]:
    """Places of the longest of the first `total` items of a task, at most so many, in their order."""
    places: Iterable[int] = range(total)
    if total > most:
        places = sorted(places, key=lambda place: len(str(docs[place])), reverse=True)[:most]
    return sorted(places)


def _tokenizer(config: RunConfig, model: base.ServedModel) -> Any | None:
    """The tokenizer of a model; None if it cannot be loaded, which the engine will report."""
    own = config.base_model if gguf.is_gguf(model.source.config_dir) else None
    try:
        if name := config.engine.tokenizer or own:
            return loading.tokenizer_of(name, trust_remote_code=config.engine.trust_remote_code)
        return loading.tokenizer(model.source, trust_remote_code=config.engine.trust_remote_code)
    except loading.FAILURES as error:
        _log.warning("%s: its tokenizer cannot be loaded: %s", model.source.name, loading.reason(error))
        return None


def _load(task: str, config: AccuracyConfig, seed: int) -> Any:
    """The task's data and prompts, with lm-eval's `tasks` and `groups`; checked before the model sees any of it."""
    builtin = lm_eval_tasks.folder()
    import numpy as np
    import torch
    from datasets.exceptions import DatasetsError

    _keep_templates()
    random.seed(seed)
    np.random.seed(1234 + seed)
    torch.manual_seed(1234 + seed)
    try:
        # The small index has all that a plain task needs, which names no other, and the embedded model's groups. A
        # group of the user's own may name lm-eval's tasks.
        manager = _task_manager(config.include_path)
        if task not in manager.all_subtasks and task not in lm_eval_tasks.index_of(TASKS_DIR).names:
            known = lm_eval_tasks.index(config.include_path)
            inside = known.folder_of(task, builtin) if task in known.names else builtin
            manager = manager if inside is None else _task_manager(config.include_path, inside)
        loaded = manager.load([task])
        for name, part in loaded["tasks"].items():
            if part.get_config("num_fewshot") != 0:
                part.set_config(key="num_fewshot", value=config.num_fewshot)
            part.set_fewshot_seed(seed=1234 + seed)
            for attribute, reason in lm_eval_tasks.UNSUPPORTED.items():
                if getattr(part, attribute, False):
                    raise BenchmarkError(f"{name} {reason}", lm_eval_tasks.REMOVE)
            if config.thinking is Thinking.ON:
                lm_eval_tasks.require_generated(name, part.OUTPUT_TYPE)
            if len(part.eval_docs) == 0:
                raise BenchmarkError(f"{name}: {_NO_ITEMS}", _CHECK_DATA)
            wanted = part.get_config("num_fewshot")
            examples = part.fewshot_docs() if wanted else None
            if isinstance(examples, Sized):
                # An item is never its own example: if both come from one split, one more is needed.
                spare = len(examples) - (part.get_config("fewshot_split") == part.get_config("test_split"))
                if spare < wanted:
                    cause = f"{name}: {wanted} few-shot examples requested, {max(spare, 0)} available"
                    raise BenchmarkError(cause, f"use --num-fewshot {max(spare, 0)}")
    except UsageError as error:
        raise BenchmarkError(error.cause, error.remedy) from error
    except (StopIteration, IndexError) as error:  # `datasets` on an empty JSON file, and lm-eval on an empty split
        raise BenchmarkError(f"{task}: {_NO_ITEMS}", _CHECK_DATA) from error
    except (*hub.http_errors(), DatasetsError, ImportError, KeyError, ValueError, RuntimeError) as error:
        # `datasets` describes what happened only in the error's cause.
        texts = [str(each) or type(each).__name__ for each in (error, error.__cause__) if each is not None]
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, ImportError):
            remedy = "install the package that the task needs"
        elif "gated" in str(error).lower() or status in (401, 403):
            remedy = "ask for access on the data set's page on the hub, then set HF_TOKEN"
        elif isinstance(error, (ConnectionError, *hub.client_errors())) or status is not None:
            remedy = "the hub is unreachable or failing: check the network and HF_ENDPOINT, then run again"
        elif "doesn't exist on the Hub" in str(error):
            remedy = "check the task's dataset_path; a private data set needs HF_TOKEN"
        else:
            remedy = _CHECK_DATA
        one_line = " ".join(": ".join(dict.fromkeys(texts)).split())
        raise BenchmarkError(f"{task}: {one_line}", remedy) from error
    if not loaded["tasks"]:
        raise BenchmarkError(f"{task}: lm-eval has no task in that group", "check the group's YAML")
    return loaded


@dataclass
class _ProgressHook:
    """In place of lm-eval's request cache: both adapters call it for each finished request."""

    tasks: Sequence[Any]
    progress: base.Progress
    done: int = 0
    total: int = 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Count one request; before the first one, lm-eval has built all of them."""
        self.total = self.total or sum(instance.repeats for task in self.tasks for instance in task.instances)
        self.done += 1
        self.progress(self.done, max(self.done, self.total), "requests")


def _measurement(
    task: str, output: Mapping[str, Any], config: AccuracyConfig, batch_size: int, duration_s: float, asked: _Asked
) -> Measurement:
    """The record, items and notes of a task, from lm-eval's output."""
    from lm_eval.utils import hash_string

    rows_of, configs, shots = output["samples"], output["configs"], output["n-shot"]
    samples = [
        item for leaf, rows in rows_of.items() for item in _items(leaf, rows, configs.get(leaf, {}).get("output_type"))
    ]
    if not samples:
        raise BenchmarkError(f"{task}: lm-eval returned no items", "check the task's data set and --limit")
    # What is not a finite number, such as lm-eval's "N/A", is None.
    scores = {
        part: {key: _finite(value) for key, value in reported.items() if "," in key}
        for part, reported in output["results"].items()
    }
    name = task if task in scores or len(rows_of) > 1 else next(iter(rows_of))  # a tag of one task is that task
    metrics = scores.get(name, {})
    headline = headline_metric(task, metrics, *_listed(configs.get(name, {})))
    directions = output.get("higher_is_better", {})
    accuracy, stderr = metrics.get(headline or ""), metrics.get((headline or "").replace(",", "_stderr,", 1))
    clustered_stderr, interval = uncertainty(samples, headline, accuracy, stderr)

    def members(part: str) -> list[str]:
        children = output["group_subtasks"].get(part)
        if not children:
            return [part] if part in rows_of else []
        return [leaf for child in children for leaf in members(child)]

    subtasks: dict[str, dict[str, Any]] = {}
    for part, scored in scores.items():
        if part == name:
            continue
        leaves = members(part)
        counts = [len({row["doc_id"] for row in rows_of[leaf]}) for leaf in leaves]
        subtasks[part] = {**scored, "num_items": sum(counts), "num_fewshot": shots.get(part)}
        if part not in rows_of:  # a subgroup lists its members
            subtasks[part]["subtasks"] = leaves
        if headline is None:
            listed, filters = _listed(configs.get(part, {}))
            subtasks[part] |= {"listed": listed, "filters": filters, "higher_is_better": directions.get(part, {})}
    # lm-eval's hash of a task's items, prompts and targets, as its own command writes it.
    hashes = {
        leaf: str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))
        for leaf, rows in rows_of.items()
    }
    used = {leaf: shots.get(leaf) for leaf in rows_of}
    record = AccuracyMetrics(
        task=task,
        accuracy=accuracy,
        metric=headline,
        higher_is_better=directions.get(name, {}).get((headline or "").split(",")[0]),
        stderr=stderr,
        clustered_stderr=clustered_stderr,
        intervals={} if interval is None else {"accuracy": interval},
        num_items=len(samples),
        num_fewshot=next(iter(used.values())) if len(set(used.values())) == 1 else None,
        limit=config.limit,
        batch_size=batch_size,
        apply_chat_template=config.apply_chat_template,
        thinking=None if config.thinking is None else config.thinking.value,
        max_model_len=asked.window,
        truncated_requests=asked.cut,
        prompts_without_turns=0 if asked.template is None else asked.template.prompts,
        unfinished_thoughts=None if asked.thoughts is None else asked.thoughts.cut,
        metrics=metrics,
        subtasks=subtasks,
        task_versions=dict(output["versions"]),
        task_hashes=hashes,
        duration_seconds=duration_s,
    )
    notes = []
    if headline is None:
        notes.append(f"{task}: lm-eval computes no metric over its subtasks: they are shown in its place")
    unknown = [key for key, value in metrics.items() if value is None and "_stderr," not in key]
    notes += [f"{task}: {key} is not a finite number" for key in unknown]
    others = [f"{leaf}: {count}" for leaf, count in used.items() if count != config.num_fewshot]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(f"{task}: few-shot examples are fixed by the task ({', '.join(others[:3])}{more})")
    notes += prompts.notes(task, asked.cut, asked.window, asked.template)
    notes += [] if asked.thoughts is None else asked.thoughts.notes(task)
    return Measurement(record, tuple(samples), tuple(notes))


def _listed(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The metrics and the filters of a task's configuration, in their order."""
    metrics, filters = config.get("metric_list") or (), config.get("filter_list") or ()
    return [str(entry.get("metric")) for entry in metrics], [str(entry.get("name")) for entry in filters]


def uncertainty(
    items: Sequence[Mapping[str, Any]], metric: str | None, accuracy: float | None, stderr: float | None
) -> tuple[float | None, tuple[float, float] | None]:
    """The sampling uncertainty of an accuracy, from the scores of its items.

    If each item is right (1) or wrong (0): Wilson's interval. Over several subtasks: accuracy ± 1.96 clustered
    standard errors, subtasks being the clusters (Miller, arXiv 2411.00640), if that is wider; within 0 and 1. If items
    are graded: accuracy ± 1.96 standard errors, the larger one of the two.

    An accuracy that is not the mean of the items' scores under `metric` has no uncertainty here: an F1, a perplexity, a
    mean over subtasks of different size. `stderr` is its standard error as lm-eval gives it.

    Returns:
        Its standard error if items of a subtask may succeed and fail together (None for one task); and its 95 %
        interval in its unit (None if it cannot be computed from the items).
    """
    from slim_eval.stats import clustered_stderr, wilson_interval

    scores = [_finite(item.get(metric or "")) for item in items]
    known = [score for score in scores if score is not None]
    if accuracy is None or not known or len(known) < len(scores):
        return None, None
    if abs(math.fsum(known) / len(known) - accuracy) > _SAME_MEAN:
        return None, None
    tasks = [str(item["task"]) for item in items]
    clustered = clustered_stderr(known, tasks) if len(set(tasks)) > 1 else None
    if set(known) <= {0.0, 1.0}:
        wilson = wilson_interval(int(sum(known)), len(known))
        half_width = _NORMAL_95 * (clustered or 0.0)
        if 2 * half_width <= wilson.high - wilson.low:
            return clustered, (wilson.low, wilson.high)
        return clustered, (max(accuracy - half_width, 0.0), min(accuracy + half_width, 1.0))
    errors = [error for error in (stderr, clustered) if error is not None]
    if not errors:
        return clustered, None
    return clustered, (accuracy - _NORMAL_95 * max(errors), accuracy + _NORMAL_95 * max(errors))


def _items(task: str, rows: Iterable[Mapping[str, Any]], kind: str | None) -> list[dict[str, Any]]:
    """One row per item of a (sub)task, from lm-eval's rows per item and filter; `kind` is the task's output type."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        item = found.get(row["doc_id"])
        if item is None:
            item = {"task": task, **{key: row[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")}}
            item["target"] = _plain(row["target"])
            if kind in lm_eval_tasks.LOGLIKELIHOOD_TYPES:
                # A choice's answer is (log-likelihood, is greedy); a rolling one's is the log-likelihood alone.
                answers = [repeats[0] for repeats in row["resps"]]
                item["loglikelihoods"] = [_plain(x[0] if isinstance(x, (tuple, list)) else x) for x in answers]
            else:
                repeats = row["resps"][0]
                item["response"] = _plain(repeats[0] if len(repeats) == 1 else repeats)
                item["extracted"] = {}
            found[row["doc_id"]] = item
        item.update({f"{metric},{row['filter']}": _plain(row[metric]) for metric in row["metrics"]})
        if "extracted" in item:
            item["extracted"][row["filter"]] = _plain(row["filtered_resps"][0])
    return list(found.values())


def _finite(value: Any) -> float | None:
    """A finite number as float; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A value as JSON represents it; NumPy and torch values as Python numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def _keep_templates() -> None:
    """Let lm-eval compile each Jinja template of a task once; it would for every item and every example.

    A template takes a millisecond to compile, and a prompt of mmlu with five examples has a dozen: of a full mmlu that
    is minutes.
    """
    from lm_eval import utils

    if not hasattr(utils.env.from_string, "cache_info"):
        utils.env.from_string = functools.lru_cache(maxsize=1024)(utils.env.from_string)


@functools.lru_cache(maxsize=4)
def _task_manager(include_path: Path | None, builtin: Path | None = None) -> Any:
    """lm-eval's index of the embedded model's tasks and the user's, and of its own only those in a folder.

    Of all its folders it would read 14,000 files, which takes ten seconds in each worker.
    """
    from lm_eval.tasks import TaskManager

    if not hasattr(TaskManager, "load"):
        raise MissingPackageError(
            "lm_eval", "the accuracy benchmark, with lm-eval 0.4.12 or newer,", lm_eval_tasks.INSTALL
        )
    folders = [folder for folder in (builtin, TASKS_DIR, include_path) if folder is not None]
    return TaskManager(include_path=folders, include_defaults=False)
