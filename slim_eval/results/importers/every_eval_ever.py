"""Every Eval Ever's aggregate files: scores of one model, by whichever harness measured them.

The package every-eval-ever validates a file of its own schema version; a file of another version is read by the fields
that it shares with that one. Its converters make such files of the logs of Inspect AI, HELM and lm-eval. Of what
slim-eval exported (`results.exchange`), the record comes back.

The outcomes of single items are in ``{name}_samples.jsonl`` beside a file. An item is known by lm-eval's hash of its
document if the converter kept it, else by the schema's hash of prompt and reference. They are left out if they do not
give the task's own score: the lm-eval converter puts the items of one subtask beside a group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Json, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from slim_eval.metrics import headline_metric
from slim_eval.recognise import of_name, says_quantized
from slim_eval.results.exchange import SETTING_DETAILS, SOURCE, module
from slim_eval.results.importers.importer import (
    IMPORTERS,
    Count,
    ForeignFile,
    ForeignObject,
    Format,
    ImportedRecord,
    Importer,
    Number,
    OptionalText,
    Text,
    inner,
    utc,
)
from slim_eval.results.records import AccuracyMetrics
from slim_eval.schemes import DEFAULT_BASELINE

_SIXTEEN_BIT = re.compile(r"(torch\.)?(b?float16|half|[fb]p?16)$", re.IGNORECASE)
#: lm-eval's hashes of an item, as its converter keeps them.
_HASHES = ("doc_hash", "prompt_hash", "target_hash")
_SAME_MEAN = 1e-6
_LM_EVAL = {"lm_eval", "lm-eval", "lm-evaluation-harness"}
#: Kinds of metric that are shares of right answers: in percent, they become shares.
_SHARES = {"accuracy", "pass_rate", "exact_match"}


def _or_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


#: A detail that another writer may use for anything: what does not fit is unknown.
_Unsure = WrapValidator(_or_none)
_OptionalText = Annotated[OptionalText, _Unsure]
_Whole = Annotated[Json[Count] | None, _Unsure]
_Real = Annotated[Json[Number] | None, _Unsure]
_Engine = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: value if isinstance(value, dict) else {"name": value} if value else {}),
]


class _EeeModel(ForeignObject):
    id: Text
    name: OptionalText = None
    engine: _Engine = Field(default_factory=dict, alias="inference_engine")
    details: dict[str, str] = Field(default_factory=dict, alias="additional_details")


class _Facts(ForeignObject):
    """Details of a model."""

    precision: _OptionalText = None
    quantization: _OptionalText = None
    base_model: _OptionalText = None
    baseline: _OptionalText = None
    revision: _OptionalText = None
    sha: _OptionalText = None  # as the package's converter of lm-eval calls it
    dtype: _OptionalText = None
    kernels: _OptionalText = None
    kernel_error: _Real = None
    num_parameters: _Whole = None
    model_size_gb: _Real = None
    hardware: _OptionalText = None


class _Settings(ForeignObject):
    """Details of how a score was measured."""

    num_fewshot: _Whole = None
    limit: Annotated[Json[Count | Number] | None, _Unsure] = None
    batch_size: _Whole = None
    thinking: _OptionalText = None
    apply_chat_template: Annotated[Json[bool] | None, _Unsure] = None
    max_model_len: _Whole = None
    truncated_requests: _Whole = None
    prompts_without_turns: _Whole = None
    unfinished_thoughts: _Whole = None


class _Score(ForeignObject):
    """Details of a score and of its source."""

    group: _OptionalText = None
    subtasks: Annotated[Json[list[str]] | None, _Unsure] = None
    headline: _OptionalText = None
    clustered_stderr: _Real = None
    task_versions: Annotated[Json[dict[str, Any]] | None, _Unsure] = None
    task_hashes: Annotated[Json[dict[str, str]] | None, _Unsure] = None


def _details(path: str) -> Any:
    return inner(path, None)


class _Result(ForeignObject):
    name: Text = Field(alias="evaluation_name")
    id: OptionalText = Field(None, alias="evaluation_result_id")
    score: Number = inner("score_details.score")
    lower_is_better: bool = inner("metric_config.lower_is_better")
    metric_name: OptionalText = inner("metric_config.metric_name", None)
    metric_id: OptionalText = inner("metric_config.metric_id", None)
    metric_kind: OptionalText = inner("metric_config.metric_kind", None)
    metric_unit: OptionalText = inner("metric_config.metric_unit", None)
    max_score: Any = inner("metric_config.max_score", None)
    stderr: Annotated[Number | None, _Unsure] = inner("score_details.uncertainty.standard_error.value", None)
    lower: Annotated[Number | None, _Unsure] = inner("score_details.uncertainty.confidence_interval.lower", None)
    upper: Annotated[Number | None, _Unsure] = inner("score_details.uncertainty.confidence_interval.upper", None)
    level: Annotated[Number | None, _Unsure] = inner(
        "score_details.uncertainty.confidence_interval.confidence_level", None
    )
    num_samples: Annotated[Count | None, _Unsure] = inner("score_details.uncertainty.num_samples", None)
    metric_details: dict[str, str] | None = _details("metric_config.additional_details")
    score_details: dict[str, str] | None = _details("score_details.details")
    source_details: dict[str, str] | None = _details("source_data.additional_details")
    setting_details: dict[str, str] | None = _details("generation_config.additional_details")
    generation: dict[str, Any] | None = _details("generation_config.generation_args")

    @property
    def filter(self) -> str:
        """What distinguishes results of one metric: lm-eval's filter, HELM's split and perturbation; or nothing."""
        return (self.id or "").rpartition("/")[2].partition(":")[2]

    @property
    def task(self) -> str:
        """The (sub)task: the name without the filter, which converters and slim-eval append."""
        return self.name.removesuffix(f"/{self.filter}") if self.filter else self.name

    def metric(self, library: str | None) -> str:
        """The metric, of lm-eval by its name there: ``exact_match,flexible-extract``."""
        if own := (self.metric_details or {}).get("metric"):
            return own
        used = self.filter or ("none" if library in _LM_EVAL else "")
        return f"{self.metric_name or self.metric_id or 'score'}{',' if used else ''}{used}"

    @property
    def factor(self) -> float:
        """What its numbers are multiplied by: shares of right answers may be given in percent."""
        is_share = self.metric_kind in _SHARES or (self.metric_name or "").lower() in _SHARES
        return 0.01 if is_share and (self.metric_unit == "percent" or self.max_score == 100) else 1.0


class _EeeRow(ForeignObject):
    """One item under one metric."""

    name: Text = Field(alias="evaluation_name")
    result_id: OptionalText = Field(None, alias="evaluation_result_id")
    sample_id: str
    sample_hash: OptionalText = None
    score: Number = inner("evaluation.score")
    metadata: dict[str, str] | None = None


class _EeeLog(ForeignObject):
    schema_version: OptionalText = None
    model: _EeeModel = Field(alias="model_info")
    results: list[_Result] = Field(alias="evaluation_results", min_length=1)
    evaluated: OptionalText = Field(None, alias="evaluation_timestamp")
    library: OptionalText = inner("eval_library.name", None)
    library_version: OptionalText = inner("eval_library.version", None)
    source: OptionalText = inner("source_metadata.source_name", None)
    source_details: dict[str, str] | None = inner("source_metadata.additional_details", None)


class _Notes(ForeignObject):
    notes: Annotated[Json[list[str]] | None, _Unsure] = None


def _model(log: _EeeLog) -> tuple[str, str | None, dict[str, Any]]:
    """Name of the model, name of its scheme if the file says so, and the rest of the head of its records."""
    facts = _Facts.model_validate(log.model.details)
    model, scheme = log.model.id, facts.precision
    is_own = log.source == SOURCE
    if is_own and log.model.name:
        model = log.model.name
    elif scheme is None or _SIXTEEN_BIT.match(scheme):
        stated = scheme or facts.dtype or ""
        is_quantized = (facts.quantization or "none").lower() not in ("none", "no", "false")
        is_quantized |= of_name(model) is not None or says_quantized(model)  # then the dtype is that of activations
        is_plain = _SIXTEEN_BIT.match(stated) and not is_quantized
        scheme = DEFAULT_BASELINE if is_plain else None
    evaluated = log.evaluated
    if evaluated is not None and re.fullmatch(r"\d+(\.\d+)?", evaluated):
        evaluated = utc(float(evaluated))
    head = {
        "timestamp": evaluated,
        "base_model": None if facts.base_model == model else facts.base_model,
        "baseline": facts.baseline,
        "quantization_scheme": facts.quantization,
        "revision": facts.revision or facts.sha,
        "engine": log.model.engine.get("name", "").lower() or None,
        "engine_version": log.model.engine.get("version"),
        "dtype": (facts.dtype or "").removeprefix("torch.") or None,
        "kernels": facts.kernels,
        "kernel_error": facts.kernel_error,
        "num_parameters": facts.num_parameters or None,
        "num_parameters_b": facts.num_parameters / 1e9 if facts.num_parameters else None,
        "model_size_gb": facts.model_size_gb,
        "environment": {"gpus": [{"name": facts.hardware}]} if facts.hardware else None,
    }
    return model, scheme, head


_Results = dict[str, _Result]  # by metric


def _scores(results: _Results) -> dict[str, float | None]:
    """Metrics and standard errors, as a record has them."""
    found: dict[str, float | None] = {}
    for metric, result in results.items():
        found[metric] = result.score * result.factor
        if result.stderr is not None and "," in metric:  # a record has no key for that of another metric
            found[metric.replace(",", "_stderr,", 1)] = result.stderr * result.factor
    return found


def _items(file: ForeignFile, log: _EeeLog) -> dict[str, list[dict[str, Any]]]:
    """The items of each (sub)task, from the file of samples; an item that was answered several times has no score."""
    samples = file.beside(f"{file.path.stem}_samples.jsonl")
    if not samples.path.is_file():
        return {}
    by_id = {result.id: result for result in log.results if result.id}
    by_name = {result.name: result for result in log.results}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, row in samples.rows(_EeeRow):
        result = by_id.get(row.result_id) if row.result_id else by_name.get(row.name)
        if result is None:
            continue
        hashes = {key: text for key in _HASHES if (text := (row.metadata or {}).get(key))}
        own = {"task": result.task, "doc_id": row.sample_id, "doc_hash": row.sample_hash or row.sample_id, **hashes}
        item, metric = found.setdefault((result.task, row.sample_id), own), result.metric(log.library)
        item[metric] = None if metric in item else row.score * result.factor
    items: dict[str, list[dict[str, Any]]] = {}
    for (task, _), item in found.items():
        items.setdefault(task, []).append(item)
    return items


def _record(
    task: str, results: _Results, parts: Mapping[str, _Results], log: _EeeLog, items: Mapping[str, list[dict[str, Any]]]
) -> ImportedRecord:
    """A task and, if it is a group, its subtasks."""
    marked = (metric for metric, result in results.items() if _facts(result).headline == "true")
    usual = headline_metric(task, results, [metric.split(",")[0] for metric in results])
    metric = next(marked, usual or next(iter(results), None))
    headline = None if metric is None else results[metric]
    first = headline or next(iter(next(iter(parts.values())).values()))
    settings, found, notes = _settings(first), _facts(headline), list[str]()
    interval = None
    if headline is not None and headline.lower is not None and headline.upper is not None:
        if headline.level is not None and abs(headline.level - 0.95) < 1e-9:
            interval = (headline.lower * headline.factor, headline.upper * headline.factor)
        else:
            level = "does not state its level" if headline.level is None else f"is at {headline.level:g}, not at 0.95"
            notes.append(f"{task}: its confidence interval {level}: left out")
    if any(result.factor != 1 for result in results.values()):
        notes.append(f"{task}: given in percent, recorded as a share")
    subtasks: dict[str, dict[str, Any]] = {}
    for name, members in parts.items():
        one = next(iter(members.values()))
        numbers = {"num_items": one.num_samples, "num_fewshot": _settings(one).num_fewshot}
        below = _facts(one).subtasks
        subtasks[name] = {**_scores(members), **numbers, **({} if below is None else {"subtasks": below})}
    accuracy = AccuracyMetrics(
        task=task,
        accuracy=None if headline is None else headline.score * headline.factor,
        metric=metric,
        higher_is_better=None if headline is None else not headline.lower_is_better,
        stderr=None if headline is None or headline.stderr is None else headline.stderr * headline.factor,
        clustered_stderr=found.clustered_stderr,
        intervals={} if interval is None else {"accuracy": interval},
        num_items=None if headline is None else headline.num_samples,
        num_fewshot=settings.num_fewshot,
        **{key: getattr(settings, key) for key in SETTING_DETAILS},
        metrics=_scores(results),
        subtasks=subtasks,
        task_versions=found.task_versions or {},
        task_hashes=found.task_hashes or {},
    )
    samples = [item for name in (task, *parts) for item in items.get(name, ())]
    scores = [item.get(metric or "") for item in samples]
    known = [score for score in scores if score is not None]
    of_all = len(known) == len(samples) and accuracy.num_items in (None, len(samples))
    if samples and not (of_all and abs(math.fsum(known) / len(known) - (accuracy.accuracy or 0)) < _SAME_MEAN):
        notes.append(f"{task}: its samples do not give its score: left out")
        samples = []
    model, scheme, head = _model(log)
    kept = _Notes.model_validate(log.source_details or {}).notes if log.source == SOURCE else None
    config = {
        "eval_library": {"name": log.library, "version": log.library_version or "unknown"} if log.library else None,
        "generation": first.generation,
        "num_fewshot": settings.num_fewshot,
        "limit": settings.limit,
    }
    return ImportedRecord(
        "every-eval-ever", accuracy, log.schema_version, model, scheme, config=config, head=head,
        samples=samples, notes=[*(kept or ()), *notes],
    )  # fmt: skip


def _settings(result: _Result) -> _Settings:
    return _Settings.model_validate(result.setting_details or {})


def _facts(result: _Result | None) -> _Score:
    return _Score.model_validate({**(result.score_details or {}), **(result.source_details or {})} if result else {})


class EveryEvalEver(Importer):
    """An aggregate file of Every Eval Ever."""

    name = "every-eval-ever"
    companions = ("*_samples.jsonl",)
    formats = (Format("any version of the schema", "*.json, *_samples.jsonl", "scores, settings, answers per item"),)

    def detects(self, file: ForeignFile) -> bool:
        """By two of its parts, which are in every version."""
        return {"model_info", "evaluation_results"} <= file.fields.keys()

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per task that is not a subtask of another one in the file."""
        for document in file.objects():
            self._validate(file, document)
            log = file.validate(_EeeLog, document)
            tasks: dict[str, _Results] = {}
            parts: dict[str, dict[str, _Results]] = {}
            for number, result in enumerate(log.results):
                group = _facts(result).group
                of_task = (tasks if group is None else parts.setdefault(group, {})).setdefault(result.task, {})
                metric = result.metric(log.library)
                if metric in of_task:
                    raise file.error(f"evaluation_results[{number}]", f"is another {metric} of {result.task}")
                of_task[metric] = result
            items = _items(file, log)
            for task in dict.fromkeys((*tasks, *parts)):
                yield _record(task, tasks.get(task, {}), parts.get(task, {}), log, items)

    @staticmethod
    def _validate(file: ForeignFile, document: Mapping[str, Any]) -> None:
        """Refuse a file of the package's own schema version that is not valid by it."""
        types, version = module("eval_types"), module("validator").get_schema_version()
        if document.get("schema_version") != version:
            return
        try:
            types.EvaluationLog.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise file.error(place, f"does not fit Every Eval Ever's schema {version}: {first['msg']}") from error


IMPORTERS.register(EveryEvalEver())
