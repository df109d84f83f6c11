"""`slim-eval compare A B`: two variants, or two folders of them, matched and compared, and the conditions decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slim_eval.analysis.caveats import Caveat, find_caveats
from slim_eval.analysis.compare.comparison import VariantComparison, Verdict, compare_all
from slim_eval.analysis.compare.gate import Condition, ConditionOutcome, Decision, decide, parse
from slim_eval.errors import GateFailedError, GateUndecidedError, UsageError
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant, labelled, tasks_of
from slim_eval.utils import short_name

if TYPE_CHECKING:
    from slim_eval.config import CompareConfig


@dataclass(frozen=True)
class ComparisonReport:
    """What a comparison found.

    Attributes:
        pairs: The pairs of variants, in the order of the second folder.
        outcomes: One a condition and pair.
        caveats: What the results cannot support.
        notes: Variants without a partner, and files that could not be read.
    """

    pairs: tuple[VariantComparison, ...]
    outcomes: tuple[ConditionOutcome, ...]
    caveats: tuple[Caveat, ...]
    notes: tuple[str, ...]

    def raise_for_conditions(self) -> None:
        """Raise if a condition is met or inconclusive.

        Raises:
            GateFailedError: The whole interval meets a condition.
            GateUndecidedError: No condition is met, and one is inconclusive.
        """
        for decision, error in ((Decision.HOLDS, GateFailedError), (Decision.UNDECIDED, GateUndecidedError)):
            found = [outcome for outcome in self.outcomes if outcome.decision is decision]
            if found:
                raise error("; ".join(f"{o.condition.text} {decision.value}{o.where}: {o.reason}" for o in found))


def compare_folders(config: CompareConfig) -> ComparisonReport:
    """Compare two variants, or the variants of two folders that are of the same model and precision.

    A folder with a single variant is compared with the other folder's single variant, whatever their precisions.

    Raises:
        UsageError: A folder is missing or has no measurements, no variants match, nothing in them can be compared, or a
            condition is malformed.
        ResultFileError: A file of samples is damaged.
    """
    (a_variants, a_notes), (b_variants, b_notes) = (_variants(folder) for folder in (config.a, config.b))
    matched, unmatched = _match(a_variants, b_variants)
    if not matched:
        names = (", ".join(sorted({_name(variant) for variant in variants})) for variants in (a_variants, b_variants))
        raise UsageError(
            f"no variant of {config.a} is of the same model and precision as one of {config.b}",
            "give two variants: {} against {}".format(*names),
        )
    tasks = tasks_of(variant for pair in matched for variant in pair)
    conditions = parse(config.fail_if, tasks)
    pairs = compare_all(matched, config.margin_pp)
    _require_something(pairs)
    return ComparisonReport(
        pairs=tuple(pairs),
        outcomes=tuple(_decided(conditions, pairs)),
        caveats=tuple(find_caveats(labelled(_unique([variant for pair in matched for variant in pair])))),
        notes=(*a_notes, *b_notes, *unmatched),
    )


def _unique(variants: Sequence[Variant]) -> list[Variant]:
    return list({variant.directory: variant for variant in variants}.values())


def _variants(folder: Path) -> tuple[list[Variant], tuple[str, ...]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "give a variant's folder, or a folder of results")
    found = find_results(folder)
    variants = [variant for variant in found.variants if variant.records]
    if not variants:
        raise UsageError(f"{folder}: contains no measurements", "give a variant's folder, or a folder of results")
    return variants, found.problems


def _name(variant: Variant) -> str:
    return f"{short_name(variant.model)} {variant.precision}"


def _match(
    a_variants: Sequence[Variant], b_variants: Sequence[Variant]
) -> tuple[list[tuple[Variant, Variant]], list[str]]:
    """Pairs of variants, and a line for each variant that has no partner."""
    if len(a_variants) == len(b_variants) == 1:
        return [(a_variants[0], b_variants[0])], []
    pairs = [
        (partner, variant)
        for variant in b_variants
        if (partner := _partner(variant, a_variants, b_variants)) is not None
    ]
    partners = {variant.directory for pair in pairs for variant in pair}
    alone = [variant for variant in (*a_variants, *b_variants) if variant.directory not in partners]
    return pairs, [
        f"{variant.directory}: no variant of the same model and precision in the other folder" for variant in alone
    ]


def _partner(variant: Variant, a_variants: Sequence[Variant], b_variants: Sequence[Variant]) -> Variant | None:
    """The variant of the same model and precision; by the model's short name if that is unique."""
    for key in (_key, _name):
        found = [other for other in a_variants if key(other) == key(variant)]
        rivals = [other for other in b_variants if key(other) == key(variant)]
        if len(found) > 1 or (found and len(rivals) > 1):
            several = ", ".join(str(other.directory) for other in (found if len(found) > 1 else rivals))
            raise UsageError(f"several variants are {_name(variant)}: {several}", "compare two of these folders")
        if found:
            return found[0]
    return None


def _key(variant: Variant) -> str:
    return f"{variant.model} {variant.precision}"


def _require_something(pairs: Sequence[VariantComparison]) -> None:
    """Raise if nothing can be compared, with the reasons."""
    silent = {Verdict.NOT_COMPARABLE, Verdict.NOT_MEASURED}
    usable = any(made.verdict not in silent for pair in pairs for made in pair.metrics) or any(
        task.paired.refused is None for pair in pairs for task in pair.tasks
    )
    if usable:
        return
    why = [f"{task.paired.task}: {task.paired.refused}" for pair in pairs for task in pair.tasks]
    why += [made.reason for pair in pairs for made in pair.metrics if made.reason]
    raise UsageError(f"nothing can be compared: {'; '.join(dict.fromkeys(why))}", "measure both with the same settings")


def _decided(conditions: Sequence[Condition], pairs: Sequence[VariantComparison]) -> list[ConditionOutcome]:
    return [
        replace(decide(condition, pair), where=f" ({pair.names[1]})" if len(pairs) > 1 else "")
        for condition in conditions
        for pair in pairs
    ]
