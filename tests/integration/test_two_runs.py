"""Two runs at once: on one variant the second stops and names the first; on one checkpoint it waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slim_eval.execution import locks
from tests.commands import INSTANT, WITH_INSTANT, run_command

RUN = ("run", "--models", "demo", "--tasks", "performance", *INSTANT)


@contextmanager
def started(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run in the background, terminated at the end."""
    command = [sys.executable, "-m", "slim_eval", *RUN, *options]
    environment = {**os.environ, **WITH_INSTANT, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               text=True)  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        assert process.stderr is not None
        process.stderr.read()
        process.wait()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read the messages of a run up to one that contains `text`."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"the run ended before it said {text!r}"


def test_on_one_variant_the_second_names_the_first(tmp_path: Path) -> None:
    with started(tmp_path, "--num-runs", "100000") as first:
        wait_for(first, "performance …")
        second = run_command(*RUN, cwd=tmp_path, env=WITH_INSTANT)
    assert second.returncode == 1
    assert f"process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert first.returncode == 130
    third = run_command(*RUN, cwd=tmp_path, env=WITH_INSTANT)  # the lock ended with its holder
    assert third.returncode == 0, third.stderr


def test_on_one_checkpoint_the_second_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    options = ("--precision", "int8", "--quantized-models-dir", str(tmp_path / "cache"))
    with ExitStack() as stack:
        # Held until both wait: the one that gets it second finds a checkpoint that was just made.
        with locks.wait_for_lock(tmp_path / "cache" / "demo_int8", print):
            processes = [stack.enter_context(started(tmp_path, *options, "--output-dir", name)) for name in "ab"]
            for process in processes:
                wait_for(process, f"process {os.getpid()} on")
        for process in processes:
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait() == 0, said
    logs = [(tmp_path / name / "demo" / "demo_int8" / "run.log").read_text() for name in "ab"]
    assert sorted("Quantizing" in log for log in logs) == [False, True]
    records = [json.loads((tmp_path / n / "demo" / "demo_int8" / "performance.json").read_text()) for n in "ab"]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]
    assert not [path for path in (tmp_path / "cache").iterdir() if ".tmp" in path.name]
