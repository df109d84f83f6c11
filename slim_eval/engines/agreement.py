"""The receipt of kernels: log-probabilities of a fixed text as served, against a reference of the same checkpoint.

Quantization stores the reference beside a checkpoint: those of its source, and its own with emulated arithmetic. Each
worker asks the loaded engine for the same tokens once, before the benchmarks (decision 035).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from slim_eval.engines.engine import Engine, TokenScorer
from slim_eval.errors import EngineError
from slim_eval.models import loading
from slim_eval.models.source import describe
from slim_eval.results.records import KernelReceipt
from slim_eval.utils import number, safe_json, write_text

#: Beside a quantized checkpoint.
REFERENCE_FILE = "reference_logprobs.json"
_EXCERPT = 128  # tokens that are scored together
_MAX_TOKENS = 512  # in all: a tokenizer of bytes has four times as many
_SHORTEST = 8  # tokens of an excerpt; a context window that does not even hold these gives no receipt
_DIGITS = 5  # after the decimal point, of nats
#: A served model that leaves more than this share of the reference's variation from token to token unexplained, and
#: differs by more than rounding at 16 bit, is another model. Saturating kernels left 2 %; random weights leave all.
MAX_UNEXPLAINED = 0.5
_OTHERWISE = "measure it with --engine transformers, or at 16 bit: the kernels or the weights of this engine are wrong"
_ROUNDING = 0.1  # nats per token: twice what engines differ by at 16 bit (decision 026)

#: Prose, facts, arithmetic and code: what models and their quantization meet. Never change it: every variant of a model
#: is compared on the same tokens.
TEXT = '''\
The harbour was quiet when the ferry came in. Two fishermen were mending their nets on the quay, and a dog slept
between the crates. "You are late," said the older man, without looking up. "The wind turned at noon," answered
the captain, "and we had to go round the island." Nobody asked him anything else. By six o'clock the passengers
had gone, the lamps were lit along the street, and rain began to fall on the roofs of the town.

Water is a molecule of two hydrogen atoms and one oxygen atom. At sea level it boils at 100 degrees Celsius and
freezes at 0 degrees. Because ice is less dense than liquid water, it floats, and lakes freeze from the top
down. Plants take in carbon dioxide from the air and, with the energy of sunlight, turn it into sugar; oxygen is
released in the process. Without this reaction there would be almost no oxygen in the atmosphere.

Question: A baker sells 24 loaves of bread in the morning and half as many in the afternoon. Each loaf costs 3
dollars. How much money does she earn in one day? Answer: In the afternoon she sells 24 / 2 = 12 loaves. In
total she sells 24 + 12 = 36 loaves. She earns 36 * 3 = 108 dollars. The answer is 108.

def mean(values):
    """Return the arithmetic mean of a list of numbers."""
    if not values:
        raise ValueError("mean of an empty list")
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

The French Revolution began in 1789. The king, Louis XVI, had called the Estates General because the state was
close to bankruptcy. On 14 July a crowd stormed the Bastille, a prison in Paris, and in August the National
Assembly adopted the Declaration of the Rights of Man and of the Citizen. Four years later the king was
executed, and a republic was proclaimed. In 1804 Napoleon Bonaparte crowned himself emperor of the French.
'''


class Reference(BaseModel):
    """Log-probabilities of the text by a source model and by the checkpoint made from it, computed by Transformers."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    token_ids: tuple[tuple[int, ...], ...]  # of each excerpt
    source: tuple[tuple[float, ...], ...]  # of each token but the first of an excerpt, nats
    emulated: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _complete(self) -> Reference:
        expected = [len(ids) - 1 for ids in self.token_ids]
        if not expected or any(list(map(len, each)) != expected for each in (self.source, self.emulated)):
            raise ValueError("not one log-probability per token but the first")
        return self

    def write(self, folder: Path) -> None:
        """Store it beside a checkpoint."""
        write_text(folder / REFERENCE_FILE, json.dumps(self.model_dump(), separators=(",", ":")) + "\n")

    @classmethod
    def of(
        cls, token_ids: Sequence[Sequence[int]], source: Sequence[Sequence[float]], emulated: Sequence[Sequence[float]]
    ) -> Reference | None:
        """The reference from what both models answered; None without a text, or if a value is not finite."""
        ids = tuple(tuple(each) for each in token_ids)
        with suppress(ValidationError):
            return cls(token_ids=ids, source=rounded(source), emulated=rounded(emulated))
        return None

    @classmethod
    def read(cls, folder: Path) -> Reference | None:
        """The reference of a checkpoint; None if it has none that is readable, as those of older versions."""
        try:
            return cls.model_validate(safe_json.read_json(folder / REFERENCE_FILE))
        except (OSError, ValueError, ValidationError):
            return None


