"""Memory: whether a model fits, known before it is loaded, and what is tried after memory ran out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import LoadRequest, Platform, memory
from slim_eval.engines.memory import served_bytes
from slim_eval.engines.transformers import TRANSFORMERS
from slim_eval.engines.vllm import VLLM, TranslatingLLM, cpu_kv_cache_gb, vllm_error
from slim_eval.errors import EngineError, QuantizationError
from slim_eval.models.source import ModelSource
from slim_eval.quantization import llmcompressor
from slim_eval.quantization.cache import QuantizeRequest
from slim_eval.utils import GIB, environment
from tests.standins.nvml import UUIDS, StandInGpu, build
from tests.standins.nvml import environment as surroundings
from tests.standins.tiny_models import make_checkpoint
from tests.unit.models.test_source import write_safetensors

ROOT = Path(__file__).parents[3]

#: Asks for room in a process that sees the stand-in's GPUs; `pids` in a container would have no names.
SCRIPT = """
import json, sys
from slim_eval.engines import memory
from slim_eval.errors import EngineError
from slim_eval.power import gpus

request, answer, waits = json.loads(sys.argv[1]), {}, []
gpus.pids_may_be_the_hosts = lambda: request["container"]
try:
    memory.require_on_gpus(request["gib"] * 2**30, request["count"], waits.append)
except EngineError as error:
    answer |= {"cause": error.cause, "remedy": error.remedy}
answer["uses"] = gpus.uses_gpu(request["pids"])
answer |= {"waits": waits, "situation": memory.situation(2**30, request["count"], on_cpu=False)}
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def visitor() -> Iterator[int]:
    """Another process, in no group of ours."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process.pid
    process.kill()
    process.wait()


def gpu(used_gib: int, pids: str = "", uuid: str = UUIDS[0]) -> StandInGpu:
    return StandInGpu(uuid=uuid, settings={"memory": 80 * GIB, "used": used_gib * GIB, "pids": pids})


def ask(
    library: Path,
    *gpus: StandInGpu,
    gib: float,
    count: int = 1,
    container: bool = False,
    pids: Sequence[int] = (),
    **env: str,
) -> Any:
    request = json.dumps({"gib": gib, "count": count, "container": container, "pids": pids})
    variables = {**surroundings(library, gpus), "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, "-c", SCRIPT, request]
    # In a session of its own, as a worker is: the test's other children are none of its family.
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, start_new_session=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_what_holds_a_gpus_memory_is_named(library: Path, visitor: int) -> None:
    answer = ask(library, gpu(70, f"{visitor}:{64 * GIB};self:{GIB}"), gib=14.9)
    assert answer["cause"] == (
        f"the weights and CUDA need 15.4 GiB, GPU 0 has 10.0 of 80.0 GiB free, pid {visitor} (sleep) uses 64.0 GiB"
    )
    assert answer["remedy"].startswith("stop the processes that use it, serve a smaller model")
    assert answer["situation"] == (
        f"the weights take 1.0 GiB; GPU 0 has 10.0 of 80.0 GiB free, pid {visitor} (sleep) uses 64.0 GiB"
    )


def test_the_largest_holder_comes_first_and_one_that_has_ended_has_no_name(library: Path, visitor: int) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    answer = ask(library, gpu(79, f"{ended.pid}:{GIB};{visitor}:{40 * GIB}"), gib=2.0)
    assert f"pid {visitor} (sleep) uses 40.0 GiB, pid {ended.pid} uses 1.0 GiB" in answer["cause"]


def test_in_a_container_a_process_is_not_named_by_guess(library: Path, visitor: int) -> None:
    answer = ask(library, gpu(79, f"{visitor}:{40 * GIB}"), gib=2.0, container=True)
    assert f"pid {visitor} uses 40.0 GiB" in answer["cause"]


def test_a_server_is_on_a_gpu_if_one_of_its_processes_computes_there(library: Path, visitor: int) -> None:
    """A server of the user's own may compute on the CPU of a machine that has GPUs."""
    both = gpu(3), gpu(70, f"{visitor}:{GIB}", uuid=UUIDS[1])
    assert ask(library, *both, gib=1.0, pids=[1, visitor])["uses"] is True
    assert ask(library, *both, gib=1.0, pids=[1])["uses"] is False
    assert ask(library, *both, gib=1.0, pids=[visitor], container=True)["uses"] is None


def test_memory_without_a_holder_is_refused_after_a_while(library: Path) -> None:
    """A process that has just ended may hold its memory yet: it is looked at again."""
    answer = ask(library, gpu(79), gib=2.0)
    assert answer["cause"] == "the weights and CUDA need 2.5 GiB, GPU 0 has 1.0 of 80.0 GiB free"
    assert answer["remedy"].startswith("serve a smaller model")
    assert len(answer["waits"]) == 4


def test_a_model_that_fits_is_let_pass_whoever_else_is_there(library: Path, visitor: int) -> None:
    answer = ask(library, gpu(60, f"{visitor}:{60 * GIB}"), gib=19.0)
    assert (answer.get("cause"), answer["waits"]) == (None, [])


