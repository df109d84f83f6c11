"""Which rows were measured alike: numbers of different engines, hardware or settings are not set beside each other.

`rules` compares a configuration with the 16-bit one of the same model; this sorts the rows of any models into groups
by the same settings. Two differences: prompts may differ in tokens as far as tokenizers do, and item hashes, which hold
the model's own chat template, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.analysis.rules import LENGTH_TOLERANCE
from slim_eval.results.rows import Row, tasks_of

#: The label of a row that has none of the numbers in question.
NOT_MEASURED = "not measured"
#: Tokens of one prompt under two tokenizers; beyond this factor it is another prompt.
TOKENIZER_TOLERANCE = 1.5

_SPEED = (("engine", "engine"), ("hardware", "hardware"), ("batch_size", "batch size"),
          ("max_new_tokens", "output length setting"), ("kernels", "kernels"),
          ("prompt_tokens", "prompt tokens"))  # fmt: skip
_ENERGY = (
    *((f"energy_{key}", f"{words} of the energy run") for key, words in _SPEED),
    ("energy_source", "energy source"),
)
_TOTAL = (("energy_num_runs", "requests of the energy run"),)
_TASK = (("_metric", "metric"), ("_num_fewshot", "few-shot examples"), ("_limit", "limit"), ("_num_items", "items"),
         ("_apply_chat_template", "chat template"), ("_version", "task version"))  # fmt: skip
_SPEED_KEYS, _ENERGY_KEYS, _TOTAL_KEYS = (tuple(key for key, _ in part) for part in (_SPEED, _ENERGY, _TOTAL))
# What shows that speed or energy was measured at all.
_ALL_COLUMNS = (
    "mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s", "energy_per_query_j", "joules_per_output_token",
)  # fmt: skip
# Facts that older records do not hold: None goes with any value.
_LENIENT = ("prompt_tokens", "_num_items", "_apply_chat_template", "_version")
_OF_ENERGY = re.compile(r"energy|joule|watts|duration_seconds|invalid|temperature|clock")
_TOTALS = ("energy_joules", "energy_joules_net", "energy_kwh", "duration_seconds")
_OF_FILES = ("model_size_gb", "num_parameters", "num_parameters_b")
_AS_LOADED = ("weights_gb",)  # emulated kernels load 16-bit weights
_MEAN, _MEAN_TASKS = "accuracy_mean", "accuracy_mean_tasks"  # see analysis.objectives; the tasks as one text
_ALWAYS_SAID = ("engine", "hardware", "kernels")
_PER_LENGTH = re.compile(r"latency_s$|^energy_(per_query_j|joules|joules_net|kwh)$|^duration_seconds$")

Facts = dict[str, Any]


@dataclass(frozen=True)
class Groups:
    """Rows sorted by the settings of their measurement.

    Attributes:
        labels: The group of each row, in words: ``vllm, NVIDIA A100``; `NOT_MEASURED` for a row without any of the
            numbers, where there are several groups.
        differences: Of each group but the first, what sets it apart from the first: ``transformers, Test CPU: engine
            transformers against vllm, hardware Test CPU against NVIDIA A100``.
        settings: Of each group all that is known of its setting, in words; empty where the records do not say.
    """

    labels: tuple[str, ...]
    differences: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The groups, in the order of their first rows, without the rows that were not measured."""
        return tuple(label for label in dict.fromkeys(self.labels) if label != NOT_MEASURED)

    def members(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """The rows of each group."""
        found: dict[str, list[Row]] = {name: [] for name in self.names}
        for label, row in zip(self.labels, rows, strict=True):
            if label in found:
                found[label].append(row)
        return found


def comparable_groups(rows: Sequence[Row], columns: Iterable[str] | None = None) -> Groups:
    """Sort rows into groups whose numbers may be compared.

    Args:
        rows: From `rows.rows_of`.
        columns: The numbers that are to be compared; all of speed and energy by default. Each brings the settings that
            it depends on: a speed its engine, hardware, kernels, batch size, prompt and output length; an energy those
            of its own run, and its source; a task its metric, few-shot count, limit, items, template and version; the
            size of files none.

    Returns:
        A row that lacks some of the numbers goes with any group that has the settings of the others.
    """
    facts = _facts(rows, None if columns is None else tuple(columns))
    found = _Found()
    # Rows that know most first: what they say decides where those that know less belong.
    distinct = {id(known): known for known in facts}
    places = {key: found.place(known) for key, known in sorted(distinct.items(), key=lambda item: -len(item[1]))}
    order = list(dict.fromkeys(places[id(known)] for known in facts if known)) or [0]
    groups = [found.groups[i] if found.groups else {} for i in order]
    labels = dict(zip(order, _labels(groups), strict=True))
    alone = len(order) == 1
    return Groups(
        tuple(labels[order[0] if alone else places[id(known)]] if known or alone else NOT_MEASURED for known in facts),
        tuple(f"{labels[i]}: {', '.join(_differences(g, groups[0]))}" for i, g in zip(order, groups, strict=True))[1:],
        tuple(_text(group, [key for key, value in group.items() if value is not None]) for group in groups),
    )


def confounding(rows: Sequence[Row], columns: Iterable[str]) -> str | None:
    """Why some of these columns compare different work in these rows; None where none does.

    Latencies, and energy for each request or for a whole run, grow with the number of output tokens.

    Args:
        rows: Rows that are compared.
        columns: The numbers that they are compared by.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        if not _PER_LENGTH.search(column):
            continue
        key = "energy_output_tokens" if _OF_ENERGY.search(column) else "tokens_per_request"
        lengths = [row[key] for row in rows if row.get(column) is not None]
        if len(lengths) < 2:
            continue
        if None in lengths:
            reasons.setdefault(("output lengths are not known", ""), []).append(column)
        elif min(lengths) < (1 - LENGTH_TOLERANCE) * max(lengths):
            span = f"{min(lengths):.1f} to {max(lengths):.1f} output tokens a request"
            reasons.setdefault((span, ": different work"), []).append(column)
    said = [f"{' and '.join(found)}: {why}{more}" for (why, more), found in reasons.items()]
    return "; ".join(said) or None


def _facts(rows: Sequence[Row], columns: tuple[str, ...] | None) -> list[Facts]:
    """The settings that each row's numbers depend on; one object for all rows in which they are the same."""
    parts = _parts(columns, tasks_of(rows[0]) if rows else ())
    made: dict[tuple[Any, ...], Facts] = {}
    found = []
    for row in rows:
        read = [settings for keys, settings in parts if any(row.get(key) is not None for key in keys)]
        if _MEAN in (columns or ()) and row.get(_MEAN) is not None:
            read.append((_MEAN_TASKS, *(f"{t}{key}" for t in str(row[_MEAN_TASKS]).split(", ") for key, _ in _TASK)))
        keys = [key for settings in read for key in settings]
        values = [_hashable(row.get(key)) for key in keys]
        known = (*keys, *values)
        if known not in made:
            pairs = ((key, _fact(key, value)) for key, value in zip(keys, values, strict=True))
            made[known] = {k: value for k, value in pairs if value is not None or not k.endswith(_LENIENT)}
        found.append(made[known])
    return found


def _parts(columns: tuple[str, ...] | None, tasks: Sequence[str]) -> list[tuple[list[str], tuple[str, ...]]]:
    """What to read from a row: (columns that show that something was measured, the settings it depends on)."""
    parts: dict[tuple[str, ...], list[str]] = {}
    for column in _ALL_COLUMNS if columns is None else columns:
        for settings in _depends_on(column, tasks):
            parts.setdefault(settings, []).append(column)
    return [(keys, settings) for settings, keys in parts.items()]


def _depends_on(column: str, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """The settings that a column depends on, by what they are settings of."""
    if column in tasks:
        return [tuple(f"{column}{key}" for key, _ in _TASK)]
    if column in _OF_FILES or column == _MEAN:
        return []
    if column in _AS_LOADED:
        return [("kernels",)]
    if not _OF_ENERGY.search(column):
        return [_SPEED_KEYS]
    return [_ENERGY_KEYS, *([_TOTAL_KEYS] if column in _TOTALS else [])]


def _hashable(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _fact(key: str, value: Any) -> Any:
    """A setting in the form in which it is compared."""
    if key.endswith("kernels"):
        return "emulated" if value == "emulated" else "native"  # older records do not say; none of them emulate
    if key.endswith("_metric") and isinstance(value, str):
        return value.removesuffix(",none")
    if key == "energy_source" and isinstance(value, str):
        return re.split(r"[- ]", value)[0]  # two ways to read one meter agree, or the record says so
    return str(value) if key.endswith("_version") and value is not None else value


def _same(key: str, a: Any, b: Any) -> bool:
    if key.endswith("prompt_tokens") and a and b:
        return bool(max(a, b) <= TOKENIZER_TOLERANCE * min(a, b))
    return bool(a == b)


@dataclass
class _Found:
    """The groups found so far, by what their members know."""

    groups: list[Facts] = field(default_factory=list)
    known: dict[tuple[tuple[str, Any], ...], int] = field(default_factory=dict)

    def place(self, facts: Facts) -> int:
        """The first group that nothing in these facts speaks against; a new one where there is none."""
        key = tuple(facts.items())
        if key not in self.known:
            self.known[key] = next((i for i, group in enumerate(self.groups) if _fits(facts, group)), len(self.groups))
            if self.known[key] == len(self.groups):
                self.groups.append({})
            group = self.groups[self.known[key]]
            group.update({name: value for name, value in facts.items() if name not in group})
        return self.known[key]


def _fits(facts: Facts, group: Facts) -> bool:
    return all(_same(key, value, group[key]) for key, value in facts.items() if key in group)


def _labels(groups: Sequence[Facts]) -> list[str]:
    """Each group in words: engine, hardware and emulation; where that does not tell two apart, what does."""
    keys = list(dict.fromkeys(key for group in groups for key in group))
    said = [key for key in keys if key.endswith(_ALWAYS_SAID)]
    if len({group.get(_MEAN_TASKS) for group in groups}) > 1:
        said.append(_MEAN_TASKS)
    heads = [_text(group, said) for group in groups]
    labels: list[str] = []
    for group, head in zip(groups, heads, strict=True):
        rivals = [other for other, words in zip(groups, heads, strict=True) if words == head and other is not group]
        telling = [key for key in keys if not all(_alike(key, group, other) for other in rivals)]
        more = _text(group, [key for key in telling if key not in said])
        label = ", ".join(part for part in (head, more) if part) or "all"
        same = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def _text(group: Facts, keys: Sequence[str]) -> str:
    said = (_said(key, group[key]) for key in keys if key in group)
    return ", ".join(dict.fromkeys(text for text in said if text))


def _alike(key: str, a: Facts, b: Facts) -> bool:
    return key in a and key in b and _same(key, a[key], b[key])


def _said(key: str, value: Any) -> str:
    if key.removeprefix("energy_") in ("engine", "hardware"):
        return "" if value is None else str(value)
    if key.endswith("kernels"):
        return "emulated kernels" if value == "emulated" else ""
    if key == _MEAN_TASKS:
        return f"mean of {value}"
    return f"{_words(key)} {_value(value, key)}"


def _differences(group: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """What sets a group apart; the energy run's own setting only where it is not the speed run's."""
    found: dict[str, str] = {}
    for key in dict.fromkeys((*group, *first)):
        if key in group and key in first and not _same(key, group[key], first[key]):
            pair = f"{_value(group[key], key)} against {_value(first[key], key)}"
            if found.get(key.removeprefix("energy_"), "").endswith(f" {pair}"):
                continue
            found[key] = f"{_words(key)} {pair}"
    return list(found.values()) or ["other numbers were measured"]


def _words(key: str) -> str:
    if key == _MEAN_TASKS:
        return "tasks of the mean"
    for table in (_SPEED, _ENERGY, _TOTAL):
        for name, words in table:
            if name == key:
                return words
    suffix, words = next((suffix, words) for suffix, words in _TASK if key.endswith(suffix))
    return f"{words} of {key.removesuffix(suffix)}"


def _value(value: Any, key: str) -> str:
    if value is None:
        return "all items" if key.endswith("_limit") else "not known"
    return f"{value:g}" if isinstance(value, float) else str(value)
