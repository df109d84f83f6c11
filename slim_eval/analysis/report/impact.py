"""Each quantized configuration against the same model's 16-bit one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slim_eval.analysis.report.marks import CONFOUNDED, Marker
from slim_eval.analysis.report.numbers import ABSENT, Value, figure, finite, plus_minus, signed, words
from slim_eval.analysis.rules import BASELINE, BASIS_PER_RUN, ends
from slim_eval.results.rows import Row

_RATIOS = {
    "tpot_speedup": "TPOT speed-up", "per_token_speedup": "throughput ratio", "ttft_speedup": "TTFT speed-up",
    "speedup": "amortised-latency ratio", "energy_reduction_percent": "energy saved, %",
    "model_size_ratio": "smaller on disk", "weights_ratio": "smaller in memory",
}  # fmt: skip


def impact_table(
    impact: Sequence[Row], rows: Sequence[Row], tasks: Sequence[str], marker: Marker
) -> tuple[tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    """Headers and fields; a ratio above 1 is an improvement, a drop above 0 is a loss."""
    by_directory = {row["directory"]: row for row in rows}
    # A ratio that no configuration has is left out: its numbers were not measured.
    ratios = [key for key in _RATIOS if any(finite(entry.get(key)) is not None for entry in impact)]
    headers = (
        "model", "precision", *(_RATIOS[key] for key in ratios), *(f"{task} drop, pp" for task in tasks),
        "within noise", f"not compared with {BASELINE}, and why",
    )  # fmt: skip
    made = []
    for entry in impact:
        row = by_directory.get(entry["directory"])
        drops = [_drop(entry, row, task, marker) for task in tasks]
        made.append((
            words(entry["name"]), words(entry["precision"]), *(_ratio(entry, key) for key in ratios), *drops,
            Value(entry.get("within_noise") or "none"), Value(entry.get("not_comparable") or "none"),
        ))  # fmt: skip
    return headers, tuple(made)


def _ratio(entry: Mapping[str, Any], key: str) -> Value:
    value, interval = finite(entry.get(key)), ends(entry, key)
    if value is None:
        return Value("not compared", absent=True)
    marks = (CONFOUNDED,) if key == "speedup" and entry.get("length_confounded") else ()
    unit = "" if key == "energy_reduction_percent" else "x"
    basis = str(entry.get("energy_basis") or "") if not unit else ""
    if interval is None:
        # Energy of runs whose lengths are not known says so where it is read, not only where it is pointed at.
        shown = "whole run" if basis == BASIS_PER_RUN else ""
        return Value(f"{figure(value)}{unit}", shown, basis, value, marks)
    title = f"95 % interval {figure(interval[0])} to {figure(interval[1])}{f', {basis}' if basis else ''}"
    return Value(f"{figure(value)}{unit}", plus_minus(value, interval), title, value, marks)


def _drop(entry: Mapping[str, Any], row: Row | None, task: str, marker: Marker) -> Value:
    """The paired drop where items were paired, else the difference of the two accuracies."""
    pair = None if row is None else marker.pair(row, task)
    marks = () if row is None else marker.of_task(row, task)
    if pair is not None and pair.drop_pp is not None:
        interval = pair.interval_pp
        wing = "" if interval is None else f"({signed(interval[0])} to {signed(interval[1])})"
        return Value(
            signed(pair.drop_pp), wing, "on the same items, with the paired 95 % interval", pair.drop_pp, marks
        )
    drop = finite(entry.get(f"{task}_drop_pp"))
    if drop is None:
        return ABSENT if row is None or row.get(task) is None else Value("not compared", absent=True)
    return Value(
        signed(drop), "unpaired", "difference of the two accuracies: no interval on the same items", drop, marks
    )
