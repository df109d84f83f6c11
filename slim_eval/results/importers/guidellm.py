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
)  # fmt: skip
from slim_eval.results.records import PerformanceMetrics


class _Strategy(ForeignObject):
    type_: Text
    rate: Number | None = None
    streams: Count | None = None
    max_concurrency: Any = None
    rampup_duration: Any = None

    @property
    def load(self) -> str:
        """How requests arrive: ``concurrent-8``, ``poisson-2.5``."""
        value = self.streams if self.type_ == "concurrent" else self.rate
        return self.type_ if value is None else f"{self.type_}-{value:g}"


class _Request(ForeignObject):
    ttft_s: Seconds = Field(None, alias="time_to_first_token_ms")
    tpot_s: Seconds = Field(None, alias="inter_token_latency_ms")
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None


class _Times(ForeignObject):
    mean: Seconds = None
    std_dev: Seconds = None
    p50: Seconds = inner("percentiles.p50", None)
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

    @property
    def has_equal_lengths(self) -> bool:
        """Whether all requests have the same number of output tokens."""
        return self.min_output_tokens == self.max_output_tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens over the measured time; None if that cuts requests in two."""
        if self.warmup_duration or self.cooldown_duration or self.duration <= 0:
            return None
        return self.total_output_tokens / self.duration or None

    @property
    def samples(self) -> list[RequestSample]:
        """One per request that succeeded; none if the report contains only some of them."""
        requests = self.requests if self.requests and len(self.requests) == self.successful else []
        samples = []
        for index, request in enumerate(requests):
            ttft, tpot, tokens = request.ttft_s, request.tpot_s, request.output_tokens
            e2e = None if ttft is None or tpot is None or tokens is None else ttft + tpot * (tokens - 1)
            samples.append(RequestSample(None, index, None, ttft, tpot, e2e, request.prompt_tokens, tokens))
        return samples

    @property
    def summaries(self) -> dict[str, Any]:
        """Metrics over requests if the report contains only some of them."""
        found: dict[str, Any] = {}
        for name, times in (("ttft_s", self.ttft), ("tpot_s", self.tpot if self.has_equal_lengths else None)):
            if times is not None:
                tail = {50: times.p50, 95: times.p95, 99: times.p99}
                found |= summary_metrics(name, self.successful, times.mean, times.std_dev, tail)
        return found

    def notes(self, has_requests: bool) -> Iterator[str]:
        """What readers of the record must know."""
        yield "measured by a client: times include the network and waiting in the server's queue"
        if others := (self.incomplete or 0) + (self.errored or 0):
            total = others + self.successful
            yield f"{others} of {total} requests failed or were cut off and are not in the numbers"
        if has_requests:
            yield from few_samples_notes(self.successful, "requests")
            return
        yield "the report contains only a sample of the requests: no end-to-end latency, percentiles by nearest rank"
        if not self.has_equal_lengths:
            yield "requests differ in length and the report weights them by it: no time per output token"


class _Report(ForeignObject):
    version: Count = inner("metadata.version")
    guidellm_version: OptionalText = inner("metadata.guidellm_version", None)
    backend: Any = inner("args.backend", None)  # version 1 only, as is the next
    model: OptionalText = inner("args.model", None)
    benchmarks: list[_Benchmark] = Field(min_length=1)

    @field_validator("version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version not in (1, 2):
            raise ValueError(
                f"is {version}, but only 1 and 2 are supported: update slim-eval (pip install --upgrade slim-eval)"
            )
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
            yield from (self._record(report, benchmark) for benchmark in report.benchmarks)

    def _record(self, report: _Report, benchmark: _Benchmark) -> ImportedRecord:
        strategy, samples, tokens = benchmark.strategy, benchmark.samples, benchmark.output_tokens
        backend = benchmark.backend or (report.backend if isinstance(report.backend, str) else None)
        return ImportedRecord(
            self.name,
            PerformanceMetrics(
                **(request_metrics(samples) if samples else benchmark.summaries),
                tokens_per_second=benchmark.tokens_per_second,
                # The limit of other strategies is not a setting.
                batch_size={"synchronous": 1, "concurrent": strategy.streams}.get(strategy.type_),
                num_runs=benchmark.successful,
                prompt_tokens=benchmark.prompt_tokens or None,
                output_tokens=tokens or None,
            ),
            version=report.guidellm_version,
            model=benchmark.model or report.model,
            label=strategy.load,
            config={
                **{key.strip("_"): value for key, value in strategy.model_dump(exclude_none=True).items()},
                "backend": backend,
                "load": f"{self.name}, {strategy.load}",
                "max_new_tokens": int(tokens) if benchmark.has_equal_lengths and tokens else None,
            },
            head={"engine": "vllm" if backend == "vllm_python" else None, "timestamp": utc(benchmark.end_time)},
            samples=[vars(sample) for sample in samples],
            notes=list(benchmark.notes(bool(samples))),
        )


IMPORTERS.register(Guidellm())
