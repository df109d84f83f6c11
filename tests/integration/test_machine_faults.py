"""A full disk, exhausted memory, a lost GPU: reported and survived; rerunning the command finishes the work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command
from tests.standins.nvml import StandInGpu, build, environment
from tests.standins.tasks import write_task

RUN = ("run", "--models", "demo", *INSTANT)
call = partial(run_command, env=WITH_INSTANT)
DISK_BYTES = 20 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here: that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """Fill a disk except for `left` bytes."""
    filler = disk / "filler"
    filler.write_bytes(b"\1" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left))
    yield
    filler.unlink()


def test_a_disk_without_room_for_the_checkpoint_is_refused_before_anything_runs(disk: Path, tmp_path: Path) -> None:
    with filled(disk, 2**19):
        process = call(
            *RUN, "--tasks", "performance", "--precision", "int8", "--quantized-models-dir", str(disk), cwd=tmp_path
        )
    assert process.returncode == 2
    assert "--quantized-models-dir" in process.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_disk_without_room_for_what_is_made_of_pickled_weights_is_refused(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")
    with filled(disk, 2**19):
        process = call(
            "run", "--models", "./old", "--allow-pickle", *INSTANT, "--tasks", "performance", "--quantized-models-dir",
            str(disk), cwd=tmp_path,
        )  # fmt: skip
    assert process.returncode == 2
    assert "--quantized-models-dir" in process.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_disk_that_fills_up_during_quantization(disk: Path, tmp_path: Path) -> None:
    command = (
        *RUN,
        "--tasks",
        "performance",
        "--precision",
        "fp16 int8",
        "--quantized-models-dir",
        str(disk / "cache"),
    )
    with filled(disk, 3 * 2**19):
        process = call(*command, cwd=tmp_path)
        assert process.returncode == 1
        assert "Traceback" not in process.stderr
        assert "No space left" in process.stderr
        assert not [path for path in (disk / "cache").iterdir() if path.is_dir()]
    variants = tmp_path / "outputs" / "demo"
    fp16 = (variants / "demo_fp16" / "performance.json").read_bytes()
    assert json.loads((variants / "demo_int8" / "performance.error.json").read_text())["stage"] == "quantize"
    again = call(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (variants / "demo_fp16" / "performance.json").read_bytes() == fp16
    assert (variants / "demo_int8" / "performance.json").exists()


def test_a_disk_that_fills_up_with_results(disk: Path, tmp_path: Path) -> None:
    command = (*RUN, "--tasks", "performance accuracy", "--accuracy-tasks", "demo_gsm8k", "--num-fewshot", "0",
               "--accuracy-limit", "8", "--output-dir", str(disk / "outputs"))  # fmt: skip
    with filled(disk, 3 * 2**12):
        process = call(*command, cwd=tmp_path)
        assert process.returncode == 1
        assert "Traceback" not in process.stderr
        assert "No space left" in process.stderr
        assert "demo_gsm8k FAILED" in process.stderr
    again = call(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    variant = disk / "outputs" / "demo" / "demo_fp16"
    assert {path.name for path in variant.glob("*.json") if not path.name.startswith(".")} == {
        "performance.json", "demo_gsm8k.json",
    }  # fmt: skip
    assert not list(variant.glob(".*.tmp"))


# Allocates until it is stopped: by a limit on its address space, or by the kernel.
GREEDY = """
import resource

def take(doc):
    limited = {limited}
    if limited and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    held = []
    while True:
        held.append(bytearray(2**25))
"""


@pytest.fixture
def greedy(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A run of two tasks, the first of which allocates without end."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = tasks / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"is {n} even?", "answer": n % 2}) + "\n" for n in range(8)))
    write_task(tasks, "greedy_task", rows, target="!function greedy.take")
    write_task(tasks, "sound_task", rows)
    (tasks / "greedy.py").write_text(GREEDY.format(limited=request.param))
    return (*RUN, "--tasks", "accuracy", "--include-path", str(tasks), "--num-fewshot", "0", "--accuracy-tasks",
            "greedy_task sound_task")  # fmt: skip


def assert_only_the_greedy_task_failed(process: subprocess.CompletedProcess[str], folder: Path, cause: str) -> None:
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    variant = folder / "outputs" / "demo" / "demo_fp16"
    error = json.loads((variant / "greedy_task.error.json").read_text())
    assert cause in error["cause"]
    assert (variant / "sound_task.json").exists()
    assert not (variant / "greedy_task.json").exists()


@pytest.mark.parametrize("greedy", [True], indirect=True)
def test_a_worker_that_allocates_beyond_its_limit(greedy: tuple[str, ...], tmp_path: Path) -> None:
    process = call(*greedy, cwd=tmp_path)
    assert_only_the_greedy_task_failed(process, tmp_path, "out of memory")


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """``cgroup.procs`` of a control group of 3 GiB: a process joins by writing its id to it."""
    memory = Path("/sys/fs/cgroup/memory")
    group = memory / f"slim-eval-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(3 * 2**30))
    except OSError:
        pytest.skip("no control group of memory can be made here")
    yield group / "cgroup.procs"
    group.rmdir()


@pytest.mark.parametrize("greedy", [False], indirect=True)
def test_a_worker_that_the_kernel_kills_for_want_of_memory(
    greedy: tuple[str, ...], small_memory: Path, tmp_path: Path
) -> None:
    join = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(small_memory))
    process = call(*greedy, cwd=tmp_path, through=join)
    assert_only_the_greedy_task_failed(process, tmp_path, "killed by the kernel: out of memory")


def test_an_nvml_that_vanishes_while_energy_is_measured(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    gpu = StandInGpu(a=120.0, settings={"lost_file": str(lost)})
    # The engine says that it is on a GPU, so that the energy of the stand-in is measured.
    on_a_gpu = {**WITH_INSTANT, "INSTANT_DEVICE": "cuda", "HF_HUB_OFFLINE": "1"}
    variables = {**environment(build(tmp_path), [gpu]), **on_a_gpu}
    command = (*RUN, "--tasks", "performance energy", "--energy-sample-runs", "100", "--energy-source", "nvml")
    words = [sys.executable, "-m", "slim_eval", *command, "-v", "--log-format", "json"]
    with subprocess.Popen(words, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while (heard := json.loads(process.stderr.readline())) != heard | {"event": "advanced", "stage": "energy"}:
            assert heard["event"] != "failed", heard
        lost.touch()
        said = process.stderr.read()
    assert "Traceback" not in said
    variant = tmp_path / "outputs" / "demo" / "demo_fp16"
    performance = (variant / "performance.json").read_bytes()
    energy = json.loads((variant / "energy.json").read_text())
    assert (energy["valid"], energy["joules_per_output_token"]) == (False, None)
    assert "NVML failed while energy was measured: GPU is lost" in str(energy["invalid_reasons"])

    lost.unlink()
    again = run_command(*command, cwd=tmp_path, env=variables)
    assert again.returncode == 0, again.stderr
    energy = json.loads((variant / "energy.json").read_text())
    assert energy["energy_source"] == "nvml-counter"
    assert "GPU is lost" not in str(energy["invalid_reasons"])
    assert (variant / "performance.json").read_bytes() == performance
