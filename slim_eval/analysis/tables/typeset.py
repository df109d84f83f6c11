"""The results table for a paper (LaTeX, booktabs) and for a page (Markdown): the same columns, texts and notes.

pandas' Styler writes neither the two header rows with a rule under both, nor notes below the table, nor a model that is
named once per group of rows, so the few lines that do are here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from slim_eval import metrics
from slim_eval.analysis.caveats import MARKS, SETTING, Kind
from slim_eval.analysis.comparability import comparable_groups
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.variants import Variant

MISSING = "--"
_COLUMNS = (
    metrics.TTFT, metrics.TPOT, metrics.THROUGHPUT, metrics.AMORTISED, metrics.DISK, metrics.WEIGHTS,
    metrics.J_PER_TOKEN,
)  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
_LETTERS = frozenset("ßæÆøØåÅłŁœŒ")


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
    rows: list[tuple[str, str, list[_Text]]]  # model, precision, fields
    notes: list[str]
    marks: list[Kind]


def documents(study: Study) -> dict[str, str]:
    r"""The results as a LaTeX and a Markdown table, by the names of their files.

    Returns:
        ``results_table.tex``: a ``table`` environment to ``\input`` that needs the package booktabs and nothing else.
        ``±`` is half of the 95 % interval, ``--`` not measured. ``results_table.md``: the same, with its notes below.
    """
    plugins = [metric for metric in METRICS.values() if metric.basis is Basis.OWN]
    energy = [] if study.is_measured(metrics.J_PER_TOKEN) else [metrics.ENERGY_KWH]
    columns = [m for m in (*_COLUMNS, *energy, *plugins, *study.task_metrics) if study.is_measured(m)]
    rows = [(v.name, v.shown_precision, [_field(study, v, metric) for metric in columns]) for v in study.variants]
    fields = [field for *_, line in rows for field in line]
    names = [m.key if m.basis is Basis.TASK else m.label[0].upper() + m.label[1:] for m in columns]
    units = [metric.unit for metric in columns]
    headers = [("Model", ""), ("Precision", ""), *zip(names, units, strict=True)]
    notes = ["±: half of the 95 % interval"] if any(field.half for field in fields) else []
    if any(field.value == MISSING for field in fields):
        notes.append(f"{MISSING}: not measured")
    groups = comparable_groups(study.variants)
    if len(groups.names) > 1:
        headers.append(("Setting", ""))
        numbers = {name: str(index) for index, name in enumerate(groups.names, 1)}
        for (*_, line), label in zip(rows, groups.labels, strict=True):
            line.append(_Text(numbers.get(label, MISSING)))
        notes.append("Speed and energy of different settings are not comparable")
        notes += [f"{number}: {name}" for name, number in numbers.items()]
    made = _Table(headers, rows, notes, [mark for mark in MARKS if any(mark in field.marks for field in fields)])
    return {"results_table.tex": _latex(made), "results_table.md": _markdown(made)}


def _field(study: Study, variant: Variant, metric: Metric) -> _Text:
    found = variant.estimate(metric)
    if found is None:
        return _Text(MISSING)
    # The column of settings marks those already.
    marks = tuple(mark for mark in study.marks(variant, metric) if mark is not SETTING)
    shown, digits = found.scaled(metric.scale), metric.decimals
    if shown.interval is None:
        return _Text(_number(shown.value, digits), "", marks)
    half, least = (shown.interval[1] - shown.interval[0]) / 2, 10**-digits
    # A half width that the digits do not show is not zero.
    words = f"<{least:.{digits}f}" if 0 < half < least / 2 else _number(half, digits)
    return _Text(_number(shown.value, digits), words, marks)


def _number(value: float, digits: int) -> str:
    """Fixed digits; what they cannot hold is written with an exponent."""
    if value and not 0.5 * 10**-digits <= abs(value) < 1e9:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def _latex(made: _Table) -> str:
    lines = [
        [tex_escape(header) for header, _ in made.headers],
        [tex_escape(f"({unit})") if unit else "" for _, unit in made.headers],
    ]
    before = None
    for name, precision, fields in made.rows:
        cells = ["" if name == before else tex_escape(name), tex_escape(precision)]  # a model is named once
        for field in fields:
            half = f" $\\pm$ {field.half}".replace("<", _TEX["<"]) if field.half else ""
            cells.append(f"{field.value}{half}" + "".join(rf"$^{{{mark.tex}}}$" for mark in field.marks))
        # Without braces LaTeX would take a bracket at the start of a line for a length, and swallow an asterisk.
        cells = [f"{{}}{cell}" if cell.startswith(("[", "*")) else cell for cell in cells]
        if name != before and before is not None:
            cells[0] = f"\\addlinespace\n    {cells[0]}"
        lines.append(cells)
        before = name
    rows = [f"    {' & '.join(cells)} \\\\" for cells in lines]
    notes = [rf"$^{{{mark.tex}}}$ {mark.meaning}" for mark in made.marks]
    # The sign of what is missing stays what it is in the fields, a dash.
    notes += [note if note.startswith(MISSING) else tex_escape(note) for note in made.notes]
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.", r"\begin{table}[htbp]", r"  \centering", r"  \footnotesize",
            r"  \setlength{\tabcolsep}{4pt}",
            r"  \caption{Performance, energy and accuracy by model and precision.}", r"  \label{tab:slim-eval}",
            rf"  \begin{{tabular}}{{ll{'r' * (len(made.headers) - 2)}}}", r"    \toprule", *rows[:2],
            r"    \midrule", *rows[2:], r"    \bottomrule", r"  \end{tabular}", r"  \par\smallskip",
            rf"  {{\scriptsize {' '.join(f'{note}.' for note in notes)}\par}}", r"\end{table}", "",
        ]
    )  # fmt: skip


def tex_escape(text: str) -> str:
    """A text escaped for LaTeX; a character that LaTeX does not know without packages is its code: ``[U+6A21]``."""
    made = []
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        parts = unicodedata.normalize("NFD", character)
        plain = parts[0].isascii() and parts[0].isprintable() and all(part in _ACCENTS for part in parts[1:])
        other = character if plain or character in _LETTERS else f"[U+{ord(character):04X}]"
        made.append(_TEX.get(character, other))
    return "".join(made).replace("--", "-{}-").replace("--", "-{}-")


def _markdown(made: _Table) -> str:
    heads = [md_escape(f"{header} ({unit})" if unit else header) for header, unit in made.headers]
    lines = [heads, [":--", ":--", *["--:"] * (len(heads) - 2)]]
    for name, precision, fields in made.rows:
        halves = [f" ± {field.half}".replace("<", "&lt;") if field.half else "" for field in fields]
        marks = ["".join(mark.sign for mark in field.marks) for field in fields]
        cells = [f"{field.value}{half}{mark}" for field, half, mark in zip(fields, halves, marks, strict=True)]
        lines.append([md_escape(name), md_escape(precision), *cells])
    notes = [*(f"{mark.sign} {mark.meaning}" for mark in made.marks), *map(md_escape, made.notes)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n" + "".join(f"- {note}.\n" for note in notes)


def md_escape(text: str) -> str:
    """A text as Markdown shows it, within a cell of a table."""
    plain = re.sub(r"([\\|*`\[\]~])", r"\\\1", " ".join(text.split()))
    plain = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)  # within words it does not mean emphasis
    return plain.replace("&", "&amp;").replace("<", "&lt;")
