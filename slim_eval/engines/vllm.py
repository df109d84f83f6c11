"""vLLM as an `Engine`: loaded once, for performance, energy and accuracy. The only module that imports vLLM.

The engine core runs in processes of its own, as in every deployment; ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` in the
environment keeps it in this one, which starts much faster but lets the front end and the model compete for one
interpreter: good for trying things out, not for numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slim_eval.config import EngineConfig
from slim_eval.engines import fitting, processes, room, vllm_errors
from slim_eval.engines.distribution import distribution_named_vllm
from slim_eval.engines.engine import Generation, LoadRequest, MemoryReport, Prompt, ordinary_tokens
from slim_eval.engines.guarded import Guarded
from slim_eval.engines.memory import resident_memory, served_bytes
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, UsageError
from slim_eval.models.source import describe
from slim_eval.utils import GIB, MIB, did_you_mean

#: Set before vLLM is imported; what the user has set stays. Usage statistics are not sent from a benchmark.
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

#: GiB of KV cache on a CPU. Without it vLLM takes its share (--gpu-memory-utilization) of the machine's whole memory.
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}

#: --enforce-eager leaves small helpers compiled; on a CPU building the one for log-probabilities takes half a minute.
_CPU_EAGER_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}

#: Engine arguments that have an option, or that slim-eval measures by: not to be given with --engine-arg.
_OWN_ARGUMENTS = {
    "model": "--models",
    "max_model_len": "--max-model-len",
    "tensor_parallel_size": "--tensor-parallel-size",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "enforce_eager": "--enforce-eager",
    "trust_remote_code": "--trust-remote-code",
    "seed": "--seed",
    "disable_log_stats": None,
    "enable_prefix_caching": None,
    "worker_extension_cls": None,
}

#: GiB of memory that vLLM's processes take on a CPU before a model is loaded.
_ENGINE_GB = 1.5

#: What comes out of vLLM beside its own exceptions: pydantic's validation, torch's memory, dead children.
_FAILURES = (ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class VllmPlatform:
    """The hardware that the installed vLLM would run on.

    Attributes:
        kind: ``none`` where this build finds nothing to run on, e.g. a CUDA build without a GPU.
        capability: CUDA compute capability of the first visible GPU; None elsewhere.
        has_avx512: Whether the CPU has AVX-512.
    """

    kind: Literal["cpu", "cuda", "other", "none"]
    capability: tuple[int, int] | None = None
    has_avx512: bool = False


def platform() -> VllmPlatform:
    """Ask vLLM itself; no CUDA context is made, which would cost memory and break vLLM's own processes.

    Raises:
        EngineError: vLLM is there and cannot be imported.
    """
    _prepare_environment()
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise EngineError(f"vLLM is installed but cannot be imported ({error})", "install it again") from error
    if current_platform.is_cpu():
        return VllmPlatform("cpu", has_avx512=has_avx512())
    if current_platform.is_cuda():
        capability = current_platform.get_device_capability()
        return VllmPlatform("cuda", None if capability is None else (capability.major, capability.minor))
    return VllmPlatform("none" if current_platform.is_unspecified() else "other")


def load(request: LoadRequest) -> VllmEngine:
    """Start vLLM on a checkpoint; on a GPU with a smaller share of it where the one asked for does not fit.

    Raises:
        EngineError: There is no room for it, it did not start, or an engine argument is unknown; cause and remedy.
        MissingPackageError: vLLM is not installed.
    """
    kind = platform().kind
    if on_cpu := kind == "cpu":
        _set_defaults(_CPU_ENVIRONMENT)
        if request.config.enforce_eager:
            _set_defaults(_CPU_EAGER_ENVIRONMENT)
    try:
        from vllm import LLM
    except ImportError as error:
        raise MissingPackageError(error.name or "vllm", "the vLLM engine", INSTALL) from error
    arguments = _arguments(request)
    weights, count = served_bytes(request.checkpoint), request.config.tensor_parallel_size

    def start(share: float) -> Any:
        log = vllm_errors.LogTail()
        try:
            return LLM(**{**arguments, "gpu_memory_utilization": share})
        except _failures() as error:
            raise vllm_errors.start_error(error, log.read()) from error

    share = request.config.gpu_memory_utilization
    cache_gb = room.cpu_kv_cache_gb() if on_cpu else None
    if on_cpu:
        room.require_in_ram(weights, _ENGINE_GB, cache_gb)
    elif kind == "cuda":
        room.require_on_gpus(weights, count)
    fitted = fitting.start_with_less(
        start,
        share,
        processes.clear_failed_start,
        functools.partial(room.situation, weights, count, on_cpu=on_cpu),
        least=share if cache_gb is not None else fitting.MIN_SHARE,  # a cache of a set size does not go by the share
    )
    return VllmEngine(fitted, request, start, on_cpu=on_cpu)


class MemoryProbe:
    """Mixed into vLLM's worker class (``worker_extension_cls``), where weights and KV cache are.

    vLLM calls it by name in the worker's process, so that no function has to be pickled into it.
    """

    model_runner: Any
    device: Any

    def slim_eval_memory(self) -> dict[str, int | None]:
        """Bytes of this worker: ``weights``, ``kv_cache``, ``peak``, ``used``; the last two on a GPU only."""
        import torch

        runner = self.model_runner
        on_gpu = torch.device(self.device).type == "cuda"
        profiled = int(getattr(runner, "model_memory_usage", 0) or 0)  # what vLLM's own memory profile found
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in getattr(runner, "kv_caches", ())
            if isinstance(tensor, torch.Tensor)  # layers may share one buffer; state-space layers hold lists
        }
        return {
            "weights": profiled or None,
            "kv_cache": sum(storages.values()) or None,
            "peak": torch.cuda.max_memory_reserved(self.device) if on_gpu else None,
            "used": torch.cuda.memory_reserved(self.device) if on_gpu else None,
        }


class VllmEngine:
    """One `vllm.LLM`. Prefix caching is on, for accuracy; the requests of `generate` do not read it."""

    name = "vllm"
    kernels = "native"

    def __init__(
        self, fitted: fitting.Fitted[Any], request: LoadRequest, start: Callable[[float], Any], *, on_cpu: bool
    ) -> None:
        import vllm

        llm = fitted.engine
        config = llm.llm_engine.vllm_config
        self.version: str = vllm.__version__
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.max_model_len = int(config.model_config.max_model_len)
        self.load_time_s = fitted.seconds
        self._llm: Any = llm
        self._start_again = functools.partial(start, fitted.share)
        self._ran_out = False
        self._request = request
        self._on_cpu = on_cpu
        self.device = "cpu" if on_cpu else "cuda"
        self._log = vllm_errors.LogTail()
        self._processes = processes.engine_processes()
        self.notes: tuple[str, ...] = fitted.notes
        if on_cpu:
            self.notes += ("weights_gb is the size of the checkpoint's tensors: vLLM's CPU kernels repack them unseen",)

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once; see `Engine.generate`."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            ignore_eos=ignore_eos,
            # The prefix cache is on for accuracy; timed requests must each do their own prefill.
            skip_reading_prefix_cache=True,
        )
        try:
            outputs = self._loaded().generate([_as_vllm(prompt) for prompt in prompts], sampling, use_tqdm=False)
        except _failures() as error:
            raise self._stopped(error) from error
        return [_generation(output) for output in outputs]

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt; see `Engine.count_tokens`."""
        return len(prompt) if isinstance(prompt, tuple) else len(self._loaded().get_tokenizer().encode(prompt))

    def ordinary_tokens(self) -> Sequence[int]:
        """What a synthetic prompt may be made of; see `Engine.ordinary_tokens`."""
        return self._ordinary_tokens

    def memory(self) -> MemoryReport:
        """Weights and KV cache as vLLM's workers hold them; see `Engine.memory`."""
        cache = self._loaded().llm_engine.vllm_config.cache_config
        workers: list[dict[str, int | None]] = self._loaded().collective_rpc("slim_eval_memory")
        weights = served_bytes(self._request.checkpoint) if self._on_cpu else _sum(workers, "weights")
        tokens = getattr(cache, "kv_cache_size_tokens", None)  # right for models that mix kinds of layers too
        if tokens is None and cache.num_gpu_blocks:
            tokens = cache.num_gpu_blocks * cache.block_size
        peak, used, source = _gpu_memory(workers)
        if self._on_cpu and (resident := resident_memory()) is not None:
            peak, used, source = resident.peak_mb, resident.used_mb, "resident memory of vLLM's processes"
        return MemoryReport(
            weights_gb=_in(GIB, weights),
            kv_cache_gb=_in(GIB, _sum(workers, "kv_cache")),
            kv_cache_tokens=tokens,
            peak_mb=peak,
            source=source,
            used_mb=used,
        )

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own `VLLM` over this very `vllm.LLM`, started again where memory ran out in it."""
        if self._ran_out:
            self._restart()
        model = Guarded(self._loaded(), _failures(), self._stopped)
        with distribution_named_vllm(self.version):
            from lm_eval.models import vllm_causallms

            config = self._request.config
            with _replaced(vllm_causallms, "LLM", lambda **_: model):
                # It builds its model by calling LLM(...), and offers no way to hand it one.
                return vllm_causallms.VLLM(
                    pretrained=str(self._request.checkpoint),
                    batch_size=batch_size,
                    max_model_len=self.max_model_len,
                    trust_remote_code=config.trust_remote_code,
                    tensor_parallel_size=config.tensor_parallel_size,
                    seed=self._request.seed,
                )

    def close(self) -> None:
        """Stop vLLM and wait for its processes; one that does not stop is killed."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        processes.end(self._processes)

    def _stopped(self, error: BaseException) -> EngineError:
        failure = vllm_errors.run_error(error, self._log.read())
        self._ran_out = self._ran_out or fitting.is_out_of_memory(failure)
        return failure

    def _restart(self) -> None:
        """Make another `vllm.LLM`: one whose engine process ran out of memory has ended, or is in no known state."""
        self.close()
        processes.clear_failed_start()
        self._llm = self._start_again()
        self._ran_out, self._log = False, vllm_errors.LogTail()
        self._processes = processes.engine_processes()

    @functools.cached_property
    def _ordinary_tokens(self) -> tuple[int, ...]:
        llm = self._loaded()
        return ordinary_tokens(llm.get_tokenizer(), llm.llm_engine.vllm_config.model_config.get_vocab_size())

    def _loaded(self) -> Any:
        if self._llm is None:
            raise EngineError("the engine is closed")
        return self._llm


