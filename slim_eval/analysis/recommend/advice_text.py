"""A recommendation in words and as a table, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from slim_eval.analysis.figures.style import wrapped_name
from slim_eval.analysis.pareto.objectives import Objective
from slim_eval.analysis.recommend.advice import Advice, Candidate, CheckState, Ranking, Reading
from slim_eval.analysis.recommend.wishes import COST, heading, label, said
from slim_eval.analysis.rules import BASELINE
from slim_eval.utils import number

_ABSENT = "-"
_Columns = Sequence[tuple[str, Sequence[str]]]  # headers, with a variant for each configuration


def renderable(advice: Advice) -> RenderableType:
    """The findings in sentences, then every configuration in a table, then what the numbers do not carry."""
    return Group(
        Panel(Text("\n".join(sentences(advice))), title=f"Recommendation: {_aim(advice)}", title_align="left"),
        *(table for columns in (_judged(advice), _costs(advice)) for table in _tables(advice, columns)),
        *(Text(f"caveat: {text}", style="yellow") for text in advice.caveats),
    )


def sentences(advice: Advice) -> list[str]:
    """The pick, the runner-up, how sure, what ruled out the others, and what could change the answer."""
    pick = advice.pick
    if pick is None:
        closest = "" if advice.closest is None else f" T{advice.closest.text[1:]}."
        found = [f"Pick: none of the {len(advice.ranking.candidates)} configurations fits.{closest}"]
    else:
        found = [_pick(advice, pick), _runner_up(advice), _how_sure(advice, pick)]
    if advice.constraints:
        found.insert(0, f"Asked for: {'; '.join(map(str, advice.constraints))}.")
    decisive = "nothing that is known." if advice.decisive is None else advice.decisive.text
    return [*found, *_ruled_out(advice.ranking), f"What could change the answer: {decisive}"]


def _aim(advice: Advice) -> str:
    if advice.goal.preset is not None:
        return advice.goal.preset
    return " and ".join(_best(objective) for objective in advice.ranking.objectives)


def _best(objective: Objective) -> str:
    return f"{'highest' if objective.maximise else 'lowest'} {label(objective.key)}"


def _pick(advice: Advice, pick: Candidate) -> str:
    running = advice.ranking.running
    fair = [candidate for candidate in running if candidate.keeps_all]
    among = f"the {len(fair or running)} of {len(advice.ranking.candidates)} configurations that"
    whose = f"{among} {'keep every constraint' if fair else 'may keep every constraint'}"
    if len(fair or running) == 1:
        reason = f"the only one of {len(advice.ranking.candidates)} configurations left"
    elif len(advice.ranking.objectives) > 1:
        parts = ", ".join(label(objective.key) for objective in advice.ranking.objectives)
        reason = f"the best balance of {parts} among {whose if advice.constraints else 'all compared'}"
    else:
        best = _best(advice.ranking.objectives[0])
        reason = f"the {best} measured among {whose if advice.constraints else f'{len(running)} configurations'}"
    text = f"Pick: {pick.name}: {_readings(pick)}; {reason}."
    known = [f"{task} {_percent(share)}" for task, share in pick.recoveries.items() if share is not None]
    if known and pick.row["precision"] != BASELINE:
        text += f" Of the {BASELINE} accuracy it keeps: {', '.join(known)}."
    for check in pick.unsure:
        text += f" It cannot be told whether its {check.constraint} holds: {_value(check.reading)}."
    return text


def _runner_up(advice: Advice) -> str:
    second = advice.runner_up
    return "Runner-up: none is left." if second is None else f"Runner-up: {second.name}: {_readings(second)}."


def _how_sure(advice: Advice, pick: Candidate) -> str:
    if pick.wins is None or advice.ranking.resamples is None:
        return "How sure: cannot be told. None of the values that decide has an interval, so the order may be chance."
    text = f"How sure: it wins {_share(pick.wins)} of {advice.ranking.resamples:,} resamples within the 95 % intervals"
    rivals = [c for c in advice.ranking.running if c is not pick and c.wins]
    best = max(rivals, key=lambda candidate: candidate.wins or 0, default=None)
    return f"{text}." if best is None else f"{text}; {best.name} wins {_share(best.wins or 0)}."


def _ruled_out(ranking: Ranking) -> list[str]:
    """One sentence for each constraint or missing number, with the configurations that it ruled out."""
    out: dict[str, list[str]] = {}
    for candidate in ranking.candidates:
        for check in candidate.checks:
            if check.state is CheckState.VIOLATED:
                text = f"{candidate.name} ({_value(check.reading)})"
                out.setdefault(f"Ruled out by {check.constraint}", []).append(text)
        for lack in candidate.lacks:
            out.setdefault(f"Ruled out, {lack}", []).append(candidate.name)
    everyone = len(ranking.candidates)
    return [
        f"{why}: {f'all {everyone}' if len(names) == everyone else ', '.join(names)}." for why, names in out.items()
    ]


def _readings(candidate: Candidate) -> str:
    shown = [f"{label(reading.key)} {_value(reading)}" for reading in candidate.objectives]
    if candidate.balance is not None:
        shown.append(f"{number(candidate.balance)} of the best of each")
    return ", ".join(shown)


def _value(reading: Reading) -> str:
    """A value with its unit and interval: ``12.3 ms [12.1, 12.5]``."""
    if reading.value is None:
        return _ABSENT
    return f"{said(reading.key, reading.value)}{_interval(reading)}"


def _interval(reading: Reading) -> str:
    if reading.low is None or reading.high is None:
        return ""
    return f" [{said(reading.key, reading.low, unit=False)}, {said(reading.key, reading.high, unit=False)}]"


def _share(share: float) -> str:
    """A share of draws in percent; none and all only where it is none and all."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return _percent(share)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _tables(advice: Advice, columns: _Columns) -> list[Table]:
    """Every configuration of the setting, best first, without the columns that hold no number; none if none does."""
    columns = [column for column in columns if any(text != _ABSENT for text in column[1])]
    if not columns:
        return []
    table = Table()
    table.add_column("configuration", no_wrap=True)
    table.add_column("standing", overflow="fold")
    for header, _ in columns:
        table.add_column(header, justify="right", overflow="fold")
    for index, candidate in enumerate(advice.ranking.candidates):
        name = f"{wrapped_name(candidate.row['name'])} {candidate.row['precision']}"
        variants = [name, _standing(advice, candidate), *(texts[index] for _, texts in columns)]
        table.add_row(*map(escape, variants), style=_style(advice, candidate))
    return [table]


