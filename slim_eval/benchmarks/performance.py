"""The performance benchmark: latency, throughput and memory of equal work.

Each request generates exactly ``max_new_tokens`` tokens, greedily and without cached prefixes, so that precisions do
the same work. The loop holds nothing but the engine's own `generate` and a clock; all arithmetic comes after it, unless
a target for the intervals asks for some between two iterations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from slim_eval.benchmarks import capacity, latency, pacing, workload
from slim_eval.benchmarks.base import Progress, full_batches, no_progress
from slim_eval.benchmarks.latency import Iteration
from slim_eval.config import PerformanceConfig
from slim_eval.engines.engine import Engine, Generation
from slim_eval.errors import BenchmarkError
from slim_eval.results.records import Measurement, PerformanceMetrics
from slim_eval.stats import resolving_count, summarize

NUM_RUNS_REACHED = "num_runs reached"
TARGET_REACHED = "target_ci reached"
TARGET_MISSED = "num_runs reached before target_ci"

_MEMORY_SAMPLES = 20


def run(
    engine: Engine,
    config: PerformanceConfig,
    progress: Progress = no_progress,
    *,
    memory_bandwidth_gb_s: float | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Warm up until stable, then measure iterations of `batch_size` requests.

    Warm-up is `num_warmup` requests, rounded up to full batches. Then measuring begins. If the wall times of its first
    iterations drift (`pacing.drifts`), the older half of them is given back to the warm-up and as many more are
    measured, until there is no drift or `pacing.MAX_ROUNDS` windows drifted: a stable engine costs nothing extra.

    Without `target_ci` all of `num_runs` is measured, rounded up to full batches; with it, measuring ends as soon as
    the intervals are narrow enough (`pacing.precise_enough`), and `num_runs` is the most.

    Args:
        engine: The loaded model.
        config: Prompt, output length, number of requests, batch size.
        progress: Told after each iteration of the requests that are done, counting those given back to the warm-up.
        memory_bandwidth_gb_s: Of all devices together, 10**9 bytes a second; None where not known.
        seed: Of synthetic prompts.
        clock: Seconds; read before and after each call of the engine.

    Returns:
        The metrics, and one sample a request: ``iteration, request, wall_s, ttft_s, tpot_s, e2e_s, prompt_tokens,
        output_tokens``.

    Raises:
        BenchmarkError: The prompt does not fit, a request did not do its work, or the engine reports a time that is
            none.
        EngineError: The engine stopped.
    """
    _check_prompt_fits(engine, config, seed)
    loop = _Loop(engine, config, progress, seed, clock)
    loop.warm_up()
    stable = loop.settle()
    stop_reason = loop.measure()
    measured = loop.measured
    found = latency.metrics(measured)
    metrics = PerformanceMetrics(
        **found,
        **_memory(measured, engine, config, found, memory_bandwidth_gb_s),
        intervals=latency.intervals(measured),
        max_model_len=engine.max_model_len,
        load_time_s=engine.load_time_s,
        memory_bandwidth_gb_s=memory_bandwidth_gb_s,
        batch_size=config.batch_size,
        num_warmup=(loop.begun - len(measured)) * config.batch_size,
        warmup_stable=stable,
        num_runs=len(measured) * config.batch_size,
        num_iterations=len(measured),
        stop_reason=stop_reason,
        target_ci=config.target_ci,
        input_len=config.input_len,
    )
    return Measurement(metrics, tuple(latency.samples(measured)), tuple(_notes(metrics, config)))


