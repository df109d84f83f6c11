"""Where and how the numbers of the report were measured, and the reasons to doubt them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.caveats import (
    EMULATED,
    INCONCLUSIVE,
    INVALID,
    MARKS,
    NOISE,
    NOT_COMPARED,
    NOT_PAIRED,
    NOT_RECORDED,
    SETTING,
    UNREADABLE,
    Caveat,
    Kind,
)
from slim_eval.analysis.comparability import ENERGIES, SPEEDS, Groups, comparable_groups
from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.analysis.report.report_tables import (
    Field,
    ReportTable,
    counted,
    figure,
    measured,
    shown_metrics,
    signed,
    words,
)
from slim_eval.analysis.study import Study
from slim_eval.metrics import DISK, METRICS, Basis, Metric
from slim_eval.results.records import Metadata, NoiseRecord
from slim_eval.results.variants import Variant

# Facts of a record that belong to the setting; what belongs to the model is in the table of variants.
_HEAD = {"engine": "engine", "engine_version": "engine version", "engine_reason": "why this engine"}
_SEPARATE = {"revision"}  # of the config: it names the model's commit, not the setting
_TONES = ("bad", "warn", "note")


@dataclass(frozen=True)
class KindSettings:
    """The settings of one kind of measurement: speed, energy, a task, or a plugin's benchmark.

    Attributes:
        kind: Its name.
        groups: The variants by setting.
        counts: Number of variants per setting.
        recorded: Whether any record names its setting.
    """

    kind: str
    groups: Groups
    counts: tuple[int, ...]
    recorded: bool


def settings_of(study: Study) -> list[KindSettings]:
    """The settings of everything that was measured."""
    kinds: dict[str, Sequence[Metric]] = {"speed": SPEEDS, "energy": ENERGIES}
    kinds |= {metric.key: (metric,) for metric in study.task_metrics}
    for metric in METRICS.values():
        if metric.basis is Basis.OWN and metric.benchmark is not None:
            kinds[metric.benchmark] = (*kinds.get(metric.benchmark, ()), metric)
    made = []
    for kind, metrics in kinds.items():
        having = [v for v in study.variants if any(v.number(metric) is not None for metric in metrics)]
        if having:
            groups = comparable_groups(having, metrics)
            counts = tuple(len(members) for members in groups.members(having).values())
            made.append(KindSettings(kind, groups, counts, any(groups.settings)))
    return made


def report_caveats(study: Study, settings: Sequence[KindSettings], problems: Sequence[str]) -> list[Caveat]:
    """Everything that the results cannot support, the gravest first; each reason once, with all whom it concerns."""
    found: dict[tuple[Kind, str], dict[str, None]] = {}
    for kind, text, labels in (*_of_study(study, settings, problems), *_of_numbers(study), *_of_pairs(study)):
        found.setdefault((kind, text), {}).update(dict.fromkeys(labels))
    made = [Caveat(kind, text, tuple(labels)) for (kind, text), labels in found.items()]
    return sorted(made, key=lambda caveat: (_TONES.index(caveat.kind.tone), caveat.kind.word))


def _of_study(
    study: Study, settings: Sequence[KindSettings], problems: Sequence[str]
) -> Iterable[tuple[Kind, str, tuple[str, ...]]]:
    for problem in problems:
        yield UNREADABLE, problem, ()
    for caveat in study.caveats:
        yield caveat.kind, caveat.text, caveat.variants
    for entry in settings:
        if len(entry.groups.names) > 1:
            apart = "; ".join(entry.groups.differences)
            text = f"{entry.kind} was measured in {len(entry.groups.names)} settings, which are not compared"
            yield SETTING, f"{text} with each other: {apart}.", ()
        elif not entry.recorded and len(study.variants) > 1:
            text = f"{entry.kind}: neither engine, hardware nor settings were recorded, so comparability is unknown"
            yield NOT_RECORDED, text, ()
    for impact in study.impacts:
        for reason in impact.reasons:
            yield NOT_COMPARED, f"with the baseline: {reason}", (impact.variant.label,)


def _of_numbers(study: Study) -> Iterable[tuple[Kind, str, tuple[str, ...]]]:
    """The kinds that mark single numbers, with the names of these numbers."""
    metrics = [metric for metric in shown_metrics(study) if study.is_measured(metric)]
    for variant in study.variants:
        marked: dict[Kind, list[str]] = {}
        for metric in metrics:
            for kind in study.marks(variant, metric) if variant.number(metric) is not None else ():
                marked.setdefault(kind, []).append(metric.label)
        if variant.valid is False:
            why = ", ".join(variant.invalid_reasons) or "the record gives no reason"
            yield INVALID, f"energy is not used: {why}", (variant.label,)
        for kind in MARKS:
            if kind in marked and kind in (EMULATED, SETTING):
                yield kind, kind.meaning, (variant.label,)
            elif kind in marked and kind is NOISE:
                yield kind, f"{kind.meaning}: {', '.join(dict.fromkeys(marked[kind]))}", (variant.label,)


def _of_pairs(study: Study) -> Iterable[tuple[Kind, str, tuple[str, ...]]]:
    for variant in study.variants:
        refused: dict[str, list[str]] = {}
        for pair in study.paired.get(variant.directory, ()):
            if pair.task not in study.tasks:
                continue
            if pair.refused:
                refused.setdefault(pair.refused, []).append(pair.task)
            elif pair.verdict == UNDERPOWERED and pair.drop_pp is not None:
                ends = pair.interval_pp
                interval = "no interval" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"
                needed = f"; needs about {pair.items_needed:,} items" if pair.items_needed else ""
                text = (
                    f"{pair.task}: {pair.num_items:,} items are too few to decide on a drop of {pair.margin_pp:g} pp "
                    f"(drop {signed(pair.drop_pp)} pp, {interval}){needed}"
                )
                yield INCONCLUSIVE, text, (variant.label,)
        for why, tasks in refused.items():
            yield NOT_PAIRED, f"{', '.join(tasks)}: {why}", (variant.label,)


# Environment


@dataclass(frozen=True)
class Environments:
    """Facts of all variants.

    Attributes:
        common: Facts that are the same wherever they are known, with their value.
        differing: Names of the other facts.
        groups: Variants that agree in all of those: their labels, and the values in the order of `differing`.
    """

    common: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def environments(study: Study) -> Environments:
    """Where and how the variants were measured: what is the same, and what differs between groups of them."""
    facts = [_facts(variant) for variant in study.variants]
    names = dict.fromkeys(name for found in facts for name in found)
    values = {name: list(dict.fromkeys(found.get(name, "not recorded") for found in facts)) for name in names}
    differing = tuple(name for name in names if len(values[name]) > 1)
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant, found in zip(study.variants, facts, strict=True):
        groups.setdefault(tuple(found.get(name, "not recorded") for name in differing), []).append(variant.label)
    common = tuple((name, values[name][0]) for name in names if len(values[name]) == 1)
    return Environments(common, differing, tuple((tuple(labels), key) for key, labels in groups.items()))


def _facts(variant: Variant) -> dict[str, str]:
    """Every fact of the setting in a variant's records; different values of several records are joined."""
    found: dict[str, dict[str, None]] = {}
    for record in variant.records:
        for name, value in _facts_of(record):
            found.setdefault(name, {})[value] = None
    return {name: " / ".join(values) for name, values in found.items()}


