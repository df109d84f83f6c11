"""A small asynchronous client of OpenAI's completions API, which records when every token arrived.

One `CompletionRequest` becomes one `Completion`: the times of the request on one monotonic clock, the tokens by the
server's own count, and what went wrong, if anything did. A failure of the server is a result, not an exception: a
server under load refuses, stalls and dies, and that is part of its measurement. Nothing is sent twice.

This module is written for little work per token: see ``bench/serving_client.py``. aiohttp is imported when a client is
opened.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slim_eval.engines.engine import Prompt
from slim_eval.engines.server import is_loopback
from slim_eval.errors import MissingPackageError
from slim_eval.utils.redaction import redact

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import ClientResponse, ClientSession

CONNECT_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 60.0  # without a byte from the server
#: Idle connections are closed before a server closes them (uvicorn after 5 s): a request on one would fail.
_KEEP_ALIVE_S = 3.0
_QUOTED = 300  # characters of an answer that an error message quotes
_REFUSALS = (429, 503)
_decode = json.JSONDecoder().decode  # `json.loads` of bytes guesses their encoding first: half as much again per token


class ErrorKind(str, Enum):
    """What ended a request."""

    REFUSED = "refused"  # status 429 or 503: too much load
    STATUS = "error status"  # any other status than 200
    CONNECTION = "connection lost"  # or not made: the server died, or is not there
    TIMEOUT = "timed out"  # no connection, no byte for a while, or no end
    TRUNCATED = "truncated"  # the stream ended without an end of the completion
    GARBAGE = "not a completion"  # what came is not what the API defines
    SERVER = "server error"  # reported within the stream
    CANCELLED = "cancelled"  # by this side: its measurement had ended


@dataclass(frozen=True)
class CompletionRequest:
    """What is asked of the server."""

    prompt: Prompt
    max_tokens: int
    ignore_eos: bool = True  # not part of OpenAI's API: some servers ignore it, some refuse it
    options: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request: ``stop``, ``seed``


@dataclass(slots=True)
class Completion:
    """One request and what came back. Times are seconds on the client's clock; None if not known or never reached."""

    scheduled_s: float | None = None  # when it was to be sent
    submitted_s: float | None = None  # when it was sent
    token_times_s: list[float] = field(default_factory=list)  # one per event with a token; equal if they came together
    ended_s: float | None = None  # when the answer was complete, or failed
    prompt_tokens: int | None = None  # by the server's count, as the next one
    output_tokens: int | None = None
    text: str = ""
    finish_reason: str | None = None
    error: ErrorKind | None = None
    error_text: str = ""  # details for a message

    @property
    def first_token_s(self) -> float | None:
        """When the first token came."""
        return self.token_times_s[0] if self.token_times_s else None

    @property
    def last_token_s(self) -> float | None:
        """When the last token came; None if the completion has no end."""
        return self.token_times_s[-1] if self.token_times_s and self.error is None else None

    @property
    def ttft_s(self) -> float | None:
        """Submission to first token."""
        return None if self.submitted_s is None or not self.token_times_s else self.token_times_s[0] - self.submitted_s

    @property
    def e2e_s(self) -> float | None:
        """Submission to last token."""
        last = self.last_token_s
        return None if self.submitted_s is None or last is None else last - self.submitted_s

    @property
    def decode_s(self) -> float | None:
        """First to last token; None also if they came together, which says nothing about the time between them."""
        last = self.last_token_s
        return None if last is None or last <= self.token_times_s[0] else last - self.token_times_s[0]

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, as vLLM defines it."""
        count, decode_s = self.output_tokens, self.decode_s
        return None if decode_s is None or count is None or count < 2 else decode_s / (count - 1)


def completions_url(base_url: str) -> str:
    """The address of the completions of a server: ``http://host:8000`` and ``http://host:8000/v1`` are the same."""
    base = base_url.rstrip("/")
    return f"{base}/completions" if urlsplit(base).path.endswith("/v1") else f"{base}/v1/completions"


