"""A plugin with one engine: it echoes its prompt, one word per token, and needs no package."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from slim_eval.config import EngineConfig
from slim_eval.engines import ENGINES, Capabilities, EngineType, Generation, LoadRequest, MemoryReport, Prompt
from slim_eval.errors import UsageError
from slim_eval.models.source import describe
from slim_eval.utils import GIB

_TOKEN_S = 0.0005


class Echo:
    """A loaded model that is never read."""

    name = "echo"
    version = "1.0"
    dtype = "bfloat16"
    device = "cpu"
    kernels = "native"
    load_time_s = 0.0
    notes = ("an echo, not a model",)

    def __init__(self, request: LoadRequest) -> None:
        self.max_model_len = request.max_model_len
        self._weights_gb = describe(request.checkpoint).weight_bytes / GIB

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Return each prompt, cut or repeated to the requested length."""
        start = time.perf_counter()
        time.sleep(_TOKEN_S)
        first = time.perf_counter() - start
        time.sleep(_TOKEN_S * (max_new_tokens - 1))
        end = time.perf_counter() - start
        return [
            Generation(self.count_tokens(prompt), max_new_tokens, str(prompt), first, end, end - first)
            for prompt in prompts
        ]

    def count_tokens(self, prompt: Prompt) -> int:
        """Words of a text."""
        return len(prompt.split()) if isinstance(prompt, str) else len(prompt)

    def ordinary_tokens(self) -> Sequence[int]:
        """A vocabulary of 100 tokens."""
        return range(100)

    def memory(self) -> MemoryReport:
        """The weights on disk."""
        return MemoryReport(weights_gb=self._weights_gb)

    def lm_eval_model(self, batch_size: int) -> Any:
        """There is no adapter, as `EchoType.capabilities` declares."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


class EchoType(EngineType):
    """The engine for ``--engine echo``."""

    name = "echo"
    label = "Echo"
    settings = frozenset({"enforce_eager"})
    capabilities = Capabilities(token_logprobs=False, lm_eval=False)

    def check(self, config: EngineConfig) -> None:
        """Refuse every engine argument."""
        if config.engine_args:
            raise UsageError("Echo has no engine arguments", "leave --engine-arg out")

    def load(self, request: LoadRequest) -> Echo:
        """Load nothing."""
        return Echo(request)


ENGINES.register(EchoType())
