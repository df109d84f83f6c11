"""A figure that one file outside the package adds is written with the others and shown in the report."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.commands import run_command

TOY = Path(__file__).parent / "toys" / "figure.py"
PUBLISHED = Path(__file__).parents[2] / "outputs" / "published-a100"


def test_a_figure_from_a_plugin_is_written_and_in_the_report(tmp_path: Path) -> None:
    run_command(
        "analyze", "--input-dir", str(PUBLISHED), "--output-dir", str(tmp_path / "analysis"), cwd=tmp_path,
        env={**os.environ, "SLIM_EVAL_PLUGINS": str(TOY)},
    )  # fmt: skip
    plots = tmp_path / "analysis" / "plots"
    assert (plots / "toy_figure.png").read_bytes().startswith(b"\x89PNG")
    assert (plots / "toy_figure.pdf").read_bytes().startswith(b"%PDF")
    assert (plots / "accuracy_comparison.png").is_file()
    report = (tmp_path / "analysis" / "report.html").read_text(encoding="utf-8")
    assert "Weights on disk: lower is better" in report
    assert re.search(r'src="data:image/png;base64,', report)
