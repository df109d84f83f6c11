"""`--executor ray` on a cluster of pretended nodes: variants, deaths, folders that a node does not see, refusals."""

from __future__ import annotations

import contextlib
import json
import os
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
from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, QUICK, WITH_INSTANT, Run, heed_ctrl_c, run_command
from tests.standins.nvml import StandInGpu, build, environment

pytest.importorskip("ray", reason="needs the package ray: pip install 'slim-eval[ray]'")
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
    doomed = cluster.add_node(**NODE, labels={"ray.io/accelerator-type": "H100"})
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


@pytest.mark.parametrize("stage", ["performance", "energy", "serving"])
def test_a_killed_task_is_submitted_again_and_finished_records_stand(
    stage: str, cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    folder = tmp_path / "outputs/m/m_fp16"
    stages = ("performance", "energy", "serving")
    finished: dict[str, float] = {}

    def kill_the_task() -> None:
        finished.update({path.name: path.stat().st_mtime for path in folder.glob("[!.]*.json")})
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended
                if "ray::_work" in (each.name(), *each.cmdline()[:1]):
                    each.kill()

    with begin(cluster, tmp_path, "--models", "./m", "--tasks", " ".join(stages), *LONG, *SERVING) as process:
        text = read_until(process, "started", stage, kill_the_task)
    assert process.returncode == 0, text
    before = stages[: stages.index(stage)]
    assert f"submitted again, 1 of 1 (--max-retries): {stage}" in text
    assert set(finished) == {f"{name}.json" for name in before}
    started = [event["stage"] for event in events(text) if event["event"] == "started"]
    assert [started.count(name) for name in before] == [1] * len(before)
    assert {name: (folder / name).stat().st_mtime for name in finished} == finished
    assert all((folder / f"{name}.json").exists() for name in stages)


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


def test_without_a_cluster_at_the_address(tmp_path: Path) -> None:
    done = run_command("run", "--models", "demo", "--executor", "ray", "--ray-address", "127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: no Ray cluster at 127.0.0.1:9" in done.stderr
    assert "start one with `ray start --head`" in done.stderr
