"""Locks: one at a time, named, and gone with their holder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from slim_eval import evaluator
from slim_eval.errors import BusyError
from slim_eval.execution import locks, plan
from slim_eval.execution.executor import LocalExecutor
from slim_eval.execution.variant_run import VariantRun
from slim_eval.quantization.cache import checkpoint_directory
from tests.unit.execution.test_resume import config

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


def test_a_variant_in_a_thread_stops_to_wait_when_the_run_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `--gpus`, where an interrupt reaches the main thread alone, which then waits for the others."""
    monkeypatch.chdir(tmp_path)
    (variant,), _ = plan.lay_out(config(precision="int8"))
    path, cancelled, waits = checkpoint_directory(variant.quantize_request(variant.source)), Event(), Event()
    display = SimpleNamespace(begin=print, handle=lambda _, event: waits.set() if "waiting" in event.text else None)
    watched = evaluator._Watched(variant, (1, 1), display, cancelled)  # type: ignore[arg-type]
    log = tmp_path / "run.log"
    with holder(f"wait_for_lock(Path({str(path.absolute())!r}), print)") as process, ThreadPoolExecutor(1) as pool:
        done = pool.submit(VariantRun(variant, watched, LocalExecutor(), (), log, log).execute)
        try:
            assert waits.wait(20)
            cancelled.set()
            with pytest.raises(CancelledError):
                done.result(2)
        finally:
            process.kill()
    assert watched.failures == []


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locks.lock_folders([tmp_path / "file" / "cell"]):
        pytest.fail("held")
