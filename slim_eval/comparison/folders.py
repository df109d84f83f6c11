"""`slim-eval compare A B`: two cells, or two folders of them, matched and compared, and the conditions decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slim_eval.comparison.caveats import Caveat, caveats
from slim_eval.comparison.cells import CellComparison, Verdict, compare_all
from slim_eval.comparison.gate import Condition, Decision, Outcome, decide, parse
from slim_eval.errors import GateFailedError, GateUndecidedError, UsageError
from slim_eval.results import Cell, find_results
from slim_eval.rows import ordered_tasks, rows_of
from slim_eval.utils import short_name

if TYPE_CHECKING:
    from slim_eval.config import CompareConfig


@dataclass(frozen=True)
class ComparisonReport:
    """What a comparison found.

    Attributes:
        pairs: The pairs of cells, in the order of the second folder.
        outcomes: One a condition and pair.
        caveats: What the results cannot support.
        notes: Cells without a partner, and files that could not be read.
    """

    pairs: tuple[CellComparison, ...]
    outcomes: tuple[Outcome, ...]
    caveats: tuple[Caveat, ...]
    notes: tuple[str, ...]

    def raise_for_conditions(self) -> None:
        """Raise where a condition holds, or cannot be decided.

        Raises:
            GateFailedError: A condition holds beyond doubt.
            GateUndecidedError: None holds beyond doubt, and one cannot be decided.
        """
        for decision, error in ((Decision.HOLDS, GateFailedError), (Decision.UNDECIDED, GateUndecidedError)):
            found = [outcome for outcome in self.outcomes if outcome.decision is decision]
            if found:
                raise error("; ".join(f"{o.condition.text} {decision.value}{o.where}: {o.reason}" for o in found))


def compare_folders(config: CompareConfig) -> ComparisonReport:
    """Compare two cells, or the cells of two folders that are of the same model and precision.

    A folder with a single cell is compared with the other folder's single cell, whatever their precisions.

    Raises:
        UsageError: A folder is missing or holds no measurement, no cells match, nothing in them may be compared, or a
            condition is malformed.
        ResultFileError: A file of samples is damaged.
    """
    (a_cells, a_notes), (b_cells, b_notes) = (_cells(folder) for folder in (config.a, config.b))
    matched, unmatched = _match(a_cells, b_cells)
    if not matched:
        names = (", ".join(sorted({_name(cell) for cell in cells})) for cells in (a_cells, b_cells))
        raise UsageError(
            f"no cell of {config.a} is of the same model and precision as one of {config.b}",
            "give two cells: {} against {}".format(*names),
        )
    tasks = ordered_tasks(task for pair in matched for cell in pair for task in cell.accuracy)
    conditions = parse(config.fail_if, tasks)
    pairs = compare_all(matched, config.margin_pp)
    _require_something(pairs)
    return ComparisonReport(
        pairs=tuple(pairs),
        outcomes=tuple(_decided(conditions, pairs)),
        caveats=tuple(caveats(rows_of(_unique([cell for pair in matched for cell in pair])))),
        notes=(*a_notes, *b_notes, *unmatched),
    )


def _unique(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.directory: cell for cell in cells}.values())


def _cells(folder: Path) -> tuple[list[Cell], tuple[str, ...]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "give a cell's folder, or a folder of results")
    found = find_results(folder)
    cells = [cell for cell in found.cells if cell.records]
    if not cells:
        raise UsageError(f"{folder}: holds no measurement", "give a cell's folder, or a folder of results")
    return cells, found.problems


def _name(cell: Cell) -> str:
    return f"{short_name(cell.model)} {cell.precision}"


def _match(a_cells: Sequence[Cell], b_cells: Sequence[Cell]) -> tuple[list[tuple[Cell, Cell]], list[str]]:
    """Pairs of cells, and a line for each cell that has no partner."""
    if len(a_cells) == len(b_cells) == 1:
        return [(a_cells[0], b_cells[0])], []
    pairs = [(partner, cell) for cell in b_cells if (partner := _partner(cell, a_cells, b_cells)) is not None]
    partners = {cell.directory for pair in pairs for cell in pair}
    alone = [cell for cell in (*a_cells, *b_cells) if cell.directory not in partners]
    return pairs, [f"{cell.directory}: no cell of the same model and precision in the other folder" for cell in alone]


def _partner(cell: Cell, a_cells: Sequence[Cell], b_cells: Sequence[Cell]) -> Cell | None:
    """The cell of the same model and precision; by the model's short name where that says enough."""
    for key in (_key, _name):
        found = [other for other in a_cells if key(other) == key(cell)]
        rivals = [other for other in b_cells if key(other) == key(cell)]
        if len(found) > 1 or (found and len(rivals) > 1):
            several = ", ".join(str(other.directory) for other in (found if len(found) > 1 else rivals))
            raise UsageError(f"several cells are {_name(cell)}: {several}", "compare two of the folders that hold one")
        if found:
            return found[0]
    return None


def _key(cell: Cell) -> str:
    return f"{cell.model} {cell.precision}"


def _require_something(pairs: Sequence[CellComparison]) -> None:
    """Refuse where nothing at all may be compared, with the reasons."""
    silent = {Verdict.NOT_COMPARABLE, Verdict.NOT_MEASURED}
    usable = any(made.verdict not in silent for pair in pairs for made in pair.metrics) or any(
        task.paired.refused is None for pair in pairs for task in pair.tasks
    )
    if usable:
        return
    why = [f"{task.paired.task}: {task.paired.refused}" for pair in pairs for task in pair.tasks]
    why += [made.reason for pair in pairs for made in pair.metrics if made.reason]
    raise UsageError(f"nothing here may be compared: {'; '.join(dict.fromkeys(why))}", "measure both in the same way")


def _decided(conditions: Sequence[Condition], pairs: Sequence[CellComparison]) -> list[Outcome]:
    return [
        replace(decide(condition, pair), where=f" ({pair.names[1]})" if len(pairs) > 1 else "")
        for condition in conditions
        for pair in pairs
    ]
