"""A hub that fails during downloads: each model's cause is reported, and rerunning the command finishes the work."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command
from tests.standins.hub import Fault, FaultKind, LoopbackHub

WEIGHTS = "model.safetensors"
KINDS = (FaultKind.ERROR, FaultKind.TRUNCATED, FaultKind.CUT, FaultKind.STALL)
MODELS = [f"acme/{kind.value}" for kind in KINDS]
SAYS = dict(zip(MODELS, ("answered 500", *["did not complete its response"] * 2, "no progress for 30 s"), strict=True))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """One model per fault, and one whose connection breaks once."""
    root = tmp_path_factory.mktemp("hub")
    for name in [*MODELS, "acme/recovers"]:
        shutil.copytree(MODEL_DIR, root / "models" / name)
    with LoopbackHub(root) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory and cache of the commands in this file."""
    return tmp_path_factory.mktemp("downloads")


def run(folder: Path, hub: LoopbackHub, *models: str, timeout_s: int = 600) -> subprocess.CompletedProcess[str]:
    # The default waits 10 s for each block of a file, five times.
    waits = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    variables = {**hub.environment(folder / "cache"), **WITH_INSTANT, **waits}
    return run_command(
        "run", "--models", " ".join(models), "--tasks", "performance", *INSTANT, "--stage-timeout", str(timeout_s),
        cwd=folder, env=variables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def failed(folder: Path, hub: LoopbackHub) -> subprocess.CompletedProcess[str]:
    """The run whose downloads fail."""
    for name, kind in zip(MODELS, KINDS, strict=True):
        hub.fail(name, Fault(kind, WEIGHTS))
    process = run(folder, hub, *MODELS, timeout_s=30)
    for name in MODELS:
        hub.heal(name)
    return process


def variant(folder: Path, model: str) -> Path:
    name = model.rsplit("/", 1)[-1]
    return folder / "outputs" / name / f"{name}_fp16"


def test_every_download_that_failed_is_named(failed: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    for model in MODELS:
        error = json.loads((variant(folder, model) / "performance.error.json").read_text())
        assert error["stage"] == "download"
        assert SAYS[model] in error["cause"]
        assert error["remedy"]
        assert not (variant(folder, model) / "performance.json").exists()


def test_the_same_command_finishes_once_the_hub_is_well(
    failed: subprocess.CompletedProcess[str], folder: Path, hub: LoopbackHub
) -> None:
    assert failed.returncode == 1
    process = run(folder, hub, *MODELS)
    assert process.returncode == 0, process.stderr
    for model in MODELS:
        assert (variant(folder, model) / "performance.json").exists()
        assert not (variant(folder, model) / "performance.error.json").exists()


def test_a_connection_that_breaks_once_costs_nothing(folder: Path, hub: LoopbackHub) -> None:
    hub.fail("acme/recovers", Fault(FaultKind.CUT, WEIGHTS, times=1))
    process = run(folder, hub, "acme/recovers")
    assert process.returncode == 0, process.stderr
    weights = next((folder / "cache").rglob(f"models--acme--recovers/snapshots/*/{WEIGHTS}"))
    assert weights.read_bytes() == (MODEL_DIR / WEIGHTS).read_bytes()
    asked = [request for request in hub.requests if "acme/recovers/" in request and request.endswith(WEIGHTS)]
    assert [request.split()[0] for request in asked].count("GET") == 2
