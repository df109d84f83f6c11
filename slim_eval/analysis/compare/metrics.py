"""The metrics that two variants are compared by, as one table: what each is called, its unit, and what is better.

To compare by a further metric, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from slim_eval import stats


class Kind(Enum):
    """Which rules say whether two values may be compared (see `rules`)."""

    SPEED = "speed"
    ENERGY = "energy"
    SIZE = "size"


@dataclass(frozen=True)
class Metric:
    """One column of a row, as it is compared.

    Attributes:
        key: The column; its unit is part of it.
        label: What a reader is shown, with the unit.
        better: Which way is better; None where neither is.
        scale: From the column's unit to that of the label.
        sample: Column of the performance samples that it is worked out from; None where there are none.
        statistic: What is taken of them.
        per_length: Grows with the number of output tokens: of no use where lengths differ.
        exact: Counted, not measured: the same every time, so that it needs no interval.
    """

    key: str
    label: str
    kind: Kind
    better: Literal["lower", "higher"] | None = "lower"
    scale: float = 1.0
    sample: str | None = None
    statistic: stats.Statistic = "mean"
    per_length: bool = False
    exact: bool = False


METRICS: tuple[Metric, ...] = (
    Metric("ttft_s", "TTFT, ms", Kind.SPEED, scale=1000, sample="ttft_s"),
    Metric("p95_ttft_s", "TTFT p95, ms", Kind.SPEED, scale=1000, sample="ttft_s", statistic="p95"),
    Metric("tpot_s", "TPOT, ms", Kind.SPEED, scale=1000, sample="tpot_s"),
    Metric("p95_tpot_s", "TPOT p95, ms", Kind.SPEED, scale=1000, sample="tpot_s", statistic="p95"),
    Metric("e2e_latency_s", "E2E latency, ms", Kind.SPEED, scale=1000, sample="e2e_s", per_length=True),
    Metric("mean_latency_s", "amortised latency, ms", Kind.SPEED, scale=1000, sample="wall_s", per_length=True),
    Metric("tokens_per_second", "output tokens/s", Kind.SPEED, "higher", sample="wall_s"),
    Metric("mbu", "model bandwidth utilisation", Kind.SPEED, "higher"),
    Metric("load_time_s", "load time, s", Kind.SPEED),
    Metric("mean_peak_mem_mb", "peak memory, MiB", Kind.SPEED),
    Metric("kv_cache_tokens", "KV cache, tokens", Kind.SPEED, "higher"),
    Metric("max_concurrency", "requests of full context at once", Kind.SPEED, "higher"),
    Metric("joules_per_output_token", "J/output token", Kind.ENERGY),
    Metric("joules_per_total_token", "J/token, prompt included", Kind.ENERGY),
    Metric("energy_per_query_j", "J/request", Kind.ENERGY, per_length=True),
    Metric("energy_joules", "energy of the run, J", Kind.ENERGY, per_length=True),
    Metric("avg_power_watts", "mean power, W", Kind.ENERGY, None),
    Metric("model_size_gb", "weights on disk, GiB", Kind.SIZE, exact=True),
    Metric("weights_gb", "weights as loaded, GiB", Kind.SIZE, exact=True),
)
BY_KEY = {metric.key: metric for metric in METRICS}
