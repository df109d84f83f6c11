"""Files that the tools wrote, and changed copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[3] / "data" / "importers"

#: Changes a parsed document in place.
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def data() -> Path:
    """The folder of files that the tools wrote."""
    return DATA


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, Change], Path]:
    """Copies a file of the tools, what belongs to it too, and changes it."""

    def make(name: str, change: Change) -> Path:
        source = DATA / name
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        for sibling in source.parent.glob("samples_*" if source.parent != DATA else f"{source.stem}.*"):
            shutil.copy(sibling, folder)
        content = json.loads(source.read_text(encoding="utf-8"))
        change(content)
        path = folder / source.name
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return make
