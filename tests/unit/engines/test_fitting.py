"""What counts as out of memory, and which sizes are tried after it."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest

from slim_eval.engines import memory
from slim_eval.engines.vllm import Guarded, run_error, start_error
from slim_eval.errors import EngineError

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 512.00 MiB is "
    "free. Process 42 has 70.00 GiB memory in use."
)
CPU = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes."
BUSY = (
    "Free memory on device cuda:0 ({}/80.0 GiB) on startup is less than desired GPU memory utilization (0.9, 72.0 GiB)."
)
NO_CACHE = "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
DEAD = RuntimeError("Engine core initialization failed. See root cause above.")


def vllm_says(message: str) -> EngineError:
    """A failed start as the vLLM engine raises it: the cause stands in its process' log only."""
    return start_error(DEAD, f"(EngineCore pid=7) torch.OutOfMemoryError: {message}\n")


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "runs_out"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("no word of it"), True),
        (RuntimeError(CUDA), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError(CPU.format(2**37)), True),
        (OSError(12, "Cannot allocate memory"), True),
        (vllm_says(CUDA), True),
        (run_error(RuntimeError("EngineCore encountered an issue."), f"torch.OutOfMemoryError: {CUDA}\n"), True),
        (EngineError(NO_CACHE), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("the word memory alone says nothing"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_out_of_memory_is_known_in_all_its_forms(error: BaseException, runs_out: bool) -> None:
    assert memory.is_out_of_memory(error) is runs_out


def test_torchs_own_errors_are_known() -> None:
    torch = pytest.importorskip("torch")
    assert memory.is_out_of_memory(torch.OutOfMemoryError("x"))
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(failed.value)
    assert memory.shortage(failed.value) == f"{2**30:.2f} GiB more were needed"


def test_the_error_behind_an_error_counts() -> None:
    wrapped = EngineError("it stopped")
    wrapped.__cause__ = RuntimeError(CUDA)
    assert memory.is_out_of_memory(wrapped)
    assert memory.shortage(wrapped) == "2.00 GiB more were needed, 0.50 GiB were free"
    assert memory.shortage(MemoryError()) is None


def test_nothing_heavy_is_imported() -> None:
    script = "import sys, slim_eval.engines.memory; sys.exit(any(m in sys.modules for m in ('torch', 'vllm')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("size", "tried"), [(1, [1]), (2, [2, 1]), (32, [32, 16, 8, 4, 2, 1]), (12, [12, 6, 3, 1]), (7, [7, 3, 1])]
)
def test_batches_are_halved_down_to_one(size: int, tried: list[int]) -> None:
    steps = list(memory.halvings(size))
    assert [step for step, _ in steps] == tried
    assert [smaller for _, smaller in steps] == [*tried[1:], None]


@pytest.mark.parametrize(
    ("share", "cause", "following"),
    [
        (0.9, CUDA, 0.7),
        (0.8, CUDA, 0.6),
        (0.4, CUDA, 0.3),
        (0.3, CUDA, None),
        (0.2, CUDA, None),
        (0.9, BUSY.format("48.0"), 0.59),  # 0.6 is free, a hundredth stays
        (0.9, BUSY.format("24.0"), None),  # less than the least
        (0.9, BUSY.format("79.0"), None),  # what is free does not explain it: no smaller share
        (0.9, "is less than desired CPU memory utilization", 0.7),
        (0.9, NO_CACHE, None),
        (0.9, "1.75 GiB KV cache is needed, which is larger than the available KV cache memory (0.5 GiB)", None),
        (0.9, "Failed to find a kernel", None),
    ],
)
def test_a_smaller_share_is_tried_only_where_it_helps(share: float, cause: str, following: float | None) -> None:
    assert memory.next_share(share, cause) == following


class Starter:
    """Starts an engine after some failures, and keeps what was asked of it."""

    def __init__(self, *failures: EngineError) -> None:
        self.failures = list(failures)
        self.calls: list[float | str] = []

    def start(self, share: float) -> str:
        self.calls.append(share)
        if self.failures:
            raise self.failures.pop(0)
        return "engine"

    def fit(self, share: float = 0.9, **options: float) -> memory.Fitted[str]:
        return memory.start_with_less(
            self.start, share, lambda: self.calls.append("cleared"), lambda: "GPU 0 has 3.0 of 80.0 GiB free", **options
        )


def test_an_engine_that_fits_is_started_once() -> None:
    starter = Starter()
    fitted = starter.fit()
    assert (fitted.engine, fitted.share, fitted.notes) == ("engine", 0.9, ())
    assert fitted.seconds >= 0
    assert starter.calls == [0.9]


def test_each_step_is_noted_and_what_failed_is_cleared_first() -> None:
    starter = Starter(vllm_says(BUSY.format("56.0")), vllm_says(CUDA))
    fitted = starter.fit()
    assert starter.calls == [0.9, "cleared", 0.69, "cleared", 0.49]
    assert fitted.share == 0.49
    first, second = fitted.notes
    assert first.startswith(
        "--gpu-memory-utilization 0.9 did not fit (vLLM did not start: Free memory on device cuda:0"
    )
    assert first.endswith("): 0.69")
    assert second.startswith("--gpu-memory-utilization 0.69 did not fit (vLLM did not start: CUDA out of memory. Tried")
    assert second.endswith("): 0.49")


def test_where_nothing_fits_the_error_says_what_was_tried_and_what_to_lower() -> None:
    starter = Starter(*(vllm_says(CUDA) for _ in range(9)))
    with pytest.raises(EngineError) as failed:
        starter.fit(0.8)
    assert starter.calls == [0.8, "cleared", 0.6, "cleared", 0.4, "cleared", 0.3]
    assert "Tried to allocate 2.00 GiB" in failed.value.cause
    assert "; tried --gpu-memory-utilization 0.8, 0.6, 0.4, 0.3; GPU 0 has 3.0 of 80.0 GiB free" in failed.value.cause
    for option in ("--max-model-len", "--batch-size", "int8"):
        assert option in failed.value.remedy


def test_a_cache_that_finds_no_room_after_a_step_ends_the_search() -> None:
    starter = Starter(vllm_says(CUDA), EngineError(NO_CACHE))
    with pytest.raises(EngineError, match=r"cache blocks.*; tried --gpu-memory-utilization 0\.9, 0\.7; GPU 0"):
        starter.fit()
    assert starter.calls == [0.9, "cleared", 0.7]


def test_a_share_that_has_no_part_in_it_is_not_lowered() -> None:
    starter = Starter(vllm_says(CUDA))
    with pytest.raises(EngineError, match=r"GPU 0 has 3\.0 of 80\.0 GiB free"):
        starter.fit(0.9, least=0.9)
    assert starter.calls == [0.9]


def test_another_failure_passes_as_it_is() -> None:
    failure = EngineError("Failed to find a kernel", "use --engine transformers")
    with pytest.raises(EngineError) as failed:
        Starter(failure).fit()
    assert failed.value is failure


def test_what_a_failed_start_allocated_is_gone_before_the_next() -> None:
    class Weights:
        """Stands for tensors: alive as long as something refers to them."""

    alive: list[weakref.ref[Weights]] = []
    seen: list[bool] = []

    def start(share: float) -> str:
        weights = Weights()
        alive.append(weakref.ref(weights))
        if share > 0.5:
            raise vllm_says(CUDA)
        return "engine"

    memory.start_with_less(start, 0.6, lambda: seen.append(alive[-1]() is None), lambda: "")
    assert seen == [True]


class Model:
    """A stand-in `vllm.LLM`."""

    name = "a model"

    def generate(self, *prompts: str, fails: bool = False) -> list[str]:
        if fails:
            raise RuntimeError(CUDA)
        return [prompt.upper() for prompt in prompts]


def test_a_guarded_model_answers_as_ever_and_fails_as_an_engine() -> None:
    guarded = Guarded(Model(), (RuntimeError,), lambda error: run_error(error, ""))
    assert guarded.name == "a model"
    assert guarded.generate("a", "b") == ["A", "B"]
    with pytest.raises(EngineError, match="vLLM stopped: CUDA out of memory") as failed:
        guarded.generate("a", fails=True)
    assert memory.is_out_of_memory(failed.value)