def _judged(advice: Advice) -> _Columns:
    """What the configurations are judged by."""
    rows = advice.ranking.candidates
    readings: dict[str, list[Reading]] = {}
    for candidate in rows:
        own = {r.key: r for r in (*candidate.objectives, *(check.reading for check in candidate.checks))}
        for key, reading in own.items():
            readings.setdefault(key, []).append(reading)
    return [
        *((heading(key), [_variant(reading) for reading in own]) for key, own in readings.items()),
        ("balance", [_plain(candidate.balance) for candidate in rows]),
        ("wins", [_ABSENT if candidate.wins is None else _share(candidate.wins) for candidate in rows]),
    ]


def _costs(advice: Advice) -> _Columns:
    """What they cost to run."""
    costs = [candidate.costs for candidate in advice.ranking.candidates]
    return [
        ("J / correct answer", [_plain(cost.joules_per_correct_answer) for cost in costs]),
        ("money / correct answer", [_plain(cost.money_per_correct_answer) for cost in costs]),
        (heading(COST), [_plain(cost.money_per_million_tokens) for cost in costs]),
    ]


def _variant(reading: Reading) -> str:
    if reading.value is None:
        return _ABSENT
    return f"{said(reading.key, reading.value, unit=False)}{_interval(reading)}"


def _plain(value: float | None) -> str:
    return _ABSENT if value is None else number(value)


def _standing(advice: Advice, candidate: Candidate) -> str:
    """In a word or two: what ruled a configuration out stands in the sentences above the table."""
    if candidate.excluded is not None:
        return "out"
    role = "pick" if candidate is advice.pick else "runner-up" if candidate is advice.runner_up else ""
    unsure = ", ".join(label(check.constraint.key) for check in candidate.unsure)
    return "; ".join(filter(None, (role, f"cannot tell: {unsure}" if unsure else "")))


def _style(advice: Advice, candidate: Candidate) -> str:
    if candidate is advice.pick:
        return "bold"
    return "bright_black" if candidate.excluded is not None else ""
