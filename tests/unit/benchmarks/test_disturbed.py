"""When the host is observed, and what a disturbance does to the metrics of speed and of energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slim_eval.benchmarks import energy, performance
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.power import EnergyReading
from slim_eval.results.records import EnergyMetrics, Measurement, PerformanceMetrics
from slim_eval.utils.host import HostUse, HostWindow
from tests.standins.engine import PlannedClock, PlannedEngine
from tests.unit.benchmarks.test_energy import READING, PlannedMeter

CONFIG = PerformanceConfig(num_warmup=8, num_runs=80, batch_size=4, prompt="one two three", max_new_tokens=5)
BUSY, QUIET = HostUse(cpus=2, seconds=4.0, other_share=0.48), HostUse(cpus=2, seconds=4.0, other_share=0.02)
REASON = "other processes took 48.0% of the 2 CPUs (limit 10%)"


class PlannedWindow(HostWindow):
    """Has seen what it is told, and notes how many batches were done when it was opened and closed."""

    def __init__(self, use: HostUse, engine: PlannedEngine, max_contention: float = 0.1) -> None:
        super().__init__(max_contention)
        self.use, self.engine = use, engine
        self.opened: list[int] = []
        self.closed: list[int] = []

    def open(self) -> None:
        self.opened.append(len(self.engine.batches))

    def close(self) -> HostUse:
        self.closed.append(len(self.engine.batches))
        return self.use


def speed(window: PlannedWindow) -> Measurement:
    return performance.run(window.engine, CONFIG, window=window)


def joules(window: PlannedWindow, reading: EnergyReading = READING) -> Measurement:
    config = EnergyConfig(sample_runs=10, batch_size=4)
    return energy.run(window.engine, config, CONFIG, PlannedMeter(reading), window=window)


@pytest.fixture(autouse=True)
def _no_second_of_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "LEAD_IN_S", 0.0)


def windows_of(factor: Callable[[int], float]) -> tuple[PlannedWindow, PerformanceMetrics]:
    """Measured on a clock that only the engine advances; `factor` is on the times of a batch, by its number."""
    clock = PlannedClock()
    window = PlannedWindow(QUIET, PlannedEngine(clock=clock, jitter=0.01, factor=factor))
    metrics = performance.run(window.engine, CONFIG, window=window, clock=clock).metrics
    assert isinstance(metrics, PerformanceMetrics)
    return window, metrics


def test_the_window_of_speed_begins_after_the_warm_up_and_ends_with_the_last_iteration() -> None:
    window, metrics = windows_of(lambda batch: 1.0)
    assert (window.opened, window.closed, metrics.num_warmup) == ([2], [2 + 20], 8)


def test_iterations_given_back_are_not_part_of_it() -> None:
    """14 batches get faster: the older half of ten goes back until no trend is left, twice."""
    window, metrics = windows_of(lambda batch: 1 + 0.1 * max(0, 14 - batch))
    assert metrics.num_warmup == (2 + 10) * 4
    assert (window.opened, window.closed) == ([2, 12, 17], [2 + 10 + 20])


def test_the_window_of_energy_contains_its_counted_iterations() -> None:
    window = PlannedWindow(QUIET, PlannedEngine())
    joules(window)
    assert (window.opened, window.closed) == ([0], [5])  # one of lead-in, three that count, one of lead-out


@pytest.mark.parametrize("measure", [speed, joules])
@pytest.mark.parametrize(("use", "limit"), [(QUIET, 0.1), (BUSY, 0.5), (BUSY, 1.0), (HostUse(), 0.1)])
def test_within_the_limit_nothing_is_refused(
    measure: Callable[[PlannedWindow], Measurement], use: HostUse, limit: float
) -> None:
    made = measure(PlannedWindow(use, PlannedEngine(0.001, 0.0), limit))
    metrics: Any = made.metrics
    assert (metrics.valid, metrics.invalid_reasons, made.disturbances) == (True, (), ())
    assert (metrics.host, metrics.max_contention) == (use, limit)


def test_a_disturbed_speed_keeps_its_numbers_as_evidence() -> None:
    made = speed(PlannedWindow(BUSY, PlannedEngine(0.001, 0.0)))
    metrics = made.metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert (metrics.valid, metrics.invalid_reasons, made.disturbances) == (False, (REASON,), (REASON,))
    assert metrics.ttft_s is not None
    assert len(made.samples) == 80


def test_a_disturbed_energy_has_no_energy() -> None:
    made = joules(PlannedWindow(BUSY, PlannedEngine()))
    metrics = made.metrics
    assert isinstance(metrics, EnergyMetrics)
    assert (metrics.valid, metrics.invalid_reasons, made.disturbances) == (False, (REASON,), (REASON,))
    assert (metrics.energy_joules, metrics.energy_joules_counter) == (None, 800.0)
    assert metrics.host == BUSY


def test_what_the_meter_refuses_is_no_disturbance_of_the_host() -> None:
    made = joules(PlannedWindow(QUIET, PlannedEngine()), EnergyReading("nvml", invalid_reasons=("throttled",)))
    metrics = made.metrics
    assert isinstance(metrics, EnergyMetrics)
    assert (metrics.valid, made.disturbances) == (False, ()), "waiting for a quiet host would not help"


def test_without_a_window_it_is_neither_valid_nor_invalid() -> None:
    metrics = performance.run(PlannedEngine(0.001, 0.0), CONFIG).metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert (metrics.valid, metrics.host, metrics.max_contention) == (None, None, None)
