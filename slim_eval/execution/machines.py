"""The machines of a run: where its variants are checked and measured, and how many at the same time."""

from __future__ import annotations

import contextlib
import queue
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from slim_eval import power, results
from slim_eval.config import RunConfig
from slim_eval.execution import plan, turns
from slim_eval.execution.executor import EXECUTORS, Cluster, Executor, LocalExecutor, executor
from slim_eval.execution.plan import PlannedVariant
from slim_eval.execution.variant_run import VariantRun, Watcher


class Machines(ABC):
    """Runs variants; `run` is called from `parallel` threads."""

    parallel: int
    notes: tuple[str, ...] = ()  # for the user, before anything starts

    @abstractmethod
    def check(self, config: RunConfig, variants: Sequence[PlannedVariant]) -> plan.Checked:
        """What `plan.check` returns or raises where the variants would be measured."""

    @abstractmethod
    def run(self, variant: PlannedVariant, watcher: Watcher) -> None:
        """Do everything that a variant still needs; the watcher is told of failures."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop everything that is under way; called from another thread than those in `run`."""


class ThisMachine(Machines):
    """Runs variants from this process, by the jobs of an executor; each variant has a place: GPUs, or the CPU."""

    def __init__(
        self, runner: Executor, places: Sequence[tuple[tuple[power.Gpu, ...], Mapping[str, str]]], notes: Iterable[str]
    ) -> None:
        self._runner = runner
        self._places: queue.SimpleQueue[tuple[tuple[power.Gpu, ...], Mapping[str, str]]] = queue.SimpleQueue()
        self.notes = tuple(notes)
        self.parallel = len(places)
        for place in places:
            self._places.put(place)

    def check(self, config: RunConfig, variants: Sequence[PlannedVariant]) -> plan.Checked:
        """See `Machines.check`."""
        return plan.check(config, variants)

    def run(self, variant: PlannedVariant, watcher: Watcher) -> None:
        """See `Machines.run`."""
        log = variant.directory / results.RUN_LOG
        place = self._places.get()
        try:
            VariantRun(variant, watcher, self._runner, place[0], log, log, place[1]).execute()
        finally:
            self._places.put(place)

    def cancel(self) -> None:
        """See `Machines.cancel`."""
        self._runner.cancel()


@contextlib.contextmanager
def open_machines(config: RunConfig, variants: Sequence[PlannedVariant]) -> Iterator[Machines]:
    """The machines for a run of these variants, until the block ends."""
    where = executor(config.executor)
    if isinstance(where, Cluster):
        if any(variant.todo for variant in variants):
            with where.open(config, variants) as machines:
                yield machines
            return
        local = EXECUTORS[LocalExecutor.name]
        assert not isinstance(local, Cluster)
        yield ThisMachine(local, [((), {})], ())  # nothing is started
        return
    groups = plan.places(config)
    if not isinstance(where, LocalExecutor):
        yield ThisMachine(where, [(groups[0], {})] * where.parallel, ())
        return
    with tempfile.TemporaryDirectory(prefix="slim-eval-") as private:
        if not config.machines.gpus:
            yield ThisMachine(where, [(groups[0], {turns.FOLDER: private})], ())
            return
        folder = str(turns.of_this_machine())
        places = [(group, {turns.FOLDER: folder, **_visible(group)}) for group in groups]
        yield ThisMachine(where, places, _kinds(groups))


def _visible(group: Sequence[power.Gpu]) -> dict[str, str]:
    """Variables of a worker that sees only these GPUs, numbered as NVML numbers them."""
    names = ",".join(gpu.visible_name for gpu in group)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": names}


def _kinds(groups: Sequence[Sequence[power.Gpu]]) -> list[str]:
    kinds = dict.fromkeys(gpu.name for group in groups for gpu in group)
    if len(kinds) < 2:
        return []
    return [f"the GPUs are of different kinds ({', '.join(kinds)}): speed and energy are not compared between them"]
