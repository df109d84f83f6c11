"""The accuracy benchmark: an lm-eval task, its metrics as lm-eval gives them, and the outcome of every item.

The harness is lm-eval's own `TaskManager.load` and `evaluate`, called as `simple_evaluate` calls them. That function
itself is not used because it collects a report on the environment after each task, which takes seconds. A test checks
that scores and items equal those of the command ``lm_eval``.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slim_eval.benchmarks.base import NO_NUMBERS, Benchmark, BenchmarkContext, Progress
from slim_eval.config import AccuracyConfig, RunConfig
from slim_eval.demo import TASKS_DIR
from slim_eval.engines import memory
from slim_eval.engines.engine import Engine
from slim_eval.errors import BenchmarkError, EngineError, MissingPackageError, UsageError
from slim_eval.metrics import HEADLINE_METRICS
from slim_eval.results.records import AccuracyMetrics, AccuracyRecord, Measurement
from slim_eval.utils import did_you_mean, files_hash

#: Properties of a task that rule it out -> why.
_UNSUPPORTED = {
    "UNSAFE_CODE": "runs code that the model writes, which slim-eval does not do",
    "MULTIMODAL": "needs images or sound, but slim-eval serves only text",
}

_DEFINITION = re.compile(
    rb"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*["']?([^\s"'#\[\]{}]+)["']?[ \t\r]*(?:#.*)?$""", re.MULTILINE
)
_NO_ITEMS = "its data set has no items"
_CHECK_DATA = "check the task's dataset_path, dataset_name and splits"
_INSTALL = 'pip install "lm-eval>=0.4.12"'
_LESS_MEMORY = (
    "lower --max-model-len or --num-fewshot (with vLLM also --gpu-memory-utilization), serve int8 or int4, or use a "
    "larger device"
)
_LOGLIKELIHOOD_TYPES = {"multiple_choice", "loglikelihood", "loglikelihood_rolling"}
_NORMAL_95 = 1.96  # standard errors to each side of a 95 % interval
_SAME_MEAN = 1e-6
_log = logging.getLogger(__name__)


class Accuracy(Benchmark[AccuracyConfig, AccuracyRecord]):
    """lm-eval tasks, one record each."""

    name = "accuracy"
    options = AccuracyConfig
    record = AccuracyRecord
    modules = ("lm_eval",)
    keeps_samples = True

    def stages(self, config: RunConfig) -> tuple[str, ...]:
        """The tasks."""
        return config.accuracy.tasks

    def run(self, context: BenchmarkContext[AccuracyConfig]) -> Measurement:
        """Evaluate the task; see the function `run`."""
        return run(context.engine, context.stage, context.options, context.seed, context.progress)

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
            "include_path": None if part.include_path is None else f"sha256:{_tasks_hash(part.include_path)}",
        }

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """The task's own batch size."""
        return config.accuracy.batch_size_of(stage)

    def flaw(self, record: AccuracyRecord, config: RunConfig) -> str:
        """A record without any metric is not a result."""
        return NO_NUMBERS if all(value is None for value in (record.accuracy, *record.metrics.values())) else ""

    def check(self, config: RunConfig, stages: Sequence[str]) -> None:
        """Refuse unknown tasks; see `check_tasks`."""
        check_tasks(stages, config.accuracy.include_path)

    def limitations(self, config: RunConfig) -> tuple[str, ...]:
        """The smallest drop that a limit on the items leaves visible."""
        limit = config.accuracy.limit
        if limit is None:
            return ()
        from slim_eval.stats import minimum_detectable_drop

        points = 100 * minimum_detectable_drop(limit)
        return (
            f"--accuracy-limit {limit}: with {limit} items per (sub)task, drops under about {points:.0f} points cannot "
            "be detected (80 % power, if 10 % of the answers flip)",
        )


def check_tasks(tasks: Sequence[str], include_path: Path | None) -> None:
    """Refuse names that are not an lm-eval task, group or tag, before hours of work.

    A text search of the task files finds the usual names in about a second. Only for a name that it does not find,
    lm-eval's own index is built, which takes about ten: it also has names that files inherit from each other.

    Args:
        tasks: Names to look up.
        include_path: A folder with further task files; its tasks take precedence.

    Raises:
        UsageError: A name is unknown (the nearest ones are shown), or `include_path` is not a folder.
        MissingPackageError: lm-eval is not installed.
    """
    if include_path is not None and not include_path.is_dir():
        raise UsageError(
            f"--include-path: {include_path} is not a folder", "give the folder that contains the task YAML"
        )
    folders = [_lm_eval_tasks(), TASKS_DIR, *([include_path] if include_path else [])]
    known = set[str]().union(*map(_defined_names, folders))
    if set(tasks) <= known:
        return
    known.update(_task_manager(include_path, builtin=True).all_tasks)
    for task in tasks:
        if task not in known:
            raise UsageError(
                f"unknown lm-eval task: {task}",
                did_you_mean(task, known) or "list the known ones: lm_eval ls tasks",
            )


