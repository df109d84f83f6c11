"""A metric is one row: added from one file outside the package, it is in every table, frontier and the report."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from tests.unit.variants import variant_maker

TOY = Path(__file__).with_name("toys") / "metric.py"
ROOT = Path(__file__).parents[2]


def test_a_metric_from_a_plugin_goes_everywhere(tmp_path: Path) -> None:
    make = variant_maker(tmp_path)
    for precision, joules in (("fp16", 1000.0), ("int8", 500.0)):
        make(precision=precision, energy={"energy_joules": joules, "prompt_tokens": 12.0, "num_runs": 20}, write=True)
    answer = subprocess.run(
        [
            sys.executable, "-m", "slim_eval", "analyze", "--input-dir", "outputs", "--output-dir", "analysis",
            "--objectives", "prompt_tokens_per_joule:max model_size_gb", "--no-plots",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "SLIM_EVAL_PLUGINS": str(TOY), "PYTHONPATH": str(ROOT), "COLUMNS": "250"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    with (tmp_path / "analysis" / "results_table.csv").open() as lines:
        values = {row["precision"]: row["prompt_tokens_per_joule"] for row in csv.DictReader(lines)}
    assert values == {"fp16": "0.24", "int8": "0.48"}
    with (tmp_path / "analysis" / "summary_statistics.csv").open() as lines:
        assert "prompt_tokens_per_joule" in {row["metric"] for row in csv.DictReader(lines)}
    with (tmp_path / "analysis" / "pareto.csv").open() as lines:
        standing = {
            row["precision"]: row["on_frontier"]
            for row in csv.DictReader(lines)
            if row["objectives"] == "prompt_tokens_per_joule:max model_size_gb:min"
        }
    assert standing == {"fp16": "False", "int8": "True"}
    assert "prefill efficiency" in (tmp_path / "analysis" / "report.html").read_text(encoding="utf-8")
