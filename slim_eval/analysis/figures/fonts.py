"""The font that figures are written with: matplotlib's DejaVu Sans without its tables for typesetting.

A PDF holds the letters it uses as TrueType (Type 42: text stays text, and publishers take it). To find them, fontTools
reads the whole font again for every file, most of the time its substitution and positioning tables, which labels on
axes do not need. Without them a figure is written in half the time.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from fontTools import subset  # type: ignore[import-untyped]
from matplotlib import font_manager

_FAMILY = "slim-eval Sans"
_ORIGINAL = "DejaVu Sans"
_NAMES = (1, 4, 6, 16)  # of the name table: family, full name, PostScript name, typographic family
# Latin with accents, dashes, quotation marks and daggers, signs of mathematics; the original has what is beyond.
_CHARACTERS = (*range(0x20, 0x180), *range(0x2010, 0x2040), *range(0x2200, 0x2270))


@cache
def font_settings() -> dict[Any, Any]:
    """Settings of matplotlib under which figures are drawn and written."""
    folder = _folder()
    for weight in ("normal", "bold"):
        source = font_manager.findfont(font_manager.FontProperties(family=_ORIGINAL, weight=weight))
        target = Path(folder.name) / f"{weight}.ttf"
        _write_lean(source, target)
        font_manager.fontManager.addfont(target)
    return {
        "font.family": [_FAMILY, _ORIGINAL],
        "pdf.fonttype": 42,
        "text.hinting": "none",  # a text is as wide in a PDF as in a picture, and drawn sooner
        "text.parse_math": False,  # a dollar sign in a model's name is one
    }


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Kept until the program ends: matplotlib opens the files again for every figure."""
    return tempfile.TemporaryDirectory(prefix="slim-eval-fonts-")


def _write_lean(source: str, target: Path) -> None:
    options = subset.Options(layout_features=[], glyph_names=True)
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "FFTM", "kern"]
    with subset.load_font(source, options) as font:
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=list(_CHARACTERS))
        subsetter.subset(font)
        for record in font["name"].names:
            if record.nameID in _NAMES:
                text = record.toUnicode().replace(_ORIGINAL, _FAMILY)
                record.string = text.replace(_ORIGINAL.replace(" ", ""), _FAMILY.replace(" ", ""))
        font.save(target)
