"""A stand-in for an OpenAI-compatible server, which misbehaves as it is told to.

Run it as ``python -m tests.standins.endpoint --model NAME --port N [--fault FAULT]``, a command for ``--server``, or
start it in this process with `running`. It answers as vLLM does; with slots, as llama.cpp's server does. Its model
continues every prompt with the same words; log-probabilities of a prompt are those of `logprob`, a rule that both sides
can compute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web

#: What it can do wrong.
FAULTS: Final = (
    "exit",  # prints an error and exits
    "never-ready",  # listens, but answers 503
    "silent",  # does not listen
    "other-port",  # listens on another port than it was given
    "gated",  # requires the key `KEY`
    "slow",  # takes longer than anybody waits to answer
    "html",  # answers every request with a web page
    "no-models",  # answers, but has no list of models
    "cut",  # ends a stream in the middle
    "no-usage",  # does not count tokens
    "error-in-stream",  # reports an error as an event of a stream
    "short",  # ignores `ignore_eos`, and stops after some tokens
    "strict",  # refuses fields that OpenAI does not have
    "text-only",  # takes no token ids as a prompt
    "echo-ignored",  # returns the answer's log-probabilities in place of the prompt's
    "echo-refused",
    "echo-absent",  # returns no log-probabilities
    "echo-positive",  # returns probabilities in their place
    "echo-reversed",
    "echo-shifted",
    "echo-scaled",
)
#: What one that answers as llama.cpp's server can do wrong besides.
NATIVE_FAULTS: Final = (
    "bias-ignored",  # generates what the model finds most likely
    "bias-counted",  # returns log-probabilities after the bias
    "native-scaled",
    "native-adrift",  # what it returns depends on what it was asked before
    "native-above",  # a token that is likelier than the most likely one
    "native-positive",
    "native-old",  # as in 2024: texts with probabilities, without token ids
    "native-refused",
    "native-tokens",  # its model has another tokenizer
)
KEY: Final = "stand-in-key-0123456789"
WORDS: Final = (" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ".")


def logprob(token: int, position: int) -> float:
    """Log-probability of a token at a place of a prompt."""
    return -0.25 - ((token * 31 + position * 17) % 97) / 20


class StandIn:
    """The server; `requests` keeps every body that it got."""

    def __init__(
        self, model: str = "stand-in", fault: str | None = None, *, tokens_per_second: float = 500.0, slots: int = 0
    ) -> None:
        self.model, self.fault, self.requests = model, fault, list[dict[str, Any]]()
        self.slots = slots
        self.pause_s = 1 / tokens_per_second
        self.app = web.Application(middlewares=[self._misbehave])
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_post("/v1/completions", self._completions)
        self.app.router.add_post("/v1/chat/completions", self._completions)
        if slots:
            self.app.router.add_get("/props", self._props)
            self.app.router.add_post("/completion", self._native)
            self.app.router.add_post("/detokenize", self._detokenize)

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.fault == "never-ready":
            return web.json_response({"error": {"message": "Loading model", "code": 503}}, status=503)
        if self.fault == "slow":
            await asyncio.sleep(600)
        if self.fault == "html":
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if self.fault == "gated" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        if self.fault == "no-models":
            return web.json_response({"models": [{"name": self.model}]})
        data = [{"id": self.model, "object": "model"}]
        return web.json_response({"object": "list", "data": data})

    async def _props(self, request: web.Request) -> web.Response:
        return web.json_response({"total_slots": self.slots, "default_generation_settings": {"n_ctx": 512}})

    async def _detokenize(self, request: web.Request) -> web.Response:
        if self.fault == "native-tokens":
            return web.json_response({"content": "ĠThe keeper of counted"})
        return web.json_response({"error": {"message": "not here"}}, status=404)

    async def _native(self, request: web.Request) -> web.Response:
        """llama.cpp's own API, for one token."""
        body = await request.json()
        self.requests.append(body)
        if self.fault == "native-refused" and body.get("logit_bias"):
            return web.json_response({"error": {"message": "logit_bias must be an array"}}, status=400)
        answer: dict[str, Any] = {"content": " the", "tokens_evaluated": len(body["prompt"])}
        if not body.get("n_probs"):
            return web.json_response(answer)
        (token, bias), position = body["logit_bias"][0], len(body["prompt"])
        assert bias > 100
        value = logprob(token, position + (len(self.requests) if self.fault == "native-adrift" else 0))
        if self.fault == "native-partial" and token % 7 == 3:  # it ends within a character
            return web.json_response({**answer, "content": ""})
        best = (token, value) if token % 5 == 0 else (token + 1, -0.2)
        if self.fault == "bias-ignored":
            token, value = best
        if self.fault == "bias-counted":
            value, best = 0.0, (token, 0.0)
        if self.fault == "native-scaled":
            value, best = value * 0.5, (best[0], best[1] * 0.5)
        if self.fault == "native-above":
            value, best = -0.1, (best[0], -0.2)
        if self.fault == "native-positive":
            value = -value
        if self.fault == "native-old":
            probable = [{"tok_str": "the", "prob": 1.0}]
            return web.json_response({**answer, "completion_probabilities": [{"content": "the", "probs": probable}]})
        top = {"id": best[0], "token": str(best[0]), "logprob": best[1]}
        tops = [top]
        if body["n_probs"] > 1:  # the likeliest of a vocabulary of 2,000
            likely = sorted(((logprob(each, position), each) for each in range(2000)), reverse=True)[: body["n_probs"]]
            tops = [{"id": each, "token": str(each), "logprob": found} for found, each in likely]
        said = {"id": token, "token": str(token), "logprob": value, "top_logprobs": tops}
        return web.json_response({**answer, "completion_probabilities": [said]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if body.get("model") != self.model:
            return web.json_response(
                {"error": {"message": f"The model `{body.get('model')}` does not exist."}}, status=404
            )
        is_chat = "messages" in body
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]  # a batch of one, as lm-eval sends it
        tokens = prompt if isinstance(prompt, list) else [ord(letter) for letter in prompt]
        if isinstance(prompt, list) and self.fault == "text-only":
            return web.json_response({"error": {"message": "prompt must be a string"}}, status=400)
        foreign = {"ignore_eos", "cache_salt", "cache_prompt", "repetition_penalty"}
        if self.fault == "strict" and (unknown := foreign & body.keys()):
            return web.json_response({"error": {"message": f"Unknown parameter: {min(unknown)}"}}, status=400)
        if body.get("echo") and (self.slots or self.fault == "echo-refused"):
            return web.json_response({"error": {"message": "echo is not supported"}}, status=400)
        count = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        if self.fault == "short":
            count = min(count, 3)
        pieces = [WORDS[index % len(WORDS)] for index in range(count)]
        usage = {"prompt_tokens": len(tokens), "completion_tokens": count, "total_tokens": len(tokens) + count}
        if not body.get("stream"):
            return web.json_response(self._whole(body, tokens, pieces, usage, is_chat=is_chat))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: dict[str, Any] | str) -> None:
            data = event if isinstance(event, str) else json.dumps(event)
            await response.write(f"data: {data}\n\n".encode())

        for index, piece in enumerate(pieces):
            await asyncio.sleep(self.pause_s)
            if index == len(pieces) // 2:
                if self.fault == "cut":
                    assert request.transport is not None
                    request.transport.close()
                    return response
                if self.fault == "error-in-stream":
                    await send({"error": {"message": "CUDA out of memory", "code": 500}})
                    return response
            part = {"delta": {"content": piece}} if is_chat else {"text": piece}
            await send({"choices": [{"index": 0, "finish_reason": None, **part}]})
        end = {"delta": {}} if is_chat else {"text": ""}
        await send({"choices": [{"index": 0, "finish_reason": "length", **end}]})
        if (body.get("stream_options") or {}).get("include_usage") and self.fault != "no-usage":
            await send({"choices": [], "usage": usage})
        await send("[DONE]")
        return response

    def _whole(
        self, body: dict[str, Any], tokens: list[int], pieces: list[str], usage: dict[str, int], *, is_chat: bool
    ) -> dict[str, Any]:
        if is_chat:
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": "".join(pieces)}}
            return {"choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": usage}
        choice = {"index": 0, "text": "".join(pieces), "finish_reason": "length"}
        if body.get("logprobs") is not None and self.fault != "echo-absent":
            answered = [-1.5] * len(pieces)
            echoed: list[float | None] = [None, *(logprob(token, place) for place, token in enumerate(tokens) if place)]
            if self.fault == "echo-reversed":
                echoed = [None, *echoed[:0:-1]]
            if self.fault == "echo-shifted":
                echoed = [None, *echoed[2:], -2.0]
            if self.fault == "echo-scaled":
                echoed = [None if each is None else each * 0.5 for each in echoed]
            if self.fault == "echo-positive":
                echoed = [None if each is None else -each for each in echoed]
            is_echo = body.get("echo") and self.fault != "echo-ignored"
            values = [*(echoed if is_echo else []), *answered]
            texts = [*(map(str, tokens) if is_echo else []), *pieces]
            tops = [None if value is None else {text: value} for text, value in zip(texts, values, strict=True)]
            choice["logprobs"] = {"tokens": texts, "token_logprobs": values, "top_logprobs": tops}
        return {"choices": [choice], "usage": usage}


@contextmanager
def running(stand_in: StandIn) -> Iterator[str]:
    """Serve in a thread; yields the base URL."""
    loop, started, port = asyncio.new_event_loop(), threading.Event(), list[int]()
    runner = web.AppRunner(stand_in.app)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        started.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port[0]}/v1"
    finally:
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", choices=(*FAULTS, *NATIVE_FAULTS))
    parser.add_argument("--slots", type=int, default=0, help="answer as llama.cpp's server does")
    parser.add_argument("--child", action="store_true", help="start a process of its own that ignores SIGTERM")
    given = parser.parse_args()
    if given.child and os.fork() == 0:
        import signal

        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        sys.exit()
    if given.fault == "exit":
        sys.stderr.write(
            "INFO: loading\nValueError: unsupported architecture 'Gizmo'\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n"
        )
        sys.exit(3)
    if given.fault == "silent":
        time.sleep(600)
    port = given.port + 1 if given.fault == "other-port" else given.port
    web.run_app(StandIn(given.model, given.fault, slots=given.slots).app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main()
