"""lm-eval's result file, ``results_{date}.json``, with the ``samples_{task}_{date}.jsonl`` that stand beside it.

Read from ``loggers/evaluation_tracker.py`` of lm-eval 0.4.13. Scores, standard errors, few-shot counts, versions and
hashes mean what they mean in slim-eval's own records, which come from the same harness. The samples hold answers as
texts; they become numbers again, so that imported items pair with slim-eval's own. What is not taken:
``total_evaluation_time_seconds`` is that of all tasks and of loading the model.

A record is made for each task and group that is no member of another one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slim_eval.benchmarks.accuracy import HEADLINE_METRICS
from slim_eval.results.importers.findings import Finding, Given, Source, is_sixteen_bit, utc
from slim_eval.results.importers.reading import MAX_NUMBER, Fields, load_lines
from slim_eval.results.records import AccuracyMetrics

_CHOICE_TYPES = {"multiple_choice", "loglikelihood", "loglikelihood_rolling"}
_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.\-]+)$")
# In lm-eval's own order: an adapter is named before the model that it changes.
_MODEL_KEYS = ("peft", "delta", "pretrained", "model", "path", "engine")
_ENGINES = {"hf": "transformers", "vllm": "vllm"}
_SETTINGS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "bootstrap_iters", "gen_kwargs")
_GPU = re.compile(r"\bGPU \d+: (.+)$", re.MULTILINE)
_CPU = re.compile(r"^\s*Model name:\s*(.+)$", re.MULTILINE)


def results(fields: Fields, source: Source, given: Given) -> list[Finding]:
    """Every task of a result file that is no member of another one.

    Raises:
        ResultFileError: A field is missing or of another kind, a headline score is no number, or the samples are not
            those of this run.
    """
    source = replace(source, version=fields.text_or_none("lm_eval_version"))
    output = _Output(fields, _beside(source.path))
    return [output.finding(task, source) for task in output.tasks]


def _beside(path: Path) -> dict[str, Path]:
    """The samples' files of a run, by (sub)task: they carry the date of the result file."""
    if (match := _DATE.search(path.stem)) is None:
        return {}
    ending = f"_{match[1]}.jsonl"
    files = sorted(path.parent.glob("samples_*.jsonl"))
    return {f.name.removeprefix("samples_").removesuffix(ending): f for f in files if f.name.endswith(ending)}


