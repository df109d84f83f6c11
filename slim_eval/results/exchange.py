"""Results in the schema of Every Eval Ever (arXiv 2606.14516), through its own package: `slim-eval export`.

The schema describes evaluations: one file per accuracy record, with a score, its uncertainty and its settings for every
metric of the task and of its subtasks. What it has no field for goes to its ``additional_details``, under slim-eval's
own names and as text, so that `importers.every_eval_ever` restores the record. The package validates every file before
it is written.

A checkpoint that was quantized is not the model that it was made from: it gets an id of its own, ``org/name_int4``, and
names its base model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from slim_eval._version import __version__
from slim_eval.config import ExportConfig
from slim_eval.errors import MissingPackageError, ResultFileError, UsageError
from slim_eval.metrics import task_metric
from slim_eval.results.archive import write_archive
from slim_eval.results.records import AccuracyRecord
from slim_eval.results.store import find_results, has_samples, one_line, require_folder, require_writable
from slim_eval.results.variants import Variant, labelled
from slim_eval.schemes import is_quantized
from slim_eval.utils import short_name, write_text
from slim_eval.utils.redaction import redact

INSTALL = 'pip install "slim-eval[every-eval-ever]" (Python 3.12 or newer)'
#: `source_name` of the files that slim-eval writes.
SOURCE = "slim-eval"
#: Fields of a record that become details: of the model, and of the settings of an evaluation.
MODEL_DETAILS = (
    "precision", "base_model", "baseline", "revision", "dtype", "kernels", "kernel_error", "num_parameters",
    "model_size_gb", "hardware",
)  # fmt: skip
SETTING_DETAILS = (
    "limit", "batch_size", "thinking", "apply_chat_template", "max_model_len", "truncated_requests",
    "prompts_without_turns", "unfinished_thoughts",
)  # fmt: skip
#: Arguments of generation: lm-eval's name -> the schema's.
_GENERATION = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_gen_toks": "max_tokens"}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and what it left out."""

    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()  # what the files do not contain, one line each
    problems: tuple[str, ...] = ()  # what could not be read or written, one line each

    def raise_for_problems(self) -> None:
        """Raise a `ResultFileError` of the first problem, and how many there are, if there are any."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise ResultFileError(f"{self.problems[0]}{more}", "what could be exported was exported and is kept")


def module(name: str) -> Any:
    """A module of the package, by its name there."""
    try:
        return importlib.import_module(f"every_eval_ever.{name}")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            str(error.name).partition(".")[0].replace("_", "-"), "Every Eval Ever's format", INSTALL
        ) from error


def export_results(config: ExportConfig) -> ExportReport:
    """Write the accuracy records below folders as files of Every Eval Ever; what `slim-eval export` does.

    The files are in the layout of its datastore, ``data/{task}/{developer}/{model}/{uuid}.json``. The name depends on
    the record alone: exporting it again replaces its file. With `archive`, everything is written as one file instead.
    """
    if config.archive is not None:
        count = write_archive(config.paths, config.archive)
        return ExportReport((config.archive,), (f"{count} files; logs are not in it",))
    require_writable(config.output_dir, "--output-dir")
    module("validator")
    variants: list[Variant] = []
    problems: list[str] = []
    for folder in config.paths:
        require_folder(folder, "name a folder with results, such as --output-dir of a run")
        found = find_results(folder)
        variants += found.variants
        problems += found.problems
    if not variants:
        raise UsageError(f"{', '.join(map(str, config.paths))}: contains no results", "measure first: slim-eval run")
    written: dict[Path, None] = {}
    left_out: dict[str, list[str]] = {}  # why -> what
    for variant in labelled(variants):
        for record in variant.records:
            what = f"{record.name} of {variant.label}"
            if not isinstance(record, AccuracyRecord):
                left_out.setdefault("the schema describes evaluations", []).append(what)
            elif not (results := list(_results(record))):
                left_out.setdefault("no score", []).append(what)
            else:
                has_items = has_samples(variant.directory, record.name)
                if has_items:
                    why = "the schema requires the prompt of each item, of which slim-eval keeps a hash"
                    left_out.setdefault(why, []).append(f"items of {what}")
                try:
                    written[_write(_log(record, results, config, has_items=has_items), config.output_dir)] = None
                except ValueError as error:
                    problems.append(f"{what}: refused by the package every-eval-ever: {one_line(error)}")
    notes = [f"left out: {_few(names)}: {why}" for why, names in left_out.items()]
    if written:
        notes.append("left out of every record: its whole configuration, fingerprint and list of packages")
    return ExportReport(tuple(written), tuple(notes), tuple(problems))


def _few(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def model_id(model: str, precision: str) -> str:
    """The id of a variant, ``developer/name``: the model's own, or one of its own if it was quantized from it."""
    is_local = "/" not in model or model.startswith(("/", ".", "~")) or Path(model).exists()
    own = f"local/{short_name(model)}" if is_local else model
    named = precision.casefold() in short_name(model).casefold()  # a checkpoint that was published quantized
    return f"{own}_{precision}" if is_quantized(precision) and not named else own


