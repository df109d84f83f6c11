"""What quantization really did, from planted files: a checkpoint that is not what was asked for is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import QuantizationError
from slim_eval.quantization.written import Written, read, require
from tests.unit.models.test_source import write_safetensors

W4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
W8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
A8 = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
FLOAT8 = {**W8, "type": "float"}
ROWS, COLUMNS = 64, 128
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")

INT8 = {"weight": ("I8", [ROWS, COLUMNS]), "weight_scale": ("BF16", [ROWS, 1])}
INT4 = {"weight_packed": ("I32", [ROWS, COLUMNS // 8]), "weight_scale": ("BF16", [ROWS, COLUMNS // 64])}
FP8 = {"weight": ("F8_E4M3", [ROWS, COLUMNS]), "weight_scale": ("F32", [ROWS, 1])}
BLOCK = {"weight": ("F8_E4M3", [ROWS, COLUMNS]), "weight_scale": ("F32", [1, 2])}
FP4 = {"weight_packed": ("U8", [ROWS, COLUMNS // 2]), "weight_scale": ("F8_E4M3", [ROWS, COLUMNS // 16])}
PLAIN = {"weight": ("BF16", [ROWS, COLUMNS])}


def planted(folder: Path, parts: dict[str, dict[str, Any]], weights: Any, activations: Any = None, **more: Any) -> Path:
    """A checkpoint whose layers have these tensors, and whose configuration says so."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    quantization = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {f"{layer}.{name}": tensor for layer, own in parts.items() for name, tensor in own.items()}
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": ("BF16", [16, COLUMNS]), **tensors})
    return folder


@pytest.mark.parametrize(
    ("tensors", "weights", "activations", "scheme", "format_", "bits"),
    [
        (INT8, W8, A8, "w8a8", "8-bit", 8 + 16 / COLUMNS),
        (INT4, W4, None, "w4a16 g64", "4-bit g64", 4 + 16 / 64),
        (FP8, FLOAT8, {**A8, "type": "float"}, "fp8", "8-bit", 8 + 32 / COLUMNS),
        (BLOCK, {**FLOAT8, "strategy": "block"}, {**A8, "type": "float"}, "fp8-block", "8-bit", 8 + 32 * 2 / 8192),
        (FP4, {**W4, "type": "float", "group_size": 16}, None, "nvfp4a16", "4-bit g16", 4 + 8 / 16),
    ],
)
def test_formats_are_read_from_types_and_shapes(
    tmp_path: Path, tensors: Any, weights: Any, activations: Any, scheme: str, format_: str, bits: float
) -> None:
    found = read(planted(tmp_path, dict.fromkeys(LAYERS, tensors), weights, activations))
    assert found.scheme == scheme
    assert {name: each.modules for name, each in found.layers.items()} == {format_: 2}
    assert found.quantized_weights == 2 * ROWS * COLUMNS
    assert found.layers[format_].bits_per_weight == pytest.approx(bits)
    assert (found.low_bit_share, found.plain_weights, found.has_output_layer) == (1.0, 0, False)
    assert found.embedding_bytes == 2 * 16 * COLUMNS
    require(found, scheme, frozenset({format_}), 2 * ROWS * COLUMNS)


def test_layers_and_experts_left_in_16_bit_count(tmp_path: Path) -> None:
    fused = {"gate_up_proj": ("BF16", [4, ROWS, COLUMNS])}
    parts = {LAYERS[0]: INT4, LAYERS[1]: PLAIN, "model.layers.0.mlp.experts": fused, "lm_head": PLAIN}
    found = read(planted(tmp_path, parts, W4))
    assert found.low_bit_share == pytest.approx(1 / 6), "one of two layers and of four fused experts"
    assert found.has_output_layer


def refuse(found: Written, words: str, asked: str = "w4a16 g64", weights: int = 2 * ROWS * COLUMNS) -> None:
    with pytest.raises(QuantizationError, match=words):
        require(found, asked, frozenset({"4-bit g64"}), weights)


def test_another_scheme_than_the_one_asked_for(tmp_path: Path) -> None:
    refuse(read(planted(tmp_path, dict.fromkeys(LAYERS, INT8), W8, A8)), "says w8a8, but w4a16 g64 was asked for")


def test_other_weights_than_the_configuration_says(tmp_path: Path) -> None:
    found = read(planted(tmp_path, {LAYERS[0]: INT4, LAYERS[1]: INT8}, W4))
    refuse(found, "contains 1 layers of 8-bit weights, but 4-bit g64 was asked for")


def test_another_group_size_in_the_scales(tmp_path: Path) -> None:
    coarse = {**INT4, "weight_scale": ("BF16", [ROWS, 1])}
    refuse(read(planted(tmp_path, dict.fromkeys(LAYERS, coarse), W4)), "contains 2 layers of 4-bit weights")


def test_layers_that_should_be_quantized_and_are_not(tmp_path: Path) -> None:
    refuse(read(planted(tmp_path, {LAYERS[0]: INT4, LAYERS[1]: PLAIN}, W4)), "has 50% of the weights")


def test_nothing_quantized(tmp_path: Path) -> None:
    refuse(read(planted(tmp_path, dict.fromkeys(LAYERS, PLAIN), W4)), "without quantizing anything")


def test_a_cache_without_scales(tmp_path: Path) -> None:
    kv = {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    parts = dict.fromkeys(LAYERS, INT4)
    refuse(read(planted(tmp_path, parts, W4, **kv)), "no scales of an FP8 KV cache", "w4a16 g64+kv8")
    scales = {"model.layers.0.self_attn": {"k_scale": ("BF16", [1]), "v_scale": ("BF16", [1])}}
    found = read(planted(tmp_path, {**parts, **scales}, W4, **kv))
    assert found.cache_scales == 2


def test_a_layer_as_wide_as_a_group_has_one_scale_per_row(tmp_path: Path) -> None:
    narrow = {"weight_packed": ("I32", [ROWS, 64 // 8]), "weight_scale": ("BF16", [ROWS, 1])}
    found = read(planted(tmp_path, {LAYERS[0]: INT4, LAYERS[1]: narrow}, W4))
    assert set(found.layers) == {"4-bit g64"}
