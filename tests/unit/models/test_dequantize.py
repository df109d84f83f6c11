"""A GGUF file converted to a 16-bit checkpoint: the same model, with the tokenizer that the file describes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.models import describe
from slim_eval.models.weight_grid import grid_bits

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("gguf", "torch", "transformers", "xllamacpp")),
        reason="gguf, torch, transformers or xllamacpp is not installed",
    ),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slim_eval.models import dequantize
    from tests.standins.packaged import make_gguf

    folder = tmp_path_factory.mktemp("converted")
    make_gguf(folder)
    return dequantize.convert(folder / "tiny.gguf", folder / "made", {"gguf": "tiny.gguf"}, lambda *_: None)


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model(torch.arange(6, 70).reshape(2, 32)).logits


def test_it_is_the_model_up_to_4_bits(converted: Path) -> None:
    before, after = logits(converted.parent / "tiny"), logits(converted)
    error = float((after - before).norm() / before.norm())
    assert 0.001 < error < 0.2  # rounding, and no layer in another place
    assert grid_bits(converted.parent / "tiny") is None
    assert grid_bits(converted) == 4
    facts = describe(converted)
    assert (facts.architecture, facts.dtype, facts.is_quantized) == ("LlamaForCausalLM", "bfloat16", False)
    assert facts.num_parameters == describe(converted.parent / "tiny").num_parameters


def test_its_tokenizer_is_the_same(converted: Path) -> None:
    from transformers import AutoTokenizer

    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (converted.parent / "tiny", converted))
    text = "In 1969 two people walked on the moon.\n\n  Größe: 日本語 🙂 x\ty"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert after.decode(after(text)["input_ids"]) == text
    assert (after.bos_token, after.eos_token) == (before.bos_token, before.eos_token) == ("<s>", "</s>")
    turns = [{"role": "user", "content": "Hello"}]
    assert after.apply_chat_template(turns, tokenize=False) == before.apply_chat_template(turns, tokenize=False)
    assert after("<|user|>x")["input_ids"] == before("<|user|>x")["input_ids"]


def test_it_records_what_it_was_made_from(converted: Path) -> None:
    record = json.loads((converted / "conversion.json").read_text())
    assert record == {"gguf": "tiny.gguf", "bytes_on_disk": (converted / "model.safetensors").stat().st_size}


def test_what_cannot_be_converted_leaves_nothing(converted: Path, tmp_path: Path) -> None:
    from slim_eval.models import dequantize

    whole = (converted.parent / "tiny.gguf").read_bytes()
    cut, other = tmp_path / "cut.gguf", tmp_path / "other.gguf"
    cut.write_bytes(whole[:-1000])
    other.write_bytes(whole.replace(b"gpt-2", b"gpt-9", 1))
    with pytest.raises(UsageError, match="ends early"):
        dequantize.convert(cut, tmp_path / "made", {}, lambda *_: None)
    with pytest.raises(SlimEvalError, match="the pre-tokenizer gpt-9 is not supported"):
        dequantize.convert(other, tmp_path / "made", {}, lambda *_: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "other.gguf"]
