"""Which numbers may be compared: one list of settings for all commands.

A number depends on settings: a speed on its engine, hardware and load, an accuracy on its task's version and few-shot
examples. `SETTINGS` lists them all. `compare`, `analyze`, Pareto frontiers, `recommend`, `noise`, gates and figures use
this module, in one of two ways:

- `obstacles` compares two variants of one model and returns every reason against comparing a number;
- `comparable_groups` sorts variants of any models into groups, within which numbers may be ranked, averaged or drawn on
  one frontier. Prompt lengths may then differ as far as tokenizers differ, and item hashes, which contain the model's
  own chat template, are ignored.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

from slim_eval.metrics import ACCURACY_MEAN, METRICS, Basis, Metric, task_metric
from slim_eval.results.records import AccuracyRecord, Record, ServingRecord
from slim_eval.results.variants import Variant, config_value, metric_of, tasks_of

#: Above this relative difference in output tokens per request, two latencies are of different work (docs/metrics.md).
LENGTH_TOLERANCE = 0.01
#: Tokens of one prompt under two tokenizers; beyond this factor it is another prompt.
TOKENIZER_FACTOR = 1.5
#: Output tokens per request of one workload under two schemes, if each request may end early.
SAMPLING_FACTOR = 1.1
#: Metadata that says which variant was measured, or when, and not how.
_OF_THE_VARIANT = re.compile(
    r"quant|precision|dtype|scheme|variant|model|checkpoint|weight|label|name|title|description|comment|note|date|time"
    r"|user|author|commit|url|host|tag$|^id$|_id$",
    re.IGNORECASE,
)
#: The group of a variant that has none of the numbers in question.
NOT_MEASURED = "not measured"


@dataclass(frozen=True, eq=False)  # one object per setting; compared and hashed as such, which is cheap
class Setting:
    """A setting that must be equal in two measurements before their numbers are compared."""

    name: str  # unique within its basis
    words: str  # its name in a reason
    basis: Basis  # numbers that depend on it
    read: Callable[[Any], Any]  # its value in a record, in comparable form; None if not recorded
    none: str = "not known"  # meaning of None, in words
    strict: bool = True  # whether None and a known value differ; off for facts that older records do not contain
    per_run: bool = False  # whether only numbers that grow with the number of requests depend on it
    same: Callable[[Any, Any], bool] = operator.eq  # of two known values (any, if strict) in variants of one model
    alike: Callable[[Any, Any], bool] | None = None  # the same in variants of any models; `same` if None
    across_models: bool = True  # whether it is compared between variants of different models

    def say(self, value: Any) -> str:
        """A value in words."""
        if value is None:
            return self.none
        return f"{value:g}" if isinstance(value, float) else str(value)


def _kernels(record: Record) -> str:
    return "emulated" if record.kernels == "emulated" else "native"  # older records do not say; none of them emulate


def _field(key: str) -> Callable[[Record], Any]:
    return lambda record: getattr(record, key, None)


def _config(key: str) -> Callable[[Record], Any]:
    return lambda record: config_value(record, key)


def _same_width(a: str, b: str) -> bool:
    """Whether two data types take as many bits: models of their own 16-bit types are compared."""
    return ("32" in a) == ("32" in b)


def _dtype(basis: Basis) -> Setting:
    """The type of computation; of one model, bfloat16 against float16 is another measurement too."""
    return Setting("dtype", "data type", basis, _field("dtype"), strict=False, alike=_same_width)


def _items_hash(record: AccuracyRecord) -> str | None:
    """One short hash over the items of all subtasks."""
    if not record.task_hashes:
        return None
    return hashlib.sha256(json.dumps(record.task_hashes, sort_keys=True).encode()).hexdigest()[:16]


def _unit(record: AccuracyRecord) -> str:
    """That of an accuracy in percent (75.0) is not that of a share (0.75)."""
    return task_metric(record.task, record.metric, None, () if record.accuracy is None else (record.accuracy,)).unit


class _Metadata(tuple[tuple[str, str], ...]):
    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self)


def _metadata(record: Record) -> _Metadata | None:
    """What the user wrote into the file of another tool to distinguish runs, but for what describes the variant."""
    found = config_value(record, "metadata")
    if not isinstance(found, Mapping):
        return None
    return _Metadata((str(k), str(v)) for k, v in sorted(found.items()) if not _OF_THE_VARIANT.search(str(k))) or None


def _agree(a: _Metadata, b: _Metadata) -> bool:
    """Whether two runs say the same of what both of them say something."""
    there = dict(b)
    return all(there.get(key, value) == value for key, value in a)


def _served_tokens(record: Record) -> float | None:
    """Output tokens per request of a server under load, where they are part of the load."""
    return getattr(record, "output_tokens", None) if config_value(record, "load") is not None else None


def _prompt_tokens(record: Record) -> float | None:
    """Prompt tokens per request, unless the data set of a load of slim-eval's own says which prompts they are.

    Of prompts of several lengths, a faster server ends others in the same window.
    """
    named = str(config_value(record, "load") or "").startswith("slim-eval,") and config_value(record, "dataset")
    return None if named else getattr(record, "prompt_tokens", None)


def _shared_node(record: Record) -> str | None:
    """Whether other variants were worked on beside it; one run measures one at a time unless asked for more."""
    return None if record.beside is None else "yes" if record.beside else "no"


def _workload(basis: Basis) -> tuple[Setting, ...]:
    """The settings of a benchmark that generates: of speed and of energy alike."""
    return (
        Setting("engine", "engine", basis, _field("engine")),
        Setting("hardware", "hardware", basis, _field("hardware")),
        Setting("batch_size", "batch size", basis, _field("batch_size")),
        Setting("load", "load", basis, _config("load"), none="batches of slim-eval's own"),
        Setting("dataset", "data set", basis, _config("dataset"), none="none recorded"),
        Setting("speculative", "speculative decoding", basis, _config("speculative"), none="none recorded"),
        Setting("metadata", "metadata", basis, _metadata, strict=False, same=_agree),
        Setting("max_new_tokens", "output length setting", basis, _config("max_new_tokens")),
        Setting(
            "served_tokens", "output tokens", basis, _served_tokens, strict=False,
            same=lambda a, b: bool(max(a, b) <= SAMPLING_FACTOR * min(a, b)),
            alike=lambda a, b: bool(max(a, b) <= TOKENIZER_FACTOR * min(a, b)),
        ),
        Setting(
            "prompt_tokens", "prompt tokens", basis, _prompt_tokens, strict=False,
            same=lambda a, b: bool(abs(a - b) <= LENGTH_TOLERANCE * abs(b)),
            alike=lambda a, b: bool(max(a, b) <= TOKENIZER_FACTOR * min(a, b)),
        ),
        Setting("kernels", "kernels", basis, _kernels),
        Setting("shared_node", "shared node", basis, _shared_node, strict=False),
        _dtype(basis),
    )  # fmt: skip


SETTINGS: tuple[Setting, ...] = (
    *_workload(Basis.SPEED),
    *_workload(Basis.ENERGY),
    # ``nvml-counter`` and ``nvml-integral`` agree within 5 % or the record says so; NVML and CodeCarbon need not.
    Setting(
        "energy_source", "energy source", Basis.ENERGY,
        lambda record: record.energy_source and re.split("[- ]", record.energy_source)[0],
    ),
    Setting("num_runs", "requests", Basis.ENERGY, _field("num_runs"), per_run=True),
    # lm-eval names a metric with its filter; the filter ``none`` says nothing: ``acc,none`` is ``acc``.
    Setting("metric", "metric", Basis.TASK, lambda record: record.metric and record.metric.removesuffix(",none")),
    Setting("unit", "unit", Basis.TASK, _unit),
    Setting("num_fewshot", "few-shot examples", Basis.TASK, _field("num_fewshot")),
    Setting("limit", "limit", Basis.TASK, _field("limit"), none="all items"),
    Setting("num_items", "items", Basis.TASK, _field("num_items"), strict=False),
    Setting("apply_chat_template", "chat template", Basis.TASK, _field("apply_chat_template"), strict=False),
    Setting("thinking", "thinking", Basis.TASK, _field("thinking"), none="the template's default"),
    Setting(
        "version", "task version", Basis.TASK, strict=False,
        read=lambda record: None if (found := record.task_versions.get(record.task)) is None else str(found),
    ),
    Setting("max_model_len", "context window", Basis.TASK, _field("max_model_len"), strict=False, across_models=False),
    Setting(
        "truncated_requests", "prompts cut to the context window", Basis.TASK, _field("truncated_requests"),
        strict=False, alike=lambda a, b: bool(a) == bool(b),
    ),
    Setting(
        "prompts_without_turns", "prompts that lack turns", Basis.TASK, _field("prompts_without_turns"),
        strict=False, alike=lambda a, b: bool(a) == bool(b),
    ),
    Setting("items_hash", "items (by hash)", Basis.TASK, _items_hash, strict=False, across_models=False),
    _dtype(Basis.TASK),
    Setting("kernels", "kernels", Basis.LOADED, _kernels),
    _dtype(Basis.LOADED),
    Setting("engine", "engine", Basis.OWN, _field("engine")),
    Setting("hardware", "hardware", Basis.OWN, _field("hardware")),
    Setting("kernels", "kernels", Basis.OWN, _kernels),
    Setting("shared_node", "shared node", Basis.OWN, _shared_node, strict=False),
    _dtype(Basis.OWN),
)  # fmt: skip
_SETTINGS_OF = {
    (basis, per_run): tuple(s for s in SETTINGS if s.basis is basis and (per_run or not s.per_run))
    for basis in Basis for per_run in (False, True)
}  # fmt: skip

#: What shows that speed or energy was measured at all.
SPEEDS = tuple(METRICS[key] for key in ("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s"))
ENERGIES = tuple(METRICS[key] for key in ("energy_joules", "joules_per_output_token", "energy_per_query_j"))


def settings_of(metric: Metric) -> tuple[Setting, ...]:
    """The settings that a metric depends on."""
    return _SETTINGS_OF[metric.basis, metric.per_run]


def _record_of(metric: Metric, variant: Variant) -> Record | None:
    """The record whose settings a number of the metric depends on; None if the variant has none."""
    if metric.basis is Basis.LOADED:
        return variant.performance
    if metric.benchmark == ServingRecord.name:
        return variant.performance  # that of its level
    if metric.basis is Basis.TASK:
        return variant.accuracy.get(metric.benchmark or "")
    return None if metric.benchmark is None else variant.measured.get(metric.benchmark)


def obstacles(metrics: Metric | Sequence[Metric], this: Variant, base: Variant) -> list[str]:
    """Reasons, in words, against comparing a metric of two variants of one model.

    Of several metrics of one basis, each side needs only one. Empty if they may be compared or neither was measured.
    """
    asked = [metrics] if isinstance(metrics, Metric) else list(metrics)
    # An invalid record has no numbers of its own: that is the reason, and not that they are missing.
    invalid = [
        f"{words} {flaw}"
        for variant, words in ((this, "this measurement"), (base, f"the {base.precision} measurement"))
        if (flaw := variant.flaw(asked[0])) is not None
    ]
    has, had = (any(variant.number(metric) is not None for metric in asked) for variant in (this, base))
    if invalid or not (has or had):
        return invalid
    if not (has and had):
        return [f"not measured at {(this if had else base).precision}"]
    return differences(asked[0], this, base)


def differences(metric: Metric, this: Variant, base: Variant, without: Sequence[str] = ()) -> list[str]:
    """The settings of a metric in which two variants of one model differ, in words; `without` names some to ignore."""
    here, there = _record_of(metric, this), _record_of(metric, base)
    if here is None or there is None:
        return []
    found = []
    for setting in settings_of(metric):
        if setting.name in without:
            continue
        a, b = setting.read(here), setting.read(there)
        if (setting.strict or (a is not None and b is not None)) and not setting.same(a, b):
            found.append(f"{setting.words} {setting.say(a)} against {setting.say(b)}")
    return found


def baseline_of(variant: Variant, variants: Iterable[Variant]) -> Variant | None:
    """The baseline of a variant's model; None if there is none.

    Of several, one from the same run and under the same load, if there is one; of those, the one that shares most
    tasks with the variant, then most other metrics, measured in the same settings.
    """
    load, model = variant.level and variant.level.load, variant.directory.parent

    def distance(other: Variant) -> tuple[bool, bool, bool, bool]:
        return (
            other.name != variant.name,
            other.directory.parent != model,
            other.directory.parent.parent != model.parent,  # a checkpoint that others made has a folder of its own
            (other.level and other.level.load) != load,
        )

    found = [v for v in variants if v.is_baseline and v.precision == variant.baseline and v.model == variant.base_model]
    least = min(map(distance, found), default=None)
    nearest = [other for other in found if distance(other) == least]
    if len(nearest) < 2:
        return nearest[0] if nearest else None
    return max(nearest, key=lambda other: _shared_metrics(variant, other))


def _shared_metrics(this: Variant, base: Variant) -> tuple[int, int]:
    """How many tasks, and how many other metrics, both variants have that may be compared."""

    def count(keys: Iterable[str]) -> int:
        metrics = (metric_of(key, (this, base)) for key in keys)
        both = (each for each in metrics if this.number(each) is not None and base.number(each) is not None)
        return sum(not obstacles(metric, this, base) for metric in both)

    return count(tasks_of((this, base))), count(METRICS)


def lengths_differ(this: Variant, base: Variant | None) -> bool | None:
    """Whether two variants generated a different number of tokens per request; None if one is unknown."""
    a, b = this.tokens_per_request, base.tokens_per_request if base else None
    return None if not a or not b else abs(a - b) > LENGTH_TOLERANCE * abs(b)


def confounding(variants: Sequence[Variant], metrics: Iterable[Metric]) -> str | None:
    """Why some of these metrics compare different work in these variants; None if none does.

    Latencies, and energy per request or for a whole run, grow with the number of output tokens.
    """
    reasons: dict[str, list[str]] = {}
    for metric in metrics:
        measured = [v for v in variants if v.number(metric) is not None] if metric.per_length else []
        if len(measured) < 2:
            continue
        if metric.basis is Basis.ENERGY:
            lengths = [None if variant.energy is None else variant.energy.output_tokens for variant in measured]
        else:
            lengths = [variant.tokens_per_request for variant in measured]
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            reasons.setdefault("output lengths are not known", []).append(metric.key)
        elif min(known) < (1 - LENGTH_TOLERANCE) * max(known):
            why = f"{min(known):.1f} to {max(known):.1f} output tokens per request: different work"
            reasons.setdefault(why, []).append(metric.key)
    return "; ".join(f"{' and '.join(keys)}: {why}" for why, keys in reasons.items()) or None


class _Fact(NamedTuple):
    """A setting of a task, a benchmark or a basis, the `origin`."""

    origin: str
    setting: Setting


_Facts = dict[_Fact, Any]  # what distinguishes a number's group
_Key = tuple[tuple[str, str, str], ...]
_MEAN_TASKS = _Fact("", Setting("accuracy_mean_tasks", "tasks of the mean", Basis.TASK, lambda record: None))


_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Groups:
    """Variants sorted by the settings of their measurement."""

    #: The group of each variant, in words: ``vllm, NVIDIA A100``; `NOT_MEASURED` for a variant without any of the
    #: numbers, if there are several groups.
    labels: tuple[str, ...]
    #: For each group except the first, its differences from the first: ``transformers, Test CPU: engine transformers
    #: against vllm, hardware Test CPU against NVIDIA A100``.
    differences: tuple[str, ...] = ()
    #: For each group, its known settings in words; empty if not recorded.
    settings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The groups, in the order of their first variants, without the variants that were not measured."""
        return tuple(label for label in dict.fromkeys(self.labels) if label != NOT_MEASURED)

    def members(self, items: Sequence[_Item]) -> dict[str, list[_Item]]:
        """The items of each group: the variants that were sorted, or one item for each of them in their order."""
        found: dict[str, list[_Item]] = {name: [] for name in self.names}
        for label, item in zip(self.labels, items, strict=True):
            if label in found:
                found[label].append(item)
        return found


