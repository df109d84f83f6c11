"""`--executor ray` on a cluster of pretended nodes: variants, deaths, folders that a node does not see, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from slim_eval._version import __version__
from slim_eval.demo import CALIBRATION_FILE, MODEL_DIR
from slim_eval.results.store import read_samples
from tests.commands import INSTANT, QUICK, WITH_INSTANT, Run, heed_ctrl_c, run_command
from tests.standins.nvml import StandInGpu, build, environment

pytest.importorskip("ray", reason="needs the package ray: pip install 'slim-eval[ray]'")
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 80 * 2**20}
FAR = str(Path(__file__).parents[1] / "standins" / "far_node.py")
PLUGINS = {"SLIM_EVAL_PLUGINS": os.pathsep.join([*WITH_INSTANT.values(), FAR])}
#: Long enough to be killed in.
LONG = ("--energy-sample-runs", "4000")
SERVING = ("--concurrency", "1", "--serving-duration", "2", "--input-len", "8", "--output-len", "8")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without work, and two nodes of one pretended GPU each."""
    folder = tmp_path_factory.mktemp("cluster")
    own = {**environment(build(folder), [StandInGpu()]), **PLUGINS, "INSTANT_DEVICE": "cuda", "HF_HUB_OFFLINE": "1"}
    before = dict(os.environ)
    os.environ.update(own)  # nodes inherit it
    started = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "num_gpus": 0})
    labels = {"ray.io/accelerator-type": "A100"}
    started.add_node(**NODE, labels=labels)
    started.add_node(**NODE, labels=labels, env_vars={"FAR_NODE": "1"})
    os.environ.pop("LD_LIBRARY_PATH")  # this machine has no GPU
    os.environ.update({name: before[name] for name in ("LD_LIBRARY_PATH",) if name in before})
    yield started
    started.shutdown()
    os.environ.clear()
    os.environ.update(before)


def arguments(cluster: Cluster, *args: str) -> list[str]:
    return ["run", "--executor", "ray", "--ray-address", cluster.address, "--log-format", "json", *INSTANT, *args]


def ray_run(cluster: Cluster, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments(cluster, *args), cwd=folder, env=PLUGINS, preloaded_imports=False)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(folder / "outputs")): json.loads(path.read_text())
        for path in sorted((folder / "outputs").rglob("*.json"))
        if not path.name.startswith((".", "paired"))
    }


#: What differs between two runs of the same: times, and what was measured.
MEASURED = frozenset(
    {"timestamp", "stage_duration_s", "duration_seconds", "host", "environment", "beside", "invalid_reasons", "valid"}
)


#: What a measured record says of how it was made.
HOW = ("model", "precision", "engine", "dtype", "fingerprint", "measured_with", "num_runs", "batch_size", "config")


