"""Loads of a server: which were measured, and the variants as they were under one of them.

A variant with a serving record has a speed for every level of it. All code that compares, ranks or draws speeds reads
one of them: a view of the variant at the level, see `Variant.at`. Levels of different loads are never ranked together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from slim_eval import slo
from slim_eval.analysis.comparability import NOT_MEASURED, SPEEDS, comparable_groups, differences
from slim_eval.errors import UsageError
from slim_eval.metrics import MAX_GOODPUT, TPOT
from slim_eval.results.goodput import highest_goodput, size_of
from slim_eval.results.records import EnergyRecord, PerformanceRecord, ServingRecord
from slim_eval.results.variants import Estimate, Variant, config_value

_NUMBER = re.compile(r"(?:(?P<kind>concurren(?:cy|t)|rate)[\s=:-]*)?(?P<value>\d+(?:\.\d*)?|\.\d+)")


def views(variant: Variant) -> list[Variant]:
    """A variant at each of its levels, by rate and concurrency; then as it was measured otherwise, if it was."""
    if variant.serving is None:
        return [variant]
    found = [variant.at(level) for level in variant.serving.levels]
    own = variant.performance if variant.level is None else None
    origin = None if own is None else (own.config or {}).get("import")
    files = {level.sha256 for level in variant.serving.levels}
    if own is not None and not (isinstance(origin, dict) and origin.get("sha256") in files):
        found.append(variant)
    return found or [variant]


def load_of(variant: Variant) -> str | None:
    """The load that its speed was measured under, in words; None for batches of slim-eval's own, or no speed."""
    if variant.level is not None:
        return variant.level.label
    load = None if variant.performance is None else config_value(variant.performance, "load")
    return None if load is None else str(load).split(", ", 1)[-1].removeprefix("rate-inf-")


def has_levels(variants: Iterable[Variant]) -> bool:
    """Whether any variant was measured under several loads."""
    return any(variant.serving is not None for variant in variants)


