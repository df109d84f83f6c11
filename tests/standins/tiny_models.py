"""Small random checkpoints of five architectures, each with a byte-level tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Sizes that every architecture shares; multiples of 128, the group size of W4A16.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}

#: Architecture -> (configuration class of transformers, settings in addition to the shared sizes).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "phi3": ("Phi3Config", {}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 32,
            "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": None}),
}

#: The same of mixtures of experts: with keys of one expert each (`mixtral`, which renames them, and `qwen2_moe`, with
#: a shared expert), with a router whose class derives from Linear, and with the experts of a layer in one key.
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"intermediate_size": 128, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "phimoe": ("PhimoeConfig", {"intermediate_size": 128, "num_local_experts": 4}),
    "granitemoe": ("GraniteMoeConfig", {"intermediate_size": 128, "num_local_experts": 4, "num_experts_per_tok": 2}),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]


def make_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level tokenizer: every byte is a token, so that any text can be encoded without training."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    fast.chat_template = chat_template
    return fast


def make_checkpoint(
    folder: Path, architecture: str = "llama", *, seed: int = 0, dtype: str = "bfloat16", **changes: Any
) -> Path:
    """Write a random checkpoint.

    Args:
        folder: Where to; made if it is not there.
        architecture: A key of `ARCHITECTURES` or `EXPERTS`.
        seed: Of the weights.
        dtype: Of the weights.
        changes: Configuration values other than those of `SIZES`; ``max_shard_size`` goes to the writer.

    Returns:
        `folder`.
    """
    import torch
    import transformers

    shard = changes.pop("max_shard_size", None)
    tokenizer = make_tokenizer(chat_template=changes.pop("chat_template", CHAT_TEMPLATE))
    name, extra = {**ARCHITECTURES, **EXPERTS}[architecture]
    config = getattr(transformers, name)(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **{**SIZES, **extra, **changes}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    tokenizer.save_pretrained(folder)
    return folder
