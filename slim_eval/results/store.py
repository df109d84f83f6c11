"""Where records are stored: their folders and files; reader and writer in one place.

    {output_dir}/{model}/{model}_{precision}/
        performance.json   energy.json   {task}.json      one record each, written the moment its benchmark ends
        {name}.samples.jsonl.gz                           every raw sample behind the record
        kernel_agreement.samples.jsonl.gz                 log-probabilities behind the receipt of kernels
        {name}.error.json                                 a benchmark that failed: cause, remedy, where its log is
        paired.json                                       this variant against the 16-bit one, item by item
        run.log                                           the engine's own output
    {output_dir}/{model}/{model}_noise/
        noise.json   run-1/  run-2/  …                    one variant measured again: no results of their own

The files published with SLiM-Eval 0.1.3 (the same names, without ``schema_version``) are read as schema 0. It stores a
failure as zeros: a 0 of theirs is read as not measured.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from slim_eval.errors import NewerResultError, ResultFileError, UsageError
from slim_eval.plugins import PLUGINS_VARIABLE
from slim_eval.recognise import of_config, of_name
from slim_eval.results.records import (
    RECORD_CLASSES,
    SCHEMA_VERSION,
    ErrorRecord,
    Metadata,
    NoiseRecord,
    PairedRecord,
    Record,
)
from slim_eval.results.variants import Variant
from slim_eval.schemes import scheme_order
from slim_eval.utils import atomic_path, full_name, safe_json, short_name, slug, write_text
from slim_eval.utils.redaction import redact, redact_lines

RUN_LOG = "run.log"
PAIRED = "paired.json"
NOISE = "noise.json"
#: Name of the samples behind `records.KernelReceipt`.
RECEIPT = "kernel_agreement"
_ERROR_SUFFIX = ".error.json"
_SAMPLES_SUFFIX = ".samples.jsonl.gz"
_OTHER_FILES = {"complete_results.json", "quantization.json", PAIRED, NOISE}
_UNREADABLE = "measure the variant again, or remove the file"
#: Task -> the metric of a published file (schema 0), which does not name it. Its HellaSwag is `acc`, though its text
#: calls it normalised.
_PUBLISHED_METRICS = {"mmlu": "acc", "gsm8k": "exact_match", "hellaswag": "acc"}
#: Fields of schema 0 that become notes, and how these begin.
_NOTES = {"_note": "", "error": "SLiM-Eval recorded an error: "}


@dataclass(frozen=True)
class Results:
    """All variants below a folder, and one line for each file that could not be read."""

    variants: tuple[Variant, ...]
    problems: tuple[str, ...] = ()


def record_name(record: Record) -> str:
    """File name of a record without its ending: ``performance``, ``energy``, or the task."""
    return slug(record.name)


def model_directory(root: Path, model: str, models: Iterable[str] = ()) -> Path:
    """The folder of a model, a hub id or path, below `root`: one that neither another of `models` nor results use."""
    directory = root / short_name(model)
    if _by_short_name(tuple(models)).get(short_name(model).casefold(), frozenset()) - {model}:
        return root / full_name(model)
    for path in sorted(directory.glob("*/*.json")):
        try:
            content = _read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("model"), str):
            return directory if content["model"] == redact(model) else root / full_name(model)
    return directory


@lru_cache(maxsize=8)
def _by_short_name(models: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """Short name in lower case -> the models that have it; of a thousand models, asked a thousand times."""
    found: dict[str, frozenset[str]] = {}
    for model in models:
        name = short_name(model).casefold()
        found[name] = found.get(name, frozenset()) | {model}
    return found


def variant_directory(root: Path, model: str, precision: str, models: Iterable[str] = ()) -> Path:
    """The folder of one (model, precision): ``{root}/{model}/{model}_{precision}``."""
    directory = model_directory(root, model, models)
    return directory / slug(f"{directory.name}_{precision}")


def write_record(directory: Path, record: Record, samples: Iterable[Mapping[str, Any]] = ()) -> Path:
    """Write a record and its samples, samples first: a record on disk always has them. Clears an earlier error."""
    name = record_name(record)
    write_samples(directory, name, samples)
    path = _write(directory / f"{name}.json", record)
    (directory / f"{name}{_ERROR_SUFFIX}").unlink(missing_ok=True)
    return path


def write_samples(directory: Path, name: str, samples: Iterable[Mapping[str, Any]]) -> None:
    """Write raw samples in place of those that a name has; without any, remove these."""
    rows = list(samples)
    path = directory / f"{name}{_SAMPLES_SUFFIX}"
    if rows:
        with atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as lines:
            lines.writelines(f"{line}\n" for line in redact_lines(map(_as_json, rows)))
    else:
        path.unlink(missing_ok=True)


def record_files(directory: Path, name: str) -> dict[str, bytes]:
    """The files of a stage's record by their names, samples first: what `receive_record` writes elsewhere."""
    samples = (directory / f"{own}{_SAMPLES_SUFFIX}" for own in (RECEIPT, slug(name)))
    paths = (*samples, record_path(directory, name))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def receive_record(directory: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write the files of a record that another machine made. Clears an earlier error."""
    if (samples := f"{slug(name)}{_SAMPLES_SUFFIX}") not in files:
        (directory / samples).unlink(missing_ok=True)
    for file, content in files.items():
        with atomic_path(directory / Path(file).name) as temporary:
            temporary.write_bytes(content)
    (directory / f"{slug(name)}{_ERROR_SUFFIX}").unlink(missing_ok=True)
    return record_path(directory, name)


def write_error(directory: Path, name: str, record: ErrorRecord) -> Path:
    """Write ``{name}.error.json``; an earlier good record of the same name stays."""
    return _write(directory / f"{slug(name)}{_ERROR_SUFFIX}", record)


def write_paired(directory: Path, record: PairedRecord) -> Path:
    """Write `paired.json` into a quantized variant's folder."""
    return _write(directory / PAIRED, record)


def write_noise(model_directory: Path, record: NoiseRecord) -> Path:
    """Write a model's `noise.json`."""
    return _write(noise_directory(model_directory) / NOISE, record)


def _write(path: Path, record: BaseModel) -> Path:
    content = record.model_dump(mode="json")
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def noise_directory(model_directory: Path) -> Path:
    """The folder of the runs of `slim-eval noise` on a model, and of the floor they gave."""
    return model_directory / f"{model_directory.name}_noise"


def read_noise(model_directory: Path) -> NoiseRecord | None:
    """A model's noise floor; None if none was measured, `ResultFileError` if the file is damaged."""
    path = noise_directory(model_directory) / NOISE
    if not path.is_file():
        return None
    try:
        return NoiseRecord.model_validate(_read_json(path))
    except (OSError, ValueError) as error:
        raise ResultFileError(f"{path}: {one_line(error)[:200]}", "run `slim-eval noise` again") from error


def record_path(directory: Path, name: str) -> Path:
    """The path of a stage's record in its variant's folder."""
    return directory / f"{slug(name)}.json"


def has_error(directory: Path, name: str) -> bool:
    """Whether the last attempt at a stage failed."""
    return (directory / f"{slug(name)}{_ERROR_SUFFIX}").exists()


def has_samples(directory: Path, name: str) -> bool:
    """Whether the raw samples of a record were kept."""
    return (directory / f"{slug(name)}{_SAMPLES_SUFFIX}").exists()


def read_samples(directory: Path, name: str) -> list[dict[str, Any]]:
    """The raw samples of a record; empty if none were kept, `ResultFileError` if they are damaged or too large."""
    path = directory / f"{slug(name)}{_SAMPLES_SUFFIX}"
    if not path.exists():
        return []
    try:
        with gzip.open(path, "rb") as stream:
            rows = [safe_json.parse(line) for line in redact_lines(safe_json.lines(stream))]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a JSON object")
        return rows
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ResultFileError(f"{path}: {one_line(error)}", _UNREADABLE) from error


def read_record(path: Path) -> Record | ErrorRecord:
    """Read one record, of any schema version; a `ResultFileError` if it is damaged, too large or too new."""
    try:
        content = _read_json(path)
    except (OSError, ValueError) as error:
        raise ResultFileError(f"{path}: not readable as JSON ({one_line(error)})", _UNREADABLE) from error
    if not isinstance(content, dict):
        raise ResultFileError(f"{path}: contains a JSON {type(content).__name__}, not a record", _UNREADABLE)
    version = content.get("schema_version", 0)
    if not isinstance(version, int):
        raise ResultFileError(f"{path}: schema_version {version!r} is not a number", _UNREADABLE)
    if version > SCHEMA_VERSION:
        cause = f"{path}: schema_version {version} is newer than this slim-eval supports ({SCHEMA_VERSION})"
        raise NewerResultError(cause, "update it: pip install --upgrade slim-eval")
    kind: type[Record] | type[ErrorRecord] = ErrorRecord
    if not path.name.endswith(_ERROR_SUFFIX):
        # By the record's own benchmark, else by the file's name, else a task.
        benchmark = content.get("benchmark") or (path.stem if path.stem in RECORD_CLASSES else "accuracy")
        if not isinstance(benchmark, str) or benchmark not in RECORD_CLASSES:
            cause = f"{path}: a record of the benchmark {benchmark!r}, which is not registered"
            raise ResultFileError(cause, f"name the plugin in {PLUGINS_VARIABLE}")
        kind = RECORD_CLASSES[benchmark]
    if version < SCHEMA_VERSION:
        if notes := [f"{words}{content[key]}" for key, words in _NOTES.items() if content.get(key)]:
            content["notes"] = notes
        if "accuracy" in content and content.get("metric") is None:
            content["metric"] = _PUBLISHED_METRICS.get(str(content.get("task", path.stem)))
        content |= _without_zeros(content, path.stem, kind)
    try:
        record = kind.model_validate(content)
        if isinstance(record, Record) and record.is_prequantized:
            # Versions up to 0.2 called every checkpoint that came quantized fp16, and kept only its method.
            own = of_name(record.model) or of_config({"quant_method": record.quantization_scheme})
            record = record.model_copy(update={"precision": own})
        return record
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultFileError(f"{path}: field {where!r}: {first['msg']}", _UNREADABLE) from error


def _without_zeros(content: Mapping[str, Any], name: str, kind: type[BaseModel]) -> dict[str, Any]:
    """Fields of a schema 0 record that change because it stores what was not measured as 0.

    SLiM-Eval 0.1.3 catches every exception and stores zeros; few of its files contain the error.
    """
    numbers = {
        key for key in kind.model_fields if isinstance(content.get(key), (int, float)) and key != "schema_version"
    }
    zeros = [key for key in content if key in numbers and content[key] == 0 and content[key] is not False]
    measured = numbers - Metadata.model_fields.keys()
    # Named by the record if it has no other number.
    named = [name, *(key for key in zeros if key not in measured)] if measured and measured <= set(zeros) else zeros
    return {**dict.fromkeys(zeros), "zeros": named}


def _read_json(path: Path) -> Any:
    """The document of a file, redacted: what other tools or older versions wrote may be shown in tables and figures."""
    return safe_json.parse(redact(safe_json.read_bytes(path).decode()))


def relabel(directory: Path, names: Iterable[str], precision: str, base_model: str | None) -> list[str]:
    """Give records the scheme and the base model that a later version, or the user, knows; the names of the changed.

    Only these two words change. What was measured, and what its fingerprint covers, stays as it is.
    """
    changed = []
    for name in names:
        path = record_path(directory, name)
        record = read_record(path)
        if record.precision == precision and base_model in (None, record.base_model):
            continue
        content = _read_json(path) | {"precision": precision}
        content |= {} if base_model is None else {"base_model": base_model}
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        changed.append(name)
    return sorted(changed)


def find_results(root: Path) -> Results:
    """Every variant at any depth below `root`; an unreadable file becomes a problem, the rest is still read.

    A folder is a variant if it has a readable record. Hidden files, runs made for the noise floor and other outputs
    are none. Variants come sorted by model and then precision, fp16 first.
    """
    variants: dict[Path, list[Record | ErrorRecord]] = {}
    problems: list[str] = []
    home = root.resolve().name
    for path in sorted(root.rglob("*.json")):
        parts = path.relative_to(root).parts
        is_noise_run = any(folder == f"{parent}_noise" for parent, folder in pairwise((home, *parts)))
        if is_noise_run or path.name in _OTHER_FILES or any(part.startswith(".") for part in parts):
            continue
        try:
            record = read_record(path)
        except ResultFileError as error:
            problems.append(f"{error.cause}: skipped")
            continue
        name = path.stem if isinstance(record, ErrorRecord) or record.schema_version < 1 else record_name(record)
        if name != path.stem and (path.parent / f"{name}.json").exists():
            problems.append(f"{path}: a copy of {name}.json: skipped")
        else:
            variants.setdefault(path.parent, []).append(record)
    found = [Variant.of(directory, records) for directory, records in variants.items()]
    found.sort(key=_place)
    return Results(tuple(found), tuple(problems))


def _place(variant: Variant) -> tuple[Any, ...]:
    """Sort key: models by name, after each those that were made from it, and their schemes in the table's order."""
    base, model = (name.rsplit("/", 1)[-1].casefold() for name in (variant.base_model, variant.model))
    made = variant.model != variant.base_model
    return (base, variant.base_model, made, model, variant.model, scheme_order(variant.precision))


def read_variant(directory: Path, names: Collection[str]) -> Variant | None:
    """The variant in one folder, with only the named records; None if it has none of them."""
    for variant in find_results(directory).variants if names else ():
        if variant.directory == directory:
            return replace(variant, measured={name: r for name, r in variant.measured.items() if name in names})
    return None


def clear_leftovers(directory: Path) -> None:
    """Remove half-written files of killed processes from a variant's folder; call it only with the folder locked."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def require_writable(folder: Path, option: str) -> None:
    """Raise a `UsageError` if a folder, or what it would be made in, is a file or not writable."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UsageError(f"{option} {folder}: {existing} is a file", "choose a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {folder}: {existing} cannot be written", "choose a folder that you can write to")


def require_folder(folder: Path, remedy: str) -> None:
    """Raise a `UsageError` if there is no such folder of results, with `remedy` unless it is a file."""
    if folder.is_file():
        raise UsageError(
            f"{folder}: is a file; results are read from folders",
            f"give the folder that contains it, or import another tool's file first: slim-eval import {folder}",
        )
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", remedy)


def _as_json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(finite(dict(row)), ensure_ascii=False)


def finite(value: Any) -> Any:
    """NaN and infinities as None, at any depth: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def one_line(error: BaseException) -> str:
    """The message of an error in one line; its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
