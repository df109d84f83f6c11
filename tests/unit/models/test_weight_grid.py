"""Whether 16-bit weights lie on a 4-bit grid, from a few of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slim_eval.demo import MODEL_DIR
from slim_eval.models.weight_grid import grid_bits

ROWS, COLUMNS = 64, 256


def write(folder: Path, matrices: dict[str, Any], kind: str = "F16", **config: Any) -> Path:
    header, data = {}, b""
    for name, values in matrices.items():
        raw = values.tobytes()
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    return folder


def trained(seed: int, dtype: str = "float16") -> Any:
    return np.random.default_rng(seed).normal(0, 0.02, (ROWS, COLUMNS)).astype(dtype)


def rounded(seed: int, block: int, bits: int, dtype: str = "float16") -> Any:
    """Rounded to so many bits with a scale and an offset per block, and back to 16 bit."""
    values = trained(seed, "float32").reshape(-1, block)
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    return (np.round((values - low) / step) * step + low).astype(dtype).reshape(ROWS, COLUMNS)


def names(count: int) -> list[str]:
    return [f"model.layers.{number}.mlp.up_proj.weight" for number in range(count)]


@pytest.mark.parametrize("block", [32, 64, 128])
def test_weights_that_were_in_4_bit_are_found(tmp_path: Path, block: int) -> None:
    matrices = {name: rounded(seed, block, 4) for seed, name in enumerate(names(12))}
    assert grid_bits(write(tmp_path / "m", {**matrices, "model.embed_tokens.weight": trained(99)})) == 4
    wide = {name: rounded(seed, block, 4, "float32") for seed, name in enumerate(names(12))}
    assert grid_bits(write(tmp_path / "wide", wide, "F32")) == 4


@pytest.mark.parametrize("bits", [6, 8])
def test_weights_of_more_bits_are_not(tmp_path: Path, bits: int) -> None:
    assert grid_bits(write(tmp_path / "m", {name: rounded(7, 32, bits) for name in names(12)})) is None


def test_trained_weights_are_not_even_with_some_layers_on_a_grid(tmp_path: Path) -> None:
    assert grid_bits(write(tmp_path / "plain", {name: trained(seed) for seed, name in enumerate(names(12))})) is None
    some = {name: trained(3) if seed % 3 == 0 else rounded(seed, 32, 4) for seed, name in enumerate(names(12))}
    assert grid_bits(write(tmp_path / "some", some)) is None
    assert grid_bits(MODEL_DIR) is None


def test_zeros_and_checkpoints_that_say_so_themselves_count_for_nothing(tmp_path: Path) -> None:
    assert grid_bits(write(tmp_path / "zero", {name: 0 * trained(1) for name in names(3)})) is None
    quantized = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert grid_bits(write(tmp_path / "awq", {name: rounded(1, 32, 4) for name in names(3)}, **quantized)) is None
    assert grid_bits(Path("tiny.gguf")) is None
    assert grid_bits(write(tmp_path / "none", {"model.norm.weight": trained(1)[0]})) is None
