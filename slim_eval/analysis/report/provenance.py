"""Where and how the numbers of the report were measured, and the reasons to doubt them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis import caveats
from slim_eval.analysis.caveats import MARKS, Caveat, Kind
from slim_eval.analysis.comparability import ENERGIES, SPEEDS, Groups, comparable_groups
from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.analysis.compare.noise_floor import floor_words, remarks
from slim_eval.analysis.report import report_tables
from slim_eval.analysis.report.report_tables import ReportTable, counted, measured, signed, span, words
from slim_eval.analysis.study import Study
from slim_eval.metrics import DISK, METRICS, Basis, Metric
from slim_eval.utils import short_name

# Facts of a record that belong to the setting; what belongs to the model is in the table of variants.
_HEAD = {"engine": "engine", "engine_version": "engine version", "engine_reason": "why this engine"}
_SEPARATE = {"revision"}  # of the config: it names the model's commit, not the setting
_TONES = ("bad", "warn", "note")


@dataclass(frozen=True)
class KindSettings:
    """The settings of one kind of measurement: speed, energy, a task, or a plugin's benchmark."""

    kind: str
    groups: Groups  # the variants by setting
    counts: tuple[int, ...]  # number of variants per setting
    recorded: bool  # whether any record names its setting


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

    def add(kind: Kind, text: str, *labels: str) -> None:
        found.setdefault((kind, text), {}).update(dict.fromkeys(labels))

    for problem in problems:
        add(caveats.UNREADABLE, problem)
    for caveat in study.caveats:
        add(caveat.kind, caveat.text, *caveat.variants)
    for entry in settings:
        count = len(entry.groups.names)
        if count > 1:
            text = f"{entry.kind} was measured in {count} settings, which are not compared with each other"
            add(caveats.SETTING, f"{text}: {'; '.join(entry.groups.differences)}.")
        elif not entry.recorded and len(study.variants) > 1:
            text = "neither engine, hardware nor settings were recorded, so comparability is unknown"
            add(caveats.NOT_RECORDED, f"{entry.kind}: {text}")
    for impact in study.impacts:
        for reason in impact.reasons:
            add(caveats.NOT_COMPARED, f"with the baseline: {reason}", impact.variant.label)
    metrics = [metric for metric in report_tables.shown_metrics(study) if study.is_measured(metric)]
    for variant in study.variants:
        marked: dict[Kind, dict[str, None]] = {}  # with the labels of the numbers that have the mark
        for metric in metrics:
            for kind in study.marks(variant, metric) if variant.number(metric) is not None else ():
                marked.setdefault(kind, {})[metric.label] = None
        for name, reasons in variant.invalid.items():
            why = ", ".join(reasons) or "the record gives no reason"
            add(caveats.INVALID, f"{name} is not used: {why}", variant.label)
        for kind in (kind for kind in MARKS if kind in marked):
            if kind in (caveats.EMULATED, caveats.SETTING):
                add(kind, kind.meaning, variant.label)
            elif kind is caveats.NOISE:
                add(kind, f"{kind.meaning}: {', '.join(marked[kind])}", variant.label)
        refused: dict[str, list[str]] = {}
        for pair in (pair for pair in study.paired.get(variant.directory, ()) if pair.task in study.tasks):
            if pair.no_interval:
                refused.setdefault(f"no interval: {pair.no_interval}", []).append(pair.task)
            elif pair.refused:
                refused.setdefault(pair.refused, []).append(pair.task)
            elif pair.verdict == UNDERPOWERED and pair.drop_pp is not None:
                needed = f"; needs about {pair.items_needed:,} items" if pair.items_needed else ""
                needed = "; needs further subtasks" if pair.needs_subtasks else needed
                items = "items" if pair.num_items is None else f"{pair.num_items:,} items"
                text = f"{'unpaired, ' if pair.unpaired else ''}{items} are too few to decide on a drop of "
                text += f"{pair.margin_pp:g} pp"
                drop = f"(drop {signed(pair.drop_pp)} pp, {span(pair.interval_pp)})"
                add(caveats.INCONCLUSIVE, f"{pair.task}: {text} {drop}{needed}", variant.label)
        for why, tasks in refused.items():
            add(caveats.NOT_PAIRED, f"{', '.join(tasks)}: {why}", variant.label)
    made = [Caveat(kind, text, tuple(labels)) for (kind, text), labels in found.items()]
    return sorted(made, key=lambda caveat: (_TONES.index(caveat.kind.tone), caveat.kind.word))


