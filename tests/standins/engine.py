"""An engine with planned times: what is measured over it can be checked against them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from slim_eval.engines.engine import Generation, MemoryReport, Prompt
from slim_eval.errors import EngineError


class PlannedClock:
    """A clock that only a planned engine advances: hours are simulated exactly, in no time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now_s += seconds


class PlannedEngine:
    """Takes `ttft_s` + (n - 1) x `tpot_s` seconds for a batch of any size; one token per word.

    Args:
        ttft_s: Time to first token, seconds.
        tpot_s: Time per further token, seconds.
        clock: Advanced instead of sleeping; pass it to the benchmark too. None sleeps.
        jitter: Standard deviation of the logarithm of a factor of mean 1 on all times of a batch; 0 for none.
        seed: Of the jitter.
        factor: Further factor on the times of a batch by its number from 0, such as a slow start.
        on_load: Called with True when a batch begins and with False when it ends, as a device's power would follow.
        fail_after: Batches after which it stops with an `EngineError`; None for never.
        stops_at: Tokens after which it stops although `ignore_eos` is on, as a faulty engine would.
    """

    name = "planned"
    version = "1"
    dtype = "float32"
    kernels = "native"
    device = "cpu"
    max_model_len = 4096
    load_time_s = 0.0
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        ttft_s: float = 0.01,
        tpot_s: float = 0.001,
        *,
        clock: PlannedClock | None = None,
        jitter: float = 0.0,
        seed: int = 0,
        factor: Callable[[int], float] = lambda batch: 1.0,
        on_load: Callable[[bool], None] | None = None,
        fail_after: int | None = None,
        stops_at: int | None = None,
    ) -> None:
        self.ttft_s, self.tpot_s = ttft_s, tpot_s
        self._sleep = clock.sleep if clock else time.sleep
        self._jitter, self._random, self._factor = jitter, random.Random(seed), factor
        self._on_load, self._fail_after, self._stops_at = on_load, fail_after, stops_at
        self.batches: list[tuple[Prompt, ...]] = []
        self.closed = False

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate in the planned time; every request of the batch has the same times."""
        if self._fail_after is not None and len(self.batches) >= self._fail_after:
            raise EngineError("the planned engine stopped as planned")
        factor = self._factor(len(self.batches)) * self._noise()
        self.batches.append(tuple(prompts))
        tokens = min(max_new_tokens, self._stops_at or max_new_tokens)
        ttft_s, decode_s = self.ttft_s * factor, (tokens - 1) * self.tpot_s * factor
        if self._on_load:
            self._on_load(True)
        self._sleep(ttft_s + decode_s)
        if self._on_load:
            self._on_load(False)
        e2e_s, text = ttft_s + decode_s, "word " * tokens
        decode = decode_s if tokens > 1 else None
        return [Generation(self.count_tokens(prompt), tokens, text, ttft_s, e2e_s, decode) for prompt in prompts]

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of words, or of token ids."""
        return len(prompt) if isinstance(prompt, tuple) else len(prompt.split())

    def ordinary_tokens(self) -> Sequence[int]:
        """A hundred token ids."""
        return range(3, 103)

    def memory(self) -> MemoryReport:
        """An empty report."""
        return MemoryReport()

    def lm_eval_model(self, batch_size: int) -> Any:
        """Raise: it has no adapter."""
        raise EngineError("the planned engine has no lm-eval adapter")

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True

    def _noise(self) -> float:
        """A log-normal factor of mean 1."""
        return math.exp(self._random.gauss(-(self._jitter**2) / 2, self._jitter)) if self._jitter else 1.0
