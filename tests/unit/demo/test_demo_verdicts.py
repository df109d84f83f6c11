"""The verdicts of the demonstration, whatever text quantization is calibrated on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slim_eval.demo import TASKS
from tools.demo_model.verdicts import outcomes

#: Decision 042 shows five; each takes about a minute of a CPU.
SEEDS = int(os.environ.get("SLIM_EVAL_DEMO_SEEDS", "1"))


@pytest.mark.large
def test_int8_is_equivalent_and_int4_is_degraded_on_sums_alone(tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")  # not by each process that collects tests
    found = list(outcomes(range(SEEDS), tmp_path))
    assert len(found) == SEEDS * 2 * len(TASKS)
    for each in found:
        assert 0.7 <= each.baseline <= 0.9
        is_lost = (each.precision, each.task) == ("int4", "demo_gsm8k")
        assert each.verdict == ("degraded" if is_lost else "equivalent"), each


@pytest.mark.large
def test_outliers_change_nothing_at_16_bit() -> None:
    torch = pytest.importorskip("torch")
    from transformers import LlamaForCausalLM

    from slim_eval.demo import MODEL_DIR
    from tools.demo_model.train import plant_outliers

    model = LlamaForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    tokens = torch.arange(6, 134).reshape(2, 64)
    with torch.inference_mode():
        before = model(tokens).logits
        weights = [weight.clone() for weight in model.parameters()]
    plant_outliers(model, seed=1)
    with torch.inference_mode():
        after = model(tokens).logits
    assert any(not torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    assert torch.equal(before, after)
