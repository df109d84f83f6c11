"""LoRA adapters of peft as models: merged into their base model, measured in 16 bit and quantized."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import RunConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.errors import UsageError
from slim_eval.execution.plan import lay_out
from slim_eval.models import adapters, loading, resolve
from slim_eval.models.source import ADAPTER_FILE, ADAPTER_WEIGHTS, describe
from slim_eval.quantization import cache
from slim_eval.results import find_results
from tests.commands import INSTANT, WITH_INSTANT, run_command

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")  # slow to import
PROMPT = "The cat sat on the"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small adapter of the embedded model whose matrices are not zero, and the logits that peft computes with it."""
    import peft
    import torch

    torch.manual_seed(0)
    model = loading.load(MODEL_DIR, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    for name, values in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.02)
    folder = tmp_path_factory.mktemp("adapters") / "demo-lora"
    adapted.eval().save_pretrained(folder)
    described = json.loads((folder / ADAPTER_FILE).read_text()) | {"base_model_name_or_path": str(MODEL_DIR)}
    (folder / ADAPTER_FILE).write_text(json.dumps(described))
    return folder


def logits(model: Any) -> Any:
    import torch
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(MODEL_DIR)(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(ids).logits.float().log_softmax(-1)


def test_merged_it_is_what_peft_computes(adapter: Path, tmp_path: Path) -> None:
    import peft
    import torch

    source = resolve(str(adapter))
    final = adapters.merge(source, tmp_path / "merged", cache.identity(source))
    dtype = getattr(torch, describe(MODEL_DIR).dtype)
    base = loading.load(MODEL_DIR, dtype=dtype)
    plain = logits(base)
    expected = logits(peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True))
    ours = logits(loading.load(final, dtype=dtype))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert (ours - plain).abs().max() > 0.1, "the adapter changes the model"


def test_a_run_measures_it_beside_its_base_model_in_16_bit_and_quantized(adapter: Path, tmp_path: Path) -> None:
    done = run_command(
        "run", "--models", f"demo {adapter}", "--base-model", "demo", "--precision", "fp16 int8-rtn",
        "--tasks", "accuracy", "--accuracy-tasks", "demo_hellaswag", "--accuracy-limit", "20", "--num-fewshot", "0",
        "--include-path", str(MODEL_DIR.parent / "tasks"), *INSTANT, cwd=tmp_path, env=WITH_INSTANT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(v.model, v.precision): v for v in find_results(tmp_path / "outputs").variants}
    assert set(found) == {(name, scheme) for name in ("demo", str(adapter)) for scheme in ("fp16", "int8-rtn")}
    for (name, _), variant in found.items():
        record = variant.records[0]
        assert record.base_model == "demo"
        assert record.adapter == (None if name == "demo" else name)
        assert not variant.is_baseline or name == "demo"
    made = cache.read_record(next((tmp_path / "quantized-models").glob("demo-lora_int8-rtn")))
    assert made.settings["adapter"].startswith("sha256:")
    assert made.settings["base"]["weights"].startswith("sha256:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"base_model_name_or_path": "./nowhere"},
            "its base model cannot be used: model folder './nowhere' does not",
        ),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"peft_type": "PROMPT_TUNING"}, "is of kind PROMPT_TUNING"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_starts(
    adapter: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "lora")
    (folder / ADAPTER_FILE).write_text(json.dumps(json.loads((folder / ADAPTER_FILE).read_text()) | change))
    with pytest.raises(UsageError) as caught:
        lay_out(RunConfig(models=(str(folder),), output_dir=tmp_path / "o"))
    assert words in caught.value.cause
    assert caught.value.remedy
    assert not (tmp_path / "o").exists()


def test_an_adapter_without_weights_or_of_a_quantized_model(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "lora")
    (folder / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(UsageError, match=f"has no {ADAPTER_WEIGHTS}"):
        resolve(str(folder))
    quantized = shutil.copytree(MODEL_DIR, tmp_path / "base")
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is quantized \\(bnb-4bit\\)"):
        resolve(str(adapter), base=str(quantized))


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    from slim_eval.errors import SlimEvalError

    folder = shutil.copytree(adapter, tmp_path / "lora")
    described = json.loads((folder / ADAPTER_FILE).read_text()) | {"target_modules": ["q_proj"]}
    (folder / ADAPTER_FILE).write_text(json.dumps(described))
    source = resolve(str(folder))
    with pytest.raises(SlimEvalError, match="does not fit"):
        adapters.merge(source, tmp_path / "merged", cache.identity(source))
    assert not (tmp_path / "merged").exists()
