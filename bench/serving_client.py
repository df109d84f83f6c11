"""Cost per streamed token of the serving benchmark's client, against aiohttp's bare loop and vLLM's own client.

All three ask the same stand-in server, in a process of its own, for the same requests. CPU time is that of this thread.

    python bench/serving_client.py
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp

from slim_eval.benchmarks.load import Load, run_load
from slim_eval.engines.streaming import CompletionRequest, StreamingClient, completions_url
from tests.standins.completions import Plan, served

REQUESTS, AT_ONCE, TOKENS, ROUNDS = 32, 8, 128, 3


async def ours(url: str, count: int) -> int:
    """The client of slim-eval."""
    request = CompletionRequest("a prompt", TOKENS)
    async with StreamingClient(url, "stand-in") as client:
        done = await asyncio.gather(*(client.complete(request) for _ in range(count)))
    return sum(each.output_tokens or 0 for each in done)


async def bare(url: str, count: int) -> int:
    """Aiohttp's own loop over what arrives, without looking at it."""
    body = StreamingClient(url, "stand-in").body(CompletionRequest("a prompt", TOKENS))

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.post(completions_url(url), data=body) as response:
            async for _ in response.content.iter_any():
                pass

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(count)))
    return count * TOKENS


async def vllms(url: str, count: int) -> int:
    """The client of ``vllm bench serve``."""
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_completions

    asked = RequestFuncInput(
        prompt="a prompt", api_url=completions_url(url), prompt_len=2, output_len=TOKENS, model="stand-in",
        ignore_eos=True,
    )  # fmt: skip
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        done = await asyncio.gather(*(async_request_openai_completions(asked, session) for _ in range(count)))
    return sum(each.output_tokens or 0 for each in done)


async def cost_us(client: Callable[[str, int], Awaitable[int]], url: str) -> tuple[float, float]:
    """CPU microseconds per token, and tokens per second."""
    began, cpu = time.perf_counter(), time.thread_time()
    tokens = 0
    for _ in range(REQUESTS // AT_ONCE):
        tokens += await client(url, AT_ONCE)
    return 1e6 * (time.thread_time() - cpu) / tokens, tokens / (time.perf_counter() - began)


async def start_delays_ms(url: str) -> tuple[float, float]:
    """Median and 99th percentile of how late requests at a rate were sent."""
    load = Load(rate=100.0)
    async with StreamingClient(url, "stand-in") as client:
        run = await run_load(client, load, lambda number: CompletionRequest("a prompt", 16), 3.0)
    late = sorted(
        1000 * (each.completion.submitted_s - each.completion.scheduled_s)
        for each in run.sent
        if each.completion.submitted_s is not None and each.completion.scheduled_s is not None
    )
    return late[len(late) // 2], late[int(0.99 * len(late))]


def main() -> None:
    """Print the medians of some rounds, in turn."""
    clients: dict[str, Any] = {"slim-eval": ours, "aiohttp's bare loop": bare, "vllm bench serve": vllms}
    # One token at a time, as a server sends them: without a pause several would arrive together.
    with served(Plan(itl_s=0.002)) as url:
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                try:
                    costs[name].append(asyncio.run(cost_us(client, url)))
                except ImportError as error:
                    print(f"{name}: not measured: {error}")
    middle = {name: sorted(each)[len(each) // 2] for name, each in costs.items() if each}
    least = middle["aiohttp's bare loop"][0]
    for name, (cost, rate) in middle.items():
        print(f"{name}: {cost:.1f} us of CPU per token, {cost / least:.2f}x the bare loop, {rate:,.0f} tokens/s")
    with served(Plan()) as url:
        cost, rate = asyncio.run(cost_us(ours, url))
        median, tail = asyncio.run(start_delays_ms(url))
    print(f"instant server: {rate:,.0f} tokens/s, {cost:.1f} us per token")
    print(f"requests at a rate were sent late by {median:.2f} ms, p99 {tail:.2f} ms")


if __name__ == "__main__":
    main()
