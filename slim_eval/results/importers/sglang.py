"""Results of ``python -m sglang.bench_serving``, as in that file of sglang 0.4 and 0.5: one JSON object per line.

It has the names of vLLM's benchmark for many numbers, and its own for some. The server's own arguments are in
``server_info`` since sglang 0.4.7, with its version, the model, the dtype and the quantization; older files do not name
the model. With ``--backend vllm`` and others it measures another server.

Only fields that mean the same as slim-eval's own are taken: ``ttft``, ``tpot`` and ``e2e_latency`` in milliseconds, as
an HTTP client sees them; ``output_throughput`` in output tokens over the whole run; ``itl`` as a mean over all gaps.
With ``--output-details`` times are computed from the requests; their end is the last token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from slim_eval.recognise import OPTIONS, of_options
from slim_eval.results.importers import vllm_bench  # noqa: F401 - registered before this one, which is asked first
from slim_eval.results.importers.importer import (
    IMPORTERS,
    OVER_HTTP,
    AskedCount,
    AskedOrNone,
    Count,
    ForeignFile,
    ForeignObject,
    Format,
    ImportedRecord,
    Importer,
    Measured,
    OptionalText,
    Positive,
    RequestSample,
    Succeeded,
    client_metrics,
    few_samples_notes,
    own_summary,
    summary_metrics,
)
from slim_eval.results.records import PerformanceMetrics, ServingLevel
from slim_eval.schemes import DEFAULT_BASELINE

#: Only in sglang's files.
_OWN_KEYS = {"total_output_tokens_retokenized", "median_e2e_latency_ms", "mean_e2e_latency_ms", "accept_length"}
#: ``--backend`` -> engine.
_ENGINES = {
    "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang", "sglang-oai-chat": "sglang", "vllm": "vllm",
    "vllm-chat": "vllm",
}  # fmt: skip
_SIXTEEN_BIT = {"float16", "bfloat16", "half"}
_SETTINGS = ("tag", "backend", "random_input_len", "random_output_len", "random_range_ratio", "sharegpt_output_len")


class _Server(ForeignObject):
    """Arguments of the server; there may be a key among them: only these fields are read."""

    model_path: OptionalText = None
    served_model_name: OptionalText = None
    dtype: OptionalText = None
    version: OptionalText = None
    speculative_algorithm: OptionalText = None


class _Run(ForeignObject):
    completed: Succeeded
    backend: OptionalText = None
    dataset_name: OptionalText = None
    request_rate: AskedOrNone = None
    max_concurrency: AskedCount | None = None
    random_output_len: Count | None = None
    random_range_ratio: Measured | None = None
    server: _Server = Field(default=_Server(), alias="server_info")
    duration: Positive | None = None
    total_input_tokens: Count | None = None
    total_output_tokens: Count | None = None
    output_throughput: Measured | None = None
    total_throughput: Measured | None = None
    request_throughput: Measured | None = None
    concurrency: Measured | None = None
    accept_length: Measured | None = None


class _SglangRequests(ForeignObject):
    """What ``--output-details`` adds: one entry per request; one that failed has an error and no output."""

    input_lens: list[Count]
    output_lens: list[Count]
    ttfts: list[Measured | None]
    itls: list[list[Measured | None]]
    errors: list[Any]


class Sglang(Importer):
    """sglang's serving benchmark."""

    name = "sglang"
    patterns = ("*.json", "*.jsonl")
    formats = (Format("0.2 and newer", "*.jsonl of bench_serving", "times and throughput; one run per line"),)

    def detects(self, file: ForeignFile) -> bool:
        """By the numbers that only this benchmark has."""
        return bool(_OWN_KEYS & file.fields.keys()) and "completed" in file.fields

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per line."""
        for document in file.objects():
            yield _record(file, document)


def _record(file: ForeignFile, document: Mapping[str, Any]) -> ImportedRecord:
    if document.get("server_info") is None:
        document = {key: value for key, value in document.items() if key != "server_info"}
    run = file.validate(_Run, document)
    stated = document.get("server_info") or {}
    options = {key: stated[key] for key in OPTIONS if stated.get(key) not in (None, "")}
    server, count, samples = run.server, run.completed, _samples(file, document, run.completed)
    notes = [OVER_HTTP]
    metrics = client_metrics(file, document, samples, count, "e2e_latency")
    notes += few_samples_notes(count, "requests") if samples else []
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=run.output_throughput or None,
        batch_size=run.max_concurrency,
        num_runs=count,
        prompt_tokens=None if run.total_input_tokens is None else run.total_input_tokens / count,
        output_tokens=None if run.total_output_tokens is None else run.total_output_tokens / count,
    )
    asked, is_trace = run.request_rate or None, document.get("request_rate") == "trace"
    load = f"rate-{asked:g}" if asked is not None else "rate-trace" if is_trace else "rate-inf"
    load += f"-concurrency-{run.max_concurrency}" if run.max_concurrency else ""
    # A range ratio of 1 means that all requests have the length that was asked for.
    has_equal_lengths = run.dataset_name in ("random", "random-ids") and run.random_range_ratio == 1
    speculative = server.speculative_algorithm or ("used" if run.accept_length else None)
    config = {
        **{key: document[key] for key in _SETTINGS if document.get(key) is not None},
        "load": f"sglang bench_serving, {load}",
        "max_new_tokens": run.random_output_len if has_equal_lengths else file.config.max_new_tokens,
        **({"dataset": run.dataset_name} if run.dataset_name else {}),
        **({"speculative": speculative} if speculative else {}),
        **({"quantization": str(options["quantization"])} if "quantization" in options else {}),
    }
    gaps = (run.total_output_tokens or 0) - count
    level = ServingLevel(
        **summary_metrics("itl_s", max(gaps, count), **own_summary(file, document, "itl")),
        load=config["load"],
        label=load,
        request_rate=asked,
        arrivals="trace" if is_trace else "poisson" if asked else "closed loop" if run.max_concurrency
        else "all at once",
        max_concurrency=run.max_concurrency,
        max_new_tokens=config["max_new_tokens"],
        dataset=run.dataset_name,
        speculative=speculative,
        metadata={"tag": str(document["tag"])} if document.get("tag") else {},
        achieved_concurrency=run.concurrency,
        requests_per_second=run.request_throughput,
        duration_s=run.duration,
        total_tokens_per_second=run.total_throughput,
    )  # fmt: skip
    engine = _ENGINES.get(run.backend or "")
    is_own = engine == "sglang"
    head = {
        "engine": engine,
        "engine_version": server.version if is_own else None,
        "dtype": None if server.dtype in (None, "auto") else server.dtype,
    }
    model = server.model_path or server.served_model_name
    marked = of_options(options, [model])
    scheme = marked.name(DEFAULT_BASELINE if server.dtype in _SIXTEEN_BIT else None)
    return ImportedRecord(
        "sglang bench_serving", performance, server.version, model, scheme, marked, label=load, config=config,
        head=head, samples=[vars(sample) for sample in samples],
        notes=notes, level=level,
    )  # fmt: skip


def _samples(file: ForeignFile, document: Mapping[str, Any], completed: int) -> list[RequestSample]:
    """The requests that succeeded; none without ``--output-details``, or if a time of one is unknown."""
    if document.get("ttfts") is None:
        return []
    run = file.validate(_SglangRequests, document)
    columns: dict[str, Sequence[Any]]
    columns = {"input_lens": run.input_lens, "output_lens": run.output_lens, "itls": run.itls, "errors": run.errors}
    for key, values in columns.items():
        if len(values) != len(run.ttfts):
            raise file.error(key, f"has {len(values)} values, 'ttfts' {len(run.ttfts)}")
    good = [index for index, error in enumerate(run.errors) if not error]
    if len(good) != completed:
        raise file.error("errors", f"contains {len(good)} requests without an error, but 'completed' is {completed}")
    samples, unknown = [], 0
    for index in good:
        times = [run.ttfts[index], *run.itls[index]]
        known = [seconds for seconds in times if seconds is not None]
        if len(known) < len(times):
            unknown += 1
            continue
        ttft, tokens, end = known[0] or None, run.output_lens[index], sum(known)
        tpot = (end - ttft) / (tokens - 1) if ttft is not None and tokens > 1 else None
        samples.append(RequestSample(None, index, None, ttft, tpot, end or None, run.input_lens[index], tokens))
    return file.complete(samples, unknown)


IMPORTERS.register(Sglang())