def same_parts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of the same write: of an accuracy everything but times and the machine."""
    is_measured = record["benchmark"] != "accuracy"
    return {key: value for key, value in record.items() if (key in HOW if is_measured else key not in MEASURED)}


def test_six_variants_on_two_nodes_are_those_of_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    models = [f"m{number}" for number in range(6)]
    for folder in (here, there):
        for model in models:
            shutil.copytree(MODEL_DIR, folder / model)
    names = " ".join(f"./{model}" for model in models)
    done = ray_run(cluster, there, "--models", names, "--tasks", "performance")
    assert done.returncode == 0, done.stderr
    local = run_command("run", *INSTANT, "--models", "./m0 ./m5", "--tasks", "performance", cwd=here, env=PLUGINS)
    assert local.returncode == 0, local.stderr
    made, expected = records(there), records(here)
    assert len(made) == 6
    for key, record in expected.items():
        gpu = {"device": "Stand-in 11111111"}  # but for the device, which this machine has not
        assert same_parts(made[key])["measured_with"] == same_parts(record)["measured_with"] | gpu
        for part in ("fingerprint", "measured_with"):
            del made[key][part], record[part]
        assert same_parts(made[key]) == same_parts(record)
    for model in models:
        folder = there / f"outputs/{model}/{model}_fp16"
        assert {path.name for path in folder.iterdir() if path.suffix in (".json", ".gz", ".log")} >= {
            "performance.json", "performance.samples.jsonl.gz", "run.log"
        }  # fmt: skip
    assert not list(there.rglob(".slim-eval-*"))
    again = ray_run(cluster, there, "--models", names, "--tasks", "performance")
    assert again.returncode == 0, again.stderr
    assert not [event for event in events(again.stderr) if event["event"] == "started"]


def test_the_real_worker_on_a_node_answers_as_here(cluster: Cluster, tmp_path: Path, demo_run: Run) -> None:
    done = run_command(
        "run", "--executor", "ray", "--ray-address", cluster.address, "--models", "demo", "--tasks", "accuracy",
        "--engine", "transformers", *QUICK, cwd=tmp_path, env=PLUGINS, preloaded_imports=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {Path(key).name: value for key, value in records(tmp_path).items()}
    assert made
    for name, record in made.items():
        expected = json.loads((demo_run.variant("fp16") / name).read_text())
        expected["config"].pop("benchmark_options")
        record["config"].pop("benchmark_options")
        assert same_parts(record) == same_parts(expected)


def begin(cluster: Cluster, folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, **PLUGINS, "SLIM_EVAL_MAX_CONTENTION": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "slim_eval", *arguments(cluster, *args)]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)


def read_until(process: subprocess.Popen[str], event: str, stage: str, done: Callable[[], None]) -> str:
    """What a run prints, to its end; `done` is called when a stage's event comes."""
    assert process.stderr is not None
    text = ""
    for line in process.stderr:
        text += line
        if line.startswith("{") and (found := json.loads(line))["event"] == event and found.get("stage") == stage:
            done()
            done = lambda: None  # noqa: E731
    process.wait(60)
    return text


def test_a_variant_whose_node_dies_is_done_on_another_one(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    # One that does not see the output directory, so that what was recorded before has travelled back.
    labels = {"ray.io/accelerator-type": "H100"}
    doomed = cluster.add_node(**NODE, labels=labels, env_vars={"FAR_NODE": "1"})
    args = ("--models", "./m", "--tasks", "performance energy", *LONG)
    # The only node of its type: nothing is left to submit it to.
    with begin(cluster, tmp_path, *args, "--accelerator", "H100") as process:
        text = read_until(process, "started", "energy", lambda: cluster.remove_node(doomed, allow_graceful=False))
    assert process.returncode == 1, text
    assert "died, or lost its task" in text
    assert "no node of the Ray cluster has 1 GPU of type H100" in text
    folder = tmp_path / "outputs/m/m_fp16"
    first = json.loads((folder / "performance.json").read_text())
    assert (folder / "energy.error.json").exists()
    again = ray_run(cluster, tmp_path, *args)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "performance.json").read_text()) == first
    assert (folder / "energy.json").exists()
    assert not (folder / "energy.error.json").exists()
    assert not [event for event in events(again.stderr) if event.get("stage") == "performance"]


