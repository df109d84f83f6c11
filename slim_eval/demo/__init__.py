"""The embedded demonstration model: a tiny Llama, its three lm-eval tasks and its calibration text.

It lets every command be tried offline in minutes. Its scores say nothing about any other model. How it was made
stands in ``README.md`` beside this file; ``python -m tools.demo_model.train`` makes it again.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CALIBRATION_FILE", "MODEL_DIR", "TASKS", "TASKS_DIR"]

_HERE = Path(__file__).resolve().parent

#: A Hugging Face checkpoint folder: configuration, tokenizer and bfloat16 weights.
MODEL_DIR = _HERE / "model"

#: The folder of task files, as given to lm-eval's ``--include_path``.
TASKS_DIR = _HERE / "tasks"

#: Calibration text for GPTQ: one JSON object a line, each with ``messages`` in the chat format.
CALIBRATION_FILE = _HERE / "calibration.jsonl"

#: The names of the three tasks, in the manner of MMLU, GSM8K and HellaSwag.
TASKS = ("demo_mmlu", "demo_gsm8k", "demo_hellaswag")
