"""The vLLM engine where memory does not suffice: the real engine class over a stand-in for `vllm.LLM`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import LoadRequest, Platform, memory
from slim_eval.engines.vllm import VLLM, distribution_named_vllm
from slim_eval.errors import EngineError
from tests.standins.tiny_models import make_checkpoint

pytestmark = pytest.mark.large  # they import vLLM

BUSY = (
    "Free memory on device cuda:0 (40.0/80.0 GiB) on startup is less than desired GPU memory utilization (0.8, 64.0 "
    "GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
OUT = "CUDA out of memory. Tried to allocate 2.00 GiB."


class StandInLLM:
    """Starts with at most `fits` of the GPU; fails to generate as often as `failures` says."""

    fits = 1.0
    failures = 0
    message = BUSY
    started: ClassVar[list[float]] = []

    def __init__(self, *, gpu_memory_utilization: float, **_: Any) -> None:
        self.started.append(gpu_memory_utilization)
        if gpu_memory_utilization > self.fits:
            raise ValueError(self.message)
        self.closed = False
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(model_config=SimpleNamespace(dtype="torch.bfloat16", max_model_len=64)),
            engine_core=SimpleNamespace(shutdown=lambda: setattr(self, "closed", True)),
        )

    def collective_rpc(self, method: str) -> list[list[str]]:
        """Its one worker has no quantized layer."""
        assert method == "slim_eval_kernels"
        return [[]]

    def generate(self, *_: Any, **__: Any) -> list[Any]:
        if StandInLLM.failures:
            StandInLLM.failures -= 1
            raise RuntimeError(OUT)
        return []


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadRequest:
    """A load onto a GPU that is there by name only: NVML is not asked."""
    library = pytest.importorskip("vllm")
    monkeypatch.setattr(VLLM, "platform", lambda: Platform("cuda", (9, 0)))
    monkeypatch.setattr(memory, "require_on_gpus", lambda weights, count: None)
    monkeypatch.setattr(memory, "situation", lambda weights, count, on_cpu: "GPU 0 has 40.0 of 80.0 GiB free")
    monkeypatch.setattr(library, "LLM", StandInLLM)
    monkeypatch.setattr(StandInLLM, "started", [])
    monkeypatch.setattr(StandInLLM, "fits", 1.0)
    monkeypatch.setattr(StandInLLM, "failures", 0)
    monkeypatch.setattr(StandInLLM, "message", BUSY)
    return LoadRequest(make_checkpoint(tmp_path), EngineConfig(gpu_memory_utilization=0.8), 64)


def test_a_share_that_is_not_free_is_lowered_to_what_is(request_: LoadRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandInLLM, "fits", 0.5)
    engine = VLLM.load(request_)
    assert StandInLLM.started == [0.8, 0.49]
    assert len(engine.notes) == 1
    assert engine.notes[0].startswith("--gpu-memory-utilization 0.8 did not fit")
    assert engine.notes[0].endswith(": retried with 0.49")
    assert request_.config.gpu_memory_utilization == 0.8, "what was asked for stays what it was"


def test_where_nothing_fits_the_error_has_every_number(request_: LoadRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandInLLM, "fits", 0.0)
    monkeypatch.setattr(StandInLLM, "message", OUT)
    with pytest.raises(EngineError, match=r"tried --gpu-memory-utilization 0\.8, 0\.6, 0\.4, 0\.3; GPU 0") as failed:
        VLLM.load(request_)
    assert StandInLLM.started == [0.8, 0.6, 0.4, 0.3]
    assert "--max-model-len" in failed.value.remedy


def test_an_engine_that_ran_out_is_started_again_for_the_next_try(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    with distribution_named_vllm(vllm.__version__):
        from lm_eval.models import vllm_causallms

    monkeypatch.setattr(vllm_causallms, "VLLM", lambda **options: SimpleNamespace(model=vllm_causallms.LLM(**options)))
    monkeypatch.setattr(StandInLLM, "fits", 0.5)
    engine = VLLM.load(request_)
    first = engine.lm_eval_model(4)
    assert engine.lm_eval_model(4).model.generate([]) == []
    monkeypatch.setattr(StandInLLM, "failures", 1)
    with pytest.raises(EngineError, match=r"vLLM stopped: CUDA out of memory"):
        first.model.generate([])
    assert StandInLLM.started == [0.8, 0.49]
    with subprocess.Popen(["sleep", "600"]) as other:  # of the program that loaded the engine
        second = engine.lm_eval_model(2)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
        assert engine._processes == []
        other.kill()
    assert StandInLLM.started == [0.8, 0.49, 0.49], "with the share that fitted, and once"
    assert first.model.closed
    assert not second.model.closed
    assert second.model.generate([]) == []
    engine.lm_eval_model(2)
    assert len(StandInLLM.started) == 3
