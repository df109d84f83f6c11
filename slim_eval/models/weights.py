"""What a model's weight files hold, without loading them: their bytes, and what their headers list, also on the hub."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from slim_eval.errors import HubError, UsageError
from slim_eval.models.hub import hub_errors
from slim_eval.models.source import ModelSource, Tensors, pickled_files, read_header, weight_files


def read_tensors(source: ModelSource) -> Tensors:
    """The tensors of a model, from the headers of its weight files; of one on the hub only these are fetched.

    Raises:
        HubError: The hub refused, cannot be reached, or holds no safetensors weights.
        UsageError: A file is missing, truncated, or not what its name says.
    """
    if source.path is not None:
        return {name: tensor for file in weight_files(source.path) for name, tensor in read_header(file).items()}
    if source.pickled is not None:
        raise UsageError(f"model {source.name!r} has pickled weights, which have no header", "convert them first")
    from huggingface_hub import errors, get_safetensors_metadata

    with hub_errors(source.name, source.revision):
        try:
            files = get_safetensors_metadata(source.name, revision=source.revision).files_metadata.values()
        except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
            raise HubError(
                f"model {source.name!r} has no readable weights in the safetensors format on the hub",
                "give a folder with safetensors weights",
            ) from error
    return {name: (str(t.dtype), tuple(t.shape)) for file in files for name, t in file.tensors.items()}


def bytes_here(source: ModelSource) -> int:
    """Bytes of a model's weight files on this machine, pickled ones too; 0 where it is still to be fetched.

    Raises:
        UsageError: A file is missing.
    """
    if source.path is not None:
        files = weight_files(source.path)
    else:
        files = [] if source.pickled is None else pickled_files(source.pickled)
    return sum(file.stat().st_size for file in files)


def tensor_bytes(kind: str, shape: Sequence[int]) -> float:
    """Bytes of a tensor of a dtype as safetensors names it, such as ``BF16``, ``I8`` or ``F8_E4M3``."""
    bits = 8 if kind == "BOOL" else int(re.sub(r"^[A-Z]+(\d+).*$", r"\1", kind))
    return math.prod(shape) * bits / 8
