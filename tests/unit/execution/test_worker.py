"""The child process of a stage: its events, its log, and what it hands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import BenchmarkError, UsageError
from slim_eval.execution import messages, worker


def attempt(error: Exception | None) -> tuple[list[Any], bool]:
    events: list[Any] = []

    def work() -> Path | None:
        if error is not None:
            raise error
        return Path("record.json")

    return events, worker._attempt("mmlu", work, events.append)


def test_a_stage_stands_between_its_events() -> None:
    events, done = attempt(None)
    assert done
    assert [event.event for event in events] == ["started", "finished"]
    assert events[1].path == Path("record.json")


@pytest.mark.parametrize(
    ("error", "usage"), [(BenchmarkError("no data", "get some"), False), (UsageError("no task", "name one"), True)]
)
def test_a_known_failure_is_reported_and_its_trace_logged(
    error: Exception, usage: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error.__cause__ = OSError("disk on fire")
    events, done = attempt(error)
    assert not done
    assert (events[1].event, events[1].usage) == ("failed", usage)
    assert "disk on fire" in capsys.readouterr().err


def test_an_unknown_failure_ends_the_worker() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(ZeroDivisionError())


def test_progress_passes_the_first_and_the_last_and_few_between() -> None:
    events: list[messages.Advanced] = []
    progress = worker._progress("performance", events.append)
    for done in range(1001):
        progress(done, 1000)
    assert events[-1].done == 1000
    assert len(events) < 20
