"""lm-eval's result file, ``results_{date}.json``, with the ``samples_{task}_{date}.jsonl`` beside it.

Older layouts are brought into today's by `lm_eval_versions`.

As in ``loggers/evaluation_tracker.py`` of lm-eval 0.4.13. Scores, standard errors, few-shot counts, versions and
hashes mean the same as in slim-eval's own records, which come from the same harness. The samples contain answers as
texts; they are converted back to numbers, so that imported items pair with slim-eval's own. Not taken is
``total_evaluation_time_seconds``, which covers all tasks and the loading of the model.

A record is made for each task and group that is not a member of another one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from slim_eval.metrics import headline_metric
from slim_eval.recognise import FP32, Marked, adapter_of, of_config, of_options
from slim_eval.results.importers import lm_eval_versions as versions
from slim_eval.results.importers.importer import (
    IMPORTERS,
    MAX_NUMBER,
    Count,
    ForeignFile,
    ForeignObject,
    Format,
    ImportedRecord,
    Importer,
    Number,
    OptionalText,
    Text,
    abbreviated,
    inner,
    utc,
)
from slim_eval.results.records import AccuracyMetrics
from slim_eval.schemes import DEFAULT_BASELINE
from slim_eval.utils import safe_json

_CHOICE_TYPES = {"multiple_choice", "loglikelihood", "loglikelihood_rolling"}
# In lm-eval's own order.
_MODEL_KEYS = ("delta", "pretrained", "model", "path", "engine")
_ENGINES = {"hf": "transformers", "vllm": "vllm"}
_PLAIN = {**dict.fromkeys(("float16", "bfloat16", "half", "fp16", "bf16"), DEFAULT_BASELINE)}
_PLAIN |= dict.fromkeys(("float32", "float", "fp32"), FP32)
_SETTINGS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "bootstrap_iters", "gen_kwargs")
_GPU = re.compile(r"\bGPU \d+: (.+)$", re.MULTILINE)
_CPU = re.compile(r"^\s*Model name:\s*(.+)$", re.MULTILINE)


def _arguments(value: Any) -> dict[str, Any]:
    """``model_args``: an object, in older versions ``key=value,…``."""
    if isinstance(value, dict) or value in (None, ""):
        return value or {}
    if not isinstance(value, str):
        raise ValueError(f"is {str(value)[:40]}, not a string")
    return {key.strip(): text.strip() for key, _, text in (part.partition("=") for part in _parts(value))}


def _parts(text: str) -> list[str]:
    """What commas separate; those within brackets do not: ``quantization_config={"bits":4,"group_size":128}``."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and depth:
            quote = character
        elif character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if depth == 0 and not quote else text.split(",")


