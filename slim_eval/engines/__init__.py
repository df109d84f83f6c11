"""Inference engines. `ENGINES` is the registry; importing this package imports none of the engines' own packages."""

from slim_eval.engines import transformers, vllm
from slim_eval.engines.engine import (
    ENGINES,
    Capabilities,
    Engine,
    EngineDecision,
    EngineType,
    Generation,
    LoadRequest,
    MemoryReport,
    Platform,
    Prompt,
    choose,
    engines_for,
)

__all__ = [
    "ENGINES",
    "Capabilities",
    "Engine",
    "EngineDecision",
    "EngineType",
    "Generation",
    "LoadRequest",
    "MemoryReport",
    "Platform",
    "Prompt",
    "choose",
    "engines_for",
    "transformers",
    "vllm",
]
