"""A run beside busy loops: its record is invalid, and with --wait-quiet it is measured again when they have ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slim_eval.utils.host import read_counters
from tests.commands import INSTANT, WITH_INSTANT, run_command

pytestmark = pytest.mark.skipif(read_counters().busy_s is None, reason="/proc/stat counts nothing here")

RUN = ("run", "--models", "demo", "--tasks", "performance", *INSTANT)  # accepts any host: the last limit holds
LIMITED = (*RUN, "--max-contention", "0.1")
#: Ends by itself when the test process is gone.
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy_loops() -> Iterator[list[subprocess.Popen[bytes]]]:
    """One loop per CPU."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in os.sched_getaffinity(0)]
    try:
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outputs/demo/demo_fp16/performance.json").read_text())
    return found


def test_it_is_invalid_and_said_at_once_and_measured_again_by_the_same_command(tmp_path: Path) -> None:
    with busy_loops():
        process = run_command(*LIMITED, cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    disturbed = record(tmp_path)
    assert (disturbed["valid"], disturbed["max_contention"]) == (False, 0.1)
    (reason, *_) = disturbed["invalid_reasons"]
    assert reason.startswith("other processes took ")
    assert disturbed["host"]["other_share"] > 0.1
    assert disturbed["tpot_s"] > 0, "the numbers stay as evidence"
    notes = [line for line in process.stderr.splitlines() if line.startswith("note: performance is invalid")]
    assert len(notes) == 1
    assert reason in notes[0]
    assert "--wait-quiet" in notes[0]
    assert "(invalid)" in process.stdout
    assert f"invalid, does not count: performance of demo fp16: {reason}" in process.stdout

    again = run_command(*RUN, cwd=tmp_path, env=WITH_INSTANT)
    assert again.returncode == 0, again.stderr
    assert "its record is invalid (other processes took" in again.stderr
    assert record(tmp_path)["valid"] is True
    kept = run_command(*LIMITED, cwd=tmp_path, env=WITH_INSTANT)
    assert "reused 1 of 1 stages" in kept.stdout, "it was accepted when it was measured"


class PlantedStat(threading.Thread):
    """A ``/proc/stat`` whose CPUs are all busy until `quiet` is set, and idle from then on."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.quiet, self.done = path, threading.Event(), threading.Event()
        self.busy_s = self.idle_s = 0.0
        self.rest = [line for line in Path("/proc/stat").read_text().splitlines() if not line.startswith("cpu")]
        path.write_bytes(self.content())

    def content(self) -> bytes:
        busy, idle = (
            f"{round(seconds * os.sysconf('SC_CLK_TCK')) + 1000:012d}" for seconds in (self.busy_s, self.idle_s)
        )
        cpus = ["cpu ", *(f"cpu{index}" for index in range(os.cpu_count() or 1))]
        return "\n".join([*(f"{cpu} {busy} 0 0 {idle} 0 0 0 0 0 0" for cpu in cpus), *self.rest, ""]).encode()

    def run(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            before = time.monotonic()
            while not self.done.wait(0.02):
                now = time.monotonic()
                if self.quiet.is_set():
                    self.idle_s += now - before
                else:
                    self.busy_s += now - before
                before = now
                os.pwrite(file.fileno(), self.content(), 0)  # of the same length: never half of it is read


IN_ITS_OWN_NAMESPACE = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /proc/stat && exec "$@"')


def test_it_waits_until_the_host_is_quiet(tmp_path: Path) -> None:
    planted = PlantedStat(tmp_path / "stat")
    through = (*IN_ITS_OWN_NAMESPACE, str(planted.path))
    if subprocess.run([*through, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    planted.start()
    words = [*through, sys.executable, "-m", "slim_eval", *LIMITED, "--wait-quiet", "300"]
    environment = {**os.environ, **WITH_INSTANT, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "waits up to" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert not (tmp_path / "outputs/demo/demo_fp16/performance.json").exists()
        planted.quiet.set()
        said += process.stderr.read()
    planted.done.set()
    assert process.returncode == 0, said
    assert "note: performance waits up to 300 s (--wait-quiet) for a quiet host: other processes took" in said
    assert "is invalid" not in said
    assert record(tmp_path)["valid"] is True
    assert record(tmp_path)["host"]["other_share"] < 0.1
