"""Runs: plan the variants, hand their jobs to an executor, record what failed, close with a table.

A variant is one model under one scheme. This process imports neither torch nor an engine: a worker that dies harms
nothing else, and when it ends the driver frees its memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from slim_eval import environments, models, power, results
from slim_eval.benchmarks.base import benchmarks_of
from slim_eval.config import NoiseConfig, RunConfig, TrackingConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution import dry_run, locks, messages, resume, tracking
from slim_eval.execution.executor import Executor, executor
from slim_eval.execution.plan import PlannedVariant, check, check_stages, lay_out, notes_on, preview, stages_to_do
from slim_eval.execution.progress import Display, Failure, RunReport, open_display
from slim_eval.models import adapters, pickles
from slim_eval.quantization import cache
from slim_eval.results import records
from slim_eval.schemes import is_quantized, scheme_of
from slim_eval.utils import environment

_Costs = Callable[[str], Sequence[str]]  # the records that the failure of a stage costs
_DISK_REMEDY = "free some space, or choose writable folders with --output-dir and --quantized-models-dir"


def evaluate(config: RunConfig, *, with_verdict: bool = True) -> RunReport:
    """Quantize and measure every variant of a config, except what an earlier run with the same settings has measured.

    The closing table is followed by the verdict, unless the caller shows it later.

    Raises, before anything is started:
        UsageError: The config is invalid, or earlier results were measured with other settings.
        HubError: A model does not exist, is gated, or the hub cannot be reached.
        MissingPackageError: The interpreter of a stage lacks a package.
        BusyError: Another run is measuring one of the variants.
    """
    config = environments.complete(config)
    planned, gpus = lay_out(config)
    variants = resume.survey(planned, gpus, force=config.force)
    if config.dry_run:
        check_stages(config, variants)
        dry_run.show(dry_run.forecast(config, variants, gpus), preview(config, variants, here=True))
        return RunReport(config.output_dir)
    resume.refuse_other_engines(variants, check(config, variants))
    with locks.lock_folders(variant.directory for variant in variants if variant.todo):
        # Another run may have finished some of the work before the folders were locked.
        variants = resume.survey(planned, gpus, force=config.force)
        return _run(config, variants, gpus, with_verdict=with_verdict)


def measure_noise(config: NoiseConfig) -> RunReport:
    """Measure one variant per model anew several times, and write its noise floor; raises as `evaluate`."""
    from slim_eval.analysis.compare.repeats import noise_record

    config = environments.complete(config)
    planned, gpus = lay_out(config)
    folders = {variant.directory.parent: results.noise_directory(variant.directory.parent) for variant in planned}
    variants = [
        replace(variant, directory=folders[variant.directory.parent] / f"run-{number}", label=f"run {number}")
        for variant in planned
        for number in range(1, config.num_repeats + 1)
    ]
    if config.dry_run:
        check_stages(config, variants)
        dry_run.show(dry_run.forecast(config, variants, gpus), preview(config, variants, here=True))
        return RunReport(config.output_dir)
    check(config, planned)

    def find_floors(report: RunReport) -> None:
        report.resumes = False
        for directory, folder in folders.items():
            measured = [variant for variant in report.variants if variant.directory.parent == folder]
            if len(measured) > 1:
                record = noise_record(measured)
                report.floors.append((record, results.write_noise(directory, record)))

    with locks.lock_folders(variant.directory for variant in variants):
        return _run(config, variants, gpus, find_floors)


def _run(
    config: RunConfig,
    variants: list[PlannedVariant],
    gpus: tuple[power.Gpu, ...],
    conclude: Callable[[RunReport], None] | None = None,
    *,
    with_verdict: bool = True,
) -> RunReport:
    """Do what each variant still needs, as many at a time as the executor takes, and show the closing table.

    `conclude` completes the report before it is shown.
    """
    runner = executor(config.executor)
    report = RunReport(config.output_dir, margin_pp=config.accuracy.margin_pp, with_verdict=with_verdict)
    cancelled = threading.Event()
    with open_display(config.display) as display, contextlib.ExitStack() as stack:
        track = tracking.open_tracker(config.tracking, display.note)
        for benchmark in benchmarks_of(stages_to_do(variants)):
            for text in benchmark.limitations(config):
                display.note(text)
        for text in preview(config, variants):
            display.note(text)
        runs = [
            _VariantRun(variant, (number, len(variants)), gpus, runner, display, cancelled)
            for number, variant in enumerate(variants, start=1)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(runner.parallel)) if runner.parallel > 1 else None
        try:
            finished: Iterator[None] = (pool.map if pool else map)(_VariantRun.execute, runs)
            for run, _ in zip(runs, finished, strict=True):
                variant = run.variant
                report.failures += run.failures
                measured = results.read_variant(variant.directory, run.finished | variant.reused)
                if measured is None:
                    continue
                report.variants += (measured,)
                report.reused[variant.directory] = tuple(name for name in variant.benchmarks if name in variant.reused)
                report.related = tuple(dict.fromkeys((*report.related, *_family(variant, variants))))
                if run.finished:
                    is_tracked = tracking.why_off(config.tracking) is None
                    verdict = report.current_verdict().of(measured) if is_tracked and not variant.label else None
                    track(measured, variant.config, verdict)
                if "accuracy" in variant.config.tasks:
                    from slim_eval.analysis.compare.items import update_paired

                    try:
                        update_paired(_family(variant, variants), variant.config.accuracy.margin_pp)
                    except OSError as error:
                        display.note(f"could not write {results.PAIRED}: {_system_error(error)}")
        except BaseException:
            if pool is not None:  # stop the jobs of the other threads; their ending is not a failure
                cancelled.set()
                pool.shutdown(wait=False, cancel_futures=True)
                runner.cancel()
            raise
        if conclude is not None:
            conclude(report)
        display.close(report)
    return report


def _family(variant: PlannedVariant, variants: Iterable[PlannedVariant]) -> list[Path]:
    """The folders of a variant's model, of its base model, and of the run's other models that were made from that."""
    found = {variant.directory.parent: None}
    if not variant.label:  # a run for the noise floor stays by itself
        base, models_ = variant.base, variant.config.models
        found |= {other.directory.parent: None for other in variants if other.base == base}
        found[results.model_directory(variant.config.output_dir, base, models_)] = None
    return [folder for folder in found if folder.is_dir()]


def _system_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


class _NoCheckpointError(Exception):
    """A stage before the measurement failed, which is recorded: nothing of the variant can be measured."""


class _Done(NamedTuple):
    finished: dict[str, Path | None]  # stage that ended with a result -> the folder or file that it made
    lost: set[str]  # the records that failures cost; they are recorded
    outcome: messages.Outcome


@dataclass
class _VariantRun:
    """The jobs of one variant: fetch, convert, quantize, measure."""

    variant: PlannedVariant
    position: tuple[int, int]  # its number, and that of all variants
    gpus: tuple[power.Gpu, ...]
    executor: Executor
    display: Display
    cancelled: threading.Event  # set when the run ends early
    notes: list[str] = field(default_factory=list)  # on the checkpoint, kept in every record
    finished: set[str] = field(default_factory=set)  # the stages that ended with a result
    failures: list[Failure] = field(default_factory=list)

    def execute(self) -> None:
        """Do what is still to do, between the display's begin and end; a failure is recorded."""
        variant = self.variant
        self.display.begin(variant.name, *self.position, variant.stages)
        if variant.reused:
            for name in results.relabel(variant.directory, variant.reused, variant.precision, variant.base_model):
                base = f", made from {variant.base_model}" if variant.base_model else ""
                self._note(f"{name} is a record of {variant.precision}{base}: its label is updated, its numbers stay")
            self._note(f"reused: {', '.join(name for name in variant.benchmarks if name in variant.reused)}")
        for stage, reason in variant.again.items():
            self._note(f"{stage} is measured again: {reason}")
        if variant.todo:
            self._keep_notes(variant.notes)
            results.clear_leftovers(variant.directory)
            with contextlib.suppress(_NoCheckpointError):
                try:
                    source = self._fetch_and_convert()
                    checkpoint = self._quantize(source)
                except SlimEvalError as error:
                    self._fail("download", error.cause, error.remedy, variant.todo)
                except OSError as error:
                    self._fail("download", _system_error(error), _DISK_REMEDY, variant.todo)
                else:
                    self._measure(source, checkpoint)
        self.display.end(variant.name)

    def _fetch_and_convert(self) -> models.ModelSource:
        """The model with a safetensors checkpoint on this machine.

        Downloads run in a worker because a hub may stall; the worker is then stopped like any other that hangs.
        """
        config, source = self.variant.config, self.variant.source
        if source.base is not None:
            source = self._fetch_with_base(source, source.base)
        elif source.path is None and source.pickled is None:
            fetch = messages.FetchJob(source=source, allow_pickle=config.allow_pickle)
            source = models.fetched(source, self._make("download", fetch))
            # Before the download, only its configuration was known.
            self._keep_notes(notes_on(config, source, [self.variant.precision])[self.variant.precision])
        if source.path is not None:
            return source
        conversion = cache.conversion(source, config.quantized_models_dir)
        folder = conversion.folder
        with locks.wait_for_lock(folder, self._note):
            if conversion.is_done:
                self._show(messages.Finished(stage="convert", path=folder))
            else:
                identity, trust = conversion.identity, config.engine.trust_remote_code
                job = messages.ConvertJob(source=source, directory=folder, identity=identity, trust_remote_code=trust)
                folder = self._make("convert", job, config.serve_python)
        self._keep_notes([pickles.NOTE if source.base is None else adapters.NOTE])
        return source.model_copy(update={"path": folder})

    def _fetch_with_base(self, source: models.ModelSource, base: models.ModelSource) -> models.ModelSource:
        """An adapter with its own files and those of its base model on this machine."""
        if base.path is None:
            base = models.fetched(base, self._make("download", messages.FetchJob(source=base, allow_pickle=False)))
        adapter = source.adapter
        if source.kind == "hub":
            adapter = self._make("download", messages.FetchJob(source=source, allow_pickle=False))
        return source.model_copy(update={"base": base, "adapter": adapter})

    def _quantize(self, source: models.ModelSource) -> Path:
        """The checkpoint to serve, quantized now if it is not in the cache."""
        if not is_quantized(self.variant.precision):
            assert source.path is not None
            return source.path
        config = self.variant.config
        request = self.variant.quantize_request(source)
        with locks.wait_for_lock(cache.checkpoint_directory(request), self._note):
            try:
                checkpoint = cache.cached(request)
                if checkpoint is not None:
                    self._show(messages.Finished(stage="quantize", path=checkpoint.path))
                else:
                    # GPTQ on a CPU is many tiny parallel steps: on shared cores, threads that spin while they wait for
                    # each other make it several times slower. Measurements keep the default.
                    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
                    index, count = config.engine.gpu_index, config.engine.tensor_parallel_size
                    job = messages.QuantizeJob(request=request, gpu_index=index, num_gpus=count)
                    checkpoint = cache.made(self._make("quantize", job, config.quantize_python, waiting))
            except SlimEvalError as error:
                self._fail("quantize", error.cause, error.remedy, self.variant.todo)
                raise _NoCheckpointError from error
        self._keep_notes(checkpoint.notes)
        return checkpoint.path

    def _make(
        self, stage: str, job: messages.Job, python: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> Path:
        """The folder that a job of one stage makes; raises `_NoCheckpointError` if it failed."""
        done = self._do(job, lambda _: self.variant.todo, python, variables)
        if (folder := done.finished.get(stage)) is None:
            if not done.lost:
                self._fail(stage, done.outcome.describe(), f"see {self._log}", self.variant.todo)
            raise _NoCheckpointError
        return folder

    def _measure(self, source: models.ModelSource, checkpoint: Path) -> None:
        """Measure in one worker; if it dies, continue after the stage in which it died, in a fresh one."""
        variant = self.variant
        settings = variant.settings(self.gpus)  # only now: the checkpoint may have been made elsewhere
        remaining = variant.todo
        assert source.path is not None

        def costs(stage: str) -> Sequence[str]:
            return remaining if stage == "engine" else [stage]

        while remaining:
            job = messages.MeasureJob(
                model=source.name,
                revision=source.revision,
                source=source.path,
                checkpoint=checkpoint,
                precision=variant.precision,
                base_model=variant.base_model,
                adapter=None if source.base is None else source.name,
                quantization_scheme=variant.recorded_as(source),
                stages=tuple(remaining),
                directory=variant.directory,
                max_model_len=variant.max_model_len,
                config=variant.config.model_copy(update={"tracking": TrackingConfig()}),
                notes=tuple(self.notes),
                settings={stage: settings[stage] for stage in remaining},
            )
            finished, lost, outcome = self._do(job, costs, variant.config.serve_python)
            self.finished.update(finished)
            remaining = [stage for stage in remaining if stage not in finished and stage not in lost]
            remedy = f"see {self._log}"
            if remaining and "engine" not in finished:  # it died while loading, as a fresh worker would
                self._fail("engine", f"the engine did not start: {outcome.describe()}", remedy, remaining)
                return
            if remaining:
                # If it died between two stages, the next one is to blame.
                died_in = outcome.stage if outcome.stage in remaining else remaining[0]
                self._fail(died_in, outcome.describe(), remedy, [died_in])
                remaining.remove(died_in)

    def _do(
        self, job: messages.Job, costs: _Costs, python: Path | None, variables: Mapping[str, str] | None = None
    ) -> _Done:
        """Do a job in a worker, which an interrupt stops."""
        self._raise_if_cancelled()
        finished: dict[str, Path | None] = {}
        lost: set[str] = set()
        outcome = messages.Outcome()
        silence_s, echo = self.variant.config.stage_timeout_s, partial(self.display.chatter, self.variant.name)
        events = self.executor.submit(
            job, log=self._log, python=python, environment=variables, silence_s=silence_s, echo=echo
        )
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, messages.Outcome):
                    outcome = event
                elif isinstance(event, messages.Failed):
                    # A server may fail to start after other stages were measured on the loaded engine.
                    names = [name for name in costs(event.stage) if name not in finished]
                    lost.update(names)
                    self._fail(event.stage, event.cause, event.remedy, names)
                else:
                    self._show(event)
                    if isinstance(event, messages.Finished):
                        finished[event.stage] = event.path
        return _Done(finished, lost, outcome)

    @property
    def _log(self) -> Path:
        return self.variant.directory / results.RUN_LOG

    def _raise_if_cancelled(self) -> None:
        if self.cancelled.is_set():  # the run is ending: another thread was interrupted or failed
            raise CancelledError

    def _show(self, event: messages.Event) -> None:
        self._raise_if_cancelled()  # the job may have started while the executor was cancelling the others
        self.display.handle(self.variant.name, event)

    def _keep_notes(self, texts: Iterable[str]) -> None:
        """Show notes on the checkpoint, and keep them for every record."""
        for text in texts:
            if text not in self.notes:
                self.notes.append(text)
                self._note(text)

    def _note(self, text: str) -> None:
        self._show(messages.Note(text=text))

    def _fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        """Record a failed stage: an error file for each record that it would have written."""
        self._raise_if_cancelled()  # a job that was stopped with the run has not failed
        self.failures.append(Failure(self.variant.name, stage, cause, remedy, self._log))
        for name in names:
            record = records.ErrorRecord(
                schema_version=records.SCHEMA_VERSION,
                model=self.variant.source.name,
                precision=self.variant.precision,
                quantization_scheme=scheme_of(self.variant.precision).recorded_as,
                timestamp=environment.now(),
                stage=stage,
                cause=cause,
                remedy=remedy,
                log=results.RUN_LOG,
            )
            try:
                results.write_error(self.variant.directory, name, record)
            except OSError as error:
                self._note(f"{name}: could not record the failure: {_system_error(error)}")
        self._show(messages.Failed(stage=stage, cause=cause, remedy=remedy))
