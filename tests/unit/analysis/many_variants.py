"""Many configurations made from a seed: several models, all that can be measured, gaps, samples, and long names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slim_eval.analysis.compare.items import verdict
from slim_eval.analysis.study import Study
from slim_eval.metrics import AMORTISED, E2E, TPOT, TTFT
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Variant

PRECISIONS = ("fp16", "int8", "int4")
TASKS = ("mmlu", "gsm8k", "hellaswag")
_SPEED_UP = {"fp16": 1.0, "int8": 1.5, "int4": 2.1}
_SHRINKS = {"fp16": 1.0, "int8": 0.55, "int4": 0.35}
_DROP = {"fp16": 0.0, "int8": 0.006, "int4": 0.02}
_FAMILIES = (
    "org/Some-Family-of-Models-{}B-Instruct-v0.{}-preview-2026", "other/tiny{}b-{}", "third/Long_Name_With_Parts_{}B_{}"
)  # fmt: skip


def many_variants(make_variant: Callable[..., Variant], models: int, *, seed: int = 0) -> list[Variant]:
    """Three variants per model; every seventh lacks a measurement, and one generated fewer tokens than asked."""
    random = np.random.default_rng(seed)
    variants = []
    for index in range(models):
        name = _FAMILIES[index % len(_FAMILIES)].format(1 + index // 2, index)
        size = float(random.uniform(0.5, 14))
        skill = float(0.35 + 0.04 * size + random.normal(0, 0.04))
        for precision in PRECISIONS:
            number = len(variants)
            variants.append(_variant(make_variant, random, name, precision, size, skill, number))
    return variants


def many_study(make_variant: Callable[..., Variant], models: int, *, seed: int = 0) -> Study:
    """A study of them, with samples of two thirds, and with paired tasks."""
    plain = Study.of(many_variants(make_variant, models, seed=seed))
    random = np.random.default_rng(seed + 1)
    samples = {v.directory: _samples(random, v) for v in plain.variants[: 2 * len(plain.variants) // 3]}
    paired = {v.directory: _paired(random, plain, v) for v in plain.variants if not v.is_baseline}
    return SampledStudy(plain.variants, plain.tasks, paired, kept=samples)


@dataclass(frozen=True)
class SampledStudy(Study):
    """A study whose samples are in memory."""

    kept: Mapping[Path, list[dict[str, Any]]] = field(default_factory=dict)

    def samples(self, variant: Variant, name: str) -> list[dict[str, Any]]:
        """The samples of the performance record."""
        return self.kept.get(variant.directory, []) if name == "performance" else []


def _variant(
    make_variant: Callable[..., Variant],
    random: np.random.Generator,
    name: str,
    precision: str,
    size: float,
    skill: float,
    number: int,
) -> Variant:
    tpot = 0.003 * size / _SPEED_UP[precision] * float(random.uniform(0.9, 1.1))
    throughput, power = 8 / tpot * 0.95, float(random.uniform(150, 300))
    joules = power * tpot
    weights = 2 * size * _SHRINKS[precision]
    performance = {
        "tpot_s": tpot, "ttft_s": tpot * 5, "e2e_latency_s": tpot * 105, "mean_latency_s": tpot * 13.1,
        "median_latency_s": tpot * 13, "p95_latency_s": tpot * 14, "p99_latency_s": tpot * 16,
        "median_tpot_s": tpot, "p95_tpot_s": tpot * 1.1, "p99_tpot_s": tpot * 1.3, "tokens_per_second": throughput,
        "weights_gb": weights, "kv_cache_gb": 60 - weights, "mean_peak_mem_mb": 62 * 1024.0, "batch_size": 8,
        "output_tokens": 60.0 if number % 7 == 4 else 100.0,
        "intervals": {"tpot_s": (tpot * 0.95, tpot * 1.06), "tokens_per_second": (throughput * 0.96, throughput * 1.05),
                      "mean_latency_s": (tpot * 12.8, tpot * 13.5)},
    }  # fmt: skip
    energy: dict[str, Any] | None = {
        "joules_per_output_token": joules, "energy_per_query_j": joules * 100, "energy_joules": joules * 2000,
        "energy_joules_net": joules * 1500 if number % 4 else None, "avg_power_watts": power,
        "min_power_watts": power * 0.7, "max_power_watts": power * 1.2, "idle_power_watts": 80.0,
        "valid": number % 11 != 5, "intervals": {"joules_per_output_token": (joules * 0.93, joules * 1.08)},
    }  # fmt: skip
    tasks = {
        task: {"accuracy": min(0.98, skill - _DROP[precision] + float(random.normal(0, 0.01))), "stderr": 0.008}
        for task in TASKS
    }
    if number % 7 == 6:
        energy = None
    if number % 7 == 2:
        tasks.pop("gsm8k")
    return make_variant(name, precision, performance=performance, energy=energy, tasks=tasks,
                     head={"model_size_gb": weights * 1.02})  # fmt: skip


def _samples(random: np.random.Generator, variant: Variant) -> list[dict[str, Any]]:
    made = []
    latency, ttft, tpot, e2e = (variant.number(m) or 0.0 for m in (AMORTISED, TTFT, TPOT, E2E))
    for iteration in range(40):
        slow = float(random.lognormal(0, 0.05))
        for request in range(2):
            made.append(
                {"iteration": iteration, "request": request, "wall_s": latency * 8 * slow,
                 "ttft_s": ttft * slow, "tpot_s": tpot * slow, "e2e_s": e2e * slow}
            )  # fmt: skip
    return made


def _paired(random: np.random.Generator, study: Study, variant: Variant) -> list[PairedTask]:
    base, made = study.baseline(variant), []
    for task in TASKS:
        before, after = None if base is None else base.number(task), variant.number(task)
        if before is None or after is None:
            made.append(PairedTask(task=task, refused=f"{task}: no outcomes of single items"))
            continue
        drop, half = (before - after) * 100, float(random.uniform(0.4, 2.2))
        ends = (drop - half, drop + half)
        p_value = 0.01 if ends[0] > 0 else 0.5
        made.append(PairedTask(task=task, drop_pp=drop, interval_pp=ends, margin_pp=1.0, p_value_holm=p_value,
                               verdict=verdict(ends, p_value, 1.0)))  # fmt: skip
    return made
