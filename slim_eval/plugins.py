"""Plugins: Python files that add members to the seams, from outside the package.

A plugin is a Python file or an importable module named in ``SLIM_EVAL_PLUGINS`` (several are separated like the paths
in ``PATH``), or an entry point of the group ``slim_eval.plugins``. Importing it registers its members, for example by
``SCHEMES.register(Scheme(...))``. The command line, the Python API and every worker load plugins before anything else;
workers inherit the variable, so that a member exists on both sides.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from slim_eval.errors import UsageError

PLUGINS_VARIABLE = "SLIM_EVAL_PLUGINS"
_FAILURES = (
    ImportError, SyntaxError, OSError, AttributeError, NameError, TypeError, ValueError, LookupError, RuntimeError
)  # fmt: skip


def load_plugins() -> None:
    """Import every plugin once, a new one at a later call; `UsageError` if one cannot be imported."""
    plugins = list(_entry_points())
    for name in filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)):
        plugins.append((name, partial(_load_file if name.endswith(".py") else importlib.import_module, name)))
    for name, load in plugins:
        try:
            load()
        except _FAILURES as error:
            cause = f"plugin {name}: {type(error).__name__}: {error}"
            remedy = f"fix it, or remove it from {PLUGINS_VARIABLE} (uninstall the package that brings it)"
            raise UsageError(cause, remedy) from error


@cache  # reads the metadata of every installed package
def _entry_points() -> tuple[tuple[str, Callable[[], object]], ...]:
    return tuple((point.value, point.load) for point in importlib.metadata.entry_points(group="slim_eval.plugins"))


def _load_file(file: str) -> None:
    path = Path(file).resolve()
    name = f"slim_eval_plugin_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