def details(values: Mapping[str, Any]) -> dict[str, str] | None:
    """Details as the schema has them: texts, anything else as JSON, without what is unknown; None if there are none."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None and value not in ({}, [])
    } or None  # fmt: skip


def _results(record: AccuracyRecord) -> Iterator[dict[str, Any]]:
    """One result per score of the task, the headline first, and of its subtasks."""
    headline = record.metric or "accuracy"
    scores = {headline: record.accuracy, **record.metrics, _stderr_of(headline): record.stderr}
    for key in _scored(scores):
        result = _result(record, record.task, key, scores, record.num_items, record.num_fewshot)
        result["source_data"]["additional_details"] = details(
            {"task_versions": record.task_versions, "task_hashes": record.task_hashes}
        )
        if key == headline:
            found = {"headline": True, "clustered_stderr": record.clustered_stderr}
            result["score_details"]["details"] = details(found)
            if (interval := record.intervals.get("accuracy")) is not None:
                result["score_details"]["uncertainty"]["confidence_interval"] = {
                    "lower": interval[0], "upper": interval[1], "confidence_level": 0.95,
                }  # fmt: skip
        yield result
    for name, part in record.subtasks.items():
        for key in _scored(part):
            result = _result(record, name, key, part, part.get("num_items"), part.get("num_fewshot"))
            result["evaluation_result_id"] = f"{name}/{result['evaluation_result_id']}"
            result["score_details"]["details"] = details({"group": record.task, "subtasks": part.get("subtasks")})
            yield result


def _stderr_of(metric: str) -> str:
    """The key of a metric's standard error: of ``acc,none`` it is ``acc_stderr,none``."""
    name, comma, used = metric.partition(",")
    return f"{name}_stderr{comma}{used}"


def _settings(record: AccuracyRecord) -> Mapping[str, Any]:
    """The configuration of the accuracy benchmark; empty if it was not recorded."""
    found = (record.config or {}).get("accuracy")
    return found if isinstance(found, Mapping) else {}


def _scored(scores: Mapping[str, Any]) -> list[str]:
    """The metrics with a score."""
    return [
        key for key, value in scores.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "_stderr" not in key
        and not key.startswith("num_")
    ]  # fmt: skip


def _result(
    record: AccuracyRecord, task: str, key: str, scores: Mapping[str, Any], num_items: int | None, shots: int | None
) -> dict[str, Any]:
    """The score of a (sub)task under a metric, by lm-eval's name, with its standard error and settings."""
    name, _, used = key.partition(",")
    has_filter = used not in ("", "none")
    shared, lm_eval = module("converters.common.metrics"), module("converters.lm_eval.utils")
    fields = shared.metric_config_fields(
        name, harness=lm_eval.LM_EVAL_HARNESS_ID, bounds_table=lm_eval.LM_EVAL_METRIC_BOUNDS
    )
    stderr = scores.get(_stderr_of(key))
    stated = record.higher_is_better if (task, key) == (record.task, record.metric) else None
    asked = _settings(record).get("gen_kwargs")
    arguments = {
        theirs: asked[ours]
        for ours, theirs in _GENERATION.items()
        if isinstance(asked, Mapping) and isinstance(asked.get(ours), (int, float))
    }
    if record.thinking is not None:
        arguments["reasoning"] = record.thinking == "on"
    settings = details({"num_fewshot": shots, **{each: getattr(record, each) for each in SETTING_DETAILS}})
    return {
        "evaluation_result_id": f"{name}:{used}" if has_filter else name,
        "evaluation_name": f"{task}/{used}" if has_filter else task,
        "source_data": {"dataset_name": task, "source_type": "other"},
        "metric_config": {
            **fields,  # identity and range, by the package's table; the direction is by slim-eval's
            "metric_name": name,
            "evaluation_description": f"{name} (filter: {used})" if has_filter else name,
            "lower_is_better": task_metric(task, key, stated).better == "lower",
            "additional_details": {**(fields["additional_details"] or {}), "metric": key},
        },
        "score_details": {
            "score": scores[key],
            "uncertainty": {
                "standard_error": {"value": stderr} if isinstance(stderr, (int, float)) else None,
                "num_samples": num_items,
            },
        },
        "generation_config": {"generation_args": arguments or None, "additional_details": settings},
    }


