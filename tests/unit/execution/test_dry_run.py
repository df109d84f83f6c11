"""What a dry run says: what is reused, what time it took before, and memory from headers and configuration."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slim_eval import models
from slim_eval.config import RunConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.execution import dry_run, plan, resume
from tests.standins.hub import LoopbackHub
from tests.unit.execution.test_resume import config, make


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def made(wanted: RunConfig) -> list[dry_run.VariantForecast]:
    variants, gpus = plan.lay_out(wanted)
    return dry_run.forecast(wanted, resume.survey(variants, gpus, force=wanted.force), gpus)


def fill(**options: Any) -> Path:
    """A variant with all its records, of 3 s each."""
    (variant,), gpus = plan.lay_out(config(**options))
    for name, settings in variant.settings(gpus).items():
        make(variant.directory, name, settings, variant.precision)
    return variant.directory


def times(variant: dry_run.VariantForecast) -> dict[str, float | None]:
    return {stage.name: stage.seconds for stage in variant.stages}


def test_nothing_is_known_of_time_in_an_empty_folder(capsys: pytest.CaptureFixture[str]) -> None:
    (variant,) = made(config())
    assert set(times(variant).values()) == {None}
    dry_run.show([variant])
    assert "\n5 stages to do, 0 reused\ntime: not known\n" in capsys.readouterr().out


def test_time_is_what_the_same_work_took(capsys: pytest.CaptureFixture[str]) -> None:
    fill()
    (variant,) = made(config(force=True))
    assert times(variant) == {"engine": 2.0, "performance": 3.0, "energy": 3.0, "demo_mmlu": 3.0, "demo_gsm8k": 3.0}
    dry_run.show([variant])
    assert "\ntime: 14 s\n" in capsys.readouterr().out


def test_other_work_says_nothing_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    fill()
    (variant,) = made(config(force=True, performance={"num_runs": 7}))
    assert times(variant)["performance"] is None
    assert times(variant)["energy"] == 3.0
    dry_run.show([variant])
    assert "\ntime: 11 s, and 1 stages whose time is not known\n" in capsys.readouterr().out


def test_another_precision_of_the_model_does_the_same_work() -> None:
    fill()
    first, second = made(config(precision="fp16 int8"))
    assert first.todo == []
    assert times(second) == {"quantize": None, "engine": None, **dict.fromkeys(
        ("performance", "energy", "demo_mmlu", "demo_gsm8k"), 3.0)}  # fmt: skip


def test_what_is_reused_and_why_something_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill()
    path = folder / "energy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"valid": False, "invalid_reasons": ["throttled"]}))
    (variant,) = made(config())
    assert [stage.name for stage in variant.todo] == ["engine", "energy"]
    dry_run.show([variant])
    text = capsys.readouterr().out
    assert "again: its record is invalid (throttled)" in " ".join(text.split())
    assert "2 stages to do, 3 reused" in text
    assert "time: 5 s" in text


def test_the_kv_cache_is_worked_out_from_the_configuration() -> None:
    engine = {"engine": "transformers", "dtype": "bfloat16"}
    (variant,) = made(config(tasks="performance", performance={"batch_size": 4}, engine=engine))
    assert variant.kv_bytes_per_token == 2 * 3 * 2 * 64 * 2  # keys and values, layers, heads, elements, bytes
    assert variant.kv_cache_bytes == 1536 * 1024 * 4
    (fp8,) = made(config(engine={"engine": "vllm", "engine_args": {"kv_cache_dtype": "fp8"}}))
    assert fp8.kv_bytes_per_token == 768


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"head_dim": None}, (3, 2, 64)),
        ({"num_key_value_heads": None}, (3, 4, 64)),
        ({"num_key_value_heads": [2, 2, 1]}, (3, None, 64)),
        ({"layer_types": ["full_attention", "linear_attention", "sliding_attention"]}, (2, 2, 64)),
        ({"kv_lora_rank": 8}, (None, None, None)),
        ({"text_config": {"num_hidden_layers": 7}}, (7, 2, 64)),
    ],
)
def test_the_shape_of_the_kv_cache(changes: dict[str, Any], shape: tuple[int | None, ...], tmp_path: Path) -> None:
    content = json.loads((MODEL_DIR / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    facts = models.describe_config(tmp_path)
    assert (facts.attention_layers, facts.kv_heads, facts.head_size) == shape


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_in_float32_weights_and_kv_cache_take_twice_as_much(engine: str) -> None:
    half, full = (made(config(engine={"engine": engine, "dtype": dtype}))[0] for dtype in ("float16", "float32"))
    assert full.weight_bytes == 2 * (half.weight_bytes or 0) > 0
    assert full.kv_bytes_per_token == 2 * (half.kv_bytes_per_token or 0) > 0
    (int8,) = made(config(precision="int8", engine={"engine": "vllm", "dtype": "float32"}))
    assert int8.weight_bytes is not None
    assert int8.weight_bytes < 0.5 * (full.weight_bytes or 0)  # quantized weights are one byte in any type


def test_weights_at_16_bit_are_those_on_disk() -> None:
    (variant,) = made(config(engine={"dtype": "bfloat16"}))
    header = models.read_header(MODEL_DIR / "model.safetensors")
    assert variant.weight_bytes == sum(2 * math.prod(shape) for _, shape in header.values()) == 2 * 2_033_408


def test_quantized_weights_carry_their_scales() -> None:
    facts = models.describe_config(MODEL_DIR)
    found: models.Tensors = {
        "model.embed_tokens.weight": ("BF16", (100, 256)),
        "model.layers.0.mlp.up_proj.weight": ("BF16", (512, 256)),
        "model.norm.weight": ("BF16", (256,)),
        "lm_head.weight": ("BF16", (100, 256)),  # tied: it is the embedding
    }
    rest = 2 * (100 * 256 + 256)
    assert dry_run.weight_bytes(found, "fp16", facts) == rest + 2 * 512 * 256
    assert dry_run.weight_bytes(found, "int8", facts) == rest + 512 * 256 + 2 * 512
    assert dry_run.weight_bytes(found, "int4", facts) == rest + 512 * 256 / 2 + 2 * 512 * 2


def test_transformers_unpacks_quantized_weights() -> None:
    sizes = {
        engine: made(config(precision="int4", engine={"engine": engine, "dtype": "bfloat16"}))[0].weight_bytes
        for engine in ("transformers", "auto")
    }
    assert sizes["transformers"] == 2 * 2_033_408
    assert sizes["auto"] is not None
    assert sizes["auto"] < 2_033_408


@pytest.mark.parametrize(("kind", "size"), [("BF16", 12), ("F32", 24), ("I8", 6), ("F8_E4M3", 6), ("BOOL", 6)])
def test_bytes_of_a_tensor(kind: str, size: int) -> None:
    assert models.tensor_bytes(kind, (2, 3)) == size


# huggingface_hub reads HF_ENDPOINT when it is imported, so the hub is asked from a process of its own.
ASK = """
import sys
from pathlib import Path
from slim_eval import models
from slim_eval.errors import HubError
folder = Path(sys.argv[1])
def found(name):
    return models.read_tensors(models.ModelSource(name=name, kind="hub", config_dir=folder))
assert found("acme/sound") == models.read_header(folder / "model.safetensors")
try:
    found("acme/none")
except HubError as error:
    print(error.cause)
"""


def test_headers_are_read_from_the_hub_without_the_weights(tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "hub" / "models" / "acme" / "sound")
    with LoopbackHub(tmp_path / "hub") as hub:
        variables = {**os.environ, **hub.environment(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", ASK, str(MODEL_DIR)]
        answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
    assert "'acme/none' has no readable weights" in answer.stdout
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
