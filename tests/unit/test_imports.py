"""Imports point one way, and each heavy package has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slim_eval

PACKAGE = Path(slim_eval.__file__).parent

# From the bottom up. A module imports only from layers below its own, or from its own package.
LAYERS = [
    {"_version", "redaction"},
    {"errors"},
    {"utils", "stats"},
    {"bounded", "parsing"},
    {"config", "environment", "growth", "hub", "watchdog", "runlog", "interruption"},
    {"demo", "records", "locks"},
    {"results"},
    {"models", "power", "rows"},
    {"engines", "calibration", "comparison", "pickles"},
    {"benchmarks", "checkpoints", "fetching", "loading"},
    {"fingerprints", "tensors"},
    {"protocol", "quantization", "unpickling", "analysis", "importers"},
    {"workers", "tracking", "console", "worker"},
    {"planning", "displays"},
    {"resuming", "forecast"},
    {"forecast_text"},
    {"evaluator"},
    {"noise", "doctor"},
    {"cli"},
    {"__init__", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

# The modules that may import a heavy package. Why lm-eval's adapters are opened by the engines: decisions/002.
DOORS = {
    "vllm": {"engines/vllm.py"},
    "llmcompressor": {"quantization.py"},
    "lm_eval": {"benchmarks/accuracy.py", "engines/vllm.py", "engines/transformers.py"},
    "transformers": {"engines/transformers.py", "quantization.py", "unpickling.py", "loading.py"},
    "pynvml": {"power/"},
    "codecarbon": {"power/carbon.py"},
    "wandb": {"tracking.py"},
    "matplotlib": {"analysis/"},
    "pandas": {"analysis/", "__init__.py"},
    "scipy": {"stats/"},
    "statsmodels": {"stats/"},
    "datasets": {"calibration.py", "quantization.py", "benchmarks/accuracy.py"},
}
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "llmcompressor",
    "lm_eval",
    "pandas",
    "matplotlib",
    "datasets",
    "wandb",
    "numpy",
    "scipy",
    "statsmodels",
)


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "demo")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module == "slim_eval":
                yield from (f"slim_eval.{alias.name}" for alias in node.names)


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "slim_eval" or len(parts) < 2 or parts[1] == room or parts[1] not in LAYER:
            continue
        assert LAYER[parts[1]] < LAYER[room], f"{room} imports {name}, which is not below it"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_have_one_door(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    for name in _imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or any(where.startswith(door) for door in doors), f"{where} imports {name}"


def test_the_evaluator_does_not_import_the_worker() -> None:
    assert "slim_eval.worker" not in set(_imports(PACKAGE / "evaluator.py"))


@pytest.mark.parametrize("module", ["slim_eval.cli", "slim_eval.evaluator", "slim_eval.protocol", "slim_eval.worker"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
