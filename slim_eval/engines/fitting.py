"""What did not fit in memory, and what is tried next: smaller batches, a smaller share of the GPU.

Pure: no engine is imported here. Errors are known by their class's name and their words, whichever package they are of.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from slim_eval.errors import EngineError, causes
from slim_eval.utils import GIB

#: How torch, CUDA, the C library and vLLM say that memory ran out.
OUT_OF_MEMORY = (
    r"out of memory|OutOfMemoryError|[Cc](?:an't|annot) allocate memory|(?:ALLOC_FAILED|cudaErrorMemoryAllocation)"
)

#: The words of vLLM where more than what is free was asked for, with GiB free and GiB in all.
TOO_LARGE_A_SHARE = r"less than desired (?:GPU|CPU) memory utilization"
_FREE_OF_TOTAL = re.compile(r"\(([\d.]+)/([\d.]+) GiB\)")

MIN_SHARE = 0.3
_STEP = 0.2
_MARGIN = 0.01  # of the GPU; what is free was read a moment ago

LOWER = (
    "lower --max-model-len or --batch-size (with vLLM also --engine-arg max_num_seqs=N), serve int8 or int4, "
    "or use a larger device or more GPUs"
)

_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
_LEFT = re.compile(r"of which ([\d.]+) ?(bytes|[KMGT]iB) is free")
_UNITS = {"bytes": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_T = TypeVar("_T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that it was raised from, says that memory ran out, of a GPU or of the machine."""
    return any(_says_so(each) for each in causes(error))


def shortage(error: BaseException) -> str | None:
    """How much was asked for and how much was left, as far as an error or its cause tells; None where none does."""
    for each in causes(error):
        if asked := _ASKED.search(str(each)):
            left = _LEFT.search(str(each))
            return f"{_gib(asked)} more were needed" + (f", {_gib(left)} were free" if left else "")
    return None


@dataclass(frozen=True)
class Fitted(Generic[_T]):
    """An engine that started: the share of the GPU and the seconds it took, and a note for each step on the way."""

    engine: _T
    share: float
    seconds: float
    notes: tuple[str, ...] = ()


def start_with_less(
    start: Callable[[float], _T],
    share: float,
    between: Callable[[], None],
    situation: Callable[[], str],
    least: float = MIN_SHARE,
) -> Fitted[_T]:
    """Start an engine; where memory does not suffice, with smaller and smaller shares of the GPU.

    Args:
        start: Starts it with a share, or raises `EngineError`.
        share: Of the GPU's memory, asked for.
        between: Frees what a failed start left behind.
        situation: What is held and what is free, in a few words, for the error where nothing fits.
        least: The smallest share to try.

    Raises:
        EngineError: It fails for another reason, or with the smallest share too.
    """
    notes: tuple[str, ...] = ()
    tried = [share]
    while True:
        begin = time.perf_counter()
        try:
            return Fitted(start(share), share, time.perf_counter() - begin, notes)
        except EngineError as error:
            cause = error.cause.rstrip(" .")
            lower = next_share(share, cause, least)
            if lower is None:
                raise _exhausted(error, tried, situation) from error
        # Only here: the error's traceback kept alive what the start had allocated.
        between()
        notes = (*notes, f"--gpu-memory-utilization {share:g} did not fit ({cause}): {lower:g}")
        share = lower
        tried.append(share)


def next_share(share: float, cause: str, least: float = MIN_SHARE) -> float | None:
    """The share of the GPU to try after one failed; None where a smaller one would not help.

    Where vLLM tells what is free, that; else 0.2 less; never below `least`. Where the KV cache finds no room, a smaller
    share makes it worse.
    """
    lower = max(round(share - _STEP, 2), least)
    if re.search(TOO_LARGE_A_SHARE, cause):
        free = _free_share(cause)
        lower = lower if free is None else free
    elif not re.search(OUT_OF_MEMORY, cause):
        return None
    return lower if least <= lower < share else None


def halvings(size: int) -> Iterator[tuple[int, int | None]]:
    """Batch sizes to try, each with the one that follows it: the half, down to 1."""
    while size > 1:
        yield size, size // 2
        size //= 2
    yield 1, None


def _free_share(cause: str) -> float | None:
    numbers = _FREE_OF_TOTAL.search(cause)
    if numbers is None or not float(numbers[2]):
        return None
    return math.floor(100 * (float(numbers[1]) / float(numbers[2]) - _MARGIN)) / 100


def _exhausted(error: EngineError, tried: list[float], situation: Callable[[], str]) -> EngineError:
    """What is raised where nothing fits; an error that has nothing to do with memory stays as it is."""
    ran_out = re.search(f"{OUT_OF_MEMORY}|{TOO_LARGE_A_SHARE}", error.cause)
    if len(tried) == 1 and not ran_out:
        return error
    shares = ", ".join(f"{share:g}" for share in tried)
    steps = [f"tried --gpu-memory-utilization {shares}"] if len(tried) > 1 else []
    return EngineError("; ".join([error.cause.rstrip(" ."), *steps, situation()]), LOWER)


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, (RuntimeError, OSError, EngineError)) and bool(re.search(OUT_OF_MEMORY, str(error)))


def _gib(amount: re.Match[str]) -> str:
    return f"{float(amount[1].rstrip('.')) * _UNITS[_unit(amount[2])] / GIB:.2f} GiB"


def _unit(text: str) -> str:
    return "bytes" if text.lower() == "bytes" else text.upper()