def run(engine: Engine, task: str, config: AccuracyConfig, seed: int, progress: Progress) -> Measurement:
    """Evaluate one task, group or tag.

    Few-shot follows lm-eval: `config.num_fewshot` replaces a task's own number, unless the task fixes it at 0; the
    record and each subtask contain the number used. `config.limit` counts items of each (sub)task, from the first.

    If a batch does not fit in memory, the task starts over with half as many items per batch, down to 1, with a note
    each time; the record's ``batch_size`` is the one that fitted.

    Every sample is one item: ``task`` (the subtask), ``doc_id``, ``doc_hash``, ``prompt_hash``, ``target_hash``,
    ``target``, one key ``metric,filter`` per metric; for choices ``loglikelihoods`` in nats, one per choice; for
    generated answers ``response`` and ``extracted``, the answer that each filter found.

    Args:
        engine: The loaded model.
        task: Name of the task.
        config: How it is run.
        seed: 0 gives lm-eval's default seeds (0 for Python, 1234 for NumPy, torch and few-shot); n adds n to each.
        progress: Called with the number of the model's requests that are done.

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
                raise BenchmarkError(
                    f"{task}: out of memory at accuracy batch size 1" + (f": {short}" if short else ""), _LESS_MEMORY
                ) from error
        else:
            return replace(measured, notes=(*notes, *measured.notes))
        # Only here: the error's traceback kept alive what the batch had allocated.
        memory.empty_caches()
        notes.append(f"accuracy batch size {size} did not fit in memory: {smaller}")
        _log.warning("%s: %s%s", task, notes[-1], f" ({short})" if short else "")
    raise AssertionError("batch size 1 either fits or is an error")


def _run(
    engine: Engine, task: str, config: AccuracyConfig, seed: int, progress: Progress, batch_size: int
) -> Measurement:
    """The whole task at one batch size; data and few-shot examples are drawn again, so that each try is the same."""
    loaded = _load(task, config, seed)
    model = engine.lm_eval_model(batch_size)
    if config.apply_chat_template and not model.chat_template(True):
        raise BenchmarkError("the model's tokenizer has no chat template", "omit --apply-chat-template")
    if hook := getattr(model, "set_cache_hook", None):
        hook(_ProgressHook(list(loaded["tasks"].values()), progress))
    start = time.perf_counter()
    output = _evaluate(model, loaded, config)
    duration_s = time.perf_counter() - start
    return _Reading(task, output, config, batch_size).measurement(duration_s)


def _load(task: str, config: AccuracyConfig, seed: int) -> Any:
    """The task's data and prompts, with lm-eval's `tasks` and `groups`; checked before the model sees any of it."""
    _lm_eval_tasks()
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(1234 + seed)
    torch.manual_seed(1234 + seed)
    with _translated(task):
        loaded = _manager_of(task, config.include_path).load([task])
        for name, part in loaded["tasks"].items():
            if part.get_config("num_fewshot") != 0:
                part.set_config(key="num_fewshot", value=config.num_fewshot)
            part.set_fewshot_seed(seed=1234 + seed)
            _check(name, part)
    if not loaded["tasks"]:
        raise BenchmarkError(f"{task}: lm-eval has no task in that group", "check the group's YAML")
    return loaded


def _evaluate(model: Any, loaded: Any, config: AccuracyConfig) -> Any:
    """lm-eval's `evaluate` with the settings of its own command."""
    from lm_eval.evaluator import evaluate

    return evaluate(
        lm=model,
        task_dict=loaded,
        limit=config.limit,
        cache_requests=False,  # lm-eval's cache does not distinguish models or schemes
        log_samples=True,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.apply_chat_template,
    )