def excerpts(tokenizer: Any, window: int | None = None) -> list[list[int]]:
    """The text as token ids, in parts that are scored by themselves and fit into a context window."""
    ids = list(tokenizer(TEXT)["input_ids"])
    start = ids[:1] if ids[:1] == [tokenizer.bos_token_id] else []  # models that expect it predict badly without it
    ids, length = ids[len(start) : _MAX_TOKENS], min(_EXCERPT, window or _EXCERPT) - len(start)
    parts = [start + ids[first : first + length] for first in range(0, len(ids), length)] if length > 0 else []
    return [part for part in parts if len(part) >= _SHORTEST]


def rounded(logprobs: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Log-probabilities as they are stored."""
    return tuple(tuple(round(value, _DIGITS) for value in each) for each in logprobs)


@dataclass(frozen=True)
class Receipt:
    """What one loaded engine answered."""

    record: KernelReceipt
    rows: tuple[Mapping[str, Any], ...] = ()  # one per token: excerpt, token and its log-probabilities
    failure: str = ""  # why the engine gave no answer


def receipt(engine: Engine, checkpoint: Path, *, trust_remote_code: bool) -> Receipt:
    """Ask a loaded engine once for the text's log-probabilities; the receipt of one that returns none is empty.

    Raises:
        EngineError: What it serves is not the checkpoint.
    """
    kernels: tuple[str, ...] | None = getattr(engine, "quantized_kernel", None)  # engines of plugins need not state it
    reference = Reference.read(checkpoint)
    if not isinstance(engine, TokenScorer):
        return Receipt(KernelReceipt(quantized_kernel=kernels))
    try:
        whole = _texts_of(checkpoint, trust_remote_code) if reference is None else reference.token_ids
        # Engines demand room for a new token. The tokens of a text that is cut keep their log-probabilities.
        texts = [list(ids[: engine.max_model_len - 1]) for ids in whole]
        if not texts or min(map(len, texts)) < _SHORTEST:
            raise EngineError(f"a context window of {engine.max_model_len} tokens does not hold the text")
        answers = rounded(engine.token_logprobs(texts))
    except EngineError as error:
        return Receipt(KernelReceipt(quantized_kernel=kernels), failure=error.cause)
    served = [*chain.from_iterable(answers)]
    if not all(map(math.isfinite, served)):
        if reference is not None:
            cause = f"{engine.name} returns log-probabilities of this checkpoint that are not finite numbers"
            raise EngineError(cause, _OTHERWISE)
        return Receipt(KernelReceipt(quantized_kernel=kernels), failure="log-probabilities are not finite numbers")
    tokens = [(excerpt, token) for excerpt, ids in enumerate(texts) for token in ids[1:]]
    known: dict[str, list[float]] = {"served": served}
    found: dict[str, Any] = {"agreement_tokens": len(served), "agreement_nll": -math.fsum(served) / len(served)}
    if reference is not None:
        for side, values in (("reference", reference.emulated), ("source", reference.source)):
            parts = (each[: len(answer)] for each, answer in zip(values, answers, strict=True))
            known[side] = [*chain.from_iterable(parts)]
        found |= _compared(engine.name, **known)
    rows = [
        {"excerpt": excerpt, "token": token, **{side: values[index] for side, values in known.items()}}
        for index, (excerpt, token) in enumerate(tokens)
    ]
    return Receipt(KernelReceipt(quantized_kernel=kernels, **found), tuple(rows))


def _texts_of(checkpoint: Path, trust_remote_code: bool) -> list[list[int]]:
    """The excerpts as a checkpoint's own tokenizer reads them."""
    try:
        tokenizer = loading.tokenizer_of(str(checkpoint), trust_remote_code=trust_remote_code)
        return excerpts(tokenizer, describe(checkpoint).max_position_embeddings)
    except loading.FAILURES as error:
        raise EngineError(f"the tokenizer cannot be loaded: {loading.reason(error)}", loading.remedy(error)) from error


def _compared(engine: str, served: list[float], reference: list[float], source: list[float]) -> dict[str, Any]:
    """The fields of a receipt with a reference; an EngineError if what is served is another model."""
    from slim_eval.stats import departure, excess_distance

    found = departure(served, reference)
    if found.unexplained > MAX_UNEXPLAINED and found.mean > _ROUNDING:
        raise EngineError(
            f"what {engine} serves is not this checkpoint: its next-token log-probabilities differ from the reference "
            f"by {number(found.mean)} nats per token",
            _OTHERWISE,
        )
    _, excess = excess_distance(served, reference, source)
    return {
        "agreement_mean": found.mean,
        "agreement_max": found.largest,
        "agreement_loss": found.loss,
        "agreement_loss_interval": found.loss_interval and (found.loss_interval.low, found.loss_interval.high),
        "agreement_served": departure(served, source).mean,
        "agreement_reference": departure(reference, source).mean,
        "agreement_excess_interval": excess and (excess.low, excess.high),
    }
