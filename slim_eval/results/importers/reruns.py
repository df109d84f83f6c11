"""Measurements other than levels of a server: of reruns the newest stands, and other settings are kept apart.

Two records are reruns if they agree in model, scheme, benchmark (or task) and every setting, whichever files and
folders they come from. The result does not depend on the order of the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slim_eval.results.importers.importer import plain_number
from slim_eval.results.importers.sweeps import Found, Joined, age, named, same_as, what_stands
from slim_eval.results.records import AccuracyRecord, Record

#: Fields of a record that are settings, beside those in its config.
_OF_ALL = ("engine", "dtype", "revision")
_OF_ACCURACY = ("num_fewshot", "limit", "apply_chat_template", "thinking", "max_model_len", "num_items")
_OF_SPEED = ("hardware", "batch_size", "input_len", "prompt_tokens", "output_tokens")
#: Of lm-eval's config: how the standard error is computed.
_NO_SETTINGS = {"bootstrap_iters"}
_HASH_DIGITS = 8


def apart(joined: Joined) -> Joined:
    """Of reruns the newest, which names the others; a label for each of those that differ in a setting."""
    groups: dict[str, list[Found]] = {}
    for each in joined.found:
        if _is_alone(each):
            groups.setdefault(repr((*_measurement(each), each.record.precision, _settings(each))), []).append(each)
    notes = list(joined.notes)
    standing: list[Found] = [each for each in joined.found if not _is_alone(each)]
    for runs in groups.values():
        single, copies = _without_copies(runs)
        notes += copies
        *older, newest = sorted(single, key=lambda each: (*age(each), len(each.imported.samples), _content(each)))
        said = what_stands(newest, older, [named(each) for each in reversed(older)]) if older else ""
        record = newest.record
        if said:
            record = record.model_copy(update={"notes": (*record.notes, f"{record.name}: {said}")})
        standing.append(replace(newest, record=record, covers=frozenset().union(*(each.covers for each in runs))))
    return replace(joined, found=tuple(_labelled(standing)), notes=tuple(notes))


def settings(record: Record, tool: str) -> dict[str, str]:
    """What a record was measured with, as texts; without what is not known."""
    own = _OF_ACCURACY if isinstance(record, AccuracyRecord) else _OF_SPEED
    config = (record.config or {}).get(record.benchmark or "")
    values: dict[str, Any] = {"tool": tool}
    values |= {key: value for key, value in config.items() if key not in _NO_SETTINGS} if config else {}
    values |= {key: getattr(record, key, None) for key in (*_OF_ALL, *own)}
    return {key: _text(value) for key, value in values.items() if value not in (None, "")}


def _text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True, default=str)
    text = str(plain_number(value))
    return {"true": "1", "false": "0"}.get(text.lower(), text)  # versions write a flag in one of these ways


def _is_alone(found: Found) -> bool:
    return found.imported.level is None


def _measurement(found: Found) -> tuple[str, str, str]:
    return found.record.model, found.record.name, found.imported.label


def _settings(found: Found) -> list[tuple[str, str]]:
    return sorted(settings(found.record, found.imported.tool).items())


def _content(found: Found) -> str:
    """What was measured, whatever the file: the same for a copy."""
    content = found.record.model_dump(mode="json", exclude={"notes": True, "config": True})
    return json.dumps([content, _settings(found)], sort_keys=True)


def _without_copies(runs: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Each measurement once, from the file with the most samples, and a note for each copy."""
    first: dict[str, Found] = {}
    notes = []
    for each in sorted(runs, key=lambda run: (-len(run.imported.samples), run.source.name, str(run.source), run.place)):
        if (kept := first.setdefault(_content(each), each)) is not each:
            notes.append(same_as(each, kept))
    return list(first.values()), notes


def _labelled(found: Sequence[Found]) -> list[Found]:
    """Labels that name the settings in which measurements of one model, scheme and benchmark differ.

    All schemes of a model get the same settings in their labels, so that those that belong together have one label.
    """
    rivals: dict[tuple[str, str, str], dict[str, list[dict[str, str]]]] = {}
    for each in found:
        if _is_alone(each):
            of_scheme = rivals.setdefault(_measurement(each), {}).setdefault(each.record.precision, [])
            of_scheme.append(dict(_settings(each)))
    result: list[Found] = []
    taken: set[tuple[str, ...]] = set()
    for each in sorted(found, key=lambda one: (*_measurement(one), one.record.precision, repr(_settings(one)))):
        if not _is_alone(each):
            result.append(each)
            continue
        own, others = dict(_settings(each)), rivals[_measurement(each)]
        keys = {key for scheme in others.values() for other in scheme for key in other}
        varied = sorted(
            key for key in keys if any(len({other.get(key) for other in scheme}) > 1 for scheme in others.values())
        )
        if "limit" in varied and "num_items" in varied:
            varied.remove("num_items")  # which the limit says
        parts = [f"{key.removeprefix('n_')}-{own[key]}" for key in sorted(varied) if key in own]
        label = "-".join(filter(None, (each.imported.label, *parts)))
        place = (each.record.model, each.record.precision, each.record.name)
        if (*place, label) in taken:
            label += f"-{hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest()[:_HASH_DIGITS]}"
        taken.add((*place, label))
        result.append(replace(each, imported=replace(each.imported, label=label)))
    return result
