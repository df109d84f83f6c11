"""From result files to tables, findings and figures. Light to import: pandas and matplotlib load on first use."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING

from slim_eval.analysis.loads import served_of, shown_at
from slim_eval.errors import UsageError
from slim_eval.results.archive import unpacked
from slim_eval.results.store import Results, find_results, require_folder, require_writable
from slim_eval.results.variants import Variant, labelled, tasks_of
from slim_eval.utils import did_you_mean, write_text

if TYPE_CHECKING:
    import pandas as pd

    from slim_eval.analysis.pareto.frontier import Frontier
    from slim_eval.analysis.study import Study
    from slim_eval.analysis.verdict import Verdict
    from slim_eval.config import AnalysisConfig

_NOTHING_FOUND = "run `slim-eval run` first, or give the folder that contains its results with --input-dir"


@dataclass(frozen=True)
class AnalysisReport:
    """The findings and files of an analysis."""

    study: Study  # the variants with at least one measurement, and what is known about them
    paths: tuple[Path, ...]  # files written
    problems: tuple[str, ...]  # files that could not be read and benchmarks that failed, one line each
    warnings: tuple[str, ...]  # what readers of the tables must know, one line each
    findings: tuple[str, ...] = ()  # the sentences of `findings.md`, in order
    verdict: Verdict | None = None  # what to deploy, and one verdict per variant
    caveats: tuple[str, ...] = ()  # reasons to doubt the results, each kind once
    folder: Path = Path()  # that contains the files

    def _repr_html_(self) -> str:
        """The verdict and its table, in a notebook."""
        from slim_eval.analysis.notebook import html_of

        return "" if self.verdict is None else html_of(self.verdict)

    @property
    def num_variants(self) -> int:
        """Variants with at least one measurement."""
        return len(self.study.variants)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Accuracy tasks shown."""
        return self.study.tasks


def analyze(config: AnalysisConfig) -> AnalysisReport:
    """Read all results below a folder and write tables, findings and figures.

    A file that cannot be written becomes a problem, and the others are still written.

    Raises:
        UsageError: The input folder is missing or has no measurements, the output folder cannot be written, or no
            result has one of the objectives; nothing is written then.
    """
    require_writable(config.output_dir, "--output-dir")
    results, variants = _measured(config.input_dir)
    # Imported after all that may be refused: with matplotlib it takes seconds.
    from slim_eval.analysis import findings
    from slim_eval.analysis.pareto.frontier import find_frontiers
    from slim_eval.analysis.report.page import report_html
    from slim_eval.analysis.study import Study
    from slim_eval.analysis.tables import csv_tables, typeset
    from slim_eval.analysis.tables.serving_tables import serving_levels
    from slim_eval.analysis.verdict import verdict_of

    tasks = tasks_of(variants)
    advice: list[str] = []
    if "accuracy_tasks" in config.model_fields_set:
        for task in (task for task in config.accuracy_tasks if task not in tasks):
            advice.append(f"accuracy task {task!r}: no result contains it; {did_you_mean(task, tasks)}".rstrip("; "))
        tasks = tuple(task for task in config.accuracy_tasks if task in tasks)
    # Speeds of different loads do not stand in one table: it shows one of them, and `serving_levels.csv` all.
    every = labelled(variants)
    shown = shown_at(every, config.load)
    advice += shown.advice
    study = replace(Study.read(shown.variants, tasks, config.margin_pp), served=served_of(every))
    frontiers = find_frontiers(study, config.objectives)
    problems = [*_problems(results), *study.problems]
    sections = findings.find(study, frontiers, problems)
    verdict = verdict_of(study)
    title = config.input_dir.resolve().name.removesuffix(".tar.gz")
    texts = {
        "complete_results.json": _complete_json(unpacked(config.input_dir), problems, study, frontiers, verdict),
        "executive_summary.txt": findings.executive_summary(verdict, study, problems),
        "findings.md": findings.findings_markdown(verdict, sections),
        "results_table.csv": csv_tables.to_csv(csv_tables.results_table(study)),
        **typeset.documents(study),
        "quantization_impact.csv": csv_tables.to_csv(csv_tables.quantization_impact(study)),
        "paired_accuracy.csv": csv_tables.to_csv(csv_tables.paired_accuracy(study)),
        "summary_statistics.csv": csv_tables.to_csv(csv_tables.summary_statistics(study)),
        **({"serving_levels.csv": csv_tables.to_csv(serving_levels(study.served))} if study.served else {}),
        "pareto.csv": csv_tables.to_csv(csv_tables.pareto_table(frontiers)),
        "report.html": report_html(study, frontiers, sections, problems, title, verdict),
    }
    paths: list[Path] = []
    for name, text in texts.items():
        path = config.output_dir / name
        try:
            write_text(path, text)
        except OSError as error:
            problems.append(f"{path}: not written ({error.strerror or error})")
        else:
            paths.append(path)
    folder = config.output_dir / "plots"
    if config.plots or folder.is_dir():  # figures of an earlier analysis are removed
        from slim_eval.analysis.figures.drawing import write_figures

        try:
            figures, empty = write_figures(study, folder, None if config.plots else [])
        except OSError as error:
            problems.append(f"{folder}: not written ({error.strerror or error})")
        else:
            paths += figures
            advice += [f"not drawn, because nothing was measured: {', '.join(empty)}"] if empty else []
    return AnalysisReport(
        study=study,
        paths=tuple(paths),
        problems=tuple(problems),
        warnings=(*advice, *findings.setting_findings(study), *_warnings(study)),
        findings=tuple(sentence for section in sections for sentence in section.sentences),
        verdict=verdict,
        caveats=(*advice, *findings.setting_findings(study), *caveat_lines(study)),
        folder=config.output_dir,
    )


