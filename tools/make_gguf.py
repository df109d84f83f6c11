"""Make GGUF files of a Llama-shaped checkpoint, for tests and for the numbers in the documentation.

``python tools/make_gguf.py CHECKPOINT OUT.gguf --type q4_k_m``. llama.cpp's own converter is not in a wheel, so its
layout is written here with the package ``gguf``: names, the order of rotary halves, a byte-level BPE tokenizer. Blocks
are packed by ``ggml_quantize_chunk`` of the library in the wheel ``xllamacpp``, with llama.cpp's mix for ``q4_k_m``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_1": 3, "q8_0": 7, "q4_k_m": 15}
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_BLOCK = 256  # weights of a super-block of the K-quants


def type_of(name: str, shape: tuple[int, ...], asked: str, layers: int) -> Type:
    """The type of a tensor in a file of a type, as llama.cpp's quantizer chooses it."""
    if len(shape) == 1 or asked == "f32":
        return Type.F32
    if asked == "f16":
        return Type.F16
    if asked == "q8_0":
        return Type.Q8_0
    if asked == "q4_1":
        return Type.Q8_0 if name == "token_embd.weight" else Type.Q4_1
    part, better = name.split(".")[-2], name == "token_embd.weight"
    if part in ("attn_v", "ffn_down"):
        layer = int(name.split(".")[1])
        better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if shape[-1] % _BLOCK:  # no K-quant fits
        return Type.Q8_0 if better else Type.Q5_0
    return Type.Q6_K if better else Type.Q4_K


def packed(values: npt.NDArray[np.float32], kind: Type) -> npt.NDArray[np.uint8]:
    """A matrix in a quantized type, by ggml's own function."""
    folder = find_spec("xllamacpp").submodule_search_locations[0]
    library = ctypes.CDLL(str(next(Path(folder).glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows, columns = values.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((rows, columns // block * size), np.uint8)
    values = np.ascontiguousarray(values, np.float32)
    pointers = (values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    numbers = (ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns))
    written = library.ggml_quantize_chunk(ctypes.c_int(kind), *pointers, *numbers, None)
    assert written == out.nbytes
    return out


def _rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in llama.cpp's order: the halves of each head interleaved."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def make(checkpoint: Path, out: Path, asked: str, *, base_model: str | None = None) -> None:
    """Write one file."""
    config = json.loads((checkpoint / "config.json").read_text())
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(file)
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    kv_heads = config.get("num_key_value_heads") or heads
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(checkpoint.name)
    writer.add_file_type(_FILE_TYPES[asked])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    if base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base_model}")
    _add_tokenizer(writer, checkpoint, config["vocab_size"])
    for name, tensor in weights.items():
        new = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
               "lm_head.weight": "output.weight"}.get(name)  # fmt: skip
        if new is None:
            _, _, number, *rest = name.split(".")
            new = f"blk.{number}.{_NAMES['.'.join(rest[:-1])]}.{rest[-1]}"
        if new == "output.weight" and config.get("tie_word_embeddings"):
            continue
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            tensor = _rotary(tensor, count) if part in new else tensor
        values = tensor.float().numpy()
        kind = type_of(new, values.shape, asked, layers)
        if kind in (Type.F32, Type.F16):
            writer.add_tensor(new, values.astype(np.float32 if kind is Type.F32 else np.float16))
        else:
            writer.add_tensor(new, packed(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, size: int) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    options = json.loads((checkpoint / "tokenizer_config.json").read_text())
    vocabulary = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    added = {each["id"]: each for each in tokenizer["added_tokens"]}
    tokens, kinds = [], []
    for number in range(size):
        token = added[number]["content"] if number in added else vocabulary.get(number, f"[PAD{number}]")
        tokens.append(token)
        special = number in added and added[number]["special"]
        kinds.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED if number in added
                     else gguf.TokenType.NORMAL if number in vocabulary else gguf.TokenType.UNUSED)  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if "smollm" in checkpoint.as_posix().casefold() else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_add_bos_token(False)
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id)):
        token = options.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if token in tokens:
            add(tokens.index(token))
    template = options.get("chat_template") or next(
        (file.read_text() for file in checkpoint.glob("chat_template.jinja")), None
    )
    if template:
        writer.add_chat_template(template)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=_FILE_TYPES, default="q8_0")
    parser.add_argument("--base-model", help="hub id that the file names as its base")
    given = parser.parse_args()
    make(given.checkpoint, given.out, given.type, base_model=given.base_model)