def _log(
    record: AccuracyRecord, results: list[dict[str, Any]], config: ExportConfig, *, has_items: bool
) -> dict[str, Any]:
    """The whole file of a record, as the package's own class of it dumps it."""
    identity = model_id(record.model, record.precision)
    environment = record.environment or {}
    model = {key: getattr(record, key) for key in MODEL_DETAILS}
    if identity != record.model and is_quantized(record.precision):
        model["base_model"] = record.base_model or record.model
    retrieved = str(time.time())
    content = {
        "schema_version": module("validator").get_schema_version(),
        "evaluation_id": f"{record.task}/{identity}/{retrieved}",
        "retrieved_timestamp": retrieved,
        "evaluation_timestamp": _epoch(record.timestamp),
        "source_metadata": {
            "source_name": SOURCE,
            "source_type": "evaluation_run" if has_items else "documentation",
            "source_organization_name": config.organization,
            "evaluator_relationship": config.relationship.value,
            "additional_details": details({"notes": list(record.notes), "exported_by": f"slim-eval {__version__}"}),
        },
        "eval_library": {
            # Tasks and metrics of all records are lm-eval's, unless another file of this schema says otherwise.
            **{"name": "lm_eval", "version": (environment.get("packages") or {}).get("lm_eval") or "unknown"},
            **(_settings(record).get("eval_library") or {}),
            "additional_details": details({"slim_eval": environment.get("slim_eval")}),
        },
        "model_info": {
            "name": record.model,
            "id": identity,
            "developer": identity.partition("/")[0],
            "inference_engine": {"name": record.engine, "version": record.engine_version} if record.engine else None,
            "additional_details": {
                "deployment_type": "self_deployed" if record.engine in ("vllm", "transformers") else "unknown",
                "model_availability": "unknown" if record.revision is None else "open_weights",
                **(details({**model, "quantization": record.quantization_scheme}) or {}),
            },
        },
        "evaluation_results": results,
    }
    log = module("eval_types").EvaluationLog.model_validate(content)
    return dict(log.model_dump(mode="json", exclude_none=True))


def _epoch(timestamp: str | None) -> str | None:
    """A time as the schema has it, in seconds since 1970; as it is if it does not state its zone."""
    if timestamp is None:
        return None
    try:
        date = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return timestamp if date.tzinfo is None else f"{date.timestamp():.6f}".rstrip("0").rstrip(".")


def _write(log: Mapping[str, Any], root: Path) -> Path:
    """Write a file and return its path; a ValueError if the package's validator does not accept it."""
    lasting = {key: value for key, value in log.items() if key not in ("evaluation_id", "retrieved_timestamp")}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).digest()
    name = f"{uuid.UUID(bytes=digest[:16], version=4)}.json"
    task, model = log["evaluation_results"][0]["source_data"]["dataset_name"], log["model_info"]
    place: str = module("helpers.io").datastore_repo_file_path(task, model["id"], model["developer"], name)
    text = redact(json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / name
        draft.write_text(text, encoding="utf-8")
        report = module("validator").validate_file(draft, repo_path=place, run_semantic_checks=True)
    if report.errors:
        raise ValueError(f"{report.errors[0]['loc']}: {report.errors[0]['msg']}")
    write_text(root / place, text)
    return root / place