def _check(name: str, task: Any) -> None:
    for attribute, reason in _UNSUPPORTED.items():
        if getattr(task, attribute, False):
            raise BenchmarkError(f"{name} {reason}", "remove it from --accuracy-tasks")
    if len(task.eval_docs) == 0:
        raise BenchmarkError(f"{name}: {_NO_ITEMS}", _CHECK_DATA)
    wanted = task.get_config("num_fewshot")
    examples = task.fewshot_docs() if wanted else None
    if isinstance(examples, Sized):
        # An item is never its own example: if both come from one split, one more is needed.
        spare = len(examples) - (task.get_config("fewshot_split") == task.get_config("test_split"))
        if spare < wanted:
            raise BenchmarkError(
                f"{name}: {wanted} few-shot examples requested, {max(spare, 0)} available",
                f"use --num-fewshot {max(spare, 0)}",
            )


class _ProgressHook:
    """In place of lm-eval's request cache: both adapters call it for each finished request."""

    def __init__(self, tasks: Sequence[Any], progress: Progress) -> None:
        self._tasks = tasks
        self._progress = progress
        self._done = 0
        self._total: int | None = None

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Count one request; before the first one, lm-eval has built all of them."""
        if self._total is None:
            self._total = sum(instance.repeats for task in self._tasks for instance in task.instances)
        self._done += 1
        self._progress(self._done, max(self._done, self._total), "requests")


@dataclass(frozen=True)
class _Reading:
    """lm-eval's output for one task, from which a record is made."""

    task: str
    output: Mapping[str, Any]
    config: AccuracyConfig
    batch_size: int

    def measurement(self, duration_s: float) -> Measurement:
        samples = [sample for name in self._leaves for sample in self._items(name)]
        if not samples:
            raise BenchmarkError(f"{self.task}: lm-eval returned no items", "check the task's data set and --limit")
        metrics = self._metrics(self._name)
        headline = self._headline(metrics)
        accuracy, stderr = metrics.get(headline or ""), metrics.get((headline or "").replace(",", "_stderr,", 1))
        spread = uncertainty(samples, headline, accuracy, stderr)
        used = {self.output["n-shot"].get(leaf) for leaf in self._leaves}
        record = AccuracyMetrics(
            task=self.task,
            accuracy=accuracy,
            metric=headline,
            stderr=stderr,
            clustered_stderr=spread.clustered_stderr,
            intervals={} if spread.interval is None else {"accuracy": spread.interval},
            num_items=len(samples),
            num_fewshot=used.pop() if len(used) == 1 else None,
            limit=self.config.limit,
            batch_size=self.batch_size,
            apply_chat_template=self.config.apply_chat_template,
            metrics=metrics,
            subtasks={name: self._subtask(name) for name in self.output["results"] if name != self._name},
            task_versions=dict(self.output["versions"]),
            task_hashes={name: self._hash(name) for name in self._leaves},
            duration_seconds=duration_s,
        )
        return Measurement(record, tuple(samples), tuple(self._notes(metrics, headline)))

    @property
    def _leaves(self) -> list[str]:
        return list(self.output["samples"])

    @property
    def _name(self) -> str:
        """The name lm-eval reports the task under; a tag of one task is reported as that task."""
        return self.task if self.task in self.output["results"] or len(self._leaves) > 1 else self._leaves[0]

    def _metrics(self, name: str) -> dict[str, float | None]:
        """Metrics and stderrs of a (sub)task; None for what is not a finite number, such as lm-eval's "N/A"."""
        reported = self.output["results"].get(name, {})
        return {key: _finite(value) for key, value in reported.items() if "," in key}

    def _headline(self, metrics: Mapping[str, Any]) -> str | None:
        if (known := HEADLINE_METRICS.get(self.task)) in metrics:
            return known
        values = [key for key in metrics if "_stderr," not in key]
        listed = self.output["configs"].get(self._name, {}).get("metric_list") or [{}]
        first = [key for key in values if key.startswith(f"{listed[0].get('metric')},")]
        return next(iter(first + values), None)

    def _subtask(self, name: str) -> dict[str, Any]:
        """A subtask, or a subgroup, which lists its members under ``subtasks``."""
        leaves = self._members(name)
        entry: dict[str, Any] = {
            **self._metrics(name),
            "num_items": sum(self._count(leaf) for leaf in leaves),
            "num_fewshot": self.output["n-shot"].get(name),
        }
        return entry if name in self._leaves else {**entry, "subtasks": leaves}

    def _members(self, name: str) -> list[str]:
        children = self.output["group_subtasks"].get(name)
        if not children:
            return [name] if name in self._leaves else []
        return [leaf for child in children for leaf in self._members(child)]

    def _count(self, leaf: str) -> int:
        return len({sample["doc_id"] for sample in self.output["samples"][leaf]})

    def _hash(self, leaf: str) -> str:
        """lm-eval's hash of a task's items, prompts and targets, as its own command writes it."""
        from lm_eval.utils import hash_string

        rows = self.output["samples"][leaf]
        return str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))

    def _items(self, leaf: str) -> list[dict[str, Any]]:
        kind = self.output["configs"].get(leaf, {}).get("output_type")
        return _items(leaf, self.output["samples"][leaf], kind)

    def _notes(self, metrics: Mapping[str, float | None], headline: str | None) -> Iterator[str]:
        if headline is None:
            yield f"{self.task}: lm-eval computes no metric over its subtasks"
        for key, value in metrics.items():
            if value is None and "_stderr," not in key:
                yield f"{self.task}: {key} is not a finite number"
        others = {leaf: n for leaf in self._leaves if (n := self.output["n-shot"].get(leaf)) != self.config.num_fewshot}
        if others:
            counts = ", ".join(f"{leaf}: {n}" for leaf, n in list(others.items())[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            yield f"{self.task}: few-shot examples are fixed by the task ({counts}{more})"


@dataclass(frozen=True)
class Uncertainty:
    """The sampling uncertainty of an accuracy.

    Attributes:
        clustered_stderr: Its standard error if items of a subtask may succeed and fail together; None for one task.
        interval: 95 %, in the unit of the accuracy; None if it cannot be computed from the items.
    """

    clustered_stderr: float | None = None
    interval: tuple[float, float] | None = None


def uncertainty(
    items: Sequence[Mapping[str, Any]], metric: str | None, accuracy: float | None, stderr: float | None
) -> Uncertainty:
    """The sampling uncertainty of an accuracy, from the scores of its items.

    If each item is right (1) or wrong (0): Wilson's interval. Over several subtasks: accuracy ± 1.96 clustered
    standard errors, subtasks being the clusters (Miller, arXiv 2411.00640), if that is wider; within 0 and 1. If items
    are graded: accuracy ± 1.96 standard errors, the larger one of the two.

    Args:
        items: One row per item, with ``task`` and its score under `metric`.
        metric: Name of the headline metric.
        accuracy: Its value. One that is not the mean of the items' scores has no uncertainty here: an F1, a perplexity,
            a mean over subtasks of different size.
        stderr: Its standard error as lm-eval gives it.
    """
    from slim_eval.stats import clustered_stderr

    scores = [_finite(item.get(metric or "")) for item in items]
    known = [score for score in scores if score is not None]
    if accuracy is None or not known or len(known) < len(scores):
        return Uncertainty()
    if abs(math.fsum(known) / len(known) - accuracy) > _SAME_MEAN:
        return Uncertainty()
    tasks = [str(item["task"]) for item in items]
    clustered = clustered_stderr(known, tasks) if len(set(tasks)) > 1 else None
    if set(known) <= {0.0, 1.0}:
        return Uncertainty(clustered, _binomial_interval(known, accuracy, clustered))
    errors = [error for error in (stderr, clustered) if error is not None]
    return Uncertainty(clustered, _normal_interval(accuracy, max(errors)) if errors else None)


def _binomial_interval(scores: Sequence[float], accuracy: float, clustered: float | None) -> tuple[float, float]:
    from slim_eval.stats import wilson_interval

    wilson = wilson_interval(int(sum(scores)), len(scores))
    if clustered is not None and 2 * _NORMAL_95 * clustered > wilson.high - wilson.low:
        low, high = _normal_interval(accuracy, clustered)
        return max(low, 0.0), min(high, 1.0)
    return wilson.low, wilson.high


def _normal_interval(value: float, stderr: float) -> tuple[float, float]:
    return value - _NORMAL_95 * stderr, value + _NORMAL_95 * stderr


def _items(task: str, rows: Iterable[Mapping[str, Any]], kind: str | None) -> list[dict[str, Any]]:
    """One row per item of a (sub)task, from lm-eval's rows per item and filter; `kind` is the task's output type."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        item = found.setdefault(row["doc_id"], _item(task, row, kind))
        item.update({f"{metric},{row['filter']}": _plain(row[metric]) for metric in row["metrics"]})
        if "extracted" in item:
            item["extracted"][row["filter"]] = _plain(row["filtered_resps"][0])
    return list(found.values())


def _item(task: str, row: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """The part of an item that does not depend on the filter."""
    item = {"task": task, **{key: row[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")}}
    item["target"] = _plain(row["target"])
    if kind in _LOGLIKELIHOOD_TYPES:
        # A choice's answer is (log-likelihood, is greedy); a rolling one's is the log-likelihood alone.
        answers = [repeats[0] for repeats in row["resps"]]
        item["loglikelihoods"] = [_plain(x[0] if isinstance(x, (tuple, list)) else x) for x in answers]
    else:
        repeats = row["resps"][0]
        item["response"] = _plain(repeats[0] if len(repeats) == 1 else repeats)
        item["extracted"] = {}
    return item


def _finite(value: Any) -> float | None:
    """A finite number as float; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A value as JSON represents it; NumPy and torch values as Python numbers."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if isinstance(value, (int, float)) else str(value)


def _tasks_hash(folder: Path) -> str:
    """SHA-256 of the task files in a folder, without hidden files and what Python leaves there."""
    inside = ((path, path.relative_to(folder).parts) for path in sorted(folder.rglob("*")) if path.is_file())
    files = (path for path, parts in inside if not any(part.startswith(".") or part == "__pycache__" for part in parts))
    return files_hash(folder, files)


def _lm_eval_tasks() -> Path:
    """The folder of lm-eval's task files, found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError("lm_eval", "the accuracy benchmark", _INSTALL)
    return Path(spec.submodule_search_locations[0]) / "tasks"


@functools.lru_cache(maxsize=8)
def _defined_names(folder: Path) -> frozenset[str]:
    """Names that task files write out as their task, group or tag; inherited ones are not found."""
    texts: Iterable[bytes] = (path.read_bytes() for path in folder.rglob("*.yaml") if path.is_file())
    return frozenset(name.decode("utf-8", "replace") for text in texts for name in _DEFINITION.findall(text))


def _manager_of(task: str, include_path: Path | None) -> Any:
    """The index to load a task from: a small one if it has all that the task needs, else lm-eval's whole one.

    A group of the user's own may name lm-eval's tasks; a plain task names no other, nor do the embedded model's groups.
    """
    small = _task_manager(include_path, builtin=False)
    if task in small.all_subtasks or task in _defined_names(TASKS_DIR):
        return small
    return _task_manager(include_path, builtin=True)


@functools.lru_cache(maxsize=4)
def _task_manager(include_path: Path | None, *, builtin: bool) -> Any:
    """lm-eval's index, with the embedded model's tasks and the user's; of its own tasks only with `builtin`."""
    from lm_eval.tasks import TaskManager

    if not hasattr(TaskManager, "load"):
        raise MissingPackageError("lm_eval", "the accuracy benchmark, with lm-eval 0.4.12 or newer,", _INSTALL)
    extra = [include_path] if include_path is not None else []
    return TaskManager(include_path=[TASKS_DIR, *extra], include_defaults=builtin)


@contextmanager
def _translated(task: str) -> Iterator[None]:
    """Translate what lm-eval, `datasets` and the hub raise while a task is loaded into a cause and a remedy."""
    import httpx
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (StopIteration, IndexError) as error:  # `datasets` on an empty JSON file, and lm-eval on an empty split
        raise BenchmarkError(f"{task}: {_NO_ITEMS}", _CHECK_DATA) from error
    except ImportError as error:
        raise BenchmarkError(f"{task}: {_one_line(error)}", "install the package that the task needs") from error
    except (OSError, DatasetsError, httpx.HTTPError, KeyError, ValueError, RuntimeError) as error:
        raise BenchmarkError(f"{task}: {_one_line(error)}", _remedy(error)) from error


def _remedy(error: BaseException) -> str:
    import httpx

    status = getattr(getattr(error, "response", None), "status_code", None)
    if "gated" in str(error).lower() or status in (401, 403):
        return "ask for access on the data set's page on the hub, then set HF_TOKEN"
    if isinstance(error, (ConnectionError, httpx.TransportError)) or status is not None:
        return "the hub is unreachable or failing: check the network and HF_ENDPOINT, then run again"
    if "doesn't exist on the Hub" in str(error):
        return "check the task's dataset_path; a private data set needs HF_TOKEN"
    return _CHECK_DATA


def _one_line(error: BaseException) -> str:
    """An error's text with that of its cause: `datasets` describes what happened only in the latter."""
    texts = [str(each) or type(each).__name__ for each in (error, error.__cause__) if each is not None]
    return " ".join(": ".join(dict.fromkeys(texts)).split())
