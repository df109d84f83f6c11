"""An OpenAI-compatible API as an `Engine`: one that runs already (``--base-url``), or a server that slim-eval starts.

Performance is measured through streams, with the server's own count of tokens. What an API cannot tell, such as the
data type and the kernels, is None. Log-probabilities count only after a canary (`prompt_logprobs`): servers that ignore
``echo`` would otherwise score like chance.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval import power
from slim_eval.config import EngineConfig
from slim_eval.engines import prompt_logprobs, server
from slim_eval.engines.engine import (
    ENGINES,
    Capabilities,
    EngineType,
    Generation,
    LoadRequest,
    MemoryReport,
    Prompt,
    ordinary_tokens,
)
from slim_eval.engines.prompt_logprobs import Echo, ForcedDecoding
from slim_eval.engines.server import MODEL, PORT, Endpoint, Server
from slim_eval.engines.streaming import Completion, CompletionRequest, ErrorKind, StreamingClient
from slim_eval.errors import EngineError, UsageError
from slim_eval.models import gguf, loading
from slim_eval.models.source import describe
from slim_eval.schemes import DEFAULT_BASELINE, INEXACT_KERNELS

if TYPE_CHECKING:
    from slim_eval.models.source import ModelSource

#: Environment variables with the key of an API; the first that is set counts.
KEYS = ("OPENAI_API_KEY", "SLIM_EVAL_API_KEY")
#: In options of a ready-made server: what the run needs.
_CONTEXT, _TOGETHER, _PARALLEL = "{context}", "{together}", "{parallel}"
#: Tokens for which requests at once have room on average in a cache that they share; one alone may fill the window.
_SHARED_ROOM = 1024
_CACHE_SHARE = 0.25  # of the memory that is free, at most


@dataclass(frozen=True)
class ReadyMade:
    """A server that ``--server`` names instead of a command."""

    package: str  # that it needs
    extra: str  # of slim-eval, that installs it
    module: str  # that is run, with the model and the port
    options: tuple[str, ...]  # further ones
    on_cpu_alone: bool = False
    gguf_alone: bool = False  # whether it serves GGUF files alone

    @property
    def command(self) -> list[str]:
        """Its words, with the placeholders of `server.command_parts`."""
        return [sys.executable, "-m", self.module, "--model", MODEL, "--port", PORT, *self.options]


#: Ready-made servers by their names in ``--server``.
SERVERS = {
    "llama.cpp": ReadyMade(
        package="xllamacpp", extra="gguf", on_cpu_alone=True, gguf_alone=True, module="slim_eval.engines.llamacpp",
        options=("--context", _TOGETHER, "--parallel", _PARALLEL),
    ),
    # Not ``vllm serve``: that command fails in vLLM's CPU build, whose distribution has another name.
    "vllm": ReadyMade(
        package="vllm", extra="all", module="vllm.entrypoints.openai.api_server",
        options=("--host", "127.0.0.1", "--max-model-len", _CONTEXT, "--no-enable-prefix-caching",
                 "--generation-config", "vllm"),
    ),
}  # fmt: skip
#: Without them a server may take the penalties of the model's own generation config, and answers differ from those of
#: engines in this process.
_NO_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
#: Fields that not every server knows; those that refuse a field do without. Each request of a benchmark does its own
#: work: no reuse of what an earlier one computed.
_EXTRAS: dict[str, Callable[[], Any]] = {
    "cache_prompt": lambda: False,
    "cache_salt": lambda: uuid.uuid4().hex,
    **{field: partial(float, value) for field, value in _NO_PENALTIES.items()},
}
_STALL_S = 600.0  # without a byte of an answer; a batch may wait long for its first token


class OpenAi(EngineType):
    """Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, TensorRT-LLM, Ollama, a service."""

    name = "openai"
    label = "the OpenAI-compatible API"
    modules = ("aiohttp",)
    settings = frozenset({"server", "served_model", "tokenizer", "remote_url"})
    capabilities = Capabilities(serving=True, exact_lengths=False, dtype=False, lm_eval_unread=-1)

    def check(self, config: EngineConfig) -> None:
        """Refuse options that contradict each other, and an endpoint that does not answer; see `EngineType.check`."""
        if config.base_url is None and config.server is None:
            raise UsageError(
                "--engine openai needs a server",
                "add --base-url URL for one that runs already, or --server 'COMMAND with {model} and {port}'",
            )
        if config.server is not None and config.server not in SERVERS:
            server.command_parts(config.server)
            if config.engine_args:
                raise UsageError("--engine-arg has no meaning for --server COMMAND", "add the options to the command")
        if config.base_url is not None:
            if config.engine_args:
                raise UsageError("--engine-arg has no meaning for --base-url", "give the options to the server itself")
            server.models_at(server.normal_url(config.base_url), _headers())

    def load(self, request: LoadRequest) -> OpenAiEngine:
        """Reach the endpoint, or start the server on the checkpoint; see `EngineType.load`."""
        from slim_eval.engines import vllm  # late: engines are listed in the order in which they are imported

        config, started, runs_vllm = request.config, None, False
        if config.base_url is not None:
            endpoint = running_endpoint(config.base_url, config.served_model, [request.model])
        else:
            if runs_vllm := config.server == vllm.VLLM.name:  # it is refused what vLLM's own engine refuses
                trust = config.trust_remote_code
                architecture = describe(request.checkpoint).architecture
                loading.require_weights(request.checkpoint, architecture, trust_remote_code=trust)
            started = Server(
                server_command(request),
                model=str(request.checkpoint),
                served_model=config.served_model,
                api_key=_key(),
                ready_s=config.server_timeout_s,
            ).__enter__()
            endpoint = started.endpoint
        engine = OpenAiEngine(request, endpoint, started)
        try:
            if runs_vllm and vllm.VLLM.serves_inexactly(request.checkpoint):
                engine.kernels, engine.kernel_error = INEXACT_KERNELS, vllm.int8_kernel_error(request.checkpoint)
                engine.add_note(vllm.INEXACT_NOTE)
            engine.negotiate()
        except BaseException:
            engine.close()
            raise
        return engine

    def serve(self, request: LoadRequest) -> OpenAiEngine:
        """The same: it is a server already; see `EngineType.serve`."""
        return self.load(request)


OPENAI = ENGINES.register(OpenAi())


def running_endpoint(base_url: str, served_model: str | None, models: Sequence[str]) -> Endpoint:
    """The endpoint of a server that runs already, after asking it; a model may have the name of its folder there.

    Raises:
        UsageError: It is not the address of an API.
        EngineError: It is down, refuses, or does not serve the model.
    """
    preferred = [name for model in models for name in (model, Path(model).name)]
    return server.endpoint(server.normal_url(base_url), served_model, api_key=_key(), preferred=preferred)


def require_endpoint(config: EngineConfig, sources: Sequence[ModelSource], precisions: Sequence[str]) -> None:
    """Refuse what one running server cannot be: several variants, a model that it does not serve; asks the server.

    Raises:
        UsageError: The request contradicts itself.
        EngineError: The server is down, refuses, or does not serve a model.
    """
    OPENAI.check(config)
    if (made := SERVERS.get(config.server or "")) is not None and made.gguf_alone:
        _require_gguf(str(config.server), sources)
    if config.base_url is None:
        return
    if len(precisions) > 1:
        cause = f"--precision {' '.join(precisions)}: one endpoint serves a model under one scheme"
        raise UsageError(cause, "state the one that it serves, or as-is if that is not known")
    if config.served_model is not None and len(sources) > 1:
        raise UsageError(f"--served-model {config.served_model}: there are {len(sources)} models", "give one model")
    for source in sources:
        asked = config.served_model if len(sources) == 1 else source.name
        running_endpoint(config.base_url, asked, [source.name])


def _require_gguf(name: str, sources: Sequence[ModelSource]) -> None:
    for source in sources:
        if source.file is None and not gguf.is_gguf(source.config_dir):
            cause = f"--server {name} serves GGUF files alone, and {source.name} is not one"
            raise UsageError(cause, "give a GGUF file, or a repository of them")


def server_command(request: LoadRequest) -> list[str]:
    """The words of the server's command, with the model and the port still to be filled in."""
    asked = str(request.config.server)
    if asked not in SERVERS:
        return server.command_parts(asked)
    made = SERVERS[asked]
    if made.gguf_alone and not gguf.is_gguf(request.checkpoint):
        raise EngineError(f"{request.checkpoint} is not a GGUF file", f"{asked} serves GGUF files alone: give one")
    window = request.max_model_len
    together = max(window, min(window, _SHARED_ROOM) * request.parallel)
    if made.gguf_alone and (token_bytes := gguf.read(request.checkpoint).kv_bytes_per_token):
        import psutil

        # The cache is allocated while the model loads, whether or not so many requests come.
        together = max(window, min(together, int(psutil.virtual_memory().available * _CACHE_SHARE / token_bytes)))
    values = {_CONTEXT: str(window), _TOGETHER: str(together), _PARALLEL: str(request.parallel)}
    words = [values.get(word, word) for word in made.command]
    for name, value in request.config.engine_args.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


