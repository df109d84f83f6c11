"""How every figure looks: one palette, one set of sizes, and how texts are shortened and numbers written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# Okabe and Ito's palette, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/).
OKABE_ITO = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermilion": "#D55E00", "purple": "#CC79A7",
    "sky": "#56B4E9", "yellow": "#F0E442", "black": "#000000",
}  # fmt: skip
_PRECISION_COLOURS = {"fp16": "blue", "int8": "orange", "int4": "green"}
_FURTHER_COLOURS = ("purple", "sky", "vermilion", "yellow", "black")
# Shapes repeat at another count than colours: two precisions that share a colour differ in shape.
_PRECISION_MARKERS = {"fp16": "o", "int8": "s", "int4": "^"}
_FURTHER_MARKERS = ("D", "v", "P", "X", "<", ">", "p")

TEXT = "#222222"
MUTED = "#6b6b6b"
GRID = "#e3e3e3"
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}  # behind a text that lines run under
DPI = 120
TITLE_SIZE, PANEL_SIZE, LABEL_SIZE, SMALL_SIZE = 12.0, 9.5, 8.5, 7.5  # points

_NAME_CHARACTERS = 24


def colours(precisions: Iterable[str]) -> Mapping[str, str]:
    """A colour for each precision, fp16 first; the usual three have the same one in every figure of every analysis."""
    return {name: OKABE_ITO[colour] for name, colour in _given(precisions, _PRECISION_COLOURS, _FURTHER_COLOURS)}


def markers(precisions: Iterable[str]) -> Mapping[str, str]:
    """A marker's shape for each precision, in the order of `colours`: readable where colours are not."""
    return dict(_given(precisions, _PRECISION_MARKERS, _FURTHER_MARKERS))


def tint(colour: str, share: float) -> str:
    """A colour mixed with white; `share` 0 is the colour, 1 is white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02X}" for channel in channels)


def _given(precisions: Iterable[str], usual: Mapping[str, str], further: Sequence[str]) -> list[tuple[str, str]]:
    found = set(precisions)
    known = [precision for precision in usual if precision in found]
    others = sorted(found.difference(known))
    return [(name, usual[name]) for name in known] + [
        (name, further[i % len(further)]) for i, name in enumerate(others)
    ]


def wrapped_name(name: str) -> str:
    """A model's name in lines of a fixed greatest length, broken after ``-``, ``_``, ``/`` or a space if it has one.

    Nothing is cut: names of one family differ anywhere.
    """
    lines = [""]
    for part in re.findall(r"[^-_/ ]*[-_/ ]?", name):
        while part:
            if len(lines[-1]) + len(part.rstrip()) <= _NAME_CHARACTERS:
                lines[-1] += part
                break
            if lines[-1]:
                lines.append("")
            elif len(part) > _NAME_CHARACTERS:
                lines[-1], part = part[:_NAME_CHARACTERS], part[_NAME_CHARACTERS:]
    return "\n".join(line.rstrip() for line in lines)
