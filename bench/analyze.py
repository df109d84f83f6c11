"""Duration of `slim-eval analyze`.

1. The 13 published variants, cold: a fresh process for the whole command, including figures. Target: at most 10 s.
2. 5,000 synthetic variants in memory: from rows to the text of tables, frontiers and findings, without files and
   figures. Target: at most 5 s for tables and frontiers, and under 1 GB.

User CPU time is printed next to wall time, because other processes on the machine do not change it. The second
benchmark runs in its own process, so its peak memory is measured separately.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
PUBLISHED = Path(__file__).resolve().parents[1] / "outputs" / "published-a100"
COUNT = 5_000
TASKS = ("mmlu", "gsm8k", "hellaswag")
SYNTHETIC = "--synthetic"


def user_seconds(who: int) -> float:
    """User CPU time so far, in seconds, of this process or its children."""
    return resource.getrusage(who).ru_utime


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and user time of a fresh process, in seconds."""
    used, start = user_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, user_seconds(resource.RUSAGE_CHILDREN) - used


def published() -> None:
    """Print the minimum over several rounds, the least disturbed one, of the whole command in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "slim_eval", "analyze", "--input-dir", str(PUBLISHED), "--output-dir", folder
        ]  # fmt: skip
        rounds = [timed(command) for _ in range(ROUNDS)]
    wall, user = (min(column) for column in zip(*rounds, strict=True))
    print(f"analyze, 13 published variants, cold: {wall:.2f} s, {user:.2f} s of user CPU (target: at most 10 s)")


def synthetic_variants() -> list[Any]:
    """Variants with random numbers and intervals: three precisions per model, five kinds of GPU."""
    import numpy as np

    from slim_eval.results.records import AccuracyRecord, EnergyRecord, PerformanceRecord
    from slim_eval.results.variants import Variant

    rng = np.random.default_rng(0)
    variants = []
    for index in range(COUNT):
        model, precision = divmod(index, 3)
        head: dict[str, Any] = {
            "schema_version": 1, "model": f"org/model-{model}", "precision": ("fp16", "int8", "int4")[precision],
            "engine": "vllm", "environment": {"gpus": [{"name": f"GPU {model % 5}"}]},
            "config": {"performance": {"max_new_tokens": 256}}, "model_size_gb": float(rng.uniform(1, 20)),
        }  # fmt: skip
        tpot_s, joules = float(rng.uniform(0.002, 0.02)), float(rng.uniform(0.05, 1))
        speeds = {"tpot_s": tpot_s, "mean_latency_s": 32 * tpot_s, "tokens_per_second": 8 / tpot_s}
        energy = {"joules_per_output_token": joules}
        variants.append(
            Variant.of(
                Path(f"/synthetic/{model}/{model}_{head['precision']}"),
                [
                    PerformanceRecord(**head, **speeds, output_tokens=256.0, batch_size=8, intervals=around(speeds)),
                    EnergyRecord(
                        **head, **energy, energy_per_query_j=256 * joules, num_runs=200, intervals=around(energy)
                    ),
                    *(
                        AccuracyRecord(**head, task=task, accuracy=float(rng.uniform(0.3, 0.8)), metric="acc,none",
                                       stderr=0.01, num_items=1000, num_fewshot=5)
                        for task in TASKS
                    ),
                ],
            )
        )  # fmt: skip
    return variants


def around(values: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Intervals of ±2 %."""
    return {key: (0.98 * value, 1.02 * value) for key, value in values.items()}


def synthetic() -> None:
    """Print the minimum over several rounds of each step on the synthetic variants, in this process."""
    from slim_eval.analysis import findings
    from slim_eval.analysis.pareto.frontier import find_frontiers
    from slim_eval.analysis.study import Study
    from slim_eval.analysis.tables import csv_tables, typeset
    from slim_eval.analysis.verdict import verdict_of

    study = Study.of(synthetic_variants(), TASKS)
    found, (wall, user) = best(lambda: find_frontiers(study))
    steps: dict[str, Callable[[], object]] = {
        "results_table.csv": lambda: csv_tables.to_csv(csv_tables.results_table(study)),
        "results_table.tex and .md": lambda: typeset.documents(study),
        "quantization_impact.csv": lambda: csv_tables.to_csv(csv_tables.quantization_impact(study)),
        "summary_statistics.csv": lambda: csv_tables.to_csv(csv_tables.summary_statistics(study)),
        "pareto.csv": lambda: csv_tables.to_csv(csv_tables.pareto_table(found)),
    }
    print(f"  frontier: {wall:.2f} s, {user:.2f} s of user CPU")
    for name, step in steps.items():
        _, took = best(step)
        wall, user = wall + took[0], user + took[1]
        print(f"  {name}: {took[0]:.2f} s, {took[1]:.2f} s of user CPU")
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _, took = best(lambda: findings.findings_markdown(verdict_of(study), findings.find(study, found)))
    print(
        f"{COUNT:,} variants in memory, tables and frontier: {wall:.2f} s, {user:.2f} s of user CPU "
        f"(target: at most 5 s), peak {peak_gb:.2f} GiB (target: under 1 GB); plus {took[0]:.2f} s for findings"
    )


def best(step: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Result of a step, and its minimum wall and user time over several rounds, in seconds."""
    rounds = []
    for _ in range(ROUNDS):
        used, start = user_seconds(resource.RUSAGE_SELF), time.perf_counter()
        made = step()
        rounds.append((time.perf_counter() - start, user_seconds(resource.RUSAGE_SELF) - used))
    wall, user = (min(column) for column in zip(*rounds, strict=True))
    return made, (wall, user)


def main() -> None:
    """Run both benchmarks."""
    if SYNTHETIC in sys.argv:
        synthetic()
        return
    published()
    subprocess.run([sys.executable, __file__, SYNTHETIC], check=True)


if __name__ == "__main__":
    main()
