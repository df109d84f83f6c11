"""The child process of a stage: its events, its log, and what it hands on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval import models, power
from slim_eval.benchmarks.base import BENCHMARKS, BenchmarkContext
from slim_eval.config import RunConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.engines import ENGINES, EngineType, LoadRequest
from slim_eval.engines.agreement import Reference
from slim_eval.errors import BenchmarkError, UsageError
from slim_eval.execution import messages, worker
from slim_eval.results.records import (
    Measurement,
    Metadata,
    PerformanceRecord,
    ServingLevel,
    ServingMetrics,
    ServingRecord,
)
from slim_eval.results.store import RECEIPT, Variant, read_samples, record_path, write_record
from tests.standins.engine import PlannedEngine


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


@pytest.mark.parametrize(
    ("quantization", "precision", "base"),
    [
        (None, "fp16", None),
        ({"quant_method": "awq"}, "w4a16-awq", None),
        ({"quant_method": "awq"}, "w4a16-awq", "acme/base"),
        ({"quant_method": "awq"}, "fp16", None),  # a job that was saved by an older version
    ],
)
def test_a_checkpoint_that_came_quantized_is_never_its_own_baseline(
    quantization: dict[str, Any] | None, precision: str, base: str | None, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(MODEL_DIR, checkpoint)
    content = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": quantization}
    (checkpoint / "config.json").write_text(json.dumps(content))
    job = messages.MeasureJob(
        model="acme/tiny", revision=None, source=checkpoint, checkpoint=checkpoint, precision=precision,
        base_model=base, quantization_scheme="FP16", stages=("performance",), directory=tmp_path, max_model_len=64,
        config=RunConfig(models="acme/tiny"),
    )  # fmt: skip
    head = worker._metadata(job, PlannedEngine(), "asked for", ())
    variant = Variant.of(tmp_path, [PerformanceRecord(**head)])
    assert (variant.precision, variant.baseline) == (precision, "fp16")
    assert head["base_model"] == (base if quantization else "acme/tiny")
    assert variant.is_baseline is (quantization is None)


def test_a_checkpoint_made_elsewhere_is_not_said_to_be_made_by_our_method(tmp_path: Path) -> None:
    source, checkpoint = tmp_path / "model", tmp_path / "model_int8"
    shutil.copytree(MODEL_DIR, source)
    shutil.copytree(MODEL_DIR, checkpoint)
    content = json.loads((checkpoint / "config.json").read_text())
    content |= {"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 128}}
    (checkpoint / "config.json").write_text(json.dumps(content))
    job = messages.MeasureJob(
        model="acme/tiny", revision=None, source=source, checkpoint=checkpoint, precision="int8",
        quantization_scheme="GPTQ (W8A8)", stages=("performance",), directory=tmp_path, max_model_len=64,
        config=RunConfig(models="acme/tiny"),
    )  # fmt: skip
    head = worker._metadata(job, PlannedEngine(), "asked for", ())
    assert head["quantization_scheme"] == models.describe(checkpoint).scheme
    assert "GPTQ (W8A8)" not in str(head["quantization_scheme"])
    assert (head["precision"], head["base_model"]) == ("int8", "acme/tiny")


def serving_job(folder: Path, device: str, **options: Any) -> tuple[messages.MeasureJob, dict[str, Any]]:
    """A job with a record of one level made on an A100, and the settings with which it would go on."""
    then = {"device": "A100", "seed": 1}
    level = ServingLevel(label="concurrency-1", load="concurrency")
    head = {"schema_version": 1, "benchmark": "serving", "model": "m", "precision": "fp16", "engine": "vllm"}
    write_record(folder, ServingRecord(**head, measured_with=then, levels=(level,)), [{"level": "x"}])
    job = messages.MeasureJob(
        model="m", revision=None, source=folder, checkpoint=folder, precision="fp16", quantization_scheme="FP16",
        stages=("serving",), directory=folder, max_model_len=64, config=RunConfig(models="m", **options),
    )  # fmt: skip
    return job, {**then, "device": device}


def test_what_another_device_left_is_not_dropped_without_a_word(tmp_path: Path) -> None:
    events: list[Any] = []
    job, now = serving_job(tmp_path, "A100")
    earlier = worker._earlier(job, "serving", now, events.append)
    assert earlier is not None
    assert earlier.samples == [{"level": "x"}]
    assert events == []
    job, now = serving_job(tmp_path, "H100")
    assert worker._earlier(job, "serving", now, events.append) is None
    (note,) = events
    assert note.text == (
        "serving is measured from the start, without what is recorded: device: recorded with A100, requested H100"
    )
    job, now = serving_job(tmp_path, "H100", force=True)
    assert worker._earlier(job, "serving", now, events.append) is None
    assert len(events) == 1


def test_each_level_that_is_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = ServingLevel(label="concurrency-1", load="concurrency")
    measurement = Measurement(metrics=ServingMetrics(levels=(level,)), samples=())
    benchmark = BENCHMARKS["serving"]

    def run(context: BenchmarkContext[Any]) -> Measurement:
        context.keep(measurement)
        assert record_path(tmp_path, "serving").is_file()
        return measurement

    monkeypatch.setattr(benchmark, "run", run)
    job, _ = serving_job(tmp_path, "A100", host={"wait_quiet_s": 0})
    head = Metadata(schema_version=1, model="m", precision="fp16", engine="vllm").model_dump()
    loaded = worker._Loaded(PlannedEngine(), (), None, head)
    events: list[Any] = []
    progress = worker._progress("serving", events.append)
    worker._record(job, "serving", benchmark, loaded, progress, events.append)
    assert [event for event in events if isinstance(event, messages.Kept)] == [messages.Kept(stage="serving")]
    assert messages.parse_event(messages.Kept(stage="serving").model_dump_json()) == messages.Kept(stage="serving")


@pytest.mark.parametrize("is_another_model", [False, True])
def test_each_loaded_engine_makes_one_receipt_for_all_its_records(
    is_another_model: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(MODEL_DIR, checkpoint)
    ids, values = [list(range(2, 40))], [[-1.0, -2.5] * 18 + [-1.0]]
    reference = Reference.of(ids, values, values)
    assert reference is not None
    reference.write(checkpoint)
    made: list[PlannedEngine] = []

    class Scoring(PlannedEngine):
        def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
            return [[-9.0] * 37] if is_another_model else [[value - 0.01 for value in values[0]]]

    class Planned(EngineType):
        name = label = "planned"
        quantized_kernels = "emulated"

        def load(self, request: LoadRequest) -> PlannedEngine:
            made.append(Scoring())
            return made[0]

    monkeypatch.setitem(ENGINES._members, "planned", Planned())
    job = messages.MeasureJob(
        model="acme/tiny", revision=None, source=checkpoint, checkpoint=checkpoint, precision="int8",
        quantization_scheme="GPTQ (W8A8)", stages=("performance",), directory=tmp_path / "outputs", max_model_len=64,
        config=RunConfig(models="acme/tiny", engine={"engine": "planned"}),
    )  # fmt: skip
    events: list[Any] = []
    loaded = worker._attempt("engine", lambda: worker._load(job, events.append), events.append)
    if is_another_model:
        assert loaded is None
        assert "is not this checkpoint" in events[-1].cause
        assert made[0].closed
        return
    assert loaded is not None
    record = PerformanceRecord(**loaded.head)
    assert (record.agreement_tokens, record.agreement_mean) == (37, pytest.approx(0.01))
    assert [row["token"] for row in read_samples(tmp_path / "outputs", RECEIPT)] == ids[0][1:]
    assert any("0.0100 nats per token on average" in getattr(event, "text", "") for event in events)


def test_a_worker_hides_all_gpus_but_those_it_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(power.Gpu(index, f"GPU-{index}", "A100", None, "1") for index in range(4))
    monkeypatch.setattr("slim_eval.power.gpus.list_gpus", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,2")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert worker._claim_gpus(1, 2) == (gpus[1], gpus[2])
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == ("1,2", "PCI_BUS_ID")
    with pytest.raises(UsageError, match="--gpu-index 2"):
        worker._claim_gpus(2, 1)
