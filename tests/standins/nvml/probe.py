"""Run in a process of its own, with the stand-in library in its environment: measures as told, answers in JSON.

python -m standins.nvml.probe '{"action": "window", "seconds": 1}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slim_eval import power
from slim_eval.benchmarks import energy
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution import worker
from tests.standins.engine import PlannedEngine
from tests.standins.nvml import append_step


def window(
    seconds: float = 0.3, index: int = 0, count: int = 1, source: str = "auto", visitor: str = "", leaves: bool = True
) -> dict[str, Any]:
    """One window of the meter that the options choose; `clock` brackets its start and its end.

    The file `visitor` is made when the window has begun and, if the visitor `leaves`, removed before it ends.
    """
    gpus = power.resolve_gpus(index, count, os.environ.get("CUDA_VISIBLE_DEVICES"))
    answer: dict[str, Any] = {"gpus": [gpu.uuid for gpu in gpus]}
    meter = power.open_meter(source, gpus, 0.05)
    if isinstance(meter, power.NoMeter):
        return answer | {"reason": meter.reason}
    meter.start()
    clock = [time.perf_counter()]
    meter.open()
    clock.append(time.perf_counter())
    if visitor:
        Path(visitor).touch()
    time.sleep(seconds)
    if visitor and leaves:
        Path(visitor).unlink()
    clock.append(time.perf_counter())
    meter.close()
    clock.append(time.perf_counter())
    return answer | {"reading": asdict(meter.stop()), "clock": clock}


def unfinished(marks: int) -> dict[str, Any]:
    """A meter that is stopped after so many of its window's two marks."""
    meter = power.open_meter("nvml", power.resolve_gpus(0, 1, None), 0.05)
    assert isinstance(meter, power.Meter)
    meter.start()
    for _ in range(marks):
        meter.open()
    return {"reading": asdict(meter.stop())}


def idle(seconds: float = 0.3, steps: str = "", watts: float = 0.0) -> dict[str, Any]:
    """Idle power; it falls to `watts` just before, where there is a file of `steps`."""
    if steps:
        append_step(Path(steps), time.perf_counter() - float(os.environ["STANDIN_NVML_ORIGIN"]), watts)
    meter = power.open_meter("nvml", power.resolve_gpus(0, 1, None), 0.05)
    assert isinstance(meter, power.Meter)
    return {"watts": meter.idle_power_watts(seconds)}


def facts() -> dict[str, Any]:
    """What is recorded of each GPU."""
    return {"facts": power.gpu_facts(power.list_gpus())}


def claimed() -> dict[str, Any]:
    """What a worker makes CUDA see, and what is recorded of it."""
    gpus = worker._claim_gpus(0, 1)
    return {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "facts": power.gpu_facts(gpus)}


def benchmark(
    config: dict[str, Any],
    idle: float = 60.0,
    busy: float = 200.0,
    steps: str = "",
    index: int = 0,
    appears: str = "",
    goes: bool = False,
) -> dict[str, Any]:
    """The energy benchmark over an engine whose load drives the power of the stand-in, written to the file `steps`.

    The file `appears` is made after the 5th request of the window and, if it `goes`, removed after the 15th.
    """
    origin = float(os.environ["STANDIN_NVML_ORIGIN"])
    loads: list[float] = []

    def on_load(loaded: bool) -> None:
        loads.append(time.perf_counter() - origin)
        if steps:
            append_step(Path(steps), loads[-1], busy if loaded else idle)

    def progress(done: int, total: int, unit: str = "requests") -> None:
        if appears and done == 5:
            Path(appears).touch()
        if goes and done == 15:
            Path(appears).unlink()

    settings = EnergyConfig.model_validate(config)
    meter = power.open_meter(settings.source, power.resolve_gpus(index, 1, None), settings.sampling_interval_s)
    engine = PlannedEngine(ttft_s=0.02, tpot_s=0.01, on_load=on_load)
    work = PerformanceConfig(prompt="one two three", max_new_tokens=10)
    measured = energy.run(engine, settings, work, meter, progress)
    return {
        "metrics": measured.metrics.model_dump(),
        "samples": measured.samples,
        "notes": measured.notes,
        "batches": len(engine.batches),
        "busy_s": list(zip(loads[::2], loads[1::2], strict=True)),
    }


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "window": window,
    "unfinished": unfinished,
    "idle": idle,
    "facts": facts,
    "claimed": claimed,
    "benchmark": benchmark,
}


def main() -> None:
    """Do the action named on the command line."""
    request = json.loads(sys.argv[1])
    try:
        answer = ACTIONS[request.pop("action")](**request)
    except SlimEvalError as error:
        answer = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
