"""Which precisions this hardware runs on which engine, by the rules that `slim_eval.engines` chooses with."""

from __future__ import annotations

from collections.abc import Iterator

from slim_eval.config import EngineChoice
from slim_eval.doctor.facts import Facts, Interpreter
from slim_eval.doctor.findings import Finding, State
from slim_eval.engines import platform_obstacle, transformers
from slim_eval.engines.vllm import VllmPlatform, has_avx512
from slim_eval.schemes import is_quantized


def check(facts: Facts) -> Iterator[Finding]:
    """One finding for each precision and engine that may serve it."""
    if isinstance(facts.serving, str):
        return
    for precision in facts.config.precision:
        if facts.config.engine is not EngineChoice.TRANSFORMERS and "vllm" in facts.serving.modules:
            yield _on_vllm(precision, vllm_platform(facts.serving, facts), facts.config.engine)
        if facts.config.engine is not EngineChoice.VLLM and {"torch", "transformers"} <= set(facts.serving.modules):
            yield _on_transformers(precision)


def vllm_platform(interpreter: Interpreter, facts: Facts) -> VllmPlatform:
    """What vLLM would say of the machine, told from its build and from NVML without importing it."""
    build = interpreter.modules["vllm"] or ""
    if "cpu" in build:
        return VllmPlatform("cpu", has_avx512=has_avx512())
    if "rocm" in build:
        return VllmPlatform("other")
    if facts.computing is not None:
        return VllmPlatform("cuda", facts.computing.compute_capability)
    return VllmPlatform("none")


def _on_vllm(precision: str, platform: VllmPlatform, engine: EngineChoice) -> Finding:
    name = f"{precision} on vllm"
    obstacle = platform_obstacle(precision, platform)
    if obstacle is None:
        return Finding(name, State.OK, "runs")
    if engine is EngineChoice.VLLM:
        return Finding(name, State.PROBLEM, obstacle, "use --engine transformers, or --engine auto")
    remedy = "for the same engine at every precision: --engine transformers"
    return Finding(name, State.WARNING, f"{obstacle}, so Transformers serves", remedy)


def _on_transformers(precision: str) -> Finding:
    kernels = transformers.kernels(quantized=is_quantized(precision))
    note = ", in 16 bit: its speed says nothing about a deployment" if kernels == "emulated" else ""
    return Finding(f"{precision} on transformers", State.OK, f"runs, {kernels}{note}")
