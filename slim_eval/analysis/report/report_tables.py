"""The tables of the report: the comparison, what changed against the baseline, Pareto standing, tasks and subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from statistics import NormalDist
from typing import Any

from slim_eval import metrics
from slim_eval.analysis.caveats import LENGTH, MARKS, NOISE, Kind
from slim_eval.analysis.compare.items import DEGRADED, EQUIVALENT, IMPROVED, UNDERPOWERED
from slim_eval.analysis.impact import BASIS_PER_RUN, Impact, change_words
from slim_eval.analysis.impact import signed as own_signed
from slim_eval.analysis.pareto.dominance import FrontierState
from slim_eval.analysis.pareto.frontier import Frontier, Standing
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import plugin_metrics
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.records import AccuracyRecord, PairedTask
from slim_eval.results.variants import Estimate, Interval, Variant
from slim_eval.utils import number

#: Models whose subjects are shown per task; `complete_results.json` has all.
MAX_MODELS = 40
#: How the verdict on a paired drop marks an accuracy; files call the last one by its key.
VERDICTS = {
    EQUIVALENT: Kind("equivalent", "equivalent", "good", "the drop is below the margin with 95 % confidence", "="),
    DEGRADED: Kind(
        "degraded", "degraded", "bad", "accuracy was lost beyond chance, possibly more than the margin", "▼"
    ),
    IMPROVED: Kind("improved", "improved", "good", "the score became better beyond chance", "▲"),
    UNDERPOWERED: Kind(
        "inconclusive", "inconclusive", "warn", "too few items to detect a drop as large as the margin", "?"
    ),
}
_MEMORY = (metrics.DISK, metrics.WEIGHTS, metrics.PEAK_MEMORY, metrics.KV_CACHE_TOKENS, metrics.MAX_CONCURRENCY)
_GROUPS = {
    Basis.SPEED: "speed", Basis.FILES: "memory", Basis.LOADED: "memory", Basis.ENERGY: "energy", Basis.TASK: "accuracy"
}  # fmt: skip
_RATIOS = {
    "speedup": f"{metrics.AMORTISED.label} ratio", "per_token_speedup": "throughput ratio",
    "ttft_speedup": f"{metrics.TTFT.label} speed-up", "tpot_speedup": f"{metrics.TPOT.label} speed-up",
}  # fmt: skip
_OWN_UNIT = "perplexities as a ratio, other scores as the difference from the baseline, in their own unit"
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table."""

    text: str  # the number or words
    plus_minus: str = ""  # half of the 95 % interval; empty without one
    title: str = ""  # shown when the field is pointed at
    sort: float | str | None = None  # what the column is sorted by; None comes last in either direction
    marks: Sequence[Kind] = ()  # caveats and verdicts that concern the number
    absent: bool = False  # whether there is nothing to show, so that the text is grey

    def __html__(self) -> str:
        """The cell; made here and not by the template, as there are thousands."""
        order = "" if self.sort is None else escape(str(self.sort))
        title = f' title="{escape(self.title)}"' if self.title else ""
        wing = f" <small>{escape(self.plus_minus)}</small>" if self.plus_minus else ""
        marks = "".join(
            f' <abbr class="mark {escape(mark.tone)}" title="{escape(f"{mark.word}: {mark.meaning}")}">'
            f"{escape(mark.sign)}</abbr>"
            for mark in self.marks
        )
        style = ' class="absent"' if self.absent else ""
        return f'<td{style} data-order="{order}"{title}>{escape(self.text)}{wing}{marks}</td>'


ABSENT = Field("not measured", absent=True)
_NOT_COMPARED = Field("not compared", absent=True)


