"""One server under several loads: the measurements of a sweep as one `ServingRecord` per model and scheme.

Requests at several rates or concurrencies, with prompts of several lengths or of several data sets, are levels of one
record, wherever the tool wrote them: one file each, one file for all, or results appended to a file. Of repetitions
with the same settings the newest stands, and the level names the others. Warm-ups are left out. The result does
not depend on the order of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from slim_eval.results.importers.importer import ImportedRecord, moment
from slim_eval.results.records import (
    SCHEMA_VERSION,
    Metadata,
    PerformanceMetrics,
    PerformanceRecord,
    Record,
    ServingLevel,
    ServingRecord,
)
from slim_eval.utils import number

#: Above this ratio of mean lengths, two runs are not repetitions of one setting. Output lengths vary with the sampling.
_PROMPTS, _OUTPUTS = 1.01, 1.1
_SHARED = PerformanceMetrics.model_fields.keys() & ServingLevel.model_fields.keys() - {"max_concurrency"}
_ORIGIN = "import"  # key of a record's config


@dataclass(frozen=True)
class Found:
    """A measurement of a file, with the record that it would be alone."""

    source: Path
    imported: ImportedRecord
    record: Record
    place: int = 0  # among those of its file
    covers: frozenset[str] = frozenset()  # SHA-256 of each file that it is of, or that it stands in place of

    @property
    def level(self) -> ServingLevel | None:
        """It as a level; None if it is not of a server under load."""
        if self.imported.level is None:
            return None
        own = {key: getattr(self.record, key) for key in _SHARED if key in type(self.record).model_fields}
        known = {key: value for key, value in own.items() if value not in (None, (), {})}
        origin = (self.record.config or {})[_ORIGIN]
        flights = [float(row.get("e2e_s") or 0) for row in self.imported.samples]
        duration = self.imported.level.duration_s
        if duration and flights and all(flights):  # Little's law
            known["achieved_concurrency"] = sum(flights) / duration
        return self.imported.level.model_copy(
            # The first note of a record is where it comes from, which the level has in a field of its own.
            update={**known, "source": origin["file"], "sha256": origin["sha256"], "notes": self.record.notes[1:]}
        )


@dataclass(frozen=True)
class Joined:
    """What is to be written: the records, and what is to be said about measurements that are not among them."""

    found: tuple[Found, ...]
    notes: tuple[str, ...] = ()


def join(found: Sequence[Found]) -> Joined:
    """Several loads of one model and scheme as one record; everything else, and a single load, as it is."""
    notes = []
    for source, warmups in groupby((each for each in found if each.imported.is_warmup), key=lambda each: each.source):
        notes.append(f"{source.name}: {sum(1 for _ in warmups)} warm-up not imported")
    kept = [each for each in found if not each.imported.is_warmup]
    others = [each for each in kept if each.imported.level is None]
    offline = {_variant(each) for each in others if isinstance(each.record, PerformanceRecord)}
    result = list(others)
    loads: dict[tuple[str, str], list[Found]] = {}
    for each in kept:
        if each.imported.level is not None:
            loads.setdefault(_variant(each), []).append(each)
    for variant, measured in loads.items():
        single, copies = _without_copies(measured)
        notes += copies
        covers = frozenset().union(*(each.covers for each in measured))
        runs = [_newest(repetitions) for repetitions in _settings(single)]
        notes += [f"{newest.source.name}: {level.label}: {said}" for newest, level, said in runs if said]
        if len(runs) == 1 and variant not in offline:
            newest, _, said = runs[0]
            told = (*newest.record.notes, said) if said else newest.record.notes
            result.append(replace(newest, record=newest.record.model_copy(update={"notes": told}), covers=covers))
        else:
            result.append(replace(_sweep([(newest, level) for newest, level, _ in runs]), covers=covers))
    return Joined(tuple(result), tuple(notes))


def _variant(found: Found) -> tuple[str, str]:
    return found.record.model, found.record.precision


def age(found: Found) -> tuple[Any, ...]:
    """Sorts runs with the same settings: the last one stands. It does not depend on the folder of a file."""
    return *_time(found), found.source.name, found.place


def _time(found: Found) -> tuple[float, int]:
    level = found.imported.level
    repetition = None if level is None else level.repetition
    return moment(_measured_at(found)), -1 if repetition is None else repetition


def _measured_at(found: Found) -> str | None:
    level = found.imported.level
    return (level.measured_at if level is not None else None) or found.record.timestamp


def named(found: Found) -> str:
    """A run in words, with its time if the file says it."""
    when = f" of {at}" if (at := _measured_at(found)) else ""
    level = found.imported.level
    repetition = "" if level is None or level.repetition is None else f", repetition {level.repetition}"
    return f"{found.source.name}{when}{repetition}"


def what_stands(newest: Found, older: Sequence[Found], names: Sequence[str]) -> str:
    """Which of several runs stands and why, in words; `names` are the others."""
    runs = f"of {len(older) + 1} runs with these settings"
    if any(_time(each) == _time(newest) for each in older):
        chosen = f"the last by file name {runs}, as no time says which of them is the newest"
    else:
        chosen = f"the newest {runs}"
    return f"{chosen}; not imported: {', '.join(names)}"


def same_as(copy: Found, kept: Found) -> str:
    """The note on a copy."""
    what = f"{copy.record.name} of {copy.record.model} at {copy.record.precision}"
    return f"{copy.source}: {what} has the same content as in {kept.source}: skipped"


def _content(found: Found) -> str:
    """What was measured, whatever the file: the same for a copy."""
    assert isinstance(found.record, PerformanceRecord)
    level, numbers = found.imported.level, found.record.model_dump_json(include={*PerformanceMetrics.model_fields})
    return f"{level.model_dump_json() if level else ''}{numbers}"


def _without_copies(measured: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Each measurement once, and a note for each copy; a sweep itself writes every repetition twice."""
    first: dict[str, Found] = {}
    notes = []
    for each in sorted(measured, key=lambda found: (found.source.name, str(found.source), found.place)):
        level, content = each.imported.level, _content(each)
        if content not in first:
            first[content] = each
        elif level is not None and level.repetition is None:
            notes.append(same_as(each, first[content]))
    return list(first.values()), notes