def test_levels_of_a_node_that_died_stay_and_a_far_node_adds_to_them(cluster: Cluster, tmp_path: Path) -> None:
    """The node does not see the output directory: what is measured of a stage travels in both directions."""
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    server = json.dumps({"prefill_s": 0.01, "itl_s": 0.005})
    own = {"labels": {"ray.io/accelerator-type": "T4"}, "env_vars": {"FAR_NODE": "1", "INSTANT_SERVER": server}}
    doomed = cluster.add_node(**NODE, **own)
    args = ("--models", "./m", "--tasks", "serving", "--serving-duration", "2", "--input-len", "8", "--output-len", "8",
            "--energy-source", "none", "--accelerator", "T4")  # fmt: skip
    file = tmp_path / "outputs/m/m_fp16/serving.json"
    with begin(cluster, tmp_path, *args, "--concurrency", "1 2 4 8 16 32 64") as process:
        end = time.monotonic() + 120
        while not file.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        cluster.remove_node(doomed, allow_graceful=False)
        text = process.communicate(timeout=120)[1]
    assert process.returncode == 1, text
    kept = json.loads(file.read_text())["levels"]
    assert 1 <= len(kept) < 7
    node = cluster.add_node(**NODE, **own)
    try:
        again = ray_run(cluster, tmp_path, *args, "--concurrency", "3")
    finally:
        cluster.remove_node(node)
    assert again.returncode == 0, again.stderr
    levels = json.loads(file.read_text())["levels"]
    assert "concurrency-3" in {level["label"] for level in levels}
    assert [level for level in levels if level["label"] != "concurrency-3"] == kept
    assert {row["level"] for row in read_samples(file.parent, "serving")} >= {level["label"] for level in levels}


def nodes_by_process(cluster: Cluster) -> dict[int, Any]:
    """Process of Ray on each node -> the node."""
    return {node.all_processes["raylet"][0].process.pid: node for node in cluster.list_all_nodes()}


