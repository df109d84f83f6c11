"""Resume: which stages of a run are done already, from the records on disk.

A stage is done if its record is complete, valid, and made with the same settings. One made with other settings is never
replaced silently: the run stops before anything is started, and names what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slim_eval import power, results
from slim_eval.config import AUTO_ENGINE
from slim_eval.errors import NewerResultError, ResultFileError, UsageError
from slim_eval.execution import fingerprints
from slim_eval.execution.plan import PlannedVariant
from slim_eval.results.records import ErrorRecord, Record
from slim_eval.schemes import is_quantized

_NAMED = 3
_UNKNOWN = "its settings were not recorded"
_KEEP = "another --output-dir keeps both"


@dataclass(frozen=True)
class StageStatus:
    """What is on disk for a stage.

    Attributes:
        reuse: Whether it is done.
        again: Why it is measured again although there is a file; empty if there is none.
        differs: Settings in which a sound record differs; it is replaced only with `--force`.
        requantize: Whether its checkpoint was quantized in another way, too.
    """

    reuse: bool = False
    again: str = ""
    differs: tuple[str, ...] = ()
    requantize: bool = False


def survey(variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu], *, force: bool) -> list[PlannedVariant]:
    """The variants, each with its stages that are done already.

    Args:
        variants: As planned.
        gpus: The GPUs that compute.
        force: Measure everything again.

    Raises:
        UsageError: Earlier results were made with other settings, and `force` is off.
        NewerResultError: A record was written by a newer version, and `force` is off.
    """
    if force:
        return list(variants)
    found = [
        {stage: _look(variant, stage, asked) for stage, asked in variant.settings(gpus).items()} for variant in variants
    ]
    _refuse_other_settings(variants, found)
    return [
        replace(
            variant,
            reused=frozenset(stage for stage, finding in findings.items() if finding.reuse),
            again={stage: finding.again for stage, finding in findings.items() if finding.again},
        )
        for variant, findings in zip(variants, found, strict=True)
    ]


def refuse_other_engines(variants: Sequence[PlannedVariant], chosen: Mapping[str, str]) -> None:
    """Refuse to continue a variant on another engine than the one it was begun on; `--engine auto` may have changed.

    Raises:
        UsageError: Naming both.
    """
    for variant in variants:
        now = chosen.get(variant.precision)
        for stage in sorted(variant.reused) if variant.todo and now is not None else ():
            then = _record(variant, stage).engine
            if then != now:
                raise UsageError(
                    f"{variant.directory}: {stage} was measured on {then}, but --engine auto now chooses {now}",
                    f"--engine {then} continues it, --force measures it again; {_KEEP}",
                )


def _look(variant: PlannedVariant, stage: str, asked: Mapping[str, Any]) -> StageStatus:
    if not results.record_path(variant.directory, stage).exists():
        return StageStatus(again="it failed before" if results.has_error(variant.directory, stage) else "")
    try:
        record = _record(variant, stage)
    except NewerResultError:
        raise
    except ResultFileError:
        return StageStatus(again="its record is damaged")
    flaw = _flaw(variant, stage, record)
    if flaw:
        return StageStatus(again=flaw)
    then = record.measured_with
    if then is None or record.fingerprint != fingerprints.fingerprint(then):
        return StageStatus(differs=(_UNKNOWN,))
    choice = variant.config.engine.engine
    now = fingerprints.served_by(asked, record.engine if choice == AUTO_ENGINE else choice)
    differs = fingerprints.differences(then, now)
    if is_quantized(variant.precision) and variant.config.quantization.requantize:
        differs.append("checkpoint: recorded with the cached one, --requantize requests a new one")
    return StageStatus(
        reuse=not differs, differs=tuple(differs), requantize=fingerprints.quantization_differs(then, now)
    )


def _record(variant: PlannedVariant, stage: str) -> Record:
    path = results.record_path(variant.directory, stage)
    record = results.read_record(path)
    if isinstance(record, ErrorRecord):
        raise ResultFileError(f"{path}: contains an error", "measure the variant again")
    return record


def _flaw(variant: PlannedVariant, stage: str, record: Record) -> str:
    """Why a record is not a complete result; empty if it is one."""
    benchmark = variant.benchmarks[stage]
    if not isinstance(record, benchmark.record):
        return "its record is from another benchmark"
    flaw = benchmark.flaw(record, variant.config)
    # Samples are only expected of records that this version wrote: those of other tools have none.
    expected = benchmark.keeps_samples and record.measured_with is not None
    if not flaw and expected and not results.has_samples(variant.directory, stage):
        return "its samples are missing"
    return flaw


def _refuse_other_settings(variants: Sequence[PlannedVariant], found: Sequence[Mapping[str, StageStatus]]) -> None:
    """Raise one error for all records that differ: each difference once, and the paths of the first ones."""
    differing = [
        (results.record_path(variant.directory, stage), finding)
        for variant, findings in zip(variants, found, strict=True)
        for stage, finding in findings.items()
        if finding.differs
    ]
    if not differing:
        return
    texts = dict.fromkeys(text for _, finding in differing for text in finding.differs)
    names = ", ".join(str(path) for path, _ in differing[:_NAMED])
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    force = "--force --requantize" if any(finding.requantize for _, finding in differing) else "--force"
    raise UsageError(
        f"earlier results were made with other settings ({'; '.join(texts)}): {names}{more}",
        f"{force} measures again and replaces them; {_KEEP}",
    )
