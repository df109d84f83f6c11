"""Transformers as an `Engine`: runs everywhere, and all that llm-compressor writes. The only importer of its models.

Quantized weights are decompressed and int8 activations are rounded in 16-bit arithmetic (compressed-tensors): the
numerics of the quantized model, at a speed and size that say nothing about it. `notes` says so.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from slim_eval.config import EngineConfig
from slim_eval.engines import fitting, room
from slim_eval.engines.engine import Generation, LoadRequest, MemoryReport, Prompt, ordinary_tokens
from slim_eval.engines.memory import resident_memory, unpacked_bytes
from slim_eval.errors import INSTALL, EngineError, MissingPackageError, UsageError
from slim_eval.models.source import describe
from slim_eval.utils import GIB, MIB

_EMULATED = (
    "Transformers emulates the quantized kernels in 16 bit: its speed and memory at int8 and int4 say nothing about a "
    "deployment; its accuracy does"
)
_OUT_OF_MEMORY = "lower --batch-size or --max-new-tokens, or use a larger device"

#: GiB of memory that torch and Transformers take before a model is loaded.
_ENGINE_GB = 0.4
_LOAD_FAILURES = (OSError, ValueError, RuntimeError)


def check(config: EngineConfig) -> None:
    """Refuse what this engine cannot do.

    Raises:
        UsageError: More than one GPU was asked for.
    """
    if config.tensor_parallel_size > 1:
        raise UsageError(
            f"the Transformers engine uses one GPU, not {config.tensor_parallel_size}",
            "use --engine vllm, or leave --tensor-parallel-size at 1",
        )


def load(request: LoadRequest) -> TransformersEngine:
    """Load a checkpoint onto the first visible GPU, or the CPU where there is none.

    Raises:
        EngineError: There is no room for it, or it does not load; cause and remedy.
        MissingPackageError: A package that the checkpoint needs is not installed.
    """
    config = request.config
    check(config)
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    except ImportError as error:
        raise _missing(error) from error
    facts = describe(request.checkpoint)
    weights = unpacked_bytes(request.checkpoint)
    if torch.cuda.is_available():
        room.require_on_gpus(weights, 1)
    else:
        room.require_in_ram(weights, _ENGINE_GB)
    path, trust = str(request.checkpoint), config.trust_remote_code
    start = time.perf_counter()
    set_seed(request.seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, facts.dtype),
            device_map="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=trust,
            **config.engine_args,
        ).eval()
        engine = TransformersEngine(model, tokenizer, request, quantized=facts.is_quantized)
        # A compressed checkpoint is decompressed by its first forward pass: that belongs to loading.
        engine.generate(["."], max_new_tokens=1)
    except ImportError as error:
        raise _missing(error) from error
    except (*_LOAD_FAILURES, MemoryError, EngineError) as error:
        raise _load_error(error, weights, on_cpu=not torch.cuda.is_available()) from error
    engine.load_time_s = time.perf_counter() - start
    return engine


def kernels(*, quantized: bool) -> str:
    """How arithmetic is done here: Transformers imitates quantized kernels in 16 bit."""
    return "emulated" if quantized else "native"


class TransformersEngine:
    """One model and its tokenizer; requests of a batch run in step, padded on the left."""

    name = "transformers"

    def __init__(self, model: Any, tokenizer: Any, request: LoadRequest, *, quantized: bool) -> None:
        import transformers

        self.version: str = transformers.__version__
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.max_model_len = request.max_model_len
        self.device: str = model.device.type
        self.kernels = kernels(quantized=quantized)
        self.load_time_s = 0.0
        self.notes: tuple[str, ...] = (_EMULATED,) if quantized else ()
        self._model: Any = model
        self._tokenizer = tokenizer
        # Where a tokenizer has no padding token any will do: padded positions are masked.
        self._pad_id = next(
            (i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) if i is not None), 0
        )

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once; see `Engine.generate`."""
        model = self._loaded()
        start = time.perf_counter()
        encoded = [self._encode(prompt) for prompt in prompts]
        longest = max(map(len, encoded))
        if longest + max_new_tokens > self.max_model_len:
            raise EngineError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the context window of "
                f"{self.max_model_len}",
                "raise --max-model-len, or shorten the prompt",
            )
        clock = _TokenClock()
        eos = set() if ignore_eos else _eos_ids(model, self._tokenizer)
        try:
            with _plain_settings(model, max_new_tokens, sorted(eos), self._pad_id):
                rows = model.generate(**self._batch(encoded, longest), streamer=clock)[:, longest:].tolist()
        except (RuntimeError, ValueError, MemoryError) as error:
            raise _translate(error, "Transformers stopped") from error
        times = [stamp - start for stamp in clock.stamps[1:]]  # the first call hands over the prompt
        return [
            self._generation(len(tokens), _up_to_eos(row, eos), times)
            for tokens, row in zip(encoded, rows, strict=True)
        ]

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt; see `Engine.count_tokens`."""
        return len(self._encode(prompt))

    def ordinary_tokens(self) -> Sequence[int]:
        """What a synthetic prompt may be made of; see `Engine.ordinary_tokens`."""
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
        elif (resident := resident_memory()) is not None:
            peak, used, source = resident.peak_mb, resident.used_mb, "resident memory of the process"
        return MemoryReport(weights_gb=sum(storages.values()) / GIB, peak_mb=peak, source=source, used_mb=used)

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own `HFLM` over this very model."""
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=self._loaded(),
            tokenizer=self._tokenizer,
            batch_size=batch_size,
            max_length=self.max_model_len,
        )

    def close(self) -> None:
        """Let go of the model; its memory is free when the process ends at the latest."""
        self._model = None

    def _loaded(self) -> Any:
        if self._model is None:
            raise EngineError("the engine is closed")
        return self._model

    @functools.cached_property
    def _ordinary_tokens(self) -> tuple[int, ...]:
        return ordinary_tokens(self._tokenizer, self._loaded().get_input_embeddings().weight.shape[0])

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, tuple):
            return list(prompt)
        tokens: list[int] = self._tokenizer(prompt)["input_ids"]
        return tokens

    def _batch(self, encoded: list[list[int]], longest: int) -> dict[str, Any]:
        import torch

        padded = [[self._pad_id] * (longest - len(tokens)) + tokens for tokens in encoded]
        mask = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in encoded]
        device = self._loaded().device
        return {
            "input_ids": torch.tensor(padded, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _generation(self, prompt_tokens: int, tokens: list[int], times: list[float]) -> Generation:
        last = times[len(tokens) - 1]
        return Generation(
            prompt_tokens=prompt_tokens,
            output_tokens=len(tokens),
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            ttft_s=times[0],
            e2e_s=last,
            decode_s=last - times[0] if len(tokens) > 1 else None,
        )


class _TokenClock:
    """A streamer: `generate` calls it with the prompt, then with each step's tokens, brought to the CPU.

    That copy waits for the GPU, so a stamp is taken when the tokens are there, not when the kernels were queued.
    """

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: Any) -> None:
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to flush."""


@contextmanager
def _plain_settings(model: Any, max_new_tokens: int, eos: list[int], pad_id: int) -> Iterator[None]:
    """Greedy generation with nothing else that the model's own settings ask for, such as a repetition penalty.

    They are put back afterwards: lm-eval is to find them as its own command would. Without an end-of-sequence token
    `generate` runs to exactly `max_new_tokens`.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, use_cache=True, eos_token_id=eos or None, pad_token_id=pad_id
    )
    try:
        yield
    finally:
        model.generation_config = own


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {token for token in (*ids, tokenizer.eos_token_id) if token is not None}


