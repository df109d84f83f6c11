"""`slim-eval compare A B`: two variants, or two folders of them, matched and compared, and the conditions decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slim_eval.analysis.caveats import Caveat, find_caveats
from slim_eval.analysis.compare.comparison import MetricVerdict, VariantComparison, compare_all
from slim_eval.analysis.compare.gate import ConditionOutcome, Decision, decide, parse
from slim_eval.analysis.compare.items import LOG_SAMPLES, NO_ITEM_OUTCOMES
from slim_eval.analysis.crossover import crossovers_of
from slim_eval.analysis.loads import has_levels, load_of, pairs_at, speed_alone
from slim_eval.errors import GateFailedError, GateUndecidedError, UsageError
from slim_eval.results.archive import unpacked
from slim_eval.results.store import find_results, require_folder
from slim_eval.results.variants import Variant, labelled, metric_of, tasks_of
from slim_eval.utils import short_name

if TYPE_CHECKING:
    from slim_eval.analysis.verdict import Verdict
    from slim_eval.config import CompareConfig


@dataclass(frozen=True)
class ComparisonReport:
    """What a comparison found."""

    pairs: tuple[VariantComparison, ...]  # in the order of the second folder
    outcomes: tuple[ConditionOutcome, ...]  # one per condition and pair
    caveats: tuple[Caveat, ...]
    notes: tuple[str, ...]  # variants without a partner, and files that could not be read

    @cached_property
    def verdict(self) -> Verdict:
        """Which variant of a pair to deploy, and one verdict per pair."""
        from slim_eval.analysis.verdict import verdict_of_comparison

        return verdict_of_comparison(self)

    def _repr_html_(self) -> str:
        """The verdict and its table, in a notebook."""
        from slim_eval.analysis.notebook import html_of

        return html_of(self.verdict)

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
    if len(a_variants) == len(b_variants) == 1:
        matched = [(a_variants[0], b_variants[0])]
    else:
        partners = [(_partner(variant, a_variants, b_variants), variant) for variant in b_variants]
        matched = [(partner, variant) for partner, variant in partners if partner is not None]
    if not matched:
        a_names, b_names = (", ".join(sorted(set(map(_name, variants)))) for variants in (a_variants, b_variants))
        raise UsageError(
            f"no variant in {config.a} has the same model and precision as one in {config.b}",
            f"give two variants: {a_names} against {b_names}",
        )
    compared = {variant.directory: variant for pair in matched for variant in pair}
    alone = [variant for variant in (*a_variants, *b_variants) if variant.directory not in compared]
    tasks = tasks_of(compared.values())
    conditions = parse(config.fail_if, tasks, {task: metric_of(task, compared.values()) for task in tasks})
    loaded: list[tuple[Variant, Variant]] = []
    further: list[bool] = []
    for a, b in matched:
        first, *others = pairs_at(a, b, config.load)
        loaded += [first, *((speed_alone(here), speed_alone(there)) for here, there in others)]
        further += [False] + [True] * len(others)
    pairs = [
        replace(
            pair,
            is_further_load=is_further,
            load=load_of(pair.b) if has_levels((pair.a, pair.b)) else None,
            crossovers=() if is_further else tuple(crossovers_of(pair.a, pair.b)),
        )
        for pair, is_further in zip(compare_all(loaded, config.margin_pp), further, strict=True)
    ]
    paired, metrics = [task for pair in pairs for task in pair.tasks], [made for pair in pairs for made in pair.metrics]
    if all(made.verdict is MetricVerdict.NOT_COMPARABLE for made in metrics) and all(task.refused for task in paired):
        why = [f"{task.task}: {task.refused}" for task in paired] + [made.reason for made in metrics if made.reason]
        cause = f"nothing can be compared: {'; '.join(dict.fromkeys(why))}"
        is_unknown = all((task.refused or "").endswith(NO_ITEM_OUTCOMES) for task in paired) and not metrics
        raise UsageError(cause, LOG_SAMPLES if is_unknown else "measure both with the same settings")
    outcomes = [
        replace(decide(condition, pair), where=f" ({pair.names[1]})" if len(pairs) > 1 else "")
        for condition in conditions
        for pair in pairs
        if not pair.is_further_load or condition.is_of_speed
    ]
    lines = [f"{v.directory}: no variant of the same model and precision in the other folder" for v in alone]
    caveats = find_caveats(labelled(list(compared.values())))
    return ComparisonReport(tuple(pairs), tuple(outcomes), tuple(caveats), (*a_notes, *b_notes, *lines))


def _variants(folder: Path) -> tuple[list[Variant], tuple[str, ...]]:
    """The variants with measurements, and the problems of files that could not be read."""
    folder = unpacked(folder)
    require_folder(folder, "give a variant's folder, or a folder of results")
    found = find_results(folder)
    variants = [variant for variant in found.variants if variant.records]
    if not variants:
        raise UsageError(f"{folder}: contains no measurements", "give a variant's folder, or a folder of results")
    return variants, found.problems


def _partner(variant: Variant, a_variants: Sequence[Variant], b_variants: Sequence[Variant]) -> Variant | None:
    """The variant of the same model and precision; by the model's short name if that is unique."""
    for key in (lambda other: f"{other.model} {other.precision}", _name):
        found = [other for other in a_variants if key(other) == key(variant)]
        rivals = [other for other in b_variants if key(other) == key(variant)]
        if len(found) > 1 or (found and len(rivals) > 1):
            several = ", ".join(str(other.directory) for other in (found if len(found) > 1 else rivals))
            raise UsageError(f"several variants are {_name(variant)}: {several}", "compare two of these folders")
        if found:
            return found[0]
    return None


def _name(variant: Variant) -> str:
    return f"{short_name(variant.model)} {variant.precision}"
