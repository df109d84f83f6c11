"""What the evaluator does with workers that end otherwise than they should."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from slim_eval import evaluator, results
from slim_eval.config import RunConfig
from slim_eval.errors import BusyError, UsageError
from slim_eval.execution import locks, messages, plan
from slim_eval.execution.executor import LocalExecutor
from slim_eval.results.records import SCHEMA_VERSION, AccuracyRecord, EnergyRecord, PerformanceRecord, Record
from slim_eval.results.store import write_record
from tests.unit.execution.test_resume import config

STAGES = ["performance", "energy", "demo_mmlu", "demo_gsm8k"]


class End(NamedTuple):
    """How a worker ends: after these stages, having begun that one, in this way."""

    finishes: tuple[str, ...]
    begins: str | None
    outcome: messages.Outcome


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: [])


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Workers that end as told, in turn, and then do their job; the stages that each was asked for."""

    def of(*ends: End) -> list[list[str]]:
        asked: list[list[str]] = []
        left = list(ends)

        def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[messages.Event | messages.Outcome]:
            if isinstance(job, messages.CheckJob):
                yield messages.Outcome()
                return
            stages = list(job.settings) if isinstance(job, messages.MeasureJob) else ["quantize"]
            asked.append(stages)
            end = left.pop(0) if left else End(("engine", *stages), None, messages.Outcome())
            for stage in end.finishes:
                if stage in stages:
                    write_record(job.directory, record(stage), ({"x": 1},))
                yield messages.Finished(stage=stage)
            if end.begins is not None:
                yield messages.Started(stage=end.begins)
            yield end.outcome

        monkeypatch.setattr(LocalExecutor, "submit", submit)
        return asked

    return of


def record(name: str) -> Record:
    head = {"schema_version": SCHEMA_VERSION, "model": "demo", "precision": "fp16", "engine": "transformers"}
    if name == "performance":
        return PerformanceRecord(**head, mean_latency_s=0.1, tokens_per_second=10.0)
    if name == "energy":
        return EnergyRecord(**head, valid=True, energy_source="nvml-counter", energy_joules=1.0)
    return AccuracyRecord(**head, task=name, accuracy=0.5, metric="acc,none")


def failures(report: evaluator.RunReport) -> list[tuple[str, str]]:
    return [(failure.stage, failure.cause) for failure in report.failures]


KILLED = messages.Outcome(-9, "energy", "")


def test_a_fresh_worker_does_what_comes_after_the_stage_that_died(worked: Callable[..., list[list[str]]]) -> None:
    asked = worked(End(("engine", "performance"), "energy", KILLED))
    report = evaluator.evaluate(config())
    assert asked == [STAGES, STAGES[2:]]
    assert failures(report) == [("energy", "the worker ended: killed by SIGKILL")]
    assert len(report.variants[0].records) == 3
    assert results.has_error(report.variants[0].directory, "energy")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (messages.Outcome(), "exited before finishing"),
        (messages.Outcome(-9, "energy", "", out_of_memory=True), "killed by the kernel: out of memory"),
        (messages.Outcome(-15, "energy", "", silent_s=60.0), "no progress for 60 s"),
        (messages.Outcome(1, "energy", "ValueError: no"), "ValueError: no (exit status 1)"),
    ],
)
def test_every_ending_is_told(outcome: messages.Outcome, words: str, worked: Callable[..., list[list[str]]]) -> None:
    worked(End(("engine", "performance"), outcome.stage, outcome))
    report = evaluator.evaluate(config())
    ((stage, cause),) = failures(report)
    assert stage == "energy"  # begun or next: it is what the worker died of
    assert words in cause
    assert {found.stage for found in report.variants[0].errors.values()} == {"energy"}


def test_an_engine_that_does_not_start_is_not_tried_for_each_stage(worked: Callable[..., list[list[str]]]) -> None:
    asked = worked(End((), "engine", messages.Outcome(1, "engine", "ValueError: no")))
    report = evaluator.evaluate(config())
    assert asked == [STAGES]
    ((stage, cause),) = failures(report)
    assert stage == "engine"
    assert cause == "the engine did not start: ValueError: no (exit status 1)"
    assert all(results.has_error(Path("outputs/demo/demo_fp16"), name) for name in STAGES)


def test_quantization_that_ends_without_a_word_fails(worked: Callable[..., list[list[str]]]) -> None:
    asked = worked(End((), None, messages.Outcome()))
    report = evaluator.evaluate(config(precision="int8"))
    assert asked == [["quantize"]]
    assert failures(report) == [("quantize", "the worker exited before finishing")]


def test_a_variant_that_another_run_measures_is_refused(worked: Callable[..., list[list[str]]]) -> None:
    asked = worked()
    with (
        locks.lock_folders([Path("outputs/demo/demo_int8")]),
        pytest.raises(BusyError, match="demo_int8 is being measured"),
    ):
        evaluator.evaluate(config(precision="fp16 int8"))
    assert asked == []
    assert not list(Path("outputs").rglob("*.json"))


def test_what_was_left_half_written_is_removed(worked: Callable[..., list[list[str]]]) -> None:
    worked()
    variant = Path("outputs/demo/demo_fp16")
    variant.mkdir(parents=True)
    (variant / ".performance.json.abc.tmp").write_text("{")
    evaluator.evaluate(config())
    assert not list(variant.glob("*.tmp"))


def test_a_failure_that_cannot_be_recorded_is_told_all_the_same(
    worked: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worked(End(("engine", "performance"), "energy", KILLED))

    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "energy.error.json")

    monkeypatch.setattr(results, "write_error", full)
    report = evaluator.evaluate(config())
    assert len(report.variants[0].records) == 3
    assert "could not record the failure: energy.error.json: No space left on device" in capsys.readouterr().err


def test_checkpoints_that_do_not_fit_on_the_disk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    wanted: RunConfig = config(precision="int8")
    with pytest.raises(UsageError, match="GiB are free, but the checkpoints need more") as caught:
        plan.check(wanted, plan.lay_out(wanted)[0])
    assert "another disk" in caught.value.remedy
