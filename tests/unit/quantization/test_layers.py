"""The layers that a recipe quantizes, as the loaded model has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from slim_eval.config import QuantizationConfig
from slim_eval.errors import QuantizationError
from slim_eval.quantization.llmcompressor import _layers_to_quantize
from tests.unit.quantization.test_cache import request


def test_layers_that_no_size_fits_do_not_decide_the_size(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict({f"w{width}": torch.nn.Linear(width, 4) for width in (80, 256, 576)})
    asked = request(tmp_path, precision="int4")
    with pytest.raises(QuantizationError, match=r"128 or 64 or 32; 1 of 3 layers do not comply, e\.g\. w80 \(80\)"):
        _layers_to_quantize(model, asked, asked.recipe)
    asked = asked.model_copy(update={"config": QuantizationConfig(skip_unfit=True)})
    recipe, layers = _layers_to_quantize(model, asked, asked.recipe)
    assert (recipe.group_size, recipe.ignore) == (64, (*asked.recipe.ignore, "w80"))
    assert layers == {"w256": (4, 256), "w576": (4, 576)}
