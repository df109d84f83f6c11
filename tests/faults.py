"""Kill runs at a random moment of a stage and finish them with the same command.

``python -m tests.faults --count 20`` tries every stage in turn, then kills one run in three stages, prints a table, and
exits 1 if anything was lost. It measures on the Transformers engine; `attempt` takes another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from slim_eval.results.store import read_samples
from tests.commands import ON_A_BUSY_HOST, WITH_INSTANT, run_command

COMMAND = (
    "run", "--models", "demo", "--precision", "int8", "--num-runs", "16", "--num-warmup", "8", "--max-new-tokens", "16",
    "--energy-sample-runs", "8", "--accuracy-tasks", "demo_gsm8k", "--num-fewshot", "1", "--accuracy-limit", "24",
    "--num-calibration-samples", "8", "--max-sequence-length", "128", "--no-wandb-enabled", "--log-format", "json",
    *ON_A_BUSY_HOST, "--engine",
)  # fmt: skip
ENVIRONMENT = {**WITH_INSTANT, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
STAGES = ("quantize", "engine", "performance", "energy", "demo_gsm8k")
CELL = Path("outputs", "demo", "demo_int8")
CHECKPOINT = Path("quantized-models", "demo_int8")
#: What is killed: one worker, or slim-eval's own process, as in a power failure.
VICTIMS = ("worker", "slim-eval")
# Fields that are equal, to the digit, in every run with these settings.
_FIXED = {
    "performance": ("output_tokens", "prompt_tokens", "num_runs", "batch_size", "fingerprint", "num_parameters"),
    "energy": ("num_runs", "batch_size", "energy_source", "fingerprint", "output_tokens"),
    "demo_gsm8k": ("accuracy", "stderr", "metrics", "num_items", "task_hashes", "fingerprint"),
}


@dataclass(frozen=True)
class Fault:
    """One signal to a run.

    Attributes:
        stage: Stage that it interrupts.
        victim: One of `VICTIMS`.
        number: The signal.
        moment: Fraction of the stage's usual duration after which it is sent.
    """

    stage: str
    victim: str
    number: signal.Signals
    moment: float


@dataclass(frozen=True)
class Trial:
    """Outcome of a run that was interrupted.

    Attributes:
        faults: The signals, one per command.
        hits: How many signals came while their stage was running; a stage can finish earlier than usual.
        status: Exit status of the last command that was interrupted.
        finished: Whether the same command then ended with 0.
        kept: Records that were complete when it was interrupted and were not measured again.
        lost: Differences from an uninterrupted run; empty if nothing was lost.
    """

    faults: tuple[Fault, ...]
    hits: int
    status: int
    finished: bool
    kept: tuple[str, ...]
    lost: tuple[str, ...]


def deterministic(folder: Path) -> dict[str, Any]:
    """Results of a run that do not depend on the clock: every answer, and the bytes of the checkpoint."""
    variant = folder / CELL
    found: dict[str, Any] = {}
    for name, keys in _FIXED.items():
        record = json.loads((variant / f"{name}.json").read_text(encoding="utf-8"))
        found[name] = {key: record.get(key) for key in keys}
    found["answers"] = read_samples(variant, "demo_gsm8k")
    found["weights"] = json.loads((folder / CHECKPOINT / "quantization.json").read_text())["weight_sha256"]
    found["files"] = sorted(
        path.name for path in variant.iterdir() if path.suffix != ".log" and not path.name.startswith(".")
    )
    found["leftovers"] = [str(path) for path in folder.rglob(".*tmp*")]
    return found


@contextmanager
def running(folder: Path, engine: str) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]], threading.Event]]:
    """Start the command; yield the process, its events so far, and an event that is set with each."""
    variables = {**os.environ, **ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "slim_eval", *COMMAND, engine], cwd=folder, env=variables, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    heard = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{"):
                events.append(json.loads(line))
                heard.set()
        heard.set()

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    yield process, events, heard
    process.wait()
    reader.join()


def durations(folder: Path, engine: str = "transformers") -> dict[str, float]:
    """Run the command without faults; return the duration of each stage in seconds."""
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    with running(folder, engine) as (process, events, heard):
        seen = 0
        while process.poll() is None or seen < len(events):
            heard.wait(0.2)
            heard.clear()
            for event in events[seen:]:
                if event["event"] == "started":
                    began[event["stage"]] = time.monotonic()
                elif event["event"] == "finished" and event["stage"] in began:
                    took[event["stage"]] = time.monotonic() - began[event["stage"]]
            seen = len(events)
    if process.returncode != 0:
        raise RuntimeError(f"the undisturbed run failed: {events[-3:]}")
    return took


def disturb(folder: Path, fault: Fault, took: dict[str, float], engine: str) -> tuple[bool, int]:
    """Send the signal; return whether the stage was running and the command's exit status."""
    with running(folder, engine) as (process, events, heard):
        while not any(e["event"] == "started" and e["stage"] == fault.stage for e in list(events)):
            if process.poll() is not None:
                return False, process.returncode
            heard.wait(1)
            heard.clear()
        time.sleep(fault.moment * took[fault.stage])
        hit = not any(e["event"] == "finished" and e.get("stage") == fault.stage for e in list(events))
        target = process.pid if fault.victim == "slim-eval" else _worker(process.pid)
        if target is not None:
            os.kill(target, fault.number)
    return hit and target is not None, process.returncode


