"""Metrics: one table with the name, unit, direction and dependencies of every number.

Every table, figure, summary, gate, recommendation and report reads this table and repeats none of it. To add a metric,
add a row, here or from a plugin: ``METRICS.register(Metric(...))``. The value of a metric is the field ``key`` of its
benchmark's record, or the result of ``compute``. Accuracy has one row per task, made by `task_metric` from what the
task says of its headline metric and, for what it does not say, from `_TASK_METRICS`. docs/metrics.md defines the
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, ParamSpec

from slim_eval.utils import number
from slim_eval.utils.registry import Registry

Better = Literal["lower", "higher"]
Statistic = Literal["mean", "median", "p95"]


class Basis(Enum):
    """The settings that must agree before two values of a metric are compared; see `analysis.comparability`."""

    SPEED = "speed"  # the performance benchmark's engine, hardware, kernels, load, lengths
    ENERGY = "energy"  # likewise of the energy benchmark, and where the joules come from
    TASK = "task"  # one accuracy task's metric, few-shot examples, limit, template, version
    LOADED = "loaded"  # weights as loaded: kernels only
    FILES = "files"  # files of the checkpoint: no settings
    OWN = "own"  # a plugin's benchmark: engine, hardware and kernels of its own record


class Change(Enum):
    """How two values of a metric are compared."""

    RATIO = "ratio"  # B / A: times, sizes, energy, perplexities
    POINTS = "points"  # percentage points: accuracies, which are shares of right answers
    AMOUNT = "amount"  # the difference in the metric's own unit: BLEU, F1, MCC, a Brier score, an absolute error


@dataclass(frozen=True)
class Metric:
    """One number of a variant.

    Attributes:
        key: Column in result files, and field of its record; it includes the unit.
        label: Shown in table headers: ``TPOT``.
        title: Shown in sentences and figures: ``time per output token``.
        unit: Displayed unit: ``ms``; empty for a ratio or a count.
        scale: Factor from the key's unit to the displayed unit.
        decimals: Digits after the point in tables.
        better: Which direction is better; None if neither is, or if that is not known.
        benchmark: Record that contains it; None for a number that is derived from others.
        basis: Settings that must agree before values are compared.
        sample: Column of the performance samples that it is computed from; None without samples.
        statistic: Statistic computed from those samples.
        per_length: Grows with the number of output tokens: not comparable at different lengths.
        per_run: Grows with the number of requests: not comparable at different numbers of them.
        exact: Counted, not measured: it needs no interval.
        compared: Whether `slim-eval compare` shows it.
        change: How two values are compared.
        compute: Computes it from a `results.Variant`, if no record has it as a field. None, a bool and a number that is
            not finite count as not measured.
    """

    key: str
    label: str
    title: str
    unit: str = ""
    scale: float = 1.0
    decimals: int = 2
    better: Better | None = "lower"
    benchmark: str | None = "performance"
    basis: Basis = Basis.SPEED
    sample: str | None = None
    statistic: Statistic = "mean"
    per_length: bool = False
    per_run: bool = False
    exact: bool = False
    compared: bool = False
    change: Change = Change.RATIO
    compute: Callable[[Any], float | None] | None = None

    @property
    def name(self) -> str:
        """Its key; the registry stores it under this name."""
        return self.key

    @property
    def header(self) -> str:
        """Label with unit: ``TPOT, ms``."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def maximise(self) -> bool:
        """Whether more is better."""
        return self.better == "higher"

    @property
    def is_share(self) -> bool:
        """Whether it is a share of answers: shown in %, compared in percentage points."""
        return self.change is Change.POINTS

    @property
    def is_accuracy(self) -> bool:
        """Whether it is a share of right answers, so that a mean over tasks and a recovery have a meaning."""
        return self.is_share and self.maximise

    @property
    def is_energy(self) -> bool:
        """Whether the energy benchmark measured it."""
        return self.basis is Basis.ENERGY

    def in_unit(self, value: float) -> float:
        """A value in the displayed unit."""
        return value * self.scale

    def loss(self, before: float, after: float) -> float | None:
        """By how much a value is worse than the one before, in the unit of the key; None without a better direction."""
        return None if self.better is None else before - after if self.maximise else after - before

    def text(self, value: float, *, unit: bool = True) -> str:
        """A value with three significant digits and its unit: ``12.3 ms``."""
        return f"{number(self.in_unit(value))}{f' {self.unit}' if self.unit and unit else ''}"


