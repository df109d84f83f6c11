"""Summaries of AIPerf (``profile_export_aiperf.json``) and its predecessor genai-perf (``…_genai_perf.json``).

As in AIPerf's documentation of its export files and ``export_data`` of genai-perf. Both describe a metric with its
unit, ``avg``, percentiles and ``std``. AIPerf writes one line per request beside it, ``profile_export.jsonl``;
numbers are computed from them if they are all there. The files contain neither the scheme nor the server's version or
hardware.

Only fields that mean the same as slim-eval's own are taken:

- ``time_to_first_token``, ``inter_token_latency`` ((latency - TTFT) / (n - 1): ``tpot_s``) and ``request_latency``,
  seen by a client. Without streaming genai-perf writes the whole latency as time to the first token: then it is not
  taken.
- ``output_token_throughput``: output tokens over the whole run.
- ``output_sequence_length`` and ``input_sequence_length``, per request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import AliasChoices, AliasPath, Field

from slim_eval.results.importers import vllm_bench  # noqa: F401 - registered before this one, which is asked first
from slim_eval.results.importers.importer import (
    IMPORTERS,
    AskedOrNone,
    Count,
    ForeignFile,
    ForeignObject,
    Format,
    ImportedRecord,
    Importer,
    Measured,
    NumberOrNone,
    OptionalText,
    RequestSample,
    few_samples_notes,
    request_metrics,
    summary_metrics,
)
from slim_eval.results.records import PerformanceMetrics, ServingLevel

_SUMMARY, _RECORDS = "_aiperf.json", ".jsonl"
#: Their name -> slim-eval's, and a request's column.
_TIMES = {
    "time_to_first_token": ("ttft_s", "ttft_s"), "inter_token_latency": ("tpot_s", "tpot_s"),
    "request_latency": ("e2e_latency_s", "e2e_s"),
}  # fmt: skip
_IN_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _config(*paths: str, default: Any = None) -> Any:
    """A field of the run's configuration, which versions keep in different places."""
    steps = ([int(step) if step.isdecimal() else step for step in path.split(".")] for path in paths)
    return Field(default, validation_alias=AliasChoices(*(AliasPath("input_config", *each) for each in steps)))


class _Metric(ForeignObject):
    unit: OptionalText = None
    avg: Measured | None = None
    std: Measured | None = None
    p50: Measured | None = None
    p95: Measured | None = None
    p99: Measured | None = None
    min: Measured | None = None
    max: Measured | None = None


class _Summary(ForeignObject):
    request_throughput: _Metric = _Metric()
    request_count: _Metric = _Metric()
    error_request_count: _Metric | None = None
    request_latency: _Metric = _Metric()
    time_to_first_token: _Metric = _Metric()
    inter_token_latency: _Metric = _Metric()
    output_token_throughput: _Metric = _Metric()
    total_token_throughput: _Metric | None = None
    output_sequence_length: _Metric = _Metric()
    input_sequence_length: _Metric = _Metric()
    benchmark_duration: _Metric = _Metric()
    aiperf_version: OptionalText = None
    was_cancelled: Any = None
    end_time: OptionalText = None
    endpoint: dict[str, Any] | None = None
    model: Any = _config("endpoint.model_names.0", "model_names.0", "model.0", "models.0")
    concurrency: AskedOrNone = _config("loadgen.concurrency", "perf_analyzer.stimulus.concurrency", "concurrency")
    request_rate: AskedOrNone = _config("loadgen.request_rate", "perf_analyzer.stimulus.request_rate", "request_rate")
    arrivals: Any = _config("loadgen.arrival_pattern", "loadgen.request_rate_mode")
    streaming: Any = _config("endpoint.streaming", "streaming")
    warmup: NumberOrNone = _config("loadgen.warmup_request_count", "warmup_request_count")


class _Value(ForeignObject):
    value: Measured | None
    unit: OptionalText = None


class _AiperfRequest(ForeignObject):
    metrics: dict[str, Any] | None = None
    error: Any = None
    phase: Any = Field(default=None, validation_alias=AliasPath("metadata", "benchmark_phase"))


