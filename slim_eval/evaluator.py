"""Start a worker for each stage of each planned variant, record what failed, close with a table.

A variant is one (model, precision). This process imports neither torch nor an engine: a worker that dies takes nothing
with it, and when it ends the driver frees its memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from slim_eval import models, power, results
from slim_eval.config import Benchmark, NoiseConfig, RunConfig, TrackingConfig
from slim_eval.errors import RunFailedError, SlimEvalError, UsageError
from slim_eval.execution import dry_run, forecast_text, local, locks, messages, resume, tracking
from slim_eval.execution.console import Failure
from slim_eval.execution.fingerprints import Settings
from slim_eval.execution.plan import PlannedVariant, check, foresight, lay_out, visible_devices
from slim_eval.execution.progress import Display, open_display
from slim_eval.models import pickles
from slim_eval.quantization import cache
from slim_eval.results import records
from slim_eval.schemes import is_quantized, scheme
from slim_eval.utils import environment

_ENGINE = "engine"
_DISK_REMEDY = "make room, or name folders that can be written with --output-dir and --quantized-models-dir"


@dataclass
class RunReport:
    """What a run left behind.

    Attributes:
        variants: What this run was asked for, measured now or by an earlier run; other records that stand in the same
            folders are not in it.
        reused: Folder of a variant -> its stages that an earlier run had done.
        failures: The stages that failed; empty where all went well.
        output_dir: Where the results are.
    """

    output_dir: Path
    variants: tuple[results.Variant, ...] = ()
    reused: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def raise_for_failures(self) -> None:
        """Raise where a stage failed.

        Raises:
            RunFailedError: Naming how many failed.
        """
        if self.failures:
            count = len(self.failures)
            raise RunFailedError(
                f"{count} stage{'s' if count > 1 else ''} failed; everything else was measured and is kept",
                "see the table above; each log tells more. The same command does only what is missing",
            )


def evaluate(config: RunConfig, display: Display | None = None) -> RunReport:
    """Quantize and measure every (model, precision), but for what an earlier run with the same settings has done.

    Args:
        config: What to run.
        display: Where progress is shown; the terminal by default.

    Raises:
        UsageError: The config asks for something that cannot be, or earlier results were made with other settings;
            nothing was started.
        HubError: A model does not exist, is gated, or the hub cannot be reached; nothing was started.
        MissingPackageError: A stage's interpreter lacks a package; nothing was started.
        BusyError: Another run is at work in a variant's folder; nothing was started.
    """
    variants, gpus = lay_out(config)
    variants = resume.survey(variants, gpus, force=config.force)
    if config.dry_run:
        return preview(config, variants, gpus)
    resume.refuse_other_engines(variants, check(config, variants, gpus))
    with locks.alone(variant.directory for variant in variants if variant.todo):
        # Another run may have ended in the meantime.
        return execute(config, resume.survey(variants, gpus, force=config.force), gpus, display)


def preview(config: RunConfig, variants: Sequence[PlannedVariant], gpus: tuple[power.Gpu, ...]) -> RunReport:
    """Show what a run would do; nothing is started or written."""
    forecast_text.show(dry_run.forecast(config, variants, gpus))
    return RunReport(config.output_dir)


def execute(
    config: RunConfig, variants: Sequence[PlannedVariant], gpus: tuple[power.Gpu, ...], display: Display | None = None
) -> RunReport:
    """Quantize and measure what is to do in the variants of a plan, one after the other; `evaluate` plans first."""
    report = RunReport(config.output_dir)
    with display or open_display(config.display) as shown:
        logger = tracking.open_tracker(config.tracking, shown.note)
        for text in foresight(config, variants):
            shown.note(text)
        for number, variant in enumerate(variants, start=1):
            shown.variant(number, len(variants), variant.name, variant.stages)
            _tell_reused(variant, shown)
            run = _VariantRun(variant, gpus, shown, report.failures)
            run.execute()
            measured = results.read_variant(variant.directory, run.finished | variant.reused)
            if measured is not None:
                report.variants += (measured,)
                report.reused[variant.directory] = tuple(name for name in variant.records if name in variant.reused)
                if run.finished:
                    logger(measured, variant.config)
                _pair(variant, shown)
        shown.close(report.variants, report.failures, report.reused)
    return report


def _tell_reused(variant: PlannedVariant, display: Display) -> None:
    """Say which records stand, and why others are measured again."""
    if variant.reused:
        display.note(f"reused: {', '.join(name for name in variant.records if name in variant.reused)}")
    for stage, reason in variant.again.items():
        display.note(f"{stage} is measured again: {reason}")


def _pair(variant: PlannedVariant, display: Display) -> None:
    """Bring `paired.json` of the model's quantized variants up to date, wherever the baseline is there."""
    from slim_eval.analysis.compare.pairing import update_paired

    if Benchmark.ACCURACY in variant.config.tasks:
        try:
            update_paired(variant.directory.parent, variant.config.accuracy.margin_pp)
        except OSError as error:
            display.note(f"{results.PAIRED} could not be written: {_disk_words(error)}")


