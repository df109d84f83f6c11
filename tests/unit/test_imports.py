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

# The modules that may import a heavy package. Why lm-eval's adapters are opened by the engines: decisions/002.
DOORS = {
    "vllm": {"engines/vllm.py"},
    "llmcompressor": {"quantization/llmcompressor.py", "models/experts.py"},
    "lm_eval": {"benchmarks/accuracy.py", "engines/vllm.py", "engines/transformers.py", "engines/openai_lm_eval.py"},
    "transformers": {"engines/transformers.py", "engines/openai.py", "quantization/llmcompressor.py", "models/"},
    "pynvml": {"power/"},
    "codecarbon": {"power/codecarbon.py"},
    "wandb": {"execution/tracking.py"},
    "ray": {"execution/ray.py"},
    "matplotlib": {"analysis/"},
    "pandas": {"analysis/", "__init__.py"},
    "scipy": {"stats/"},
    "statsmodels": set(),  # tests compare with it
    "datasets": {"quantization/", "benchmarks/accuracy.py"},
    "every_eval_ever": {"results/exchange.py"},
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
    "ray",
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


@pytest.mark.large  # `make check` runs the same command
def test_imports_point_down() -> None:
    """The contract in pyproject.toml: ten layers, no circle."""
    lint = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([lint], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_have_one_door(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    for name in _imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or any(where.startswith(door) for door in doors), f"{where} imports {name}"


def test_the_evaluator_does_not_import_the_worker() -> None:
    assert "slim_eval.execution.worker" not in set(_imports(PACKAGE / "evaluator.py"))


@pytest.mark.parametrize(
    "module", ["slim_eval.cli", "slim_eval.evaluator", "slim_eval.execution.messages", "slim_eval.execution.worker"]
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