class AiPerf(Importer):
    """AIPerf and genai-perf."""

    name = "aiperf"
    companions = (
        "profile_export*.jsonl", "profile_export.json", "inputs.json", "server_metrics_export*",
        "gpu_telemetry_export*", "profile_export_aiperf_timeslices.*",
    )  # fmt: skip
    formats = (
        Format("AIPerf", "profile_export_aiperf.json, profile_export.jsonl", "times and throughput; times per request"),
        Format("genai-perf", "profile_export_genai_perf.json", "times and throughput"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By metrics that are objects with a unit or a mean, beside the run's configuration."""
        latency = file.fields.get("request_latency", file.fields.get("output_token_throughput"))
        is_metric = isinstance(latency, dict) and bool({"unit", "avg"} & latency.keys())
        return is_metric and ("input_config" in file.fields or "request_throughput" in file.fields)

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per summary."""
        for document in file.objects():
            known = {key: value for key, value in document.items() if value is not None}
            config = known.get("input_config")
            endpoint = config.get("endpoint") if isinstance(config, dict) else None
            yield _record(file, {**known, "endpoint": endpoint if isinstance(endpoint, dict) else None})


def _record(file: ForeignFile, document: Mapping[str, Any]) -> ImportedRecord:
    run = file.validate(_Summary, document)
    # AIPerf groups its settings, genai-perf names them as options or those of perf_analyzer.
    tool = "aiperf" if run.aiperf_version or run.endpoint is not None else "genai-perf"
    samples = _samples(file)
    stated = run.request_count.avg
    count = int(stated) if stated else len(samples) or None
    notes = ["measured by a client: times include the network and waiting in the server's queue"]
    if samples and count is not None and len(samples) != count:
        notes.append(f"{len(samples)} requests are beside it, {count} in the summary: numbers are of the summary")
        samples = []
    metrics: dict[str, Any] = {}
    if samples:
        count = len(samples)
        metrics = request_metrics(samples)
        notes += few_samples_notes(count, "requests")
    else:
        if count is None:
            notes.append("the number of requests is not in the file: no percentiles of the tail")
        for theirs, (name, _) in _TIMES.items():
            if theirs != "request_latency" and run.streaming is False:
                continue
            times = _seconds(file, theirs, getattr(run, theirs))
            metrics |= summary_metrics(name, count or 1, **times)
            if tool == "aiperf" and name in metrics:
                metrics[f"std_{name}"] = times["std"]  # AIPerf's is over n - 1, like slim-eval's
    if run.streaming is False:
        notes.append("measured without streaming: no time to the first token")
    if errors := int((run.error_request_count or _Metric()).avg or 0):
        notes.append(f"{errors} requests failed and are not in the numbers")
    if run.was_cancelled is True:
        notes.append("the run was stopped before its end")
    concurrency = int(run.concurrency) if run.concurrency is not None and run.concurrency >= 1 else None
    rate = run.request_rate if run.request_rate is not None and run.request_rate > 0 else None
    load = f"rate-{rate:g}" if rate else ""
    load += ("-" if load and concurrency else "") + (f"concurrency-{concurrency}" if concurrency else "")
    lengths = run.output_sequence_length
    has_equal_lengths = lengths.min is not None and lengths.min == lengths.max
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=run.output_token_throughput.avg or None,
        batch_size=concurrency,
        num_runs=count,
        num_warmup=None if run.warmup is None else int(run.warmup),
        prompt_tokens=run.input_sequence_length.avg or None,
        output_tokens=lengths.avg or None,
    )
    full_load = f"{tool}, {load}" if load else tool
    tokens = int(lengths.max) if has_equal_lengths and lengths.max else None
    config = {
        "load": full_load,
        "max_new_tokens": tokens,
        "streaming": run.streaming if isinstance(run.streaming, bool) else None,
    }
    arrivals = str(run.arrivals) if isinstance(run.arrivals, str) and rate else None
    duration = run.benchmark_duration
    level = ServingLevel(
        load=full_load,
        label=load or tool,
        request_rate=rate,
        arrivals=arrivals or ("closed loop" if concurrency and not rate else None),
        max_concurrency=concurrency,
        max_new_tokens=tokens,
        num_errors=errors,
        requests_per_second=run.request_throughput.avg,
        duration_s=None if duration.avg is None else duration.avg * _IN_SECONDS.get(duration.unit or "sec", 1.0),
        total_tokens_per_second=(run.total_token_throughput or _Metric()).avg,
        measured_at=run.end_time,
    )
    return ImportedRecord(
        tool, performance, run.aiperf_version, run.model if isinstance(run.model, str) else None, label=load,
        config={key: value for key, value in config.items() if value is not None},
        samples=[vars(sample) for sample in samples], notes=notes, level=level,
    )  # fmt: skip


def _seconds(file: ForeignFile, name: str, metric: _Metric) -> dict[str, float | None]:
    """A summary of a time, in seconds."""
    scale = _scale(file, name, metric.unit)
    parts = {"mean": metric.avg, "std": metric.std, "median": metric.p50, "p95": metric.p95, "p99": metric.p99}
    return {part: None if value is None else value * scale for part, value in parts.items()}


def _scale(file: ForeignFile, name: str, unit: str | None) -> float:
    if (scale := _IN_SECONDS.get(unit or "ms")) is None:
        raise file.error(f"{name}.unit", f"is {unit!r}, not a unit of time ({', '.join(_IN_SECONDS)})")
    return scale


def _samples(file: ForeignFile) -> list[RequestSample]:
    """The requests that succeeded, from the file beside a summary; none if a time of one is unknown."""
    name = file.path.name
    beside = file.beside(name.removesuffix(_SUMMARY) + _RECORDS)
    if not name.endswith(_SUMMARY) or not beside.path.is_file():
        return []
    samples: list[RequestSample] = []
    unknown = 0
    for place, request in beside.rows(_AiperfRequest):
        if request.error is not None or not request.metrics or request.phase not in (None, "profiling"):
            continue
        columns: dict[str, Any] = {}
        for theirs, (_, column) in _TIMES.items():
            if (content := request.metrics.get(theirs)) is not None:
                value = beside.validate(_Value, content, f"{place}.metrics.{theirs}")
                scale = _scale(beside, f"{place}.metrics.{theirs}", value.unit)
                columns[column] = None if value.value is None else value.value * scale
        if any(columns[column] is None for column in columns):
            unknown += 1
            continue
        for theirs, column in (("input_sequence_length", "prompt_tokens"), ("output_sequence_length", "output_tokens")):
            if (content := request.metrics.get(theirs)) is not None:
                columns[column] = beside.validate(_AiperfTokens, content, f"{place}.metrics.{theirs}").value
        samples.append(RequestSample(request=len(samples), **columns))
    return file.complete(samples, unknown)


class _AiperfTokens(ForeignObject):
    value: Count


IMPORTERS.register(AiPerf())
