"""Overhead of the executors per variant, and a simulation of many variants; workers only sleep.

1. The same variants by ``local``, one at a time, and by ``ray`` on one pretended node with one GPU: seconds per variant
   beyond the sleep, and the ratio of wall times.
2. ``--variants`` on ``--nodes`` pretended nodes with ``--gpus`` pretended GPUs each: wall time against the ideal (sleep
   x variants / GPUs), the share of time that GPUs were idle, and CPU time and memory of the driver.

    python bench/ray_executor.py --variants 1000 --nodes 8 --gpus 8 --sleep 30

A worker is a shell script that speaks the protocol of events and leaves a record, so that a thousand of them fit onto
two cores. The nodes share the cores of this machine: what they compute per variant is in the idle time of their GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

from slim_eval.demo import MODEL_DIR
from slim_eval.results.records import SCHEMA_VERSION, PerformanceRecord
from slim_eval.results.store import write_record

_MODEL = "MODEL-OF-THE-TEMPLATE"
_WORKER = """#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
job=$(cat)
of() {{ printf %s "$job" | sed "s/.*\\"$1\\":\\"\\([^\\"]*\\)\\".*/\\1/"; }}
case "$job" in
*'"kind":"measure"'*)
  echo '{{"event":"started","stage":"engine"}}'
  echo '{{"event":"finished","stage":"engine"}}'
  echo '{{"event":"started","stage":"performance"}}'
  echo "$(date +%s.%N) 1" >>{times}
  sleep {sleep}
  echo "$(date +%s.%N) -1" >>{times}
  directory=$(of directory)
  cp {template}/performance.samples.jsonl.gz "$directory"
  sed "s|{model}|$(of model)|" {template}/performance.json >"$directory/performance.json"
  echo '{{"event":"finished","stage":"performance"}}' ;;
esac
"""

#: The command, and each second its time, CPU seconds and resident bytes in a file.
_DRIVER = """
import json, os, resource, sys, threading, time

def watch():
    with open(sys.argv[1], "w", buffering=1) as file:
        while True:
            used = resource.getrusage(resource.RUSAGE_SELF)
            resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            file.write(json.dumps([time.time(), used.ru_utime + used.ru_stime, resident]) + "\\n")
            time.sleep(1)

threading.Thread(target=watch, daemon=True).start()
from slim_eval.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Used:
    """What the driver had used at a moment."""

    cpu_s: float
    resident: int  # bytes


@dataclass(frozen=True)
class Timed:
    """A run: when it began, when its first variant did, when its last one ended, and when it ended itself."""

    moments: tuple[float, float, float, float]
    used: tuple[Used, Used, Used, Used]  # at these moments
    peak: int  # resident bytes
    working: list[tuple[float, int]]  # times at which the number of workers changed, and by how much

    @property
    def wall_s(self) -> float:
        """Seconds of the whole run."""
        return self.moments[3] - self.moments[0]

    def idle(self, gpus: int) -> tuple[float, float]:
        """Share of the time that GPUs had no worker: from first to last worker, and while variants waited for a GPU."""
        begins = [at for at, change in self.working if change > 0]
        most, level, busy, full_at = 0, 0, [0.0], begins[0]
        for (at, change), (after, _) in zip(self.working, [*self.working[1:], self.working[-1]], strict=True):
            level += change
            busy.append(busy[-1] + level * (after - at))
            if level > most:
                most, full_at = level, at
        times = [at for at, _ in self.working]

        def share(start: float, end: float) -> float:
            worked = busy[bisect_right(times, end) - 1] - busy[bisect_right(times, start) - 1]
            return 1 - worked / (gpus * (end - start))

        return share(times[0], times[-1]), share(full_at, begins[-1])


def timed(folder: Path, models: list[str], seconds: float, *args: str) -> Timed:
    """A run of these models, whose workers sleep for so long."""
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    times, usage, worker = folder / "times", folder / "usage", folder / "worker"
    times.write_text("")
    text = _WORKER.format(python=sys.executable, sleep=seconds, times=times, template=folder / "template", model=_MODEL)
    worker.write_text(text)
    worker.chmod(0o755)
    command = [sys.executable, "-c", _DRIVER, str(usage), "run", "--models", " ".join(models), "--tasks", "performance",
               "--engine", "transformers", "--serve-python", str(worker), "--no-wandb-enabled", "--log-format", "json",
               *args]  # fmt: skip
    heard: dict[str, float] = {}
    begun = time.time()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)["event"] if line.startswith("{") else "other"
            if event == "failed" or event == "other":
                print(line, end="", file=sys.stderr)
            heard[event] = time.time() if event == "finished" else heard.get(event, time.time())
    if process.returncode:
        sys.exit(process.returncode)
    rows = [json.loads(line) for line in usage.read_text().splitlines()]
    moments = (begun, heard["cell"], heard["finished"], time.time())
    before = [max(0, bisect_right([row[0] for row in rows], moment) - 1) for moment in moments]
    used = tuple(Used(rows[index][1], rows[index][2]) for index in before)
    working = sorted((float(at), int(change)) for at, change in map(str.split, times.read_text().splitlines()))
    assert len(used) == 4
    return Timed(moments, used, max(row[2] for row in rows), working)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--sleep", type=float, default=30.0)
    parser.add_argument("--few", type=int, default=6, help="variants of the comparison with local; 0 leaves it out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = PerformanceRecord(
            schema_version=SCHEMA_VERSION, model=_MODEL, precision="fp16", engine="transformers", valid=True,
            mean_latency_s=0.1, tokens_per_second=10.0,
        )  # fmt: skip
        (folder / "template").mkdir()
        write_record(folder / "template", record, ({"wall_s": 0.1},))
        models = [f"./m{number}" for number in range(max(asked.variants, asked.few))]
        for model in models:
            (folder / model).symlink_to(MODEL_DIR)
        if asked.few:
            compare_with_local(folder, models[: asked.few])
        simulate(folder, models[: asked.variants], asked.nodes, asked.gpus, asked.sleep)


def compare_with_local(folder: Path, models: list[str], sleep: float = 1.0) -> None:
    """Print seconds per variant of both executors, one variant at a time."""
    took = {"local": timed(folder, models, sleep).wall_s}
    cluster, ray = _cluster(nodes=1, gpus=1)
    try:
        took["ray"] = timed(folder, models, sleep, *ray).wall_s
    finally:
        cluster.shutdown()
    for executor, wall_s in took.items():
        beyond = wall_s / len(models) - sleep
        print(f"{executor}: {wall_s:.1f} s for {len(models)} variants, {beyond:.2f} s each beyond the sleep")
    print(f"ray / local: {took['ray'] / took['local']:.2f}")


def simulate(folder: Path, models: list[str], nodes: int, gpus: int, sleep: float) -> None:
    """Print what many variants on many nodes cost."""
    cluster, ray = _cluster(nodes, gpus)
    try:
        run = timed(folder, models, sleep, *ray)
    finally:
        cluster.shutdown()
    count, ideal = len(models), sleep * len(models) / (nodes * gpus)
    at_all, while_queued = run.idle(nodes * gpus)
    _, first, last, ended = run.used
    per_variant_ms = (last.cpu_s - first.cpu_s) / count * 1000
    what = f"{count} variants of {sleep:g} s on {nodes} nodes with {gpus} GPUs each"
    print(f"{what}: {run.wall_s:.0f} s, at best {ideal:.0f} s")
    print(f"GPUs idle: {at_all:.1%} from first to last worker, {while_queued:.1%} while every GPU was asked for")
    print(f"driver's CPU: {first.cpu_s:.1f} s before the first variant, {per_variant_ms:.1f} ms per variant, "
          f"{ended.cpu_s - last.cpu_s:.1f} s after the last one")  # fmt: skip
    memory = ", ".join(
        f"{what} {size / 2**20:.0f} MiB"
        for what, size in (("at the first variant", first.resident), ("at the last", last.resident), ("peak", run.peak))
    )
    print(f"driver's memory: {memory}")


def _cluster(nodes: int, gpus: int) -> tuple[Cluster, tuple[str, ...]]:
    """Nodes with pretended GPUs below a head without work, and the options of a run on them."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "num_gpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    for _ in range(nodes):
        cluster.add_node(num_cpus=gpus, num_gpus=gpus, object_store_memory=100 * 2**20)
    return cluster, ("--executor", "ray", "--ray-address", cluster.address, "--share-node")


if __name__ == "__main__":
    main()