METRICS: Registry[Metric] = Registry("metric")
_Arguments = ParamSpec("_Arguments")


def _registered(make: Callable[_Arguments, Metric]) -> Callable[_Arguments, Metric]:
    def row(*values: _Arguments.args, **more: _Arguments.kwargs) -> Metric:
        return METRICS.register(make(*values, **more))

    return row


_row = _registered(Metric)
_energy = partial(_row, benchmark="energy", basis=Basis.ENERGY)
_window = partial(_energy, per_length=True, per_run=True)
_files = partial(_row, benchmark=None, basis=Basis.FILES, exact=True)


def _timing(base: str, label: str, title: str, sample: str, *, per_length: bool = False) -> Metric:
    """The rows of one time: its mean (the headline), percentiles and spread."""
    row = partial(_row, unit="ms", scale=1000, decimals=2 if base == "tpot_s" else 1, per_length=per_length)
    tail = base in ("ttft_s", "tpot_s")
    mean = row(f"mean_{base}" if base == "latency_s" else base, label, title, sample=sample, compared=True)
    row(f"median_{base}", f"{label} median", f"{title}, median", sample=sample, statistic="median")
    row(f"p95_{base}", f"{label} p95", f"{title}, p95", sample=sample, statistic="p95", compared=tail)
    row(f"p99_{base}", f"{label} p99", f"{title}, p99")  # below 100 iterations it is the maximum: not resampled
    row(f"std_{base}", f"{label} std", f"{title}, standard deviation")
    return mean


TTFT = _timing("ttft_s", "TTFT", "time to first token", "ttft_s")
TPOT = _timing("tpot_s", "TPOT", "time per output token", "tpot_s")
E2E = _timing("e2e_latency_s", "E2E latency", "end-to-end latency", "e2e_s", per_length=True)
#: Iteration wall time / batch size: the latency in the published files; not per-request latency.
AMORTISED = _timing("latency_s", "amortised latency", "amortised latency", "wall_s", per_length=True)
THROUGHPUT = _row(
    "tokens_per_second", "throughput", "output throughput", "tokens/s", decimals=1, better="higher", sample="wall_s",
    compared=True,
)  # fmt: skip
_row("mbu", "MBU", "model bandwidth utilisation", "%", 100, decimals=1, better="higher", compared=True)
_row("load_time_s", "load time", "load time", "s", decimals=1, compared=True)
PEAK_MEMORY = _row("mean_peak_mem_mb", "peak memory", "peak memory while serving", "GiB", 1 / 1024, compared=True)
_row("mean_avg_mem_mb", "mean memory", "mean memory while serving", "GiB", 1 / 1024)
KV_CACHE = _row("kv_cache_gb", "KV cache", "KV cache reserved", "GiB", better="higher")
KV_CACHE_TOKENS = _row("kv_cache_tokens", "KV cache", "KV cache", "tokens", decimals=0, better="higher", compared=True)
_row("kv_cache_bytes_per_token", "KV cache per token", "KV cache per token", "bytes", decimals=0, exact=True)
MAX_CONCURRENCY = _row(
    "max_concurrency", "max. concurrency", "concurrent requests at full context", decimals=1, better="higher",
    compared=True,
)  # fmt: skip

_served = partial(_row, benchmark="serving", compared=True)  # of a server under load
ITL = _served("itl_s", "ITL", "inter-token latency", "ms", 1000)
_served("p95_itl_s", "ITL p95", "inter-token latency, p95", "ms", 1000)
for _key, _title in (("median", "median"), ("p99", "p99")):
    _row(f"{_key}_itl_s", f"ITL {_title}", f"inter-token latency, {_title}", "ms", 1000, benchmark="serving")
