"""From result files to tables, findings and plots. Light to import: pandas and matplotlib are loaded when used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.rows import STANDARD_TASKS, Row, by_model, ordered_tasks, rows_of, tasks_of
from slim_eval.results.store import Results, find_results, read_samples, require_writable
from slim_eval.results.variants import Variant
from slim_eval.utils import did_you_mean, write_text

if TYPE_CHECKING:
    import pandas as pd

    from slim_eval.analysis.evidence import Evidence
    from slim_eval.analysis.figures.plotdata import PlotData
    from slim_eval.analysis.pareto.frontiers import Frontier
    from slim_eval.analysis.summary import Material
    from slim_eval.config import AnalysisConfig

_NOTHING_FOUND = "run `slim-eval run` first, or give the folder that holds its results with --input-dir"


@dataclass(frozen=True)
class AnalysisReport:
    """What an analysis found and wrote.

    Attributes:
        num_variants: Configurations with at least one measurement.
        paths: Files written.
        problems: Files that could not be read and benchmarks that failed, one line each.
        warnings: What a reader of the tables must know, one line each.
        tasks: Accuracy tasks shown.
        rows: One flat row a configuration, with the tasks shown, for `terminal.comparison_table`.
        within_noise: For each row, the columns in which it differs from its baseline by no more than the noise floor.
        findings: The sentences of `executive_summary.txt`, in order.
    """

    num_variants: int
    paths: tuple[Path, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    within_noise: tuple[frozenset[str], ...] = ()
    findings: tuple[str, ...] = ()


def analyze(config: AnalysisConfig) -> AnalysisReport:
    """Read all results below a folder and write tables, findings and plots.

    A file that cannot be written becomes a problem, and the others are still written.

    Raises:
        UsageError: The folder is missing or holds no measurement, the other one cannot be written, or an objective is
            one that no result has; nothing is written then.
    """
    from slim_eval.analysis import evidence, summary
    from slim_eval.analysis.figures import plots
    from slim_eval.analysis.pareto import frontiers
    from slim_eval.analysis.report import page
    from slim_eval.analysis.tables import results_table

    require_writable(config.output_dir, "--output-dir")
    results, variants = _measured(config.input_dir)
    tasks, advice = _tasks(config, variants)
    rows = frontiers.with_means(rows_of(variants), tasks)
    optimal = frontiers.find_frontiers(rows, tasks, config.objectives)
    found = evidence.gather(variants, rows, config.margin_pp)
    models = by_model(rows)
    noisy = {row["directory"]: found.within_noise(row, models[row["model"]]) for row in rows}
    impact = results_table.impact_rows(rows, tasks, noisy)
    paired = [row for row in found.paired_rows(rows) if row["task"] in tasks]
    problems = (*_problems(results), *found.problems)
    material = summary.Material(rows, tasks, impact, paired, found.caveats, optimal, problems, _notes(variants, rows))
    sections = summary.sections(material)
    everything = tasks_of(rows[0])
    whole_impact = impact if tasks == everything else results_table.impact_rows(rows, everything, noisy)
    texts = {
        "complete_results.json": _complete_json(config.input_dir, results, found, whole_impact, optimal),
        "executive_summary.txt": summary.executive_summary(sections),
        **_tables(material),
        "report.html": page.report_html(
            page.ReportData(
                title=config.input_dir.resolve().name,
                rows=rows,
                variants=variants,
                evidence=found,
                impact=impact,
                frontier=optimal[-1].rows if optimal else (),
                objectives=optimal[-1].objectives if optimal else (),
                findings=sections,
                problems=problems,
                tasks=tasks,
            )
        ),
    }
    written, failed = _write_all(config.output_dir, texts)
    figures, empty = _draw(plots.PlotData(rows, tasks, found, _samples), config, failed)
    advice += [f"not drawn, as nothing was measured: {', '.join(empty)}"] if empty else []
    return AnalysisReport(
        num_variants=len(variants),
        paths=(*written, *figures),
        problems=(*problems, *failed),
        warnings=(*advice, *summary.setting_findings(rows), *_warnings(found, impact, paired)),
        tasks=tasks,
        rows=tuple(rows_of(variants, tasks)),
        within_noise=tuple(noisy[row["directory"]] for row in rows),
        findings=summary.findings(sections),
    )


def load_results(path: str | Path) -> pd.DataFrame:
    """All results below a folder as one tidy table, one row a configuration.

    Args:
        path: Folder with results, at any depth.

    Returns:
        Columns: ``model``, ``name``, ``precision``, ``engine`` and the rest of the metadata; every metric of
        performance and energy under its own name and unit (energy's keys that performance has too begin with
        ``energy_``); ``tokens_per_request``; and for each task ``{task}`` (accuracy, 0 to 1), ``{task}_metric``,
        ``{task}_stderr``, ``{task}_num_items`` and so on. What was not measured is NaN or None. A file that cannot be
        read is left out, with a Python warning.

    Raises:
        UsageError: The folder is missing, or holds no measurement.
    """
    from slim_eval.analysis.tables.results_table import tidy_table

    results, variants = _measured(Path(path))
    for problem in results.problems:
        warnings.warn(problem, stacklevel=2)
    return tidy_table(rows_of(variants))


def _samples(row: Row, name: str) -> list[dict[str, Any]]:
    """The raw samples of a row's record; none where they cannot be read, which the problems say."""
    try:
        return read_samples(Path(row["directory"]), name)
    except ResultFileError:
        return []


