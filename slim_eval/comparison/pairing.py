"""`paired.json`: each quantized cell of a model against the model's 16-bit cell, as soon as both are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slim_eval import bounded, environment
from slim_eval.comparison.items import judged, pair
from slim_eval.comparison.rules import BASELINE
from slim_eval.records import PairedRecord, PairedTask
from slim_eval.results import PAIRED, Cell, find_results, write_paired


def update_paired(model_directory: Path, margin_pp: float) -> list[PairedRecord]:
    """Write `paired.json` anew in every quantized cell of a model; nothing where its 16-bit cell is missing.

    All of them at once: their p-values are corrected for each other. A file that says the same already stays as it is.

    Args:
        model_directory: Folder with the cells of one model.
        margin_pp: Drop in percentage points that still counts as equivalent.

    Returns:
        What stands in the files now.
    """
    cells = find_results(model_directory).cells
    written = []
    for (base, cell), tasks in pair_all(cells, margin_pp):
        record = PairedRecord(
            model=cell.model,
            precision=cell.precision,
            baseline=Path(os.path.relpath(base.directory, cell.directory)).as_posix(),
            timestamp=environment.now(),
            margin_pp=margin_pp,
            tasks=tuple(tasks),
        )
        if not _stands(cell.directory, record):
            write_paired(cell.directory, record)
        written.append(record)
    return written


def _stands(directory: Path, record: PairedRecord) -> bool:
    """Whether a cell's `paired.json` says the same already, whenever it was written."""
    try:
        found = PairedRecord.model_validate(bounded.read_json(directory / PAIRED))
    except (OSError, ValueError):
        return False
    return found.model_copy(update={"timestamp": record.timestamp}) == record


def pair_all(cells: Sequence[Cell], margin_pp: float) -> list[tuple[tuple[Cell, Cell], list[PairedTask]]]:
    """Every quantized cell with its baseline and their tasks, judged together; without a shared task it is left out.

    Args:
        cells: Cells of any models.
        margin_pp: Drop in percentage points that still counts as equivalent.
    """
    bases: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.precision == BASELINE:
            bases.setdefault(cell.model, []).append(cell)
    pairs = [
        (base, cell)
        for cell in cells
        if cell.precision != BASELINE and (base := baseline_cell(cell, bases.get(cell.model, ()))) is not None
        and set(base.accuracy) & set(cell.accuracy)
    ]  # fmt: skip
    verdicts = judged([pair(base, cell) for base, cell in pairs], margin_pp)
    return list(zip(pairs, verdicts, strict=True))


def baseline_cell(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The 16-bit cell of the same model; of the same folder where there are several. None where there is none."""
    found = [other for other in cells if other.model == cell.model and other.precision == BASELINE]
    return min(found, key=lambda other: other.directory.parent != cell.directory.parent, default=None)
