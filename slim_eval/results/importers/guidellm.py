"""guidellm's report (``benchmarks.json``), of its schema versions 1 and 2.

As in ``benchmark/schemas`` and ``schemas/request_stats.py`` of guidellm 0.5.3 and 0.7.2. A report contains one
benchmark per rate or concurrency; each becomes a record. The file does not contain the scheme, the server's hardware or
its version (``platform`` is the client's).

Only fields that mean the same as slim-eval's own are taken:

- ``time_to_first_token_ms`` is first token - submission, seen by an HTTP client: ``ttft_s``.
- ``inter_token_latency_ms`` of a request is (last token - first token) / (n - 1): ``tpot_s``. Its *summary* weights
  requests by n - 1, so it is taken only if all requests have the same n.
- ``time_per_output_token_ms`` divides the whole latency by n and is not taken, nor is ``request_latency``, which ends
  when the response closes. A request's ``e2e_latency_s`` is computed: TTFT + (n - 1) * TPOT.
- ``output_tokens_per_second`` is a mean of momentary rates that leaves out the time before the first token. Taken are
  the output tokens over the measured time, unless a warm-up or cool-down cuts requests in two.
- Percentiles are those of the nearest rank, not interpolated. Summaries are taken only if the report contains a sample
  of the requests (``sample_requests``); else each number is computed from the requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator

from slim_eval.results.importers.importer import (
    IMPORTERS,
    Count,
    ForeignFile,
    ForeignObject,
    ImportedRecord,
    Importer,
    Number,
    OptionalText,
    RequestSample,
    Seconds,
    Succeeded,
    Text,
    few_samples_notes,
    inner,
    request_metrics,
    summary_metrics,
    utc,
)
from slim_eval.results.records import PerformanceMetrics, ServingLevel


class _Strategy(ForeignObject):
    type: Text = Field(alias="type_")
    rate: Number | None = None
    streams: Count | None = None
    max_concurrency: Any = None
    rampup_duration: Any = None


class _Request(ForeignObject):
    ttft_s: Seconds = Field(None, alias="time_to_first_token_ms")
    tpot_s: Seconds = Field(None, alias="inter_token_latency_ms")
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None


class _Times(ForeignObject):
    mean: Seconds = None
    std: Seconds = Field(None, alias="std_dev")
    median: Seconds = inner("percentiles.p50", None)
    p95: Seconds = inner("percentiles.p95", None)
    p99: Seconds = inner("percentiles.p99", None)


class _Benchmark(ForeignObject):
    strategy: _Strategy = inner("config.strategy")
    backend: OptionalText = inner("config.backend.kind", None)
    model: OptionalText = inner("config.backend.model", None)
    successful: Succeeded = inner("metrics.request_totals.successful")
    incomplete: Count | None = inner("metrics.request_totals.incomplete", None)
    errored: Count | None = inner("metrics.request_totals.errored", None)
    prompt_tokens: Number = inner("metrics.prompt_token_count.successful.mean")
    output_tokens: Number = inner("metrics.output_token_count.successful.mean")
    min_output_tokens: Number = inner("metrics.output_token_count.successful.min")
    max_output_tokens: Number = inner("metrics.output_token_count.successful.max")
    total_output_tokens: Number = inner("metrics.output_token_count.successful.total_sum")
    ttft: _Times | None = inner("metrics.time_to_first_token_ms.successful", None)
    tpot: _Times | None = inner("metrics.inter_token_latency_ms.successful", None)
    requests: list[_Request] | None = inner("requests.successful", None)
    duration: Number
    warmup_duration: Number | None = None
    cooldown_duration: Number | None = None
    end_time: Number | None = None


class _Report(ForeignObject):
    version: Count = inner("metadata.version")
    guidellm_version: OptionalText = inner("metadata.guidellm_version", None)
    backend: Any = inner("args.backend", None)  # version 1 only
    model: OptionalText = inner("args.model", None)  # version 1 only
    benchmarks: list[_Benchmark] = Field(min_length=1)

    @field_validator("version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version not in (1, 2):
            remedy = "update slim-eval (pip install --upgrade slim-eval)"
            raise ValueError(f"is {version}, but only 1 and 2 are supported: {remedy}")
        return version


class Guidellm(Importer):
    """guidellm's report."""

    name = "guidellm"

    def detects(self, file: ForeignFile) -> bool:
        """By its list of benchmarks."""
        return "benchmarks" in file.fields

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per benchmark."""
        for document in file.objects():
            if document.get("metadata") is None:
                raise file.error("metadata", "is missing: a report of guidellm 0.3 or older; measure with a newer one")
            report = file.validate(_Report, document)
            yield from (_record(report, benchmark) for benchmark in report.benchmarks)


def _record(report: _Report, run: _Benchmark) -> ImportedRecord:
    strategy, count = run.strategy, run.successful
    backend = run.backend or (report.backend if isinstance(report.backend, str) else None)
    rate = strategy.streams if strategy.type == "concurrent" else strategy.rate
    load = strategy.type if rate is None else f"{strategy.type}-{rate:g}"  # ``concurrent-8``, ``poisson-2.5``
    has_equal_lengths = run.min_output_tokens == run.max_output_tokens
    cuts_requests = run.warmup_duration or run.cooldown_duration or run.duration <= 0
    notes = ["measured by a client: times include the network and waiting in the server's queue"]
    if others := (run.incomplete or 0) + (run.errored or 0):
        notes.append(f"{others} of {others + count} requests failed or were cut off and are not in the numbers")
    samples: list[RequestSample] = []
    metrics: dict[str, Any] = {}
    if run.requests and len(run.requests) == count:
        for index, request in enumerate(run.requests):
            ttft, tpot, tokens = request.ttft_s, request.tpot_s, request.output_tokens
            e2e = None if ttft is None or tpot is None or tokens is None else ttft + tpot * (tokens - 1)
            samples.append(RequestSample(None, index, None, ttft, tpot, e2e, request.prompt_tokens, tokens))
        metrics = request_metrics(samples)
        notes += few_samples_notes(count, "requests")
    else:
        notes.append(
            "the report contains only a sample of the requests: no end-to-end latency, percentiles by nearest rank"
        )
        if not has_equal_lengths:
            notes.append("requests differ in length and the report weights them by it: no time per output token")
        for name, times in (("ttft_s", run.ttft), ("tpot_s", run.tpot if has_equal_lengths else None)):
            if times is not None:
                metrics |= summary_metrics(name, count, **vars(times))
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=None if cuts_requests else run.total_output_tokens / run.duration or None,
        # The limit of other strategies is not a setting.
        batch_size={"synchronous": 1, "concurrent": strategy.streams}.get(strategy.type),
        num_runs=count,
        prompt_tokens=run.prompt_tokens or None,
        output_tokens=run.output_tokens or None,
    )
    config = {
        **strategy.model_dump(exclude_none=True),
        "backend": backend,
        "load": f"guidellm, {load}",
        "max_new_tokens": int(run.output_tokens) if has_equal_lengths and run.output_tokens else None,
    }
    head = {"engine": "vllm" if backend == "vllm_python" else None, "timestamp": utc(run.end_time)}
    level = ServingLevel(
        load=f"guidellm, {load}",
        label=load,
        request_rate=None if strategy.type == "concurrent" else strategy.rate,
        arrivals={"concurrent": "closed loop", "synchronous": "closed loop", "throughput": "all at once"}.get(
            strategy.type, strategy.type
        ),
        max_concurrency=performance.batch_size,
        num_errors=run.errored,
        duration_s=run.duration,
        max_new_tokens=config["max_new_tokens"],
        measured_at=head["timestamp"],
    )
    rows, version, model = [vars(sample) for sample in samples], report.guidellm_version, run.model or report.model
    return ImportedRecord(
        "guidellm", performance, version, model, label=load, config=config, head=head, samples=rows, notes=notes,
        level=level,
    )  # fmt: skip


IMPORTERS.register(Guidellm())
