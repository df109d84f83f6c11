"""docs/architectures.md: its table is what a run says of each architecture today."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.architectures import PAGE, page

ROOT = Path(__file__).parents[2]
BUILD = ROOT.parent / "shared" / "faults" / "arch" / "build.py"


@pytest.mark.skipif(not BUILD.is_file(), reason="needs ../shared/faults/arch")
def test_the_table_is_what_a_run_says(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    models = tmp_path / "models"
    done = subprocess.run(
        [sys.executable, str(BUILD)], cwd=ROOT, env={**os.environ, "FAULTS_OUT": str(models)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert page(models) == PAGE.read_text(encoding="utf-8"), "python -m tools.architectures MODELS makes it anew"