def _measured(folder: Path) -> tuple[Results, list[Variant]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", _NOTHING_FOUND)
    results = find_results(folder)
    variants = [variant for variant in results.variants if variant.records]
    if not variants:
        found = _problems(results)
        detail = f" ({len(found)} files without one, the first: {found[0]})" if found else ""
        raise UsageError(f"{folder}: holds no measurement{detail}", _NOTHING_FOUND)
    return results, variants


def _tables(material: Material) -> dict[str, str]:
    """The tables, by the names of their files."""
    from slim_eval.analysis.pareto import frontiers
    from slim_eval.analysis.tables import results_table, typeset

    rows, tasks = material.rows, material.tasks
    return {
        "results_table.csv": results_table.to_csv(results_table.results_table(results_table.tidy_table(rows), tasks)),
        **typeset.documents(rows, tasks),
        "quantization_impact.csv": results_table.to_csv(results_table.impact_table(material.impact, tasks)),
        "paired_accuracy.csv": results_table.to_csv(results_table.paired_table(material.paired)),
        "summary_statistics.csv": results_table.to_csv(results_table.summary_statistics(rows, tasks)),
        "pareto.csv": results_table.to_csv(frontiers.pareto_table(material.frontiers)),
    }


def _notes(variants: Sequence[Variant], rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Each note that records carry, and the configurations it is about."""
    found: dict[str, dict[str, None]] = {}
    for variant, row in zip(variants, rows, strict=True):
        for record in variant.records:
            for note in record.notes:
                found.setdefault(note, {})[f"{row['name']} {row['precision']}"] = None
    return {note: tuple(labels) for note, labels in found.items()}


def _write_all(folder: Path, texts: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write files into a folder: paths of those that were, and a line for each that could not be."""
    written: list[Path] = []
    failed: list[str] = []
    for name, text in texts.items():
        try:
            write_text(folder / name, text)
        except OSError as error:
            failed.append(f"{folder / name}: not written ({error.strerror or error})")
        else:
            written.append(folder / name)
    return written, failed


def _draw(drawn: PlotData, config: AnalysisConfig, failed: list[str]) -> tuple[list[Path], list[str]]:
    """Figures written, and the names of those without data; a folder that cannot be written is added to `failed`."""
    from slim_eval.analysis.figures import plots

    folder = config.output_dir / "plots"
    try:
        return plots.write_plots(drawn, folder, plots.FIGURES if config.plots else ())
    except OSError as error:
        failed.append(f"{folder}: not written ({error.strerror or error})")
        return [], []


def _problems(results: Results) -> tuple[str, ...]:
    failed = (
        f"{variant.directory / name}.error.json: {name} of {variant.model} at {variant.precision} failed: {error.cause}"
        for variant in results.variants
        for name, error in variant.errors.items()
    )
    return (*results.problems, *failed)


def _tasks(config: AnalysisConfig, variants: Iterable[Variant]) -> tuple[tuple[str, ...], list[str]]:
    """Tasks to show, and a warning for each one that was asked for but never measured."""
    found = ordered_tasks(task for variant in variants for task in variant.accuracy)
    if "accuracy_tasks" not in config.model_fields_set:
        return found, []
    missing = [task for task in config.accuracy_tasks if task not in found]
    advice = [f"accuracy task {task!r}: no result has it; {did_you_mean(task, found)}".rstrip("; ") for task in missing]
    return tuple(task for task in config.accuracy_tasks if task in found), advice


def _warnings(found: Evidence, impact: Sequence[Row], paired: Sequence[Row]) -> list[str]:
    """What the results cannot support, and one line for each reason not to compare, with whom it concerns."""
    reasons: dict[str, list[str]] = {}
    for caveat in found.caveats:
        reasons.setdefault(caveat.text, []).extend(caveat.variants)
    for row in impact:
        for reason in (row["not_comparable"] or "").split("; "):
            if reason:
                reasons.setdefault(f"not compared: {reason}", []).append(f"{row['name']} {row['precision']}")
    for row in paired:
        if row["refused"] and not row["refused"].endswith("no outcomes of single items"):
            reasons.setdefault(f"not paired: {row['task']}: {row['refused']}", []).append(
                f"{row['name']} {row['precision']}"
            )
    return [f"{', '.join(dict.fromkeys(labels))}: {reason}" for reason, labels in reasons.items()]


def _complete_json(
    folder: Path, results: Results, found: Evidence, impact: Sequence[Row], optimal: Sequence[Frontier]
) -> str:
    """Everything that was read, the comparison over all tasks, and the frontiers."""
    content = {
        "schema_version": 1,
        "problems": [*_problems(results), *found.problems],
        "cells": [_variant_json(variant, name, folder) for variant, name in _named(results.variants)],
        "quantization_impact": list(impact),
        **found.to_json(),
        "pareto": [
            {"objectives": found.title, "hypervolumes": found.hypervolumes, "cells": list(found.rows)}
            for found in optimal
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _named(variants: Sequence[Variant]) -> list[tuple[Variant, str]]:
    measured = [variant for variant in variants if variant.records]
    return [(variant, row["name"]) for variant, row in zip(measured, rows_of(measured), strict=True)]


def _variant_json(variant: Variant, name: str, folder: Path) -> dict[str, Any]:
    def dump(record: Any) -> Any:
        return None if record is None else record.model_dump(mode="json")

    return {
        "name": name,
        "model": variant.model,
        "precision": variant.precision,
        "directory": variant.directory.relative_to(folder).as_posix(),
        "performance": dump(variant.performance),
        "energy": dump(variant.energy),
        "accuracy": {task: dump(record) for task, record in variant.accuracy.items()},
        "errors": {stage: dump(record) for stage, record in variant.errors.items()},
    }


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number."""
    return value.item()


__all__ = ["STANDARD_TASKS", "AnalysisReport", "analyze", "load_results"]
