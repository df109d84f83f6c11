"""Invalid input: one line of cause, one of remedy, and no files left behind."""

from __future__ import annotations

import json
import shutil
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from tests.commands import Command
from tests.standins.hub import Fault, FaultKind, LoopbackHub

QUIET = ("--no-wandb-enabled", "--engine", "transformers")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A hub with one sound model, one gated, and one that has no safetensors."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("sound", "gated", "broken"):
        shutil.copytree(MODEL_DIR, root / "models" / "acme" / name)
    pickled = root / "models" / "acme" / "pickled"
    shutil.copytree(MODEL_DIR, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with LoopbackHub(root) as running:
        running.fail("acme/gated", Fault(FaultKind.GATED))
        running.fail("acme/broken", Fault(FaultKind.ERROR))
        yield running


def _refused(process: object, code: int, *says: str) -> None:
    error: str = process.stderr  # type: ignore[attr-defined]
    assert process.returncode == code, error  # type: ignore[attr-defined]
    for text in says:
        assert text in error
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("acme/nothing", 1, ("acme/nothing", "does not")),
        ("acme/gated", 1, ("gated", "HF_TOKEN")),
        ("acme/broken", 1, ("500",)),
    ],
)
def test_models_on_the_hub(
    model: str, code: int, says: tuple[str, ...], hub: LoopbackHub, slim_eval_command: Command, tmp_path: Path
) -> None:
    variables = {**hub.environment(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    process = slim_eval_command("run", "--models", f"demo {model}", "--tasks", "performance", *QUIET, env=variables)
    _refused(process, code, *says)
    assert not (tmp_path / "outputs").exists()


def test_a_hub_that_cannot_be_reached(slim_eval_command: Command, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    process = slim_eval_command("run", "--models", "acme/sound", "--tasks", "performance", *QUIET, env=variables)
    _refused(process, 1, "cannot be reached", "HF_ENDPOINT")
    assert not (tmp_path / "outputs").exists()


def test_pickled_weights_are_not_fetched(hub: LoopbackHub, slim_eval_command: Command, tmp_path: Path) -> None:
    variables = {**hub.environment(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    process = slim_eval_command("run", "--models", "acme/pickled", "--tasks", "performance", *QUIET, env=variables)
    assert process.returncode == 1
    assert "safetensors" in process.stderr
    assert not list(tmp_path.glob("outputs/**/performance.json"))
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_model_id_from_a_hub_runs(hub: LoopbackHub, slim_eval_command: Command, tmp_path: Path) -> None:
    variables = {**hub.environment(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    process = slim_eval_command(
        "run", "--models", "acme/sound", "--tasks", "performance", "--num-runs", "8", "--max-new-tokens", "8", *QUIET,
        "--dtype", "bfloat16", env=variables,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "outputs/sound/sound_fp16/performance.json").read_text())
    assert record["model"] == "acme/sound"
    assert len(record["revision"]) == 40
    assert record["dtype"] == "bfloat16"  # as asked for, on any CPU
    assert not list(tmp_path.glob("quantized-models/*"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--models", "./empty"), ("config.json",)),
        (("--models", "./missing"), ("missing",)),
        (("--models", "demo", "--max-model-len", "4096"), ("4096", "1024")),
        (("--models", "demo", "--gpu-index", "7"), ("--gpu-index",)),
        (("--models", "demo", "--accuracy-tasks", "demo_mmul"), ("demo_mmul", "demo_mmlu")),
        (("--models", "demo", "--include-path", "nowhere"), ("nowhere",)),
        (("--models", "demo", "--output-dir", "afile"), ("--output-dir", "afile")),
        (("--models", "demo", "--serve-python", "/nonexistent/python"), ("--serve-python",)),
        (("--models", "demo", "--serve-python", "/bin/true"), ("--serve-python", "/bin/true")),
        (("--models", "demo", "--engine-arg", "novalue"), ("KEY=VALUE",)),
        (("--models", "demo", "--engine-arg", "hf_token=hf_planted"), ("hf_token", "HF_TOKEN")),
        (("--models", "demo", "--tensor-parallel-size", "2"), ("--tensor-parallel-size",)),
        (("--models", "demo", "--revision", "main"), ("--revision",)),
        (("--models", "demo", "--seed", "99999999999"), ("--seed",)),
    ],
)
def test_usage(args: tuple[str, ...], says: tuple[str, ...], slim_eval_command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "afile").touch()
    process = slim_eval_command("run", *QUIET, *args)
    _refused(process, 2, *says)
    assert "hf_planted" not in process.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afile", "empty"]


@pytest.mark.parametrize(
    ("precision", "option", "package"),
    [("fp16", "--serve-python", "torch"), ("int8", "--quantize-python", "torch")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    precision: str, option: str, package: str, slim_eval_command: Command, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True, with_pip=False)
    python = str(bare / "bin" / "python")
    process = slim_eval_command("run", "--models", "demo", "--precision", precision, *QUIET, option, python)
    _refused(process, 1, "not installed", f"{python} -m pip install")
    assert f"needs the package {package!r}" in process.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_engine_argument(slim_eval_command: Command, tmp_path: Path) -> None:
    process = slim_eval_command(
        "run", "--models", "demo", "--tasks", "performance", "--no-wandb-enabled", "--engine", "vllm", "--engine-arg",
        "max_num_seq=4",
    )  # fmt: skip
    _refused(process, 2, "max_num_seq", "max_num_seqs")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"model": "a/b"}', '{"model": "x", "schema_version": 99}'])
def test_a_damaged_result_file_is_named_and_the_rest_analysed(
    content: str, slim_eval_command: Command, tmp_path: Path
) -> None:
    variant = tmp_path / "outputs" / "Tiny" / "Tiny_fp16"
    variant.mkdir(parents=True)
    (variant / "performance.json").write_text('{"model": "org/Tiny", "precision": "fp16", "mean_latency_s": 0.5}')
    (variant / "energy.json").write_text(content)
    process = slim_eval_command("analyze", "--no-plots")
    assert process.returncode == 0, process.stderr
    assert "energy.json" in process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "analysis_results" / "results_table.csv").exists()


@pytest.mark.parametrize("made", [True, False])
def test_nothing_to_analyse(made: bool, slim_eval_command: Command, tmp_path: Path) -> None:
    if made:
        (tmp_path / "outputs").mkdir()
    _refused(slim_eval_command("analyze"), 2, "outputs")
    assert not (tmp_path / "analysis_results").exists()


def test_an_output_folder_that_is_a_file(slim_eval_command: Command, tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    for name in ("afile", "afile/below"):
        _refused(slim_eval_command("analyze", "--output-dir", name), 2, "afile", "is a file")


def test_credentials_of_a_mirror_are_not_shown(slim_eval_command: Command, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": "http://me:planted@127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    process = slim_eval_command("run", "--models", "acme/sound", "--tasks", "performance", *QUIET, env=variables)
    _refused(process, 1, "cannot be reached")
    assert "planted" not in process.stderr


def test_no_traceback_even_from_python_m(slim_eval_command: Command) -> None:
    assert sys.version_info >= (3, 10)
    _refused(slim_eval_command("run"), 2, "--models")
