"""A folder of results with known verdicts: int8 is equivalent and faster, int4 degraded on one task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slim_eval.results.variants import Variant
from tests import planted

TASKS = ("quiz", "a_task_with_a_long_name")
#: Precision -> time per output token in s, weights in GiB, answers lost and gained of 3000.
SCHEMES = {"fp16": (0.004, 2.0, 0, 0), "int8": (0.003, 1.1, 2, 2), "int4": (0.002, 0.7, 300, 20)}


def write_study(make: Callable[..., Variant], *models: str) -> Path:
    """Three precisions of each model, with samples; returns the folder of results."""
    folder = Path()
    for model in models or ("org/Tiny",):
        for precision, (tpot_s, weights, lost, gained) in SCHEMES.items():
            requests = planted.requests(tpot_s, iterations=30, seed=len(precision))
            metrics = planted.performance(requests)
            keys = ("ttft_s", "tpot_s", "tokens_per_second")
            ends = {key: (metrics[key] * 0.99, metrics[key] * 1.01) for key in keys}
            _, after = planted.outcomes(3000, right=2200, lost=lost, gained=gained)
            score = {"accuracy": sum(after) / 3000, "num_items": 3000}
            variant = make(
                model, precision, tasks=dict.fromkeys(TASKS, score), head={"model_size_gb": weights},
                performance={**metrics, "weights_gb": weights, "intervals": ends},
                energy={"joules_per_output_token": tpot_s * 100, "intervals": {
                    "joules_per_output_token": (tpot_s * 97, tpot_s * 103)}},
                samples={task: planted.items(after, task=task) for task in TASKS} | {"performance": requests},
            )  # fmt: skip
            folder = variant.directory.parent.parent
    return folder