def load_results(path: str | Path) -> pd.DataFrame:
    """All results below a folder as one tidy table, one row per variant.

    Args:
        path: Folder with results, at any depth.

    Returns:
        Columns: ``model``, ``name``, ``precision``, ``engine`` and the rest of the metadata; every metric of
        performance and energy under its own name and unit (energy's keys that performance has too begin with
        ``energy_``); ``tokens_per_request``; and for each task ``{task}`` (accuracy, 0 to 1), ``{task}_metric``,
        ``{task}_stderr``, ``{task}_num_items`` and so on. Of a server under several loads, the speed is of the one
        that most variants have, which ``load`` names. Values that were not measured are NaN or None. A file
        that cannot be read is left out, with a Python warning.

    Raises:
        UsageError: The folder is missing, or has no measurement.
    """
    from slim_eval.analysis.study import Study
    from slim_eval.analysis.tables.csv_tables import tidy_table
    from slim_eval.analysis.verdict import verdict_of

    results, variants = _measured(Path(path))
    for problem in results.problems:
        warnings.warn(problem, stacklevel=2)
    shown = shown_at(labelled(variants)).variants
    frame = tidy_table(shown)
    frame.attrs["verdict"] = verdict_of(Study.read(shown)).answer
    return frame


def _measured(path: Path) -> tuple[Results, list[Variant]]:
    folder = unpacked(path)
    require_folder(folder, _NOTHING_FOUND)
    results = find_results(folder)
    variants = [variant for variant in results.variants if variant.records]
    if not variants:
        found = _problems(results)
        detail = f" ({len(found)} files without one, the first: {found[0]})" if found else ""
        raise UsageError(f"{folder}: contains no measurements{detail}", _NOTHING_FOUND)
    return results, variants


def _problems(results: Results) -> tuple[str, ...]:
    failed = (
        f"{variant.directory / name}.error.json: {name} of {variant.model} at {variant.precision} failed: {error.cause}"
        for variant in results.variants
        for name, error in variant.errors.items()
    )
    return (*results.problems, *failed)


