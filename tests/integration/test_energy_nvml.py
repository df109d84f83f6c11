"""Energy through the real nvidia-ml-py over a stand-in NVML of known power: the right joules of the right GPU.

No time is asserted. A window is bracketed by clock readings, so its true joules have a lower and an upper bound however
slow the machine is.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.standins.nvml import UUIDS, StandInGpu, append_step, build, environment

ROOT = Path(__file__).parents[2]
CONSTANT = StandInGpu(a=120.0)
RAMP = StandInGpu(trace="ramp", a=80.0, b=60.0)
SINE = StandInGpu(trace="sine", a=150.0, b=70.0, period=0.7)
SECOND = StandInGpu(uuid=UUIDS[1], a=310.0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def probe(library: Path, gpus: Sequence[StandInGpu], request: dict[str, Any], **variables: str) -> dict[str, Any]:
    """The probe's answer from a process that sees these GPUs; `variables` are added to its environment."""
    origin = time.perf_counter()
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    surroundings = {**environment(library, gpus, origin), "PYTHONPATH": path, **variables}
    command = [sys.executable, "-m", "standins.nvml.probe", json.dumps(request)]
    ran = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {"origin": origin, **json.loads(ran.stdout)}


def window(library: Path, gpus: Sequence[StandInGpu], *, env: dict[str, str] | None = None, **request: Any) -> Any:
    return probe(library, gpus, {"action": "window", **request}, **(env or {}))


def sampled_window(library: Path, gpus: Sequence[StandInGpu], **request: Any) -> Any:
    """A window whose samples are close together, as an integral needs: on a busy host the first one may have gaps."""
    for _ in range(5):
        answer = window(library, gpus, seconds=1.0, **request)
        reading = answer["reading"]
        times = [0.0, *(sample["t_s"] for sample in reading["samples"]), reading["duration_s"]]
        if max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.15:
            break
    return answer


def assert_joules(joules: float, answer: dict[str, Any], gpus: Sequence[StandInGpu]) -> None:
    """Within 1 % of the truth, whose bounds are the two windows that the clock brackets."""
    early, begin, end, late = (t - answer["origin"] for t in answer["clock"])
    least, most = (sum(gpu.joules(*times) for gpu in gpus) for times in ((begin, end), (early, late)))
    assert 0.99 * least <= joules <= 1.01 * most


def settings(**planted: str | float) -> StandInGpu:
    return StandInGpu(a=120.0, settings=planted)


@pytest.mark.parametrize("gpu", [CONSTANT, RAMP, SINE], ids=["constant", "ramp", "sine"])
def test_counter_and_integral_are_the_true_joules(library: Path, gpu: StandInGpu) -> None:
    answer = sampled_window(library, [gpu])
    reading = answer["reading"]
    assert reading["source"] == "nvml-counter"
    assert reading["joules"] == reading["joules_counter"]
    assert_joules(reading["joules_counter"], answer, [gpu])
    assert_joules(reading["joules_integral"], answer, [gpu])
    assert reading["disagreement"] < 0.01
    times = [sample["t_s"] for sample in reading["samples"]]
    assert len(times) >= 3
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= reading["duration_s"]
    early, begin, *_ = answer["clock"]
    assert early <= reading["opened_s"] <= begin


def test_an_undisturbed_window_of_two_seconds_is_valid(library: Path) -> None:
    reading = window(library, [settings(pids="self:1048576")], seconds=2.0)["reading"]
    assert (reading["invalid_reasons"], reading["notes"]) == ([], [])


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        (None, 0, CONSTANT),
        (None, 1, SECOND),
        ("1", 0, SECOND),
        ("1,0", 0, SECOND),
        ("1,0", 1, CONSTANT),
        (UUIDS[1], 0, SECOND),
        (f"{UUIDS[1]},{UUIDS[0]}", 1, CONSTANT),
        (UUIDS[1][:10], 0, SECOND),
        ("1,-1,0", 0, SECOND),
    ],
)
def test_the_gpu_that_computes_is_measured(
    library: Path, visible: str | None, index: int, expected: StandInGpu
) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    answer = window(library, [CONSTANT, SECOND], index=index, env=env)
    assert answer["gpus"] == answer["reading"]["devices"] == [expected.uuid]
    assert_joules(answer["reading"]["joules"], answer, [expected])


