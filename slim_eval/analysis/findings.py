"""The findings of an analysis in words: what was measured, the results, their confidence, and what remains unknown."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slim_eval.analysis.caveats import is_emulated
from slim_eval.analysis.comparability import comparable_groups, confounding
from slim_eval.analysis.compare.items import DEGRADED, EQUIVALENT, UNDERPOWERED
from slim_eval.analysis.impact import BASIS_PER_TOKEN, Impact
from slim_eval.analysis.pareto.dominance import FrontierState
from slim_eval.analysis.pareto.frontier import Frontier, Standing
from slim_eval.analysis.study import Study
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
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Estimate, Interval, Variant
from slim_eval.schemes import in_order

WIDTH = 100
_SHOWN = 10  # members of a frontier, lines of problems
_SHOWN_VARIANTS, _SHOWN_IMPACTS, _SHOWN_GROUPS, _SHOWN_NAMES = 6, 8, 4, 5
_HEADLINES = (TTFT, TPOT, E2E, THROUGHPUT, WEIGHTS, PEAK_MEMORY, J_PER_TOKEN, DISK)


@dataclass(frozen=True)
class Section:
    """A heading and its sentences.

    Attributes:
        apart: Whether `report.html` shows it in a separate part.
    """

    heading: str
    sentences: tuple[str, ...]
    apart: bool = False


def find(study: Study, frontiers: Sequence[Frontier] = (), problems: Sequence[str] = ()) -> list[Section]:
    """The findings under their headings; headings without sentences are omitted.

    Args:
        study: What was measured.
        frontiers: From `pareto.frontier.find_frontiers`.
        problems: Files that could not be read and benchmarks that failed.
    """
    caveats = [_about(study, caveat.variants, caveat.text) for caveat in study.caveats]
    found = [
        Section("What was measured", tuple(_measured(study))),
        Section("What differs between the measurements", tuple(setting_findings(study))),
        Section(
            "Quantized against the baseline",
            tuple(_impacts(study) or ["No model has both a baseline and another variant."]),
        ),
        Section("Best by each measure", tuple(_best(study))),
        Section("Pareto frontier", tuple(text for each in frontiers for text in frontier_findings(each))),
        Section("What these results cannot support", tuple(caveats), apart=True),
        Section("What was not measured", tuple(_missing(study, problems)), apart=True),
        Section("Notes in the records", tuple(_notes(study)), apart=True),
    ]
    return [section for section in found if section.sentences]


def executive_summary(found: Sequence[Section]) -> str:
    """Sections as plain text of at most `WIDTH` columns; longer names are not broken."""
    parts = ["slim-eval: executive summary\n============================"]
    for section in found:
        lines = [_wrapped(sentence) for sentence in section.sentences]
        parts.append("\n".join([section.heading, "-" * len(section.heading), *lines]))
    return "\n\n".join(parts) + "\n"


def setting_findings(study: Study) -> list[str]:
    """What differs in engine, hardware and settings: between groups, which are not compared, and within them."""
    groups = comparable_groups(study.variants)
    members = groups.members(study.variants)
    made = []
    if len(members) > 1:
        sizes = [f"{name} ({_count(len(found), 'variant')})" for name, found in members.items()][:_SHOWN]
        more = [f"{len(members) - _SHOWN} more"] if len(members) > _SHOWN else []
        named = "; ".join([*sizes, *more])
        made.append(f"{len(members)} settings, whose speed and energy are not compared with each other: {named}.")
        made += [f"{text}, compared with {groups.names[0]}." for text in groups.differences[:_SHOWN]]
    for name, found in members.items():
        for key, words in (("engine_version", "engine versions"), ("dtype", "16-bit types")):
            values = sorted({str(fact) for variant in found if (fact := variant.fact(key)) is not None})
            if len(values) > 1:
                made.append(f"{name}: {words} differ ({', '.join(values)}); the variants are still compared.")
    return made


def frontier_findings(found: Frontier) -> list[str]:
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
        made.append(
            f"By {found.title}{where}, {_count(len(members), 'variant')}: {_standings(members)}{_most(members)}{doubt}."
        )
    left_out = Counter(standing.excluded for standing in found.standings if standing.excluded is not None)
    reasons = [f"{count} {why}" for why, count in left_out.items()]
    return made + ([f"By {found.title}: left out: {listed(reasons, _SHOWN)}."] if reasons else [])


def listed(names: Sequence[str], shown: int = _SHOWN_NAMES) -> str:
    """Names separated by commas; those beyond `shown` are counted."""
    head = ", ".join(names[:shown])
    return f"{head} and {len(names) - shown} more" if len(names) > shown else head


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


# Frontiers


def _most(members: Sequence[Standing]) -> str:
    """The variant whose removal would shrink the frontier most, by point values."""
    known = [(standing.hypervolume_lost, standing) for standing in members if standing.hypervolume_lost]
    if len(known) < 2:
        return ""
    lost, most = max(known, key=lambda pair: pair[0])
    return f"; without {most.variant.label} it would cover {lost * 100:.0f} % less (hypervolume)"


def _standings(members: Sequence[Standing]) -> str:
    known = [(standing.verdict.probability or 0.0, standing) for standing in members if standing.verdict is not None]
    if all(standing.verdict is None or standing.verdict.probability is None for standing in members):
        alone = listed([standing.variant.label for standing in members if standing.on_frontier], _SHOWN)
        return f"on the frontier by the point values: {alone}; without intervals, confidence is unknown"
    parts = []
    for state, words in (
        (FrontierState.ON_FRONTIER, "on the frontier (P ≥ 0.95):"),
        (FrontierState.INCONCLUSIVE, "inconclusive:"),
    ):
        chosen = sorted((pair for pair in known if pair[1].state == state.value), key=lambda pair: -pair[0])
        names = [f"{standing.variant.label} (P {probability:.2f})" for probability, standing in chosen]
        parts.append(f"{words} {listed(names, _SHOWN) or 'none'}")
    dominated = sum(standing.state == FrontierState.DOMINATED.value for standing in members)
    return "; ".join([*parts, f"{dominated} dominated"])


# What was measured


def _measured(study: Study) -> list[str]:
    counts = Counter(variant.precision for variant in study.variants)
    each = ", ".join(f"{count} at {precision}" for precision, count in counts.items())
    models = len({variant.model for variant in study.variants})
    groups = comparable_groups(study.variants).names
    made = [f"{_count(len(study.variants), 'variant')} of {_count(models, 'model')}: {each}."]
    if len(groups) == 1 and groups[0] != "all":
        made.append(f"Speed and energy: one setting, {groups[0]}.")
    if study.tasks:
        made.append(f"Accuracy: {', '.join(f'{task} ({_headline(study, task)})' for task in study.tasks)}.")
    return made


def _headline(study: Study, task: str) -> str:
    found = [v.accuracy[task].metric for v in study.variants if v.number(task) is not None]
    return " or ".join(dict.fromkeys(metric or "metric unknown" for metric in found))


def _about(study: Study, labels: Sequence[str], text: str) -> str:
    everywhere = len(labels) == len(study.variants) > 1
    return f"{'all variants' if everywhere else listed(labels, _SHOWN_VARIANTS)}: {text}."


def _notes(study: Study) -> list[str]:
    notes: dict[str, dict[str, None]] = {}
    for variant in study.variants:
        for note in dict.fromkeys(note for record in variant.records for note in record.notes):
            notes.setdefault(note, {})[variant.label] = None
    made = [_about(study, tuple(labels), note.rstrip(".")) for note, labels in notes.items()]
    return _capped(made, "notes")


def _missing(study: Study, problems: Sequence[str]) -> list[str]:
    nowhere = [metric.title for metric in _HEADLINES if not study.is_measured(metric)]
    made = [f"In no variant: {', '.join(nowhere)}."] if nowhere else []
    lacking: dict[tuple[str, ...], list[str]] = {}
    for metric in (*_HEADLINES, *study.task_metrics):
        without = tuple(variant.label for variant in study.variants if variant.number(metric) is None)
        if without and len(without) < len(study.variants):
            lacking.setdefault(without, []).append(metric.title)
    made += [
        f"{', '.join(things)}: missing in {listed(variants, _SHOWN_VARIANTS)}." for variants, things in lacking.items()
    ]
    invalid = [variant.label for variant in study.variants if variant.valid is False]
    if invalid:
        made.append(
            f"Energy marked invalid in the record, and therefore not compared: {listed(invalid, _SHOWN_VARIANTS)}."
        )
    return made + _capped([f"Problem: {problem.rstrip('.')}." for problem in problems], "problems")


def _capped(sentences: Sequence[str], things: str) -> list[str]:
    more = len(sentences) - _SHOWN
    return [*sentences[:_SHOWN], *([f"{more} more {things} in complete_results.json."] if more > 0 else [])]


# Against the baseline

_VERDICTS = {EQUIVALENT: "equivalent", DEGRADED: "degraded", UNDERPOWERED: "inconclusive"}
#: The number, its words for a range over variants, how it is written, and what would be no change.
_SPREADS: tuple[tuple[Callable[[Impact], Estimate | None], str, str, float | None], ...] = (
    (lambda impact: impact.speedups.get("tpot_speedup"), "TPOT speed-up {}", "{:.2f}x", 1.0),
    (lambda impact: impact.speedups.get("per_token_speedup"), "throughput ratio {}", "{:.2f}x", 1.0),
    (lambda impact: impact.energy_reduction, "energy saved: {}", "{:.1f} %", 0.0),
    (lambda impact: _estimate(impact.size_ratio), "{} smaller on disk", "{:.2f}x", None),
)


@dataclass(frozen=True)
class _Unmeasured:
    """What no variant of a scheme has, so that it is stated only once."""

    intervals: bool = False
    verdicts: bool = False


def _estimate(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value)


def _impacts(study: Study) -> list[str]:
    """For each scheme, one sentence on speed, energy, size and each task, then its variants."""
    made: list[str] = []
    for precision in in_order(impact.variant.precision for impact in study.impacts):
        chosen = [impact for impact in study.impacts if impact.variant.precision == precision]
        pairs = {i.variant.directory: {p.task: p for p in study.paired.get(i.variant.directory, ())} for i in chosen}
        lacking = _Unmeasured()
        if len(chosen) > 1:
            made += [f"{precision}, {text}." for text in _overall(chosen, study.tasks, pairs)]
            estimates = [read(impact) for impact in chosen for read, *_, neutral in _SPREADS if neutral is not None]
            lacking = _Unmeasured(
                intervals=not any(estimate and estimate.interval for estimate in estimates),
                verdicts=not any(pair.verdict for found in pairs.values() for pair in found.values()),
            )
        for impact in chosen[:_SHOWN_IMPACTS]:
            parts = [
                *_speed(study, impact, lacking),
                *_energy(study, impact, lacking),
                *_size(impact),
                *_accuracy(study, impact, pairs[impact.variant.directory], lacking),
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
    by_tpot = any("tpot_speedup" in impact.speedups for impact in chosen)  # throughput would repeat it
    spreads = [spread for index, spread in enumerate(_SPREADS) if not (by_tpot and index == 1)]
    parts = [*(_spread(chosen, *spread) for spread in spreads), *_drops(chosen, tasks, pairs)]
    confounded = [i.variant.name for i in chosen if i.length_confounded and "speedup" in i.speedups]
    if confounded:
        parts.append(
            f"the latency ratios of {listed(confounded)} compare different numbers of output tokens and are not "
            "speed-ups"
        )
    return [text for text in parts if text]


def _spread(
    chosen: Sequence[Impact],
    read: Callable[[Impact], Estimate | None],
    words: str,
    form: str,
    neutral: float | None,
) -> str | None:
    """A range over variants; how many differ from no change beyond their interval, and in which direction."""
    found = [(impact, estimate) for impact in chosen if (estimate := read(impact)) is not None]
    if not found:
        return None
    values = [estimate.value for _, estimate in found]
    low, middle, high = (form.format(value + 0.0) for value in (min(values), statistics.median(values), max(values)))
    words = words.format(low if low == high else f"{low} to {high} (median {middle})")
    if read(found[0][0]) is found[0][0].energy_reduction and any(i.energy_basis != BASIS_PER_TOKEN for i, _ in found):
        words += ", over whole runs with unknown output lengths"
    if neutral is not None:
        words += f"; {_confidence([estimate.interval for _, estimate in found], neutral)}"
    return f"{len(found)} of {len(chosen)} variants: {words}"


def _confidence(intervals: Sequence[Interval | None], neutral: float) -> str:
    known = [interval for interval in intervals if interval is not None]
    if not known:
        return "no intervals, so this may be chance"
    better, worse = sum(low > neutral for low, _ in known), sum(high < neutral for _, high in known)
    parts = f"beyond the 95 % interval: {better} better, {worse} worse, {len(known) - better - worse} inconclusive"
    return parts + (f", {len(intervals) - len(known)} without an interval" if len(known) < len(intervals) else "")


def _drops(chosen: Sequence[Impact], tasks: Sequence[str], pairs: Mapping[Path, Mapping[str, PairedTask]]) -> list[str]:
    """The drops of all tasks; those with the same verdicts in one sentence."""
    reasons: dict[str, list[str]] = {}
    for task in tasks:
        values = [impact.drops[task].pp for impact in chosen if task in impact.drops]
        if not values:
            continue
        low, high = _pp(min(values)), _pp(max(values))
        verdicts = [p.verdict for i in chosen if (p := pairs[i.variant.directory].get(task)) and p.verdict]
        counted = [f"{verdicts.count(verdict)} {word}" for verdict, word in _VERDICTS.items() if verdict in verdicts]
        if len(verdicts) < len(values):
            bare = str(len(values) - len(verdicts)) if verdicts else "all"
            counted.append(f"{bare} without per-item outcomes, so chance cannot be ruled out")
        why = f"{len(values)} of {len(chosen)} variants: {', '.join(counted)}"
        reasons.setdefault(why, []).append(f"{task} {low} pp" if low == high else f"{task} {low} to {high} pp")
    return [f"drops of {', '.join(spans)}, {why}" for why, spans in reasons.items()]


def _speed(study: Study, impact: Impact, lacking: _Unmeasured) -> list[str]:
    made: list[str] = []
    for name, metric, words in (
        ("tpot_speedup", TPOT, "TPOT speed-up {:.2f}x"),
        ("per_token_speedup", THROUGHPUT, "throughput ratio {:.2f}x"),
    ):
        found = impact.speedups.get(name)
        if found is not None and not made:
            span = _interval(found.interval, "x", 2, lacking)
            made.append(words.format(found.value) + span + _noise(study, impact.variant, metric))
    latency = impact.speedups.get("speedup")
    if latency is not None and impact.length_confounded and impact.baseline is not None:
        lengths = (
            f"{impact.variant.tokens_per_request:.1f} output tokens per request against "
            f"{impact.baseline.tokens_per_request:.1f}"
        )
        made.append(f"the latency ratio {latency.value:.2f}x compares different work ({lengths})")
    elif latency is not None and "tpot_speedup" not in impact.speedups:
        lengths = "" if impact.length_confounded is False else ", output lengths unknown"
        made.append(f"latency ratio {latency.value:.2f}x{lengths}")
    if made and impact.variant.kernels == "emulated":
        made.append("emulated kernels: this does not predict the speed of a deployment")
    return made


def _energy(study: Study, impact: Impact, lacking: _Unmeasured) -> list[str]:
    saved = impact.energy_reduction
    if saved is None:
        return []
    way = "less" if saved.value >= 0 else "more"
    basis = "per output token" if impact.energy_basis == BASIS_PER_TOKEN else f"({impact.energy_basis})"
    span = saved.interval
    if span is not None and saved.value < 0:
        span = -span[1], -span[0]
    noise = _noise(study, impact.variant, J_PER_TOKEN)
    return [f"{abs(saved.value):.1f} % {way} energy {basis}{_interval(span, ' %', 1, lacking)}{noise}"]


def _size(impact: Impact) -> list[str]:
    found = ((impact.size_ratio, "on disk"), (impact.weights_ratio, "as loaded"))
    parts = [f"{ratio:.2f}x smaller {where}" for ratio, where in found if ratio is not None]
    return [" and ".join(parts)] if parts else []


def _accuracy(study: Study, impact: Impact, pairs: Mapping[str, PairedTask], lacking: _Unmeasured) -> list[str]:
    judged, bare = [], []
    for task in study.tasks:
        pair = pairs.get(task)
        if task not in impact.drops:
            continue
        if pair is not None and pair.verdict and pair.drop_pp is not None:
            span = _interval(pair.interval_pp, " pp", 1)
            judged.append(f"{task} drops {_pp(pair.drop_pp)} pp{span}: {_verdict(pair)}")
        else:
            bare.append(f"{task} {_pp(impact.drops[task].pp)} pp")
    doubt = "" if lacking.verdicts else ": without per-item outcomes, so this may be chance"
    return [*judged, *([f"drops of {', '.join(bare)}{doubt}"] if bare else [])]


def _verdict(pair: PairedTask) -> str:
    word, margin = _VERDICTS[pair.verdict or UNDERPOWERED], f"margin {pair.margin_pp:g} pp"
    if pair.verdict == UNDERPOWERED and pair.items_needed:
        return f"{word}: needs {pair.items_needed:,} items, {pair.num_items:,} were measured ({margin})"
    return f"{word} ({margin})"


def _interval(found: Interval | None, unit: str, digits: int, lacking: _Unmeasured | None = None) -> str:
    if found is None:
        return "" if lacking and lacking.intervals else " (no interval)"
    return f" (95 % interval {found[0]:.{digits}f} to {found[1]:.{digits}f}{unit})"


def _noise(study: Study, variant: Variant, metric: Metric) -> str:
    return ", within the noise floor" if metric.key in study.within_noise(variant) else ""


# Best by each measure


@dataclass(frozen=True)
class _Measure:
    """A way to be best: by the first of the metrics that was measured in a group.

    Attributes:
        words: Description of the best variant.
        metrics: In the order of preference.
        only_confounded: Stated only as a warning, if it compares different work.
    """

    words: str
    metrics: tuple[Metric, ...]
    only_confounded: bool = False


_MEASURES = (
    _Measure("Fastest per output token", (TPOT, THROUGHPUT)),
    _Measure("Lowest amortised latency", (AMORTISED,), only_confounded=True),
    _Measure("Lowest energy", ENERGIES),
    _Measure("Most accurate", (ACCURACY_MEAN,)),
    _Measure("Smallest on disk", (DISK,)),
    _Measure("Smallest as loaded", (WEIGHTS,)),
)


def _best(study: Study) -> list[str]:
    """The best by speed per token, energy, accuracy and size; one sentence per setting.

    Emulated kernels and invalid energy are excluded.
    """
    made = [sentence for measure in _MEASURES for sentence in _best_by(measure, study)]
    known = any(v.interval(metric) for v in study.variants for measure in _MEASURES for metric in measure.metrics)
    method = (
        "Two numbers differ if the 95 % interval of their difference excludes 0; it does not include run-to-run "
        "variance."
    )
    return [*made, method] if made and known else made


def _best_by(measure: _Measure, study: Study) -> list[str]:
    taking = [
        variant for variant in study.variants
        if any(variant.number(metric) is not None for metric in measure.metrics)
        and all(variant.counts(metric) and not is_emulated(metric, variant) for metric in measure.metrics)
    ]  # fmt: skip
    groups = comparable_groups(taking, measure.metrics).members(taking)
    several = {name: members for name, members in groups.items() if len(members) > 1}
    made = []
    for name, members in (several or groups).items():  # a variant alone is the best only if nothing else can be said
        metric = next((m for m in measure.metrics if any(v.number(m) is not None for v in members)), None)
        found = [v for v in members if metric is not None and v.number(metric) is not None]
        confounded = confounding(found, [metric]) if metric is not None else None
        if metric is None or (measure.only_confounded and not confounded):
            continue
        where = f" ({name})" if len(groups) > 1 else ""
        warning = f". Confounded: {confounded}" if confounded else ""
        made.append(f"{measure.words}{where}: {_winner(metric, found)}{warning}.")
    more = len(made) - _SHOWN_GROUPS
    return made[:_SHOWN_GROUPS] + ([f"{measure.words}: {more} more settings in the tables."] if more > 0 else [])


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
        return f"{made}; not distinguishable beyond chance from {listed(undecided)}" if undecided else made
    return f"{made}; ahead of all others beyond their 95 % intervals ({following})"


def _text(metric: Metric, estimate: Estimate) -> str:
    text = f"{metric.text(estimate.value)} {metric.title}"
    if estimate.interval is None:
        return text
    low, high = (metric.text(end, unit=False) for end in estimate.interval)
    return f"{text} [{low} to {high}]"


# Words


def _pp(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no negative zero


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")


def _wrapped(sentence: str) -> str:
    whole = re.sub(r"(?<=\d) (?=(%|pp|ms|GiB|J|x)\b|%)", "\u00a0", sentence)  # a number keeps its unit beside it
    filled = textwrap.fill(
        whole, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return filled.replace("\u00a0", " ")
