"""What each quantized precision changed against fp16, in words: speed, energy, size, accuracy, each with its doubt."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.compare.items import DEGRADED, EQUIVALENT, UNDERPOWERED
from slim_eval.analysis.rules import BASIS_PER_TOKEN, baseline_of, ends
from slim_eval.analysis.superlatives import label, listed
from slim_eval.results.rows import Row, by_model

_SHOWN = 8  # configurations described one by one, a precision
_NO_OUTCOMES = "whether they are more than chance cannot be told, as no outcomes of single items were kept"
_VERDICTS = (EQUIVALENT, DEGRADED, UNDERPOWERED)
_ORDER = ("int8", "int4")


@dataclass(frozen=True)
class Change:
    """A quantized configuration, beside its 16-bit one.

    Attributes:
        impact: Its row of `tables.quantization_impact`.
        row: Its own row; None where the impact is of another set of rows.
        base: The 16-bit row of the same model.
        paired: Task -> its row of `evidence.Evidence.paired_rows`.
    """

    impact: Mapping[str, Any]
    row: Mapping[str, Any]
    base: Mapping[str, Any] | None
    paired: Mapping[str, Mapping[str, Any]]


def changes(rows: Sequence[Row], impact: Sequence[Row], paired: Sequence[Row]) -> list[Change]:
    """Every quantized configuration with what is known of its change.

    Args:
        rows: From `rows.rows_of`.
        impact: Rows of `tables.quantization_impact`.
        paired: From `evidence.Evidence.paired_rows`.
    """
    here = {row["directory"]: row for row in rows}
    models = by_model(rows)
    tasks: dict[str, dict[str, Row]] = {}
    for task in paired:
        tasks.setdefault(task["directory"], {})[task["task"]] = task
    return [
        Change(found, row, baseline_of(row, models[row["model"]]), tasks.get(row["directory"], {}))
        for found in impact
        if (row := here.get(found["directory"])) is not None
    ]


@dataclass(frozen=True)
class _Lacking:
    """What no configuration of a precision has, so that it is said once."""

    intervals: bool
    verdicts: bool


def _any_interval(chosen: Sequence[Change]) -> bool:
    return any(ends(change.impact, key) for change in chosen for key, *_, neutral in _SPREADS if neutral is not None)


def _any_verdict(chosen: Sequence[Change]) -> bool:
    return any(found["verdict"] for change in chosen for found in change.paired.values())


def precision_findings(found: Sequence[Change], tasks: Sequence[str]) -> list[str]:
    """For each quantized precision a sentence on speed, energy, size and each task, then its configurations.

    Args:
        found: From `changes`.
        tasks: Tasks to show.
    """
    precisions = {change.impact["precision"] for change in found}
    order = [*(p for p in _ORDER if p in precisions), *sorted(precisions.difference(_ORDER))]
    made: list[str] = []
    for precision in order:
        chosen = [change for change in found if change.impact["precision"] == precision]
        said = len(chosen) > 1  # of all of them: what none has need not be said again for each
        if said:
            made += [f"{precision}, {text}." for text in _overall(chosen, tasks)]
        quiet = _Lacking(said and not _any_interval(chosen), said and not _any_verdict(chosen))
        made += [f"{label(change.row)}: {_one(change, tasks, quiet)}." for change in chosen[:_SHOWN]]
        if len(chosen) > _SHOWN:
            made.append(f"{precision}: {len(chosen) - _SHOWN} more configurations in quantization_impact.csv.")
    return made


# Column, words, how a number is written, and what would be no change.
_SPREADS: tuple[tuple[str, str, str, float | None], ...] = (
    ("tpot_speedup", "speed by TPOT {} of fp16", "{:.2f}x", 1.0),
    ("per_token_speedup", "output tokens a second {} of fp16", "{:.2f}x", 1.0),
    ("energy_reduction_percent", "energy saved {}", "{:.1f} %", 0.0),
    ("model_size_ratio", "fp16 takes {} the size on disk", "{:.2f}x", None),
)


def _overall(chosen: Sequence[Change], tasks: Sequence[str]) -> list[str]:
    """One sentence a measure, over all models of a precision."""
    rows = [change.impact for change in chosen]
    by_tpot = any(row["tpot_speedup"] is not None for row in rows)  # throughput would say the same again
    spreads = [spread for spread in _SPREADS if not (by_tpot and spread[0] == "per_token_speedup")]
    said = [*(_spread(rows, *spread) for spread in spreads), *_drops(tasks, chosen)]
    confounded = [change for change in chosen if change.impact["length_confounded"] and change.impact["speedup"]]
    if confounded:
        names = listed([str(change.row["name"]) for change in confounded])
        said.append(f"the latency ratios of {names} compare different numbers of output tokens and are no speed-ups")
    return [text for text in said if text]


def _spread(rows: Sequence[Mapping[str, Any]], key: str, words: str, form: str, neutral: float | None) -> str | None:
    """A range over configurations; how many are beyond doubt on which side of what would be no change."""
    found = [row for row in rows if row[key] is not None]
    if not found:
        return None
    values = [row[key] for row in found]
    low, middle, high = (form.format(value + 0.0) for value in (min(values), statistics.median(values), max(values)))
    words = words.format(low if low == high else f"{low} to {high}, median {middle},").rstrip(",")
    if key == "energy_reduction_percent" and any(row["energy_basis"] != BASIS_PER_TOKEN for row in found):
        words += " (of whole runs whose output lengths are not known)"
    if neutral is not None:
        words += f": {_doubt([ends(row, key) for row in found], neutral)}"
    return f"{len(found)} of {len(rows)} configurations: {words}"


def _doubt(intervals: Sequence[tuple[float, float] | None], neutral: float) -> str:
    known = [found for found in intervals if found is not None]
    if not known:
        return "no intervals, so whether this is more than chance cannot be told"
    better, worse = sum(low > neutral for low, _ in known), sum(high < neutral for _, high in known)
    said = f"better beyond the 95 % interval in {better}, worse in {worse}, not told in {len(known) - better - worse}"
    return said + (f", without an interval {len(intervals) - len(known)}" if len(known) < len(intervals) else "")


def _drops(tasks: Sequence[str], chosen: Sequence[Change]) -> list[str]:
    """The drops of all tasks; those of which the same can be said in one sentence."""
    reasons: dict[str, list[str]] = {}
    for task in tasks:
        values = [v for change in chosen if (v := change.impact[f"{task}_drop_pp"]) is not None]
        low, high = (_signed(bound(values, default=0.0)) for bound in (min, max))
        if not values:
            continue
        verdicts = [found["verdict"] for c in chosen if (found := c.paired.get(task)) and found["verdict"]]
        counted = [f"{verdicts.count(word)} {word}" for word in _VERDICTS if word in verdicts]
        if len(verdicts) < len(values):
            bare = str(len(values) - len(verdicts)) if verdicts else "all"
            counted.append(f"{bare} without outcomes of single items, so that chance cannot be ruled out")
        why = f"{len(values)} of {len(chosen)} configurations: {', '.join(counted)}"
        reasons.setdefault(why, []).append(f"{task} {low} pp" if low == high else f"{task} {low} to {high} pp")
    return [f"drops of {', '.join(spans)}, {why}" for why, spans in reasons.items()]


def _one(change: Change, tasks: Sequence[str], quiet: _Lacking) -> str:
    said = [
        *_speed(change, quiet), *_energy(change.impact, quiet), *_size(change.impact), *_accuracy(change, tasks, quiet),
    ]  # fmt: skip
    refused = change.impact["not_comparable"]
    return "; ".join([*said, *([f"not compared: {refused}"] if refused else [])]) or "nothing to compare"


def _speed(change: Change, quiet: _Lacking) -> list[str]:
    impact = change.impact
    said: list[str] = []
    floor = set((impact["within_noise"] or "").split())
    for key, column, words in (
        ("tpot_speedup", "tpot_s", "speed by TPOT {:.2f}x of fp16"),
        ("per_token_speedup", "tokens_per_second", "{:.2f}x output tokens a second"),
    ):
        if impact[key] is not None and not said:
            said.append(
                words.format(impact[key]) + _interval(ends(impact, key), "x", 2, quiet) + _noise(column in floor)
            )
    ratio, confounded = impact["speedup"], impact["length_confounded"]
    if ratio is not None and confounded:
        said.append(f"the latency ratio {ratio:.2f}x compares different work ({_lengths(change)})")
    elif ratio is not None and impact["tpot_speedup"] is None:
        lengths = "" if confounded is False else ", output lengths not known"
        said.append(f"latency ratio {ratio:.2f}x{lengths}")
    if change.row["kernels"] == "emulated" and said:
        said.append("emulated kernels say nothing about the speed of a deployment")
    return said


def _lengths(change: Change) -> str:
    base = change.base or {}
    return f"{change.row['tokens_per_request']:.1f} output tokens a request against {base['tokens_per_request']:.1f}"


def _energy(impact: Mapping[str, Any], quiet: _Lacking) -> list[str]:
    saved = impact["energy_reduction_percent"]
    if saved is None:
        return []
    way = "less" if saved >= 0 else "more"
    basis = "an output token" if impact["energy_basis"] == BASIS_PER_TOKEN else f"({impact['energy_basis']})"
    span = ends(impact, "energy_reduction_percent")
    if span is not None and saved < 0:
        span = -span[1], -span[0]
    noise = _noise("joules_per_output_token" in (impact["within_noise"] or "").split())
    return [f"{abs(saved):.1f} % {way} energy {basis}{_interval(span, ' %', 1, quiet)}{noise}"]


def _size(impact: Mapping[str, Any]) -> list[str]:
    found = (("model_size_ratio", "its size on disk"), ("weights_ratio", "its size as loaded"))
    said = [f"{impact[key]:.2f}x {where}" for key, where in found if impact[key] is not None]
    return [f"fp16 takes {' and '.join(said)}"] if said else []


def _accuracy(change: Change, tasks: Sequence[str], quiet: _Lacking) -> list[str]:
    drops = {task: drop for task in tasks if (drop := change.impact[f"{task}_drop_pp"]) is not None}
    judged, bare = [], []
    for task, drop in drops.items():
        found = change.paired.get(task)
        if found and found["verdict"]:
            span = _interval(ends(found, "drop_pp"), " pp", 1)
            judged.append(f"{task} drops {_signed(found['drop_pp'])} pp{span}: {_judged(found)}")
        else:
            bare.append(f"{task} {_signed(drop)} pp")
    doubt = "" if quiet.verdicts else f": {_NO_OUTCOMES}"
    return [*judged, *([f"drops of {', '.join(bare)}{doubt}"] if bare else [])]


def _judged(found: Mapping[str, Any]) -> str:
    margin = f"margin {found['margin_pp']:g} pp"
    if found["verdict"] == UNDERPOWERED and found["items_needed"]:
        return f"{UNDERPOWERED}: {found['items_needed']:,} items needed, {found['num_items']:,} there ({margin})"
    return f"{found['verdict']} ({margin})"


def _interval(found: tuple[float, float] | None, unit: str, digits: int, quiet: _Lacking | None = None) -> str:
    if found is None:
        return "" if quiet and quiet.intervals else " (no interval)"
    return f" (95 % interval {found[0]:.{digits}f} to {found[1]:.{digits}f}{unit})"


def _noise(within: bool) -> str:
    return ", within the noise floor" if within else ""


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no negative zero