@dataclass(frozen=True)
class ReportTable:
    """A table of the report."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]  # one per variant or subject
    absent: tuple[str, ...] = ()  # headers of the columns without any number, which are left out
    groups: tuple[tuple[str, int, int], ...] = ()  # adjacent columns: name, places of the first and the last, from 0
    marks: tuple[Kind, ...] = ()  # that occur, for the legend
    name: str = ""  # what the table is of, if there are several

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Field]], groups: Mapping[str, str] | None = None) -> ReportTable:
        """A table whose columns all have at least one number, of rows (header -> field) and the columns' groups."""
        headers = tuple(rows[0]) if rows else ()
        kept = tuple(header for header in headers if not all(row[header].absent for row in rows))
        found: list[tuple[str, int, int]] = []
        for name, members in groupby(kept, key=groups.get) if groups else ():
            first = found[-1][2] + 1 if found else 0
            found.append((name or "", first, first + len(list(members)) - 1))
        shown = tuple(tuple(row[header] for header in kept) for row in rows)
        occurring = {mark for fields in shown for field in fields for mark in field.marks}
        marks = tuple(mark for mark in (*MARKS, *VERDICTS.values()) if mark in occurring)
        return cls(kept, shown, tuple(header for header in headers if header not in kept), tuple(found), marks)


def figure(value: float, decimals: int) -> str:
    """A number with the decimals of its metric; with three significant digits if those would show fewer than two."""
    if value and decimals and abs(value) < 10 ** (1 - decimals):
        return number(value)
    return f"{value:,.{decimals}f}"


def signed(value: float) -> str:
    """A difference in percentage points, with its sign and without a negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}"


def span(ends: Interval | None) -> str:
    """The interval of such a difference."""
    return "no interval" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def estimated(estimate: Estimate | None, decimals: int, marks: Sequence[Kind] = (), unit: str = "") -> Field:
    """The field of a number with its interval, both in the unit shown."""
    if estimate is None:
        return ABSENT
    value, ends = estimate.value, estimate.interval
    text = f"{figure(value, decimals)}{unit}"
    if ends is None:
        return Field(text, sort=value, marks=marks)
    half = (ends[1] - ends[0]) / 2
    wing = f"{half:,.{decimals}f}" if not half or half >= 0.5 * 10**-decimals else number(half)
    title = f"95 % interval {figure(ends[0], decimals)} to {figure(ends[1], decimals)}"
    return Field(text, f"±{wing}", title, value, marks)


def measured(study: Study, variant: Variant, metric: Metric) -> Field:
    """The field of a variant's metric, with the caveats on it and, for a task, the verdict on its paired drop."""
    estimate = variant.estimate(metric)
    if estimate is None:
        return ABSENT
    marks = study.marks(variant, metric)
    pair = study.pair(variant, metric.key) if metric.basis is Basis.TASK else None
    if pair is not None and pair.verdict in VERDICTS:
        marks = (*marks, VERDICTS[pair.verdict])
    return estimated(estimate.scaled(metric.scale), metric.decimals, marks)


def words(value: Any) -> Field:
    """The field of a text; None and the empty text are not known."""
    if value is None or value == "":
        return Field("not known", absent=True)
    return Field(str(value), sort=str(value).casefold())


def counted(value: float | None) -> Field:
    """The field of a whole number."""
    return ABSENT if value is None else Field(f"{value:,.0f}", sort=value)


def _altered(count: int | None) -> Field:
    """The field of a count of prompts, for a column that is left out if it is 0 or not known in every row."""
    return Field("not known" if count is None else f"{count:,}", sort=count, absent=not count)


def shown_metrics(study: Study) -> list[Metric]:
    """The metrics of the comparison and the charts: the usual ones, those of plugins, and the tasks."""
    own = plugin_metrics()
    usual = [metric for metric in METRICS.values() if metric.compared or metric in own]
    means = [metrics.ACCURACY_MEAN] if len(study.tasks) > 1 else []
    order = ("speed", "memory", "energy", "other")
    return [*sorted(usual, key=lambda metric: order.index(_group(metric))), *study.task_metrics, *means]


def _group(metric: Metric) -> str:
    return "memory" if metric in _MEMORY else _GROUPS.get(metric.basis, "other")


