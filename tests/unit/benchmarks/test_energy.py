"""The energy benchmark: its arithmetic, what it runs, and what it says when it cannot measure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.benchmarks import base, energy
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.errors import BenchmarkError, EngineError
from slim_eval.power import Conditions, DeviceState, EnergyReading, Meter, NoMeter, PowerSample
from slim_eval.results.records import EnergyMetrics, Measurement
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
    conditions=Conditions(1200.0, 1300.0, 0.92, 2619.0, 55.0, 60.0),
    notes=("a note",),
)
HEADLINE = {
    "energy_joules", "energy_joules_net", "energy_kwh", "joules_per_output_token", "joules_per_total_token",
    "tokens_per_joule", "energy_per_query_j", "avg_power_watts",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_second_of_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration before the window and one behind it, of an engine that takes no time."""
    monkeypatch.setattr(energy, "LEAD_IN_S", 0.0)


class PlannedMeter(Meter):
    """Gives the reading it was given, and remembers what happened in its window."""

    def __init__(self, reading: EnergyReading, idle: float | None = 50.0, engine: PlannedEngine | None = None) -> None:
        self.reading, self.idle, self.engine = reading, idle, engine
        self.events: list[str] = []

    def start(self) -> None:
        self.events.append(f"start after {self._batches()}")

    def open(self) -> None:
        self.events.append(f"open after {self._batches()}")

    def close(self) -> None:
        self.events.append(f"close after {self._batches()}")

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
        "min_sm_clock_mhz": 1200.0,
        "mean_sm_clock_mhz": 1300.0,
        "sm_clock_share": 0.92,
        "mean_memory_clock_mhz": 2619.0,
        "mean_temperature_celsius": 55.0,
        "max_temperature_celsius": 60.0,
        "throttle_reasons": {},
        "intervals": {},
        "devices": ("GPU-1",),
        "valid": True,
        "invalid_reasons": (),
        "host": None,
        "max_contention": None,
        "batch_size": 4,
        "num_runs": 12,
        "num_lead_in": 4,
        "prompt_tokens": 3.0,
        "output_tokens": 5.0,
    }
    close = {key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()}
    assert metrics(measured).model_dump() == close
    assert [(row["t_s"], row["watts"]) for row in measured.samples] == [(0.0, 190.0), (2.0, 200.0), (4.0, 210.0)]
    assert measured.notes == ("a note",)


def test_the_window_is_cut_out_of_work_that_goes_on_before_and_behind_it() -> None:
    engine = PlannedEngine(0.0, 0.0)
    meter = PlannedMeter(READING, engine=engine)
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, unit: str = "requests") -> None:
        told.append((done, total, unit))

    measured = energy.run(engine, EnergyConfig(sample_runs=5, batch_size=2), WORKLOAD, meter, progress)
    assert meter.events == ["idle after 0", "start after 0", "open after 1", "close after 4", "stop after 5"]
    assert engine.batches == [("three short words",) * 2] * 5
    assert told == [(2, 6, "requests"), (4, 6, "requests"), (6, 6, "requests")]
    assert metrics(measured).num_lead_in == 2


