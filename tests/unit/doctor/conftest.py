"""The doctor in a process of its own, and machines to look at: interpreters, GPUs, hubs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slim_eval.execution.plan import QUANTIZING_MODULES
from tests.commands import run_command
from tests.standins.nvml import build

#: Everything that a stage may need, in versions that no machine has.
EVERYTHING = {
    **dict.fromkeys((*QUANTIZING_MODULES, "psutil", "scipy", "lm_eval", "codecarbon"), "77.1"),
    "pynvml": "77.1",
    "vllm": "77.2",
}
_OF_THE_MACHINE = ("HF_", "HUGGING", "WANDB", "SLIM_EVAL", "CUDA_", "NETRC", "STANDIN")


@dataclass(frozen=True)
class Examination:
    """What ``slim-eval doctor --json`` said."""

    process: subprocess.CompletedProcess[str]

    @property
    def answer(self) -> dict[str, Any]:
        return json.loads(self.process.stdout)  # type: ignore[no-any-return]

    def find(self, section: str, name: str) -> dict[str, Any]:
        """The one finding of this name."""
        (found,) = [f for f in self.answer["findings"] if (f["section"], f["name"]) == (section, name)]
        return found  # type: ignore[no-any-return]

    @property
    def problems(self) -> list[tuple[str, str]]:
        return [(f["section"], f["name"]) for f in self.answer["findings"] if f["state"] == "problem"]


Doctor = Callable[..., Examination]


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that starts the command is large."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and "doctor" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.large)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, login, GPU or cache of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(_OF_THE_MACHINE):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def doctor(tmp_path: Path, plain: None) -> Doctor:
    """Run it with the hub switched off; `env` over that."""

    def call(*args: str, env: Mapping[str, str] | None = None) -> Examination:
        return Examination(run_command("doctor", "--json", *args, cwd=tmp_path, env=env))

    return call


def interpreter(path: Path, *options: str, **variables: str) -> Path:
    """An executable that is this Python with options and environment variables."""
    settings = " ".join(f"{name}='{value}'" for name, value in variables.items())
    path.write_text(f"#!/bin/sh\n{settings} exec '{sys.executable}' {' '.join(options)} \"$@\"\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_python(tmp_path: Path) -> Path:
    """An interpreter without any packages."""
    return interpreter(tmp_path / "empty-python", "-I", "-S")


@pytest.fixture
def furnish(tmp_path: Path) -> Callable[..., Path]:
    """Makes an interpreter that has exactly these packages; each ends the process that imports it."""

    def make(packages: Mapping[str, str], torch_cuda: str | None = None) -> Path:
        folder = tmp_path / f"packages{len(list(tmp_path.iterdir()))}"
        for module, version in packages.items():
            (folder / module).mkdir(parents=True)
            (folder / module / "__init__.py").write_text("raise SystemExit('imported')")
            name = "nvidia-ml-py" if module == "pynvml" else module
            information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
            information.mkdir()
            (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if "torch" in packages:
            (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {torch_cuda!r}\nhip = '6.0'\n")
        return interpreter(folder.with_suffix(".python"), "-S", PYTHONPATH=str(folder))

    return make


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in NVML, compiled."""
    return build(tmp_path_factory.mktemp("nvml"))


@dataclass
class AnsweringHub:
    """A hub that answers everything with one status, and keeps what it was asked and with which token."""

    status: int
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def answering_hub() -> Iterator[Callable[[int], AnsweringHub]]:
    """Starts such hubs on the loopback interface."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> AnsweringHub:
        hub = AnsweringHub(status)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers.get("Authorization")))
                body = f"you sent {self.headers.get('Authorization')}".encode()
                self.send_response(hub.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        return hub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
