"""`--fail-if`: conditions on a comparison that are met, not met, or inconclusive.

A condition is ``METRIC OPERATOR VALUE UNIT``:

- ``tpot_s>5%``: B's TPOT is more than 5 % above A's; any metric of `metrics.METRICS`;
- ``tpot_s>20ms``: B's own TPOT, in the metric's unit or one beside it (ms, s, J, W, MiB, GiB);
- ``mmlu_drop>1pp``: B is more than 1 percentage point worse than A on the items of a task; ``%``: of A's accuracy;
- ``mmlu_flips>5%``: more than 5 % of B's answers changed from right to wrong or back;
- ``wikitext_ratio>5%``: B's perplexity is more than 5 % above A's on the same documents;
- ``wmt_drop>0.5``: B is more than 0.5 worse than A in a metric that is not a share of answers, in its own unit.

The 95 % interval decides: a condition is met if the whole interval fulfils it, not met if no part of it does, and
otherwise inconclusive. A value that has no interval and is not exact is always inconclusive. Without outcomes of single
items, the interval of a drop is the unpaired one, which the reason says.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from slim_eval import stats
from slim_eval.analysis.compare.comparison import MetricVerdict, VariantComparison
from slim_eval.analysis.compare.items import LOG_SAMPLES
from slim_eval.errors import UsageError
from slim_eval.metrics import METRICS, Basis, Change, Metric, task_metric
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Interval
from slim_eval.utils import did_you_mean

_PATTERN = re.compile(r"\s*([\w.\-/]+?)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")
_EXAMPLE = 'write it as "mmlu_drop>1pp" or "tpot_s>5%"'
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip

#: Ending of a metric's key -> units it may be given in, with the factor to the metric's own.
_UNITS: dict[str, dict[str, float]] = {
    "_s": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "_mb": {"MiB": 1.0, "MB": 1.0, "GiB": 1024.0, "GB": 1024.0},
    "_gb": {"GiB": 1.0, "GB": 1.0, "MiB": 1 / 1024, "MB": 1 / 1024},
    "_watts": {"W": 1.0, "kW": 1e3},
    "_token": {"J": 1.0, "mJ": 1e-3},
    "_j": {"J": 1.0, "kJ": 1e3},
    "_joules": {"J": 1.0, "kJ": 1e3},
    "_second": {"tok/s": 1.0},
}
#: What can be asked of a task, by how its values are compared: ending of the condition's name -> units.
_TASK_UNITS: dict[Change, dict[str, tuple[str, ...]]] = {
    Change.POINTS: {"_drop": ("pp", "%"), "_flips": ("%",)},
    Change.AMOUNT: {"_drop": ("",)},
    Change.RATIO: {"_ratio": ("%",)},
}


class Decision(str, Enum):
    """The decision on a condition."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    UNDECIDED = "cannot be decided"


@dataclass(frozen=True)
class Condition:
    """One parsed condition. If it is about a task, `task` is set and `name` is an ending of `_TASK_UNITS`."""

    text: str
    name: str
    compare: str
    value: float
    unit: str
    task: str | None = None

    @property
    def is_of_speed(self) -> bool:
        """Whether it is decided at each load of a server."""
        return self.task is None and METRICS[self.name].basis is Basis.SPEED


@dataclass(frozen=True)
class ConditionOutcome:
    """A condition on one pair of variants: the decision, the reason, and the pair if there are several."""

    condition: Condition
    decision: Decision
    reason: str
    where: str = ""


def parse(texts: Iterable[str], tasks: Sequence[str], rows: Mapping[str, Metric] | None = None) -> list[Condition]:
    """Read conditions from the command line, on the metrics and on these tasks of the variants.

    `rows` are the metrics of tasks; one without a row is scored by right answers.

    Raises:
        UsageError: A condition is malformed, its metric or unit is unknown (the nearest names are shown), or it asks
            for percentage points of a metric that is not a share of answers.
    """
    known_rows = {task: (rows or {}).get(task) or task_metric(task) for task in tasks}
    metrics = [key for key, metric in METRICS.items() if metric.compared]
    units_of = {
        (task, ending): units
        for task, row in known_rows.items() for ending, units in _TASK_UNITS[row.change].items()
    }  # fmt: skip
    of_tasks = {f"{task}{ending}": (task, ending) for task, ending in units_of}
    shares_only = {f"{task}{ending}": task for task in tasks for ending in _TASK_UNITS[Change.POINTS]}
    found = []
    for text in texts:
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise UsageError(f"--fail-if {text!r}: not a condition", _EXAMPLE)
        name, compare, value, unit = match.groups()
        if not math.isfinite(float(value)):
            raise UsageError(f"--fail-if {text!r}: {value} is too large", _EXAMPLE)
        task, units = None, ("%", *(_units_of(name) or ("",)))
        if name not in metrics:
            own = known_rows.get(shares_only.get(name, ""))
            if own is not None and not own.is_share and (name not in of_tasks or unit or own.better is None):
                raise _not_a_share(text, own, compare)
            if name not in of_tasks:
                known = [*metrics, *of_tasks]
                near = did_you_mean(name, known) or f"known: {', '.join(known)}"
                raise UsageError(f"--fail-if {text!r}: unknown metric {name!r}", near)
            task, name = of_tasks[name]
            units = units_of[task, name]
        if unit not in units:
            what = f"unknown unit {unit!r}" if unit else "no unit"
            raise UsageError(f"--fail-if {text!r}: {what}", f"known here: {', '.join(filter(None, units))}")
        found.append(Condition(text, name, compare, float(value), unit, task))
    return found