def _failures() -> tuple[type[Exception], ...]:
    from vllm import exceptions
    from vllm.v1.engine.exceptions import EngineDeadError

    # Until they got a base class, vLLM's refusals were ValueErrors.
    return (*_FAILURES, EngineDeadError, getattr(exceptions, "VLLMError", ValueError))


def check(config: EngineConfig) -> None:
    """Refuse engine arguments that vLLM does not know, or that slim-eval sets itself.

    Raises:
        UsageError: Naming the argument, and the nearest known ones.
    """
    if not config.engine_args:
        return
    _prepare_environment()
    from vllm import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in config.engine_args:
        if name in _OWN_ARGUMENTS:
            option = _OWN_ARGUMENTS[name]
            remedy = f"use {option}" if option else "leave it out: the measurements rest on it"
            raise UsageError(f"--engine-arg {name}: is set by slim-eval itself", remedy)
        if name not in known:
            raise UsageError(f"--engine-arg {name}: vLLM has no such engine argument", did_you_mean(name, known))


def _arguments(request: LoadRequest) -> dict[str, Any]:
    config = request.config
    check(config)
    arguments = {
        "model": str(request.checkpoint),
        "dtype": describe(request.checkpoint).dtype,  # its own 16-bit dtype; bfloat16 for a float32 checkpoint
        "max_model_len": request.max_model_len,
        "seed": request.seed,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
        "trust_remote_code": config.trust_remote_code,
        "disable_log_stats": False,  # the times of each request come with the statistics
        "enable_prefix_caching": True,
        "worker_extension_cls": f"{MemoryProbe.__module__}.{MemoryProbe.__qualname__}",
    }
    return {**arguments, **config.engine_args}


