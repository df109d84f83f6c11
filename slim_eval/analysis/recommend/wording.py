"""A recommendation in words and as a table, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.outcome import Candidate, CheckState, Ranking, Reading, Recommendation
from slim_eval.analysis.recommend.question import COST
from slim_eval.metrics import Metric
from slim_eval.utils import number, wrapped_name

_ABSENT = "-"
_NOTHING_DECISIVE = "No single measurement is known to change this answer."
_Columns = Sequence[tuple[str, Sequence[str]]]  # headers, with one text per variant


def renderable(found: Recommendation) -> RenderableType:
    """The findings as sentences, all variants as a table, and the caveats."""
    return Group(
        Panel(Text("\n".join(sentences(found))), title=f"Recommendation: {_aim(found)}", title_align="left"),
        *(table for columns in (_criteria(found), _costs(found)) for table in _tables(found, columns)),
        *(Text(f"caveat: {text}", style="yellow") for text in found.caveats),
    )


def sentences(found: Recommendation) -> list[str]:
    """The pick, the runner-up, the confidence, why the others were ruled out, and what could change the answer."""
    pick = found.pick
    if pick is None:
        closest = "" if found.closest is None else f" T{found.closest.text[1:]}."
        lines = [f"Pick: none of the {len(found.ranking.candidates)} variants qualifies.{closest}"]
    else:
        lines = [_pick(found, pick), _runner_up(found), _confidence(found, pick)]
    if found.constraints:
        lines.insert(0, f"Constraints: {'; '.join(map(str, found.constraints))}.")
    decisive = (
        f"What could change the answer: {found.next_measurement.text}"
        if found.next_measurement is not None
        else _NOTHING_DECISIVE
    )
    return [*lines, *_ruled_out(found.ranking), decisive]


def _aim(found: Recommendation) -> str:
    if found.goal.preset is not None:
        return found.goal.preset
    return " and ".join(_best(objective) for objective in found.ranking.objectives)


def _best(objective: Objective) -> str:
    return f"{'highest' if objective.maximise else 'lowest'} {objective.metric.title}"


def _pick(found: Recommendation, pick: Candidate) -> str:
    running = found.ranking.running
    fair = [candidate for candidate in running if candidate.keeps_all]
    among = f"the {len(fair or running)} of {len(found.ranking.candidates)} variants that"
    whose = f"{among} {'meet every constraint' if fair else 'may meet every constraint'}"
    if len(fair or running) == 1:
        reason = f"the only one left of {len(found.ranking.candidates)} variants"
    elif len(found.ranking.objectives) > 1:
        parts = ", ".join(objective.metric.title for objective in found.ranking.objectives)
        reason = f"the best balance of {parts} among {whose if found.constraints else 'all compared'}"
    else:
        best = _best(found.ranking.objectives[0])
        reason = f"the {best} measured among {whose if found.constraints else f'{len(running)} variants'}"
    text = f"Pick: {pick.name}: {_readings(pick)}; {reason}."
    known = [f"{task} {_percent(share)}" for task, share in pick.recoveries.items() if share is not None]
    if known and not pick.variant.is_baseline:
        text += f" Accuracy relative to its baseline: {', '.join(known)}."
    for check in pick.inconclusive:
        text += f" Inconclusive: {check.constraint} ({_value(check.reading)})."
    return text


def _runner_up(found: Recommendation) -> str:
    second = found.runner_up
    return "Runner-up: none." if second is None else f"Runner-up: {second.name}: {_readings(second)}."


def _confidence(found: Recommendation, pick: Candidate) -> str:
    if pick.wins is None or found.ranking.resamples is None:
        return "Confidence: unknown. None of the deciding values has an interval, so the order may be chance."
    text = f"Confidence: it wins {_share(pick.wins)} of {found.ranking.resamples:,} resamples within the 95 % intervals"
    rivals = [c for c in found.ranking.running if c is not pick and c.wins]
    best = max(rivals, key=lambda candidate: candidate.wins or 0, default=None)
    return f"{text}." if best is None else f"{text}; {best.name} wins {_share(best.wins or 0)}."


def _ruled_out(ranking: Ranking) -> list[str]:
    """One sentence for each constraint or missing number, with the variants that it ruled out."""
    out: dict[str, list[str]] = {}
    for candidate in ranking.candidates:
        for check in candidate.checks:
            if check.state is CheckState.VIOLATED:
                text = f"{candidate.name} ({_value(check.reading)})"
                out.setdefault(f"Ruled out by {check.constraint}", []).append(text)
        for lack in candidate.missing:
            out.setdefault(f"Ruled out, {lack}", []).append(candidate.name)
    everyone = len(ranking.candidates)
    return [
        f"{why}: {f'all {everyone}' if len(names) == everyone else ', '.join(names)}." for why, names in out.items()
    ]


def _readings(candidate: Candidate) -> str:
    shown = [f"{reading.metric.title} {_value(reading)}" for reading in candidate.objectives]
    if candidate.balance is not None:
        shown.append(f"balance {number(candidate.balance)} (1: the best in everything)")
    return ", ".join(shown)


def _value(reading: Reading) -> str:
    """A value with its unit and interval: ``12.3 ms [12.1, 12.5]``."""
    if reading.value is None:
        return _ABSENT
    return f"{reading.metric.text(reading.value)}{_interval(reading)}"


def _interval(reading: Reading) -> str:
    if reading.low is None or reading.high is None:
        return ""
    return f" [{reading.metric.text(reading.low, unit=False)}, {reading.metric.text(reading.high, unit=False)}]"


def _share(share: float) -> str:
    """A share of draws in percent; 0 and 100 % only if exact."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return _percent(share)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _tables(found: Recommendation, columns: _Columns) -> list[Table]:
    """Every variant of the setting, best first, without empty columns; no table if all are empty."""
    columns = [column for column in columns if any(text != _ABSENT for text in column[1])]
    if not columns:
        return []
    table = Table()
    table.add_column("variant", no_wrap=True)
    table.add_column("standing", overflow="fold")
    for header, _ in columns:
        table.add_column(header, justify="right", overflow="fold")
    for index, candidate in enumerate(found.ranking.candidates):
        name = f"{wrapped_name(candidate.variant.name)} {candidate.variant.precision}"
        variants = [name, _standing(found, candidate), *(texts[index] for _, texts in columns)]
        table.add_row(*map(escape, variants), style=_style(found, candidate))
    return [table]


