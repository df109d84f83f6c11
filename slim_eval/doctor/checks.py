"""Checks of this machine: packages of each stage's interpreter, CPU, memory, disk, GPUs, and what runs on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slim_eval import environments, models, results
from slim_eval.config import AUTO_ENGINE, EngineConfig, RunConfig
from slim_eval.doctor.check_results import OK, PROBLEM, WARNING, CheckResult
from slim_eval.doctor.facts import Facts, Interpreter
from slim_eval.doctor.network import needs_hub
from slim_eval.engines import engines_for
from slim_eval.engines.engine import cpu_flags
from slim_eval.errors import INSTALL_GPU, SlimEvalError, UsageError
from slim_eval.execution.plan import QUANTIZING_MODULES, install_command, intended_use, serving_modules
from slim_eval.models import checkpoint_checks
from slim_eval.schemes import scheme_of
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
    if facts.quantizes:
        yield from _stage(facts.quantizing, facts.config.quantize_python, "--quantize-python", QUANTIZING_MODULES)


def check_serving(facts: Facts) -> Iterator[CheckResult]:
    """The interpreter for measurement, and its optional packages."""
    config, interpreter = facts.config, facts.serving
    yield from _stage(interpreter, config.serve_python, "--serve-python", serving_modules(config.engine, config.tasks))
    if isinstance(interpreter, str):
        return
    prefix = f"{config.serve_python} -m " if config.serve_python else ""
    optional = {}
    if config.engine == AUTO_ENGINE:
        absent = "not installed: Transformers is used, which is slower and emulates quantized kernels"
        optional["vllm"] = (absent, prefix + INSTALL_GPU if facts.gpus else _VLLM_ON_CPU)
    if "energy" in config.tasks and facts.computing is None:
        absent = "not installed: energy cannot be measured without a GPU"
        optional["codecarbon"] = (absent, prefix + 'pip install "codecarbon>=3.3"')
    for module, (absent, remedy) in optional.items():
        yield _package(module, interpreter) or CheckResult(module, WARNING, absent, remedy)


def check_environments(facts: Facts) -> Iterator[CheckResult]:
    """The environments that `slim-eval setup` made; nothing without any."""
    made = environments.remembered()
    if made is None:
        return
    current = {each.python for each in environments.environments(made.kind)}
    for name, python, used in (
        ("quantize", made.quantize, facts.config.quantize_python), ("serve", made.serve, facts.config.serve_python)
    ):  # fmt: skip
        if used != python:
            yield CheckResult(name, OK, f"{python}: made by slim-eval setup, not used: another one is given")
        elif python not in current:
            cause = f"{python}: made by slim-eval setup of another version, with other packages"
            yield CheckResult(name, WARNING, cause, "slim-eval setup")
        else:
            yield CheckResult(name, OK, f"{python}: made by slim-eval setup --{made.kind}")


def _stage(
    interpreter: Interpreter | str, python: Path | None, option: str, needed: Sequence[str]
) -> Iterator[CheckResult]:
    if isinstance(interpreter, str):
        remedy = f"give the path of a Python interpreter with {option}" if python else install_command(None)
        yield CheckResult("python", PROBLEM, f"{python or 'this interpreter'} {interpreter}", remedy)
        return
    where = f"{interpreter.python} ({interpreter.executable})"
    if tuple(int(part) for part in interpreter.python.split(".")[:2]) < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        remedy = f"uv venv --python 3.11, then give its interpreter with {option}"
        yield CheckResult("python", PROBLEM, f"{where} is older than {oldest}", remedy)
    else:
        yield CheckResult("python", OK, where)
    for module in needed:
        yield _package(module, interpreter) or CheckResult(module, PROBLEM, "not installed", install_command(python))


def _package(module: str, interpreter: Interpreter) -> CheckResult | None:
    """The finding of an installed package; None if it is not."""
    if module not in interpreter.modules:
        return None
    distribution = interpreter.modules[module] or "installed, version unknown"
    return CheckResult(module, OK, distribution.removeprefix(f"{module} "))


def check_machine(facts: Facts) -> Iterator[CheckResult]:
    """CPU, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    avx512 = "AVX-512" if "avx512f" in cpu_flags() else "no AVX-512"
    yield CheckResult("CPU", OK, f"{environment.cpu_name() or 'unknown model'}, {cores} cores, {avx512}")
    yield memory(environment.free_ram_gb(), environment.ram_gb())
    yield disk("outputs", facts.config.output_dir, _LOW_OUTPUT_GB, "--output-dir")
    yield disk("quantized models", facts.config.quantized_models_dir, _LOW_MODEL_GB, "--quantized-models-dir")
    try:
        constants = models.hub.settings()
    except UsageError:  # reported by the check of the hub
        return
    downloads = needs_hub(facts.config) and not constants.HF_HUB_OFFLINE
    cache = disk("hub cache", Path(constants.HF_HUB_CACHE), _LOW_MODEL_GB, "HF_HUB_CACHE")
    yield cache if downloads or cache.state is OK else replace(cache, state=WARNING)


