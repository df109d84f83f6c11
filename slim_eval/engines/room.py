"""Whether there is room for a model before it is loaded: of GPUs as NVML sees them, else of the machine's memory.

The estimates are low on purpose: they refuse what cannot fit, not what might.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from slim_eval import power
from slim_eval.errors import EngineError
from slim_eval.utils import GIB, environment

#: GiB of a GPU that CUDA itself takes for a process.
_CUDA_GB = 0.5
_MIB_PER_GIB = 1024

_SMALLER = "serve a smaller model, int8 or int4 (with --engine vllm), or use a larger device or more GPUs"

#: A process that has just ended may hold its memory for a moment yet.
_TRIES = 5
_PAUSE_S = 2.0


def require_on_gpus(weight_bytes: float, count: int, wait: Callable[[float], None] = time.sleep) -> None:
    """Refuse weights that the free memory of the first visible GPUs cannot hold; what NVML does not tell is let pass.

    Args:
        weight_bytes: Of the whole model, as served.
        count: GPUs that share it.
        wait: Sleeps so many seconds.

    Raises:
        EngineError: Naming what is needed, what is free, and who holds the rest.
    """
    needed_gb = weight_bytes / GIB / count + _CUDA_GB
    tight: list[power.GpuMemory] = []
    for attempt in range(_TRIES):
        if attempt:
            wait(_PAUSE_S)
        found = power.gpu_memory(_gpus(count))
        tight = [each for each in found if each.free_mb is not None and each.free_mb / _MIB_PER_GIB < needed_gb]
        if not tight:
            return
    held = any(each.others for each in tight)
    share = "" if count == 1 else f" on each of {count} GPUs"
    raise EngineError(
        f"the weights and CUDA need {needed_gb:.1f} GiB{share}, {'; '.join(map(str, tight))}",
        ("end the processes that hold it, " if held else "") + _SMALLER,
    )


def situation(weight_bytes: float, count: int, *, on_cpu: bool) -> str:
    """What the weights take and what is free, for the error of an engine that found no room.

    Args:
        weight_bytes: Of the whole model, as served.
        count: GPUs that share it.
        on_cpu: Whether it is the machine's memory that counts.
    """
    weights = f"the weights take {weight_bytes / GIB:.1f} GiB"
    free_gb = environment.free_ram_gb() if on_cpu else None
    free = [] if free_gb is None else [f"{free_gb:.1f} GiB of memory are free"]
    return "; ".join([weights, *free, *([] if on_cpu else map(str, power.gpu_memory(_gpus(count))))])


def require_in_ram(weight_bytes: float, engine_gb: float, kv_cache_gb: float | None = None) -> None:
    """Refuse a model that the machine's free memory, or its container's, cannot hold; unknown memory is let pass.

    Args:
        weight_bytes: As served.
        engine_gb: What the engine takes before it has loaded anything, GiB.
        kv_cache_gb: What it reserves for its KV cache, GiB; None where it reserves none, or that is not known.

    Raises:
        EngineError: With both amounts, and what to do.
    """
    free_gb = environment.free_ram_gb()
    parts = {"weights": weight_bytes / GIB, "engine": engine_gb}
    if kv_cache_gb is not None:
        parts["KV cache"] = kv_cache_gb
    needed_gb = sum(parts.values())
    if free_gb is None or needed_gb <= free_gb:
        return
    listed = ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items())
    cache = "" if kv_cache_gb is None else f"set VLLM_CPU_KVCACHE_SPACE (now {kv_cache_gb:g} GiB) lower, "
    raise EngineError(
        f"the model needs about {needed_gb:.1f} GiB of memory ({listed}), {free_gb:.1f} GiB are free",
        f"end other programs, {cache}or serve a smaller model, or int8 or int4 with --engine vllm",
    )


def cpu_kv_cache_gb() -> float | None:
    """GiB that vLLM reserves for its KV cache on a CPU; None where the variable does not say."""
    try:
        return float(os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")) or None
    except ValueError:  # vLLM says so itself
        return None


def _gpus(count: int) -> tuple[power.Gpu, ...]:
    """The GPUs that an engine in this process takes; none where NVML shows none."""
    if not power.list_gpus():
        return ()
    return power.resolve_gpus(0, count, os.environ.get("CUDA_VISIBLE_DEVICES"))
