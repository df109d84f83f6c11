"""How every figure looks: colours and markers of schemes, sizes of texts, and settings of matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from slim_eval.schemes import Scheme, find, in_order

# Okabe and Ito's palette, which is readable with any colour vision (https://jfly.uni-koeln.de/color/), without the
# colours that the table of schemes uses. Colours and markers repeat at different counts, so that pairs differ.
_FURTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_FURTHER_MARKERS = ("D", "v", "P", "X", "<", ">", "p")
_PLAIN = Scheme("", "", 16)  # a scheme that chose no colour or marker

TEXT, MUTED, GRID = "#222222", "#6b6b6b", "#e3e3e3"
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}  # behind a text that lines run under
DPI = 120
TITLE_SIZE, PANEL_SIZE, LABEL_SIZE, SMALL_SIZE = 12.0, 9.5, 8.5, 7.5  # points

#: Settings of matplotlib under which figures are drawn and written.
SETTINGS: dict[Any, Any] = {
    "figure.dpi": DPI, "figure.facecolor": "white", "font.size": SMALL_SIZE, "text.color": TEXT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED, "axes.axisbelow": True,
    "axes.labelsize": LABEL_SIZE, "axes.labelcolor": TEXT, "xtick.bottom": False, "ytick.left": False,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": SMALL_SIZE, "ytick.labelsize": SMALL_SIZE,
    "grid.color": GRID, "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": LABEL_SIZE,
    "pdf.fonttype": 42,  # TrueType: text stays text, and publishers accept it
    "text.hinting": "none",  # a text is as wide in a PDF as in a PNG, and drawn sooner
    "text.parse_math": False,  # a dollar sign in a model's name is one
}  # fmt: skip


def looks(precisions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker (readable without colour) per scheme, in the order of their table, the same in every figure."""
    schemes = {name: find(name) or _PLAIN for name in in_order(precisions)}
    colours, markers = cycle(_FURTHER_COLOURS), cycle(_FURTHER_MARKERS)
    return {
        name: (next(colours) if scheme.colour == _PLAIN.colour else scheme.colour,
               next(markers) if scheme.marker == _PLAIN.marker else scheme.marker)
        for name, scheme in schemes.items()
    }  # fmt: skip


def tint(colour: str, share: float) -> str:
    """A colour mixed with white; `share` 0 is the colour, 1 is white."""
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(colour))
    return to_hex((red, green, blue)).upper()
