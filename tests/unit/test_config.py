"""The original's option table, and what a config accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slim_eval.config import AnalysisConfig, NoiseConfig, RunConfig
from slim_eval.utils.parsing import split_list

RUN = RunConfig(models="demo")

# Option of the original's CLI reference -> its default there.
SEED_DEFAULTS = {
    "precision": ("fp16",),
    "tasks": ("performance", "accuracy", "energy"),
    "performance.num_warmup": 10,
    "performance.num_runs": 500,
    "performance.batch_size": 8,
    "performance.prompt": "Explain one interesting fact about large language models.",
    "performance.max_new_tokens": 256,
    "energy.sample_runs": 200,
    "accuracy.tasks": ("mmlu", "gsm8k", "hellaswag"),
    "accuracy.num_fewshot": 5,
    "accuracy.limit": None,
    "accuracy.batch_size": 32,
    "engine.gpu_memory_utilization": 0.8,
    "engine.max_model_len": 8192,
    "engine.gpu_index": 0,
    "tracking.enabled": True,
    "tracking.project": "slim-eval",
    "tracking.api_key": None,
    "tracking.run_name": None,
    "quantization.calibration_dataset": "HuggingFaceH4/ultrachat_200k",
    "quantization.calibration_split": "train_sft",
    "quantization.num_calibration_samples": 512,
    "quantization.max_sequence_length": 2048,
    "output_dir": Path("outputs"),
    "quantized_models_dir": Path("quantized-models"),
}


@pytest.mark.parametrize(("path", "default"), SEED_DEFAULTS.items())
def test_defaults_are_the_originals(path: str, default: Any) -> None:
    value: Any = RUN
    for name in path.split("."):
        value = getattr(value, name)
    assert value == default


def test_repeats_for_the_noise_floor_are_five_and_short_unless_told_otherwise() -> None:
    config = NoiseConfig(models="demo")
    assert (config.num_repeats, config.performance.target_ci, config.performance.num_runs) == (5, 0.05, 500)
    assert config.performance.model_dump(exclude={"target_ci"}) == RUN.performance.model_dump(exclude={"target_ci"})
    told = NoiseConfig.model_validate({"models": "demo", "num_repeats": 3, "performance": {"target_ci": 0.01}})
    assert (told.num_repeats, told.performance.target_ci) == (3, 0.01)
    assert RUN.performance.target_ci is None


def test_analysis_defaults() -> None:
    config = AnalysisConfig()
    assert config.input_dir == Path("outputs")
    assert config.output_dir == Path("analysis_results")  # the one deliberate difference
    assert config.accuracy_tasks == ("mmlu", "gsm8k", "hellaswag")
    assert config.gpu_index == 0


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("mmlu gsm8k", ("mmlu", "gsm8k")),
        ("mmlu,gsm8k", ("mmlu", "gsm8k")),
        ("mmlu, gsm8k ,", ("mmlu", "gsm8k")),
        ("a/b 'my models/x'", ("a/b", "my models/x")),
        ("x x y", ("x", "y")),
        (["my models/x", "y"], ("my models/x", "y")),
        ("", ()),
        (r"C:\models\x", (r"C:\models\x",)),
        ("it#1", ("it#1",)),
    ],
)
def test_lists(given: Any, items: tuple[str, ...]) -> None:
    assert split_list(given) == items


def test_precision_takes_text_and_members() -> None:
    assert RunConfig(models="demo", precision="fp16,int4").precision == ("fp16", "int4")
    assert RunConfig(models="demo", precision="int8").precision == ("int8",)


@pytest.mark.parametrize(
    "options",
    [
        {"models": ""},
        {"models": "demo", "nonsense": 1},
        {"models": "demo", "performance": {"num_runs": 0}},
        {"models": "demo", "performance": {"batch_size": -1}},
        {"models": "demo", "performance": {"prompt": ""}},
        {"models": "demo", "performance": {"max_new_token": 1}},
        {"models": "demo", "engine": {"gpu_memory_utilization": 1.5}},
        {"models": "demo", "engine": {"gpu_memory_utilization": 0}},
        {"models": "demo", "engine": {"max_model_len": 0}},
        {"models": "demo", "engine": {"engine_args": ["novalue"]}},
        {"models": "demo", "accuracy": {"limit": 0}},
        {"models": "demo", "accuracy": {"batch_sizes": {"mmlu": 0}}},
        {"models": "demo", "seed": -1},
    ],
)
def test_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RunConfig(**options)


def test_a_config_survives_the_way_to_a_worker() -> None:
    config = RunConfig(
        models=["a/b", "/models/with space"],
        precision="fp16 int4",
        engine={"engine": "vllm", "engine_args": ["max_num_seqs=4", "dtype=float16"]},
        accuracy={"batch_sizes": ["mmlu=4"], "include_path": "tasks"},
        energy={"batch_size": 2},
        performance={"input_len": 32},
        benchmark_options=["prefill.requests=3"],
    )
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.engine.engine_args == {"max_num_seqs": 4, "dtype": "float16"}
    assert again.accuracy.batch_size_of("mmlu") == 4
    assert again.accuracy.batch_size_of("gsm8k") == 32


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        RUN.seed = 3  # type: ignore[misc]
