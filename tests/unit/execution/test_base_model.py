"""What a checkpoint was made from: its card, slim-eval's own record, or nobody says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from slim_eval.errors import UsageError
from slim_eval.execution.plan import base_model_of
from slim_eval.models import describe_config, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "Tiny-AWQ"))


@pytest.mark.parametrize(
    ("card", "base"),
    [
        ("---\nbase_model: org/Tiny\nbase_model_relation: quantized\n---\n# Tiny\n", "org/Tiny"),
        ("---\nbase_model:\n- org/Tiny\nlicense: mit\n---\n", "org/Tiny"),
        ("---\nbase_model: [org/A, org/B]\n---\n", None),
        ("---\nlicense: mit\n---\n", None),
        ("---\nbase_model: [unclosed\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("# Tiny\n", None),
        ("", None),
    ],
)
def test_the_card_names_it(folder: Path, card: str, base: str | None) -> None:
    (folder / "README.md").write_text(card)
    assert base_model_of(resolve(str(folder))) == base


def test_a_card_that_is_no_text_says_nothing(folder: Path) -> None:
    assert base_model_of(resolve(str(folder))) is None
    (folder / "README.md").write_bytes(b"---\n\xff\xfe\n---\n")
    assert base_model_of(resolve(str(folder))) is None


def test_a_checkpoint_of_slim_evals_own_names_it(folder: Path) -> None:
    (folder / "README.md").write_text("---\nbase_model: org/Other\n---\n")
    (folder / "quantization.json").write_text(json.dumps({"model": "org/Tiny"}))
    assert base_model_of(resolve(str(folder))) == "org/Tiny"


def test_modelopts_own_file_makes_a_checkpoint_a_quantized_one(folder: Path) -> None:
    assert describe_config(folder).scheme is None
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    facts = describe_config(folder)
    assert (facts.scheme, facts.quantization, facts.is_quantized) == ("nvfp4", "modelopt", True)


def test_an_adapter_without_its_base_model_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "Tiny")}))
    with pytest.raises(
        UsageError, match=r"its base model cannot be used: model folder .*Tiny' does not exist"
    ) as caught:
        resolve(str(adapter))
    assert "--base-model" in caught.value.remedy


def test_gguf_files_are_found(tmp_path: Path) -> None:
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "tiny-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert resolve(str(gguf)).path == gguf / "tiny-Q4_K_M.gguf"  # what it contains, its header says
    with pytest.raises(UsageError, match="ends early or its header is damaged"):
        describe_config(gguf / "tiny-Q4_K_M.gguf")
    (gguf / "tiny-Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"has 2 GGUF files: tiny-Q4_K_M\.gguf, tiny-Q8_0\.gguf"):
        resolve(str(gguf))
