"""Resume: which stages of a run are done already, from the records on disk.

A stage is done if its record is complete, valid, and made with the same settings. One made with other settings is never
replaced silently: the run stops before anything is started, and names what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from slim_eval import power, results
from slim_eval.config import AUTO_ENGINE
from slim_eval.errors import NewerResultError, ResultFileError, UsageError
from slim_eval.execution import fingerprints
from slim_eval.execution.plan import PlannedVariant
from slim_eval.quantization import cache
from slim_eval.results.records import ErrorRecord, Record
from slim_eval.schemes import is_quantized

_NAMED = 3
_KEEP = "another --output-dir keeps both"


def survey(
    variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu] | None, *, force: bool
) -> list[PlannedVariant]:
    """The variants, each with its stages that are done already; with `force` none is.

    Raises `UsageError` for earlier results with other settings, `NewerResultError` for a record of a newer version.
    """
    if force:
        return list(variants)
    found: list[PlannedVariant] = []
    differing: dict[Path, list[str]] = {}
    options = "--force"
    for variant in variants:
        reused: set[str] = set()
        again: dict[str, str] = {}
        choice = variant.config.engine.engine
        for stage, asked in variant.settings(gpus).items():
            record, flaw = _read(variant, stage)
            if flaw:
                again[stage] = flaw
            if record is None:
                continue
            then = record.measured_with
            if then is None or record.fingerprint != fingerprints.fingerprint(then):
                differences = ["its settings were not recorded"]
            else:
                now = fingerprints.served_by(asked, record.engine if choice == AUTO_ENGINE else choice)
                then = fingerprints.of_record(record, now)
                differences = fingerprints.differences(then, now)
                if any(then.get(key) != now.get(key) for key in cache.SETTINGS):  # other calibration
                    options = "--force --requantize"
                if is_quantized(variant.precision) and variant.config.quantization.requantize:
                    differences.append("checkpoint: recorded with the cached one, --requantize requests a new one")
            if differences:
                differing[results.record_path(variant.directory, stage)] = differences
            else:
                reused.add(stage)
        found.append(replace(variant, reused=frozenset(reused), again=again))
    if differing:  # one error for all: each difference once, and the paths of the first records
        texts = dict.fromkeys(text for differences in differing.values() for text in differences)
        names = ", ".join(map(str, [*differing][:_NAMED]))
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        cause = f"earlier results were made with other settings ({'; '.join(texts)}): {names}{more}"
        raise UsageError(cause, f"{options} measures again and replaces them; {_KEEP}")
    return found


def _read(variant: PlannedVariant, stage: str) -> tuple[Record | None, str]:
    """The record of a stage if it is a complete result; else None, and why it is measured again (empty: it is new)."""
    path = results.record_path(variant.directory, stage)
    if not path.exists():
        return None, "it failed before" if results.has_error(variant.directory, stage) else ""
    try:
        record = results.read_record(path)
    except NewerResultError:
        raise
    except ResultFileError:
        return None, "its record is damaged"
    if isinstance(record, ErrorRecord):
        return None, "its record is damaged"
    benchmark = variant.benchmarks[stage]
    if not isinstance(record, benchmark.record):
        return None, "its record is from another benchmark"
    flaw = benchmark.flaw(record, variant.config)
    # Samples are only expected of records that this version wrote: those of other tools have none.
    expected = benchmark.keeps_samples and record.measured_with is not None
    if not flaw and expected and not results.has_samples(variant.directory, stage):
        flaw = "its samples are missing"
    return None if flaw else record, flaw


def refuse_other_engines(variants: Sequence[PlannedVariant], chosen: Mapping[str, str]) -> None:
    """Refuse to continue a variant on another engine than the one it was begun on; `--engine auto` may have changed."""
    for variant in variants:
        now = chosen.get(variant.precision)
        for stage in sorted(variant.reused) if variant.todo and now is not None else ():
            path = results.record_path(variant.directory, stage)
            record = results.read_record(path)
            if isinstance(record, ErrorRecord):  # written since the survey
                raise ResultFileError(f"{path}: contains an error", "measure the variant again")
            if (then := record.engine) != now:
                cause = f"{variant.directory}: {stage} was measured on {then}, but --engine auto now chooses {now}"
                raise UsageError(cause, f"--engine {then} continues it, --force measures it again; {_KEEP}")
