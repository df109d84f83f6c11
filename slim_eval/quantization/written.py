"""What quantization really did, read from the files of a checkpoint of compressed-tensors, not from what was asked.

The names, types and shapes in the headers say which layers are quantized, to how many bits, in groups of how many
columns; `config.json` says what an engine will take them for. `require` compares both with what was asked for.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slim_eval.errors import QuantizationError
from slim_eval.models.checkpoint_checks import linear_inputs
from slim_eval.models.source import CONFIG_FILE, Tensors, describe_config, read_header, tensor_bytes, weight_files
from slim_eval.recognise import of_config
from slim_eval.schemes import Recipe
from slim_eval.utils import safe_json

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
_PLAIN_KINDS = ("F16", "BF16", "F32", "F64")
_SEE_LOG = "measure this model at 16 bit, and see the log"


class Layers(BaseModel):
    """Quantized layers of one format."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    modules: int
    weights: int  # numbers in their matrices
    bytes: int  # of these in the files, scales and zero points included

    @property
    def bits_per_weight(self) -> float:
        """Bits that a number takes, with its share of the scales."""
        return 8 * self.bytes / self.weights


class Written(BaseModel):
    """What the files of a checkpoint contain."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scheme: str  # of its configuration, as `recognise` names it
    layers: dict[str, Layers]  # ``4-bit g64``, ``8-bit`` -> the layers that are quantized so
    plain_weights: int  # numbers in linear layers, or experts, that are left in 16 bit; the output layer is left out
    embedding_bytes: int
    has_output_layer: bool  # whether the output layer has a tensor of its own; else it is tied to the embeddings
    cache_scales: int  # scales of keys and values

    @property
    def quantized_weights(self) -> int:
        """Numbers in all quantized layers."""
        return sum(each.weights for each in self.layers.values())

    @property
    def low_bit_share(self) -> float:
        """The share of the linear weights that is quantized."""
        quantized = self.quantized_weights
        return quantized / (quantized + self.plain_weights) if quantized else 0.0


def read(folder: Path) -> Written:
    """Read the headers of a checkpoint; a UsageError if its files are not what their names say."""
    tensors: Tensors = {}
    columns: dict[str, int] = {}
    for file in weight_files(folder):
        tensors.update(read_header(file))
        columns.update(_packed_columns(file))
    config = safe_json.read_json(folder / CONFIG_FILE)
    quantization = config.get("quantization_config") or {}
    named = of_config(quantization)
    groups = (quantization.get("config_groups") or {}).values()
    sizes = {(group.get("weights") or {}).get("group_size") for group in groups if isinstance(group, dict)}
    own: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = defaultdict(dict)
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        own[module][part] = tensor
    layers: dict[str, Layers] = {}
    for module, parts in own.items():
        if (found := _format(parts, columns.get(module), sizes)) is None:
            continue
        name, weights = found
        size = sum(tensor_bytes(kind, shape) for part, (kind, shape) in parts.items() if part.startswith("weight"))
        so_far = layers.get(name, Layers(modules=0, weights=0, bytes=0))
        layers[name] = Layers(
            modules=so_far.modules + 1, weights=so_far.weights + weights, bytes=so_far.bytes + int(size)
        )
    # lm_head and parts for other modalities are what no scheme quantizes.
    linear = linear_inputs(tensors, describe_config(folder), Recipe("", ""))
    plain = [tensors[name] for name in linear if tensors[name][0] in _PLAIN_KINDS]
    return Written(
        scheme=named,
        layers=layers,
        plain_weights=sum(math.prod(shape) for _, shape in plain),
        embedding_bytes=int(sum(tensor_bytes(*tensor) for name, tensor in tensors.items() if _EMBEDDING.search(name))),
        has_output_layer=any(re.search(r"(^|\.)(lm_head|embed_out)\.weight", name) for name in tensors),
        cache_scales=sum(name.endswith((".k_scale", ".v_scale")) for name in tensors),
    )


def require(found: Written, asked: str, formats: frozenset[str], weights: int) -> None:
    """Refuse, with a QuantizationError, a checkpoint that is not what was asked for.

    Args:
        found: What its files contain.
        asked: The scheme that was asked for, as `recognise` names it.
        formats: The formats of weights that it allows: ``4-bit g64``.
        weights: Numbers in the layers that were to be quantized.
    """
    if not found.layers:
        raise QuantizationError("llm-compressor exited without quantizing anything", "see the log")
    if found.scheme != asked:
        cause = f"the checkpoint's config.json says {found.scheme}, but {asked} was asked for"
        raise QuantizationError(cause, _SEE_LOG)
    if others := [name for name in found.layers if name not in formats]:
        counts = ", ".join(f"{found.layers[name].modules} layers of {name}" for name in others)
        cause = f"the checkpoint contains {counts} weights, but {' and '.join(sorted(formats))} was asked for"
        raise QuantizationError(cause, _SEE_LOG)
    if found.quantized_weights < weights:
        share = found.quantized_weights / weights
        cause = f"the checkpoint has {share:.0%} of the weights that were to be quantized in low bits"
        raise QuantizationError(cause, f"some layers are not quantized: {_SEE_LOG}")
    if "+kv8" in asked and not found.cache_scales:
        raise QuantizationError("the checkpoint contains no scales of an FP8 KV cache", _SEE_LOG)


def format_name(bits: float, group: int | None) -> str:
    """The format of a layer's weights: ``4-bit g64``, or ``8-bit`` without groups along its input."""
    return f"{bits:g}-bit g{group}" if group else f"{bits:g}-bit"


def _format(
    parts: dict[str, tuple[str, tuple[int, ...]]], columns: int | None, sizes: Collection[int | None]
) -> tuple[str, int] | None:
    """The format of a module's weights and their number; None if they are not quantized.

    One scale per row is a group if the row is as long as one of the configured `sizes`.
    """
    scale = parts.get("weight_scale")
    kind, shape = parts.get("weight_packed") or parts.get("weight") or ("", ())
    if scale is None or len(shape) != 2 or kind in _PLAIN_KINDS:
        return None
    rows, width = shape
    bits = 8.0
    if "weight_packed" in parts and kind == "U8":  # two 4-bit floating-point numbers per byte
        bits, width = 4.0, 2 * width
    elif "weight_packed" in parts:
        packed = 32 * width
        width = columns or width * 8
        bits = float(packed // width)  # a row is filled up to whole integers
    # One scale for a tensor, one per row, or groups of a row; fewer rows of scales belong to blocks.
    groups = scale[1][1] if len(scale[1]) == 2 and scale[1][0] == rows else 1
    is_grouped = groups > 1 or (len(scale[1]) == 2 and scale[1][0] == rows and width in sizes)
    return format_name(bits, math.ceil(width / groups) if is_grouped else None), rows * width


def _packed_columns(file: Path) -> dict[str, int]:
    """Module -> input columns of its packed weights, which only the values of ``weight_shape`` tell."""
    names = [name for name in read_header(file) if name.endswith(".weight_shape")]
    if not names:
        return {}
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as tensors:
        return {name.removesuffix(".weight_shape"): int(tensors.get_tensor(name)[1]) for name in names}
