"""Overhead of the executors per variant, and a simulation of many variants; workers only sleep.

1. The same variants by ``local``, one at a time, and by ``ray`` on one pretended node with one GPU: seconds per variant
   beyond the sleep, and the ratio of wall times.
2. ``--variants`` on ``--slots`` pretended GPUs: wall time against the ideal (sleep x variants / slots), the share of
   time that GPUs were idle, the driver's CPU time per variant, and its memory.

    python bench/ray_executor.py --variants 1000 --slots 64 --sleep 60

A worker is a shell script that speaks the protocol of events, so that a thousand of them fit onto two cores. Slots of a
simulation are GPUs of one pretended node: 64 processes of Ray's own per node would measure this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from slim_eval.demo import MODEL_DIR

_WORKER = """#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
job=$(cat)
case "$job" in
*'"kind":"measure"'*)
  echo '{{"event":"started","stage":"engine"}}'
  echo '{{"event":"finished","stage":"engine"}}'
  echo '{{"event":"started","stage":"performance"}}'
  sleep {sleep}
  echo '{{"event":"finished","stage":"performance"}}' ;;
esac
"""


def timed(folder: Path, models: list[str], worker: Path, *args: str) -> tuple[float, float, list[dict[str, object]]]:
    """Wall and CPU seconds of a run, and its events."""
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    command = [sys.executable, "-m", "slim_eval", "run", "--models", " ".join(models), "--tasks", "performance",
               "--engine", "transformers", "--serve-python", str(worker), "--no-wandb-enabled", "--log-format", "json",
               *args]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=60.0)
    parser.add_argument("--few", type=int, default=6, help="variants of the comparison with local")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [f"./m{number}" for number in range(max(asked.variants, asked.few))]
        for model in models:
            (folder / model).symlink_to(MODEL_DIR)

        def worker(seconds: float) -> Path:
            path = folder / f"worker-{seconds:g}"
            path.write_text(_WORKER.format(python=sys.executable, sleep=seconds))
            path.chmod(0o755)
            return path

        head = {"num_cpus": asked.slots, "num_gpus": asked.slots, "object_store_memory": 200 * 2**20}
        few, short = models[: asked.few], 1.0
        local, _, _ = timed(folder, few, worker(short))
        for slots in (1, asked.slots):
            cluster = Cluster(initialize_head=True, head_node_args={**head, "num_gpus": slots})
            ray = ("--executor", "ray", "--ray-address", cluster.address, "--share-node")
            try:
                if slots == 1:
                    wall, _, _ = timed(folder, few, worker(short), *ray)
                    for label, seconds in (("local", local), ("ray", wall)):
                        beyond = seconds / len(few) - short
                        print(f"{label}: {seconds:.1f} s for {len(few)} variants, {beyond:.2f} s each beyond the sleep")
                    print(f"ray / local: {wall / local:.2f}")
                if slots == asked.slots:
                    many = models[: asked.variants]
                    wall, cpu, events = timed(folder, many, worker(asked.sleep), *ray)
                    begun = [event for event in events if event["event"] == "cell"]
                    ideal = asked.sleep * len(many) / slots
                    print(f"{len(many)} variants on {slots} GPUs: {wall:.0f} s, ideally {ideal:.0f} s")
                    print(f"GPUs idle: {1 - ideal / wall:.1%} of the time, the start of the run included")
                    print(f"driver: {cpu / len(many) * 1000:.0f} ms of CPU per variant ({len(begun)} begun)")
                    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
                    print(f"largest process: {peak:.0f} MiB")
            finally:
                cluster.shutdown()
            if asked.slots == 1:
                break


if __name__ == "__main__":
    main()
