"""Weights that are pickled (``.bin``): which files they are, and where the checkpoint that is made of them stands.

A pickle is a program. None is loaded unless `--allow-pickle` asks for it, and then once: `unpickling` takes the tensors
out of it, and nothing else, into a safetensors checkpoint beside the quantized ones. Whatever comes later reads that.

    {quantized_models_dir}/{model}_safetensors-{state}/   a folder for each state of a model: none is replaced in use
        conversion.json                                   of which state, and how many bytes of weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slim_eval import bounded
from slim_eval.errors import UsageError
from slim_eval.redaction import redact_all
from slim_eval.utils import full_name, write_text

RECORD_FILE = "conversion.json"
#: What is fetched where a model on the hub has no other weights.
PATTERNS = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
NOTE = "its weights were pickled: the tensors were taken from them into safetensors files, which were measured"


def pickled_files(folder: Path) -> list[Path]:
    """The pickled weight files of a checkpoint, sorted by name; those of optimisers and adapters are none."""
    return sorted(path for pattern in PATTERNS[:2] for path in folder.glob(pattern))


def converted_directory(root: Path, model: str, identity: Mapping[str, Any]) -> Path:
    """Where a state of a model stands once it is converted, below the folder of quantized checkpoints."""
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return root / f"{full_name(model)}_safetensors-{digest[:8]}"


def is_converted(folder: Path, identity: Mapping[str, Any], weight_bytes: Callable[[Path], int]) -> bool:
    """Whether a folder holds the whole of what was converted from this state of the model.

    Args:
        folder: Where it should stand.
        identity: Of the model.
        weight_bytes: The bytes of the weights that a folder holds, or a `UsageError` where they are damaged.

    Raises:
        UsageError: The folder holds something else.
    """
    try:
        record = bounded.read_json(folder / RECORD_FILE)
        return bool(record == {**redact_all(dict(identity)), "bytes_on_disk": weight_bytes(folder)})
    except UsageError:
        return False
    except (OSError, ValueError) as error:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} was not made here", "move it away, or set --quantized-models-dir") from error
        return False


def write_conversion(folder: Path, identity: Mapping[str, Any], weight_bytes: int) -> None:
    """Write down from which state of the model a folder was converted, and how much is in it."""
    write_text(folder / RECORD_FILE, json.dumps({**identity, "bytes_on_disk": weight_bytes}, indent=2) + "\n")
