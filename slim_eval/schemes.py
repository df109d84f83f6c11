"""Schemes: number formats of weights, activations and KV cache. The only table of everything that depends on a scheme.

`--precision` names schemes. A further scheme is one more entry, here or in a plugin: ``SCHEMES.register(Scheme(...))``.
Quantization, engine choice, planning, forecasts, tables and figures read this table and no other. It is at the root of
the package because both the config and the figures need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from slim_eval.errors import unknown_name
from slim_eval.utils.registry import Registry

#: `kernels` in records and engines: a native kernel whose products differ from the scheme's beyond rounding.
INEXACT_KERNELS = "inexact"


@dataclass(frozen=True)
class Recipe:
    """What llm-compressor does to make a checkpoint."""

    name: str  # in records and tables, as published: ``GPTQ (W8A8)``
    scheme: str  # preset of compressed-tensors: ``W8A8``
    modifier: str = "GPTQModifier"  # class name of llm-compressor's modifier, in whichever module this version has it
    group_size: int | None = None  # input columns that share a scale; None for one scale per output channel
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the modifier, which JSON can represent
    needs_calibration: bool = True  # whether the modifier needs data
    targets: tuple[str, ...] = ("Linear",)  # classes of the modules that are quantized
    #: Modules that are not quantized, by name or ``re:`` pattern: the output layer and vision parts.
    ignore: tuple[str, ...] = (
        "re:.*lm_head",
        "re:.*vision_tower.*",
        "re:.*vision_model.*",
        "re:.*visual.*",
        "re:.*multi_modal_projector.*",
    )

    def ignores(self, module: str) -> bool:
        """Whether the module of this name is not quantized, by `ignore`."""
        return any(re.match(pattern.removeprefix("re:"), module) for pattern in self.ignore)

    def misfits(self, widths: Mapping[str, int]) -> list[str]:
        """The modules, of those with these input widths, into which the group size does not fit, with their width."""
        size = self.group_size
        return [f"{module} ({width})" for module, width in widths.items() if size and width % size]


@dataclass(frozen=True)
class Kernel:
    """The hardware that one engine needs to run a scheme."""

    min_capability: tuple[int, int] | None = None  # lowest CUDA compute capability; None for any
    end_capability: tuple[int, int] | None = None  # first higher one without a kernel; None for no end
    cpu_flag: str | None = None  # needed instruction set, as ``/proc/cpuinfo`` names it: ``avx512f``; None for any CPU
    #: Instruction sets of an x86 CPU of which it needs one: without any, its products are wrong beyond rounding.
    exact_with: frozenset[str] = frozenset()
    cpu_dtypes: tuple[str, ...] = ()  # types of activations that it computes in on a CPU; empty for any


@dataclass(frozen=True)
class Scheme:
    """Number formats of weights, activations and KV cache of a variant."""

    name: str  # in `--precision` and in records
    label: str  # weights and activations in the field's notation: ``W4A16``; ``16-bit`` for unquantized weights
    weight_bits: float  # of a quantized layer, scales not counted
    activation_bits: float = 16
    kv_cache_bits: float = 16
    recipe: Recipe | None = None  # how a checkpoint is made; None if the model's own weights are served
    colour: str = "#7f7f7f"  # in figures
    marker: str = "D"  # in figures, as matplotlib names it
    aliases: tuple[str, ...] = ()  # further names that `--precision` accepts
    #: Engine name -> hardware that it needs; slim-eval knows no requirement of other engines.
    kernels: Mapping[str, Kernel] = field(default_factory=dict)

    @property
    def is_quantized(self) -> bool:
        """Whether slim-eval makes a checkpoint; without a recipe the model's own weights are served."""
        return self.recipe is not None

    @property
    def recorded_as(self) -> str:
        """`quantization_scheme` of its records: ``FP16``, ``GPTQ (W8A8)``."""
        return self.recipe.name if self.recipe is not None else self.name.upper()


SCHEMES: Registry[Scheme] = Registry("precision")

#: The baseline: the scheme that others of a model are compared with, unless a record names another one.
DEFAULT_BASELINE = SCHEMES.register(
    Scheme(
        "fp16", "16-bit", 16, colour="#0072B2", marker="o", kernels={"vllm": Kernel(min_capability=(7, 0))}
    )
).name  # fmt: skip
SCHEMES.register(
    Scheme(
        "int8", "W8A8", 8, activation_bits=8, colour="#E69F00", marker="s", recipe=Recipe("GPTQ (W8A8)", "W8A8"),
        # Blackwell has no INT8 CUTLASS kernel.
        # Without VNNI, oneDNN adds pairs of products in saturating 16-bit integers: decision 026.
        kernels={
            "vllm": Kernel(
                min_capability=(7, 5), end_capability=(10, 0),
                exact_with=frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
            )
        },
    )
)  # fmt: skip
SCHEMES.register(
    Scheme(
        "int4", "W4A16", 4, colour="#009E73", marker="^", recipe=Recipe("GPTQ (W4A16)", "W4A16", group_size=128),
        # cpu_gemm_wna16 is in the AVX-512 builds of vLLM's CPU extension and not in the AVX2 one.
        kernels={
            "vllm": Kernel(min_capability=(7, 5), cpu_flag="avx512f", cpu_dtypes=("float16", "bfloat16"))
        },
    )
)  # fmt: skip


def scheme(name: str) -> Scheme:
    """The scheme with a name or alias.

    Raises:
        UsageError: No scheme has that name.
    """
    found = next((member for member in SCHEMES.values() if name in member.aliases), None)
    if found is None and name not in SCHEMES:
        raise unknown_name("precision", name, SCHEMES)
    return found or SCHEMES[name]


def scheme_order(name: str) -> tuple[int, str]:
    """Sort key: registered schemes in the order of the table, then others by name."""
    names = list(SCHEMES)
    return (names.index(name) if name in SCHEMES else len(names), name)


def is_quantized(name: str) -> bool:
    """Whether slim-eval quantizes for a scheme; unregistered names, from imported files, count as quantized."""
    return name not in SCHEMES or SCHEMES[name].is_quantized


def in_order(names: Iterable[str]) -> list[str]:
    """Scheme names without duplicates, in the order of the table."""
    return sorted(set(names), key=scheme_order)


#: Name of a scheme in a config or a message: aliases become the name, unknown names are refused.
SchemeName = Annotated[str, AfterValidator(lambda name: scheme(name).name)]
