"""vLLM as an `Engine`: loaded once for all benchmarks. The only module that imports vLLM.

The engine core runs in processes of its own, as in every deployment. ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` in the
environment keeps it in this process, which starts much faster, but the front end and the model then compete for one
interpreter: good for trying things out, not for numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval.config import EngineConfig
from slim_eval.engines import memory
from slim_eval.engines.engine import (
    ENGINES,
    Capabilities,
    EngineType,
    Generation,
    LoadRequest,
    MemoryReport,
    Platform,
    Prompt,
    cpu_flags,
    ordinary_tokens,
)
from slim_eval.engines.server import MODEL, PORT, Server
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, UsageError
from slim_eval.models import architectures, loading
from slim_eval.models.source import CONFIG_FILE, ConfigFacts, describe, read_header, weight_files
from slim_eval.schemes import INEXACT_KERNELS, Scheme, scheme, scheme_of
from slim_eval.utils import GIB, MIB, did_you_mean, safe_json
from slim_eval.utils.log_tail import LogTail

if TYPE_CHECKING:
    from slim_eval.power import GpuCapabilities

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

_REPACKED = (
    "weights_gb is the size of the checkpoint's tensors: vLLM's CPU kernels repack them without reporting the size"
)
_INEXACT = "vLLM's int8 kernel saturates on a CPU without VNNI: its products differ from the scheme's"
_USE_TRANSFORMERS = "speed is valid; measure accuracy with --engine transformers in another --output-dir"
INEXACT_NOTE = f"{_INEXACT}: {_USE_TRANSFORMERS}"
#: Class of an object that multiplies quantized matrices: ``MarlinLinearKernel``, in older versions ``Fp8LinearOp``.
_KERNEL = re.compile(r"Kernel$|LinearOp$")
_ROWS = 64  # of activations with which the kernel's error is measured
_ENGINE_GB = 1.5  # GiB of memory that vLLM's processes take on a CPU before a model is loaded


class Vllm(EngineType):
    """vLLM, for CUDA or for the CPU."""

    name = "vllm"
    label = "vLLM"
    modules = ("torch", "transformers", "vllm")
    settings = frozenset({"dtype", "gpu_memory_utilization", "tensor_parallel_size", "enforce_eager"})
    emulates_bfloat16 = False  # it refuses it
    auto_rank = 0
    capabilities = Capabilities(serving=True, lm_eval_unread=-1)  # a prompt leaves room for the token it must ask for
    #: vLLM's own kernels read them; the others need the packages that Transformers needs.
    own_formats = frozenset({
        "awq", "gptq", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "mxfp4", "quark", "auto-round",
    })  # fmt: skip

    def knows(self, facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
        """Whether vLLM serves this architecture, itself or with Transformers' model; see `EngineType.knows`."""
        return architectures.vllm_knows(facts, python, trust_remote_code=trust_remote_code)

    def platform(self) -> Platform:
        """The hardware, as vLLM detects it; no CUDA context is made, which would use memory and break its processes."""
        _send_no_statistics()
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

    def obstacle(self, scheme: Scheme, platform: Platform | None = None) -> str | None:
        """As of every engine; and whether the installed vLLM has the method that quantizes while it loads."""
        found = super().obstacle(scheme, platform)
        method = scheme.served_with.get(self.name, {}).get("quantization")
        if found is None and method is not None and platform is None:
            known = architectures.vllm_quantizations(None)
            found = None if known is None or method in known else f"this version of vLLM has no quantization {method!r}"
        return found

    def check(self, config: EngineConfig) -> None:
        """Refuse engine arguments that vLLM does not know, or that slim-eval sets itself; see `EngineType.check`."""
        if not config.further_args:
            return
        _send_no_statistics()
        from vllm import EngineArgs

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for name in config.further_args:
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
            # Without it vLLM takes its share (--gpu-memory-utilization) of the whole machine's memory. GiB.
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            if config.enforce_eager:
                # It leaves small helpers compiled: building the one for log-probabilities takes half a minute.
                os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingPackageError(error.name or "vllm", "the vLLM engine", INSTALL) from error
        self.check(config)
        facts, served = describe(request.checkpoint), scheme_of(request.precision)
        dtype = self.computing_dtype(config.asked_dtype, facts, served, on_cpu=on_cpu)
        # torch may ask NVML for GPUs, but CUDA must not be asked before vLLM starts its processes.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        loading.require_weights(request.checkpoint, facts.architecture, trust_remote_code=config.trust_remote_code)
        arguments = {
            "model": str(request.checkpoint),
            "disable_log_stats": False,  # the times of each request come with the statistics
            "enable_prefix_caching": True,
            "worker_extension_cls": f"{MemoryProbe.__module__}.{MemoryProbe.__qualname__}",
            **_arguments(request, facts, dtype),
        }

        processes = _StartedProcesses()

        def start(share: float) -> Any:
            log = LogTail()
            processes.begin()
            try:
                return LLM(**arguments, gpu_memory_utilization=share)
            except _failures() as error:
                raise vllm_error(error, log.read(), started=False) from error

        weights, count = memory.served_bytes(request.checkpoint, dtype), config.tensor_parallel_size
        share, least = config.gpu_memory_utilization, memory.MIN_SHARE
        if on_cpu:
            cache_gb = cpu_kv_cache_gb()
            memory.require_in_ram(weights, _ENGINE_GB, cache_gb)
            least = least if cache_gb is None else share  # a fixed cache does not depend on the share
        elif kind == "cuda":
            memory.require_on_gpus(weights, count)
        fitted = memory.start_with_less(
            start, share, processes.clear, lambda: memory.situation(weights, count, on_cpu=on_cpu), least
        )
        again = functools.partial(start, fitted.share)
        is_inexact = self.serves_inexactly(request.checkpoint)
        return VllmEngine(fitted, request, again, processes, on_cpu=on_cpu, is_inexact=is_inexact)

    def serve(self, request: LoadRequest) -> VllmServer:
        """Start vLLM's OpenAI-compatible server on a checkpoint, without a cache of prefixes; see `EngineType.serve`.

        It gets the `_arguments` that `load` gives the engine, as options of the server.
        """
        config, kind = request.config, self.platform().kind
        on_cpu = kind == "cpu"
        self.check(config)
        facts, served = describe(request.checkpoint), scheme_of(request.precision)
        dtype = self.computing_dtype(config.asked_dtype, facts, served, on_cpu=on_cpu)
        loading.require_weights(request.checkpoint, facts.architecture, trust_remote_code=config.trust_remote_code)
        weights = memory.served_bytes(request.checkpoint, dtype)
        variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if on_cpu:
            variables |= {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}
            variables |= {"TORCH_COMPILE_DISABLE": "1"} if config.enforce_eager else {}
            memory.require_in_ram(weights, _ENGINE_GB, cpu_kv_cache_gb())
        elif kind == "cuda":
            memory.require_on_gpus(weights, config.tensor_parallel_size)
        options = {
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "enable_prefix_caching": False,
            **_arguments(request, facts, dtype),
        }
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--port", PORT]
        server = Server(
            [*command, "--host", "127.0.0.1", *_flags(options)], model=str(request.checkpoint), environment=variables
        )
        is_inexact = self.serves_inexactly(request.checkpoint)
        return VllmServer(server, request, dtype, on_cpu=on_cpu, is_inexact=is_inexact)

    def serves_inexactly(self, checkpoint: Path) -> bool:
        """Whether it has int8 weights, quantized here or elsewhere, and the kernel for them is wrong here."""
        return self.is_inexact(scheme("int8"), self.platform()) and _int8_weight(checkpoint) is not None


