"""The verdict on a terminal and in Markdown: the answer first, then one line per variant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from slim_eval.analysis.verdict import VariantVerdict, Verdict, Word
from slim_eval.utils import wrapped_name
from slim_eval.utils.word_table import Column, WordTable, wrap

_STYLES = {
    Word.DEPLOY: "bold green", Word.SAFE: "green", Word.DEGRADED: "red", Word.INCONCLUSIVE: "yellow",
    Word.NOT_COMPARABLE: "dim", Word.BASELINE: "",
}  # fmt: skip
#: Columns between the frame of a panel and its text, on both sides.
_FRAME = 4
HEADERS = ("variant", "verdict", "speed", "energy", "memory", "accuracy")


def panel(verdict: Verdict, title: str = "Verdict") -> RenderableType:
    """The answer, what it gains and costs, its confidence, and what could change it."""
    return _Framed(verdict, title)


class _Framed:
    """A panel whose text is broken between words, with numbers beside their units."""

    def __init__(self, verdict: Verdict, title: str) -> None:
        self._verdict, self._title = verdict, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width - _FRAME, 20)
        text = Text(wrap(self._verdict.answer, width), style="bold")
        for line in self._verdict.asked:
            text.append(f"\n{wrap(line, width)}", style="not bold")
        for heading, sentence in self._verdict.parts:
            text.append(f"\n{wrap(f'{heading}: {sentence}', width)}", style="not bold")
        yield Panel(text, title=self._title, title_align="left")


def variants_table(verdict: Verdict) -> WordTable:
    """One row per variant: its verdict, and what it changes against its baseline."""
    shown = verdict.variants
    names = [
        f"{wrapped_name(each.variant.name)} {each.variant.shown_precision}" if each.variant.name else each.label
        for each in shown
    ]
    styles = [_STYLES[each.word] for each in shown]
    columns = [
        Column("variant", names, left=True, key=True),
        Column("verdict", [each.word.value for each in shown], left=True, key=True, styles=styles),
    ]
    for of in HEADERS[2:]:
        cells = [_cell(each, of) for each in shown]
        if set(cells) - {"-", ""}:
            columns.append(Column(of, cells, left=of == "accuracy"))
    return WordTable(columns)


def _cell(each: VariantVerdict, of: str) -> str:
    return "" if each.is_reference else each.effect(of).short


def renderable(verdict: Verdict, title: str = "Verdict") -> RenderableType:
    """The panel, and the table of variants if there is more than one verdict to show."""
    several = sum(not each.is_reference for each in verdict.variants)
    return Group(panel(verdict, title), *([variants_table(verdict)] if several else []))


def summary_lines(verdict: Verdict, most: int, width: int) -> list[str]:
    """The verdict as plain lines: the sentences, then one line per variant, of which some are counted."""
    lines = _hanging(verdict.answer, width)
    for heading, sentence in verdict.parts:
        lines += _hanging(f"{heading}: {sentence}", width)
    rows = sorted(verdict.variants, key=lambda each: each.word is not Word.DEPLOY)
    room = most - len(lines) - 1
    lines.append("")
    texts = [_cut(each.line, width) for each in rows]
    if len(texts) > room:
        texts = [*texts[: max(room - 1, 0)], f"and {len(texts) - max(room - 1, 0)} more variants in findings.md"]
    return lines + texts


def _hanging(text: str, width: int, most: int = 3) -> list[str]:
    """A sentence in at most `most` lines; the end of a longer one is in findings.md."""
    first, *rest = wrap(text, width - 2).split("\n")
    lines = [first, *(f"  {line}" for line in rest)]
    return lines if len(lines) <= most else [*lines[: most - 1], f"{_cut(lines[most - 1], width - 2)} …"]


def _cut(line: str, width: int) -> str:
    """A line of at most `width` columns, cut between words."""
    if len(line) <= width:
        return line
    return f"{wrap(line, width - 2).split(chr(10))[0].rstrip(';, ')} …"


def markdown(verdict: Verdict) -> list[str]:
    """The verdict as Markdown, nothing left out."""
    lines = [f"**{verdict.answer}**", ""]
    lines += [f"- {heading}: {sentence}" for heading, sentence in verdict.parts]
    lines += [""] if lines[-1] else []
    lines += markdown_table((*HEADERS, "reason"), (_markdown_row(each) for each in verdict.variants))
    return lines


def _markdown_row(each: VariantVerdict) -> Sequence[str]:
    reason = each.reason + (f" ({each.needs})" if each.needs else "")
    effects = ["" if each.is_reference else each.effect(of).shown for of in HEADERS[2:]]
    return each.label, each.word.value, *effects, reason


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    cells = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in cells]
