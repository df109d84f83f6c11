"""Metrics: one table with the name, unit, direction and dependencies of every number.

Every table, figure, summary, gate, recommendation and report reads this table and repeats none of it. To add a metric,
add a row, here or from a plugin: ``METRICS.register(Metric(...))``. The value of a metric is the field ``key`` of its
benchmark's record, or the result of ``compute``. Accuracy has one row per task, made by `task_metric`. docs/metrics.md
defines the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
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
        better: Which direction is better; None if neither is.
        benchmark: Record that contains it; None for a number that is derived from others.
        basis: Settings that must agree before values are compared.
        sample: Column of the performance samples that it is computed from; None without samples.
        statistic: Statistic computed from those samples.
        per_length: Grows with the number of output tokens: not comparable at different lengths.
        per_run: Grows with the number of requests: not comparable at different numbers of them.
        exact: Counted, not measured: it needs no interval.
        compared: Whether `slim-eval compare` shows it.
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
    def is_energy(self) -> bool:
        """Whether the energy benchmark measured it."""
        return self.basis is Basis.ENERGY

    def in_unit(self, value: float) -> float:
        """A value in the displayed unit."""
        return value * self.scale

    def text(self, value: float, *, unit: bool = True) -> str:
        """A value with three significant digits and its unit: ``12.3 ms``; a task's score above 1 is not a share."""
        if self.basis is Basis.TASK and self.scale == 100 and abs(value) > 1:
            return number(value)
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
TOTAL_THROUGHPUT = _served(
    "total_tokens_per_second", "total throughput", "throughput, prompts included", "tokens/s", decimals=1,
    better="higher",
)  # fmt: skip
REQUEST_RATE = _served("requests_per_second", "requests", "requests per second that succeeded", "1/s", better="higher")
_served("goodput", "goodput", "requests per second that keep every objective", "1/s", better="higher")

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
    basis=Basis.TASK,
)  # fmt: skip

#: Alternatives for one quantity, in the order of preference; older files contain fewer of them.
LATENCIES = (TPOT, THROUGHPUT, AMORTISED)
ENERGIES = (J_PER_TOKEN, J_PER_REQUEST)
SIZES = (WEIGHTS, DISK)
#: The objectives of the default Pareto frontier: the first measured metric of each group.
DEFAULT_OBJECTIVES = ((ACCURACY_MEAN,), LATENCIES, ENERGIES, SIZES)

#: Task -> its headline metric, by lm-eval's name. For any other task: the first metric that it lists.
HEADLINE_METRICS = {
    "mmlu": "acc,none",
    "gsm8k": "exact_match,flexible-extract",
    "hellaswag": "acc_norm,none",
    "demo_mmlu": "acc,none",
    "demo_gsm8k": "exact_match,flexible-extract",
    "demo_hellaswag": "acc_norm,none",
}

# lm-eval's metrics for which lower is better.
_LOSSES = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}


def is_loss(metric: str | None) -> bool:
    """Whether lower is better for an lm-eval metric, by its name: ``word_perplexity,none``."""
    return (metric or "").split(",")[0] in _LOSSES


def task_metric(task: str, metric: str | None = None) -> Metric:
    """The row of an accuracy task and its headline metric, by lm-eval's names: ``acc,none``; None if unknown."""
    if is_loss(metric):
        return Metric(task, task, task, decimals=3, benchmark=task, basis=Basis.TASK)
    return Metric(task, task, task, "%", 100, decimals=1, better="higher", benchmark=task, basis=Basis.TASK)
