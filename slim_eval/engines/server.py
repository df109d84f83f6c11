"""OpenAI-compatible endpoints, and servers that slim-eval starts, watches and ends.

`Endpoint` says where requests go; `Server` is a context manager around a command that makes one. Only the standard
library and psutil are needed here: the checks run before anything else, also without an engine.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from slim_eval.engines import memory
from slim_eval.errors import EngineError, UsageError
from slim_eval.utils import did_you_mean
from slim_eval.utils import is_loopback as is_loopback
from slim_eval.utils.redaction import redact

#: Placeholders of a server command: where the checkpoint's path goes, and the port to listen on.
MODEL, PORT = "{model}", "{port}"
#: Seconds to wait for a server to load its model, and for an answer that needs no computation.
READY_S, ANSWER_S = 600.0, 20.0
_POLL_S = 0.2
_GRACE_S = 15.0  # for a server to end when it is told to
_TAIL_LINES = 300
_CAUSE_CHARACTERS = 300
#: Variable that marks the processes of one server, also those that left their parent.
_MARK = "SLIM_EVAL_SERVER"

#: Lines of a server's log that say why it stopped; texts that only refer to another line are left out.
_ERROR_LINE = re.compile(r"(?:[A-Za-z_.]*(?:Error|Exception)|[Ee]rror|fatal|FATAL)\b\s*:\s*(.+)$")
_GENERIC = ("initialization failed", "See root cause above", "EngineCore encountered an issue", "Failed core proc")
#: Pattern in that cause -> remedy. The first match counts.
_REMEDIES = (
    (r"[Aa]ddress already in use|couldn't bind|bind.*port", "run it again: another process took the port"),
    (memory.OUT_OF_MEMORY, "serve a smaller model or free memory, or lower the server's own memory options"),
    (r"unrecognized arguments|invalid argument|unknown argument|No such option", "correct the options in --server"),
    (r"No module named|not found", "install what the server needs, or correct the command of --server"),
)


class Unreachable(EngineError):
    """Nothing that speaks HTTP answers at an address."""


class Refused(EngineError):
    """An API answered with another status than 200, which `status` has."""

    def __init__(self, cause: str, remedy: str, status: int) -> None:
        super().__init__(cause, remedy)
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API that serves one model."""

    base_url: str  # up to and with ``/v1``, without a slash at the end
    served_model: str  # as the API names it
    api_key: str | None = field(default=None, repr=False)  # sent with every request; None if it needs none

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.base_url)


def normal_url(url: str) -> str:
    """A base URL as `Endpoint` has it; without a path it gets ``/v1``.

    Raises:
        UsageError: It is not the address of an API.
    """
    parts = urlsplit(url.strip())
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is not a number
        valid = False
    if not valid or parts.query or parts.fragment:
        raise UsageError(f"--base-url {url}: not the address of an API", "give it like http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UsageError(
            "--base-url contains a user name or password", "leave it out and set OPENAI_API_KEY in the environment"
        )
    path = parts.path.rstrip("/")
    for end in ("/completions", "/chat", "/models"):  # an address of one call, as found in examples
        path = path.removesuffix(end)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


class _NoRedirect(HTTPRedirectHandler):
    """Does not follow redirects: they would turn a POST into a GET and send the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(
    url: str, headers: Mapping[str, str], body: Mapping[str, Any] | None = None, timeout_s: float = ANSWER_S
) -> tuple[int, Any]:
    """The status and the JSON of one answer (None if it is not JSON); a POST if there is a body.

    Raises:
        EngineError: Nothing answered, or not in time.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json", **headers})
    opener = build_opener(_NoRedirect, *([ProxyHandler({})] if is_loopback(url) else []))
    try:
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                status, content = answer.status, answer.read()
        except HTTPError as error:
            with error:
                status, content = error.code, error.read()
    except TimeoutError as error:
        raise _slow(url, timeout_s) from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise _slow(url, timeout_s) from error
        detail = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Unreachable(
            f"nothing that speaks HTTP answers at {url} ({detail})", "start the server, or correct --base-url"
        ) from error
    try:
        return status, json.loads(content)
    except ValueError:
        return status, None


def _slow(url: str, timeout_s: float) -> EngineError:
    cause = f"{url} did not answer within {timeout_s:g} s"
    return EngineError(cause, "wait until the server is idle or has loaded its model, then run again")


