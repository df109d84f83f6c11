"""Pickled weights: refused without --allow-pickle, converted with it, and never executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import INSTANT, WITH_INSTANT, Run, run_command
from tests.standins.hub import LoopbackHub

RUN = ("--tasks", "performance", *INSTANT, "--calibration-dataset", str(MODEL_DIR.parent / "calibration.jsonl"))


def pickled(folder: Path, extra: object = None) -> Path:
    """The embedded model with its weights pickled, and `extra` in the pickle."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(MODEL_DIR, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    torch.save(tensors if extra is None else {**tensors, "extra": extra}, folder / "pytorch_model.bin")
    weights.unlink()
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two schemes on pickled weights."""
    folder = tmp_path_factory.mktemp("pickled")
    pickled(folder / "old")
    command = ("run", "--models", "./old", "--precision", "fp16 int8", "--allow-pickle", *RUN)
    return Run(folder, run_command(*command, cwd=folder, env=WITH_INSTANT))


def test_they_are_refused_before_anything_runs(tmp_path: Path) -> None:
    pickled(tmp_path / "old")
    process = run_command("run", "--models", "./old", *RUN, cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 2
    assert "--allow-pickle" in process.stderr
    assert not (tmp_path / "outputs").exists()


def test_asked_for_they_are_converted_once_and_measured(both: Run) -> None:
    from safetensors.torch import load_file

    assert both.process.returncode == 0, both.process.stderr
    assert both.process.stderr.count("convert …") == 1
    assert "convert already there" in both.process.stderr
    (folder,) = (both.folder / "quantized-models").glob("[!.]*_safetensors-*")
    converted, original = load_file(folder / "model.safetensors"), load_file(MODEL_DIR / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in converted.items()} == {
        name: tensor.tolist() for name, tensor in original.items()
    }
    for precision in ("fp16", "int8"):
        record = json.loads((both.outputs / "old" / f"old_{precision}" / "performance.json").read_text())
        assert any("pickled" in note for note in record["notes"])
        assert record["num_parameters"] == sum(tensor.numel() for tensor in original.values())


def test_the_same_command_reuses_all_of_it(both: Run) -> None:
    command = ("run", "--models", "./old", "--precision", "fp16 int8", "--allow-pickle", *RUN)
    process = run_command(*command, cwd=both.folder, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    assert "reused 2 of 2 stages" in process.stdout


def test_a_dry_run_lists_the_conversion(both: Run) -> None:
    command = ("run", "--models", "./old", "--allow-pickle", "--force", "--dry-run", *RUN)
    process = run_command(*command, cwd=both.folder, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    assert "convert" in process.stdout


def test_a_changed_tokenizer_and_a_damaged_conversion_are_converted_again(both: Run, tmp_path: Path) -> None:
    shutil.copytree(both.folder, tmp_path, dirs_exist_ok=True)
    command = ("run", "--models", "./old", "--allow-pickle", "--force", *RUN)
    (folder,) = (tmp_path / "quantized-models").glob("[!.]*_safetensors-*")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    process = run_command(*command, cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    assert weights.read_bytes() == whole
    (tmp_path / "old" / "chat_template.jinja").write_text("{{ messages }}")
    process = run_command(*command, cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 0, process.stderr
    (second,) = set((tmp_path / "quantized-models").glob("[!.]*_safetensors-*")) - {folder}
    assert (second / "chat_template.jinja").read_text() == "{{ messages }}"


class Program:
    """An object that runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_a_program_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    pickled(tmp_path / "evil", Program(tmp_path / "it-ran"))
    process = run_command("run", "--models", "./evil", "--allow-pickle", *RUN, cwd=tmp_path, env=WITH_INSTANT)
    assert process.returncode == 1
    assert "more than tensors" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "it-ran").exists()
    import torch

    torch.load(tmp_path / "evil" / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "it-ran").exists()  # it would have


def test_those_of_a_hub_are_fetched_when_asked_for(tmp_path: Path) -> None:
    pickled(tmp_path / "hub" / "models" / "acme" / "old")
    with LoopbackHub(tmp_path / "hub") as hub:
        process = run_command(
            "run", "--models", "acme/old", "--allow-pickle", *RUN, "--engine", "transformers", cwd=tmp_path,
            env=hub.environment(tmp_path / "cache"),
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "outputs" / "old" / "old_fp16" / "performance.json").read_text())
    assert len(record["revision"]) == 40