def comparable_groups(variants: Sequence[Variant], metrics: Iterable[Metric] | None = None) -> Groups:
    """Sort variants of any models into groups whose numbers may be compared.

    A variant without some of the numbers joins any group with the same settings for the others. By default, the
    numbers are all of speed and energy.
    """
    asked = (*SPEEDS, *ENERGIES[1:]) if metrics is None else tuple(metrics)
    facts = [_facts(variant, asked) for variant in variants]
    keys = [key for _, key in facts]
    distinct = {key: known for known, key in facts if key}
    found: list[_Facts] = []
    places = {}
    # Variants that know most first: what they say decides where those that know less belong.
    for key, known in sorted(distinct.items(), key=lambda item: -len(item[1])):
        fitting = (
            index for index, group in enumerate(found)
            if all(_alike(fact, value, group[fact]) for fact, value in known.items() if fact in group)
        )  # fmt: skip
        places[key] = next(fitting, len(found))
        if places[key] == len(found):
            found.append({})
        for fact, value in known.items():
            found[places[key]].setdefault(fact, value)

    order = list(dict.fromkeys(places[key] for key in keys if key))
    groups = [found[place] for place in order] or [{}]
    labels = _labels(groups)
    label_at = dict(zip(order, labels, strict=False))
    label_of = {key: label_at[place] for key, place in places.items()}
    return Groups(
        tuple(label_of.get(key, labels[0] if len(groups) == 1 else NOT_MEASURED) for key in keys),
        tuple(f"{label}: {_difference(g, groups[0])}" for label, g in zip(labels[1:], groups[1:], strict=True)),
        tuple(_text(group, [fact for fact, value in group.items() if value is not None]) for group in groups),
    )


