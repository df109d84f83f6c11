"""guidellm's report (``benchmarks.json``), of its schema versions 1 and 2.

Read from ``benchmark/schemas`` and ``schemas/request_stats.py`` of guidellm 0.5.3 and 0.7.2. A report holds one
benchmark for each rate or concurrency; each becomes a finding. What the file does not hold: the precision, the server's
hardware and version (``platform`` is the client's).

Meanings, of which only those that are slim-eval's own are taken:

- ``time_to_first_token_ms`` is first token - submission, seen by an HTTP client: ``ttft_s``.
- ``inter_token_latency_ms`` of a request is (last token - first token) / (n - 1): ``tpot_s``. Its *summary* weighs
  requests by n - 1, so it is taken only where all requests have the same n.
- ``time_per_output_token_ms`` divides the whole latency by n and is not taken, nor is ``request_latency``, which ends
  when the response closes. A request's ``e2e_latency_s`` is worked out: first token, and n - 1 times the rest.
- ``output_tokens_per_second`` is a mean of momentary rates that leaves out the time before the first token. Taken are
  the output tokens over the measured time, where no warm-up or cool-down cuts requests in two.
- Percentiles are those of the nearest rank, not interpolated; standard deviations are over n, here over n - 1. Both
  are taken from summaries only where the report keeps a sample of the requests (``sample_requests``); else each number
  is worked out from the requests. A mean of 0 is guidellm's word for "no values".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from slim_eval.errors import ResultFileError
from slim_eval.results.importers.findings import (
    Finding,
    Given,
    Source,
    request_metrics,
    request_row,
    sample_std,
    tail_notes,
    utc,
)
from slim_eval.results.importers.reading import Fields
from slim_eval.results.records import PerformanceMetrics

KNOWN_VERSIONS = (1, 2)

_STRATEGY_SETTINGS = ("type_", "rate", "streams", "max_concurrency", "rampup_duration")


def report(fields: Fields, source: Source, given: Given) -> list[Finding]:
    """Every benchmark of a report.

    Raises:
        ResultFileError: The report is of another version, holds no benchmark, or a field is missing or of another kind.
    """
    if fields.get("metadata") is None:
        raise ResultFileError(
            f"{fields.path}: field 'metadata' is missing: a report of guidellm 0.3 or older, or none of its own",
            "measure with a newer guidellm",
        )
    metadata = fields.child("metadata")
    if (version := metadata.count("version")) not in KNOWN_VERSIONS:
        raise ResultFileError(
            f"{fields.path}: field 'metadata.version' is {version}; known are "
            f"{', '.join(map(str, KNOWN_VERSIONS))}: the report is newer than this slim-eval",
            "update it: pip install --upgrade slim-eval",
        )
    benchmarks = fields.children("benchmarks")
    if not benchmarks:
        raise fields.error("benchmarks", "is empty: nothing was measured")
    source = replace(source, version=metadata.text_or_none("guidellm_version"))
    arguments = fields.child_or_empty("args")  # version 1 only
    return [_finding(benchmark, arguments, source, given) for benchmark in benchmarks]


def _finding(benchmark: Fields, arguments: Fields, source: Source, given: Given) -> Finding:
    config, metrics = benchmark.child("config"), benchmark.child("metrics")
    strategy, backend = config.child("strategy"), config.child("backend")
    totals = metrics.child("request_totals")
    count = totals.count("successful")
    if not count:
        raise totals.error("successful", "is 0: no request succeeded")
    rows = list(_requests(benchmark.child("requests"), count))
    lengths = metrics.child("output_token_count").child("successful")
    output = lengths.number("mean")
    equal = lengths.number("min") == lengths.number("max")
    measured = PerformanceMetrics(
        **(request_metrics(rows) if rows else _summaries(metrics, equal=equal)),
        tokens_per_second=_throughput(benchmark, lengths),
        batch_size=_concurrency(strategy),
        num_runs=count,
    )
    means = {
        "prompt_tokens": metrics.child("prompt_token_count").child("successful").number("mean") or None,
        "output_tokens": output or None,
    }
    settings = {key.strip("_"): strategy.get(key) for key in _STRATEGY_SETTINGS if strategy.get(key) is not None}
    kind = backend.text_or_none("kind") or arguments.text_or_none("backend")
    return Finding(
        source,
        measured.model_copy(update=means),
        backend.text_or_none("model") or arguments.text_or_none("model"),
        setting=_setting(strategy),
        config={
            **settings,
            "backend": kind,
            "load": f"{source.tool}, {_setting(strategy)}",
            "max_new_tokens": int(output) if equal and output else None,
        },
        head={
            "engine": {"vllm_python": "vllm"}.get(kind or ""),
            "timestamp": utc(benchmark.number_or_none("end_time")),
        },
        samples=rows,
        notes=list(_notes(totals, count, has_requests=bool(rows), equal=equal)),
    )


def _notes(totals: Fields, count: int, *, has_requests: bool, equal: bool) -> Iterator[str]:
    yield "measured by a client: times include the way to the server and waiting in its queue"
    others = (totals.count_or_none("incomplete") or 0) + (totals.count_or_none("errored") or 0)
    if others:
        yield f"{others} of {others + count} requests failed or were cut off and are not in the numbers"
    if has_requests:
        yield from tail_notes(count, "requests")
        return
    yield "the report keeps only a sample of the requests: no end-to-end latency, percentiles by nearest rank"
    if not equal:
        yield "requests differ in length and the report weighs them by it: no time per output token"


def _setting(strategy: Fields) -> str:
    kind = strategy.text("type_")
    value = strategy.number_or_none("streams" if kind == "concurrent" else "rate")
    return kind if value is None else f"{kind}-{value:g}"


def _concurrency(strategy: Fields) -> int | None:
    """Requests in flight, where the strategy keeps it constant; the other strategies' limit is no setting."""
    kind = strategy.text("type_")
    return 1 if kind == "synchronous" else strategy.count("streams") if kind == "concurrent" else None