@dataclass
class _Loop:
    """The iterations of one run in their order: warm-up, a window that must not drift, the rest."""

    engine: Engine
    config: PerformanceConfig
    progress: Progress
    seed: int
    clock: Callable[[], float]
    begun: int = 0  # iterations so far, warm-up included
    given_back: int = 0  # of those measured, how many became warm-up
    measured: list[Iteration] = field(default_factory=list)

    def warm_up(self) -> None:
        """The iterations that are never measured."""
        for _ in range(full_batches(self.config.num_warmup, self.config.batch_size)):
            self._iterate()

    def settle(self) -> bool | None:
        """Measure a window of iterations that does not drift; whether there is one, None where it is too short."""
        self._tell(self._most)
        window = min(pacing.WINDOW, self._most)
        for _ in range(pacing.MAX_ROUNDS):
            while len(self.measured) < window:
                self._step()
            drifting = pacing.drifts([iteration.wall_s for iteration in self.measured])
            if not drifting:
                return None if drifting is None else True
            del self.measured[: window // 2]
            self.given_back += window // 2
        return False

    def measure(self) -> str:
        """Measure the rest; why it ended."""
        target = self.config.target_ci
        while len(self.measured) < self._most:
            if target is not None and pacing.precise_enough(self.measured, target):
                break
            self._step()
        if self.measured[-1].memory is None:  # it ended before its time
            self.measured[-1] = replace(self.measured[-1], memory=self.engine.memory())
        self._tell(len(self.measured))
        if target is None:
            return NUM_RUNS_REACHED
        return TARGET_REACHED if pacing.precise_enough(self.measured, target) else TARGET_MISSED

    @property
    def _most(self) -> int:
        """Iterations to measure, unless the target ends it before."""
        return full_batches(self.config.num_runs, self.config.batch_size)

    def _step(self) -> None:
        iteration = self._iterate()
        if _is_memory_sample(len(self.measured), self._most):
            iteration = replace(iteration, memory=self.engine.memory())
        self.measured.append(iteration)
        if len(self.measured) < self._most:
            self._tell(self._most)

    def _iterate(self) -> Iteration:
        size, tokens = self.config.batch_size, self.config.max_new_tokens
        prompts = workload.prompts(self.engine, self.config, self.begun, size, self.seed)
        start = self.clock()
        generations = self.engine.generate(prompts, max_new_tokens=tokens, ignore_eos=True)
        wall_s = self.clock() - start
        self.begun += 1
        _check_work(generations, size, tokens)
        return Iteration(wall_s, generations)

    def _tell(self, total: int) -> None:
        done, size = self.given_back + len(self.measured), self.config.batch_size
        self.progress(done * size, (self.given_back + total) * size)


def _check_prompt_fits(engine: Engine, config: PerformanceConfig, seed: int) -> None:
    tokens = engine.count_tokens(workload.prompts(engine, config, 0, 1, seed)[0])
    room = engine.max_model_len - tokens
    if room < config.max_new_tokens:
        shorten = "shorten --prompt" if config.input_len is None else "lower --input-len"
        remedy = f"raise --max-model-len to {tokens + config.max_new_tokens} or {shorten}"
        if room > 0:
            remedy += f", or lower --max-new-tokens to {room}"
        raise BenchmarkError(
            f"a prompt of {tokens} tokens and {config.max_new_tokens} new ones do not fit into a context window of "
            f"{engine.max_model_len}",
            remedy,
        )


def _check_work(generations: list[Generation], batch_size: int, max_new_tokens: int) -> None:
    lengths = [generation.output_tokens for generation in generations]
    if lengths != [max_new_tokens] * batch_size:
        raise BenchmarkError(
            f"{batch_size} requests of {max_new_tokens} tokens each came back with {sorted(set(lengths))} tokens in "
            f"{len(lengths)} answers: precisions would not be compared on equal work",
            "see the engine's log; try --engine transformers",
        )
    for generation in generations:
        for name in ("ttft_s", "e2e_s", "decode_s"):
            value = getattr(generation, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BenchmarkError(
                    f"the engine reports {name} = {value} for a request, which is no time",
                    "run again; if it stays, see the engine's log or try --engine transformers",
                )


def _is_memory_sample(index: int, total: int) -> bool:
    """Whether memory is read after this iteration: evenly, at most `_MEMORY_SAMPLES` times, and after the last."""
    done = index + 1
    return done * _MEMORY_SAMPLES // total > index * _MEMORY_SAMPLES // total


def _memory(
    measured: list[Iteration], engine: Engine, config: PerformanceConfig, found: dict[str, Any], bandwidth: float | None
) -> dict[str, Any]:
    reports = [iteration.memory for iteration in measured if iteration.memory is not None]
    last = reports[-1]
    tokens = last.kv_cache_tokens
    kv_bytes = capacity.kv_cache_bytes_per_token(last.kv_cache_gb, tokens)
    context = max(request.prompt_tokens for request in measured[-1].generations) + config.max_new_tokens
    together = tokens is not None and tokens // context >= config.batch_size
    on_its_kernels = engine.device != "cpu" and engine.kernels == "native"
    return {
        "mean_peak_mem_mb": last.peak_mb,
        "mean_avg_mem_mb": summarize(report.used_mb for report in reports).mean,
        "memory_source": last.source,
        "weights_gb": last.weights_gb,
        "kv_cache_gb": last.kv_cache_gb,
        "kv_cache_tokens": tokens,
        "kv_cache_bytes_per_token": kv_bytes,
        "max_concurrency": None if tokens is None else tokens / engine.max_model_len,
        "concurrency_by_context": capacity.concurrency_by_context(tokens, engine.max_model_len, [context]),
        "mbu": capacity.bandwidth_utilisation(
            weights_gb=last.weights_gb,
            kv_bytes_per_token=kv_bytes,
            batch_size=config.batch_size,
            prompt_tokens=found["prompt_tokens"],
            output_tokens=found["output_tokens"],
            tpot_s=found["tpot_s"],
            memory_bandwidth_gb_s=bandwidth if together and on_its_kernels else None,
        ),
    }


def _notes(metrics: PerformanceMetrics, config: PerformanceConfig) -> Iterator[str]:
    iterations, batch_size = metrics.num_iterations or 0, config.batch_size
    for q in (95, 99):
        if iterations < resolving_count(q):
            yield f"every p{q} is the maximum: {iterations} iterations are fewer than {resolving_count(q)}"
    if batch_size > 1:
        yield f"TTFT includes queueing: {batch_size} requests start at once"
    if metrics.warmup_stable is False:
        yield f"times still drifted after {metrics.num_warmup} requests of warm-up: the engine had not settled"
    if metrics.stop_reason == TARGET_MISSED and iterations < pacing.MIN_ITERATIONS:
        yield f"target_ci needs {pacing.MIN_ITERATIONS} iterations, {pacing.MIN_ITERATIONS * batch_size} requests"
