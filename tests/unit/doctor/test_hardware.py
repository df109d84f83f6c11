"""The machine as NVML, the file system and the kernel tell of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from slim_eval.doctor import checks
from slim_eval.doctor.check_results import Status
from slim_eval.utils import environment
from tests.standins import nvml as standin
from tests.standins.nvml import UUIDS, StandInGpu
from tests.unit.doctor.conftest import EVERYTHING, Doctor, Examination

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM


@pytest.fixture
def on_gpus(doctor: Doctor, nvml: Path, furnish: Callable[..., Path]) -> Callable[..., Examination]:
    """The doctor on a machine with these GPUs, all packages, and a torch for a CUDA."""

    def call(gpus: Sequence[StandInGpu], *args: str, torch_cuda: str | None = "12.8", **env: str) -> Examination:
        python = str(furnish(EVERYTHING, torch_cuda))
        variables = {**standin.environment(nvml, gpus), "HF_HUB_OFFLINE": "1", "STANDIN_NVML_CUDA": "12090", **env}
        return doctor("--serve-python", python, "--quantize-python", python, *args, env=variables)

    return call


def planted(uuid: str = UUIDS[0], **settings: str | int) -> StandInGpu:
    return StandInGpu(uuid, settings=settings)


def test_a_gpu_with_a_counter(on_gpus: Callable[..., Examination]) -> None:
    examination = on_gpus([planted(capability="9.0")])
    gpu = examination.find("GPU", "GPU 0")
    assert gpu["text"] == "Stand-in 11111111, 77.0 GiB free of 80.0 GiB, compute capability 9.0"
    assert examination.find("GPU", "GPU 0 energy")["text"] == "NVML's energy counter"
    assert examination.find("GPU", "driver")["text"] == "999.99.99, CUDA up to 12.9"
    assert examination.find("GPU", "CUDA of torch")["text"] == "12.8, the driver supports 12.9"
    for precision in ("fp16", "int8", "int4"):
        assert examination.find("Precisions", f"{precision} on vllm")["text"] == "runs, native"
    assert "codecarbon" not in {f["name"] for f in examination.answer["findings"]}  # NVML measures
    assert (examination.problems, examination.process.returncode) == ([], 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"counter": "none"}, "NVML has no energy counter: joules are the integral of power samples"),
        ({"counter": "none", "power": "none"}, "NVML reports neither power nor energy, so energy cannot be measured"),
    ],
)
def test_a_gpu_without_a_counter(on_gpus: Callable[..., Examination], settings: dict[str, str], said: str) -> None:
    examination = on_gpus([planted(**settings), planted(UUIDS[1])])
    found = examination.find("GPU", "GPU 0 energy")
    assert (found["state"], found["text"]) == ("warning", said)
    assert examination.find("GPU", "GPU 1 energy")["state"] == "ok"
    assert examination.process.returncode == 0


def test_what_a_gpu_does_not_tell_is_not_made_up(on_gpus: Callable[..., Examination]) -> None:
    examination = on_gpus([planted(memory=0, capability="none")], STANDIN_NVML_CUDA="0")
    said = "Stand-in 11111111, memory unknown, compute capability unknown"
    assert examination.find("GPU", "GPU 0")["text"] == said
    assert examination.find("GPU", "driver")["text"] == "999.99.99, CUDA version unknown"


def test_int8_ends_with_the_capability_of_the_gpu_that_computes(on_gpus: Callable[..., Examination]) -> None:
    gpus = [planted(capability="9.0"), planted(UUIDS[1], capability="10.0")]
    obstacle = "vLLM's W8A8 kernel needs a compute capability below 10.0, this GPU has 10.0"
    assert on_gpus(gpus).find("Precisions", "int8 on vllm")["state"] == "ok"
    examination = on_gpus(gpus, CUDA_VISIBLE_DEVICES="1")
    found = examination.find("Precisions", "int8 on vllm")
    assert (found["state"], found["text"]) == ("warning", f"{obstacle}, so Transformers is used")
    assert examination.process.returncode == 0
    asked = on_gpus(gpus, "--engine", "vllm", CUDA_VISIBLE_DEVICES="1")
    assert asked.find("Precisions", "int8 on vllm")["text"] == obstacle
    assert (asked.problems, asked.process.returncode) == ([("Precisions", "int8 on vllm")], 1)
    assert on_gpus(gpus, "--engine", "vllm", "--precision", "fp16 int4", CUDA_VISIBLE_DEVICES="1").problems == []


def test_gpus_that_are_hidden_leave_the_cpu(on_gpus: Callable[..., Examination]) -> None:
    examination = on_gpus([planted()], CUDA_VISIBLE_DEVICES="")
    assert examination.find("GPU", "NVML")["text"].startswith("CUDA_VISIBLE_DEVICES hides every GPU")
    assert "found none" in examination.find("Precisions", "fp16 on vllm")["text"]
    assert examination.find("Measurement", "codecarbon")["text"] == "77.1"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CUDA_VISIBLE_DEVICES": "7"}, "'7' is unknown, ambiguous or repeated (GPUs: 1)"),
        ({"STANDIN_NVML_INIT": "18"}, "NVML cannot list the GPUs"),
    ],
)
def test_gpus_that_cannot_be_used(on_gpus: Callable[..., Examination], variables: dict[str, str], said: str) -> None:
    examination = on_gpus([planted()], **variables)
    found = examination.find("GPU", "NVML")
    assert found["state"] == "problem"
    assert said in found["text"]
    assert found["remedy"]
    assert examination.process.returncode == 1


@pytest.mark.parametrize(
    ("torch", "driver", "state"),
    [
        ("12.8", (12, 8), OK),
        ("12.8", (13, 0), OK),
        ("11.8", (12, 4), OK),
        ("12.8", (12, 4), WARNING),
        ("13.0", (12, 9), PROBLEM),
        ("13.0", None, OK),
        (None, (12, 8), WARNING),
    ],
)
def test_cuda_of_torch_against_the_drivers(torch: str | None, driver: tuple[int, int] | None, state: Status) -> None:
    found = checks.cuda_of_torch("CUDA of torch", torch, driver)
    assert found.state is state
    assert (found.remedy is None) is (state is OK)


def test_a_torch_that_is_too_new_for_the_driver_stops_a_run(on_gpus: Callable[..., Examination]) -> None:
    examination = on_gpus([planted()], torch_cuda="13.0")
    assert (examination.problems, examination.process.returncode) == ([("GPU", "CUDA of torch")], 1)


@pytest.mark.parametrize(
    ("free_gb", "state"), [(0.0, PROBLEM), (0.01, PROBLEM), (0.06, WARNING), (9.9, WARNING), (10.0, OK)]
)
def test_space(free_gb: float, state: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_gb * 2**30))
    found = checks.disk("outputs", tmp_path, 10.0, "--output-dir")
    assert found.state is state
    assert (found.remedy is None) is (state is OK)


def test_a_folder_that_cannot_be_written(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    examination = doctor("--output-dir", str(tmp_path / "file" / "below"))
    assert (examination.problems, examination.process.returncode) == ([("Machine", "outputs")], 1)
    assert not (tmp_path / "quantized-models").exists()  # looking makes nothing


def test_the_cache_is_that_of_the_hub_and_needed_for_downloads_only(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = {"HF_HUB_CACHE": str(tmp_path / "file")}
    assert doctor(env=cache).find("Machine", "hub cache")["state"] == "warning"
    online = doctor(env={**cache, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert ("Machine", "hub cache") in online.problems


@pytest.mark.parametrize(
    ("free_gb", "total_gb", "state"), [(3.9, 16.0, WARNING), (4.0, 16.0, OK), (None, 16.0, WARNING)]
)
def test_memory(free_gb: float | None, total_gb: float | None, state: Status) -> None:
    assert checks.memory(free_gb, total_gb).state is state


def cgroup(folder: Path, limit: str, used: int, files: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\ninactive_file {files}\n")
    return folder


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    mib = 2**20
    assert environment.free_ram_gb(cgroup(tmp_path, str(256 * mib), 192 * mib, 64 * mib)) == 0.12
    assert environment.free_ram_gb(cgroup(tmp_path, str(64 * mib), 192 * mib, 0)) == 0
    unlimited = environment.free_ram_gb(cgroup(tmp_path, "max", 0, 0))
    total = environment.ram_gb()
    assert unlimited is not None
    assert total is not None
    assert 0 < unlimited <= total