VLLM = Vllm()
ENGINES.register(VLLM)


def _arguments(request: LoadRequest, facts: ConfigFacts, dtype: str) -> dict[str, Any]:
    """What vLLM is told of a checkpoint, in this process or as a server: also what its scheme is served with."""
    config = request.config
    return {
        "dtype": dtype,
        "max_model_len": request.max_model_len,
        "seed": request.seed,
        "tensor_parallel_size": config.tensor_parallel_size,
        # Its GPUs are in this machine; in a task of a Ray cluster it would otherwise use Ray to start them.
        **({"distributed_executor_backend": "mp"} if config.tensor_parallel_size > 1 else {}),
        "enforce_eager": config.enforce_eager,
        "trust_remote_code": config.trust_remote_code,
        "generation_config": "vllm",  # its end tokens only: clients of a server do not set every penalty of a model
        **({} if "load_format" in config.engine_args else _loader_options(request.checkpoint, facts)),
        **config.further_args,
        **scheme_of(request.precision).served_with.get(VLLM.name, {}),
    }


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Engine arguments as options of the server."""
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return found


class VllmServer:
    """``vllm serve`` of one checkpoint, in processes of its own; an `engine.ServedEngine`."""

    name = "vllm"
    is_ours = True

    def __init__(
        self, server: Server, request: LoadRequest, dtype: str, *, on_cpu: bool, is_inexact: bool = False
    ) -> None:
        import vllm

        self.version: str = vllm.__version__
        self.dtype, self.device = dtype, "cpu" if on_cpu else "cuda"
        self.max_model_len = request.max_model_len
        self.kernels = INEXACT_KERNELS if is_inexact else "native"
        self.kernel_error = int8_kernel_error(request.checkpoint) if is_inexact else None
        self.notes: tuple[str, ...] = (INEXACT_NOTE,) if is_inexact else ()
        self._server, self._request = server, request
        server.__enter__()
        self.endpoint, self.load_time_s = server.endpoint, server.load_time_s

    def ordinary_tokens(self) -> Sequence[int]:
        """See `Engine.ordinary_tokens`."""
        trust = self._request.config.trust_remote_code
        tokenizer = loading.tokenizer_of(str(self._request.checkpoint), trust_remote_code=trust)
        config = safe_json.read_json(self._request.checkpoint / CONFIG_FILE)
        config = config.get("text_config") or config
        return ordinary_tokens(tokenizer, int(config.get("vocab_size") or len(tokenizer)))

    def ended(self) -> EngineError | None:
        """Why it has exited; None while it runs."""
        return None if self._server.alive() else self._server.stopped()

    def close(self) -> None:
        """Stop the server and everything that it started."""
        self._server.close()


def _send_no_statistics() -> None:
    """Before vLLM is imported, unless the user has set these: a benchmark does not send usage statistics."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _loader_options(checkpoint: Path, facts: ConfigFacts) -> dict[str, Any]:
    """Arguments with which vLLM refuses quantized experts whose names it does not know.

    It accounts for the weights of unquantized models only, and skips experts with other names: they would be random.
    """
    if not facts.is_quantized or "expert" not in (checkpoint / CONFIG_FILE).read_text(encoding="utf-8"):
        return {}
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    known = hasattr(DefaultModelLoader, "track_weights_loading")  # older versions have no such option
    return {"model_loader_extra_config": {"enable_weights_track": True}} if known else {}


