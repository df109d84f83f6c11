"""The local executor: events come through, other output goes to the log, nothing outlives its job."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import RunConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution import executor, messages
from slim_eval.execution.executor import LocalExecutor, RunLog

CONFIG = RunConfig(models="demo", engine={"engine": "transformers"})
JOB = messages.CheckJob(config=CONFIG, precisions=("fp16",), stages={})


def interpreter(folder: Path, body: str) -> Path:
    """An 'interpreter' that runs `body` whatever it is asked to run, as a worker of another environment would."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\nimport json, os, signal, subprocess, sys, time\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def run(folder: Path, body: str, **options: Any) -> tuple[messages.Outcome, list[Any], str]:
    log = folder / "run.log"
    *events, outcome = LocalExecutor().submit(JOB, log=log, python=interpreter(folder, body), **options)
    return outcome, events, log.read_text()


def test_events_come_through_and_chatter_goes_to_the_log(tmp_path: Path) -> None:
    outcome, events, log = run(
        tmp_path,
        """
job = json.load(sys.stdin)
print(json.dumps({"event": "started", "stage": "check"}), flush=True)
print("loading shards", flush=True)
print("a warning", file=sys.stderr, flush=True)
print(json.dumps({"event": "advanced", "stage": "check", "done": 1, "total": 2, "unit": "requests"}))
print(json.dumps({"event": "finished", "stage": "check", "path": None}))
""",
    )
    assert not outcome.died
    assert [event.event for event in events] == ["started", "advanced", "finished"]
    assert "loading shards" in log
    assert "a warning" in log


