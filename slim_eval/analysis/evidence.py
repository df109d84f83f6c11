"""What single numbers cannot tell: items paired with the baseline's, noise floors, and what results cannot support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.caveats import Caveat, caveats
from slim_eval.analysis.compare.items import pair_all
from slim_eval.analysis.compare.noise_floor import of_model, within_noise
from slim_eval.analysis.rules import baseline_of
from slim_eval.errors import ResultFileError
from slim_eval.results.records import NoiseRecord, PairedTask
from slim_eval.results.rows import Row
from slim_eval.results.variants import Variant


@dataclass(frozen=True)
class Evidence:
    """What was found about a set of variants.

    Attributes:
        paired: Folder of a quantized variant -> its tasks against the baseline, judged together.
        noise: Folder of a variant -> the noise floor that holds for it.
        caveats: What the results cannot support.
        problems: Files that could not be read, one line each.
    """

    paired: Mapping[str, Sequence[PairedTask]]
    noise: Mapping[str, NoiseRecord]
    caveats: tuple[Caveat, ...] = ()
    problems: tuple[str, ...] = ()

    def within_noise(self, row: Row, rows: Sequence[Row]) -> frozenset[str]:
        """Columns in which a row differs from its baseline by no more than the noise floor."""
        return within_noise(row, baseline_of(row, rows), self.noise.get(row["directory"]))

    def paired_rows(self, rows: Sequence[Row]) -> list[Row]:
        """One flat row for each task of each quantized configuration, in the order of `rows`."""
        made = []
        for row in rows:
            for task in self.paired.get(row["directory"], ()):
                head = {key: row[key] for key in ("name", "model", "precision")}
                low, high = task.interval_pp or (None, None)
                numbers = task.model_dump(exclude={"interval_pp"})
                made.append(
                    head | numbers | {"drop_pp_ci95_low": low, "drop_pp_ci95_high": high, "directory": row["directory"]}
                )
        return made

    def to_json(self) -> dict[str, Any]:
        """For `complete_results.json`."""
        return {
            "paired": {
                folder: [task.model_dump(mode="json") for task in tasks] for folder, tasks in self.paired.items()
            },
            "noise": {folder: record.model_dump(mode="json") for folder, record in self.noise.items()},
            "caveats": [{"kind": c.kind, "text": c.text, "cells": list(c.variants)} for c in self.caveats],
        }


def gather(variants: Sequence[Variant], rows: Sequence[Row], margin_pp: float) -> Evidence:
    """Everything that the variants' samples, their noise floors and their numbers tell.

    Args:
        variants: Variants with measurements.
        rows: Their rows, in the same order.
        margin_pp: Drop in percentage points that still counts as equivalent.
    """
    floors: dict[str, NoiseRecord] = {}
    problems: dict[str, None] = {}
    for variant in variants:
        try:
            found = of_model(variant)
        except ResultFileError as error:
            problems[error.cause] = None
        else:
            floors.update({str(variant.directory): found} if found is not None else {})
    paired = {str(variant.directory): tasks for (_, variant), tasks in pair_all(variants, margin_pp)}
    return Evidence(paired, floors, tuple(caveats(rows)), tuple(problems))
