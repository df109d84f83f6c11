"""Signs beside numbers that must not be compared without a word, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.patches import Patch

from slim_eval.analysis.rules import Doubt

NOT_MEASURED = "not measured"
NOT_COMPARABLE = "not comparable"
HATCH = "////"
SUMMARY_SIGN = "*"  # a number stands for another one that was not recorded
_SIGNS = {Doubt.LENGTH: "†", Doubt.SPEED_SETUP: "‡", Doubt.ENERGY_SETUP: "‡", Doubt.INVALID_ENERGY: "§",
          Doubt.EMULATED: "¶"}  # fmt: skip
_NOTES = {
    Doubt.LENGTH: "† different output length than fp16: not comparable",
    Doubt.SPEED_SETUP: "‡ other engine, hardware, batch size or prompt than fp16: not comparable",
    Doubt.ENERGY_SETUP: "‡ other engine, hardware, batch size or energy source than fp16: not comparable",
    Doubt.INVALID_ENERGY: "§ marked invalid when it was measured",
    Doubt.EMULATED: "¶ quantized kernels emulated in 16 bit: says nothing about a deployment",
}


def signs(doubts: Iterable[Doubt]) -> str:
    """The signs of some doubts, each once."""
    found = set(doubts)
    return "".join(dict.fromkeys(_SIGNS[doubt] for doubt in Doubt if doubt in found))


def notes_on(doubts: Iterable[Doubt]) -> list[str]:
    """One line for each doubt, to stand below a figure."""
    found = set(doubts)
    return [note for doubt, note in _NOTES.items() if doubt in found]


def hatched() -> Patch:
    """Entry of the legend for hatched bars."""
    return Patch(facecolor="#b0b0b0", edgecolor="white", hatch=HATCH, label="not comparable with fp16")