def _as_vllm(prompt: Prompt) -> Any:
    """A prompt as `vllm.LLM.generate` takes it."""
    return {"prompt_token_ids": list(prompt)} if isinstance(prompt, tuple) else prompt


def _generation(output: Any) -> Generation:
    """A finished request. ``arrival_time`` is wall clock, the ``_ts`` are the engine's monotonic clock: never mixed."""
    completion, metrics = output.outputs[0], output.metrics
    count = len(completion.token_ids)
    ttft_s = decode_s = e2e_s = None
    if metrics is not None and count:
        ttft_s = float(metrics.first_token_latency)
        between = float(metrics.last_token_ts - metrics.first_token_ts)
        e2e_s = ttft_s + between
        decode_s = between if count > 1 else None
    return Generation(len(output.prompt_token_ids), count, completion.text, ttft_s, e2e_s, decode_s)


def _gpu_memory(workers: list[dict[str, int | None]]) -> tuple[float | None, float | None, str | None]:
    peak, used = _in(MIB, _sum(workers, "peak")), _in(MIB, _sum(workers, "used"))
    return peak, used, None if peak is None else "memory reserved by torch in vLLM's workers"


def _sum(workers: list[dict[str, int | None]], key: str) -> int | None:
    values = [worker[key] for worker in workers]
    present = [value for value in values if value is not None]
    return sum(present) if present and len(present) == len(values) else None


def _in(unit: int, amount: int | None) -> float | None:
    return None if amount is None else amount / unit


def has_avx512() -> bool:
    """Whether this CPU has AVX-512; False also where that cannot be read."""
    try:
        return " avx512f " in f"{Path('/proc/cpuinfo').read_text(encoding='utf-8')} ".replace("\n", " ")
    except OSError:
        return False


def _prepare_environment() -> None:
    _set_defaults(_ENVIRONMENT)


def _set_defaults(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
