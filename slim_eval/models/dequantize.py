"""A GGUF file converted once into a 16-bit safetensors checkpoint, which every engine of slim-eval can serve.

Transformers reads the weights and the configuration. The tokenizer is made here from the file's own fields, because
Transformers' (5.17) drops how a text is split before merges, and confuses the tokens that begin and end a text. Import
this module late: it imports torch and Transformers in its functions.

    {final}/conversion.json    what it was made from, and its size in bytes
"""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slim_eval.errors import MissingPackageError, SlimEvalError
from slim_eval.models import gguf, loading, pickles
from slim_eval.models.hub import Progress, report_growth
from slim_eval.models.publish import CONVERSION_RECORD, new_checkpoint
from slim_eval.utils import write_text

#: How llama.cpp splits a text before merges, by its name of it -> whether digits are split one by one.
_SPLITS = {"smollm": True, "gpt-2": False, "default": False}
_CONTROL = 3  # the type of tokens that are no text


def convert(file: Path, final: Path, identity: Mapping[str, Any], progress: Progress) -> Path:
    """Publish the model of a GGUF file as a checkpoint in bfloat16; an earlier one stays until it is complete.

    Raises:
        UsageError: The file is damaged, or `final` contains something else.
        SlimEvalError: Its architecture or tokenizer is not supported, or the disk is full.
        MissingPackageError: torch, transformers or gguf is not installed.
    """
    header = gguf.read(file)  # refuses one that is cut
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        package = error.name or "transformers"
        raise MissingPackageError(package, "conversion of a GGUF file", 'pip install "slim-eval[cpu]"') from error
    pickles.require_place(final)
    try:
        tokenizer = _tokenizer(file, header.context)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        config = copy.deepcopy(loaded.config)
        vars(config).pop("quantization_config", None)
        config.dtype = torch.bfloat16
        config.architectures = [type(loaded).__name__]
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        # A new model of the same weights: the loaded one counts as quantized, which cannot be saved.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict())
        model.tie_weights()
        del loaded
        with new_checkpoint(final) as folder:
            with report_growth(folder, progress):
                loading.save(model, folder)
            tokenizer.save_pretrained(folder)
            record = pickles.conversion_record(folder, identity)
            write_text(folder / CONVERSION_RECORD, json.dumps(record, indent=2) + "\n")
    except (*loading.FAILURES, SafetensorError) as error:
        cause = f"{file.name} cannot be converted: {loading.reason(error)}"
        is_full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        remedy = f"free space on the disk of {final.parent}" if is_full else loading.remedy(error)
        raise SlimEvalError(cause, remedy) from error
    return final


def _tokenizer(file: Path, context: int | None) -> Any:
    """The tokenizer of a GGUF file, as Transformers saves and loads it, with the file's chat template."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(file).fields

    def value(key: str) -> Any:
        found = fields.get(f"tokenizer.{key}")
        return None if found is None else found.contents()

    kind, split = value("ggml.model"), value("ggml.pre") or "default"
    if kind != "gpt2" or split not in _SPLITS:
        cause = f"{file.name}: the tokenizer {kind} with the pre-tokenizer {split} is not supported"
        raise SlimEvalError(cause, "give a checkpoint in the safetensors format")
    tokens = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges") or ()]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS[split] else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*digits, by_bytes])
    made.decoder = decoders.ByteLevel()
    kinds = value("ggml.token_type") or ()
    controls = [token for token, each in zip(tokens, kinds, strict=False) if each == _CONTROL]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls])
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    numbers = {name: value(f"ggml.{key}_token_id") for key, name in names.items()}
    special: dict[str, Any] = {name: tokens[number] for name, number in numbers.items() if number is not None}
    if context is not None:
        special["model_max_length"] = context
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **special)
    fast.chat_template = value("chat_template")
    return fast
