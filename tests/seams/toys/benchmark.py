"""A plugin with a benchmark: how many prompt tokens per second the engine reads, by one token of output each."""

from __future__ import annotations

import time

from slim_eval.benchmarks.base import BENCHMARKS, Benchmark, BenchmarkContext
from slim_eval.config import Config, setting
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.records import Measurement, Metrics, Record


class PrefillOptions(Config):
    """How prefill is measured."""

    requests: int = setting(4, "Measured requests.", ge=1)


class PrefillMetrics(Metrics):
    """What it measures."""

    prefill_tokens_per_s: float | None = None


class PrefillRecord(PrefillMetrics, Record):
    """`prefill.json`."""


class Prefill(Benchmark[PrefillOptions, PrefillRecord]):
    """Prompt tokens per second."""

    name = "prefill"
    options = PrefillOptions
    record = PrefillRecord

    def run(self, context: BenchmarkContext[PrefillOptions]) -> Measurement:
        """Time requests of one output token each, one after the other."""
        tokens, samples = 0, []
        for done in range(context.options.requests):
            start = time.perf_counter()
            (answer,) = context.engine.generate(["A prompt of a few words."], max_new_tokens=1, ignore_eos=True)
            samples.append({"wall_s": time.perf_counter() - start})
            tokens += answer.prompt_tokens
            context.progress(done + 1, context.options.requests)
        rate = tokens / sum(sample["wall_s"] for sample in samples)
        return Measurement(PrefillMetrics(prefill_tokens_per_s=rate), tuple(samples), ("a note of the toy",))


BENCHMARKS.register(Prefill())
METRICS.register(
    Metric(
        "prefill_tokens_per_s", "prefill", "prefill throughput", "tokens/s", decimals=1, better="higher",
        benchmark="prefill", basis=Basis.OWN,
    )
)  # fmt: skip
