"""The prompts of a benchmark: one text repeated, or random token ids of one length, all different."""

from __future__ import annotations

import random
from collections.abc import Sequence

from slim_eval.config import PerformanceConfig
from slim_eval.engines.engine import Engine, Prompt
from slim_eval.errors import BenchmarkError

#: Leading tokens of a synthetic prompt that count requests; two or three cover any run with any real vocabulary.
_COUNTING_TOKENS = 3


def prompts(engine: Engine, config: PerformanceConfig, iteration: int, batch_size: int, seed: int = 0) -> list[Prompt]:
    """The prompts of one iteration, to be made outside whatever is timed.

    Without `config.input_len` each is `config.prompt`. With it, each is that many random token ids: a function of
    `seed`, `iteration`, the request and the model's vocabulary, so that every precision of a model gets the same ones.
    No two of a run are equal, as far as the vocabulary allows (its size to the power of `input_len`). They differ from
    the first token on, so that not even a cache of common prefixes could help.

    Args:
        engine: Whose vocabulary synthetic prompts are made of.
        config: The kind of prompt.
        iteration: Number of the batch within the run, warm-up included, from 0.
        batch_size: Requests in every batch of the run.
        seed: Of the run.

    Raises:
        BenchmarkError: The tokenizer has no token that a synthetic prompt may be made of.
    """
    if config.input_len is None:
        return [config.prompt] * batch_size
    vocabulary = engine.ordinary_tokens()
    if not vocabulary:
        raise BenchmarkError("the tokenizer has no ordinary tokens for synthetic prompts", "use --prompt")
    return [
        _synthetic(vocabulary, config.input_len, iteration * batch_size + request, f"{seed} {iteration} {request}")
        for request in range(batch_size)
    ]


def _synthetic(vocabulary: Sequence[int], length: int, number: int, seed: str) -> tuple[int, ...]:
    """Prompt `number` of a run: the number itself in tokens, lowest digit first, then random ones."""
    size = len(vocabulary)
    count = min(length, _COUNTING_TOKENS)
    digits = [vocabulary[number // size**place % size] for place in range(count)]
    # Seeded by a text, Python's generator gives the same numbers on every platform.
    return (*digits, *random.Random(seed).choices(vocabulary, k=length - count))