def _worker(pid: int) -> int | None:
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return None
    return next((child.pid for child in children if "slim_eval.execution.worker" in " ".join(child.cmdline())), None)


def left_running(folder: Path) -> list[int]:
    """Processes that still run in a folder, after a moment for those just killed to end."""
    for _ in range(50):
        found = [process.pid for process in psutil.process_iter() if _works_in(process, folder)]
        if not found:
            break
        time.sleep(0.1)
    return found


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False


def _records(folder: Path) -> dict[str, int]:
    """Records of the variant, with the time each was written, in ns."""
    paths = (folder / CELL / f"{name}.json" for name in _FIXED)
    return {path.name: path.stat().st_mtime_ns for path in paths if path.exists()}


def attempt(
    reference: Path, folder: Path, took: dict[str, float], *faults: Fault, engine: str = "transformers"
) -> Trial:
    """Interrupt a run in an empty folder, once per fault, finish it, and compare it with `reference`."""
    if faults[0].stage != "quantize":
        shutil.copytree(reference / "quantized-models", folder / "quantized-models")
    hits, status, lost = 0, 0, list[str]()
    before: dict[str, int] = {}
    for fault in faults:
        hit, status = disturb(folder, fault, took, engine)
        hits += hit
        lost += [f"process {pid} was left" for pid in left_running(folder)]
        before = {**_records(folder), **before}
    again = run_command(*COMMAND, engine, cwd=folder, env=WITH_INSTANT)
    if again.returncode == 0:
        expected, found = deterministic(reference), deterministic(folder)
        lost += [f"{key} differs" for key in expected if found[key] != expected[key]]
        after = _records(folder)
        # Without a meter an energy record has no value and is measured again.
        lost += [
            f"{name} was measured twice" for name in before if after[name] != before[name] and name != "energy.json"
        ]
    else:
        lost.append(f"not finished: {again.stderr[-300:]}")
    return Trial(faults, hits, status, again.returncode == 0, tuple(sorted(before)), tuple(lost))


def main() -> int:
    """Try faults one after the other and print a table of their outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM", "SIGINT"])
    options = parser.parse_args()
    # A shell's background jobs ignore SIGINT, and so would every process started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(options.seed)
    number = signal.Signals[options.signal]
    trials = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        reference = Path(name).resolve() / "reference"
        reference.mkdir()
        took = durations(reference)
        print("stage         victim     at    status  kept  finished  lost")

        def attempted(index: int, *faults: Fault) -> None:
            folder = Path(name).resolve() / f"trial-{index}"
            folder.mkdir()
            trial = attempt(reference, folder, took, *faults)
            trials.append(trial)
            _show(trial)
            shutil.rmtree(folder)

        for index in range(options.count):
            victim = "slim-eval" if number is not signal.SIGKILL else VICTIMS[index // len(STAGES) % len(VICTIMS)]
            attempted(index, Fault(STAGES[index % len(STAGES)], victim, number, chance.random()))
        thrice = ("quantize", "performance", "demo_gsm8k")
        attempted(options.count, *(Fault(stage, "slim-eval", number, chance.random()) for stage in thrice))
    faults, hits = sum(len(trial.faults) for trial in trials), sum(trial.hits for trial in trials)
    lost = sum(bool(trial.lost) for trial in trials)
    print(
        f"{len(trials)} runs, {faults} faults, {hits} while the stage ran: {len(trials) - lost} survived, {lost} lost"
    )
    return 1 if lost else 0


def _show(trial: Trial) -> None:
    for fault in trial.faults[:-1]:
        print(f"{fault.stage:<12}  {fault.victim:<9}  {fault.moment:4.0%}  and then, the same run again:")
    fault, ended = trial.faults[-1], len(trial.faults) - trial.hits
    print(
        f"{fault.stage:<12}  {fault.victim:<9}  {fault.moment:4.0%}  {trial.status:>6}  {len(trial.kept):>4}  "
        f"{'yes' if trial.finished else 'NO':<8}  {', '.join(trial.lost) or 'nothing'}"
        f"{f' ({ended} came after the stage had ended)' if ended else ''}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
