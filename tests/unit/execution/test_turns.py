"""Turns of the workers on one machine: what may run at the same time, and what each is told of its neighbours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slim_eval.execution import turns


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(turns.FOLDER, str(tmp_path / "turns"))
    return tmp_path / "turns"


class Stage:
    """A stage of a worker, in a thread: it waits for its turn, and then runs until it is told to end."""

    def __init__(self, what: str, *, alone: bool = False) -> None:
        self.what, self.alone = what, alone
        self.waited_s = 0.0
        self.running = threading.Event()
        self.beside: turns.Beside = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        def waiting(seconds: float) -> None:
            self.waited_s = seconds

        with turns.turn(self.what, alone=self.alone, waiting=waiting) as beside:
            self.running.set()
            self._end.wait(30)
            self.beside = beside()

    def end(self) -> Stage:
        self._end.set()
        self._thread.join(30)
        return self


def begins(stage: Stage) -> bool:
    return stage.running.wait(20)


def waits(stage: Stage) -> bool:
    end = time.monotonic() + 20
    while not stage.waited_s and time.monotonic() < end:
        time.sleep(0.01)
    return bool(stage.waited_s) and not stage.running.wait(0.3)


def test_stages_that_need_no_quiet_run_side_by_side() -> None:
    first, second = Stage("a: quantize"), Stage("b: accuracy")
    assert begins(first)
    assert begins(second)
    third = Stage("c: engine")
    assert begins(third)
    for stage in (second, third, first):
        stage.end()
    assert set(first.beside) == {"b: accuracy", "c: engine"}
    assert set(second.beside) >= {"a: quantize"}


def test_speed_waits_until_nothing_else_runs_and_nothing_begins_meanwhile() -> None:
    quantizing = Stage("a: quantize")
    assert begins(quantizing)
    speed = Stage("b: performance", alone=True)
    assert waits(speed)
    joins = Stage("c: accuracy")  # the machine is not quiet anyway: nobody waits for nothing
    assert begins(joins)
    quantizing.end()
    assert waits(speed)
    joins.end()
    assert begins(speed)
    late = Stage("d: engine")
    assert waits(late)
    assert speed.end().beside == ()
    assert begins(late)
    late.end()


def test_all_that_wait_to_be_alone_are_measured_before_anything_else_begins() -> None:
    busy = Stage("a: quantize")
    assert begins(busy)
    alone = []
    for name in "bcd":
        alone.append(Stage(f"{name}: performance", alone=True))
        assert waits(alone[-1])
    busy.end()
    assert begins(alone[0])
    other = Stage("e: accuracy")
    assert waits(other)
    for this, following in zip(alone, [*alone[1:], None], strict=True):
        assert this.end().beside == ()
        if following is not None:
            assert begins(following)
            assert waits(other)
    assert begins(other)
    other.end()


def test_a_killed_worker_leaves_no_turn(folder: Path) -> None:
    code = (
        "import time; from slim_eval.execution import turns\n"
        "with turns.turn('x: performance', alone=True, waiting=print): print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        waiting = Stage("y: performance", alone=True)
        assert waits(waiting)
        os.kill(process.pid, signal.SIGKILL)
    assert begins(waiting)
    assert waiting.end().beside == ()
    assert not list(folder.glob("*.json"))


def test_without_a_folder_nobody_waits_and_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(turns.FOLDER)
    never: Callable[[float], None] = lambda seconds: pytest.fail("waited")  # noqa: E731
    with (
        turns.turn("a", alone=True, waiting=never) as beside,
        turns.turn("b", alone=True, waiting=never),
    ):
        assert beside() is None
