"""The serving benchmark against a server that keeps planted times over real HTTP, and against one that fails."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from slim_eval.benchmarks.base import BenchmarkContext, Earlier
from slim_eval.benchmarks.load import Load, LoadRun, Sent, run_load
from slim_eval.benchmarks.serving import (
    Serving,
    Sweep,
    _tokens_in,
    _with_energy,
    level_of,
    loads,
    next_load,
    queue_growth,
)
from slim_eval.benchmarks.workload import Workload, file_label, read_prompts, workload
from slim_eval.config import Arrivals, RunConfig, ServingConfig
from slim_eval.engines.server import Endpoint
from slim_eval.engines.streaming import Completion, CompletionRequest, ErrorKind, StreamingClient
from slim_eval.errors import BenchmarkError, UsageError
from slim_eval.power import EnergyReading, NoMeter, PowerSample
from slim_eval.results.goodput import highest_goodput
from slim_eval.results.records import Measurement, ServingLevel, ServingMetrics, ServingRecord
from slim_eval.slo import parse
from tests.standins.completions import Plan, served

TOKENS = 16
REQUESTS = Workload(0, (8, 8), (TOKENS, TOKENS), range(100))
OBJECTIVES = parse(["ttft_p95:500ms"])


def measure(url: str, load: Load, seconds: float = 3.0, requests: Workload = REQUESTS) -> LoadRun:
    async def run() -> LoadRun:
        async with StreamingClient(url, "stand-in", stall_timeout_s=2.0) as client:
            return await run_load(client, load, lambda n: requests.request(1, n), seconds, metrics_url=f"{url}/metrics")

    return asyncio.run(run())


class _Server:
    """A `ServedEngine` that was started by somebody else."""

    name, version, dtype, device, kernels = "openai", "1", "unknown", "cpu", "native"
    max_model_len, load_time_s, is_ours = 4096, None, False
    notes: tuple[str, ...] = ()

    def __init__(self, url: str) -> None:
        self.endpoint = Endpoint(f"{url}/v1", "stand-in")

    def ordinary_tokens(self) -> range:
        return range(100)

    def ended(self) -> None:
        return None


def sweep(
    url: str, *, earlier: Earlier | None = None, keep: Callable[[Measurement], None] = lambda m: None, **options: Any
) -> Measurement:
    own = {"duration_s": 1.0, "output_len": TOKENS, "request_timeout_s": 2.0, **options}
    config = RunConfig(models=("m",), tasks=("serving",), performance={"input_len": 8}, serving=own)
    context = BenchmarkContext(
        _Server(url), config.serving, config, (), "serving", earlier=earlier, keep=keep  # type: ignore[arg-type]
    )  # fmt: skip
    return Serving().run(context)


def levels(found: Measurement) -> dict[str, ServingLevel]:
    assert isinstance(found.metrics, ServingMetrics)
    return {level.label: level for level in found.metrics.levels}


# --- Truth ---


@pytest.fixture(scope="module")
def planted() -> Iterator[str]:
    with served(Plan(prefill_s=0.3, itl_s=0.02, itl_per_request_s=0.002, kv_tokens=1000)) as url:
        measure(url, Load(concurrency=4), 0.5)  # the first requests of a process are slower
        yield url


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_what_is_measured_is_what_was_planted(planted: str, concurrency: int) -> None:
    run = measure(planted, Load(concurrency=concurrency))
    level = level_of(Load(concurrency=concurrency), run, REQUESTS, OBJECTIVES)
    itl = 0.02 + 0.002 * concurrency
    e2e = 0.3 + (TOKENS - 1) * itl
    good = [sent.completion for sent in run.ended()]
    # Other work on the host delays the server and this client, and never makes them early: the least delayed count.
    late = 3 * median(run.delays_s)
    assert min(each.ttft_s or 9 for each in good) == pytest.approx(0.3, rel=0.01, abs=0.003 + late)
    assert level.median_ttft_s == median(each.ttft_s or 9 for each in good) == pytest.approx(0.3, abs=0.01 + late)
    assert level.median_tpot_s == pytest.approx(itl, rel=0.01, abs=late / TOKENS)
    assert level.itl_s == pytest.approx(itl, rel=0.01, abs=late / TOKENS)
    assert level.median_e2e_latency_s == pytest.approx(e2e, rel=0.01, abs=late)
    assert level.achieved_concurrency == pytest.approx(concurrency, rel=0.02)
    # Little's law; a window of three seconds cuts a request of each slot in two, of five or fewer.
    assert level.e2e_latency_s is not None
    rate = concurrency * TOKENS / level.e2e_latency_s
    assert level.tokens_per_second == pytest.approx(rate, rel=0.1 if concurrency > 1 else 0.25)
    assert level.output_tokens == TOKENS
    assert level.num_errors == 0
    assert not level.saturated  # on a busy host the client may be late, which makes it invalid
    assert level.kv_cache_usage == pytest.approx(0.032 * concurrency, rel=0.1)


def test_a_queue_in_the_server_is_in_the_time_to_the_first_token() -> None:
    with served(Plan(prefill_s=0.1, itl_s=0.02, slots=2, kv_tokens=1000)) as url:
        run = measure(url, Load(concurrency=4))
    level = level_of(Load(concurrency=4), run, REQUESTS)
    service = 0.1 + (TOKENS - 1) * 0.02
    late = 4 * median(run.delays_s)
    assert level.median_ttft_s == pytest.approx(service + 0.1, rel=0.01, abs=0.003 + late)
    assert level.median_tpot_s == pytest.approx(0.02, rel=0.01, abs=late / TOKENS)
    assert level.tokens_per_second == pytest.approx(2 * TOKENS / service, rel=0.1)
    assert level.queue_length == pytest.approx(2, abs=0.3)
    assert not level.saturated


def test_a_rate_is_kept_and_its_arrivals_are_those_of_the_seed(planted: str) -> None:
    load = Load(rate=10.0, arrivals=Arrivals.CONSTANT)
    run = measure(planted, load)
    level = level_of(load, run, REQUESTS)
    assert level.requests_per_second == pytest.approx(10, rel=0.1)
    assert not level.saturated
    assert level.label == "rate-10"
    again = [measure(planted, Load(rate=10.0), 0.5) for _ in range(2)]
    due = [[s.completion.scheduled_s - r.sent[0].completion.scheduled_s for s in r.sent[:4]] for r in again]  # type: ignore[operator]
    assert due[0] == pytest.approx(due[1])
    sent = [each.completion for each in run.sent if each.completion.submitted_s is not None]
    assert all(each.submitted_s >= each.scheduled_s for each in sent)  # type: ignore[operator]


@pytest.mark.large
def test_a_queue_that_grows_throughout_is_saturation() -> None:
    with served(Plan(prefill_s=0.05, itl_s=0.01, slots=2)) as url:  # serves 10 requests per second
        options = {"arrivals": "constant", "duration_s": 2.0, "request_timeout_s": 30.0}
        found = sweep(url, request_rate=(5.0, 40.0, 80.0), **options)
    full = levels(found)["rate-40"]
    assert not levels(found)["rate-5"].saturated
    assert full.saturated
    assert full.valid is False
    assert any("in flight" in reason for reason in full.invalid_reasons)
    assert "rate-80" not in levels(found)
    assert found.metrics.ended.startswith("saturated at rate-40")  # type: ignore[attr-defined]


@pytest.mark.large
def test_doubling_ends_where_throughput_no_longer_rises() -> None:
    with served(Plan(prefill_s=0.02, itl_s=0.005, slots=2)) as url:
        found = sweep(url, duration_s=1.5)
    assert list(levels(found))[-1] in ("concurrency-4", "concurrency-8")
    assert list(levels(found).values())[-1].saturated
    assert "no longer rises" in found.metrics.ended  # type: ignore[attr-defined]


# --- Faults ---


@pytest.fixture(scope="module")
def quick() -> Iterator[str]:
    with served(Plan(prefill_s=0.01, itl_s=0.005)) as url:
        yield url


def test_a_server_that_dies_in_a_level_keeps_the_levels_before() -> None:
    kept: list[Measurement] = []
    with (
        served(Plan(prefill_s=0.01, itl_s=0.005, fault="die", after=50)) as url,
        pytest.raises(BenchmarkError) as error,
    ):
        sweep(url, concurrency=(1, 4, 8), keep=kept.append)
    assert "no request succeeded any more at concurrency-" in error.value.cause
    assert "continues with this level" in error.value.remedy
    assert "concurrency-1" in levels(kept[-1])
    assert kept[-1].metrics.ended is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "kind"), [("stall", "timed out"), ("garbage", "not a completion"), ("html", "not a")]
)
def test_a_server_that_never_answers_ends_the_level(fault: str, kind: str) -> None:
    with served(Plan(itl_s=0.001, fault=fault, after=1)) as url, pytest.raises(BenchmarkError) as error:
        sweep(url, concurrency=(8,), request_timeout_s=0.5 if fault == "stall" else 30.0)
    assert kind in error.value.cause


@pytest.mark.parametrize("status", ["429", "503"])
def test_refusals_are_counted_and_make_the_level_saturated(status: str) -> None:
    with served(Plan(prefill_s=0.05, itl_s=0.005, fault=status, most=4)) as url:
        found = sweep(url, concurrency=(2, 16, 32), duration_s=2.0)
    assert levels(found)["concurrency-2"].num_errors == 0
    full = levels(found)["concurrency-16"]
    assert full.errors == {"refused": full.num_errors}
    assert (full.valid, full.saturated) == (False, True)
    assert "concurrency-32" not in levels(found)


def test_a_server_that_refuses_most_requests_for_long_is_saturated_and_not_at_its_end() -> None:
    """It works on one request for 1.3 s and refuses all others, 20 times in a row and more."""
    with served(Plan(prefill_s=0.5, itl_s=0.05, fault="429", most=1)) as url:
        full = levels(sweep(url, concurrency=(8,), duration_s=2.0))["concurrency-8"]
    assert full.num_runs
    assert full.errors["refused"] > 20
    assert (full.valid, full.saturated) == (False, True)


@pytest.mark.parametrize("fault", ["truncated", "ended"])
def test_truncated_streams_are_errors(fault: str) -> None:
    with served(Plan(itl_s=0.002)) as url:
        wrong = Workload(0, (8, 8), (TOKENS, TOKENS), range(100))

        class Some(Workload):
            def request(self, level: int, number: int) -> CompletionRequest:
                made = wrong.request(level, number)
                return CompletionRequest(
                    made.prompt, made.max_tokens, options={"fault": fault} if number % 5 == 0 else {}
                )

        run = measure(url, Load(concurrency=2), 1.0, Some(0, (8, 8), (TOKENS, TOKENS), range(100)))
    level = level_of(Load(concurrency=2), run, REQUESTS)
    assert set(level.errors) == {"truncated"}
    assert level.valid is False  # a fifth of the requests
    assert level.num_runs
    words = f"{level.num_errors} of {level.num_runs + level.num_errors} requests failed"
    assert words in " ".join(level.invalid_reasons)


def test_tokens_that_come_at_once_have_no_time_between_them() -> None:
    with served(Plan(prefill_s=0.05, fault="one chunk", itl_s=0.002)) as url:
        found = levels(sweep(url, concurrency=(1,)))["concurrency-1"]
    assert found.itl_s is found.tpot_s is None
    assert found.ttft_s == pytest.approx(found.e2e_latency_s)
    assert found.tokens_per_second is not None
    assert any("ITL" in note for note in found.notes)


def test_an_endpoint_that_ignores_ignore_eos_is_named() -> None:
    with served(Plan(itl_s=0.002, fault="short")) as url:
        found = levels(sweep(url, concurrency=(2,)))["concurrency-2"]
    assert any("ignore_eos is ignored" in note for note in found.notes)
    assert found.output_tokens is not None
    assert found.output_tokens < TOKENS


def test_an_endpoint_that_refuses_ignore_eos_is_measured_without_it() -> None:
    with served(Plan(itl_s=0.002, refuses_ignore_eos=True)) as url:
        found = sweep(url, concurrency=(1,))
    assert any("does not know ignore_eos" in note for note in found.notes)
    assert levels(found)["concurrency-1"].num_errors == 0


def test_tokens_without_a_count_by_the_server_are_not_known() -> None:
    with served(Plan(itl_s=0.002, fault="no usage")) as url:
        found = sweep(url, concurrency=(1,))
    level = levels(found)["concurrency-1"]
    assert level.tpot_s is level.tokens_per_second is level.output_tokens is None
    assert level.ttft_s is not None
    assert any("usage" in note for note in found.notes)


def test_what_was_imported_before_is_not_collected_while_requests_are_sent(planted: str) -> None:
    """With torch and Transformers loaded, such a collection stops the client for tens of milliseconds."""
    gc.unfreeze()  # what the tests froze
    frozen = list[int]()

    async def run() -> None:
        async with StreamingClient(planted, "stand-in") as client:
            hooks = [lambda: frozen.append(gc.get_freeze_count())]
            await run_load(client, Load(concurrency=1), lambda n: REQUESTS.request(1, n), 0.1, on_open=hooks)

    asyncio.run(run())
    assert frozen[0] > len(sys.modules)
    assert gc.get_freeze_count() == 0


def test_a_slow_client_is_the_limit() -> None:
    run = LoadRun([Sent(0, 2, _done(0.0, [0.1, 0.2]))], 0.0, 1.0, client_cpu_share=0.97, delays_s=[0.0] * 9)
    level = level_of(Load(concurrency=1), run, REQUESTS)
    assert level.valid is False
    assert level.invalid_reasons == ("the client was the limit: it used 97% of a CPU",)
    run = LoadRun([Sent(0, 2, _done(0.0, [0.1, 0.2]))], 0.0, 1.0, delays_s=[0.3] * 9)
    assert "the client was late: by 300 ms" in level_of(Load(concurrency=1), run, REQUESTS).invalid_reasons[0]


# --- Windows, levels, resume ---


def _done(begin: float, moments: list[float], error: ErrorKind | None = None) -> Completion:
    count = None if error else len(moments)
    return Completion(begin, begin, moments, moments[-1] if moments else begin, 8, count, "", "length", error)


def test_only_what_happens_in_the_window_is_work_within_it() -> None:
    sent = [
        Sent(0, 3, _done(-2.0, [-1.0, 0.5, 1.0])),  # two tokens of it are inside
        Sent(1, 3, _done(1.0, [2.0, 3.0, 4.0])),
        Sent(2, 3, _done(8.0, [9.0, 9.5, 10.5])),  # ends after it
        Sent(3, 3, _done(0.0, [1.0, 2.0, 3.0]), is_warmup=True),
    ]
    level = level_of(Load(concurrency=1), LoadRun(sent, 0.0, 10.0, delays_s=[0.0]), REQUESTS, parse(["ttft:1.5s"]))
    assert level.num_runs == 2
    assert level.tokens_per_second == pytest.approx((2 + 3 + 2 + 3) / 10)
    assert level.ttft_s == pytest.approx(1.0)
    assert level.goodput == pytest.approx(0.2)
    assert level.achieved_concurrency == pytest.approx((1 + 3 + 2 + 3) / 10)


def test_joules_are_those_of_the_window_and_per_token_in_it() -> None:
    sent = [Sent(n, 4, _done(n, [n + 0.2, n + 0.4, n + 0.6, n + 0.8])) for n in range(20)]
    run = LoadRun(sent, 0.0, 20.0, delays_s=[0.0])
    samples = tuple(PowerSample(0.1 * n, (50.0,)) for n in range(201))
    reading = EnergyReading("nvml-counter", 20.0, joules=1000.0, samples=samples, opened_s=0.0)
    level = _with_energy(level_of(Load(concurrency=1), run, REQUESTS), run, reading, NoMeter(""))
    assert level.joules_per_output_token == pytest.approx(1000 / 80)
    assert level.avg_power_watts == pytest.approx(50)
    assert level.intervals["joules_per_output_token"] == pytest.approx((12.5, 12.5))
    record = ServingRecord(model="m", precision="fp16", levels=(level,))
    energy = record.energy_at(level)
    assert energy is not None
    assert (energy.valid, energy.joules_per_output_token, energy.batch_size) == (True, pytest.approx(12.5), 1)


def test_invalid_energy_of_a_level_keeps_its_reason() -> None:
    run = LoadRun([Sent(n, 3, _done(n, [n + 0.2, n + 0.4, n + 0.6])) for n in range(20)], 0.0, 20.0, delays_s=[0.0])
    level = level_of(Load(concurrency=1), run, REQUESTS)
    throttled = EnergyReading("nvml-counter", 20.0, joules=1000.0, opened_s=0.0, invalid_reasons=("throttled: heat",))
    invalid, absent = (_with_energy(level, run, reading, NoMeter("no GPU")) for reading in (throttled, None))
    record = ServingRecord(model="m", precision="fp16", levels=(invalid,))
    energy = record.energy_at(invalid)
    assert energy is not None
    assert (energy.valid, energy.joules_per_output_token, energy.invalid_reasons) == (False, None, ("throttled: heat",))
    assert record.at(invalid).valid  # the speed of the level counts
    assert record.energy_at(absent) is None  # without a meter there is nothing to be invalid


def test_tokens_of_requests_that_were_cut_count_as_those_of_the_others() -> None:
    """Four tokens come in each event; the server tells their number when a request has ended."""
    sent = [Sent(n, 16, _done(n, [n + 0.2, n + 0.4, n + 0.6, n + 0.8])) for n in range(10)]
    for each in sent:
        each.completion.output_tokens = 16
    cut = Sent(10, 16, _done(10.0, [10.2, 10.4], error=ErrorKind.CANCELLED))
    assert len(_tokens_in(LoadRun([*sent, cut], 0.0, 11.0))) == 10 * 16 + 2 * 4
    assert len(_tokens_in(LoadRun([cut], 0.0, 11.0))) == 2  # nothing tells how many they are


def test_an_objective_on_what_cannot_be_measured_is_neither_kept_nor_missed() -> None:
    with served(Plan(prefill_s=0.02, fault="one chunk", itl_s=0.002)) as url:
        found = sweep(url, concurrency=(1,), slo=("tpot_p95:50ms", "ttft_p95:5s"), find_goodput=True)
    level = levels(found)["concurrency-1"]
    assert (level.goodput, level.slo_met, "goodput" in level.intervals) == (None, None, False)
    assert any("goodput is not known" in note for note in level.notes)
    record = ServingRecord(model="m", precision="fp16", measured_with={}, **found.metrics.model_dump())
    assert Serving().flaw(record, _config(concurrency=(1,), slo=("tpot_p95:50ms",), find_goodput=True)) == ""
    with served(Plan(prefill_s=0.2, fault="one chunk")) as url:  # another objective is missed
        missed = levels(sweep(url, concurrency=(1,), slo=("tpot_p95:50ms", "ttft_p95:5ms")))["concurrency-1"]
    assert missed.slo_met is False


def test_the_servers_queue_is_counted_once() -> None:
    """The reasons of a queue have rows of their own beside it."""
    with served(Plan(prefill_s=0.05, itl_s=0.01, slots=1, kv_tokens=1000)) as url:
        run = measure(url, Load(concurrency=4), 2.5)
    assert run.queue
    assert set(run.queue) <= {2.0, 3.0}


def _level(size: int, met: bool | None, **others: Any) -> ServingLevel:
    label = f"concurrency-{size}"
    return ServingLevel(load=label, label=label, max_concurrency=size, slo_met=met, **others)


@pytest.mark.parametrize(
    ("met", "wanted"),
    [
        ({1: True, 2: True}, 4),
        ({1: False}, None),  # there is no lower one
        ({8: False}, 4),
        ({1: True, 8: False}, 3),
        ({4: True, 5: False}, None),  # found
        ({1: False, 2: True, 4: True}, 8),  # a cold first level
        ({1: True, 2: False, 4: True}, None),  # the first that misses is the limit
        ({1: True, 2: None}, None),  # it cannot tell
        ({32: True, 64: True}, None),  # --max-concurrency
        ({}, None),
    ],
)
def test_the_search_for_goodput_asks_for_one_level_after_the_other(
    met: dict[int, bool | None], wanted: int | None
) -> None:
    options = ServingConfig(slo=("ttft:1s",), find_goodput=True)
    load = next_load([_level(size, kept) for size, kept in met.items()], options)
    assert (load.concurrency if load else None) == wanted


def test_the_search_at_rates_ends_where_hardly_a_request_arrives() -> None:
    options = ServingConfig(request_rate=(0.5,), slo=("ttft:1ms",), find_goodput=True, duration_s=30.0)
    asked, levels_ = [], [ServingLevel(load="x", label="rate-0.5", request_rate=0.5, slo_met=False)]
    while (load := next_load(levels_, options)) is not None:
        asked.append(load.rate)
        levels_.append(ServingLevel(load="x", label=load.label, request_rate=load.rate, slo_met=False))
    assert asked == [0.25, pytest.approx(4 / 30)]


def test_a_disturbed_level_does_not_end_a_sweep() -> None:
    config = RunConfig(models=("m",), tasks=("serving",))
    context = BenchmarkContext(_Server("x"), config.serving, config, (), "serving")  # type: ignore[arg-type]
    made = Sweep(context)
    before = _level(4, None, tokens_per_second=100.0, valid=True)
    slower = _level(8, None, tokens_per_second=80.0, valid=False, invalid_reasons=("disturbed",))
    assert made._end(slower, before, automatic=True) == ""
    valid = slower.model_copy(update={"valid": True})
    assert "throughput no longer rises" in made._end(valid, before, automatic=True)


def test_levels_that_are_asked_for_are_added_beyond_the_end_of_a_sweep() -> None:
    ends = [_level(1, None, valid=True), _level(2, None, valid=True), _level(4, None, valid=True, saturated=True)]
    plateau = ServingRecord(model="m", precision="fp16", measured_with={}, ended="x", levels=tuple(ends))
    assert Serving().flaw(plateau, _config()) == ""
    assert Serving().flaw(plateau, _config(concurrency=(4, 8))) == "it has no level concurrency-8"
    ends[-1] = ends[-1].model_copy(update={"valid": False})
    refusing = plateau.model_copy(update={"levels": tuple(ends)})
    assert Serving().flaw(refusing, _config(concurrency=(4, 8))) == ""
    whole = plateau.model_copy(update={"levels": tuple(_level(size, None, valid=True) for size in (1, 2))})
    assert Serving().flaw(whole, _config(max_concurrency=2)) == ""
    assert Serving().flaw(whole, _config(max_concurrency=4)) == "it has no level concurrency-4"
    assert (
        Serving().flaw(whole, _config(max_concurrency=2, check_hysteresis=True)) == "it has no level concurrency-1 down"
    )
    chosen = plateau.model_copy(update={"levels": (_level(8, None, valid=True),)})
    assert Serving().flaw(chosen, _config()) == ""


def test_a_rate_of_long_requests_is_measured_when_as_many_end_as_begin() -> None:
    """Requests of 2.4 s at a rate without a queue: in flight they become more for as long."""
    with served(Plan(prefill_s=0.1, itl_s=0.15)) as url:
        run = measure(url, Load(rate=8.0, arrivals=Arrivals.CONSTANT), 1.0)
    assert run.opened_s - min(each.completion.submitted_s or 0.0 for each in run.sent) > 2.3
    assert queue_growth(run) is None


def test_growth_needs_a_trend_and_not_only_a_difference() -> None:
    def flying(counts: list[int]) -> LoadRun:
        sent = [Sent(n, 1, Completion(0, float(tenth))) for tenth, count in enumerate(counts) for n in range(count)]
        return LoadRun(sent, 0.0, 10.0)

    assert queue_growth(flying([10] * 10)) is not None  # ten more in each tenth, and none ends
    assert queue_growth(LoadRun([], 0.0, 10.0)) is None
    assert queue_growth(flying([20] + [0] * 9)) is None


def test_a_sweep_continues_with_the_next_level(quick: str) -> None:
    kept: list[Measurement] = []
    sweep(quick, concurrency=(1, 2), keep=kept.append)
    first = kept[0]
    assert list(levels(first)) == ["concurrency-1"]
    record = ServingRecord(model="m", precision="fp16", measured_with={}, **first.metrics.model_dump())
    assert Serving().flaw(record, _config(concurrency=(1, 2))) == "its sweep did not end"
    rows = [json.loads(json.dumps(row)) for row in first.samples]
    found = sweep(quick, concurrency=(1, 2), earlier=Earlier(record, rows))
    assert levels(found)["concurrency-1"] == levels(first)["concurrency-1"]
    assert list(levels(found)) == ["concurrency-1", "concurrency-2"]
    assert {row["level"] for row in found.samples} == {"concurrency-1", "concurrency-2"}
    whole = record.model_copy(update=dict(found.metrics))
    assert Serving().flaw(whole, _config(concurrency=(1, 2))) == ""
    assert Serving().flaw(whole, _config(concurrency=(1, 2, 4))) == "it has no level concurrency-4"
    spoilt = whole.levels[0].model_copy(update={"valid": False, "invalid_reasons": ("disturbed",)})
    invalid = whole.model_copy(update={"levels": (spoilt, whole.levels[1])})
    assert "concurrency-1 is invalid (disturbed)" in Serving().flaw(invalid, _config(concurrency=(1, 2)))


def _config(**options: Any) -> RunConfig:
    return RunConfig(models=("m",), tasks=("serving",), serving=options)


@pytest.mark.large
def test_the_highest_goodput_is_searched_by_doubling_and_bisection() -> None:
    # TTFT is 40 ms; TPOT is 10 ms + 2 ms per request: 28 ms is kept up to nine requests.
    with served(Plan(prefill_s=0.04, itl_s=0.01, itl_per_request_s=0.002)) as url:
        # Windows of 1.5 s hold too few answers of 16 requests at once for an interval.
        found = sweep(url, concurrency=(2,), duration_s=3.0, slo=("tpot_p50:29ms",), find_goodput=True)
    sizes = sorted(level.max_concurrency or 0 for level in levels(found).values())
    assert sizes[:3] == [2, 4, 8]
    assert found.metrics.goodput_load in ("concurrency-8", "concurrency-9", "concurrency-10")  # type: ignore[attr-defined]
    low, high = found.metrics.max_goodput_interval  # type: ignore[attr-defined]
    assert low <= found.metrics.max_goodput <= high  # type: ignore[attr-defined]


def test_goodput_without_a_level_that_keeps_the_objectives() -> None:
    level = ServingLevel(load="x", label="concurrency-1", max_concurrency=1, requests_per_second=2.0, p95_ttft_s=1.0)
    assert highest_goodput([level], OBJECTIVES).load == "none"
    assert highest_goodput([], OBJECTIVES).load is None


def test_levels_go_up_and_down() -> None:
    assert [load.label for load in loads(ServingConfig(concurrency=(1, 2, 4), check_hysteresis=True))] == [
        "concurrency-1", "concurrency-2", "concurrency-4", "concurrency-2 down", "concurrency-1 down",
    ]  # fmt: skip
    assert [load.concurrency for load in loads(ServingConfig(max_concurrency=8))] == [1, 2, 4, 8]


# --- Workload ---


def test_requests_are_the_same_for_every_variant_and_differ_within_a_sweep() -> None:
    made = Workload(3, (16, 32), (4, 8), range(1000))
    again = Workload(3, (16, 32), (4, 8), range(1000))
    seen = [made.request(level, number) for level in (1, 2) for number in range(50)]
    assert seen == [again.request(level, number) for level in (1, 2) for number in range(50)]
    assert len({each.prompt[:3] for each in seen}) == 100  # no prefix is common
    assert {len(each.prompt) for each in seen} <= set(range(16, 33))
    assert {each.max_tokens for each in seen} <= set(range(4, 9))


def test_prompts_of_several_lengths_are_a_data_set_by_name(tmp_path: Path) -> None:
    assert Workload(3, (16, 16), (4, 4)).dataset is None
    assert Workload(3, (16, 32), (4, 4)).dataset == "synthetic prompts of 16 to 32 tokens, seed 3"
    one, other = tmp_path / "a" / "p.jsonl", tmp_path / "b" / "p.jsonl"
    for path, text in ((one, "a"), (other, "b")):
        path.parent.mkdir()
        path.write_text(json.dumps({"prompt": text}))
    assert file_label(one) != file_label(other)
    assert file_label(one).startswith("p.jsonl (")
    assert Workload(3, (16, 16), (4, 4), texts=("a",), file=file_label(one)).dataset == f"prompts of {file_label(one)}"
    assert file_label(tmp_path / "absent.jsonl") == "absent.jsonl"
    of_one, of_other = (Serving().settings(_config(prompt_file=path), "serving", None) for path in (one, other))
    assert of_one != of_other


def test_prompts_of_files(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a"}, {"text": "b"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]},
        {"conversations": [{"from": "human", "value": "d"}, {"from": "gpt", "value": "no"}]},
    ]  # fmt: skip
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert read_prompts(tmp_path / "p.jsonl") == read_prompts(tmp_path / "p.json") == ("a", "b", "c", "d")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"answer": 1}\n')
    with pytest.raises(UsageError, match="entry 2 has no prompt"):
        read_prompts(tmp_path / "bad.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")


def test_requests_that_do_not_fit_the_window_are_refused() -> None:
    config = RunConfig(
        models=("m",), tasks=("serving",), performance={"input_len": "64:128"}, serving={"output_len": 64}
    )
    with pytest.raises(BenchmarkError, match="up to 192 tokens exceed the context window of 128"):
        workload(config, range(100), 128)
    assert workload(config, range(100), 256).input_range == (64, 128)
    short = RunConfig(models=("m",), tasks=("serving",), serving={"output_len": 64})
    assert workload(short, range(100), 256).input_range == (96, 96)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"performance": {"input_len": "64:128"}, "tasks": ("serving", "performance")}, "a range is for serving"),
        ({"serving": {"find_goodput": True}}, "--find-goodput needs --slo"),
        ({"serving": {"concurrency": (1,), "request_rate": (1.0,)}}, "cannot be combined"),
        ({"serving": {"slo": ("ttft95:1s",)}}, "unknown time"),
        ({"serving": {"slo": ("ttft_p90:1s",)}}, "unknown statistic"),
        ({"serving": {"slo": ("soon",)}}, "is not an objective"),
        ({"performance": {"input_len": "9:3"}}, "neither a number of tokens"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunConfig(**{"models": ("m",), "tasks": ("serving",), **options})
