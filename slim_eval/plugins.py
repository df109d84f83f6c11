"""Plugins: Python files that add members to the seams, from outside the package.

A plugin is a Python file or an importable module that is named in ``SLIM_EVAL_PLUGINS`` (several are separated like the
paths in ``PATH``), or an entry point of the group ``slim_eval.plugins``. Importing it registers its members, for example
``SCHEMES.register(Scheme(...))``. The command line, the Python API and every worker load plugins before anything else;
workers inherit the variable, so that a member exists on both sides.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from slim_eval.errors import UsageError

PLUGINS_VARIABLE = "SLIM_EVAL_PLUGINS"
_ENTRY_POINTS = "slim_eval.plugins"


def load_plugins() -> None:
    """Import every plugin once; a second call imports only what was added since.

    Raises:
        UsageError: A plugin is missing or fails to import.
    """
    for point in importlib.metadata.entry_points(group=_ENTRY_POINTS):
        _import(point.value, point.load)
    for text in filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)):
        _import(text, lambda text=text: _load(text))


def _load(text: str) -> Any:
    if not text.endswith(".py"):
        return importlib.import_module(text)
    path = Path(text).resolve()
    name = f"slim_eval_plugin_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(text: str, load: Any) -> None:
    try:
        load()
    except (ImportError, SyntaxError, OSError, AttributeError, NameError, TypeError, ValueError) as error:
        cause = f"plugin {text}: {type(error).__name__}: {error}"
        raise UsageError(cause, f"fix it, or remove it from {PLUGINS_VARIABLE}") from error
