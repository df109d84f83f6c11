"""Where and how every configuration was measured: what is the same everywhere, and what differs between groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.compare.metrics import BY_KEY
from slim_eval.analysis.report.concerns import label
from slim_eval.analysis.report.numbers import Value, counted, figure, finite, measured, words
from slim_eval.results.records import Metadata, NoiseRecord
from slim_eval.results.rows import Row
from slim_eval.results.variants import Variant

CONFIGURATION_HEADERS = (
    "model", "precision", "model id", "quantization", "dtype", "kernels", "parameters", "on disk, GiB", "revision",
)  # fmt: skip
NOISE_HEADERS = ("model", "precision", "number", "noise floor", "each run")
# Facts of a record that belong to the setting; what belongs to the model stands in the table of configurations.
_HEAD = {"engine": "engine", "engine_version": "engine version", "engine_reason": "why this engine"}
_SEPARATE = {"revision"}  # of the config: it names the model's commit, not the setting


@dataclass(frozen=True)
class Environments:
    """Facts of all configurations.

    Attributes:
        common: Facts that are the same wherever they are known, with their value.
        differing: Names of the facts that are not.
        groups: Configurations that agree in all of those: their names, and the values in the order of `differing`.
    """

    common: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def environments(rows: Sequence[Row], variants: Sequence[Variant]) -> Environments:
    """Compare where and how the configurations were measured."""
    facts = [_facts(variant) for variant in variants]
    names = list(dict.fromkeys(name for found in facts for name in found))
    values = {name: list(dict.fromkeys(found.get(name, "not recorded") for found in facts)) for name in names}
    differing = tuple(name for name in names if len(values[name]) > 1)
    groups: dict[tuple[str, ...], list[str]] = {}
    for row, found in zip(rows, facts, strict=True):
        key = tuple(found.get(name, "not recorded") for name in differing)
        groups.setdefault(key, []).append(label(row))
    common = tuple((name, values[name][0]) for name in names if len(values[name]) == 1)
    return Environments(common, differing, tuple((tuple(labels), key) for key, labels in groups.items()))


def configurations(rows: Sequence[Row]) -> tuple[tuple[Value, ...], ...]:
    """What belongs to the model and its precision, under `CONFIGURATION_HEADERS`."""
    return tuple(
        (
            words(row["name"]), words(row["precision"]), words(row["model"]), words(row["quantization_scheme"]),
            words(row["dtype"]), words(row["kernels"]), counted(row["num_parameters"]), measured(row, "model_size_gb"),
            words(row["revision"]),
        )
        for row in rows
    )  # fmt: skip


def noise_floors(rows: Sequence[Row], noise: Mapping[str, NoiseRecord]) -> tuple[tuple[Value, ...], ...]:
    """The noise floors that hold for any of the rows, under `NOISE_HEADERS`."""
    records = {id(record): (row["name"], record) for row in rows if (record := noise.get(row["directory"]))}
    once: dict[tuple[str, str, str], tuple[Value, ...]] = {}
    for name, record in records.values():
        for what, floor, runs in _floors(record):
            once[name, record.precision, what] = (
                words(name), words(record.precision), words(what), words(floor), words(runs),
            )  # fmt: skip
    return tuple(once.values())


def notes(rows: Sequence[Row], variants: Sequence[Variant]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What the records remark, each remark once with the configurations that carry it."""
    found: dict[str, dict[str, None]] = {}
    for row, variant in zip(rows, variants, strict=True):
        for record in variant.records:
            for note in record.notes:
                found.setdefault(note, {})[label(row)] = None
        for stage, error in variant.errors.items():
            remedy = f"; {error.remedy}" if error.remedy else ""
            found.setdefault(f"{stage} failed: {error.cause}{remedy}", {})[label(row)] = None
    return tuple((note, tuple(labels)) for note, labels in found.items())


def _floors(record: NoiseRecord) -> Iterable[tuple[str, str, str]]:
    for key, entry in record.metrics.items():
        metric = BY_KEY.get(key)
        scale = 1.0 if metric is None else metric.scale
        runs = ", ".join(_run(value, scale) for value in entry.values)
        floor = "not known" if entry.floor is None else f"±{entry.floor * 100:.1f} %"
        yield key if metric is None else metric.label, floor, runs
    for task, entry in record.tasks.items():
        flips = record.flips.get(task)
        changed = "" if flips is None else f"; {flips * 100:.1f} % of the answers changed"
        floor = "not known" if entry.floor is None else f"±{entry.floor:.1f} pp{changed}"
        yield f"{task}, %", floor, ", ".join(_run(value, 100.0) for value in entry.values)


def _run(value: float | None, scale: float) -> str:
    return "not measured" if value is None else figure(value * scale)


def _facts(variant: Variant) -> dict[str, str]:
    """Everything that the records of a variant say of their setting; where they disagree, all that they say."""
    found: dict[str, dict[str, None]] = {}
    for record in variant.records:
        for name, value in _of_record(record):
            found.setdefault(name, {})[value] = None
    return {name: " / ".join(values) for name, values in found.items()}


def _of_record(record: Metadata) -> Iterable[tuple[str, str]]:
    for key, name in _HEAD.items():
        if getattr(record, key) is not None:
            yield name, str(getattr(record, key))
    yield from _flat(record.environment or {}, ())
    yield from _flat({key: value for key, value in (record.config or {}).items() if key not in _SEPARATE}, ())


def _flat(entry: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """Leaves of a nested mapping, each under the names that lead to it; what is not known is left out."""
    for key, value in entry.items():
        here = (*path, str(key).replace("_", " "))
        if isinstance(value, Mapping):
            yield from _flat(value, here)
        elif value is not None:
            yield " · ".join(here), _said(value)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else ", ".join(f"{k} {_said(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = finite(value)
    return f"{number:g}" if isinstance(value, float) and number is not None else str(value)
