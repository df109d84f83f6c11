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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from slim_eval.metrics import ACCURACY_MEAN, METRICS, Basis, Metric, task_metric
from slim_eval.results.records import AccuracyRecord, EnergyRecord, Record
from slim_eval.results.variants import Variant, config_value, metric_of

#: Above this relative difference in output tokens per request, two latencies are of different work (docs/metrics.md).
LENGTH_TOLERANCE = 0.01
#: Tokens of one prompt under two tokenizers; beyond this factor it is another prompt.
TOKENIZER_FACTOR = 1.5
#: The group of a variant that has none of the numbers in question.
NOT_MEASURED = "not measured"


@dataclass(frozen=True, eq=False)  # one object per setting; compared and hashed as such, which is cheap
class Setting:
    """A setting that must be equal in two measurements before their numbers are compared.

    Attributes:
        name: Its name, unique within its basis.
        words: Its name in a reason.
        basis: Numbers that depend on it.
        read: Its value in a record, in comparable form; None if not recorded.
        none: Meaning of None, in words.
        strict: Whether None and a known value differ. Off for facts that older records do not contain.
        per_run: Whether only numbers that grow with the number of requests depend on it.
        same: Equality of two values in two variants of one model.
        alike: Equality of two values in variants of any models.
        across_models: Whether it is compared between variants of different models.
    """

    name: str
    words: str
    basis: Basis
    read: Callable[[Any], Any]
    none: str = "not known"
    strict: bool = True
    per_run: bool = False
    same: Callable[[Any, Any], bool] = lambda a, b: bool(a == b)
    alike: Callable[[Any, Any], bool] | None = None
    across_models: bool = True

    def difference(self, this: Any, base: Any) -> str | None:
        """The reason why two values forbid a comparison; None if they do not."""
        if not self.strict and (this is None or base is None):
            return None
        return None if self.same(this, base) else f"{self.words} {self.say(this)} against {self.say(base)}"

    def say(self, value: Any) -> str:
        """A value in words."""
        if value is None:
            return self.none
        return f"{value:g}" if isinstance(value, float) else str(value)


def _engine(record: Record) -> str | None:
    return record.engine


def _kernels(record: Record) -> str:
    return "emulated" if record.kernels == "emulated" else "native"  # older records do not say; none of them emulate


def _field(key: str) -> Callable[[Record], Any]:
    return lambda record: getattr(record, key, None)


def _config(key: str) -> Callable[[Record], Any]:
    return lambda record: config_value(record, key)


def _source_family(record: EnergyRecord) -> str | None:
    """``nvml-counter`` and ``nvml-integral`` agree within 5 % or the record says so; NVML and CodeCarbon need not."""
    return record.energy_source.split("-")[0].split(" ")[0] if record.energy_source else record.energy_source


def _task_metric(record: AccuracyRecord) -> str | None:
    """lm-eval names a metric with its filter; the filter ``none`` says nothing: ``acc,none`` is ``acc``."""
    return record.metric.removesuffix(",none") if record.metric else record.metric


def _task_version(record: AccuracyRecord) -> str | None:
    version = record.task_versions.get(record.task)
    return None if version is None else str(version)


def _items_hash(record: AccuracyRecord) -> str | None:
    """One short hash over the items of all subtasks."""
    if not record.task_hashes:
        return None
    return hashlib.sha256(json.dumps(record.task_hashes, sort_keys=True).encode()).hexdigest()[:16]


def _within(tolerance: float) -> Callable[[Any, Any], bool]:
    return lambda a, b: bool(a == b) or (None not in (a, b) and abs(a - b) <= tolerance * abs(b))


def _within_factor(factor: float) -> Callable[[Any, Any], bool]:
    return lambda a, b: bool(a == b) or bool(a and b and max(a, b) <= factor * min(a, b))


def _workload(basis: Basis) -> tuple[Setting, ...]:
    """The settings of a benchmark that generates: of speed and of energy alike."""
    return (
        Setting("engine", "engine", basis, _engine),
        Setting("hardware", "hardware", basis, _field("hardware")),
        Setting("batch_size", "batch size", basis, _field("batch_size")),
        Setting("load", "load", basis, _config("load"), none="batches of slim-eval's own"),
        Setting("max_new_tokens", "output length setting", basis, _config("max_new_tokens")),
        Setting(
            "prompt_tokens", "prompt tokens", basis, _field("prompt_tokens"), strict=False,
            same=_within(LENGTH_TOLERANCE), alike=_within_factor(TOKENIZER_FACTOR),
        ),
        Setting("kernels", "kernels", basis, _kernels),
    )  # fmt: skip


