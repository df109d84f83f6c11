"""Makes a safetensors checkpoint of pickled weights, and runs no code from them: torch takes only tensors out."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slim_eval.engines import room
from slim_eval.errors import INSTALL, MissingPackageError, SlimEvalError, UsageError, causes
from slim_eval.models import loading
from slim_eval.models.hub import Progress, report_growth
from slim_eval.models.pickles import RECORD_FILE, write_conversion
from slim_eval.models.source import ModelSource, bytes_here
from slim_eval.quantization.cache import copy_small_files, new_checkpoint, recover

_LIBRARIES_GB = 0.5


def convert(
    source: ModelSource,
    final: Path,
    identity: Mapping[str, Any],
    progress: Progress = lambda done, total, unit: None,
    *,
    trust_remote_code: bool = False,
) -> Path:
    """Convert the weights of `source.pickled` and publish the checkpoint as `final`.

    Args:
        source: A fetched model whose weights are pickled.
        final: The folder that the checkpoint gets; an older conversion in it is replaced.
        identity: Which state of the model it is.
        progress: Told how many MB are written.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        UsageError: `final` holds something else.
        SlimEvalError: The files are damaged, hold more than tensors, or lack some of the model's weights, or
            Transformers cannot load or save the model.
        EngineError: The machine's memory cannot hold the model.
        MissingPackageError: torch or transformers is not installed.
    """
    assert source.pickled is not None
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "transformers", "conversion", INSTALL) from error
    room.require_in_ram(bytes_here(source), _LIBRARIES_GB)
    recover(final)
    if final.exists() and any(final.iterdir()) and not (final / RECORD_FILE).is_file():
        raise UsageError(f"{final} was not made here", "move it away, or set --quantized-models-dir")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source.pickled, dtype="auto", use_safetensors=False, weights_only=True, output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if missing := sorted(found["missing_keys"]):
            raise SlimEvalError(
                f"the pickled weights of {source.name!r} lack {len(missing)} of its tensors, first {missing[0]}",
                "download the model again",
            )
        with new_checkpoint(final) as folder:
            with report_growth(folder, progress):
                loading.save(model, folder)
            copy_small_files(source.pickled, folder)
            write_conversion(folder, identity)
    except (*loading.FAILURES, pickle.UnpicklingError) as error:
        raise _explained(source.name, error) from error
    return final


def _explained(model: str, error: BaseException) -> SlimEvalError:
    if any(isinstance(cause, pickle.UnpicklingError) for cause in causes(error)):
        return SlimEvalError(
            f"the pickled weights of {model!r} hold more than tensors, or are damaged: nothing was loaded",
            "where you trust them, convert them with save_pretrained() and give that folder",
        )
    return SlimEvalError(f"model {model!r} cannot be converted: {loading.reason(error)}", loading.remedy(error))
