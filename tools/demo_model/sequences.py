"""Training sequences and quick scores of the demonstration model: texts in, token tensors and accuracies out."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from tools.demo_model import corpus
from tools.demo_model.corpus import Item
from tools.demo_model.tokenizer import BOS, EOS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

LENGTHS: Final = ((0.50, 96), (0.75, 160), (math.inf, 224))
"""Until which share of training a sequence has how many tokens; the last hold five examples and a question."""
_SHORTEST_ITEM_TOKENS: Final = 14
_SUBJECTS_SHARE: Final = 0.25
_GSM8K_SHARE: Final = 0.6
_HELLASWAG_SHARE: Final = 0.15
_CHAT_SHARE: Final = 0.12
_END_WEIGHT: Final = 0.1
"""Weight of the end-of-text token beside one answer's own tokens, which weigh 1 together."""


class Batch(NamedTuple):
    """One step's input; all tensors have the shape (sequences, length)."""

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


def _items(length: int, rng: random.Random) -> list[Item]:
    """The items of one sequence, all of one task."""
    tasks = corpus.subtasks()
    subjects = len(tasks) - 2
    task = rng.choices(tasks, [_SUBJECTS_SHARE / subjects] * subjects + [_GSM8K_SHARE, _HELLASWAG_SHARE])[0]
    return [corpus.draw(corpus.maker_of(task), "train", rng) for _ in range(length // _SHORTEST_ITEM_TOKENS + 1)]


def length_of(progress: float) -> int:
    """Tokens in a sequence: short at first, for the right option is found sooner where there is less to look at."""
    return next(length for until, length in LENGTHS if progress < until)


def make_batch(tokenizer: Tokenizer, tokens_in_all: int, progress: float, rng: random.Random) -> Batch:
    """Draws one step's sequences from the training split; ``progress`` is the share of training done, from 0 to 1."""
    import torch

    length = length_of(progress)
    sequences = tokens_in_all // length
    end = tokenizer.token_to_id(EOS)
    tokens = torch.full((sequences, length), tokenizer.token_to_id("<|pad|>"))
    targets = torch.zeros_like(tokens)
    weights = torch.zeros(sequences, length)
    for row in range(sequences):
        items = _items(length, rng)
        text, spans = (_chat_text if rng.random() < _CHAT_SHARE else few_shot_text)(items)
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids[:length]
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
        starts = [start for start, _ in encoding.offsets]
        for first, last in spans:
            inside = [place for place, start in enumerate(starts[:length]) if first <= start < last]
            if not inside or inside[-1] == length - 1:
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