@dataclass(frozen=True)
class Environments:
    """Facts of all variants."""

    common: tuple[tuple[str, str], ...]  # that are the same wherever they are known, with their value
    differing: tuple[str, ...]  # names of the other facts
    # Variants that agree in all of those: their labels, and the values in the order of `differing`.
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def environments(study: Study) -> Environments:
    """Where and how the variants were measured: what is the same, and what differs between groups of them."""
    facts = []
    for variant in study.variants:
        known: dict[str, dict[str, None]] = {}
        for record in variant.records:
            head = {name: getattr(record, key) for key, name in _HEAD.items()}
            config = {key: value for key, value in (record.config or {}).items() if key not in _SEPARATE}
            for part in (head, record.environment or {}, config):
                for name, value in _flat(part):
                    known.setdefault(name, {})[value] = None
        facts.append({name: " / ".join(values) for name, values in known.items()})  # of several records
    names = dict.fromkeys(name for found in facts for name in found)
    values = {name: list(dict.fromkeys(found.get(name, "not recorded") for found in facts)) for name in names}
    differing = tuple(name for name in names if len(values[name]) > 1)
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant, found in zip(study.variants, facts, strict=True):
        groups.setdefault(tuple(found.get(name, "not recorded") for name in differing), []).append(variant.label)
    common = tuple((name, values[name][0]) for name in names if len(values[name]) == 1)
    return Environments(common, differing, tuple((tuple(labels), key) for key, labels in groups.items()))


def _flat(entry: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[str, str]]:
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
    return ReportTable.of([
        {
            "model": words(variant.name),
            "precision": words(variant.precision),
            "model id": words(variant.model),
            "base model": words(variant.base_model if variant.base_model != variant.model else None),
            "quantization": words(variant.fact("quantization_scheme")),
            "dtype": words(variant.fact("dtype")),
            "kernels": words(variant.kernels),
            "parameters": counted(variant.fact("num_parameters")),
            DISK.header: measured(study, variant, DISK),
            "revision": words(variant.fact("revision")),
        }
        for variant in study.variants
    ])  # fmt: skip


def noise_floors(study: Study) -> ReportTable:
    """The noise floors that apply to any of the variants."""
    lines: dict[tuple[str, str, str], tuple[report_tables.Field, ...]] = {}
    for variant in study.variants:
        record = study.noise.get(variant.directory)
        if record is None:
            continue
        for key, entry in (*record.metrics.items(), *record.tasks.items()):
            metric, flips = study.metric(key), record.flips.get(key)
            changed = "" if flips is None else f"; {flips * 100:.1f} % of the answers changed"
            floor = f"{floor_words(record, key)}{changed}"
            runs = (v if v is None else report_tables.figure(metric.in_unit(v), metric.decimals) for v in entry.values)
            head = (variant.name, record.precision, metric.header)
            lines[head] = tuple(map(words, (*head, floor, ", ".join(run or "not measured" for run in runs))))
    return ReportTable(("model", "precision", "metric", "noise floor", "each run"), tuple(lines.values()))


def noise_remarks(study: Study) -> list[str]:
    """What is uncertain about the noise floors, each once, with the model that it concerns."""
    records = [record for variant in study.variants if (record := study.noise.get(variant.directory)) is not None]
    return list(dict.fromkeys(f"{short_name(record.model)}: {text}" for record in records for text in remarks(record)))


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
