"""CodeCarbon itself, offline: joules and their method, no file, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, socket, sys, time, warnings

def refuse(*arguments, **options):
    raise AssertionError(f"network: {arguments}")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
warnings.simplefilter("error")

from dataclasses import asdict
from slim_eval.power import open_meter

meter = open_meter("auto", (), 0.05)
meter.start()
time.sleep(0.3)
clock = [time.perf_counter()]
meter.open()
clock.append(time.perf_counter())
time.sleep(2.2)
clock.append(time.perf_counter())
meter.close()
clock.append(time.perf_counter())
time.sleep(0.3)
answer = {"reading": asdict(meter.stop()), "clock": clock, "idle": meter.idle_power_watts(0.6)}
meter.start()
meter.open()
json.dump({**answer, "unfinished": asdict(meter.stop())}, sys.stdout)
"""


def test_codecarbon_measures_offline_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon", reason="CodeCarbon is not installed")
    places = {key: tmp_path / key.lower() for key in ("HOME", "TMPDIR", "WORK")}
    for place in places.values():
        place.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("CODECARBON_")}
    env |= {key: str(place) for key, place in places.items()} | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, cwd=places["WORK"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    answer = json.loads(ran.stdout)
    reading, (early, begin, end, late) = answer["reading"], answer["clock"]
    assert reading["source"] in {"codecarbon (cpu_load)", "codecarbon (RAPL)", "codecarbon (constant TDP)"}
    assert reading["joules"] > 0
    assert end - begin <= reading["duration_s"] <= late - early
    assert early <= reading["opened_s"] <= begin
    mean = reading["joules"] / reading["duration_s"]
    watts = [sample["watts"][0] for sample in reading["samples"]]
    assert len(watts) >= 2
    assert min(watts) * 0.9 <= mean <= max(watts) * 1.1
    assert all(0 < sample["t_s"] < reading["duration_s"] for sample in reading["samples"])
    assert answer["idle"] > 0
    assert (answer["unfinished"]["joules"], answer["unfinished"]["samples"]) == (None, [])
    assert answer["unfinished"]["invalid_reasons"] == ["the window was not closed"]
    assert reading["invalid_reasons"] == []
    assert reading["joules_counter"] is None
    assert "estimates" in reading["notes"][0]
    assert [path for place in places.values() for path in place.rglob("*")] == []
