"""A metric from outside the package: prompt tokens per joule, computed from the energy record."""

from __future__ import annotations

from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.variants import Variant


def prompt_tokens_per_joule(variant: Variant) -> float | None:
    """All prompt tokens of the window over its energy; None if one of them was not recorded."""
    record = variant.energy
    if record is None or not record.energy_joules or record.prompt_tokens is None or record.num_runs is None:
        return None
    return record.prompt_tokens * record.num_runs / record.energy_joules


METRICS.register(
    Metric(
        "prompt_tokens_per_joule", "prefill efficiency", "prompt tokens per joule", "tokens/J", better="higher",
        benchmark="energy", basis=Basis.ENERGY, compute=prompt_tokens_per_joule,
    )
)  # fmt: skip