def _up_to_eos(tokens: list[int], eos: set[int]) -> list[int]:
    """A request's own tokens: a batch goes on until its last request has ended."""
    end = next((index + 1 for index, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[:end]


def _missing(error: ImportError) -> MissingPackageError:
    name = error.name or ("compressed-tensors" if "compressed" in str(error) else "transformers")
    return MissingPackageError(name, "serving this model", INSTALL)


def _load_error(error: BaseException, weight_bytes: int, *, on_cpu: bool) -> EngineError:
    """Why the model did not load; where memory ran out, with what it takes and what is free."""
    if isinstance(error, EngineError) and not fitting.is_out_of_memory(error):
        return error
    translated = _translate(error, "Transformers did not load the model")
    if not fitting.is_out_of_memory(error):
        return translated
    return EngineError(
        f"{translated.cause}; {room.situation(weight_bytes, 1, on_cpu=on_cpu)}",
        "serve a smaller model, or --engine vllm, which keeps int8 and int4 packed",
    )


def _translate(error: BaseException, what: str) -> EngineError:
    text = " ".join(str(error).split()) or type(error).__name__
    if fitting.is_out_of_memory(error):
        short = fitting.shortage(error)
        return EngineError(f"{what}: out of memory" + (f", {short}" if short else ""), _OUT_OF_MEMORY)
    if "trust_remote_code" in text:
        return EngineError(f"{what}: it brings code of its own", "if you trust it: --trust-remote-code")
    return EngineError(f"{what}: {text[:300]}", "see the log")
