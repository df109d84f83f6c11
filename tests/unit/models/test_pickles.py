"""Conversion of pickled weights: a checkpoint that is not of its model does not become one that looks sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import SlimEvalError
from slim_eval.models import describe, pickles, resolve
from tests.standins.tiny_models import make_checkpoint


def pickled(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A tiny model of two layers with its weights pickled, after a change to them."""
    import torch
    from safetensors.torch import load_file

    file = make_checkpoint(folder, num_hidden_layers=2) / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    change(weights)
    torch.save(weights, file.with_name("pytorch_model.bin"))
    return file.parent


def _add_a_layer(weights: dict[str, Any]) -> None:
    third = {name.replace("layers.1.", "layers.2."): value for name, value in weights.items() if "layers.1." in name}
    weights.update(third)


def _shorten(weights: dict[str, Any]) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_add_a_layer, r"contains weights that the model does not have: model\.layers\.2\..* more"),
        (lambda weights: weights.pop("model.norm.weight"), "lacks weights .* would be random: model.norm.weight"),
        (_shorten, "contains weights of another shape than the model's: model.norm.weight"),
    ],
)
def test_weights_that_do_not_match_are_refused_by_name(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    source = resolve(str(pickled(tmp_path / "old", change)), allow_pickle=True)
    with pytest.raises(SlimEvalError, match=words) as refused:
        pickles.convert(source, tmp_path / "made", {})
    assert "config.json" in refused.value.remedy
    assert not (tmp_path / "made").exists()


def _add_masks(weights: dict[str, Any]) -> None:
    """As GPT-Neo's old checkpoints have them."""
    norm = weights["model.norm.weight"]
    weights.update({f"model.layers.0.attn.attention.{name}": norm.clone() for name in ("bias", "masked_bias")})


@pytest.mark.parametrize("change", [lambda _: None, _add_masks])
def test_weights_that_match_are_converted(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    source = resolve(str(pickled(tmp_path / "old", change)), allow_pickle=True)
    made = pickles.convert(source, tmp_path / "made", {})
    assert (
        describe(made).num_parameters == describe(make_checkpoint(tmp_path / "new", num_hidden_layers=2)).num_parameters
    )
