"""A recommendation in words and as a table, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.outcome import Candidate, CheckState, Reading, Recommendation
from slim_eval.analysis.recommend.question import COST
from slim_eval.metrics import Metric
from slim_eval.utils import number, wrapped_name

_ABSENT = "-"


def renderable(found: Recommendation) -> RenderableType:
    """The findings as sentences, all variants as tables of the deciding numbers and the costs, and the caveats."""
    aim = found.goal.preset or " and ".join(_best(objective) for objective in found.ranking.objectives)
    rows = found.ranking.candidates
    readings: dict[Metric, list[str]] = {}
    for candidate in rows:
        for metric, reading in {reading.metric: reading for reading in candidate.readings}.items():
            readings.setdefault(metric, []).append(_value(reading, unit=False))
    criteria = [
        *((metric.header, texts) for metric, texts in readings.items()),
        ("balance", [_plain(candidate.balance) for candidate in rows]),
        ("wins", [_ABSENT if candidate.wins is None else _share(candidate.wins) for candidate in rows]),
    ]
    costs = [
        ("J / correct answer", [_plain(candidate.costs.joules_per_correct_answer) for candidate in rows]),
        ("money / correct answer", [_plain(candidate.costs.money_per_correct_answer) for candidate in rows]),
        (COST.header, [_plain(candidate.costs.money_per_million_tokens) for candidate in rows]),
    ]
    filled = [[column for column in columns if set(column[1]) != {_ABSENT}] for columns in (criteria, costs)]
    return Group(
        Panel(Text("\n".join(sentences(found))), title=f"Recommendation: {aim}", title_align="left"),
        *(_table(found, columns) for columns in filled if columns),
        *(Text(f"caveat: {text}", style="yellow") for text in found.caveats),
    )


def sentences(found: Recommendation) -> list[str]:
    """The pick, the runner-up, the confidence, why the others were ruled out, and what could change the answer."""
    ranking, pick, second = found.ranking, found.pick, found.runner_up
    lines = [f"Constraints: {'; '.join(map(str, found.constraints))}."] if found.constraints else []
    if pick is None:
        closest = "" if found.closest is None else f" T{found.closest.text[1:]}."
        lines.append(f"Pick: none of the {len(ranking.candidates)} variants qualifies.{closest}")
    else:
        lines.append(_pick(found, pick))
        lines.append("Runner-up: none." if second is None else f"Runner-up: {second.name}: {_readings(second)}.")
        confidence = "Confidence: unknown. None of the deciding values has an interval, so the order may be chance."
        if pick.wins is not None and ranking.resamples is not None:
            confidence = (
                f"Confidence: it wins {_share(pick.wins)} of {ranking.resamples:,} resamples within the 95 % intervals"
            )
            rivals = [candidate for candidate in ranking.running if candidate is not pick and candidate.wins]
            best = max(rivals, key=lambda candidate: candidate.wins or 0, default=None)
            confidence += "." if best is None else f"; {best.name} wins {_share(best.wins or 0)}."
            readings = [r for candidate in ranking.running for r in candidate.objectives if r.value is not None]
            varied = {r.metric.title for r in readings if r.low is not None}
            fixed = dict.fromkeys(
                r.metric.title for r in readings if r.metric.title not in varied and not r.metric.exact
            )
            confidence += f" Held fixed, without an interval: {', '.join(fixed)}." if fixed else ""
        lines.append(confidence)
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
    if found.next_measurement is None:
        return [*lines, "No single measurement is known to change this answer."]
    return [*lines, f"What could change the answer: {found.next_measurement.text}"]


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
    return f"{'highest' if objective.maximise else 'lowest'} {objective.metric.title}"


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


def _share(share: float) -> str:
    """A share of draws in percent; 0 and 100 % only if exact."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return _percent(share)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _plain(value: float | None) -> str:
    return _ABSENT if value is None else number(value)


def _table(found: Recommendation, columns: Sequence[tuple[str, Sequence[str]]]) -> _Table:
    """Every variant of the setting, best first; columns are headers, each with one text per variant.

    The standing is one or two words; the sentences above the table explain why a variant was ruled out.
    """
    rows = []
    for index, candidate in enumerate(found.ranking.candidates):
        role = ("pick", "runner-up")[index] if index < 2 else ""
        unsure = ", ".join(check.constraint.metric.title for check in candidate.checks_in(CheckState.INCONCLUSIVE))
        standing = "; ".join(filter(None, (role, f"inconclusive: {unsure}" if unsure else "")))
        style = "" if index else "bold"
        if candidate.excluded is not None:
            standing, style = "out", "bright_black"
        name = f"{wrapped_name(candidate.variant.name)} {candidate.variant.shown_precision}"
        rows.append(_Row(style, name, standing, [texts[index] for _, texts in columns]))
    return _Table([header for header, _ in columns], rows)


@dataclass(frozen=True)
class _Row:
    style: str
    name: str
    standing: str
    cells: Sequence[str]


@dataclass(frozen=True)
class _Table:
    """A table that breaks no word: on a narrow terminal intervals go below values and the last columns are left out."""

    headers: Sequence[str]
    rows: Sequence[_Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = Table()
        wide.add_column("variant", no_wrap=True)
        wide.add_column("standing")
        for header in self.headers:
            wide.add_column(header, justify="right")
        for row in self.rows:
            wide.add_row(*map(escape, [row.name, row.standing, *row.cells]), style=row.style)
        if Measurement.get(console, options.update_width(_UNBOUNDED), wide).maximum <= options.max_width:
            yield wide
            return
        names = [f"{row.name}\n{row.standing}".strip() for row in self.rows]
        columns = [[_stacked(row.cells[place]) for row in self.rows] for place in range(len(self.headers))]
        heads = ["variant", *self.headers]
        widths = [_longest_word([head, *texts]) for head, texts in zip(heads, [names, *columns], strict=True)]
        count = len(self.headers)
        while count > 1 and sum(widths[: count + 1]) + 3 * (count + 1) + 1 > options.max_width:
            count -= 1
        narrow = Table()
        narrow.add_column("variant", width=widths[0])
        for header, width in zip(self.headers[:count], widths[1:], strict=False):
            narrow.add_column(header, justify="right", width=width)
        for place, row in enumerate(self.rows):
            narrow.add_row(*map(escape, [names[place], *(texts[place] for texts in columns[:count])]), style=row.style)
        yield narrow


_UNBOUNDED = 10_000
_DASH = "\u2013"


def _stacked(cell: str) -> str:
    """A value above its interval, of ``57.0 [56.0, 57.9]``."""
    value, _, interval = cell.partition(" [")
    return f"{value}\n{interval.removesuffix(']').replace(', ', _DASH)}".strip()


def _longest_word(texts: Iterable[str]) -> int:
    return max(cell_len(word) for text in texts for word in text.split())