def test_gpus_share_the_weights(library: Path) -> None:
    both = gpu(3), gpu(70, uuid=UUIDS[1])
    assert "cause" not in ask(library, *both, gib=19.0, count=2)
    answer = ask(library, *both, gib=40.0, count=2)
    assert answer["cause"] == ("the weights and CUDA need 20.5 GiB on each of 2 GPUs, GPU 1 has 10.0 of 80.0 GiB free")


def test_it_is_the_visible_gpu_that_counts(library: Path) -> None:
    both = gpu(3), gpu(70, uuid=UUIDS[1])
    assert "cause" not in ask(library, *both, gib=40.0)
    assert "GPU 1 has 10.0" in ask(library, *both, gib=40.0, CUDA_VISIBLE_DEVICES="1")["cause"]


@pytest.mark.parametrize("settings", [{"memory": 0}, None])
def test_what_nvml_does_not_tell_is_let_pass(library: Path, settings: dict[str, int] | None) -> None:
    gpus = [] if settings is None else [StandInGpu(settings=settings)]
    answer = ask(library, *gpus, gib=500.0)
    assert "cause" not in answer
    assert answer["situation"].startswith("the weights take 1.0 GiB")


# --- The machine's memory ---


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plant the free memory, GiB."""

    def plant(free_gb: float | None) -> None:
        monkeypatch.setattr(environment, "free_ram_gb", lambda: free_gb)

    return plant


def test_memory_that_does_not_suffice_is_refused_with_both_amounts(free: Any) -> None:
    free(16.0)
    memory.require_in_ram(14 * GIB, 1.5)
    with pytest.raises(EngineError) as refused:
        memory.require_in_ram(14 * GIB, 1.5, 4.0)
    assert refused.value.cause == (
        "the model needs about 19.5 GiB of memory (weights 14.0, engine 1.5, KV cache 4.0), but only 16.0 GiB are free"
    )
    assert "VLLM_CPU_KVCACHE_SPACE (now 4 GiB)" in refused.value.remedy


def test_free_memory_that_is_not_known_refuses_nothing(free: Any) -> None:
    free(None)
    memory.require_in_ram(10**15, 1.5)


@pytest.mark.parametrize(("text", "cache_gb"), [(None, None), ("", None), ("0", None), ("40", 40.0), ("much", None)])
def test_the_kv_cache_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, text: str | None, cache_gb: float | None
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    if text is not None:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", text)
    assert cpu_kv_cache_gb() == cache_gb


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_transformers_loads_nothing_without_room(free: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    library = pytest.importorskip("transformers")
    monkeypatch.setattr(library.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    free(0.1)
    with pytest.raises(EngineError, match=r"needs about 0\.4 GiB of memory .*0\.1 GiB are free"):
        TRANSFORMERS.load(LoadRequest(checkpoint, EngineConfig(), 64))


@pytest.mark.large
def test_vllm_starts_nothing_without_room(free: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("vllm")
    monkeypatch.setattr(VLLM, "platform", lambda: Platform("cpu"))
    monkeypatch.setattr(library, "LLM", lambda **_: pytest.fail("it was started"))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    free(30.0)
    with pytest.raises(EngineError, match=r"engine 1\.5, KV cache 40\.0\), but only 30\.0 GiB are free"):
        VLLM.load(LoadRequest(checkpoint, EngineConfig(), 64))
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "40"


def test_quantization_loads_nothing_without_room(free: Any, checkpoint: Path, tmp_path: Path) -> None:
    source = ModelSource(name="tiny", kind="local", config_dir=checkpoint, path=checkpoint)
    request = QuantizeRequest(source=source, precision="int8", directory=tmp_path)
    free(0.1)
    with pytest.raises(QuantizationError, match=r"needs about 0\.5 GiB of memory .*0\.1 GiB are free"):
        llmcompressor.quantize(request, lambda text: pytest.fail(f"it went on to: {text}"))
    assert list(tmp_path.iterdir()) == []


def test_unpacked_weights_are_counted_in_16_bit(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "a.weight_packed": ("I32", [4, 2]),  # 4 x 16 weights of 4 bit
            "b.weight": ("I8", [4, 8]),
            "c.weight": ("BF16", [10]),
        },
    )
    assert served_bytes(tmp_path) == 4 * 2 * 4 + 4 * 8 + 20
    assert served_bytes(tmp_path, unpacked=True) == 4 * 16 * 2 + 4 * 8 * 2 + 20


# --- When memory runs out ---

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
    return vllm_error(DEAD, f"(EngineCore pid=7) torch.OutOfMemoryError: {message}\n", started=False)


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
        (
            vllm_error(
                RuntimeError("EngineCore encountered an issue."), f"torch.OutOfMemoryError: {CUDA}\n", started=True
            ),
            True,
        ),
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

    def fit(self, share: float = 0.9, **options: float) -> memory.Fitted:
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
    assert first.endswith("): retried with 0.69")
    assert second.startswith("--gpu-memory-utilization 0.69 did not fit (vLLM did not start: CUDA out of memory. Tried")
    assert second.endswith("): retried with 0.49")


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
    guarded = TranslatingLLM(Model(), (RuntimeError,), lambda error: vllm_error(error, "", started=True))
    assert guarded.name == "a model"
    assert guarded.generate("a", "b") == ["A", "B"]
    with pytest.raises(EngineError, match="vLLM stopped: CUDA out of memory") as failed:
        guarded.generate("a", fails=True)
    assert memory.is_out_of_memory(failed.value)
