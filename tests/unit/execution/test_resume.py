"""Resuming: which records stand, which are measured again, and which must not be replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval import evaluator, results
from slim_eval.config import RunConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.engines import engine
from slim_eval.errors import NewerResultError, RunFailedError, UsageError
from slim_eval.evaluator import measure_noise
from slim_eval.execution import fingerprints, messages, plan, resume
from slim_eval.execution.executor import LocalExecutor
from slim_eval.models.source import describe
from slim_eval.quantization import cache
from slim_eval.results.records import (
    SCHEMA_VERSION,
    AccuracyRecord,
    EnergyRecord,
    ErrorRecord,
    PerformanceRecord,
    Record,
)
from slim_eval.results.store import write_error, write_record

ENGINE = "transformers"
ALL = ["performance", "energy", "demo_mmlu", "demo_gsm8k"]
SAMPLE = ({"x": 1},)
PUBLISHED = Path(__file__).resolve().parents[3] / "outputs" / "published-a100"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def config(**options: Any) -> RunConfig:
    parts = {
        "accuracy": {"tasks": "demo_mmlu demo_gsm8k"},
        "engine": {"engine": ENGINE},
        "tracking": {"enabled": False},
    }
    return RunConfig(**({"models": "demo"} | parts | options))


def record(name: str, head: dict[str, Any]) -> Record:
    if name == "performance":
        return PerformanceRecord(**head, mean_latency_s=0.1, tokens_per_second=10.0, load_time_s=2.0)
    if name == "energy":
        return EnergyRecord(**{"valid": True, "energy_source": "nvml-counter", "energy_joules": 1.0} | head)
    return AccuracyRecord(**head, task=name, accuracy=0.5, metric="acc,none")


def make(directory: Path, name: str, settings: dict[str, Any], precision: str = "fp16", **changes: Any) -> None:
    """A record as a worker leaves it."""
    measured_with = fingerprints.served_by(settings, ENGINE)
    head = {
        "schema_version": SCHEMA_VERSION, "model": "demo", "precision": precision, "engine": ENGINE,
        "measured_with": measured_with, "fingerprint": fingerprints.fingerprint(measured_with), "stage_duration_s": 3.0,
    }  # fmt: skip
    write_record(directory, record(name, head | changes), SAMPLE)


@pytest.fixture
def done() -> Path:
    """A variant with a record of every stage."""
    (variant,), gpus = plan.lay_out(config())
    for name, settings in variant.settings(gpus).items():
        make(variant.directory, name, settings)
    return variant.directory


def survey(wanted: RunConfig | None = None) -> plan.PlannedVariant:
    wanted = wanted or config()
    variants, gpus = plan.lay_out(wanted)
    (variant,) = resume.survey(variants, gpus, force=wanted.force)
    return variant


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_empty_folder_is_measured_whole() -> None:
    variant = survey()
    assert (variant.todo, variant.stages, variant.again) == (ALL, ["engine", *ALL], {})


def test_what_is_done_is_reused(done: Path) -> None:
    variant = survey()
    assert (variant.todo, variant.stages, variant.reused) == ([], [], frozenset(ALL))


def test_accuracy_goes_on_by_task(done: Path) -> None:
    (done / "demo_gsm8k.json").unlink()
    assert survey().stages == ["engine", "demo_gsm8k"]


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("energy", {"valid": False, "invalid_reasons": ["throttled"]}, "throttled"),
        ("energy", {"valid": None, "energy_source": None, "energy_joules": None}, "no energy was measured"),
        ("performance", {"mean_latency_s": None, "tokens_per_second": None}, "no numbers"),
        ("demo_mmlu", {"accuracy": None}, "no numbers"),
    ],
)
def test_a_record_that_is_no_result_is_measured_again(
    name: str, values: dict[str, Any], reason: str, done: Path
) -> None:
    changed(done / f"{name}.json", **values)
    variant = survey()
    assert variant.todo == [name]
    assert reason in variant.again[name]


def test_energy_that_nobody_wanted_is_done(done: Path) -> None:
    wanted = config(energy={"source": "none"})
    (variant,), gpus = plan.lay_out(wanted)
    make(done, "energy", variant.settings(gpus)["energy"], valid=None, energy_source=None, energy_joules=None)
    assert survey(wanted).todo == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "model": 3}'])
def test_a_damaged_record_is_measured_again(text: str, done: Path) -> None:
    (done / "demo_mmlu.json").write_text(text)
    variant = survey()
    assert (variant.todo, variant.again) == (["demo_mmlu"], {"demo_mmlu": "its record is damaged"})


def test_a_record_without_its_samples_is_measured_again(done: Path) -> None:
    (done / "demo_mmlu.samples.jsonl.gz").unlink()
    assert survey().again == {"demo_mmlu": "its samples are missing"}


def test_a_stage_that_only_failed_is_measured_again(done: Path) -> None:
    (done / "demo_mmlu.json").unlink()
    error = ErrorRecord(model="demo", precision="fp16", stage="demo_mmlu", cause="no data")
    write_error(done, "demo_mmlu", error)
    assert survey().again == {"demo_mmlu": "it failed before"}
    write_error(done, "energy", error)  # a later failure takes nothing from what was measured before
    assert survey().todo == ["demo_mmlu"]


def test_changed_settings_are_named_with_both_values(done: Path) -> None:
    wanted = config(performance={"num_runs": 7}, seed=3)
    with pytest.raises(UsageError) as caught:
        survey(wanted)
    for text in (
        "num_runs: recorded with 500, requested 7",
        "fewshot_seed: recorded with 0, requested 3",
        "performance.json",
        "demo_mmlu.json",
    ):
        assert text in caught.value.cause
    assert "energy.json" not in caught.value.cause
    assert "--force" in caught.value.remedy
    assert "--requantize" not in caught.value.remedy
    assert "--output-dir" in caught.value.remedy
    assert survey(wanted.model_copy(update={"force": True})).todo == ALL


def test_what_is_not_asked_for_is_not_in_the_way(done: Path) -> None:
    assert survey(config(tasks="accuracy", performance={"num_runs": 7})).todo == []


@pytest.mark.parametrize("values", [{"fingerprint": None, "measured_with": None}, {"fingerprint": "0" * 64}])
def test_a_record_that_does_not_say_how_it_was_made_is_not_replaced_silently(
    values: dict[str, Any], done: Path
) -> None:
    changed(done / "performance.json", **values)
    with pytest.raises(UsageError, match="its settings were not recorded"):
        survey()


def test_published_records_are_not_replaced_silently() -> None:
    (variant,), _ = plan.lay_out(config(tasks="performance energy"))
    source = next(PUBLISHED.rglob("performance.json")).parent
    variant.directory.mkdir(parents=True)
    for name in ("performance", "energy"):
        content = json.loads((source / f"{name}.json").read_text()) | {"model": "demo", "precision": "fp16"}
        (variant.directory / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"performance\.json.*energy\.json"):
        survey(config(tasks="performance energy"))


def test_a_record_of_a_newer_version_is_not_replaced_silently(done: Path) -> None:
    changed(done / "performance.json", schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(NewerResultError, match="newer"):
        survey()
    assert survey(config(force=True)).todo == ALL


def test_auto_goes_on_with_either_engine_and_another_one_is_named(done: Path) -> None:
    assert survey(config(engine={"engine": "auto"})).todo == []
    with pytest.raises(UsageError, match="engine: recorded with transformers, requested vllm"):
        survey(config(engine={"engine": "vllm"}))


def test_auto_that_takes_another_engine_now_is_refused(done: Path) -> None:
    (done / "energy.json").unlink()
    variant = survey(config(engine={"engine": "auto"}))
    resume.refuse_other_engines([variant], {"fp16": ENGINE})
    with pytest.raises(UsageError, match="measured on transformers, but --engine auto now chooses vllm"):
        resume.refuse_other_engines([variant], {"fp16": "vllm"})
    resume.refuse_other_engines([replace(variant, reused=frozenset())], {"fp16": "vllm"})


def test_other_calibration_and_requantizing_are_named() -> None:
    wanted = config(precision="int8", quantization={"num_calibration_samples": 8})
    (variant,), gpus = plan.lay_out(wanted)
    for name, settings in variant.settings(gpus).items():
        make(variant.directory, name, settings, "int8")
    assert survey(wanted).todo == []
    with pytest.raises(UsageError, match="num_calibration_samples: recorded with 8, requested 9") as caught:
        survey(config(precision="int8", quantization={"num_calibration_samples": 9}))
    assert "--force --requantize" in caught.value.remedy
    with pytest.raises(UsageError, match="--requantize"):
        survey(config(precision="int8", quantization={"num_calibration_samples": 8, "requantize": True}))


class Machine:
    """Workers that leave the records that they were asked for, in place of measuring."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, job: Any, **_: Any) -> Iterator[messages.Event | messages.Outcome]:
        """Do a job at once."""
        self.jobs.append(job)
        if isinstance(job, messages.CheckJob):
            for precision in job.precisions:
                yield messages.Chosen(precision=precision, engine=ENGINE)
        elif isinstance(job, messages.MeasureJob):
            for stage, settings in job.settings.items():
                make(job.directory, stage, settings, job.precision)
                yield messages.Finished(stage=stage)
        yield messages.Outcome()

    def measured(self) -> list[list[str]]:
        """The stages of each measurement since the last call."""
        jobs, self.jobs = self.jobs, []
        return [list(job.settings) for job in jobs if isinstance(job, messages.MeasureJob)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()
    monkeypatch.setattr(LocalExecutor, "submit", lambda self, job, **options: made.submit(job, **options))
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: [])
    return made


