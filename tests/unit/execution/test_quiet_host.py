"""A stage that other work disturbs: it waits, is measured again, and the terminal and the next run know."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slim_eval.benchmarks.base import BenchmarkContext
from slim_eval.benchmarks.energy import Energy
from slim_eval.benchmarks.performance import Performance
from slim_eval.config import DemoConfig, DisplayConfig, HostConfig, RunConfig
from slim_eval.execution import progress, worker
from slim_eval.execution.fingerprints import stage_settings
from slim_eval.results.records import EnergyRecord, Measurement, PerformanceMetrics, PerformanceRecord
from slim_eval.results.variants import Variant
from slim_eval.utils.host import HostUse, HostWindow
from tests.standins.engine import PlannedEngine

BUSY = HostUse(cpus=2, seconds=9.0, other_share=0.48)
REASON = "other processes took 48.0% of the 2 CPUs (limit 10%)"


class Disturbed(Performance):
    """A benchmark that is disturbed as often as the list says."""

    def __init__(self, *disturbed: bool) -> None:
        self.disturbed = list(disturbed)
        self.runs = 0

    def run(self, context: BenchmarkContext[Any]) -> Measurement:
        self.runs += 1
        reasons = (REASON,) if self.disturbed.pop(0) else ()
        return Measurement(PerformanceMetrics(valid=not reasons, invalid_reasons=reasons), disturbances=reasons)


class Accuracy(Disturbed):
    """Other work does not change its numbers."""

    needs_quiet = False


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time: until when each was."""
    found: list[float] = []

    def wait(self: HostWindow, until_s: float, waiting: Any) -> None:
        found.append(until_s)
        waiting(BUSY)
        waiting(BUSY)

    monkeypatch.setattr(HostWindow, "wait_until_quiet", wait)
    return found


def measured(benchmark: Performance, **host: float) -> tuple[Measurement, list[str], list[tuple[int, int, str]]]:
    notes: list[str] = []
    shown: list[tuple[int, int, str]] = []

    def report(done: int, total: int, unit: str = "requests") -> None:
        shown.append((done, total, unit))

    config = RunConfig(models="demo", host=HostConfig(**host))
    context = BenchmarkContext(PlannedEngine(), config.performance, config, (), "performance", report)
    return worker.measure_in_quiet(benchmark, context, notes.append)[0], notes, shown


def test_without_the_option_nothing_waits(waits: list[float]) -> None:
    benchmark = Disturbed(True)
    made, notes, shown = measured(benchmark)
    assert (benchmark.runs, waits, notes, shown) == (1, [], [], [])
    assert made.disturbances == (REASON,)


def test_it_waits_says_so_once_and_measures_again_until_nothing_disturbs(waits: list[float]) -> None:
    benchmark = Disturbed(True, True, False)
    made, notes, shown = measured(benchmark, wait_quiet_s=600)
    assert (benchmark.runs, made.disturbances) == (3, ())
    assert len(set(waits)) == 1, "all of it ends 600 s after the stage began"
    assert notes == [
        f"performance waits up to 600 s (--wait-quiet) for a quiet host: {REASON}",
        f"performance was disturbed and is measured again: {REASON}",
        f"performance was disturbed and is measured again: {REASON}",
    ]
    assert shown == [(0, 600, "s of waiting")] * 6  # so that a stage that waits is not taken for one that hangs


def test_when_the_time_is_over_the_last_measurement_stands() -> None:
    benchmark = Disturbed(True, False)
    made, _, _ = measured(benchmark, wait_quiet_s=1e-6)
    assert (benchmark.runs, made.disturbances) == (1, (REASON,))


def test_what_other_work_does_not_change_never_waits(waits: list[float]) -> None:
    measured(Accuracy(True), wait_quiet_s=600)
    assert waits == []


def test_the_limit_is_no_setting_that_numbers_depend_on_and_the_demo_accepts_any_host() -> None:
    one, other = (
        stage_settings(RunConfig(models="demo", host=part), max_model_len=64, device="cpu")
        for part in (HostConfig(), HostConfig(max_contention=1.0, wait_quiet_s=60))
    )
    assert one == other
    assert DemoConfig().run().host == HostConfig(max_contention=1.0)


HEAD: dict[str, Any] = {"model": "org/Tiny", "precision": "int8"}
SPEED: dict[str, Any] = {"mean_latency_s": 0.2, "tokens_per_second": 50.0, "tpot_s": 0.058}


@pytest.mark.parametrize(
    ("validity", "flaw"),
    [
        ({"valid": False, "invalid_reasons": (REASON,)}, f"its record is invalid ({REASON})"),
        ({"valid": True}, ""),
        ({}, ""),  # an older record: unknown
    ],
)
def test_an_invalid_record_is_measured_again(validity: dict[str, Any], flaw: str) -> None:
    config = RunConfig(models="demo")
    assert Performance().flaw(PerformanceRecord(**HEAD, **SPEED, **validity), config) == flaw
    energy = EnergyRecord(**HEAD, energy_joules=3.0, energy_source="nvml-counter", **validity)
    assert Energy().flaw(energy, config) == flaw


def closing(capsys: pytest.CaptureFixture[str], *variants: Variant) -> str:
    report = progress.RunReport(Path("outputs"), tuple(variants))
    progress.PlainDisplay(Console(file=io.StringIO())).close(report)
    return " ".join(capsys.readouterr().out.split())


def variant(*records: PerformanceRecord | EnergyRecord) -> Variant:
    return Variant.of(Path("outputs/Tiny/Tiny_int8"), records)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_the_closing_table_shows_what_is_invalid_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    bad = PerformanceRecord(
        **HEAD, **SPEED, valid=False, invalid_reasons=(REASON,), host=BUSY, max_contention=0.1, benchmark="performance"
    )
    text = closing(capsys, variant(bad))
    assert "58.00 (invalid)" in text
    assert f"invalid, does not count: performance of Tiny int8: {REASON}: --wait-quiet 600 waits" in text
    assert "rerunning the command measures what is invalid again" in text
    stream = io.StringIO()
    display = progress.JsonDisplay(stream, DisplayConfig())
    display.close(progress.RunReport(Path("outputs"), (variant(bad),)))
    assert json.loads(stream.getvalue())["invalid"] == [
        {"cell": "Tiny int8", "stage": "performance", "reasons": [REASON]}
    ]


@pytest.mark.parametrize(("use", "shown"), [(BUSY, True), (replace(BUSY, other_share=0.02), False), (None, False)])
def test_a_busy_host_that_was_accepted_is_named(
    use: HostUse | None, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = PerformanceRecord(**HEAD, **SPEED, valid=True, host=use, max_contention=1.0)
    text = closing(capsys, variant(accepted))
    line = f"busy host: performance, accepted (--max-contention 1): {REASON} (Tiny int8)"
    assert (line in text) is shown
    assert "invalid" not in text


def test_what_the_host_did_survives_the_file() -> None:
    record = PerformanceRecord(**HEAD, host=BUSY, valid=False, max_contention=0.1)
    again = PerformanceRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert again.host == BUSY
    names: Sequence[str] = [*record.model_dump(mode="json")["host"]]
    assert "other_share" in names
