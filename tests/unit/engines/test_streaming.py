"""The streaming client against a real server over HTTP: times, tokens, and every way in which a server fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from slim_eval.engines.streaming import (
    Completion,
    CompletionRequest,
    ErrorKind,
    StreamingClient,
    completions_url,
)
from tests.standins.completions import Plan, served


def _ask(url: str, count: int = 1, *, tokens: int = 8, fault: str = "", **options: object) -> list[Completion]:
    async def ask() -> list[Completion]:
        async with StreamingClient(url, "stand-in", **options) as client:  # type: ignore[arg-type]
            request = CompletionRequest((1, 2, 3), tokens, options={"fault": fault} if fault else {})
            return list(await asyncio.gather(*(client.complete(request) for _ in range(count))))

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def timed() -> Iterator[str]:
    with served(Plan(prefill_s=0.2, itl_s=0.02)) as url:
        yield url


@pytest.fixture(scope="module")
def instant() -> Iterator[str]:
    with served() as url:
        yield url


def test_times_tokens_and_text(timed: str) -> None:
    start = time.perf_counter()
    found = _ask(timed, 4, tokens=11)
    end = time.perf_counter()
    for completion in found:
        assert completion.error is None
        assert (completion.prompt_tokens, completion.output_tokens) == (3, 11)
        assert completion.text == " word" * 11
        assert completion.finish_reason == "length"
        assert len(completion.token_times_s) == 11
        times = completion.submitted_s, completion.first_token_s, completion.last_token_s, completion.ended_s
        assert [start, *times, end] == sorted([start, *times, end])  # type: ignore[type-var]
    best = min(found, key=lambda each: each.e2e_s or 9)  # other work on the host delays some
    assert best.ttft_s == pytest.approx(0.2, abs=0.05)
    assert best.tpot_s == pytest.approx(0.02, abs=0.005)
    assert best.e2e_s == pytest.approx(0.4, abs=0.05)


def test_when_it_was_to_be_sent_is_kept(timed: str) -> None:
    async def ask() -> Completion:
        async with StreamingClient(timed, "stand-in") as client:
            return await client.complete(CompletionRequest("a prompt", 1), scheduled_s=12.5)

    found = asyncio.run(ask())
    assert (found.scheduled_s, found.prompt_tokens, found.decode_s, found.tpot_s) == (12.5, 2, None, None)


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("429", ErrorKind.REFUSED, "too many requests"),
        ("503", ErrorKind.REFUSED, "503"),
        ("truncated", ErrorKind.TRUNCATED, ""),
        ("ended", ErrorKind.TRUNCATED, "before the completion did"),
        ("stall", ErrorKind.TIMEOUT, ""),
        ("garbage", ErrorKind.GARBAGE, "not a completion"),
        ("html", ErrorKind.GARBAGE, "not a stream"),
        ("error", ErrorKind.SERVER, "out of memory"),
    ],
)
def test_a_failure_of_the_server_is_a_result(instant: str, fault: str, kind: ErrorKind, text: str) -> None:
    (found,) = _ask(instant, fault=fault, stall_timeout_s=0.5)
    assert found.error is kind
    assert text in found.error_text
    assert found.ended_s is not None
    assert found.last_token_s is found.e2e_s is found.tpot_s is None


def test_a_server_that_dies() -> None:
    with served() as url:
        first, second = (_ask(url, fault="die")[0] for _ in range(2))
    assert first.error in (ErrorKind.CONNECTION, ErrorKind.TRUNCATED)
    assert len(first.token_times_s) == 4
    assert second.error is ErrorKind.CONNECTION
    assert not second.token_times_s


def test_a_server_that_is_not_there() -> None:
    (found,) = _ask("http://127.0.0.1:9")
    assert (found.error, found.ttft_s) == (ErrorKind.CONNECTION, None)


def test_a_request_that_takes_too_long(timed: str) -> None:
    (found,) = _ask(timed, tokens=100, timeout_s=0.5)
    assert found.error is ErrorKind.TIMEOUT
    assert 1 < len(found.token_times_s) < 100


def test_all_tokens_at_once_say_nothing_of_the_time_between_them(instant: str) -> None:
    (found,) = _ask(instant, fault="one chunk")
    assert (found.output_tokens, len(set(found.token_times_s)), found.tpot_s) == (8, 1, None)
    assert found.ttft_s == found.e2e_s


def test_tokens_are_not_known_without_the_servers_count(instant: str) -> None:
    (found,) = _ask(instant, fault="no usage")
    assert (found.error, found.output_tokens, found.tpot_s) == (None, None, None)


def test_a_cancelled_request_keeps_what_came(timed: str) -> None:
    async def ask() -> Completion:
        async with StreamingClient(timed, "stand-in") as client:
            found = Completion()
            task = asyncio.create_task(client.complete(CompletionRequest((1,), 100), into=found))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return found

    found = asyncio.run(ask())
    assert (found.error, found.e2e_s) == (ErrorKind.CANCELLED, None)
    assert found.token_times_s
    assert found.ended_s is not None


def test_the_key_is_sent_and_never_shown() -> None:
    with served(Plan(key="sk-planted-0123456789")) as url:
        assert _ask(url, api_key="sk-planted-0123456789")[0].error is None
        (refused,) = _ask(url, api_key="sk-planted-other")
    assert refused.error is ErrorKind.STATUS
    assert "sk-planted" not in refused.error_text


def test_addresses() -> None:
    assert (
        completions_url("http://host:8000/")
        == completions_url("http://host:8000/v1")
        == "http://host:8000/v1/completions"
    )
    assert completions_url("https://host/api/v1/").endswith("/api/v1/completions")
