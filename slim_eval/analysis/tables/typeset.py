"""The results table for a paper (LaTeX, booktabs) and for a page (Markdown): the same columns, texts and notes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.groups import comparable_groups
from slim_eval.analysis.pareto.objectives import directions
from slim_eval.analysis.rules import Doubt, baseline_of, doubts
from slim_eval.results.rows import Row, by_model

_Z95 = 1.959964  # half width of a 95 % normal interval in standard errors
MISSING = "--"


@dataclass(frozen=True)
class _Column:
    """A number: where it stands, its header, unit and digits, and the doubts that concern it."""

    key: str
    header: str
    unit: str
    digits: int
    scale: float = 1.0
    doubts: frozenset[Doubt] = frozenset()


@dataclass(frozen=True)
class _Text:
    """A cell: number, half width of its 95 % interval, and marks. Holds no character that needs escaping but ``<``."""

    value: str
    half: str = ""
    marks: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class _Table:
    """What is shown, before it is written in a language."""

    headers: list[tuple[str, str]]  # name, unit
    heads: list[tuple[str, str]]  # of each row: model, precision
    body: list[list[_Text]]
    notes: list[str]
    marks: list[Doubt]


_SPEED = frozenset({Doubt.EMULATED})
_ENERGY = frozenset({Doubt.EMULATED, Doubt.INVALID_ENERGY})
_COLUMNS = (
    _Column("ttft_s", "TTFT", "ms", 1, 1000, _SPEED),
    _Column("tpot_s", "TPOT", "ms", 2, 1000, _SPEED),
    _Column("tokens_per_second", "Throughput", "tokens/s", 1, doubts=_SPEED),
    _Column("mean_latency_s", "Amortised latency", "ms", 1, 1000, _SPEED | {Doubt.LENGTH}),
    _Column("model_size_gb", "On disk", "GiB", 2),
    _Column("weights_gb", "Weights", "GiB", 2, doubts=frozenset({Doubt.EMULATED})),
    _Column("joules_per_output_token", "Energy", "J/token", 3, doubts=_ENERGY),
)
# In place of energy per token where no row has it.
_RUN_ENERGY = _Column("energy_kwh", "Energy of the run", "kWh", 3, doubts=_ENERGY)
_MARKS = {
    Doubt.LENGTH: ("†", r"\dag", "other output length than fp16: the latency is of different work"),
    Doubt.EMULATED: ("‡", r"\ddag", "quantized kernels emulated in 16 bit: says nothing about a deployment"),
    Doubt.INVALID_ENERGY: ("§", r"\S", "energy marked invalid when it was measured"),
}


def documents(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, str]:
    """Both tables, by the names of their files: `latex_table` and `markdown_table`."""
    made = _table(rows, tasks)
    return {"results_table.tex": _latex(made), "results_table.md": _markdown(made)}


def latex_table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    r"""The results as a LaTeX table that needs the package booktabs and nothing else.

    Args:
        rows: From `rows.rows_of`.
        tasks: Tasks to show, in %.

    Returns:
        A ``table`` environment to ``\input``. ``±`` is half of the 95 % interval, ``--`` is not measured. A character
        that LaTeX does not know without further packages is written as its code point: ``[U+6A21]``.
    """
    return _latex(_table(rows, tasks))


def markdown_table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """The same as a Markdown table, with its notes below; see `latex_table`."""
    return _markdown(_table(rows, tasks))


def tex_escape(text: str) -> str:
    """A text as LaTeX shows it, whatever it holds; see `latex_table` for characters that LaTeX does not know."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(map(_tex_character, composed)).replace("--", "-{}-").replace("--", "-{}-")


def md_escape(text: str) -> str:
    """A text as Markdown shows it, within a cell of a table."""
    plain = re.sub(r"([\\|*`\[\]~])", r"\\\1", " ".join(text.split()))
    plain = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)  # within words it is no emphasis
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def _table(rows: Sequence[Row], tasks: Sequence[str]) -> _Table:
    energy = any(row["joules_per_output_token"] is not None for row in rows)
    better = directions(rows)
    scores = [_Column(task, task, "%", 1, 100) if better[task] else _Column(task, task, "loss", 3) for task in tasks]
    wanted = [*_COLUMNS, *([] if energy else [_RUN_ENERGY]), *scores]
    columns = [column for column in wanted if any(row[column.key] is not None for row in rows)]
    models = by_model(rows)
    doubted = [doubts(row, baseline_of(row, models[row["model"]])) for row in rows]
    body = [[_cell(column, row, found) for column in columns] for row, found in zip(rows, doubted, strict=True)]
    headers = [("Model", ""), ("Precision", ""), *((column.header, column.unit) for column in columns)]
    notes = [f"{MISSING}: not measured"] if any(cell.value == MISSING for line in body for cell in line) else []
    if any(cell.half for line in body for cell in line):
        notes.insert(0, "±: half of the 95 % interval")
    groups = comparable_groups(rows)
    if len(groups.names) > 1:
        headers.append(("Setting", ""))
        numbers = {name: str(index) for index, name in enumerate(groups.names, 1)}
        for line, label in zip(body, groups.labels, strict=True):
            line.append(_Text(numbers.get(label, MISSING)))
        notes += [
            "Speed and energy of different settings are not comparable",
            *(f"{n}: {s}" for s, n in numbers.items()),
        ]
    marks = [mark for mark in _MARKS if any(mark in cell.marks for line in body for cell in line)]
    return _Table(headers, [(row["name"], row["precision"]) for row in rows], body, notes, marks)


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
    notes = [*(f"{_MARKS[mark][0]} {_MARKS[mark][2]}" for mark in made.marks), *map(md_escape, made.notes)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *body))
    return f"{table}\n\n" + "".join(f"- {note}.\n" for note in notes)


def _cell(column: _Column, row: Mapping[str, Any], found: frozenset[Doubt]) -> _Text:
    value = row[column.key]
    if value is None:
        return _Text(MISSING)
    half = _half_width(row, column.key)
    concerned = found & column.doubts
    marks = tuple(mark for mark in _MARKS if mark in concerned) if concerned else ()
    return _Text(
        _number(value * column.scale, column.digits),
        "" if half is None else _half(half * column.scale, column.digits),
        marks,
    )


def _number(value: float, digits: int) -> str:
    """Fixed digits; what they cannot hold is written with an exponent."""
    if value and not 0.5 * 10**-digits <= abs(value) < 1e9:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def _half(value: float, digits: int) -> str:
    """A half width; one that the digits do not show is not zero."""
    least = 10**-digits
    return f"<{least:.{digits}f}" if 0 < value < least / 2 else _number(value, digits)


def _half_width(row: Mapping[str, Any], key: str) -> float | None:
    low, high, error = row.get(f"{key}_ci95_low"), row.get(f"{key}_ci95_high"), row.get(f"{key}_stderr")
    if low is not None and high is not None:
        return float(high - low) / 2
    return None if error is None else float(error) * _Z95


def _md_cell(cell: _Text) -> str:
    marks = "".join(_MARKS[mark][0] for mark in cell.marks)
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
    marks = "".join(rf"$^{{{_MARKS[mark][1]}}}$" for mark in cell.marks)
    half = f" $\\pm$ {cell.half}".replace("<", _TEX["<"]) if cell.half else ""
    return f"{cell.value}{half}{marks}"


def _tex_mark_note(mark: Doubt) -> str:
    _, command, words = _MARKS[mark]
    return rf"$^{{{command}}}$ {words}"


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
