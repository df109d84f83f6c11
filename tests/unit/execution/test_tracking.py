"""Weights & Biases: what was logged offline is read back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import RunConfig, TrackingConfig
from slim_eval.execution import tracking
from slim_eval.results.records import AccuracyRecord, EnergyRecord, PerformanceRecord
from slim_eval.results.variants import Variant
from tests.standins.wandb_file import read_run

KEY = "k" * 40
HEAD: dict[str, Any] = {
    "schema_version": 1,
    "model": "org/Tiny",
    "precision": "int8",
    "engine": "vllm",
    "dtype": "bfloat16",
}
VARIANT = Variant.of(
    Path("cell"),
    [
        PerformanceRecord(**HEAD, tpot_s=0.02, tokens_per_second=50.0, memory_source="peak RSS"),
        EnergyRecord(**HEAD, energy_joules=None, energy_source=None),
        AccuracyRecord(**HEAD, task="mmlu", accuracy=0.5, stderr=0.01, metrics={"acc,none": 0.5}),
    ],
)


def config(**options: Any) -> RunConfig:
    return RunConfig(models="org/Tiny", precision="int8", tracking=TrackingConfig(**options))


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no login and no network of the machine that runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.large
def test_offline_runs_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("sys.argv", ["slim-eval", "run", "--wandb-api-key", KEY])
    run = config(project="precisions", api_key=KEY)
    tracking.open_tracker(run.tracking, notes.append)(VARIANT, run)
    (note,) = notes
    assert "WANDB_API_KEY is safer" in note
    assert KEY not in note
    os.environ.pop("WANDB_API_KEY", None)
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    logged = read_run(path)
    assert (logged["name"], logged["project"], logged["group"], logged["tags"]) == (
        "int8 Tiny", "precisions", "Tiny", ["int8"],
    )  # fmt: skip
    assert logged["metrics"]["performance/tpot_s"] == 0.02
    assert logged["metrics"]["performance/tokens_per_second"] == 50.0
    assert logged["metrics"]["accuracy/mmlu"] == 0.5
    assert not any(key.startswith("energy/") for key in logged["metrics"])  # not measured is not logged as 0
    assert logged["config"]["dtype"] == "bfloat16"
    assert logged["config"]["settings"]["performance"]["batch_size"] == 8
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("mode", "options", "says"),
    [
        ("online", {}, "WANDB_API_KEY"),
        ("disabled", {}, "WANDB_MODE=disabled"),
    ],
)
def test_without_a_key_one_line_and_on(
    mode: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    notes: list[str] = []
    tracking.open_tracker(TrackingConfig(**options), notes.append)(VARIANT, config())
    (line,) = notes
    assert says in line
    assert not (tmp_path / "wandb").exists()


def test_switched_off_says_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    tracking.open_tracker(TrackingConfig(enabled=False), notes.append)(VARIANT, config())
    assert notes == []
    assert not (tmp_path / "wandb").exists()


def test_a_login_counts_as_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    host = "wandb.invalid"
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{host}")
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    notes: list[str] = []
    tracking.open_tracker(TrackingConfig(), notes.append)
    assert notes == []


def test_run_names() -> None:
    assert tracking.run_name(config(), VARIANT) == "int8 Tiny"
    assert tracking.run_name(config(run_name="mine"), VARIANT) == "mine"
    several = RunConfig(models="org/Tiny", precision="fp16 int8", tracking={"run_name": "mine"})
    assert tracking.run_name(several, VARIANT) == "mine int8 Tiny"


def test_an_invalid_speed_is_not_logged() -> None:
    record = VARIANT.performance
    assert record is not None
    invalid = record.model_copy(update={"valid": False, "invalid_reasons": ("other processes",)})
    _, metrics = tracking.payload(replace(VARIANT, measured={**VARIANT.measured, "performance": invalid}), config())
    assert {key: value for key, value in metrics.items() if key.startswith("performance/")} == {
        "performance/valid": False
    }
    assert metrics["accuracy/mmlu"] == 0.5
