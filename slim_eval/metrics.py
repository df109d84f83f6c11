"""Metrics: one table with the name, unit, direction and dependencies of every number.

Every table, figure, summary, gate, recommendation and report reads this table and repeats none of it. To add a metric,
add a row, here or from a plugin: ``METRICS.register(Metric(...))``. The value of a metric is the field ``key`` of its
benchmark's record, or the result of ``compute``. Accuracy has one row per task, made by `task_metric`. docs/metrics.md
defines the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

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
        compute: Computes it from a `results.variants.Variant`, as a number or None, if no record has it as a field.
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
        """Whether the energy benchmark measured it: it counts only if that record is valid."""
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


def _timing(base: str, label: str, title: str, sample: str, *, per_length: bool = False) -> Metric:
    """The rows of one time: its mean (the headline), percentiles and spread."""
    mean_key = f"mean_{base}" if base == "latency_s" else base
    mean = METRICS.register(
        Metric(
            mean_key, label, title, "ms", 1000, decimals=2 if base == "tpot_s" else 1, sample=sample,
            per_length=per_length, compared=True,
        )
    )  # fmt: skip
    tail = "p95" if base in ("ttft_s", "tpot_s") else None
    statistics: tuple[tuple[str, str, Statistic, str | None], ...] = (
        ("median", "median", "median", sample),
        ("p95", "p95", "p95", sample),
        ("p99", "p99", "mean", None),  # below 100 iterations it is the maximum: not resampled
        ("std", "standard deviation", "mean", None),
    )
    for prefix, words, statistic, samples in statistics:
        METRICS.register(
            replace(
                mean, key=f"{prefix}_{base}", label=f"{label} {prefix}", title=f"{title}, {words}", sample=samples,
                statistic=statistic, compared=prefix == tail,
            )
        )  # fmt: skip
    return mean


TTFT = _timing("ttft_s", "TTFT", "time to first token", "ttft_s")
TPOT = _timing("tpot_s", "TPOT", "time per output token", "tpot_s")
E2E = _timing("e2e_latency_s", "E2E latency", "end-to-end latency", "e2e_s", per_length=True)
#: Iteration wall time / batch size: the latency in the published files; not per-request latency.
AMORTISED = _timing("latency_s", "amortised latency", "amortised latency", "wall_s", per_length=True)
THROUGHPUT = METRICS.register(
    Metric(
        "tokens_per_second", "throughput", "output throughput", "tokens/s", decimals=1, better="higher",
        sample="wall_s", compared=True,
    )
)  # fmt: skip
MBU = METRICS.register(
    Metric("mbu", "MBU", "model bandwidth utilisation", "%", 100, decimals=1, better="higher", compared=True)
)
METRICS.register(Metric("load_time_s", "load time", "load time", "s", decimals=1, compared=True))
PEAK_MEMORY = METRICS.register(
    Metric("mean_peak_mem_mb", "peak memory", "peak memory while serving", "GiB", 1 / 1024, compared=True)
)
METRICS.register(Metric("mean_avg_mem_mb", "mean memory", "mean memory while serving", "GiB", 1 / 1024))
KV_CACHE = METRICS.register(
    Metric("kv_cache_gb", "KV cache", "KV cache reserved", "GiB", better="higher", basis=Basis.SPEED)
)
KV_CACHE_TOKENS = METRICS.register(
    Metric("kv_cache_tokens", "KV cache", "KV cache", "tokens", decimals=0, better="higher", compared=True)
)
METRICS.register(
    Metric("kv_cache_bytes_per_token", "KV cache per token", "KV cache per token", "bytes", decimals=0, exact=True)
)
MAX_CONCURRENCY = METRICS.register(
    Metric(
        "max_concurrency", "max. concurrency", "requests of full context at once", decimals=1, better="higher",
        compared=True,
    )
)  # fmt: skip

J_PER_TOKEN = METRICS.register(
    Metric(
        "joules_per_output_token", "energy", "energy per output token", "J/token", decimals=3, benchmark="energy",
        basis=Basis.ENERGY, compared=True,
    )
)  # fmt: skip
METRICS.register(
    Metric(
        "joules_per_total_token", "energy, prompt included", "energy per token, prompt included", "J/token",
        decimals=3, benchmark="energy", basis=Basis.ENERGY, compared=True,
    )
)  # fmt: skip
METRICS.register(
    Metric(
        "tokens_per_joule", "tokens per joule", "output tokens per joule", "tokens/J", better="higher",
        benchmark="energy", basis=Basis.ENERGY,
    )
)  # fmt: skip
J_PER_REQUEST = METRICS.register(
    Metric(
        "energy_per_query_j", "energy", "energy per request", "J/request", benchmark="energy", basis=Basis.ENERGY,
        per_length=True, compared=True,
    )
)  # fmt: skip
ENERGY = METRICS.register(
    Metric(
        "energy_joules", "energy of the run", "energy of the whole window", "J", decimals=0, benchmark="energy",
        basis=Basis.ENERGY, per_length=True, per_run=True, compared=True,
    )
)  # fmt: skip
ENERGY_NET = METRICS.register(
    replace(
        ENERGY, key="energy_joules_net", label="net energy of the run", title="energy of the whole window minus idle",
        compared=False,
    )
)  # fmt: skip
ENERGY_KWH = METRICS.register(
    replace(ENERGY, key="energy_kwh", title="energy of the whole window", unit="kWh", decimals=3, compared=False)
)
METRICS.register(
    replace(
        ENERGY, key="duration_seconds", label="energy window", title="length of the energy window", unit="s",
        better=None, compared=False,
    )
)  # fmt: skip
POWER = METRICS.register(
    Metric(
        "avg_power_watts", "mean power", "mean power while serving", "W", decimals=1, better=None,
        benchmark="energy", basis=Basis.ENERGY, compared=True,
    )
)  # fmt: skip
for _key, _title in (
    ("min_power_watts", "lowest power"),
    ("max_power_watts", "highest power"),
    ("std_power_watts", "standard deviation of power"),
    ("idle_power_watts", "idle power"),
):
    METRICS.register(replace(POWER, key=_key, label=_title, title=_title, better="lower", compared=False))
for _key, _title in (("mean_temperature_celsius", "mean temperature"), ("max_temperature_celsius", "top temperature")):
    METRICS.register(
        replace(POWER, key=_key, label=_title, title=_title, unit="°C", better="lower", compared=False)
    )  # fmt: skip

DISK = METRICS.register(
    Metric(
        "model_size_gb", "on disk", "weights on disk", "GiB", benchmark=None, basis=Basis.FILES, exact=True,
        compared=True,
    )
)  # fmt: skip
WEIGHTS = METRICS.register(
    Metric(
        "weights_gb", "weights", "weights as loaded", "GiB", basis=Basis.LOADED, exact=True, compared=True
    )
)  # fmt: skip
for _key, _scale in (("num_parameters", 1e-9), ("num_parameters_b", 1.0)):
    METRICS.register(
        Metric(_key, "parameters", "parameters", "B", _scale, benchmark=None, basis=Basis.FILES, exact=True)
    )  # fmt: skip

#: The mean over the same accuracy tasks in every variant; `results.variants.with_accuracy_mean` computes it.
ACCURACY_MEAN = METRICS.register(
    Metric(
        "accuracy_mean", "mean accuracy", "mean accuracy", "%", 100, decimals=1, better="higher", benchmark=None,
        basis=Basis.TASK,
    )
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
    """The row of an accuracy task.

    Args:
        task: lm-eval's name of the task.
        metric: Its headline metric, by lm-eval's name: ``acc,none``; None if unknown.
    """
    if is_loss(metric):
        return Metric(task, task, task, decimals=3, benchmark=task, basis=Basis.TASK)
    return Metric(task, task, task, "%", 100, decimals=1, better="higher", benchmark=task, basis=Basis.TASK)
