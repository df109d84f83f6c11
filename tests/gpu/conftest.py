"""Tests on a real GPU; without one they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slim_eval import engines, power
from slim_eval.config import EngineConfig
from slim_eval.demo import MODEL_DIR

HERE = Path(__file__).parent


def _why_not() -> str | None:
    if not power.list_gpus():  # asked first: importing torch takes seconds, in every process of tests
        return "NVML lists no GPU"
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder, and skip them without a GPU."""
    reason = _why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def gpu() -> tuple[power.Gpu, ...]:
    """The first GPU that is visible."""
    import os

    return power.resolve_gpus(0, 1, os.environ.get("CUDA_VISIBLE_DEVICES"))


def load(choice: str, precision: str = "fp16") -> engines.Engine:
    """The embedded model on an engine."""
    decision = engines.choose(choice, precision)
    config = EngineConfig(engine=choice, enforce_eager=True, gpu_memory_utilization=0.2)
    return engines.ENGINES[decision.name].load(
        engines.LoadRequest(checkpoint=MODEL_DIR, config=config, max_model_len=1024)
    )


@pytest.fixture(scope="session")
def transformers_engine() -> Iterator[engines.Engine]:
    """The embedded model on Transformers."""
    engine = load("transformers")
    yield engine
    engine.close()
