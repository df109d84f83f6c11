"""Service level objectives: ``ttft_p95:500ms`` says that 95 % of the times to the first token are at most 500 ms.

One notation for measuring (`--slo` of a run, where each request is judged too) and for analysis (`--slo` of
`slim-eval recommend`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Name in an objective -> key of the metric, whose values per request are seconds.
TIMES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2e": "e2e_latency_s"}
_STATISTICS = {"mean": "", "p50": "median_", "median": "median_", "p95": "p95_", "p99": "p99_"}
_UNITS = {"ms": 1e-3, "s": 1.0}
_FORM = re.compile(
    r"(?P<time>[a-z0-9]+)(?:_(?P<statistic>[a-z0-9]+))?[:<=]+(?P<limit>\d+(?:\.\d+)?|\.\d+)(?P<unit>ms|s)"
)
_EXAMPLE = "write them like ttft_p95:500ms tpot_p95:50ms"


@dataclass(frozen=True)
class LatencyObjective:
    """One limit, of a time of every request and of its distribution."""

    text: str  # as written
    time: str  # key of the metric: ``ttft_s``
    key: str  # of its statistic: ``p95_ttft_s``
    limit_s: float

    def kept(self, value_s: float | None) -> bool:
        """Whether a request's time is within the limit; one that is not known is not."""
        return value_s is not None and value_s <= self.limit_s


def parse(texts: Iterable[str]) -> tuple[LatencyObjective, ...]:
    """The objectives; without a statistic, p95 is meant. A ValueError names what is wrong."""
    found = []
    for text in texts:
        match = _FORM.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(f"{text!r} is not an objective: {_EXAMPLE}")
        time, statistic = match["time"], match["statistic"] or "p95"
        if time not in TIMES:
            raise ValueError(f"{text!r}: unknown time {time!r}, known: {', '.join(TIMES)}")
        if statistic not in _STATISTICS:
            raise ValueError(f"{text!r}: unknown statistic {statistic!r}, known: {', '.join(_STATISTICS)}")
        limit_s = float(match["limit"]) * _UNITS[match["unit"]]
        if limit_s <= 0:
            raise ValueError(f"{text!r}: the limit must be above 0")
        found.append(LatencyObjective(text, TIMES[time], f"{_STATISTICS[statistic]}{TIMES[time]}", limit_s))
    return tuple(found)


def check_objectives(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The texts as they are, if all are objectives; for the validation of an option."""
    parse(texts)
    return texts


def keeps_all(objectives: Iterable[LatencyObjective], values_s: Mapping[str, float | None]) -> bool:
    """Whether a request, whose times are given by the keys of `LatencyObjective.time`, keeps every objective."""
    return all(each.kept(values_s.get(each.time)) for each in objectives)