def memory(free_gb: float | None, total_gb: float | None) -> CheckResult:
    """Free memory of the machine, or of its container."""
    if free_gb is None or total_gb is None:
        return CheckResult("memory", WARNING, "the system does not report its free memory")
    text = f"{free_gb:.1f} GiB free of {total_gb:.1f} GiB"
    if free_gb < _LOW_RAM_GB:
        return CheckResult("memory", WARNING, f"{text}: larger models do not load", "close other programs")
    return CheckResult("memory", OK, text)


def disk(name: str, folder: Path, low_gb: float, option: str) -> CheckResult:
    """Whether a folder, which need not exist yet, is writable, and its free space."""
    try:
        results.require_writable(folder, option)
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free_gb = shutil.disk_usage(existing).free / GIB
    except UsageError as error:
        return CheckResult(name, PROBLEM, error.cause, f"{error.remedy} with {option}")
    except OSError as error:  # a parent folder may not be readable
        remedy = f"choose a folder that you can write to with {option}"
        return CheckResult(name, PROBLEM, f"{folder}: {error.strerror}", remedy)
    text = f"{free_gb:.1f} GiB free at {folder}"
    remedy = f"free some space, or choose a folder on another disk with {option}"
    if free_gb < _FULL_GB:
        return CheckResult(name, PROBLEM, f"{text}: too little to write anything", remedy)
    if free_gb < low_gb:
        return CheckResult(name, WARNING, f"{text}, less than {low_gb:.0f} GiB", remedy)
    return CheckResult(name, OK, text)


def check_models(facts: Facts) -> Iterator[CheckResult]:
    """What a run would refuse, or note, about the checkpoints of the given models."""
    config = facts.config
    if not config.checked_models:
        return
    run = RunConfig(
        models=config.checked_models,
        precision=config.precision,
        engine=EngineConfig(engine=config.engine),
        quantized_models_dir=config.quantized_models_dir,
        quantize_python=config.quantize_python,
        serve_python=config.serve_python,
    )
    for name in config.checked_models:
        try:
            source = models.resolve(name)
            found = checkpoint_checks.examine(source, intended_use(run, source, config.precision))
            what = models.describe_config(source.config_dir).architecture if not found else None
        except SlimEvalError as error:
            yield CheckResult(name, PROBLEM, error.cause, error.remedy or None)
            continue
        if what is not None or not found:
            unseen = "" if source.path else ", not downloaded: further checks follow the download"
            yield CheckResult(name, OK, f"{what or 'unknown architecture'}{unseen}")
        for finding in found:
            state = PROBLEM if finding.is_refusal else WARNING
            yield CheckResult(f"{name}: {finding.check}", state, finding.cause, finding.remedy or None)


