"""Fingerprints: what changes them, and what must not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import QuantizationConfig, RunConfig
from slim_eval.demo import CALIBRATION_FILE, MODEL_DIR
from slim_eval.execution import fingerprints
from slim_eval.models.source import ModelSource, resolve
from slim_eval.quantization.cache import QuantizeRequest

BASE: dict[str, Any] = {"models": "demo", "accuracy": {"tasks": "mmlu gsm8k"}}


def prints(engine: str = "vllm", device: str = "A100", max_model_len: int = 1024, **options: Any) -> dict[str, str]:
    config = RunConfig(**(BASE | options))
    stages = fingerprints.stage_settings(config, max_model_len=max_model_len, device=device)
    return {
        name: fingerprints.fingerprint(fingerprints.served_by(settings, engine)) for name, settings in stages.items()
    }


def changed(**options: Any) -> set[str]:
    before, after = prints(), prints(**options)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"performance": {"num_runs": 7}}, {"performance"}),
        ({"performance": {"batch_size": 2}}, {"performance"}),
        ({"performance": {"num_warmup": 2}}, {"performance"}),
        ({"performance": {"target_ci": 0.1}}, {"performance"}),
        ({"performance": {"max_new_tokens": 7}}, {"performance", "energy"}),
        ({"performance": {"prompt": "Hello"}}, {"performance", "energy"}),
        ({"performance": {"input_len": 7}}, {"performance", "energy"}),
        ({"energy": {"sample_runs": 7}}, {"energy"}),
        ({"energy": {"batch_size": 2}}, {"energy"}),
        ({"energy": {"source": "nvml"}}, {"energy"}),
        ({"energy": {"sampling_interval_s": 0.1}}, {"energy"}),
        ({"device": "H100"}, {"performance", "energy"}),
        ({"accuracy": {"tasks": "mmlu gsm8k", "limit": 7}}, {"mmlu", "gsm8k"}),
        ({"accuracy": {"tasks": "mmlu gsm8k", "num_fewshot": 0}}, {"mmlu", "gsm8k"}),
        ({"accuracy": {"tasks": "mmlu gsm8k", "apply_chat_template": True}}, {"mmlu", "gsm8k"}),
        ({"accuracy": {"tasks": "mmlu gsm8k", "batch_sizes": {"mmlu": 2}}}, {"mmlu"}),
        ({"seed": 3}, {"mmlu", "gsm8k"}),
        ({"engine": "transformers"}, {"performance", "energy", "mmlu", "gsm8k"}),
        ({"max_model_len": 512}, {"performance", "energy", "mmlu", "gsm8k"}),
    ],
)
def test_a_setting_changes_the_stages_that_depend_on_it(options: dict[str, Any], stages: set[str]) -> None:
    assert changed(**options) == stages


@pytest.mark.parametrize(
    "options",
    [
        {"output_dir": "elsewhere"},
        {"quantized_models_dir": "elsewhere"},
        {"serve_python": "/usr/bin/python3"},
        {"tracking": {"project": "other"}},
        {"force": True},
        {"accuracy": {"tasks": "mmlu gsm8k", "margin_pp": 2}},
        {"tasks": "accuracy energy performance", "precision": "fp16 int8"},
    ],
)
def test_what_no_number_depends_on_changes_nothing(options: dict[str, Any]) -> None:
    assert changed(**options) == set()


def test_settings_of_vllm_count_only_where_it_serves() -> None:
    config = [RunConfig(**BASE, engine={"gpu_memory_utilization": share, "engine": "auto"}) for share in (0.5, 0.9)]
    made = [fingerprints.stage_settings(c, max_model_len=64, device=None)["performance"] for c in config]
    served = {name: [fingerprints.served_by(each, name) for each in made] for name in ("vllm", "transformers")}
    assert fingerprints.differences(*served["vllm"]) == ["gpu_memory_utilization: recorded with 0.5, requested 0.9"]
    assert fingerprints.differences(*served["transformers"]) == []


def test_the_seed_counts_for_speed_only_where_prompts_come_from_it() -> None:
    synthetic = {"performance": {"input_len": 8}}
    assert prints(**synthetic)["performance"] != prints(**synthetic, seed=1)["performance"]
    assert prints()["performance"] == prints(seed=1)["performance"]


def test_task_files_count_by_their_content(tmp_path: Path) -> None:
    found = []
    for name, text in (("a", "task: mine"), ("b", "task: mine"), ("c", "task: other")):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "mine.yaml").write_text(text)
        (tmp_path / name / "__pycache__" / f"{name}.pyc").write_text(name)
        found.append(prints(accuracy={"tasks": "mmlu", "include_path": tmp_path / name})["mmlu"])
    assert found[0] == found[1] != found[2]


def request(folder: Path, source: ModelSource, precision: str, **options: Any) -> QuantizeRequest:
    config = QuantizationConfig(**({"calibration_dataset": str(CALIBRATION_FILE)} | options))
    return QuantizeRequest(source=source, precision=precision, directory=folder, config=config)


def test_a_local_model_counts_by_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(MODEL_DIR, tmp_path / name)
    (tmp_path / "b" / "README.md").write_text("not read")
    same = [fingerprints.checkpoint_settings(request(tmp_path, resolve(str(tmp_path / name)), "fp16"))
            for name in ("a", "b")]  # fmt: skip
    assert same[0] == same[1]
    (tmp_path / "b" / "chat_template.jinja").write_text("{{ messages }}")
    other = fingerprints.checkpoint_settings(request(tmp_path, resolve(str(tmp_path / "b")), "fp16"))
    assert [text.split(":")[0] for text in fingerprints.differences(same[0], other)] == ["files"]


def test_calibration_counts_for_quantized_variants_alone(tmp_path: Path) -> None:
    source = resolve("demo")
    for precision, expected in (("fp16", []), ("int8", ["num_calibration_samples: recorded with 8, requested 9"])):
        made = [
            fingerprints.checkpoint_settings(request(tmp_path, source, precision, num_calibration_samples=count))
            for count in (8, 9)
        ]
        assert fingerprints.differences(*made) == expected


def test_a_checkpoint_made_elsewhere_counts_by_its_content(tmp_path: Path) -> None:
    wanted = request(tmp_path, resolve("demo"), "int8")
    assert "num_calibration_samples" in fingerprints.checkpoint_settings(wanted)
    shutil.copytree(MODEL_DIR, tmp_path / "demo_int8")
    settings = fingerprints.checkpoint_settings(wanted)
    assert settings["checkpoint"].startswith("sha256:")
    assert "num_calibration_samples" not in settings


def test_a_model_on_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    source = ModelSource(name="a/b", kind="hub", config_dir=MODEL_DIR, revision="c" * 40)
    settings = fingerprints.checkpoint_settings(request(tmp_path, source, "fp16"))
    assert settings == {"precision": "fp16", "revision": "c" * 40}


def test_a_difference_names_both_sides() -> None:
    then, now = {"num_runs": 16, "gone": 1, "prompt": "a" * 100}, {"num_runs": 24, "come": None, "prompt": "b"}
    assert fingerprints.differences(then, now) == [
        "num_runs: recorded with 16, requested 24",
        "come: recorded with nothing, requested null",
        f"prompt: recorded with {'a' * 60}…, requested b",
        "gone: recorded with 1, requested nothing",
    ]
