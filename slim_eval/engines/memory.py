"""Memory of this process and its children on a CPU, and of a checkpoint's tensors as they are served."""

from __future__ import annotations

import gc
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from slim_eval.models.source import read_header, weight_files

_KIB_PER_MIB = 1024

#: Bytes an element of a tensor as served: floats wider than 16 bit are served as 16 bit.
_SERVED_BYTES = {"F64": 2, "F32": 2, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}

#: The same where quantized weights are unpacked to 16 bit, as Transformers does.
_UNPACKED_BYTES = {**_SERVED_BYTES, "I8": 2, "F8_E4M3": 2}
_PACKED = ".weight_packed"  # of llm-compressor: eight 4-bit weights in each I32
_UNPACKED_WORD_BYTES = 16


@dataclass(frozen=True)
class ResidentMemory:
    """Resident memory summed over processes, MiB; a page that two of them share counts twice.

    Attributes:
        peak_mb: Sum of each process' own peak.
        used_mb: Now.
    """

    peak_mb: float
    used_mb: float


def resident_memory() -> ResidentMemory | None:
    """Resident memory of this process and everything it started; None where there is no /proc."""
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [memory for memory in (_of_process(process.pid) for process in processes) if memory is not None]
    if not found:
        return None
    return ResidentMemory(sum(memory.peak_mb for memory in found), sum(memory.used_mb for memory in found))


def _of_process(pid: int) -> ResidentMemory | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it ended meanwhile
        return None
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if key[:2] == "Vm"}
    if not {"VmHWM", "VmRSS"} <= kib.keys():  # a process that has ended has no memory
        return None
    return ResidentMemory(kib["VmHWM"] / _KIB_PER_MIB, kib["VmRSS"] / _KIB_PER_MIB)


def served_bytes(checkpoint: Path) -> int:
    """Bytes that a checkpoint's tensors take at the dtypes they are served in, read from the headers of its files."""
    return sum(
        math.prod(shape) * _SERVED_BYTES.get(dtype, 1)
        for file in weight_files(checkpoint)
        for dtype, shape in read_header(file).values()
    )


def unpacked_bytes(checkpoint: Path) -> int:
    """Bytes that a checkpoint's tensors take once quantized weights are unpacked to 16 bit."""
    return sum(
        math.prod(shape) * (_UNPACKED_WORD_BYTES if name.endswith(_PACKED) else _UNPACKED_BYTES.get(dtype, 1))
        for file in weight_files(checkpoint)
        for name, (dtype, shape) in read_header(file).items()
    )


def empty_caches() -> None:
    """Give back what torch keeps of memory that is no longer used; nothing where torch or its CUDA is not at work."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
