"""The log of a variant: capped, never in the way, its last words found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slim_eval.execution import run_log
from slim_eval.execution.run_log import RunLog


def last_words(folder: Path, *lines: str) -> str:
    with RunLog(folder / "run.log") as log:
        for line in lines:
            log.write(line.encode() + b"\n")
        return log.last_words()


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
        assert "planted" not in log.last_words()
    assert told == ["401 for [redacted], Bearer [redacted]"]
    assert (tmp_path / "run.log").read_text() == "401 for [redacted], Bearer [redacted]\n"


def test_it_is_capped_and_keeps_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 10_000)
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
def test_last_words(lines: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert last_words(tmp_path, *lines) == words


def test_an_earlier_run_does_not_speak(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("ValueError: of an earlier run\n")
    assert last_words(tmp_path) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_costs_lines_and_not_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with RunLog(Path("/dev/full")) as log:
        log.write(b"ValueError: it is said nonetheless")
        assert log.last_words() == "ValueError: it is said nonetheless"
    assert capfd.readouterr().err == ""


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as stream:
        stream.write(b"." * 50_000)
    with RunLog(tmp_path / "run.log") as log, os.fdopen(read, "rb") as source:
        log.take(source)
    assert (tmp_path / "run.log").stat().st_size == 50_001
