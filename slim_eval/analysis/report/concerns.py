"""What must be known before any number is quoted: one entry for each reason, with whom it concerns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.analysis.report.marks import EMULATED, NOISE, SETTING, Marker
from slim_eval.analysis.report.numbers import signed
from slim_eval.analysis.report.settings import Settings
from slim_eval.analysis.rules import BASELINE, Doubt
from slim_eval.results.rows import Row

#: Kind of a `caveats.Caveat` -> the word it is labelled with, where that is another one.
_WORDS = {"length": "confounded"}
# The colour of a label; words that are not here have that of a remark.
_TONES = {
    "confounded": "bad", "invalid": "bad", "emulated": "bad", "underpowered": "warn", "other settings": "warn",
    "within noise": "warn", "setting not recorded": "warn",
    "not compared": "warn", "not paired": "warn", "no intervals": "warn", "energy": "warn",
    "unreadable": "bad",
}  # fmt: skip


@dataclass(frozen=True)
class Concern:
    """One thing that numbers cannot support.

    Attributes:
        word: What it is labelled with.
        tone: Colour of the label: ``bad``, ``warn`` or ``note``.
        text: In words, with figures.
        variants: The configurations that it concerns; empty where it concerns all.
    """

    word: str
    tone: str
    text: str
    variants: tuple[str, ...]


def concerns(
    rows: Sequence[Row],
    marker: Marker,
    settings: Sequence[Settings],
    impact: Sequence[Row],
    problems: Sequence[str],
) -> list[Concern]:
    """Everything that the results cannot support, the gravest first."""
    found: dict[tuple[str, str], dict[str, None]] = {}

    def add(word: str, text: str, variants: Iterable[str]) -> None:
        found.setdefault((word, text), {}).update(dict.fromkeys(variants))

    for problem in problems:
        add("unreadable", problem, ())
    for caveat in marker.evidence.caveats:
        add(_WORDS.get(caveat.kind, caveat.kind), caveat.text, caveat.variants)
    for word, text, label in (*_of_rows(rows, marker), *_of_pairs(rows, marker), *_of_impact(impact)):
        add(word, text, (label,))
    for entry in settings:
        if len(entry.words) > 1:
            add("other settings", _setting_words(entry), ())
        elif entry.words and not entry.recorded and len(rows) > 1:
            text = f"{entry.kind}: no engine, hardware or setting was recorded: whether it may be compared is not known"
            add("setting not recorded", text, ())
    order = {"bad": 0, "warn": 1}
    made = [Concern(word, _TONES.get(word, "note"), text, tuple(variants)) for (word, text), variants in found.items()]
    return sorted(made, key=lambda concern: (order.get(concern.tone, 2), concern.word))


def label(row: Row) -> str:
    """How a configuration is named in a sentence."""
    return f"{row['name']} {row['precision']}"


def _setting_words(entry: Settings) -> str:
    apart = f" They differ in {entry.differences}." if entry.differences else ""
    return f"{entry.kind} was measured in {len(entry.words)} settings, which are not compared with each other.{apart}"


def _of_rows(rows: Sequence[Row], marker: Marker) -> Iterable[tuple[str, str, str]]:
    for row in rows:
        found = marker.all_of(row)
        if Doubt.INVALID_ENERGY in found:
            why = ", ".join(row["invalid_reasons"] or ()) or "the record does not say why"
            yield "invalid", f"energy does not count: {why}", label(row)
        if Doubt.EMULATED in found:
            yield "emulated", EMULATED.meaning, label(row)
        if noisy := marker.noisy(row):
            yield "within noise", f"{NOISE.meaning}: {', '.join(sorted(noisy))}", label(row)
        for doubt, what in ((Doubt.SPEED_SETUP, "speed"), (Doubt.ENERGY_SETUP, "energy")):
            if doubt in found:
                yield SETTING.word, f"{what}: {SETTING.meaning}", label(row)


def _of_pairs(rows: Sequence[Row], marker: Marker) -> Iterable[tuple[str, str, str]]:
    for row in rows:
        refused: dict[str, list[str]] = {}
        for pair in marker.evidence.paired.get(row["directory"], ()):
            if pair.refused:
                refused.setdefault(pair.refused, []).append(pair.task)
            elif pair.verdict == UNDERPOWERED and pair.drop_pp is not None:
                low, high = pair.interval_pp or (None, None)
                ends = "no interval" if low is None or high is None else f"{signed(low)} to {signed(high)}"
                needed = f"; it would take about {pair.items_needed:,} items" if pair.items_needed else ""
                text = (
                    f"{pair.task}: {pair.num_items:,} items cannot tell a drop of {pair.margin_pp:g} pp from none "
                    f"(drop {signed(pair.drop_pp)} pp, {ends}){needed}"
                )
                yield "underpowered", text, label(row)
        for why, tasks in refused.items():
            yield "not paired", f"{', '.join(tasks)}: {why}", label(row)


def _of_impact(impact: Sequence[Row]) -> Iterable[tuple[str, str, str]]:
    for row in impact:
        for reason in (row.get("not_comparable") or "").split("; "):
            if reason:
                yield "not compared", f"with {BASELINE}: {reason}", label(row)
