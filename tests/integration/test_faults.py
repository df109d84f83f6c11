"""A run that is killed and started again gives the results of an uninterrupted one; `tests.faults` tries many more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults import STAGES, Fault, attempt, durations


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """An uninterrupted run, and the duration of its stages."""
    folder = tmp_path_factory.mktemp("reference").resolve()
    took = durations(folder, "instant")
    assert set(took) == set(STAGES)
    return folder, took


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("quantize", "slim-eval", signal.SIGKILL, 0.7), -signal.SIGKILL),
        (Fault("performance", "worker", signal.SIGKILL, 0.2), 1),
        (Fault("demo_gsm8k", "slim-eval", signal.SIGTERM, 0.3), 130),
    ],
    ids=lambda value: f"{value.stage}-{value.number.name}" if isinstance(value, Fault) else "",
)
def test_the_same_command_finishes_a_run_that_was_ended(
    fault: Fault, status: int, reference: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    trial = attempt(reference[0], tmp_path.resolve(), reference[1], fault, engine="instant")
    assert trial.lost == ()
    assert trial.finished
    if trial.hits:
        assert trial.status == status
