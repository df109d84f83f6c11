"""Raw samples with known true values, in the format of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OUTPUT_TOKENS = 100
BATCH_SIZE = 8


def items(
    scores: Sequence[float], *, task: str = "quiz", metric: str = "acc,none", prompt: str = "p"
) -> list[dict[str, Any]]:
    """One row per item, with these scores in order."""
    return [
        {"task": task, "doc_id": n, "doc_hash": f"d{n}", "prompt_hash": f"{prompt}{n}", "target": "A", metric: score}
        for n, score in enumerate(scores)
    ]


def outcomes(num_items: int, *, right: int, lost: int = 0, gained: int = 0) -> tuple[list[float], list[float]]:
    """Answers of two runs: `right` correct ones in the first; the second loses `lost` of them and gains `gained`."""
    first = [1.0] * right + [0.0] * (num_items - right)
    second = [0.0] * lost + [1.0] * (right - lost + gained) + [0.0] * (num_items - right - gained)
    return first, second


def requests(
    tpot_s: float, *, iterations: int = 100, jitter: float = 0.02, ttft_s: float = 0.02, seed: int = 0
) -> list[dict[str, Any]]:
    """One row per request: iterations of `BATCH_SIZE` requests whose times share a lognormal jitter."""
    factors = np.random.default_rng(seed).lognormal(-(jitter**2) / 2, jitter, iterations)
    e2e_s = ttft_s + tpot_s * (OUTPUT_TOKENS - 1)
    return [
        {
            "iteration": number, "request": request, "wall_s": e2e_s * factor, "ttft_s": ttft_s * factor,
            "tpot_s": tpot_s * factor, "e2e_s": e2e_s * factor, "prompt_tokens": 12, "output_tokens": OUTPUT_TOKENS,
        }
        for number, factor in enumerate(factors)
        for request in range(BATCH_SIZE)
    ]  # fmt: skip


def performance(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Metrics of those requests."""
    walls = {row["iteration"]: row["wall_s"] for row in rows}
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("ttft_s", "tpot_s", "e2e_s")}
    return {
        "ttft_s": mean["ttft_s"], "tpot_s": mean["tpot_s"], "e2e_latency_s": mean["e2e_s"],
        "mean_latency_s": float(np.mean(list(walls.values()))) / BATCH_SIZE,
        "tokens_per_second": len(rows) * OUTPUT_TOKENS / sum(walls.values()), "output_tokens": float(OUTPUT_TOKENS),
    }  # fmt: skip
