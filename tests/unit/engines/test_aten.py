"""ATen's kernels against the emulation of compressed-tensors, and what is refused."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

NO_INTEGER_UNITS = frozenset({"avx2"})
INTEGER_UNITS = frozenset({"avx2", "avx512_vnni"})


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")  # not by each process that collects tests


@pytest.fixture
def aten(torch: Any) -> Any:
    pytest.importorskip("compressed_tensors")
    return importlib.import_module("slim_eval.engines.aten")


def compressed(scheme: str, width: int = 256, rows: int = 64) -> Any:
    """A linear layer as Transformers has it after loading a checkpoint: its weights are packed."""
    import torch
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import (
        QuantizationStatus,
        initialize_module_for_quantization,
        preset_name_to_scheme,
    )

    layer: Any = torch.nn.Linear(width, rows)
    initialize_module_for_quantization(layer, preset_name_to_scheme(scheme, ["Linear"]))
    weights = layer.quantization_scheme.weights
    groups = layer.weight.data.view(rows, -1, weights.group_size or width)
    layer.weight_scale.data = groups.abs().amax(-1) / (2 ** (weights.num_bits - 1) - 0.5)
    layer.quantization_status = QuantizationStatus.FROZEN
    compress_module(layer)
    return layer


@pytest.mark.parametrize("flags", [NO_INTEGER_UNITS, INTEGER_UNITS])
@pytest.mark.parametrize("width", [256, 2304])  # a sum in float32, and one that needs parts
def test_int8_products_are_exact(torch: Any, aten: Any, flags: frozenset[str], width: int) -> None:
    layer = compressed("W8A8", width)
    layer.weight.data.fill_(-128)  # the largest products that there are
    kernel = aten._kernel_of(layer, integer_units=flags is INTEGER_UNITS)
    rounded = torch.randint(-128, 128, (3, width)).float()
    exact = rounded.long() @ layer.weight.data.long().t()
    assert torch.equal(kernel._products(rounded).double(), exact.double())


@pytest.mark.parametrize("flags", [NO_INTEGER_UNITS, INTEGER_UNITS])
@pytest.mark.parametrize(("scheme", "limit"), [("W8A8", 1e-6), ("W4A16", 0.005)])
def test_a_layer_is_what_the_emulation_computes(
    torch: Any, aten: Any, scheme: str, limit: float, flags: frozenset[str]
) -> None:
    from compressed_tensors.compressors import decompress_module

    model = torch.nn.Sequential(compressed(scheme))
    inputs = torch.randn(2, 5, 256) * torch.tensor([1.0, 30.0]).view(2, 1, 1)
    inputs[0, 0] = 0  # a token without a step of its own
    emulated = model[0]
    names = aten.replace_layers(model, flags)
    assert names
    assert all(name.startswith("ATen int") for name in names)
    assert model[0] is not emulated
    decompress_module(emulated)
    with torch.inference_mode():
        expected, found = emulated(inputs), model(inputs)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < limit


def test_a_scheme_without_a_kernel_leaves_the_whole_model_as_it_is(torch: Any, aten: Any) -> None:
    model = torch.nn.Sequential(compressed("W8A8"), compressed("W8A16", 128, 32))
    with pytest.raises(aten.NoKernelError, match="no kernel for 1"):
        aten.replace_layers(model, NO_INTEGER_UNITS)
    assert all(isinstance(layer, torch.nn.Linear) for layer in model)


def test_a_wrong_kernel_is_not_used(torch: Any, aten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(compressed("W8A8"))
    right = aten.Int8Linear._products
    monkeypatch.setattr(aten.Int8Linear, "_products", lambda self, rounded: right(self, rounded).clamp(-9000, 9000))
    with pytest.raises(aten.NoKernelError, match="the kernel for 0 differs from its emulation by"):
        aten.replace_layers(model, NO_INTEGER_UNITS)
    assert isinstance(model[0], torch.nn.Linear)
