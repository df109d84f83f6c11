"""Schemes: number formats of weights, activations and KV cache. The only table of everything that depends on a scheme.

`--precision` names schemes. A further scheme is one more entry, here or in a plugin: ``SCHEMES.register(Scheme(...))``.
Quantization, engine choice, planning, forecasts, tables and figures read this table and no other. It is at the root of
the package because both the config and the figures need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator

from slim_eval.errors import UsageError, unknown_name
from slim_eval.utils.registry import Registry

#: `kernels` in records and engines: a native kernel whose products differ from the scheme's beyond rounding.
INEXACT_KERNELS = "inexact"

#: Ending of a scheme's name: keys and values of the cache in 8-bit floating point. `recognise` writes it too.
KV8 = "+kv8"
#: Beginning of the name of a checkpoint with layers in several formats, as `recognise` writes it: ``mixed-w4a16-w8a8``.
_MIXED = "mixed-"
#: Beginning of the name of a scheme whose recipe is a file of the user's own: ``recipe:w4a16-mine``.
RECIPE_FILE = "recipe:"


@dataclass(frozen=True)
class Recipe:
    """What llm-compressor does to make a checkpoint."""

    name: str  # in records and tables, as published: ``GPTQ (W8A8)``
    scheme: str  # preset of compressed-tensors: ``W8A8``
    modifier: str = "GPTQModifier"  # class name of llm-compressor's modifier, in whichever module this version has it
    group_size: int | None = None  # input columns that share a scale; None for one scale per output channel
    smaller_groups: tuple[int, ...] = ()  # sizes to take instead where that one does not fit, the largest first
    has_fixed_groups: bool = False  # whether the group size is part of the number format
    format: str | None = None  # of the weights on disk, as compressed-tensors names it; None for what it would choose
    transform: str | None = None  # modifier that changes the weights first, e.g. SmoothQuantModifier; None without one
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the modifier, which JSON can represent
    kv_cache: bool = False  # whether scales of an FP8 KV cache are calibrated
    file: str | None = None  # text of a recipe of the user's own, in YAML; the fields above then only describe it
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
        return any(re.match(each[3:], module) if each.startswith("re:") else each == module for each in self.ignore)

    def with_groups(self, size: int | None) -> Recipe:
        """The recipe with groups of so many columns, which its name says if that is not its own size."""
        if size in (None, self.group_size):
            return self
        return replace(self, name=f"{self.name.removesuffix(')')} g{size})", group_size=size, smaller_groups=())

    def with_kv8(self) -> Recipe:
        """The recipe that also calibrates the scales of an FP8 KV cache."""
        return replace(self, name=f"{self.name.removesuffix(')')}+KV8)", kv_cache=True, needs_calibration=True)

    def changed_groups(self, asked: int | None) -> int | None:
        """The group size that was asked for, where it applies: not without groups, nor if they belong to the format."""
        return None if self.group_size is None or self.has_fixed_groups else asked

    def fitting(self, widths: Mapping[str, int]) -> int | None:
        """The group size for layers of these input widths: the largest that fits all that any of its sizes fits."""
        sizes = [size for size in (self.group_size, *self.smaller_groups) if size]
        # Smaller sizes divide the larger ones: the largest size with the fewest misfits.
        return min(sizes, key=lambda size: sum(width % size > 0 for width in widths.values()), default=None)

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
    dtypes: tuple[str, ...] = ()  # types of activations that it computes in; empty for any
    #: On CPUs instead: instruction set -> those types there; any type on a CPU without it. None if `dtypes` holds.
    cpu_dtypes: Mapping[str, tuple[str, ...]] | None = None
    on_cpu: bool = True  # whether there is one for CPUs

    def known_dtypes(self, cpu_flags: frozenset[str] | None) -> tuple[str, ...]:
        """Types of activations that it computes in on a CPU with these instruction sets; empty for any.

        Args:
            cpu_flags: As ``/proc/cpuinfo`` names them; None for a GPU.
        """
        if cpu_flags is None or self.cpu_dtypes is None:
            return self.dtypes
        return next((types for flag, types in self.cpu_dtypes.items() if flag in cpu_flags), ())

    def along_with(self, other: Kernel) -> Kernel:
        """What an engine needs to run both."""
        lowest = [each.min_capability for each in (self, other) if each.min_capability is not None]
        ends = [each.end_capability for each in (self, other) if each.end_capability is not None]
        known = [set(each.dtypes) for each in (self, other) if each.dtypes]
        cpu_dtypes = None
        if self.cpu_dtypes is not None or other.cpu_dtypes is not None:
            cpu_dtypes = {**(self.cpu_dtypes or {}), **(other.cpu_dtypes or {})}
            # The other kernel's types hold on CPUs with the instructions that it needs.
            plain = [each for each in (self, other) if each.cpu_dtypes is None and each.cpu_flag and each.dtypes]
            cpu_dtypes |= {str(each.cpu_flag): each.dtypes for each in plain}
        return Kernel(
            min_capability=max(lowest, default=None),
            end_capability=min(ends, default=None),
            cpu_flag=self.cpu_flag or other.cpu_flag,
            exact_with=self.exact_with or other.exact_with,
            dtypes=tuple(sorted(set.intersection(*known), reverse=True)) if known else (),
            cpu_dtypes=cpu_dtypes,
            on_cpu=self.on_cpu and other.on_cpu,
        )


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
    #: Engine name -> the arguments with which it serves the scheme, and no other engine does: one that knows nothing of
    #: an FP8 KV cache would hold it in 16 bit. Empty if any engine serves it, as its checkpoint is.
    served_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_quantized(self) -> bool:
        """Whether slim-eval makes a checkpoint; without a recipe the model's own weights are served."""
        return self.recipe is not None

    @property
    def needs_plain_weights(self) -> bool:
        """Whether it applies to 16-bit weights only: a checkpoint that came quantized cannot be served under it."""
        return self.is_quantized or bool(self.served_with)

    def with_kv8(self) -> Scheme:
        """The same weights and activations with an FP8 KV cache.

        Its scales come with the checkpoint if there is a recipe, and Transformers then emulates it. Without a recipe
        the engine holds keys and values unscaled.
        """
        emulated = {} if self.recipe is None else {"transformers": dict[str, Any]()}
        return replace(
            self,
            name=f"{self.name}{KV8}",
            label=f"{self.label}{KV8.upper()}",
            kv_cache_bits=8,
            recipe=None if self.recipe is None else self.recipe.with_kv8(),
            colour=_darker(self.colour),
            aliases=(),
            kernels={**self.kernels, "vllm": self.kernels.get("vllm", Kernel()).along_with(_KV8)},
            served_with={"vllm": {**self.served_with.get("vllm", {}), "kv_cache_dtype": "fp8"}, **emulated},
        )

    @property
    def stored_bits(self) -> float:
        """Bits per weight of a quantized layer on disk, with the 16-bit scales of its groups."""
        group = self.recipe.group_size if self.recipe is not None else None
        return self.weight_bits + (16 / group if group else 0)

    @property
    def recorded_as(self) -> str:
        """`quantization_scheme` of its records: ``FP16``, ``GPTQ (W8A8)``."""
        return self.recipe.name if self.recipe is not None else self.name.upper()


