"""The executor ``ray`` as far as it needs no cluster: what it refuses, and what it tells of a node that died."""

from __future__ import annotations

import errno
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.config import RunConfig
from slim_eval.errors import MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages, plan, ray, resume
from slim_eval.execution.executor import LocalExecutor
from slim_eval.execution.variant_run import VariantRun
from slim_eval.results.records import SCHEMA_VERSION, PerformanceRecord, ServingLevel, ServingRecord
from slim_eval.results.store import read_record, read_samples, record_path, write_record
from tests.unit.execution.test_resume import config


def run_config(**machines: Any) -> RunConfig:
    return RunConfig(models=("demo",), executor="ray", machines=machines)


def cluster(*nodes: dict[str, Any]) -> Any:
    """A stand-in for the module ray that knows these nodes alone."""
    every = [
        {"NodeID": str(number), "NodeManagerHostname": f"node-{number}", "Alive": True, "Labels": {}} | node
        for number, node in enumerate(nodes, start=1)
    ]
    return SimpleNamespace(nodes=lambda: every)


def need(nodes: Any, asked: RunConfig | None = None) -> ray._Need:
    """What a variant needs of a cluster as it is."""
    return ray._Need.of(ray._nodes(nodes), asked or run_config())


A100 = {"Resources": {"CPU": 8.0, "GPU": 2.0}, "Labels": {"ray.io/accelerator-type": "A100"}}
PLAIN = {"Resources": {"CPU": 4.0}}
HEAD = {"Resources": {"GPU": 8.0}}  # with --num-cpus 0, as a head without work
HEAD_WITHOUT: dict[str, Any] = {"Resources": {}}
LARGE = {"Resources": {"CPU": 16.0}}
GONE = {"Resources": {"CPU": 8.0, "GPU": 8.0}, "Alive": False}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError) as refused, ray.RayExecutor().open(run_config(), []):
        pass
    assert refused.value.remedy == 'install it: pip install "slim-eval[ray]"'


@pytest.mark.parametrize(
    ("size", "accelerator", "found"),
    [(1, None, ["node-1"]), (2, "A100", ["node-1"]), (4, None, None), (1, "H100", None)],
)
def test_only_nodes_that_can_run_a_variant_count(size: int, accelerator: str | None, found: list[str] | None) -> None:
    asked = run_config(accelerator=accelerator).model_copy(
        update={"engine": RunConfig(models=("demo",)).engine.model_copy(update={"tensor_parallel_size": size})}
    )
    nodes = cluster(A100, PLAIN, HEAD, GONE)
    if found is not None:
        assert [node.name for node in need(nodes, asked).nodes(nodes)] == found
        return
    with pytest.raises(UsageError) as refused:
        need(nodes, asked).nodes(nodes)
    assert "node-1: 2 GPUs of type A100, node-2: 0 GPUs, node-3: 8 GPUs" in refused.value.cause


def test_on_a_cluster_without_gpus_a_variant_takes_the_cpus_of_a_node() -> None:
    options = need(cluster(PLAIN, PLAIN)).options()
    assert options["num_cpus"] == 4
    assert "num_gpus" not in options
    assert machines(StandInRay(nodes=cluster(PLAIN, PLAIN).nodes)).notes == ()


def test_a_larger_node_without_gpus_takes_several_variants_and_the_run_says_so() -> None:
    made = machines(StandInRay(nodes=cluster(PLAIN, LARGE, HEAD_WITHOUT).nodes))
    assert made.parallel == ray._LOOKAHEAD * (1 + 4)
    (note,) = made.notes
    assert "a variant holds 4 CPUs" in note
    assert "runs up to 4 at the same time" in note


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ((A100, PLAIN), "no node of the Ray cluster has 1 GPU for a variant (node-1: 0 GPUs)"),
        ((LARGE,), "no node of the Ray cluster has 16 CPUs for a variant (node-1: 4 CPUs)"),
    ],
)
def test_a_node_that_is_left_must_have_what_tasks_request(before: tuple[dict[str, Any], ...], words: str) -> None:
    """Tasks that were submitted for GPUs are never run by a head that has none."""
    with pytest.raises(UsageError) as refused:
        need(cluster(*before)).nodes(cluster(PLAIN))
    assert refused.value.cause == words
    assert ("--accelerator" in refused.value.remedy) is ("GPU" in words)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost", "not an address"),
        ("host:port", "not an address"),
        ("127.0.0.1:9", "no Ray cluster at 127.0.0.1:9"),
    ],
)
def test_an_address_without_a_cluster_is_refused_before_ray_waits_for_it(address: str, words: str) -> None:
    with pytest.raises(SlimEvalError, match=words):
        ray._join(SimpleNamespace(init=lambda **_: pytest.fail("joined")), address)  # type: ignore[arg-type]


