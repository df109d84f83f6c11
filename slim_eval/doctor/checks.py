"""Checks of this machine: packages of each stage's interpreter, CPU, memory, disk, GPUs with driver and meter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slim_eval import power, results
from slim_eval.config import AUTO_ENGINE
from slim_eval.doctor.check_results import CheckResult, Status
from slim_eval.doctor.facts import Facts, Interpreter
from slim_eval.doctor.network import hub_settings, needs_hub
from slim_eval.engines.engine import cpu_flags
from slim_eval.errors import INSTALL_GPU, UsageError
from slim_eval.execution.plan import QUANTIZING_MODULES, install_command, serving_modules
from slim_eval.utils import GIB, environment

_OLDEST_PYTHON = (3, 10)
_VLLM_ON_CPU = "without a GPU, `make setup` in a checkout of slim-eval adds vLLM's CPU build"
_LOW_RAM_GB = 4.0  # an engine uses about 2 GiB before it loads a model
_LOW_OUTPUT_GB = 1.0  # samples of many variants
_LOW_MODEL_GB = 10.0  # the 16-bit weights of a model with 3 * 10**9 parameters are 6 GiB
_FULL_GB = 0.05  # not even records fit
_MIB_PER_GIB = 1024


def check_quantizing(facts: Facts) -> Iterator[CheckResult]:
    """The interpreter for quantization; nothing if no precision requires it."""
    config = facts.config
    if facts.quantizes:
        yield from _stage(facts.quantizing, config.quantize_python, "--quantize-python", QUANTIZING_MODULES)


def check_serving(facts: Facts) -> Iterator[CheckResult]:
    """The interpreter for measurement, and its optional packages."""
    config = facts.config
    needed = serving_modules(config.engine, config.tasks)
    yield from _stage(facts.serving, config.serve_python, "--serve-python", needed)
    if isinstance(facts.serving, str):
        return
    if config.engine == AUTO_ENGINE:
        absent = "not installed: Transformers is used, which is slower and emulates quantized kernels"
        yield _optional(
            "vllm", facts.serving, absent, _prefix(config.serve_python) + INSTALL_GPU if facts.gpus else _VLLM_ON_CPU
        )
    if "energy" in config.tasks and facts.computing is None:
        absent = "not installed: energy cannot be measured without a GPU"
        yield _optional(
            "codecarbon", facts.serving, absent, _prefix(config.serve_python) + 'pip install "codecarbon>=3.3"'
        )


def _stage(
    interpreter: Interpreter | str, python: Path | None, option: str, needed: Sequence[str]
) -> Iterator[CheckResult]:
    if isinstance(interpreter, str):
        remedy = f"give the path of a Python interpreter with {option}" if python else install_command(None)
        yield CheckResult("python", Status.PROBLEM, f"{python or 'this interpreter'} {interpreter}", remedy)
        return
    where = f"{interpreter.python} ({interpreter.executable})"
    if tuple(int(part) for part in interpreter.python.split(".")[:2]) < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        remedy = f"uv venv --python 3.11, then give its interpreter with {option}"
        yield CheckResult("python", Status.PROBLEM, f"{where} is older than {oldest}", remedy)
    else:
        yield CheckResult("python", Status.OK, where)
    for module in needed:
        if module in interpreter.modules:
            yield _installed(module, interpreter)
        else:
            yield CheckResult(module, Status.PROBLEM, "not installed", install_command(python))


def _optional(module: str, interpreter: Interpreter, absent: str, remedy: str) -> CheckResult:
    if module in interpreter.modules:
        return _installed(module, interpreter)
    return CheckResult(module, Status.WARNING, absent, remedy)


def _installed(module: str, interpreter: Interpreter) -> CheckResult:
    distribution = interpreter.modules[module] or "installed, version unknown"
    return CheckResult(module, Status.OK, distribution.removeprefix(f"{module} "))


def _prefix(python: Path | None) -> str:
    return "" if python is None else f"{python} -m "


def check_machine(facts: Facts) -> Iterator[CheckResult]:
    """CPU, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    avx512 = "AVX-512" if "avx512f" in cpu_flags() else "no AVX-512"
    yield CheckResult("CPU", Status.OK, f"{environment.cpu_name() or 'unknown model'}, {cores} cores, {avx512}")
    yield memory(environment.free_ram_gb(), environment.ram_gb())
    yield disk("outputs", facts.config.output_dir, _LOW_OUTPUT_GB, "--output-dir")
    yield disk("quantized models", facts.config.quantized_models_dir, _LOW_MODEL_GB, "--quantized-models-dir")
    constants = hub_settings()
    if isinstance(constants, ValueError):
        return  # reported by the check of the hub
    downloads = needs_hub(facts.config) and not constants.HF_HUB_OFFLINE
    cache = disk("hub cache", Path(constants.HF_HUB_CACHE), _LOW_MODEL_GB, "HF_HUB_CACHE")
    yield cache if downloads or cache.state is Status.OK else replace(cache, state=Status.WARNING)


def memory(free_gb: float | None, total_gb: float | None) -> CheckResult:
    """Free memory of the machine, or of its container."""
    if free_gb is None or total_gb is None:
        return CheckResult("memory", Status.WARNING, "the system does not report its free memory")
    text = f"{free_gb:.1f} GiB free of {total_gb:.1f} GiB"
    if free_gb < _LOW_RAM_GB:
        return CheckResult("memory", Status.WARNING, f"{text}: larger models do not load", "close other programs")
    return CheckResult("memory", Status.OK, text)


