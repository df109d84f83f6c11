"""Names in the package: one module and one class each, so that a search finds one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import slim_eval

_PACKAGE = Path(slim_eval.__file__).parent
_FILES = sorted(_PACKAGE.rglob("*.py"))


def _several(places: dict[str, set[str]]) -> dict[str, set[str]]:
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_modules_share_a_name() -> None:
    places = defaultdict[str, set[str]](set)
    for path in _FILES:
        if not path.stem.startswith("__"):
            places[path.stem].add(str(path.relative_to(_PACKAGE)))
    assert len(places) > 100
    assert _several(places) == {}


def test_no_class_name_exists_twice() -> None:
    places = defaultdict[str, set[str]](set)
    for path in _FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(str(path.relative_to(_PACKAGE)))
    assert len(places) > 200
    assert _several(places) == {}
