"""Processes that start with their imports done: forks of one that has made them, so that no test pays for them again.

A command of slim-eval takes one to three seconds of imports, and a worker with a model ten. A server of this module
imports once what they need (`IMPORTS`) and forks for each command; the command forks its workers. All else is as it
is without: files, output, signals, exit status, a worker's process group and its lifeline. A fork may differ from its
server in variables that no library has read while it was imported.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

#: What a server imports. One with models also imports what every worker with a real model does.
IMPORTS = {
    "commands": ("slim_eval.cli", "slim_eval.analysis.compare.folders", "slim_eval.analysis.compare.formats",
                 "slim_eval.analysis.report.charts", "slim_eval.analysis.recommend", "slim_eval.evaluator",
                 "slim_eval.execution.worker", "pandas", "scipy.stats"),
    "models": ("torch", "transformers.models.llama.modeling_llama", "transformers.generation.utils", "datasets",
               "lm_eval.evaluator", "lm_eval.models.huggingface", "llmcompressor.modifiers.quantization"),
}  # fmt: skip
#: Starts of the names of variables that are read when they are needed, not when a library is imported.
_ALWAYS_LATER = ("SLIM_EVAL_", "INSTANT_", "WANDB_", "COLUMNS", "PYTEST_", "OPENAI_API_KEY", "PIP_", "UV_")
_READ_LATER = {
    "models": (*_ALWAYS_LATER, "HF_TOKEN"),
    # Libraries that talk to a hub have not been imported.
    "commands": (*_ALWAYS_LATER, "HF_", "HUGGING", "NO_PROXY", "no_proxy", "HOME", "NETRC"),
}
#: Starts of the names of variables that libraries set in the process of the tests, once a test imports them there.
_SET_BY_LIBRARIES = (
    "AITER_", "DO_NOT_TRACK", "HF_XET_", "KMP_", "LOCAL_WORLD_SIZE", "NUMEXPR_MAX_THREADS", "PYTORCH_NVML_",
    "RAY_CLIENT_MODE", "TILELANG_", "TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_", "TORCH_COMPILE_DISABLE", "TRITON_",
    "VLLM_DISABLE_SHARED_", "VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROC_METHOD",
)  # fmt: skip
#: And what they put into a variable of the linker's.
_PUT_BY_LIBRARIES = {"LD_LIBRARY_PATH": "/cv2/", "LD_PRELOAD": "/torch/lib/"}
_ROOT = Path(__file__).parents[2]
#: Libraries with models ask CUDA for devices when they are imported, and CUDA does not survive a fork.
_FORKABLE = not Path("/proc/driver/nvidia").exists()
_ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


class Server:
    """A process that runs commands of slim-eval in forks of itself, one at a time."""

    def __init__(self, kind: str) -> None:
        self._lock = threading.Lock()
        command = [sys.executable, "-m", __name__, *dict.fromkeys(("commands", kind))]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        atexit.register(self._close)

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has been killed
            self._process.communicate()

    def has_ended(self) -> bool:
        """Whether it cannot run any more commands."""
        return self._process.poll() is not None

    def run(self, args: list[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run ``slim-eval ARGS``."""
        with self._lock, tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, "stdout"), Path(folder, "stderr")]
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            job = {"args": args, "cwd": str(cwd), "environment": dict(environment), "outputs": list(map(str, outputs))}
            self._process.stdin.write(f"{json.dumps(job)}\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(args, status, *(path.read_text(encoding="utf-8") for path in outputs))


SERVERS: dict[str, Server] = {}  # of this process, by kind


def inherited() -> dict[str, str]:
    """The variables that a command of a test inherits: those of the shell, with what tests changed.

    Without what libraries have set here: a user's command would not have it, and would not be like a fork.
    """
    found = {}
    for name, value in os.environ.items():
        kept: str | None = value
        if name.startswith(_SET_BY_LIBRARIES):
            kept = _ENVIRONMENT.get(name)
        elif name in _PUT_BY_LIBRARIES and value != _ENVIRONMENT.get(name):
            paths = [path for path in value.split(os.pathsep) if path and _PUT_BY_LIBRARIES[name] not in path]
            kept = os.pathsep.join(paths) or None
        if kept is not None:
            found[name] = kept
    return found


def find(environment: Mapping[str, str], *, models: bool) -> Server | None:
    """A server whose fork with this environment is like a process that starts with it; None if there cannot be one.

    For a command that loads `models` it is one that has imported what they need.
    """
    names = {*environment, *_ENVIRONMENT}
    differing = {name for name in names if environment.get(name) != _ENVIRONMENT.get(name)}
    if environment.get("PYTHONPATH") == str(_ROOT):  # what a fork has
        differing.discard("PYTHONPATH")
    for kind in ("models", "commands") if models and _FORKABLE else (*SERVERS, "commands"):
        if all(name.startswith(_READ_LATER[kind]) for name in differing):
            if kind not in SERVERS or SERVERS[kind].has_ended():  # a test, or a lack of memory, may have killed it
                SERVERS[kind] = Server(kind)
            return SERVERS[kind]
    return None


class _ForkedWorker(subprocess.Popen[bytes]):
    """A worker, forked from this process instead of started with an interpreter of its own."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if args[0] != sys.executable:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        _, _, _, pass_fds, _, env, _, _, _, p2cread, _, _, c2pwrite, _, errwrite, *_ = rest
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            _enter(env, p2cread, c2pwrite, errwrite, keep=pass_fds)
            atexit._clear()  # of the process that forked it
            _run("slim_eval.execution.worker")
        self._child_created = True
        for end in (p2cread, c2pwrite, errwrite):
            os.close(end)


def _enter(environment: Mapping[str, str], *standard: int, keep: tuple[int, ...] = ()) -> None:
    """In a fork: take over variables, and descriptors 0 to 2; close all others."""
    os.environ.clear()
    os.environ.update(environment)
    for number, end in enumerate(standard):
        os.dup2(end, number)
    opened = {int(path.name) for path in [*Path("/proc/self/fd").iterdir()]}
    for descriptor in opened - {0, 1, 2, *keep}:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    for number in keep:
        os.set_inheritable(number, True)


def _run(module: str, *args: str) -> NoReturn:
    """Be ``python -m MODULE ARGS`` up to its end, without going back to the code that forked this process."""
    sys.modules["__main__"] = program = importlib.import_module(module)  # which processes that it spawns import
    sys.argv = [str(program.__file__), *args]
    status = 1
    try:
        status = program.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _serve(kinds: list[str]) -> None:
    """Import what these kinds need, and run the commands that are named on stdin; write the exit status of each."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    for kind in kinds:
        for name in IMPORTS[kind]:
            with contextlib.suppress(ImportError):  # a test that needs it is skipped
                importlib.import_module(name)
    from slim_eval.execution import executor

    forking = types.SimpleNamespace(**{**vars(subprocess), "Popen": _ForkedWorker})
    for line in requests:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            outputs = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600) for path in job["outputs"]]
            _enter(job["environment"], nothing, *outputs)
            os.chdir(job["cwd"])
            sys.path[0] = job["cwd"]
            executor.subprocess = forking  # type: ignore[assignment]
            _run("slim_eval.__main__", *job["args"])
        replies.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")


if __name__ == "__main__":
    _serve(sys.argv[1:])
