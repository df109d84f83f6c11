"""How every figure looks: colours, markers, sizes of texts, and how model names are broken. Light to import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from slim_eval.schemes import SCHEMES, Scheme, in_order

# Okabe and Ito's palette, which is readable with any colour vision (https://jfly.uni-koeln.de/color/), without the
# colours that the table of schemes uses. Colours and markers repeat at different counts, so that pairs differ.
_FURTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_FURTHER_MARKERS = ("D", "v", "P", "X", "<", ">", "p")
_PLAIN = Scheme("", "", 16)  # a scheme that chose no colour or marker

TEXT = "#222222"
MUTED = "#6b6b6b"
GRID = "#e3e3e3"
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}  # behind a text that lines run under
DPI = 120
TITLE_SIZE, PANEL_SIZE, LABEL_SIZE, SMALL_SIZE = 12.0, 9.5, 8.5, 7.5  # points


def colours(precisions: Iterable[str]) -> Mapping[str, str]:
    """A colour per scheme, in the order of the table of schemes, the same in every figure of every analysis."""
    return _look(in_order(precisions), "colour", _FURTHER_COLOURS)


def markers(precisions: Iterable[str]) -> Mapping[str, str]:
    """A marker per scheme, likewise: readable without colour."""
    return _look(in_order(precisions), "marker", _FURTHER_MARKERS)


def _look(names: Sequence[str], what: str, further: Sequence[str]) -> Mapping[str, str]:
    chosen = {name: getattr(SCHEMES[name], what) for name in names if name in SCHEMES}
    free = [name for name in names if chosen.get(name, getattr(_PLAIN, what)) == getattr(_PLAIN, what)]
    return {**dict.fromkeys(names, ""), **chosen, **{name: further[i % len(further)] for i, name in enumerate(free)}}


def tint(colour: str, share: float) -> str:
    """A colour mixed with white; `share` 0 is the colour, 1 is white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02X}" for channel in channels)