@cache
def _of_tasks(tasks: tuple[str, ...]) -> list[Metric]:
    return [task_metric(task) for task in tasks]


def _facts(variant: Variant, metrics: Sequence[Metric]) -> tuple[_Facts, _Key]:
    """The settings that a variant's numbers depend on, and the same in a form that can be hashed."""
    facts: _Facts = {}
    found: dict[Any, tuple[_Facts, _Key]] = {}  # by what they depend on
    for metric in metrics:
        if variant.number(metric) is None:
            continue
        parts = [metric]
        if metric is ACCURACY_MEAN:
            facts[_MEAN_TASKS] = ", ".join(variant.mean_tasks)
            parts = _of_tasks(variant.mean_tasks)
        for part in parts:
            # Most metrics share their settings with others, and every table asks for them again.
            memo = (part.benchmark, part.basis, part.per_run)
            if memo not in variant.memo:
                record = _record_of(part, variant)
                origin = part.benchmark or "" if part.basis in (Basis.TASK, Basis.OWN) else part.basis.value
                asked = settings_of(part) if record is not None else ()
                read = ((setting, setting.read(record)) for setting in asked if setting.across_models)
                known = {_Fact(origin, s): value for s, value in read if value is not None or s.strict}
                variant.memo[memo] = (known, _key(known))
            found[memo] = variant.memo[memo]
    if len(found) == 1 and not facts:
        return next(iter(found.values()))
    together = (*found, *facts.values())
    if together not in variant.memo:
        for known, _ in found.values():
            facts.update(known)
        variant.memo[together] = (facts, _key(facts))
    united: tuple[_Facts, _Key] = variant.memo[together]
    return united


