"""Processes that start with their imports done: forks of one that has made them, so that no test pays for them again.

A command of slim-eval takes one to three seconds of imports, and a worker with a model ten. A server of this module
imports once what they need (`IMPORTS`), for all processes of the tests, and forks for each command; the command forks
its workers. All else is as it is without: files, output, signals, exit status, a worker's process group and its
lifeline. A fork may differ from its server in variables that no library has read while it was imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from filelock import FileLock

#: What a server imports: that of its own kind and of those before it.
IMPORTS = {
    "commands": ("slim_eval.cli", "slim_eval.analysis.compare.folders", "slim_eval.analysis.compare.formats",
                 "slim_eval.analysis.report.charts", "slim_eval.analysis.recommend", "slim_eval.evaluator",
                 "slim_eval.execution.worker", "pandas", "scipy.stats"),
    # What every worker with a real model imports.
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
#: What all processes of a session of tests have in common, and no other session.
_SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}-{time.time_ns()}"
_LONGEST = 2**18  # bytes of a message; a command's has all its variables
_HOLD = b"hold"  # the first message of a process that will send commands until it closes the connection


class Process:
    """A command of slim-eval that a server has started; like `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, stderr: IO[str]) -> None:
        self._connection = connection
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid = int(_answer(connection))

    def poll(self) -> int | None:
        """Its exit status; None if it is running."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        if self.returncode is None:
            self.returncode = int(_answer(self._connection))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stderr.close()
        self.wait()


class Server:
    """A process that runs commands of slim-eval in forks of itself, for all processes of this session of tests."""

    def __init__(self, kind: str) -> None:
        folder = Path(tempfile.gettempdir(), f"slim-eval-{_SESSION}-{kind}")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._address = folder / "socket"
        with FileLock(folder / "lock"):
            try:
                self._held = self._connect()
            except (FileNotFoundError, ConnectionRefusedError):  # there is none yet, or it was killed
                self._address.unlink(missing_ok=True)
                self._start(kind)
                self._held = self._connect()
        self._held.send(_HOLD)
        self.pid = int(_answer(self._held))
        atexit.register(self._held.close)

    def _start(self, kind: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(self._address))
            listener.listen()
            kinds = list(IMPORTS)[: list(IMPORTS).index(kind) + 1]
            command = [sys.executable, "-m", __name__, str(listener.fileno()), str(self._address), *kinds]
            self._process = subprocess.Popen(
                command, cwd=_ROOT, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )  # fmt: skip

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(self._address))
        except OSError:
            connection.close()
            raise
        return connection

    def has_ended(self) -> bool:
        """Whether it cannot run any more commands."""
        return bool(select.select([self._held], [], [], 0)[0])  # it never sends anything more

    def start(self, args: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Process:
        """Start ``slim-eval ARGS``, whose messages can be read while it runs."""
        reading, writing = os.pipe()
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123
            connection = self._send(args, cwd, environment, nothing.fileno(), writing)
        os.close(writing)
        return Process(connection, os.fdopen(reading, encoding="utf-8"))

    def run(self, args: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run ``slim-eval ARGS``."""
        with contextlib.ExitStack() as stack:
            outputs = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
            connection = stack.enter_context(self._send(args, cwd, environment, *(file.fileno() for file in outputs)))
            _answer(connection)  # its process id
            status = int(_answer(connection))
            for file in outputs:
                file.seek(0)
            return subprocess.CompletedProcess(list(args), status, *(file.read() for file in outputs))

    def _send(
        self, args: Sequence[str], cwd: Path, environment: Mapping[str, str], stdout: int, stderr: int
    ) -> socket.socket:
        connection = self._connect()
        job = {"args": list(args), "cwd": str(cwd), "environment": dict(environment)}
        socket.send_fds(connection, [json.dumps(job).encode()], [stdout, stderr])
        return connection


def _answer(connection: socket.socket) -> bytes:
    """What a server sends next."""
    if answer := connection.recv(_LONGEST):
        return answer
    raise ConnectionError("the process that starts commands of tests was killed")


SERVERS: dict[str, Server] = {}  # that this process has used, by kind


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


def find(environment: Mapping[str, str], kind: str) -> Server | None:
    """A server of this kind whose fork with this environment is like a process that starts with it.

    One that has imported less if the environment would change those imports; None if it changes all of them.
    """
    names = {*environment, *_ENVIRONMENT}
    differing = {name for name in names if environment.get(name) != _ENVIRONMENT.get(name)}
    if environment.get("PYTHONPATH") == str(_ROOT):  # what a fork has
        differing.discard("PYTHONPATH")
    for found in (kind, "commands") if _FORKABLE else ("commands",):
        if all(name.startswith(_READ_LATER[found]) for name in differing):
            if found not in SERVERS or SERVERS[found].has_ended():  # a test, or a lack of memory, may have killed it
                SERVERS[found] = Server(found)
            return SERVERS[found]
    return None


class _ForkedPopen(subprocess.Popen[bytes]):
    """``python -m MODULE``, forked from this process if it has imported the module."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, _, _, pass_fds, _, env, _, _, _, *pipes, _, _, _, _, _, start_new_session, _ = rest
        if args[:2] != [sys.executable, "-m"] or args[2] not in sys.modules:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            _enter(env, p2cread, c2pwrite, errwrite, keep=pass_fds)
            atexit._clear()  # of the process that forked it
            _run(*args[2:])
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _enter(environment: Mapping[str, str], *standard: int, keep: Sequence[int] = ()) -> None:
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


def _serve(listener: socket.socket, address: Path, kinds: Sequence[str]) -> None:
    """Import what these kinds need, and run the commands that are asked for, until nobody holds a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends those that hold it
    for kind in kinds:
        for name in IMPORTS[kind]:
            with contextlib.suppress(ImportError):  # a test that needs it is skipped
                importlib.import_module(name)
    from slim_eval.execution import executor

    forking = types.SimpleNamespace(**{**vars(subprocess), "Popen": _ForkedPopen})
    executor.subprocess = forking  # type: ignore[assignment]
    gc.collect()
    gc.freeze()  # what is imported is not garbage: no fork looks through it, which would copy its memory too
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        held = 0
        while True:
            for key, _ in selector.select():
                if key.fileobj is not listener:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    held -= 1
                    continue
                connection, _ = listener.accept()
                message, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 2)
                if message == _HOLD:
                    connection.send(str(os.getpid()).encode())
                    selector.register(connection, selectors.EVENT_READ)
                    held += 1
                    continue
                if message and os.fork() == 0:
                    _command(connection, json.loads(message), descriptors)
                connection.close()
                for descriptor in descriptors:
                    os.close(descriptor)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if held == 0:
                shutil.rmtree(address.parent, ignore_errors=True)
                return


def _command(connection: socket.socket, job: dict[str, Any], outputs: Sequence[int]) -> NoReturn:
    """In a fork: run a command in a further one, and send its process id and its exit status."""
    pid = os.fork()
    if pid == 0:
        _enter(job["environment"], os.open(os.devnull, os.O_RDONLY), *outputs)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(job["cwd"])
        sys.path[0] = job["cwd"]
        _run("slim_eval.__main__", *job["args"])
    for output in outputs:
        os.close(output)
    connection.send(str(pid).encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # who asked for it has ended
        connection.send(str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:])
