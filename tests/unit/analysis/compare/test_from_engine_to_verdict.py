"""From an engine of known times to a verdict: the truth is measured, a planted slowdown is called, none is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slim_eval.analysis.compare.comparison import MetricVerdict, compare
from slim_eval.benchmarks import performance
from slim_eval.config import PerformanceConfig
from slim_eval.results.records import PerformanceMetrics
from slim_eval.results.variants import Variant
from tests.standins.engine import PlannedClock, PlannedEngine

CONFIG = PerformanceConfig(num_runs=800, max_new_tokens=100, prompt="one two three")
TTFT_S, TPOT_S = 0.05, 0.01


@pytest.fixture
def measured(make_variant: Callable[..., Variant]) -> Callable[..., Variant]:
    """The variant that the performance benchmark leaves of an engine with 3 % jitter."""

    def measure(precision: str, slowdown: float, seed: int) -> Variant:
        clock = PlannedClock()
        engine = PlannedEngine(TTFT_S * slowdown, TPOT_S * slowdown, clock=clock, jitter=0.03, seed=seed)
        measurement = performance.run(engine, CONFIG, clock=clock)
        return make_variant(
            precision=precision, performance=measurement.metrics.model_dump(), energy=None,
            samples={"performance": measurement.samples},
        )  # fmt: skip

    return measure


def test_measured_values_are_within_one_percent_of_the_truth(measured: Callable[..., Variant]) -> None:
    for seed in range(5):
        found = measured("fp16", 1.0, seed).performance
        assert isinstance(found, PerformanceMetrics)
        e2e_s = TTFT_S + 99 * TPOT_S
        assert found.ttft_s == pytest.approx(TTFT_S, rel=0.01)
        assert found.tpot_s == pytest.approx(TPOT_S, rel=0.01)
        assert found.e2e_latency_s == pytest.approx(e2e_s, rel=0.01)
        assert found.mean_latency_s == pytest.approx(e2e_s / 8, rel=0.01)
        assert found.tokens_per_second == pytest.approx(8 * 100 / e2e_s, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slowdown_of_three_percent_is_called(measured: Callable[..., Variant], seed: int) -> None:
    made = compare(measured("fp16", 1.0, seed), measured("int8", 1.03, 100 + seed), 1.0)
    verdicts = {each.metric.key: each.verdict for each in made.metrics}
    for key in ("ttft_s", "tpot_s", "e2e_latency_s", "mean_latency_s", "tokens_per_second"):
        assert verdicts[key] is MetricVerdict.WORSE, key


@pytest.mark.large
def test_a_planted_slowdown_of_nothing_is_not_called(measured: Callable[..., Variant]) -> None:
    verdicts = []
    for seed in range(20):
        made = compare(measured("fp16", 1.0, seed), measured("int8", 1.0, 100 + seed), 1.0)
        verdicts.append(next(each.verdict for each in made.metrics if each.metric.key == "tpot_s"))
    assert verdicts.count(MetricVerdict.UNDECIDED) >= 16  # 19 expected: the interval misses once in twenty
