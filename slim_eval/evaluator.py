"""Start a worker for each stage of each planned cell, record what failed, close with a table.

A cell is one (model, precision). This process imports neither torch nor an engine: a worker that dies takes nothing
with it, and when it ends the driver frees its memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slim_eval import (
    checkpoints,
    environment,
    fetching,
    forecast,
    forecast_text,
    locks,
    models,
    pickles,
    power,
    protocol,
    records,
    results,
    resuming,
    tracking,
    workers,
)
from slim_eval.config import Benchmark, Precision, RunConfig, TrackingConfig
from slim_eval.console import Failure
from slim_eval.displays import Display, open_display
from slim_eval.errors import RunFailedError, SlimEvalError, UsageError
from slim_eval.fingerprints import Settings
from slim_eval.planning import PlannedCell, check, foresight, lay_out, visible_devices

_ENGINE = "engine"
_DISK_REMEDY = "make room, or name folders that can be written with --output-dir and --quantized-models-dir"


@dataclass
class RunReport:
    """What a run left behind.

    Attributes:
        cells: What this run was asked for, measured now or by an earlier run; other records that stand in the same
            folders are not in it.
        reused: Folder of a cell -> its stages that an earlier run had done.
        failures: The stages that failed; empty where all went well.
        output_dir: Where the results are.
    """

    output_dir: Path
    cells: tuple[results.Cell, ...] = ()
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
        BusyError: Another run is at work in a cell's folder; nothing was started.
    """
    cells, gpus = lay_out(config)
    cells = resuming.survey(cells, gpus, force=config.force)
    if config.dry_run:
        return preview(config, cells, gpus)
    resuming.refuse_other_engines(cells, check(config, cells, gpus))
    with locks.alone(cell.directory for cell in cells if cell.todo):
        # Another run may have ended in the meantime.
        return execute(config, resuming.survey(cells, gpus, force=config.force), gpus, display)


def preview(config: RunConfig, cells: Sequence[PlannedCell], gpus: tuple[power.Gpu, ...]) -> RunReport:
    """Show what a run would do; nothing is started or written."""
    forecast_text.show(forecast.forecast(config, cells, gpus))
    return RunReport(config.output_dir)


def execute(
    config: RunConfig, cells: Sequence[PlannedCell], gpus: tuple[power.Gpu, ...], display: Display | None = None
) -> RunReport:
    """Quantize and measure what is to do in the cells of a plan, one after the other; `evaluate` plans first."""
    report = RunReport(config.output_dir)
    with display or open_display(config.display) as shown:
        logger = tracking.open_tracker(config.tracking, shown.note)
        for text in foresight(config, cells):
            shown.note(text)
        for number, cell in enumerate(cells, start=1):
            shown.cell(number, len(cells), cell.name, cell.stages)
            _tell_reused(cell, shown)
            run = _CellRun(cell, gpus, shown, report.failures)
            run.execute()
            measured = results.read_cell(cell.directory, run.finished | cell.reused)
            if measured is not None:
                report.cells += (measured,)
                report.reused[cell.directory] = tuple(name for name in cell.records if name in cell.reused)
                if run.finished:
                    logger(measured, cell.config)
                _pair(cell, shown)
        shown.close(report.cells, report.failures, report.reused)
    return report


def _tell_reused(cell: PlannedCell, display: Display) -> None:
    """Say which records stand, and why others are measured again."""
    if cell.reused:
        display.note(f"reused: {', '.join(name for name in cell.records if name in cell.reused)}")
    for stage, reason in cell.again.items():
        display.note(f"{stage} is measured again: {reason}")


def _pair(cell: PlannedCell, display: Display) -> None:
    """Bring `paired.json` of the model's quantized cells up to date, wherever the baseline is there."""
    from slim_eval.comparison.pairing import update_paired

    if Benchmark.ACCURACY in cell.config.tasks:
        try:
            update_paired(cell.directory.parent, cell.config.accuracy.margin_pp)
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


