"""Every weight of a model comes from its checkpoint, and every weight of the checkpoint is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import ENGINES, LoadRequest
from slim_eval.errors import SlimEvalError
from slim_eval.models import loading
from tests.standins.tiny_models import make_checkpoint

NAME = "model.layers.1.mlp.up_proj.weight"


def _lose(weights: dict[str, Any]) -> None:
    del weights[NAME]


def _lose_a_layer(weights: dict[str, Any]) -> None:
    for name in [name for name in weights if name.startswith("model.layers.1.")]:
        del weights[name]


def _rename(weights: dict[str, Any]) -> None:
    weights["model.layers.1.experts.up_proj.weight"] = weights.pop(NAME)


def _add(weights: dict[str, Any]) -> None:
    weights["classifier.weight"] = weights[NAME].clone()


@pytest.mark.parametrize("named", [None, "peft"])
def test_a_package_that_a_checkpoint_needs_is_the_one_that_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """Transformers reports a missing package in an ImportError without a name: it is never Transformers itself."""

    def fail(*_: Any, **__: Any) -> Any:
        raise ImportError("Using `some` quantization requires some: `pip install some`\n", name=named)

    monkeypatch.setattr(loading, "load", fail)
    request = LoadRequest(make_checkpoint(tmp_path), EngineConfig(), 64)
    with pytest.raises(SlimEvalError) as caught:
        ENGINES["transformers"].load(request)
    assert "'transformers'" not in caught.value.cause
    if named is None:
        assert "ImportError: Using `some` quantization requires some: `pip install some`" in caught.value.cause
        assert caught.value.remedy == "install the package that it names"
    else:
        assert "'peft'" in caught.value.cause


def _change(folder: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    damage(weights)
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lose, f"lacks weights of the model, which would be random: {NAME}"),
        (_lose_a_layer, "lacks weights of the model, .*input_layernorm.weight, .* and 6 more"),
        (_rename, f"lacks weights of the model, which would be random: {NAME}"),
        (_add, "contains weights that the model does not have: classifier.weight"),
    ],
)
def test_weights_that_do_not_match_are_named(
    damage: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path, num_hidden_layers=2)
    _change(folder, damage)
    with pytest.raises(SlimEvalError, match=words) as refused:
        loading.load(folder)
    assert "config.json" in refused.value.remedy


def test_a_whole_checkpoint_loads(tmp_path: Path) -> None:
    model = loading.load(make_checkpoint(tmp_path))
    assert not model.training


@pytest.mark.parametrize("damage", [_lose, _lose_a_layer, _rename, _add])
def test_another_engine_is_not_given_a_checkpoint_that_does_not_match(
    damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path, num_hidden_layers=2)
    loading.require_weights(folder, "LlamaForCausalLM", trust_remote_code=False)
    _change(folder, damage)
    with pytest.raises(SlimEvalError, match="weights"):
        loading.require_weights(folder, "LlamaForCausalLM", trust_remote_code=False)


def test_a_head_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, tie_word_embeddings=False)
    _change(folder, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"][:-1].clone()}))
    with pytest.raises(SlimEvalError, match=r"weights of another shape than the model's: lm_head.weight"):
        loading.load(folder)
    _change(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(SlimEvalError, match=r"would be random: lm_head.weight"):
        loading.require_weights(folder, "LlamaForCausalLM", trust_remote_code=False)


def test_what_transformers_does_not_know_is_left_to_the_engine(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "not_yet", "architectures": ["NotYet"]}))
    loading.require_weights(folder, "NotYet", trust_remote_code=False)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe"])
def test_an_expert_without_one_of_its_weights_is_named(architecture: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, architecture)
    loading.require_weights(folder, None, trust_remote_code=False)
    lost: list[str] = []

    def lose(weights: dict[str, Any]) -> None:
        lost.append(next(name for name in weights if ".experts.2." in name))
        weights["other.weight"] = weights.pop(lost[0])

    _change(folder, lose)
    with pytest.raises(SlimEvalError, match=f"lacks weights of experts, which would be random: {lost[0]}"):
        loading.require_weights(folder, None, trust_remote_code=False)


def test_log_probabilities_are_of_the_next_token_and_in_float32() -> None:
    """Against the whole softmax at once, for texts longer than one part and as short as two tokens."""
    import torch

    logits = torch.randn(1, 40, 11, generator=torch.Generator().manual_seed(0)).bfloat16()

    class Model:
        device = torch.device("cpu")

        def __call__(self, row: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=logits[:, : row.shape[1]])

    texts = [[*range(1, 11)] * 4, [3, 4]]
    found = loading.token_logprobs(Model(), texts)
    assert [len(values) for values in found] == [39, 1]
    expected = logits[0].float().log_softmax(-1)
    assert found[0] == pytest.approx([float(expected[place, token]) for place, token in enumerate(texts[0][1:])])
    assert len({round(value, 3) for value in found[0]}) > 30
