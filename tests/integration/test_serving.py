"""`--tasks serving` from the command line: levels, resume by level, refusals; the stand-in engine has a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ON_A_BUSY_HOST, WITH_INSTANT, heed_ctrl_c, run_command

KV_TOKENS = 12_345  # also tells its servers from those of other tests
SERVER = {**WITH_INSTANT, "INSTANT_SERVER": json.dumps({"prefill_s": 0.01, "itl_s": 0.005, "kv_tokens": KV_TOKENS})}
RUN = (
    "run", "--models", "demo", "--tasks", "serving", "--serving-duration", "1", "--input-len", "8", "--output-len", "8",
    "--energy-source", "none", "--no-wandb-enabled", *ON_A_BUSY_HOST,
)  # fmt: skip


def call(folder: Path, *args: str, engine: str = "instant") -> subprocess.CompletedProcess[str]:
    return run_command(*RUN, "--engine", engine, *args, cwd=folder, env=SERVER)


def record(folder: Path) -> dict[str, Any]:
    text = (folder / "outputs" / "demo" / "demo_fp16" / "serving.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def test_levels_are_measured_once_and_added_to(tmp_path: Path) -> None:
    process = call(tmp_path, "--concurrency", "1 2")
    assert process.returncode == 0, process.stderr
    first = record(tmp_path)
    assert [level["label"] for level in first["levels"]] == ["concurrency-1", "concurrency-2"]
    assert first["levels"][0]["kv_cache_usage"] is not None
    assert first["ended"] == "every level was measured"
    assert any("--energy-source none" in note for note in first["notes"])
    again = call(tmp_path, "--concurrency", "1 2")
    assert "reused 1 of 1 stages" in again.stdout
    more = call(tmp_path, "--concurrency", "1 2 4")
    assert more.returncode == 0, more.stderr
    assert "it has no level concurrency-4" in more.stdout + more.stderr
    added = record(tmp_path)
    assert added["levels"][:2] == first["levels"]
    assert [level["label"] for level in added["levels"]][2:] == ["concurrency-4"]
    other = call(tmp_path, "--concurrency", "1 2 8", "--serving-duration", "2")
    assert other.returncode == 2
    assert "serving_duration: recorded with 1.0, requested 2.0" in other.stderr
    assert record(tmp_path) == added
    assert not _left_behind()


def test_an_interrupt_keeps_the_levels_before_and_ends_the_server(tmp_path: Path) -> None:
    words = (*RUN, "--engine", "instant", "--concurrency", "1 2", "--serving-duration", "3")
    command = [sys.executable, "-m", "slim_eval", *words]
    file = tmp_path / "outputs" / "demo" / "demo_fp16" / "serving.json"
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **SERVER}, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_ctrl_c,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while not file.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the run and everything that it started
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "to continue: slim-eval run" in said
    assert "Traceback" not in said
    assert not _left_behind()
    kept = record(tmp_path)
    assert [level["label"] for level in kept["levels"]] == ["concurrency-1"]
    assert kept["ended"] is None
    again = call(tmp_path, *words[len(RUN) + 2 :])
    assert again.returncode == 0, again.stderr
    assert record(tmp_path)["levels"][0] == kept["levels"][0]
    assert [level["label"] for level in record(tmp_path)["levels"]] == ["concurrency-1", "concurrency-2"]


def _left_behind() -> list[str]:
    """Processes of the server that a run of this file left behind."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_text(errors="replace")
            found += [words] if "completions.py" in words and str(KV_TOKENS) in words else []
    return found


def test_an_engine_without_a_server_is_refused_before_the_run(tmp_path: Path) -> None:
    process = call(tmp_path, "--concurrency", "1", engine="transformers")
    assert process.returncode == 2
    assert "has no server, which serving needs" in process.stderr
    assert "--engine vllm" in process.stderr
    assert not (tmp_path / "outputs" / "demo").exists()


@pytest.mark.parametrize("words", [("--max-goodput",), ("--max-goodput", "--slo", "x:1ms")])
def test_recommend_refuses_objectives_that_are_none(tmp_path: Path, words: tuple[str, ...]) -> None:
    process = run_command("recommend", *words, cwd=tmp_path)
    assert process.returncode == 2
    assert "--slo" in process.stderr
