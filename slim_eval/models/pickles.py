"""Weights that are pickled (``.bin``): where the checkpoint that is made of them stands, and whether it is whole.

A pickle is a program. None is loaded unless `--allow-pickle` asks for it, and then once: `unpickling` takes the tensors
out of it, and nothing else, into a safetensors checkpoint beside the quantized ones. Whatever comes later reads that.

    {quantized_models_dir}/{model}_safetensors-{state}/   a folder for each state of a model: none is replaced in use
        conversion.json                                   of which state, and how many bytes of weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval.errors import UsageError
from slim_eval.models.source import describe
from slim_eval.utils import full_name, safe_json, write_text
from slim_eval.utils.redaction import redact_all

RECORD_FILE = "conversion.json"
NOTE = "its weights were pickled: the tensors were taken from them into safetensors files, which were measured"


@dataclass(frozen=True)
class Conversion:
    """What is to be made of a state of a model.

    Attributes:
        folder: Where it stands, once it is made.
        identity: Which state of the model.
    """

    folder: Path
    identity: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether the folder holds the whole of what was converted from this state of the model."""
        try:
            return bool(
                safe_json.read_json(self.folder / RECORD_FILE) == redact_all(_record(self.folder, self.identity))
            )
        except (OSError, ValueError, UsageError):
            return False


def conversion(root: Path, model: str, identity: dict[str, Any]) -> Conversion:
    """The conversion of a state of a model, below the folder of quantized checkpoints."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Conversion(root / f"{full_name(model)}_safetensors-{digest[:8]}", identity)


def write_conversion(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down from which state of the model a folder was converted, and how much is in it."""
    write_text(folder / RECORD_FILE, json.dumps(_record(folder, identity), indent=2) + "\n")


def _record(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "bytes_on_disk": describe(folder).weight_bytes}
