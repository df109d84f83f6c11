"""`--gpus`: several variants at the same time, each with its own GPUs: pretended ones behind the real NVML binding."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command
from tests.standins.nvml import UUIDS, StandInGpu, build, environment

MODELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with two GPUs, with folders of its own for what runs of it share."""
    for model in MODELS:
        shutil.copytree(MODEL_DIR, tmp_path / model)
    gpus = [StandInGpu(uuid) for uuid in UUIDS]
    (tmp_path / "tmp").mkdir()
    return {**environment(library, gpus), **WITH_INSTANT, "INSTANT_DEVICE": "cuda", "TMPDIR": str(tmp_path / "tmp")}


def run(
    folder: Path, env: dict[str, str], *args: str, models: Sequence[str] = MODELS, form: str = "json"
) -> subprocess.CompletedProcess[str]:
    names = " ".join(f"./{model}" for model in models)
    return run_command(
        "run", "--models", names, "--tasks", "performance", "--log-format", form, *INSTANT, *args, cwd=folder, env=env
    )


def record(folder: Path, model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"outputs/{model}/{model}_fp16/performance.json").read_text())
    return found


def test_two_at_a_time_each_with_its_gpu_and_speed_alone(machine: dict[str, str], tmp_path: Path) -> None:
    done = run(tmp_path, machine, "--gpus", "all")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    begun = [place for place, event in enumerate(events) if event["event"] == "cell"]
    ended = [place for place, event in enumerate(events) if event["event"] == "progress" and event["done"] == 1]
    assert len([place for place in begun if place < ended[0]]) == 2
    assert events[-2] | {"time": ""} == {
        "time": "", "event": "progress", "done": 3, "running": 0, "total": 3, "failed": 0
    }  # fmt: skip
    records = [record(tmp_path, model) for model in MODELS]
    used = [gpu["uuid"] for each in records for gpu in each["environment"]["gpus"]]
    assert len(used) == 3
    assert set(used) == set(UUIDS)
    assert [each["beside"] for each in records] == [[], [], []]
    again = run(tmp_path, machine, "--gpus", "0,1")
    assert again.returncode == 0, again.stderr
    assert "engine" not in {json.loads(line).get("stage") for line in again.stderr.splitlines() if line[:1] == "{"}


def test_on_a_shared_node_the_record_says_what_ran_beside_it(machine: dict[str, str], tmp_path: Path) -> None:
    long = ("--gpus", "all", "--share-node", "--num-runs", "200", "--max-new-tokens", "256")  # 1.3 s and more
    done = run(tmp_path, machine, *long, models=("a", "b"), form="text")
    assert done.returncode == 0, done.stderr
    beside = [record(tmp_path, model)["beside"] for model in ("a", "b")]
    assert {"./a fp16: performance"} & set(beside[1]) or {"./b fp16: performance"} & set(beside[0])
    refused = run(tmp_path, machine, *[word for word in long if word != "--share-node"], models=("a", "b"))
    assert refused.returncode == 2
    assert "share_node: recorded with true, requested nothing" in refused.stderr
    analysis = run_command("analyze", "--no-plots", cwd=tmp_path)
    assert analysis.returncode == 0, analysis.stderr
    report = (tmp_path / "analysis_results" / "report.html").read_text()
    assert "was measured beside other work on the same machine (--share-node)" in report


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--gpus", "0,7"), "--gpus 0,7: the number of GPUs is 2"),
        (("--gpus", "0", "--tensor-parallel-size", "2"), "a variant takes 2 GPUs (--tensor-parallel-size), but there"),
        (("--gpus", "0", "--gpu-index", "1"), "--gpus and --gpu-index cannot be combined"),
        (("--gpus", "first"), "first: neither `all` nor indices of GPUs"),
        (("--accelerator", "A100"), "--ray-address and --accelerator need --executor ray"),
        (("--executor", "ray", "--gpus", "all"), "--gpus: --executor ray chooses the GPUs"),
    ],
)
def test_what_cannot_be_is_refused(args: Sequence[str], words: str, machine: dict[str, str], tmp_path: Path) -> None:
    done = run(tmp_path, machine, *args)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_machine_without_gpus_has_none_to_share(tmp_path: Path) -> None:
    done = run_command("run", "--models", "demo", "--gpus", "all", cwd=tmp_path)
    assert done.returncode == 2
    assert "--gpus all: the number of GPUs is 0" in done.stderr
    assert "omit it to use the CPU" in done.stderr
