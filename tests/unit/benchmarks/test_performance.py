"""The performance benchmark over an engine whose times are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from slim_eval.benchmarks import performance
from slim_eval.config import PerformanceConfig
from slim_eval.engines.base import Generation, MemoryReport
from slim_eval.errors import BenchmarkError, EngineError
from slim_eval.records import PerformanceMetrics
from tests.standins.engine import PlannedEngine

CONFIG = PerformanceConfig(num_warmup=3, num_runs=10, batch_size=4, prompt="one two three", max_new_tokens=5)


class ChangingEngine(PlannedEngine):
    """A planned engine whose times grow by `step` s a batch, and whose memory is what the test says."""

    def __init__(self, *reports: MemoryReport, step: float = 0.0, **planned: Any) -> None:
        super().__init__(**planned)
        self._reports, self._step = list(reports), step
        self.memory_calls = 0

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        self.ttft_s += self._step
        return super().generate(prompts, max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)

    def memory(self) -> MemoryReport:
        self.memory_calls += 1
        return self._reports[min(self.memory_calls, len(self._reports)) - 1] if self._reports else MemoryReport()


def measure(engine: Any, config: PerformanceConfig = CONFIG) -> PerformanceMetrics:
    metrics = performance.run(engine, config).metrics
    assert isinstance(metrics, PerformanceMetrics)
    return metrics


def test_requests_are_rounded_up_to_full_batches() -> None:
    engine = PlannedEngine(0.001, 0.0)
    metrics = measure(engine)
    assert (metrics.num_warmup, metrics.num_runs, metrics.num_iterations, metrics.batch_size) == (4, 12, 3, 4)
    assert [len(batch) for batch in engine.batches] == [4, 4, 4, 4]
    assert set(engine.batches) == {(CONFIG.prompt,) * 4}


def test_no_warmup_means_none() -> None:
    engine = PlannedEngine(0.001, 0.0)
    assert measure(engine, CONFIG.model_copy(update={"num_warmup": 0})).num_warmup == 0
    assert len(engine.batches) == 3


def test_every_key_has_its_definition() -> None:
    ttft_s, tpot_s = 0.02, 0.01
    metrics = measure(PlannedEngine(ttft_s, tpot_s))
    e2e_s = ttft_s + 4 * tpot_s
    for key, value in (("ttft_s", ttft_s), ("tpot_s", tpot_s), ("e2e_latency_s", e2e_s)):
        found = [getattr(metrics, name) for name in (key, f"median_{key}", f"p95_{key}", f"p99_{key}")]
        assert found == [pytest.approx(value)] * 4
        assert getattr(metrics, f"std_{key}") == pytest.approx(0, abs=1e-12)
    assert (metrics.prompt_tokens, metrics.output_tokens) == (3, 5)
    assert metrics.max_model_len == 4096


def test_latency_and_throughput_come_from_the_wall_time_of_iterations() -> None:
    measurement = performance.run(PlannedEngine(0.02, 0.01), CONFIG)
    metrics = measurement.metrics
    walls = [row["wall_s"] for row in measurement.samples if row["request"] == 0]
    assert isinstance(metrics, PerformanceMetrics)
    assert len(walls) == 3
    assert min(walls) >= 0.06  # what each batch was planned to take at least
    assert metrics.mean_latency_s == pytest.approx(sum(walls) / 3 / 4)
    assert metrics.median_latency_s == pytest.approx(sorted(walls)[1] / 4)
    assert metrics.p95_latency_s == metrics.p99_latency_s == pytest.approx(max(walls) / 4)
    assert metrics.tokens_per_second == pytest.approx(3 * 4 * 5 / sum(walls))


def test_spread_is_over_measured_iterations_only() -> None:
    engine = ChangingEngine(ttft_s=0.0, tpot_s=0.0, step=0.01)  # warm-up 0.01 s, then 0.02, 0.03 and 0.04 s
    metrics = measure(engine)
    assert metrics.ttft_s == pytest.approx(0.03)
    assert metrics.p99_ttft_s == pytest.approx(0.04)
    assert metrics.std_ttft_s == pytest.approx((2 * 4 * 0.01**2 / 11) ** 0.5)


def test_samples_are_one_row_a_request() -> None:
    samples = performance.run(PlannedEngine(0.001, 0.001), CONFIG).samples
    assert [(row["iteration"], row["request"]) for row in samples] == [(i, r) for i in range(3) for r in range(4)]
    assert {tuple(row) for row in samples} == {
        ("iteration", "request", "wall_s", "ttft_s", "tpot_s", "e2e_s", "prompt_tokens", "output_tokens")
    }


def test_one_token_has_no_time_per_further_token() -> None:
    metrics = measure(PlannedEngine(0.001, 0.001), CONFIG.model_copy(update={"max_new_tokens": 1}))
    assert metrics.tpot_s is None
    assert metrics.p99_tpot_s is None
    assert metrics.ttft_s == pytest.approx(0.001)


def test_unknown_times_and_memory_stay_unknown() -> None:
    class Mute(PlannedEngine):
        def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
            return [replace(g, ttft_s=None, e2e_s=None, decode_s=None) for g in super().generate(*args, **kwargs)]

    metrics = measure(Mute(0.001, 0.001))
    unknown = ("ttft_s", "p95_tpot_s", "e2e_latency_s", "weights_gb", "kv_cache_gb", "mean_peak_mem_mb")
    assert {name: getattr(metrics, name) for name in unknown} == dict.fromkeys(unknown)
    assert metrics.tokens_per_second is not None


def test_memory_is_the_last_peak_and_the_mean_of_what_was_used() -> None:
    reports = [
        MemoryReport(weights_gb=1.0, kv_cache_gb=2.0, kv_cache_tokens=8192, peak_mb=peak, used_mb=used, source="test")
        for peak, used in ((10.0, 10.0), (30.0, 20.0), (40.0, 30.0))
    ]
    metrics = measure(ChangingEngine(*reports, ttft_s=0.001, tpot_s=0.0))
    assert (metrics.mean_peak_mem_mb, metrics.mean_avg_mem_mb, metrics.memory_source) == (40.0, 20.0, "test")
    assert (metrics.weights_gb, metrics.kv_cache_gb, metrics.kv_cache_tokens) == (1.0, 2.0, 8192)
    assert metrics.max_concurrency == 2.0


def test_memory_is_read_a_few_times_however_long_the_run() -> None:
    engine = ChangingEngine(ttft_s=0.0, tpot_s=0.0)
    measure(engine, CONFIG.model_copy(update={"num_runs": 2000}))
    assert engine.memory_calls == 20


@pytest.mark.parametrize(("num_runs", "labelled"), [(12, ["p95", "p99"]), (80, ["p99"]), (400, [])])
def test_percentiles_that_are_the_maximum_say_so(num_runs: int, labelled: list[str]) -> None:
    notes = performance.run(PlannedEngine(0.0, 0.0), CONFIG.model_copy(update={"num_runs": num_runs})).notes
    assert [note.split()[1] for note in notes if "is the maximum" in note] == labelled


@pytest.mark.parametrize(("batch_size", "said"), [(1, False), (4, True)])
def test_queueing_in_a_batch_is_said(batch_size: int, said: bool) -> None:
    notes = performance.run(PlannedEngine(0.0, 0.0), CONFIG.model_copy(update={"batch_size": batch_size})).notes
    assert any("queueing" in note for note in notes) is said


@pytest.mark.parametrize("stops_at", [1, 4])
def test_unequal_work_makes_no_number(stops_at: int) -> None:
    with pytest.raises(BenchmarkError, match="equal work"):
        performance.run(PlannedEngine(0.0, 0.0, stops_at=stops_at), CONFIG)


def test_a_lost_request_makes_no_number() -> None:
    class Lossy(PlannedEngine):
        def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
            return super().generate(*args, **kwargs)[1:]

    with pytest.raises(BenchmarkError, match="3 answers"):
        performance.run(Lossy(0.0, 0.0), CONFIG)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (4092, "raise --max-model-len to 4097 or shorten --prompt, or lower --max-new-tokens to 4"),
        (5000, "raise --max-model-len to 5005 or shorten --prompt"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_before_any_run(words: int, remedy: str) -> None:
    engine = PlannedEngine()
    with pytest.raises(BenchmarkError) as refused:
        performance.run(engine, CONFIG.model_copy(update={"prompt": "word " * words}))
    assert refused.value.remedy == remedy
    assert engine.batches == []


def test_a_prompt_that_just_fits_runs() -> None:
    config = CONFIG.model_copy(update={"prompt": "word " * 4091, "num_runs": 1, "batch_size": 1})
    assert measure(PlannedEngine(0.0, 0.0), config).prompt_tokens == 4091


def test_an_engine_that_stops_ends_the_benchmark() -> None:
    with pytest.raises(EngineError):
        performance.run(PlannedEngine(0.0, 0.0, fail_after=2), CONFIG)


def test_progress_is_told_after_each_iteration() -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, unit: str = "requests") -> None:
        told.append((done, total))

    performance.run(PlannedEngine(0.0, 0.0), CONFIG.model_copy(update={"num_runs": 12, "batch_size": 4}), progress)
    assert told == [(0, 12), (4, 12), (8, 12), (12, 12)]
