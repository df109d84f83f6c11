"""Which configurations were measured in the same setting, so that one may be called better than another.

Unlike two precisions of one model (`comparison.rules`), two models may have different numbers of prompt tokens for one
text: the tokenizer belongs to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from slim_eval.analysis.candidates import is_energy, needs
from slim_eval.analysis.cost import Prices
from slim_eval.analysis.objectives import ACCURACY_MEAN
from slim_eval.analysis.wishes import CERTAIN, COST, OF_BEST, RECOVERY, Plan, is_task
from slim_eval.rows import Row


class Kind(Enum):
    """What a number depends on beside the configuration."""

    SPEED = "speed"
    ENERGY = "energy"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class _Setting:
    """Something that must be the same.

    Attributes:
        key: Its column; for a task, the part after the task's name.
        say: A value in words.
        same: Brings a value to the form in which it is compared.
        strict: A value that one of two rows does not know counts as a difference. Such a setting is also told.
    """

    key: str
    say: Callable[[Any], str]
    same: Callable[[Any], Any] = lambda value: value
    strict: bool = True


def _kernels(value: Any) -> bool:
    """Emulated kernels stand apart; native ones are what a record means that does not say."""
    return bool(value == "emulated")


def _family(source: Any) -> Any:
    """NVML's counter and its integral agree; NVML and CodeCarbon need not."""
    return source.split("-")[0].split(" ")[0] if isinstance(source, str) else source


def _without_filter(metric: Any) -> Any:
    return metric.removesuffix(",none") if isinstance(metric, str) else metric


def _timed(prefix: str) -> tuple[_Setting, ...]:
    return (
        _Setting(f"{prefix}engine", str),
        _Setting(f"{prefix}kernels", lambda value: f"{value} kernels", same=_kernels),
        _Setting(f"{prefix}hardware", str),
        _Setting(f"{prefix}batch_size", lambda value: f"batch size {value}"),
        _Setting(f"{prefix}max_new_tokens", lambda value: f"{value} output tokens"),
    )


_SETTINGS = {
    Kind.SPEED: (*_timed(""), _Setting("input_len", lambda value: f"{value} prompt tokens")),
    Kind.ENERGY: (*_timed("energy_"), _Setting("energy_source", str, same=_family)),
}
_TASK_SETTINGS = (
    _Setting("_metric", str, same=_without_filter),
    _Setting("_num_fewshot", lambda value: f"{value} few-shot examples"),
    _Setting("_limit", lambda value: f"limit {value}"),
    _Setting("_num_items", lambda value: f"{value} items", strict=False),
    _Setting("_apply_chat_template", lambda value: f"chat template: {value}", strict=False),
    _Setting("_version", lambda value: f"version {value}", strict=False),
    _Setting("_items_hash", lambda value: f"items {value}", strict=False),
)
_MEASURED = {
    Kind.SPEED: ("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s"),
    Kind.ENERGY: ("energy_joules", "joules_per_output_token", "energy_per_query_j"),
}


@dataclass(frozen=True)
class Basis:
    """On what a ranking depends: kinds of measurements, and the tasks whose accuracy counts."""

    kinds: tuple[Kind, ...]
    tasks: tuple[str, ...]


def basis_of(plan: Plan, tasks: Sequence[str], prices: Prices) -> Basis:
    """On what the ranking of a plan depends. A limit is kept or not whatever others did, so limits do not count.

    Args:
        plan: What is wished for.
        tasks: Tasks of the mean accuracy.
        prices: What is paid.
    """
    ranked = [objective.key for part in plan.goal.parts for objective in part]
    ranked += [constraint.key for constraint in plan.constraints if constraint.key == OF_BEST]
    columns = dict.fromkeys(column for key in ranked for column in needs(key, tasks, prices))
    found = {kind for column in columns for kind in kinds_of(column)}
    return Basis(tuple(kind for kind in Kind if kind in found), tuple(filter(is_task, columns)))


def groups_of(rows: Sequence[Row], basis: Basis) -> list[list[int]]:
    """Rows that may be ranked together, by their place in the sequence.

    Returns:
        Groups in the order of their first rows. A row joins the first group to all of whose members it may be compared;
        a kind that one of two rows did not measure keeps nothing apart.
    """
    alike: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault(_signature(row, basis), []).append(index)
    groups: list[list[list[int]]] = []
    for same in alike.values():
        row = rows[same[0]]
        home = next((g for g in groups if not any(differences(row, rows[other[0]], basis) for other in g)), None)
        if home is None:
            groups.append([same])
        else:
            home.append(same)
    return [sorted(index for same in group for index in same) for group in groups]


def differences(row: Row, other: Row, basis: Basis) -> list[str]:
    """The settings in which two rows differ, in words; empty where they may be compared."""
    found = []
    for kind in basis.kinds:
        for settings, prefix, measured in _tables(kind, basis.tasks):
            if all(any(side.get(key) is not None for key in measured) for side in (row, other)):
                found += [text for setting in settings if (text := _difference(setting, prefix, row, other))]
    return found


def described(rows: Iterable[Row], basis: Basis) -> str:
    """The setting of rows that may be compared: ``speed: vllm, NVIDIA A100, batch size 8``; empty where not known."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for kind in basis.kinds:
            for settings, prefix, _ in _tables(kind, basis.tasks):
                words = [
                    s.say(row[key]) for s in settings if s.strict and row.get(key := f"{prefix}{s.key}") is not None
                ]
                found.setdefault(prefix or kind.value, {}).update(dict.fromkeys(words))
    return "; ".join(f"{head}: {', '.join(words)}" for head, words in found.items() if words)


def kinds_of(key: str) -> tuple[Kind, ...]:
    """On what a column depends; nothing where it belongs to the configuration itself."""
    if key in CERTAIN or key == RECOVERY:
        return ()
    if key in (ACCURACY_MEAN, OF_BEST) or is_task(key):
        return (Kind.ACCURACY,)
    if key == COST:
        return (Kind.SPEED, Kind.ENERGY)
    return (Kind.ENERGY,) if is_energy(key) else (Kind.SPEED,)


def _signature(row: Row, basis: Basis) -> Hashable:
    """Equal for rows that no comparison can tell apart, so that of many such rows one is compared."""
    return tuple(
        (any(row.get(key) is not None for key in measured), *(row.get(f"{prefix}{s.key}") for s in settings))
        for kind in basis.kinds
        for settings, prefix, measured in _tables(kind, basis.tasks)
    )


def _tables(kind: Kind, tasks: Sequence[str]) -> Iterable[tuple[Sequence[_Setting], str, Sequence[str]]]:
    """The settings of a kind, the prefix of their columns, and the columns that tell whether it was measured."""
    if kind is Kind.ACCURACY:
        return [(_TASK_SETTINGS, task, (task,)) for task in tasks]
    return [(_SETTINGS[kind], "", _MEASURED[kind])]


def _difference(setting: _Setting, prefix: str, row: Row, other: Row) -> str | None:
    key = f"{prefix}{setting.key}"
    this, that = row.get(key), other.get(key)
    if not setting.strict and (this is None or that is None):
        return None
    if setting.same(this) == setting.same(that):
        return None
    head = f"{prefix}: " if prefix else ""
    return f"{head}{' against '.join('not known' if value is None else setting.say(value) for value in (this, that))}"
