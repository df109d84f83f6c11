"""Memory taken apart: bytes a token of KV cache, requests that fit at once, memory bandwidth that was used.

Pure functions; None where something they rest on is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

from slim_eval.utils import GIB

_FIRST_CONTEXT = 1024
_BYTES_PER_GB = 10**9  # of bandwidths, as data sheets have them


def kv_cache_bytes_per_token(kv_cache_gb: float | None, kv_cache_tokens: int | None) -> float | None:
    """Bytes of KV cache a token, over all devices: bytes reserved / tokens that they hold.

    Args:
        kv_cache_gb: KV cache reserved, GiB.
        kv_cache_tokens: Tokens that it holds.
    """
    return kv_cache_gb * GIB / kv_cache_tokens if kv_cache_gb is not None and kv_cache_tokens else None


def kv_bytes_a_token(layers: int | None, kv_heads: int | None, head_size: int | None, element_bytes: int) -> int | None:
    """Bytes of KV cache a token, from the model's shape: a key and a value a layer and head.

    Args:
        layers: Those with attention.
        kv_heads: Key-value heads a layer.
        head_size: Elements a head.
        element_bytes: Of an element, 2 in 16 bit.
    """
    if layers is None or kv_heads is None or head_size is None:
        return None
    return 2 * layers * kv_heads * head_size * element_bytes


def concurrency_by_context(
    kv_cache_tokens: int | None, max_model_len: int, more_contexts: Iterable[int] = ()
) -> dict[int, int]:
    """How many requests of a given length the KV cache holds at once: ``floor(kv_cache_tokens / context)``.

    Args:
        kv_cache_tokens: Tokens that the KV cache holds; None where that is not known.
        max_model_len: Context window, tokens: no request is longer.
        more_contexts: Lengths to list besides the powers of two from 1024 on and the context window.

    Returns:
        Context, tokens -> requests, by rising context; empty where the capacity is not known.
    """
    if kv_cache_tokens is None:
        return {}
    contexts = {max_model_len, *(context for context in more_contexts if 0 < context <= max_model_len)}
    context = _FIRST_CONTEXT
    while context < max_model_len:
        contexts.add(context)
        context *= 2
    return {context: kv_cache_tokens // context for context in sorted(contexts)}


def bandwidth_utilisation(
    *,
    weights_gb: float | None,
    kv_bytes_per_token: float | None,
    batch_size: int,
    prompt_tokens: float | None,
    output_tokens: float | None,
    tpot_s: float | None,
    memory_bandwidth_gb_s: float | None,
) -> float | None:
    """Model bandwidth utilisation (MBU): bytes that a decoding step must read / bytes that memory could have delivered.

    ``MBU = (weight bytes + batch size x mean context x KV bytes a token) / (TPOT x bandwidth)``, with
    ``mean context = prompt tokens + output tokens / 2``: each step reads all weights once for the whole batch, and of
    each request the KV cache so far. Definition: Agarwal et al., "LLM Inference Performance Engineering: Best
    Practices", Databricks 2023. A step reads a few rows of the embedding table and not all of it, so that the value is
    a little high for a small model whose table is not also its output layer. TPOT includes what is not decoding, such
    as the prefill of other requests, which makes it lower. It holds only where the whole batch decodes together.

    Args:
        weights_gb: Weights as loaded, GiB, over all devices.
        kv_bytes_per_token: KV cache, bytes a token, over all devices.
        batch_size: Requests that decode together.
        prompt_tokens: Of a request, mean.
        output_tokens: Of a request, mean.
        tpot_s: Time per output token, seconds, mean.
        memory_bandwidth_gb_s: Of all devices together, 10**9 bytes a second.

    Returns:
        A share, 1 at the roofline; None where any of them is not known.
    """
    if weights_gb is None or kv_bytes_per_token is None or prompt_tokens is None or output_tokens is None:
        return None
    if not tpot_s or not memory_bandwidth_gb_s:
        return None
    context = prompt_tokens + output_tokens / 2
    bytes_read = weights_gb * GIB + batch_size * context * kv_bytes_per_token
    return bytes_read / (tpot_s * memory_bandwidth_gb_s * _BYTES_PER_GB)
