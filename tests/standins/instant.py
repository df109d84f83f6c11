"""A plugin with the engine ``instant``: made-up answers at once, from a worker that imports neither torch nor a model.

For tests of what goes on around an engine. Starting a real one takes ten seconds of imports. ``INSTANT_DEVICE`` is the
device that it says it is on; ``INSTANT_ANSWER_S`` the seconds that it takes for an answer of an accuracy task.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from slim_eval.engines import ENGINES, Capabilities, EngineType, Generation, LoadRequest, MemoryReport, Prompt
from slim_eval.engines.server import MODEL, PORT, Server
from slim_eval.errors import EngineError
from slim_eval.models.source import describe
from slim_eval.utils import GIB

_TOKEN_S = 0.0002
_ANSWER_S = float(os.environ.get("INSTANT_ANSWER_S", "0"))


class Instant:
    """A loaded model that is never read."""

    name = "instant"
    version = "1.0"
    dtype = "bfloat16"
    device = os.environ.get("INSTANT_DEVICE", "cpu")
    kernels = "native"
    load_time_s = 0.0
    notes: tuple[str, ...] = ()

    def __init__(self, request: LoadRequest) -> None:
        self.max_model_len = request.max_model_len
        self._weights_gb = describe(request.checkpoint).weight_bytes / GIB

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Return as many words as asked for; the batch takes 0.2 ms per token of one request."""
        start = time.perf_counter()
        time.sleep(_TOKEN_S)
        first = time.perf_counter() - start
        time.sleep(_TOKEN_S * (max_new_tokens - 1))
        end = time.perf_counter() - start
        text = " ".join(["word"] * max_new_tokens)
        return [
            Generation(self.count_tokens(prompt), max_new_tokens, text, first, end, end - first) for prompt in prompts
        ]

    def count_tokens(self, prompt: Prompt) -> int:
        """Words of a text, or token ids."""
        return len(prompt.split()) if isinstance(prompt, str) else len(prompt)

    def ordinary_tokens(self) -> Sequence[int]:
        """A vocabulary of 100 tokens."""
        return range(100)

    def memory(self) -> MemoryReport:
        """The weights on disk."""
        return MemoryReport(weights_gb=self._weights_gb)

    def lm_eval_model(self, batch_size: int) -> Any:
        """An adapter whose answers depend on the request alone."""
        from lm_eval.api.model import LM

        class Answers(LM):
            def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
                answers = [(-1.0 - crc32("".join(request.args).encode()) % 1000 / 100, False) for request in requests]
                for request, answer in zip(requests, answers, strict=True):
                    time.sleep(_ANSWER_S)
                    self.cache_hook.add_partial("loglikelihood", request.args, answer)
                return answers

            def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
                return [-float(len(request.args[0])) for request in requests]

            def generate_until(self, requests: Sequence[Any]) -> list[str]:
                texts = [f"The answer is {crc32(request.args[0].encode()) % 10}." for request in requests]
                for request, text in zip(requests, texts, strict=True):
                    time.sleep(_ANSWER_S)
                    self.cache_hook.add_partial("generate_until", request.args, text)
                return texts

        return Answers()

    def close(self) -> None:
        """Nothing is open."""


class InstantServer(Instant):
    """The server of `tests.standins.completions`, with the plan that ``INSTANT_SERVER`` contains as JSON.

    A plan per precision is below its name.
    """

    is_ours = True

    def __init__(self, request: LoadRequest) -> None:
        super().__init__(request)
        plan = json.loads(os.environ.get("INSTANT_SERVER", "{}"))
        script = str(Path(__file__).with_name("completions.py"))
        text = json.dumps(plan.get(request.precision, plan))
        self._server = Server([sys.executable, script, text, PORT, MODEL], model="stand-in")
        self._server.__enter__()
        self.endpoint, self.load_time_s = self._server.endpoint, self._server.load_time_s

    def ended(self) -> EngineError | None:
        """Why it has exited."""
        return None if self._server.alive() else self._server.stopped()

    def close(self) -> None:
        """End it."""
        self._server.close()


class InstantType(EngineType):
    """The engine for ``--engine instant``."""

    name = "instant"
    label = "Instant"
    quantized_kernels = "emulated"  # so that it serves every scheme
    capabilities = Capabilities(serving=True)

    def load(self, request: LoadRequest) -> Instant:
        """Load nothing."""
        return Instant(request)

    def serve(self, request: LoadRequest) -> InstantServer:
        """Start a server that has no model."""
        return InstantServer(request)


ENGINES.register(InstantType())
