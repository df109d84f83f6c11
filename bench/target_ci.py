"""Requests saved by `--target-ci 0.02` against a fixed number of 500, on the embedded model.

The engine is Transformers, or the one given as argument. The output contains the number of requests, whether the target
was met, the half-widths of the 95 % intervals of TPOT and throughput relative to the values, and requests / 500.
"""

from __future__ import annotations

import sys

from slim_eval import engines
from slim_eval.benchmarks import performance
from slim_eval.config import EngineConfig, PerformanceConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.results.records import PerformanceMetrics

FIXED_REQUESTS = 500
TARGET = 0.02
SETTINGS = PerformanceConfig(num_runs=FIXED_REQUESTS, batch_size=8, max_new_tokens=64, target_ci=TARGET)
CONTEXT = 1024


def measure(choice: str) -> PerformanceMetrics:
    """Load the embedded model and measure it until the target is met or 500 requests are done."""
    decision = engines.choose(choice, "fp16")
    config = EngineConfig(engine=choice, enforce_eager=True)
    request = engines.LoadRequest(checkpoint=MODEL_DIR, config=config, max_model_len=CONTEXT)
    engine = engines.ENGINES[decision.name].load(request)
    try:
        metrics = performance.run(engine, SETTINGS).metrics
    finally:
        engine.close()
    assert isinstance(metrics, PerformanceMetrics)
    return metrics


def half_width(metrics: PerformanceMetrics, key: str) -> str:
    """Half-width of a metric's interval relative to the metric."""
    value = getattr(metrics, key)
    if value is None or key not in metrics.intervals:
        return "not measured"
    low, high = metrics.intervals[key]
    return f"±{(high - low) / 2 / value:.2%}"


def main() -> None:
    """Measure once and print the result."""
    choice = sys.argv[1] if len(sys.argv) > 1 else "transformers"
    metrics = measure(choice)
    requests = metrics.num_runs or 0
    print(f"{choice}: {metrics.stop_reason} after {requests} requests in {metrics.num_iterations} iterations")
    print(f"  warm-up: {metrics.num_warmup} requests, stable: {metrics.warmup_stable}")
    print(f"  half-widths: TPOT {half_width(metrics, 'tpot_s')}, throughput {half_width(metrics, 'tokens_per_second')}")
    print(f"{choice}: requests to ±{TARGET:.0%} / fixed {FIXED_REQUESTS}: {requests / FIXED_REQUESTS:.2f}")


if __name__ == "__main__":
    main()