def _facts_of(record: Metadata) -> Iterable[tuple[str, str]]:
    for key, name in _HEAD.items():
        if getattr(record, key) is not None:
            yield name, str(getattr(record, key))
    yield from _flat(record.environment or {}, ())
    yield from _flat({key: value for key, value in (record.config or {}).items() if key not in _SEPARATE}, ())


def _flat(entry: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """The leaves of a nested mapping, each under the names that lead to it; unknown ones are left out."""
    for key, value in entry.items():
        here = (*path, str(key).replace("_", " "))
        if isinstance(value, Mapping):
            yield from _flat(value, here)
        elif value is not None:
            yield " · ".join(here), _fact_text(value)


def _fact_text(value: Any) -> str:
    if isinstance(value, Mapping):
        if "name" in value:
            return str(value["name"])
        return ", ".join(f"{key} {_fact_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def variants_table(study: Study) -> ReportTable:
    """What belongs to the model and its scheme."""
    columns: dict[str, list[Field]] = {
        "model": [words(variant.name) for variant in study.variants],
        "precision": [words(variant.precision) for variant in study.variants],
        "model id": [words(variant.model) for variant in study.variants],
        "base model": [
            words(variant.base_model if variant.base_model != variant.model else None) for variant in study.variants
        ],
        "quantization": [words(variant.fact("quantization_scheme")) for variant in study.variants],
        "dtype": [words(variant.fact("dtype")) for variant in study.variants],
        "kernels": [words(variant.kernels) for variant in study.variants],
        "parameters": [counted(variant.fact("num_parameters")) for variant in study.variants],
        DISK.header: [measured(study, variant, DISK) for variant in study.variants],
        "revision": [words(variant.fact("revision")) for variant in study.variants],
    }
    return ReportTable.of(columns)


def noise_floors(study: Study) -> ReportTable:
    """The noise floors that apply to any of the variants."""
    lines: dict[tuple[str, str, str], tuple[Field, ...]] = {}
    for variant in study.variants:
        record = study.noise.get(variant.directory)
        for what, floor, runs in _floors(study, record) if record is not None else ():
            key = (variant.name, record.precision if record is not None else "", what)
            lines[key] = (*map(words, key), words(floor), words(runs))
    return ReportTable(("model", "precision", "metric", "noise floor", "each run"), tuple(lines.values()))


def _floors(study: Study, record: NoiseRecord) -> Iterable[tuple[str, str, str]]:
    for key, entry in record.metrics.items():
        metric = study.metric(key)
        floor = "not known" if entry.floor is None else f"±{entry.floor * 100:.1f} %"
        yield metric.header, floor, _runs(metric, entry.values)
    for task, entry in record.tasks.items():
        flips = record.flips.get(task)
        changed = "" if flips is None else f"; {flips * 100:.1f} % of the answers changed"
        floor = "not known" if entry.floor is None else f"±{entry.floor:.1f} pp{changed}"
        yield study.metric(task).header, floor, _runs(study.metric(task), entry.values)


def _runs(metric: Metric, values: Iterable[float | None]) -> str:
    return ", ".join(
        "not measured" if value is None else figure(metric.in_unit(value), metric.decimals) for value in values
    )


def notes(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Notes and failures in the records, each once, with the variants that it concerns."""
    found: dict[str, dict[str, None]] = {}
    for variant in study.variants:
        for note in (note for record in variant.records for note in record.notes):
            found.setdefault(note, {})[variant.label] = None
        for stage, error in variant.errors.items():
            remedy = f"; {error.remedy}" if error.remedy else ""
            found.setdefault(f"{stage} failed: {error.cause}{remedy}", {})[variant.label] = None
    return [(note, tuple(labels)) for note, labels in found.items()]


#: How each number was measured, in a few words; docs/metrics.md has the whole.
DEFINITIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Every number", (
        ("not measured", "no number exists; it is never 0"),
        ("±", "half of the 95 % interval; hover over a field to see both ends. Intervals of speed and energy resample "
              "whole batches or blocks of the window; if only a standard error is known, ±1.96 times it"),
        ("equal work", "every request generates exactly the same number of tokens, greedily, without reuse of cached "
                       "prefixes; if lengths differ by more than 1 %, the number is marked confounded"),
        ("GiB, MiB", "2^30 and 2^20 bytes"),
    )),
    ("Speed", (
        ("TTFT", "time from submitting a request to its first token; in a batch it includes queueing"),
        ("TPOT", "(last token - first token) / (tokens - 1), mean over requests"),
        ("E2E latency", "time from submitting a request to its last token"),
        ("amortised latency", "wall time of a batch / batch size: not per-request latency"),
        ("output, tokens/s", "output tokens / wall time of all batches; prompt tokens do not count"),
        ("MBU", "model bandwidth utilisation: bytes read per token / TPOT / bandwidth of the device; native GPU "
                "kernels only"),
        ("emulated kernels", "quantized arithmetic emulated in 16 bit: accuracy is valid, speed and energy are not"),
    )),
    ("Memory", (
        ("on disk, weights", "size of the checkpoint's weight files; size of the weights as loaded by the engine"),
        ("KV cache, tokens", "number of tokens that fit in the reserved cache"),
        ("max. concurrency", "requests of full context at once: KV cache tokens / longest context"),
        ("peak memory", "peak of the serving process; with vLLM mostly the cache it reserves, not the model"),
    )),
    ("Energy", (
        ("energy, J/token", "energy of the window / output tokens, idle power included"),
        ("source", "NVML's counter, or the integral of its power samples; CodeCarbon estimates"),
        ("invalid", "window under 2 s, another process on the GPU, throttling, or counter and integral more than 5 % "
                    "apart: such a record has no energy"),
    )),
    ("Accuracy", (
        ("accuracy", "the lm-eval metric named beside the task, over all its items"),
        ("drop on the same items", "the baseline minus this variant, item by item, in percentage points, with its "
                                   "paired 95 % interval (Bonett and Price 2012; Miller, arXiv 2411.00640)"),
        ("flips", "share of items whose answer changed from right to wrong or back (Dutta et al., arXiv 2407.09141)"),
        ("p, corrected", "exact McNemar test, corrected by Holm over all tasks and precisions shown"),
        ("equivalent", "the drop is below the margin with 95 % confidence"),
        ("degraded", "not equivalent; the interval of the drop is above 0 and the corrected p is at most 0.05"),
        ("inconclusive", "neither: more items are needed to decide"),
    )),
    ("Comparison", (
        ("ratio, speed-up", "against the baseline of the same model; above 1 is better; only for equal engine, "
                            "hardware, kernels and settings"),
        ("Pareto frontier", "variants that no other one beats in every objective, among those of one setting"),
        ("inconclusive", "the probability of being on the frontier is between 5 and 95 %"),
        ("noise floor", "difference between repeated runs of one unchanged variant (slim-eval noise)"),
    )),
)  # fmt: skip