TOTAL_THROUGHPUT = _served(
    "total_tokens_per_second", "total throughput", "throughput, prompts included", "tokens/s", decimals=1,
    better="higher",
)  # fmt: skip
REQUEST_RATE = _served("requests_per_second", "requests", "requests per second that succeeded", "1/s", better="higher")
GOODPUT = _served("goodput", "goodput", "requests per second that keep every objective", "1/s", better="higher")
#: Of a variant at the highest of its loads that keeps the objectives asked for: `recommend` computes it.
MAX_GOODPUT = _row(
    "max_goodput", "max. goodput", "highest goodput", "1/s", better="higher", benchmark="serving", basis=Basis.OWN,
)  # fmt: skip

J_PER_TOKEN = _energy(
    "joules_per_output_token", "energy", "energy per output token", "J/token", decimals=3, compared=True
)
_energy(
    "joules_per_total_token", "energy, prompt included", "energy per token, prompt included", "J/token", decimals=3,
    compared=True,
)  # fmt: skip
_energy("tokens_per_joule", "tokens per joule", "output tokens per joule", "tokens/J", better="higher")
J_PER_REQUEST = _energy(
    "energy_per_query_j", "energy", "energy per request", "J/request", per_length=True, compared=True
)
ENERGY = _window("energy_joules", "energy of the run", "energy of the whole window", "J", decimals=0, compared=True)
ENERGY_NET = _window(
    "energy_joules_net", "net energy of the run", "energy of the whole window minus idle", "J", decimals=0
)
ENERGY_KWH = _window("energy_kwh", "energy of the run", "energy of the whole window", "kWh", decimals=3)
_window("duration_seconds", "energy window", "length of the energy window", "s", decimals=0, better=None)
POWER = _energy(
    "avg_power_watts", "mean power", "mean power while serving", "W", decimals=1, better=None, compared=True
)
for _key, _title, _unit in (
    ("min_power_watts", "lowest power", "W"),
    ("max_power_watts", "highest power", "W"),
    ("std_power_watts", "standard deviation of power", "W"),
    ("idle_power_watts", "idle power", "W"),
    ("mean_temperature_celsius", "mean temperature", "°C"),
    ("max_temperature_celsius", "top temperature", "°C"),
):
    _energy(_key, _title, _title, _unit, decimals=1)

DISK = _files("model_size_gb", "on disk", "weights on disk", "GiB", compared=True)
WEIGHTS = _row("weights_gb", "weights", "weights as loaded", "GiB", basis=Basis.LOADED, exact=True, compared=True)
_files("num_parameters", "parameters", "parameters", "B", 1e-9)
_files("num_parameters_b", "parameters", "parameters", "B", 1.0)

#: The mean over the same accuracy tasks in every variant; `results.variants.with_accuracy_mean` computes it.
ACCURACY_MEAN = _row(
    "accuracy_mean", "mean accuracy", "mean accuracy", "%", 100, decimals=1, better="higher", benchmark=None,
    basis=Basis.TASK, change=Change.POINTS,
)  # fmt: skip

#: Alternatives for one quantity, in the order of preference; older files contain fewer of them.
LATENCIES = (TPOT, THROUGHPUT, AMORTISED)
ENERGIES = (J_PER_TOKEN, J_PER_REQUEST)
SIZES = (WEIGHTS, DISK)
#: The objectives of the default Pareto frontier: the first measured metric of each group.
DEFAULT_OBJECTIVES = ((ACCURACY_MEAN,), LATENCIES, ENERGIES, SIZES)

#: Task, or a pattern of tasks -> its headline metric, by lm-eval's name. Of any other task it is the first that the
#: task lists: what lambada and truthfulqa_gen list first is not what they are known by.
HEADLINE_METRICS = {
    "mmlu": "acc,none",
    "gsm8k": "exact_match,flexible-extract",
    "hellaswag": "acc_norm,none",
    "demo_mmlu": "acc,none",
    "demo_gsm8k": "exact_match,flexible-extract",
    "demo_hellaswag": "acc_norm,none",
    "lambada*": "acc,none",
    "truthfulqa*gen*": "bleu_acc,none",
}

