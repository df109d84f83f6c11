"""The results table for a paper (LaTeX, booktabs) and for a page (Markdown): the same columns, texts and notes.

pandas' Styler writes neither the two header rows with a rule under both, nor notes below the table, nor a model that is
named once per group of rows, so the few lines that do are here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from slim_eval.analysis.caveats import MARKS, SETTING, Kind
from slim_eval.analysis.comparability import comparable_groups
from slim_eval.analysis.study import Study
from slim_eval.metrics import (
    AMORTISED,
    DISK,
    ENERGY_KWH,
    J_PER_TOKEN,
    METRICS,
    THROUGHPUT,
    TPOT,
    TTFT,
    WEIGHTS,
    Basis,
    Metric,
)
from slim_eval.results.variants import Variant

MISSING = "--"
_COLUMNS = (TTFT, TPOT, THROUGHPUT, AMORTISED, DISK, WEIGHTS, J_PER_TOKEN)


@dataclass(frozen=True)
class _Text:
    """A field: number, half width of its 95 % interval, and marks. No character needs escaping but ``<``."""

    value: str
    half: str = ""
    marks: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class _Table:
    """What is shown, before it is written in a language."""

    headers: list[tuple[str, str]]  # name, unit
    heads: list[tuple[str, str]]  # of each row: model, precision
    body: list[list[_Text]]
    notes: list[str]
    marks: list[Kind]


def documents(study: Study) -> dict[str, str]:
    """Both tables, by the names of their files: `latex_table` and `markdown_table`."""
    made = _table(study)
    return {"results_table.tex": _latex(made), "results_table.md": _markdown(made)}


def latex_table(study: Study) -> str:
    r"""The results as a LaTeX table that needs the package booktabs and nothing else.

    Returns:
        A ``table`` environment to ``\input``. ``±`` is half of the 95 % interval, ``--`` is not measured. A character
        that LaTeX does not know without further packages is written as its code point: ``[U+6A21]``.
    """
    return _latex(_table(study))


def markdown_table(study: Study) -> str:
    """The same as a Markdown table, with its notes below; see `latex_table`."""
    return _markdown(_table(study))


def tex_escape(text: str) -> str:
    """A text escaped for LaTeX, whatever it contains; see `latex_table` for characters that LaTeX does not know."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(map(_tex_character, composed)).replace("--", "-{}-").replace("--", "-{}-")


def md_escape(text: str) -> str:
    """A text as Markdown shows it, within a cell of a table."""
    plain = re.sub(r"([\\|*`\[\]~])", r"\\\1", " ".join(text.split()))
    plain = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)  # within words it is no emphasis
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def _table(study: Study) -> _Table:
    plugins = [metric for metric in METRICS.values() if metric.basis is Basis.OWN]
    energy = [] if study.is_measured(J_PER_TOKEN) else [ENERGY_KWH]
    wanted = (*_COLUMNS, *energy, *plugins, *study.task_metrics)
    columns = [metric for metric in wanted if study.is_measured(metric)]
    body = [[_field(study, variant, metric) for metric in columns] for variant in study.variants]
    headers = [("Model", ""), ("Precision", ""), *((_head(metric), metric.unit or "loss") for metric in columns)]
    notes = [f"{MISSING}: not measured"] if any(field.value == MISSING for line in body for field in line) else []
    if any(field.half for line in body for field in line):
        notes.insert(0, "±: half of the 95 % interval")
    groups = comparable_groups(study.variants)
    if len(groups.names) > 1:
        headers.append(("Setting", ""))
        numbers = {name: str(index) for index, name in enumerate(groups.names, 1)}
        for line, label in zip(body, groups.labels, strict=True):
            line.append(_Text(numbers.get(label, MISSING)))
        notes += [
            "Speed and energy of different settings are not comparable",
            *(f"{n}: {s}" for s, n in numbers.items()),
        ]
    marks = [mark for mark in MARKS if any(mark in field.marks for line in body for field in line)]
    return _Table(headers, [(variant.name, variant.precision) for variant in study.variants], body, notes, marks)


def _head(metric: Metric) -> str:
    return metric.key if metric.basis is Basis.TASK else metric.label[0].upper() + metric.label[1:]


