"""A server of OpenAI's completions API that keeps planted times, over real HTTP, and fails as it is told.

Start it with ``python tests/standins/completions.py '{"prefill_s": 0.1}' [PORT]``; it prints its port. Every time is
kept against a schedule that begins when the request came: a late wake-up does not delay the tokens after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aiohttp import web


@dataclass(frozen=True)
class Plan:
    """How the server behaves. Times in seconds."""

    prefill_s: float = 0.0  # from its admission to the first token of a request
    itl_s: float = 0.0  # between two tokens
    itl_per_request_s: float = 0.0  # more of it for each request that runs
    slots: int = 0  # requests that run at once, the others wait in their order; 0 is no limit
    fault: str = ""  # what goes wrong, unless the field ``fault`` of a request says it: see `_Server`
    after: int = 0  # requests before it does
    most: int = 0  # requests in flight that are not refused, of the faults 429 and 503
    refuses_ignore_eos: bool = False  # as OpenAI's own API
    key: str = ""  # the API key that is asked for
    kv_tokens: int = 0  # size of a cache; 0 has no /metrics


class _Server:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.requests, self.running, self.waiting = plan, 0, 0, 0
        self.slots: asyncio.Queue[float] | None = None  # when each free slot became free
        if plan.slots:
            self.slots = asyncio.Queue()
            for _ in range(plan.slots):
                self.slots.put_nowait(0.0)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        if not self.plan.kv_tokens:
            raise web.HTTPNotFound
        lines = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            "num_requests_waiting_by_reason": self.waiting,
            "kv_cache_usage_perc": 32 * self.running / self.plan.kv_tokens,
        }
        return web.Response(text="".join(f'vllm:{k}{{model_name="stand-in"}} {v}\n' for k, v in lines.items()))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        began, plan = time.perf_counter(), self.plan
        number, self.requests = self.requests, self.requests + 1
        asked = await request.json()
        fault = asked.get("fault") or (plan.fault if number >= plan.after else "")
        if plan.key and request.headers.get("Authorization") != f"Bearer {plan.key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        if plan.refuses_ignore_eos and "ignore_eos" in asked:
            return web.json_response({"error": {"message": "Unrecognized argument: ignore_eos"}}, status=400)
        if fault in ("429", "503") and self.running + self.waiting >= plan.most:
            return web.json_response({"error": {"message": "too many requests"}}, status=int(fault))
        if fault == "html":
            return web.Response(text="<html>Bad Gateway</html>", content_type="text/html")
        tokens = int(asked["max_tokens"])
        if fault == "short" or not asked.get("ignore_eos"):
            tokens = random.Random(f"{asked['prompt']}").randint(max(1, tokens // 2), tokens)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.waiting += 1
        try:
            free_s = await self.slots.get() if self.slots is not None else 0.0
        finally:
            self.waiting -= 1
        self.running, free_s = self.running + 1, max(began, free_s)
        try:
            free_s = await self._stream(response, free_s + plan.prefill_s, tokens, fault)
        finally:
            self.running -= 1
            if self.slots is not None:
                self.slots.put_nowait(free_s)
        if fault in ("truncated", "ended"):
            return response
        prompt = asked["prompt"]
        count = len(prompt.split() if isinstance(prompt, str) else prompt)
        usage = {"prompt_tokens": count, "completion_tokens": tokens}
        if asked.get("stream_options", {}).get("include_usage") and fault != "no usage":
            await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, event: dict[str, object]) -> None:
        event = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "model": "stand-in", **event}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def _stream(self, response: web.StreamResponse, due_s: float, tokens: int, fault: str) -> float:
        """Send the tokens, the first at `due_s`; when the last was due."""
        together, last_s = b"", due_s
        for token in range(tokens):
            if (delay := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(delay)
            if token == tokens // 2 and not await self._goes_on(response, fault):
                break
            reason = "length" if token == tokens - 1 else None
            choice = {"index": 0, "text": " word", "logprobs": None, "finish_reason": reason}
            if fault == "one chunk":
                together += b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
                if reason:
                    await response.write(together)
            else:
                await self._event(response, {"choices": [choice]})
            last_s, due_s = due_s, due_s + self.plan.itl_s + self.plan.itl_per_request_s * self.running
        return last_s

    async def _goes_on(self, response: web.StreamResponse, fault: str) -> bool:
        """Let happen what goes wrong halfway; whether the tokens go on after it."""
        if fault == "die":
            os._exit(1)
        if fault == "stall":
            await asyncio.sleep(3600)
        if fault == "garbage":
            await response.write(b"data: {not JSON\n\n")
        if fault == "error":
            await self._event(response, {"error": {"message": "out of memory"}})
        if fault == "truncated" and (writer := response._payload_writer) is not None:
            writer.transport.abort()
        return fault not in ("truncated", "ended")


@contextlib.contextmanager
def served(plan: Plan | None = None) -> Iterator[str]:
    """The base URL of a server in a process of its own."""
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(plan or Plan()))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def main(plan: Plan, port: int) -> None:
    """Serve until the process is ended."""
    server = _Server(plan)
    app = web.Application(client_max_size=2**26)
    app.add_routes([
        web.get("/health", server.health), web.get("/v1/models", server.models), web.get("/metrics", server.metrics),
        web.post("/v1/completions", server.completions),
    ])  # fmt: skip
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    sockets = site._server.sockets  # type: ignore[union-attr]
    sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Plan(**json.loads(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