def test_records_of_whichever_device_are_kept_if_the_device_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    local, gpus = plan.lay_out(config())
    assert gpus is not None
    (variant,) = local
    settings = variant.settings(gpus)["performance"]
    measured = fingerprints.served_by({**settings, "device": "NVIDIA A100"}, "transformers", "bfloat16")
    record = PerformanceRecord(
        schema_version=SCHEMA_VERSION, model="demo", precision="fp16", engine="transformers", dtype="bfloat16",
        measured_with=measured, fingerprint=fingerprints.fingerprint(measured), mean_latency_s=0.1,
        tokens_per_second=10.0, valid=True,
    )  # fmt: skip
    write_record(variant.directory, record, ({"x": 1},))
    with pytest.raises(UsageError, match="device: recorded with NVIDIA A100"):
        resume.survey(local, gpus, force=False)
    (found,) = resume.survey(local, None, force=False)
    assert "performance" in found.reused


class StandInRay:
    """The module ray, with the streams of its tasks, one per submission; None is a look that finds nothing."""

    exceptions = SimpleNamespace(
        NodeDiedError=type("NodeDiedError", (Exception,), {}),
        **{name: type(name, (Exception,), {}) for name in (
            "WorkerCrashedError", "OutOfMemoryError", "ObjectLostError", "LocalRayletDiedError",
        )},
    )  # fmt: skip

    def __init__(self, *streams: list[Any], nodes: Any) -> None:
        self.streams, self.nodes, self.submitted = list(streams), nodes, 0
        self.arguments: tuple[Any, ...] = ()

    def remote(self, function: Any) -> Any:
        def submit(*arguments: Any) -> Any:
            self.submitted += 1
            self.arguments = arguments
            return self.streams.pop(0)

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=submit))

    def wait(self, streams: list[list[Any]], *, timeout: float) -> tuple[list[Any], list[Any]]:
        (stream,) = streams
        if stream and stream[0] is None:
            del stream[0]
            return [], streams
        return streams, []

    def get(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer


def machines(standin: StandInRay, asked: RunConfig | None = None, opened_on: Any = None) -> ray.RayMachines:
    """The machines of a cluster, which may have had other nodes when it was joined."""
    asked, opened_on = asked or run_config(), opened_on or standin
    found = need(opened_on, asked)
    return ray.RayMachines(standin, asked, found, found.nodes(opened_on), None)  # type: ignore[arg-type]


def checks(*streams: list[Any], nodes: Any = None, **options: Any) -> tuple[StandInRay, Any]:
    """A cluster, and what its check of one variant returns or raises."""
    standin = StandInRay(*streams, nodes=nodes or cluster(A100).nodes)
    asked = run_config(**options)
    (variant,), _ = plan.lay_out(config())
    made = machines(standin, asked, cluster(A100))
    return standin, lambda: made.check(asked, [variant])


def test_the_check_of_a_run_is_done_again_if_its_node_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    died = StandInRay.exceptions.NodeDiedError()
    standin, check = checks([died], [ray._Began("b"), ({"fp16": "vllm"}, ["a note"])], max_retries=1)
    assert check().engines == {"fp16": "vllm"}
    assert standin.submitted == 2
    _, check = checks([died], [ray._Began("b"), died], max_retries=1)
    with pytest.raises(SlimEvalError, match=r"the node that checked the run died, or lost its task, 2 times"):
        check()


def test_a_run_that_waits_for_a_node_says_so_once_and_stops_if_none_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "_PATIENCE_S", -1.0)
    _, check = checks([None, None, ray._Began("a"), ({}, [])])
    check()
    assert capsys.readouterr().err == "note: waiting for a node of the Ray cluster: all GPUs may be in use\n"
    _, check = checks([None, ray._Began("a")], nodes=cluster(GONE).nodes, accelerator="A100")
    with pytest.raises(UsageError, match="no node of the Ray cluster has 1 GPU of type A100"):
        check()
    _, check = checks([None, ray._Began("a")], nodes=cluster(PLAIN).nodes)
    with pytest.raises(UsageError, match="no node of the Ray cluster has 1 GPU for a variant"):
        check()