def _darker(colour: str) -> str:
    """A colour of ``#rrggbb`` mixed with as much black."""
    return "#" + "".join(f"{int(colour[start : start + 2], 16) * 11 // 20:02X}" for start in (1, 3, 5))


SCHEMES: Registry[Scheme] = Registry("precision")

#: Beginning of the name of a scheme without a checkpoint of its own; vLLM's name of the method follows.
ONLINE = "online:"
#: In `--precision`: the model's own weights, whatever they are. It becomes the name of what they are.
AS_IS = "as-is"

#: The baseline: the scheme that others of a model are compared with, unless a record names another one.
DEFAULT_BASELINE = SCHEMES.register(
    Scheme(
        "fp16", "16-bit", 16, colour="#0072B2", marker="o", kernels={"vllm": Kernel(min_capability=(7, 0))}
    )
).name  # fmt: skip
#: vLLM's kernels multiply 8-bit and 4-bit weights by 16-bit activations, or return products in 16 bit; its
#: configuration refuses float32 for formats of other tools.
_16_BIT = ("float16", "bfloat16")
#: W8A8: Blackwell has no INT8 CUTLASS kernel; without VNNI, oneDNN adds pairs of products in saturating 16-bit integers
#: (decision 026). On CPUs oneDNN takes activations of any type; for AMX tiles vLLM has its own kernel, whose scaling is
#: written for bfloat16 alone.
_INT8 = {
    "vllm": Kernel((7, 5), (10, 0), exact_with=frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
                   dtypes=_16_BIT, cpu_dtypes={"amx_tile": ("bfloat16",)}),
}  # fmt: skip
_FP8 = {"vllm": Kernel((8, 0), dtypes=_16_BIT, on_cpu=False)}
_W4A8 = {"vllm": Kernel((9, 0), (10, 0), dtypes=_16_BIT, on_cpu=False)}  # CUTLASS, for Hopper alone
#: compressed-tensors unpacks these weights to 16 bit, whatever the type of the activations.
_UNPACKED = {"transformers": Kernel(dtypes=_16_BIT)}
_FP4 = {"vllm": Kernel((10, 0), dtypes=_16_BIT, on_cpu=False), **_UNPACKED}
_WEIGHTS_FP4 = {"vllm": Kernel((8, 0), dtypes=_16_BIT, on_cpu=False), **_UNPACKED}
#: W4A16: cpu_gemm_wna16 is in the AVX-512 builds of vLLM's CPU extension alone.
_INT4 = {"vllm": Kernel((7, 5), cpu_flag="avx512f", dtypes=_16_BIT)}
#: AWQ and GPTQ as other tools write them: which hardware they need differs from version to version of vLLM.
_OF_OTHER_TOOLS = {"vllm": Kernel(dtypes=_16_BIT)}
#: vLLM's attention with keys and values in FP8: below capability 8.9 only FlashInfer converts them; on CPUs it needs
#: AVX-512.
_KV8 = Kernel((8, 9), cpu_flag="avx512f")
_RTN, _AWQ, _SMOOTH = "QuantizationModifier", "AWQModifier", "SmoothQuantModifier"
_GROUPS: dict[str, Any] = {"group_size": 128, "smaller_groups": (64, 32)}


