"""The cache of quantized checkpoints: the folder of each, and whether it is the one that a run needs.

    {root}/{model}_{precision}/            a loadable checkpoint, complete from the moment it has this name
        quantization.json                  how it was made; without it the folder was made elsewhere
        reference_logprobs.json            what it predicts with emulated arithmetic: see `engines.agreement`

Light on purpose: the evaluator calls `cached` before it starts a worker, so nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from slim_eval.config import QuantizationConfig
from slim_eval.errors import QuantizationError, UsageError
from slim_eval.models import experts, pickles
from slim_eval.models.publish import QUANTIZATION_RECORD
from slim_eval.models.source import (
    CONFIG_FILE,
    CheckpointFacts,
    Frozen,
    ModelSource,
    describe,
    facts_of,
    fingerprint,
    small_files_hash,
)
from slim_eval.quantization.calibration import content_hash, local_path
from slim_eval.quantization.fidelity import Fidelity
from slim_eval.quantization.written import Written
from slim_eval.schemes import KV8, SCHEMES, Recipe, SchemeName, bits_of, scheme
from slim_eval.utils import files_hash, full_name, safe_json, short_name, slug
from slim_eval.utils.redaction import redact, redact_all

_NOT_DEFAULT = (
    "modifier",
    "targets",
    "arguments",
    "transform",
    "kv_cache",
)  # settings if they differ from `Recipe`'s: older records have none

#: Names of the settings that a recipe and its calibration add to a checkpoint: what `settings` returns besides the
#: model and the seed.
SETTINGS = frozenset({
    *_NOT_DEFAULT, "recipe", "scheme", "ignore", "group_size", "skip_unfit", "calibration_dataset", "calibration_split",
    "num_calibration_samples",
    "max_sequence_length",
})  # fmt: skip
RECORD_FILE = QUANTIZATION_RECORD
_REQUANTIZE = "--requantize creates it again"
_OTHER_PLACE = "move it away, or set --quantized-models-dir"


class QuantizeRequest(Frozen):
    """A checkpoint that a run needs; sent to the worker as JSON."""

    source: ModelSource  # its `path` is needed to quantize, not to look into the cache
    precision: SchemeName  # a scheme with a recipe
    directory: Path  # folder of quantized checkpoints
    config: QuantizationConfig = QuantizationConfig()
    seed: int = 0  # of calibration sampling
    trust_remote_code: bool = False
    models: tuple[str, ...] = ()  # all models of the run, so that two with the same short name get separate folders
    group_size: int | None = None  # that fits the model's layers; None for the recipe's own
    all_fit: bool = False  # whether it is known to fit every layer: `skip_unfit` then changes nothing

    @property
    def recipe(self) -> Recipe:
        """The recipe of the scheme, with the group size that fits."""
        return recipe_of(self.precision).with_groups(self.group_size)


class QuantizationRecord(BaseModel):
    """`quantization.json`: how a checkpoint was made."""

    # Keys of a newer version are ignored: this version can still compare the settings.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    model: str
    precision: str
    scheme: str
    settings: dict[str, Any]  # what decides the result; the checkpoint is reused only if all are the requested ones
    recipe: dict[str, Any]
    calibration: dict[str, Any]  # samples, tokens, length in tokens, SHA-256 of the data; empty without calibration
    dtype: str  # 16 bit, of activations and of layers that are not quantized
    num_parameters: int | None  # of the source model; None if unknown
    source_bytes: int  # of the source model's language part at 16 bit
    bytes_on_disk: int  # of all weight files
    bits_per_weight: float | None  # of the language part: embeddings and scales included
    weight_sha256: dict[str, str]  # by the name of the weight file
    versions: dict[str, str]  # by package
    started: str  # ISO 8601, UTC
    finished: str
    duration_s: float
    fidelity: Fidelity | None = None  # against the source; None in records before 0.3
    written: Written | None = None  # what its files contain; None in records before 0.4
    low_bit_share: float | None = None  # of the weights of linear layers, the output layer left out; None likewise
    notes: tuple[str, ...] = ()


class QuantizedCheckpoint(Frozen):
    """A checkpoint ready to be served."""

    path: Path
    record: QuantizationRecord | None  # None if it was made elsewhere
    reused: bool  # whether it came from the cache
    notes: tuple[str, ...] = ()  # what a reader of its numbers must know, one line each


def checkpoint_directory(request: QuantizeRequest) -> Path:
    """Folder of a quantized checkpoint: ``{root}/{model}_{precision}``.

    ``{model}`` is the short name, or the full name if another model there or in this run has the same short name.
    """
    model = request.source.name
    short = short_name(model)
    rivals = any(other != model and short_name(other).casefold() == short.casefold() for other in request.models)
    owners = set()
    for precision in (slug(f"{name}{ending}") for name in SCHEMES for ending in ("", KV8)):
        with suppress(OSError, ValueError, KeyError, TypeError):  # no record, or not a readable one
            owners.add(str(safe_json.read_json(request.directory / f"{short}_{precision}" / RECORD_FILE)["model"]))
    name = full_name(model) if rivals or owners - {redact(model)} else short
    return request.directory / f"{name}_{slug(request.precision)}"


def settings(request: QuantizeRequest) -> dict[str, Any]:
    """Everything that decides the result of quantization, by the names of the options.

    Settings of calibration appear only if the recipe needs it. Local data is identified by its content, not by its
    path. Values are redacted, as they are when they are read again.
    """
    config, recipe, own = request.config, request.recipe, recipe_of(request.precision)
    defaults = Recipe(recipe.name, recipe.scheme)
    found = {
        **identity(request.source),
        **{name: getattr(recipe, name) for name in _NOT_DEFAULT if getattr(recipe, name) != getattr(defaults, name)},
        **({} if recipe.file is None else {"recipe": f"sha256:{hashlib.sha256(recipe.file.encode()).hexdigest()}"}),
        "scheme": recipe.scheme,
        "ignore": recipe.ignore,
        # Both came later: records without them were made with the recipe's own size, which fitted.
        **({} if recipe.group_size == own.group_size else {"group_size": recipe.group_size}),
        **({"skip_unfit": True} if config.skip_unfit and own.group_size and not request.all_fit else {}),
    }
    if recipe.needs_calibration:
        path = local_path(config.calibration_dataset)
        local = content_hash(path) if path else None
        found |= {
            "calibration_dataset": f"sha256:{local}" if local else config.calibration_dataset,
            "calibration_split": None if path and path.is_file() else config.calibration_split,
            "num_calibration_samples": config.num_calibration_samples,
            "max_sequence_length": config.max_sequence_length,
        }
    plain: dict[str, Any] = json.loads(json.dumps({**found, "seed": request.seed}, default=dict))
    return {key: redact_all(value) for key, value in plain.items()}


def identity(source: ModelSource) -> dict[str, Any]:
    """The state of a model, wherever it is: its commit on the hub, else hashes of its weights and its other files."""
    if source.base is not None and source.adapter is not None:
        own = {"revision": source.revision}
        if source.kind != "hub":
            own = {"adapter": f"sha256:{files_hash(source.adapter, sorted(source.adapter.glob('adapter_*')))}"}
        return {**own, "base": identity(source.base)}
    if source.kind == "endpoint":  # its weights are not known: the endpoint is a setting of its own
        return {}
    if source.kind == "hub":
        return {"revision": source.revision}
    folder = source.config_dir
    return {"files": f"sha256:{small_files_hash(folder)}", "weights": f"sha256:{fingerprint(folder)}"}


def conversion(source: ModelSource, directory: Path) -> pickles.Conversion:
    """The conversion of a model whose weights are pickled, in the folder of quantized checkpoints."""
    return pickles.conversion(directory, source.name, identity(source))


def converted(source: ModelSource, directory: Path) -> ModelSource:
    """A model with its finished conversion as its checkpoint, whose headers can be read; the same without one."""
    if source.path is not None or source.base is not None or source.kind == "endpoint":
        return source
    found = conversion(source, directory)
    return source.model_copy(update={"path": found.folder}) if found.is_done else source


def foreign(request: QuantizeRequest) -> Path | None:
    """The folder of a checkpoint that was made elsewhere and that `cached` would return; None without one."""
    folder = checkpoint_directory(request)
    made_elsewhere = (folder / CONFIG_FILE).is_file() and not (folder / RECORD_FILE).exists()
    return folder if made_elsewhere and not request.config.requantize else None


def is_made(request: QuantizeRequest) -> bool:
    """Whether there is a checkpoint, sound or not, that `cached` would return or refuse: none would be made."""
    return (checkpoint_directory(request) / CONFIG_FILE).is_file() and not request.config.requantize


def cached(request: QuantizeRequest) -> QuantizedCheckpoint | None:
    """The requested checkpoint from the cache; None if it must be made.

    Raises:
        UsageError: It was made with other settings or from another model, or its folder contains something else.
        QuantizationError: It is damaged.
    """
    folder = checkpoint_directory(request)
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} exists and contains no checkpoint", _OTHER_PLACE)
    if request.config.requantize:
        return None
    if not (folder / RECORD_FILE).exists():
        facts = describe(folder)
        if not facts.is_quantized:
            cause = f"{folder} contains an unquantized checkpoint"
            raise UsageError(cause, _OTHER_PLACE)
        _require_asked(folder, facts, request)
        note = f"{folder} has no {RECORD_FILE}: made elsewhere ({facts.quantization}), with unknown settings"
        return QuantizedCheckpoint(path=folder, record=None, reused=True, notes=(note,))
    record, asked = read_record(folder), settings(request)
    differing, same = [], {"skip_unfit"} if request.config.skip_unfit or not _skipped(record) else set[str]()
    for name in dict.fromkeys([*asked, *record.settings]):
        then, now = record.settings.get(name), asked.get(name)
        if then != now and name not in same:
            # Of a hash the first 12 digits are shown.
            shown = [f"{str(value)[:19]}…" if str(value).startswith("sha256:") else value for value in (then, now)]
            differing.append(f"{name}: cached {shown[0]}, requested {shown[1]}")
    if differing:
        raise UsageError(
            f"{folder} was made with other settings ({'; '.join(differing)})",
            "--requantize replaces it; another --quantized-models-dir keeps both",
        )
    try:
        size = describe(folder).weight_bytes
    except UsageError as error:
        raise QuantizationError(f"quantized checkpoint is damaged: {error.cause}", _REQUANTIZE) from error
    if size != record.bytes_on_disk:
        raise QuantizationError(
            f"{folder} contains {size} bytes of weights, not the {record.bytes_on_disk} that were written", _REQUANTIZE
        )
    return QuantizedCheckpoint(path=folder, record=record, reused=True, notes=record.notes)


def _require_asked(folder: Path, facts: CheckpointFacts, request: QuantizeRequest) -> None:
    """Refuse a checkpoint made elsewhere whose configuration says that it is of another scheme or another model."""
    asked, own = scheme(request.precision), facts_of(request.source)
    found = str(facts.scheme).partition("+")[0]
    weights, activations = bits_of(found)
    # Weights of 16 bit are those of a recipe with several formats.
    if weights is not None and asked.weight_bits < 16:
        is_same = (weights, activations) == (asked.weight_bits, asked.activation_bits)
        if not is_same or ("fp" in found) != ("FP" in asked.label.partition("+")[0]):
            cause = f"{folder} contains a checkpoint in {facts.scheme}, which is not {asked.name} ({asked.label})"
            raise UsageError(cause, _OTHER_PLACE)
    # Saving may take the text part of a multimodal model alone, and other tools pad the vocabulary.
    families = [str(each.model_type or "").removesuffix("_text") for each in (facts, own)]
    if all(families) and families[0] != families[1]:
        cause = f"{folder} was not made from {request.source.name!r}: its architecture is {families[0]}"
        raise UsageError(f"{cause}, not {families[1]}", _OTHER_PLACE)
    if None not in (facts.vocabulary, own.vocabulary) and (facts.vocabulary or 0) < (own.vocabulary or 0):
        cause = f"{folder} was not made from {request.source.name!r}: its vocabulary is {facts.vocabulary}"
        raise UsageError(f"{cause}, not {own.vocabulary}", _OTHER_PLACE)


def _skipped(record: QuantizationRecord) -> bool:
    """Whether layers may have been left in 16 bit by `skip_unfit`, which older versions recorded without any too."""
    patterns = {*(record.settings.get("ignore") or ()), *experts.ROUTERS}
    return bool(record.settings.get("skip_unfit")) and not patterns.issuperset(record.recipe.get("ignore") or ())


def made(folder: Path) -> QuantizedCheckpoint:
    """A checkpoint that a worker has just made, with the notes that a later run would get from the cache.

    Raises:
        QuantizationError: Its record is not readable.
    """
    record = read_record(folder)
    return QuantizedCheckpoint(path=folder, record=record, reused=False, notes=record.notes)


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


def recipe_of(precision: str) -> Recipe:
    """The recipe of a scheme.

    Raises:
        UsageError: The scheme is not registered, or serves the model's own weights.
    """
    recipe = scheme(precision).recipe
    if recipe is None:
        raise UsageError(f"{precision} is not made by quantization", "choose a scheme that has a recipe")
    return recipe


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """A recipe in the form of ``quantization.json``."""
    lists = {"targets": list(recipe.targets), "ignore": list(recipe.ignore)}
    left_out = (
        "arguments",
        "needs_calibration",
        "smaller_groups",
        *(n for n in ("transform", "format", "kv_cache", "file") if not getattr(recipe, n)),
    )
    shown = {key: value for key, value in asdict(recipe).items() if key not in left_out}
    return {**shown, **recipe.arguments, **lists}