SETTINGS: tuple[Setting, ...] = (
    *_workload(Basis.SPEED),
    *_workload(Basis.ENERGY),
    Setting("energy_source", "energy source", Basis.ENERGY, _source_family),
    Setting("num_runs", "requests", Basis.ENERGY, _field("num_runs"), per_run=True),
    Setting("metric", "metric", Basis.TASK, _task_metric),
    Setting("num_fewshot", "few-shot examples", Basis.TASK, _field("num_fewshot")),
    Setting("limit", "limit", Basis.TASK, _field("limit"), none="all items"),
    Setting("num_items", "items", Basis.TASK, _field("num_items"), strict=False),
    Setting("apply_chat_template", "chat template", Basis.TASK, _field("apply_chat_template"), strict=False),
    Setting("version", "task version", Basis.TASK, _task_version, strict=False),
    Setting("items_hash", "items (by hash)", Basis.TASK, _items_hash, strict=False, across_models=False),
    Setting("kernels", "kernels", Basis.LOADED, _kernels),
    Setting("engine", "engine", Basis.OWN, _engine),
    Setting("hardware", "hardware", Basis.OWN, _field("hardware")),
    Setting("kernels", "kernels", Basis.OWN, _kernels),
)

#: What shows that speed or energy was measured at all.
SPEEDS = tuple(METRICS[key] for key in ("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s"))
ENERGIES = tuple(METRICS[key] for key in ("energy_joules", "joules_per_output_token", "energy_per_query_j"))


def record_of(metric: Metric, variant: Variant) -> Record | None:
    """The record whose settings a number of the metric depends on; None if the variant has none."""
    if metric.basis is Basis.LOADED:
        return variant.performance
    return None if metric.benchmark is None else variant.measured.get(metric.benchmark)


def settings_of(metric: Metric) -> tuple[Setting, ...]:
    """The settings that a metric depends on."""
    return _settings_of(metric.basis, metric.per_run)


@cache
def _settings_of(basis: Basis, per_run: bool) -> tuple[Setting, ...]:
    return tuple(setting for setting in SETTINGS if setting.basis is basis and (per_run or not setting.per_run))


def obstacles(metrics: Metric | Sequence[Metric], this: Variant, base: Variant) -> list[str]:
    """Reasons against comparing numbers of two variants of one model.

    Args:
        metrics: The metric, or several of one basis: each side needs only one of them.
        this: The variant that is judged.
        base: What it is compared with.

    Returns:
        Reasons in words; empty if the numbers may be compared or neither side was measured.
    """
    asked = [metrics] if isinstance(metrics, Metric) else list(metrics)
    # An invalid record has no numbers of its own: that is the reason, and not that they are missing.
    invalid = [
        f"{words} is marked invalid" + (f" ({', '.join(variant.invalid_reasons)})" if variant.invalid_reasons else "")
        for variant, words in ((this, "this measurement"), (base, f"the {base.precision} measurement"))
        if not variant.counts(asked[0])
    ]
    has, had = (any(variant.number(metric) is not None for metric in asked) for variant in (this, base))
    if invalid or not (has or had):
        return invalid
    if not (has and had):
        return [f"not measured at {(this if had else base).precision}"]
    return differences(asked[0], this, base)


def task_obstacles(task: str, this: Variant, base: Variant) -> list[str]:
    """Reasons against comparing the accuracies of two variants on a task; see `obstacles`."""
    return obstacles(metric_of(task, (this, base)), this, base)


def differences(metric: Metric, this: Variant, base: Variant, without: Iterable[str] = ()) -> list[str]:
    """The settings of a metric in which two variants differ, in words.

    Args:
        metric: Metric to compare.
        this: The variant that is judged.
        base: What it is compared with.
        without: Names of settings to ignore.
    """
    a, b = record_of(metric, this), record_of(metric, base)
    if a is None or b is None:
        return []
    left_out = set(without)
    found = (s.difference(s.read(a), s.read(b)) for s in settings_of(metric) if s.name not in left_out)
    return [reason for reason in found if reason]


