"""In which settings speed, energy and each task were measured, as the report tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slim_eval.analysis.groups import comparable_groups
from slim_eval.results.rows import Row

#: Numbers that belong to the configuration itself, such as its size: comparable whatever the setting.
ANY = "any"
# What a record says of the setting beside the measurement itself.
_SAID = ("engine", "hardware", "batch_size", "max_new_tokens")
_SAID_OF_TASKS = ("metric", "num_fewshot", "num_items", "version")
# What shows that a kind was measured.
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
        labels: Of each setting what tells it from the others, as `groups.Groups` names it everywhere.
        differences: What differs between them, in words; empty for a single setting.
        recorded: Whether any record says in which setting it was measured.
    """

    kind: str
    members: tuple[int | None, ...]
    words: tuple[str, ...]
    labels: tuple[str, ...]
    differences: str = ""
    recorded: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each setting."""
        return tuple(self.members.count(number) for number in range(len(self.words)))


def settings_of(rows: Sequence[Row], tasks: Sequence[str]) -> tuple[Settings, ...]:
    """The settings in which speed, energy and each task were measured."""
    return tuple(_settings(kind, rows, columns) for kind, columns in (*_MEASURED.items(), *((t, (t,)) for t in tasks)))


def _settings(kind: str, rows: Sequence[Row], columns: Sequence[str]) -> Settings:
    measured = [any(row[key] is not None for key in columns) for row in rows]
    if not any(measured):
        return Settings(kind, (None,) * len(rows), (), ())
    groups = comparable_groups(rows, columns)
    members = tuple(
        groups.names.index(label) if present else None for label, present in zip(groups.labels, measured, strict=True)
    )
    prefix = {"speed": "", "energy": "energy_"}.get(kind)
    said = [f"{kind}_{name}" for name in _SAID_OF_TASKS] if prefix is None else [f"{prefix}{name}" for name in _SAID]
    recorded = any(row.get(name) is not None for row in rows for name in said)
    return Settings(kind, members, groups.settings, groups.names, "; ".join(groups.differences), recorded)