def refusal(url: str, status: int, content: Any) -> Refused:
    """The error for an answer whose status is not 200, with what the server says of it."""
    said = content.get("error", content.get("message", content.get("detail"))) if isinstance(content, dict) else None
    said = said.get("message", said) if isinstance(said, dict) else said
    detail = f": {' '.join(str(said).split())[:_CAUSE_CHARACTERS]}" if said else ""
    if status in (401, 403):
        remedy = "set the key that it requires as OPENAI_API_KEY in the environment"
    elif 300 <= status < 400:
        remedy = "give --base-url the address that it redirects to"
    elif status in (404, 405):
        remedy = "correct --base-url: the API is usually below /v1, as in http://127.0.0.1:8000/v1"
    elif status == 429:
        remedy = "wait until its rate limit allows requests: a limited endpoint cannot be measured"
    else:
        remedy = "see the server's log" if status >= 500 else "check the model and the server's options"
    return Refused(f"{url} answered with HTTP status {status}{detail}", remedy, status)


def models_at(base_url: str, headers: Mapping[str, str], timeout_s: float = ANSWER_S) -> list[str]:
    """The names of the models that an API serves.

    Raises:
        EngineError: It cannot be reached, refuses, or is not an OpenAI-compatible API.
    """
    url = f"{base_url}/models"
    status, content = ask(url, headers, timeout_s=timeout_s)
    if status != 200:
        raise refusal(url, status, content)
    listed = content.get("data") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "id" in each for each in listed):
        raise EngineError(
            f"{url} does not answer like an OpenAI-compatible API (no list of models)",
            "correct --base-url: the API is usually below /v1, as in http://127.0.0.1:8000/v1",
        )
    return [str(each["id"]) for each in listed]


