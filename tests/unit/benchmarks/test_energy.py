"""The energy benchmark: its arithmetic, what it runs, and what it says when it cannot measure."""

from __future__ import annotations

import pytest

from slim_eval.benchmarks import energy
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.errors import BenchmarkError, EngineError
from slim_eval.power import EnergyReading, Meter, NoMeter, PowerSample
from slim_eval.records import EnergyMetrics, Measurement
from tests.standins.engine import PlannedEngine

WORKLOAD = PerformanceConfig(prompt="three short words", max_new_tokens=5)
READING = EnergyReading(
    source="nvml-counter",
    duration_s=4.0,
    joules=800.0,
    joules_counter=800.0,
    joules_integral=796.0,
    disagreement=0.005,
    samples=(PowerSample(0.0, (190.0,)), PowerSample(2.0, (200.0,)), PowerSample(4.0, (210.0,))),
    devices=("GPU-1",),
    notes=("a note",),
)


class PlannedMeter(Meter):
    """Gives the reading it was given, and remembers what happened in its window."""

    def __init__(self, reading: EnergyReading, idle: float | None = 50.0, engine: PlannedEngine | None = None) -> None:
        self.reading, self.idle, self.engine = reading, idle, engine
        self.events: list[str] = []

    def start(self) -> None:
        self.events.append(f"start after {self._batches()}")

    def stop(self) -> EnergyReading:
        self.events.append(f"stop after {self._batches()}")
        return self.reading

    def idle_power_watts(self, seconds: float) -> float | None:
        self.events.append(f"idle after {self._batches()}")
        return self.idle

    def _batches(self) -> int:
        return len(self.engine.batches) if self.engine else -1


def measure(reading: EnergyReading, *, idle: float | None = 50.0, runs: int = 10, batch: int = 4) -> Measurement:
    engine = PlannedEngine(0.0, 0.0)
    return energy.run(engine, EnergyConfig(sample_runs=runs, batch_size=batch), WORKLOAD, PlannedMeter(reading, idle))


def metrics(measurement: Measurement) -> EnergyMetrics:
    assert isinstance(measurement.metrics, EnergyMetrics)
    return measurement.metrics


def test_every_metric_by_its_definition() -> None:
    measured = measure(READING)
    # 10 requests in batches of 4 are 3 batches, 12 requests: 60 output and 36 prompt tokens.
    expected = {
        "energy_joules": 800.0,
        "energy_joules_net": 600.0,
        "energy_kwh": 800 / 3.6e6,
        "joules_per_output_token": 800 / 60,
        "joules_per_total_token": 800 / 96,
        "tokens_per_joule": 60 / 800,
        "energy_per_query_j": 800 / 12,
        "avg_power_watts": 200.0,
        "min_power_watts": 190.0,
        "max_power_watts": 210.0,
        "std_power_watts": 10.0,
        "idle_power_watts": 50.0,
        "duration_seconds": 4.0,
        "energy_source": "nvml-counter",
        "energy_joules_counter": 800.0,
        "energy_joules_integral": 796.0,
        "counter_disagreement": 0.005,
        "devices": ("GPU-1",),
        "valid": True,
        "invalid_reasons": (),
        "batch_size": 4,
        "num_runs": 12,
        "prompt_tokens": 3.0,
        "output_tokens": 5.0,
    }
    close = {key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()}
    assert metrics(measured).model_dump() == close
    assert [(row["t_s"], row["watts"]) for row in measured.samples] == [(0.0, 190.0), (2.0, 200.0), (4.0, 210.0)]
    assert measured.notes == ("a note",)


def test_idle_comes_first_then_one_warm_up_then_the_window() -> None:
    engine = PlannedEngine(0.0, 0.0)
    meter = PlannedMeter(READING, engine=engine)
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, unit: str = "requests") -> None:
        told.append((done, total, unit))

    energy.run(engine, EnergyConfig(sample_runs=5, batch_size=2), WORKLOAD, meter, progress)
    assert meter.events == ["idle after 0", "start after 1", "stop after 4"]
    assert engine.batches == [("three short words",) * 2] * 4
    assert told == [(2, 6, "requests"), (4, 6, "requests"), (6, 6, "requests")]


