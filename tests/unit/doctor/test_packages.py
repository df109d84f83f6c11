"""Interpreters are asked in a process of their own, and answer without importing anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from slim_eval.config import DoctorConfig
from slim_eval.doctor import checks, facts
from slim_eval.doctor.check_results import CheckResult, Status
from slim_eval.doctor.facts import Facts, Interpreter
from tests.unit.doctor.conftest import EVERYTHING

ASKED = {"torch": ("torch",), "pynvml": ("nvidia-ml-py",), "nowhere_to_be_found": ("nowhere_to_be_found",)}


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def findings(serving: Interpreter | str, **options: object) -> dict[str, CheckResult]:
    found = Facts(DoctorConfig(**options), "was not asked", serving)  # type: ignore[arg-type]
    return {finding.name: finding for finding in checks.check_serving(found)}


@pytest.mark.parametrize("python", [None, Path(sys.executable)], ids=["this one", "by its path"])
def test_the_interpreter_of_these_tests(python: Path | None) -> None:
    answer = facts.ask_interpreter(python, ASKED)
    assert isinstance(answer, Interpreter)
    assert answer.modules == {
        "torch": f"torch {metadata.version('torch')}",
        "pynvml": f"nvidia-ml-py {metadata.version('nvidia-ml-py')}",
    }
    assert answer.executable == sys.executable
    assert answer.python == sys.version.split()[0]


def test_an_empty_interpreter_has_nothing(empty_python: Path) -> None:
    answer = facts.ask_interpreter(empty_python, ASKED)
    assert isinstance(answer, Interpreter)
    assert (answer.modules, answer.torch_cuda) == ({}, None)


def test_packages_are_not_imported_and_the_cuda_of_torch_is_read(furnish: Callable[..., Path]) -> None:
    """Each of these packages ends the process that imports it."""
    answer = facts.ask_interpreter(furnish(EVERYTHING, "13.0"), {name: (name,) for name in EVERYTHING})
    assert isinstance(answer, Interpreter)
    assert set(answer.modules) == set(EVERYTHING)
    assert answer.torch_cuda == "13.0"
    assert answer.modules["vllm"] == "vllm 77.2"
    assert answer.modules["pynvml"] is None  # its distribution has another name, which was not given here


def test_a_torch_without_cuda(furnish: Callable[..., Path]) -> None:
    answer = facts.ask_interpreter(furnish({"torch": "2.0"}), ASKED)
    assert isinstance(answer, Interpreter)
    assert answer.torch_cuda is None


@pytest.mark.parametrize(
    "text", ["echo {}", "echo hello", "exit 3", "printf '\\377\\376'", "echo '[1]'; exit 0", "kill -9 $$", ":"]
)
def test_what_is_no_python(tmp_path: Path, text: str) -> None:
    answer = facts.ask_interpreter(script(tmp_path / "python", text), ASKED)
    assert answer == "does not respond like a Python interpreter"


def test_what_cannot_be_started(tmp_path: Path) -> None:
    assert facts.ask_interpreter(tmp_path / "nothing", ASKED) == "cannot be started: No such file or directory"
    assert facts.ask_interpreter(tmp_path, ASKED) == "cannot be started: Permission denied"


def test_one_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_TIMEOUT_S", 0.2)
    answer = facts.ask_interpreter(script(tmp_path / "python", "exec sleep 600"), ASKED)
    assert isinstance(answer, str)
    assert answer.startswith("does not respond within")


def test_an_interpreter_that_does_not_run_is_one_problem(tmp_path: Path) -> None:
    found = findings("cannot be started: Permission denied", serve_python=tmp_path)
    assert list(found) == ["python"]
    assert found["python"].state is Status.PROBLEM
    assert str(tmp_path) in found["python"].text
    assert "--serve-python" in str(found["python"].remedy)


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    answer = {"python": "3.9.18", "executable": "/old/python", "modules": dict.fromkeys(EVERYTHING), "torch_cuda": None}
    old = facts.ask_interpreter(script(tmp_path / "python", f"echo '{json.dumps(answer)}'"), ASKED)
    found = findings(old)
    assert [name for name, finding in found.items() if finding.state is Status.PROBLEM] == ["python"]
    assert found["python"].text == "3.9.18 (/old/python) is older than 3.10"
    assert found["torch"].text == "installed, version unknown"