def _warnings(study: Study) -> list[str]:
    """What the results cannot support, and one line for each reason not to compare, with whom it concerns."""
    from slim_eval.analysis.compare.items import NO_ITEM_OUTCOMES

    reasons: dict[str, list[str]] = {}
    for caveat in study.caveats:
        reasons.setdefault(caveat.text, []).extend(caveat.variants)
    for impact in study.impacts:
        for reason in impact.reasons:
            reasons.setdefault(f"not compared: {reason}", []).append(impact.variant.label)
    for variant in study.variants:
        for pair in study.paired.get(variant.directory, ()):
            if pair.refused and pair.task in study.tasks and not pair.refused.endswith(NO_ITEM_OUTCOMES):
                reasons.setdefault(f"not paired: {pair.task}: {pair.refused}", []).append(variant.label)
    return [f"{', '.join(dict.fromkeys(labels))}: {reason}" for reason, labels in reasons.items()]


def caveat_lines(study: Study) -> list[str]:
    """The reasons to doubt the results and to leave out comparisons: each kind in one line, with whom it concerns."""
    from slim_eval.analysis.caveats import NOT_COMPARED, NOT_PAIRED, Caveat, lines_of
    from slim_eval.analysis.compare.items import NO_ITEM_OUTCOMES

    found = list(study.caveats)
    for impact in study.impacts:
        found += [Caveat(NOT_COMPARED, reason, (impact.variant.label,)) for reason in impact.reasons]
    for variant in study.variants:
        for pair in study.paired.get(variant.directory, ()):
            if pair.refused and pair.task in study.tasks and not pair.refused.endswith(NO_ITEM_OUTCOMES):
                found.append(Caveat(NOT_PAIRED, f"{pair.task}: {pair.refused}", (variant.label,)))
    return lines_of(found, len(study.variants))


def _complete_json(
    folder: Path, problems: Sequence[str], study: Study, frontiers: Sequence[Frontier], verdict: Verdict
) -> str:
    """Everything that was read, the verdict, the comparison over all tasks, and the frontiers."""
    from slim_eval.analysis.tables.csv_tables import impact_rows

    variants = []
    for variant in study.variants:
        records = {name: record.model_dump(mode="json") for name, record in variant.measured.items()}
        accuracy = {task: record.model_dump(mode="json") for task, record in variant.accuracy.items()}
        known = {"performance", "energy", *accuracy}
        variants.append({
            "name": variant.name,
            "model": variant.model,
            "precision": variant.precision,
            "directory": variant.directory.relative_to(folder).as_posix(),
            "performance": variant.performance and variant.performance.model_dump(mode="json"),
            "energy": variant.energy and variant.energy.model_dump(mode="json"),
            "accuracy": accuracy,
            **{name: record for name, record in records.items() if name not in known},
            **({"load": variant.level.label} if variant.level is not None else {}),
            "errors": {stage: record.model_dump(mode="json") for stage, record in variant.errors.items()},
        })  # fmt: skip
    content = {
        "schema_version": 1,
        "verdict": verdict.to_json(),
        "problems": problems,
        "cells": variants,
        "quantization_impact": impact_rows(replace(study, tasks=tasks_of(study.variants))),
        "paired": {
            str(directory): [pair.model_dump(mode="json") for pair in pairs]
            for directory, pairs in study.paired.items()
        },
        "noise": {str(directory): record.model_dump(mode="json") for directory, record in study.noise.items()},
        "caveats": [
            {"kind": caveat.kind.name, "text": caveat.text, "cells": list(caveat.variants)} for caveat in study.caveats
        ],
        "pareto": [
            {"objectives": found.title, "hypervolumes": found.hypervolumes, "cells": found.rows} for found in frontiers
        ],
    }
    # The default turns a NumPy scalar into a Python number.
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=methodcaller("item")) + "\n"
