"""The executor ``ray``: each variant is one task on a Ray cluster, which holds whole GPUs from first to last job.

In the task, on its node, a variant is done as on this machine (`VariantRun`): its workers are child processes that the
local executor starts, so an engine never runs inside Ray. What the watcher here is told travels through the task's own
stream of results: events, lines of the log and, if the node does not see the output directory, the files of each
record as soon as it is made. Checkpoints never travel. Ray's own retries are off: a variant whose node died is
submitted again here, without the stages that are recorded.

The only importer of Ray, which is imported late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import queue
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from slim_eval import environments, models, power, results
from slim_eval._version import __version__
from slim_eval.config import RunConfig, TrackingConfig
from slim_eval.errors import MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import messages, plan, turns
from slim_eval.execution.executor import EXECUTORS, Cluster, LocalExecutor, RunLog
from slim_eval.execution.machines import Machines
from slim_eval.execution.plan import PlannedVariant
from slim_eval.execution.progress import open_display
from slim_eval.execution.variant_run import VariantRun, Watcher, system_error
from slim_eval.plugins import load_plugins
from slim_eval.quantization import recipe_files

INSTALL = 'pip install "slim-eval[ray]"'
_ACCELERATOR = "ray.io/accelerator-type"  # label that Ray gives to nodes with GPUs
_CONNECT_S = 5.0
_PROBE_S = 120.0  # a node that does not start a Python process in this time is not usable
_BATCH_S = 0.2
_LOOK_AGAIN_S = 5.0  # between looks whether a variant that waits for a node can ever get one
_PATIENCE_S = 20.0  # after which a run that waits for a node says so
_LOOKAHEAD = 2  # variants submitted per one that can run: a node that is free finds the next one queued
_MOST_SUBMITTED = 256
_DRIVER_ONLY = (turns.FOLDER, messages.LIFELINE, "SLIM_EVAL_RUN_LOG")


@dataclass(frozen=True)
class _Node:
    """A node of the cluster, as Ray describes it."""

    id: str
    name: str
    gpus: int
    cpus: int
    accelerator: str | None


@dataclass(frozen=True)
class _Folder:
    """A folder of this machine, and the file in it by which a node recognises that it sees the same one."""

    path: Path
    token: str

    def is_here(self) -> bool:
        """Whether this process, on whichever machine, sees the folder."""
        try:
            return (self.path / f".slim-eval-{self.token}").read_text(encoding="utf-8") == self.token
        except OSError:
            return False


@dataclass(frozen=True)
class _Setting:
    """What every task is told about the machine that submits it."""

    cwd: Path
    outputs: _Folder
    checkpoints: _Folder
    environment: dict[str, str]
    recipes: dict[str, str]  # the user's own schemes, as `recipe_files` keeps them


@dataclass(frozen=True)
class _Refusal:
    """A `SlimEvalError` of a node."""

    cause: str
    remedy: str
    usage: bool

    def as_error(self) -> SlimEvalError:
        return (UsageError if self.usage else SlimEvalError)(self.cause, self.remedy)


@dataclass(frozen=True)
class _Need:
    """What each task requests of its node: decided once, since a cluster may lose its GPUs while tasks ask for one."""

    gpus: int  # 0: the cluster had none, and variants take CPUs
    cpus: int
    accelerator: str | None

    @classmethod
    def of(cls, nodes: Sequence[_Node], config: RunConfig) -> _Need:
        """What variants need on the nodes that there are."""
        size, wanted = config.engine.tensor_parallel_size, config.machines.accelerator
        if wanted is None and size == 1 and not any(node.gpus for node in nodes):
            return cls(0, min((node.cpus for node in nodes if node.cpus), default=1), None)
        return cls(size, 1, wanted)

    def nodes(self, ray: ModuleType) -> list[_Node]:
        """The nodes that can run a variant; a `UsageError` at once if none ever can."""
        nodes = _nodes(ray)
        if usable := [node for node in nodes if self.places(node)]:
            return usable
        count, unit = (self.gpus, "GPU") if self.gpus else (self.cpus, "CPU")
        what = f"{count} {unit}{'s' if count > 1 else ''}"
        what += f" of type {self.accelerator}" if self.accelerator else ""
        listed = ", ".join(
            f"{node.name}: {node.gpus if self.gpus else node.cpus} {unit}s"
            + (f" of type {node.accelerator}" if node.accelerator else "")
            for node in nodes[:8]
        ) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
        cause = f"no node of the Ray cluster has {what} for a variant ({listed or 'it has no nodes'})"
        remedy = "add a node (`ray start --address …`)"
        raise UsageError(cause, f"change --tensor-parallel-size or --accelerator, or {remedy}" if self.gpus else remedy)

    def places(self, node: _Node) -> int:
        """How many variants a node can run at the same time."""
        if self.accelerator not in (None, node.accelerator):
            return 0
        return min(node.cpus, node.gpus // self.gpus) if self.gpus else node.cpus // self.cpus

    def options(self) -> dict[str, Any]:
        """The same as options of a task of Ray."""
        options: dict[str, Any] = {"max_retries": 0, "scheduling_strategy": "SPREAD", "num_cpus": self.cpus}
        options |= {"num_gpus": self.gpus} if self.gpus else {}
        return {**options, "label_selector": {_ACCELERATOR: self.accelerator}} if self.accelerator else options


class RayExecutor(Cluster):
    """Runs variants on the nodes of a Ray cluster."""

    name = "ray"

    def check_options(self, config: RunConfig) -> None:
        """Refuse options that choose GPUs of this machine."""
        if config.machines.gpus or config.engine.gpu_index:
            flag = "--gpus" if config.machines.gpus else "--gpu-index"
            raise UsageError(f"{flag}: --executor ray chooses the GPUs", "leave it out")
        if (config.machines.ray_address or "").startswith("ray://"):
            cause = f"--ray-address {config.machines.ray_address}: Ray Client is not supported"
            raise UsageError(cause, "run slim-eval on a node of the cluster, with --ray-address HOST:PORT or auto")

    @contextlib.contextmanager
    def open(self, config: RunConfig, variants: Sequence[PlannedVariant]) -> Iterator[Machines]:
        """Join the cluster, and check that its nodes can do the work at all."""
        # Ray prints what it thinks of dead nodes to stdout, which is for the closing table; a run reports them itself.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("ray", "--executor ray", INSTALL) from error
        own = not ray.is_initialized()
        if own:
            _join(ray, config.machines.ray_address or "auto")
        try:
            need = _Need.of(_nodes(ray), config)
            nodes = need.nodes(ray)
            _require_same_software(ray, nodes)
            with _token(config.output_dir) as outputs, _token(config.quantized_models_dir) as checkpoints:
                environment = {
                    key: value
                    for key, value in os.environ.items()
                    if key.startswith("SLIM_EVAL_") and key not in _DRIVER_ONLY
                }
                setting = _Setting(Path.cwd(), outputs, checkpoints, environment, dict(recipe_files.texts()))
                yield RayMachines(ray, config, need, nodes, setting)
        finally:
            if own:
                ray.shutdown()  # Ray ends the tasks of this process, and they their workers


EXECUTORS.register(RayExecutor())


class RayMachines(Machines):
    """The nodes of a Ray cluster."""

    def __init__(
        self, ray: ModuleType, config: RunConfig, need: _Need, nodes: Sequence[_Node], setting: _Setting
    ) -> None:
        self._ray, self._config, self._need, self._setting = ray, config, need, setting
        self._retries = config.machines.max_retries
        self._cancelled = False
        self._following: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = set()
        self._lock = threading.Lock()  # of the two
        options = need.options()
        # Each new remote function would be sent to the cluster anew.
        self._check = ray.remote(_check).options(num_returns="streaming", **options)
        self._task = ray.remote(_work).options(num_returns="streaming", **options)
        lost = ray.exceptions
        self._node_lost = (lost.NodeDiedError, lost.WorkerCrashedError, lost.OutOfMemoryError, lost.ObjectLostError,
                           lost.LocalRayletDiedError)  # fmt: skip
        places = [need.places(node) for node in nodes]
        self.parallel = min(_MOST_SUBMITTED, _LOOKAHEAD * sum(places))
        kinds = sorted({node.accelerator or "unknown" for node in nodes if node.gpus})
        if len(kinds) > 1:
            self.notes = (
                f"the cluster has GPUs of several types ({', '.join(kinds)}): speed and energy are not compared "
                "between them; --accelerator TYPE chooses one",
            )
        elif not need.gpus and max(places) > 1:
            self.notes = (
                f"a variant holds {need.cpus} CPUs, as many as the smallest node of the Ray cluster has; a larger one "
                f"runs up to {max(places)} at the same time",
            )

    def check(self, config: RunConfig, variants: Sequence[PlannedVariant]) -> plan.Checked:
        """Check on a node, with its GPUs and packages, which reads the prompts to their end."""
        asked = [_for_travel(variant) for variant in variants if variant.todo]
        if not asked:
            return plan.Checked()
        for attempt in range(1, self._retries + 2):
            stream = self._check.remote(_plain(config), asked, self._setting)
            try:
                self._wait_for_a_node(stream)
                _, found = [self._ray.get(answer) for answer in stream]
            except self._node_lost as error:
                if attempt > self._retries:
                    cause = f"the node that checked the run died, or lost its task, {attempt} times"
                    raise SlimEvalError(cause, "see its Ray logs (/tmp/ray/session_latest/logs)") from error
                continue
            if isinstance(found, _Refusal):
                raise found.as_error()
            return plan.Checked(*found)
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_a_node(self, stream: Any) -> None:
        """Wait until a task has begun; say so if others use the cluster, and stop if no node is left for it."""
        began, is_told = time.monotonic(), False
        while not self._ray.wait([stream], timeout=_LOOK_AGAIN_S)[0]:
            self._need.nodes(self._ray)
            if not is_told and time.monotonic() - began > _PATIENCE_S:
                is_told = True
                with open_display(self._config.display) as display:
                    what = "GPUs" if self._need.gpus else "CPUs"
                    display.note(f"waiting for a node of the Ray cluster: all {what} may be in use")

    def run(self, variant: PlannedVariant, watcher: Watcher) -> None:
        """Do a variant on one node; on another one if that dies."""
        lost = self._ray.exceptions
        for attempt in range(1, self._retries + 2):
            seen, is_last = _Seen(variant, watcher), attempt > self._retries
            try:
                self._attempt(seen)
                cause, is_last = "the task ended before finishing", True
            except self._node_lost as error:
                self._raise_if_cancelled()
                how = "ran out of memory" if isinstance(error, lost.OutOfMemoryError) else "died"
                cause = f"the node {seen.node or 'it was to run on'} {how}, or lost its task"
            except lost.RayTaskError as error:  # a fault of slim-eval or of its installation there
                cause, is_last = f"the task failed: {str(error).strip().splitlines()[-1]}", True
            except lost.RayError as error:
                cause, is_last = f"Ray failed: {str(error).strip().splitlines()[0]}", True
            except _NoNodeError as error:
                cause, is_last = str(error), True
            left = seen.left
            if not left:
                return
            stage, remedy = seen.stage or left[0], f"see {variant.directory / results.RUN_LOG}"
            watcher.begin()
            if is_last:
                watcher.fail(stage, cause, remedy, left)
                return
            watcher.show(messages.Failed(stage=stage, cause=cause, remedy="another node does it again"))
            again = f"submitted again, {attempt} of {self._retries} (--max-retries): {', '.join(left)}"
            watcher.show(messages.Note(text=f"{variant.name}: {cause}; {again}"))
            variant = replace(variant, reused=variant.reused | set(variant.todo) - set(left))

    def _attempt(self, seen: _Seen) -> None:
        variant = seen.variant
        stream = self._task.remote(_for_travel(variant), self._setting, _to_continue(variant))
        with RunLog(variant.directory / results.RUN_LOG, seen.watcher.chatter) as log:
            try:
                asyncio.run(self._follow(stream, seen, log))
            except asyncio.CancelledError:
                raise CancelledError from None

    async def _follow(self, stream: Any, seen: _Seen, log: RunLog) -> None:
        """Pass on what a task tells, to its end; nothing is polled, whichever number of variants runs for hours."""
        task = asyncio.current_task()
        assert task is not None
        mine = asyncio.get_running_loop(), task
        with self._lock:
            self._raise_if_cancelled()
            self._following.add(mine)
        try:
            while True:
                coming = asyncio.ensure_future(anext(stream))
                while not (await asyncio.wait([coming], timeout=None if seen.node else _LOOK_AGAIN_S))[0]:
                    self._require_a_node(stream)
                try:
                    batch = await coming.result()
                except StopAsyncIteration:
                    return
                for told in batch:
                    seen.take(told, log)
        finally:
            with self._lock:
                self._following.remove(mine)

    def _require_a_node(self, stream: Any) -> None:
        """A task for which no node is left would wait for ever."""
        try:
            self._need.nodes(self._ray)
        except UsageError as error:
            self._ray.cancel(stream)
            raise _NoNodeError(error.cause) from error

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise CancelledError

    def cancel(self) -> None:
        """Stop to wait for tasks; they end when this process leaves the cluster."""
        with self._lock:
            self._cancelled = True
            for loop, task in self._following:
                loop.call_soon_threadsafe(task.cancel)


class _NoNodeError(Exception):
    """No node is left that could ever run a variant."""


@dataclass(frozen=True)
class _Began:
    node: str


@dataclass(frozen=True)
class _Line:
    text: str


@dataclass(frozen=True)
class _Failure:
    stage: str
    cause: str
    remedy: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Files:
    """A record from a node that does not see the output directory."""

    stage: str
    files: dict[str, bytes]
    is_complete: bool = True  # or of a stage that goes on


_Told = _Began | _Line | _Failure | _Files | messages.Event


class _Seen:
    """What is known here of a variant that runs on a node."""

    def __init__(self, variant: PlannedVariant, watcher: Watcher) -> None:
        self.variant, self.watcher = variant, watcher
        self.node: str | None = None
        self.stage: str | None = None  # that is running
        self._ended: set[str] = set()  # the stages that are recorded, as results or as failures

    @property
    def left(self) -> list[str]:
        """The stages that are neither measured nor failed."""
        return [stage for stage in self.variant.todo if stage not in self._ended]

    def take(self, told: _Told, log: RunLog) -> None:
        """Pass on what a task told."""
        if isinstance(told, _Began):
            self.node = told.node
            self.watcher.begin()
        elif isinstance(told, _Line):
            log.write(told.text.encode())
        elif isinstance(told, _Failure):
            self._ended.update(told.names)
            self.watcher.fail(told.stage, told.cause, told.remedy, told.names)
        elif isinstance(told, _Files):
            try:
                results.receive_record(self.variant.directory, told.stage, told.files)
            except OSError as error:
                if not told.is_complete:  # the complete one may find more space
                    return
                cause = f"the record could not be written: {system_error(error)}"
                self._ended.add(told.stage)
                self.watcher.fail(told.stage, cause, "free some space, and run the command again", [told.stage])
        else:
            if isinstance(told, (messages.Started, messages.Advanced)):
                self.stage = told.stage
            elif isinstance(told, messages.Finished):
                self.stage = None
                if told.stage in self._ended:  # its record could not be kept
                    return
                self._ended.add(told.stage)
            self.watcher.show(told)


# ---- on a node ----


class _Reporter:
    """The watcher of a variant on its node."""

    def __init__(
        self,
        variant: PlannedVariant,
        told: queue.SimpleQueue[_Told | None],
        cancelled: threading.Event,
        *,
        travels: bool,
    ) -> None:
        self._variant, self._told, self._cancelled, self._travels = variant, told, cancelled, travels

    def begin(self) -> None:
        """Told before."""

    def show(self, event: messages.Event) -> None:
        """Pass on an event, and before that the record that it announces."""
        records = self._variant.benchmarks if self._travels else {}
        if isinstance(event, (messages.Kept, messages.Finished)) and event.stage in records:
            files = results.record_files(self._variant.directory, event.stage)
            self._told.put(_Files(event.stage, files, isinstance(event, messages.Finished)))
        self._told.put(event)

    def chatter(self, line: str) -> None:
        """Pass on a line of the log."""
        self._told.put(_Line(line))

    def fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        """Pass on a failure."""
        self._told.put(_Failure(stage, cause, remedy, tuple(names)))

    def go_on(self) -> None:
        """Raise `CancelledError` if the task is ending."""
        if self._cancelled.is_set():
            raise CancelledError


def _work(
    variant: PlannedVariant, setting: _Setting, earlier: Mapping[str, Mapping[str, bytes]]
) -> Iterator[list[_Told]]:
    """The task of a variant, which adds to records of `earlier`: what its watcher is told, in batches."""
    _settle(setting)
    cancelled = threading.Event()
    told: queue.SimpleQueue[_Told | None] = queue.SimpleQueue()
    runner = LocalExecutor()
    yield [_Began(socket.gethostname())]
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_work_here, variant, setting, earlier, runner, told, cancelled)
        try:
            ended = False
            while not ended:
                batch = [told.get()]
                time.sleep(_BATCH_S)  # one message per batch, not per line
                while not told.empty():
                    batch.append(told.get())
                ended = batch[-1] is None
                yield [each for each in batch if each is not None]
            work.result()  # raises what nobody expected
        finally:
            cancelled.set()
            runner.cancel()


def _work_here(
    variant: PlannedVariant,
    setting: _Setting,
    earlier: Mapping[str, Mapping[str, bytes]],
    runner: LocalExecutor,
    told: queue.SimpleQueue[_Told | None],
    cancelled: threading.Event,
) -> None:
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix="slim-eval-"))
        own = _localised(variant, setting)
        shared = setting.outputs.is_here()
        if not shared:
            own = replace(own, directory=scratch / variant.directory.name)
            own.directory.mkdir()
            for stage, files in earlier.items():
                results.receive_record(own.directory, stage, files)
        reporter = _Reporter(own, told, cancelled, travels=not shared)
        size = variant.config.engine.tensor_parallel_size
        gpus = power.resolve_gpus(0, size, os.environ.get("CUDA_VISIBLE_DEVICES"))
        environment = {turns.FOLDER: str(turns.of_this_machine())}
        named_log = variant.directory / results.RUN_LOG
        VariantRun(own, reporter, runner, gpus, scratch / results.RUN_LOG, named_log, environment).execute()
    except SlimEvalError as error:
        cause = f"on node {socket.gethostname()}: {error.cause}"
        told.put(_Failure("download", cause, error.remedy, tuple(variant.todo)))
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        told.put(None)


def _check(
    config: RunConfig, variants: Sequence[PlannedVariant], setting: _Setting
) -> Iterator[_Began | tuple[dict[str, str], list[str]] | _Refusal]:
    """`plan.check` on this node: that it begins, and then the engines and the notes."""
    yield _Began(socket.gethostname())
    _settle(setting)
    try:
        own = [_localised(variant, setting) for variant in variants]
        folder = own[0].config.quantized_models_dir
        own_config = environments.complete(config).model_copy(update={"quantized_models_dir": folder})
        with contextlib.closing(plan.check(own_config, own)) as checked:
            yield dict(checked.engines), list(checked.notes)
    except SlimEvalError as error:
        cause = f"on node {socket.gethostname()}: {error.cause}"
        yield _Refusal(cause, error.remedy, isinstance(error, UsageError))


def _settle(setting: _Setting) -> None:
    """Make this process of Ray like one that a user starts on the node, in the folder of the run if it is there."""
    os.environ.update(setting.environment)
    # Ray sets it to the CPUs of the task, in its own process: workers get what the node's user has set, or nothing.
    started_with = Path("/proc/self/environ")
    if started_with.exists() and b"\0OMP_NUM_THREADS=" not in b"\0" + started_with.read_bytes():
        os.environ.pop("OMP_NUM_THREADS", None)
    if setting.cwd.is_dir():
        os.chdir(setting.cwd)
    load_plugins()
    recipe_files.register_texts(setting.recipes)


def _localised(variant: PlannedVariant, setting: _Setting) -> PlannedVariant:
    """A variant with the paths of this node; a `SlimEvalError` if its model is not here."""
    source, config = variant.source, environments.complete(variant.config)
    if source.kind == "endpoint":
        return replace(variant, config=config)
    if source.kind == "demo":
        source = models.resolve(source.name)
    elif not source.config_dir.exists():
        if source.kind != "hub":
            cause = f"model folder {source.config_dir} does not exist"
            raise UsageError(cause, "put the model on storage that all nodes see, or on the hub")
        source = models.resolve(source.name, source.revision, allow_pickle=config.allow_pickle, base=config.base_model)
    if not setting.checkpoints.is_here():
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "slim-eval", "quantized-models")
        config = config.model_copy(update={"quantized_models_dir": cache})
    # What depends on the packages and on the cache of this node could not be checked before.
    found = plan.notes_on(config, source, [variant.precision])[variant.precision]
    return replace(variant, source=source, config=config, notes=tuple(dict.fromkeys((*variant.notes, *found))))


# ---- before the run ----


def _plain(config: RunConfig) -> RunConfig:
    """A config for another machine: with absolute folders, without keys, for workers started there."""
    return config.model_copy(
        update={
            "tracking": TrackingConfig(),
            "executor": LocalExecutor.name,
            "output_dir": config.output_dir.absolute(),
            "quantized_models_dir": config.quantized_models_dir.absolute(),
        }
    )


def _for_travel(variant: PlannedVariant) -> PlannedVariant:
    return replace(variant, directory=variant.directory.absolute(), config=_plain(variant.config))


def _to_continue(variant: PlannedVariant) -> dict[str, dict[str, bytes]]:
    """Stage -> the files of its record, of those that are added to: a node may not see them."""
    if variant.config.force:
        return {}
    return {
        stage: results.record_files(variant.directory, stage)
        for stage in variant.todo
        if variant.benchmarks[stage].resumes and results.record_path(variant.directory, stage).is_file()
    }


def _join(ray: ModuleType, address: str) -> None:
    """Become a driver of the cluster; a `SlimEvalError` says why that is not possible."""
    host, colon, port = address.rpartition(":")
    if address != "auto":
        if not colon or not port.isdecimal():
            raise UsageError(f"--ray-address {address}: not an address", "give HOST:PORT, or auto")
        try:
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            cause = f"no Ray cluster at {address}: {error}"
            raise SlimEvalError(cause, "start one with `ray start --head`, or correct --ray-address") from error
    # Ray handles these signals with an exit of its own; an interrupt of a run stops its jobs in order.
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    try:
        ray.init(address=address, namespace="slim-eval", log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())
        if "ersion mismatch" in text:
            cause = f"the Ray cluster at {address} has another version of Ray or Python: {text[:300]}"
            if len(versions := re.findall(r"Ray: (\S+) Python: (\S+)", text)) == 2:
                theirs, ours = (f"Ray {of_ray} and Python {of_python}" for of_ray, of_python in versions)
                cause = f"the Ray cluster at {address} has {theirs}, this machine {ours}"
            raise SlimEvalError(cause, "use the same Python and the same packages on every node") from error
        if address == "auto" and isinstance(error, ConnectionError):
            cause = "no Ray cluster runs on this machine"
            raise SlimEvalError(cause, "start one with `ray start --head`, or give --ray-address HOST:PORT") from error
        cause = f"the Ray cluster at {address} cannot be joined: {text[:300]}"
        raise SlimEvalError(cause, "run slim-eval on a node of the cluster") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _nodes(ray: ModuleType) -> list[_Node]:
    return [
        _Node(
            id=node["NodeID"],
            name=node["NodeManagerHostname"],
            gpus=int(node["Resources"].get("GPU", 0)),
            cpus=int(node["Resources"].get("CPU", 0)),
            accelerator=node.get("Labels", {}).get(_ACCELERATOR),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _require_same_software(ray: ModuleType, nodes: Sequence[_Node]) -> None:
    """Ask every node for its versions; a `SlimEvalError` names one on which this slim-eval would not run the same."""

    def versions() -> tuple[str, str | None]:  # sent by value: slim-eval may be missing there
        try:
            from slim_eval import _version
        except ImportError:
            return platform.python_version(), None
        return platform.python_version(), _version.__version__

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(versions)
    asked = {
        remote.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
        ).remote(): node
        for node in nodes
    }
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    if silent:
        cause = f"node {asked[silent[0]].name} started no Python process within {_PROBE_S:g} s"
        raise SlimEvalError(cause, "see its Ray logs (/tmp/ray/session_latest/logs), or remove the node")
    for answer in ready:
        node = asked[answer].name
        try:
            python, found = ray.get(answer)
        except ray.exceptions.RayError as error:
            cause = f"node {node} could not be asked for its versions: {str(error).strip().splitlines()[-1][:300]}"
            raise SlimEvalError(cause, "use the same Python and the same packages on every node") from error
        if python.rsplit(".", 1)[0] != f"{sys.version_info.major}.{sys.version_info.minor}":
            cause = f"node {node} has Python {python}, this machine {platform.python_version()}"
            raise SlimEvalError(cause, "use the same Python and the same packages on every node")
        if found != __version__:
            has = "no slim-eval" if found is None else f"slim-eval {found}"
            cause = f"node {node} has {has}, this machine slim-eval {__version__}"
            raise SlimEvalError(cause, f"install it there: pip install slim-eval=={__version__}")


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[_Folder]:
    """A folder with a file by which nodes recognise it, until the block ends."""
    made = _Folder(folder.absolute(), uuid.uuid4().hex)
    file = made.path / f".slim-eval-{made.token}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(made.token, encoding="utf-8")
    except OSError as error:
        raise SlimEvalError(f"{file.parent} cannot be written: {error.strerror}", "choose another folder") from error
    try:
        yield made
    finally:
        file.unlink(missing_ok=True)