class StreamingClient:
    """Sends requests to one model of one server, as many at once as are asked for; an asynchronous context manager.

    Args:
        base_url: Address of the server, with or without ``/v1``.
        model: The name under which the server has the model.
        api_key: Sent as a bearer token; it is in no message.
        stall_timeout_s: A request fails if nothing comes for so long, seconds.
        timeout_s: A request fails if it takes longer; without a limit if None.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        timeout_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.url, self.model, self._api_key = completions_url(base_url), model, api_key
        self._stall_timeout_s, self._timeout_s, self._clock = stall_timeout_s, timeout_s, clock
        self._session: ClientSession | None = None

    async def __aenter__(self) -> StreamingClient:
        try:
            import aiohttp
        except ImportError as error:
            install = 'pip install "slim-eval[serving]"'
            raise MissingPackageError("aiohttp", "measuring a server", install) from error
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=self._stall_timeout_s
            ),
            headers=headers,
            trust_env=not is_loopback(self.url),  # a proxy is not for this machine
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def body(self, request: CompletionRequest) -> bytes:
        """The request as it is sent: greedy, streamed, with the server's own count of tokens at the end."""
        fields: dict[str, Any] = {
            "model": self.model,
            "prompt": list(request.prompt) if isinstance(request.prompt, tuple) else request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.ignore_eos:
            fields["ignore_eos"] = True
        return json.dumps(fields | dict(request.options)).encode()

    async def complete(
        self, request: CompletionRequest, *, scheduled_s: float | None = None, into: Completion | None = None
    ) -> Completion:
        """Send one request and read its answer to the end.

        Args:
            request: What is asked for.
            scheduled_s: When it was to be sent, on the client's clock.
            into: What is filled while the answer comes, for those who read it before the end.

        Returns:
            The completion; a failure is its `error`. If the task is cancelled, `into` says so.
        """
        import aiohttp

        if self._session is None:
            raise RuntimeError("the client is not open: use it as a context manager")
        completion = Completion() if into is None else into
        completion.scheduled_s = scheduled_s
        body = self.body(request)
        completion.submitted_s = self._clock()
        try:
            async with self._session.post(self.url, data=body) as response:
                if response.status != 200:
                    kind = ErrorKind.REFUSED if response.status in _REFUSALS else ErrorKind.STATUS
                    answer = (await response.content.read(_QUOTED)).decode(errors="replace")
                    self._fail(completion, kind, f"{response.status} {response.reason}: {answer}")
                else:
                    await self._read(response, completion)
        except asyncio.CancelledError:
            self._fail(completion, ErrorKind.CANCELLED, "")
            raise
        except asyncio.TimeoutError as error:
            self._fail(completion, ErrorKind.TIMEOUT, str(error) or f"no end within {self._timeout_s} s")
        except (aiohttp.ClientPayloadError, aiohttp.http_exceptions.HttpProcessingError) as error:
            self._fail(completion, ErrorKind.TRUNCATED, str(error))
        except (aiohttp.ClientError, OSError) as error:
            self._fail(completion, ErrorKind.CONNECTION, str(error) or type(error).__name__)
        if completion.ended_s is None:
            completion.ended_s = self._clock()
        return completion

    async def fetch(self, url: str) -> str | None:
        """The text at another address of the server; None if there is none."""
        import aiohttp

        if self._session is None:
            raise RuntimeError("the client is not open: use it as a context manager")
        try:
            async with self._session.get(url) as response:
                return await response.text(errors="replace") if response.status == 200 else None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            return None

    def _fail(self, completion: Completion, kind: ErrorKind, text: str) -> None:
        completion.error, completion.error_text = kind, redact(" ".join(text.split())[:_QUOTED])
        completion.ended_s = self._clock()

    async def _read(self, response: ClientResponse, completion: Completion) -> None:
        """Read a stream of events; each has the time at which its last byte was here."""
        clock, times, parts = self._clock, completion.token_times_s, list[str]()
        rest, last_empty_s, done = b"", None, False
        try:
            async for data in response.content.iter_any():
                now = clock()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue  # between events, comments to keep the connection open, names of events
                    payload = line[5:].strip()
                    if payload == b"[DONE]":
                        done = True
                        continue
                    event = _decode(payload.decode())
                    if (choices := event.get("choices")) and not done:
                        choice = choices[0]
                        text, reason = choice.get("text"), choice.get("finish_reason")
                        if text:
                            parts.append(text)
                        if reason is None or text:
                            times.append(now)
                        else:  # the end alone, or a last token without a text: the number of tokens tells
                            last_empty_s = now
                        completion.finish_reason = reason or completion.finish_reason
                    elif (error := event.get("error")) is not None:
                        self._fail(completion, ErrorKind.SERVER, error if isinstance(error, str) else json.dumps(error))
                        return
                    if usage := event.get("usage"):
                        completion.prompt_tokens = usage.get("prompt_tokens")
                        completion.output_tokens = usage.get("completion_tokens")
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            # Not JSON, or JSON of another form.
            self._fail(completion, ErrorKind.GARBAGE, f"the stream has an event that is not a completion ({error})")
            return
        finally:
            completion.text = "".join(parts)
        if not done and completion.finish_reason is None:
            what = "not a stream of events" if not times else "the stream ended before the completion did"
            self._fail(completion, ErrorKind.TRUNCATED if times else ErrorKind.GARBAGE, what)
            return
        if last_empty_s is not None and (completion.output_tokens or 0) > len(times):
            times.append(last_empty_s)
        completion.ended_s = clock()