def check_gpus(facts: Facts) -> Iterator[CheckResult]:
    """Every GPU with its meter, the driver, and torch's CUDA against it."""
    if facts.gpu_error is not None:
        yield CheckResult("NVML", PROBLEM, facts.gpu_error.cause, facts.gpu_error.remedy)
    elif not facts.gpus:
        text = "no GPU, or no driver: models run on the CPU, and energy is an estimate"
        yield CheckResult("NVML", WARNING, text, "if there is a GPU, install its driver: nvidia-smi must list it")
    elif facts.computing is None:
        text = "CUDA_VISIBLE_DEVICES hides every GPU: models run on the CPU"
        yield CheckResult("NVML", WARNING, text, "unset CUDA_VISIBLE_DEVICES")
    if facts.computing is not None and facts.computing.gpu.parent is not None:
        text = f"{facts.computing.gpu.name} is a MIG slice: performance and accuracy are measured, energy is not"
        yield CheckResult("MIG", WARNING, text, "measure energy on a GPU without MIG")
    for found in facts.gpus:
        gpu, free, capability = found.gpu, found.memory_free_mb, found.compute_capability
        sizes = "memory unknown"
        if gpu.memory_total_mb is not None and free is not None:
            sizes = f"{free / _MIB_PER_GIB:.1f} GiB free of {gpu.memory_total_mb / _MIB_PER_GIB:.1f} GiB"
        text = f"{gpu.name}, {sizes}, compute capability {_dotted(capability) if capability else 'unknown'}"
        yield CheckResult(f"GPU {gpu.index}", OK, text)
        name = f"GPU {gpu.index} energy"
        if gpu.slices:
            continue  # in MIG mode its energy is not that of a model; a warning above says so
        if found.has_counter:
            yield CheckResult(name, OK, "NVML's energy counter")
        elif found.has_power:
            yield CheckResult(name, WARNING, "NVML has no energy counter: joules are the integral of power samples")
        else:
            text = "NVML reports neither power nor energy, so energy cannot be measured"
            yield CheckResult(name, WARNING, text, "estimate it with --energy-source codecarbon")
    if not facts.gpus:
        return
    driver = facts.gpus[0].driver_cuda
    cuda = f"CUDA up to {_dotted(driver)}" if driver else "CUDA version unknown"
    yield CheckResult("driver", OK, f"{facts.gpus[0].gpu.driver}, {cuda}")
    # One finding per stage with a torch; one for both if they share an interpreter.
    stages = {" (quantization)": facts.quantizing, " (measurement)": facts.serving}
    if not facts.quantizes or isinstance(facts.quantizing, str) or facts.quantizing == facts.serving:
        stages = {"": facts.serving}
    for stage, interpreter in stages.items():
        if isinstance(interpreter, Interpreter) and "torch" in interpreter.modules:
            yield cuda_of_torch(f"CUDA of torch{stage}", interpreter.torch_cuda, driver)


def cuda_of_torch(name: str, torch_cuda: str | None, driver_cuda: tuple[int, int] | None) -> CheckResult:
    """Whether a torch built with some CUDA runs on the driver: NVIDIA guarantees it within one major version."""
    if torch_cuda is None:
        remedy = "install torch as described on https://pytorch.org/get-started/locally"
        return CheckResult(name, WARNING, "torch was built without CUDA: it does not use the GPU", remedy)
    if driver_cuda is None:
        return CheckResult(name, OK, torch_cuda)
    own = tuple(int(part) for part in torch_cuda.split(".")[:2])
    text = f"{torch_cuda}, the driver supports {_dotted(driver_cuda)}"
    remedy = f"update the GPU driver to one for CUDA {torch_cuda}, or install a torch built for an older CUDA"
    if own[0] > driver_cuda[0]:
        return CheckResult(name, PROBLEM, f"{text}: torch does not start on this driver", remedy)
    if own > driver_cuda:
        return CheckResult(name, WARNING, f"{text}: kernels that are compiled at run time may not load", remedy)
    return CheckResult(name, OK, text)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def check_precisions(facts: Facts) -> Iterator[CheckResult]:
    """Each scheme on each installed engine that may serve it, by the rules with which `slim_eval.engines` chooses."""
    if isinstance(facts.serving, str):
        return
    requested, installed = facts.config.engine, facts.serving.modules
    engines = [each for each in engines_for(requested) if not each.modules or each.modules[-1] in installed]
    for name in facts.config.precision:
        served = scheme_of(name)
        for position, engine in enumerate(engines):
            build = (installed[engine.modules[-1]] or "") if engine.modules else ""
            platform = engine.expected_platform(build, facts.computing)
            obstacle = engine.obstacle(served, platform)
            title = f"{name} on {engine.name}"
            if obstacle is None:
                kernels = engine.quantized_kernels if served.is_quantized else "native"
                note = " in 16-bit arithmetic: this does not predict deployed speed" if kernels == "emulated" else ""
                if engine.is_inexact(served, platform):
                    text = "runs, inexact: without VNNI instructions its sums saturate, so its accuracy is not compared"
                    remedy = "measure accuracy with --engine transformers, speed with vLLM, in two output folders"
                    yield CheckResult(title, WARNING, text, remedy)
                else:
                    yield CheckResult(title, OK, f"runs, {kernels}{note}")
            elif requested != AUTO_ENGINE or position == len(engines) - 1:
                yield CheckResult(title, PROBLEM, obstacle, "use --engine transformers, or --engine auto")
            else:
                following = engines[position + 1]
                remedy = f"use --engine {following.name} to serve every precision with one engine"
                yield CheckResult(title, WARNING, f"{obstacle}, so {following.label} is used", remedy)
