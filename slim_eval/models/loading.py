"""What can happen when Transformers loads or saves a model, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: What it raises for a model that it cannot deal with, or that needs what is not there.
FAILURES = (ValueError, RuntimeError, OSError, ImportError, KeyError, EOFError)


def reason(error: BaseException) -> str:
    """Class and first line of an error of another package."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def remedy(error: BaseException) -> str:
    """The remedy if a model could not be loaded."""
    if "trust_remote_code" in str(error):
        return "review the Python code that comes with it, then add --trust-remote-code"
    return "check that transformers knows this architecture"


def save(model: Any, folder: Path, **options: Any) -> None:
    """Save a model without its generation settings.

    Transformers refuses to save those that contradict each other, as older models' do; nothing here generates by them.
    The caller copies the file as it came.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
