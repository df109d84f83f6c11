"""How every figure looks: one palette, one set of sizes, and how texts are shortened and numbers written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Okabe and Ito's palette, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/).
OKABE_ITO = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermilion": "#D55E00", "purple": "#CC79A7",
    "sky": "#56B4E9", "yellow": "#F0E442", "black": "#000000",
}  # fmt: skip
_PRECISION_COLOURS = {"fp16": "blue", "int8": "orange", "int4": "green"}
_FURTHER_COLOURS = ("purple", "sky", "vermilion", "yellow", "black")

TEXT = "#222222"
MUTED = "#6b6b6b"
GRID = "#e3e3e3"
DPI = 150
TITLE_SIZE, PANEL_SIZE, LABEL_SIZE, SMALL_SIZE = 12.0, 9.5, 8.5, 7.5  # points

_NAME_CHARACTERS = 24


def colours(precisions: Iterable[str]) -> Mapping[str, str]:
    """A colour for each precision, fp16 first; the usual three have the same one in every figure of every analysis."""
    found = set(precisions)
    known = [precision for precision in _PRECISION_COLOURS if precision in found]
    others = sorted(found.difference(known))
    further = {name: _FURTHER_COLOURS[i % len(_FURTHER_COLOURS)] for i, name in enumerate(others)}
    return {name: OKABE_ITO[{**_PRECISION_COLOURS, **further}[name]] for name in (*known, *others)}


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