def comparison_table(study: Study, frontiers: Sequence[Frontier]) -> ReportTable:
    """One row per variant, with its standing and all its numbers."""
    titled = {"all objectives" if len(frontiers) == 1 else found.title: found for found in frontiers}
    groups = {"model": "", "precision": "", **dict.fromkeys(titled, "Pareto")}
    by_header: dict[str, Metric] = {}
    for metric in shown_metrics(study):
        header = f"{metric.header} ({metric.key})" if metric.header in groups else metric.header
        by_header[header], groups[header] = metric, _group(metric)
    rows = []
    for place, variant in enumerate(study.variants):
        row = {"model": words(variant.name), "precision": words(variant.shown_precision)}
        row |= {header: _standing(study, found, found.standings[place]) for header, found in titled.items()}
        row |= {header: measured(study, variant, metric) for header, metric in by_header.items()}
        record = variant.performance
        settings = {
            "engine": words(variant.engine),
            "kernels": words(variant.kernels),
            "dtype": words(variant.fact("dtype")),
            "hardware": words(variant.hardware),
            "batch size": counted(None if record is None else record.batch_size),
            "requests": counted(None if record is None else record.num_runs),
            "output tokens per request": counted(variant.tokens_per_request),
        }
        rows.append(row | settings)
        groups |= dict.fromkeys(settings, "settings")
    return ReportTable.of(rows, groups)


def _standing(study: Study, found: Frontier, standing: Standing) -> Field:
    if standing.verdict is None:
        return Field("not compared", title=standing.excluded or "", absent=True)
    probability, state = standing.verdict.probability, standing.verdict.state
    title = "by point values alone: no intervals are known"
    if probability is not None:
        title = f"probability of not being dominated: {probability:.2f}"
    order = {FrontierState.ON_FRONTIER: 0, FrontierState.DOMINATED: 2}.get(state, 1)
    return Field(state.value, title=title, sort=order, marks=_objective_marks(study, found, standing))


def _objective_marks(study: Study, found: Frontier, standing: Standing) -> list[Kind]:
    marks = (mark for each in found.objectives for mark in study.marks(standing.variant, each.metric))
    return [mark for mark in dict.fromkeys(marks) if mark is not NOISE]


def standings(study: Study, found: Frontier) -> list[tuple[str, list[str]]]:
    """The variants in each state, with the caveats on their objectives, or why they were not compared."""
    made: dict[str, list[str]] = {state.value: [] for state in FrontierState}
    for standing in found.standings:
        why = standing.excluded or ", ".join(mark.word for mark in _objective_marks(study, found, standing))
        label = f"{standing.variant.label}{f' ({why})' if why else ''}"
        made.setdefault(standing.state or "not compared", []).append(label)
    return [(state, labels) for state, labels in made.items() if labels]


def standing_caveats(found: Frontier) -> list[str]:
    """What a reader must know of a frontier: several settings, and objectives that compare different work."""
    groups = {standing.group for standing in found.standings if standing.verdict is not None}
    made = [f"Variants of {len(groups)} settings, each compared only within its own."] if len(groups) > 1 else []
    confounded = dict.fromkeys(standing.confounded for standing in found.standings if standing.confounded)
    return made + [f"Confounded: {text}." for text in confounded]


def by_points(found: Frontier) -> bool:
    """Whether no interval is known, so that a frontier uses point values only."""
    return all(standing.verdict is None or standing.verdict.probability is None for standing in found.standings)


