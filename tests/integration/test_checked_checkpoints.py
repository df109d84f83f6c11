"""What the checks of a checkpoint find, as a user of the command line meets it: before a run, after a download."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, run_command
from tests.standins.hub import LoopbackHub

NOTE = "the tokenizer has tokens without an embedding (<image>): a text that contains one cannot be measured"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run of two models from a hub: one to note, and one that is complete but cannot be loaded."""
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("run")
    noted = Path(shutil.copytree(MODEL_DIR, root / "models" / "acme" / "noted"))
    tokenizer = json.loads((noted / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 4096, "content": "<image>", "special": True})
    (noted / "tokenizer.json").write_text(json.dumps(tokenizer))
    shards = Path(shutil.copytree(MODEL_DIR, root / "models" / "acme" / "shards"))
    (shards / "model.safetensors").rename(shards / "model-00001-of-00002.safetensors")
    with LoopbackHub(root) as hub:
        variables = {**hub.environment(folder / "cache"), **WITH_INSTANT, "HF_HUB_OFFLINE": "0"}
        words = ("--models", "acme/shards acme/noted", "--tasks", "performance", *INSTANT)
        return run_command("run", *words, cwd=folder, env=variables), folder / "outputs"


def test_a_warning_is_shown_and_kept_in_the_record(ran: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    process, outputs = ran
    record = json.loads((outputs / "noted" / "noted_fp16" / "performance.json").read_text())
    assert record["notes"].count(NOTE) == 1
    assert NOTE in " ".join(process.stderr.split() + process.stdout.split())


def test_what_is_refused_after_the_download_costs_this_model_alone(
    ran: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    process, outputs = ran
    assert process.returncode == 1, process.stderr
    (error,) = (outputs / "shards" / "shards_fp16").glob("*error*")
    failure = json.loads(error.read_text())
    assert failure["stage"] == "download"
    assert "but no model.safetensors.index.json" in failure["cause"]


def test_a_dry_run_and_the_run_refuse_with_the_same_words(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vision_config": {"depth": 1}}))
    process = run_command("run", "--models", str(model), *INSTANT, "--dry-run", cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 0
    assert "note: the model is for vision besides text: only text is measured" in process.stdout
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    said = []
    for words in ((), ("--dry-run",)):
        process = run_command("run", "--models", str(model), *INSTANT, *words, cwd=tmp_path, env=WITH_INSTANT)
        assert process.returncode == 2
        said.append(process.stderr)
    assert said[0] == said[1]
    assert "but no model.safetensors.index.json" in said[0]
    assert not (tmp_path / "outputs").exists()