def _requests(requests: Fields, count: int) -> Iterator[dict[str, Any]]:
    """One row a successful request; none where the report keeps only some of them."""
    found = requests.children("successful") if requests.get("successful") is not None else []
    if len(found) != count:
        return
    for index, request in enumerate(found):
        ttft, tpot = _seconds(request, "time_to_first_token_ms"), _seconds(request, "inter_token_latency_ms")
        tokens = request.count_or_none("output_tokens")
        end = None if ttft is None or tpot is None or tokens is None else ttft + tpot * (tokens - 1)
        yield request_row(
            index,
            ttft_s=ttft,
            tpot_s=tpot,
            e2e_s=end,
            prompt_tokens=request.count_or_none("prompt_tokens"),
            output_tokens=tokens,
        )


def _summaries(metrics: Fields, *, equal: bool) -> dict[str, Any]:
    """Metrics over requests where the report keeps only some of them: tails that enough requests support."""
    from slim_eval.stats import resolving_count

    found: dict[str, Any] = {}
    requests = metrics.child("request_totals").count("successful")
    for theirs, ours in (("time_to_first_token_ms", "ttft_s"), ("inter_token_latency_ms", "tpot_s")):
        summary = metrics.child(theirs).child("successful")
        if not (mean := _seconds(summary, "mean")) or (ours == "tpot_s" and not equal):
            continue
        percentiles = summary.child("percentiles")
        found |= {ours: mean, f"median_{ours}": _seconds(percentiles, "p50")}
        found |= {f"p{q}_{ours}": _seconds(percentiles, f"p{q}") for q in (95, 99) if requests >= resolving_count(q)}
        found[f"std_{ours}"] = sample_std(_seconds(summary, "std_dev"), requests)
    return found


def _throughput(benchmark: Fields, lengths: Fields) -> float | None:
    """Output tokens a second; None where requests were cut in two by a warm-up or cool-down."""
    duration_s = benchmark.number("duration")
    if any(benchmark.number_or_none(key) for key in ("warmup_duration", "cooldown_duration")) or duration_s <= 0:
        return None
    return lengths.number("total_sum") / duration_s or None


def _seconds(fields: Fields, key: str) -> float | None:
    value = fields.number_or_none(key)
    return None if value is None else value / 1000
