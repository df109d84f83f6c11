"""`slim-eval card`: the section and metadata of a model card, and the push of a checkpoint with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slim_eval.analysis.card import BEGIN, END, make_card
from slim_eval.config import CardConfig
from slim_eval.errors import UsageError
from tests.commands import run_command
from tests.standins.hub import LoopbackHub
from tests.unit.analysis.planted_study import TASKS


@pytest.fixture
def study(planted_study: Path) -> Path:
    return planted_study


def checkpoint_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("", encoding="utf-8")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags:\n- mine\nmodel-index:\n- name: old\n  results: []\n---\n\n# Mine\n\nBefore.\n",
        encoding="utf-8",
    )
    return folder


def test_it_has_recoveries_with_intervals_and_verdicts(study: Path) -> None:
    text = make_card(CardConfig(path=study, precision="int4")).text
    _, head, body = text.split("---\n", 2)
    (index,) = yaml.safe_load(head)["model-index"]
    assert index["name"] == "Tiny-int4"
    results = {result["dataset"]["name"]: result["metrics"][0] for result in index["results"]}
    assert set(results) == set(TASKS)
    quiz = results["quiz"]
    assert (quiz["type"], quiz["value"]) == ("acc", pytest.approx(1920 / 3000, abs=1e-6))
    assert quiz["args"]["verdict"] == "degraded"
    assert quiz["args"]["recovery_percent"] == pytest.approx(100 * 1920 / 2200, abs=0.01)
    assert "**Verdict: degraded**" in body
    (row,) = [line for line in body.splitlines() if line.startswith("| quiz ")]
    assert [cell.strip() for cell in row.split("|")][2:4] == ["73.3 %", "64.0 %"]
    assert "| 87.3 [" in row
    assert "| -9.3 [" in row
    assert "speed | 2.0" in body
    assert "| **mean** |" in body


def test_a_card_that_exists_keeps_its_text_and_metadata(study: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    config = CardConfig(path=study, precision="int8", checkpoint=checkpoint)
    first = make_card(config)
    assert first.path == checkpoint / "README.md"
    again = make_card(config).text
    assert again == first.text == (checkpoint / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(again.split("---\n", 2)[1])
    assert head["license"] == "apache-2.0"
    assert head["tags"] == ["mine", "slim-eval", "int8"]
    assert head["base_model"] == "org/Tiny"
    assert len(head["model-index"][0]["results"]) == len(TASKS)
    assert "# Mine\n\nBefore.\n" in again
    assert (again.count(BEGIN), again.count(END)) == (1, 1)


def test_what_it_refuses(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a card is of one quantized variant"):
        make_card(CardConfig(path=study))
    with pytest.raises(UsageError, match="--push needs the checkpoint"):
        make_card(CardConfig(path=study, precision="int8", push="me/tiny"))
    with pytest.raises(UsageError, match="contains no safetensors weights"):
        make_card(CardConfig(path=study, precision="int8", checkpoint=tmp_path))
    with pytest.raises(UsageError, match="no such folder"):
        make_card(CardConfig(path=tmp_path / "nowhere"))


@pytest.mark.large
def test_checkpoint_and_card_are_pushed_as_one_commit(study: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    words = ("card", str(study), "--precision", "int8", "--checkpoint", str(checkpoint), "--push", "me/tiny-int8")
    with LoopbackHub(tmp_path / "hub") as hub:
        variables = hub.environment(tmp_path / "cache")
        refused = run_command(*words, cwd=tmp_path, env=variables, preloaded_imports=False)
        done = run_command(*words, cwd=tmp_path, env=variables | {"HF_TOKEN": hub.token}, preloaded_imports=False)
        assert refused.returncode == 1
        assert "the hub did not accept 'me/tiny-int8'" in refused.stderr
        assert done.returncode == 0, done.stderr
        assert f"pushed: {hub.url}/me/tiny-int8/commit/" in done.stdout
        assert sum(request.endswith("/commit/main") for request in hub.requests) == 1
    there = tmp_path / "hub" / "models" / "me" / "tiny-int8"
    assert sorted(path.name for path in there.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (there / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert "Verdict: safe" in (there / "README.md").read_text(encoding="utf-8")
