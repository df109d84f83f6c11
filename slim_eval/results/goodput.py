"""The highest load at which a server keeps its objectives, from the levels that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slim_eval.results.records import ServingLevel
from slim_eval.slo import LatencyObjective


@dataclass(frozen=True)
class Goodput:
    """Requests per second at the highest load that keeps every objective; None if none does."""

    rate: float | None = None
    #: Rates between which the limit lies: at the lower one every objective is kept with confidence (0: at none), at the
    #: upper one some is missed with confidence. None without an upper one.
    interval: tuple[float, float] | None = None
    load: str | None = None  # label of that load; "none" if no level keeps them, None if nothing was measured


def size_of(level: ServingLevel) -> float:
    """The load of a level: requests per second, or requests in flight."""
    return level.request_rate or float(level.max_concurrency or 0)


def keeps(level: ServingLevel, objectives: Sequence[LatencyObjective]) -> bool | None:
    """Whether a level keeps every objective, by the statistics that they name; None if one is not known.

    One that is invalid because the server was at its end does not.
    """
    if level.valid is False:
        return False if level.saturated else None
    values = [(getattr(level, each.key, None), each.limit_s) for each in objectives]
    if any(value is not None and value > limit_s for value, limit_s in values):
        return False
    return None if any(value is None for value, _ in values) else True


def highest_goodput(levels: Sequence[ServingLevel], objectives: Sequence[LatencyObjective]) -> Goodput:
    """The highest load that keeps every objective, below the first above it that misses one.

    A lower load that misses one, as a cold server's first may, does not count.

    Confidence is that of the intervals of the statistics; a percentile above the median is at least as large as it.
    """
    up = [level for level in levels if level.metadata.get("direction") != "down"]
    judged = [(level, keeps(level, objectives)) for level in up if level.requests_per_second is not None]
    missed = [level for level, kept in judged if kept is False]
    lowest = min((size_of(level) for level, kept in judged if kept), default=math.inf)
    limit = min((size for size in map(size_of, missed) if size > lowest), default=math.inf)
    met = [level for level, kept in judged if kept and size_of(level) < limit]
    if not met:
        return Goodput(load="none" if missed else None)

    def is_certain(level: ServingLevel) -> bool:
        ends = [(level.intervals.get(each.key), each.limit_s) for each in objectives]
        return all(interval is not None and interval[1] <= limit_s for interval, limit_s in ends)

    def is_missed(level: ServingLevel) -> bool:
        for each in objectives:
            keys = (each.key, f"median_{each.time}") if each.key.startswith("p9") else (each.key,)
            if any((ends := level.intervals.get(key)) is not None and ends[0] > each.limit_s for key in keys):
                return True
        return level.valid is False

    best = max(met, key=size_of)
    value = best.requests_per_second or 0.0
    low = max((level.requests_per_second or 0.0 for level in met if is_certain(level)), default=0.0)
    above = [level for level in missed if size_of(level) > lowest]
    high = min((level.requests_per_second or 0.0 for level in above if is_missed(level)), default=None)
    return Goodput(value, None if high is None else (min(low, value), max(high, value)), best.label)
