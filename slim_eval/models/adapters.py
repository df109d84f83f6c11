"""LoRA adapters of peft: found with their base model, and merged into it once, in 16 bit, for every engine and scheme.

A merged adapter is a checkpoint like any other, so that it is served by every engine, and quantized by every scheme.
It is kept where conversions are, see `pickles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slim_eval.errors import INSTALL, MissingPackageError, SlimEvalError
from slim_eval.models import loading, pickles
from slim_eval.models.hub import Progress
from slim_eval.models.source import ADAPTER_WEIGHTS, ModelSource, describe, read_header

NOTE = "the adapter was merged into its base model, in 16 bit"
_OTHER = "give --base-model with the model that the adapter was trained on"


def merge(
    source: ModelSource,
    final: Path,
    identity: Mapping[str, Any],
    progress: Progress = lambda done, total, unit: None,
    *,
    trust_remote_code: bool = False,
) -> Path:
    """Merge the adapter of a source into its base model, whose checkpoint is here, and publish the result as `final`.

    Raises:
        UsageError: `final` contains something else.
        SlimEvalError: The adapter does not fit its base model, or is damaged.
        MissingPackageError: peft or transformers is not installed.
    """
    assert source.base is not None
    assert source.base.path is not None
    assert source.adapter is not None
    try:
        import torch
        from peft import PeftModel, get_peft_model_state_dict
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "peft", "merging an adapter", INSTALL) from error
    pickles.require_place(final)
    facts = describe(source.base.path)
    stored = set(read_header(source.adapter / ADAPTER_WEIGHTS))
    try:
        dtype = getattr(torch, facts.dtype)
        model = loading.load(source.base.path, dtype=dtype, trust_remote_code=trust_remote_code)
        adapted = PeftModel.from_pretrained(model, str(source.adapter))
        # peft only warns of what it does not find: that part of the adapter would be random, or left out.
        if other := sorted(stored ^ set(get_peft_model_state_dict(adapted))):
            cause = f"adapter {source.name!r} does not fit {source.base.name!r}: {len(other)} tensors, e.g. {other[0]}"
            raise SlimEvalError(cause, _OTHER)
        merged = adapted.merge_and_unload(safe_merge=True)
        pickles.save(merged.to(dtype), final, like=source.base.path, identity=identity, progress=progress)
    except loading.FAILURES as error:
        cause = f"adapter {source.name!r} cannot be merged into {source.base.name!r}: {loading.reason(error)}"
        raise SlimEvalError(cause, _OTHER) from error
    return final
