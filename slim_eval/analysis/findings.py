"""The findings of an analysis in words: what was measured, the results, their confidence, and what remains unknown."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slim_eval.analysis import receipts
from slim_eval.analysis.caveats import is_emulated
from slim_eval.analysis.comparability import comparable_groups, confounding
from slim_eval.analysis.compare.items import ALPHA, UNDERPOWERED, VERDICT_WORDS
from slim_eval.analysis.impact import BASIS_PER_TOKEN, Impact, change_words
from slim_eval.analysis.loads import by_load, load_of
from slim_eval.analysis.pareto.dominance import FrontierState
from slim_eval.analysis.pareto.frontier import Frontier, Standing
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.verdict_table import markdown, summary_lines
from slim_eval.analysis.verdict import Verdict
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    DISK,
    E2E,
    ENERGIES,
    J_PER_TOKEN,
    PEAK_MEMORY,
    THROUGHPUT,
    TPOT,
    TTFT,
    WEIGHTS,
    Metric,
)
from slim_eval.models import weight_grid
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Estimate, Interval, Variant, by_model
from slim_eval.schemes import in_order
from slim_eval.utils import number

WIDTH = 100
#: Lines of the executive summary, at most.
SUMMARY_LINES = 25
_SHOWN = 10  # members of a frontier, lines of problems
_SHOWN_VARIANTS, _SHOWN_IMPACTS, _SHOWN_GROUPS, _SHOWN_NAMES = 6, 8, 4, 5
_HEADLINES = (TTFT, TPOT, E2E, THROUGHPUT, WEIGHTS, PEAK_MEMORY, J_PER_TOKEN, DISK)
#: The number, its words for a range over variants, how it is written, and what would be no change.
_SPREADS: tuple[tuple[Callable[[Impact], Estimate | None], str, str, float | None], ...] = (
    (lambda impact: impact.speedups.get("tpot_speedup"), "TPOT speed-up {}", "{:.2f}x", 1.0),
    (lambda impact: impact.speedups.get("per_token_speedup"), "throughput ratio {}", "{:.2f}x", 1.0),
    (lambda impact: impact.energy_reduction, "energy saved: {}", "{:.1f} %", 0.0),
    (lambda i: None if i.size_ratio is None else Estimate(i.size_ratio), "{} smaller on disk", "{:.2f}x", None),
)
#: Ways to be best: by the first of the metrics, in the order of preference, that was measured in a group.
_MEASURES: dict[str, tuple[Metric, ...]] = {
    "Fastest per output token": (TPOT, THROUGHPUT),
    "Lowest amortised latency": (AMORTISED,),
    "Lowest energy": ENERGIES,
    "Most accurate": (ACCURACY_MEAN,),
    "Smallest on disk": (DISK,),
    "Smallest as loaded": (WEIGHTS,),
}


@dataclass(frozen=True)
class Section:
    """A heading and its sentences; `report.html` shows those that are `apart` in a separate part."""

    heading: str
    sentences: tuple[str, ...]
    apart: bool = False


def find(study: Study, frontiers: Sequence[Frontier] = (), problems: Sequence[str] = ()) -> list[Section]:
    """The findings under their headings; headings without sentences are omitted.

    `problems` are files that could not be read and benchmarks that failed.
    """
    impacts = _impacts(study) or ["No model has both a baseline and another variant."]
    caveats = [_about(study, caveat.variants, caveat.text) for caveat in study.caveats]
    found = [
        Section("What was measured", tuple(_measured(study))),
        Section("What differs between the measurements", tuple(setting_findings(study))),
        Section("Quantized against the baseline", tuple(impacts)),
        Section("Kernels against their reference", tuple(_kernels(study))),
        Section("Best by each measure", tuple(_best(study))),
        Section("Servers under load", tuple(_under_load(study))),
        Section("Pareto frontier", tuple(text for each in frontiers for text in _frontier(each))),
        Section("What these results cannot support", tuple(caveats), apart=True),
        Section("What was not measured", tuple(_missing(study, problems)), apart=True),
        Section("Notes in the records", tuple(_notes(study)), apart=True),
    ]
    return [section for section in found if section.sentences]


def executive_summary(verdict: Verdict, study: Study, problems: Sequence[str] = ()) -> str:
    """The verdict and the kinds of caveats as plain text: at most `SUMMARY_LINES` lines of `WIDTH` columns."""
    kinds = list(dict.fromkeys(caveat.kind.word for caveat in study.caveats))
    ends = []
    if kinds:
        ends.append(f"Caveats ({len(kinds)}): {listed(kinds, 8)}.")
    if problems:
        ends.append(f"{_count(len(problems), 'problem')}: {problems[0].rstrip('.')}.")
    ends.append("Evidence, caveats and notes: findings.md; figures and tables: report.html.")
    ends = [line for text in ends for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False)[:2]]
    title = ["slim-eval: executive summary", "============================"]
    most = SUMMARY_LINES - len(title) - len(ends) - 1
    return "\n".join([*title, *summary_lines(verdict, most, WIDTH), "", *ends]) + "\n"


def findings_markdown(verdict: Verdict, found: Sequence[Section]) -> str:
    """`findings.md`: the verdict with every variant, then all sections."""
    lines = ["# slim-eval: findings", "", *markdown(verdict), ""]
    for section in found:
        lines += [f"## {section.heading}", "", *(f"- {sentence}" for sentence in section.sentences), ""]
    return "\n".join(lines)


def _measured(study: Study) -> list[str]:
    counts = Counter(variant.precision for variant in study.variants)
    each = ", ".join(f"{count} at {precision}" for precision, count in counts.items())
    models = len({variant.model for variant in study.variants})
    groups = comparable_groups(study.variants).names
    made = [f"{_count(len(study.variants), 'variant')} of {_count(models, 'model')}: {each}."]
    if len(groups) == 1 and groups[0] != "all":
        made.append(f"Speed and energy: one setting, {groups[0]}.")
    tasks: dict[bool, list[str]] = {True: [], False: []}
    for task in study.tasks:
        found = (variant.accuracy[task].metric for variant in study.variants if variant.number(task) is not None)
        row, names = study.metric(task), " or ".join(dict.fromkeys(metric or "metric unknown" for metric in found))
        direction = "" if row.is_accuracy else f": {row.better} is better" if row.better else ": direction unknown"
        tasks[row.is_share].append(f"{task} ({names}{direction})")
    parts = {"Accuracy": tasks[True], "Scores in a unit of their own, not averaged": tasks[False]}
    return [*made, *(f"{words}: {', '.join(named)}." for words, named in parts.items() if named)]


def setting_findings(study: Study) -> list[str]:
    """What differs in engine, hardware and settings: between groups, which are not compared, and within them."""
    groups = comparable_groups(study.variants)
    members = groups.members(study.variants)
    made = []
    if len(members) > 1:
        named = [f"{name} ({_count(len(found), 'variant')})" for name, found in members.items()][:_SHOWN]
        if len(members) > _SHOWN:
            named.append(f"{len(members) - _SHOWN} more")
        said = f"{len(members)} settings, whose speed and energy are not compared with each other"
        made = [f"{said}: {'; '.join(named)}."]
        made += [f"{text}, compared with {groups.names[0]}." for text in groups.differences[:_SHOWN]]
    for name, found in members.items():
        for key, words, anyway in (
            ("engine_version", "engine versions", "the variants are still compared"),
            ("dtype", "16-bit types", "models are still compared with each other, but not variants of one model"),
        ):
            values = sorted({str(fact) for variant in found if (fact := variant.fact(key)) is not None})
            if len(values) > 1:
                made.append(f"{name}: {words} differ ({', '.join(values)}); {anyway}.")
    return made


def _kernels(study: Study) -> list[str]:
    """The receipt of each loaded engine, beside what the engine and the reference differ by at 16 bit."""
    return [
        f"{variant.label} on {record.engine}: {text}."
        for group in by_model(study.variants).values()
        for variant in group
        for record in receipts.receipts_of(variant)
        if (text := receipts.in_words(record, receipts.rounding_at_16_bit(variant, group)))
    ]


def _about(study: Study, labels: Sequence[str], text: str) -> str:
    everywhere = len(labels) == len(study.variants) > 1
    return f"{'all variants' if everywhere else listed(labels, _SHOWN_VARIANTS)}: {text}."


def _notes(study: Study) -> list[str]:
    notes: dict[str, list[str]] = {}
    for variant in study.variants:
        for note in dict.fromkeys(note for record in variant.records for note in record.notes):
            if note == weight_grid.NOTE:  # the caveat says it
                continue
            notes.setdefault(note, []).append(variant.label)
    made = [_about(study, list(dict.fromkeys(labels)), note.rstrip(".")) for note, labels in notes.items()]
    return _capped(made, "notes")


def _missing(study: Study, problems: Sequence[str]) -> list[str]:
    nowhere = [metric.title for metric in _HEADLINES if not study.is_measured(metric)]
    made = [f"Not measured in any variant: {', '.join(nowhere)}."] if nowhere else []
    lacking: dict[tuple[str, ...], list[str]] = {}
    for metric in (*_HEADLINES, *study.task_metrics):
        without = tuple(variant.label for variant in study.variants if variant.number(metric) is None)
        if without and len(without) < len(study.variants):
            lacking.setdefault(without, []).append(metric.title)
    made += [f"{', '.join(things)}: missing in {listed(where, _SHOWN_VARIANTS)}." for where, things in lacking.items()]
    invalid: dict[str, list[str]] = {}
    for variant in study.variants:
        for name in variant.invalid:
            invalid.setdefault(name, []).append(variant.label)
    for name, labels in invalid.items():
        where = listed(labels, _SHOWN_VARIANTS)
        made.append(f"{name.capitalize()} marked invalid in the record, and therefore not compared: {where}.")
    return made + _capped([f"Problem: {problem.rstrip('.')}." for problem in problems], "problems")


def _capped(sentences: Sequence[str], things: str, file: str = "complete_results.json") -> list[str]:
    more = len(sentences) - _SHOWN
    return [*sentences[:_SHOWN], *([f"{more} more {things} in {file}."] if more > 0 else [])]


def _impacts(study: Study) -> list[str]:
    """For each scheme, one sentence on speed, energy, size and each task, then its variants."""
    made: list[str] = []
    for precision in in_order(impact.variant.precision for impact in study.impacts):
        chosen = [impact for impact in study.impacts if impact.variant.precision == precision]
        pairs = {i.variant.directory: {p.task: p for p in study.paired.get(i.variant.directory, ())} for i in chosen}
        # What no variant of a scheme has is stated only once.
        intervals = verdicts = True
        if len(chosen) > 1:
            made += [f"{precision}, {text}." for text in _overall(chosen, study.tasks, pairs)]
            estimates = [read(impact) for impact in chosen for read, *_, neutral in _SPREADS if neutral is not None]
            intervals = any(estimate and estimate.interval for estimate in estimates)
            verdicts = any(pair.verdict for found in pairs.values() for pair in found.values())
        for impact in chosen[:_SHOWN_IMPACTS]:
            parts = [
                *_costs(study, impact, no_interval=" (no interval)" if intervals else ""),
                *_drops(study, impact, pairs[impact.variant.directory], say_chance=verdicts),
                *_shifts(impact, pairs[impact.variant.directory]),
                *([f"not compared: {impact.not_comparable}"] if impact.not_comparable else []),
            ]
            made.append(f"{impact.variant.label}: {'; '.join(parts) or 'nothing to compare'}.")
        if len(chosen) > _SHOWN_IMPACTS:
            more = len(chosen) - _SHOWN_IMPACTS
            made.append(f"{precision}: {more} more variants in quantization_impact.csv.")
    return made


def _overall(
    chosen: Sequence[Impact], tasks: Sequence[str], pairs: Mapping[Path, Mapping[str, PairedTask]]
) -> list[str]:
    """One sentence per measure, over all models of a scheme."""
    made = []
    by_tpot = any("tpot_speedup" in impact.speedups for impact in chosen)  # throughput would repeat it
    for index, (read, words, form, neutral) in enumerate(_SPREADS):
        found = [(impact, estimate) for impact in chosen if (estimate := read(impact)) is not None]
        if not found or (by_tpot and index == 1):
            continue
        values = [estimate.value for _, estimate in found]
        low, middle, high = (form.format(end(values) + 0.0) for end in (min, statistics.median, max))
        text = words.format(low if low == high else f"{low} to {high} (median {middle})")
        if any(e is impact.energy_reduction and impact.energy_basis != BASIS_PER_TOKEN for impact, e in found):
            text += ", over whole runs with unknown output lengths"
        known = [estimate.interval for _, estimate in found if estimate.interval is not None]
        if neutral is not None and not known:
            text += "; no intervals, so this may be chance"
        elif neutral is not None:
            better, worse = sum(low > neutral for low, _ in known), sum(high < neutral for _, high in known)
            unsure = len(known) - better - worse
            text += f"; by the 95 % interval: {better} better, {worse} worse, {unsure} inconclusive"
            text += f", {len(found) - len(known)} without an interval" if len(known) < len(found) else ""
        made.append(f"{len(found)} of {len(chosen)} variants: {text}")

    # The drops of all tasks; those with the same verdicts in one sentence.
    reasons: dict[str, list[str]] = {}
    for task in tasks:
        drops = [impact.drops[task].pp for impact in chosen if task in impact.drops]
        if not drops:
            continue
        verdicts = [p.verdict for i in chosen if (p := pairs[i.variant.directory].get(task)) and p.verdict]
        counted = _counted(verdicts)
        if len(verdicts) < len(drops):
            bare = str(len(drops) - len(verdicts)) if verdicts else "all"
            counted.append(f"{bare} without per-item outcomes, so chance cannot be ruled out")
        low, high = _pp(min(drops)), _pp(max(drops))
        why = f"{len(drops)} of {len(chosen)} variants: {', '.join(counted)}"
        reasons.setdefault(why, []).append(f"{task} {low} pp" if low == high else f"{task} {low} to {high} pp")
    made += [f"accuracy drops: {', '.join(spans)} ({why})" for why, spans in reasons.items()]
    if (real := _beyond_chance(chosen, tasks, pairs)) is not None:
        made.append(real)

    for task in tasks:
        shifts = [impact.shifts[task] for impact in chosen if task in impact.shifts]
        if not shifts:
            continue
        ends = [end(shifts, key=lambda shift: shift.amount) for end in (min, max)]
        low, high = (shift.text for shift in ends)
        verdicts = [p.verdict for i in chosen if (p := pairs[i.variant.directory].get(task)) and p.verdict]
        counted = _counted(verdicts)
        if len(verdicts) < len(shifts):
            counted.append(f"{len(shifts) - len(verdicts)} without an interval")
        metric = shifts[0].metric
        words = f"{task} {metric.unit}{f' ({metric.better} is better)' if metric.better else ''}"
        made.append(
            f"{len(shifts)} of {len(chosen)} variants: {words} {low if low == high else f'{low} to {high}'} "
            f"({', '.join(counted)})"
        )

    confounded = [i.variant.name for i in chosen if i.length_confounded and "speedup" in i.speedups]
    if confounded:
        work = "compare different numbers of output tokens and are not speed-ups"
        made.append(f"the latency ratios of {listed(confounded)} {work}")
    return made


def _beyond_chance(
    chosen: Sequence[Impact], tasks: Sequence[str], pairs: Mapping[Path, Mapping[str, PairedTask]]
) -> str | None:
    """The drops whose interval and corrected p-value exclude chance, task by task; None if nothing was judged."""
    judged, real = 0, []
    for task in tasks:
        found = [(i, p) for i in chosen if (p := pairs[i.variant.directory].get(task)) is not None and p.verdict]
        judged += len(found)
        beyond = sorted(((p.drop_pp or 0.0, i.variant.name) for i, p in found if is_beyond_chance(p)), reverse=True)
        if beyond:
            real.append(f"{task} {listed([f'{name} {_pp(drop)} pp' for drop, name in beyond])}")
    if not judged:
        return None
    count = sum(p.p_value is not None for found in pairs.values() for p in found.values())
    return f"drops beyond chance, of {count} judged: {'; '.join(real) or 'none'}"


def is_beyond_chance(pair: PairedTask) -> bool:
    """Whether a drop is one: its interval is above 0, and its p-value holds after the correction for the others."""
    low = None if pair.interval_pp is None else pair.interval_pp[0]
    return low is not None and low > 0 and pair.p_value_holm is not None and pair.p_value_holm <= ALPHA


def _costs(study: Study, impact: Impact, no_interval: str) -> list[str]:
    """Speed, energy and size of a variant; `no_interval` is said of a number without one."""
    made: list[str] = []
    variant, baseline, noisy = impact.variant, impact.baseline, study.within_noise(impact.variant)
    noise = ", within the noise floor"
    for name, metric, words in (
        ("tpot_speedup", TPOT, "TPOT speed-up"),
        ("per_token_speedup", THROUGHPUT, "throughput ratio"),
    ):
        ratio = impact.speedups.get(name)
        if ratio is not None and not made:
            span = _interval(ratio.interval, "x", 2) or no_interval
            made.append(f"{words} {ratio.value:.2f}x{span}{noise if metric.key in noisy else ''}")
    latency = impact.speedups.get("speedup")
    if latency is not None and impact.length_confounded and baseline is not None:
        ours, theirs = variant.tokens_per_request, baseline.tokens_per_request
        lengths = f"{ours:.1f} output tokens per request against {theirs:.1f}"
        made.append(f"the latency ratio {latency.value:.2f}x compares different work ({lengths})")
    elif latency is not None and "tpot_speedup" not in impact.speedups:
        lengths = "" if impact.length_confounded is False else ", output lengths unknown"
        made.append(f"latency ratio {latency.value:.2f}x{lengths}")
    if made and variant.kernels == "emulated":
        made.append("emulated kernels: this does not predict the speed of a deployment")

    saved = impact.energy_reduction
    if saved is not None:
        less = saved.value >= 0
        ends = saved.interval if saved.interval is None or less else (-saved.interval[1], -saved.interval[0])
        basis = "per output token" if impact.energy_basis == BASIS_PER_TOKEN else f"({impact.energy_basis})"
        span = _interval(ends, " %", 1) or no_interval
        text = f"{abs(saved.value):.1f} % {'less' if less else 'more'} energy {basis}{span}"
        made.append(f"{text}{noise if J_PER_TOKEN.key in noisy else ''}")

    sizes = ((impact.size_ratio, "on disk"), (impact.weights_ratio, "as loaded"))
    smaller = [f"{ratio:.2f}x smaller {where}" for ratio, where in sizes if ratio is not None]
    return [*made, " and ".join(smaller)] if smaller else made


def _drops(study: Study, impact: Impact, pairs: Mapping[str, PairedTask], *, say_chance: bool) -> list[str]:
    judged, bare = [], []
    for task in study.tasks:
        pair = pairs.get(task)
        if task not in impact.drops:
            continue
        if pair is None or not pair.verdict or pair.drop_pp is None:
            bare.append(f"{task} {_pp(impact.drops[task].pp)} pp")
            continue
        word, margin = VERDICT_WORDS[pair.verdict], f"margin {pair.margin_pp:g} pp"
        if pair.verdict == UNDERPOWERED and pair.items_needed and not pair.unpaired:
            word += f": needs {pair.items_needed:,} items, {pair.num_items:,} were measured"
        elif pair.verdict == UNDERPOWERED and pair.needs_subtasks:
            word += ": too few subtasks"
        span = _interval(pair.interval_pp, " pp", 1) or " (no interval)"
        span = span.replace("(95 %", "(unpaired 95 %") if pair.unpaired else span
        verb = "drops" if pair.higher_is_better is None else "rises"
        judged.append(f"{task} {verb} {_pp(pair.drop_pp)} pp{span}: {word} ({margin})")
    doubt = " (no per-item outcomes, so this may be chance)" if say_chance else ""
    return [*judged, f"accuracy drops: {', '.join(bare)}{doubt}"] if bare else judged


def _shifts(impact: Impact, pairs: Mapping[str, PairedTask]) -> list[str]:
    """The changes of scores that are not shares of answers, in their own units."""
    made = []
    for task, shift in impact.shifts.items():
        metric, pair = shift.metric, pairs.get(task)
        values = f"{number(shift.before)} to {number(shift.after)}"
        words = f"{task} {metric.unit}{f' ({metric.better} is better)' if metric.better else ''} {values}"
        if pair is None or not pair.verdict or not (change := change_words(pair)):
            made.append(f"{words}: {shift.text} (no interval)")
        else:
            made.append(f"{words}: {change} (95 % interval): {VERDICT_WORDS[pair.verdict]}")
    return made


def _counted(verdicts: Sequence[str]) -> list[str]:
    return [f"{verdicts.count(verdict)} {word}" for verdict, word in VERDICT_WORDS.items() if verdict in verdicts]


def _interval(found: Interval | None, unit: str, digits: int) -> str:
    return "" if found is None else f" (95 % interval {found[0]:.{digits}f} to {found[1]:.{digits}f}{unit})"


def _best(study: Study) -> list[str]:
    """The best by speed per token, energy, accuracy and size; one sentence per setting.

    Emulated kernels and invalid records are excluded.
    """
    found: list[str] = []
    for words, metrics in _MEASURES.items():
        taking = [
            variant for variant in study.variants
            if any(variant.number(metric) is not None for metric in metrics)
            and all(variant.counts(metric) and not is_emulated(metric, variant) for metric in metrics)
        ]  # fmt: skip
        groups = comparable_groups(taking, metrics).members(taking)
        # A variant alone is the best only if nothing else can be said.
        several = {name: members for name, members in groups.items() if len(members) > 1}
        made = []
        for name, members in (several or groups).items():
            metric = next(m for m in metrics if any(v.number(m) is not None for v in members))
            measured = [variant for variant in members if variant.number(metric) is not None]
            confounded = confounding(measured, [metric])
            if metric is AMORTISED and not confounded:
                continue  # stated only as a warning, if it compares different work
            where = f" ({name})" if len(groups) > 1 else ""
            warning = f". Confounded: {confounded}" if confounded else ""
            made.append(f"{words}{where}: {_winner(metric, measured)}{warning}.")
        more = len(made) - _SHOWN_GROUPS
        found += made[:_SHOWN_GROUPS] + ([f"{words}: {more} more settings in the tables."] if more > 0 else [])
    if found and any(v.interval(m) for v in study.variants for metrics in _MEASURES.values() for m in metrics):
        rule = "Two numbers differ if the 95 % interval of their difference excludes 0"
        found.append(f"{rule}; it does not include run-to-run variance.")
    return found


def _under_load(study: Study) -> list[str]:
    """The best at each load; loads that one variant alone was measured under are counted."""
    made, alone = [], []
    for members in by_load(study.served).values():
        load = load_of(members[0])
        if len({view.directory for view in members}) < 2:
            alone.append(f"{load} ({members[0].label})")
            continue
        for metric in (TPOT, TTFT, THROUGHPUT):
            measured = [view for view in members if view.number(metric) is not None and view.counts(metric)]
            if len(measured) > 1:
                made.append(f"At load {load}, {_best_words(metric)}: {_winner(metric, measured)}.")
    if alone:
        made.append(f"Loads of one variant only, which is compared with nothing: {listed(alone, _SHOWN)}.")
    return _capped(made, "sentences on loads", "serving_levels.csv")


def _best_words(metric: Metric) -> str:
    return f"{'highest' if metric.maximise else 'lowest'} {metric.title}"


def _winner(metric: Metric, variants: Sequence[Variant]) -> str:
    known = [(estimate, v) for v in variants if (estimate := v.estimate(metric)) is not None]
    known.sort(key=lambda pair: -pair[0].value if metric.maximise else pair[0].value)
    (value, best), others = known[0], known[1:]
    if not others:
        return f"only {best.label} was measured ({_text(metric, value)})"
    equal = [variant for estimate, variant in others if estimate.value == value.value]
    names = listed([variant.label for variant in (best, *equal)])
    made = f"{names}, {_text(metric, value)}, out of {len(variants)} variants"
    rest = others[len(equal) :]
    if metric.exact or not rest:
        return made + (", all equal" if not rest else "")
    sure = [is_better(value, estimate, maximise=metric.maximise) for estimate, _ in rest]
    following = f"next {rest[0][1].label}, {_text(metric, rest[0][0])}"
    if None in sure:
        return f"{made}; {following}; no intervals, so this may be chance"
    undecided = [variant.label for (_, variant), better in zip(rest, sure, strict=True) if not better]
    if undecided or equal:
        return f"{made}; not clearly ahead of {listed(undecided)}" if undecided else made
    return f"{made}; ahead of all others beyond their 95 % intervals ({following})"


def is_better(best: Estimate, other: Estimate, *, maximise: bool) -> bool | None:
    """Whether one number is better than another beyond their intervals; None if either has no interval.

    The interval of the difference comes from their own intervals as if they were independent (MOVER; Zou and Donner
    2008, Statistics in Medicine 27:1693).
    """
    a, b = best.interval, other.interval
    if a is None or b is None:
        return None
    if maximise:
        return best.value - other.value > math.hypot(best.value - a[0], b[1] - other.value)
    return other.value - best.value > math.hypot(a[1] - best.value, other.value - b[0])


def _text(metric: Metric, estimate: Estimate) -> str:
    text = f"{metric.text(estimate.value)} {metric.title}"
    if estimate.interval is None:
        return text
    low, high = (metric.text(end, unit=False) for end in estimate.interval)
    return f"{text} [{low} to {high}]"


def _frontier(found: Frontier) -> list[str]:
    """Variants on a frontier in each setting, with confidence."""
    made = []
    compared = [standing for standing in found.standings if standing.excluded is None]
    groups = dict.fromkeys(standing.group for standing in compared)
    for group in list(groups)[:_SHOWN]:
        members = [standing for standing in compared if standing.group == group]
        if len(members) == 1 and len(groups) > 1:
            continue  # alone it is on the frontier, which means nothing
        where = f" ({group})" if len(groups) > 1 else ""
        doubt = f"; confounded: {members[0].confounded}" if members[0].confounded else ""
        if any(standing.verdict is not None and standing.verdict.probability is not None for standing in members):
            fixed = [
                o.key for o in found.objectives
                if not o.metric.exact and all(standing.variant.interval(o.metric) is None for standing in members)
            ]  # fmt: skip
            doubt = f"; {' and '.join(fixed)} held fixed, without an interval{doubt}" if fixed else doubt
        made.append(f"By {found.title}{where}, {_count(len(members), 'variant')}: {_standings(members)}{doubt}.")
    left_out = Counter(standing.excluded for standing in found.standings if standing.excluded is not None)
    reasons = [f"{count} {why}" for why, count in left_out.items()]
    return made + ([f"By {found.title}, excluded: {listed(reasons, _SHOWN)}."] if reasons else [])


def _standings(members: Sequence[Standing]) -> str:
    """Who is on the frontier, and the variant whose removal would shrink it most, by point values."""
    known = [(standing.verdict.probability, standing) for standing in members if standing.verdict is not None]
    known.sort(key=lambda pair: -(pair[0] or 0.0))
    if all(probability is None for probability, _ in known):
        alone = listed([standing.variant.label for standing in members if standing.on_frontier], _SHOWN)
        text = f"on the frontier by the point values: {alone}; without intervals, confidence is unknown"
    else:
        parts = []
        states = {FrontierState.ON_FRONTIER: "on the frontier (P ≥ 0.95)", FrontierState.INCONCLUSIVE: "inconclusive"}
        for state, words in states.items():
            names = [f"{s.variant.label} (P {chance or 0.0:.2f})" for chance, s in known if s.state == state.value]
            parts.append(f"{words}: {listed(names, _SHOWN) or 'none'}")
        dominated = sum(standing.state == FrontierState.DOMINATED.value for standing in members)
        text = "; ".join([*parts, f"{dominated} dominated"])
    volumes = [(standing.hypervolume_lost, standing) for standing in members if standing.hypervolume_lost]
    if len(volumes) < 2:
        return text
    lost, most = max(volumes, key=lambda pair: pair[0])
    return f"{text}; without {most.variant.label}, the hypervolume would be {lost * 100:.0f} % smaller"


def listed(names: Sequence[str], shown: int = _SHOWN_NAMES) -> str:
    """Names separated by commas; those beyond `shown` are counted."""
    head = ", ".join(names[:shown])
    return f"{head} and {len(names) - shown} more" if len(names) > shown else head


def _pp(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no negative zero


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")