def _scores(value: Any) -> Any:
    """Metrics and standard errors of a (sub)task; None if one is not a finite number, like lm-eval's "N/A"."""
    if not isinstance(value, dict):
        return value
    numbers = {key: isinstance(score, (int, float)) and not isinstance(score, bool) for key, score in value.items()}
    return {key: _finite(value[key]) if is_number else None for key, is_number in numbers.items() if "," in key}


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    """A number of examples; None if it is not one."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value <= MAX_NUMBER and value == int(value) else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


_NULL_AS_EMPTY = BeforeValidator(lambda value: {} if value is None else value)
_Name = Annotated[str, BeforeValidator(str)]
#: lm-eval writes it as a text, and ``auto`` if it was found while running.
_BatchSize = Annotated[
    int | None,
    BeforeValidator(lambda value: int(value) if isinstance(value, (int, str)) and str(value).isdigit() else None),
]


class _Task(ForeignObject):
    output_type: OptionalText = None
    metric_list: Any = None
    filter_list: Any = None

    @property
    def listed(self) -> dict[str, Any]:
        """Its metrics in their order, each with whether higher is better: None if the task does not say."""
        return {str(entry.get("metric")): entry.get("higher_is_better") for entry in _objects(self.metric_list)}

    @property
    def filters(self) -> list[str]:
        """Its filters in their order."""
        return [str(entry.get("name")) for entry in _objects(self.filter_list)]


class _NumItems(ForeignObject):
    effective: Count


class _Sample(ForeignObject, extra="allow"):
    """One item and filter of a task; scores are further fields, named in `metrics`."""

    doc_id: Count
    # The next five are not in every version: see `lm_eval_versions`.
    filter: Text | None = None
    metrics: list[Any] | None = None
    doc_hash: Text | None = None
    prompt_hash: Text | None = None
    target_hash: Text | None = None
    target: Any = None
    resps: list[Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    filtered_resps: list[Any]


class _Results(ForeignObject):
    """The result file; dicts are by (sub)task."""

    results: dict[str, Annotated[dict[str, float | None], BeforeValidator(_scores)]]
    config: Annotated[dict[str, Any], _NULL_AS_EMPTY] = Field(default_factory=dict)
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)] = inner("config.model_args", {})
    num_parameters: Count | None = inner("config.model_num_parameters", None)
    model_sha: OptionalText = inner("config.model_sha", None)
    batch_size: _BatchSize = inner("config.batch_size", None)
    limit: Number | None = inner("config.limit", None)
    configs: Annotated[dict[str, Annotated[_Task, _NULL_AS_EMPTY]], _NULL_AS_EMPTY] = Field(default_factory=dict)
    versions: Annotated[dict[str, Any], _NULL_AS_EMPTY] = Field(default_factory=dict)
    num_fewshot: Annotated[dict[str, Annotated[int | None, BeforeValidator(_whole)]], _NULL_AS_EMPTY] = Field(
        default_factory=dict, alias="n-shot"
    )
    # Group -> members. A task that is not a group has an empty list in some versions, and no entry in others.
    group_subtasks: Annotated[dict[str, list[_Name]], _NULL_AS_EMPTY] = Field(default_factory=dict)
    # (Sub)task -> metric -> whether higher is better; null for a group whose tasks disagree.
    directions: Annotated[dict[str, Any], _NULL_AS_EMPTY] = Field(default_factory=dict, alias="higher_is_better")
    # None before 0.4.3.
    num_items: dict[str, _NumItems] | None = Field(default=None, alias="n-samples")
    task_hashes: Annotated[dict[str, OptionalText], _NULL_AS_EMPTY] = Field(default_factory=dict)
    date: Number | None = None
    lm_eval_version: OptionalText = None
    transformers_version: OptionalText = None
    model_source: Any = None
    chat_template: Any = None
    fewshot_as_multiturn: Any = None
    system_instruction: Any = None
    system_instruction_sha: Any = None
    pretty_env_info: OptionalText = None

    def below(self, group: str) -> list[str]:
        """Every member of a group and of its subgroups, each once."""
        found: dict[str, None] = {}
        waiting = [*self.group_subtasks.get(group, ())]
        while waiting:
            if (member := waiting.pop(0)) not in found:
                found[member] = None
                waiting = [*self.group_subtasks.get(member, ()), *waiting]
        return [member for member in found if member in self.results]

    def higher_is_better(self, task: str, metric: str) -> bool | None:
        """What the file says of a task's metric, given without its filter; None if nothing, or if tasks disagree."""
        stated = self.directions.get(task)
        own = stated.get(metric) if isinstance(stated, dict) else None
        parts = (task, *self.leaves(task))
        found = {own} if isinstance(own, bool) else {self.configs.get(p, _Task()).listed.get(metric) for p in parts}
        known = [value for value in found if isinstance(value, bool)]
        return known[0] if len(known) == 1 else None

    def headline(self, task: str) -> str | None:
        """The metric that a task or group is known by; None if it has none."""
        config = self.configs.get(task, _Task())
        return headline_metric(task, self.results[task], [*config.listed], config.filters)

    def leaves(self, name: str) -> list[str]:
        """The tasks of a group that are not groups; the task itself if it is not a group."""
        if not self.group_subtasks.get(name):
            return [name]
        return [member for member in self.below(name) if not self.group_subtasks.get(member)]