def serving(levels: int) -> ServingRecord:
    made = tuple(ServingLevel(label=f"concurrency-{n}", load="concurrency") for n in range(1, levels + 1))
    return ServingRecord(schema_version=SCHEMA_VERSION, benchmark="serving", model="demo", precision="fp16",
                         engine="transformers", measured_with={}, levels=made)  # fmt: skip


def levels_in(folder: Path) -> tuple[int, int]:
    """The levels of the record and of the samples in a folder."""
    found = read_record(record_path(folder, "serving"))
    assert isinstance(found, ServingRecord)
    return len(found.levels), len(read_samples(folder, "serving"))


def rows(levels: int) -> list[dict[str, Any]]:
    return [{"level": f"concurrency-{n}"} for n in range(1, levels + 1)]


class Shown:
    """A watcher."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self) -> None: ...

    def go_on(self) -> None: ...

    def chatter(self, line: str) -> None: ...

    def show(self, event: messages.Event) -> None:
        self.told.append(event)

    def fail(self, stage: str, cause: str, remedy: str, names: Sequence[str]) -> None:
        self.told.append((stage, cause))


@pytest.fixture
def variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> plan.PlannedVariant:
    """One with a record of two levels, to which a third is added."""
    monkeypatch.chdir(tmp_path)
    (found,), _ = plan.lay_out(config(tasks=("performance", "serving")))
    write_record(found.directory, serving(2), rows(2))
    return found


def test_a_node_that_does_not_see_the_folder_gets_what_it_adds_to_and_sends_each_level(
    variant: plan.PlannedVariant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    standin = StandInRay([], nodes=cluster(A100).nodes)
    with pytest.raises(TypeError):  # its stream cannot be followed
        machines(standin)._attempt(ray._Seen(variant, Shown()))
    travels, _, earlier = standin.arguments
    assert set(earlier) == {"serving"}
    assert ray._to_continue(replace(variant, config=variant.config.model_copy(update={"force": True}))) == {}

    found: list[tuple[int, int]] = []

    class Run(VariantRun):
        def execute(self) -> None:
            """A worker that adds a level, and another one, and then dies with its node."""
            found.append(levels_in(self.variant.directory))
            for count in (3, 4):
                write_record(self.variant.directory, serving(count), rows(count))
                self.watcher.show(messages.Kept(stage="serving"))

    monkeypatch.setattr(ray, "VariantRun", Run)
    folder = ray._Folder(tmp_path, "not there")
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    setting = ray._Setting(tmp_path, folder, folder, {}, {})
    ray._work_here(travels, setting, earlier, LocalExecutor(), told, threading.Event())
    assert found == [(2, 2)]
    shown = Shown()
    seen = ray._Seen(variant, shown)
    log: Any = None
    counts = []
    while (each := told.get()) is not None:
        seen.take(each, log)
        counts.append(levels_in(variant.directory))
    assert counts == [(3, 3), (3, 3), (4, 4), (4, 4)]
    assert shown.told == [messages.Kept(stage="serving")] * 2
    assert seen.left == ["performance", "serving"]


def test_a_level_that_cannot_be_written_does_not_fail_its_stage_before_the_end(
    variant: plan.PlannedVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ray.results, "receive_record", full)
    shown = Shown()
    seen = ray._Seen(variant, shown)
    log: Any = None
    seen.take(ray._Files("serving", {}, is_complete=False), log)
    assert shown.told == []
    seen.take(ray._Files("serving", {}), log)
    assert [stage for stage, _ in shown.told] == ["serving"]