def served_of(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants that were measured under a load, if any was under several."""
    return tuple(v for v in variants if load_of(v) is not None or v.serving is not None) if has_levels(variants) else ()


def without_speed(variant: Variant) -> Variant:
    """A variant at none of its loads: its levels stay in their record."""
    kept = {name: record for name, record in variant.measured.items() if name != PerformanceRecord.name}
    return replace(variant, measured=kept, level=None)


def views_at(variants: Sequence[Variant], load: str) -> list[list[Variant]]:
    """For each variant, its views at a load; none if it was not measured at it.

    `load` is a number of concurrent requests or of requests per second (``8``; ``concurrency-8`` or ``rate-8`` if it is
    not clear which), or a level's label.

    Raises:
        UsageError: No variant was measured at this load.
    """
    every = [[view for view in views(variant) if load_of(view) is not None] for variant in variants]
    for test in _tests(load.strip()):
        found = [[view for view in mine if test(view)] for mine in every]
        if any(found):
            return found
    known = list(dict.fromkeys(str(load_of(view)) for mine in every for view in mine))
    remedy = f"measured: {'; '.join(known)}" if known else "import or measure a server under load first"
    raise UsageError(f"--load {load!r}: nothing was measured at this load", remedy)


def at_load(variants: Sequence[Variant], load: str) -> list[Variant]:
    """The views of variants at a load, as `views_at`; a variant without one stays, without its speed."""
    found = zip(variants, views_at(variants, load), strict=True)
    return [view for variant, mine in found for view in (mine or [without_speed(variant)])]


def at_highest_goodput(variant: Variant, objectives: Sequence[str]) -> Variant:
    """A variant at the highest of its loads that keeps the objectives, with that goodput; else at the lowest.

    A variant without levels stays as it is.
    """
    levels = () if variant.serving is None else variant.serving.levels
    if not levels:
        return variant
    found = highest_goodput(levels, slo.parse(objectives))
    best = next((level for level in levels if level.label == found.load), min(levels, key=size_of))
    view = variant.at(best)
    if found.rate is None:
        return view
    return replace(view, derived={**view.derived, MAX_GOODPUT.key: Estimate(found.rate, found.interval)})


def _tests(load: str) -> list[_Test]:
    """Ways to understand a load, the first that fits anything counts."""
    number = _NUMBER.fullmatch(load.lower())
    if number is None:
        return [_Test("label", load), _Test("part", load)]
    value, kind = float(number["value"]), number["kind"]
    kinds = [kind] if kind else ["concurrency", "rate"]
    return [_Test("label", load), *(_Test("rate" if each == "rate" else "concurrency", load, value) for each in kinds)]


@dataclass(frozen=True)
class _Test:
    """Whether a view was measured at a load."""

    kind: str
    text: str
    value: float = math.nan

    def __call__(self, view: Variant) -> bool:
        label = (load_of(view) or "").casefold()
        if self.kind == "label":
            return label == self.text.casefold()
        if self.kind == "part":
            return self.text.casefold() in label
        rate, concurrency = asked(view)
        wanted = rate if self.kind == "rate" else concurrency
        return wanted is not None and math.isclose(wanted, self.value)


@dataclass(frozen=True)
class Shown:
    """Variants with one speed each."""

    variants: tuple[Variant, ...]
    load: str | None = None  # of those that have levels, in words; None if none has
    left_out: tuple[Variant, ...] = ()  # those with levels, but none at this load: without a speed in `variants`

    @property
    def advice(self) -> list[str]:
        """Under which load the speeds that are shown were measured, one line each."""
        if self.load is None:
            return []
        lines = [f"speed is shown at the load {self.load}; serving_levels.csv has every load, --load shows another one"]
        if self.left_out:
            names = ", ".join(variant.label for variant in self.left_out)
            lines.append(f"{names}: not measured at the load {self.load}; the speed is in serving_levels.csv alone")
        return lines


def shown_at(variants: Sequence[Variant], load: str | None = None) -> Shown:
    """Each variant at one load: the one asked for, else that under which most of them were measured in one setting.

    At a tie, the lowest. Raises a `UsageError` if nothing was measured at the load that is asked for.
    """
    if load is None and not has_levels(variants):
        return Shown(tuple(variants))
    known = views_at(variants, load) if load is not None else [views(variant) for variant in variants]
    every = [(index, view) for index, mine in enumerate(known) for view in mine if load_of(view) is not None]
    labels = comparable_groups([view for _, view in every], SPEEDS).labels
    members: dict[str, dict[int, Variant]] = {}  # group -> place of a variant -> its view
    for (index, view), label in zip(every, labels, strict=True):
        if label != NOT_MEASURED:
            members.setdefault(label, {}).setdefault(index, view)
    groups = sorted(members.values(), key=lambda group: order(next(iter(group.values()))))
    if load is None:
        groups = [group for group in groups if any(view.level for view in group.values())]
    chosen = max(groups, key=len, default={})
    name = next((words for view in chosen.values() if (words := load_of(view)) is not None), None)
    found, left_out = [], []
    for index, variant in enumerate(variants):
        # Those of another engine or hardware have the load too.
        same = [view for view in known[index] if load_of(view) == name]
        if index in chosen or same:
            found.append(chosen[index] if index in chosen else same[0])
        elif load is None and variant.performance is not None:
            found.append(variant)  # batches of slim-eval's own, or a single load: a setting of its own
        else:
            found.append(without_speed(variant))
            left_out += [variant] if any(load_of(view) is not None for view in views(variant)) else []
    return Shown(tuple(found), name, tuple(left_out))


def order(view: Variant) -> tuple[float, float]:
    """Where a load stands among others: by rate, requests that arrive at no rate last, then by concurrency."""
    rate, concurrency = asked(view)
    return (math.inf if rate is None else rate), (math.inf if concurrency is None else concurrency)


def asked(view: Variant) -> tuple[float | None, float | None]:
    """Requests per second, and the most in flight, of a view with a load; None: no such limit."""
    if view.level is not None:
        return view.level.request_rate, view.level.max_concurrency
    record = view.performance
    if record is None:
        return None, None
    rates = (config_value(record, key) for key in ("request_rate", "rate"))
    return next((float(rate) for rate in rates if isinstance(rate, (int, float))), None), record.batch_size


def pairs_at(a: Variant, b: Variant, load: str | None = None) -> list[tuple[Variant, Variant]]:
    """Two variants at every load that both were measured under, or at the one that is asked for.

    If there is none, the two at the loads that differ least: the comparison then names the difference.

    Raises:
        UsageError: Neither was measured at the load that is asked for.
    """
    if load is None and not has_levels((a, b)):
        return [(a, b)]
    sides = [views(a), views(b)]
    if load is not None:
        sides = [mine or [without_speed(side)] for side, mine in zip((a, b), views_at((a, b), load), strict=True)]

    def gap(pair: tuple[Variant, Variant]) -> int:
        # Engine and hardware are reported by the comparison: they are no reason to look for another load.
        return len(differences(TPOT, pair[1], pair[0], without=("engine", "hardware", "kernels", "dtype")))

    every = [(here, there) for there in sides[1] for here in sides[0]]
    both = [pair for pair in every if all(view.performance is not None for view in pair)]
    same = [pair for pair in both if gap(pair) == 0]
    return same or [min(both or every, key=gap)]


def speed_alone(variant: Variant) -> Variant:
    """A view with its speed and nothing else: the rest is the same at every load."""
    kept: tuple[str, ...] = (PerformanceRecord.name, ServingRecord.name)
    level = variant.level
    if level is not None and variant.serving is not None and variant.serving.energy_at(level) is not None:
        kept = (*kept, EnergyRecord.name)
    return replace(variant, measured={name: record for name, record in variant.measured.items() if name in kept})


def by_load(variants: Iterable[Variant]) -> dict[str, list[Variant]]:
    """All views of variants that were measured under a load, by what must agree before they are ranked together."""
    every = [view for variant in variants for view in views(variant) if load_of(view) is not None]
    found: dict[str, list[Variant]] = {}
    for view, label in zip(every, comparable_groups(every, SPEEDS).labels, strict=True):
        if label != NOT_MEASURED:
            found.setdefault(label, []).append(view)
    return found
