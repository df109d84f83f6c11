"""Figures onto the disk, by all cores: drawing twenty figures twice is most of the time that an analysis takes."""

from __future__ import annotations

import atexit
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from fontTools import subset  # type: ignore[import-untyped]
from matplotlib import font_manager
from matplotlib.figure import Figure as MplFigure

# Each registers its figures.
from slim_eval.analysis.figures import bars, distributions, load_curves, radar, scatter, scores, style  # noqa: F401
from slim_eval.analysis.figures.figure import FIGURES, Figure
from slim_eval.analysis.figures.numbers import csv_of
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS
from slim_eval.utils import atomic_path, write_text

_T = TypeVar("_T")
# Neither date nor version inside: the same results give the same files.
_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 2}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": "slim-eval"}},
}
_MAX_PROCESSES = 4  # more than that wait for each other's memory
_work: list[Callable[[int], Any]] = []  # in a child process: what it was started for

_FAMILY, _ORIGINAL = "slim-eval Sans", "DejaVu Sans"
_NAMES = (1, 4, 6, 16)  # of the name table: family, full name, PostScript name, typographic family
# Latin with accents, dashes, quotation marks and daggers, mathematical signs; the original font has the rest.
_CHARACTERS = (*range(0x20, 0x180), *range(0x2010, 0x2040), *range(0x2200, 0x2270))


def write_figures(
    study: Study, directory: Path, figures: Iterable[Figure] | None = None
) -> tuple[list[Path], list[str]]:
    """Write figures, all by default, as PNG and PDF, with their numbers as CSV.

    Files that an earlier analysis wrote of all others are removed.

    Returns the paths written, and the names of the figures for which nothing was measured.
    """
    chosen = list(FIGURES.values() if figures is None else figures)

    def write(number: int) -> list[Path]:
        return save(draw_figure(chosen[number], study), directory, chosen[number].name)

    for figure in FIGURES.values():
        if figure not in chosen:
            save(None, directory, figure.name)
    _ = study.impacts  # worked out once, for all processes
    with mpl.rc_context(_settings(study)):
        found = map_in_processes(write, len(chosen))
    empty = [figure.name for figure, paths in zip(chosen, found, strict=True) if not paths]
    return [path for paths in found for path in paths], empty


def draw_figure(figure: Figure, study: Study) -> MplFigure | None:
    """A figure in the font of all figures; None if nothing was measured."""
    with mpl.rc_context(_settings(study)):
        return figure.draw(study)


def png(figure: Figure, study: Study) -> tuple[bytes, str] | None:
    """A figure as the bytes of a PNG file and its numbers as CSV, to embed them; None if nothing was measured."""
    content = io.BytesIO()
    with mpl.rc_context(_settings(study)):
        made = figure.draw(study)
        if made is None:
            return None
        made.savefig(content, format="png", **_OPTIONS["png"])
    return content.getvalue(), csv_of(made)


def save(figure: MplFigure | None, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF, and its numbers as CSV, and return the paths.

    Without one, remove what an earlier analysis left.
    """
    paths = {ending: directory / f"{name}.{ending}" for ending in _OPTIONS}
    for ending, path in paths.items():
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=ending, **_OPTIONS[ending])
    table = directory / f"{name}.csv"
    text = "" if figure is None else csv_of(figure)
    if text:
        write_text(table, text)
    else:
        table.unlink(missing_ok=True)
    return [] if figure is None else [*paths.values(), *([table] if text else [])]


def map_in_processes(work: Callable[[int], _T], count: int) -> list[_T]:
    """``[work(0), …, work(count - 1)]``, by as many processes as there are cores, up to four.

    Children are forked, so that nothing is imported or passed again. If that is impossible, or unsafe because other
    threads may hold a lock, this process does all of it. The first error of `work` is raised.
    """
    processes = min(_MAX_PROCESSES, count, _cores())
    if processes < 2 or "fork" not in get_all_start_methods() or threading.active_count() > 1:
        return [work(number) for number in range(count)]
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread beside a fork. Those that are left belong to BLAS, which is ready for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(processes, get_context("fork"), _work.append, (work,)) as pool:
            return list(pool.map(_do, range(count)))


def _do(number: int) -> Any:
    return _work[-1](number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settings(study: Study) -> dict[Any, Any]:
    """`font_settings` for a study: matplotlib searches every family for every text, so one alone is sooner drawn."""
    texts = [figure.title for figure in FIGURES.values()]
    texts += [text for metric in METRICS.values() for text in (metric.title, metric.label, metric.unit)]
    texts += [*study.tasks, *(variant.label for variant in study.variants)]
    enough = {*map(ord, "".join(texts))} <= set(_CHARACTERS)
    return font_settings() | {"font.family": [_FAMILY] if enough else [_FAMILY, _ORIGINAL]}


@cache
def font_settings() -> dict[Any, Any]:
    """`style.SETTINGS` with the font of all figures, a copy of DejaVu Sans without tables for typesetting.

    A PDF contains the letters that it uses. To find them, fontTools reads the whole font again for every file, mostly
    those tables, which labels do not need: the copy halves the time of a PDF.
    """
    folder = tempfile.TemporaryDirectory(prefix="slim-eval-fonts-")
    atexit.register(folder.cleanup)  # not before: matplotlib opens the fonts again for every figure
    for weight in ("normal", "bold"):
        source = font_manager.findfont(font_manager.FontProperties(family=_ORIGINAL, weight=weight))
        target = Path(folder.name) / f"{weight}.ttf"
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
        font_manager.fontManager.addfont(target)
    return style.SETTINGS | {"font.family": [_FAMILY, _ORIGINAL]}