class _CellRun:
    """The stages of one cell, each in a worker, and what became of them."""

    def __init__(
        self, cell: PlannedCell, gpus: tuple[power.Gpu, ...], display: Display, failures: list[Failure]
    ) -> None:
        self._cell = cell
        self._gpus = gpus
        self._display = display
        self._failures = failures
        self._log = cell.directory / results.RUN_LOG
        self._notes: list[str] = []
        self._settings: dict[str, Settings] = {}
        self._done: set[str] = set()
        self.finished: set[str] = set()

    def execute(self) -> None:
        """Fetch, quantize and measure what is to do; what fails is recorded and leaves the rest standing."""
        if not self._cell.todo:
            return
        results.clear_leftovers(self._cell.directory)
        try:
            source = self._here()
            checkpoint = None if source is None else self._checkpoint(source)
        except UsageError as error:
            self._fail("download", error.cause, error.remedy, self._cell.todo)
            return
        except OSError as error:
            self._fail("download", _disk_words(error), _DISK_REMEDY, self._cell.todo)
            return
        if source is not None and checkpoint is not None:
            self._measure(source, checkpoint, self._cell.todo)

    def _here(self) -> models.ModelSource | None:
        """The model with a checkpoint on this machine that an engine may load; None where there is none."""
        source = self._fetched()
        return source if source is None or source.path is not None else self._converted(source)

    def _fetched(self) -> models.ModelSource | None:
        """The model with its files on this machine; None where they could not be had.

        In a worker, as a hub may stall for good: then it is ended as any stage that hangs.
        """
        source = self._cell.source
        if source.path is not None or source.pickled is not None:
            return source
        job = protocol.FetchJob(source=source, allow_pickle=self._cell.config.allow_pickle)
        folder = self._made("download", job, None)
        return None if folder is None else fetching.fetched(source, folder)

    def _converted(self, source: models.ModelSource) -> models.ModelSource | None:
        """The model with a checkpoint of its pickled weights, made now if need be; None where that failed."""
        wanted = checkpoints.conversion(source, self._cell.config.quantized_models_dir)
        with locks.waiting_for(wanted.folder, self._display.note):
            made: Path | None = wanted.folder
            if wanted.is_done:
                self._display.handle(protocol.Finished(stage="convert", path=wanted.folder))
            else:
                job = protocol.ConvertJob(
                    source=source,
                    directory=wanted.folder,
                    identity=wanted.identity,
                    trust_remote_code=self._cell.config.engine.trust_remote_code,
                )
                made = self._made("convert", job, self._cell.config.serve_python)
        if made is None:
            return None
        self._take_notes((pickles.NOTE,))
        return source.model_copy(update={"path": made})

    def _checkpoint(self, source: models.ModelSource) -> Path | None:
        """The checkpoint to serve, quantized now if need be; None where that failed."""
        assert source.path is not None
        if self._cell.precision is Precision.FP16:
            return source.path
        request = self._cell.quantize_request(source)
        with locks.waiting_for(checkpoints.checkpoint_directory(request), self._display.note):
            try:
                cached = checkpoints.cached(request)
            except SlimEvalError as error:
                self._fail("quantize", error.cause, error.remedy, self._cell.todo)
                return None
            if cached is None:
                job = protocol.QuantizeJob(request=request)
                return self._made("quantize", job, self._cell.config.quantize_python, _quiet_waiting())
        self._display.handle(protocol.Finished(stage="quantize", path=cached.path))
        self._take_notes(cached.notes)
        return cached.path

    def _made(
        self, stage: str, job: Any, python: Path | None, environment: Mapping[str, str] | None = None
    ) -> Path | None:
        """The folder that a worker brings or makes; None where that failed."""
        made: list[Path] = []
        failed: list[str] = []

        def listen(event: Any) -> None:
            if isinstance(event, protocol.Finished) and event.path is not None:
                made.append(event.path)
            if isinstance(event, protocol.Failed):
                failed.append(event.cause)
                self._fail(stage, event.cause, event.remedy, self._cell.todo)
            else:
                self._display.handle(event)

        outcome = self._work(job, listen, python, environment)
        if made:
            return made[0]
        if not failed:
            self._fail(stage, outcome.describe(), f"see {self._log}", self._cell.todo)
        return None

    def _measure(self, source: models.ModelSource, checkpoint: Path, remaining: list[str]) -> None:
        """Measure in one worker; if it dies, go on with what comes after the stage it died in, in a fresh one."""
        while remaining:
            job = self._measure_job(source, checkpoint, remaining)
            self._done.clear()
            outcome = self._work(job, partial(self._listen, remaining), self._cell.config.serve_python)
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

    def _measure_job(self, source: models.ModelSource, checkpoint: Path, stages: list[str]) -> protocol.MeasureJob:
        config, precision = self._cell.config, self._cell.precision
        if not self._settings:  # read once the checkpoint is there: it may be one that was made elsewhere
            self._settings = self._cell.settings(self._gpus)
        assert source.path is not None
        return protocol.MeasureJob(
            model=source.name,
            revision=source.revision,
            source=source.path,
            checkpoint=checkpoint,
            precision=precision,
            quantization_scheme=checkpoints.scheme_name(precision),
            benchmarks=tuple(
                benchmark for benchmark in Benchmark
                if benchmark in config.tasks and (benchmark.value in stages or benchmark is Benchmark.ACCURACY)
            ),
            accuracy_tasks=tuple(task for task in config.accuracy.tasks if task in stages),
            directory=self._cell.directory,
            max_model_len=self._cell.max_model_len,
            gpus=tuple(gpu.uuid for gpu in self._gpus),
            config=config.model_copy(update={"tracking": TrackingConfig()}),
            notes=tuple(self._notes),
            settings={stage: self._settings[stage] for stage in stages},
        )  # fmt: skip

    def _listen(self, stages: list[str], event: Any) -> None:
        if isinstance(event, protocol.Finished):
            self._done.add(event.stage)
            self.finished.add(event.stage)
        if not isinstance(event, protocol.Failed):
            self._display.handle(event)
            return
        failed = stages if event.stage == _ENGINE else [event.stage]
        self._done.update(failed)
        self._fail(event.stage, event.cause, event.remedy, failed)

    def _work(
        self, job: Any, listen: Callable[[Any], None], python: Path | None, environment: Mapping[str, str] | None = None
    ) -> workers.Outcome:
        variables = {**visible_devices(self._gpus), **(environment or {})}
        return workers.run(
            job,
            log=self._log,
            on_event=listen,
            python=python,
            environment=variables,
            silence_s=self._cell.config.stage_timeout_s,
            echo=self._display.chatter,
        )

    def _take_notes(self, notes: tuple[str, ...]) -> None:
        for text in notes:
            self._notes.append(text)
            self._display.note(text)

    def _fail(self, stage: str, cause: str, remedy: str, names: list[str]) -> None:
        """Record a failed stage: an error file for each record that it would have made."""
        self._failures.append(Failure(self._cell.name, stage, cause, remedy, self._log))
        for name in names:
            record = records.ErrorRecord(
                schema_version=records.SCHEMA_VERSION,
                model=self._cell.source.name,
                precision=self._cell.precision.value,
                quantization_scheme=checkpoints.scheme_name(self._cell.precision),
                timestamp=environment.now(),
                stage=stage,
                cause=cause,
                remedy=remedy,
                log=results.RUN_LOG,
            )
            try:
                results.write_error(self._cell.directory, name, record)
            except OSError as error:
                self._display.note(f"{name}: that it failed could not be recorded: {_disk_words(error)}")
        self._display.handle(protocol.Failed(stage=stage, cause=cause, remedy=remedy))