def test_a_killed_task_is_submitted_again_and_finished_records_stand(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    folder = tmp_path / "outputs/m/m_fp16"
    finished: dict[str, float] = {}

    def kill_the_task() -> None:
        finished.update({path.name: path.stat().st_mtime for path in folder.glob("[!.]*.json")})
        for node in map(psutil.Process, nodes_by_process(cluster)):
            for each in node.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended
                    if "ray::_work" in (each.name(), *each.cmdline()[:1]):
                        each.kill()

    args = ("--models", "./m", "--tasks", "performance energy", *LONG)
    with begin(cluster, tmp_path, *args) as process:
        text = read_until(process, "started", "energy", kill_the_task)
    assert process.returncode == 0, text
    assert "submitted again, 1 of 1 (--max-retries): energy" in text
    assert set(finished) == {"performance.json"}
    assert [event["stage"] for event in events(text) if event["event"] == "started"].count("performance") == 1
    assert {name: (folder / name).stat().st_mtime for name in finished} == finished
    assert (folder / "energy.json").exists()


#: Stage -> the event in whose middle it is: of the first, something is done when it first advances.
IN_THE_MIDDLE = {
    "quantize": "advanced", "performance": "started", "energy": "started", "demo_gsm8k": "advanced",
    "serving": "started",
}  # fmt: skip


def node_of(cluster: Cluster, folder: Path, variant: str) -> Any:
    """The node on which the worker of a variant works: the one whose claim of a turn names it."""
    nodes, end = nodes_by_process(cluster), time.monotonic() + 20
    while time.monotonic() < end:
        for worker in map(psutil.Process, workers_in(folder)):
            for path in (Path(file.path) for file in worker.open_files() if file.path.endswith(".lock")):
                with contextlib.suppress(OSError, ValueError):  # another file, or half written
                    if json.loads(path.with_suffix(".json").read_text())["what"].startswith(variant):
                        return next(nodes[parent.pid] for parent in worker.parents() if parent.pid in nodes)
        time.sleep(0.05)
    raise LookupError(variant)


def deterministic(folder: Path) -> str:
    """What every run of the same model writes, as JSON."""
    parts = {path.name: same_parts(json.loads(path.read_text())) for path in sorted(folder.glob("[!.]*.json"))}
    text = json.dumps([parts, read_samples(folder, "demo_gsm8k")], indent=1, sort_keys=True)
    return text.replace(folder.parent.name, "MODEL")


def test_a_node_killed_in_each_stage_in_turn(cluster: Cluster, tmp_path: Path) -> None:
    """What another node does meanwhile is the undisturbed result."""
    folder = tmp_path.resolve()
    for name in ("doomed", "spared"):
        shutil.copytree(MODEL_DIR, folder / name)
    node = {**NODE, "labels": {"ray.io/accelerator-type": "V100"}, "env_vars": {"INSTANT_ANSWER_S": "0.05"}}
    own = [cluster.add_node(**node) for _ in range(2)]
    args = (
        "--models", "./doomed ./spared", "--precision", "int8", "--tasks", "performance energy serving accuracy",
        "--accuracy-tasks", "demo_gsm8k", "--num-fewshot", "1", "--accuracy-limit", "40", "--accelerator", "V100",
        "--share-node", "--max-retries", str(len(IN_THE_MIDDLE)), "--calibration-dataset", str(CALIBRATION_FILE),
        "--verbose", "--num-runs", "1500", *LONG, *SERVING,  # long enough for the kill to land in performance
    )  # fmt: skip
    outputs = folder / "outputs/doomed/doomed_int8"
    kept: dict[str, int] = {}
    heard: list[dict[str, Any]] = []
    stages = list(IN_THE_MIDDLE)
    try:
        with begin(cluster, folder, *args) as process:
            assert process.stderr is not None
            for line in process.stderr:
                heard += (new := events(line))
                for event in new:
                    at = (event.get("cell"), event.get("stage"), event["event"])
                    if not stages or at != ("./doomed int8", stages[0], IN_THE_MIDDLE[stages[0]]):
                        continue
                    if "turn" not in event.get("unit", ""):  # other runs of this user may be measuring
                        kept = {path.name: path.stat().st_mtime_ns for path in outputs.glob("[!.]*.json")} | kept
                        dies = node_of(cluster, folder, "./doomed")
                        assert dies in own, stages[0]
                        cluster.remove_node(dies, allow_graceful=False)
                        own[own.index(dies)] = cluster.add_node(**node)
                        del stages[0]
        status = process.wait(60)
    finally:
        for each in own:
            cluster.remove_node(each)
    said = "\n".join(str(event) for event in heard)
    assert status == 0, said[-3000:]
    assert not stages
    notes = [event["text"] for event in heard if event["event"] == "note" and "submitted again" in event["text"]]
    order = list(IN_THE_MIDDLE)
    for number, note in enumerate(notes):
        head, _, left = note.rpartition(": ")
        assert head.endswith(f"submitted again, {number + 1} of {len(order)} (--max-retries)")
        assert set(left.split(", ")) == set(order[max(1, number) :])
    assert len(notes) == len(order)
    started = [(event["cell"], event["stage"]) for event in heard if event["event"] == "started"]
    for stage in IN_THE_MIDDLE:
        assert started.count(("./doomed int8", stage)) == 2, stage  # in which it died, and again
        assert started.count(("./spared int8", stage)) == 1, stage
    assert not [event for event in heard if event["event"] == "failed" and event["cell"] != "./doomed int8"]
    assert set(kept) == {"performance.json", "energy.json", "demo_gsm8k.json"}
    assert {name: (outputs / name).stat().st_mtime_ns for name in kept} == kept
    assert deterministic(outputs) == deterministic(folder / "outputs/spared/spared_int8")
    digests = [json.loads((folder / f"quantized-models/{name}_int8/quantization.json").read_text())["weight_sha256"]
               for name in ("doomed", "spared")]  # fmt: skip
    assert digests[0] == digests[1]


def workers_in(folder: Path) -> list[int]:
    """The workers of slim-eval that work in a folder."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "slim_eval.execution.worker" in each.cmdline() and each.cwd() == str(folder):
                found.append(each.pid)
    return found


def require_no_workers_in(folder: Path) -> None:
    end = time.monotonic() + 60
    while workers_in(folder) and time.monotonic() < end:
        time.sleep(0.2)
    assert not workers_in(folder)


def test_an_interrupt_ends_the_workers_on_the_nodes_and_prints_how_to_go_on(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    with begin(cluster, tmp_path, "--models", "./m", "--tasks", "performance energy", *LONG) as process:
        text = read_until(process, "started", "energy", lambda: process.send_signal(signal.SIGINT))
    assert process.returncode == 130, text
    assert "interrupted" in text
    assert "slim-eval run --executor ray" in text
    assert "Traceback" not in text
    assert (tmp_path / "outputs/m/m_fp16/performance.json").exists()
    require_no_workers_in(tmp_path)


def test_after_a_killed_driver_the_same_command_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    args = ("--models", "./m", "--tasks", "performance energy", *LONG)
    with begin(cluster, tmp_path, *args) as process:
        read_until(process, "started", "energy", process.kill)
    assert process.returncode == -signal.SIGKILL
    require_no_workers_in(tmp_path)
    again = ray_run(cluster, tmp_path, *args)
    assert again.returncode == 0, again.stderr
    assert not [event for event in events(again.stderr) if event.get("stage") == "performance"]
    assert (tmp_path / "outputs/m/m_fp16/energy.json").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--tensor-parallel-size", "4"), "no node of the Ray cluster has 4 GPUs for a variant"),
        (("--accelerator", "B200"), "no node of the Ray cluster has 1 GPU of type B200"),
    ],
)
def test_what_no_node_can_ever_do_is_refused_at_once(
    args: tuple[str, ...], words: str, cluster: Cluster, tmp_path: Path
) -> None:
    done = ray_run(cluster, tmp_path, "--models", "demo", "--tasks", "performance", *args)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "1 GPUs of type A100" in done.stderr
    assert not list((tmp_path / "outputs").rglob("*.json"))


def test_another_version_on_a_node_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other" / "slim_eval"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    (other / "_version.py").write_text('__version__ = "0.0.1"\n')
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": str(other.parent)})
    try:
        done = ray_run(cluster, tmp_path, "--models", "demo", "--tasks", "performance")
    finally:
        cluster.remove_node(node)
    assert done.returncode == 1, done.stderr
    assert f"has slim-eval 0.0.1, this machine slim-eval {__version__}" in done.stderr
    assert f"fix: install it there: pip install slim-eval=={__version__}" in done.stderr


@pytest.mark.parametrize(
    ("key", "name", "own"),
    [("ray_version", "Ray", ray.__version__), ("python_version", "Python", platform.python_version())],
)
def test_a_cluster_of_another_ray_or_python_is_refused(
    key: str, name: str, own: str, cluster: Cluster, tmp_path: Path
) -> None:
    """A head tells its versions through the cluster's store; a real one of Ray 2.59 gave the same line."""
    store = GcsClient(address=cluster.address)
    at = {"namespace": KV_NAMESPACE_CLUSTER}
    kept = store.internal_kv_get(CLUSTER_METADATA_KEY, **at)
    store.internal_kv_put(CLUSTER_METADATA_KEY, json.dumps({**json.loads(kept), key: "2.1.0"}).encode(), True, **at)
    try:
        done = ray_run(cluster, tmp_path, "--models", "demo", "--tasks", "performance")
    finally:
        store.internal_kv_put(CLUSTER_METADATA_KEY, kept, True, **at)
    assert done.returncode == 1, done.stderr
    found = re.search(rf"the Ray cluster at {cluster.address} has (.*), this machine (.*)", done.stderr)
    assert found is not None, done.stderr
    assert f"{name} 2.1.0" in found[1]
    assert f"{name} {own}" in found[2]
    assert "the same packages on every node" in done.stderr
    assert not list((tmp_path / "outputs").rglob("*.json"))


def test_without_a_cluster_at_the_address(tmp_path: Path) -> None:
    done = run_command("run", "--models", "demo", "--executor", "ray", "--ray-address", "127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: no Ray cluster at 127.0.0.1:9" in done.stderr
    assert "start one with `ray start --head`" in done.stderr
