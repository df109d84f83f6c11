"""The load of one level: requests in flight or at a rate, the window of its steady state, and what the client saw.

Closed loop: so many slots send one request after the other. The first request of each slot is a warm-up of staggered
length, so that requests begin and end evenly from then on; the window opens when every slot has finished it. Open loop:
requests arrive at a rate, whatever the server does; the window opens when as many have ended as are in flight, and at
the latest after the duration of the window, or twice that of the first request if this is longer: until then the
requests in flight become more, whether or not the server keeps up.

The window closes while the load goes on; what is still in flight then is cancelled. The load runs in one event loop, on
one thread: its CPU time and its delays are part of the result, because a client may be the limit.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from slim_eval.config import Arrivals
from slim_eval.engines.streaming import Completion, CompletionRequest, ErrorKind, StreamingClient

_TICK_S = 0.05
_TIMER_S = 0.001  # by which a sleep of asyncio may be too long: epoll counts whole milliseconds
_SCRAPE_S = 1.0  # between two readings of the server's own metrics
_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 1.0  # after a failed request, of a slot
_HOPELESS = 10  # failures in a row, in each slot together, after which a load is given up
_REFUSED_S = 10.0  # seconds without a success, and without a request at work, after which a server that refuses is, too
_AT_WORK_S = 1.0  # in flight for so long, a request has been accepted
_LONGEST = 10  # durations after which a window closes although not every slot has ended a request in it
_LONGEST_RAMP = 4  # durations after which a window opens at a rate, although the requests in flight may still increase
_FEWEST = 20  # requests before a window may be closed early

#: Metrics of servers: the share of the KV cache in use, and the requests that wait.
_CACHE = (
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
)
_QUEUE = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")


@dataclass(frozen=True)
class Load:
    """What is asked of a server: so many requests in flight, or so many per second."""

    concurrency: int | None = None
    rate: float | None = None  # requests per second
    arrivals: Arrivals = Arrivals.POISSON
    is_down: bool = False  # measured again on the way down, after higher ones

    @property
    def label(self) -> str:
        """Its name in a record: ``concurrency-8``, ``rate-0.5``."""
        name = f"rate-{self.rate:g}" if self.concurrency is None else f"concurrency-{self.concurrency}"
        return f"{name} down" if self.is_down else name

    @property
    def size(self) -> float:
        """Requests in flight, or per second."""
        return self.rate if self.rate is not None else float(self.concurrency or 1)


@dataclass(slots=True)
class Sent:
    """One request of a load."""

    number: int
    max_tokens: int
    completion: Completion
    is_warmup: bool = False


@dataclass
class LoadRun:
    """What a load did. Times are on the client's clock, seconds."""

    sent: list[Sent] = field(default_factory=list)
    opened_s: float = 0.0
    closed_s: float = 0.0
    client_cpu_share: float = 0.0  # of one CPU, in the window
    delays_s: list[float] = field(default_factory=list)  # by which requests were sent late
    cache_usage: list[float] = field(default_factory=list)  # shares, from the server's metrics
    queue: list[float] = field(default_factory=list)  # requests, likewise
    gave_up: str = ""  # why the load was ended before its time

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.closed_s - self.opened_s

    def ended(self) -> list[Sent]:
        """The requests that ended in the window, warm-up apart, in the order of their ends."""
        inside = [
            each for each in self.sent
            if not each.is_warmup and each.completion.error is not ErrorKind.CANCELLED
            and each.completion.ended_s is not None and self.opened_s <= each.completion.ended_s <= self.closed_s
        ]  # fmt: skip
        return sorted(inside, key=lambda each: each.completion.ended_s or 0.0)

    def in_flight(self, at_s: float) -> int:
        """Requests in flight at a time."""
        return sum(
            1 for each in self.sent
            if (begin := each.completion.submitted_s) is not None and begin <= at_s
            and (each.completion.ended_s is None or each.completion.ended_s > at_s)
        )  # fmt: skip


Make = Callable[[int], CompletionRequest]
Hook = Callable[[], None]


