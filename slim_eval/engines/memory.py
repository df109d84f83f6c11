"""Memory: what a model needs, whether there is enough, what is tried when there is not.

Estimates are low on purpose: they refuse what cannot fit, not what might not. No engine is imported here: errors are
recognised by the name of their class and by their text, whichever package raises them.
"""

from __future__ import annotations

import gc
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slim_eval import power
from slim_eval.errors import EngineError, causes
from slim_eval.models.source import read_header, weight_files
from slim_eval.utils import GIB, environment

_KIB_PER_MIB = 1024
_CUDA_GB = 0.5  # GiB of GPU memory that CUDA itself takes for a process
_TRIES, _PAUSE_S = 5, 2.0  # a process that has just ended may keep its memory for a moment

#: How torch, CUDA, the C library and vLLM report that memory ran out.
OUT_OF_MEMORY = (
    r"out of memory|OutOfMemoryError|[Cc](?:an't|annot) allocate memory|(?:ALLOC_FAILED|cudaErrorMemoryAllocation)"
)

#: vLLM's text if the requested share exceeds the free memory, with GiB free and in total.
TOO_LARGE_A_SHARE = r"less than desired (?:GPU|CPU) memory utilization"
_FREE_OF_TOTAL = re.compile(r"\(([\d.]+)/([\d.]+) GiB\)")
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
_LEFT = re.compile(r"of which ([\d.]+) ?(bytes|[KMGT]iB) is free")
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

#: The smallest share of a GPU that is tried, the step between two tries, and what is left free of the measured memory.
MIN_SHARE = 0.3
_STEP = 0.2
_MARGIN = 0.01


class ResidentMemory(NamedTuple):
    """Resident memory summed over processes, MiB; a page that two of them share counts twice."""

    peak_mb: float  # sum of each process's own peak
    used_mb: float  # now


def resident_memory(processes: Iterable[Any] | None = None) -> ResidentMemory | None:
    """Resident memory of processes, by default this one and all its descendants; None without ``/proc``."""
    import psutil

    if processes is None:
        processes = (psutil.Process(), *psutil.Process().children(recursive=True))
    peaks, used = [], []
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # it ended meanwhile
            continue
        kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if key[:2] == "Vm"}
        if {"VmHWM", "VmRSS"} <= kib.keys():  # a process that has ended has no memory
            peaks.append(kib["VmHWM"] / _KIB_PER_MIB)
            used.append(kib["VmRSS"] / _KIB_PER_MIB)
    return ResidentMemory(sum(peaks), sum(used)) if peaks else None


def float_bytes(dtype: str) -> int:
    """Bytes of a number of a data type: 4 for ``float32``, 2 for the 16-bit types."""
    return 4 if dtype == "float32" else 2


def served_bytes(checkpoint: Path, dtype: str = "bfloat16", *, unpacked: bool = False) -> int:
    """Bytes of a checkpoint's tensors in the data types in which they are served, from the headers of its files.

    All floats are served as `dtype`; with `unpacked`, as in Transformers, quantized weights are too.
    """
    width = float_bytes(dtype)
    sizes = {"F64": width, "F32": width, "F16": width, "BF16": width, "I64": 8, "I32": 4, "I16": 2}
    sizes |= {"I8": width, "F8_E4M3": width} if unpacked else {}
    return sum(  # llm-compressor packs eight 4-bit weights into each I32
        math.prod(shape) * (8 * width if unpacked and name.endswith(".weight_packed") else sizes.get(dtype, 1))
        for file in weight_files(checkpoint)
        for name, (dtype, shape) in read_header(file).items()
    )