def impact_table(study: Study) -> ReportTable:
    """Each variant against its baseline: a ratio above 1 is an improvement, a drop above 0 a loss."""
    rows = []
    for impact in study.impacts:
        row = {"model": words(impact.variant.name), "precision": words(impact.variant.shown_precision)}
        row["baseline"] = words(impact.baseline and impact.baseline.precision)
        for name, header in _RATIOS.items():
            ratio = impact.speedups.get(name)
            marks = (LENGTH,) if name == "speedup" and impact.length_confounded else ()
            row[header] = _NOT_COMPARED if ratio is None else estimated(ratio, 2, marks, "x")
        row["energy saved, %"] = _NOT_COMPARED
        if impact.energy_reduction is not None:
            saved = estimated(impact.energy_reduction, 1)
            # Energy of runs of unknown length is labelled in the field, not only in its title.
            wing = saved.plus_minus or ("whole run" if impact.energy_basis == BASIS_PER_RUN else "")
            title = ", ".join(filter(None, (saved.title, impact.energy_basis)))
            row["energy saved, %"] = replace(saved, plus_minus=wing, title=title)
        for header, size in (("smaller on disk", impact.size_ratio), ("smaller in memory", impact.weights_ratio)):
            row[header] = _NOT_COMPARED if size is None else estimated(Estimate(size), 2, unit="x")
        for metric in study.task_metrics:
            change = "drop, pp" if metric.is_share else f"{metric.unit}, against the baseline"
            row[f"{metric.label} {change}"] = _drop(study, impact, metric)
        noise = ", ".join(study.metric(key).label for key in sorted(study.within_noise(impact.variant)))
        row["within noise"] = Field(noise or "none", absent=not noise)
        why = impact.not_comparable
        row["why not compared with the baseline"] = Field(why or "none", absent=not why)
        rows.append(row)
    return ReportTable.of(rows)


def _drop(study: Study, impact: Impact, metric: Metric) -> Field:
    """The paired drop if items were paired, else the difference of the two accuracies; or the change of a score."""
    pair = study.pair(impact.variant, metric.key)
    marks = measured(study, impact.variant, metric).marks
    shift = impact.shifts.get(metric.key)
    if shift is not None:
        if pair is not None and (text := change_words(pair)):
            return Field(text, "", _OWN_UNIT, shift.amount, marks)
        return Field(shift.text, "no interval", _OWN_UNIT, shift.amount, marks)
    if pair is not None and pair.drop_pp is not None:
        return _paired_drop(pair, marks)
    drop = impact.drops.get(metric.key)
    if drop is None:
        return ABSENT if impact.variant.number(metric) is None else _NOT_COMPARED
    title = "difference of the two accuracies: no interval on the same items"
    return Field(signed(drop.pp), "unpaired", title, drop.pp, marks)


def _paired_drop(pair: PairedTask, marks: Sequence[Kind] = ()) -> Field:
    title, word = "on the same items, with the paired 95 % interval", ""
    if pair.unpaired:
        title = f"of two separate accuracies, with the unpaired 95 % interval from {pair.interval_from}"
        word = ", unpaired"
    return Field(signed(pair.drop_pp or 0.0), f"({span(pair.interval_pp)}{word})", title, pair.drop_pp, marks)


@dataclass(frozen=True)
class TaskDetail:
    """One task: a table of its variants, one table of subjects per model, and how many models are not shown."""

    task: str
    table: ReportTable
    subjects: tuple[ReportTable, ...]
    left_out: int


def task_details(study: Study) -> list[TaskDetail]:
    """Every task that any variant was measured on."""
    made = []
    for metric in study.task_metrics:
        members = [(v, v.accuracy[metric.key]) for v in study.variants if metric.key in v.accuracy]
        models: dict[str, list[tuple[Variant, AccuracyRecord]]] = {}
        for variant, record in members:
            if record.subtasks:
                models.setdefault((study.baseline(variant) or variant).name, []).append((variant, record))
        if members:
            table = ReportTable.of([_task_row(study, metric, *member) for member in members])
            subjects = tuple(_subjects(name, found, metric) for name, found in list(models.items())[:MAX_MODELS])
            made.append(TaskDetail(metric.key, table, subjects, len(models) - len(subjects)))
    return made