def test_the_lead_takes_its_time_after_its_first_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(energy.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(energy, "LEAD_IN_S", 1.0)

    class Slow(PlannedEngine):
        def generate(self, prompts, *, max_new_tokens, ignore_eos=True):  # type: ignore[no-untyped-def]
            now[0] += 30.0 if not self.batches else 0.4  # the first batch compiles
            return super().generate(prompts, max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)

    engine = Slow(0.0, 0.0)
    meter = PlannedMeter(READING, engine=engine)
    measured = energy.run(engine, EnergyConfig(sample_runs=2), WORKLOAD, meter)
    # 30 s, then 0.4 s thrice; behind the window one more.
    assert meter.events[1:] == ["start after 0", "open after 4", "close after 6", "stop after 7"]
    assert metrics(measured).num_lead_in == 4


def test_the_synthetic_prompts_of_the_window_do_not_depend_on_the_lead_in() -> None:
    workload = PerformanceConfig(input_len=4, max_new_tokens=5)
    engines = [PlannedEngine(0.0, 0.0) for _ in range(3)]
    for engine, seed in zip(engines, (7, 7, 8), strict=True):
        config = EnergyConfig(sample_runs=4, batch_size=2)
        measured = energy.run(engine, config, workload, PlannedMeter(READING), seed=seed)
        assert metrics(measured).prompt_tokens == 4
    first, again, other = (engine.batches for engine in engines)
    assert first == again
    assert first[1:3] != other[1:3]
    prompts = [prompt for batch in first for prompt in batch]
    assert len(set(prompts)) == len(prompts) == 8
    assert first[1:3] == [tuple(base.prompts(engines[0], workload, number, 2, 7)) for number in (0, 1)]


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invalid_reasons": ("throttled by power cap in 1.0% of the samples",)}, "throttled by power cap"),
        ({"invalid_reasons": ("other processes on the GPU: pid 1",)}, "other processes"),
        ({"joules": None}, "the meter returned no energy"),
        ({"joules": 0.0}, "the meter returned no energy"),
    ],
)
def test_a_disturbed_window_keeps_its_evidence_and_no_number(changes: dict[str, object], reason: str) -> None:
    measured = measure(replace(READING, **changes), idle=None)
    found, good = metrics(measured).model_dump(), metrics(measure(READING)).model_dump()
    assert {key: found[key] for key in HEADLINE} == dict.fromkeys(HEADLINE)
    assert (found["valid"], len(found["invalid_reasons"])) == (False, 1)
    assert reason in found["invalid_reasons"][0]
    kept = found.keys() - HEADLINE - {"valid", "invalid_reasons", "idle_power_watts"}
    assert {key: found[key] for key in kept} == {key: good[key] for key in kept}
    assert len(measured.samples) == 3


def test_idle_power_that_is_unknown_leaves_net_energy_unknown_and_says_so() -> None:
    measured = measure(READING, idle=None)
    found = metrics(measured)
    assert (found.energy_joules, found.energy_joules_net, found.valid) == (800.0, None, True)
    assert any("net energy is unknown" in note for note in measured.notes)


def test_idle_power_above_the_window_leaves_net_energy_unknown_and_says_so() -> None:
    measured = measure(READING, idle=250.0)
    found = metrics(measured)
    assert (found.energy_joules, found.energy_joules_net, found.valid) == (800.0, None, True)
    assert found.idle_power_watts == 250.0
    assert any("idle power (250.0 W) was above" in note for note in measured.notes)


def test_requests_of_unequal_length_are_no_measurement() -> None:
    engine = PlannedEngine(0.0, 0.0, stops_at=3)
    measured = metrics(energy.run(engine, EnergyConfig(sample_runs=1), WORKLOAD, PlannedMeter(READING)))
    assert measured.invalid_reasons == ("requests generated 3 to 3 tokens, not 5",)
    assert measured.joules_per_output_token is None


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


def test_rows_tell_the_state_of_the_slowest_and_the_hottest_device() -> None:
    states = (DeviceState(1400.0, 1215.0, 50.0, ()), DeviceState(1200.0, None, 60.0, ("power cap",)))
    reading = replace(READING, samples=(PowerSample(0.0, (70.0, 130.0), states),))
    (row,) = measure(reading).samples
    assert row == {
        "t_s": 0.0, "watts": 200.0, "device_watts": [70.0, 130.0], "sm_clock_mhz": 1200.0, "memory_clock_mhz": 1215.0,
        "temperature_celsius": 60.0, "throttled": True,
    }  # fmt: skip


def test_rows_leave_out_what_no_device_told() -> None:
    reading = replace(READING, samples=(PowerSample(0.0, (70.0,), (DeviceState(temperature_celsius=50.0),)),))
    assert measure(reading).samples == ({"t_s": 0.0, "watts": 70.0, "temperature_celsius": 50.0},)


