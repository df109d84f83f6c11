"""The executor seam: one from a single file outside the package, through the command line to the report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command

TOY = Path(__file__).parent / "toys" / "executor.py"
ENV = {"SLIM_EVAL_PLUGINS": os.pathsep.join([str(TOY), *WITH_INSTANT.values()])}
RUN = ("run", "--executor", "nice-pair", "--log-format", "json", *INSTANT)


def test_a_toy_executor_runs_two_variants_at_the_same_time_to_the_report(tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "twin")
    process = run_command(*RUN, "--models", "demo ./twin", "--tasks", "performance", cwd=tmp_path, env=ENV)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines() if line.startswith("{")]
    begun = [line["cell"] for line in lines if line["event"] == "cell"]
    assert sorted(begun) == ["./twin fp16", "demo fp16"]
    loading = [i for i, line in enumerate(lines) if (line["event"], line.get("stage")) == ("started", "engine")]
    first_ended = next(
        i for i, line in enumerate(lines) if line["event"] == "finished" and line["stage"] == "performance"
    )
    assert {lines[index]["cell"] for index in loading if index < first_ended} == set(begun)
    for model in ("demo", "twin"):
        assert (tmp_path / "outputs" / model / f"{model}_fp16" / "performance.json").exists()
    analysis = run_command("analyze", "--no-plots", cwd=tmp_path)
    assert analysis.returncode == 0, analysis.stderr
    assert "twin" in (tmp_path / "analysis_results" / "report.html").read_text()


def test_an_interrupt_stops_both_and_fails_none(tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "twin")
    command = [sys.executable, "-m", "slim_eval", *RUN, "--models", "demo ./twin", "--num-runs", "100000", "--tasks",
               "performance"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **ENV, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        measuring: set[str] = set()
        while len(measuring) < 2:
            line = process.stderr.readline()
            assert line, "the run ended before it measured"
            event = json.loads(line)
            if (event["event"], event.get("stage")) == ("started", "performance"):
                measuring.add(event["cell"])
        workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "to continue: slim-eval run" in rest
    assert not [pid for pid in workers if psutil.pid_exists(pid)]
    assert not list(tmp_path.rglob("*.error.json"))


def test_without_the_plugin_the_name_is_unknown(tmp_path: Path) -> None:
    process = run_command("run", "--models", "demo", "--executor", "nice-pair", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: unknown executor 'nice-pair'\n  fix: known: local, ray\n"