def test_gpus_that_share_a_model_are_summed(library: Path) -> None:
    answer = sampled_window(library, [SINE, SECOND], count=2)
    assert answer["reading"]["devices"] == list(UUIDS)
    assert_joules(answer["reading"]["joules_counter"], answer, [SINE, SECOND])
    assert_joules(answer["reading"]["joules_integral"], answer, [SINE, SECOND])
    assert answer["reading"]["samples"][0]["watts"][1] == 310.0


@pytest.mark.parametrize(
    ("index", "count", "visible", "said"),
    [
        (2, 1, None, "the number of GPUs is 2"),
        (1, 2, None, "the number of GPUs is 2"),
        (1, 1, "0", "the number of GPUs is 1 (2 on the machine"),
        (1, 1, "-1", "the number of GPUs is 0 (2 on the machine"),
        (0, 1, "7", "'7' is unknown, ambiguous or repeated (GPUs: 2)"),
        (0, 1, "0,0", "'0' is unknown, ambiguous or repeated"),
        (0, 1, "GPU-", "'GPU-' is unknown, ambiguous or repeated"),
        (0, 1, "MIG-4b", "'MIG-4b' is unknown, ambiguous or repeated"),
    ],
)
def test_a_gpu_that_is_not_there_is_a_usage_error(
    library: Path, index: int, count: int, visible: str | None, said: str
) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    answer = window(library, [CONSTANT, SECOND], index=index, count=count, env=env)
    assert answer["error"] == "UsageError"
    assert said in answer["cause"]
    assert answer["remedy"]


SLICES = ("MIG-3c1d0000-aaaa-5bbb-8ccc-000000000000", "MIG-7f2e0000-aaaa-5bbb-8ccc-000000000001")
IN_MIG_MODE = settings(mig=f"{SLICES[0]}:10737418240;{SLICES[1]}:21474836480")


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        (None, 0, SLICES[0]),  # a GPU in MIG mode is its first slice, as in CUDA
        (None, 1, UUIDS[1]),
        ("0", 0, SLICES[0]),
        (UUIDS[0], 0, SLICES[0]),
        (SLICES[1], 0, SLICES[1]),
        (SLICES[1][:12], 0, SLICES[1]),
        (f"{SLICES[1]},1", 1, UUIDS[1]),
    ],
)
def test_a_slice_of_a_gpu_computes_and_its_energy_is_unknown(
    library: Path, visible: str | None, index: int, expected: str
) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    answer = window(library, [IN_MIG_MODE, SECOND], index=index, env=env)
    assert answer["gpus"] == [expected]
    if expected in SLICES:
        assert "MIG slice, and NVML reports power only of the whole GPU" in answer["reason"]
        named = window(library, [IN_MIG_MODE, SECOND], index=index, env=env, source="nvml")
        assert (named["error"], "--energy-source none" in named["remedy"]) == ("BenchmarkError", True)
    else:
        assert_joules(answer["reading"]["joules"], answer, [SECOND])


