"""`slim-eval noise`: the same cell measured again and again, each time in a fresh worker, and the floor of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slim_eval import evaluator, locks, planning
from slim_eval.comparison.repeats import noise_record
from slim_eval.config import NoiseConfig
from slim_eval.displays import Display
from slim_eval.records import NoiseRecord
from slim_eval.results import Cell, noise_directory, write_noise


@dataclass(frozen=True)
class NoiseReport:
    """What was measured.

    Attributes:
        run: The runs themselves; raises for their failures.
        floors: One a model that could be measured at least twice, with where it was written.
    """

    run: evaluator.RunReport
    floors: tuple[tuple[NoiseRecord, Path], ...]

    def raise_for_failures(self) -> None:
        """Raise where a stage of a run failed.

        Raises:
            RunFailedError: Naming how many failed.
        """
        self.run.raise_for_failures()


def measure_noise(config: NoiseConfig, display: Display | None = None) -> NoiseReport:
    """Measure each model's cell `num_repeats` times, whatever earlier runs left, and write its noise floor.

    Args:
        config: What to measure, as a run takes it.
        display: Where progress is shown; the terminal by default.

    Raises:
        SlimEvalError: As `evaluator.evaluate`; nothing was started.
    """
    planned, gpus = planning.lay_out(config)
    cells = [
        replace(cell, directory=noise_directory(cell.directory.parent) / f"run-{number}", label=f"run {number}")
        for cell in planned
        for number in range(1, config.num_repeats + 1)
    ]
    if config.dry_run:
        return NoiseReport(evaluator.preview(config, cells, gpus), ())
    planning.check(config, planned, gpus)
    with locks.alone(cell.directory for cell in cells):
        report = evaluator.execute(config, cells, gpus, display)
    floors = []
    for cell in planned:
        runs = _runs(report.cells, noise_directory(cell.directory.parent))
        if len(runs) > 1:
            record = noise_record(runs, config.accuracy.margin_pp)
            floors.append((record, write_noise(cell.directory.parent, record)))
    return NoiseReport(report, tuple(floors))


def _runs(cells: tuple[Cell, ...], directory: Path) -> list[Cell]:
    return [cell for cell in cells if cell.directory.parent == directory]