def _model(output: _Results) -> tuple[str | None, str | None, Marked, dict[str, Any]]:
    """What the file contains of the model: its name, its scheme, what marks it as quantized, and a record's head.

    A 16-bit dtype means the baseline's scheme, unless an option, a name, or the checkpoint if that is a folder of this
    machine, shows that the model is quantized. An adapter is a model of its own, made from the one that it changes.
    """
    config, arguments = output.config, output.arguments
    served = next((str(arguments[key]) for key in _MODEL_KEYS if arguments.get(key)), None)
    adapter = adapter_of(arguments)
    model = adapter or served
    dtype = str(config.get("model_dtype") or arguments.get("dtype") or "").removeprefix("torch.").removesuffix("auto")
    backend = str(output.model_source or config.get("model"))
    marked = of_options(arguments, backend=backend)
    if not marked.marker and re.fullmatch(r"u?int\d+", dtype):
        marked = replace(marked, marker=f"model_dtype={dtype}")  # packed weights, of any number of bits
    if not marked.marker and served is not None:
        try:
            checkpoint = safe_json.read_json(Path(served) / "config.json")
        except (OSError, ValueError):
            checkpoint = None
        quantization = checkpoint.get("quantization_config") if isinstance(checkpoint, dict) else None
        if isinstance(quantization, dict):
            marked = replace(marked, marker=f"{served}/config.json", scheme=of_config(quantization))
    scheme = None if model is None else marked.name(_PLAIN.get(dtype))
    # Of a quantized model lm-eval counts packed weights.
    parameters = None if marked.marker else output.num_parameters if scheme is not None else None
    machine = output.pretty_env_info or ""
    cpu = _CPU.search(machine)
    versions = {"lm_eval": output.lm_eval_version, "transformers": output.transformers_version}
    head = {
        "timestamp": utc(output.date),
        "base_model": served if adapter is not None else None,
        "revision": output.model_sha,
        "engine": _ENGINES.get(backend),
        "engine_version": output.transformers_version if backend == "hf" else None,
        "dtype": dtype or None,
        "num_parameters": parameters or None,
        "num_parameters_b": parameters / 1e9 if parameters else None,
        "environment": {
            "cpu": cpu[1].strip() if cpu else None,
            "gpus": [{"name": name.strip()} for name in _GPU.findall(machine)],
            "packages": {name: version for name, version in versions.items() if version},
        },
    }
    return model, scheme, marked, head


