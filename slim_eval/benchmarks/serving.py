"""The serving benchmark: latency, throughput, goodput and energy of a server under load.

A sweep measures one level after the other: so many requests in flight (closed loop), or a rate (open loop). Each level
is warmed up, then measured in a window of steady state: see `load`. What counts is what happens in the window:

- tokens whose time is in the window, for throughput;
- requests that end in it, for latencies, goodput and errors;
- energy of the devices between its ends.

A level is invalid if the client was the limit, the host was disturbed, the server refused or failed a tenth of the
requests, or the queue grew throughout. A queue that grows ends the sweep: higher levels measure nothing else. The
record is written after every level, and a rerun continues with the next one. Definitions: docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any, cast

from slim_eval.benchmarks import base
from slim_eval.benchmarks.load import Load, LoadRun, Sent, run_load
from slim_eval.benchmarks.workload import Workload, file_label, workload
from slim_eval.config import RunConfig, ServingConfig
from slim_eval.engines.engine import ServedEngine
from slim_eval.engines.streaming import STALL_TIMEOUT_S, Completion, CompletionRequest, ErrorKind, StreamingClient
from slim_eval.errors import BenchmarkError, EngineError
from slim_eval.power import EnergyReading, Meter, NoMeter, integral_joules, open_meter
from slim_eval.results.goodput import Goodput, highest_goodput, keeps, size_of
from slim_eval.results.records import Intervals, Measurement, ServingLevel, ServingMetrics, ServingRecord
from slim_eval.slo import LatencyObjective, keeps_all, parse
from slim_eval.utils.host import HostUse, HostWindow

CLIENT_LIMIT = 0.85  # share of a CPU; beyond it the client is the limit
DELAY_LIMIT_S = 0.1  # p99 by which the client is late; likewise
ERROR_LIMIT = 0.1  # share of the requests that may fail
PLATEAU = 1.05  # a doubled concurrency that gives less than this factor of throughput gives no more
GROWTH_LEVEL = 0.01  # of the test for a queue that grows
BISECTION = 1.1  # ratio of two loads that are close enough
IDLE_SECONDS = 2.0
_SEGMENTS = 20  # of a window, at most
_FEWEST_SEGMENTS = 5
_FEWEST_ARRIVALS = 4  # requests in a window, at the lowest rate that a search tries
_MOST_UNKNOWN = 0.05  # share of the requests without a time that an objective limits, beyond which goodput is not known
_TOGETHER = 0.9  # share of tokens with a time of their own, below which gaps between tokens say nothing

_RESAMPLES = 2_000
_ALL_DONE = "every level was measured"


class Serving(base.Benchmark[ServingConfig, ServingRecord]):
    """A server under load."""

    name = "serving"
    options = ServingConfig
    record = ServingRecord
    modules = ("aiohttp",)
    needs_quiet = True
    keeps_samples = True
    over_http = True
    resumes = True

    def run(self, context: base.BenchmarkContext[ServingConfig]) -> Measurement:
        """Measure the levels that are not measured yet; see `Sweep`."""
        return Sweep(context).run()

    def settings(self, config: RunConfig, stage: str, device: str | None) -> dict[str, Any]:
        """Device, workload, and how long and by what a level is measured; the levels themselves may be added to."""
        part, performance = config.serving, config.performance
        return {
            "device": device,
            "seed": config.seed,
            "input_len": performance.input_len,
            "output_len": part.output_len or performance.max_new_tokens,
            "prompt_file": None if part.prompt_file is None else file_label(part.prompt_file),
            "arrivals": part.arrivals.value if part.request_rate else "closed loop",
            "serving_duration": part.duration_s,
            "target_ci": performance.target_ci,
            "slo": part.slo,
            "request_timeout": part.request_timeout_s,
            "energy_source": config.energy.source,
        }

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """Most requests in flight; of a rate it is not known, and is that of an automatic sweep."""
        return max(config.serving.concurrency, default=config.serving.max_concurrency)

    def flaw(self, record: ServingRecord, config: RunConfig) -> str:
        """A sweep without its end, a level that is missing or invalid: those are measured, the others stay."""
        if record.measured_with is None:
            return ""  # imported
        if record.ended is None:
            return "its sweep did not end"
        known = {level.label: level for level in record.levels}
        for level in record.levels:
            if not is_final(level):
                return f"its level {level.label} is invalid ({'; '.join(level.invalid_reasons)})"
        if config.serving.find_goodput and next_load(record.levels, config.serving) is not None:
            return "the highest load that keeps --slo was not searched"
        chosen = bool(config.serving.concurrency or config.serving.request_rate)
        # Throughput that no longer rises ends a sweep by itself; levels that are asked for are measured above it too.
        ends = [size_of(level) for level in record.levels if level.saturated and not (chosen and level.valid)]
        full, highest = min(ends, default=math.inf), max(map(size_of, record.levels), default=0.0)
        missing = [load for load in loads(config.serving) if load.label not in known and load.size < full]
        if not chosen and any(load.size < highest and not load.is_down for load in missing):
            return ""  # its levels were chosen, and none are now
        return f"it has no level {', '.join(load.label for load in missing)}" if missing else ""

    def limitations(self, config: RunConfig) -> tuple[str, ...]:
        """Goodput needs objectives (--slo)."""
        return () if config.serving.slo else ("goodput is not measured: it needs objectives (--slo)",)


def loads(options: ServingConfig) -> list[Load]:
    """The levels that are asked for, upwards, and downwards again with ``--check-hysteresis``."""
    if options.request_rate:
        found = [Load(rate=rate, arrivals=options.arrivals) for rate in options.request_rate]
    elif options.concurrency:
        found = [Load(concurrency=count) for count in options.concurrency]
    else:
        most = options.max_concurrency
        found = [Load(concurrency=2**power) for power in range(most.bit_length()) if 2**power <= most]
    down = [replace(load, is_down=True) for load in found[-2::-1]] if options.check_hysteresis else []
    return [*found, *down]


def next_load(levels: Sequence[ServingLevel], options: ServingConfig) -> Load | None:
    """What to measure next in the search for the highest load that keeps the objectives; None if it has ended.

    Doubled while every load keeps them, halved while none does, then bisected between the highest that keeps them and
    the first that does not, as `highest_goodput` defines both. It also ends where a level cannot tell.
    """
    rates = bool(options.request_rate)
    most = math.inf if rates else float(options.max_concurrency)
    # At a lower rate so few requests arrive in a window that nothing can be said of them.
    least = _FEWEST_ARRIVALS / options.duration_s if rates else 1.0
    up = [level for level in levels if level.metadata.get("direction") != "down"]
    kept = [size_of(level) for level in up if level.slo_met]
    missed = [size_of(level) for level in up if level.slo_met is False]
    high = min((size for size in missed if size > min(kept, default=0.0)), default=math.inf)
    low = max((size for size in kept if size < high), default=0.0)
    if kept and high < math.inf:
        if high / low <= BISECTION or (not rates and high - low <= 1):
            return None
        middle = math.sqrt(low * high)
        size = float(f"{middle:.3g}") if rates else float(min(max(round(middle), low + 1), high - 1))
    elif kept:
        size = 2 * low
    elif missed and min(missed) > least:
        size = max(least, min(missed) / 2) if rates else float(int(min(missed) / 2))
    else:
        return None
    if not least <= size <= most:
        return None
    load = Load(rate=size, arrivals=options.arrivals) if rates else Load(concurrency=round(size))
    return None if any(level.label == load.label for level in levels) else load


def is_final(level: ServingLevel) -> bool:
    """Whether a level is not to be measured again: it is valid, or the server itself was at its end."""
    return level.valid is not False or bool(level.saturated)


class Sweep:
    """One sweep over the loads of a server."""

    def __init__(self, context: base.BenchmarkContext[ServingConfig]) -> None:
        self._context, self._options = context, context.options
        self._server = cast(ServedEngine, context.engine)  # `Benchmark.over_http`: the worker starts a server
        self._objectives = parse(self._options.slo)
        self._notes: list[str] = []
        self._levels: dict[str, ServingLevel] = {}
        self._samples: dict[str, list[Mapping[str, Any]]] = {}
        self._idle_watts: float | None = None
        earlier = context.earlier
        if earlier is not None and isinstance(earlier.record, ServingRecord):
            self._idle_watts = earlier.record.idle_power_watts
            self._levels = {level.label: level for level in earlier.record.levels if is_final(level)}
            for row in earlier.samples:
                self._samples.setdefault(str(row.get("level")), []).append(row)

    def run(self) -> Measurement:
        """Measure what is missing.

        Raises:
            BenchmarkError: The server died, or no request succeeded; the levels before are kept.
        """
        window = self._server.max_model_len
        try:
            vocabulary = self._server.ordinary_tokens()
        except EngineError:  # it takes no token ids, or its tokenizer is not here: prompts are texts
            vocabulary = ()
        requests = workload(self._context.config, vocabulary, window)
        requests = asyncio.run(self._probed(requests))
        self._meter = self._open_meter()
        if isinstance(self._meter, Meter) and self._idle_watts is None:
            self._idle_watts = self._meter.idle_power_watts(IDLE_SECONDS)
        ended, before = "", None
        automatic = not (self._options.concurrency or self._options.request_rate)
        for load in loads(self._options):
            if ended and not load.is_down:
                continue
            if load.is_down and load.label.removesuffix(" down") not in self._levels:
                continue
            level = self._level(load, requests)
            if load.is_down:
                continue
            ended = self._end(level, before, automatic=automatic)
            before = before if level.valid is False else level
        if self._options.find_goodput:
            self._search(requests)
        return self._measurement(ended or _ALL_DONE)

    def _end(self, level: ServingLevel, before: ServingLevel | None, *, automatic: bool) -> str:
        """Why the sweep ends with this level; empty if it goes on."""
        if level.saturated and level.valid is False:
            return f"saturated at {level.label}: {'; '.join(level.invalid_reasons)}"
        if level.valid is False:  # disturbed, or limited by the client: it says nothing of the server's end
            return ""
        if automatic and before is not None and level.tokens_per_second and before.tokens_per_second:
            top = level.intervals.get("tokens_per_second", (0.0, level.tokens_per_second))[1]
            if top < PLATEAU * before.tokens_per_second or level.tokens_per_second < before.tokens_per_second:
                self._levels[level.label] = level.model_copy(update={"saturated": True})
                return f"saturated at {level.label}: throughput no longer rises"
        return ""

    def _open_meter(self) -> Meter | NoMeter:
        if not self._server.is_ours:
            return NoMeter("the server was not started by slim-eval: its devices are not known")
        energy = self._context.config.energy
        return open_meter(energy.source, self._context.gpus, energy.sampling_interval_s)

    def _client(self) -> StreamingClient:
        endpoint, limit = self._server.endpoint, self._options.request_timeout_s
        stall_s = min(STALL_TIMEOUT_S, limit)
        return StreamingClient(
            endpoint.base_url, endpoint.served_model, endpoint.api_key, stall_timeout_s=stall_s, timeout_s=limit
        )

    async def _probed(self, requests: Workload) -> Workload:
        """The workload as this server takes it, found out with a request or two before the sweep."""
        async with self._client() as client:
            answer = await client.complete(requests.request(0, 0))
            if answer.error is ErrorKind.STATUS and "ignore_eos" in answer.error_text:
                requests = replace(requests, ignore_eos=False)
                self._notes.append("the server does not know ignore_eos: requests may end early")
                answer = await client.complete(requests.request(0, 0))
        if answer.error is not None:
            self._raise(f"the first request failed: {answer.error.value}: {answer.error_text}")
        if answer.output_tokens is None:
            self._notes.append("the server does not report numbers of tokens (usage): nothing per token is known")
        if not requests.vocabulary and not requests.texts and answer.prompt_tokens:
            words = len(str(requests.request(0, 0).prompt).split())
            requests = replace(requests, words_per_token=words / answer.prompt_tokens)
        return requests

    def _raise(self, cause: str) -> None:
        """Raise what went wrong: that the server has exited, if it has."""
        if (stopped := self._server.ended()) is not None:
            raise BenchmarkError(f"{cause}; {stopped.cause}", stopped.remedy) from stopped
        remedy = "see the server's log; rerunning the command continues with this level"
        raise BenchmarkError(cause.rstrip(": "), remedy)

    def _level(self, load: Load, requests: Workload) -> ServingLevel:
        """Measure one level, unless that was done before."""
        if load.label in self._levels:
            return self._levels[load.label]
        # The place of a load is the same in every sweep: so are its prompts.
        place = 1 + round(1000 * load.size) * 2 + load.is_down
        context, meter = self._context, self._meter
        host = HostWindow(context.config.host.max_contention, on_gpu=bool(context.gpus))
        uses: list[HostUse] = []
        opening: list[Callable[[], None]] = [host.open] if self._server.is_ours else []
        closing: list[Callable[[], None]] = [lambda: uses.append(host.close())] if self._server.is_ours else []
        if isinstance(meter, Meter):
            meter.start()
            opening, closing = [*opening, meter.open], [meter.close, *closing]
        duration_s, target = self._options.duration_s, context.config.performance.target_ci

        def progress(elapsed_s: float) -> None:
            done = max(0, min(math.floor(elapsed_s), math.ceil(duration_s)))
            context.progress(done, math.ceil(duration_s) + 1, f"s of {load.label}")

        def enough(run: LoadRun) -> bool:
            return target is not None and _precise(run, target)

        def make(number: int) -> CompletionRequest:
            return requests.request(place, number)

        async def measured() -> LoadRun:
            async with self._client() as client:
                return await run_load(
                    client, load, make, duration_s, seed=context.seed, on_open=opening, on_close=closing,
                    progress=progress, enough=enough if target is not None else None, metrics_url=self._metrics_url(),
                )  # fmt: skip

        reading: EnergyReading | None = None
        try:
            run = asyncio.run(measured())
        finally:
            if isinstance(meter, Meter):
                reading = meter.stop()
        if run.gave_up or not any(sent.completion.error is None for sent in run.ended()):
            self._raise(f"no request succeeded any more at {load.label}: {run.gave_up or 'none ended in the window'}")
        early = duration_s > run.duration_s
        level = level_of(load, run, requests, self._objectives).model_copy(
            update={"stop_reason": "target_ci reached" if early else "duration reached"}
        )
        level = _with_energy(level, run, reading, meter)
        if uses:
            reasons = uses[0].disturbances(host.max_contention)
            level = level.model_copy(update={"host": uses[0], "max_contention": host.max_contention})
            if reasons:
                invalid = {"valid": False, "invalid_reasons": (*level.invalid_reasons, *reasons)}
                level = level.model_copy(update=invalid)
                level = level.model_copy(update={"slo_met": keeps(level, self._objectives) if level.slo else None})
        self._levels[load.label] = level
        self._samples[load.label] = list(samples_of(load, run))
        context.keep(self._measurement(None))
        return level

    def _metrics_url(self) -> str:
        return f"{self._server.endpoint.base_url.removesuffix('/v1')}/metrics"

    def _search(self, requests: Workload) -> None:
        """Double the load until the objectives are missed, then bisect between the last that kept them and that."""
        while (load := next_load(tuple(self._levels.values()), self._options)) is not None:
            self._level(load, requests)

    def _measurement(self, ended: str | None) -> Measurement:
        """The record so far; `ended` is None if the sweep goes on."""
        order = sorted(self._levels.values(), key=lambda level: (size_of(level), " down" in level.label))
        notes = list(self._notes)
        if isinstance(getattr(self, "_meter", None), NoMeter):
            notes.append(f"energy was not measured: {cast(NoMeter, self._meter).reason}")
        else:
            notes += [
                f"energy at {level.label} is invalid and does not count: {'; '.join(level.energy_reasons)}"
                for level in order
                if level.energy_reasons
            ]
        if ended not in (None, _ALL_DONE):
            notes.append(f"higher levels were not measured: {ended}")
        best = highest_goodput(order, self._objectives) if self._objectives and ended is not None else Goodput()
        metrics = ServingMetrics(
            levels=tuple(order), ended=ended, load_time_s=self._server.load_time_s, idle_power_watts=self._idle_watts,
max_goodput=best.rate, max_goodput_interval=best.interval, goodput_load=best.load,
        )  # fmt: skip
        rows = [row for level in order for row in self._samples.get(level.label, ())]
        return Measurement(metrics, tuple(rows), tuple(notes))


# --- One level ---


def level_of(load: Load, run: LoadRun, requests: Workload, objectives: Sequence[LatencyObjective] = ()) -> ServingLevel:
    """What one load came to, in its window: a request that ended after it is not work within it."""
    from slim_eval.stats import percentile, summarize

    ended = run.ended()
    good = [each for each in ended if each.completion.error is None]
    failed = Counter(each.completion.error.value for each in ended if each.completion.error is not None)
    seconds = run.duration_s
    times_s, prompts = _tokens_in(run), _prompts_in(run)
    counted = all(each.completion.output_tokens is not None for each in good) and bool(good)
    in_flight = _mean_in_flight(run)
    intervals: Intervals = {}
    found: dict[str, Any] = {}
    for key, rows in _times(good).items():
        known = [value for row in rows for value in row]
        summary = summarize(known, len(rows))
        for statistic in ("mean", "median", "p95", "p99"):
            name = key if statistic == "mean" else f"{statistic}_{key}"
            found[name] = getattr(summary, statistic)
            if known and (ends := _interval(rows, statistic, in_flight)) is not None:
                intervals[name] = ends
        found[f"std_{key}"] = summary.std
    kept = [each for each in good if keeps_all(objectives, _request_times(each.completion))]
    unknown = [each for each in good if _lacks(objectives, each.completion)]
    judged = bool(objectives) and len(unknown) <= _MOST_UNKNOWN * len(good)
    rates = {
        "requests_per_second": [each.completion.ended_s or 0.0 for each in good],
        "tokens_per_second": times_s if counted else [],
        "goodput": [each.completion.ended_s or 0.0 for each in kept] if judged else [],
    }
    for key, moments in rates.items():
        if moments or (key == "goodput" and judged):
            found[key] = len(moments) / seconds
            if (ends := _rate_interval(moments, run, _mean_e2e(good))) is not None:
                intervals[key] = ends
    if counted and prompts is not None:
        found["total_tokens_per_second"] = (len(times_s) + prompts) / seconds
    reasons, saturated, notes = _judged(load, run, ended, failed)
    asked = [each.max_tokens for each in good]
    got = [each.completion.output_tokens or 0 for each in good]
    if counted and abs(sum(got) - sum(asked)) > 0.01 * sum(asked):
        notes.append(
            f"requests generated {min(got)} to {max(got)} tokens and not what was asked for (ignore_eos is ignored): "
            "only numbers per token can be compared"
        )
    if counted and "itl_s" in found and found["itl_s"] is None and max(got) > 1:
        notes.append("several tokens come at once: the time between tokens (ITL) cannot be measured")
    if counted and found["tpot_s"] is None and max(got) > 1:
        notes.append("all tokens of a request come at once: TPOT cannot be measured, and TTFT is the whole latency")
    if objectives and not judged:
        notes.append(
            f"goodput is not known: a time that --slo limits is missing in {len(unknown)} of {len(good)} requests"
        )
    level = ServingLevel(
        load=f"slim-eval, {load.label}",
        label=load.label,
        request_rate=load.rate,
        arrivals=load.arrivals.value if load.rate is not None else "closed loop",
        max_concurrency=load.concurrency,
        input_len=requests.input_len,
        max_new_tokens=requests.max_new_tokens,
        dataset=requests.dataset,
        metadata={"direction": "down"} if load.is_down else {},
        achieved_concurrency=in_flight,
        num_runs=len(good),
        num_errors=len(ended) - len(good),
        errors=dict(failed),
        duration_s=seconds,
        prompt_tokens=summarize(each.completion.prompt_tokens for each in good).mean,
        output_tokens=summarize(each.completion.output_tokens for each in good).mean,
        slo=tuple(each.text for each in objectives),
        saturated=saturated,
        valid=not reasons,
        invalid_reasons=tuple(reasons),
        client_cpu_share=run.client_cpu_share,
        client_delay_s=percentile(run.delays_s, 99),
        kv_cache_usage=fmean(run.cache_usage) if run.cache_usage else None,
        queue_length=fmean(run.queue) if run.queue else None,
        intervals=intervals,
        notes=tuple(notes),
        **{key: value for key, value in found.items() if value is not None},
    )
    return level.model_copy(update={"slo_met": keeps(level, objectives) if objectives else None})


def _lacks(objectives: Sequence[LatencyObjective], completion: Completion) -> bool:
    """Whether a time of a request that an objective limits is not known."""
    times = _request_times(completion)
    return any(times.get(each.time) is None for each in objectives)


def _judged(
    load: Load, run: LoadRun, ended: Sequence[Sent], failed: Mapping[str, int]
) -> tuple[list[str], bool, list[str]]:
    """Why a level does not count, whether the server is saturated, and what a reader must know besides."""
    from slim_eval.stats import percentile

    reasons, notes, saturated = [], [], False
    if run.client_cpu_share > CLIENT_LIMIT:
        reasons.append(f"the client was the limit: it used {run.client_cpu_share:.0%} of a CPU")
    late_s = percentile(run.delays_s, 99) or 0.0
    if late_s > DELAY_LIMIT_S:
        reasons.append(f"the client was late: by {1000 * late_s:.0f} ms (p99) when it sent or received")
    if failed:
        words = ", ".join(f"{count} {kind}" for kind, count in failed.items())
        text = f"{sum(failed.values())} of {len(ended)} requests failed: {words}"
        if sum(failed.values()) > ERROR_LIMIT * len(ended):
            # At a rate, requests that wait until they time out are a queue too.
            kinds = [ErrorKind.REFUSED] if load.rate is None else [ErrorKind.REFUSED, ErrorKind.TIMEOUT]
            saturated = 2 * sum(failed.get(kind.value, 0) for kind in kinds) > sum(failed.values())
            reasons.append(text)
        else:
            notes.append(text)
    if load.rate is not None and (growth := queue_growth(run)) is not None:
        saturated = True
        first, last = growth
        reasons.append(f"saturated: {first:.0f} requests were in flight at first and {last:.0f} at last")
    return reasons, saturated, notes


def queue_growth(run: LoadRun) -> tuple[float, float] | None:
    """Requests in flight early and late in the window if they grew throughout; None if they did not.

    Kendall's test for a trend over ten moments, and a growth by half and by more than chance gives: by twice the root
    of what arrived.
    """
    from slim_eval.stats import drift_p_value

    step_s = run.duration_s / 10
    counts = [float(run.in_flight(run.opened_s + step_s * (index + 0.5))) for index in range(10)]
    first, last = fmean(counts[:2]), fmean(counts[-2:])
    arrived = sum(1 for each in run.sent if run.opened_s <= (each.completion.submitted_s or 0.0) <= run.closed_s)
    p_value = drift_p_value(counts)
    grew = last - first > max(2.0, 2 * math.sqrt(arrived)) or (last > 1.5 * first and last - first > 0.25 * arrived)
    return (first, last) if p_value is not None and p_value < GROWTH_LEVEL and grew else None


def _request_times(completion: Completion) -> dict[str, float | None]:
    """The times of a request, by the keys of the metrics, seconds."""
    gaps = gaps_of(completion)
    return {
        "ttft_s": completion.ttft_s,
        # One token has no time between tokens: it keeps any limit on it.
        "tpot_s": 0.0 if completion.output_tokens == 1 else completion.tpot_s,
        "itl_s": 0.0 if completion.output_tokens == 1 else max(gaps, default=None) if gaps is not None else None,
        "e2e_latency_s": completion.e2e_s,
    }


def gaps_of(completion: Completion) -> list[float] | None:
    """The times between the tokens of a request, seconds; None if several tokens came at once.

    A gap is then one of several tokens, which says nothing about the time between two of them.
    """
    times, count = completion.token_times_s, completion.output_tokens
    if count is None or count < 2 or len(set(times)) < _TOGETHER * count:
        return None
    return [later - earlier for earlier, later in pairwise(times)]


def _times(good: Sequence[Sent]) -> dict[str, list[list[float]]]:
    """Key -> the times of each request that has them, seconds."""
    found: dict[str, list[list[float]]] = {"ttft_s": [], "tpot_s": [], "itl_s": [], "e2e_latency_s": []}
    for each in good:
        completion = each.completion
        for key, value in (("ttft_s", completion.ttft_s), ("tpot_s", completion.tpot_s)):
            found[key] += [] if value is None else [[value]]
        found["e2e_latency_s"] += [] if completion.e2e_s is None else [[completion.e2e_s]]
        found["itl_s"] += [gaps] if (gaps := gaps_of(completion)) else []
    return found


def _interval(rows: Sequence[Sequence[float]], statistic: Any, in_flight: float) -> tuple[float, float] | None:
    """95 % interval over batches of consecutive requests, as many as are in flight together."""
    from slim_eval.stats import batches, bootstrap_interval

    size = max(1, round(in_flight))
    groups = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
    if len(groups) < _FEWEST_SEGMENTS:
        groups = list(batches(list(rows)))
    clusters = [[value for row in group for value in row] for group in groups]
    found = bootstrap_interval(clusters, statistic, resamples=_RESAMPLES)
    return None if found is None else (found.low, found.high)


def _segments(run: LoadRun, mean_e2e_s: float | None) -> int:
    """Parts of the window, each at least half as long as a request, so that they hardly depend on each other."""
    longest = _SEGMENTS if not mean_e2e_s else min(_SEGMENTS, math.floor(2 * run.duration_s / mean_e2e_s))
    return longest if longest >= _FEWEST_SEGMENTS else 0


def _rate_interval(moments: Sequence[float], run: LoadRun, mean_e2e_s: float | None) -> tuple[float, float] | None:
    """95 % interval of events per second, from parts of the window."""
    from slim_eval.stats import bootstrap_interval

    count = _segments(run, mean_e2e_s)
    if not count:
        return None
    counts = _counted(moments, run, count)
    found = bootstrap_interval([value * count / run.duration_s for value in counts], resamples=_RESAMPLES)
    return None if found is None else (max(0.0, found.low), found.high)


def _counted(moments: Sequence[float], run: LoadRun, segments: int) -> list[int]:
    """Events in each part of the window."""
    counts = [0] * segments
    for moment in moments:
        counts[min(segments - 1, int((moment - run.opened_s) / run.duration_s * segments))] += 1
    return counts


def _mean_e2e(good: Sequence[Sent]) -> float | None:
    known = [value for each in good if (value := each.completion.e2e_s) is not None]
    return fmean(known) if known else None


def _tokens_in(run: LoadRun) -> list[float]:
    """The moments of all tokens in the window, of requests that ended later too.

    Where several tokens came at once, each event counts as many as the request has on average; of a request that was
    cancelled the server has not said its number of tokens: each event counts as many as one of the others.
    """
    moments: list[float] = []
    told = [each.completion for each in run.sent if each.completion.error is None and each.completion.output_tokens]
    events = sum(len(each.token_times_s) for each in told)
    usual = sum(each.output_tokens or 0 for each in told) / events if events else 1.0
    for each in run.sent:
        completion = each.completion
        if completion.error not in (None, ErrorKind.CANCELLED):
            continue
        inside = [moment for moment in completion.token_times_s if run.opened_s <= moment <= run.closed_s]
        count, own = completion.output_tokens, len(completion.token_times_s)
        share = len(inside) * (usual if count is None or not own else count / own)
        if inside and round(share) != len(inside):
            inside = [inside[min(len(inside) - 1, int(i * len(inside) / share))] for i in range(round(share))]
        moments += inside
    return sorted(moments)


def _prompts_in(run: LoadRun) -> int | None:
    """Prompt tokens of the requests whose first token is in the window; None if a number is not known.

    Of a request that was cancelled the server has not said it: its prompt is as long as the mean of the others.
    """
    first = [
        each.completion.prompt_tokens for each in run.sent
        if (moment := each.completion.first_token_s) is not None and run.opened_s <= moment <= run.closed_s
    ]  # fmt: skip
    known = [count for count in first if count is not None]
    return round(fmean(known) * len(first)) if known else None


def _mean_in_flight(run: LoadRun) -> float:
    """Requests in flight, mean over the window."""
    total = 0.0
    for each in run.sent:
        begin, end = each.completion.submitted_s, each.completion.ended_s
        if begin is not None:
            total += max(0.0, min(end or run.closed_s, run.closed_s) - max(begin, run.opened_s))
    return total / run.duration_s


def _precise(run: LoadRun, share: float) -> bool:
    """Whether the intervals of mean TPOT and of throughput are within ± `share` of their values."""
    good = [each for each in run.ended() if each.completion.error is None]
    times, moments = _times(good), _tokens_in(run)
    checks = [(len(moments) / run.duration_s, _rate_interval(moments, run, _mean_e2e(good)))]
    if rows := times["tpot_s"]:
        checks.append((fmean(row[0] for row in rows), _interval(rows, "mean", _mean_in_flight(run))))
    return all(ends is not None and (ends[1] - ends[0]) / 2 <= share * value for value, ends in checks)


def _with_energy(
    level: ServingLevel, run: LoadRun, reading: EnergyReading | None, meter: Meter | NoMeter
) -> ServingLevel:
    """A level with the energy of its window."""
    from slim_eval.stats import bootstrap_interval

    if reading is None:
        reasons = (meter.reason,) if isinstance(meter, NoMeter) else ()
        return level.model_copy(update={"energy_reasons": reasons})
    found: dict[str, Any] = {"energy_source": reading.source, "energy_reasons": reading.invalid_reasons}
    joules, moments = reading.joules, _tokens_in(run)
    if joules and reading.duration_s and not reading.invalid_reasons and moments and level.output_tokens:
        per_token = joules / len(moments)
        found |= {
            "energy_joules": joules,
            "joules_per_output_token": per_token,
            "avg_power_watts": joules / reading.duration_s,
        }
        count = _segments(run, level.e2e_latency_s)
        if count and len(reading.samples) >= 2 * count:
            ends = [reading.duration_s * index / count for index in range(count + 1)]
            parts = [integral_joules(reading.samples, *pair) or 0.0 for pair in pairwise(ends)]
            tokens = _counted(moments, run, count)
            ratios = [part / each for part, each in zip(parts, tokens, strict=True) if each]
            spread = bootstrap_interval(ratios, resamples=_RESAMPLES) if len(ratios) == count else None
            if spread is not None and (middle := fmean(ratios)) > 0:
                own = (spread.low * per_token / middle, spread.high * per_token / middle)
                found["intervals"] = {**level.intervals, "joules_per_output_token": own}
    return level.model_copy(update=found)


def samples_of(load: Load, run: LoadRun) -> Iterator[dict[str, Any]]:
    """One row per request, also of those that failed or were cancelled; times in seconds, to the microsecond.

    ``submitted_s`` is since the window opened, ``token_times_s`` since the submission.
    """
    inside = {id(each) for each in run.ended()}
    for each in run.sent:
        completion = each.completion
        begin = completion.submitted_s
        if begin is None:
            continue

        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 6)

        yield {
            "level": load.label,
            "request": each.number,
            "in_window": id(each) in inside,
            "scheduled_s": rounded(None if completion.scheduled_s is None else completion.scheduled_s - run.opened_s),
            "submitted_s": rounded(begin - run.opened_s),
            "ttft_s": rounded(completion.ttft_s),
            "tpot_s": rounded(completion.tpot_s),
            "e2e_s": rounded(completion.e2e_s),
            "prompt_tokens": completion.prompt_tokens,
            "output_tokens": completion.output_tokens,
            "text_length": len(completion.text),
            "finish_reason": completion.finish_reason,
            "error": None if completion.error is None else completion.error.value,
            "token_times_s": [round(moment - begin, 6) for moment in completion.token_times_s],
        }