def test_a_slice_has_its_own_name_and_memory(library: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": SLICES[1]}
    answer = probe(library, [SECOND, IN_MIG_MODE], {"action": "claimed"}, **env)
    assert answer["visible"] == SLICES[1], "CUDA knows a slice by its UUID"
    (fact,) = answer["facts"]
    assert (fact["uuid"], fact["parent"], fact["index"]) == (SLICES[1], IN_MIG_MODE.uuid, 1)
    assert (fact["name"], fact["memory_total_mb"]) == ("Stand-in 11111111 MIG 2", 20480.0)
    assert fact["memory_bandwidth_gb_s"] is None, "not that of the whole GPU"
    (whole,) = probe(library, [SECOND, IN_MIG_MODE], {"action": "claimed"})["facts"]
    assert "parent" not in whole


@pytest.mark.parametrize(
    ("gpu", "count", "visible", "said"),
    [
        (settings(mig="none"), 1, None, "is in MIG mode and has no slices"),
        (IN_MIG_MODE, 2, None, "only one MIG slice per process"),
        (IN_MIG_MODE, 1, "MIG-", "'MIG-' is unknown, ambiguous or repeated"),
        (IN_MIG_MODE, 1, f"{SLICES[0]},{SLICES[0]}", "ambiguous or repeated"),
        (IN_MIG_MODE, 1, f"0,{SLICES[0]}", "a MIG slice is listed twice"),
    ],
)
def test_slices_that_cannot_be_used_are_refused(
    library: Path, gpu: StandInGpu, count: int, visible: str | None, said: str
) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    answer = window(library, [gpu, SECOND], count=count, env=env)
    assert answer["error"] == "UsageError"
    assert said in answer["cause"]
    assert answer["remedy"]


@pytest.mark.parametrize(
    ("planted", "source", "reason"),
    [
        ({"counter": "none"}, "nvml-integral", None),
        ({"counter": "still"}, "nvml-integral", "did not advance"),
        ({"power": "none"}, "nvml-counter", None),
        ({"throttle": 0x04, "sm_clock": 1980, "throttled_sm_clock": 1400}, "nvml-counter", "power cap"),
        ({"throttle": 0x20}, "nvml-counter", "thermal slowdown (software)"),
        ({"throttle": 0x48}, "nvml-counter", "thermal slowdown (hardware)"),
        ({"throttle": 0x80}, "nvml-counter", "power brake"),
        ({"throttle": 0x101}, "nvml-counter", None),  # idle clocks, display clocks: no throttling
        ({"pids": "self:1048576;1:5000"}, "nvml-counter", "other processes on the GPU: pid 1"),
        ({"pids": "self:1048576"}, "nvml-counter", None),
    ],
)
def test_states_that_keep_a_right_number(
    library: Path, planted: dict[str, str | float], source: str, reason: str | None
) -> None:
    gpu = settings(**planted)
    answer = window(library, [gpu])
    reading = answer["reading"]
    assert reading["source"] == source
    assert_joules(reading["joules"], answer, [gpu])
    reasons = [r for r in reading["invalid_reasons"] if "shorter than 2 s" not in r]
    assert len(reasons) < len(reading["invalid_reasons"]), "a window of 0.3 s must be marked"
    if reason is None:
        assert reasons == []
    else:
        assert any(reason in r for r in reasons)


def test_a_counter_that_is_off_is_marked_and_both_numbers_kept(library: Path) -> None:
    answer = window(library, [settings(counter="off", scale=1.3)])
    reading = answer["reading"]
    assert reading["disagreement"] == pytest.approx(0.3 / 1.3, abs=0.01)
    assert any("disagree by 23" in reason for reason in reading["invalid_reasons"])
    assert_joules(reading["joules_counter"] / 1.3, answer, [CONSTANT])
    assert_joules(reading["joules_integral"], answer, [CONSTANT])


@pytest.mark.parametrize(("counter", "there"), [("still", False), ("exact", True)])
def test_without_power_there_is_only_the_counter(library: Path, counter: str, there: bool) -> None:
    reading = window(library, [settings(counter=counter, power="none")], seconds=0.5)["reading"]
    assert (reading["joules"] is not None) is there
    assert (reading["joules_integral"], reading["samples"], reading["disagreement"]) == (None, [], None)
    assert reading["notes"] == ["NVML does not report power"]
    assert reading["conditions"]["mean_sm_clock_mhz"] == 1410


def test_one_gpu_without_a_counter_leaves_no_partial_sum(library: Path) -> None:
    gpus = [settings(counter="none"), SECOND]
    answer = window(library, gpus, count=2)
    assert answer["reading"]["joules_counter"] is None
    assert answer["reading"]["source"] == "nvml-integral"
    assert_joules(answer["reading"]["joules"], answer, gpus)


@pytest.mark.parametrize(
    "gpus", [[settings(fail_after=4)], [CONSTANT, StandInGpu(UUIDS[1], settings={"fail_after": 4})]], ids=["one", "two"]
)
def test_nvml_failing_on_the_way_leaves_no_number(library: Path, gpus: list[StandInGpu]) -> None:
    reading = window(library, gpus, count=len(gpus))["reading"]
    numbers = ("joules", "joules_counter", "joules_integral", "disagreement", "duration_s")
    assert [reading[key] for key in numbers] == [None] * 5
    assert ["NVML failed while energy was measured" in reason for reason in reading["invalid_reasons"]] == [True]


def test_what_was_sampled_before_nvml_failed_is_kept(library: Path) -> None:
    reading = window(library, [settings(fail_after=10)], seconds=1.0)["reading"]
    assert (reading["joules"], reading["duration_s"]) == (None, None)
    assert [sample["watts"] for sample in reading["samples"]] == [[120.0]] * len(reading["samples"])
    assert reading["samples"]


@pytest.mark.parametrize("marks", [0, 1])
def test_a_window_that_was_not_closed_has_no_energy(library: Path, marks: int) -> None:
    reading = probe(library, [CONSTANT], {"action": "unfinished", "marks": marks})["reading"]
    assert (reading["joules"], reading["invalid_reasons"]) == (None, ["the window was not closed"])


def test_one_counter_of_two_that_stands_still_is_noticed(library: Path) -> None:
    gpus = [StandInGpu(a=0.4, settings={"counter": "still"}), SECOND]  # too little for a disagreement of the sums
    reading = window(library, gpus, count=2)["reading"]
    assert reading["source"] == "nvml-integral"
    assert any("did not advance (+0.000 J)" in reason for reason in reading["invalid_reasons"])


@pytest.mark.parametrize(("pids", "watts"), [("self:1048576", 120.0), ("self:1048576;1:5000", None)])
def test_idle_power_is_not_that_of_another_process(library: Path, pids: str, watts: float | None) -> None:
    answer = probe(library, [settings(pids=pids)], {"action": "idle"})["watts"]
    assert answer == (None if watts is None else pytest.approx(watts, rel=0.01))


def test_idle_power_does_not_look_back_on_the_work_before_it(library: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    append_step(steps, 0.0, 400.0)
    gpu = StandInGpu(trace="steps", settings={"file": str(steps), "average": 1.0})
    answer = probe(library, [gpu], {"action": "idle", "steps": str(steps), "watts": 70.0})
    assert answer["watts"] == pytest.approx(70.0, rel=0.01)


def test_conditions_are_sampled_through_the_window(library: Path) -> None:
    gpu = settings(sm_clock=1980, memory_clock=2619, temperature=40, heating=3, throttle=0)
    reading = window(library, [gpu], seconds=0.6)["reading"]
    found, states = reading["conditions"], [sample["states"][0] for sample in reading["samples"]]
    assert (found["min_sm_clock_mhz"], found["mean_sm_clock_mhz"], found["mean_memory_clock_mhz"]) == (1980, 1980, 2619)
    heat = [state["temperature_celsius"] for state in states]
    assert heat == sorted(heat)
    assert heat[0] < heat[-1] == found["max_temperature_celsius"]
    assert found["mean_temperature_celsius"] == pytest.approx(sum(heat) / len(heat))
    assert (found["throttles"], {tuple(state["throttles"]) for state in states}) == ({}, {()})


def test_of_several_gpus_the_slowest_and_the_hottest_count(library: Path) -> None:
    gpus = [settings(sm_clock=1000, temperature=70), StandInGpu(UUIDS[1], settings={"sm_clock": 2000, "throttle": 8})]
    found = window(library, gpus, count=2)["reading"]["conditions"]
    assert (found["min_sm_clock_mhz"], found["mean_sm_clock_mhz"]) == (1000, 1500)
    assert (found["mean_temperature_celsius"], found["max_temperature_celsius"]) == (62.5, 70)
    assert found["throttles"] == {"hardware slowdown": 1.0}


def test_conditions_that_nvml_does_not_tell_are_unknown(library: Path) -> None:
    found = window(library, [settings(sm_clock=0, memory_clock=0, temperature=0)])["reading"]["conditions"]
    assert {key: value for key, value in found.items() if value is not None} == {"throttles": {}}


@pytest.mark.parametrize(("seconds", "leaves"), [(2.5, True), (0.3, False)], ids=["passes", "stays"])
def test_a_process_that_comes_during_the_window_is_noticed(
    library: Path, tmp_path: Path, seconds: float, leaves: bool
) -> None:
    visitor = str(tmp_path / "visitor")
    gpu = settings(pids="self:1048576", visitor=visitor)
    reading = window(library, [gpu], seconds=seconds, visitor=visitor, leaves=leaves)["reading"]
    assert any("other processes on the GPU: pid 1" in reason for reason in reading["invalid_reasons"])


@pytest.mark.parametrize(
    ("gpus", "source", "key", "said"),
    [
        ([settings(power="none", counter="none")], "auto", "reason", "neither power nor energy"),
        ([settings(power="none", counter="none")], "nvml", "cause", "neither power nor energy"),
        ([], "nvml", "cause", "NVML finds no GPU"),
        ([CONSTANT], "none", "reason", "switched off"),
    ],
)
def test_no_meter_says_why(library: Path, gpus: list[StandInGpu], source: str, key: str, said: str) -> None:
    answer = window(library, gpus, source=source)
    assert said in answer[key]
    assert "reading" not in answer


@pytest.mark.parametrize(("code", "error"), [("9", None), ("12", None), ("4", None), ("18", "SlimEvalError")])
def test_an_absent_driver_is_no_gpu_and_a_broken_one_an_error(library: Path, code: str, error: str | None) -> None:
    answer = window(library, [CONSTANT], source="none", env={"STANDIN_NVML_INIT": code})
    assert answer.get("error") == error
    assert answer.get("gpus") == (None if error else [])


def test_facts(library: Path) -> None:
    answer = probe(library, [CONSTANT, SECOND], {"action": "facts"})
    first = answer["facts"][0]
    assert (first["uuid"], first["driver"], first["memory_total_mb"]) == (UUIDS[0], "999.99.99", 81920.0)
    assert (first["power_limit_watts"], first["sm_clock_mhz"], first["persistence_mode"]) == (300.0, 1410.0, True)
    # An A100 40 GB: 1215 MHz x 2 x 5120 bit.
    assert (first["memory_bus_width_bits"], first["memory_bandwidth_gb_s"]) == (5120, pytest.approx(1555.2))


@pytest.mark.parametrize("planted", [{"bus_width": 0}, {"memory_clock": 0}])
def test_bandwidth_that_cannot_be_worked_out_is_unknown(library: Path, planted: dict[str, int]) -> None:
    (facts,) = probe(library, [settings(**planted)], {"action": "facts"})["facts"]
    assert facts["memory_bandwidth_gb_s"] is None


IDLE, BUSY = 60.0, 200.0
EVIDENCE = ("duration_seconds", "idle_power_watts", "energy_joules_integral", "max_power_watts", "mean_sm_clock_mhz")
HEADLINE = (
    "energy_joules", "energy_joules_net", "energy_kwh", "joules_per_output_token", "joules_per_total_token",
    "tokens_per_joule", "energy_per_query_j", "avg_power_watts",
)  # fmt: skip


def benchmark(
    library: Path,
    tmp_path: Path,
    *,
    requests: int = 25,
    batch: int = 1,
    others: Sequence[StandInGpu] = (),
    **planted: Any,
) -> dict[str, Any]:
    """The benchmark on a GPU that draws `BUSY` watts while the engine works, and `IDLE` watts while it does not.

    Args:
        library: The stand-in.
        tmp_path: Where the GPU's power is written.
        requests: Requests of the window; an iteration takes 0.11 s.
        batch: Batch size.
        others: GPUs before this one.
        planted: States of the GPU, and `appears` and `goes` of the probe.
    """
    steps = tmp_path / "steps"
    append_step(steps, 0.0, IDLE)
    request = {key: planted.pop(key) for key in ("appears", "goes") if key in planted}
    gpu = StandInGpu(UUIDS[len(others)], "steps", settings={"file": str(steps), "pids": "self:1048576", **planted})
    config = {"sample_runs": requests, "batch_size": batch}
    request |= {"action": "benchmark", "idle": IDLE, "busy": BUSY, "steps": str(steps), "config": config}
    return probe(library, [*others, gpu], {**request, "index": len(others)})


def assert_true_joules(answer: dict[str, Any]) -> None:
    """Gross and net energy are those of the counted iterations and the pauses between them, within 1 %."""
    metrics = answer["metrics"]
    first = metrics["num_lead_in"] // metrics["batch_size"]
    counted = answer["busy_s"][first : first + metrics["num_runs"] // metrics["batch_size"]]
    work = (BUSY - IDLE) * sum(end - begin for begin, end in counted)
    gross = work + IDLE * metrics["duration_seconds"]
    assert metrics["energy_joules"] == pytest.approx(gross, rel=0.01)
    assert metrics["energy_joules_net"] == pytest.approx(work, rel=0.01)
    assert metrics["joules_per_output_token"] == pytest.approx(gross / (10 * metrics["num_runs"]), rel=0.01)
    assert metrics["joules_per_total_token"] == pytest.approx(gross / (13 * metrics["num_runs"]), rel=0.01)


@pytest.mark.parametrize("others", [(), (CONSTANT,)], ids=["one GPU", "the second GPU"])
def test_the_benchmark_separates_idle_from_work(library: Path, tmp_path: Path, others: Sequence[StandInGpu]) -> None:
    answer = benchmark(library, tmp_path, requests=120, batch=2, others=others)
    metrics = answer["metrics"]
    assert (metrics["valid"], metrics["invalid_reasons"]) == (True, []), metrics
    assert metrics["idle_power_watts"] == pytest.approx(IDLE, rel=0.01)
    assert_true_joules(answer)
    assert (metrics["num_runs"], metrics["batch_size"], metrics["output_tokens"]) == (120, 2, 10)
    # Work goes on before and behind the window.
    assert metrics["num_lead_in"] >= 2
    assert answer["batches"] > metrics["num_lead_in"] / 2 + 60
    assert metrics["devices"] == [UUIDS[len(others)]]
    assert max(row["watts"] for row in answer["samples"]) == BUSY
    assert (metrics["mean_sm_clock_mhz"], metrics["mean_temperature_celsius"]) == (1410, 55)
    state = {"sm_clock_mhz": 1410, "memory_clock_mhz": 1215, "temperature_celsius": 55, "throttled": False}
    assert all(state.items() <= row.items() for row in answer["samples"])
    # All blocks hold the same work: each interval is about its number. Its width is not tested, because other processes
    # can hold a block up.
    assert set(metrics["intervals"]) == {"energy_joules", "joules_per_output_token", "avg_power_watts"}
    for key, (low, high) in metrics["intervals"].items():
        assert 0 < low < 1.000001 * metrics[key], key
        assert 0.999999 * metrics[key] < high < math.inf, key


@pytest.mark.parametrize(
    ("planted", "appears", "source", "reason"),
    [
        (
            {"throttle": 0x04, "throttled_sm_clock": 600},
            "throttle_file",
            "nvml-counter",
            "throttled: the power cap was ",
        ),
        ({}, "visitor", "nvml-counter", "other processes on the GPU: pid 1"),
        ({"counter": "still"}, None, "nvml-integral", "the energy counter did not advance (+0.000 J)"),
        ({"counter": "off", "scale": 1.3}, None, "nvml-counter", "counter and integral of power disagree by "),
        ({}, "lost_file", "nvml", "NVML failed while energy was measured: GPU is lost"),
    ],
    ids=["throttling", "foreign process", "counter stands still", "counter 30 % off", "NVML fails"],
)
def test_a_disturbed_window_ends_in_its_state_and_in_no_number(
    library: Path, tmp_path: Path, planted: dict[str, Any], appears: str | None, source: str, reason: str
) -> None:
    if appears:
        planted = {**planted, appears: str(tmp_path / "there"), "appears": str(tmp_path / "there")}
    metrics = benchmark(library, tmp_path, **planted)["metrics"]
    assert {key: metrics[key] for key in HEADLINE} == dict.fromkeys(HEADLINE)
    assert metrics["intervals"] == {}
    assert (metrics["valid"], metrics["energy_source"]) == (False, source)
    # On a busy machine the samples of a window this short may also disagree with the counter.
    assert len([each for each in metrics["invalid_reasons"] if each.startswith(reason)]) == 1
    if source == "nvml":  # half a window is not even evidence
        assert (metrics["energy_joules_integral"], metrics["max_power_watts"]) == (None, None)
    else:
        assert all(metrics[key] is not None for key in EVIDENCE)


def test_throttling_that_passes_is_still_seen(library: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "hot")
    states = {"throttle": 0x40, "throttled_sm_clock": 600, "throttle_file": file, "appears": file, "goes": True}
    answer = benchmark(library, tmp_path, **states)
    metrics = answer["metrics"]
    assert (metrics["valid"], metrics["energy_joules"]) == (False, None)
    assert list(metrics["throttle_reasons"]) == ["thermal slowdown (hardware)"]
    assert 0 < metrics["throttle_reasons"]["thermal slowdown (hardware)"] < 1
    assert metrics["min_sm_clock_mhz"] == 600 < metrics["mean_sm_clock_mhz"] < 1410
    assert {row["throttled"] for row in answer["samples"]} == {False, True}


@pytest.mark.parametrize(
    ("bits", "clock", "verdict"),
    [
        (0x04, 1950, None),  # an H100 at 400 of 700 W, decoding: its bursts reach the cap
        (0x04, 1900, None),
        (0x04, 1860, "throttled: the power cap was active in 100.0% of the samples; SM clock 93.9% of the highest"),
        (0x04 | 0x20, 1950, "throttled by thermal slowdown (software) in 100.0% of the samples"),
        (0x08, 1980, "throttled by hardware slowdown in 100.0% of the samples"),
    ],
)
def test_a_power_cap_counts_where_clocks_fell(library: Path, bits: int, clock: int, verdict: str | None) -> None:
    gpu = settings(sm_clock=1980, throttle=bits, throttled_sm_clock=clock)
    reading = window(library, [gpu], seconds=0.5)["reading"]
    reasons = [reason for reason in reading["invalid_reasons"] if "throttled" in reason]  # and that it is short
    assert reasons == ([] if verdict is None else [verdict])
    share = f"SM clock {clock / 1980:.1%} of the highest"
    noted = [note for note in reading["notes"] if "power cap" in note]
    assert noted == ([f"the power cap was active in 100.0% of the samples; {share}"] if clock in (1950, 1900) else [])


def test_a_power_cap_with_unknown_clocks_counts(library: Path) -> None:
    reading = window(library, [settings(sm_clock=0, throttle=0x04)], seconds=0.5)["reading"]
    reason = "throttled by power cap in 100.0% of the samples; the SM clock is not reported"
    assert reason in reading["invalid_reasons"]


def test_without_a_counter_the_integral_is_the_number(library: Path, tmp_path: Path) -> None:
    # Enough of the window is work for a sample in a pause to weigh little.
    answer = benchmark(library, tmp_path, requests=60, counter="none")
    metrics = answer["metrics"]
    assert (metrics["valid"], metrics["energy_source"], metrics["energy_joules_counter"]) == (
        True,
        "nvml-integral",
        None,
    )
    assert metrics["energy_joules"] == metrics["energy_joules_integral"]
    assert metrics["energy_joules"] == pytest.approx(BUSY * metrics["duration_seconds"], rel=0.05)


def test_power_that_is_the_mean_of_a_second_agrees_with_the_counter(library: Path, tmp_path: Path) -> None:
    """As newer GPUs report it: without the lead-in, the first second of the window would hold half of the idle time."""
    metrics = benchmark(library, tmp_path, average=1.0)["metrics"]
    assert (metrics["valid"], metrics["invalid_reasons"]) == (True, [])
    assert metrics["counter_disagreement"] < 0.01
