"""Transformers as an `Engine`: runs everywhere, and serves every checkpoint that llm-compressor writes.

Quantized weights are decompressed and int8 activations are rounded in floating point (compressed-tensors): this has
the numerics of the quantized model, but not its speed or size. A note in every record reports it. On a CPU
``--native-kernels`` keeps int8 and int4 weights packed instead, see `aten`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from slim_eval.config import EngineConfig
from slim_eval.engines import memory
from slim_eval.engines.engine import (
    ENGINES,
    Capabilities,
    EngineType,
    Generation,
    LoadRequest,
    MemoryReport,
    Prompt,
    cpu_flags,
    ordinary_tokens,
)
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, UsageError
from slim_eval.models import architectures, loading
from slim_eval.models.source import ConfigFacts, describe
from slim_eval.schemes import scheme_of
from slim_eval.utils import GIB, MIB

_EMULATED = (
    "Transformers emulates quantized kernels in floating point: accuracy carries over to a deployment, speed and "
    "memory do not"
)
_ENGINE_GB = 0.4  # GiB of memory that torch and Transformers take before a model is loaded


class Transformers(EngineType):
    """Hugging Face Transformers on one GPU or the CPU."""

    name = "transformers"
    label = "Transformers"
    modules = ("torch", "transformers")
    settings = frozenset({"dtype", "native_kernels"})
    capabilities = Capabilities(lm_eval_unread=1)
    quantized_kernels = "emulated"
    is_fallback = True
    auto_rank = 1
    own_formats = frozenset[str]()

    def knows(self, facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
        """Whether Transformers has a causal language model of this type; see `EngineType.knows`."""
        return architectures.transformers_knows(facts, python, trust_remote_code=trust_remote_code)

    def check(self, config: EngineConfig) -> None:
        """Refuse more than one GPU; see `EngineType.check`."""
        if config.tensor_parallel_size > 1:
            raise UsageError(
                f"the Transformers engine uses one GPU, not {config.tensor_parallel_size}",
                "use --engine vllm, or leave --tensor-parallel-size at 1",
            )

    def load(self, request: LoadRequest) -> TransformersEngine:
        """Load a checkpoint onto the first visible GPU, or onto the CPU without one."""
        config = request.config
        self.check(config)
        try:
            import torch
            from transformers import AutoTokenizer, set_seed

            facts = describe(request.checkpoint)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            served = scheme_of(request.precision)
            dtype = self.computing_dtype(config.asked_dtype, facts, served, on_cpu=device == "cpu")
            weights = memory.served_bytes(request.checkpoint, dtype, unpacked=True)
            if device == "cuda":
                memory.require_on_gpus(weights, 1)
            else:
                memory.require_in_ram(weights, _ENGINE_GB)
            path, trust = str(request.checkpoint), config.trust_remote_code
            options = {"dtype": dtype, "device_map": device, **config.further_args}
            start = time.perf_counter()
            set_seed(request.seed)
            try:
                tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
                model = loading.load(request.checkpoint, trust_remote_code=trust, **options)
                native, notes = (
                    _native_kernels(model, device) if config.native_kernels and facts.is_quantized else ((), ())
                )
                engine = TransformersEngine(
                    model, tokenizer, request, quantized=facts.is_quantized, native=native, notes=notes
                )
                # A compressed checkpoint is decompressed by its first forward pass, which belongs to loading.
                engine.generate(["."], max_new_tokens=1)
            except (OSError, ValueError, RuntimeError, MemoryError, EngineError) as error:
                ran_out = memory.is_out_of_memory(error)
                if isinstance(error, EngineError) and not ran_out:
                    raise
                failure = _translate(error, "Transformers did not load the model")
                if ran_out:
                    failure = EngineError(
                        f"{failure.cause}; {memory.situation(weights, 1, on_cpu=device == 'cpu')}",
                        "serve a smaller model, or --engine vllm, which keeps int8 and int4 packed",
                    )
                raise failure from error
        except ImportError as error:
            if error.name is None:  # Transformers' own report of a package that this checkpoint needs
                cause, remedy = f"Transformers did not load the model: {loading.reason(error)}", loading.remedy(error)
                raise EngineError(cause, remedy) from error
            raise MissingPackageError(error.name, "serving this model", INSTALL) from error
        engine.load_time_s = time.perf_counter() - start
        return engine


TRANSFORMERS = ENGINES.register(Transformers())


def _native_kernels(model: Any, device: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Let ATen's kernels compute a quantized model: their names; or none, and a note that says why."""
    if device != "cpu":
        return (), ("--native-kernels: there are kernels for CPUs alone",)
    from slim_eval.engines import aten

    try:
        return aten.replace_layers(model, cpu_flags()), ()
    except aten.NoKernelError as error:
        return (), (f"--native-kernels: {error}",)