def _record(
    file: ForeignFile, document: dict[str, Any], output: _Results, task: str, samples: dict[str, ForeignFile]
) -> ImportedRecord:
    """A task or group with its items; `samples` by (sub)task."""
    scores, below, leaves, limit = output.results[task], output.below(task), output.leaves(task), output.limit
    headline = output.headline(task)
    subtasks: dict[str, dict[str, Any]] = {}
    for name in below:
        parts = output.leaves(name)
        numbers = {"num_items": _num_items(file, output, parts), "num_fewshot": output.num_fewshot.get(name)}
        # As in slim-eval's own records: a subgroup lists its tasks.
        group = {"subtasks": parts} if output.group_subtasks.get(name) else {}
        subtasks[name] = {**output.results[name], **numbers, **group}
        if headline is None:
            listed = dict.fromkeys(key.split(",")[0] for key in output.results[name])
            member = output.configs.get(name, _Task())
            subtasks[name] |= {
                "listed": [*member.listed], "filters": member.filters,
                "higher_is_better": {metric: output.higher_is_better(name, metric) for metric in listed},
            }  # fmt: skip
    missing = [leaf for leaf in leaves if leaf not in samples]
    items = [] if missing else [item for leaf in leaves for item in _items(file, output, leaf, samples[leaf])]
    shots = {output.num_fewshot.get(leaf) for leaf in leaves}
    accuracy = AccuracyMetrics(
        task=task,
        accuracy=scores.get(headline or ""),
        metric=headline,
        higher_is_better=output.higher_is_better(task, headline.split(",")[0]) if headline else None,
        stderr=scores.get((headline or "").replace(",", "_stderr,", 1)),
        num_items=len(items) if items and output.num_items is None else _num_items(file, output, leaves),
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        limit=int(limit) if limit is not None and limit >= 1 else limit,
        batch_size=output.batch_size,
        apply_chat_template=bool(output.chat_template),
        metrics=scores,
        subtasks=subtasks,
        task_versions={name: output.versions[name] for name in (task, *below) if name in output.versions},
        task_hashes={leaf: digest for leaf in leaves if (digest := output.task_hashes.get(leaf)) is not None},
    )
    notes = []
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        notes.append(f"no samples of {missing[0]}{more} beside it (--log_samples): its items cannot be paired")
    if headline is None and not below:
        notes.append(f"{task}: the file contains no score of it")
    elif headline is None:
        notes.append(f"{task}: lm-eval computes no metric over its subtasks: they are shown in its place")
    unknown = [key for key, value in scores.items() if value is None and "_stderr," not in key]
    for key in unknown:
        value = document["results"][task][key]
        problem = "a text, not a number" if isinstance(value, str) and value != "N/A" else "not a finite number"
        notes.append(f"{task}: {key} is {abbreviated(value)}, {problem}: no score")
    if limit is not None and limit < 1:
        notes.append(f"{task}: limited to a share of {limit:g} of each subtask's items")
    if output.system_instruction:
        notes.append(f"{task}: prompts begin with the user's system instruction")
    config = {
        **{key: output.config[key] for key in _SETTINGS if output.config.get(key) is not None},
        "num_fewshot": accuracy.num_fewshot,
        "limit": limit,
        "apply_chat_template": accuracy.apply_chat_template,
        "fewshot_as_multiturn": output.fewshot_as_multiturn,
        "system_instruction_sha": output.system_instruction_sha,
    }
    version, (model, scheme, marked, head) = output.lm_eval_version, _model(output)
    return ImportedRecord(
        "lm-eval", accuracy, version, model, scheme, marked, config=config, head=head, samples=items, notes=notes
    )


def _num_items(file: ForeignFile, output: _Results, leaves: Sequence[str]) -> int | None:
    if output.num_items is None:
        return None
    for leaf in leaves:
        if leaf not in output.num_items:
            raise file.error(f"n-samples.{leaf}", "is missing")
    return sum(output.num_items[leaf].effective for leaf in leaves)


