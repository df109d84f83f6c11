"""The embedded demonstration model: a tiny Llama, its three lm-eval tasks and its calibration text.

With it every command can be tried offline in minutes. Its scores are not those of any other model. ``README.md`` beside
this file describes its training; ``python -m tools.demo_model.train`` repeats it.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
#: A Hugging Face checkpoint folder: configuration, tokenizer and bfloat16 weights.
MODEL_DIR = _HERE / "model"
#: The folder of task files, as given to lm-eval's ``--include_path``.
TASKS_DIR = _HERE / "tasks"
#: Calibration text for GPTQ: one JSON object per line, each with ``messages`` in the chat format.
CALIBRATION_FILE = _HERE / "calibration.jsonl"
#: The names of the three tasks, in the style of MMLU, GSM8K and HellaSwag.
TASKS = ("demo_mmlu", "demo_gsm8k", "demo_hellaswag")
