"""An engine that keeps to a plan: its times are known beforehand, so what is measured over it can be checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from slim_eval.engines.base import Generation, MemoryReport
from slim_eval.errors import EngineError


class PlannedEngine:
    """Takes `ttft_s` + (n - 1) x `tpot_s` for a batch of any size, and says so; one token a word.

    Args:
        ttft_s: Time to first token, seconds.
        tpot_s: Time per further token, seconds.
        on_load: Told True when a batch begins and False when it ends, as a device's power would follow.
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
        on_load: Callable[[bool], None] | None = None,
        fail_after: int | None = None,
        stops_at: int | None = None,
    ) -> None:
        self.ttft_s, self.tpot_s = ttft_s, tpot_s
        self._on_load, self._fail_after, self._stops_at = on_load, fail_after, stops_at
        self.batches: list[tuple[str, ...]] = []
        self.closed = False

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Sleep as long as planned; every request of the batch has the same times."""
        if self._fail_after is not None and len(self.batches) >= self._fail_after:
            raise EngineError("the planned engine stopped as planned")
        self.batches.append(tuple(prompts))
        tokens = min(max_new_tokens, self._stops_at or max_new_tokens)
        decode_s = (tokens - 1) * self.tpot_s
        if self._on_load:
            self._on_load(True)
        time.sleep(self.ttft_s + decode_s)
        if self._on_load:
            self._on_load(False)
        e2e_s, text = self.ttft_s + decode_s, "word " * tokens
        decode = decode_s if tokens > 1 else None
        return [Generation(self.count_tokens(prompt), tokens, text, self.ttft_s, e2e_s, decode) for prompt in prompts]

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def memory(self) -> MemoryReport:
        """Nothing is known of it."""
        return MemoryReport()

    def lm_eval_model(self, batch_size: int) -> Any:
        """It cannot answer questions."""
        raise EngineError("the planned engine has no lm-eval adapter")

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
