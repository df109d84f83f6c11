"""The seam between benchmarks and inference engines: what an engine can be asked, and what it answers.

A benchmark sees an `Engine` and nothing else of vLLM or Transformers. Times are differences on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slim_eval.config import EngineConfig

#: What a request asks: a text, or token ids that the engine takes as they are, without adding special tokens.
Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class LoadRequest:
    """What an engine is to load, and how.

    Attributes:
        checkpoint: Folder of the model, quantized or not.
        config: The engine's options.
        max_model_len: Context window in tokens; what `config` asks for, lowered to what the model holds.
        seed: Seed of the engine; generation is greedy, so it changes nothing that is measured.
    """

    checkpoint: Path
    config: EngineConfig
    max_model_len: int
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """One finished request.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens generated.
        text: The generated text.
        ttft_s: Submission to first output token, seconds; in a batch it includes queueing. None where unknown.
        e2e_s: Submission to last output token, seconds. None where unknown.
        decode_s: First to last output token, seconds. None where unknown or where there is one token.
    """

    prompt_tokens: int
    output_tokens: int
    text: str
    ttft_s: float | None
    e2e_s: float | None
    decode_s: float | None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, seconds: vLLM's definition. None below two tokens."""
        if self.decode_s is None or self.output_tokens < 2:
            return None
        return self.decode_s / (self.output_tokens - 1)


@dataclass(frozen=True)
class MemoryReport:
    """Memory of a loaded engine; None where the engine cannot tell.

    Attributes:
        weights_gb: Weights as loaded, GiB.
        kv_cache_gb: KV cache reserved, GiB.
        kv_cache_tokens: Tokens that the KV cache holds.
        peak_mb: Peak of the serving process(es) since the engine started, MiB.
        source: How `peak_mb` and `used_mb` were read.
        used_mb: Held by the serving process(es) now, MiB.
    """

    weights_gb: float | None = None
    kv_cache_gb: float | None = None
    kv_cache_tokens: int | None = None
    peak_mb: float | None = None
    source: str | None = None
    used_mb: float | None = None


def ordinary_tokens(tokenizer: Any, embeddings: int) -> tuple[int, ...]:
    """`Engine.ordinary_tokens` of a tokenizer of Transformers or vLLM.

    Args:
        tokenizer: Says its vocabulary, special and added tokens.
        embeddings: Rows of the model's embedding table; a tokenizer may know more tokens than it has.
    """
    control = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return tuple(sorted({token for token in tokenizer.get_vocab().values() if token < embeddings} - control))


class Engine(Protocol):
    """A loaded model that generates. Made by `slim_eval.engines.load`; closed by whoever loaded it.

    Attributes:
        name: ``vllm`` or ``transformers``.
        version: Version of the engine.
        dtype: Of weights and activations as loaded, e.g. ``bfloat16``.
        device: What computes: ``cuda`` or ``cpu``.
        kernels: ``native``, or ``emulated`` where quantized arithmetic is imitated in 16 bit.
        max_model_len: Context window in tokens.
        load_time_s: From start to ready, seconds.
        notes: What a reader of its numbers must know, one line each.
    """

    name: str
    version: str
    dtype: str
    device: str
    kernels: str
    max_model_len: int
    load_time_s: float
    notes: tuple[str, ...]

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Generate greedily for all prompts at once, without reuse of cached prefixes.

        Args:
            prompts: One a request.
            max_new_tokens: Tokens a request; exactly as many with `ignore_eos`.
            ignore_eos: Go on after the end-of-sequence token, so that all precisions do the same work.

        Raises:
            EngineError: The engine stopped, or ran out of memory.
        """
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt as this engine sees it; of a text, special tokens included."""
        ...

    def ordinary_tokens(self) -> Sequence[int]:
        """Token ids that a synthetic prompt may be made of, ascending: the same ones at every precision of a model.

        Those of the tokenizer's own vocabulary that the model has an embedding for, without special and other added
        tokens, which may control the model.
        """
        ...

    def memory(self) -> MemoryReport:
        """Memory now known; never raises for want of information."""
        ...

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own adapter (an `lm_eval.api.model.LM`) over the same loaded weights."""
        ...

    def close(self) -> None:
        """Stop the engine and its processes."""
        ...