class TransformersEngine:
    """One model and its tokenizer; the requests of a batch run in lockstep, padded on the left."""

    name = "transformers"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        request: LoadRequest,
        *,
        quantized: bool,
        native: tuple[str, ...] = (),  # names of ATen's kernels, if it is computed by them
        notes: tuple[str, ...] = (),
    ) -> None:
        import transformers

        self.version: str = transformers.__version__
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.max_model_len = request.max_model_len
        self.device: str = model.device.type
        self.quantized_kernel = native or None
        is_emulated = quantized and not native
        self.kernels: str = TRANSFORMERS.quantized_kernels if is_emulated else "native"
        self.load_time_s = 0.0
        self.notes: tuple[str, ...] = (*notes, _EMULATED) if is_emulated else notes
        self._model: Any = model
        self._tokenizer = tokenizer

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once; see `Engine.generate`."""
        import torch
        from transformers import GenerationConfig

        model, tokenizer = self._loaded(), self._tokenizer
        start = time.perf_counter()
        encoded = [self._encode(prompt) for prompt in prompts]
        longest = max(map(len, encoded))
        if longest + max_new_tokens > self.max_model_len:
            raise EngineError(
                f"a prompt of {longest} tokens and {max_new_tokens} new tokens exceed the context window of "
                f"{self.max_model_len}",
                "raise --max-model-len, or shorten the prompt",
            )
        own, eos = model.generation_config, set[int]()
        if not ignore_eos:
            configured = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
            eos = {token for token in (*configured, tokenizer.eos_token_id) if token is not None}
        # Without a padding token any other works: padded positions are masked.
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        pad_id = next((token for token in known if token is not None), 0)
        padded = [[pad_id] * (longest - len(tokens)) + tokens for tokens in encoded]
        mask = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in encoded]
        # Not the model's own settings, such as a repetition penalty; they are restored afterwards, for lm-eval.
        model.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens,  # exactly as many without an end-of-sequence token
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(eos) or None,
            pad_token_id=pad_id,
        )
        clock = _TokenClock()
        try:
            ids, attention = torch.tensor(padded, device=model.device), torch.tensor(mask, device=model.device)
            rows = model.generate(input_ids=ids, attention_mask=attention, streamer=clock)[:, longest:].tolist()
        except (RuntimeError, ValueError, MemoryError) as error:
            raise _translate(error, "Transformers stopped") from error
        finally:
            model.generation_config = own
        times = [stamp - start for stamp in clock.stamps[1:]]  # the first call hands over the prompt
        done = []
        for tokens, row in zip(encoded, rows, strict=True):
            # A request's own tokens: the batch continues until its last request has ended.
            count = next((index + 1 for index, token in enumerate(row) if token in eos), len(row))
            text = tokenizer.decode(row[:count], skip_special_tokens=True)
            decode_s = times[count - 1] - times[0] if count > 1 else None
            done.append(Generation(len(tokens), count, text, times[0], times[count - 1], decode_s))
        return done

    def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of prompt tokens, one forward pass per text; see `TokenScorer.token_logprobs`."""
        return loading.token_logprobs(self._loaded(), token_ids)

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens in a prompt; see `Engine.count_tokens`."""
        return len(self._encode(prompt))

    def ordinary_tokens(self) -> Sequence[int]:
        """Token ids for synthetic prompts; see `Engine.ordinary_tokens`."""
        return self._ordinary_tokens

    def memory(self) -> MemoryReport:
        """Weights as loaded and the peak of the process; Transformers reserves no KV cache. See `Engine.memory`."""
        import torch

        model = self._loaded()
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in (*model.parameters(), *model.buffers())
        }
        peak = used = source = None
        if model.device.type == "cuda":
            peak, used = torch.cuda.max_memory_reserved() / MIB, torch.cuda.memory_reserved() / MIB
            source = "memory reserved by torch"
        elif (resident := memory.resident_memory()) is not None:
            (peak, used), source = resident, "resident memory of the process"
        return MemoryReport(weights_gb=sum(storages.values()) / GIB, peak_mb=peak, source=source, used_mb=used)

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own `HFLM` over this same model."""
        from lm_eval.models.huggingface import HFLM
        from transformers import GenerationConfig

        model, own = self._loaded(), self._loaded().generation_config
        # Answers are greedy, as vLLM's are: without the model's own settings, such as a repetition penalty.
        tokens = {key: getattr(own, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)
        # HFLM ties the head to the embeddings once more, which would overwrite a head of its own in the checkpoint.
        model.tie_weights = lambda *_, **__: None
        try:
            return HFLM(
                pretrained=model, tokenizer=self._tokenizer, batch_size=batch_size, max_length=self.max_model_len,
                softmax_dtype="float32",  # in 16 bit choices tie and small differences vanish
            )  # fmt: skip
        finally:
            del model.tie_weights

    def close(self) -> None:
        """Release the model; its memory is free when the process ends at the latest."""
        self._model = None

    def _loaded(self) -> Any:
        if self._model is None:
            raise EngineError("the engine is closed")
        return self._model

    @cached_property
    def _ordinary_tokens(self) -> tuple[int, ...]:
        return ordinary_tokens(self._tokenizer, self._loaded().get_input_embeddings().weight.shape[0])

    def _encode(self, prompt: Prompt) -> list[int]:
        return list(prompt if isinstance(prompt, tuple) else self._tokenizer(prompt)["input_ids"])


class _TokenClock:
    """A streamer: `generate` calls it with the prompt, then with each step's tokens, copied to the CPU.

    The copy waits for the GPU, so a stamp is the time when the tokens are there, not when the kernels were queued.
    """

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: Any) -> None:
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Part of the streamer interface; there is nothing to flush."""


def _translate(error: BaseException, what: str) -> EngineError:
    text = " ".join(str(error).split()) or type(error).__name__
    if memory.is_out_of_memory(error):
        short = memory.shortage(error)
        cause = f"{what}: out of memory" + (f", {short}" if short else "")
        return EngineError(cause, "lower --batch-size or --max-new-tokens, or use a larger device")
    if "trust_remote_code" in text:
        return EngineError(f"{what}: it contains Python code", "add --trust-remote-code if you trust it")
    return EngineError(f"{what}: {text[:300]}", "see the log")
