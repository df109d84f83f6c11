"""Variants made from a few numbers, as a measurement would have left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slim_eval.results.records import SCHEMA_VERSION, AccuracyRecord, EnergyRecord, PerformanceRecord
from slim_eval.results.store import record_name, variant_directory, write_record
from slim_eval.results.variants import Variant

ENVIRONMENT = {"cpu": "Test CPU", "gpus": [{"name": "Test GPU"}]}
PERFORMANCE = {
    "mean_latency_s": 0.2, "tokens_per_second": 500.0, "ttft_s": 0.02, "tpot_s": 0.004, "batch_size": 8, "num_runs": 16,
    "output_tokens": 100.0, "prompt_tokens": 12.0, "weights_gb": 2.0, "mean_peak_mem_mb": 2048.0,
}  # fmt: skip
ENERGY = {
    "energy_joules": 1000.0, "joules_per_output_token": 0.5, "energy_per_query_j": 50.0, "num_runs": 20,
    "batch_size": 1, "energy_source": "nvml-counter", "valid": True,
}  # fmt: skip
TASK = {"metric": "acc,none", "stderr": 0.01, "num_items": 400, "num_fewshot": 5}


def variant_maker(root: Path) -> Callable[..., Variant]:
    """Makes variants below a folder, and writes one where `write=True` or it has `samples`, by record.

    `None` for a part leaves it out, a dict changes its numbers.
    """

    def make(
        model: str = "org/Tiny",
        precision: str = "fp16",
        *,
        performance: dict[str, Any] | None = {},  # noqa: B006 - never changed
        energy: dict[str, Any] | None = {},  # noqa: B006
        tasks: dict[str, float | dict[str, Any]] | None = None,
        head: dict[str, Any] | None = None,
        directory: Path | None = None,
        write: bool = False,
        samples: dict[str, Sequence[dict[str, Any]]] | None = None,
    ) -> Variant:
        folder = directory or variant_directory(root / "outputs", model, precision)
        common: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION, "model": model, "precision": precision, "engine": "vllm",
            "environment": ENVIRONMENT, "config": {"performance": {"max_new_tokens": 100}}, "model_size_gb": 4.0,
        } | (head or {})  # fmt: skip
        found = {
            task: AccuracyRecord(
                **common, task=task, **(TASK | (value if isinstance(value, dict) else {"accuracy": value}))
            )
            for task, value in (tasks or {}).items()
        }
        made = [
            *([] if performance is None else [PerformanceRecord(**common | PERFORMANCE | performance)]),
            *([] if energy is None else [EnergyRecord(**common | ENERGY | energy)]),
            *found.values(),
        ]
        variant = Variant(folder, model, precision, {record.name: record for record in made})
        for record in variant.records if write or samples else ():
            write_record(folder, record, (samples or {}).get(record_name(record), ()))
        return variant

    return make
