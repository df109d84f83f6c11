"""Energy through the real nvidia-ml-py over a stand-in NVML of known power: the right joules of the right GPU.

No time is asserted. A window is bracketed by clock readings, so its true joules have a lower and an upper bound however
slow the machine is.
"""

from __future__ import annotations

import json
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
    """What the probe answers in a process that sees these GPUs; `variables` are added to its environment."""
    origin = time.perf_counter()
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    surroundings = {**environment(library, gpus, origin), "PYTHONPATH": path, **variables}
    command = [sys.executable, "-m", "standins.nvml.probe", json.dumps(request)]
    ran = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {"origin": origin, **json.loads(ran.stdout)}


def window(library: Path, gpus: Sequence[StandInGpu], *, env: dict[str, str] | None = None, **request: Any) -> Any:
    return probe(library, gpus, {"action": "window", **request}, **(env or {}))


def assert_joules(joules: float, answer: dict[str, Any], gpus: Sequence[StandInGpu]) -> None:
    """Within 1 % of the truth, whose bounds are the two windows that the clock brackets."""
    early, begin, end, late = (t - answer["origin"] for t in answer["clock"])
    least, most = (sum(gpu.joules(*times) for gpu in gpus) for times in ((begin, end), (early, late)))
    assert 0.99 * least <= joules <= 1.01 * most


def settings(**planted: str | float) -> StandInGpu:
    return StandInGpu(a=120.0, settings=planted)


@pytest.mark.parametrize("gpu", [CONSTANT, RAMP, SINE], ids=["constant", "ramp", "sine"])
def test_counter_and_integral_are_the_true_joules(library: Path, gpu: StandInGpu) -> None:
    answer = window(library, [gpu], seconds=1.0)
    reading = answer["reading"]
    assert reading["source"] == "nvml-counter"
    assert reading["joules"] == reading["joules_counter"]
    assert_joules(reading["joules_counter"], answer, [gpu])
    assert_joules(reading["joules_integral"], answer, [gpu])
    assert reading["disagreement"] < 0.01
    assert reading["samples"][0]["t_s"] < 0.05
    assert reading["samples"][-1]["t_s"] == pytest.approx(reading["duration_s"], abs=0.05)
    assert len(reading["samples"]) >= 3


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
    answer = window(library, [SINE, SECOND], count=2, seconds=1.0)
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
        (0, 1, "7", "'7' names no further GPU of the 2 here"),
        (0, 1, "0,0", "'0' names no further GPU"),
        (0, 1, "GPU-", "'GPU-' names no further GPU"),
        (0, 1, "MIG-4b", "'MIG-4b' names no further GPU"),
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


@pytest.mark.parametrize(
    ("planted", "source", "reason"),
    [
        ({"counter": "none"}, "nvml-integral", None),
        ({"counter": "still"}, "nvml-integral", "did not advance"),
        ({"power": "none"}, "nvml-counter", None),
        ({"throttle": 0x04}, "nvml-counter", "power cap"),
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
    assert reading["samples"] == []
    assert ["NVML failed in the window" in reason for reason in reading["invalid_reasons"]] == [True]


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
        ([], "nvml", "cause", "NVML knows no GPU"),
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


def test_the_benchmark_separates_idle_from_work(library: Path, tmp_path: Path) -> None:
    idle, busy, steps = 60.0, 200.0, tmp_path / "steps"
    append_step(steps, 0.0, idle)
    gpu = StandInGpu(trace="steps", settings={"file": str(steps), "pids": "self:1048576"})
    request = {
        "action": "benchmark",
        "idle": idle,
        "busy": busy,
        "steps": str(steps),
        "config": {"sample_runs": 50, "batch_size": 2},
    }
    answer = probe(library, [gpu], request)
    metrics = answer["metrics"]
    work = (busy - idle) * sum(answer["busy_s"][1:])  # the first batch is the warm-up
    gross = work + idle * metrics["duration_seconds"]
    assert metrics["idle_power_watts"] == pytest.approx(idle, rel=0.01)
    assert metrics["energy_joules"] == pytest.approx(gross, rel=0.01)
    assert metrics["energy_joules_net"] == pytest.approx(work, rel=0.01)
    assert metrics["joules_per_output_token"] == pytest.approx(gross / 500, rel=0.01)
    assert (metrics["num_runs"], metrics["batch_size"], metrics["output_tokens"]) == (50, 2, 10)
    assert (answer["batches"], metrics["devices"]) == (26, [UUIDS[0]])
    assert (metrics["valid"], metrics["invalid_reasons"]) == (True, []), metrics
    assert max(row["watts"] for row in answer["samples"]) == busy