def lengths_differ(this: Variant, base: Variant | None) -> bool | None:
    """Whether two variants generated a different number of tokens per request; None if one is unknown."""
    a, b = this.tokens_per_request, base.tokens_per_request if base else None
    return None if not a or not b else not _within(LENGTH_TOLERANCE)(a, b)


def confounding(variants: Sequence[Variant], metrics: Iterable[Metric]) -> str | None:
    """Why some of these metrics compare different work in these variants; None if none does.

    Latencies, and energy per request or for a whole run, grow with the number of output tokens.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        if not metric.per_length:
            continue
        measured = [variant for variant in variants if variant.number(metric) is not None]
        lengths = [_output_tokens(metric, variant) for variant in measured]
        known = [length for length in lengths if length is not None]
        if len(lengths) < 2:
            continue
        if len(known) < len(lengths):
            reasons.setdefault(("output lengths are not known", ""), []).append(metric.key)
        elif min(known) < (1 - LENGTH_TOLERANCE) * max(known):
            span = f"{min(known):.1f} to {max(known):.1f} output tokens per request"
            reasons.setdefault((span, ": different work"), []).append(metric.key)
    said = [f"{' and '.join(found)}: {why}{more}" for (why, more), found in reasons.items()]
    return "; ".join(said) or None


def _output_tokens(metric: Metric, variant: Variant) -> float | None:
    if metric.basis is Basis.ENERGY:
        return None if variant.energy is None else variant.energy.output_tokens
    return variant.tokens_per_request


#: What distinguishes a number's group: (origin, setting) -> value.
_Facts = dict[tuple[str, Setting], Any]
_MEAN_TASKS = Setting("accuracy_mean_tasks", "tasks of the mean", Basis.TASK, lambda record: None)
_ALWAYS_SAID = ("engine", "hardware", "kernels")


@dataclass(frozen=True)
class Groups:
    """Variants sorted by the settings of their measurement.

    Attributes:
        labels: The group of each variant, in words: ``vllm, NVIDIA A100``; `NOT_MEASURED` for a variant without any of
            the numbers, if there are several groups.
        differences: For each group except the first, its differences from the first: ``transformers, Test CPU: engine
            transformers against vllm, hardware Test CPU against NVIDIA A100``.
        settings: For each group, its known settings in words; empty if not recorded.
    """

    labels: tuple[str, ...]
    differences: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The groups, in the order of their first variants, without the variants that were not measured."""
        return tuple(label for label in dict.fromkeys(self.labels) if label != NOT_MEASURED)

    def members(self, variants: Sequence[Variant]) -> dict[str, list[Variant]]:
        """The variants of each group."""
        found: dict[str, list[Variant]] = {name: [] for name in self.names}
        for label, variant in zip(self.labels, variants, strict=True):
            if label in found:
                found[label].append(variant)
        return found


def comparable_groups(variants: Sequence[Variant], metrics: Iterable[Metric] | None = None) -> Groups:
    """Sort variants into groups whose numbers may be compared.

    Args:
        variants: Of any models.
        metrics: Metrics to compare; all of speed and energy by default.

    Returns:
        Groups. A variant without some of the numbers joins any group with the same settings for the others.
    """
    asked = (*SPEEDS, *ENERGIES[1:]) if metrics is None else tuple(metrics)
    facts = [_facts(variant, asked) for variant in variants]
    found = _Found()
    # Variants that know most first: what they say decides where those that know less belong.
    keys = [_key(known) for known in facts]
    distinct = dict(zip(keys, facts, strict=True))
    places = {key: found.place(known) for key, known in sorted(distinct.items(), key=lambda item: -len(item[1]))}
    order = list(dict.fromkeys(places[key] for key in keys if key)) or [0]
    groups = [found.groups[i] if found.groups else {} for i in order]
    labels = dict(zip(order, _labels(groups), strict=True))
    alone = len(order) == 1
    return Groups(
        tuple(labels[order[0] if alone else places[key]] if key or alone else NOT_MEASURED for key in keys),
        tuple(f"{labels[i]}: {', '.join(_apart(g, groups[0]))}" for i, g in zip(order, groups, strict=True))[1:],
        tuple(_text(group, [key for key, value in group.items() if value is not None]) for group in groups),
    )


