"""Choice of GPUs and meters, whose processes are foreign, and the arithmetic on power samples."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval import power
from slim_eval.errors import BenchmarkError, MissingPackageError, UsageError
from slim_eval.power import codecarbon, gpus, meter, nvml
from slim_eval.power.meter import Conditions, DeviceState, PowerSample
from slim_eval.power.nvml import judge_throttling, summarize_states
from slim_eval.utils.host import process_tree


def samples(*pairs: tuple[float, float]) -> list[PowerSample]:
    return [PowerSample(t, (watts,)) for t, watts in pairs]


@pytest.mark.parametrize(
    ("given_samples", "joules"),
    [
        ([], None),
        (samples((0.0, 100.0)), None),
        (samples((0.0, 100.0), (2.0, 100.0)), 200.0),
        (samples((0.0, 0.0), (1.0, 100.0), (4.0, 100.0)), 350.0),  # uneven steps
        ([PowerSample(0.0, (10.0, 1.0)), PowerSample(1.0, (20.0, 2.0))], 16.5),  # two devices
    ],
)
def test_integral(given_samples: Sequence[PowerSample], joules: float | None) -> None:
    end_s = given_samples[-1].t_s if given_samples else 0.0
    assert meter.integral_joules(given_samples, 0.0, end_s) == joules


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30), st.floats(0, 500), st.floats(-50, 50))
def test_the_integral_of_a_line_is_exact(steps: list[float], a: float, b: float) -> None:
    times = [sum(steps[:i]) for i in range(len(steps) + 1)]
    line = samples(*((t, a + b * t) for t in times))
    expected = a * times[-1] + b * times[-1] ** 2 / 2
    assert meter.integral_joules(line, 0.0, times[-1]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("begin", "end", "joules"),
    [
        (0.0, 4.0, 350.0),
        (0.0, 1.0, 50.0),
        (0.5, 0.75, 0.25 * 62.5),  # within one interval
        (0.5, 3.0, 37.5 + 200.0),
        (-1.0, 0.5, 12.5),  # before the first sample power is that of the first
        (3.0, 6.0, 300.0),  # after the last it is that of the last
        (5.0, 6.0, 100.0),
        (2.0, 2.0, 0.0),
    ],
)
def test_the_integral_of_a_part(begin: float, end: float, joules: float) -> None:
    trace = samples((0.0, 0.0), (1.0, 100.0), (4.0, 100.0))
    assert meter.integral_joules(trace, begin, end) == pytest.approx(joules)


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0, 500)), min_size=2, max_size=20),
    st.lists(st.floats(-1, 25), min_size=3, max_size=3),
)
def test_integrals_of_parts_add_up(trace: list[tuple[float, float]], cuts: list[float]) -> None:
    times = [sum(step for step, _ in trace[:i]) for i in range(len(trace))]
    line = samples(*((t, watts) for t, (_, watts) in zip(times, trace, strict=True)))
    a, b, c = sorted(cuts)
    first, second, whole = (meter.integral_joules(line, *ends) for ends in ((a, b), (b, c), (a, c)))
    assert first is not None
    assert second is not None
    assert whole == pytest.approx(first + second, rel=1e-9, abs=1e-6)


def state(sm: float | None, heat: float | None, *throttles: str, memory: float | None = 1215.0) -> DeviceState:
    return DeviceState(sm, memory, heat, throttles)


def test_conditions_are_those_of_all_samples_and_devices() -> None:
    found = summarize_states(
        [
            (state(1400.0, 50.0), state(1000.0, 70.0, "power cap", "power brake")),
            (state(1200.0, 54.0, "power cap"), state(1000.0, 66.0, "power cap")),
            (state(1400.0, None), state(None, 60.0)),
            (state(1400.0, 60.0), state(1000.0, 60.0)),
        ]
    )
    assert (found.min_sm_clock_mhz, found.mean_sm_clock_mhz) == (1000.0, pytest.approx(8400 / 7))
    assert (found.mean_temperature_celsius, found.max_temperature_celsius) == (60.0, 70.0)
    assert found.mean_memory_clock_mhz == 1215.0
    assert found.throttles == {"power brake": 0.25, "power cap": 0.5}


def test_the_slowest_device_decides_how_much_clock_was_lost() -> None:
    samples = [(state(1980.0, 50.0), state(900.0, 50.0)), (state(1980.0, 50.0), state(1100.0, 50.0))]
    assert summarize_states(samples, (1980.0, 1250.0)).sm_clock_share == 0.8
    for unknown in ((1980.0, None), ()):
        assert summarize_states(samples, unknown).sm_clock_share is None


def test_what_a_power_cap_did_is_seen_on_the_device_that_it_held() -> None:
    """Another device, idle at a low clock or without one, says nothing of it."""
    held, slow = state(1980.0, 50.0, "power cap"), state(600.0, 50.0)
    found = summarize_states([(held, slow), (state(1782.0, 50.0), slow)], (1980.0, 2000.0))
    assert found.sm_clock_share == pytest.approx(0.95)
    assert judge_throttling(found) == (
        [], ["the power cap was active in 50.0% of the samples; SM clock 95.0% of the highest"]
    )  # fmt: skip
    assert summarize_states([(held, state(None, 50.0))], (1980.0, None)).sm_clock_share == 1.0
    unknown = summarize_states([(state(None, 50.0, "power cap"), slow)], (1980.0, 2000.0))
    assert judge_throttling(unknown)[0] == [
        "throttled by power cap in 100.0% of the samples; the SM clock is not reported"
    ]


@pytest.mark.parametrize(("lowest", "counts"), [(1782.0, False), (1780.0, True)])
def test_the_mean_clock_decides_and_not_the_lowest(lowest: float, counts: bool) -> None:
    samples = [(state(clock, 50.0, "power cap"),) for clock in (1980.0, lowest)]
    assert bool(judge_throttling(summarize_states(samples, (1980.0,)))[0]) is counts


@pytest.mark.parametrize("told", [[], [()], [(DeviceState(),), (DeviceState(),)]])
def test_conditions_that_nobody_told_are_unknown(told: list[tuple[DeviceState, ...]]) -> None:
    assert summarize_states(told) == Conditions()


@pytest.mark.parametrize(
    ("clock_mhz", "bus_bits", "gb_s"),
    [
        (1215.0, 5120.0, 1555.2),  # A100 40 GB
        (2619.0, 5120.0, 3352.32),  # H100 SXM
        (10501.0, 384.0, 1008.1),  # GeForce RTX 4090
        (None, 5120.0, None),
        (1215.0, None, None),
        (0.0, 5120.0, None),
    ],
)
def test_peak_memory_bandwidth(clock_mhz: float | None, bus_bits: float | None, gb_s: float | None) -> None:
    expected = None if gb_s is None else pytest.approx(gb_s, rel=1e-4)
    assert gpus.memory_bandwidth_gb_s(clock_mhz, bus_bits) == expected


@pytest.mark.parametrize(
    ("counter", "integral", "fraction"),
    [(100.0, 95.0, 0.05), (100.0, 110.0, 0.1), (None, 1.0, None), (1.0, None, None), (0.0, 1.0, None)],
)
def test_disagreement(counter: float | None, integral: float | None, fraction: float | None) -> None:
    assert nvml.disagreement(counter, integral) == (None if fraction is None else pytest.approx(fraction))


def test_windows_under_two_seconds_are_marked() -> None:
    assert meter.window_reasons(2.0) == []
    assert "1.99 s is shorter than 2 s" in meter.window_reasons(1.99)[0]


@pytest.mark.parametrize(
    ("listed", "own", "namespaced", "foreign"),
    [
        ((), (5,), False, ()),
        ((5,), (5,), False, ()),
        ((5, 9), (5,), False, (9,)),
        ((9,), (5,), False, (9,)),
        ((9,), (5,), True, ()),  # a container: 9 may be our 5 by the host's number
        ((9, 10), (5,), True, (9, 10)),  # only one of them can be
        ((5, 9), (5,), True, (9,)),  # ours is seen under its own number: 9 is another
    ],
)
def test_foreign_processes(
    listed: tuple[int, ...], own: tuple[int, ...], namespaced: bool, foreign: tuple[int, ...]
) -> None:
    assert gpus.foreign_processes(listed, own, namespaced=namespaced) == frozenset(foreign)


GRANDCHILD = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"


def test_the_process_tree_holds_descendants_in_groups_of_their_own_and_no_strangers() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        try:
            grandchild = int(child.stdout.readline())
            assert {os.getpid(), child.pid, grandchild} <= process_tree()
            assert {child.pid, grandchild} == process_tree(child.pid)  # not us: we are of another group
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_a_meter_that_samples_is_not_started_again() -> None:
    running = nvml.NvmlMeter((), 0.1)
    running.start()
    with pytest.raises(RuntimeError, match="only after stop"):
        running.start()
    running.stop()
    running.start()
    running.stop()


def machine(count: int) -> tuple[power.Gpu, ...]:
    return tuple(power.Gpu(i, f"GPU-{i}{i}-x", f"Card {i}", 1024.0, "1") for i in range(count))


@pytest.mark.parametrize(
    ("index", "count", "visible", "chosen"),
    [(0, 1, None, [0]), (2, 1, None, [2]), (1, 2, None, [1, 2]), (0, 2, "2,0", [2, 0]), (1, 1, "2, GPU-11-x", [1])],
)
def test_gpus_are_counted_among_the_visible_ones(
    monkeypatch: pytest.MonkeyPatch, index: int, count: int, visible: str | None, chosen: list[int]
) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: machine(3))
    assert [gpu.index for gpu in power.resolve_gpus(index, count, visible)] == chosen


@pytest.mark.parametrize("visible", [None, "", "0,1"])
def test_without_gpus_the_first_one_means_the_cpu(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.setattr(gpus, "list_gpus", tuple)
    assert power.resolve_gpus(0, 1, visible) == ()
    for index, count in ((1, 1), (0, 2)):
        with pytest.raises(UsageError, match="the number of GPUs is 0"):
            power.resolve_gpus(index, count, visible)


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hiding_every_gpu_asks_for_the_cpu(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: machine(2))
    assert power.resolve_gpus(0, 1, visible) == ()


def test_without_pynvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert power.list_gpus() == ()


def test_nothing_is_asked_about_no_gpus() -> None:
    assert power.gpu_facts(()) == ()


def test_without_codecarbon_auto_has_no_meter_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon.output_methods.base_output")  # loaded, as after an earlier measurement
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    chosen = power.open_meter("auto", (), 0.05)
    assert isinstance(chosen, power.NoMeter)
    assert "pip install" in chosen.reason
    with pytest.raises(MissingPackageError, match="needs the package 'codecarbon"):
        power.open_meter("codecarbon", (), 0.05)


def test_nvml_asked_for_without_a_gpu_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="NVML finds no GPU"):
        power.open_meter("nvml", (), 0.05)


def test_mean_power_between_totals_stands_in_the_middle() -> None:
    rows = [(10.0, 500.0), (10.1, 502.0), (11.0, 520.0), (12.0, 550.0), (12.05, 552.0)]
    assert codecarbon._mean_power(rows, 0.25) == (PowerSample(0.5, (20.0,)), PowerSample(1.5, (30.0,)))
    assert codecarbon._mean_power(rows[:1], 0.25) == ()


def test_a_window_of_totals_is_cut_at_its_ends() -> None:
    rows = [(0.0, 0.0), (1.0, 10.0), (2.0, 30.0), (3.0, 30.5), (4.0, 50.0)]
    assert codecarbon._window(rows, 0.5, 2.5) == [(0.5, 5.0), (1.0, 10.0), (2.0, 30.0), (2.5, 30.25)]
    assert codecarbon._window(rows, 1.0, 2.0) == [(1.0, 10.0), (2.0, 30.0)]
    assert codecarbon._window(rows, 1.25, 1.5) == [(1.25, 15.0), (1.5, 20.0)]


@pytest.mark.parametrize(("opened", "closed"), [(-0.5, 1.0), (0.5, 4.5)])
def test_a_window_that_totals_do_not_cover_has_none(opened: float, closed: float) -> None:
    assert codecarbon._window([(0.0, 0.0), (4.0, 50.0)], opened, closed) == []
    assert codecarbon._window([], opened, closed) == []


class ConstantMeter(power.Meter):
    """100 W on its counter, 90 W by its samples."""

    foreign: tuple[int, ...] = ()

    def start(self) -> None:
        self._marks: list[float] = []

    def open(self) -> None:
        self._marks.append(time.perf_counter())

    def close(self) -> None:
        self._marks.append(time.perf_counter())

    def stop(self) -> power.EnergyReading:
        duration = self._marks[1] - self._marks[0]
        return power.EnergyReading(
            "test", duration, 100 * duration, joules_integral=90 * duration, foreign_pids=self.foreign
        )


def test_idle_power_is_that_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "SETTLE_S", 0.0)
    watts = ConstantMeter().idle_power_watts(0.01)
    assert watts is not None
    assert math.isclose(watts, 90.0)


def test_idle_power_with_another_process_at_work_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "SETTLE_S", 0.0)
    disturbed = ConstantMeter()
    disturbed.foreign = (1,)
    assert disturbed.idle_power_watts(0.01) is None


@pytest.mark.parametrize("source", ["nvml", "codecarbon"])
def test_the_energy_of_a_mig_slice_is_refused_by_name(source: str) -> None:
    part = power.Gpu(0, "MIG-a", "A100 MIG 1", 10240.0, "1", parent="GPU-a")
    with pytest.raises(BenchmarkError, match=r"A100 MIG 1 is a MIG slice, and .* power only of the whole GPU"):
        power.open_meter(source, [part], 0.1)
