"""What is different for the embedded model: it knows a small world, so its tasks and texts come from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slim_eval.config import (
    AccuracyConfig,
    Config,
    EnergyConfig,
    EngineConfig,
    PerformanceConfig,
    QuantizationConfig,
    RunConfig,
    TrackingConfig,
)
from slim_eval.demo import CALIBRATION_FILE, TASKS


def adapt(config: RunConfig) -> RunConfig:
    """The run's config for the embedded model: its own tasks and calibration text, unless others were asked for."""
    return config.model_copy(
        update={
            "accuracy": _filled(config.accuracy, tasks=TASKS),
            "quantization": _filled(config.quantization, calibration_dataset=str(CALIBRATION_FILE)),
        }
    )


def _filled(part: Config, **values: Any) -> Config:
    return part.model_copy(update={key: value for key, value in values.items() if key not in part.model_fields_set})


def demo_config(output_dir: Path, quantized_models_dir: Path, engine: str, *, force: bool = False) -> RunConfig:
    """The run of `slim-eval demo`: every precision and benchmark, sized for a few minutes on two CPU cores.

    Args:
        output_dir: Where results are written.
        quantized_models_dir: Where quantized checkpoints are kept.
        engine: One engine for all precisions, so that their speeds can be compared.
        force: Measure everything again and replace earlier results.
    """
    return RunConfig(
        models=("demo",),
        precision=("fp16", "int8", "int4"),
        output_dir=output_dir,
        quantized_models_dir=quantized_models_dir,
        force=force,
        performance=PerformanceConfig(num_runs=96, max_new_tokens=64),
        energy=EnergyConfig(sample_runs=30),
        accuracy=AccuracyConfig(tasks=TASKS, num_fewshot=2),
        engine=EngineConfig(engine=engine, enforce_eager=True),
        quantization=QuantizationConfig(calibration_dataset=str(CALIBRATION_FILE), num_calibration_samples=64),
        tracking=TrackingConfig(enabled=False),
    )
