"""Files that a library writes are seen as they grow."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from slim_eval.models import hub


def test_what_comes_is_told_and_what_was_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_WATCH_EVERY_S", 0.01)
    (tmp_path / "old.bin").write_bytes(bytes(5 * 10**6))
    told: list[tuple[int, int | None, str]] = []
    with hub.report_growth(tmp_path, lambda *event: told.append(event)):
        for size in (2, 3):
            (tmp_path / "new.bin").write_bytes(bytes(size * 10**6))
            end = time.monotonic() + 30
            while (not told or told[-1][0] < size) and time.monotonic() < end:
                time.sleep(0.01)
    assert told[-1] == (3, None, "MB")
    assert all(event[1:] == (None, "MB") for event in told)
    assert [event[0] for event in told] == sorted(event[0] for event in told)


def test_a_folder_that_is_not_there_yet_tells_nothing(tmp_path: Path) -> None:
    with hub.report_growth(tmp_path / "later", lambda *event: pytest.fail(str(event))):
        pass
