"""Training sequences and quick scores of the demonstration model: texts in, token tensors and accuracies out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from slim_eval.demo import corpus
from slim_eval.demo.corpus import Item
from slim_eval.demo.tokenizer import BOS, EOS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

LENGTH: Final = 352
"""Tokens in a training sequence: enough for five examples and a question of every task."""
_ITEMS_PER_SEQUENCE: Final = 20
_CHAT_SHARE: Final = 0.12
_END_WEIGHT: Final = 0.1
"""Weight of the end-of-text token beside one answer's own tokens, which weigh 1 together."""


class Batch(NamedTuple):
    """One step's input; all tensors have the shape (sequences, LENGTH)."""

    tokens: torch.Tensor
    """Token ids, padded at the end."""
    targets: torch.Tensor
    """The token to predict at each place."""
    weights: torch.Tensor
    """The weight of each place in the loss: 0 outside answers; the tokens of one answer sum to 1 (the end apart)."""


def _chat_text(items: list[Item]) -> tuple[str, list[tuple[int, int]]]:
    text, spans = BOS, []
    for item in items:
        text += f"<|user|>{item.prompt}{EOS}<|assistant|>"
        spans.append((len(text), len(text) + len(item.answer)))
        text += item.answer + EOS
    return text, spans


def few_shot_text(items: list[Item]) -> tuple[str, list[tuple[int, int]]]:
    """The text lm-eval makes of several items, and where in it (start, end) the answers with their blanks stand."""
    text, spans = BOS, []
    for index, item in enumerate(items):
        text += "\n\n" * bool(index) + item.prompt
        spans.append((len(text), len(text) + 1 + len(item.answer)))
        text += f" {item.answer}"
    return text, spans


def _maker(progress: float, rng: random.Random) -> tuple[Callable[[random.Random], Item], str]:
    """What the next sequence is made of: the easy questions first, then more and more of the tasks themselves."""
    easy = min(0.45, max(0.04, 0.8 - 2.5 * progress))
    kinds = ("lookup", "fact", "demo_mmlu", "demo_gsm8k", "demo_hellaswag")
    weights = (easy, easy / 3, 0.74 - easy * 4 / 3, 0.18, 0.08)
    kind = rng.choices(kinds, weights)[0]
    if kind == "lookup":
        return corpus.lookup_item, kind
    if kind == "fact":
        return corpus.fact_item, kind
    if kind == "demo_mmlu":
        kind = rng.choice([name for name in corpus.subtasks() if name.startswith(kind)])
    return corpus.maker_of(kind), kind


def make_batch(tokenizer: Tokenizer, sequences: int, progress: float, rng: random.Random) -> Batch:
    """Draws one step's sequences from the training split; ``progress`` is the share of training done, from 0 to 1."""
    import torch

    end = tokenizer.token_to_id(EOS)
    tokens = torch.full((sequences, LENGTH), tokenizer.token_to_id("<|pad|>"))
    targets = torch.zeros_like(tokens)
    weights = torch.zeros(sequences, LENGTH)
    for row in range(sequences):
        make, kind = _maker(progress, rng)
        items = [
            make(rng) if kind in ("lookup", "fact") else corpus.draw(make, "train", rng)
            for _ in range(_ITEMS_PER_SEQUENCE)
        ]
        text, spans = (_chat_text if rng.random() < _CHAT_SHARE else few_shot_text)(items)
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids[:LENGTH]
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
        starts = [start for start, _ in encoding.offsets]
        for first, last in spans:
            inside = [place for place, start in enumerate(starts[:LENGTH]) if first <= start < last]
            if not inside or inside[-1] == LENGTH - 1:
                break
            for place in inside:
                weights[row, place - 1] = 1 / len(inside)
            # Every answer ends the text, though an example follows: a generation stops there.
            targets[row, inside[-1]] = end
            weights[row, inside[-1]] = _END_WEIGHT
    return Batch(tokens, targets, weights)


def score(model: LlamaForCausalLM, tokenizer: Tokenizer, task: str, shots: int, count: int, seed: int) -> float:
    """Accuracy (0 to 1) on ``count`` items of the few-shot split, which training never sees, nor is the test seen here.

    A worked answer counts where each of its tokens is the most likely one, which is what greedy decoding would yield.
    """
    import torch

    rng, make = random.Random(f"{seed}/score/{task}/{shots}"), corpus.maker_of(task)
    right = 0
    for _ in range(count):
        items = [corpus.draw(make, "fewshot", rng) for _ in range(shots + 1)]
        *examples, item = items
        choices = [item.answer]
        if task != "demo_gsm8k":
            choices = list(corpus.LETTERS) if "answer" in item.doc else list(item.doc["choices"])
        likelihoods, greedy = [], False
        for choice in choices:
            text, spans = few_shot_text([*examples, item._replace(answer=choice)])
            encoding = tokenizer.encode(text, add_special_tokens=False)
            places = [place for place, (start, _) in enumerate(encoding.offsets) if start >= spans[-1][0]]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([encoding.ids])).logits[0].float()
            answer = torch.tensor(encoding.ids)[places]
            table = logits[[place - 1 for place in places]].log_softmax(-1)
            likelihoods.append(float(table.gather(1, answer[:, None]).sum()))
            greedy = bool((table.argmax(-1) == answer).all())
        best = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
        right += greedy if task == "demo_gsm8k" else best == item.answer
    return right / count
