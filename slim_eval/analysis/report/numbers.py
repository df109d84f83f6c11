"""How one number of a row is written, with its interval and its marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

from slim_eval.analysis.report.marks import Mark
from slim_eval.analysis.rules import ends

NOT_MEASURED = "not measured"
#: Scale of a share in %.
PERCENT = 100.0
#: Decimals of shares in %, and of differences in percentage points.
PERCENT_DECIMALS = 1
_TINY = 1e-6
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Value:
    """What stands in one field of a table.

    Attributes:
        text: The number or words.
        plus_minus: Half of the 95 % interval, written; empty where there is none.
        title: What a pointer over the field is told.
        sort: By what the column is sorted; None comes last.
        marks: What must be known before the number is quoted.
        absent: Nothing was measured.
    """

    text: str
    plus_minus: str = ""
    title: str = ""
    sort: float | str | None = None
    marks: Sequence[Mark] = ()
    absent: bool = False


ABSENT = Value(NOT_MEASURED, absent=True)


def finite(value: Any) -> float | None:
    """A finite number, or None: neither a text nor a truth value is one."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def figure(value: float, decimals: int | None = None) -> str:
    """A number with the digits that a reader can use: three or four, or as many decimals as are asked for."""
    if abs(value) < _TINY and value:
        return f"{value:.2e}"
    return f"{value:,.{_decimals(value) if decimals is None else decimals}f}"


def plus_minus(value: float, interval: tuple[float, float], decimals: int | None = None) -> str:
    """Half of an interval, with as many decimals as its value has; more where it would come to 0."""
    half = (interval[1] - interval[0]) / 2
    places = _decimals(value) if decimals is None else decimals
    return f"±{figure(half, places if half >= 0.5 * 10**-places or not half else None)}"


def _decimals(value: float) -> int:
    size = abs(value)
    if size == 0 or size >= 1000:
        return 0
    return (1 if size >= 100 else 2) if size >= 1 else 2 - math.floor(math.log10(max(size, _TINY)))


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, and no negative zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def interval_of(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric; 1.96 standard errors each way where the record has only those."""
    found = ends(row, key)
    if found is not None:
        return found
    value, error = finite(row.get(key)), finite(row.get(f"{key}_stderr"))
    return None if value is None or error is None else (value - _Z95 * error, value + _Z95 * error)


def measured(row: Mapping[str, Any], key: str, scale: float = 1.0, marks: Sequence[Mark] = ()) -> Value:
    """The field of a metric.

    Args:
        row: A row, with the ends of the intervals beside the numbers.
        key: Column of the number.
        scale: From the column's unit to the one shown.
        marks: Of the number; a number that is missing has none.
    """
    value = finite(row.get(key))
    if value is None:
        return ABSENT
    decimals = PERCENT_DECIMALS if scale == PERCENT else None
    return valued(value * scale, _scaled(interval_of(row, key), scale), marks, decimals)


def valued(
    value: float,
    interval: tuple[float, float] | None,
    marks: Sequence[Mark] = (),
    decimals: int | None = None,
) -> Value:
    """A number with its interval, in the unit shown."""
    if interval is None:
        return Value(figure(value, decimals), sort=value, marks=marks)
    title = f"95 % interval {figure(interval[0])} to {figure(interval[1])}"
    return Value(figure(value, decimals), plus_minus(value, interval, decimals), title, value, marks)


def words(value: Any) -> Value:
    """A text; what is not known says so."""
    if value is None or value == "":
        return Value("not known", absent=True)
    return Value(str(value), sort=str(value).casefold())


def counted(value: Any) -> Value:
    """A whole number."""
    number = finite(value)
    return ABSENT if number is None else Value(f"{number:,.0f}", sort=number)


def _scaled(interval: tuple[float, float] | None, scale: float) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] * scale, interval[1] * scale)
