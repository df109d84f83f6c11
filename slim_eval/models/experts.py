"""Mixture-of-experts models, with a Linear for each matrix of an expert, as llm-compressor quantizes them.

Transformers 5 fuses the experts of a layer into one tensor, which no scheme of llm-compressor can quantize: it splits
them. A checkpoint of split experts has other keys than the fused model, and int8 activations only exist in front of a
Linear. Both sides therefore use split experts: `split` before quantization, `split_while_loading` for the checkpoint.
Its keys are those of the source, with one expert per key where the source has that too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slim_eval.models.source import read_header, weight_files

#: Linear modules in front of experts, which choose among them: never quantized, here or in vLLM.
ROUTERS = ("re:.*[.]gate$", "re:.*router.*", "re:.*shared_expert_gate$")

_FUSED = re.compile(r"[.](?:gate_up|up|down)_proj$")  # a parameter, not a module with a weight
_EXPERT = re.compile(r"^(.*\.experts)\.(\d+)\.(.+)$")
#: Transformers' patterns of keys that it fuses, and of the tensor that it makes of them.
_SOURCE = re.compile(r"^.*experts\.\*\.(\w+)\.weight$")
_TARGET = re.compile(r"^.*experts\.(gate_up_proj|up_proj|down_proj)$")


def is_fused(name: str, values: Any) -> bool:
    """Whether a parameter is the experts of a layer in one tensor."""
    return bool(_FUSED.search(name)) and values.dim() == 3


def has_fused(model: Any) -> bool:
    """Whether a model, which may be on the meta device, has experts as one tensor per layer."""
    return any(is_fused(name, values) for name, values in model.named_parameters())


def split(model: Any) -> bool:
    """Split the fused experts of a loaded model, so that it is also saved with split ones; False without any."""
    if not has_fused(model):
        return False
    try:
        from llmcompressor.modeling.moe.conversion_mappings import set_save_conversion_mapping
        from llmcompressor.modeling.moe.linearize import linearize_moe
    except ModuleNotFoundError:  # older llm-compressor, for a Transformers that fuses few experts: it does that itself
        return False
    saved = _by_expert(getattr(model, "_weight_conversions", None) or [])
    linearize_moe(model)
    set_save_conversion_mapping(model, saved)
    return True


@contextmanager
def split_while_loading(checkpoint: Path, *, trust_remote_code: bool = False) -> Iterator[None]:
    """Transformers loads split experts meanwhile, if the checkpoint is quantized and its model has fused ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(checkpoint), trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None) is None or "expert" not in config.to_json_string():
        yield
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    if not has_fused(model):
        yield
        return
    from transformers import conversion_mapping

    try:
        from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
        from llmcompressor.modeling.moe.linearize import get_non_linearized_moes
    except ModuleNotFoundError as error:
        raise ImportError("llm-compressor is needed to load quantized experts", name="llmcompressor") from error

    # Not by transformers.monkey_patching: it looks into every lazy module, some of which need what is not installed.
    classes = {type(experts) for _, experts in get_non_linearized_moes(model)}
    kinds = {
        kind: mapping
        for module in model.modules()
        if hasattr(module, "config")
        for kind in (type(module).__name__, getattr(module.config, "model_type", None))
        if kind and (mapping := conversion_mapping.get_checkpoint_conversion_mapping(kind))
    }
    register = conversion_mapping.register_checkpoint_conversion_mapping
    try:
        for each in classes:
            setattr(
                sys.modules[each.__module__],
                each.__name__,
                _built_as(LinearExperts2D.get_linear_experts_cls(each), each),
            )
        for kind, mapping in kinds.items():
            register(kind, _by_expert(mapping), overwrite=True)
        yield
    finally:
        for each in classes:
            setattr(sys.modules[each.__module__], each.__name__, each)
        for kind, mapping in kinds.items():
            register(kind, mapping, overwrite=True)


def odd_ones(checkpoint: Path) -> list[str]:
    """Weights that an expert lacks although most of its layer have them, by the names in a checkpoint."""
    found: dict[tuple[str, str], set[str]] = {}  # layer and name within the expert -> experts
    for file in weight_files(checkpoint):
        for name in read_header(file):
            if match := _EXPERT.match(name):
                found.setdefault((match[1], match[3]), set()).add(match[2])
    experts: dict[str, set[str]] = {}
    for (layer, _), having in found.items():
        experts.setdefault(layer, set()).update(having)
    return sorted(
        f"{layer}.{min(experts[layer] - having)}.{name}"
        for (layer, name), having in found.items()
        if len(having) > len(experts[layer]) / 2 and having != experts[layer]
    )


def _built_as(split: Any, fused: Any) -> Any:
    """A class in place of `fused` that builds `split`, of which no module is an instance: not even `split` is.

    Transformers initialises modules by their class, and would look for the fused tensors.
    """
    return type(fused.__name__, (fused,), {"__new__": lambda _, *args, **options: split(*args, **options)})


def _by_expert(mapping: list[Any]) -> list[Any]:
    """A conversion of keys in which those that fuse experts only rename them: ``experts.0.w1`` is a ``gate_proj``."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    found = []
    for each in mapping:
        sources = [match for pattern in each.source_patterns if (match := _SOURCE.match(pattern))]
        target = _TARGET.match(each.target_patterns[0])
        names = ("gate_proj", "up_proj") if target and target[1] == "gate_up_proj" else (target[1] if target else "",)
        if not isinstance(each, WeightConverter) or not target or len(sources) != len(names):
            found.append(each)
            continue
        for source, name in zip(sources, names, strict=True):
            renaming = WeightRenaming(rf"\.experts\.(\d+)\.{source[1]}\.", rf".experts.\1.{name}.")
            renaming.scope_prefix, renaming.base_model_prefix = each.scope_prefix, each.base_model_prefix
            found.append(renaming)
    return found