def _settings(measured: Iterable[Found]) -> list[list[Found]]:
    """The repetitions of each setting."""

    def exact(found: Found) -> tuple[Any, ...]:
        level = found.imported.level
        assert level is not None
        # All at once, the number of requests is the load.
        count = level.num_prompts if level.request_rate is None and level.max_concurrency is None else None
        return level.load, level.dataset, level.speculative, sorted(level.metadata.items()), level.input_len, count

    result = []
    for _, same in groupby(
        sorted(measured, key=lambda found: repr(exact(found))), key=lambda found: repr(exact(found))
    ):
        for prompts in _alike(list(same), "prompt_tokens", _PROMPTS):
            result += _alike(prompts, "output_tokens", _OUTPUTS)
    return result


def _alike(measured: Sequence[Found], key: str, ratio: float) -> list[list[Found]]:
    """Groups within which a length is the same, by the shortest of each; an unknown one is a group of its own."""
    groups: list[list[Found]] = []
    for each in sorted(measured, key=lambda found: getattr(found.record, key) or 0.0):
        length = getattr(each.record, key) or 0.0
        if (groups and length <= ratio * (getattr(groups[-1][0].record, key) or 0.0)) or (groups and not length):
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _newest(repetitions: Sequence[Found]) -> tuple[Found, ServingLevel, str]:
    """The newest of the repetitions of one setting, as a level that names the others, and that in words."""
    *older, newest = sorted(repetitions, key=lambda found: (*age(found), _content(found)))
    level = newest.level
    assert level is not None
    names = [named(each) for each in reversed(older)]
    return (
        newest,
        level.model_copy(update={"replaced": tuple(names)}),
        what_stands(newest, older, names) if older else "",
    )