def _quiet_waiting() -> Mapping[str, str]:
    """GPTQ on a CPU is many tiny parallel steps: threads that spin while they wait for each other stand in the way.

    On cores that other work shares, quantization takes several times as long with them. Measuring is left as it is.
    """
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


def _disk_words(error: OSError) -> str:
    """What the system says, and of which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


class _VariantRun:
    """The stages of one variant, each in a worker, and what became of them."""

    def __init__(
        self, variant: PlannedVariant, gpus: tuple[power.Gpu, ...], display: Display, failures: list[Failure]
    ) -> None:
        self._variant = variant
        self._gpus = gpus
        self._display = display
        self._failures = failures
        self._log = variant.directory / results.RUN_LOG
        self._notes: list[str] = []
        self._settings: dict[str, Settings] = {}
        self._done: set[str] = set()
        self.finished: set[str] = set()

    def execute(self) -> None:
        """Fetch, quantize and measure what is to do; what fails is recorded and leaves the rest standing."""
        if not self._variant.todo:
            return
        results.clear_leftovers(self._variant.directory)
        try:
            source = self._here()
            checkpoint = None if source is None else self._checkpoint(source)
        except UsageError as error:
            self._fail("download", error.cause, error.remedy, self._variant.todo)
            return
        except OSError as error:
            self._fail("download", _disk_words(error), _DISK_REMEDY, self._variant.todo)
            return
        if source is not None and checkpoint is not None:
            self._measure(source, checkpoint, self._variant.todo)

    def _here(self) -> models.ModelSource | None:
        """The model with a checkpoint on this machine that an engine may load; None where there is none."""
        source = self._fetched()
        return source if source is None or source.path is not None else self._converted(source)

    def _fetched(self) -> models.ModelSource | None:
        """The model with its files on this machine; None where they could not be had.

        In a worker, as a hub may stall for good: then it is ended as any stage that hangs.
        """
        source = self._variant.source
        if source.path is not None or source.pickled is not None:
            return source
        job = messages.FetchJob(source=source, allow_pickle=self._variant.config.allow_pickle)
        folder = self._made("download", job, None)
        return None if folder is None else models.fetched(source, folder)

    def _converted(self, source: models.ModelSource) -> models.ModelSource | None:
        """The model with a checkpoint of its pickled weights, made now if need be; None where that failed."""
        wanted = cache.conversion(source, self._variant.config.quantized_models_dir)
        with locks.waiting_for(wanted.folder, self._display.note):
            made: Path | None = wanted.folder
            if wanted.is_done:
                self._display.handle(messages.Finished(stage="convert", path=wanted.folder))
            else:
                job = messages.ConvertJob(
                    source=source,
                    directory=wanted.folder,
                    identity=wanted.identity,
                    trust_remote_code=self._variant.config.engine.trust_remote_code,
                )
                made = self._made("convert", job, self._variant.config.serve_python)
        if made is None:
            return None
        self._take_notes((pickles.NOTE,))
        return source.model_copy(update={"path": made})

    def _checkpoint(self, source: models.ModelSource) -> Path | None:
        """The checkpoint to serve, quantized now if need be; None where that failed."""
        assert source.path is not None
        if not is_quantized(self._variant.precision):
            return source.path
        request = self._variant.quantize_request(source)
        with locks.waiting_for(cache.checkpoint_directory(request), self._display.note):
            try:
                cached = cache.cached(request)
            except SlimEvalError as error:
                self._fail("quantize", error.cause, error.remedy, self._variant.todo)
                return None
            if cached is None:
                job = messages.QuantizeJob(request=request)
                return self._made("quantize", job, self._variant.config.quantize_python, _quiet_waiting())
        self._display.handle(messages.Finished(stage="quantize", path=cached.path))
        self._take_notes(cached.notes)
        return cached.path

    def _made(
        self, stage: str, job: Any, python: Path | None, environment: Mapping[str, str] | None = None
    ) -> Path | None:
        """The folder that a worker brings or makes; None where that failed."""
        made: list[Path] = []
        failed: list[str] = []

        def listen(event: Any) -> None:
            if isinstance(event, messages.Finished) and event.path is not None:
                made.append(event.path)
            if isinstance(event, messages.Failed):
                failed.append(event.cause)
                self._fail(stage, event.cause, event.remedy, self._variant.todo)
            else:
                self._display.handle(event)

        outcome = self._work(job, listen, python, environment)
        if made:
            return made[0]
        if not failed:
            self._fail(stage, outcome.describe(), f"see {self._log}", self._variant.todo)
        return None

    def _measure(self, source: models.ModelSource, checkpoint: Path, remaining: list[str]) -> None:
        """Measure in one worker; if it dies, go on with what comes after the stage it died in, in a fresh one."""
        while remaining:
            job = self._measure_job(source, checkpoint, remaining)
            self._done.clear()
            outcome = self._work(job, partial(self._listen, remaining), self._variant.config.serve_python)
            unfinished = [stage for stage in remaining if stage not in self._done]
            if not unfinished:
                return
            fix = f"see {self._log}"
            if _ENGINE not in self._done:  # while loading: a fresh worker would do the same
                self._fail(_ENGINE, f"the engine did not start: {outcome.describe()}", fix, unfinished)
                return
            # Between two stages it is the next one that it died of.
            died_in = outcome.stage if outcome.stage in unfinished else unfinished[0]
            self._fail(died_in, outcome.describe(), fix, [died_in])
            remaining = [stage for stage in unfinished if stage != died_in]

    def _measure_job(self, source: models.ModelSource, checkpoint: Path, stages: list[str]) -> messages.MeasureJob:
        config, precision = self._variant.config, self._variant.precision
        if not self._settings:  # read once the checkpoint is there: it may be one that was made elsewhere
            self._settings = self._variant.settings(self._gpus)
        assert source.path is not None
        return messages.MeasureJob(
            model=source.name,
            revision=source.revision,
            source=source.path,
            checkpoint=checkpoint,
            precision=precision,
            quantization_scheme=scheme(precision).recorded_as,
            benchmarks=tuple(
                benchmark for benchmark in Benchmark
                if benchmark in config.tasks and (benchmark.value in stages or benchmark is Benchmark.ACCURACY)
            ),
            accuracy_tasks=tuple(task for task in config.accuracy.tasks if task in stages),
            directory=self._variant.directory,
            max_model_len=self._variant.max_model_len,
            gpus=tuple(gpu.uuid for gpu in self._gpus),
            config=config.model_copy(update={"tracking": TrackingConfig()}),
            notes=tuple(self._notes),
            settings={stage: self._settings[stage] for stage in stages},
        )  # fmt: skip

    def _listen(self, stages: list[str], event: Any) -> None:
        if isinstance(event, messages.Finished):
            self._done.add(event.stage)
            self.finished.add(event.stage)
        if not isinstance(event, messages.Failed):
            self._display.handle(event)
            return
        failed = stages if event.stage == _ENGINE else [event.stage]
        self._done.update(failed)
        self._fail(event.stage, event.cause, event.remedy, failed)

    def _work(
        self, job: Any, listen: Callable[[Any], None], python: Path | None, environment: Mapping[str, str] | None = None
    ) -> local.Outcome:
        variables = {**visible_devices(self._gpus), **(environment or {})}
        return local.run(
            job,
            log=self._log,
            on_event=listen,
            python=python,
            environment=variables,
            silence_s=self._variant.config.stage_timeout_s,
            echo=self._display.chatter,
        )

    def _take_notes(self, notes: tuple[str, ...]) -> None:
        for text in notes:
            self._notes.append(text)
            self._display.note(text)

    def _fail(self, stage: str, cause: str, remedy: str, names: list[str]) -> None:
        """Record a failed stage: an error file for each record that it would have made."""
        self._failures.append(Failure(self._variant.name, stage, cause, remedy, self._log))
        for name in names:
            record = records.ErrorRecord(
                schema_version=records.SCHEMA_VERSION,
                model=self._variant.source.name,
                precision=self._variant.precision,
                quantization_scheme=scheme(self._variant.precision).recorded_as,
                timestamp=environment.now(),
                stage=stage,
                cause=cause,
                remedy=remedy,
                log=results.RUN_LOG,
            )
            try:
                results.write_error(self._variant.directory, name, record)
            except OSError as error:
                self._display.note(f"{name}: that it failed could not be recorded: {_disk_words(error)}")
        self._display.handle(messages.Failed(stage=stage, cause=cause, remedy=remedy))


@dataclass(frozen=True)
class NoiseReport:
    """What was measured.

    Attributes:
        run: The runs themselves; raises for their failures.
        floors: One a model that could be measured at least twice, with where it was written.
    """

    run: RunReport
    floors: tuple[tuple[records.NoiseRecord, Path], ...]

    def raise_for_failures(self) -> None:
        """Raise where a stage of a run failed.

        Raises:
            RunFailedError: Naming how many failed.
        """
        self.run.raise_for_failures()


def measure_noise(config: NoiseConfig, display: Display | None = None) -> NoiseReport:
    """Measure each model's variant `num_repeats` times, whatever earlier runs left, and write its noise floor.

    Args:
        config: What to measure, as a run takes it.
        display: Where progress is shown; the terminal by default.

    Raises:
        SlimEvalError: As `evaluate`; nothing was started.
    """
    planned, gpus = lay_out(config)
    variants = [
        replace(
            variant,
            directory=results.noise_directory(variant.directory.parent) / f"run-{number}",
            label=f"run {number}",
        )
        for variant in planned
        for number in range(1, config.num_repeats + 1)
    ]
    if config.dry_run:
        return NoiseReport(preview(config, variants, gpus), ())
    check(config, planned, gpus)
    with locks.alone(variant.directory for variant in variants):
        report = execute(config, variants, gpus, display)
    floors = []
    for variant in planned:
        runs = _runs(report.variants, results.noise_directory(variant.directory.parent))
        if len(runs) > 1:
            from slim_eval.analysis.compare.repeats import noise_record

            record = noise_record(runs, config.accuracy.margin_pp)
            floors.append((record, results.write_noise(variant.directory.parent, record)))
    return NoiseReport(report, tuple(floors))


def _runs(variants: tuple[results.Variant, ...], directory: Path) -> list[results.Variant]:
    return [variant for variant in variants if variant.directory.parent == directory]
