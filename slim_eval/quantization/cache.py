"""The cache of quantized checkpoints: which folder holds which, and whether it is what was asked for.

    {root}/{model}_{precision}/            a loadable checkpoint, complete since the moment it got its name
        quantization.json                  how it was made; without it the folder was made elsewhere
    {root}/.{model}_{precision}.tmp-…      being written, or left by a process that was killed

Light on purpose: the evaluator asks `cached` before it starts a worker, so nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from slim_eval.config import QuantizationConfig
from slim_eval.errors import QuantizationError, UsageError
from slim_eval.models import pickles
from slim_eval.models.source import CONFIG_FILE, WANTED, ModelSource, describe, fingerprint, small_files_hash
from slim_eval.quantization.calibration import content_hash, local_path
from slim_eval.schemes import SCHEMES, Recipe, SchemeName, scheme
from slim_eval.utils import full_name, safe_json, short_name, slug, write_text
from slim_eval.utils.redaction import redact, redact_all

RECORD_FILE = "quantization.json"
_REQUANTIZE = "--requantize makes it again"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuantizeRequest(_Frozen):
    """A checkpoint that is wanted; travels to the worker as JSON.

    Attributes:
        source: The model; its `path` is needed to quantize, not to look into the cache.
        precision: int8 or int4.
        directory: Folder of quantized checkpoints.
        config: Calibration.
        seed: Of calibration sampling.
        trust_remote_code: Whether Python code that comes with the model may run.
        models: All models of the run, so that two with one short name get folders of their own.
    """

    source: ModelSource
    precision: SchemeName
    directory: Path
    config: QuantizationConfig = QuantizationConfig()
    seed: int = 0
    trust_remote_code: bool = False
    models: tuple[str, ...] = ()


class QuantizationRecord(BaseModel):
    """`quantization.json`: how a checkpoint was made.

    Attributes:
        settings: What decides the result; a cache is used only where all of them are those asked for.
        calibration: The data really used: samples, tokens, length in tokens, SHA-256.
        dtype: 16-bit dtype of activations and of what is not quantized.
        num_parameters: Of the source; None where it is not known.
        bytes_on_disk: Of all weight files.
        bits_per_weight: ``8 * bytes_on_disk / num_parameters``, embeddings and scales included.
        weight_sha256: Weight file -> SHA-256.
        versions: Package -> version.
        started: ISO 8601, UTC; as is `finished`.
    """

    # Keys of a newer version are passed over: an old reader still knows whether the settings agree.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    model: str
    precision: str
    scheme: str
    settings: dict[str, Any]
    recipe: dict[str, Any]
    calibration: dict[str, Any]
    dtype: str
    num_parameters: int | None
    source_bytes: int
    bytes_on_disk: int
    bits_per_weight: float | None
    weight_sha256: dict[str, str]
    versions: dict[str, str]
    started: str
    finished: str
    duration_s: float
    notes: tuple[str, ...] = ()


class QuantizedCheckpoint(_Frozen):
    """A checkpoint ready to be served.

    Attributes:
        path: Its folder.
        record: How it was made; None where it was made elsewhere.
        reused: Whether it was found in the cache.
        notes: What a reader of its numbers must know, one line each.
    """

    path: Path
    record: QuantizationRecord | None
    reused: bool
    notes: tuple[str, ...] = ()


def checkpoint_directory(request: QuantizeRequest) -> Path:
    """Folder of a quantized checkpoint: ``{root}/{model}_{precision}``.

    Its model part is the short name; the whole name where another model has the short one, or will in this run.
    """
    model = request.source.name
    short = short_name(model)
    rivals = any(other != model and short_name(other).casefold() == short.casefold() for other in request.models)
    owners = {_owner(request.directory / f"{short}_{precision}") for precision in SCHEMES}
    name = full_name(model) if rivals or owners - {None, redact(model)} else short
    return request.directory / f"{name}_{request.precision}"


def _owner(folder: Path) -> str | None:
    try:
        return str(safe_json.read_json(folder / RECORD_FILE)["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settings(request: QuantizeRequest) -> dict[str, Any]:
    """What decides the result of quantization, by the names under which a user sets it.

    Local data is known by its content, not by its path. Redacted, as they are when they are read again.
    """
    config = request.config
    path = local_path(config.calibration_dataset)
    local = content_hash(path) if path else None
    found = {
        **identity(request.source),
        "scheme": recipe_of(request.precision).scheme,
        "ignore": list(recipe_of(request.precision).ignore),
        "calibration_dataset": f"sha256:{local}" if local else config.calibration_dataset,
        "calibration_split": None if path and path.is_file() else config.calibration_split,
        "num_calibration_samples": config.num_calibration_samples,
        "max_sequence_length": config.max_sequence_length,
        "seed": request.seed,
    }
    return {key: redact_all(value) for key, value in found.items()}


def identity(source: ModelSource) -> dict[str, Any]:
    """Which model it is, wherever it lies: its commit on the hub, else hashes of its weights and of all other files."""
    if source.kind == "hub":
        return {"revision": source.revision}
    folder = source.config_dir
    return {"files": f"sha256:{small_files_hash(folder)}", "weights": f"sha256:{fingerprint(folder)}"}


def conversion(source: ModelSource, directory: Path) -> pickles.Conversion:
    """The conversion of a model whose weights are pickled, below the folder of quantized checkpoints."""
    return pickles.conversion(directory, source.name, identity(source))


def foreign(request: QuantizeRequest) -> Path | None:
    """The folder of a checkpoint that was made elsewhere and that `cached` would take; None where there is none."""
    folder = checkpoint_directory(request)
    made_elsewhere = (folder / CONFIG_FILE).is_file() and not (folder / RECORD_FILE).exists()
    return folder if made_elsewhere and not request.config.requantize else None


def cached(request: QuantizeRequest) -> QuantizedCheckpoint | None:
    """The checkpoint asked for, where the cache holds it; None where it must be made.

    Raises:
        UsageError: It was made with other settings, or its folder holds something else.
        QuantizationError: It is damaged.
    """
    folder = checkpoint_directory(request)
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} exists and holds no checkpoint", "move it away, or set --quantized-models-dir")
    if request.config.requantize:
        return None
    if not (folder / RECORD_FILE).exists():
        return _foreign(folder)
    record = read_record(folder)
    _refuse_other_settings(folder, record, settings(request))
    _refuse_damage(folder, record)
    return QuantizedCheckpoint(path=folder, record=record, reused=True, notes=record.notes)


def read_record(folder: Path) -> QuantizationRecord:
    """Read ``quantization.json``.

    Raises:
        QuantizationError: It is not readable.
    """
    file = folder / RECORD_FILE
    try:
        return QuantizationRecord.model_validate(safe_json.read_json(file))
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise QuantizationError(f"{file}: not readable ({reason})", _REQUANTIZE) from error


def write_record(folder: Path, record: QuantizationRecord) -> None:
    """Write ``quantization.json``."""
    write_text(folder / RECORD_FILE, json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def recipe_of(precision: str) -> Recipe:
    """How a scheme's checkpoint is made.

    Raises:
        UsageError: The scheme is not registered, or serves the model's own weights.
    """
    recipe = scheme(precision).recipe
    if recipe is None:
        raise UsageError(f"{precision} is not made by quantization", "give a scheme that has a recipe")
    return recipe


def recipe_record(precision: str) -> dict[str, Any]:
    """A recipe as it stands in ``quantization.json``."""
    recipe = recipe_of(precision)
    lists = {"targets": list(recipe.targets), "ignore": list(recipe.ignore)}
    shown = {key: value for key, value in asdict(recipe).items() if key not in ("arguments", "needs_calibration")}
    return {**shown, **recipe.arguments, **lists}


def _foreign(folder: Path) -> QuantizedCheckpoint:
    facts = describe(folder)
    if not facts.is_quantized:
        raise UsageError(f"{folder} holds an unquantized checkpoint", "move it away, or set --quantized-models-dir")
    note = f"{folder} has no {RECORD_FILE}: made elsewhere ({facts.quantization}), with settings that are not known"
    return QuantizedCheckpoint(path=folder, record=None, reused=True, notes=(note,))


def _refuse_other_settings(folder: Path, record: QuantizationRecord, asked: Mapping[str, Any]) -> None:
    names = dict.fromkeys([*asked, *record.settings])
    differing = [
        f"{name}: cached {_shown(record.settings.get(name))}, asked {_shown(asked.get(name))}"
        for name in names
        if record.settings.get(name) != asked.get(name)
    ]
    if differing:
        raise UsageError(
            f"{folder} was made with other settings ({'; '.join(differing)})",
            "--requantize replaces it; another --quantized-models-dir keeps both",
        )


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:19]}…" if text.startswith("sha256:") else text


def _refuse_damage(folder: Path, record: QuantizationRecord) -> None:
    try:
        size = describe(folder).weight_bytes
    except UsageError as error:
        raise QuantizationError(f"quantized checkpoint is damaged: {error.cause}", _REQUANTIZE) from error
    if size != record.bytes_on_disk:
        raise QuantizationError(
            f"{folder} holds {size} bytes of weights, not the {record.bytes_on_disk} that were written", _REQUANTIZE
        )


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy what a checkpoint has beside its weights, such as its tokenizer; what is there already stays."""
    wanted = {Path(pattern).suffix for pattern in WANTED} - {".safetensors"}
    for file in source.iterdir():
        own = file.name.endswith(".index.json") or file.name in {RECORD_FILE, pickles.RECORD_FILE}
        if file.suffix in wanted and file.is_file() and not own and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


@contextmanager
def new_checkpoint(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; on success it is flushed and takes the name, on failure it is removed.

    An older checkpoint of that name stays until the new one is complete.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.tmp-{_process()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        _publish(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(final: Path) -> None:
    """Clean up after processes of this machine that were killed: remove half-written folders, restore a moved one."""
    for left in sorted(final.parent.glob(f".{final.name}.*-{slug(socket.gethostname())}-*")):
        process = left.name.rsplit("-", 1)[-1]
        if process.isdigit() and int(process) != os.getpid() and _is_alive(int(process)):
            continue
        if left.name.startswith(f".{final.name}.old-") and not final.exists():
            left.rename(final)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _process() -> str:
    return f"{slug(socket.gethostname())}-{os.getpid()}"


def _publish(temporary: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old-{_process()}")
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    _fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
