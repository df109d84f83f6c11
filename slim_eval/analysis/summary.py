"""The findings of an analysis in words: what was measured, what came out, how sure, and what cannot be concluded."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slim_eval.analysis.caveats import Caveat
from slim_eval.analysis.groups import comparable_groups
from slim_eval.analysis.pareto.frontiers import Frontier
from slim_eval.analysis.precisions import changes, precision_findings
from slim_eval.analysis.rules import BASELINE
from slim_eval.analysis.superlatives import label, listed, superlatives
from slim_eval.results.rows import Row

WIDTH = 100
_SHOWN = 10  # members of a frontier, lines of problems
_SHOWN_VARIANTS = 6
_HEADLINES = {
    "ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_latency_s": "E2E latency", "tokens_per_second": "throughput",
    "weights_gb": "weights as loaded", "mean_peak_mem_mb": "peak memory", "joules_per_output_token":
    "energy per output token", "model_size_gb": "size on disk",
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What findings are made of.

    Attributes:
        rows: From `rows.rows_of`.
        tasks: Tasks to show.
        impact: Rows of `tables.quantization_impact`.
        paired: From `evidence.Evidence.paired_rows`.
        caveats: What the results cannot support.
        frontiers: From `frontiers.find_frontiers`.
        problems: Files that could not be read and benchmarks that failed.
        notes: What the records say of themselves, and the configurations that each note is about.
    """

    rows: Sequence[Row]
    tasks: Sequence[str]
    impact: Sequence[Row] = ()
    paired: Sequence[Row] = ()
    caveats: Sequence[Caveat] = ()
    frontiers: Sequence[Frontier] = ()
    problems: Sequence[str] = ()
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A heading and its sentences.

    Attributes:
        apart: Whether `report.html` tells it in a part of its own.
    """

    heading: str
    sentences: tuple[str, ...]
    apart: bool = False


def sections(material: Material) -> list[Section]:
    """The findings under their headings; a heading without a sentence is left out."""
    quantized = precision_findings(changes(material.rows, material.impact, material.paired), material.tasks)
    told: dict[str, Sequence[str]] = {
        "What was measured": _measured(material.rows, material.tasks),
        "What differs between the measurements": setting_findings(material.rows),
        f"Quantized against {BASELINE}": quantized or [f"No quantized configuration beside a {BASELINE} one."],
        "Best by each measure": superlatives(material.rows, material.tasks),
        "Pareto frontier": [text for found in material.frontiers for text in frontier_findings(found)],
    }
    doubted: dict[str, Sequence[str]] = {
        "What these results cannot support": [_about(c.variants, c.text, material) for c in material.caveats],
        "What was not measured": _missing(material),
        "What the records say of themselves": _noted(material),
    }
    found = [Section(heading, tuple(sentences), apart=False) for heading, sentences in told.items()]
    found += [Section(heading, tuple(sentences), apart=True) for heading, sentences in doubted.items()]
    return [section for section in found if section.sentences]


def findings(found: Sequence[Section]) -> tuple[str, ...]:
    """The sentences of all sections, in order."""
    return tuple(sentence for section in found for sentence in section.sentences)


def executive_summary(found: Sequence[Section]) -> str:
    """Sections as plain text of at most `WIDTH` columns; a name longer than that stays whole."""
    parts = ["slim-eval: executive summary\n============================"]
    for section in found:
        lines = [_wrapped(sentence) for sentence in section.sentences]
        parts.append("\n".join([section.heading, "-" * len(section.heading), *lines]))
    return "\n\n".join(parts) + "\n"


def setting_findings(rows: Sequence[Row]) -> list[str]:
    """What differs in engine, hardware and settings: between groups, which are not compared, and within them."""
    groups = comparable_groups(rows)
    members = groups.members(rows)
    made = []
    if len(members) > 1:
        sizes = [f"{name} ({_count(len(found), 'configuration')})" for name, found in members.items()][:_SHOWN]
        more = [f"{len(members) - _SHOWN} more"] if len(members) > _SHOWN else []
        named = "; ".join([*sizes, *more])
        made.append(f"{len(members)} settings, whose speed and energy are not compared with each other: {named}.")
        made += [f"{text}, compared with {groups.names[0]}." for text in groups.differences[:_SHOWN]]
    for name, found in members.items():
        for key, words in (("engine_version", "engine versions"), ("dtype", "16-bit types")):
            values = sorted({str(row[key]) for row in found if row[key] is not None})
            if len(values) > 1:
                made.append(f"{name}: {words} differ ({', '.join(values)}) and are compared all the same.")
    return made


def frontier_findings(found: Frontier) -> list[str]:
    """Who stands on a frontier, in each setting, and how sure that is."""
    made = []
    compared = [row for row in found.rows if row["excluded"] is None]
    groups = dict.fromkeys(row["group"] for row in compared)
    for group in list(groups)[:_SHOWN]:
        rows = [row for row in compared if row["group"] == group]
        if len(rows) == 1 and len(groups) > 1:
            continue  # alone it is on the frontier, which says nothing
        where = f" ({group})" if len(groups) > 1 else ""
        doubt = f"; confounded: {rows[0]['confounded']}" if rows[0]["confounded"] else ""
        made.append(
            f"By {found.title}{where}, {_count(len(rows), 'configuration')}: {_standing(rows)}{_most(rows)}{doubt}."
        )
    left_out = Counter(row["excluded"] for row in found.rows if row["excluded"] is not None)
    reasons = [f"{count} {why}" for why, count in left_out.items()]
    return made + ([f"By {found.title}: left out: {listed(reasons, _SHOWN)}."] if reasons else [])


def _most(rows: Sequence[Row]) -> str:
    """Which configuration the frontier would miss most, by the values alone."""
    known = [row for row in rows if row["hypervolume_lost"]]
    if len(known) < 2:
        return ""
    most = max(known, key=lambda row: row["hypervolume_lost"])
    return f"; without {label(most)} it would cover {most['hypervolume_lost'] * 100:.0f} % less (hypervolume)"


def _standing(rows: Sequence[Row]) -> str:
    if all(row["p_non_dominated"] is None for row in rows):
        names = listed([label(row) for row in rows if row["on_frontier"]], _SHOWN)
        return f"on the frontier by the numbers alone {names}; without intervals it cannot be told how sure that is"
    said = []
    for state, words in (("on the frontier", "surely on the frontier"), ("cannot tell", "cannot be told")):
        members = [row for row in rows if row["state"] == state]
        members.sort(key=lambda row: -row["p_non_dominated"])
        shown = [f"{label(row)} (P {row['p_non_dominated']:.2f})" for row in members]
        said.append(f"{words} {listed(shown, _SHOWN) or 'none'}")
    dominated = sum(row["state"] == "dominated" for row in rows)
    return "; ".join([*said, f"{dominated} dominated"])


def _measured(rows: Sequence[Row], tasks: Sequence[str]) -> list[str]:
    precisions = Counter(row["precision"] for row in rows)
    each = ", ".join(f"{count} at {precision}" for precision, count in precisions.items())
    models = len({row["model"] for row in rows})
    groups = comparable_groups(rows).names
    made = [f"{_count(len(rows), 'configuration')} of {_count(models, 'model')}: {each}."]
    if len(groups) == 1 and groups[0] != "all":
        made.append(f"Speed and energy: one setting, {groups[0]}.")
    if tasks:
        made.append(f"Accuracy: {', '.join(f'{task} ({_metrics(task, rows)})' for task in tasks)}.")
    return made


def _metrics(task: str, rows: Sequence[Row]) -> str:
    found = dict.fromkeys(str(row[f"{task}_metric"] or "metric not known") for row in rows if row[task] is not None)
    return " or ".join(found)


def _about(labels: Sequence[str], text: str, material: Material) -> str:
    """A sentence about some of the configurations."""
    everywhere = len(labels) == len(material.rows) > 1
    return f"{'all configurations' if everywhere else listed(labels, _SHOWN_VARIANTS)}: {text}."


def _noted(material: Material) -> list[str]:
    made = [_about(labels, note.rstrip("."), material) for note, labels in material.notes.items()]
    more = len(made) - _SHOWN
    return made[:_SHOWN] + ([f"{more} more notes in complete_results.json."] if more > 0 else [])


def _missing(material: Material) -> list[str]:
    nowhere = [words for key, words in _HEADLINES.items() if all(row[key] is None for row in material.rows)]
    made = [f"In no configuration: {', '.join(nowhere)}."] if nowhere else []
    lacking: dict[tuple[str, ...], list[str]] = {}
    for key, words in {**_HEADLINES, **{task: task for task in material.tasks}}.items():
        without = tuple(label(row) for row in material.rows if row[key] is None)
        if without and len(without) < len(material.rows):
            lacking.setdefault(without, []).append(words)
    made += [
        f"{', '.join(things)}: not in {listed(variants, _SHOWN_VARIANTS)}." for variants, things in lacking.items()
    ]
    invalid = [label(row) for row in material.rows if row["valid"] is False]
    if invalid:
        made.append(
            f"Energy marked invalid when it was measured, and not compared: {listed(invalid, _SHOWN_VARIANTS)}."
        )
    made += [f"Problem: {problem.rstrip('.')}." for problem in material.problems[:_SHOWN]]
    more = len(material.problems) - _SHOWN
    return made + ([f"{more} more problems in complete_results.json."] if more > 0 else [])


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")


def _wrapped(sentence: str) -> str:
    whole = re.sub(r"(?<=\d) (?=(%|pp|ms|GiB|J|x)\b|%)", "\u00a0", sentence)  # a number keeps its unit beside it
    filled = textwrap.fill(
        whole, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return filled.replace("\u00a0", " ")