def empty_caches() -> None:
    """Return memory that torch keeps but no longer uses; does nothing if torch or its CUDA is not in use."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def require_on_gpus(weight_bytes: float, count: int, wait: Callable[[float], None] = time.sleep) -> None:
    """Refuse weights that exceed the free memory of the first visible GPUs; unknown memory is not refused.

    `weight_bytes` are those of the whole model as served, which `count` GPUs share. `wait` sleeps for some seconds.

    Raises:
        EngineError: With what is needed, what is free, and which processes use the rest.
    """
    needed_gb = weight_bytes / GIB / count + _CUDA_GB
    tight: list[power.GpuMemory] = []
    for attempt in range(_TRIES):
        if attempt:
            wait(_PAUSE_S)
        found = _gpu_memory(count)
        tight = [each for each in found if each.free_gb is not None and each.free_gb < needed_gb]
        if not tight:
            return
    share = "" if count == 1 else f" on each of {count} GPUs"
    raise EngineError(
        f"the weights and CUDA need {needed_gb:.1f} GiB{share}, {'; '.join(map(str, tight))}",
        ("stop the processes that use it, " if any(each.others for each in tight) else "")
        + "serve a smaller model, int8 or int4 (with --engine vllm), or use a larger device or more GPUs",
    )


def require_in_ram(weight_bytes: float, engine_gb: float, kv_cache_gb: float | None = None) -> None:
    """Refuse a model that exceeds the free memory of the machine or its container; unknown memory is not refused.

    Args:
        weight_bytes: Bytes of the model as served.
        engine_gb: Memory of the engine before it has loaded anything, GiB.
        kv_cache_gb: Memory reserved for the KV cache, GiB; None if unknown or not reserved.

    Raises:
        EngineError: With both amounts and a remedy.
    """
    free_gb = environment.free_ram_gb()
    parts = {"weights": weight_bytes / GIB, "engine": engine_gb}
    parts |= {} if kv_cache_gb is None else {"KV cache": kv_cache_gb}
    needed_gb = sum(parts.values())
    if free_gb is None or needed_gb <= free_gb:
        return
    listed = ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items())
    cache = "" if kv_cache_gb is None else f"lower VLLM_CPU_KVCACHE_SPACE (now {kv_cache_gb:g} GiB), "
    raise EngineError(
        f"the model needs about {needed_gb:.1f} GiB of memory ({listed}), but only {free_gb:.1f} GiB are free",
        f"close other programs, {cache}or serve a smaller model, or int8 or int4 with --engine vllm",
    )


def situation(weight_bytes: float, count: int, *, on_cpu: bool) -> str:
    """Size of the weights of a model that `count` GPUs or the machine serve, and free memory, for an error message."""
    parts = [f"the weights take {weight_bytes / GIB:.1f} GiB"]
    if not on_cpu:
        parts += map(str, _gpu_memory(count))
    elif (free_gb := environment.free_ram_gb()) is not None:
        parts.append(f"{free_gb:.1f} GiB of memory are free")
    return "; ".join(parts)


def _gpu_memory(count: int) -> tuple[power.GpuMemory, ...]:
    """Memory of the GPUs that an engine in this process uses; empty if NVML shows none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return power.gpu_memory(power.resolve_gpus(0, count, visible) if power.list_gpus() else ())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error or one of its causes reports that memory ran out, on a GPU or on the machine."""
    return any(
        isinstance(each, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(each).__mro__)
        or (isinstance(each, (RuntimeError, OSError, EngineError)) and bool(re.search(OUT_OF_MEMORY, str(each))))
        for each in causes(error)
    )


def shortage(error: BaseException) -> str | None:
    """How much was requested and how much was free, if an error or one of its causes reports it."""

    def gib(amount: re.Match[str]) -> str:
        return f"{float(amount[1].rstrip('.')) * _UNITS[amount[2].lower()] / GIB:.2f} GiB"

    for each in causes(error):
        if asked := _ASKED.search(str(each)):
            left = _LEFT.search(str(each))
            return f"{gib(asked)} more were needed" + (f", {gib(left)} were free" if left else "")
    return None


class Fitted(NamedTuple):
    """An engine that started, its share of the GPU, the seconds that took, and one note per failed try."""

    engine: Any
    share: float
    seconds: float
    notes: tuple[str, ...] = ()


def start_with_less(
    start: Callable[[float], Any],
    share: float,
    between: Callable[[], None],
    situation: Callable[[], str],
    least: float = MIN_SHARE,
) -> Fitted:
    """Start an engine; if memory runs out, try smaller and smaller shares of the GPU.

    Args:
        start: Starts it with a share, or raises `EngineError`.
        share: The share of the GPU's memory that the user set.
        between: Frees what a failed start left behind.
        situation: Describes what is used and what is free, for the error if nothing fits.
        least: The smallest share to try.

    Raises:
        EngineError: It fails for another reason, or with the smallest share too.
    """
    notes: tuple[str, ...] = ()
    tried: list[str] = []
    while True:
        tried.append(f"{share:g}")
        begin = time.perf_counter()
        try:
            return Fitted(start(share), share, time.perf_counter() - begin, notes)
        except EngineError as error:
            cause = error.cause.rstrip(" .")
            lower = next_share(share, cause, least)
            if lower is None:
                if not notes and not re.search(f"{OUT_OF_MEMORY}|{TOO_LARGE_A_SHARE}", cause):
                    raise
                steps = [f"tried --gpu-memory-utilization {', '.join(tried)}"] if notes else []
                raise EngineError(
                    "; ".join([cause, *steps, situation()]),
                    "lower --max-model-len or --batch-size (with vLLM also --engine-arg max_num_seqs=N), serve int8 or "
                    "int4, or use a larger device or more GPUs",
                ) from error
        # Only here: the error's traceback kept alive what the start had allocated.
        between()
        notes = (*notes, f"--gpu-memory-utilization {share:g} did not fit ({cause}): retried with {lower:g}")
        share = lower


def next_share(share: float, cause: str, least: float = MIN_SHARE) -> float | None:
    """The share of the GPU to try after a failure; None if a smaller one would not help.

    It is the free share if vLLM reports that, else 0.2 less, never below `least`. A KV cache that does not fit needs a
    larger share, not a smaller one.
    """
    lower = max(round(share - _STEP, 2), least)
    if re.search(TOO_LARGE_A_SHARE, cause):
        numbers = _FREE_OF_TOTAL.search(cause)
        if numbers is not None and float(numbers[2]):
            lower = math.floor(100 * (float(numbers[1]) / float(numbers[2]) - _MARGIN)) / 100
    elif not re.search(OUT_OF_MEMORY, cause):
        return None
    return lower if least <= lower < share else None


def halvings(size: int) -> Iterator[tuple[int, int | None]]:
    """Batch sizes to try, each with the next one: half of it, down to 1."""
    while size > 1:
        yield size, size // 2
        size //= 2
    yield 1, None
