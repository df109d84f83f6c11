"""The engines that serve a model: which one is taken, and why.

Importing this package imports no engine; `load` opens the one that is needed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from slim_eval.config import EngineChoice, EngineConfig
from slim_eval.engines.engine import Engine, Generation, LoadRequest, MemoryReport
from slim_eval.errors import INSTALL, EngineError, MissingPackageError
from slim_eval.schemes import SCHEMES, Kernel

if TYPE_CHECKING:
    from slim_eval.engines.vllm import VllmPlatform

__all__ = ["Engine", "EngineDecision", "Generation", "LoadRequest", "MemoryReport", "check", "choose", "load"]

#: Engine -> the module that loads it, opened late.
_MODULES = {"vllm": "slim_eval.engines.vllm", "transformers": "slim_eval.engines.transformers"}


@dataclass(frozen=True)
class EngineDecision:
    """The engine taken, ``vllm`` or ``transformers``, and why, in one sentence."""

    name: str
    reason: str


def choose(requested: EngineChoice, precision: str) -> EngineDecision:
    """Decide which engine serves a precision on this machine.

    Args:
        requested: What the user asked for; ``auto`` takes vLLM where it is installed and runs the precision.
        precision: What is to be served.

    Raises:
        MissingPackageError: The engine asked for, or with ``auto`` any engine, is not installed.
        EngineError: vLLM was asked for and cannot run here.
    """
    if requested is EngineChoice.TRANSFORMERS:
        return _transformers("asked for with --engine transformers")
    if find_spec("vllm") is None:
        if requested is EngineChoice.VLLM:
            raise MissingPackageError("vllm", "--engine vllm", INSTALL)
        return _transformers("vLLM is not installed, so Transformers serves")
    obstacle = _obstacle(precision)
    if requested is EngineChoice.VLLM:
        if obstacle is not None:
            raise EngineError(
                f"vLLM cannot serve {precision} here: {obstacle}", "use --engine transformers, or --engine auto"
            )
        return EngineDecision("vllm", "asked for with --engine vllm")
    if obstacle is not None:
        return _transformers(f"{obstacle}, so Transformers serves")
    return EngineDecision("vllm", f"vLLM is installed and runs {precision} on this machine")


def check(decision: EngineDecision, config: EngineConfig) -> None:
    """Refuse options that the engine does not take, before anything is quantized or loaded.

    Raises:
        UsageError: An unknown engine argument, or more GPUs than it can use.
    """
    importlib.import_module(_MODULES[decision.name]).check(config)


def load(decision: EngineDecision, request: LoadRequest) -> Engine:
    """Load a model into the engine that was decided on.

    Raises:
        EngineError: The engine did not start; the cause and what to change.
        MissingPackageError: A package that it needs is not installed.
    """
    engine: Engine = importlib.import_module(_MODULES[decision.name]).load(request)
    return engine


def _transformers(reason: str) -> EngineDecision:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "serving a model", INSTALL)
    return EngineDecision("transformers", reason)


def _obstacle(precision: str) -> str | None:
    """Why the vLLM that is installed cannot serve a precision here; None where it can."""
    from slim_eval.engines import vllm

    try:
        platform = vllm.platform()
    except EngineError as error:
        return error.cause
    return platform_obstacle(precision, platform)


def platform_obstacle(precision: str, platform: VllmPlatform) -> str | None:
    """Why vLLM has no kernel for a scheme on a platform; None if it has one."""
    held = SCHEMES[precision]
    needs, kernel = held.kernels.get("vllm", Kernel()), f"vLLM's {held.label} kernel"
    if platform.kind == "none":
        return "this build of vLLM needs a GPU and finds none"
    if platform.kind == "cpu" and needs.cpu_flag is not None and not platform.has_avx512:
        return f"{kernel} on CPU needs AVX-512, which this CPU lacks"
    if platform.kind == "cuda" and platform.capability is not None:
        capability = ".".join(map(str, platform.capability))
        lowest, end = needs.min_capability, needs.end_capability
        if lowest is not None and platform.capability < lowest:
            return f"{kernel} needs compute capability {lowest[0]}.{lowest[1]}, this GPU has {capability}"
        if end is not None and platform.capability >= end:
            return f"{kernel} ends below compute capability {end[0]}.{end[1]}, this GPU has {capability}"
    return None
