"""action.yml: the script of the composite action, run as GitHub runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def run_action(folder: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the action's step with its inputs; returns the process and the outputs."""
    (step,) = ACTION["runs"]["steps"]
    given = {name: str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()} | {"install": ""} | inputs
    variables = {
        name: given[text.removeprefix("${{ inputs.").removesuffix(" }}")] for name, text in step["env"].items()
    }
    outputs, summary = folder / "outputs.txt", folder / "summary.md"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    github = {"GITHUB_ACTION_PATH": str(ROOT), "GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
    process = subprocess.run(
        ["bash", "-c", step["run"]], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **github, **variables},
    )  # fmt: skip
    lines = outputs.read_text(encoding="utf-8").splitlines() if outputs.exists() else []
    return process, dict(line.split("=", 1) for line in lines)


@pytest.fixture
def study(planted_study: Path) -> Path:
    return planted_study / "Tiny"


@pytest.mark.large
def test_a_degraded_checkpoint_fails_the_job(study: Path, tmp_path: Path) -> None:
    inputs = {"baseline": str(study / "Tiny_fp16"), "candidate": str(study / "Tiny_int4")}
    process, outputs = run_action(tmp_path, **inputs, **{"fail-if": "quiz_drop>1pp\n\n  tpot_s>5%\r\n"})
    assert process.returncode == 3, process.stderr
    assert outputs == {"exit-code": "3", "junit": "slim-eval-junit.xml"}
    (suite,) = XML.parse(tmp_path / "slim-eval-junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "**Failed**: quiz_drop>1pp holds" in summary
    assert "Keep Tiny fp16: Tiny int4 is degraded." in summary


@pytest.mark.large
def test_a_safe_one_passes_and_no_text_is_run_by_the_shell(study: Path, tmp_path: Path) -> None:
    inputs = {"baseline": str(study / "Tiny_fp16"), "candidate": str(study / "Tiny_int8")}
    process, outputs = run_action(tmp_path, **inputs, **{"fail-if": "quiz_drop>1pp"})
    assert (process.returncode, outputs["exit-code"]) == (0, "0"), process.stderr
    process, outputs = run_action(tmp_path, **inputs, **{"fail-if": "$(touch pwned)>1pp"})
    assert process.returncode == 2
    assert not (tmp_path / "pwned").exists()


def test_the_example_workflow_uses_its_inputs() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "examples" / "quantization-gate.yml").read_text(encoding="utf-8"))
    (step,) = [step for step in workflow["jobs"]["gate"]["steps"] if "slim-eval" in step["uses"]]
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert {name for name, entry in ACTION["inputs"].items() if entry.get("required")} <= set(step["with"])
