"""Whether a quantized checkpoint is still its source: next-token distributions of both on the same tokens.

A checkpoint whose names do not match its model loads with random parts, and a benchmark records that as a loss of
accuracy. Quantization itself changes few predictions.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict

from slim_eval.errors import QuantizationError

_TEXTS, _TOKENS = 4, 64  # texts that are compared, and tokens of each
#: Beyond both limits a checkpoint is refused. Tiny models with random weights have distributions so flat that rounding
#: changes the most likely token of half of the positions, but sound ones diverge by at most a fifth of what the source
#: knows from the context; a model whose experts are random diverges by more than all of it.
_MIN_AGREEMENT, _MAX_SHARE = 0.5, 0.5


class Fidelity(BaseModel):
    """A quantized checkpoint against its source."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    positions: int  # next tokens that were predicted by both
    top_agreement: float  # share of them with the same most likely token
    mean_kl: float  # divergence KL(source || quantized) per next token, nats
    context_kl: float  # KL(source || the source's mean distribution), nats: what the source knows from the context

    def __str__(self) -> str:
        return (
            f"{self.top_agreement:.1%} of {self.positions} most likely next tokens are the source's; "
            f"mean KL divergence {self.mean_kl:.2g} nats"
        )

    def require(self) -> None:
        """Refuse, with a QuantizationError, a checkpoint that does not predict what its source predicts."""
        if self.top_agreement < _MIN_AGREEMENT and not self.mean_kl <= _MAX_SHARE * self.context_kl:
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


def compare(source: Any, quantized: Any) -> Fidelity:
    """Compare the `predictions` of two models on the same texts."""
    probabilities = source.exp()
    same = source.argmax(-1) == quantized.argmax(-1)
    divergence = (probabilities * (source - quantized)).sum(-1)
    context = (probabilities * (source - probabilities.mean(0).log())).nan_to_num(0.0).sum(-1)
    return Fidelity(
        positions=len(source),
        top_agreement=float(same.float().mean()),
        mean_kl=max(0.0, float(divergence.mean())),
        context_kl=float(context.mean()),
    )