def _latex(made: _Table) -> str:
    heads = [
        _tex_line(tex_escape(header) for header, _ in made.headers),
        _tex_line(tex_escape(f"({unit})") if unit else "" for _, unit in made.headers),
    ]
    body = [
        ("    \\addlinespace\n" if fresh and index else "") + _tex_line(map(_guarded, cells))
        for index, (fresh, cells) in enumerate(_tex_rows(made))
    ]
    notes = " ".join(f"{text}." for text in (*map(_tex_mark_note, made.marks), *map(_tex_note, made.notes)))
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.", r"\begin{table}[htbp]", r"  \centering", r"  \footnotesize",
            r"  \setlength{\tabcolsep}{4pt}",
            r"  \caption{Performance, energy and accuracy by model and precision.}", r"  \label{tab:slim-eval}",
            rf"  \begin{{tabular}}{{ll{'r' * (len(made.headers) - 2)}}}", r"    \toprule", *heads, r"    \midrule",
            *body, r"    \bottomrule", r"  \end{tabular}", r"  \par\smallskip",
            rf"  {{\scriptsize {notes}\par}}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _markdown(made: _Table) -> str:
    heads = [md_escape(f"{header} ({unit})" if unit else header) for header, unit in made.headers]
    rules = [":--", ":--", *["--:"] * (len(heads) - 2)]
    body = [
        [md_escape(name), md_escape(precision), *map(_md_cell, cells)]
        for (name, precision), cells in zip(made.heads, made.body, strict=True)
    ]
    notes = [*(f"{mark.sign} {mark.meaning}" for mark in made.marks), *map(md_escape, made.notes)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *body))
    return f"{table}\n\n" + "".join(f"- {note}.\n" for note in notes)


def _field(study: Study, variant: Variant, metric: Metric) -> _Text:
    found = variant.estimate(metric)
    if found is None:
        return _Text(MISSING)
    # The column of settings marks those already.
    marks = tuple(mark for mark in study.marks(variant, metric) if mark is not SETTING)
    shown = found.scaled(metric.scale)
    half = None if shown.interval is None else (shown.interval[1] - shown.interval[0]) / 2
    return _Text(_number(shown.value, metric.decimals), "" if half is None else _half(half, metric.decimals), marks)


def _number(value: float, digits: int) -> str:
    """Fixed digits; what they cannot hold is written with an exponent."""
    if value and not 0.5 * 10**-digits <= abs(value) < 1e9:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def _half(value: float, digits: int) -> str:
    """A half width; one that the digits do not show is not zero."""
    least = 10**-digits
    return f"<{least:.{digits}f}" if 0 < value < least / 2 else _number(value, digits)


def _md_cell(cell: _Text) -> str:
    marks = "".join(mark.sign for mark in cell.marks)
    half = f" ± {cell.half}".replace("<", "&lt;") if cell.half else ""
    return f"{cell.value}{half}{marks}"


def _tex_rows(made: _Table) -> Iterable[tuple[bool, list[str]]]:
    """For each row whether a model begins with it, and its cells; a model is named once."""
    before = None
    for (name, precision), cells in zip(made.heads, made.body, strict=True):
        fresh = name != before
        yield fresh, [tex_escape(name) if fresh else "", tex_escape(precision), *map(_tex_cell, cells)]
        before = name


def _tex_cell(cell: _Text) -> str:
    if cell.value == MISSING:
        return MISSING
    marks = "".join(rf"$^{{{mark.tex}}}$" for mark in cell.marks)
    half = f" $\\pm$ {cell.half}".replace("<", _TEX["<"]) if cell.half else ""
    return f"{cell.value}{half}{marks}"


def _tex_mark_note(mark: Kind) -> str:
    return rf"$^{{{mark.tex}}}$ {mark.meaning}"


def _tex_note(note: str) -> str:
    """A note; the sign of what is missing stays what it is in the cells, a dash."""
    return MISSING + tex_escape(note.removeprefix(MISSING)) if note.startswith(MISSING) else tex_escape(note)


def _tex_line(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _guarded(cell: str) -> str:
    """Without braces LaTeX would take a bracket at the start of a line for a length, and swallow an asterisk."""
    return f"{{}}{cell}" if cell.startswith(("[", "*")) else cell


_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
_LETTERS = frozenset("ßæÆøØåÅłŁœŒ")


def _tex_character(character: str) -> str:
    known = _TEX.get(character)
    if known is not None:
        return known
    parts = unicodedata.normalize("NFD", character)
    plain = parts[0].isascii() and parts[0].isprintable() and all(part in _ACCENTS for part in parts[1:])
    return character if plain or character in _LETTERS else f"[U+{ord(character):04X}]"
