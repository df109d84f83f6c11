"""Schemes: how a variant holds its numbers. The one table of everything that depends on a scheme.

`--precision` names schemes. A further scheme is one more entry, here or registered by a plugin:
``SCHEMES.register(Scheme(...))``. Quantization, engine choice, planning, forecasts, tables and figures read this table
and no other. It stands below everything else, because both the config and the figures need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from slim_eval.errors import unknown_name
from slim_eval.utils.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """What llm-compressor is told to do.

    Attributes:
        name: In records and tables, as published: ``GPTQ (W8A8)``.
        modifier: llm-compressor's modifier class, from `llmcompressor.modifiers`.
        scheme: compressed-tensors' preset: ``W8A8``.
        group_size: Input columns that share a scale; None for one scale per output channel.
        arguments: Further arguments of the modifier.
        needs_calibration: Whether the modifier needs calibration data.
        targets: Module classes that are quantized.
        ignore: Modules that are not, by name or ``re:`` pattern: the output layer and vision parts.
    """

    name: str
    scheme: str
    modifier: str = "GPTQModifier"
    group_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs_calibration: bool = True
    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = (
        "re:.*lm_head",
        "re:.*vision_tower.*",
        "re:.*vision_model.*",
        "re:.*visual.*",
        "re:.*multi_modal_projector.*",
    )


@dataclass(frozen=True)
class Kernel:
    """What one engine needs to run a scheme natively.

    Attributes:
        min_capability: Lowest CUDA compute capability; None for any.
        end_capability: First CUDA compute capability without a kernel again; None for no end.
        cpu_flag: Instruction set that the engine's CPU kernel needs: ``avx512f``; None for none.
    """

    min_capability: tuple[int, int] | None = None
    end_capability: tuple[int, int] | None = None
    cpu_flag: str | None = None


@dataclass(frozen=True)
class Scheme:
    """How weights, activations and the KV cache of a variant are held.

    Attributes:
        name: As `--precision` and records call it.
        label: Weights and activations in the field's notation: ``W4A16``; ``16-bit`` for unquantized weights.
        weight_bits: Bits per weight of a quantized layer, scales not counted.
        activation_bits: Bits per activation.
        kv_cache_bits: Bits per element of the KV cache.
        recipe: How a checkpoint is made; None where the model's own weights are served.
        colour: Its colour in figures.
        marker: Its marker in figures, as matplotlib names it.
        aliases: Further names that `--precision` accepts.
        kernels: Engine name -> what it needs. An engine that is not named has no requirement known to slim-eval.
    """

    name: str
    label: str
    weight_bits: float
    activation_bits: float = 16
    kv_cache_bits: float = 16
    recipe: Recipe | None = None
    colour: str = "#7f7f7f"
    marker: str = "D"
    aliases: tuple[str, ...] = ()
    kernels: Mapping[str, Kernel] = field(default_factory=dict)

    @property
    def is_quantized(self) -> bool:
        """Whether slim-eval makes a checkpoint for it; without a recipe the model's own weights are served."""
        return self.recipe is not None

    @property
    def recorded_as(self) -> str:
        """`quantization_scheme` of its records: ``FP16``, ``GPTQ (W8A8)``."""
        return self.recipe.name if self.recipe is not None else self.name.upper()


SCHEMES: Registry[Scheme] = Registry("precision")

#: The scheme that others of a model are compared with, unless a record names another one.
DEFAULT_BASELINE = SCHEMES.register(
    Scheme(
        "fp16", "16-bit", 16, colour="#0072B2", marker="o", kernels={"vllm": Kernel(min_capability=(7, 0))}
    )
).name  # fmt: skip
SCHEMES.register(
    Scheme(
        "int8",
        "W8A8",
        8,
        activation_bits=8,
        colour="#E69F00",
        marker="s",
        recipe=Recipe("GPTQ (W8A8)", "W8A8"),
        # Blackwell has no INT8 CUTLASS kernel.
        kernels={"vllm": Kernel(min_capability=(7, 5), end_capability=(10, 0))},
    )
)
SCHEMES.register(
    Scheme(
        "int4",
        "W4A16",
        4,
        colour="#009E73",
        marker="^",
        recipe=Recipe("GPTQ (W4A16)", "W4A16", group_size=128),
        # cpu_gemm_wna16 is in the AVX-512 builds of vLLM's CPU extension and not in the AVX2 one.
        kernels={"vllm": Kernel(min_capability=(7, 5), cpu_flag="avx512f")},
    )
)


def scheme(name: str) -> Scheme:
    """The scheme that a name or alias means.

    Raises:
        UsageError: No scheme has that name.
    """
    found = next((member for member in SCHEMES.values() if name in member.aliases), None)
    if found is None and name not in SCHEMES:
        raise unknown_name("precision", name, SCHEMES)
    return found or SCHEMES[name]


def scheme_order(name: str) -> tuple[int, str]:
    """Sorts schemes: registered ones in the order of the table, then any other by name."""
    names = list(SCHEMES)
    return (names.index(name) if name in SCHEMES else len(names), name)


def is_quantized(name: str) -> bool:
    """Whether slim-eval quantizes for a scheme; a name that is not registered, of an imported file, counts as one."""
    return name not in SCHEMES or SCHEMES[name].is_quantized


def in_order(names: Iterable[str]) -> list[str]:
    """Scheme names, each once, in the order of the table."""
    return sorted(set(names), key=scheme_order)


#: A scheme's name in a config or a message: aliases become the name, an unknown one is refused.
SchemeName = Annotated[str, AfterValidator(lambda name: scheme(name).name)]
