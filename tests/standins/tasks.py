"""A small lm-eval task of yes-or-no questions."""

from __future__ import annotations

from pathlib import Path

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" yes", " no"]
doc_to_target: {target}
metric_list:
  - metric: acc
"""


def write_task(folder: Path, name: str, data: Path, target: str = "answer") -> None:
    """Write ``{name}.yaml`` over rows of `question` and `answer`; `target` may be a function of the task's folder."""
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, target=target))