def test_the_same_run_starts_no_worker_and_shows_what_there_is(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluator.evaluate(config())
    assert machine.measured() == [ALL]
    assert (first.failures, list(first.reused.values())) == ([], [()])
    assert "reused" not in capsys.readouterr().out
    again = evaluator.evaluate(config())
    assert machine.jobs == []
    assert [len(variant.records) for variant in again.variants] == [4]
    assert list(again.reused.values()) == [tuple(ALL)]
    out = capsys.readouterr().out
    assert "reused 4 of 4 stages; --force measures them again" in out.splitlines()
    assert " all " in out


def test_only_what_is_missing_is_asked_of_the_worker(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluator.evaluate(config())
    machine.measured()
    (report.variants[0].directory / "demo_mmlu.json").unlink()
    evaluator.evaluate(config())
    check, measure = machine.jobs
    assert check.stages == {"accuracy": ("demo_mmlu",)}
    assert measure.stages == ("demo_mmlu",)
    assert "reused 3 of 4 stages" in capsys.readouterr().out
    machine.measured()
    evaluator.evaluate(config(force=True))
    assert machine.measured() == [ALL]


def test_a_dry_run_only_checks_and_writes_nothing(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator.evaluate(config(dry_run=True))
    asked = [(job.kind, job.precisions, set(job.stages)) for job in machine.jobs]
    assert asked == [("check", ("fp16",), {"performance", "energy", "accuracy"})]
    assert list(tmp_path.iterdir()) == []
    text = capsys.readouterr().out
    assert "5 stages to do, 0 reused" in text
    assert "time: not known" in text


def test_noise_always_measures(machine: Machine, tmp_path: Path) -> None:
    options = {"models": "demo", "tasks": "performance", "engine": {"engine": ENGINE}, "tracking": {"enabled": False}}
    noise = planning_config(**options)
    evaluator.evaluate(config(tasks="performance", performance={"num_runs": 7}))  # made otherwise: not in the way
    machine.measured()
    for _ in range(2):
        measure_noise(noise)
        assert machine.measured() == [["performance"]] * 5  # one worker for each repeat
    before = sorted(path for path in tmp_path.rglob("*"))
    measure_noise(planning_config(**options, dry_run=True))
    assert [job.kind for job in machine.jobs] == ["check"]
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_repeat_that_fails_leaves_the_floor_of_the_others_and_no_promise_of_resuming(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = machine.submit

    def submit(job: Any, **options: Any) -> Iterator[messages.Event | messages.Outcome]:
        if isinstance(job, messages.MeasureJob) and job.directory.name == "run-2":
            yield messages.Failed(stage="engine", cause="out of memory", remedy="free some")
            yield messages.Outcome()
        else:
            yield from measure(job, **options)

    monkeypatch.setattr(machine, "submit", submit)
    report = measure_noise(
        planning_config(models="demo", tasks="performance", engine={"engine": ENGINE}, tracking={"enabled": False})
    )
    ((record, _),) = report.floors
    assert len(record.metrics["tokens_per_second"].values) == 4
    assert capsys.readouterr().out.startswith("demo fp16: differences of up to 0 % in throughput are noise\n")
    with pytest.raises(RunFailedError) as caught:
        report.raise_for_failures()
    assert caught.value.remedy.endswith("rerunning the command measures all repeats again")


NOTES = (
    "the tokenizer has no chat template: conversations are joined as plain text",
    "short.jsonl contains 20 usable samples, 40 tokens in all; 32 were requested",
    "llm-compressor: a warning of its own",
)


class Quantizer(Machine):
    """A machine whose checkpoints are copies of the model, with a record that has something to say."""

    def submit(self, job: Any, **options: Any) -> Iterator[messages.Event | messages.Outcome]:
        if not isinstance(job, messages.QuantizeJob):
            yield from super().submit(job, **options)
            return
        self.jobs.append(job)
        folder = cache.checkpoint_directory(job.request)
        assert job.request.source.path is not None
        shutil.copytree(job.request.source.path, folder)
        record = cache.QuantizationRecord(
            model="demo", precision=job.request.precision, scheme="", settings=cache.settings(job.request), recipe={},
            calibration={}, dtype="bfloat16", num_parameters=None, source_bytes=0, weight_sha256={}, versions={},
            bytes_on_disk=describe(folder).weight_bytes, bits_per_weight=None, started="", finished="", duration_s=0,
            notes=NOTES,
        )  # fmt: skip
        (folder / cache.RECORD_FILE).write_text(record.model_dump_json())
        yield messages.Finished(stage="quantize", path=folder)
        yield messages.Outcome()


def test_what_quantization_had_to_say_is_in_the_first_record_and_on_the_terminal_as_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantizer = Quantizer()
    monkeypatch.setattr(machine, "submit", quantizer.submit)
    for number in (1, 2):
        evaluator.evaluate(config(precision="int8", tasks="performance", output_dir=tmp_path / str(number)))
        said = " ".join(capsys.readouterr().err.split())
        assert all(said.count(f"note: {note}") == 1 for note in NOTES)
    kinds = [type(job).__name__ for job in quantizer.jobs if not isinstance(job, messages.CheckJob)]
    assert kinds == ["QuantizeJob", "MeasureJob", "MeasureJob"]
    assert [job.notes for job in quantizer.jobs if isinstance(job, messages.MeasureJob)] == [NOTES, NOTES]


def planning_config(**options: Any) -> Any:
    from slim_eval.config import NoiseConfig

    return NoiseConfig(**options)


def test_paired_results_are_brought_up_to_date_and_else_left_alone(machine: Machine) -> None:
    from slim_eval.analysis.compare.items import update_paired

    wanted = config(tasks="accuracy")
    variants, gpus = plan.lay_out(config(tasks="accuracy", precision="fp16 int8"))
    for variant in variants:
        for name, settings in variant.settings(gpus).items():
            make(variant.directory, name, settings, variant.precision)
    paired = variants[1].directory / results.PAIRED
    evaluator.evaluate(wanted)
    assert paired.exists()
    changed(paired, timestamp="2020-01-01T00:00:00+00:00")
    text = paired.read_text()
    update_paired(variants[0].directory.parent, 1.0)
    assert paired.read_text() == text
    update_paired(variants[0].directory.parent, 2.0)
    assert paired.read_text() != text


def as_before_the_setting(path: Path, dtype: str | None, engine_args: dict[str, str]) -> None:
    """Make a record what versions before ``--dtype`` wrote."""
    content = json.loads(path.read_text())
    then = {key: value for key, value in content["measured_with"].items() if key != "dtype"}
    then["engine_args"] = engine_args
    changed(path, dtype=dtype, measured_with=then, fingerprint=fingerprints.fingerprint(then))


@pytest.mark.parametrize("now", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("dtype", "engine_args"),
    [("bfloat16", {}), ("float32", {"dtype": "float32"}), ("float32", {"dtype": "float"}), (None, {})],
)
def test_records_of_earlier_versions_count_by_the_type_that_they_used(
    dtype: str | None, engine_args: dict[str, str], now: str, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = frozenset({"avx2"} if now == "float32" else {"avx512_bf16"})
    monkeypatch.setattr(engine, "cpu_flags", lambda: flags)  # what ``auto`` depends on
    for name in ALL:
        as_before_the_setting(done / f"{name}.json", dtype, engine_args)
    if dtype in (None, now):  # what is not known is not refused
        assert survey().todo == []
    else:
        with pytest.raises(UsageError, match=f"dtype: recorded with {dtype}, requested {now}"):
            survey()
    if dtype is not None:
        assert survey(config(engine={"engine": ENGINE, "dtype": dtype})).todo == []
        assert survey(config(engine={"engine": ENGINE, "engine_args": {"dtype": dtype}})).todo == []


def test_another_type_is_another_setting(done: Path) -> None:
    with pytest.raises(UsageError, match="requested float16"):
        survey(config(engine={"engine": ENGINE, "dtype": "float16"}))


@pytest.fixture
def came_quantized(tmp_path: Path) -> RunConfig:
    """A folder of the embedded model that says it is quantized, named as others name them."""
    folder = Path(shutil.copytree(MODEL_DIR, tmp_path / "Tiny-W8A8"))
    changed(folder / "config.json", quantization_config={"quant_method": "compressed-tensors", "config_groups": {
        "g": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8, "type": "int"}}
    }})  # fmt: skip
    (folder / "README.md").write_text("---\nbase_model:\n- org/Tiny\n---\n")
    return config(models=str(folder), tasks="performance")


def test_what_an_older_version_measured_as_fp16_is_not_measured_again(came_quantized: RunConfig) -> None:
    """Versions up to 0.2 called a checkpoint that came quantized fp16: its records, their settings and its folder."""
    (variant,), gpus = plan.lay_out(came_quantized)
    assert (variant.precision, variant.directory.name) == ("w8a8", "Tiny-W8A8_w8a8")
    older = variant.directory.with_name("Tiny-W8A8_fp16")
    settings = variant.settings(gpus)["performance"] | {"precision": "fp16"}
    head = {"model": variant.source.name, "quantization_scheme": "compressed-tensors"}
    make(older, "performance", settings, **head)
    found = survey(came_quantized)
    assert (found.directory, found.precision, found.todo) == (older, "w8a8", [])
    report = evaluator.evaluate(came_quantized)
    (measured,) = report.variants
    assert (measured.precision, measured.base_model, measured.is_baseline) == ("w8a8", "org/Tiny", False)
    stored = json.loads((older / "performance.json").read_text())
    assert (stored["precision"], stored["base_model"], stored["mean_latency_s"]) == ("w8a8", "org/Tiny", 0.1)
    assert stored["measured_with"]["precision"] == "fp16"
    assert stored["fingerprint"] == fingerprints.fingerprint(stored["measured_with"])
    assert survey(came_quantized).todo == []
    assert not variant.directory.exists()


def test_records_of_other_weights_in_that_folder_are_not_taken_for_it(came_quantized: RunConfig) -> None:
    (variant,), gpus = plan.lay_out(came_quantized)
    older = variant.directory.with_name("Tiny-W8A8_fp16")
    settings = variant.settings(gpus)["performance"] | {"precision": "fp16"}
    make(older, "performance", settings, model=variant.source.name, quantization_scheme="FP16")
    assert survey(came_quantized).directory == variant.directory
    make(older, "performance", settings | {"weights": "sha256:0"}, model=variant.source.name, quantization_scheme="awq")
    with pytest.raises(UsageError, match="weights"):
        survey(came_quantized)


@pytest.mark.parametrize(("share", "is_same"), [(1.0, True), (0.97, False), (None, False)])
def test_an_option_that_left_nothing_out_is_no_setting(share: float | None, is_same: bool) -> None:
    """Versions up to 0.2 recorded ``--skip-unfit`` also where every layer fitted."""
    head = {"schema_version": 1, "model": "m", "precision": "int4", "low_bit_share": share}
    record = PerformanceRecord(**head, measured_with={"skip_unfit": True})
    assert ("skip_unfit" not in fingerprints.of_record(record, {})) is is_same
    assert fingerprints.of_record(record, {"skip_unfit": True})["skip_unfit"] is True
