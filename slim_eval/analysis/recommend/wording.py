"""A recommendation in words and as a table, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.outcome import Candidate, CheckState, Reading, Recommendation
from slim_eval.analysis.recommend.question import COST
from slim_eval.analysis.tables.verdict_table import panel
from slim_eval.analysis.verdict import Verdict
from slim_eval.metrics import Metric
from slim_eval.utils import number, wrapped_name
from slim_eval.utils.word_table import Column, WordTable

_ABSENT = "-"


def renderable(found: Recommendation) -> RenderableType:
    """The verdict, all variants as a table of the deciding numbers and the costs, sentences, and the caveats."""
    verdict = found.verdict or Verdict(answer_of(found), "", "", confidence_of(found), change_of(found), ())
    rows = found.ranking.candidates
    readings: dict[Metric, list[str]] = {}
    for candidate in rows:
        for metric, reading in {reading.metric: reading for reading in candidate.readings}.items():
            readings.setdefault(metric, []).append(_value(reading, unit=False))
    criteria = [
        *((metric.header, texts) for metric, texts in readings.items()),
        ("balance", [_plain(candidate.balance) for candidate in rows]),
        ("wins", [_ABSENT if candidate.wins is None else share_words(candidate.wins) for candidate in rows]),
        ("J / correct answer", [_plain(candidate.costs.joules_per_correct_answer) for candidate in rows]),
        ("money / correct answer", [_plain(candidate.costs.money_per_correct_answer) for candidate in rows]),
        (COST.header, [_plain(candidate.costs.money_per_million_tokens) for candidate in rows]),
    ]
    filled = [column for column in dict(criteria).items() if set(column[1]) != {_ABSENT}]
    return Group(
        panel(verdict, f"Recommendation: {title_of(found)}"),
        _table(found, filled),
        *(Text(text) for text in evidence_of(found)),
        *(Text(f"caveat: {text}", style="yellow") for text in found.caveats),
    )


def title_of(found: Recommendation) -> str:
    """What was asked for: a preset, or what should be best."""
    return found.goal.preset or " and ".join(_best(objective) for objective in found.ranking.objectives)


def sentences(found: Recommendation) -> list[str]:
    """The pick, the runner-up, the confidence, why the others were ruled out, and what could change the answer."""
    evidence, confidence = evidence_of(found), confidence_of(found)
    head, rest = (evidence[:1], evidence[1:]) if found.constraints else ([], evidence)
    runner_up, others = (rest[:1], rest[1:]) if found.pick is not None else ([], rest)
    confident = [f"Confidence: {confidence}"] if confidence else []
    return [*head, answer_of(found), *runner_up, *confident, *others, change_of(found)]


def answer_of(found: Recommendation) -> str:
    """The variant to deploy, its numbers, and what it is the best of."""
    if found.pick is None:
        closest = "" if found.closest is None else f" T{found.closest.text[1:]}."
        return f"Pick: none of the {len(found.ranking.candidates)} variants qualifies.{closest}"
    return _pick(found, found.pick)


def confidence_of(found: Recommendation) -> str:
    """With what confidence the pick is the best; empty without a pick."""
    ranking, pick = found.ranking, found.pick
    if pick is None:
        return ""
    if pick.wins is None or ranking.resamples is None:
        return "unknown. None of the deciding values has an interval, so the order may be chance."
    confidence = f"it wins {share_words(pick.wins)} of {ranking.resamples:,} resamples within the 95 % intervals"
    rivals = [candidate for candidate in ranking.running if candidate is not pick and candidate.wins]
    best = max(rivals, key=lambda candidate: candidate.wins or 0, default=None)
    confidence += "." if best is None else f"; {best.name} wins {share_words(best.wins or 0)}."
    readings = [r for candidate in ranking.running for r in candidate.objectives if r.value is not None]
    varied = {r.metric.title for r in readings if r.low is not None}
    fixed = dict.fromkeys(r.metric.title for r in readings if r.metric.title not in varied and not r.metric.exact)
    if fixed and not varied and len(ranking.running) > 1:  # the resamples tell who meets the constraints, no more
        lack = "has no interval" if len(fixed) == 1 else "have no intervals"
        names = " and ".join(fixed)
        return f"unknown. {names[0].upper()}{names[1:]} {lack}, so the order may be chance; held fixed, {confidence}"
    return confidence + (f" Held fixed, without an interval: {', '.join(fixed)}." if fixed else "")


def change_of(found: Recommendation) -> str:
    """What could change the answer."""
    if found.next_measurement is None:
        return "No single measurement is known to change this answer."
    return f"What could change the answer: {found.next_measurement.text}"


def evidence_of(found: Recommendation) -> list[str]:
    """The constraints, the runner-up, the answers at other loads, and why the others were ruled out."""
    ranking, second = found.ranking, found.runner_up
    lines = [f"Constraints: {'; '.join(map(str, found.constraints))}."] if found.constraints else []
    if found.pick is not None:
        lines.append("Runner-up: none." if second is None else f"Runner-up: {second.name}: {_readings(second)}.")
    for other in found.others:
        if other.load is None or other.load == ranking.load:
            continue
        count, total = len(other.running), len(other.candidates)
        answer = f"none of {total} qualifies"
        if other.pick is not None:
            among = f"the best of {count} that qualify, of {total} variants" if count > 1 else "the only one"
            among += f" that qualifies, of {total} variants" if count == 1 < total else ""
            answer = f"{other.pick.name}, {_readings(other.pick)}; {among}"
        lines.append(f"At load {other.load}: {answer}.")
    out: dict[str, list[str]] = {}  # constraint or missing number -> the variants that it ruled out
    for candidate in ranking.candidates:
        for check in candidate.checks_in(CheckState.VIOLATED):
            text = f"{candidate.name} ({_value(check.reading)})"
            out.setdefault(f"Ruled out by {check.constraint}", []).append(text)
        for lack in candidate.missing:
            out.setdefault(f"Ruled out, {lack}", []).append(candidate.name)
    everyone = len(ranking.candidates)
    for why, names in out.items():
        lines.append(f"{why}: {f'all {everyone}' if len(names) == everyone else ', '.join(names)}.")
    return lines


def _pick(found: Recommendation, pick: Candidate) -> str:
    objectives, running, total = found.ranking.objectives, found.ranking.running, len(found.ranking.candidates)
    fair = [candidate for candidate in running if candidate.keeps_all]
    among = "all compared" if len(objectives) > 1 else f"{len(running)} variants"
    if found.constraints:
        among = f"the {len(fair or running)} of {total} variants that {'meet' if fair else 'may meet'} every constraint"
    if len(fair or running) == 1:
        reason = f"the only one left of {total} variant{'s' if total > 1 else ''}"
    elif len(objectives) > 1:
        reason = f"the best balance of {', '.join(objective.metric.title for objective in objectives)} among {among}"
    else:
        reason = f"the {_best(objectives[0])} measured among {among}"
    load = "" if found.ranking.load is None else f" at load {found.ranking.load}"
    text = f"Pick{load}: {pick.name}: {_readings(pick)}; {reason}."
    known = [f"{task} {_percent(share)}" for task, share in pick.recoveries.items() if share is not None]
    if known and not pick.variant.is_baseline:
        text += f" Accuracy relative to its baseline: {', '.join(known)}."
    for check in pick.checks_in(CheckState.INCONCLUSIVE):
        text += f" Inconclusive: {check.constraint} ({_value(check.reading)})."
    return text


def _best(objective: Objective) -> str:
    best, title = "highest" if objective.maximise else "lowest", objective.metric.title
    return title if title.startswith(best) else f"{best} {title}"


def _readings(candidate: Candidate) -> str:
    shown = [f"{reading.metric.title} {_value(reading)}" for reading in candidate.objectives]
    if candidate.balance is not None:
        shown.append(f"balance {number(candidate.balance)} (1: the best in everything)")
    return ", ".join(shown)


def _value(reading: Reading, *, unit: bool = True) -> str:
    """A value with its unit and interval: ``12.3 ms [12.1, 12.5]``."""
    if reading.value is None:
        return _ABSENT
    text = reading.metric.text(reading.value, unit=unit) + (" (computed)" if reading.computed else "")
    if reading.low is None or reading.high is None:
        return text
    return f"{text} [{reading.metric.text(reading.low, unit=False)}, {reading.metric.text(reading.high, unit=False)}]"


def share_words(share: float) -> str:
    """A share of draws in percent; 0 and 100 % only if exact."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return _percent(share)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _plain(value: float | None) -> str:
    return _ABSENT if value is None else number(value)


