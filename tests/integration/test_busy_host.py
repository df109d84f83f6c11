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


class Quietest(threading.Thread):
    """Ends the loops after a while, and then keeps the least share of the CPUs that was busy for two seconds."""

    def __init__(self, loops: list[subprocess.Popen[bytes]]) -> None:
        super().__init__(daemon=True)
        self.loops, self.share, self.done = loops, 1.0, threading.Event()

    def run(self) -> None:
        time.sleep(15)
        for loop in self.loops:
            loop.kill()
        before = read_counters()
        while not self.done.wait(2):
            after = read_counters()
            assert before.idle_s is not None
            assert after.idle_s is not None
            wall_s = (after.clock_s - before.clock_s) * (after.cpus or 1)
            self.share = min(self.share, 1 - (after.idle_s - before.idle_s) / wall_s)
            before = after


def test_it_is_invalid_and_said_at_once_and_measured_again_when_the_loops_end(tmp_path: Path) -> None:
    with busy_loops() as loops:
        process = run_command(*LIMITED, cwd=tmp_path, env=WITH_INSTANT)
        assert process.returncode == 0, process.stderr
        disturbed = record(tmp_path)
        assert (disturbed["valid"], disturbed["max_contention"]) == (False, 0.1)
        (reason, *_) = disturbed["invalid_reasons"]
        assert reason.startswith("other processes took ")
        share = disturbed["host"]["other_share"]
        assert share > 0.1
        assert disturbed["tpot_s"] > 0, "the numbers stay as evidence"
        notes = [line for line in process.stderr.splitlines() if line.startswith("note: performance is invalid")]
        assert len(notes) == 1
        assert reason in notes[0]
        assert "--wait-quiet" in notes[0]
        assert "(invalid)" in process.stdout
        assert f"invalid, does not count: performance of demo fp16: {reason}" in process.stdout

        # Other tests may run beside this one: a limit between what they take and what the loops take.
        limit = share - 0.03
        watch = Quietest(loops)
        watch.start()
        options = ("--wait-quiet", "120", "--max-contention", f"{limit:.3f}")
        again = run_command(*RUN, *options, cwd=tmp_path, env=WITH_INSTANT)
        watch.done.set()
        watch.join()
    assert again.returncode == 0, again.stderr
    assert "its record is invalid (other processes took" in again.stderr
    assert "note: performance waits up to 120 s (--wait-quiet) for a quiet host: other processes took" in again.stderr
    if record(tmp_path)["valid"] is not True and watch.share > limit - 0.1:
        pytest.skip(f"this host was never quiet: {watch.share:.0%} busy at the least")
    assert record(tmp_path)["valid"] is True, record(tmp_path)["invalid_reasons"]

    kept = run_command(*LIMITED, cwd=tmp_path, env=WITH_INSTANT)
    assert "reused 1 of 1 stages" in kept.stdout, "it was valid when it was measured"
