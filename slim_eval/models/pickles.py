"""Pickled weights (``.bin``): converted once into a safetensors checkpoint, which everything else reads.

A pickle is a program. None is loaded without `--allow-pickle`; torch then takes only tensors out of it, and no code in
it runs. Light to import: the evaluator asks `Conversion.is_done` before it starts a worker.

    {quantized_models_dir}/{model}_safetensors-{state}/   one folder per state of a model, so none is replaced in use
        conversion.json                                   that state, and the size of the weights in bytes
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval.errors import INSTALL, MissingPackageError, SlimEvalError, UsageError, causes
from slim_eval.models import loading
from slim_eval.models.hub import Progress, report_growth
from slim_eval.models.publish import CONVERSION_RECORD, copy_small_files, new_checkpoint, recover
from slim_eval.models.source import ModelSource, describe
from slim_eval.utils import full_name, safe_json, write_text
from slim_eval.utils.redaction import redact_all

NOTE = "its weights were pickled: the tensors were converted to safetensors files, which were measured"
#: GiB of memory that torch and Transformers take before a model is loaded.
LIBRARIES_GB = 0.5


@dataclass(frozen=True)
class Conversion:
    """The conversion of one state of a model."""

    folder: Path  # the converted checkpoint, once it exists
    identity: dict[str, Any]  # the state of the model

    @property
    def is_done(self) -> bool:
        """Whether the folder contains a complete conversion of this state of the model."""
        try:
            record = safe_json.read_json(self.folder / CONVERSION_RECORD)
            return bool(record == redact_all(conversion_record(self.folder, self.identity)))
        except (OSError, ValueError, UsageError):
            return False


def conversion(root: Path, model: str, identity: dict[str, Any]) -> Conversion:
    """The conversion of a state of a model, in the folder of quantized checkpoints."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Conversion(root / f"{full_name(model)}_safetensors-{digest[:8]}", identity)


def convert(
    source: ModelSource,
    final: Path,
    identity: Mapping[str, Any],
    progress: Progress = lambda done, total, unit: None,
    *,
    trust_remote_code: bool = False,
) -> Path:
    """Convert the weights in `source.pickled` and publish the checkpoint as `final`, in place of an older conversion.

    `identity` is the state of the model. `progress` receives the MB written so far. With `trust_remote_code`, Python
    code that comes with the model may run.

    Raises:
        UsageError: `final` contains something else.
        SlimEvalError: The files are damaged, contain more than tensors or others than the model's, or Transformers
            cannot load or save the model.
        MissingPackageError: torch or transformers is not installed.
    """
    assert source.pickled is not None
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "transformers", "conversion", INSTALL) from error
    require_place(final)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source.pickled, dtype="auto", use_safetensors=False, weights_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if (told := loading.mismatch(found)) is not None:
            raise SlimEvalError(f"the pickled checkpoint {source.name!r} {told}", loading.MATCHING)
        save(model, final, like=source.pickled, identity=identity, progress=progress)
    except (*loading.FAILURES, pickle.UnpicklingError) as error:
        if any(isinstance(each, pickle.UnpicklingError) for each in causes(error)):
            cause = (
                f"the pickled weights of {source.name!r} contain more than tensors, or are damaged: nothing was loaded"
            )
            remedy = "if you trust them, convert them with save_pretrained() and name that folder"
            raise SlimEvalError(cause, remedy) from error
        cause = f"model {source.name!r} cannot be converted: {loading.reason(error)}"
        raise SlimEvalError(cause, loading.remedy(error)) from error
    return final


def require_place(final: Path) -> None:
    """Recover an earlier conversion; a UsageError if the folder contains something else."""
    recover(final)
    if final.exists() and any(final.iterdir()) and not (final / CONVERSION_RECORD).is_file():
        raise UsageError(f"{final} was not made by slim-eval", "move it away, or set --quantized-models-dir")


def save(model: Any, final: Path, *, like: Path, identity: Mapping[str, Any], progress: Progress) -> None:
    """Publish a model as a conversion, with the small files of the checkpoint that it was made from (`like`)."""
    with new_checkpoint(final) as folder:
        with report_growth(folder, progress):
            loading.save(model, folder)
        copy_small_files(like, folder)
        write_text(folder / CONVERSION_RECORD, json.dumps(conversion_record(folder, identity), indent=2) + "\n")


def conversion_record(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What is written beside a converted checkpoint: the state that it was made from, and its size."""
    return {**identity, "bytes_on_disk": describe(folder).weight_bytes}
