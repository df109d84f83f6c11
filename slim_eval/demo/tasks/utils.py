"""Functions that lm-eval calls from the task files beside this one: they read data of the package, or make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_DATA_DIR = Path(__file__).resolve().parent / "data"


def load(name: str, **_: Any) -> dict[str, Dataset]:
    """Reads one task's items.

    Args:
        name: The task's name, from ``dataset_kwargs`` of its file.
        **_: The task's metadata, which lm-eval passes along.

    Returns:
        The rows of the ``test`` split and of the ``fewshot`` split.
    """
    from datasets import Dataset

    rows = {split: (_DATA_DIR / f"{name}.{split}.jsonl").read_text(encoding="utf-8") for split in ("test", "fewshot")}
    return {split: Dataset.from_list([json.loads(row) for row in text.splitlines()]) for split, text in rows.items()}


def load_prose(name: str, **_: Any) -> dict[str, Dataset]:
    """Makes one task's items from the texts that come with Python; arguments and result as of `load`."""
    from datasets import Dataset

    from slim_eval.demo import prose

    return {split: Dataset.from_list(prose.items(name, split)) for split in ("test", "fewshot")}
