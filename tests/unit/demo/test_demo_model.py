"""The committed checkpoint of the demonstration model, looked at without loading torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import Any

import pytest

from slim_eval import demo
from tools.demo_model import corpus

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.Tokenizer.from_file(str(demo.MODEL_DIR / "tokenizer.json"))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return dict(json.loads((demo.MODEL_DIR / "config.json").read_text(encoding="utf-8")))


def weights_header() -> dict[str, Any]:
    with (demo.MODEL_DIR / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return dict(json.loads(file.read(length)))


def test_weights_are_small_and_bfloat16() -> None:
    assert (demo.MODEL_DIR / "model.safetensors").stat().st_size <= 8_000_000
    tensors = {name: tensor for name, tensor in weights_header().items() if name != "__metadata__"}
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}


def test_linear_layers_fit_the_group_size() -> None:
    linear = {name: tensor["shape"] for name, tensor in weights_header().items() if name.endswith("_proj.weight")}
    assert linear
    assert all(size % 128 == 0 for shape in linear.values() for size in shape)


def test_config_is_a_plain_llama(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] == 64
    assert config["max_position_embeddings"] == 1024
    assert "auto_map" not in config


@pytest.mark.parametrize(
    "text", ["Where does a cow live?", "12 + 7 = 19\n#### 19", "Größe: 日本語 🙂\t\n\n  end ", "x\r\ny\0z"]
)
def test_any_text_goes_round(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("number", range(2, 40))
def test_each_number_of_its_world_is_one_token(tokenizer: Any, number: int) -> None:
    assert len(tokenizer.encode(f" {number}", add_special_tokens=False).ids) == 1


def test_texts_begin_with_bos_and_ids_fit_the_model(tokenizer: Any, config: dict[str, Any]) -> None:
    assert tokenizer.encode("cow").ids[0] == config["bos_token_id"]
    assert tokenizer.get_vocab_size() <= config["vocab_size"]


@pytest.mark.parametrize("task", corpus.subtasks())
def test_five_shot_prompts_are_short(tokenizer: Any, task: str) -> None:
    examples = corpus.task_items(task, "fewshot")
    longest = sorted((len(tokenizer.encode(f"{item.prompt} {item.answer}\n\n").ids) for item in examples), reverse=True)
    question = max(len(tokenizer.encode(item.prompt).ids) for item in corpus.task_items(task, "test"))
    average = 5 * sum(longest) / len(longest)
    assert average + question < 350


def test_generation_stops_at_the_end_token(config: dict[str, Any]) -> None:
    generation = json.loads((demo.MODEL_DIR / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == config["eos_token_id"]


def test_paths_and_names_stand() -> None:
    assert all((demo.TASKS_DIR / f"{task}.yaml").is_file() for task in demo.TASKS)
    assert demo.CALIBRATION_FILE.is_file()


def test_importing_the_package_is_light() -> None:
    code = "import slim_eval.demo, sys; print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