@dataclass(frozen=True)
class _Output:
    """A result file and its samples' files."""

    fields: Fields
    samples: Mapping[str, Path]

    @property
    def tasks(self) -> list[str]:
        children = {name for names in self._groups.values() for name in names}
        found = [name for name in self.fields.child("results").content if name not in children]
        if not found:
            raise self.fields.error("results", "names no task")
        return found

    @property
    def _groups(self) -> dict[str, list[str]]:
        """Group -> members; a task that is no group has an empty list in some versions, and no entry in others."""
        groups = self.fields.child_or_empty("group_subtasks")
        return {name: [str(member) for member in groups.items(name)] for name in groups.content}

    def finding(self, task: str, source: Source) -> Finding:
        leaves = self._leaves(task)
        reported = self.fields.child("results").child(task)
        metrics = _metrics(reported)
        headline = self._headline(task, metrics)
        if headline is not None and metrics[headline] is None:
            raise reported.error(headline, f"is {reported.get(headline)}, not a finite number")
        items, notes = self._items(leaves)
        shots = {self.fields.child("n-shot").count_or_none(leaf) for leaf in leaves}
        config = self.fields.child("config")
        limit = config.number_or_none("limit")
        hashes = self.fields.child_or_empty("task_hashes")
        accuracy = AccuracyMetrics(
            task=task,
            accuracy=metrics.get(headline or ""),
            metric=headline,
            stderr=metrics.get((headline or "").replace(",", "_stderr,", 1)),
            num_items=self._count(leaves),
            num_fewshot=shots.pop() if len(shots) == 1 else None,
            limit=int(limit) if limit is not None and limit >= 1 else None,
            batch_size=_integer(config.get("batch_size")),
            apply_chat_template=bool(self.fields.get("chat_template")),
            metrics=metrics,
            subtasks={name: self._subtask(name) for name in self._below(task)},
            task_versions=self._versions([task, *self._below(task)]),
            task_hashes={leaf: hashes.text(leaf) for leaf in leaves if hashes.get(leaf) is not None},
        )
        model, precision, head = self._model()
        return Finding(
            source,
            accuracy,
            model,
            precision,
            setting=task,
            config={
                **{key: config.get(key) for key in _SETTINGS if config.get(key) is not None},
                "num_fewshot": accuracy.num_fewshot,
                "limit": limit,
                "apply_chat_template": accuracy.apply_chat_template,
                "fewshot_as_multiturn": self.fields.get("fewshot_as_multiturn"),
                "system_instruction_sha": self.fields.get("system_instruction_sha"),
            },
            head=head,
            samples=items,
            notes=[*notes, *self._notes(task, metrics, headline, limit)],
        )

    def _model(self) -> tuple[str | None, str | None, dict[str, Any]]:
        """Name, precision as far as the file says it, and what else it says of the model."""
        config = self.fields.child("config")
        arguments = _arguments(config)
        model = next((str(arguments[key]) for key in _MODEL_KEYS if arguments.get(key)), None)
        dtype = str(config.get("model_dtype") or arguments.get("dtype") or "").removeprefix("torch.")
        dtype = "" if dtype == "auto" else dtype
        precision = _loaded_precision(arguments) or ("fp16" if is_sixteen_bit(model, dtype or None) else None)
        backend = str(self.fields.get("model_source") or config.get("model"))
        parameters = config.count_or_none("model_num_parameters") if precision == "fp16" else None
        head = {
            "timestamp": utc(self.fields.number_or_none("date")),
            "revision": config.text_or_none("model_sha"),
            "engine": _ENGINES.get(backend),
            "engine_version": self.fields.text_or_none("transformers_version") if backend == "hf" else None,
            "dtype": dtype or None,
            "num_parameters": parameters or None,  # of a quantized model lm-eval counts packed weights
            "num_parameters_b": parameters / 1e9 if parameters else None,
            "environment": _environment(self.fields),
        }
        return model, precision, head

    def _headline(self, task: str, metrics: Mapping[str, float | None]) -> str | None:
        """The metric that the task is known by, else the first that it lists."""
        if (known := HEADLINE_METRICS.get(task)) in metrics:
            return known
        values = [key for key in metrics if "_stderr," not in key]
        listed = self.fields.child("configs").child_or_empty(task).get("metric_list") or [{}]
        first = [key for key in values if isinstance(listed[0], dict) and key.startswith(f"{listed[0].get('metric')},")]
        return next(iter(first + values), None)

    def _below(self, name: str) -> list[str]:
        """Everything below a group, subgroups too, each once."""
        groups, found = self._groups, dict[str, None]()
        waiting = list(groups.get(name, ()))
        while waiting:
            if (member := waiting.pop(0)) not in found:
                found[member] = None
                waiting = [*groups.get(member, ()), *waiting]
        return [member for member in found if member in self.fields.child("results").content]

    def _leaves(self, name: str) -> list[str]:
        leaves = [member for member in self._below(name) if not self._groups.get(member)]
        return leaves if self._groups.get(name) else [name]

    def _subtask(self, name: str) -> dict[str, Any]:
        """A subtask, or a subgroup, which lists its members under ``subtasks``; as in slim-eval's own records."""
        leaves = self._leaves(name)
        entry: dict[str, Any] = {
            **_metrics(self.fields.child("results").child(name)),
            "num_items": self._count(leaves),
            "num_fewshot": self.fields.child("n-shot").get(name),
        }
        return {**entry, "subtasks": leaves} if self._groups.get(name) else entry

    def _versions(self, names: list[str]) -> dict[str, Any]:
        versions = self.fields.child("versions").content
        return {name: versions[name] for name in names if name in versions}

    def _count(self, leaves: list[str]) -> int:
        samples = self.fields.child("n-samples")
        return sum(samples.child(leaf).count("effective") for leaf in leaves)

    def _items(self, leaves: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """One row an item, of all subtasks or of none, and what is to be said of it."""
        missing = [leaf for leaf in leaves if leaf not in self.samples]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return [], [f"no samples of {missing[0]}{more} beside it (--log_samples): its items cannot be paired"]
        return [item for leaf in leaves for item in self._items_of(leaf)], []

    def _items_of(self, leaf: str) -> list[dict[str, Any]]:
        kind = self.fields.child("configs").child_or_empty(leaf).text_or_none("output_type")
        items: dict[int, dict[str, Any]] = {}
        for row in load_lines(self.samples[leaf]):
            name = row.text("filter")
            item = items.setdefault(row.count("doc_id"), _item(leaf, row, kind))
            for metric in row.items("metrics"):
                item[f"{metric},{name}"] = _plain(row.get(str(metric)))
            if "extracted" in item:
                item["extracted"][name] = next(iter(row.items("filtered_resps")), None)
        expected = self._count([leaf])
        if len(items) != expected:
            raise self.fields.error(
                f"n-samples.{leaf}.effective", f"is {expected}, but {self.samples[leaf].name} holds {len(items)} items"
            )
        return list(items.values())

    def _notes(
        self, task: str, metrics: Mapping[str, float | None], headline: str | None, limit: float | None
    ) -> Iterator[str]:
        if headline is None:
            yield f"{task}: lm-eval works out no metric over its subtasks"
        for key, value in metrics.items():
            if value is None and "_stderr," not in key:
                yield f"{task}: {key} is not a finite number"
        if limit is not None and limit < 1:
            yield f"{task}: limited to a share of {limit:g} of each subtask's items"
        if self.fields.get("system_instruction"):
            yield f"{task}: prompts begin with a system instruction of the user's"


def _item(leaf: str, row: Fields, kind: str | None) -> dict[str, Any]:
    """What an item has whatever the filter."""
    item: dict[str, Any] = {"task": leaf, "doc_id": row.count("doc_id")}
    item |= {key: row.text(key) for key in ("doc_hash", "prompt_hash", "target_hash")}
    item["target"] = row.get("target")
    answers = row.items("resps")
    if not all(isinstance(repeats, list) and repeats for repeats in answers) or not answers:
        raise row.error("resps", "holds no answers")
    if kind in _CHOICE_TYPES:
        # A choice's answer is (log-likelihood, is greedy); a rolling one's is the log-likelihood alone.
        firsts = [repeats[0] for repeats in answers]
        item["loglikelihoods"] = [_number(row, x[0] if isinstance(x, list) and x else x) for x in firsts]
    else:
        item["response"] = answers[0][0] if len(answers[0]) == 1 else answers[0]
        item["extracted"] = {}
    return item


def _number(row: Fields, value: Any) -> float | None:
    """A log-likelihood, which lm-eval writes as text; -inf becomes None, as in slim-eval's own samples."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise row.error("resps", f"holds {str(value)[:40]!r} in place of a log-likelihood") from None
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """An item's score; no finite number becomes None, which is left out of pairs."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metrics(reported: Fields) -> dict[str, float | None]:
    """Metrics and standard errors; what is no finite number is None, as is lm-eval's "N/A"."""
    return {key: _finite(value) for key, value in reported.content.items() if "," in key}


def _finite(value: Any) -> float | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER:
        return float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _arguments(config: Fields) -> dict[str, Any]:
    """``model_args``: an object, in older versions ``key=value,…``."""
    value = config.get("model_args")
    if isinstance(value, dict):
        return value
    if value in (None, ""):
        return {}
    pairs = [part.partition("=") for part in config.text("model_args").split(",")]
    return {key.strip(): text.strip() for key, _, text in pairs}


def _loaded_precision(arguments: Mapping[str, Any]) -> str | None:
    """The precision that the weights were brought to while loading (bitsandbytes)."""
    for key, precision in (("load_in_8bit", "int8"), ("load_in_4bit", "int4")):
        if str(arguments.get(key)).lower() == "true":
            return precision
    return None


def _integer(value: Any) -> int | None:
    """lm-eval writes a batch size as text, and ``auto`` for one that it found itself."""
    return int(value) if isinstance(value, (int, str)) and str(value).isdigit() else None


def _environment(fields: Fields) -> dict[str, Any]:
    described = fields.text_or_none("pretty_env_info") or ""
    versions = {"lm_eval": fields.get("lm_eval_version"), "transformers": fields.get("transformers_version")}
    cpu = _CPU.search(described)
    return {
        "cpu": cpu[1].strip() if cpu else None,
        "gpus": [{"name": name.strip()} for name in _GPU.findall(described)],
        "packages": {name: version for name, version in versions.items() if version},
    }
