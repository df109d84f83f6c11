"""`paired.json`: each quantized variant of a model against the model's 16-bit variant, as soon as both are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slim_eval.analysis.compare.items import judged, pair
from slim_eval.analysis.rules import BASELINE
from slim_eval.results.records import PairedRecord, PairedTask
from slim_eval.results.store import PAIRED, Variant, find_results, write_paired
from slim_eval.utils import environment, safe_json


def update_paired(model_directory: Path, margin_pp: float) -> list[PairedRecord]:
    """Write `paired.json` anew in every quantized variant of a model; nothing where its 16-bit variant is missing.

    All of them at once: their p-values are corrected for each other. A file that says the same already stays as it is.

    Args:
        model_directory: Folder with the variants of one model.
        margin_pp: Drop in percentage points that still counts as equivalent.

    Returns:
        What stands in the files now.
    """
    variants = find_results(model_directory).variants
    written = []
    for (base, variant), tasks in pair_all(variants, margin_pp):
        record = PairedRecord(
            model=variant.model,
            precision=variant.precision,
            baseline=Path(os.path.relpath(base.directory, variant.directory)).as_posix(),
            timestamp=environment.now(),
            margin_pp=margin_pp,
            tasks=tuple(tasks),
        )
        if not _stands(variant.directory, record):
            write_paired(variant.directory, record)
        written.append(record)
    return written


def _stands(directory: Path, record: PairedRecord) -> bool:
    """Whether a variant's `paired.json` says the same already, whenever it was written."""
    try:
        found = PairedRecord.model_validate(safe_json.read_json(directory / PAIRED))
    except (OSError, ValueError):
        return False
    return found.model_copy(update={"timestamp": record.timestamp}) == record


def pair_all(variants: Sequence[Variant], margin_pp: float) -> list[tuple[tuple[Variant, Variant], list[PairedTask]]]:
    """Every quantized variant with its baseline and their tasks, judged together; without a shared task it is left out.

    Args:
        variants: Variants of any models.
        margin_pp: Drop in percentage points that still counts as equivalent.
    """
    bases: dict[str, list[Variant]] = {}
    for variant in variants:
        if variant.precision == BASELINE:
            bases.setdefault(variant.model, []).append(variant)
    pairs = [
        (base, variant)
        for variant in variants
        if variant.precision != BASELINE and (base := baseline_variant(variant, bases.get(variant.model, ()))) is not None
        and set(base.accuracy) & set(variant.accuracy)
    ]  # fmt: skip
    verdicts = judged([pair(base, variant) for base, variant in pairs], margin_pp)
    return list(zip(pairs, verdicts, strict=True))


def baseline_variant(variant: Variant, variants: Sequence[Variant]) -> Variant | None:
    """The 16-bit variant of the same model; of the same folder where there are several. None where there is none."""
    found = [other for other in variants if other.model == variant.model and other.precision == BASELINE]
    return min(found, key=lambda other: other.directory.parent != variant.directory.parent, default=None)
