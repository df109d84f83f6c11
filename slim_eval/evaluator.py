"""Runs: plan the variants, hand them to the machines, record what failed, close with a table.

A variant is one model under one scheme. This process imports neither torch nor an engine: a worker that dies harms
nothing else, and when it ends the driver frees its memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from slim_eval import environments, power, results
from slim_eval.benchmarks.base import benchmarks_of
from slim_eval.config import NoiseConfig, RunConfig
from slim_eval.execution import dry_run, locks, messages, resume, tracking
from slim_eval.execution import ray as _ray  # noqa: F401  # registers its executor
from slim_eval.execution.executor import EXECUTORS, Cluster
from slim_eval.execution.machines import Machines, open_machines
from slim_eval.execution.plan import PlannedVariant, check_stages, lay_out, stages_to_do
from slim_eval.execution.progress import Display, Failure, RunReport, open_display
from slim_eval.execution.variant_run import system_error
from slim_eval.results import records
from slim_eval.schemes import scheme_of
from slim_eval.utils import environment

AnyRun = TypeVar("AnyRun", bound=RunConfig)


def evaluate(config: RunConfig, *, with_verdict: bool = True) -> RunReport:
    """Quantize and measure every variant of a config, except what an earlier run with the same settings has measured.

    The closing table is followed by the verdict, unless the caller shows it later.

    Raises, before anything is started:
        UsageError: The config is invalid, or earlier results were measured with other settings.
        HubError: A model does not exist, is gated, or the hub cannot be reached.
        MissingPackageError: The interpreter of a stage lacks a package.
        BusyError: Another run is measuring one of the variants.
    """
    config = _complete(config)
    planned, gpus = lay_out(config)
    variants = resume.survey(planned, gpus, force=config.force)
    if config.dry_run:
        return _show_plan(config, variants, gpus)
    with open_machines(config, variants) as machines, closing(machines.check(config, variants)) as checked:
        resume.refuse_other_engines(variants, checked.engines)
        with locks.lock_folders(variant.directory for variant in variants if variant.todo):
            # Another run may have finished some of the work before the folders were locked.
            variants = resume.survey(planned, gpus, force=config.force)
            return _run(config, variants, machines, checked.notes, with_verdict=with_verdict)


def measure_noise(config: NoiseConfig) -> RunReport:
    """Measure one variant per model anew several times, and write its noise floor; raises as `evaluate`."""
    from slim_eval.analysis.compare.repeats import noise_record

    config = _complete(config)
    planned, gpus = lay_out(config)
    folders = {variant.directory.parent: results.noise_directory(variant.directory.parent) for variant in planned}
    variants = [
        replace(variant, directory=folders[variant.directory.parent] / f"run-{number}", label=f"run {number}")
        for variant in planned
        for number in range(1, config.num_repeats + 1)
    ]
    if config.dry_run:
        return _show_plan(config, variants, gpus)

    def find_floors(report: RunReport) -> None:
        report.resumes = False
        for directory, folder in folders.items():
            measured = [variant for variant in report.variants if variant.directory.parent == folder]
            if len(measured) > 1:
                record = noise_record(measured)
                report.floors.append((record, results.write_noise(directory, record)))

    with (
        open_machines(config, variants) as machines,
        closing(machines.check(config, planned)) as checked,
        locks.lock_folders(variant.directory for variant in variants),
    ):
        return _run(config, variants, machines, checked.notes, find_floors)


def _show_plan(config: RunConfig, variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu] | None) -> RunReport:
    """Show what a run would do, and do nothing."""
    with closing(check_stages(config, variants)) as checked:
        dry_run.show(dry_run.forecast(config, variants, gpus), checked.notes)
    return RunReport(config.output_dir)


def _run(
    config: RunConfig,
    variants: list[PlannedVariant],
    machines: Machines,
    notes: Iterable[str],
    conclude: Callable[[RunReport], None] | None = None,
    *,
    with_verdict: bool = True,
) -> RunReport:
    """Do what each variant still needs, as many at a time as the machines take, and show the closing table.

    `notes` are shown before anything is started; `conclude` completes the report before it is shown.
    """
    report = RunReport(config.output_dir, margin_pp=config.accuracy.margin_pp, with_verdict=with_verdict)
    cancelled = threading.Event()
    at_a_time = min(machines.parallel, max(1, sum(bool(variant.todo) for variant in variants)))
    with open_display(config.display, at_a_time) as display, contextlib.ExitStack() as stack:
        track = tracking.open_tracker(config.tracking, display.note)
        for text in machines.notes:
            display.note(text)
        for benchmark in benchmarks_of(stages_to_do(variants)):
            for text in benchmark.limitations(config):
                display.note(text)
        for text in notes:
            display.note(text)
        runs = [
            _Watched(variant, (number, len(variants)), display, cancelled)
            for number, variant in enumerate(variants, start=1)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(at_a_time)) if at_a_time > 1 else None
        try:
            finished: Iterator[None] = (pool.map if pool else map)(partial(_Watched.run_on, machines=machines), runs)
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
                        display.note(f"could not write {results.PAIRED}: {system_error(error)}")
        except BaseException:
            if pool is not None:  # stop the jobs of the other threads; their ending is not a failure
                cancelled.set()
                pool.shutdown(wait=False, cancel_futures=True)
                machines.cancel()
            raise
        if conclude is not None:
            conclude(report)
        display.close(report)
    return report


def _complete(config: AnyRun) -> AnyRun:
    """The config with the interpreters of this machine; machines of a cluster complete it with their own."""
    return config if isinstance(EXECUTORS.get(config.executor), Cluster) else environments.complete(config)


def _family(variant: PlannedVariant, variants: Iterable[PlannedVariant]) -> list[Path]:
    """The folders of a variant's model, of its base model, and of the run's other models that were made from that."""
    found = {variant.directory.parent: None}
    if not variant.label:  # a run for the noise floor stays by itself
        base, models_ = variant.base, variant.config.models
        found |= {other.directory.parent: None for other in variants if other.base == base}
        found[results.model_directory(variant.config.output_dir, base, models_)] = None
    return [folder for folder in found if folder.is_dir()]


@dataclass
class _Watched:
    """A variant of the run, seen from here: it is shown, and its failures are recorded."""

    variant: PlannedVariant
    position: tuple[int, int]  # its number, and that of all variants
    display: Display
    cancelled: threading.Event  # set when the run ends early
    finished: set[str] = field(default_factory=set)  # the stages that ended with a record
    failures: list[Failure] = field(default_factory=list)
    begun: bool = False

    def run_on(self, machines: Machines) -> None:
        """Do what is still to do, between the display's begin and end."""
        if self.variant.todo:
            machines.run(self.variant, self)
        else:
            self.begin()
        self.display.end(self.variant.name)

    def begin(self) -> None:
        """Show that it begins, and what of it is done already; a variant that is submitted again has begun before."""
        self.go_on()
        if self.begun:
            return
        self.begun, variant = True, self.variant
        self.display.begin(variant.name, *self.position, variant.stages)
        if variant.reused:
            for name in results.relabel(variant.directory, variant.reused, variant.precision, variant.base_model):
                base = f", made from {variant.base_model}" if variant.base_model else ""
                self._note(f"{name} is a record of {variant.precision}{base}: its label is updated, its numbers stay")
            self._note(f"reused: {', '.join(name for name in variant.benchmarks if name in variant.reused)}")
        for stage, reason in variant.again.items():
            self._note(f"{stage} is measured again: {reason}")

    def show(self, event: messages.Event) -> None:
        """Show an event of its worker."""
        self.go_on()  # the job may have started while the others were being cancelled
        if isinstance(event, messages.Kept):  # on disk, for whoever continues
            return
        if isinstance(event, messages.Finished) and event.stage in self.variant.benchmarks:
            self.finished.add(event.stage)
        self.display.handle(self.variant.name, event)

    def chatter(self, line: str) -> None:
        """Show a line of its log."""
        self.display.chatter(self.variant.name, line)

    def fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        """Record a failed stage: an error file for each record that it would have written."""
        self.go_on()  # a job that was stopped with the run has not failed
        variant = self.variant
        self.failures.append(Failure(variant.name, stage, cause, remedy, variant.directory / results.RUN_LOG))
        for name in names:
            record = records.ErrorRecord(
                schema_version=records.SCHEMA_VERSION,
                model=variant.source.name,
                precision=variant.precision,
                quantization_scheme=scheme_of(variant.precision).recorded_as,
                timestamp=environment.now(),
                stage=stage,
                cause=cause,
                remedy=remedy,
                log=results.RUN_LOG,
            )
            try:
                results.write_error(variant.directory, name, record)
            except OSError as error:
                self._note(f"{name}: could not record the failure: {system_error(error)}")
        self.show(messages.Failed(stage=stage, cause=cause, remedy=remedy))

    def go_on(self) -> None:
        """Raise `CancelledError` if the run is ending: another thread was interrupted or failed."""
        if self.cancelled.is_set():
            raise CancelledError

    def _note(self, text: str) -> None:
        self.show(messages.Note(text=text))