class OpenAiEngine:
    """One model of one API."""

    name = "openai"
    dtype: str | None = None  # an API does not tell
    kernels: str | None = None  # known of vLLM's alone, where they are wrong on this machine
    kernel_error: float | None = None

    def __init__(self, request: LoadRequest, endpoint: Endpoint, started: Server | None) -> None:
        self.load_time_s = 0.0 if started is None else started.load_time_s
        self._request, self.endpoint, self._server = request, endpoint, started
        self.device = "cuda" if self._is_on_gpu() else "cpu"
        about = self._about()
        self.version = about["version"]
        self.max_model_len = min(request.max_model_len, about["window"] or request.max_model_len)
        self._notes: dict[str, None] = {}
        self._extras = dict(_EXTRAS)
        self.takes_tokens, self._takes_ignore_eos = False, True
        self._counts: dict[Prompt, int] = {}
        self._loop = asyncio.new_event_loop()
        self._client: StreamingClient | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What its reader must know."""
        return tuple(self._notes)

    def negotiate(self) -> None:
        """Find out what the server takes, with requests of two tokens: token ids, ``ignore_eos``, fields of `_EXTRAS`.

        Raises:
            EngineError: It does not complete a prompt at all, or does not count its tokens.
        """
        if self._tokenizer is not None:
            known = list(self._tokenizer("Hello there", add_special_tokens=False)["input_ids"])
            self.takes_tokens = self._status({**self._plain(), "prompt": known}) == 200
        if not self.takes_tokens and self._tokenizer is not None:
            self.add_note("the endpoint takes no token ids: prompts are sent as text")
        for field in (*self._extras, "ignore_eos"):
            extra = {field: True} if field == "ignore_eos" else {field: self._extras[field]()}
            if self._status({**self._plain(), **extra}) == 200:
                continue
            if field == "ignore_eos":
                self._takes_ignore_eos = False
                self.add_note("the endpoint refuses ignore_eos: answers may end early and differ in length")
            else:
                del self._extras[field]
        (answer,) = self._complete(["Hello"], 2, ignore_eos=True)
        if answer.output_tokens is None or answer.prompt_tokens is None:
            cause = f"{self.endpoint.base_url} does not count tokens (usage) at the end of a stream"
            raise EngineError(cause, "use a server that knows stream_options.include_usage")

    @property
    def no_penalties(self) -> dict[str, float]:
        """The fields of a greedy answer without penalties, as far as the server takes them."""
        return {field: value for field, value in _NO_PENALTIES.items() if field in self._extras}

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, ignore_eos: bool = True) -> list[Generation]:
        """Stream all prompts at once, one request each; see `Engine.generate`."""
        done = []
        for answer in self._complete(prompts, max_new_tokens, ignore_eos=ignore_eos):
            if answer.output_tokens is None or answer.prompt_tokens is None:
                cause = "the endpoint did not count the tokens of an answer"
                raise EngineError(cause, "use a server that knows stream_options.include_usage")
            done.append(
                Generation(
                    answer.prompt_tokens,
                    answer.output_tokens,
                    answer.text,
                    answer.ttft_s,
                    answer.e2e_s,
                    answer.decode_s if answer.output_tokens > 1 else None,
                )
            )
        return done

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens in a prompt, by the server's own count; see `Engine.count_tokens`."""
        if prompt not in self._counts:
            self._counts[prompt] = self.generate([prompt], max_new_tokens=1)[0].prompt_tokens
        return self._counts[prompt]

    def ordinary_tokens(self) -> Sequence[int]:
        """Token ids for synthetic prompts; see `Engine.ordinary_tokens`."""
        tokenizer = self._require_tokenizer("synthetic prompts (--input-len)")
        if not self.takes_tokens:
            raise EngineError("the endpoint takes no token ids, as synthetic prompts need", "use --prompt")
        return ordinary_tokens(tokenizer, len(tokenizer))

    def memory(self) -> MemoryReport:
        """Memory of the server's processes, if slim-eval started it; see `Engine.memory`."""
        if self._server is None or (resident := self._server.memory()) is None:
            return MemoryReport()
        if self.device == "cuda":  # what it takes of a GPU is not resident memory
            return MemoryReport()
        return MemoryReport(
            peak_mb=resident.peak_mb, used_mb=resident.used_mb, source="memory of the server's processes"
        )

    def lm_eval_model(self, batch_size: int) -> Any:
        """lm-eval's own `LocalCompletionsAPI` for this endpoint; log-likelihoods only after the canary."""
        from slim_eval.engines.openai_lm_eval import adapter

        self._require_tokenizer("accuracy")
        return adapter(self, batch_size)

    @cached_property
    def prompt_logprobs(self) -> Echo | ForcedDecoding:
        """How it returns log-probabilities of given tokens: the way that passed the canary, which runs once.

        Raises:
            EngineError: None does.
        """
        return prompt_logprobs.proven(self)

    def close(self) -> None:
        """Close the connections, and end the server if slim-eval started it."""
        if self._client is not None:
            self._loop.run_until_complete(self._client.__aexit__(None, None, None))
            self._client = None
        if not self._loop.is_closed():
            self._loop.close()
        if self._server is not None:
            self._server.close()

    # --- Requests ---

    def ask(self, fields: dict[str, Any]) -> dict[str, Any]:
        """One answer of the completions API that is not streamed.

        Raises:
            EngineError: It refuses, or its answer is not one of that API.
        """
        url = f"{self.endpoint.base_url}/completions"
        body = {"model": self.endpoint.served_model, "temperature": 0, **fields}
        status, content = server.ask(url, self.endpoint.headers, body, timeout_s=_STALL_S)
        if status != 200:
            raise server.refusal(url, status, content)
        if not isinstance(content, dict) or not content.get("choices"):
            raise EngineError(f"{url} does not answer like an OpenAI-compatible API", "correct --base-url")
        return content

    @property
    def is_ours(self) -> bool:
        """Whether slim-eval started the server."""
        return self._server is not None

    def ended(self) -> EngineError | None:
        """The error for a server that has exited; None if it runs, or was not started here."""
        return None if self._server is None or self._server.alive() else self._server.stopped()

    def _failed(self, answer: Completion) -> EngineError:
        if (ended := self.ended()) is not None:
            return ended
        kind, text = answer.error or ErrorKind.GARBAGE, answer.error_text
        remedy = {
            ErrorKind.REFUSED: "lower --batch-size to what the endpoint serves at once",
            ErrorKind.TIMEOUT: "wait until the server is idle, or lower --batch-size or --max-new-tokens",
            ErrorKind.TRUNCATED: "see the server's log, and whether a proxy before it cuts long answers",
            ErrorKind.CONNECTION: "see the server's log",
            ErrorKind.GARBAGE: "check that --base-url is an OpenAI-compatible API",
        }.get(kind, "see the server's log, and check --max-model-len")
        return EngineError(f"a request to the endpoint failed: {kind.value}: {text}".rstrip(": "), remedy)

    def _complete(self, prompts: Sequence[Prompt], most: int, *, ignore_eos: bool) -> list[Completion]:
        asked = [
            CompletionRequest(
                self._as_sent(prompt),
                most,
                ignore_eos=ignore_eos and self._takes_ignore_eos,
                options={field: value() for field, value in self._extras.items()},
            )
            for prompt in prompts
        ]
        answers = self._loop.run_until_complete(self._all(asked))
        for answer in answers:
            if answer.error is not None:
                raise self._failed(answer)
        return answers

    async def _all(self, asked: Sequence[CompletionRequest]) -> list[Completion]:
        url, key = self.endpoint.base_url, self.endpoint.api_key
        client = self._client or StreamingClient(url, self.endpoint.served_model, key, stall_timeout_s=_STALL_S)
        client.url = f"{url}/completions"  # the base URL is complete, whatever its path
        if self.endpoint.is_local:
            # Between batches nothing here sees that a server closes an idle connection, and a request on it would
            # fail. Connecting again takes a part of a millisecond on this machine.
            async with client:
                return list(await asyncio.gather(*map(client.complete, asked)))
        if self._client is None:
            self._client = await client.__aenter__()
        return list(await asyncio.gather(*map(client.complete, asked)))

    def _as_sent(self, prompt: Prompt) -> Prompt:
        if isinstance(prompt, tuple) and not self.takes_tokens:
            raise EngineError("the endpoint takes no token ids, as synthetic prompts need", "use --prompt")
        return prompt

    def _plain(self) -> dict[str, Any]:
        return {"model": self.endpoint.served_model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}

    def _status(self, body: dict[str, Any]) -> int:
        """The status of a request that may be refused for its form; any other failure is an error."""
        url = f"{self.endpoint.base_url}/completions"
        status, content = server.ask(url, self.endpoint.headers, body, timeout_s=_STALL_S)
        if status in (400, 422) and body.keys() > {"model"}:
            return status
        if status != 200:
            raise server.refusal(url, status, content)
        return status

    # --- What is known of it ---

    @cached_property
    def _tokenizer(self) -> Any | None:
        """The tokenizer that was asked for, else the model's own, else its base model's; None if there is none here."""
        request = self._request
        asked, trust = request.config.tokenizer, request.config.trust_remote_code
        if asked is not None:
            try:
                return loading.tokenizer_of(asked, trust_remote_code=trust)
            except loading.FAILURES as error:
                cause = f"--tokenizer {asked} cannot be loaded: {loading.reason(error)}"
                raise EngineError(cause, "give a hub id or a folder with a tokenizer") from error
        names: list[tuple[str, str | None]] = [(request.model, request.revision)]
        if not gguf.is_gguf(request.checkpoint):
            # Of a hub model at an endpoint its folder may have config.json alone, from which Transformers makes a
            # tokenizer without a vocabulary.
            names.insert(0 if request.revision is None else 1, (str(request.checkpoint), None))
        if request.base_model is not None:
            names.append((request.base_model, None))
        for name, revision in names:
            if name:
                with suppress(*loading.FAILURES):
                    return loading.tokenizer_of(name, revision, trust_remote_code=trust)
        return None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; an `EngineError` if it is not known."""
        return self._require_tokenizer("accuracy")

    @property
    def checkpoint(self) -> Path:
        """Where the model's files are, if they are on this machine."""
        return self._request.checkpoint

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the model may run."""
        return self._request.config.trust_remote_code

    @property
    def is_quantized(self) -> bool:
        """Whether it may serve other numbers than the weights at hand: any scheme but the 16-bit one."""
        return self._request.precision != DEFAULT_BASELINE

    def _require_tokenizer(self, purpose: str) -> Any:
        if self._tokenizer is None:
            cause = f"{purpose}: no tokenizer of {self._request.model} is known here"
            raise EngineError(cause, "add --tokenizer with a hub id or folder")
        return self._tokenizer

    def _about(self) -> dict[str, Any]:
        """Version and context window, as far as servers tell: vLLM, SGLang and llama.cpp do."""
        url, headers = self.endpoint.base_url, self.endpoint.headers
        found: dict[str, Any] = {"version": None, "window": None}
        with suppress(EngineError):
            status, content = server.ask(f"{url}/models", headers)
            for each in content["data"] if status == 200 else ():
                if each["id"] == self.endpoint.served_model:
                    window = each.get("max_model_len")
                    owner = each.get("owned_by")
                    found = {"version": owner, "window": window if isinstance(window, int) and window > 0 else None}
        with suppress(EngineError):
            status, content = server.ask(f"{url.removesuffix('/v1')}/version", headers)
            if status == 200 and isinstance(content, dict) and isinstance(content.get("version"), str):
                found["version"] = f"{found['version'] or ''} {content['version']}".strip()
        return found

    def _is_on_gpu(self) -> bool:
        """Whether a server on this machine computes on a GPU: one of its processes uses one, as NVML says."""
        if not self.endpoint.is_local or not power.list_gpus():
            return False
        if self._server is None:
            return True  # its processes are not known: whole GPUs are measured
        made = SERVERS.get(str(self._request.config.server))
        if made is not None and made.on_cpu_alone:
            return False
        return power.uses_gpu([process.pid for process in self._server.processes()]) is not False

    def add_note(self, text: str) -> None:
        """Add a line to `notes`, once."""
        self._notes.setdefault(text)


def _key() -> str | None:
    return next((value for name in KEYS if (value := os.environ.get(name, "").strip())), None)


def _headers() -> dict[str, str]:
    return Endpoint("", "", _key()).headers
