"""What another interpreter is asked for, and how often."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slim_eval.utils import environment


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An interpreter with packages beside it, which writes a line for each start."""
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    path = f"PYTHONPATH={packages}"
    python.write_text(f'#!/bin/sh\necho >>{tmp_path}/starts\n{path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def starts(python: Path) -> int:
    return len((python.parents[1] / "starts").read_text().splitlines())


def test_another_interpreter_is_started_once_for_all_models_and_again_once_a_package_was_installed(other: Path) -> None:
    for _ in range(3):
        assert environment.missing_modules(["json", "later"], other) == ["later"]
    assert environment.module_folder("later", other) is None
    assert starts(other) == 2
    package = other.parents[1] / "lib" / "python3.11" / "site-packages" / "later"
    package.mkdir()
    (package / "__init__.py").touch()
    assert environment.missing_modules(["json", "later"], other) == []
    assert environment.module_folder("later", other) == package
    assert starts(other) == 4


def test_what_is_no_interpreter_is_asked_anew(other: Path) -> None:
    working = other.read_text()
    other.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ValueError, match="does not respond like a Python interpreter"):
        environment.missing_modules(["json"], other)
    assert environment.module_folder("json", other) is None
    other.write_text(working)
    assert environment.missing_modules(["json"], other) == []
    with pytest.raises(OSError):  # noqa: PT011  # as the system words it
        environment.missing_modules(["json"], other.with_name("none"))
