"""Whether each stage's interpreter runs and has what the stage needs, and at which version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slim_eval.config import EngineChoice
from slim_eval.doctor.facts import Facts
from slim_eval.doctor.findings import Finding, State
from slim_eval.doctor.interpreters import Interpreter
from slim_eval.errors import INSTALL_GPU
from slim_eval.execution.plan import QUANTIZING_MODULES, install_command, serving_modules

_OLDEST_PYTHON = (3, 10)
_VLLM_ON_CPU = "without a GPU, `make setup` in a checkout of slim-eval adds vLLM's CPU build"


def check_quantizing(facts: Facts) -> Iterator[Finding]:
    """The interpreter that quantizes; nothing where no precision asks for it."""
    config = facts.config
    if facts.quantizes:
        yield from _stage(facts.quantizing, config.quantize_python, "--quantize-python", QUANTIZING_MODULES)


def check_serving(facts: Facts) -> Iterator[Finding]:
    """The interpreter that measures, and the packages that it can do without."""
    config = facts.config
    needed = serving_modules(config.engine, config.tasks)
    yield from _stage(facts.serving, config.serve_python, "--serve-python", needed)
    if isinstance(facts.serving, str):
        return
    if config.engine is EngineChoice.AUTO:
        absent = "not installed: Transformers serves, slower, and emulates quantized kernels"
        yield _optional("vllm", facts.serving, absent, _vllm_remedy(facts))
    if "energy" in config.tasks and facts.computing is None:
        absent = "not installed: no energy, for there is no GPU to ask either"
        yield _optional("codecarbon", facts.serving, absent, _pip(config.serve_python, "codecarbon>=3.3"))


def _stage(
    interpreter: Interpreter | str, python: Path | None, option: str, needed: Sequence[str]
) -> Iterator[Finding]:
    if isinstance(interpreter, str):
        remedy = f"give the path of a Python interpreter with {option}" if python else install_command(None)
        yield Finding("python", State.PROBLEM, f"{python or 'this interpreter'} {interpreter}", remedy)
        return
    where = f"{interpreter.python} ({interpreter.executable})"
    if tuple(int(part) for part in interpreter.python.split(".")[:2]) < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        remedy = f"uv venv --python 3.11, then give its interpreter with {option}"
        yield Finding("python", State.PROBLEM, f"{where} is older than {oldest}", remedy)
    else:
        yield Finding("python", State.OK, where)
    for module in needed:
        if module in interpreter.modules:
            yield _installed(module, interpreter)
        else:
            yield Finding(module, State.PROBLEM, "not installed", install_command(python))


def _optional(module: str, interpreter: Interpreter, absent: str, remedy: str) -> Finding:
    if module in interpreter.modules:
        return _installed(module, interpreter)
    return Finding(module, State.WARNING, absent, remedy)


def _installed(module: str, interpreter: Interpreter) -> Finding:
    distribution = interpreter.modules[module] or "installed, version not known"
    return Finding(module, State.OK, distribution.removeprefix(f"{module} "))


def _vllm_remedy(facts: Facts) -> str:
    return _prefix(facts.config.serve_python) + INSTALL_GPU if facts.gpus else _VLLM_ON_CPU


def _pip(python: Path | None, requirement: str) -> str:
    return f'{_prefix(python)}pip install "{requirement}"'


def _prefix(python: Path | None) -> str:
    return "" if python is None else f"{python} -m "