def cpu_kv_cache_gb() -> float | None:
    """GiB that vLLM reserves for its KV cache on a CPU; None if the variable does not define it."""
    try:
        return float(os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")) or None
    except ValueError:  # vLLM reports it
        return None


def _int8_weight(checkpoint: Path) -> tuple[Path, str] | None:
    """File and name of a matrix of int8 weights of a checkpoint; None if it has none."""
    for file in weight_files(checkpoint):
        for name, (kind, shape) in read_header(file).items():
            if kind == "I8" and len(shape) == 2:
                return file, name
    return None


def int8_kernel_error(checkpoint: Path) -> float | None:
    """The error of vLLM's int8 kernel on this CPU, relative to the exact integer products (root mean square).

    Of one of the checkpoint's own matrices and random activations, quantized per token as vLLM does. None if this vLLM
    has no such kernel.
    """
    import torch
    from safetensors import safe_open
    from vllm import _custom_ops as ops
    from vllm.platforms import current_platform

    found = _int8_weight(checkpoint)
    current_platform.import_kernels()
    if found is None or not hasattr(ops, "create_onednn_scaled_mm"):
        return None
    with safe_open(str(found[0]), "pt") as file:
        weight = file.get_tensor(found[1]).t()  # as vLLM gives it to the kernel: input x output
    scale = torch.ones(weight.shape[1], 1)
    inputs = torch.randn(_ROWS, weight.shape[0], generator=torch.Generator().manual_seed(0))
    quantized, steps, _ = ops.onednn_scaled_int8_quant(inputs)
    handler = ops.create_onednn_scaled_mm(weight, scale, torch.float32, True, False)
    answer = torch.empty(_ROWS, weight.shape[1])
    sums = weight.sum(dim=0, keepdim=True, dtype=torch.float32)
    ops.onednn_scaled_mm(handler, quantized, answer, steps, None, sums, None)
    exact = (quantized.double() @ weight.double()) * steps.double()
    return float((answer.double() - exact).norm() / exact.norm())


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

    def slim_eval_kernels(self) -> list[str]:
        """Class names of what computes this worker's quantized layers: kernels or, without any, vLLM's methods."""
        found = set[str]()
        for module in self.model_runner.get_model().modules():
            method = getattr(module, "quant_method", None)
            # Layers at 16 bit, and the KV cache of attention, have methods too.
            if method is None or re.search(r"Unquantized|KVCache", type(method).__name__):
                continue
            # Compressed-tensors keeps the kernel in a scheme of the layer, the other formats in the method itself.
            scheme = getattr(module, "scheme", None)
            parts = [
                part
                for holder in (method, scheme)
                if holder is not None
                for part in vars(holder).values()
                if _KERNEL.search(type(part).__name__)
            ]
            experts = (getattr(getattr(part, "impl", part), "fused_experts", part) for part in parts)
            names = {type(part).__name__ for part in experts}
            found |= names or {type(scheme or method).__name__}
        return sorted(found)


class VllmEngine:
    """One `vllm.LLM`. Prefix caching is on, for accuracy; the requests of `generate` do not use it."""

    name = "vllm"

    def __init__(
        self,
        fitted: memory.Fitted,
        request: LoadRequest,
        start_again: Callable[[], Any],
        processes: _StartedProcesses,
        *,
        on_cpu: bool,
        is_inexact: bool = False,
    ) -> None:
        import vllm

        config = fitted.engine.llm_engine.vllm_config.model_config
        self.version: str = vllm.__version__
        self.dtype = str(config.dtype).removeprefix("torch.")
        self.max_model_len = int(config.max_model_len)
        self.load_time_s = fitted.seconds
        self.device = "cpu" if on_cpu else "cuda"
        self.notes = (*fitted.notes, _REPACKED) if on_cpu else fitted.notes
        self.kernels = INEXACT_KERNELS if is_inexact else "native"
        self.kernel_error = int8_kernel_error(request.checkpoint) if is_inexact else None
        if is_inexact:
            error = self.kernel_error
            size = "" if error is None else f" (by {100 * error:.1f} %, root mean square)"
            self.notes = (*self.notes, f"{_INEXACT}{size}: {_USE_TRANSFORMERS}")
        self._llm: Any = fitted.engine
        names: list[list[str]] = self._llm.collective_rpc("slim_eval_kernels")
        self.quantized_kernel = tuple(sorted({name for worker in names for name in worker})) or None
        self._request, self._start_again, self._ran_out = request, start_again, False
        # Found now: of a process that dies later, what it had started would no longer be below this one.
        self._log, self._started, self._processes = LogTail(), processes, processes.found()

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once; see `Engine.generate`."""
        from vllm import SamplingParams

        # The prefix cache is on for accuracy; timed requests must each do their own prefill.
        sampling = SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, ignore_eos=ignore_eos, skip_reading_prefix_cache=True
        )
        inputs = [{"prompt_token_ids": list(each)} if isinstance(each, tuple) else each for each in prompts]
        try:
            outputs = self._loaded().generate(inputs, sampling, use_tqdm=False)
        except _failures() as error:
            raise self._stopped(error) from error
        done = []
        for output in outputs:
            completion, metrics = output.outputs[0], output.metrics
            count = len(completion.token_ids)
            ttft_s = decode_s = e2e_s = None
            if metrics is not None and count:
                # ``arrival_time`` is wall clock, the ``_ts`` are monotonic: the two are never mixed.
                ttft_s = float(metrics.first_token_latency)
                between = float(metrics.last_token_ts - metrics.first_token_ts)
                e2e_s, decode_s = ttft_s + between, between if count > 1 else None
            done.append(Generation(len(output.prompt_token_ids), count, completion.text, ttft_s, e2e_s, decode_s))
        return done

    def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of prompt tokens, from vLLM's float32 log-softmax; see `TokenScorer.token_logprobs`."""
        from vllm import SamplingParams

        # With 0, the token itself is the only one per position. A request that reads the prefix cache has none of its
        # prompt's logits.
        sampling = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, skip_reading_prefix_cache=True)
        inputs = [{"prompt_token_ids": list(ids)} for ids in token_ids]
        if getattr(self._loaded().llm_engine.vllm_config.cache_config, "kv_sharing_fast_prefill", False):
            raise EngineError("vLLM has no log-probabilities of prompts with kv_sharing_fast_prefill")  # it would stop
        try:
            outputs = self._loaded().generate(inputs, sampling, use_tqdm=False)
        except _failures() as error:
            raise self._stopped(error) from error
        return [
            [float(found[token].logprob) for token, found in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
            for ids, output in zip(token_ids, outputs, strict=True)
        ]

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

        def total(key: str, unit: int) -> float | None:
            known = [amount for worker in workers if (amount := worker[key]) is not None]
            return sum(known) / unit if known and len(known) == len(workers) else None

        tokens = getattr(cache, "kv_cache_size_tokens", None)  # right for models that mix kinds of layers too
        if tokens is None and cache.num_gpu_blocks:
            tokens = cache.num_gpu_blocks * cache.block_size
        weights_gb, peak_mb, used_mb = total("weights", GIB), total("peak", MIB), total("used", MIB)
        source = None if peak_mb is None else "memory reserved by torch in vLLM's workers"
        if self.device == "cpu":
            weights_gb = memory.served_bytes(self._request.checkpoint, self.dtype) / GIB
            if (resident := memory.resident_memory()) is not None:
                (peak_mb, used_mb), source = resident, "resident memory of vLLM's processes"
        return MemoryReport(
            weights_gb=weights_gb, kv_cache_gb=total("kv_cache", GIB), kv_cache_tokens=tokens,
            peak_mb=peak_mb, source=source, used_mb=used_mb,
        )  # fmt: skip

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own `VLLM` over this same `vllm.LLM`.

        After memory ran out it is another `vllm.LLM`: the engine's process has exited or is in an unknown state.
        """
        if self._ran_out:
            self.close()
            memory.empty_caches()
            self._llm, self._ran_out = self._start_again(), False
            self._log, self._processes = LogTail(), self._started.found()
        model = TranslatingLLM(self._loaded(), _failures(), self._stopped)
        with distribution_named_vllm(self.version):
            from lm_eval.models import vllm_causallms

            # Its adapter builds its model by calling LLM(...); there is no way to pass it one.
            original, vllm_causallms.LLM = vllm_causallms.LLM, lambda **_: model
            try:
                return vllm_causallms.VLLM(
                    pretrained=str(self._request.checkpoint),
                    batch_size=batch_size,
                    max_model_len=self.max_model_len,
                    trust_remote_code=self._request.config.trust_remote_code,
                    tensor_parallel_size=self._request.config.tensor_parallel_size,
                    seed=self._request.seed,
                )
            finally:
                vllm_causallms.LLM = original

    def close(self) -> None:
        """Stop vLLM and wait for its processes; kill those that do not exit."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            _end(self._processes)

    def _stopped(self, error: BaseException) -> EngineError:
        failure = vllm_error(error, self._log.read(), started=True)
        self._ran_out = self._ran_out or memory.is_out_of_memory(failure)
        return failure

    def _loaded(self) -> Any:
        if self._llm is None:
            raise EngineError("the engine is closed")
        return self._llm

    @functools.cached_property
    def _ordinary_tokens(self) -> tuple[int, ...]:
        llm = self._loaded()
        return ordinary_tokens(llm.get_tokenizer(), llm.llm_engine.vllm_config.model_config.get_vocab_size())


def _failures() -> tuple[type[Exception], ...]:
    """What vLLM raises: its own exceptions, those of pydantic's validation, of torch's memory, of dead children."""
    from vllm import exceptions
    from vllm.v1.engine.exceptions import EngineDeadError

    # Until they got a base class, vLLM's refusals were ValueErrors.
    return (ValueError, RuntimeError, OSError, EngineDeadError, getattr(exceptions, "VLLMError", ValueError))


@dataclasses.dataclass(eq=False)
class TranslatingLLM:
    """A `vllm.LLM` for lm-eval; failures of its `generate` are translated, everything else is passed on."""

    _model: Any
    _failures: tuple[type[Exception], ...]
    _translate: Callable[[BaseException], EngineError]

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
    """Give `importlib.metadata.version("vllm")` an answer, `version`, if no distribution has that name.

    lm-eval calls it at import and whenever it builds its adapter, and cannot use the CPU build, whose distribution is
    ``vllm-cpu``, without an answer.
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


class _StartedProcesses:
    """The processes that vLLM started: those below this one since `begin`, with what they started themselves.

    A program that loads an engine may have other children, which may start some of their own: those do not count.
    Children that another thread starts while vLLM loads count as vLLM's.
    """

    def __init__(self) -> None:
        self._before: frozenset[Any] = frozenset()

    def begin(self) -> None:
        """Call it before vLLM starts: what runs then does not count."""
        import psutil

        self._before = frozenset(psutil.Process().children())

    def found(self) -> list[Any]:
        """Those that run now, without Python's resource tracker, which outlives an engine."""
        import psutil

        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child not in self._before and not any("resource_tracker" in part for part in child.cmdline()):
                    found += [child, *child.children(recursive=True)]
        return found

    def clear(self) -> None:
        """Free what an engine that did not start left behind, before the next try."""
        _end(self.found())
        memory.empty_caches()


def _end(processes: Sequence[Any]) -> None:
    """Wait for processes that were told to stop; kill those that do not exit within 15 s."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=15.0)[1]:
        with suppress(psutil.NoSuchProcess):  # it has just exited
            process.kill()


# --- Failures ---
#
# vLLM's engine runs in processes of its own. If one fails, the exception here is only "see root cause above": the cause
# is in what that process wrote to stderr, which executors keep in ``run.log``: `LogTail`.

_MAX_CAUSE = 300

#: Pattern in vLLM's message -> remedy. The first match counts.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"CPU on kv cache|VLLM_CPU_KVCACHE_SPACE", "set VLLM_CPU_KVCACHE_SPACE (GiB) to what the machine has free"),
    (
        r"[Nn]o available memory for the cache blocks",
        "raise --gpu-memory-utilization, or free memory on the GPU (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (
        r"larger than the (?:available|maximum number of tokens that can be stored in) KV cache"
        r"|KV cache is needed|KV cache memory",
        "lower --max-model-len, or raise --gpu-memory-utilization (on a CPU: set VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (r"Error in memory profiling", "other processes used the GPU meanwhile: run again when they have ended"),
    (r"No module named", "install that package, which vLLM needs"),
    (memory.TOO_LARGE_A_SHARE, "lower --gpu-memory-utilization, or stop other processes that use the device"),
    (memory.OUT_OF_MEMORY, "lower --gpu-memory-utilization, --max-model-len or the batch size, or use more GPUs"),
    (
        r"does not support float16|is not supported for quantization method|[Bb]float16 is only supported",
        "choose another type with --dtype",
    ),
    (r"max_model_len \(\d+\) is greater than", "lower --max-model-len to what the model supports"),
    (r"longer than the maximum model length|maximum context length", "raise --max-model-len, or shorten the prompt"),
    (
        r"[Ff]ailed to find a kernel|MoE backend supports|not supported for the current GPU|no attribute 'cpu_gemm",
        "vLLM has no kernel for this precision here: use --engine transformers",
    ),
    (
        r"weights were not initialized from checkpoint",
        "vLLM does not know the names of these weights: use --engine transformers, which accounts for every weight",
    ),
    (
        r"are not supported for now|has no vLLM implementation",
        "vLLM does not know this architecture: use --engine transformers",
    ),
    (r"trust_remote_code|trust-remote-code", "the model contains Python code: add --trust-remote-code if you trust it"),
)

_ERROR_LINE = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore encountered an issue")


def vllm_error(error: BaseException, log: str, *, started: bool) -> EngineError:
    """Translate a failure of vLLM's start, or of a running vLLM.

    The cause is the exception's text or, if it only refers to another process, the error that this one wrote to `log`.
    """
    cause = _one_line(str(error)) or type(error).__name__
    if any(generic in cause for generic in _GENERIC):
        logged = [match[2] for match in _ERROR_LINE.finditer(log)]
        found = [_one_line(text) for text in logged if not any(generic in text for generic in _GENERIC)]
        known = [text for text in found if any(re.search(pattern, text) for pattern, _ in _REMEDIES)]
        cause = next(iter(known or found[-1:]), cause)
    text = f"{cause}\n{error}"
    otherwise = "see its log" if started else "see its log, or try --engine transformers"
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), otherwise)
    return EngineError(f"vLLM {'stopped' if started else 'did not start'}: {cause}", remedy)


def _one_line(text: str) -> str:
    """The first paragraph on one line, without pydantic's decoration, truncated."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:2]
    line = re.sub(r"\s*\[type=.*", "", " ".join(lines[:2]))
    return line if len(line) <= _MAX_CAUSE else f"{line[:_MAX_CAUSE]}..."
