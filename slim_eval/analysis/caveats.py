"""Caveats: every reason to doubt a number, found once and rendered by all tables, figures and reports.

A `Kind` is what a reader must know and how it is marked. `find_caveats` returns one `Caveat` for each claim
that the numbers cannot support; `marks_of` gives the kinds that concern one number of one variant. The
files published with SLiM-Eval 0.1.3 have most of these; slim-eval's own records have few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slim_eval.analysis.comparability import ENERGIES, LENGTH_TOLERANCE, SPEEDS, differences, lengths_differ
from slim_eval.metrics import AMORTISED, DISK, E2E, THROUGHPUT, TPOT, TTFT, Basis, Metric
from slim_eval.results.variants import Variant, baseline_of, by_model
from slim_eval.utils import GIB

_BYTES_PER_PARAMETER_16_BIT = 2
_PARAMETER_TOLERANCE = 0.05  # heads and buffers that a file has beside the counted parameters
_RESERVED_TOLERANCE = 0.05  # peaks within this of each other, while the weights shrink, are one reservation
_SHRINKS = 0.95  # at most this share of the 16-bit weights counts as smaller


@dataclass(frozen=True)
class Kind:
    """One kind of caveat.

    Attributes:
        name: Its name in JSON.
        word: Label in the report: ``confounded``.
        sign: Shown beside a number in figures and tables; empty for kinds that concern no single number.
        tex: The sign in LaTeX.
        tone: ``bad`` (the number must not be used), ``warn`` or ``note``.
        meaning: Explanation for the reader.
    """

    name: str
    word: str
    tone: str
    meaning: str = ""
    sign: str = ""
    tex: str = ""


LENGTH = Kind(
    "length", "confounded", "bad", "output length differs from the baseline's: the number compares different work", "†",
    r"\dag",
)  # fmt: skip
SETTING = Kind(
    "setting", "other setting", "warn", "engine, hardware or settings differ from the baseline's: not compared with it",
    "‡", r"\ddag",
)  # fmt: skip
INVALID = Kind(
    "invalid", "invalid", "bad", "the energy measurement is marked invalid; its record gives the reason", "§", r"\S"
)  # fmt: skip
EMULATED = Kind(
    "emulated", "emulated", "bad",
    "quantized kernels are emulated in 16 bit: speed, energy and memory do not predict a deployment", "¶", r"\P",
)  # fmt: skip
NOISE = Kind(
    "noise",
    "within noise",
    "warn",
    "the difference from the baseline does not exceed the noise floor",
    "~",
    r"$\sim$",
)
AMORTISED_LATENCY = Kind("amortised", "amortised", "note")
RESERVED_MEMORY = Kind("reserved memory", "reserved memory", "note")
ENERGY_METHOD = Kind("energy", "energy", "warn")
PLAIN_METRIC = Kind("metric", "metric", "note")
PARAMETERS = Kind("parameters", "parameters", "note")
NO_INTERVALS = Kind("no intervals", "no intervals", "warn")
# What `Study` knows beyond the variants themselves; shown by the report.
UNREADABLE = Kind("unreadable", "unreadable", "bad")
NOT_RECORDED = Kind("not recorded", "setting not recorded", "warn")
NOT_COMPARED = Kind("not compared", "not compared", "warn")
NOT_PAIRED = Kind("not paired", "not paired", "warn")
INCONCLUSIVE = Kind("inconclusive", "inconclusive", "warn")

#: The kinds that mark single numbers, in the order in which their signs are shown.
MARKS = (LENGTH, SETTING, INVALID, EMULATED, NOISE)


@dataclass(frozen=True)
class Caveat:
    """One reason to doubt numbers.

    Attributes:
        kind: Its kind.
        text: Explanation with numbers.
        variants: Labels of the variants that it concerns.
    """

    kind: Kind
    text: str
    variants: tuple[str, ...]


def find_caveats(variants: Sequence[Variant]) -> list[Caveat]:
    """All reasons to doubt the results; empty if there are none."""
    return [caveat for check in _CHECKS for caveat in check(variants)]


def marks_of(metric: Metric, variant: Variant, baseline: Variant | None) -> tuple[Kind, ...]:
    """The kinds of caveat that concern one number of a variant.

    Args:
        metric: The metric of the number.
        variant: The variant that it belongs to.
        baseline: The variant that it is compared with; None if there is none.
    """
    found = []
    if baseline is not None and metric.per_length and lengths_differ(variant, baseline):
        found.append(LENGTH)
    if baseline is not None and _has_other_setting(metric, variant, baseline):
        found.append(SETTING)
    if not variant.counts(metric):
        found.append(INVALID)
    if is_emulated(metric, variant):
        found.append(EMULATED)
    return tuple(found)


def is_emulated(metric: Metric, variant: Variant) -> bool:
    """Whether a number depends on the kernels and was measured on emulated ones."""
    if metric.basis in (Basis.FILES, Basis.TASK):
        return False
    record = variant.energy if metric.basis is Basis.ENERGY else variant.performance
    return record is not None and record.kernels == "emulated"


def _has_other_setting(metric: Metric, variant: Variant, baseline: Variant) -> bool:
    if metric.basis not in (Basis.SPEED, Basis.ENERGY):
        return False
    family = SPEEDS if metric.basis is Basis.SPEED else ENERGIES[:2]
    measured = all(any(side.number(each) is not None for each in family) for side in (variant, baseline))
    # Emulated kernels have a mark of their own.
    return measured and bool(differences(family[0], variant, baseline, without=("kernels",)))


def _labels(variants: Iterable[Variant]) -> tuple[str, ...]:
    return tuple(variant.label for variant in variants)


def _lengths(variants: Sequence[Variant]) -> Iterable[Caveat]:
    models = by_model(variants)
    for variant in variants:
        base = baseline_of(variant, models[variant.base_model])
        if variant.is_baseline or base is None or not lengths_differ(variant, base):
            continue
        text = f"{variant.tokens_per_request:.1f} output tokens per request against {base.tokens_per_request:.1f}"
        latencies = base.number(AMORTISED), variant.number(AMORTISED)
        rates = variant.number(THROUGHPUT), base.number(THROUGHPUT)
        if latencies[0] and latencies[1] and rates[0] and rates[1]:
            text += (
                f": the latency ratio {latencies[0] / latencies[1]:.2f}x compares different work; per token it is "
                f"{rates[0] / rates[1]:.2f}x"
            )
        yield Caveat(LENGTH, text, (variant.label,))


def _amortised(variants: Sequence[Variant]) -> Iterable[Caveat]:
    found = [
        variant for variant in variants
        if variant.number(AMORTISED) is not None and not any(variant.number(metric) for metric in (TTFT, TPOT, E2E))
    ]  # fmt: skip
    if found:
        yield Caveat(
            AMORTISED_LATENCY,
            "latency is batch wall time / batch size, not per-request latency: TTFT, TPOT and E2E were not recorded",
            _labels(found),
        )


def _reserved_memory(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for group in by_model(variants).values():
        found = [
            (v, v.performance.mean_peak_mem_mb, size) for v in group
            if v.performance is not None and v.performance.mean_peak_mem_mb and not v.performance.weights_gb
            and (size := v.number(DISK))
        ]  # fmt: skip
        peaks, sizes = [peak for _, peak, _ in found], [size for *_, size in found]
        if (
            len(found) > 1
            and min(sizes) < _SHRINKS * max(sizes)
            and min(peaks) > (1 - _RESERVED_TOLERANCE) * max(peaks)
        ):
            yield Caveat(
                RESERVED_MEMORY,
                f"peak memory is {min(peaks) / 1024:.1f} to {max(peaks) / 1024:.1f} GiB while the weights shrink from "
                f"{max(sizes):.1f} to {min(sizes):.1f} GiB: it is what the engine reserved, not what the model needs",
                _labels(variant for variant, *_ in found),
            )


def _energy(variants: Sequence[Variant]) -> Iterable[Caveat]:
    """Energy as mean power x time, for requests of unknown length, on an unnamed device."""
    found = [
        (variant, energy) for variant in variants
        if (energy := variant.energy) is not None and energy.energy_joules is not None
        and energy.joules_per_output_token is None and energy.energy_source is None
    ]  # fmt: skip
    if not found:
        return
    requests = {
        round(e.energy_joules / e.energy_per_query_j) for _, e in found if e.energy_joules and e.energy_per_query_j
    }
    how = [
        f"{' or '.join(map(str, sorted(requests)))} requests of unknown length" if requests else "unknown requests",
        "which device was measured, and how, was not recorded",
    ]
    if all(
        e.avg_power_watts and e.duration_seconds and e.energy_joules
        and abs(e.avg_power_watts * e.duration_seconds / e.energy_joules - 1) < LENGTH_TOLERANCE
        for _, e in found
    ):  # fmt: skip
        how.insert(1, "joules are mean power x time, not a counter")
    yield Caveat(ENERGY_METHOD, "; ".join(how), _labels(variant for variant, _ in found))


def _metric(variants: Sequence[Variant]) -> Iterable[Caveat]:
    found = [
        variant for variant in variants
        if (record := variant.accuracy.get("hellaswag")) is not None and str(record.metric).split(",")[0] == "acc"
    ]  # fmt: skip
    if found:
        yield Caveat(
            PLAIN_METRIC,
            "HellaSwag is plain accuracy (acc), not the length-normalised one (acc_norm) that is usually quoted",
            _labels(found),
        )


def _parameters(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for variant in variants:
        size, parameters = variant.number(DISK), variant.fact("num_parameters")
        # A record that names its engine counted its parameters in the weight files, which may be of 32 bit.
        if not variant.is_baseline or variant.engine or not parameters or not size:
            continue
        fits = size * GIB / _BYTES_PER_PARAMETER_16_BIT
        if abs(parameters / fits - 1) > _PARAMETER_TOLERANCE:
            yield Caveat(
                PARAMETERS,
                f"{parameters / 1e9:.2f} B parameters are recorded, but {size:.2f} GiB at 16 bit contain "
                f"{fits / 1e9:.2f} B",
                (variant.label,),
            )


def _no_intervals(variants: Sequence[Variant]) -> Iterable[Caveat]:
    found = [variant for variant in variants if _is_without_intervals(variant)]
    if found:
        yield Caveat(
            NO_INTERVALS,
            "no intervals and no per-item outcomes were recorded: whether a difference is beyond chance is unknown",
            _labels(found),
        )


def _is_without_intervals(variant: Variant) -> bool:
    # Only files that name no engine: any other tool's record that is read here comes with samples or intervals.
    speed = variant.estimate(AMORTISED)
    known = [variant.estimate(task) for task in variant.accuracy]
    return (
        speed is not None
        and speed.interval is None
        and variant.engine is None
        and all(estimate is None or estimate.interval is None for estimate in known)
    )


_CHECKS: tuple[Callable[[Sequence[Variant]], Iterable[Caveat]], ...] = (
    _lengths, _amortised, _reserved_memory, _energy, _metric, _parameters, _no_intervals,
)  # fmt: skip