def _items(file: ForeignFile, output: _Results, leaf: str, samples: ForeignFile) -> list[dict[str, Any]]:
    """One row per item of a (sub)task; the file has one line per item and filter."""
    is_choice = output.configs.get(leaf, _Task()).output_type in _CHOICE_TYPES
    shown = {key.partition(",")[2] for key in output.results.get(leaf, ())}
    filters = output.configs.get(leaf, _Task()).filters or (list(shown) if len(shown) == 1 else [])
    items: dict[int, dict[str, Any]] = {}
    seen: Counter[int] = Counter()
    for place, sample in samples.rows(_Sample):
        item = items.get(sample.doc_id)
        if item is None:
            item = items[sample.doc_id] = {
                "task": leaf, "doc_id": sample.doc_id, **_hashes(samples, place, sample), "target": sample.target,
            }  # fmt: skip
            if not is_choice:
                first = sample.resps[0]
                item |= {"response": first[0] if len(first) == 1 else first, "extracted": {}}
            else:
                # The answer of a choice is [log-likelihood, is greedy], of a rolling one the log-likelihood alone.
                # lm-eval writes it as a text; -inf becomes None, as in slim-eval's own samples.
                item["loglikelihoods"] = []
                for answer, *_ in sample.resps:
                    value = answer[0] if isinstance(answer, list) and answer else answer
                    try:
                        item["loglikelihoods"].append(_finite(value))
                    except (TypeError, ValueError):
                        problem = f"contains {str(value)[:40]!r}, not a log-likelihood"
                        raise samples.error(f"{place}.resps", problem) from None
        name = sample.filter
        if name is None and sample.metrics is not None:
            raise samples.error(f"{place}.filter", "is missing")
        if name is None:
            # One line per filter, in the task's order.
            if (turn := seen[sample.doc_id]) >= len(filters):
                if not filters:
                    raise samples.error(f"{place}.filter", f"is missing, and {file.path.name} does not list {leaf}'s")
                problem = f"is {sample.doc_id} again, but the number of filters of {leaf} is {len(filters)}"
                raise samples.error(f"{place}.doc_id", problem)
            name = filters[turn]
            seen[sample.doc_id] += 1
        extra = sample.model_extra or {}
        scored = [key for key in extra if key not in versions.SAMPLE_FIELDS]
        for metric in scored if sample.metrics is None else sample.metrics:
            score = extra.get(str(metric))
            is_missing = isinstance(score, float) and not math.isfinite(score)
            item[f"{metric},{name}"] = None if is_missing else score
        if "extracted" in item:
            item["extracted"][name] = next(iter(sample.filtered_resps), None)
    if (expected := _num_items(file, output, [leaf])) is not None and len(items) != expected:
        name = samples.path.name
        raise file.error(f"n-samples.{leaf}.effective", f"is {expected}, but {name} contains {len(items)} items")
    return list(items.values())


def _hashes(samples: ForeignFile, place: str, sample: _Sample) -> dict[str, str]:
    """The three hashes by which items pair; computed as lm-eval does where an older version did not write them."""
    content = {**(sample.model_extra or {}), "target": sample.target}
    found = {
        "doc_hash": sample.doc_hash or versions.doc_hash(content),
        "prompt_hash": sample.prompt_hash or versions.prompt_hash(content),
        "target_hash": sample.target_hash or versions.target_hash(content),
    }
    for key, value in found.items():
        if value is None:
            raise samples.error(f"{place}.{key}", "is missing")
    return {key: value for key, value in found.items() if value is not None}


class LmEval(Importer):
    """lm-eval's result file."""

    name = "lm-eval"
    companions = ("samples_*.jsonl", "samples_*.json", "pretrained__*.jsonl")
    formats = (
        Format("0.4.7 and newer", "results_*.json, samples_*.jsonl", "scores, settings, answers per item"),
        Format("0.4.3 to 0.4.6", "results_*.json, samples_*.jsonl or .json", "the same; filters by their order"),
        Format("0.4.0 to 0.4.2", "results.json, pretrained__*.jsonl", "the same; number of items from the samples"),
        Format("0.3 and older", "any .json file", "scores and settings; `acc` is named `acc,none`"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By two of its parts, which are in every version; lighteval's files have them too."""
        fields = file.fields.keys()
        return len({"results", "versions", "configs", "n-shot"} & fields) >= 2 and "config_general" not in fields

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per task, and per group that is not a member of another one."""
        for document in file.objects():
            document = versions.upgraded(document)
            output = file.validate(_Results, document)
            members = {member for group in output.group_subtasks.values() for member in group}
            tasks = [name for name in output.results if name not in members]
            if not tasks:
                raise file.error("results", "names no task")
            model_arguments = output.config.get("model_args")
            found = versions.samples_files(file.path, model_arguments)
            samples = {task: file.beside(path.name) for task, path in found.items()}
            yield from (_record(file, document, output, task, samples) for task in tasks)


IMPORTERS.register(LmEval())