def _sweep(levels: Sequence[tuple[Found, ServingLevel]]) -> Found:
    """The record of several levels, with the samples of all, each with the label of its level."""
    named = sorted(_labelled(levels), key=lambda pair: _order(pair[1]))
    first = named[0][0]
    heads = [{key: getattr(found.record, key) for key in Metadata.model_fields} for found, _ in named]
    # What not all of them agree on is not known of the record.
    head = {key: value for key, value in heads[0].items() if all(other[key] == value for other in heads)}
    files = sorted({level.source or "" for _, level in named})
    tools = sorted({found.imported.tool for found, _ in named})
    versions = sorted({found.imported.version or "of unknown version" for found, _ in named})
    origin = {
        "tool": ", ".join(tools),
        "version": versions[0] if len(versions) == 1 and versions[0] != "of unknown version" else None,
        "file": files[0] if len(files) == 1 else f"{len(files)} files",
        "sha256": _sha256([level.sha256 or "" for _, level in named]),
    }
    said = f"imported from {origin['file']}, written by {origin['tool']} {', '.join(versions)}"
    everywhere = [note for note in named[0][1].notes if all(note in level.notes for _, level in named)]
    own = [
        level.model_copy(update={"notes": tuple(note for note in level.notes if note not in everywhere)})
        for _, level in named
    ]
    record = ServingRecord(**{
        **head,
        "schema_version": SCHEMA_VERSION,
        "benchmark": ServingRecord.name,
        "model": first.record.model,
        "precision": first.record.precision,
        "config": {_ORIGIN: origin},
        "timestamp": max((found.record.timestamp or "" for found, _ in named)) or None,
        "notes": (said, *everywhere),
        "levels": tuple(own),
    })  # fmt: skip
    samples = [{"level": level.label, **row} for found, level in named for row in found.imported.samples]
    return replace(first, record=record, imported=replace(first.imported, samples=samples, label=""))


def _sha256(files: Sequence[str]) -> str:
    """That of the file, or over those of several."""
    several = sorted(set(files))
    return several[0] if len(several) == 1 else hashlib.sha256("".join(several).encode()).hexdigest()


def _order(level: ServingLevel) -> tuple[Any, ...]:
    """Where a level stands: by rate, requests that arrive at no rate last, then by concurrency."""
    rate = float("inf") if level.request_rate is None else level.request_rate
    concurrency = float("inf") if level.max_concurrency is None else level.max_concurrency
    return rate, concurrency, level.prompt_tokens or 0.0, level.output_tokens or 0.0, level.label, level.load


def _labelled(levels: Sequence[tuple[Found, ServingLevel]]) -> list[tuple[Found, ServingLevel]]:
    """The levels with labels that are unique: the load, and what else distinguishes those of one load."""
    named = list(levels)
    parts: dict[str, Callable[[ServingLevel], str]] = {
        "metadata": lambda level: ", ".join(f"{key}={value}" for key, value in _telling(level, levels)),
        "load": lambda level: level.load.split(",")[0],
        "dataset": lambda level: level.dataset or "",
        "speculative": lambda level: f"speculative decoding {level.speculative or 'none'}",
        "prompt_tokens": lambda level: f"{number(level.prompt_tokens or 0)} prompt tokens",
        "output_tokens": lambda level: f"{number(level.output_tokens or 0)} output tokens",
        "num_prompts": lambda level: f"{level.num_prompts} requests",
    }
    for words in parts.values():
        labels = [level.label for _, level in named]
        for index, (found, level) in enumerate(named):
            rivals = [other for (_, other), label in zip(named, labels, strict=True) if label == labels[index]]
            if len({words(other) for other in rivals}) > 1 and words(level):
                named[index] = found, level.model_copy(update={"label": f"{labels[index]}, {words(level)}"})
    return named


def _telling(level: ServingLevel, levels: Sequence[tuple[Found, ServingLevel]]) -> list[tuple[str, str]]:
    """The metadata in which the levels differ."""
    return [
        (key, value) for key, value in level.metadata.items()
        if any(other.metadata.get(key) != value for _, other in levels)
    ]  # fmt: skip
