"""Which numbers were measured in one setting, so that a frontier may join them; and what sets the others apart.

Unlike two precisions of one model, two models may have different numbers of prompt tokens for one text: the tokenizer
belongs to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.comparison.rules import task_obstacles
from slim_eval.rows import Row

_UNKNOWN = "setting not recorded"
#: Numbers that belong to the configuration itself, such as its size: comparable whatever the setting.
ANY = "any"
_SPEED = {
    "engine": "engine", "kernels": "kernels", "hardware": "hardware", "batch_size": "batch size",
    "max_new_tokens": "output tokens", "input_len": "prompt tokens",
}  # fmt: skip
_ENERGY = {
    "energy_engine": "engine", "energy_kernels": "kernels", "energy_hardware": "hardware",
    "energy_batch_size": "batch size", "energy_max_new_tokens": "output tokens", "energy_source": "energy source",
}  # fmt: skip
_TASK = {
    "_metric": "metric",
    "_num_fewshot": "few-shot",
    "_limit": "limit",
    "_version": "version",
    "_num_items": "items",
}
_MEASURED = {
    "speed": ("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s"),
    "energy": ("energy_joules", "joules_per_output_token", "energy_per_query_j"),
}


@dataclass(frozen=True)
class Settings:
    """The settings of one kind of measurement.

    Attributes:
        kind: ``speed``, ``energy``, or a task.
        members: For each row the number of its setting; None where it was not measured.
        words: Each setting in words.
        labels: Of each setting only what sets it apart from the others.
        differences: What differs between them, in words; empty for a single setting.
    """

    kind: str
    members: tuple[int | None, ...]
    words: tuple[str, ...]
    labels: tuple[str, ...]
    differences: str = ""

    @property
    def recorded(self) -> bool:
        """Whether any record says in which setting it was measured."""
        return any(words != _UNKNOWN for words in self.words)

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each setting."""
        return tuple(self.members.count(number) for number in range(len(self.words)))


def settings_of(rows: Sequence[Row], tasks: Sequence[str]) -> tuple[Settings, ...]:
    """The settings in which speed, energy and each task were measured."""
    timed = [_timed(kind, rows, names) for kind, names in (("speed", _SPEED), ("energy", _ENERGY))]
    return (*timed, *(_of_task(task, rows) for task in tasks))


def _timed(kind: str, rows: Sequence[Row], names: dict[str, str]) -> Settings:
    def signature(row: Row) -> Hashable:
        return tuple(_same(key, row[key]) for key in names)

    taken = [any(row[key] is not None for key in _MEASURED[kind]) for row in rows]
    members, firsts = _numbered(rows, taken, signature)
    said = [{word: row[key] for key, word in names.items()} for row in firsts]
    return Settings(kind, members, tuple(_sentence(entry) for entry in said), _labels(said), _differences(said))


def _of_task(task: str, rows: Sequence[Row]) -> Settings:
    """A task's settings are those of `rules.task_obstacles`; what an older record does not say sets nothing apart."""
    taken = [row[task] is not None for row in rows]
    members: list[int | None] = []
    firsts: list[Row] = []
    reasons: dict[str, None] = {}
    for row, present in zip(rows, taken, strict=True):
        if not present:
            members.append(None)
            continue
        home = next((n for n, first in enumerate(firsts) if not task_obstacles(task, row, first)), None)
        if home is None:
            reasons.update(dict.fromkeys(task_obstacles(task, row, firsts[0]) if firsts else ()))
            home = len(firsts)
            firsts.append(row)
        members.append(home)
    said = [{word: row[f"{task}{suffix}"] for suffix, word in _TASK.items()} for row in firsts]
    words = tuple(_sentence(entry) for entry in said)
    return Settings(task, tuple(members), words, _labels(said), "; ".join(reasons))


def _numbered(
    rows: Sequence[Row], taken: Sequence[bool], signature: Callable[[Row], Hashable]
) -> tuple[tuple[int | None, ...], list[Row]]:
    numbers: dict[Hashable, int] = {}
    firsts: list[Row] = []
    members: list[int | None] = []
    for row, present in zip(rows, taken, strict=True):
        if not present:
            members.append(None)
            continue
        key = signature(row)
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(row)
        members.append(numbers[key])
    return tuple(members), firsts


def _same(key: str, value: Any) -> Hashable:
    """Native kernels are what a record means that does not say; NVML's counter and its integral agree."""
    if key.endswith("kernels"):
        return bool(value == "emulated")
    if key == "energy_source" and isinstance(value, str):
        return value.split("-")[0].split(" ")[0]
    return str(value)


def _sentence(entry: dict[str, Any]) -> str:
    known = [f"{word} {value}" for word, value in entry.items() if value is not None]
    return ", ".join(known) or _UNKNOWN


def _labels(said: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    apart = [word for word in (said[0] if said else ()) if len({str(entry[word]) for entry in said}) > 1]
    return tuple(
        _sentence({word: entry[word] for word in apart}) if apart else f"setting {number}"
        for number, entry in enumerate(said, start=1)
    )


def _differences(said: Sequence[dict[str, Any]]) -> str:
    """``hardware: A against B; batch size: 1 against 8``."""
    found = []
    for word in said[0] if said else ():
        values = list(dict.fromkeys("not known" if entry[word] is None else str(entry[word]) for entry in said))
        if len(values) > 1:
            found.append(f"{word}: {' against '.join(values[:6])}{' …' if len(values) > 6 else ''}")
    return "; ".join(found)