@pytest.mark.parametrize(
    ("boundaries", "shortest", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], 1.0, [(0.0, 1.0, 1), (1.0, 2.0, 1), (2.0, 3.0, 1)]),
        ([0.0, 0.5, 1.0, 1.5, 2.25], 1.0, [(0.0, 1.0, 2), (1.0, 2.25, 2)]),
        ([0.0, 0.6, 1.2, 1.8], 1.0, [(0.0, 1.8, 3)]),  # what is left over joins the last block
        ([0.0, 0.6], 1.0, []),
        ([0.0, 7.0], 1.0, [(0.0, 7.0, 1)]),
    ],
)
def test_blocks(boundaries: list[float], shortest: float, expected: list[tuple[float, float, int]]) -> None:
    assert energy._blocks(boundaries, shortest) == expected


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=40), st.floats(0.1, 5.0))
def test_blocks_hold_every_iteration_once(iterations: list[float], shortest: float) -> None:
    boundaries = [0.0, *accumulate(iterations)]
    blocks = energy._blocks(boundaries, shortest)
    if not blocks:
        assert boundaries[-1] < shortest
        return
    assert (blocks[0][0], blocks[-1][1]) == (0.0, boundaries[-1])
    assert all(end_s == begin_s for (_, end_s, _), (begin_s, _, _) in pairwise(blocks))
    assert sum(count for _, _, count in blocks) == len(iterations)
    assert all(end_s - begin_s >= shortest for begin_s, end_s, _ in blocks)


def trace(watts: Sequence[float], joules: float, spacing_s: float = 0.05) -> EnergyReading:
    """A window opened at 100 s, of iterations of a second at these powers; `joules` from the counter."""
    samples = [
        PowerSample(second + (i + 0.5) * spacing_s, (power,))
        for second, power in enumerate(watts)
        for i in range(round(1 / spacing_s))
    ]
    return EnergyReading("nvml-counter", float(len(watts)), joules, samples=tuple(samples), opened_s=100.0)


def intervals_of(reading: EnergyReading, iterations: int) -> dict[str, tuple[float, float]]:
    assert reading.joules is not None
    assert reading.duration_s is not None
    found = {
        "energy_joules": reading.joules,
        "joules_per_output_token": reading.joules / 500,
        "avg_power_watts": reading.joules / reading.duration_s,
    }
    return energy._intervals(reading, [101.0 + i for i in range(iterations)], found)


def test_intervals_hold_the_spread_of_blocks_at_the_scale_of_the_counter() -> None:
    watts = [random.Random(i).gauss(200.0, 10.0) for i in range(40)]
    joules = 1.03 * sum(watts)  # the counter is 3 % above the integral
    found = intervals_of(trace(watts, joules), 40)
    assert set(found) == {"energy_joules", "joules_per_output_token", "avg_power_watts"}
    # A t interval of the same seconds: half-width t x s / sqrt(n), as a share of the mean.
    share = 2.02 * statistics.stdev(watts) / 40**0.5 / statistics.fmean(watts)
    for key, number in (("energy_joules", joules), ("joules_per_output_token", joules / 500)):
        low, high = found[key]
        assert low < number < high
        assert (high - low) / 2 / number == pytest.approx(share, rel=0.15)
    assert found["avg_power_watts"] == pytest.approx([end / 40 for end in found["energy_joules"]])


NINE = trace([200.0, 210.0, 190.0] * 3, 1800.0)


@pytest.mark.parametrize(
    ("reading", "iterations", "there"),
    [
        (NINE, 9, True),
        (trace([200.0, 210.0, 190.0, 205.0], 800.0), 4, False),
        (trace([200.0, 210.0] * 4, 1640.0, spacing_s=0.5), 8, False),  # four samples are two seconds: four blocks
        (trace([200.0, 210.0] * 5, 2050.0, spacing_s=0.5), 10, True),
        (trace([0.0] * 9, 1800.0), 9, False),
        (replace(NINE, samples=()), 9, False),
        (replace(NINE, opened_s=None), 9, False),
    ],
    ids=["nine", "four", "four of few samples", "five of few samples", "no power", "no samples", "no opening"],
)
def test_intervals_need_five_blocks_of_power(reading: EnergyReading, iterations: int, there: bool) -> None:
    assert bool(intervals_of(reading, iterations)) is there
