"""Caveats: every reason to doubt a number, found once and rendered by all tables, figures and reports.

A `Kind` is what a reader must know and how it is marked. `find_caveats` returns one `Caveat` for each claim
that the numbers cannot support; `marks_of` gives the kinds that concern one number of one variant. The
files published with SLiM-Eval 0.1.3 have most of these; slim-eval's own records have few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slim_eval.analysis import receipts
from slim_eval.analysis.comparability import (
    ENERGIES,
    LENGTH_TOLERANCE,
    SPEEDS,
    baseline_of,
    differences,
    lengths_differ,
)
from slim_eval.metrics import ACCURACY_MEAN, AMORTISED, DISK, E2E, THROUGHPUT, TPOT, TTFT, Basis, Metric
from slim_eval.results.records import AccuracyRecord, ObservedMetrics, PairedTask
from slim_eval.results.task_sizes import FULL_SIZES
from slim_eval.results.variants import Variant, by_model, ordered_tasks
from slim_eval.utils import GIB

_BYTES_PER_PARAMETER_16_BIT = 2
_PARAMETER_TOLERANCE = 0.05  # heads and buffers that a file has beside the counted parameters
_RESERVED_TOLERANCE = 0.05  # peaks within this of each other, while the weights shrink, are one reservation
_LOW_BIT_SHARE = 0.9  # from here on a variant counts as quantized throughout
_NAMED = 3  # variants that a line names; more are counted
_NEIGHBOURS = 3  # are named
_SHRINKS = 0.95  # at most this share of the 16-bit weights counts as smaller


@dataclass(frozen=True)
class Kind:
    """One kind of caveat."""

    name: str  # in JSON
    word: str  # its label in the report: ``confounded``
    tone: str  # ``bad`` (the number must not be used), ``warn`` or ``note``
    meaning: str = ""  # explanation for the reader
    sign: str = ""  # shown beside a number in figures and tables; empty for kinds that concern no single number
    tex: str = ""  # the sign in LaTeX


LENGTH = Kind(
    "length", "confounded", "bad", "output length differs from the baseline's: the number compares different work", "†",
    r"\dag",
)  # fmt: skip
SETTING = Kind(
    "setting", "other setting", "warn", "engine, hardware or settings differ from the baseline's: not compared with it",
    "‡", r"\ddag",
)  # fmt: skip
INVALID = Kind(
    "invalid", "invalid", "bad", "the measurement is marked invalid; its record gives the reason", "§", r"\S"
)  # fmt: skip
EMULATED = Kind(
    "emulated", "emulated", "bad",
    "quantized kernels are emulated in 16-bit arithmetic: speed, energy and memory do not predict deployed "
    "performance", "¶", r"\P",
)  # fmt: skip
FAILURES = Kind("failed requests", "failures", "bad")
BUSY_HOST = Kind("busy host", "busy host", "warn")
SHARED_NODE = Kind("shared node", "shared node", "warn")
INEXACT = Kind(
    "inexact", "inexact kernel", "bad",
    "vLLM's int8 kernel is inexact on this CPU: without VNNI instructions its sums saturate at 16 bit. The accuracy is "
    "not that of the scheme and is not compared: on SmolLM2-135M int8 costs 0.069 nats per token so, and 0.033 with "
    "exact sums (decision 026). Measure accuracy with --engine transformers", "#", r"\#",
)  # fmt: skip
KERNELS = Kind("kernel agreement", "kernels", "bad")
GRID = Kind(
    "weight grid", "4-bit grid", "warn",
    "the 16-bit weights lie on a 4-bit grid: they were made from 4-bit weights. Scores at 16 bit include what that "
    "cost, and int4 results are of weights that were in 4 bit before: a scheme with the same grid may lose nothing. "
    "They do not carry over to the original model",
)  # fmt: skip
LOW_BIT_SHARE = Kind("low-bit share", "partly 16 bit", "warn")
ENGINES_DIFFER = Kind(
    "engines", "other engine", "warn",
    "served by another engine than the baseline: engines round differently, which changes a few answers", "°",
    r"$^\circ$",
)  # fmt: skip
PROMPTS = Kind(
    "prompts", "cut prompts", "warn",
    "prompts were cut to the context window, or the chat template dropped some of their turns", "‖", r"$\|$",
)  # fmt: skip
NOISE = Kind(
    "noise", "within noise", "warn", "the difference from the baseline does not exceed the noise floor", "~", r"$\sim$"
)
AMORTISED_LATENCY = Kind(
    "amortised", "amortised", "note",
    "latency is batch wall time / batch size, not per-request latency: TTFT, TPOT and E2E were not recorded",
)  # fmt: skip
RESERVED_MEMORY = Kind("reserved memory", "reserved memory", "note")
ENERGY_METHOD = Kind("energy", "energy", "warn")
PLAIN_METRIC = Kind(
    "metric", "metric", "note",
    "HellaSwag is plain accuracy (acc), not the length-normalised one (acc_norm) that is usually quoted",
)  # fmt: skip
PARAMETERS = Kind("parameters", "parameters", "note")
NO_INTERVALS = Kind(
    "no intervals", "no intervals", "warn",
    "no intervals and no per-item outcomes were recorded: whether a difference is beyond chance is unknown",
)  # fmt: skip
ZEROS = Kind("stored as 0", "stored as 0", "warn")
ASSUMED = Kind("assumed", "assumed size", "warn")
UNPAIRED = Kind("unpaired", "unpaired", "note")
# What `Study` knows beyond the variants themselves; shown by the report.
UNREADABLE = Kind("unreadable", "unreadable", "bad")
NOT_RECORDED = Kind("not recorded", "setting not recorded", "warn")
NOT_COMPARED = Kind("not compared", "not compared", "warn")
NOT_PAIRED = Kind("not paired", "not paired", "warn")
INCONCLUSIVE = Kind("inconclusive", "inconclusive", "warn")

#: The kinds that mark single numbers, in the order in which their signs are shown.
MARKS = (LENGTH, SETTING, INVALID, EMULATED, INEXACT, ENGINES_DIFFER, PROMPTS, NOISE)


@dataclass(frozen=True)
class Caveat:
    """One reason to doubt the numbers of some variants, given by their labels; the text has the numbers."""

    kind: Kind
    text: str
    variants: tuple[str, ...]


def find_caveats(variants: Sequence[Variant]) -> list[Caveat]:
    """All reasons to doubt the results; empty if there are none."""
    amortised = [
        variant for variant in variants
        if variant.number(AMORTISED) is not None and not any(variant.number(metric) for metric in (TTFT, TPOT, E2E))
    ]  # fmt: skip
    plain = [
        variant for variant in variants
        if (record := variant.accuracy.get("hellaswag")) is not None and str(record.metric).split(",")[0] == "acc"
    ]  # fmt: skip
    # Only files that name no engine: any other tool's record that is read here comes with samples or intervals.
    unsure = [
        variant for variant in variants
        if variant.engine is None and (speed := variant.estimate(AMORTISED)) is not None and speed.interval is None
        and all(variant.interval(task) is None or task in variant.assumed_tasks for task in variant.accuracy)
    ]  # fmt: skip
    # Of these, the accuracies that chance alone could have moved so far are known.
    judged = [
        variant for variant in unsure if variant.assumed_tasks and len(variant.assumed_tasks) == len(variant.accuracy)
    ]
    return [
        *_lengths(variants),
        *_shared(AMORTISED_LATENCY, amortised),
        *_reserved_memory(variants),
        *_energy(variants),
        *_failures(variants),
        *busy_hosts(variants),
        *_shared_nodes(variants),
        *_inexact(variants),
        *_kernels(variants),
        *_shared(GRID, (variant for variant in variants if variant.fact("source_grid_bits") is not None)),
        *_low_bit_shares(variants),
        *_engines(variants),
        *_prompts(variants),
        *_shared(PLAIN_METRIC, plain),
        *_parameters(variants),
        *_shared(NO_INTERVALS, (variant for variant in unsure if variant not in judged)),
        *_shared(NO_INTERVALS, judged, NO_INTERVALS.meaning.replace("difference", "difference in speed or energy")),
        *_assumed(variants),
        *_zeros(variants),
    ]


def unpaired_caveats(pairs: Iterable[tuple[str, Sequence[PairedTask]]]) -> list[Caveat]:
    """Drops that were computed from two separate accuracies, by the label of the variant."""
    found: dict[tuple[str, ...], list[str]] = {}
    for label, tasks in pairs:
        if unpaired := tuple(task.task for task in tasks if task.unpaired):
            found.setdefault(unpaired, []).append(label)
    return [
        Caveat(
            UNPAIRED,
            f"{', '.join(tasks)}: drops are unpaired, without outcomes of single items, so their intervals are wider "
            "than on the same items; log samples (lm_eval --log_samples) to compare item by item",
            tuple(labels),
        )
        for tasks, labels in found.items()
    ]


def _assumed(variants: Sequence[Variant]) -> list[Caveat]:
    """Accuracies whose number of items is the full size of the task."""
    found: dict[tuple[str, ...], list[Variant]] = {}
    for variant in variants:
        if tasks := ordered_tasks(variant.assumed_tasks):
            found.setdefault(tasks, []).append(variant)
    text = "no number of items was recorded: intervals of accuracy assume the full task"
    return [
        caveat
        for tasks, those in found.items()
        for caveat in _shared(ASSUMED, those, f"{text} ({', '.join(f'{t} {FULL_SIZES[t]:,} items' for t in tasks)})")
    ]


def marks_of(metric: Metric, variant: Variant, baseline: Variant | None) -> tuple[Kind, ...]:
    """The kinds of caveat that concern one number of a variant, compared with its baseline if there is one."""
    found = []
    if baseline is not None and metric.per_length and lengths_differ(variant, baseline):
        found.append(LENGTH)
    if baseline is not None and metric.basis in (Basis.SPEED, Basis.ENERGY, Basis.LOADED):
        family = {Basis.SPEED: SPEEDS, Basis.ENERGY: ENERGIES[:2]}.get(metric.basis, (metric,))
        measured = all(any(side.number(each) is not None for each in family) for side in (variant, baseline))
        # Emulated kernels have a mark of their own.
        if measured and differences(metric, variant, baseline, without=("kernels",)):
            found.append(SETTING)
    if not variant.counts(metric):
        found.append(INEXACT if variant.used_inexact_kernels(metric) else INVALID)
    if (
        baseline is not None
        and metric.basis is Basis.TASK
        and None not in (here := _served_task(variant, metric), there := _served_task(baseline, metric))
        and here != there
    ):
        found.append(ENGINES_DIFFER)
    if is_emulated(metric, variant):
        found.append(EMULATED)
    tasks = variant.mean_tasks if metric is ACCURACY_MEAN else (metric.key,) if metric.basis is Basis.TASK else ()
    if any(_altered(record) for task in tasks if (record := variant.accuracy.get(task)) is not None):
        found.append(PROMPTS)
    return tuple(found)


def _served_task(variant: Variant, metric: Metric) -> str | None:
    """The engine on which a task was measured; None if it was not, or that is not known."""
    record = variant.accuracy.get(metric.benchmark or "")
    return None if record is None else record.engine


def is_emulated(metric: Metric, variant: Variant) -> bool:
    """Whether a number depends on the kernels and was measured on emulated ones."""
    if metric.basis in (Basis.FILES, Basis.TASK):
        return False
    record = variant.energy if metric.basis is Basis.ENERGY else variant.performance
    return record is not None and record.kernels == "emulated"


def _shared(kind: Kind, variants: Iterable[Variant], text: str | None = None) -> list[Caveat]:
    """One caveat of several variants, in the words of its kind if no others are given; none without variants."""
    labels = tuple(variant.label for variant in variants)
    return [Caveat(kind, text or kind.meaning, labels)] if labels else []


def _lengths(variants: Sequence[Variant]) -> Iterable[Caveat]:
    models = by_model(variants)
    for variant in variants:
        base = baseline_of(variant, models[variant.base_model])
        if variant.is_baseline or base is None or not lengths_differ(variant, base):
            continue
        text = f"{variant.tokens_per_request:.1f} output tokens per request against {base.tokens_per_request:.1f}"
        before, after = base.number(AMORTISED), variant.number(AMORTISED)
        rate, base_rate = variant.number(THROUGHPUT), base.number(THROUGHPUT)
        valid = variant.counts(AMORTISED) and base.counts(AMORTISED)
        if valid and before and after and rate and base_rate:
            text += f": the latency ratio {before / after:.2f}x compares different work; "
            text += f"per token it is {rate / base_rate:.2f}x"
        yield Caveat(LENGTH, text, (variant.label,))


def _reserved_memory(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for group in by_model(variants).values():
        found = [
            (v, v.performance.mean_peak_mem_mb, size) for v in group
            if v.performance is not None and v.performance.mean_peak_mem_mb and not v.performance.weights_gb
            and (size := v.number(DISK))
        ]  # fmt: skip
        if len(found) < 2:
            continue
        least, most = (end(peak for _, peak, _ in found) for end in (min, max))
        small, large = (end(size for *_, size in found) for end in (min, max))
        if small < _SHRINKS * large and least > (1 - _RESERVED_TOLERANCE) * most:
            text = f"peak memory is {least / 1024:.1f} to {most / 1024:.1f} GiB while the weights shrink from "
            text += f"{large:.1f} to {small:.1f} GiB: it is what the engine reserved, not what the model needs"
            yield from _shared(RESERVED_MEMORY, (variant for variant, *_ in found), text)


def _energy(variants: Sequence[Variant]) -> list[Caveat]:
    """Energy as mean power x time, for requests of unknown length, on an unnamed device."""
    found = [
        (variant, energy) for variant in variants
        if (energy := variant.energy) is not None and energy.energy_joules is not None
        and energy.joules_per_output_token is None and energy.energy_source is None
    ]  # fmt: skip
    requests = {
        round(e.energy_joules / e.energy_per_query_j) for _, e in found if e.energy_joules and e.energy_per_query_j
    }
    how = [
        f"{' or '.join(map(str, sorted(requests)))} requests of unknown length" if requests else "unknown requests",
        "the measured device and the method were not recorded",
    ]
    if all(
        e.avg_power_watts and e.duration_seconds and e.energy_joules
        and abs(e.avg_power_watts * e.duration_seconds / e.energy_joules - 1) < LENGTH_TOLERANCE
        for _, e in found
    ):  # fmt: skip
        how.insert(1, "joules are mean power x time, not a counter")
    return _shared(ENERGY_METHOD, (variant for variant, _ in found), "; ".join(how))


def busy_hosts(variants: Iterable[Variant]) -> Iterable[Caveat]:
    """Records that were accepted on a host that the default limits refuse."""
    for variant in variants:
        for name, record in variant.measured.items():
            if not isinstance(record, ObservedMetrics) or record.host is None or name in variant.invalid:
                continue
            if found := record.host.disturbances():
                accepted = "" if record.max_contention is None else f" (--max-contention {record.max_contention:g})"
                yield Caveat(BUSY_HOST, f"{name}, accepted{accepted}: {'; '.join(found)}", (variant.label,))


def _failures(variants: Sequence[Variant]) -> Iterable[Caveat]:
    """Loads at which requests failed: the times are those of the requests that did not."""
    for variant in variants:
        levels = variant.serving.levels if variant.serving is not None else ()
        here = variant.performance if variant.level is None else None
        counts = {level.label: (level.num_errors, level.num_runs) for level in levels}
        counts |= {} if here is None else {"": (here.num_errors, here.num_runs)}
        found = [
            f"{failed:,} of {failed + (done or 0):,} requests failed{f' at {label}' if label else ''}"
            for label, (failed, done) in counts.items() if failed
        ]  # fmt: skip
        if found:
            named, more = "; ".join(found[:_NAMED]), len(found) - _NAMED
            rest = f", and some at {more} more loads" if more > 0 else ""
            yield Caveat(FAILURES, f"{named}{rest}: times and throughput are of the others", (variant.label,))


def _shared_nodes(variants: Iterable[Variant]) -> Iterable[Caveat]:
    """Records of speed and energy that were measured beside other variants of the run."""
    for variant in variants:
        for name, record in variant.measured.items():
            if record.beside:
                named, more = ", ".join(record.beside[:_NEIGHBOURS]), len(record.beside) - _NEIGHBOURS
                rest = f" and {more} more" if more > 0 else ""
                text = f"{name} was measured beside other work on the same machine (--share-node): {named}{rest}"
                yield Caveat(SHARED_NODE, text, (variant.label,))


def _inexact(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for variant in (variant for variant in variants if variant.is_inexact):
        error = variant.fact("kernel_error")
        size = "" if error is None else f". Here its products differ by {100 * error:.1f} % (root mean square)"
        yield Caveat(INEXACT, INEXACT.meaning + size, (variant.label,))


def _kernels(variants: Sequence[Variant]) -> Iterable[Caveat]:
    """Engines whose answers to the text of the receipt are not those of the variant that they should serve."""
    for group in by_model(variants).values():
        for variant in group:
            rounding = receipts.rounding_at_16_bit(variant, group)
            for receipt in receipts.receipts_of(variant):
                if receipts.is_beyond_rounding(receipt, rounding):
                    where = f"on {receipt.engine}, {receipts.in_words(receipt, rounding)}, so its accuracy is not "
                    yield Caveat(KERNELS, f"{where}that of its scheme (decision 035)", (variant.label,))
            if receipts.is_unrelated(share := receipts.unexplained_by_source(variant, group)):
                text = f"{100 * (share or 0):.0f} % of its next-token log-probabilities' variation is not explained by "
                yield Caveat(KERNELS, f"{text}its baseline: it is not the same model", (variant.label,))


def _low_bit_shares(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for variant in variants:
        share = variant.fact("low_bit_share")
        if share is not None and share < _LOW_BIT_SHARE:
            text = f"only {100 * share:.0f} % of its linear weights are quantized: the others are in 16 bit"
            yield Caveat(LOW_BIT_SHARE, text, (variant.label,))


def _engines(variants: Sequence[Variant]) -> Iterable[Caveat]:
    """Variants of one model whose accuracy was measured on several engines."""
    for group in by_model(variants).values():
        tasks = {task for variant in group for task in variant.accuracy}
        served: dict[str, set[str]] = {}  # label -> engines, of those that share a task with another engine
        for task in tasks:
            found = {v.label: e for v in group if task in v.accuracy and (e := v.accuracy[task].engine) is not None}
            if len(set(found.values())) > 1:
                for label, engine in found.items():
                    served.setdefault(label, set()).add(engine)
        if served:
            listed = "; ".join(f"{label} on {' and '.join(sorted(served[label]))}" for label in sorted(served))
            text = f"accuracies of one model were measured on different engines ({listed}): engines round differently, "
            yield Caveat(ENGINES_DIFFER, f"{text}so that a few answers differ for that reason alone", tuple(served))


def _altered(record: AccuracyRecord) -> str:
    """What became of the prompts of a task, in words; empty if nothing, or if that is not known."""
    parts = []
    if record.truncated_requests:
        window = f" of {record.max_model_len:,} tokens" if record.max_model_len else ""
        parts.append(f"{record.truncated_requests:,} prompts were cut from the left to the context window{window}")
    if record.prompts_without_turns:
        parts.append(f"{record.prompts_without_turns:,} prompts lack a turn that the chat template drops")
    if record.unfinished_thoughts:
        parts.append(f"{record.unfinished_thoughts:,} answers ended within their thought, and were scored as they are")
    return " and ".join(parts)


def _prompts(variants: Sequence[Variant]) -> list[Caveat]:
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        for task, record in variant.accuracy.items():
            if text := _altered(record):
                found.setdefault(f"{task}: {text}", []).append(variant)
    return [caveat for text, those in found.items() for caveat in _shared(PROMPTS, those, text)]


def _parameters(variants: Sequence[Variant]) -> Iterable[Caveat]:
    for variant in variants:
        size, parameters = variant.number(DISK), variant.fact("num_parameters")
        # A record that names its engine counted its parameters in the weight files, which may be of 32 bit.
        if not variant.is_baseline or variant.engine or not parameters or not size:
            continue
        fits = size * GIB / _BYTES_PER_PARAMETER_16_BIT
        if abs(parameters / fits - 1) > _PARAMETER_TOLERANCE:
            text = f"{parameters / 1e9:.2f} B parameters are recorded, but {size:.2f} GiB at 16 bit imply "
            yield Caveat(PARAMETERS, text + f"{fits / 1e9:.2f} B", (variant.label,))


def _zeros(variants: Sequence[Variant]) -> list[Caveat]:
    """What files of SLiM-Eval 0.1.3 store as 0; one caveat for all variants that lack the same."""
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        if names := dict.fromkeys(name for record in variant.records for name in record.zeros):
            found.setdefault(", ".join(names), []).append(variant)
    why = "stored as 0, which is how SLiM-Eval 0.1.3 records a failure: not measured"
    return [caveat for names, those in found.items() for caveat in _shared(ZEROS, those, f"{names}: {why}")]


def grouped(caveats: Iterable[Caveat]) -> list[Caveat]:
    """Caveats by kind, each once with all whom it concerns, in the order of their first; of several texts the first."""
    texts: dict[Kind, dict[str, None]] = {}
    labels: dict[Kind, dict[str, None]] = {}
    for caveat in caveats:
        texts.setdefault(caveat.kind, {})[caveat.text] = None
        labels.setdefault(caveat.kind, {}).update(dict.fromkeys(caveat.variants))
    made = []
    for kind, found in texts.items():
        text = next(iter(found))
        if len(found) > 1:
            text = kind.meaning or f"{text} (and {len(found) - 1} more of this kind)"
        made.append(Caveat(kind, text, tuple(labels[kind])))
    return made


def lines_of(caveats: Iterable[Caveat], num_variants: int) -> list[str]:
    """`grouped` caveats, one line each, with the variants unless they are all of them."""
    made = []
    for caveat in grouped(caveats):
        count = len(caveat.variants)
        names = ", ".join(caveat.variants) if count <= _NAMED else f"{count} variants"
        where = "" if count in (0, num_variants) else f" ({names})"
        made.append(f"{caveat.kind.word}: {caveat.text}{where}")
    return made
