"""The jobs of one variant, in their order: fetch, convert, quantize, measure; on whichever machine this runs.

It reads and writes checkpoints and their locks, and therefore runs where they are. What a user sees, and failures, go
to a `Watcher`, which may be in another process on another machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from slim_eval import models, power, results
from slim_eval.config import TrackingConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution import locks, messages
from slim_eval.execution.executor import Executor
from slim_eval.execution.plan import PlannedVariant, notes_on
from slim_eval.models import adapters, hub, pickles, weight_grid
from slim_eval.quantization import cache
from slim_eval.schemes import is_quantized

_Costs = Callable[[str], Sequence[str]]  # the records that the failure of a stage costs
_DISK_REMEDY = "free some space, or choose writable folders with --output-dir and --quantized-models-dir"


class Watcher(Protocol):
    """Told what happens to a variant; every method may raise to end the work, e.g. `CancelledError`."""

    def begin(self) -> None:
        """The variant begins on its machine."""

    def show(self, event: messages.Event) -> None:
        """An event of its worker, or a note."""

    def chatter(self, line: str) -> None:
        """A line that its worker or its engine printed."""

    def fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        """A stage failed, and with it the records of these names."""

    def go_on(self) -> None:
        """Asked from time to time while another process has a lock that the variant needs."""


def system_error(error: OSError) -> str:
    """An error of the system in words, with its file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


class _NoCheckpointError(Exception):
    """A stage before the measurement failed, which is recorded: nothing of the variant can be measured."""


class _Done(NamedTuple):
    finished: dict[str, Path | None]  # stage that ended with a result -> the folder or file that it made
    lost: set[str]  # the records that failures cost; they are recorded
    outcome: messages.Outcome


@dataclass
class VariantRun:
    """One variant on this machine."""

    variant: PlannedVariant
    watcher: Watcher
    executor: Executor  # on this machine
    gpus: tuple[power.Gpu, ...]
    log: Path  # that the executor writes
    named_log: Path  # the log as users find it, for messages
    environment: Mapping[str, str] = field(default_factory=dict)  # of its workers, besides that of this process
    notes: list[str] = field(default_factory=list)  # on the checkpoint, kept in every record

    def execute(self) -> None:
        """Do what is still to do."""
        variant = self.variant
        self.watcher.begin()
        self._keep_notes(variant.notes)
        results.clear_leftovers(variant.directory)
        with contextlib.suppress(_NoCheckpointError):
            try:
                source = self._fetch_and_convert()
                checkpoint = self._quantize(source)
            except SlimEvalError as error:
                self._fail("download", error.cause, error.remedy, variant.todo)
            except OSError as error:
                self._fail("download", system_error(error), _DISK_REMEDY, variant.todo)
            else:
                self._measure(source, checkpoint)

    def _fetch_and_convert(self) -> models.ModelSource:
        """The model with a safetensors checkpoint on this machine.

        Downloads run in a worker because a hub may stall; the worker is then stopped like any other that hangs.
        """
        config, source = self.variant.config, self.variant.source
        if source.base is not None:
            source = self._fetch_with_base(source, source.base)
        elif source.path is None and source.pickled is None:
            fetch = messages.FetchJob(source=source, allow_pickle=config.allow_pickle)
            source = models.fetched(source, self._download(fetch))
            # Before the download, only its configuration was known.
            self._keep_notes(notes_on(config, source, [self.variant.precision])[self.variant.precision])
        if source.path is not None:
            return source
        conversion = cache.conversion(source, config.quantized_models_dir)
        folder = conversion.folder
        with locks.wait_for_lock(folder, self._note, self.watcher.go_on):
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
            base = models.fetched(base, self._download(messages.FetchJob(source=base, allow_pickle=False)))
        adapter = source.adapter
        if source.kind == "hub":
            adapter = self._download(messages.FetchJob(source=source, allow_pickle=False))
        return source.model_copy(update={"base": base, "adapter": adapter})

    def _download(self, job: messages.FetchJob) -> Path:
        """Download a model; of several variants that share the hub's cache, one does."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # into a cache that cannot be written, nothing is downloaded
                place = hub.download_place(job.source.name)
                stack.enter_context(locks.wait_for_lock(place, self._note, self.watcher.go_on))
            return self._make("download", job)

    def _quantize(self, source: models.ModelSource) -> Path:
        """The checkpoint to serve, quantized now if it is not in the cache."""
        if not is_quantized(self.variant.precision):
            assert source.path is not None
            return source.path
        config = self.variant.config
        request = self.variant.quantize_request(source)
        with locks.wait_for_lock(cache.checkpoint_directory(request), self._note, self.watcher.go_on):
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
                self._fail(stage, done.outcome.describe(), f"see {self.named_log}", self.variant.todo)
            raise _NoCheckpointError
        return folder

    def _measure(self, source: models.ModelSource, checkpoint: Path) -> None:
        """Measure in one worker; if it dies, continue after the stage in which it died, in a fresh one."""
        variant = self.variant
        settings = variant.settings(self.gpus)  # only now: the checkpoint may have been made elsewhere
        remaining = variant.todo
        assert source.path is not None
        grid_bits = None if source.kind == "endpoint" else weight_grid.grid_bits(source.path)
        if grid_bits is not None:
            self._keep_notes([weight_grid.NOTE])

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
                source_grid_bits=grid_bits,
                stages=tuple(remaining),
                directory=variant.directory,
                max_model_len=variant.max_model_len,
                config=variant.config.model_copy(update={"tracking": TrackingConfig()}),
                notes=tuple(self.notes),
                settings={stage: settings[stage] for stage in remaining},
            )
            finished, lost, outcome = self._do(job, costs, variant.config.serve_python)
            remaining = [stage for stage in remaining if stage not in finished and stage not in lost]
            remedy = f"see {self.named_log}"
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
        finished: dict[str, Path | None] = {}
        lost: set[str] = set()
        outcome = messages.Outcome()
        silence_s, environment = self.variant.config.stage_timeout_s, {**self.environment, **(variables or {})}
        events = self.executor.submit(
            job, log=self.log, python=python, environment=environment, silence_s=silence_s, echo=self.watcher.chatter
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

    def _show(self, event: messages.Event) -> None:
        self.watcher.show(event)

    def _keep_notes(self, texts: Iterable[str]) -> None:
        """Show notes on the checkpoint, and keep them for every record."""
        for text in texts:
            if text not in self.notes:
                self.notes.append(text)
                self._note(text)

    def _note(self, text: str) -> None:
        self._show(messages.Note(text=text))

    def _fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        self.watcher.fail(stage, cause, remedy, tuple(names))
