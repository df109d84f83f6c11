"""At which load one variant overtakes another, metric by metric, from the levels that both were measured at."""

from __future__ import annotations

from dataclasses import dataclass

from slim_eval.analysis.comparability import differences, lengths_differ
from slim_eval.analysis.loads import asked
from slim_eval.metrics import E2E, GOODPUT, J_PER_TOKEN, METRICS, THROUGHPUT, TPOT, TTFT, Metric
from slim_eval.results.variants import Variant
from slim_eval.stats import Crossing, Curve, Interval, crossovers
from slim_eval.utils import number

#: Metric -> how it changes with the load by its nature, and `power` of `stats.crossovers`.
_COMPARED: tuple[tuple[Metric, int, float], ...] = (
    (TTFT, 1, 0.0),
    (METRICS["p95_ttft_s"], 1, 0.0),
    (TPOT, 1, 0.0),
    (METRICS["p95_tpot_s"], 1, 0.0),
    (E2E, 1, 0.0),
    (THROUGHPUT, 1, -1.0),
    (GOODPUT, 0, 0.0),
    (J_PER_TOKEN, -1, 1.0),
)


@dataclass(frozen=True)
class MetricCrossover:
    """Where two variants, A and B, cross in one metric."""

    metric: Metric
    loads: tuple[float, ...]  # at which both were measured
    unit: str  # of the loads: ``concurrent requests``
    crossings: tuple[Crossing, ...]
    better: tuple[str | None, ...]  # at each load: "A" or "B" with confidence, else None

    @property
    def place(self) -> str:
        """The crossover in words: ``11.9 [10.8, 13.2]``, or between which loads there is none."""
        if not self.crossings:
            return f"none between {self.loads[0]:g} and {self.loads[-1]:g}"
        return ", ".join(map(_place_of, self.crossings))

    def sides(self, a: str, b: str) -> tuple[str, str]:
        """Who is better below the crossover, and above it; without one, at all loads, twice the same."""
        names = {"A": a, "B": b}
        known = [names[each] for each in self.better if each is not None]
        if not known:
            return "no difference seen", "no difference seen"
        if self.crossings:
            return f"{known[0]} better", f"{known[-1]} better"
        everywhere = f"{known[0]} better" if len(known) == len(self.better) else f"{known[0]} better or no difference"
        return everywhere, everywhere

    def words(self, a: str, b: str) -> str:
        """One sentence."""
        below, above = self.sides(a, b)
        if not self.crossings:
            span = f"between {self.loads[0]:g} and {self.loads[-1]:g} {self.unit}"
            return f"{self.metric.title}: no crossover {span}: {below}"
        if len(self.crossings) > 1:  # the sides change at each
            names = [b, a] if below == f"{a} better" else [a, b]
            turns = ", ".join(f"{names[n % 2]} better from {_place_of(each)}" for n, each in enumerate(self.crossings))
            return f"{self.metric.title}: {below} at first, {turns} {self.unit}"
        return f"{self.metric.title}: {below} below {self.place} {self.unit}, {above} above"


def _place_of(crossing: Crossing) -> str:
    return f"{number(crossing.load)} [{number(crossing.interval.low)}, {number(crossing.interval.high)}]"


def crossovers_of(a: Variant, b: Variant) -> list[MetricCrossover]:
    """Every metric that both variants have, with intervals, at two loads or more that were measured in one setting.

    Empty if they have fewer levels in common: a crossover needs two.
    """
    pairs = _common(a, b)
    if len(pairs) < 2:
        return []
    rates = all(asked(here)[0] is not None for here, _, _ in pairs)
    unit = "requests per second" if rates else "concurrent requests"
    found = []
    for metric, trend, power in _COMPARED:
        sides: tuple[list[float], list[float]] = ([], [])
        ends: tuple[list[Interval], list[Interval]] = ([], [])
        loads: list[float] = []
        for here, there, load in pairs:
            if metric.per_length and lengths_differ(here, there) is not False:
                continue
            both = here.estimate(metric), there.estimate(metric)
            if any(each is None or each.interval is None or each.value <= 0 for each in both):
                continue
            loads.append(load)
            for values, intervals, each in zip(sides, ends, both, strict=True):
                assert each is not None
                assert each.interval is not None
                values.append(each.value)
                intervals.append(Interval(*each.interval))
        if len(loads) < 2:
            continue
        curves = [Curve(values, intervals) for values, intervals in zip(sides, ends, strict=True)]
        # Throughput at a rate is that rate: it is straight as it is.
        made = crossovers(loads, *curves, trend=trend, power=0.0 if rates else power)
        lower = "B" if metric.maximise else "A"
        higher = "A" if metric.maximise else "B"
        better = tuple({-1: lower, 1: higher}.get(sign) for sign in made.signs)
        found.append(MetricCrossover(metric, tuple(loads), unit, made.crossings, better))
    return found


def _common(a: Variant, b: Variant) -> list[tuple[Variant, Variant, float]]:
    """The views of two variants at the loads that both have in one setting, by the size of the load."""
    if a.serving is None or b.serving is None:
        return []
    found: dict[float, tuple[Variant, Variant, float]] = {}
    others = {level.load: level for level in b.serving.levels}
    for level in a.serving.levels:
        if level.load not in others or level.metadata.get("direction") == "down":
            continue
        here, there = a.at(level), b.at(others[level.load])
        rate, concurrency = asked(here)
        size = rate if rate is not None else concurrency
        if size is None or not (here.counts(TPOT) and there.counts(TPOT)):
            continue
        if differences(TPOT, there, here):
            continue
        found.setdefault(size, (here, there, size))
    # Loads of one kind: rates and numbers in flight are not on one axis.
    in_flight = sorted(size for size, (here, _, _) in found.items() if asked(here)[0] is None)
    rates = sorted(size for size in found if size not in in_flight)
    return [found[size] for size in (in_flight if len(in_flight) >= len(rates) else rates)]
