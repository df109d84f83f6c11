"""The question to a recommendation, in terms of metrics: presets, named objectives, constraints.

Presets:

- ``latency-critical``: lowest time per output token (output throughput if that was not measured), with a mean accuracy
  of at least 95 % of the best one.
- ``accuracy-critical``: the best mean accuracy.
- ``energy-constrained``: fewest joules per output token (per request if that is unknown).
- ``balanced``: mean accuracy, speed, energy and memory, all four with the same weight: the highest geometric mean of
  the ratios to the best value of each. It has no unit, and a gain in any part raises it by the same factor whatever the
  others are. As the best values cancel out of any comparison, adding or removing a variant never changes the order of
  the others. A part that was not measured is left out, with a caveat.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from slim_eval import slo
from slim_eval.analysis.pareto.frontier import Objective, parse_objectives
from slim_eval.analysis.study import Study
from slim_eval.config import Question
from slim_eval.errors import UsageError
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    ENERGIES,
    J_PER_TOKEN,
    LATENCIES,
    MAX_GOODPUT,
    METRICS,
    THROUGHPUT,
    TPOT,
    TTFT,
    Basis,
    Metric,
)
from slim_eval.results.variants import tasks_of
from slim_eval.utils import did_you_mean

# Metrics that `ranking` computes from measured ones.
_share = partial(Metric, unit="%", scale=100, better="higher", benchmark=None, basis=Basis.TASK)
RECOVERY = _share("recovery", "of own baseline", "recovery of the baseline's accuracy")
OF_BEST = _share("accuracy_of_best", "of the best", "share of the best mean accuracy")
MEMORY = Metric("memory_gb", "weights", "weights", "GiB", benchmark=None, basis=Basis.FILES, exact=True)
COST = Metric("money_per_million_tokens", "money / M tokens", "money per million output tokens", benchmark=None)

_BALANCED = "balanced"
#: What a word means: the first metric that was measured.
_WORDS: dict[str, tuple[Metric, ...]] = {
    "latency": LATENCIES,
    "throughput": (THROUGHPUT,),
    "accuracy": (ACCURACY_MEAN,),
    "energy": ENERGIES,
    "memory": (MEMORY,),
    "cost": (COST,),
}
_BALANCED_PARTS = ("accuracy", "latency", "energy", "memory")
#: Preset -> what is to be best, and the least share of the best mean accuracy.
_PRESETS: dict[str, tuple[str, float | None]] = {
    "latency-critical": ("latency", 0.95),
    "accuracy-critical": ("accuracy", None),
    "energy-constrained": ("energy", None),
    _BALANCED: (_BALANCED, None),
}
_SHORT = {name.split("-")[0]: name for name in _PRESETS}


@dataclass(frozen=True)
class Goal:
    """What should be best."""

    word: str  # as requested: a preset's word such as ``latency``, or a metric
    #: One for each thing to weigh, all with the same weight; of each the first objective that was measured counts.
    parts: tuple[tuple[Objective, ...], ...]
    preset: str | None  # that it comes from


@dataclass(frozen=True)
class Constraint:
    """A limit that a variant must meet."""

    option: str  # that set it: ``--max-tpot-ms``, ``--min mmlu``
    metric: Metric
    limit: float  # in the unit of the metric's key
    at_most: bool  # a maximum; otherwise a minimum
    scale: float = 1.0  # from the key's unit to the option's

    def __str__(self) -> str:
        """The limit in words: ``time per output token at most 20.0 ms``."""
        return f"{self.metric.title} at {'most' if self.at_most else 'least'} {self.metric.text(self.limit)}"

    def keeps(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return value <= self.limit if self.at_most else value >= self.limit

    def relaxed(self, value: float) -> str:
        """The option with which a value beyond the limit is allowed, with three digits."""
        shown = value * self.scale
        step = 10.0 ** (math.floor(math.log10(shown)) - 2) if shown > 0 else 1.0
        # Rounded to the side that allows it; the first rounding takes off what is only binary noise.
        steps = round(shown / step, 6)
        wide = (math.ceil(steps) if self.at_most else math.floor(steps)) * step
        allowed = f"{float(f'{wide:.6g}'):g}"
        if self.option.startswith("--slo "):
            return f"{self.option}:{allowed}ms"
        return f"{self.option}{'=' if self.option.startswith('--min ') else ' '}{allowed}"


@dataclass(frozen=True)
class Plan:
    """A goal, the constraints, and the tasks of the mean accuracy."""

    goal: Goal
    constraints: tuple[Constraint, ...]
    tasks: tuple[str, ...]


def plan_of(question: Question, study: Study) -> Plan:
    """A question against what was measured.

    Raises:
        UsageError: A preset, objective or task is unknown, or cost is the objective and no price is given.
    """
    preset, word, share = None, question.objective, None
    if question.max_goodput:
        word = MAX_GOODPUT.key
    if word is None or word == _BALANCED:
        name = question.preset or _BALANCED
        preset = _SHORT.get(name, name)
        if preset not in _PRESETS:
            raise UsageError(f"--preset {name!r}: no such preset", did_you_mean(name, [*_PRESETS, *_SHORT]))
        word, share = _PRESETS[preset]
    if word == "cost" and question.price_per_gpu_hour is None and question.price_per_kwh is None:
        raise UsageError("--objective cost: no price is given", "add --price-per-gpu-hour, --price-per-kwh, or both")
    if word == _BALANCED or word in _WORDS:
        words = _BALANCED_PARTS if word == _BALANCED else (word,)
        parts = tuple(tuple(Objective(metric, metric.maximise) for metric in _WORDS[part]) for part in words)
    elif question.max_goodput:
        parts = ((Objective(MAX_GOODPUT, True),),)
    elif len(word.split()) != 1:
        cause = f"--objective {word!r}: contains {len(word.split())} objectives"
        raise UsageError(cause, "give exactly one, or weigh several with --preset balanced")
    else:
        try:
            parts = (parse_objectives(word, study),)
        except UsageError as error:
            near = did_you_mean(word, _WORDS)
            raise UsageError(f"--objective: {error.cause}", near if near.startswith("did") else error.remedy) from None
    constraints = _constraints(question, study)
    if share is not None:
        constraints.append(Constraint(f"--preset {preset}", OF_BEST, share, False))
    known = tasks_of(study.variants)
    tasks = tuple(_task(task, known, "--accuracy-tasks") for task in question.accuracy_tasks) or known
    for task in map(study.metric, tasks if question.accuracy_tasks else ()):
        if not task.is_accuracy:
            cause = f"--accuracy-tasks {task.key}: its {task.unit} is not a share of right answers, and is not averaged"
            raise UsageError(cause, f"leave it out; --objective {task.key} ranks by it")
    return Plan(Goal(word, parts, preset), tuple(constraints), tasks)


def _constraints(question: Question, study: Study) -> list[Constraint]:
    limits = (
        ("--max-tpot-ms", TPOT, question.max_tpot_ms, 1000.0),
        ("--max-ttft-ms", TTFT, question.max_ttft_ms, 1000.0),
        ("--max-latency-ms", AMORTISED, question.max_latency_ms, 1000.0),
        ("--max-memory-gb", MEMORY, question.max_memory_gb, 1.0),
        ("--max-energy-j", J_PER_TOKEN, question.max_energy_j, 1.0),
    )
    found = [Constraint(option, metric, top / by, True, by) for option, metric, top, by in limits if top is not None]
    for each in slo.parse(question.slo):
        option = f"--slo {each.text.partition(':')[0]}"
        found.append(Constraint(option, METRICS[each.key], each.limit_s, True, 1000.0))
    for text, least in question.min_accuracy.items():
        task = study.metric(_task(text, tasks_of(study.variants), "--min"))
        if not task.is_accuracy:
            cause = (
                f"--min {task.key}: it is scored by {task.unit}, {'' if task.is_share else 'not '}a share of answers"
            )
            cause += f", and {task.better} is better" if task.better else ", and which direction is better is not known"
            raise UsageError(cause, "give a task that is scored by correct answers")
        found.append(Constraint(f"--min {task.key}", task, least, False))
    if question.min_recovery is not None:
        found.append(Constraint("--min-recovery", RECOVERY, question.min_recovery, False))
    return found


def _task(text: str, known: Collection[str], option: str) -> str:
    """The task that is meant; dashes count as underscores."""
    found = next((task for task in known if task.replace("-", "_") == text.replace("-", "_")), None)
    if found is None:
        raise UsageError(f"{option} {text!r}: no result contains this task", did_you_mean(text, known))
    return found