def _table(found: Recommendation, columns: Sequence[tuple[str, Sequence[str]]]) -> WordTable:
    """Every variant of the setting, best first; columns are headers, each with one text per variant.

    The standing is one or two words; the sentences below the table explain why a variant was ruled out.
    """
    candidates = found.ranking.candidates
    names, standings, styles = [], [], []
    for index, candidate in enumerate(candidates):
        role = ("pick", "runner-up")[index] if index < 2 else ""
        unsure = candidate.checks_in(CheckState.INCONCLUSIVE)
        standing, style = "; ".join(filter(None, (role, "inconclusive" if unsure else ""))), "" if index else "bold"
        if candidate.excluded is not None:
            standing, style = "out", "bright_black"
        names.append(f"{wrapped_name(candidate.variant.name)} {candidate.variant.shown_precision}")
        standings.append(standing)
        styles.append(style)
    head = [
        Column("variant", names, left=True, key=True, styles=styles),
        Column("standing", standings, left=True, styles=styles),
    ]
    judged = {} if found.verdict is None else {v.variant.directory: v.word.value for v in found.verdict.variants}
    words = [judged.get(candidate.variant.directory, "") for candidate in candidates]
    if any(words):
        head.append(Column("verdict", words, left=True))
    return WordTable([*head, *(Column(header, texts, styles=styles) for header, texts in columns)])