def _facts(variant: Variant, metrics: Sequence[Metric]) -> _Facts:
    """The settings that a variant's numbers depend on."""
    facts: _Facts = {}
    for metric in metrics:
        if variant.number(metric) is None:
            continue
        if metric is ACCURACY_MEAN:
            facts["", _MEAN_TASKS] = ", ".join(variant.mean_tasks)
            parts = [task_metric(task) for task in variant.mean_tasks]
        else:
            parts = [metric]
        for part in parts:
            # Most metrics share their settings with others, and every table asks for them again.
            key = (part.benchmark, part.basis, part.per_run)
            if key not in variant.memo:
                variant.memo[key] = _known_settings(variant, part)
            facts.update(variant.memo[key])
    return facts


def _known_settings(variant: Variant, metric: Metric) -> _Facts:
    record = record_of(metric, variant)
    if record is None:
        return {}
    origin = metric.benchmark or "" if metric.basis in (Basis.TASK, Basis.OWN) else metric.basis.value
    read = ((setting, setting.read(record)) for setting in settings_of(metric) if setting.across_models)
    return {(origin, setting): value for setting, value in read if value is not None or setting.strict}


def _key(facts: _Facts) -> tuple[Any, ...]:
    return tuple((origin, setting.name, str(value)) for (origin, setting), value in facts.items())


@dataclass
class _Found:
    """The groups found so far."""

    groups: list[_Facts] = field(default_factory=list)

    def place(self, facts: _Facts) -> int:
        """The first group compatible with these facts; a new one if there is none."""
        place = next((i for i, group in enumerate(self.groups) if _fits(facts, group)), len(self.groups))
        if place == len(self.groups):
            self.groups.append({})
        group = self.groups[place]
        group.update({name: value for name, value in facts.items() if name not in group})
        return place


def _same(key: tuple[str, Setting], a: Any, b: Any) -> bool:
    return (key[1].alike or key[1].same)(a, b)


def _fits(facts: _Facts, group: _Facts) -> bool:
    return all(_same(key, value, group[key]) for key, value in facts.items() if key in group)


def _labels(groups: Sequence[_Facts]) -> list[str]:
    """Each group in words: engine, hardware and emulation; other differences if those are equal."""
    keys = list(dict.fromkeys(key for group in groups for key in group))
    said = [key for key in keys if key[1].name in _ALWAYS_SAID]
    mean = ("", _MEAN_TASKS)
    if len({group.get(mean) for group in groups}) > 1:
        said.append(mean)
    heads = [_text(group, said) for group in groups]
    labels: list[str] = []
    for group, head in zip(groups, heads, strict=True):
        rivals = [other for other, words in zip(groups, heads, strict=True) if words == head and other is not group]
        telling = [key for key in keys if not all(_alike(key, group, other) for other in rivals)]
        more = _text(group, [key for key in telling if key not in said])
        label = ", ".join(filter(None, (head, more))) or "all"
        same = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def _alike(key: tuple[str, Setting], a: _Facts, b: _Facts) -> bool:
    return key in a and key in b and _same(key, a[key], b[key])


def _text(group: _Facts, keys: Sequence[tuple[str, Setting]]) -> str:
    said = (_value_text(key, group[key]) for key in keys if key in group)
    return ", ".join(dict.fromkeys(text for text in said if text))


def _value_text(key: tuple[str, Setting], value: Any) -> str:
    setting = key[1]
    if setting.name in ("engine", "hardware"):
        return "" if value is None else str(value)
    if setting.name == "kernels":
        return "emulated kernels" if value == "emulated" else ""
    if setting is _MEAN_TASKS:
        return f"mean of {value}"
    return f"{_words(key)} {setting.say(value)}"


def _words(key: tuple[str, Setting]) -> str:
    origin, setting = key
    if setting.basis is Basis.ENERGY and setting.name != "energy_source":
        return f"{setting.words} of the energy run"
    return f"{setting.words} of {origin}" if setting.basis is Basis.TASK and origin else setting.words


def _apart(group: _Facts, first: _Facts) -> list[str]:
    """What distinguishes a group; the energy run's settings only if they differ from the speed run's."""
    found: dict[tuple[str, str], str] = {}
    for key in dict.fromkeys((*group, *first)):
        if key in group and key in first and not _same(key, group[key], first[key]):
            setting = key[1]
            pair = f"{setting.say(group[key])} against {setting.say(first[key])}"
            if (setting.name, pair) not in found:
                found[setting.name, pair] = f"{_words(key)} {pair}"
    return list(found.values()) or ["other numbers were measured"]