def test_without_a_meter_nothing_runs_and_the_reason_is_kept() -> None:
    engine = PlannedEngine()
    measured = energy.run(engine, EnergyConfig(), WORKLOAD, NoMeter("no GPU and no CodeCarbon"))
    expected = EnergyMetrics(invalid_reasons=("no GPU and no CodeCarbon",))
    assert measured == Measurement(expected, notes=("energy was not measured: no GPU and no CodeCarbon",))
    assert (expected.valid, expected.energy_source, engine.batches) == (None, None, [])


def test_a_meter_that_failed_gives_no_number() -> None:
    failed = EnergyReading("nvml", devices=("GPU-1",), invalid_reasons=("NVML failed in the window: GPU is lost",))
    measured = metrics(measure(failed))
    numbers = [key for key, value in measured.model_dump().items() if isinstance(value, float)]
    assert numbers == ["idle_power_watts", "prompt_tokens", "output_tokens"]
    assert measured.valid is False
    assert measured.invalid_reasons == failed.invalid_reasons


def test_a_disturbed_window_keeps_its_numbers_and_is_marked() -> None:
    disturbed = EnergyReading("nvml-integral", 4.0, 800.0, invalid_reasons=("throttled",))
    measured = metrics(measure(disturbed))
    assert (measured.energy_joules, measured.valid, measured.invalid_reasons) == (800.0, False, ("throttled",))
    assert (measured.min_power_watts, measured.std_power_watts) == (None, None)


def test_idle_power_that_is_unknown_leaves_net_energy_unknown() -> None:
    measured = metrics(measure(READING, idle=None))
    assert (measured.energy_joules, measured.energy_joules_net, measured.valid) == (800.0, None, True)


def test_idle_power_above_the_window_is_marked() -> None:
    measured = metrics(measure(READING, idle=250.0))
    assert measured.energy_joules_net == -200.0
    assert measured.valid is False
    assert "idle power (250.0 W) was above" in measured.invalid_reasons[0]


def test_requests_of_unequal_length_are_marked() -> None:
    engine = PlannedEngine(0.0, 0.0, stops_at=3)
    measured = metrics(energy.run(engine, EnergyConfig(sample_runs=1), WORKLOAD, PlannedMeter(READING)))
    assert measured.invalid_reasons == ("requests generated 3 to 3 tokens, not 5",)


def test_an_engine_that_generates_nothing_is_an_error() -> None:
    class Mute(PlannedEngine):
        def generate(self, prompts, *, max_new_tokens, ignore_eos=True):  # type: ignore[no-untyped-def]
            return super().generate(prompts, max_new_tokens=0, ignore_eos=ignore_eos)

    with pytest.raises(BenchmarkError, match="no tokens"):
        energy.run(Mute(0.0, 0.0), EnergyConfig(sample_runs=1), WORKLOAD, PlannedMeter(READING))


def test_an_engine_that_stops_stops_the_meter_too() -> None:
    engine = PlannedEngine(0.0, 0.0, fail_after=3)
    meter = PlannedMeter(READING, engine=engine)
    with pytest.raises(EngineError):
        energy.run(engine, EnergyConfig(sample_runs=10), WORKLOAD, meter)
    assert meter.events[-1] == "stop after 3"


def test_several_devices_are_summed_and_kept_apart_in_the_samples() -> None:
    two = EnergyReading("nvml-counter", 4.0, 800.0, samples=(PowerSample(0.0, (70.0, 130.0)),))
    measured = measure(two)
    assert measured.samples == ({"t_s": 0.0, "watts": 200.0, "device_watts": [70.0, 130.0]},)
    assert (metrics(measured).max_power_watts, metrics(measured).std_power_watts) == (200.0, None)
