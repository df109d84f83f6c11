"""What went wrong inside vLLM, in one line, and what to do about it.

vLLM's engine runs in processes of its own. When one fails, the exception that arrives here says no more than "see root
cause above": the cause stands in what the process wrote to stderr, which slim-eval's workers keep in ``run.log``.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from slim_eval.engines.fitting import OUT_OF_MEMORY, TOO_LARGE_A_SHARE
from slim_eval.errors import EngineError

_LOOK_BACK = 200_000  # bytes of log
_STDERR = 2
_MAX_CAUSE = 300

_LOWER_CONTEXT = "lower --max-model-len, or raise --gpu-memory-utilization"
_LESS_MEMORY = "lower --gpu-memory-utilization, --max-model-len or the batch size, or use more GPUs"

#: What vLLM says -> what to do. The first that is found counts.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"CPU on kv cache|VLLM_CPU_KVCACHE_SPACE", "set VLLM_CPU_KVCACHE_SPACE (GiB) to what the machine has free"),
    (
        r"larger than the (?:available|maximum number of tokens that can be stored in) KV cache",
        f"{_LOWER_CONTEXT} (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (
        r"[Nn]o available memory for the cache blocks",
        "raise --gpu-memory-utilization, or free memory on the GPU (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (r"KV cache is needed|KV cache memory", f"{_LOWER_CONTEXT} (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)"),
    (TOO_LARGE_A_SHARE, "lower --gpu-memory-utilization, or stop what else uses the device"),
    (OUT_OF_MEMORY, _LESS_MEMORY),
    (r"max_model_len \(\d+\) is greater than", "lower --max-model-len to what the model holds"),
    (r"longer than the maximum model length|maximum context length", "raise --max-model-len, or shorten the prompt"),
    (
        r"[Ff]ailed to find a kernel|not supported for the current GPU|no attribute 'cpu_gemm",
        "vLLM has no kernel for this precision here: use --engine transformers",
    ),
    (
        r"are not supported for now|has no vLLM implementation",
        "vLLM does not know this architecture: use --engine transformers",
    ),
    (r"trust_remote_code|trust-remote-code", "the model brings code of its own: if you trust it, --trust-remote-code"),
)

_ERROR_LINE = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore encountered an issue")


class LogTail:
    """What is written to stderr from now on, by this process and its children, where stderr is a file."""

    def __init__(self) -> None:
        self._start = self._size()

    def read(self) -> str:
        """The end of what was written since; empty where stderr is a terminal or a pipe."""
        size = self._size()
        if size is None or self._start is None:
            return ""
        with Path(f"/proc/self/fd/{_STDERR}").open("rb") as log:
            log.seek(max(min(self._start, size), size - _LOOK_BACK))
            return log.read().decode("utf-8", errors="replace")

    @staticmethod
    def _size() -> int | None:
        try:
            status = os.fstat(_STDERR)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None


def start_error(error: BaseException, log: str) -> EngineError:
    """Translate a failure of vLLM's start."""
    return _translate(error, log, "vLLM did not start", "see its log; --engine transformers serves the same model")


def run_error(error: BaseException, log: str) -> EngineError:
    """Translate a failure of a running vLLM."""
    return _translate(error, log, "vLLM stopped", "see its log")


def _translate(error: BaseException, log: str, what: str, otherwise: str) -> EngineError:
    cause = _cause(error, log)
    text = f"{cause}\n{error}"
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), otherwise)
    return EngineError(f"{what}: {cause}", remedy)


def _cause(error: BaseException, log: str) -> str:
    """The exception's own words or, where they only point to another process, what that one said of a known cause."""
    own = _one_line(str(error)) or type(error).__name__
    if not any(generic in own for generic in _GENERIC):
        return own
    found = [
        _one_line(match.group(2))
        for match in _ERROR_LINE.finditer(log)
        if not any(generic in match.group(2) for generic in _GENERIC)
    ]
    known = [cause for cause in found if any(re.search(pattern, cause) for pattern, _ in _REMEDIES)]
    return next(iter(known or found[-1:]), own)


def _one_line(text: str) -> str:
    """The first paragraph on one line, without pydantic's decoration, cut where it gets long."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:2]
    line = re.sub(r"\s*\[type=.*", "", " ".join(lines[:2]))
    return line if len(line) <= _MAX_CAUSE else f"{line[:_MAX_CAUSE]}..."
