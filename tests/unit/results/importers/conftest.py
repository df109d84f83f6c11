"""Files that the tools wrote, and changed copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import ImportConfig
from slim_eval.results.importers import ForeignFile, ImportedRecord, importer_of

DATA = Path(__file__).resolve().parents[3] / "data" / "importers"

#: Changes a parsed document in place.
Change = Callable[[dict[str, Any]], object]


def foreign(path: Path, **options: Any) -> ForeignFile:
    """A file under the options of the command."""
    return ForeignFile(path, ImportConfig(paths=(path,), **options))


def read(path: Path, **options: Any) -> list[ImportedRecord]:
    """All measurements of a file, by the importer that recognises it."""
    file = foreign(path, **options)
    importer = importer_of(file)
    assert importer is not None
    return list(importer.read(file))


def dump(path: Path, imported: ImportedRecord) -> str:
    """The record of a measurement as JSON."""
    return imported.record(foreign(path, model="m", precision="fp16")).model_dump_json()


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
