"""guidellm's report (``benchmarks.json`` or ``.yaml``), of its schema versions 1 and 2 and of guidellm 0.2 and 0.3.

As in ``benchmark/schemas`` and ``schemas/request_stats.py`` of guidellm 0.5.3 and 0.7.2, and ``benchmark/benchmark.py``
of 0.3. A report contains one benchmark per rate or concurrency; each becomes a record. The file does not contain the
scheme, the server's hardware or its version (``platform`` is the client's).

Only fields that mean the same as slim-eval's own are taken:

- ``time_to_first_token_ms`` is first token - submission, seen by an HTTP client: ``ttft_s``.
- ``inter_token_latency_ms`` of a request is (last token - first token) / (n - 1): ``tpot_s``. Its *summary* weights
  requests by n - 1, so it is taken only if all requests have the same n.
- ``time_per_output_token_ms`` divides the whole latency by n and is not taken, nor is ``request_latency``, which ends
  when the response closes. A request's ``e2e_latency_s`` is computed: TTFT + (n - 1) * TPOT.
- ``output_tokens_per_second`` is a mean of momentary rates that leaves out the time before the first token. Taken are
  the output tokens of the requests that end within the measured time, over that time. The totals of a report also count
  requests that end after it.
- Percentiles are those of the nearest rank, not interpolated. Summaries are taken only if the report contains a sample
  of the requests (``sample_requests``); else each number is computed from the requests. Those of the warm-up and
  cool-down, which some versions list too, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import AliasChoices, AliasPath, Field, field_validator

from slim_eval.results.importers.importer import (
    IMPORTERS,
    Asked,
    AskedCount,
    Count,
    ForeignFile,
    ForeignObject,
    Format,
    ImportedRecord,
    Importer,
    Measured,
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

#: Rounding of times that are sums of others.
_TOLERANCE_S = 1e-6


class _Strategy(ForeignObject):
    type: Text = Field(alias="type_")
    rate: Asked | None = None
    streams: AskedCount | None = None
    max_concurrency: Any = None
    rampup_duration: Any = None


class _GuidellmRequest(ForeignObject):
    ttft_s: Seconds = Field(None, alias="time_to_first_token_ms")
    tpot_s: Seconds = Field(None, alias="inter_token_latency_ms")
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None
    start: Measured | None = Field(None, validation_alias=AliasChoices("request_start_time", "start_time"))
    end: Measured | None = Field(None, validation_alias=AliasChoices("request_end_time", "end_time"))

    @property
    def sample(self) -> dict[str, Any]:
        """Its times and tokens; a request of one token has no time per output token, which some versions write as 0."""
        tpot = self.tpot_s if self.output_tokens is None or self.output_tokens > 1 else None
        return {
            "ttft_s": self.ttft_s, "tpot_s": tpot, "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
        }  # fmt: skip


class _Times(ForeignObject):
    mean: Seconds = None
    std: Seconds = Field(None, alias="std_dev")
    median: Seconds = inner("percentiles.p50", None)
    p95: Seconds = inner("percentiles.p95", None)
    p99: Seconds = inner("percentiles.p99", None)


class _GuidellmTokens(ForeignObject):
    mean: Measured | None = None
    min: Measured | None = None
    max: Measured | None = None
    total: Measured | None = Field(None, alias="total_sum")


def _either(*paths: str, default: Any = None) -> Any:
    """A field that versions keep in different places."""
    return Field(default, validation_alias=AliasChoices(*(AliasPath(*path.split(".")) for path in paths)))


class _Benchmark(ForeignObject):
    strategy: _Strategy = _either("config.strategy", "args.strategy", default=...)
    backend: OptionalText = _either("config.backend.kind", "worker.backend_type")
    model: OptionalText = _either("config.backend.model", "worker.backend_model")
    successful: Succeeded = _either(
        "metrics.request_totals.successful", "request_totals.successful", "run_stats.requests_made.successful",
        default=...,
    )  # fmt: skip
    incomplete: Count | None = _either(
        "metrics.request_totals.incomplete", "request_totals.incomplete", "run_stats.requests_made.incomplete"
    )
    errored: Count | None = _either(
        "metrics.request_totals.errored", "request_totals.errored", "run_stats.requests_made.errored"
    )
    prompts: _GuidellmTokens = inner("metrics.prompt_token_count.successful", _GuidellmTokens.model_construct())
    outputs: _GuidellmTokens = inner("metrics.output_token_count.successful", _GuidellmTokens.model_construct())
    ttft: _Times | None = inner("metrics.time_to_first_token_ms.successful", None)
    tpot: _Times | None = inner("metrics.inter_token_latency_ms.successful", None)
    requests: list[_GuidellmRequest] | None = inner("requests.successful", None)
    start_time: Measured | None = None
    end_time: Measured | None = None
    last_end: Measured | None = inner("scheduler_metrics.request_end_time", None)  # of any request
    stated_duration: Measured | None = Field(None, alias="duration")
    warmup_duration: Measured | None = None
    cooldown_duration: Measured | None = None

    @property
    def duration(self) -> float | None:
        """Of the measured time, in seconds; guidellm 0.3 writes its ends only."""
        if self.stated_duration is None and self.start_time is not None and self.end_time is not None:
            return self.end_time - self.start_time
        return self.stated_duration

    def measured(self) -> list[_GuidellmRequest]:
        """The requests that lie within the measured time; all that are listed if the report does not contain times."""
        start, end = self.start_time, self.end_time
        return [
            request
            for request in self.requests or ()
            if (start is None or request.start is None or request.start >= start - _TOLERANCE_S)
            and (end is None or request.end is None or request.end <= end + _TOLERANCE_S)
        ]


class _GuidellmReport(ForeignObject):
    version: Count | None = inner("metadata.version", None)  # None: guidellm 0.3 or older
    guidellm_version: OptionalText = inner("metadata.guidellm_version", None)
    backend: Any = inner("args.backend", None)  # version 1 only
    model: OptionalText = inner("args.model", None)  # version 1 only
    benchmarks: list[_Benchmark] = Field(min_length=1)

    @field_validator("version")
    @classmethod
    def _is_known(cls, version: int | None) -> int | None:
        if version not in (None, 1, 2):
            remedy = "update slim-eval (pip install --upgrade slim-eval)"
            raise ValueError(f"is {version}, but only 1 and 2 are supported: {remedy}")
        return version


class Guidellm(Importer):
    """guidellm's report."""

    name = "guidellm"
    patterns = ("*.json", "*.yaml", "*.yml")
    formats = (
        Format("0.4 and newer", "benchmarks.json, benchmarks.yaml", "times and throughput per rate or concurrency"),
        Format("0.2 and 0.3", "benchmarks.json, benchmarks.yaml", "the same, as far as the report contains it"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By its list of benchmarks, each of which says what kind it is."""
        benchmarks = file.fields.get("benchmarks")
        first = benchmarks[0] if isinstance(benchmarks, list) and benchmarks else benchmarks
        is_described = isinstance(first, dict) and bool({"type_", "config", "metrics"} & first.keys())
        return "benchmarks" in file.fields and ("metadata" in file.fields or is_described)

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per benchmark."""
        for document in file.objects():
            report = file.validate(_GuidellmReport, document)
            if report.version is None and document.get("metadata") is not None:
                raise file.error("metadata.version", "is missing")
            unmeasured = [*file.unmeasured]
            for index, benchmark in enumerate(report.benchmarks):
                file.unmeasured[:] = [note for note in unmeasured if note.startswith(f"benchmarks[{index}].")]
                yield _record(report, benchmark)


def _record(report: _GuidellmReport, run: _Benchmark) -> ImportedRecord:
    strategy, count, outputs = run.strategy, run.successful, run.outputs
    backend = run.backend or (report.backend if isinstance(report.backend, str) else None)
    rate = strategy.streams if strategy.type == "concurrent" else strategy.rate
    load = strategy.type if rate is None else f"{strategy.type}-{rate:g}"  # ``concurrent-8``, ``poisson-2.5``
    has_equal_lengths = count == 1 or (outputs.min is not None and outputs.min == outputs.max)
    notes = ["measured by a client: times include the network and waiting in the server's queue"]
    if others := (run.incomplete or 0) + (run.errored or 0):
        notes.append(f"{others} of {others + count} requests failed or were cut off and are not in the numbers")
    listed, measured = run.requests or [], run.measured()
    requests = listed if len(listed) == count else measured
    samples: list[RequestSample] = []
    metrics: dict[str, Any] = {}
    if requests and len(listed) >= count:
        for index, request in enumerate(requests):
            sample = RequestSample(request=index, **request.sample)
            if sample.ttft_s is not None and sample.output_tokens:
                tpot = sample.tpot_s if sample.output_tokens > 1 else 0.0
                end = None if tpot is None else sample.ttft_s + tpot * (sample.output_tokens - 1)
                sample = replace(sample, e2e_s=end)
            samples.append(sample)
        metrics = request_metrics(samples)
        notes += few_samples_notes(len(samples), "requests")
        if len(listed) != len(samples):
            notes.append(f"{len(listed) - len(samples)} of {len(listed)} requests are outside of the measured time")
    else:
        notes.append(
            f"the report contains only a sample of the requests, {len(listed)} of {count}: no end-to-end latency, "
            "percentiles by nearest rank"
        )
        if not has_equal_lengths:
            notes.append("requests differ in length and the report weights them by it: no time per output token")
        for name, times in (("ttft_s", run.ttft), ("tpot_s", run.tpot if has_equal_lengths else None)):
            if times is not None:
                metrics |= summary_metrics(name, count, **vars(times))
    rate_of_tokens, reason = _throughput(report, run)
    notes += [reason] if reason else []
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=rate_of_tokens,
        # The limit of other strategies is not a setting.
        batch_size={"synchronous": 1, "concurrent": strategy.streams}.get(strategy.type),
        num_runs=len(samples) or count,
        prompt_tokens=run.prompts.mean or None,
        output_tokens=outputs.mean or None,
    )
    config = {
        **strategy.model_dump(exclude_none=True),
        "backend": backend,
        "load": f"guidellm, {load}",
        "max_new_tokens": int(outputs.mean) if has_equal_lengths and outputs.mean else None,
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
        num_errors=others,
        duration_s=run.duration,
        max_new_tokens=config["max_new_tokens"],
        measured_at=head["timestamp"],
    )
    rows, version, model = [vars(sample) for sample in samples], report.guidellm_version, run.model or report.model
    return ImportedRecord(
        "guidellm", performance, version, model, label=load, config=config, head=head, samples=rows, notes=notes,
        level=level,
    )  # fmt: skip


def _throughput(report: _GuidellmReport, run: _Benchmark) -> tuple[float | None, str]:
    """Output tokens of the requests that end within the measured time, over that time; None and why if unknown."""
    end, listed = run.end_time, run.requests or []
    if run.duration is None or run.duration <= 0:
        return None, ""
    if len(listed) >= run.successful and end is not None:
        within = [r for r in listed if r.end is not None and (run.start_time or 0) < r.end <= end + _TOLERANCE_S]
        if all(request.end is not None and request.output_tokens is not None for request in listed):
            late = sum(request.end is not None and request.end > end + _TOLERANCE_S for request in listed)
            note = (
                f"{late} of {len(listed)} requests ended after the measured time: not in the throughput" if late else ""
            )
            return sum(request.output_tokens or 0 for request in within) / run.duration or None, note
    # The totals count every request. They all end in time if the last one does, and always did in guidellm 0.3.
    ends_in_time = report.version is None or (
        end is not None and run.last_end is not None and run.last_end <= end + _TOLERANCE_S
    )
    if run.outputs.total is None:
        return None, "no throughput: the report does not contain the output tokens"
    if run.warmup_duration or run.cooldown_duration or not ends_in_time:
        return None, "no throughput: the report does not show which requests ended within the measured time"
    return run.outputs.total / run.duration or None, ""


IMPORTERS.register(Guidellm())