def _key(facts: _Facts) -> _Key:
    return tuple((origin, setting.name, str(value)) for (origin, setting), value in facts.items())


def _alike(fact: _Fact, a: Any, b: Any) -> bool:
    return (fact.setting.alike or fact.setting.same)(a, b)


def _labels(groups: Sequence[_Facts]) -> list[str]:
    """Each group in words: engine, hardware and emulation; other differences if those are equal."""
    known = list(dict.fromkeys(fact for group in groups for fact in group))
    said = [fact for fact in known if fact.setting.name in ("engine", "hardware", "kernels")]
    if len({group.get(_MEAN_TASKS) for group in groups}) > 1:
        said.append(_MEAN_TASKS)
    heads = [_text(group, said) for group in groups]
    labels: list[str] = []
    for group, head in zip(groups, heads, strict=True):
        rivals = [other for other, words in zip(groups, heads, strict=True) if words == head and other is not group]
        telling = [
            fact for fact in known if fact not in said
            and not all(fact in group and fact in other and _alike(fact, group[fact], other[fact]) for other in rivals)
        ]  # fmt: skip
        label = ", ".join(filter(None, (head, _text(group, telling)))) or "all"
        same = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def _text(group: _Facts, facts: Iterable[_Fact]) -> str:
    said: dict[str, None] = {}
    for fact in facts:
        if fact not in group:
            continue
        setting, value = fact.setting, group[fact]
        if setting.name in ("engine", "hardware"):
            said[value or ""] = None
        elif setting.name == "kernels":
            said["emulated kernels" if value == "emulated" else ""] = None
        else:
            said[f"mean of {value}" if fact == _MEAN_TASKS else f"{_words(fact)} {setting.say(value)}"] = None
    return ", ".join(filter(None, said))


def _words(fact: _Fact) -> str:
    origin, setting = fact
    if setting.basis is Basis.ENERGY and setting.name != "energy_source":
        return f"{setting.words} of the energy run"
    return f"{setting.words} of {origin}" if setting.basis is Basis.TASK and origin else setting.words


def _difference(group: _Facts, first: _Facts) -> str:
    """What distinguishes a group; the energy run's settings only if they differ from the speed run's."""
    found: dict[tuple[str, str], str] = {}
    for fact in (fact for fact in group if fact in first and not _alike(fact, group[fact], first[fact])):
        pair = f"{fact.setting.say(group[fact])} against {fact.setting.say(first[fact])}"
        found.setdefault((fact.setting.name, pair), f"{_words(fact)} {pair}")
    return ", ".join(found.values()) or "other numbers were measured"
