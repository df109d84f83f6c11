"""vLLM as an `Engine`: loaded once for all benchmarks. The only module that imports vLLM.

The engine core runs in processes of its own, as in every deployment. ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` in the
environment keeps it in this process, which starts much faster, but the front end and the model then compete for one
interpreter: good for trying things out, not for numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval.config import EngineConfig
from slim_eval.engines import memory
from slim_eval.engines.engine import (
    ENGINES,
    EngineType,
    Generation,
    LoadRequest,
    MemoryReport,
    Platform,
    Prompt,
    cpu_flags,
    ordinary_tokens,
)
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, UsageError
from slim_eval.models.source import describe
from slim_eval.utils import GIB, MIB, did_you_mean

if TYPE_CHECKING:
    from slim_eval.power import GpuCapabilities

#: Set before vLLM is imported, unless the user has set them. A benchmark does not send usage statistics.
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

#: GiB of KV cache on a CPU. Without it vLLM takes its share (--gpu-memory-utilization) of the whole machine's memory.
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}

#: --enforce-eager leaves small helpers compiled; on a CPU building the one for log-probabilities takes half a minute.
_CPU_EAGER_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}

#: Engine arguments that have an option, or that slim-eval sets itself: refused in --engine-arg.
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

#: How long vLLM's processes may take to exit.
_EXIT_TIMEOUT_S = 15.0

#: What vLLM raises besides its own exceptions: pydantic's validation, torch's memory, dead children.
_FAILURES = (ValueError, RuntimeError, OSError)


class Vllm(EngineType):
    """vLLM, for CUDA or for the CPU."""

    name = "vllm"
    label = "vLLM"
    modules = ("torch", "transformers", "vllm")
    settings = frozenset({"gpu_memory_utilization", "tensor_parallel_size", "enforce_eager"})
    auto_rank = 0

    def platform(self) -> Platform:
        """The hardware, as vLLM detects it; no CUDA context is made, which would use memory and break its processes."""
        _set_defaults(_ENVIRONMENT)
        try:
            from vllm.platforms import current_platform
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise EngineError(f"vLLM is installed but cannot be imported ({error})", "install it again") from error
        if current_platform.is_cpu():
            return Platform("cpu", cpu_flags=cpu_flags())
        if current_platform.is_cuda():
            capability = current_platform.get_device_capability()
            return Platform("cuda", None if capability is None else (capability.major, capability.minor))
        return Platform("none" if current_platform.is_unspecified() else "other")

    def expected_platform(self, build: str, gpu: GpuCapabilities | None) -> Platform:
        """The hardware, from the name of vLLM's build and the GPU; see `EngineType.expected_platform`."""
        if "cpu" in build:
            return Platform("cpu", cpu_flags=cpu_flags())
        if "rocm" in build:
            return Platform("other")
        return Platform("none") if gpu is None else Platform("cuda", gpu.compute_capability)

    def check(self, config: EngineConfig) -> None:
        """Refuse engine arguments that vLLM does not know, or that slim-eval sets itself.

        Raises:
            UsageError: Naming the argument and the nearest known ones.
        """
        if not config.engine_args:
            return
        _set_defaults(_ENVIRONMENT)
        from vllm import EngineArgs

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for name in config.engine_args:
            if name in _OWN_ARGUMENTS:
                option = _OWN_ARGUMENTS[name]
                remedy = f"use {option}" if option else "omit it: the measurements depend on it"
                raise UsageError(f"--engine-arg {name}: slim-eval sets this argument itself", remedy)
            if name not in known:
                raise UsageError(f"--engine-arg {name}: vLLM has no such engine argument", did_you_mean(name, known))

    def load(self, request: LoadRequest) -> VllmEngine:
        """Start vLLM on a checkpoint; on a GPU with a smaller share of its memory if the requested one does not fit."""
        config = request.config
        kind = self.platform().kind
        if on_cpu := kind == "cpu":
            _set_defaults(_CPU_ENVIRONMENT)
            if config.enforce_eager:
                _set_defaults(_CPU_EAGER_ENVIRONMENT)
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingPackageError(error.name or "vllm", "the vLLM engine", INSTALL) from error
        self.check(config)
        arguments = {
            "model": str(request.checkpoint),
            "dtype": describe(request.checkpoint).dtype,  # its own 16-bit dtype; bfloat16 for a float32 checkpoint
            "max_model_len": request.max_model_len,
            "seed": request.seed,
            "tensor_parallel_size": config.tensor_parallel_size,
            "enforce_eager": config.enforce_eager,
            "trust_remote_code": config.trust_remote_code,
            "disable_log_stats": False,  # the times of each request come with the statistics
            "enable_prefix_caching": True,
            "worker_extension_cls": f"{MemoryProbe.__module__}.{MemoryProbe.__qualname__}",
            **config.engine_args,
        }
        weights, count = memory.served_bytes(request.checkpoint), config.tensor_parallel_size

        def start(share: float) -> Any:
            log = LogTail()
            try:
                return LLM(**arguments, gpu_memory_utilization=share)
            except _failures() as error:
                raise start_error(error, log.read()) from error

        share = config.gpu_memory_utilization
        cache_gb = cpu_kv_cache_gb() if on_cpu else None
        if on_cpu:
            memory.require_in_ram(weights, _ENGINE_GB, cache_gb)
        elif kind == "cuda":
            memory.require_on_gpus(weights, count)
        fitted = memory.start_with_less(
            start,
            share,
            _clear_failed_start,
            lambda: memory.situation(weights, count, on_cpu=on_cpu),
            least=share if cache_gb is not None else memory.MIN_SHARE,  # a fixed cache does not depend on the share
        )
        return VllmEngine(fitted, request, functools.partial(start, fitted.share), on_cpu=on_cpu)


