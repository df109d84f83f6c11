"""ATen's kernels for int8 and int4 weights on CPUs, in place of compressed-tensors' emulation in Transformers.

The layers of a loaded checkpoint keep their weights packed and are computed as the scheme says: int8 with activations
that are rounded per token and integer products, int4 with 16-bit activations. Before a kernel is used, one layer of
each shape is compared with its emulation. Import this module late: it imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

#: The largest difference between a kernel and its emulation, relative (root mean square): 16-bit activations are
#: rounded by up to 0.4 %.
MAX_ERROR: Final = 0.005
_ROWS = 16  # of the comparison
_STEPS = 127.5  # of one sign, of symmetric 8-bit activations as compressed-tensors rounds them
#: Products of 8-bit integers that a float32 sum holds exactly, whatever they are: 2**24 / 128**2.
_EXACT_SUM = 1024
#: Instruction sets with which ATen has a fast integer product; without them float32 units multiply the integers.
_INTEGER_UNITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


class Int8Linear(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Weights in 8 bit with a scale per row, activations rounded to 8 bit with a scale per token; exact products."""

    weight: Tensor
    scale: Tensor

    @property
    def name(self) -> str:
        """In records."""
        return f"ATen int8 ({'integer' if self._integer_units else 'float32'} units)"

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, *, integer_units: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("scale", scale.float().reshape(1, -1))
        self.bias = bias
        self._integer_units = integer_units

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output, in the type of its inputs."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        steps = (rows.abs().amax(-1, keepdim=True) / _STEPS).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (rows / steps).round_().clamp_(-128, 127)
        outputs = self._products(rounded) * steps * self.scale
        if self.bias is not None:
            outputs += self.bias
        return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], -1)

    def _products(self, rounded: Tensor) -> Tensor:
        if self._integer_units:
            return torch._int_mm(rounded.to(torch.int8), self.weight.t()).float()  # noqa: SLF001 - its only name
        parts = zip(rounded.split(_EXACT_SUM, -1), self.weight.split(_EXACT_SUM, -1), strict=True)
        products = [nn.functional.linear(part, weights.float()) for part, weights in parts]
        return products[0] if len(products) == 1 else torch.stack(products).sum(0)


class Int4Linear(nn.Module):  # type: ignore[misc]
    """Weights in 4 bit with a scale per group of columns, activations in bfloat16."""

    name = "ATen int4"
    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._group = weight.shape[1] // scale.shape[1]
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu  # noqa: SLF001 - its only name
        self.register_buffer("packed", pack((weight + 8).to(torch.int32).contiguous(), 1))
        scales = scale.to(torch.bfloat16).t().unsqueeze(-1)
        self.register_buffer("scales", torch.cat((scales, torch.zeros_like(scales)), -1).contiguous())
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output, in the type of its inputs."""
        rows = inputs.reshape(-1, inputs.shape[-1]).to(torch.bfloat16)
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - its only name
        outputs = multiply(rows, self.packed, self._group, self.scales).to(inputs.dtype)
        if self.bias is not None:
            outputs += self.bias
        return outputs.reshape(*inputs.shape[:-1], -1)


class NoKernelError(Exception):
    """Why a model stays emulated."""


def replace_layers(model: nn.Module, cpu_flags: frozenset[str]) -> tuple[str, ...]:
    """Give every quantized layer of a model that was just loaded a kernel of ATen's, and return the kernels' names.

    Raises:
        NoKernelError: One layer has none, or its kernel is wrong: the model is as it was.
    """
    made: dict[str, Int8Linear | Int4Linear] = {}
    checked = set[tuple[Any, ...]]()
    for name, layer in _quantized(model):
        kernel = _kernel_of(layer, integer_units=not cpu_flags.isdisjoint(_INTEGER_UNITS))
        if kernel is None:
            raise NoKernelError(f"no kernel for {name}")
        shape = (type(kernel), layer.in_features, layer.out_features)
        if shape not in checked:
            checked.add(shape)
            if (error := _error(kernel, layer)) > MAX_ERROR:
                raise NoKernelError(f"the kernel for {name} differs from its emulation by {100 * error:.2g} %")
        made[name] = kernel
    for name, kernel in made.items():
        model.set_submodule(name, kernel)
    return tuple(sorted({str(kernel.name) for kernel in made.values()}))


def _quantized(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in list(model.named_modules()):
        if getattr(layer, "quantization_scheme", None) is not None:
            yield name, layer


def _kernel_of(layer: Any, *, integer_units: bool) -> Int8Linear | Int4Linear | None:
    """The kernel of a layer whose weights are still as stored; None if there is none for its scheme."""
    scheme = layer.quantization_scheme
    weights, activations = scheme.weights, scheme.input_activations
    if not isinstance(layer, nn.Linear) or weights is None or weights.type != "int" or not weights.symmetric:
        return None
    strategy = str(getattr(weights.strategy, "value", weights.strategy))
    if hasattr(layer, "weight_g_idx") or scheme.output_activations is not None:
        return None
    if weights.num_bits == 8 and strategy == "channel" and activations is not None:
        per_token = str(getattr(activations.strategy, "value", activations.strategy)) == "token"
        plain = activations.num_bits == 8 and activations.type == "int" and activations.symmetric
        if not (per_token and plain and activations.dynamic and layer.weight.dtype == torch.int8):
            return None
        return Int8Linear(layer.weight.data, layer.weight_scale.data, layer.bias, integer_units=integer_units)
    if weights.num_bits == 4 and strategy == "group" and activations is None and hasattr(layer, "weight_packed"):
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

        shape = torch.Size((layer.out_features, layer.in_features))
        if weights.group_size not in (32, 64, 128, 256) or layer.out_features % 16:
            return None
        return Int4Linear(unpack_from_int32(layer.weight_packed.data, 4, shape), layer.weight_scale.data, layer.bias)
    return None


def _error(kernel: nn.Module, layer: Any) -> float:
    """How far a kernel is from the emulation of the same layer, relative (root mean square)."""
    from compressed_tensors.compressors import decompress_module

    # In float32: in 16 bit the emulation itself is rounded by as much as a wrong kernel would be.
    emulated = copy.deepcopy(layer).float()
    decompress_module(emulated)
    # Three dimensions, as in a model: of two, the emulation would give all tokens one scale.
    inputs = torch.randn(1, _ROWS, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = emulated(inputs).double()
        return float((kernel(inputs).double() - expected).norm() / expected.norm())