def disk(name: str, folder: Path, low_gb: float, option: str) -> CheckResult:
    """Whether a folder, which need not exist yet, is writable, and its free space."""
    try:
        results.require_writable(folder, option)
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free_gb = shutil.disk_usage(existing).free / GIB
    except UsageError as error:
        return CheckResult(name, Status.PROBLEM, error.cause, f"{error.remedy} with {option}")
    except OSError as error:  # a parent folder may not be readable
        return CheckResult(
            name, Status.PROBLEM, f"{folder}: {error.strerror}", f"choose a folder that you can write to with {option}"
        )
    return space(name, folder, free_gb, low_gb, option)


def space(name: str, folder: Path, free_gb: float, low_gb: float, option: str) -> CheckResult:
    """The finding for the free space of a folder."""
    text = f"{free_gb:.1f} GiB free at {folder}"
    remedy = f"free some space, or choose a folder on another disk with {option}"
    if free_gb < _FULL_GB:
        return CheckResult(name, Status.PROBLEM, f"{text}: too little to write anything", remedy)
    if free_gb < low_gb:
        return CheckResult(name, Status.WARNING, f"{text}, less than {low_gb:.0f}", remedy)
    return CheckResult(name, Status.OK, text)


def check_gpus(facts: Facts) -> Iterator[CheckResult]:
    """Every GPU with its meter, the driver, and torch's CUDA against it."""
    if facts.gpu_error is not None:
        yield CheckResult("NVML", Status.PROBLEM, facts.gpu_error.cause, facts.gpu_error.remedy)
    elif not facts.gpus:
        text = "no GPU, or no driver: models run on the CPU, and energy is an estimate"
        yield CheckResult(
            "NVML", Status.WARNING, text, "if there is a GPU, install its driver: nvidia-smi must list it"
        )
    elif facts.computing is None:
        text = "CUDA_VISIBLE_DEVICES hides every GPU: models run on the CPU"
        yield CheckResult("NVML", Status.WARNING, text, "unset CUDA_VISIBLE_DEVICES")
    for found in facts.gpus:
        yield _gpu(found)
        yield _meter(found)
    if facts.gpus:
        yield _driver(facts.gpus[0])
        yield from _torch_cuda(facts)


def _gpu(found: power.GpuCapabilities) -> CheckResult:
    gpu, capability = found.gpu, found.compute_capability
    total, free = gpu.memory_total_mb, found.memory_free_mb
    parts = [gpu.name]
    if total is not None and free is not None:
        parts.append(f"{free / _MIB_PER_GIB:.1f} GiB free of {total / _MIB_PER_GIB:.1f} GiB")
    else:
        parts.append("memory unknown")
    parts.append(f"compute capability {_dotted(capability) if capability else 'unknown'}")
    return CheckResult(f"GPU {gpu.index}", Status.OK, ", ".join(parts))


def _meter(found: power.GpuCapabilities) -> CheckResult:
    name = f"GPU {found.gpu.index} energy"
    if found.has_counter:
        return CheckResult(name, Status.OK, "NVML's energy counter")
    if found.has_power:
        return CheckResult(name, Status.WARNING, "NVML has no energy counter: joules are the integral of power samples")
    remedy = "estimate it with --energy-source codecarbon"
    return CheckResult(
        name, Status.WARNING, "NVML reports neither power nor energy, so energy cannot be measured", remedy
    )


def _driver(found: power.GpuCapabilities) -> CheckResult:
    cuda = f"CUDA up to {_dotted(found.driver_cuda)}" if found.driver_cuda else "CUDA version unknown"
    return CheckResult("driver", Status.OK, f"{found.gpu.driver}, {cuda}")


def _torch_cuda(facts: Facts) -> Iterator[CheckResult]:
    """One finding per stage with a torch; one for both if they share an interpreter."""
    stages: dict[str, Interpreter] = {}
    if facts.quantizes and isinstance(facts.quantizing, Interpreter):
        stages["quantization"] = facts.quantizing
    if isinstance(facts.serving, Interpreter):
        shared = stages.get("quantization") == facts.serving
        stages = {"": facts.serving} if shared or not stages else {**stages, "measurement": facts.serving}
    for stage, interpreter in stages.items():
        if "torch" in interpreter.modules:
            name = f"CUDA of torch ({stage})" if stage else "CUDA of torch"
            yield cuda_of_torch(name, interpreter.torch_cuda, facts.gpus[0].driver_cuda)


def cuda_of_torch(name: str, torch_cuda: str | None, driver_cuda: tuple[int, int] | None) -> CheckResult:
    """Whether a torch built with some CUDA runs on the driver: NVIDIA guarantees it within one major version."""
    if torch_cuda is None:
        text = "torch was built without CUDA: it does not use the GPU"
        return CheckResult(
            name, Status.WARNING, text, "install torch as described on https://pytorch.org/get-started/locally"
        )
    if driver_cuda is None:
        return CheckResult(name, Status.OK, torch_cuda)
    own = tuple(int(part) for part in torch_cuda.split(".")[:2])
    text = f"{torch_cuda}, the driver supports {_dotted(driver_cuda)}"
    remedy = f"update the GPU driver to one for CUDA {torch_cuda}, or install a torch built for an older CUDA"
    if own[0] > driver_cuda[0]:
        return CheckResult(name, Status.PROBLEM, f"{text}: torch does not start on this driver", remedy)
    if own > driver_cuda:
        return CheckResult(name, Status.WARNING, f"{text}: kernels that are compiled at run time may not load", remedy)
    return CheckResult(name, Status.OK, text)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