VLLM = ENGINES.register(Vllm())


def cpu_kv_cache_gb() -> float | None:
    """GiB that vLLM reserves for its KV cache on a CPU; None if the variable does not define it."""
    try:
        return float(os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")) or None
    except ValueError:  # vLLM reports it
        return None


class MemoryProbe:
    """Mixed into vLLM's worker class (``worker_extension_cls``), which has the weights and the KV cache.

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
    """One `vllm.LLM`. Prefix caching is on, for accuracy; the requests of `generate` do not use it."""

    name = "vllm"
    kernels = "native"

    def __init__(
        self, fitted: memory.Fitted[Any], request: LoadRequest, start_again: Callable[[], Any], *, on_cpu: bool
    ) -> None:
        import vllm

        llm = fitted.engine
        config = llm.llm_engine.vllm_config
        self.version: str = vllm.__version__
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.max_model_len = int(config.model_config.max_model_len)
        self.load_time_s = fitted.seconds
        self._llm: Any = llm
        self._start_again = start_again
        self._ran_out = False
        self._request = request
        self._on_cpu = on_cpu
        self.device = "cpu" if on_cpu else "cuda"
        self._log = LogTail()
        self._processes = _engine_processes()
        self.notes: tuple[str, ...] = fitted.notes
        if on_cpu:
            self.notes += (
                "weights_gb is the size of the checkpoint's tensors: vLLM's CPU kernels repack them without reporting "
                "the size",
            )

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
            inputs = [{"prompt_token_ids": list(each)} if isinstance(each, tuple) else each for each in prompts]
            outputs = self._loaded().generate(inputs, sampling, use_tqdm=False)
        except _failures() as error:
            raise self._stopped(error) from error
        return [_generation(output) for output in outputs]

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens in a prompt; see `Engine.count_tokens`."""
        return len(prompt) if isinstance(prompt, tuple) else len(self._loaded().get_tokenizer().encode(prompt))

    def ordinary_tokens(self) -> Sequence[int]:
        """Token ids for synthetic prompts; see `Engine.ordinary_tokens`."""
        return self._ordinary_tokens

    def memory(self) -> MemoryReport:
        """Weights and KV cache of vLLM's workers; see `Engine.memory`."""
        cache = self._loaded().llm_engine.vllm_config.cache_config
        workers: list[dict[str, int | None]] = self._loaded().collective_rpc("slim_eval_memory")
        weights = memory.served_bytes(self._request.checkpoint) if self._on_cpu else _sum(workers, "weights")
        tokens = getattr(cache, "kv_cache_size_tokens", None)  # right for models that mix kinds of layers too
        if tokens is None and cache.num_gpu_blocks:
            tokens = cache.num_gpu_blocks * cache.block_size
        peak, used = _in(MIB, _sum(workers, "peak")), _in(MIB, _sum(workers, "used"))
        source = None if peak is None else "memory reserved by torch in vLLM's workers"
        if self._on_cpu and (resident := memory.resident_memory()) is not None:
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
        """lm-eval's own `VLLM` over this same `vllm.LLM`, restarted if it ran out of memory."""
        if self._ran_out:
            self._restart()
        model = TranslatingLLM(self._loaded(), _failures(), self._stopped)
        with distribution_named_vllm(self.version):
            from lm_eval.models import vllm_causallms

            config = self._request.config
            with _replaced(vllm_causallms, "LLM", lambda **_: model):
                # It builds its model by calling LLM(...); there is no way to pass it one.
                return vllm_causallms.VLLM(
                    pretrained=str(self._request.checkpoint),
                    batch_size=batch_size,
                    max_model_len=self.max_model_len,
                    trust_remote_code=config.trust_remote_code,
                    tensor_parallel_size=config.tensor_parallel_size,
                    seed=self._request.seed,
                )

    def close(self) -> None:
        """Stop vLLM and wait for its processes; kill those that do not exit."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        _end(self._processes)

    def _stopped(self, error: BaseException) -> EngineError:
        failure = run_error(error, self._log.read())
        self._ran_out = self._ran_out or memory.is_out_of_memory(failure)
        return failure

    def _restart(self) -> None:
        """Make another `vllm.LLM`: an engine process that ran out of memory has exited or is in an unknown state."""
        self.close()
        _clear_failed_start()
        self._llm = self._start_again()
        self._ran_out, self._log = False, LogTail()
        self._processes = _engine_processes()

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


def _generation(output: Any) -> Generation:
    """A finished request; ``arrival_time`` is wall clock, the ``_ts`` are monotonic: the two are never mixed."""
    completion, metrics = output.outputs[0], output.metrics
    count = len(completion.token_ids)
    ttft_s = decode_s = e2e_s = None
    if metrics is not None and count:
        ttft_s = float(metrics.first_token_latency)
        between = float(metrics.last_token_ts - metrics.first_token_ts)
        e2e_s = ttft_s + between
        decode_s = between if count > 1 else None
    return Generation(len(output.prompt_token_ids), count, completion.text, ttft_s, e2e_s, decode_s)


def _sum(workers: list[dict[str, int | None]], key: str) -> int | None:
    values = [worker[key] for worker in workers]
    present = [value for value in values if value is not None]
    return sum(present) if present and len(present) == len(values) else None


def _in(unit: int, amount: int | None) -> float | None:
    return None if amount is None else amount / unit


def _set_defaults(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


class TranslatingLLM:
    """A `vllm.LLM` for lm-eval; exceptions from its `generate` are translated, everything else is passed on.

    Args:
        model: The `vllm.LLM`.
        failures: The exceptions to translate.
        translate: Makes an `EngineError` from one.
    """

    def __init__(
        self, model: Any, failures: tuple[type[Exception], ...], translate: Callable[[BaseException], EngineError]
    ) -> None:
        self._model, self._failures, self._translate = model, failures, translate

    def generate(self, *args: Any, **options: Any) -> Any:
        """The model's own `generate`.

        Raises:
            EngineError: It stopped; with cause and remedy.
        """
        try:
            return self._model.generate(*args, **options)
        except self._failures as error:
            raise self._translate(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _CpuBuild(metadata.Distribution, metadata.DistributionFinder):
    """vLLM's CPU build, whose distribution is ``vllm-cpu``, under the name ``vllm``; a finder on `sys.meta_path`."""

    def __init__(self, version: str) -> None:
        # vLLM itself reads "cpu" in this version as "built for the CPU".
        self._version = version if "cpu" in version else f"{version}+cpu"

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: vllm\nVersion: {self._version}\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Finds no module, only a distribution."""

    def find_distributions(self, context: Any = None) -> Iterator[metadata.Distribution]:
        if context is None or context.name in (None, "vllm"):
            yield self


@contextmanager
def distribution_named_vllm(version: str) -> Iterator[None]:
    """Give `importlib.metadata.version("vllm")` an answer if no distribution has that name.

    lm-eval calls it at import and whenever it builds its adapter, and cannot use the CPU build without an answer.

    Args:
        version: vLLM's own version.
    """
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        finder = _CpuBuild(version)
    else:
        yield
        return
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


# --- Processes ---


def _engine_processes() -> list[Any]:
    """VLLM's processes below this one. Python's resource tracker does not belong to them and outlives the engine."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("resource_tracker" in part for part in process.cmdline()):
                found.append(process)
    return found


def _end(processes: Sequence[Any]) -> None:
    """Wait for processes that were told to stop; kill those that do not exit."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=_EXIT_TIMEOUT_S)
    for process in alive:
        process.kill()


def _clear_failed_start() -> None:
    """Free what an engine that did not start left behind, before the next try."""
    _end(_engine_processes())
    memory.empty_caches()


# --- Failures ---
#
# vLLM's engine runs in processes of its own. If one fails, the exception here is only "see root cause above": the cause
# is in what that process wrote to stderr, which slim-eval's workers keep in ``run.log``.

_LOOK_BACK = 200_000  # bytes of log
_STDERR = 2
_MAX_CAUSE = 300

_LOWER_CONTEXT = "lower --max-model-len, or raise --gpu-memory-utilization"
_LESS_MEMORY = "lower --gpu-memory-utilization, --max-model-len or the batch size, or use more GPUs"

#: Pattern in vLLM's message -> remedy. The first match counts.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"CPU on kv cache|VLLM_CPU_KVCACHE_SPACE", "set VLLM_CPU_KVCACHE_SPACE (GiB) to what the machine has free"),
    (
        r"larger than the (?:available|maximum number of tokens that can be stored in) KV cache",
        f"{_LOWER_CONTEXT} (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (
        r"[Nn]o available memory for the cache blocks",
        "raise --gpu-memory-utilization, or free memory on the GPU (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (r"KV cache is needed|KV cache memory", f"{_LOWER_CONTEXT} (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)"),
    (memory.TOO_LARGE_A_SHARE, "lower --gpu-memory-utilization, or stop other processes that use the device"),
    (memory.OUT_OF_MEMORY, _LESS_MEMORY),
    (r"max_model_len \(\d+\) is greater than", "lower --max-model-len to what the model supports"),
    (r"longer than the maximum model length|maximum context length", "raise --max-model-len, or shorten the prompt"),
    (
        r"[Ff]ailed to find a kernel|not supported for the current GPU|no attribute 'cpu_gemm",
        "vLLM has no kernel for this precision here: use --engine transformers",
    ),
    (
        r"are not supported for now|has no vLLM implementation",
        "vLLM does not know this architecture: use --engine transformers",
    ),
    (r"trust_remote_code|trust-remote-code", "the model contains Python code: if you trust it, --trust-remote-code"),
)

_ERROR_LINE = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore encountered an issue")


class LogTail:
    """Output to stderr from now on, by this process and its children, if stderr is a file."""

    def __init__(self) -> None:
        self._start = self._size()

    def read(self) -> str:
        """The end of the output since then; empty if stderr is a terminal or a pipe."""
        size = self._size()
        if size is None or self._start is None:
            return ""
        with Path(f"/proc/self/fd/{_STDERR}").open("rb") as log:
            log.seek(max(min(self._start, size), size - _LOOK_BACK))
            return log.read().decode("utf-8", errors="replace")

    @staticmethod
    def _size() -> int | None:
        try:
            status = os.fstat(_STDERR)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None


def start_error(error: BaseException, log: str) -> EngineError:
    """Translate a failure of vLLM's start."""
    return _translate(error, log, "vLLM did not start", "see its log; --engine transformers serves the same model")


def run_error(error: BaseException, log: str) -> EngineError:
    """Translate a failure of a running vLLM."""
    return _translate(error, log, "vLLM stopped", "see its log")


def _translate(error: BaseException, log: str, what: str, otherwise: str) -> EngineError:
    cause = _cause(error, log)
    text = f"{cause}\n{error}"
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), otherwise)
    return EngineError(f"{what}: {cause}", remedy)


def _cause(error: BaseException, log: str) -> str:
    """The exception's text or, if it only refers to another process, the error that this process logged."""
    own = _one_line(str(error)) or type(error).__name__
    if not any(generic in own for generic in _GENERIC):
        return own
    found = [
        _one_line(match.group(2))
        for match in _ERROR_LINE.finditer(log)
        if not any(generic in match.group(2) for generic in _GENERIC)
    ]
    known = [cause for cause in found if any(re.search(pattern, cause) for pattern, _ in _REMEDIES)]
    return next(iter(known or found[-1:]), own)


def _one_line(text: str) -> str:
    """The first paragraph on one line, without pydantic's decoration, truncated."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:2]
    line = re.sub(r"\s*\[type=.*", "", " ".join(lines[:2]))
    return line if len(line) <= _MAX_CAUSE else f"{line[:_MAX_CAUSE]}..."