def endpoint(
    base_url: str,
    served_model: str | None,
    *,
    api_key: str | None = None,
    preferred: Sequence[str] = (),
    timeout_s: float = ANSWER_S,
) -> Endpoint:
    """The endpoint at an address, after asking it which models it serves.

    Args:
        base_url: As `normal_url` returns it.
        served_model: The model's name there; None for one of `preferred`, or the only one that it serves.
        api_key: Sent with every request.
        preferred: Names that it may have there, the best first.
        timeout_s: Seconds that it may take to answer.

    Raises:
        EngineError: It cannot be reached, refuses, is another kind of server, or does not serve the model.
    """
    found = Endpoint(base_url, served_model or "", api_key)
    names = models_at(base_url, found.headers, timeout_s)
    if served_model is None:
        served_model = next((each for each in preferred if each in names), names[0] if len(names) == 1 else None)
    if served_model is None:
        known = f"serves {', '.join(names[:12])}" if names else "serves no model"
        raise EngineError(
            f"{base_url} {known}: --served-model must say which one to measure", "add --served-model NAME"
        )
    if served_model not in names:
        cause = f"{base_url} does not serve {served_model!r}; it serves {', '.join(names[:12]) or 'no model'}"
        raise EngineError(cause, f"correct --served-model: {did_you_mean(served_model, names)}".rstrip(": "))
    return Endpoint(base_url, served_model, api_key)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A server command that slim-eval starts, watches and ends with every process that it started.

    Use it as a context manager: it is ready inside. It stays in the process group of its worker, so that it cannot
    outlive one that is killed. What it prints goes to this process's stderr, which executors write to ``run.log``.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        model: str,
        served_model: str | None = None,
        api_key: str | None = None,
        ready_s: float = READY_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a server; nothing is started yet.

        Args:
            command: With `MODEL` and `PORT` in it. A text is split like a shell does, but no shell runs it.
            model: What replaces `MODEL`: a folder, a file or a name.
            served_model: The model's name in its API; None to ask it.
            api_key: Sent with every request.
            ready_s: Seconds that it may take to load the model.
            environment: Variables in addition to those of this process.

        Raises:
            UsageError: The command has no such placeholders, or quotes that do not match.
        """
        template = command_parts(command) if isinstance(command, str) else list(command)
        self.port = free_port()
        self.command = [part.replace(MODEL, model).replace(PORT, str(self.port)) for part in template]
        self.load_time_s = 0.0
        self._model, self._served_model, self._api_key, self._ready_s = model, served_model, api_key, ready_s
        self._mark = uuid.uuid4().hex
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {}), _MARK: self._mark}
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._endpoint: Endpoint | None = None

    @property
    def base_url(self) -> str:
        """Address of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def endpoint(self) -> Endpoint:
        """Its API.

        Raises:
            EngineError: It is not ready.
        """
        if self._endpoint is None:
            raise EngineError("the server is not running")
        return self._endpoint

    @property
    def pid(self) -> int:
        """Process id of the command.

        Raises:
            EngineError: It was not started.
        """
        if self._process is None:
            raise EngineError("the server is not running")
        return self._process.pid

    def __enter__(self) -> Server:
        """Start it and wait until it is ready.

        Raises:
            EngineError: It did not start, exited, listens on another port, or was not ready in time.
        """
        began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=self._environment,
            )  # fmt: skip
        except OSError as error:
            cause = f"the server cannot be started: {self.command[0]}: {error.strerror}"
            raise EngineError(cause, "correct the command of --server") from error
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready(began + self._ready_s)
            self._endpoint = endpoint(
                self.base_url, self._served_model, api_key=self._api_key, preferred=(self._model,)
            )
        except BaseException:
            self.close()
            raise
        self.load_time_s = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def alive(self) -> bool:
        """Whether the command is still running."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines that it printed, redacted."""
        return "\n".join(self._tail)

    def memory(self) -> memory.ResidentMemory | None:
        """Resident memory of its processes, peak and now; None if it cannot be read."""
        return memory.resident_memory(self.processes())

    def processes(self) -> list[Any]:
        """Its processes, as `psutil.Process`: the command and everything that it started."""
        import psutil

        found: dict[int, Any] = {}
        if self._process is not None:
            with suppress(psutil.Error):
                command = psutil.Process(self._process.pid)
                found = {each.pid: each for each in (command, *command.children(recursive=True))}
        for process in psutil.process_iter():  # also those whose parent has ended
            with suppress(psutil.Error, OSError):
                if process.pid not in found and process.environ().get(_MARK) == self._mark:
                    found[process.pid] = process
        return list(found.values())

    def stopped(self) -> EngineError:
        """The error for a server that has exited, with the line of its log that says why."""
        assert self._process is not None
        status = self._process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2.0)
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        why = self._why()
        remedy = next(
            (text for pattern, text in _REMEDIES if re.search(pattern, why)), "see run.log for what it printed"
        )
        return EngineError(f"the server {how}{f': {why}' if why else ' and printed nothing'}", remedy)

    def close(self) -> None:
        """Tell all its processes to end, and kill those that do not; does nothing if it was not started."""
        import psutil

        if self._process is None:
            return
        running = self.processes()
        for process in running:
            with suppress(psutil.Error):
                process.terminate()
        # A server that catches the signal may have started others meanwhile.
        psutil.wait_procs(running, timeout=_GRACE_S)
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_GRACE_S)
        self._process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2.0)
        self._process = self._endpoint = None

    def _wait_until_ready(self, deadline: float) -> None:
        """Wait until it lists its models and does not say that it still loads them."""
        last = "nothing listens on its port"
        while True:
            if not self.alive():
                raise self.stopped()
            try:
                headers = Endpoint(self.base_url, "", self._api_key).headers
                models_at(self.base_url, headers, timeout_s=5.0)
                if ask(f"http://127.0.0.1:{self.port}/health", headers, timeout_s=5.0)[0] != 503:
                    return
                last = "it still loads the model"
            except Unreachable:
                pass
            except EngineError as error:
                if isinstance(error, Refused) and error.status in (401, 403):  # waiting does not help
                    raise
                last = error.cause
            other = self._other_port()
            if other is not None:
                raise EngineError(
                    f"the server listens on port {other} instead of {self.port}, which {PORT} gives it",
                    f"pass {PORT} to the option of the server that sets its port",
                )
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"the server was not ready after {self._ready_s:g} s: {last}",
                    "raise --server-timeout, or see run.log for what it printed",
                )
            time.sleep(_POLL_S)

    def _other_port(self) -> int | None:
        """Another port of its processes that answers like its API would; None if there is none."""
        import psutil

        for process in self.processes():
            with suppress(psutil.Error):
                for connection in process.net_connections(kind="tcp"):
                    if connection.status != psutil.CONN_LISTEN or connection.laddr.port == self.port:
                        continue
                    with suppress(EngineError):
                        models_at(f"http://127.0.0.1:{connection.laddr.port}/v1", {}, timeout_s=2.0)
                        return int(connection.laddr.port)
        return None

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for raw in stream:
                line = redact(raw.decode("utf-8", "replace").rstrip())
                self._tail.append(line)
                with suppress(OSError, ValueError):  # stderr is closed
                    sys.stderr.write(f"{line}\n")
                    sys.stderr.flush()

    def _why(self) -> str:
        """The line of its log that says why it stopped: the last error that does not refer to another, or the last."""
        lines = [line.strip() for line in self._tail if line.strip()]
        errors = [
            match[0]
            for line in lines
            if (match := _ERROR_LINE.search(line)) and not any(generic in line for generic in _GENERIC)
        ]
        return " ".join((errors or lines or [""])[-1].split())[:_CAUSE_CHARACTERS]


def command_parts(command: str) -> list[str]:
    """The words of a server command.

    Raises:
        UsageError: It has no placeholders, or quotes that do not match.
    """
    try:
        parts = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--server: {error}", "close the quotes") from error
    for placeholder, purpose in ((MODEL, "the model to serve"), (PORT, "the port to listen on")):
        if not any(placeholder in part for part in parts):
            cause = f"--server has no {placeholder}, which stands for {purpose}"
            raise UsageError(cause, f"give it like 'vllm serve {MODEL} --port {PORT}'")
    return parts
