"""Generated items in the schema of the data sets that lm-eval's `mmlu`, `gsm8k` and `hellaswag` read.

Everything is generated from a fixed seed; no text of the real data sets is in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_NAMES = ("Tomato", "River", "Lantern", "Harbor", "Meadow", "Copper", "Willow", "Saddle")
_VERBS = ("lifts", "paints", "folds", "carries", "washes", "turns")
_PLACES = ("near the gate", "on the table", "under the bridge", "by the window")

Rows = Sequence[Mapping[str, Any]]


def build_real_task_repos(root: Path, *, mmlu_items: int = 2, gsm8k_items: int = 6, hellaswag_items: int = 16) -> None:
    """Write the three data sets below ``root/datasets``, as a `hub.LoopbackHub` serves them.

    Args:
        root: Root of the hub.
        mmlu_items: Test items a subject; each has five more as few-shot examples.
        gsm8k_items: Test items.
        hellaswag_items: Validation items.
    """
    rng = random.Random(0)
    mmlu = {
        subject: {"test": _mmlu(rng, subject, mmlu_items), "dev": _mmlu(rng, subject, 5)} for subject in mmlu_subjects()
    }
    write_dataset(root, "cais/mmlu", mmlu)
    write_dataset(root, "openai/gsm8k", {"main": {"train": _gsm8k(rng, 12), "test": _gsm8k(rng, gsm8k_items)}})
    hellaswag = {"train": _hellaswag(rng, 12, "train"), "validation": _hellaswag(rng, hellaswag_items, "val")}
    write_dataset(root, "Rowan/hellaswag", {"default": hellaswag})


def put_real_items(real: Path, root: Path, subjects: Sequence[str]) -> None:
    """Replace generated items by as many real ones: gsm8k, hellaswag and some subjects of mmlu.

    Args:
        real: Root of a hub with the real data sets, of the same columns.
        root: Root of a hub that `build_real_task_repos` made.
        subjects: Of mmlu.
    """
    import pyarrow.parquet as pq

    for repo, configs in {"openai/gsm8k": ["main"], "Rowan/hellaswag": ["data"], "cais/mmlu": subjects}.items():
        for config in configs:
            for source in (real / "datasets" / repo / config).glob("*.parquet"):
                target = root / "datasets" / repo / ("default" if config == "data" else config) / source.name
                if target.is_file():
                    pq.write_table(pq.read_table(source)[: pq.read_metadata(target).num_rows], target)


def mmlu_subjects() -> list[str]:
    """The 57 subjects, as the task files of the installed lm-eval name them."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "tasks" / "mmlu" / "default"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("mmlu_*.yaml"))]
    return [match[1] for text in texts if (match := re.search(r'"?dataset_name"?:\s*"?([\w]+)"?', text))]


def write_dataset(root: Path, repo_id: str, configs: Mapping[str, Mapping[str, Rows]]) -> Path:
    """Write a data set repository: one Parquet file per split, and the card that lists configurations and splits.

    Args:
        root: Root of the hub.
        repo_id: ``owner/name``.
        configs: Configuration -> split -> rows.

    Returns:
        Folder of the repository.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    repo = root / "datasets" / repo_id
    card = ["---", "configs:"]
    for config, splits in configs.items():
        (repo / config).mkdir(parents=True, exist_ok=True)
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            name = f"{config}/{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), repo / name)
            card += [f"  - split: {split}", f"    path: {name}"]
    (repo / "README.md").write_text("\n".join([*card, "---", f"# {repo_id}", ""]), encoding="utf-8")
    return repo


def _mmlu(rng: random.Random, subject: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for _ in range(count):
        start, step = rng.randint(1, 9), rng.randint(2, 5)
        answer = rng.randrange(4)
        choices = [str(start + 3 * step + (index - answer) * step) for index in range(4)]
        question = f"What comes after {start}, {start + step}, {start + 2 * step}?"
        rows.append({"question": question, "subject": subject, "choices": choices, "answer": answer})
    return rows


def _gsm8k(rng: random.Random, count: int) -> list[dict[str, str]]:
    rows = []
    for _ in range(count):
        boxes, each, gone = rng.randint(2, 9), rng.randint(3, 9), rng.randint(1, 5)
        total = boxes * each
        rows.append(
            {
                "question": f"There are {boxes} boxes with {each} pens each. {gone} pens are lost. How many are left?",
                "answer": f"{boxes} * {each} = <<{boxes}*{each}={total}>>{total} pens.\n"
                f"{total} - {gone} = <<{total}-{gone}={total - gone}>>{total - gone} are left.\n#### {total - gone}",
            }
        )
    return rows


def _hellaswag(rng: random.Random, count: int, split: str) -> list[dict[str, Any]]:
    rows = []
    for index in range(count):
        name, label = rng.choice(_NAMES), rng.randrange(4)
        context = f"The {name.lower()} keeper {rng.choice(_VERBS)} a box {rng.choice(_PLACES)}. [step] Then"
        endings = [f"the keeper {verb} it again {rng.choice(_PLACES)}." for verb in rng.sample(_VERBS, 4)]
        rows.append(
            {
                "ind": index,
                "activity_label": f"Keeping a {name.lower()}",
                "ctx_a": context,
                "ctx_b": "the day goes on and",
                "ctx": f"{context} the day goes on and",
                "endings": endings,
                "source_id": f"made~{split}_{index}",
                "split": split,
                "split_type": "indomain",
                "label": str(label),
            }
        )
    return rows
