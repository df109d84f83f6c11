"""The performance benchmark over an engine whose times are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from slim_eval.benchmarks import performance
from slim_eval.config import PerformanceConfig
from slim_eval.engines.engine import Generation, MemoryReport, Prompt
from slim_eval.errors import BenchmarkError, EngineError
from slim_eval.results.records import Measurement, PerformanceMetrics
from tests.standins.engine import PlannedClock, PlannedEngine

CONFIG = PerformanceConfig(num_warmup=3, num_runs=10, batch_size=4, prompt="one two three", max_new_tokens=5)


class ChangingEngine(PlannedEngine):
    """A planned engine whose times grow by `step` s a batch, and whose memory is what the test says."""

    def __init__(self, *reports: MemoryReport, step: float = 0.0, **planned: Any) -> None:
        super().__init__(**planned)
        self._reports, self._step = list(reports), step
        self.memory_calls = 0

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
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
    assert [note.split()[1] for note in notes if "equals the maximum" in note] == labelled


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


# --- Simulations: an engine whose times are known, on a clock that only it moves. ---

TTFT_S, TPOT_S, TOKENS, BATCH = 0.050, 0.010, 101, 8
E2E_S = TTFT_S + (TOKENS - 1) * TPOT_S
WORK = PerformanceConfig(batch_size=BATCH, max_new_tokens=TOKENS)


def simulate(
    config: PerformanceConfig = WORK,
    *,
    jitter: float = 0.0,
    seed: int = 0,
    factor: Callable[[int], float] = lambda batch: 1.0,
) -> tuple[PerformanceMetrics, PlannedEngine, Measurement]:
    clock = PlannedClock()
    engine = PlannedEngine(TTFT_S, TPOT_S, clock=clock, jitter=jitter, seed=seed, factor=factor)
    measurement = performance.run(engine, config, clock=clock)
    assert isinstance(measurement.metrics, PerformanceMetrics)
    return measurement.metrics, engine, measurement


def iterations(seed: int, *, jitter: float, count: int = 24) -> list[performance.Iteration]:
    """What the benchmark would hand to its arithmetic."""
    engine = PlannedEngine(TTFT_S, TPOT_S, clock=PlannedClock(), jitter=jitter, seed=seed)
    batches = (engine.generate(["word"] * BATCH, max_new_tokens=TOKENS) for _ in range(count))
    return [performance.Iteration(batch[0].e2e_s or 0.0, batch) for batch in batches]


def changed(**changes: Any) -> PerformanceConfig:
    return WORK.model_copy(update=changes)


@pytest.mark.parametrize("seed", range(10))
def test_measured_values_are_within_one_percent_of_the_truth(seed: int) -> None:
    metrics, _, _ = simulate(jitter=0.02, seed=seed)
    truth = {
        "ttft_s": TTFT_S, "median_ttft_s": TTFT_S, "tpot_s": TPOT_S, "median_tpot_s": TPOT_S, "e2e_latency_s": E2E_S,
        "mean_latency_s": E2E_S / BATCH, "median_latency_s": E2E_S / BATCH,
        "tokens_per_second": BATCH * TOKENS / E2E_S,
    }  # fmt: skip
    assert {key: getattr(metrics, key) for key in truth} == {key: pytest.approx(truth[key], rel=0.01) for key in truth}
    assert metrics.std_tpot_s == pytest.approx(0.02 * TPOT_S, rel=0.35)
    assert metrics.num_iterations == 63
    assert metrics.warmup_stable is True


def test_an_interval_is_around_its_value_and_as_wide_as_theory_has_it() -> None:
    metrics, _, measurement = simulate(changed(num_runs=800), jitter=0.05, seed=1)
    walls = [row["wall_s"] for row in measurement.samples if row["request"] == 0]
    mean = sum(walls) / len(walls)
    stderr = math.sqrt(sum((wall - mean) ** 2 for wall in walls) / (len(walls) - 1) / len(walls))
    low, high = metrics.intervals["mean_latency_s"]
    assert (high - low) / 2 == pytest.approx(1.984 * stderr / BATCH, rel=0.05)  # t with 99 degrees of freedom
    assert metrics.mean_latency_s is not None
    tokens = BATCH * TOKENS
    assert metrics.intervals["tokens_per_second"] == pytest.approx((tokens / (BATCH * high), tokens / (BATCH * low)))
    names = ("ttft_s", "tpot_s", "e2e_latency_s")
    assert set(metrics.intervals) == {
        "mean_latency_s", "tokens_per_second", "median_latency_s", "p95_latency_s", *names,
        *(f"{statistic}_{name}" for statistic in ("median", "p95") for name in names),
    }  # fmt: skip
    for key, (low, high) in metrics.intervals.items():
        assert low < getattr(metrics, key) < high, key


def test_intervals_resample_iterations_and_not_requests() -> None:
    """All requests of a batch have the same times: eight of them say no more than one."""
    eight, _, _ = simulate(changed(num_runs=240), jitter=0.05)
    one, _, _ = simulate(changed(num_runs=30, batch_size=1, num_warmup=2), jitter=0.05)
    assert eight.num_iterations == one.num_iterations == 30
    assert eight.intervals["tpot_s"] == pytest.approx(one.intervals["tpot_s"])


@pytest.mark.large
def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    """200 runs: with a true coverage of 95 %, fewer than 182 hits have a probability of 1 in 1000."""
    found = [performance.mean_interval(iterations(seed, jitter=0.05), "tpot_s") for seed in range(200)]
    assert sum(TPOT_S in interval for interval in found if interval is not None) >= 182


def apart(one: PerformanceMetrics, other: PerformanceMetrics, key: str) -> bool:
    (low, high), (other_low, other_high) = one.intervals[key], other.intervals[key]
    return high < other_low or other_high < low


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_slowdown_is_called_and_a_planted_none_is_not(seed: int) -> None:
    base, _, _ = simulate(jitter=0.02, seed=2 * seed)
    same, _, _ = simulate(jitter=0.02, seed=2 * seed + 1)
    slower, _, _ = simulate(jitter=0.02, seed=2 * seed + 1, factor=lambda batch: 1.03)
    for key in ("tpot_s", "tokens_per_second"):
        assert not apart(base, same, key)
        assert apart(base, slower, key)


def test_constant_latencies_have_intervals_of_no_width() -> None:
    metrics, _, _ = simulate(changed(num_runs=100 * BATCH))
    assert metrics.warmup_stable is True
    for key, (low, high) in metrics.intervals.items():
        assert low == pytest.approx(high), key
        assert low == pytest.approx(getattr(metrics, key)), key


def test_one_iteration_has_no_intervals() -> None:
    metrics, _, _ = simulate(changed(num_runs=1))
    assert metrics.intervals == {}
    assert metrics.warmup_stable is None


def test_times_that_are_not_reported_have_no_intervals() -> None:
    class Mute(PlannedEngine):
        def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
            return [replace(g, ttft_s=None, e2e_s=None, decode_s=None) for g in super().generate(*args, **kwargs)]

    clock = PlannedClock()
    metrics = performance.run(Mute(clock=clock), changed(target_ci=0.02), clock=clock).metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert set(metrics.intervals) == {"mean_latency_s", "median_latency_s", "tokens_per_second"}
    assert metrics.stop_reason == "target_ci reached", "throughput alone counts"


@pytest.mark.parametrize("field", ["ttft_s", "e2e_s", "decode_s"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.001])
def test_a_time_that_is_none_makes_no_number(field: str, value: float) -> None:
    class Broken(PlannedEngine):
        def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
            *others, last = super().generate(*args, **kwargs)
            return [*others, replace(last, **{field: value})]

    with pytest.raises(BenchmarkError, match=f"{field} = {value}"):
        performance.run(Broken(0.0, 0.0), CONFIG)


# --- Warm-up ---


def test_a_slow_start_is_given_back_to_the_warm_up() -> None:
    """14 batches get faster, 2 of them in the warm-up: the older half of a window goes back until no trend is left."""
    metrics, engine, measurement = simulate(jitter=0.01, factor=lambda batch: 1 + 0.1 * max(0, 14 - batch))
    assert metrics.warmup_stable is True
    assert metrics.num_warmup == (2 + 10) * BATCH
    assert metrics.num_runs == 63 * BATCH, "as many as asked for, all the same"
    assert len(engine.batches) == 2 + 10 + 63
    assert len(measurement.samples) == 63 * BATCH
    assert metrics.tpot_s == pytest.approx(TPOT_S, rel=0.02)


@pytest.mark.large
def test_a_stable_engine_is_measured_from_the_first_iteration_on() -> None:
    runs = [simulate(changed(num_runs=80), jitter=0.02, seed=seed) for seed in range(100)]
    at_once = [len(engine.batches) == 2 + 10 for _, engine, _ in runs]
    assert at_once == [metrics.num_warmup == 2 * BATCH for metrics, _, _ in runs]
    assert sum(at_once) >= 95  # the test is at the level of 1 %
    assert all(metrics.warmup_stable for metrics, _, _ in runs)


@pytest.mark.parametrize("growth", [0.99, 1.01])
def test_an_engine_that_never_settles_is_measured_and_says_so(growth: float) -> None:
    metrics, engine, measurement = simulate(factor=lambda batch: growth**batch)
    assert metrics.warmup_stable is False
    assert metrics.num_warmup == (2 + 10 * 5) * BATCH
    assert metrics.num_runs == 63 * BATCH
    assert len(engine.batches) == 2 + 50 + 63
    assert any("still drifted after 416 requests" in note for note in measurement.notes)


@pytest.mark.parametrize(("iterations", "stable"), [(5, None), (6, True), (9, True)])
def test_short_runs_are_tested_where_a_test_can_say_something(iterations: int, stable: bool | None) -> None:
    metrics, _, _ = simulate(changed(num_runs=iterations * BATCH))
    assert (metrics.warmup_stable, metrics.num_runs) == (stable, iterations * BATCH)
    drifting, _, _ = simulate(changed(num_runs=iterations * BATCH), factor=lambda batch: 0.9**batch)
    assert drifting.warmup_stable is (None if stable is None else False)
    assert drifting.num_runs == iterations * BATCH


# --- When it ends ---


def test_without_a_target_all_of_num_runs_is_measured() -> None:
    metrics, _, _ = simulate(jitter=0.001)
    assert (metrics.num_runs, metrics.stop_reason, metrics.target_ci) == (504, "num_runs reached", None)


@pytest.mark.parametrize("seed", range(5))
def test_a_target_ends_the_measurement_as_soon_as_it_is_met(seed: int) -> None:
    metrics, engine, _ = simulate(changed(target_ci=0.01, num_runs=4000), jitter=0.04, seed=seed)
    assert metrics.stop_reason == "target_ci reached"
    assert metrics.num_iterations is not None
    # 1.96 x 4 % / sqrt(n) = 1 % at n = 61
    assert 35 < metrics.num_iterations < 110
    assert metrics.num_runs == metrics.num_iterations * BATCH
    assert len(engine.batches) == metrics.num_iterations + 2
    for key in ("tpot_s", "tokens_per_second"):
        low, high = metrics.intervals[key]
        assert (high - low) / 2 <= 0.01 * getattr(metrics, key)
    one_less, _, _ = simulate(changed(num_runs=metrics.num_runs - BATCH), jitter=0.04, seed=seed)
    widths = [(high - low) / 2 / getattr(one_less, key) for key, (low, high) in one_less.intervals.items()
              if key in ("tpot_s", "tokens_per_second")]  # fmt: skip
    assert max(widths) > 0.0095, "one iteration earlier it was not met, but for the noise of resampling"


def test_a_target_that_is_met_at_once_still_takes_twenty_iterations() -> None:
    metrics, _, _ = simulate(changed(target_ci=0.02))
    assert (metrics.num_iterations, metrics.stop_reason, metrics.target_ci) == (20, "target_ci reached", 0.02)


def test_num_runs_is_the_most() -> None:
    metrics, _, _ = simulate(changed(target_ci=0.001, num_runs=240), jitter=0.05)
    assert (metrics.num_iterations, metrics.stop_reason) == (30, "num_runs reached before target_ci")


def test_a_target_met_by_the_last_iteration_is_met() -> None:
    metrics, _, _ = simulate(changed(target_ci=0.02, num_runs=20 * BATCH))
    assert (metrics.num_iterations, metrics.stop_reason) == (20, "target_ci reached")


def test_too_few_runs_for_a_target_say_so() -> None:
    metrics, _, measurement = simulate(changed(target_ci=0.02, num_runs=80))
    assert (metrics.num_iterations, metrics.stop_reason) == (10, "num_runs reached before target_ci")
    assert "target_ci needs 20 iterations, 160 requests" in measurement.notes


@pytest.mark.large
def test_stopping_early_leaves_the_interval_honest() -> None:
    """Stopping on a width costs a little coverage: it stays above 90 %, within what 200 runs can tell."""
    hits = 0
    for seed in range(200):
        planned = iterations(seed, jitter=0.06, count=100)
        length = next(length for length in range(1, 101) if performance.precise_enough(planned[:length], 0.02))
        interval = performance.mean_interval(planned[:length], "tpot_s")
        assert 20 <= length < 80
        assert interval is not None
        hits += TPOT_S in interval
    assert hits >= 174  # 1 in 1000 at a coverage of 93 %


def test_progress_ends_where_the_measurement_ends() -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, unit: str = "requests") -> None:
        told.append((done, total))

    clock = PlannedClock()
    engine = PlannedEngine(clock=clock, factor=lambda batch: 1 + max(0, 9 - batch))
    config = changed(target_ci=0.02, num_runs=400, num_warmup=0)
    metrics = performance.run(engine, config, progress, clock=clock).metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert (metrics.num_warmup, metrics.num_runs) == (10 * BATCH, 20 * BATCH)
    done = [each[0] for each in told]
    assert done == sorted(done)
    assert told[0] == (0, 400)
    assert told[-1] == (240, 240)  # 80 of them became warm-up


def test_memory_is_read_at_the_end_of_a_measurement_that_ends_early() -> None:
    clock = PlannedClock()
    reports = [MemoryReport(peak_mb=float(number), used_mb=1.0) for number in range(100)]
    engine = ChangingEngine(*reports, clock=clock)
    metrics = performance.run(engine, changed(target_ci=0.02, num_runs=8 * 1000), clock=clock).metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert metrics.num_iterations == 20
    assert engine.memory_calls == 1
    assert metrics.mean_avg_mem_mb == 1.0


# --- Synthetic prompts ---


def test_synthetic_prompts_are_all_different_warm_up_included() -> None:
    metrics, engine, _ = simulate(changed(input_len=32, num_runs=80))
    prompts = [prompt for batch in engine.batches for prompt in batch]
    assert {len(prompt) for prompt in prompts} == {32}
    assert len(set(prompts)) == len(prompts) == 12 * BATCH
    assert (metrics.prompt_tokens, metrics.input_len) == (32, 32)


def test_two_precisions_are_asked_the_same() -> None:
    _, fast, _ = simulate(changed(input_len=32, num_runs=80))
    _, slow, _ = simulate(changed(input_len=32, num_runs=80), factor=lambda batch: 3.0)
    assert fast.batches == slow.batches
    other = PlannedEngine(0.0, 0.0)
    performance.run(other, changed(input_len=32, num_runs=80), seed=1)
    assert not set(other.batches[0]) & set(fast.batches[0])


def test_a_synthetic_prompt_that_does_not_fit_is_refused() -> None:
    engine = PlannedEngine()
    with pytest.raises(BenchmarkError) as refused:
        performance.run(engine, changed(input_len=4000))
    assert refused.value.remedy == "raise --max-model-len to 4101 or lower --input-len, or lower --max-new-tokens to 96"
    assert engine.batches == []


# --- Memory and bandwidth ---

GPU_REPORT = MemoryReport(weights_gb=6.0, kv_cache_gb=4.0, kv_cache_tokens=40_000, source="test")


class GpuEngine(ChangingEngine):
    device = "cuda"


def on_gpu(engine_type: type[ChangingEngine] = GpuEngine, report: MemoryReport = GPU_REPORT, **attributes: Any) -> Any:
    clock = PlannedClock()
    engine = engine_type(report, ttft_s=TTFT_S, tpot_s=TPOT_S, clock=clock)
    for name, value in attributes.items():
        setattr(engine, name, value)
    config = changed(prompt="one two three", num_runs=8)
    return performance.run(engine, config, memory_bandwidth_gb_s=1000.0, clock=clock).metrics


def test_bandwidth_utilisation_by_hand() -> None:
    metrics = on_gpu()
    kv_bytes = 4 * 2**30 / 40_000
    step = 6 * 2**30 + 8 * (3 + 101 / 2) * kv_bytes
    assert metrics.kv_cache_bytes_per_token == pytest.approx(kv_bytes)
    assert metrics.mbu == pytest.approx(step / (0.010 * 1000e9))
    assert metrics.mbu == pytest.approx(0.6488, abs=1e-4)
    assert metrics.memory_bandwidth_gb_s == 1000.0


@pytest.mark.parametrize(
    ("engine_type", "report", "attributes"),
    [
        (ChangingEngine, GPU_REPORT, {}),  # on a CPU
        (GpuEngine, GPU_REPORT, {"kernels": "emulated"}),
        (GpuEngine, replace(GPU_REPORT, weights_gb=None), {}),
        (GpuEngine, replace(GPU_REPORT, kv_cache_gb=None), {}),
        (GpuEngine, replace(GPU_REPORT, kv_cache_tokens=None), {}),
        (GpuEngine, replace(GPU_REPORT, kv_cache_tokens=800), {}),  # 7 of 8 requests fit
    ],
)
def test_no_bandwidth_utilisation_where_it_would_mean_nothing(
    engine_type: type[ChangingEngine], report: MemoryReport, attributes: dict[str, Any]
) -> None:
    assert on_gpu(engine_type, report, **attributes).mbu is None


@pytest.mark.parametrize(
    "missing",
    ["weights_gb", "kv_cache_bytes_per_token", "prompt_tokens", "output_tokens", "tpot_s", "memory_bandwidth_gb_s"],
)
def test_bandwidth_utilisation_needs_everything(missing: str) -> None:
    known: dict[str, Any] = {
        "weights_gb": 1.0, "kv_cache_bytes_per_token": 0.0, "batch_size": 1, "prompt_tokens": 10.0,
        "output_tokens": 10.0, "tpot_s": 0.001, "memory_bandwidth_gb_s": 2.0 * 2**30 / 1e6,
    }  # fmt: skip
    assert performance.bandwidth_utilisation(PerformanceMetrics(**known)) == pytest.approx(0.5)
    assert performance.bandwidth_utilisation(PerformanceMetrics(**{**known, missing: None})) is None


def test_bandwidths_of_several_gpus_add_up_where_all_are_known() -> None:
    known, silent = {"memory_bandwidth_gb_s": 2000.0}, {"memory_bandwidth_gb_s": None}
    assert performance.memory_bandwidth([known, known]) == 4000.0
    assert [performance.memory_bandwidth(facts) for facts in ([], [silent], [known, silent], [known, {}])] == [None] * 4


def test_concurrency_by_hand() -> None:
    found = performance.concurrency_by_context(20_000, 6000, [300, 5999, 6001])
    assert found == {300: 66, 1024: 19, 2048: 9, 4096: 4, 5999: 3, 6000: 3}
    assert list(found) == sorted(found)
    assert performance.concurrency_by_context(20_000, 512) == {512: 39}
    assert performance.concurrency_by_context(100, 4096) == {1024: 0, 2048: 0, 4096: 0}
    assert performance.concurrency_by_context(None, 4096) == {}


def test_concurrency_is_told_for_the_workload_itself() -> None:
    metrics = on_gpu()
    assert metrics.concurrency_by_context == {104: 384, 1024: 39, 2048: 19, 4096: 9}


def test_an_engine_without_a_kv_cache_to_itself_says_nothing_of_it() -> None:
    metrics, _, _ = simulate(changed(num_runs=8))
    assert (metrics.kv_cache_bytes_per_token, metrics.concurrency_by_context, metrics.mbu) == (None, {}, None)
