"""The performance benchmark: latency, throughput and memory of equal work.

Each request generates exactly ``max_new_tokens`` tokens, greedily and without cached prefixes, so that precisions do
the same work. The loop holds nothing but the engine's own `generate` and a clock; all arithmetic comes after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from slim_eval.benchmarks.base import Progress, full_batches, no_progress
from slim_eval.config import PerformanceConfig
from slim_eval.engines.base import Engine, Generation, MemoryReport
from slim_eval.errors import BenchmarkError
from slim_eval.records import Measurement, PerformanceMetrics
from slim_eval.stats import Summary, resolving_count, summarize

_MEMORY_SAMPLES = 20


@dataclass(frozen=True)
class _Iteration:
    """One batch: its wall time in seconds and its requests."""

    wall_s: float
    generations: list[Generation]


def run(engine: Engine, config: PerformanceConfig, progress: Progress = no_progress) -> Measurement:
    """Warm up, then measure ``ceil(num_runs / batch_size)`` iterations of `batch_size` requests.

    Args:
        engine: The loaded model.
        config: Prompt, output length, number of requests, batch size.
        progress: Told of measured requests after each iteration.

    Returns:
        The metrics, and one sample a request: ``iteration, request, wall_s, ttft_s, tpot_s, e2e_s, prompt_tokens,
        output_tokens``.

    Raises:
        BenchmarkError: The prompt does not fit, or a request did not do its work.
        EngineError: The engine stopped.
    """
    _check_prompt_fits(engine, config)
    prompts = [config.prompt] * config.batch_size
    for _ in range(full_batches(config.num_warmup, config.batch_size)):
        _iterate(engine, prompts, config.max_new_tokens)
    iterations: list[_Iteration] = []
    memory: list[MemoryReport] = []
    total = full_batches(config.num_runs, config.batch_size)
    progress(0, total * config.batch_size)
    for index in range(total):
        iterations.append(_iterate(engine, prompts, config.max_new_tokens))
        if _is_memory_sample(index, total):
            memory.append(engine.memory())
        progress((index + 1) * config.batch_size, total * config.batch_size)
    metrics = PerformanceMetrics(
        **_latency(iterations, config.batch_size),
        **_requests(iterations),
        **_memory(memory, engine.max_model_len),
        tokens_per_second=_throughput(iterations),
        max_model_len=engine.max_model_len,
        load_time_s=engine.load_time_s,
        batch_size=config.batch_size,
        num_warmup=full_batches(config.num_warmup, config.batch_size) * config.batch_size,
        num_runs=total * config.batch_size,
        num_iterations=total,
    )
    return Measurement(metrics, tuple(_samples(iterations)), tuple(_notes(total, config.batch_size)))


def _check_prompt_fits(engine: Engine, config: PerformanceConfig) -> None:
    tokens = engine.count_tokens(config.prompt)
    room = engine.max_model_len - tokens
    if room < config.max_new_tokens:
        remedy = f"raise --max-model-len to {tokens + config.max_new_tokens} or shorten --prompt"
        if room > 0:
            remedy += f", or lower --max-new-tokens to {room}"
        raise BenchmarkError(
            f"a prompt of {tokens} tokens and {config.max_new_tokens} new ones do not fit into a context window of "
            f"{engine.max_model_len}",
            remedy,
        )


def _iterate(engine: Engine, prompts: list[str], max_new_tokens: int) -> _Iteration:
    start = time.perf_counter()
    generations = engine.generate(prompts, max_new_tokens=max_new_tokens, ignore_eos=True)
    wall_s = time.perf_counter() - start
    lengths = [generation.output_tokens for generation in generations]
    if lengths != [max_new_tokens] * len(prompts):
        raise BenchmarkError(
            f"{len(prompts)} requests of {max_new_tokens} tokens each came back with {sorted(set(lengths))} tokens in "
            f"{len(lengths)} answers: precisions would not be compared on equal work",
            "see the engine's log; try --engine transformers",
        )
    return _Iteration(wall_s, generations)


def _is_memory_sample(index: int, total: int) -> bool:
    """Whether memory is read after this iteration: evenly, at most `_MEMORY_SAMPLES` times, and after the last."""
    done = index + 1
    return done * _MEMORY_SAMPLES // total > index * _MEMORY_SAMPLES // total


def _latency(iterations: list[_Iteration], batch_size: int) -> dict[str, Any]:
    """Amortised latency, the meaning of the published files: iteration wall time / batch size."""
    summary = summarize(iteration.wall_s / batch_size for iteration in iterations)
    return _keys("latency_s", summary, mean_key="mean_latency_s")


def _requests(iterations: list[_Iteration]) -> dict[str, Any]:
    requests = [generation for iteration in iterations for generation in iteration.generations]
    return {
        **_keys("ttft_s", summarize((request.ttft_s for request in requests), len(iterations))),
        **_keys("tpot_s", summarize((request.tpot_s for request in requests), len(iterations))),
        **_keys("e2e_latency_s", summarize((request.e2e_s for request in requests), len(iterations))),
        "prompt_tokens": summarize(request.prompt_tokens for request in requests).mean,
        "output_tokens": summarize(request.output_tokens for request in requests).mean,
    }


def _keys(name: str, summary: Summary, mean_key: str | None = None) -> dict[str, float | None]:
    return {
        mean_key or name: summary.mean,
        f"median_{name}": summary.median,
        f"p95_{name}": summary.p95,
        f"p99_{name}": summary.p99,
        f"std_{name}": summary.std,
    }


def _throughput(iterations: list[_Iteration]) -> float:
    tokens = sum(request.output_tokens for iteration in iterations for request in iteration.generations)
    return tokens / sum(iteration.wall_s for iteration in iterations)


def _memory(reports: list[MemoryReport], max_model_len: int) -> dict[str, Any]:
    last = reports[-1]
    capacity = last.kv_cache_tokens
    return {
        "mean_peak_mem_mb": last.peak_mb,
        "mean_avg_mem_mb": summarize(report.used_mb for report in reports).mean,
        "memory_source": last.source,
        "weights_gb": last.weights_gb,
        "kv_cache_gb": last.kv_cache_gb,
        "kv_cache_tokens": capacity,
        "max_concurrency": None if capacity is None else capacity / max_model_len,
    }


def _samples(iterations: list[_Iteration]) -> Iterator[dict[str, Any]]:
    for number, iteration in enumerate(iterations):
        for request, generation in enumerate(iteration.generations):
            yield {
                "iteration": number,
                "request": request,
                "wall_s": iteration.wall_s,
                "ttft_s": generation.ttft_s,
                "tpot_s": generation.tpot_s,
                "e2e_s": generation.e2e_s,
                "prompt_tokens": generation.prompt_tokens,
                "output_tokens": generation.output_tokens,
            }


def _notes(iterations: int, batch_size: int) -> Iterable[str]:
    for q in (95, 99):
        if iterations < resolving_count(q):
            yield f"every p{q} is the maximum: {iterations} iterations are fewer than {resolving_count(q)}"
    if batch_size > 1:
        yield f"TTFT includes queueing: {batch_size} requests start at once"