def _rounded(method: str, preset: str, **options: Any) -> Recipe:
    """A recipe that rounds to nearest, without calibration unless `options` says otherwise."""
    return Recipe(f"{method} ({preset})", preset, _RTN, **{"needs_calibration": False, **options})


for _member in (
    Scheme("int8", "W8A8", 8, activation_bits=8, colour="#E69F00", marker="s", kernels=_INT8,
           recipe=Recipe("GPTQ (W8A8)", "W8A8")),
    Scheme("int8-smoothquant", "W8A8", 8, activation_bits=8, colour="#B87A00", marker="p", kernels=_INT8,
           recipe=Recipe("SmoothQuant + GPTQ (W8A8)", "W8A8", transform=_SMOOTH)),
    Scheme("int8-rtn", "W8A8", 8, activation_bits=8, colour="#F2C14E", marker="d", kernels=_INT8,
           recipe=_rounded("RTN", "W8A8")),
    # A8 in 8-bit floating point. Before capability 8.9 vLLM multiplies in 16 bit, with the weights in 8.
    Scheme("fp8", "W8A8-FP8", 8, activation_bits=8, colour="#D55E00", marker="v", kernels=_FP8,
           recipe=_rounded("RTN", "FP8_DYNAMIC")),
    Scheme("fp8-static", "W8A8-FP8", 8, activation_bits=8, colour="#A34700", marker="<", kernels=_FP8,
           recipe=_rounded("RTN", "FP8", needs_calibration=True)),
    Scheme("fp8-block", "W8A8-FP8", 8, activation_bits=8, colour="#F08A4B", marker=">", kernels=_FP8,
           recipe=_rounded("RTN", "FP8_BLOCK")),
    Scheme("w4a8-fp8", "W4A8-FP8", 4, activation_bits=8, colour="#56B4E9", marker="h", kernels=_W4A8,
           recipe=_rounded("RTN", "W4AFP8", format="pack-quantized", **_GROUPS)),
    Scheme("int4", "W4A16", 4, colour="#009E73", marker="^", kernels=_INT4,
           recipe=Recipe("GPTQ (W4A16)", "W4A16", **_GROUPS)),
    Scheme("int4-asym", "W4A16", 4, colour="#00694D", marker="X", kernels=_INT4,
           recipe=Recipe("GPTQ (W4A16_ASYM)", "W4A16_ASYM", **_GROUPS)),
    Scheme("int4-awq", "W4A16", 4, colour="#44C99F", marker="*", kernels=_INT4,
           recipe=_rounded("AWQ", "W4A16", transform=_AWQ, needs_calibration=True, **_GROUPS)),
    Scheme("int4-rtn", "W4A16", 4, colour="#8FDDC4", marker="P", kernels=_INT4,
           recipe=_rounded("RTN", "W4A16", **_GROUPS)),
    Scheme("nvfp4", "W4A4-NVFP4", 4, activation_bits=4, colour="#CC79A7", marker="8", kernels=_FP4,
           recipe=_rounded("RTN", "NVFP4", needs_calibration=True, group_size=16, has_fixed_groups=True)),
    Scheme("nvfp4a16", "W4A16-NVFP4", 4, colour="#9C4F7A", marker="H", kernels=_WEIGHTS_FP4,
           recipe=_rounded("RTN", "NVFP4A16", group_size=16, has_fixed_groups=True)),
    Scheme("mxfp4", "W4A4-MXFP4", 4, activation_bits=4, colour="#E3A9C9", marker="D", kernels=_FP4,
           recipe=_rounded("RTN", "MXFP4", group_size=32, has_fixed_groups=True)),
    *(
        # vLLM quantizes the linear layers while it loads a 16-bit checkpoint. Its methods that only quantize experts
        # are not here: of a model without experts they would leave everything in 16 bit.
        Scheme(f"{ONLINE}{method}", label, bits, activation_bits=bits, colour=colour, marker=marker,
               kernels={"vllm": Kernel(capability, dtypes=_16_BIT, on_cpu=False)},
               served_with={"vllm": {"quantization": method}})
        for method, label, bits, capability, colour, marker in (
            ("fp8", "W8A8-FP8", 8, (8, 0), "#7A3300", "v"),
            ("fp8_per_channel", "W8A8-FP8", 8, (8, 0), "#C97B4A", "<"),
            ("fp8_per_block", "W8A8-FP8", 8, (8, 0), "#E0A98A", ">"),
            ("mxfp8", "W8A8-MXFP8", 8, (10, 0), "#6A5ACD", "p"),
            ("mxfp4", "W4A4-MXFP4", 4, (10, 0), "#B39DDB", "h"),
        )
    ),
):  # fmt: skip
    SCHEMES.register(_member)