def _task_row(study: Study, metric: Metric, variant: Variant, record: AccuracyRecord) -> dict[str, Field]:
    pair = study.pair(variant, metric.key)
    if variant.is_baseline:
        drop, flips, verdict, kl = Field("baseline", absent=True), *(Field("", absent=True),) * 3
    elif pair is not None and (change := change_words(pair)):
        drop, flips, kl = Field(change, title=_OWN_UNIT, sort=pair.ratio or pair.loss), ABSENT, ABSENT
        kind = VERDICTS.get(pair.verdict or "")
        verdict = words(None) if kind is None else Field(kind.word, "", kind.meaning, kind.word)
    elif pair is None or pair.drop_pp is None:
        why = (pair and pair.refused) or ""
        drop, flips, verdict, kl = Field("not paired", title=why, absent=True), ABSENT, ABSENT, ABSENT
    else:
        drop, flips, verdict, kl = _paired_drop(pair), ABSENT, words(None), ABSENT
        if pair.flips is not None:
            flips = Field(f"{pair.flips * 100:.1f} %", "", f"{pair.lost} lost, {pair.gained} gained", pair.flips)
        if pair.verdict in VERDICTS:
            kind = VERDICTS[pair.verdict]
            needed = f"needs {pair.items_needed:,} items" if pair.items_needed else ""
            verdict = Field(kind.word, needed, kind.meaning, kind.word)
        if pair.answer_kl is not None:
            kl = Field(number(pair.answer_kl), sort=pair.answer_kl)
    # Older records have neither a limit nor a count: whether all items were used is not known.
    everything = None if record.num_items is None else "all items"
    limit = None if record.limit is None else f"{record.limit:,} per subtask"
    if record.limit is not None and record.limit < 1:
        limit = f"{record.limit * 100:g} % of each subtask"
    template = record.apply_chat_template
    others = [
        f"{key} {number(value) if value is not None and math.isfinite(value) else 'not a number'}"
        for key, value in record.metrics.items()
        if key != record.metric and "_stderr," not in key
    ]
    return {
        "model": words(variant.name),
        "precision": words(variant.shown_precision),
        metric.header: measured(study, variant, metric),
        "drop, pp" if metric.is_share else f"change, {metric.unit}": drop,
        "answers that flipped": flips,
        "verdict": verdict,
        "KL of the answers, nats": kl,
        "items": counted(record.num_items),
        "few-shot": counted(record.num_fewshot),
        "limit": words(everything if limit is None else limit),
        "prompts cut": _altered(record.truncated_requests),
        "prompts without a turn": _altered(record.prompts_without_turns),
        "unfinished thoughts": _altered(record.unfinished_thoughts),
        "chat template": words(None if template is None else "yes" if template else "no"),
        "version": words(record.task_versions.get(metric.key)),
        "metric": words(record.metric),
        "other metrics": Field("; ".join(others) or "none"),
    }


def _subjects(name: str, members: Sequence[tuple[Variant, AccuracyRecord]], metric: Metric) -> ReportTable:
    """A row per subject; per variant its accuracy and, beside a baseline, the change against it in the unit shown."""
    base, base_record = next((member for member in members if member[0].is_baseline), (None, None))
    rows = []
    for subject in dict.fromkeys(subject for _, record in members for subject in record.subtasks):
        sizes = {record.subtasks.get(subject, {}).get("num_items") for _, record in members} - {None}
        items = counted(sizes.pop()) if len(sizes) == 1 else words("differ" if sizes else None)
        row = {"subject": words(subject), "items": items}
        before = None if base_record is None else _score(base_record, subject)
        for variant, record in members:
            score = _score(record, subject)
            header = variant.precision if variant.name == name else variant.label
            row[header] = estimated(score and score.scaled(metric.scale), metric.decimals)
            if base is not None and record is not base_record:
                change = None if score is None or before is None else (score.value - before.value) * metric.scale
                shown = "" if change is None else signed(change) if metric.is_share else own_signed(change)
                field = ABSENT if change is None else Field(shown, sort=change)
                row[f"{header} - {base.precision}"] = field
        rows.append(row)
    return ReportTable(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), name=name)


def _score(record: AccuracyRecord, subject: str) -> Estimate | None:
    """The headline metric of a subject with 1.96 standard errors either way."""
    entry: Mapping[str, Any] = record.subtasks.get(subject, {})
    metric = record.metric or ""
    value, error = entry.get(metric), entry.get(metric.replace(",", "_stderr,", 1))
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if not isinstance(error, (int, float)) or not math.isfinite(error):
        return Estimate(float(value))
    return Estimate(float(value), (value - _Z95 * error, value + _Z95 * error))
