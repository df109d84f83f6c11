"""The first screen of the report: a card per respect and variant, with its interval as a small picture in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from slim_eval.analysis.verdict import Effect, Tone, VariantVerdict, Verdict, Word

#: Variants whose cards are on the first screen; the table below has all.
SHOWN = 6
_WIDTH, _HEIGHT, _MARGIN = 120.0, 22.0, 6.0
_TONES = {
    Tone.BETTER: "good", Tone.WORSE: "bad", Tone.SAME: "note", Tone.UNSURE: "warn", Tone.UNTESTED: "warn",
    Tone.NONE: "note",
}  # fmt: skip
_WORDS = {
    Word.DEPLOY: "good", Word.SAFE: "good", Word.DEGRADED: "bad", Word.INCONCLUSIVE: "warn",
    Word.NOT_COMPARABLE: "note", Word.BASELINE: "note",
}  # fmt: skip
_MEANINGS = {
    Tone.BETTER: "better", Tone.WORSE: "worse", Tone.SAME: "unchanged", Tone.UNSURE: "not beyond chance",
    Tone.UNTESTED: "no interval", Tone.NONE: "",
}  # fmt: skip
#: Below each heading, in which direction the card is better.
_BETTER = {"speed": "more is better", "energy": "less is better", "memory": "less is better", "accuracy": "worst task"}


@dataclass(frozen=True)
class Card:
    """One respect in which a variant differs from its baseline."""

    of: str
    value: str
    interval: str  # in brackets; empty without one
    tone: str  # class of `page.css`
    note: str  # what was measured, and what limits it
    picture: str  # SVG; empty without a number

    @classmethod
    def of_effect(cls, effect: Effect) -> Card:
        """The card of an effect."""
        span = effect.shown.removeprefix(effect.short).strip()
        measured = "" if effect.of == "accuracy" else effect.measure
        # A verdict on a task is in words; of the other effects only the tone says it.
        meaning = effect.note if effect.of == "accuracy" else effect.note or _MEANINGS[effect.tone]
        if effect.value is None:
            measured, meaning = "", effect.note or "not measured"
        note = "; ".join(filter(None, (measured, meaning)))
        value = effect.short if effect.value is not None else "not known"
        return cls(effect.of, value, span, _TONES[effect.tone], note or _BETTER[effect.of], picture_of(effect))


@dataclass(frozen=True)
class VariantCards:
    """The cards of one variant."""

    name: str
    word: str
    tone: str
    reason: str
    cards: tuple[Card, ...]


def cards_of(verdict: Verdict) -> list[VariantCards]:
    """The cards of the first variants with effects, the chosen ones first."""
    ranked = sorted((v for v in verdict.variants if not v.is_reference), key=lambda v: v.word is not Word.DEPLOY)
    return [_cards(each) for each in ranked[:SHOWN]]


def _cards(each: VariantVerdict) -> VariantCards:
    cards = tuple(Card.of_effect(effect) for effect in each.effects)
    return VariantCards(each.label, each.word.value, _WORDS[each.word], each.reason, cards)


def word_tone(word: Word) -> str:
    """The class of a verdict's word in `page.css`."""
    return _WORDS[word]


def picture_of(effect: Effect) -> str:
    """The value as a dot, its interval as a bar, and no change as an upright line; empty without a number."""
    if effect.value is None or not effect.unit:
        return ""
    low, high = effect.interval or (effect.value, effect.value)
    least, most = _range((low, high, effect.value, effect.neutral))

    def x(value: float) -> str:
        return f"{_MARGIN + (value - least) / (most - least) * (_WIDTH - 2 * _MARGIN):.1f}"

    middle = _HEIGHT / 2
    bar = "" if effect.interval is None else (
        f'<line class="bar" x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>'
    )  # fmt: skip
    label = escape(f"{effect.of} {effect.shown}; no change is {effect.neutral:g}", quote=True)
    return (
        f'<svg class="interval {_TONES[effect.tone]}-line" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{label}"><line class="zero" x1="{x(effect.neutral)}" x2="{x(effect.neutral)}" y1="1" '
        f'y2="{_HEIGHT - 1:g}"/>{bar}<circle cx="{x(effect.value)}" cy="{middle}" r="3.5"/></svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of a picture: all values, with some room; never empty."""
    least, most = min(values), max(values)
    room = (most - least) * 0.1 or 1.0
    return least - room, most + room
