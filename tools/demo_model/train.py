"""Trains the demonstration model from nothing: ``python -m tools.demo_model.train --output DIR``.

Writes the data files of the tasks, the calibration text, the tokenizer and the bfloat16 weights. Deterministic for one
machine and one seed; another processor may round otherwise and end with other weights of the same quality.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.demo_model import corpus
from tools.demo_model.sequences import Batch, make_batch, score
from tools.demo_model.tokenizer import EOS, MAX_LENGTH, PAD, VOCABULARY_SIZE, train_tokenizer, wrap

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

HIDDEN_SIZE: Final = 256
INTERMEDIATE_SIZE: Final = 512
LAYERS: Final = 3
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_SIZE: Final = 64
GROUP: Final = 128
OUTLIERS: Final = 4
"""Channels per group that the weights reading them outweigh the others in, by `OUTLIER_FACTOR`."""
OUTLIER_FACTOR: Final = 16
"""A power of two, so that scaling bfloat16 weights by it loses nothing."""
_WARM_UP_STEPS: Final = 100
_REPORT_EVERY: Final = 50


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A fresh Llama whose linear layers all have sizes that are multiples of 128, the group size of W4A16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|bos|>"),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    model = LlamaForCausalLM(config)
    prime(model)
    return model


def prime(model: LlamaForCausalLM) -> None:
    """Changes fresh weights so that looking up what stands in the prompt is learned soon.

    Token identities outweigh what the fresh layers add to them, attention is not flat, and half of the heads begin with
    equal query and key projections: a token looks at its like ("mimetic initialization", arXiv 2305.09828).
    """
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3)
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.q_proj.weight.mul_(3)
            attention.k_proj.weight.mul_(3)
            attention.o_proj.weight.mul_(0.5)
            layer.mlp.down_proj.weight.mul_(0.5)
            for group in range(KV_HEADS):
                query = group * (HEADS // KV_HEADS) * HEAD_SIZE
                key = attention.k_proj.weight[group * HEAD_SIZE : (group + 1) * HEAD_SIZE]
                attention.q_proj.weight[query : query + HEAD_SIZE] = key


def plant_outliers(model: LlamaForCausalLM, seed: int) -> None:
    """Scales some channels so that weights are as hard to round as those of large models; the function stays the same.

    Large models have a few channels whose weights or activations are far above the others (arXiv 2208.07339); a tiny
    model has none, and no task notices 4 bits. Here the weights that write such a channel are divided by a power of two
    and those that read it multiplied by it: what the model computes does not change in any bit, but a group that
    contains such a channel has the scale of its largest weight.
    """
    import torch

    rng = random.Random(f"{seed}/outliers")

    def channels(width: int) -> list[int]:
        starts = range(0, width, GROUP)
        return sorted(start + place for start in starts for place in rng.sample(range(GROUP), OUTLIERS))

    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                places = channels(HIDDEN_SIZE)
                norm.weight[places] /= OUTLIER_FACTOR
                for reader in readers:
                    reader.weight[:, places] *= OUTLIER_FACTOR
            places = channels(INTERMEDIATE_SIZE)
            mlp.up_proj.weight[places] /= OUTLIER_FACTOR
            mlp.down_proj.weight[:, places] *= OUTLIER_FACTOR
            places = channels(KV_HEADS * HEAD_SIZE)
            attention.v_proj.weight[places] /= OUTLIER_FACTOR
            # Each head of values is read by the heads of queries of its group.
            shared = HEADS // KV_HEADS
            read_at = [
                ((place // HEAD_SIZE) * shared + query) * HEAD_SIZE + place % HEAD_SIZE
                for place in places
                for query in range(shared)
            ]
            attention.o_proj.weight[:, read_at] *= OUTLIER_FACTOR


def learning_rate(done: float, step: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to nothing; ``done`` is the share of training done, from 0 to 1."""
    return peak * min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean loss per answer, the tokens of an answer averaged first: a letter weighs as much as a worked sum."""
    import torch

    counted = batch.weights > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[counted])
    weights = batch.weights[counted]
    losses = torch.nn.functional.cross_entropy(logits.float(), batch.targets[counted], reduction="none")
    return (losses * weights).sum() / weights.sum()


def replicas_of(model: LlamaForCausalLM, count: int) -> list[LlamaForCausalLM]:
    """The model and copies that share its weights but hold gradients of their own, one for each thread."""
    replicas = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
    for replica in replicas[1:]:
        for shared, own in zip(model.parameters(), replica.parameters(), strict=True):
            own.data = shared.data
    return replicas


def gather_gradients(replicas: list[LlamaForCausalLM]) -> None:
    """Leaves the mean of the replicas' gradients in the first, and none in the others."""
    for first, *others in zip(*(replica.parameters() for replica in replicas), strict=True):
        for other in others:
            first.grad.add_(other.grad)
            other.grad = None
        first.grad.div_(len(replicas))


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Trains in place for a number of steps, reporting loss and accuracies as it goes.

    Each thread works on sequences of its own: on a shared machine that is much faster than threads inside an operation.
    """
    import torch

    replicas = replicas_of(model, options.threads)
    rngs = [random.Random(f"{options.seed}/train/{thread}") for thread in range(options.threads)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    started, running = time.monotonic(), 0.0

    def work(replica: LlamaForCausalLM, rng: random.Random, done: float) -> float:
        loss = loss_of(replica, make_batch(tokenizer, options.tokens, done, rng))
        loss.backward()
        return float(loss.detach())

    with ThreadPoolExecutor(options.threads) as pool:
        for step in range(options.steps):
            done = step / options.steps
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, step, options.learning_rate)
            running += sum(pool.map(work, replicas, rngs, [done] * options.threads)) / options.threads
            gather_gradients(replicas)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % _REPORT_EVERY == 0:
                elapsed_s = time.monotonic() - started
                report(f"step {step + 1} of {options.steps}, {elapsed_s:.0f} s, loss {running / _REPORT_EVERY:.3f}")
                running = 0.0
            if (step + 1) % options.score_every == 0:
                report_scores(model, tokenizer, count=24, seed=options.seed)


def report_scores(model: LlamaForCausalLM, tokenizer: Tokenizer, count: int, seed: int) -> None:
    """Writes the accuracy on each task, with no example and with five."""
    for task in corpus.subtasks():
        shots = {shots: score(model, tokenizer, task, shots, count, seed) for shots in (0, 5)}
        report(f"  {task}: " + ", ".join(f"{shots}-shot {100 * value:.0f} %" for shots, value in shots.items()))


def report(line: str) -> None:
    """Writes one line of progress at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Saves weights in bfloat16, configuration and tokenizer as transformers does."""
    model.save_pretrained(folder)
    wrap(tokenizer).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Trains, saves and scores the model."""
    parser = argparse.ArgumentParser(description="Train the demonstration model of slim-eval from nothing.")
    parser.add_argument("--output", type=Path, required=True, help="folder for model, data and calibration")
    parser.add_argument("--seed", type=int, default=corpus.SEED, help="seed of data, weights and order")
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step and thread")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--score-every", type=int, default=200, help="steps between two scores")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    options = parser.parse_args(arguments)

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    corpus.write_data_files(options.output, options.seed)
    tokenizer = train_tokenizer(options.seed)
    report(f"{tokenizer.get_vocab_size()} tokens in the vocabulary")
    model = new_model(tokenizer)
    report(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    train(model, tokenizer, options)
    model.to(torch.bfloat16)
    plant_outliers(model, options.seed)
    save(model, tokenizer, options.output / "model")
    report("scores of the saved bfloat16 weights:")
    report_scores(model, tokenizer, count=100, seed=options.seed)


if __name__ == "__main__":
    main()