async def run_load(
    client: StreamingClient,
    load: Load,
    make: Make,
    duration_s: float,
    *,
    seed: int = 0,
    on_open: Sequence[Hook] = (),
    on_close: Sequence[Hook] = (),
    progress: Callable[[float], None] = lambda seconds: None,
    enough: Callable[[LoadRun], bool] | None = None,
    metrics_url: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> LoadRun:
    """Put a server under a load, and return what happened.

    Args:
        client: An open client.
        load: The load.
        make: The request of a number, from 0.
        duration_s: Seconds of steady state.
        seed: Of Poisson arrivals.
        on_open: What is called, in a thread, when the window opens: meters.
        on_close: The same when it closes.
        progress: Called with the seconds since the window opened; negative before.
        enough: Whether the window may close early.
        metrics_url: Where the server shows its metrics; None if it does not.
        clock: The client's.
    """
    gc.collect()
    gc.freeze()  # a collection over all that was imported before would stop the client for tens of milliseconds
    generator = _Generator(client, load, make, clock)
    found = generator.found
    arrivals = asyncio.create_task(generator.slots() if load.rate is None else generator.arrivals(load, seed))
    scraping = asyncio.create_task(_scrape(client, metrics_url, found)) if metrics_url else None
    began_s = clock()
    try:
        while not generator.is_steady(clock() - began_s, duration_s) and not generator.hopeless():
            await generator.tick()
            progress(min(-_TICK_S, clock() - began_s - duration_s))
        for hook in on_open:
            await asyncio.to_thread(hook)
        found.cache_usage.clear()
        found.queue.clear()
        found.delays_s.clear()
        found.opened_s, cpu_s, looked_s = clock(), time.thread_time(), clock()
        while not generator.hopeless():
            await generator.tick()
            now = clock()
            elapsed_s = now - found.opened_s
            progress(elapsed_s)
            if elapsed_s >= duration_s and (generator.ended_since_opening() or elapsed_s >= _LONGEST * duration_s):
                break
            if enough is not None and now - looked_s >= 1.0:
                looked_s, found.closed_s = now, now
                if len(found.ended()) >= _FEWEST and enough(found):
                    break
        found.closed_s = clock()
        found.client_cpu_share = (time.thread_time() - cpu_s) / max(found.duration_s, 1e-9)
        for hook in on_close:
            await asyncio.to_thread(hook)
        found.gave_up = generator.hopeless()
    finally:
        arrivals.cancel()
        if scraping is not None:
            scraping.cancel()
        tasks = [arrivals, *([scraping] if scraping is not None else []), *generator.tasks]
        for task in generator.tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gc.unfreeze()
    return found


class _Generator:
    """Sends the requests of one load."""

    def __init__(self, client: StreamingClient, load: Load, make: Make, clock: Callable[[], float]) -> None:
        self.found, self.tasks = LoadRun(), set[asyncio.Task[Any]]()
        self._client, self._load, self._make, self._clock = client, load, make, clock
        self._number, self._done, self._failures, self._last_error = 0, 0, 0, ""
        self._refused, self._succeeded_s = False, clock()  # whether the last failure was a refusal; the last success
        self._first_s: float | None = None  # duration of the first request that succeeded
        self._warm_slots = 0

    @property
    def _flying(self) -> int:
        return len(self.found.sent) - self._done

    async def tick(self) -> None:
        """Wait a moment; by how much longer it takes, everything else is late too."""
        due_s = self._clock() + _TICK_S
        await asyncio.sleep(_TICK_S)
        self.found.delays_s.append(max(0.0, self._clock() - due_s))

    def is_steady(self, elapsed_s: float, duration_s: float) -> bool:
        """Whether the window may open."""
        if self._load.concurrency is not None:
            return self._warm_slots >= self._load.concurrency
        latest_s = _LONGEST_RAMP * duration_s
        if self._first_s is not None:
            latest_s = min(latest_s, max(duration_s, 2 * self._first_s))
        return (self._done >= max(1, self._flying)) or elapsed_s >= max(latest_s, 1.0)

    def ended_since_opening(self) -> bool:
        """Whether so many requests have ended in the window as there are slots: every part of a request is in it."""
        needed = self._load.concurrency or 1
        opened = self.found.opened_s
        return needed <= sum(
            1 for each in self.found.sent if (end := each.completion.ended_s) is not None and end >= opened
        )

    def hopeless(self) -> str:
        """Why no request succeeds any more; empty if some do."""
        slots = self._load.concurrency or max(1, min(self._flying, _HOPELESS))
        if self._failures < max(_HOPELESS, 2 * slots):
            return ""
        # A server that refuses some may be working on others: then it is saturated, and not at its end.
        now = self._clock()
        if self._refused and (now - self._succeeded_s < _REFUSED_S or self._oldest_s(now) > _AT_WORK_S):
            return ""
        return self._last_error

    def _oldest_s(self, now: float) -> float:
        """For how long the oldest request is in flight, seconds."""
        begun = [
            each.completion.submitted_s for each in self.found.sent
            if each.completion.ended_s is None and each.completion.submitted_s is not None
        ]  # fmt: skip
        return now - min(begun, default=now)

    async def slots(self) -> None:
        """Keep so many requests in flight."""
        count = self._load.concurrency or 1
        for slot in range(count):
            task = asyncio.create_task(self._slot(slot, count))
            self.tasks.add(task)

    async def _slot(self, slot: int, count: int) -> None:
        due_s, pause_s, is_first = self._clock(), _BACKOFF_S, True
        while True:
            number, request = self._next()
            if is_first:  # of staggered length
                tokens = max(1, request.max_tokens * (slot + 1) // count)
                request = CompletionRequest(request.prompt, tokens, request.ignore_eos, request.options)
            sent = await self._send(number, request, due_s, is_warmup=is_first)
            self._warm_slots += is_first
            is_first = False
            if sent.completion.error is not None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_BACKOFF_S)
                due_s = self._clock()
            else:
                pause_s, due_s = _BACKOFF_S, sent.completion.ended_s or self._clock()

    async def arrivals(self, load: Load, seed: int) -> None:
        """Send requests at a rate, whether or not earlier ones have ended."""
        assert load.rate is not None
        draw = random.Random(f"{seed} {load.rate}")  # the same arrivals for every variant
        due_s = self._clock()
        while True:
            gap_s = 1 / load.rate if load.arrivals is Arrivals.CONSTANT else draw.expovariate(load.rate)
            due_s += gap_s
            number, request = self._next()
            await asyncio.sleep(max(0.0, due_s - self._clock() - _TIMER_S))
            while self._clock() < due_s:
                await asyncio.sleep(0)
            task = asyncio.create_task(self._send(number, request, due_s))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _next(self) -> tuple[int, CompletionRequest]:
        self._number += 1
        return self._number - 1, self._make(self._number - 1)

    async def _send(self, number: int, request: CompletionRequest, due_s: float, *, is_warmup: bool = False) -> Sent:
        sent = Sent(number, request.max_tokens, Completion(), is_warmup)
        self.found.sent.append(sent)
        try:
            await self._client.complete(request, scheduled_s=due_s, into=sent.completion)
        finally:
            self._done += 1
        if sent.completion.submitted_s is not None:
            self.found.delays_s.append(max(0.0, sent.completion.submitted_s - due_s))
        if sent.completion.error is None:
            self._failures, self._succeeded_s = 0, self._clock()
            if self._first_s is None and sent.completion.submitted_s is not None:
                self._first_s = self._succeeded_s - sent.completion.submitted_s
        else:
            self._failures += 1
            self._refused = sent.completion.error is ErrorKind.REFUSED
            self._last_error = f"{sent.completion.error.value}: {sent.completion.error_text}".rstrip(": ")
        return sent


async def _scrape(client: StreamingClient, url: str, found: LoadRun) -> None:
    """Read a server's own metrics now and then; a server without them is asked once."""
    while (text := await client.fetch(url)) is not None:
        for names, values, joined in ((_CACHE, found.cache_usage, fmean), (_QUEUE, found.queue, sum)):
            # A name ends with its labels or a space: vllm:num_requests_waiting_by_reason counts the same requests.
            # Several engines behind one address have one row each.
            ends = tuple(name + end for name in names for end in "{ ")
            rows = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(ends)]
            if rows:
                values.append(joined(rows))
        await asyncio.sleep(_SCRAPE_S)