def find(name: str) -> Scheme | None:
    """The scheme with a name or alias, with an FP8 KV cache if it ends in ``+kv8``; None if no scheme has that name."""
    plain = name.removesuffix(KV8)
    found = SCHEMES.get(plain) or next((member for member in SCHEMES.values() if plain in member.aliases), None)
    if found is None or plain == name:
        return found
    # A recipe of the user's own says itself how the cache is held.
    return None if found.name.startswith(RECIPE_FILE) else found.with_kv8()


#: Schemes of existing GGUF files, which slim-eval does not make -> colour and marker in figures.
GGUF = {
    "q8_0": ("#8C564B", "s"), "q6_k": ("#A5766C", "p"), "q5_k_m": ("#B98F86", "h"), "q4_k_m": ("#17A2B8", "^"),
    "q4_0": ("#5BC0D0", "v"), "q3_k_m": ("#9FD9E3", "<"), "q2_k": ("#C9EAF0", ">"), "gguf-f16": ("#5A6ACF", "o"),
    "gguf-bf16": ("#7C89DA", "o"), "gguf-f32": ("#3B4698", "o"),
}  # fmt: skip


def scheme(name: str) -> Scheme:
    """The scheme with a name or alias.

    Raises:
        UsageError: No scheme has that name.
    """
    if (found := find(name)) is not None:
        return found
    if name.startswith(RECIPE_FILE) and name.endswith(KV8):
        raise UsageError(f"{name}: a recipe says itself how the KV cache is held", "add kv_cache_scheme to the recipe")
    raise unknown_name("precision", name, [*SCHEMES, AS_IS])


