"""A quantized checkpoint is told from another model by what both predict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.errors import QuantizationError
from slim_eval.quantization.fidelity import (
    compare,
    is_untrained,
    predictions,
    sample_weights,
    source_predictions,
    weight_error,
)

POSITIONS, TOKENS = 200, 500


@pytest.fixture(autouse=True, scope="module")
def torch() -> Any:
    """Imported when the first of these tests runs, not when they are collected."""
    return pytest.importorskip("torch")


def _logits(scale: float, seed: int = 0) -> Any:
    import torch

    return torch.randn(POSITIONS, TOKENS, generator=torch.Generator().manual_seed(seed)) * scale


def _compare(source: Any, other: Any, error: float | None = None) -> Any:
    return compare(source.log_softmax(-1), other.log_softmax(-1), error)


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])  # from nearly uniform, as of random weights, to sharp
def test_rounding_passes_and_another_model_does_not(scale: float) -> None:
    source = _logits(scale)
    rounded = _compare(source, source + 0.3 * _logits(scale, seed=1))
    rounded.require()
    assert rounded.mean_kl < 0.2 * rounded.context_kl
    other = _compare(source, _logits(scale, seed=1))
    assert other.top_agreement < 0.05
    assert other.mean_kl > other.context_kl
    with pytest.raises(QuantizationError, match=r"is not the source model: .* mean KL divergence") as refused:
        other.require()
    assert "16 bit" in refused.value.remedy


@pytest.mark.parametrize(
    ("error", "accepted"), [(0.0, True), (0.12, True), (0.51, False), (float("inf"), False), (None, False)]
)
def test_the_weights_decide_where_the_predictions_are_another_models(error: float | None, accepted: bool) -> None:
    other = _compare(_logits(1.0), _logits(1.0, seed=1), error)
    if accepted:
        other.require()
        assert f"; weights differ by at most {error:.0%}: its weights are random" in str(other)
    else:
        with pytest.raises(QuantizationError, match="is not the source model"):
            other.require()
    assert "weights" not in str(_compare(_logits(1.0), _logits(1.0), error))  # said only where it decides


def test_weight_error_is_the_largest_of_all_parameters(torch: Any) -> None:
    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Embedding(100, 8), torch.nn.Linear(8, 300), torch.nn.LayerNorm(300))

    source, changed = model(), model()
    assert [rows.shape for rows in sample_weights(source).values()] == [(16, 8), (16, 8), (1, 300), (1, 300), (1, 300)]
    assert weight_error(sample_weights(source), sample_weights(changed)) == 0
    with torch.no_grad():
        changed[1].weight *= 1.25
        changed[0].weight *= 0.9
    assert weight_error(sample_weights(source), sample_weights(changed)) == pytest.approx(0.25, rel=1e-5)
    with torch.no_grad():
        changed[1].weight.normal_(std=float(source[1].weight.std()))
    assert weight_error(sample_weights(source), sample_weights(changed)) == pytest.approx(1.4, rel=0.2)
    with torch.no_grad():
        changed[2].bias += 1  # of zeros
    assert weight_error(sample_weights(source), sample_weights(changed)) == float("inf")
    with torch.no_grad():
        changed[0].weight[0] = float("nan")
    assert weight_error(sample_weights(source), sample_weights(changed)) == float("inf")


def test_random_weights_guess_and_trained_ones_do_not() -> None:
    assert is_untrained([[-6.9, -7.2], [-6.8]], 1000)  # log(1000) is 6.9
    assert not is_untrained([[-6.9, -0.1], [-3.0]], 1000)
    assert not is_untrained([[]], 1000)


def test_models_of_other_parameters_have_no_weight_error(torch: Any) -> None:
    source = {"a": torch.ones(2, 2)}
    assert weight_error(source, {"b": torch.ones(2, 2)}) is None
    assert weight_error(source, {"a": torch.ones(2, 3)}) is None
    assert weight_error({}, {}) is None
    with torch.device("meta"):
        away = torch.nn.Linear(2, 2)
    assert sample_weights(away) == {}


def test_a_model_against_itself() -> None:
    same = _compare(_logits(1.0), _logits(1.0))
    assert (same.positions, same.top_agreement, same.mean_kl) == (POSITIONS, 1.0, pytest.approx(0, abs=1e-6))


def test_flat_predictions_may_change_their_most_likely_token() -> None:
    flat = _logits(0.02)
    changed = _compare(flat, flat + 0.6 * _logits(0.02, seed=1))
    assert changed.top_agreement < 0.5
    changed.require()


def test_half_of_the_predictions_may_be_lost() -> None:
    source = _logits(4.0)
    other = source.clone()
    other[: POSITIONS * 2 // 5] = _logits(4.0, seed=1)[: POSITIONS * 2 // 5]
    _compare(source, other).require()


def test_layers_whose_weights_are_read_without_a_call_are_named(torch: Any) -> None:
    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        device = "cpu"

        def __init__(self) -> None:
            super().__init__()
            self.used, self.read = torch.nn.Linear(4, 8), torch.nn.Linear(4, 8)
            self.mlp = torch.nn.ModuleDict({"experts": torch.nn.ModuleList([torch.nn.Linear(4, 8)])})

        def forward(self, ids: Any) -> Any:
            hidden = torch.nn.functional.one_hot(ids, 4).float()
            return SimpleNamespace(logits=self.used(hidden) + hidden @ self.read.weight.T)

    model = Model()
    found, idle = source_predictions(model, [[0, 1, 2], [3]])
    assert idle == ["read"]
    assert found.exp().sum(-1).tolist() == pytest.approx([1.0] * 4)
    assert torch.equal(found, predictions(model, [[0, 1, 2], [3]]))


def test_layers_that_untraced_functions_call_are_named(torch: Any) -> None:
    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        device = "cpu"

        def __init__(self) -> None:
            super().__init__()
            self.seen, self.hidden = torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 8))

        def project(self, values: Any) -> Any:
            return self.hidden(values)

        def forward(self, ids: Any) -> Any:
            return SimpleNamespace(logits=self.project(self.seen(torch.nn.functional.one_hot(ids, 4).float())))

    model = Model()
    assert source_predictions(model, [[0, 1]], ["project"])[1] == ["hidden.0"]
    assert source_predictions(model, [[0, 1]], ["forward_other"])[1] == []