def _criteria(found: Recommendation) -> _Columns:
    """The deciding numbers."""
    rows = found.ranking.candidates
    readings: dict[Metric, list[Reading]] = {}
    for candidate in rows:
        own = {r.metric: r for r in (*candidate.objectives, *(check.reading for check in candidate.checks))}
        for metric, reading in own.items():
            readings.setdefault(metric, []).append(reading)
    return [
        *((metric.header, [_field(reading) for reading in own]) for metric, own in readings.items()),
        ("balance", [_plain(candidate.balance) for candidate in rows]),
        ("wins", [_ABSENT if candidate.wins is None else _share(candidate.wins) for candidate in rows]),
    ]


def _costs(found: Recommendation) -> _Columns:
    """The running costs."""
    costs = [candidate.costs for candidate in found.ranking.candidates]
    return [
        ("J / correct answer", [_plain(cost.joules_per_correct_answer) for cost in costs]),
        ("money / correct answer", [_plain(cost.money_per_correct_answer) for cost in costs]),
        (COST.header, [_plain(cost.money_per_million_tokens) for cost in costs]),
    ]


def _field(reading: Reading) -> str:
    if reading.value is None:
        return _ABSENT
    return f"{reading.metric.text(reading.value, unit=False)}{_interval(reading)}"


def _plain(value: float | None) -> str:
    return _ABSENT if value is None else number(value)


def _standing(found: Recommendation, candidate: Candidate) -> str:
    """One or two words; the sentences above the table explain why a variant was ruled out."""
    if candidate.excluded is not None:
        return "out"
    role = "pick" if candidate is found.pick else "runner-up" if candidate is found.runner_up else ""
    unsure = ", ".join(check.constraint.metric.title for check in candidate.inconclusive)
    return "; ".join(filter(None, (role, f"inconclusive: {unsure}" if unsure else "")))


def _style(found: Recommendation, candidate: Candidate) -> str:
    if candidate is found.pick:
        return "bold"
    return "bright_black" if candidate.excluded is not None else ""