def _not_a_share(text: str, row: Metric, compare: str) -> UsageError:
    """The refusal of a condition in shares of answers on a task that is scored otherwise."""
    cause = f"--fail-if {text!r}: {row.key} is scored by {row.unit}, which is not a share of answers"
    if row.better is None:
        return UsageError(f"{cause}, and which direction is better is not known", "leave this condition out")
    if row.change is Change.RATIO:
        return UsageError(cause, f'write it as a ratio of B to A: "{row.key}_ratio{compare}5%"')
    return UsageError(cause, f'write it in the unit of {row.unit}, without a sign: "{row.key}_drop{compare}0.5"')


def _units_of(key: str) -> dict[str, float]:
    return next((units for ending, units in _UNITS.items() if key.endswith(ending)), {})


def decide(condition: Condition, comparison: VariantComparison) -> ConditionOutcome:
    """Decide one condition on one pair of variants."""
    if condition.task is None:
        interval = _metric_interval(condition, comparison)
    else:
        interval = _task_interval(condition, comparison)
    if isinstance(interval, str):
        return ConditionOutcome(condition, Decision.UNDECIDED, interval)
    low, high = interval
    holds = _OPERATORS[condition.compare]
    unit = f" {condition.unit}" if condition.unit else ""
    shown = f"{low:.4g}{condition.unit}" if low == high else f"{low:.4g} to {high:.4g}{unit} (95 %)"
    task = next((task for task in comparison.tasks if task.task == condition.task), None)
    if task is not None and task.unpaired:
        shown += f", unpaired, from {task.interval_from}{' (assumed)' if task.assumed else ''}; {LOG_SAMPLES}"
    met = {holds(low, condition.value), holds(high, condition.value)}
    if met == {True}:
        return ConditionOutcome(condition, Decision.HOLDS, shown)
    return ConditionOutcome(condition, Decision.DOES_NOT_HOLD if met == {False} else Decision.UNDECIDED, shown)


def _metric_interval(condition: Condition, comparison: VariantComparison) -> Interval | str:
    """The interval of the condition's metric in the condition's unit; or the reason why there is none."""
    made = next((made for made in comparison.metrics if made.metric.key == condition.name), None)
    if made is None or made.b is None:
        return "not measured"
    if condition.unit == "%":
        if made.verdict is MetricVerdict.CONFOUNDED or made.interval is None:
            return made.reason or made.verdict.value
        return (made.interval[0] - 1) * 100, (made.interval[1] - 1) * 100
    factor = _units_of(condition.name).get(condition.unit, 1.0)
    own = made.b_interval or ((made.b, made.b) if made.metric.exact else None)
    return "no interval" if own is None else (own[0] / factor, own[1] / factor)


def _no_interval(task: PairedTask) -> str:
    return f"no interval: {task.no_interval}" if task.no_interval else "no interval"


def _task_interval(condition: Condition, comparison: VariantComparison) -> Interval | str:
    """The interval of what a condition asks of its task, in the condition's unit; or why there is none."""
    task = next((task for task in comparison.tasks if task.task == condition.task), None)
    if task is None or task.refused is not None:
        return "not measured" if task is None else (task.refused or "")
    if condition.name == "_ratio":
        ends = task.ratio_interval
        return _no_interval(task) if ends is None else ((ends[0] - 1) * 100, (ends[1] - 1) * 100)
    if condition.unit == "" and condition.name == "_drop":
        return task.loss_interval or _no_interval(task)
    if condition.name == "_flips":
        if task.lost is None or task.gained is None or not task.num_items:
            return f"flips are not known: {LOG_SAMPLES}" if task.unpaired else "flips are undefined for graded scores"
        flips = stats.wilson_interval(task.lost + task.gained, task.num_items)
        return flips.low * 100, flips.high * 100
    if task.interval_pp is None:
        return "no interval"
    if condition.unit == "pp":
        return task.interval_pp
    if not task.baseline_accuracy:
        return "A's accuracy is 0"
    return task.interval_pp[0] / task.baseline_accuracy, task.interval_pp[1] / task.baseline_accuracy