_SHARE: tuple[Change, Better] = (Change.POINTS, "higher")
_SCORE: tuple[Change, Better] = (Change.AMOUNT, "higher")
_LOSS: tuple[Change, Better] = (Change.AMOUNT, "lower")
_PERPLEXITY: tuple[Change, Better] = (Change.RATIO, "lower")
#: lm-eval's metric, without its filter -> how its values are compared, and the direction if the task states none. Of a
#: metric that is not here and whose name is not that of an accuracy, only the task knows the direction. Of a group,
#: which lists no metrics, the first in this order is the headline.
_TASK_METRICS: dict[str, tuple[Change, Better]] = {
    **dict.fromkeys(("acc", "acc_norm", "exact_match", "em", "accuracy", "mc1", "mc2", "math_verify"), _SHARE),
    **dict.fromkeys(("f1", "mcc", "bleu", "chrf", "chrf++", "rouge1", "rouge2", "rougeL", "rougeLsum"), _SCORE),
    **dict.fromkeys(("bleurt", "bert_score", "meteor", "likelihood", "precision", "recall", "r2"), _SCORE),
    **dict.fromkeys(("pearsonr", "spearmanr", "pearson", "spearman"), _SCORE),
    **dict.fromkeys(("word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity"), _PERPLEXITY),
    **dict.fromkeys(("brier_score", "mae", "mse", "rmse", "ter", "wer", "cer", "ece", "likelihood_diff"), _LOSS),
    "pct_stereotype": _LOSS,
}
#: Further names of a share of right answers: ``prompt_level_strict_acc``, ``pass@1``, ``numerical_match``.
_ACCURACY_NAME = re.compile(r"(^|_)(acc|accuracy|exact_match|em|match|correct|solved|contains|pass(@\d+)?)(_|$)")


def _named(metric: str) -> str:
    """An lm-eval metric without its filter: ``acc,none`` is ``acc``."""
    return metric.split(",")[0]


def _facts(metric: str) -> tuple[Change, Better | None]:
    """How values of an lm-eval metric are compared, and the direction if the task states none; None if not known."""
    name = _named(metric)
    if name in _TASK_METRICS:
        return _TASK_METRICS[name]
    return _SHARE if _ACCURACY_NAME.search(name) else (Change.AMOUNT, None)


def task_metric(
    task: str, metric: str | None = None, higher_is_better: bool | None = None, values: Iterable[float] = ()
) -> Metric:
    """The row of an accuracy task.

    Args:
        task: lm-eval's name.
        metric: Its headline metric by lm-eval's name: ``acc,none``. None, in the published files, is an accuracy.
        higher_is_better: What the task says of that metric; None if that is not recorded.
        values: What was measured. Outside of 0 to 1 it is not a share, whatever it is called.
    """
    change, named = _SHARE if metric is None else _facts(metric)
    better: Better | None = named if higher_is_better is None else "higher" if higher_is_better else "lower"
    row = partial(Metric, task, task, task, better=better, benchmark=task, basis=Basis.TASK)
    if change is Change.POINTS and all(0 <= value <= 1 for value in values):
        return row("%", 100, decimals=1, change=change)
    return row(
        _named(metric or "score").replace("_", " "),
        decimals=3,
        change=Change.AMOUNT if change is Change.POINTS else change,
    )


def headline_metric(
    task: str, scores: Collection[str], listed: Sequence[str] = (), filters: Sequence[str] = ()
) -> str | None:
    """The metric that a task or group is known by, whatever the order of `scores`; None without any.

    Args:
        task: lm-eval's name.
        scores: lm-eval's names of its metrics with their filters; standard errors do not count.
        listed: The metrics in the order in which the task lists them, without filters; a group lists none.
        filters: The filters in the order in which the task applies them.
    """
    found = [score for score in scores if "," in score and "_stderr," not in score]
    known = [wanted for pattern, wanted in HEADLINE_METRICS.items() if fnmatchcase(task, pattern) and wanted in found]

    def place(name: str, order: Sequence[str]) -> int:
        return order.index(name) if name in order else len(order)

    def rank(score: str) -> tuple[Any, ...]:
        name, _, used = score.partition(",")
        by_name = place(name, listed), _facts(name)[0] is not Change.POINTS, place(name, [*_TASK_METRICS]), name
        return *by_name, place(used, filters), used != "none", used

    return known[0] if known else min(found, key=rank, default=None)
