"""Locks: one at a time, named, and gone with their holder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slim_eval.errors import BusyError
from slim_eval.execution import locks

HOLD = """
import sys, time
from pathlib import Path
from slim_eval.execution import locks
with locks.{call}:
    print("held", flush=True)
    time.sleep(600)
"""


def holder(call: str) -> subprocess.Popen[str]:
    """Another process that holds a lock."""
    variables = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(call=call)], stdout=subprocess.PIPE, text=True, env=variables
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_told_who_is_the_first(tmp_path: Path) -> None:
    variants = [tmp_path / name for name in ("a", "b")]
    with holder(f"lock_folders([Path({str(variants[1])!r})])") as process:
        with (
            pytest.raises(BusyError, match=f"process {process.pid} on .* since 20") as caught,
            locks.lock_folders(variants),
        ):
            pytest.fail("held twice")
        assert str(variants[1]) in caught.value.cause
        process.kill()
    with locks.lock_folders(variants):  # a lock dies with its holder
        assert variants[0].is_dir()
    with locks.lock_folders(variants):
        pass


def test_none_is_kept_where_one_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with holder(f"lock_folders([Path({str(second)!r})])") as process:
        with pytest.raises(BusyError), locks.lock_folders([first, second]):
            pytest.fail("held twice")
        with locks.lock_folders([first]):
            pass
        process.kill()


def test_who_waits_says_for_whom_and_goes_on_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "models" / "Tiny_int8"
    told: list[str] = []
    with holder(f"wait_for_lock(Path({str(path)!r}), print)") as process:

        def note(text: str) -> None:
            told.append(text)
            threading.Timer(0.5, process.kill).start()

        with locks.wait_for_lock(path, note):
            assert process.wait() != 0
    (text,) = told
    assert f"{path} is being written by process {process.pid}" in text
    assert text.endswith("waiting for it")
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locks.lock_folders([tmp_path / "file" / "cell"]):
        pytest.fail("held")