def scheme_of(name: str) -> Scheme:
    """The scheme of a variant: as `scheme` finds it, else one that stands for a checkpoint which came quantized.

    The latter is worked out from its name, see `recognise`: nothing is made, the model's own weights are served. The
    formats of compressed-tensors run on the same kernels as slim-eval's own checkpoints.
    """
    if (found := find(name)) is not None:
        return found
    weights, activations = bits_of(name)
    plain = name.split()[0]
    colour, marker = GGUF.get(plain, ("#7f7f7f", "D"))
    format_ = plain.removesuffix(KV8)
    own = SCHEMES.get(format_) or next((each for each in SCHEMES.values() if each.label.casefold() == format_), None)
    if own is None and re.fullmatch(r"w[48]a16(-asym)?", format_):
        own = SCHEMES.get("int4")  # vLLM has one family of kernels for integer weights alone
    if own is None and format_.startswith(_MIXED):
        own = Scheme("", "", 16, kernels=_of_parts(format_.removeprefix(_MIXED).split("-")))
    own = own or Scheme("", "", 16, kernels=_OF_OTHER_TOOLS if re.search(r"awq|gptq", format_) else {})
    if KV8 in name:
        own = own.with_kv8()
    return Scheme(
        name,
        plain.upper(),
        weights if weights is not None else 16,
        activation_bits=activations,
        kv_cache_bits=8 if KV8 in name else 16,
        kernels=own.kernels,
        colour=colour,
        marker=marker,
    )


def _of_parts(parts: Sequence[str]) -> dict[str, Kernel]:
    """What each engine needs for a checkpoint with layers in several formats: all that their kernels need."""
    found: dict[str, Kernel] = {}
    for kernels in (scheme_of(part).kernels for part in parts):
        for engine, kernel in kernels.items():
            found[engine] = kernel.along_with(found[engine]) if engine in found else kernel
    return found


def as_is_name(own: str) -> str:
    """Name under which a checkpoint that came quantized is measured.

    It is that of its scheme; ``fp8 as-is`` if slim-eval has a scheme of that name, which it would make itself.
    """
    return own if find(own) is None else f"{own} {AS_IS}"


def bits_of(name: str) -> tuple[float | None, float]:
    """Bits of a quantized layer's weights (None if the name does not say) and of its activations."""
    name = name.removeprefix("torchao-")
    if found := re.match(r"w(\d+(?:\.\d+)?)a(\d+)", name):
        return float(found[1]), float(found[2])
    if found := re.match(r"(?:nv|mx)?fp(\d+)(?:a(\d+))?", name):
        return float(found[1]), float(found[2] or found[1])
    if found := re.search(r"(\d+(?:\.\d+)?)(?:bit|bpw)", name) or re.match(r"i?q(\d)", name):
        return float(found[1]), 16
    return None, 16


def scheme_order(name: str) -> tuple[int, str]:
    """Sort key: registered schemes in the order of the table, then others by name."""
    names, plain = list(SCHEMES), name.removesuffix(KV8)
    return (names.index(plain) if plain in SCHEMES else len(names), name)


def is_quantized(name: str) -> bool:
    """Whether slim-eval quantizes for a scheme; not if a checkpoint came quantized and is measured as it is."""
    found = find(name)
    return name.startswith(RECIPE_FILE) if found is None else found.is_quantized


def in_order(names: Iterable[str]) -> list[str]:
    """Scheme names without duplicates, in the order of the table."""
    return sorted(set(names), key=scheme_order)


#: Name of a scheme in a message: aliases become the name; others are those of checkpoints that came quantized.
SchemeName = Annotated[str, AfterValidator(lambda name: scheme_of(name).name)]
