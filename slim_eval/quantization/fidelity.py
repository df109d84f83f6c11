"""Whether a quantized checkpoint is still its source: next-token distributions of both on the same tokens.

A checkpoint whose names do not match its model loads with random parts, and a benchmark records that as a loss of
accuracy. Quantization itself changes few predictions; where it changes them all, the weights tell rounding from
another model.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from math import inf, isnan, log
from statistics import fmean
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict

from slim_eval.errors import QuantizationError

_TEXTS, _TOKENS = 4, 64  # texts that are compared, and tokens of each
#: Beyond both limits the predictions are another model's. Tiny models with random weights have distributions so flat
#: that rounding changes the most likely token of half of the positions, but sound ones diverge by at most a fifth of
#: what the source knows from the context; a model whose experts are random diverges by more than all of it.
_MIN_AGREEMENT, _MAX_SHARE = 0.5, 0.5
#: Then the weights decide, if the source was never trained. A deep model with random weights amplifies rounding until
#: nothing of the source's predictions is left: 28 layers of a Llama at 4 bits agree on 2 % of the tokens, though every
#: weight is the source's. Rounding to 4 bits changes a row by a tenth of its length; two random rows of one length
#: differ by 1.4 times it.
_MAX_WEIGHT_ERROR, _ROWS = 0.5, 16
#: Share of the loss of guessing from which a source is taken as untrained: random weights have 1.0 and more of it.
_UNTRAINED = 0.9


class Fidelity(BaseModel):
    """A quantized checkpoint against its source."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    positions: int  # next tokens that were predicted by both
    top_agreement: float  # share of them with the same most likely token
    mean_kl: float  # divergence KL(source || quantized) per next token, nats
    context_kl: float  # KL(source || the source's mean distribution), nats: what the source knows from the context
    weight_error: float | None = None  # see `weight_error`; None of a trained source, or if parameters differ

    @property
    def _unlike(self) -> bool:
        """Whether the predictions are another model's."""
        return self.top_agreement < _MIN_AGREEMENT and not self.mean_kl <= _MAX_SHARE * self.context_kl

    def __str__(self) -> str:
        text = (
            f"{self.top_agreement:.1%} of {self.positions} most likely next tokens are the source's; "
            f"mean KL divergence {self.mean_kl:.2g} nats"
        )
        if self._unlike and self.weight_error is not None:
            text += f"; weights differ by at most {self.weight_error:.0%}"
            if self.weight_error <= _MAX_WEIGHT_ERROR:
                text += ": its weights are random, and amplify rounding"
        return text

    def require(self) -> None:
        """Refuse, with a QuantizationError, a checkpoint that does not predict what its source predicts.

        One of an untrained source is refused only if its weights are others, too.
        """
        if self._unlike and (self.weight_error is None or not self.weight_error <= _MAX_WEIGHT_ERROR):
            raise QuantizationError(
                f"the quantized checkpoint is not the source model: {self}",
                "measure this model at 16 bit; llm-compressor and Transformers do not agree on its architecture",
            )


def excerpts(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The start of the first texts, as token ids."""
    return [list(ids[:_TOKENS]) for ids in texts[:_TEXTS]]


def predictions(model: Any, texts: Sequence[Sequence[int]]) -> Any:
    """Log-probabilities of every next token of the texts, one row per position, in float32 on the CPU."""
    import torch

    with torch.inference_mode():
        rows = [model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu() for ids in texts]
    return torch.cat(rows).log_softmax(-1)


def source_predictions(
    model: Any, texts: Sequence[Sequence[int]], untraced: Collection[str] = ()
) -> tuple[Any, list[str]]:
    """`predictions` of a source model, and the names of its linear layers that calibration does not reach.

    llm-compressor has no statistics of those: nothing passes through them because their weights are read without a
    call or belong to images and sound, or they are called in functions that it does not trace, whose names are
    `untraced`. Experts are not among them: they may only have had no token here.
    """
    import torch

    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    reached = set[str]()

    def called(name: str) -> None:
        frame: FrameType | None = sys._getframe()  # noqa: SLF001  # without the lines of code that `inspect` reads
        while frame is not None and frame.f_code.co_name not in untraced:
            frame = frame.f_back
        if frame is None:
            reached.add(name)

    hooks = [module.register_forward_hook(lambda *_, name=name: called(name)) for name, module in layers.items()]
    try:
        found = predictions(model, texts)
    finally:
        for hook in hooks:
            hook.remove()
    return found, [name for name in layers if name not in reached and ".experts." not in name]


def sample_weights(model: Any) -> dict[str, Any]:
    """Up to 16 rows of every parameter that is on a device, evenly spaced, by name, in float32 on the CPU."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and parameter.is_floating_point():
            rows = parameter.detach().reshape(-1, parameter.shape[-1] if parameter.ndim else 1)
            step = max(1, len(rows) // _ROWS)
            found[name] = rows[: step * _ROWS : step].float().cpu()
    return found


def weight_error(source: Mapping[str, Any], quantized: Mapping[str, Any]) -> float | None:
    """How far the sampled weights of a quantized model are from the source's, as a share of their length.

    Args:
        source: `sample_weights` of the source.
        quantized: Those of the quantized checkpoint as loaded. Its scales and zero points are not compared.

    Returns:
        The largest of all parameters; infinite where a weight is not a number; None if one is missing or has another
        shape, as with experts that were split.
    """
    largest = 0.0
    for name, rows in source.items():
        other = quantized.get(name)
        if other is None or other.shape != rows.shape:
            return None
        length = float(rows.norm())
        distance = float((other - rows).norm())
        share = distance / length if length else (0.0 if distance == 0 else inf)
        largest = max(largest, inf if isnan(share) else share)
    return largest if source else None


def is_untrained(logprobs: Sequence[Sequence[float]], vocabulary: int) -> bool:
    """Whether a model predicts the tokens of texts hardly better than by guessing among its vocabulary.

    Args:
        logprobs: Log-probabilities of the tokens, nats.
        vocabulary: Number of tokens that it knows.
    """
    known = [value for row in logprobs for value in row]
    return bool(known) and -fmean(known) >= _UNTRAINED * log(vocabulary)


def compare(source: Any, quantized: Any, error: float | None = None) -> Fidelity:
    """Compare the `predictions` of two models on the same texts; `error` is the `weight_error` between them."""
    probabilities = source.exp()
    same = source.argmax(-1) == quantized.argmax(-1)
    divergence = (probabilities * (source - quantized)).sum(-1)
    context = (probabilities * (source - probabilities.mean(0).log())).nan_to_num(0.0).sum(-1)
    return Fidelity(
        positions=len(source),
        top_agreement=float(same.float().mean()),
        mean_kl=max(0.0, float(divergence.mean())),
        context_kl=float(context.mean()),
        weight_error=error,
    )
