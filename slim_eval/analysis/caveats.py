"""What a set of results cannot support, worked out from the results themselves.

Each check looks at the rows of one model or of all, and puts in words what a reader must know before quoting a number.
The files published with SLiM-Eval 0.1.3 have every one of these; slim-eval's own records have few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.rules import BASELINE, LENGTH_TOLERANCE, baseline_of, lengths_differ
from slim_eval.results.rows import Row, by_model, tasks_of
from slim_eval.utils import GIB

_BYTES_PER_PARAMETER_16_BIT = 2
_PARAMETER_TOLERANCE = 0.05  # heads and buffers that a file holds beside the counted parameters
_RESERVED_TOLERANCE = 0.05  # peaks within this of each other, while the weights shrink, are one reservation
_SHRINKS = 0.95  # at most this share of the 16-bit weights counts as smaller


@dataclass(frozen=True)
class Caveat:
    """One thing that numbers cannot support.

    Attributes:
        kind: ``length``, ``amortised``, ``reserved memory``, ``energy``, ``metric``, ``parameters``, ``no intervals``.
        text: In words, with the figures.
        variants: The configurations that it concerns.
    """

    kind: str
    text: str
    variants: tuple[str, ...]


def caveats(rows: Sequence[Row]) -> list[Caveat]:
    """Everything that the rows cannot support; empty for results that hold.

    Args:
        rows: From `rows.rows_of`.
    """
    return [caveat for check in _CHECKS for caveat in check(rows)]


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['name']} {row['precision']}"


def _lengths(rows: Sequence[Row]) -> Iterable[Caveat]:
    models = by_model(rows)
    for row in rows:
        base = baseline_of(row, models[row["model"]])
        if row["precision"] == BASELINE or base is None or not lengths_differ(row, base):
            continue
        text = f"{row['tokens_per_request']:.1f} output tokens a request against {base['tokens_per_request']:.1f}"
        if row["mean_latency_s"] and base["mean_latency_s"] and row["tokens_per_second"] and base["tokens_per_second"]:
            latency = base["mean_latency_s"] / row["mean_latency_s"]
            throughput = row["tokens_per_second"] / base["tokens_per_second"]
            text += f": the latency ratio {latency:.2f}x compares different work; per token it is {throughput:.2f}x"
        yield Caveat("length", text, (_label(row),))


def _amortised(rows: Sequence[Row]) -> Iterable[Caveat]:
    waits = ("ttft_s", "tpot_s", "e2e_latency_s")
    found = [row for row in rows if row["mean_latency_s"] is not None and not any(row[key] for key in waits)]
    if found:
        yield Caveat(
            "amortised",
            "the latency is batch wall time / batch size, not what a request waits: TTFT, TPOT and E2E were not kept",
            tuple(map(_label, found)),
        )


def _reserved_memory(rows: Sequence[Row]) -> Iterable[Caveat]:
    for group in by_model(rows).values():
        variants = [row for row in group if row["mean_peak_mem_mb"] and row["model_size_gb"] and not row["weights_gb"]]
        peaks, sizes = [row["mean_peak_mem_mb"] for row in variants], [row["model_size_gb"] for row in variants]
        if (
            len(variants) > 1
            and min(sizes) < _SHRINKS * max(sizes)
            and min(peaks) > (1 - _RESERVED_TOLERANCE) * max(peaks)
        ):
            yield Caveat(
                "reserved memory",
                f"peak memory {min(peaks) / 1024:.1f} to {max(peaks) / 1024:.1f} GiB while the weights shrink from "
                f"{max(sizes):.1f} to {min(sizes):.1f} GiB: it is what the engine reserved, not what the model needs",
                tuple(map(_label, variants)),
            )


def _energy(rows: Sequence[Row]) -> Iterable[Caveat]:
    """Energy that is mean power x time, over requests of unknown length, on a device that is not named."""
    found = [
        row for row in rows
        if row["energy_joules"] is not None and row["joules_per_output_token"] is None and row["energy_source"] is None
    ]  # fmt: skip
    if not found:
        return
    requests = {round(row["energy_joules"] / row["energy_per_query_j"]) for row in found if row["energy_per_query_j"]}
    how = [
        f"{' or '.join(map(str, sorted(requests)))} requests of unknown length" if requests else "unknown requests",
        "which device was measured, and how, was not recorded",
    ]
    if all(_is_mean_power_times_time(row) for row in found):
        how.insert(1, "joules are mean power x time, not a counter")
    yield Caveat("energy", "; ".join(how), tuple(map(_label, found)))


def _is_mean_power_times_time(row: Mapping[str, Any]) -> bool:
    power, seconds = row["avg_power_watts"], row["duration_seconds"]
    return bool(power and seconds) and abs(power * seconds / row["energy_joules"] - 1) < LENGTH_TOLERANCE


def _metric(rows: Sequence[Row]) -> Iterable[Caveat]:
    found = [row for row in rows if str(row.get("hellaswag_metric")).split(",")[0] == "acc"]
    if found:
        yield Caveat(
            "metric",
            "HellaSwag is plain accuracy (acc), not the length-normalised one (acc_norm) that is usually quoted",
            tuple(map(_label, found)),
        )


def _parameters(rows: Sequence[Row]) -> Iterable[Caveat]:
    for row in rows:
        # A record that names its engine counted its parameters in the weight files, which may be of 32 bit.
        if row["precision"] != BASELINE or row["engine"] or not row["num_parameters"] or not row["model_size_gb"]:
            continue
        fits = row["model_size_gb"] * GIB / _BYTES_PER_PARAMETER_16_BIT
        if abs(row["num_parameters"] / fits - 1) > _PARAMETER_TOLERANCE:
            yield Caveat(
                "parameters",
                f"{row['num_parameters'] / 1e9:.2f} B parameters are recorded; {row['model_size_gb']:.2f} GiB at 16 "
                f"bit hold {fits / 1e9:.2f} B",
                (_label(row),),
            )


def _no_intervals(rows: Sequence[Row]) -> Iterable[Caveat]:
    found = [row for row in rows if _is_without_intervals(row)]
    if found:
        yield Caveat(
            "no intervals",
            "no intervals and no outcomes of single items were kept: whether a difference is more than chance cannot "
            "be told",
            tuple(map(_label, found)),
        )


def _is_without_intervals(row: Mapping[str, Any]) -> bool:
    # Only files that name no engine: any other tool's record that is read here comes with samples or intervals.
    speed = row["mean_latency_s"] is not None and row["mean_latency_s_ci95_low"] is None and row["engine"] is None
    tasks = [task for task in tasks_of(row) if row[task] is not None]
    return speed and all(row[f"{task}_stderr"] is None and row[f"{task}_ci95_low"] is None for task in tasks)


_CHECKS: tuple[Callable[[Sequence[Row]], Iterable[Caveat]], ...] = (
    _lengths, _amortised, _reserved_memory, _energy, _metric, _parameters, _no_intervals,
)  # fmt: skip