def test_a_signal_is_named_with_the_stage(tmp_path: Path) -> None:
    outcome, _, _ = run(
        tmp_path,
        """
print(json.dumps({"event": "started", "stage": "energy"}), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert outcome.died
    assert outcome.stage == "energy"
    assert "SIGKILL" in outcome.describe()


def test_the_last_words_are_the_exception(tmp_path: Path) -> None:
    outcome, _, _ = run(tmp_path, "raise RuntimeError('no kernel image is available')")
    assert outcome.status == 1
    assert outcome.describe() == "RuntimeError: no kernel image is available (exit status 1)"


def test_an_earlier_run_does_not_speak_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("ValueError: of an earlier run\n")
    outcome, _, _ = run(tmp_path, "sys.exit(3)")
    assert outcome.describe() == "the worker ended: exit status 3"


def test_grandchildren_do_not_survive(tmp_path: Path) -> None:
    run(
        tmp_path,
        f"""
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
os.kill(os.getpid(), signal.SIGSEGV)
""",
    )
    assert _gone(int((tmp_path / "pid").read_text()))


def test_an_interruption_stops_the_worker_and_its_children(tmp_path: Path) -> None:
    body = f"""
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print(json.dumps({{"event": "started", "stage": "engine"}}), flush=True)
time.sleep(600)
"""
    with contextlib.closing(
        LocalExecutor().submit(JOB, log=tmp_path / "log", python=interpreter(tmp_path, body))
    ) as events:
        next(events)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_a_process_outside_the_group_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_ORPHANS_S", 0.5)
    outcome, _, _ = run(
        tmp_path,
        f"""
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
""",
    )
    assert outcome.status == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.large
def test_one_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    body = f"""
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
signal.signal(signal.SIGUSR1, lambda *_: print("where it stands", file=sys.stderr, flush=True))
print(json.dumps({{"event": "started", "stage": "energy"}}), flush=True)
while True:
    time.sleep(0.05)
"""
    outcome, _, log = run(tmp_path, body, silence_s=1.5)
    assert outcome.died
    assert (outcome.stage, outcome.silent_s) == ("energy", 1.5)
    assert "no progress for 1.5 s" in outcome.describe()
    assert "where it stands" in log
    assert _gone(int((tmp_path / "pid").read_text()))


@pytest.mark.large
def test_a_sign_of_life_keeps_it_alive(tmp_path: Path) -> None:
    body = """
for done in range(8):
    print(json.dumps({"event": "advanced", "stage": "check", "done": done, "total": 8, "unit": "requests"}), flush=True)
    time.sleep(0.5)
"""
    outcome, _, _ = run(tmp_path, body, silence_s=3.0)
    assert not outcome.died


def test_one_that_ends_without_a_word_says_so(tmp_path: Path) -> None:
    outcome, events, _ = run(tmp_path, "sys.exit(0)")
    assert not events
    assert outcome.describe() == "the worker exited before finishing"


def test_garbage_is_no_event(tmp_path: Path) -> None:
    outcome, events, log = run(
        tmp_path,
        """
sys.stdout.buffer.write(bytes(range(256)) * 4096)
print('{"event": "finished", "stage": 7}')
print('{"event": "finis')
print(json.dumps({"event": "finished", "stage": "check", "path": None}))
""",
    )
    assert not outcome.died
    assert [event.event for event in events] == ["finished"]
    assert '"stage": 7' in log


PARENT = """
import os, subprocess, sys, time
from slim_eval.execution import messages
lifeline, own_end = os.pipe()
environment = {**os.environ, messages.LIFELINE: str(lifeline)}
subprocess.Popen([sys.executable, "-c", sys.argv[1]], pass_fds=(lifeline,), start_new_session=True, env=environment)
os.close(lifeline)
time.sleep(600)
"""
CHILD = """
import os, subprocess, sys, time
from slim_eval.execution import worker
worker._hold_lifeline()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_who_started_it_though_that_is_killed() -> None:
    """Nothing tells it but the pipe, which ends with the parent; what it has started ends, too."""
    variables = {**os.environ, "PYTHONPATH": str(Path(executor.__file__).parents[2])}
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    assert all(_gone(pid) for pid in pids)


def test_who_is_told_twice_to_end_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not heed SIGTERM is killed when the user interrupts again; else this would never end."""
    monkeypatch.setattr(executor, "_GRACE_S", 1e6)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"event": "started", "stage": "engine"}), flush=True)
time.sleep(600)
"""

    events = LocalExecutor().submit(JOB, log=tmp_path / "log", python=interpreter(tmp_path, body))
    next(events)
    threading.Timer(1.0, signal.raise_signal, (signal.SIGINT,)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            events.close()
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SlimEvalError, match="cannot be started"):
        list(LocalExecutor().submit(JOB, log=tmp_path / "log", python=tmp_path / "nothing"))


def test_the_real_worker_answers_a_check(tmp_path: Path) -> None:
    *events, outcome = LocalExecutor().submit(JOB, log=tmp_path / "log")
    assert isinstance(outcome, messages.Outcome)
    assert not outcome.died, outcome.describe()
    assert [event.event for event in events] == ["started", "chosen", "finished"]


def _gone(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0]
        if state == "Z":  # killed; whoever adopted it has yet to reap it
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def cause(folder: Path, *lines: str) -> str:
    with RunLog(folder / "run.log") as log:
        for line in lines:
            log.write(line.encode() + b"\n")
        return log.cause()


def test_it_is_appended_to_and_echoed(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("of an earlier run\n")
    told: list[str] = []
    with RunLog(path, told.append) as log:
        log.write(b"one\r\n")
        log.write(b"\xff two")
    assert path.read_text() == "of an earlier run\none\n\ufffd two\n"
    assert told == ["one", "\ufffd two"]


def test_no_secret_gets_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-value-1")
    told: list[str] = []
    with RunLog(tmp_path / "run.log", told.append) as log:
        log.write(b"401 for planted-value-1, Bearer planted-value-of-a-header")
        assert "planted" not in log.cause()
    assert told == ["401 for [redacted], Bearer [redacted]"]
    assert (tmp_path / "run.log").read_text() == "401 for [redacted], Bearer [redacted]\n"


def test_it_is_capped_and_keeps_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MAX_LOG_BYTES", 10_000)
    with RunLog(tmp_path / "run.log") as log:
        for number in range(5000):
            log.write(f"line {number}".encode())
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == ["run.log", "run.log.1"]
    assert all(path.stat().st_size <= 10_000 for path in kept)
    assert kept[0].read_text().endswith("line 4999\n")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), ""),
        (("loading", "RuntimeError: no kernel", "  "), "RuntimeError: no kernel"),
        (("RuntimeError: no kernel", "bye"), "RuntimeError: no kernel"),
        (("loading", "done"), "done"),
        (
            ("Fatal Python error: Segmentation fault", "Current thread 0x1 (most recent call first):",
             '  File "a.py", line 3 in f', "Extension modules: numpy"),
            "Fatal Python error: Segmentation fault",
        ),
        (("x" * 1000,), "x" * 300),
    ],
)  # fmt: skip
def test_the_cause_of_a_log(lines: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert cause(tmp_path, *lines) == words


def test_an_earlier_run_does_not_speak(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("ValueError: of an earlier run\n")
    assert cause(tmp_path) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_costs_lines_and_not_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with RunLog(Path("/dev/full")) as log:
        log.write(b"ValueError: it is said nonetheless")
        assert log.cause() == "ValueError: it is said nonetheless"
    assert capfd.readouterr().err == ""


def test_a_line_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_LONGEST_LINE", 1000)
    _, _, log = run(tmp_path, "sys.stderr.write('.' * 50_000); sys.stderr.flush()")
    assert log.count(".") == 50_000
    assert max(map(len, log.splitlines())) <= 2000
