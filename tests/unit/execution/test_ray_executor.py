"""The executor ``ray`` as far as it needs no cluster: what it refuses, and what it tells of a node that died."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.config import RunConfig
from slim_eval.errors import MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, plan, ray, resume
from slim_eval.results.records import SCHEMA_VERSION, PerformanceRecord
from slim_eval.results.store import write_record
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


A100 = {"Resources": {"CPU": 8.0, "GPU": 2.0}, "Labels": {"ray.io/accelerator-type": "A100"}}
PLAIN = {"Resources": {"CPU": 4.0}}
HEAD = {"Resources": {"GPU": 8.0}}  # with --num-cpus 0, as a head without work
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
        assert [node.name for node in ray._require_nodes(nodes, asked)] == found
        return
    with pytest.raises(UsageError) as refused:
        ray._require_nodes(nodes, asked)
    assert "node-1: 2 GPUs of type A100, node-2: 0 GPUs, node-3: 8 GPUs" in refused.value.cause


def test_on_a_cluster_without_gpus_a_variant_takes_the_cpus_of_a_node() -> None:
    nodes = ray._require_nodes(cluster(PLAIN, PLAIN), run_config())
    assert ray._task_options(run_config(), nodes)["num_cpus"] == 4
    assert "num_gpus" not in ray._task_options(run_config(), nodes)


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

    def remote(self, function: Any) -> Any:
        def submit(*_: Any) -> Any:
            self.submitted += 1
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


def checks(*streams: list[Any], nodes: Any = None, **machines: Any) -> tuple[StandInRay, Any]:
    """A cluster, and what its check of one variant returns or raises."""
    standin = StandInRay(*streams, nodes=nodes or cluster(A100).nodes)
    asked = run_config(**machines)
    (variant,), _ = plan.lay_out(config())
    made = ray.RayMachines(standin, asked, ray._require_nodes(cluster(A100), asked), None)  # type: ignore[arg-type]
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
