"""Results of ``vllm bench latency``, ``throughput`` and ``serve``, as in ``vllm/benchmarks`` of vLLM 0.32.

These files do not contain vLLM's version, the scheme or the hardware; those of ``latency`` and ``throughput`` not even
batch size and lengths. They are in the file ``{name}.pytorch.json`` that ``SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1`` writes
beside the result, which is read together with it.

Only fields that mean the same as slim-eval's own are taken:

- ``latency``: each of ``latencies`` is the wall time of a batch; divided by the batch size it is slim-eval's amortised
  latency. It is not an end-to-end latency, which is a mean over requests.
- ``throughput``: ``tokens_per_second`` counts prompt tokens too and is not taken. All requests are submitted at once,
  so the run is one iteration whose batch is all of them.
- ``serve``: ``ttft``, ``tpot`` and ``e2el`` mean the same as here, in milliseconds and seen by an HTTP client.
  ``output_throughput`` is output tokens over the whole run, like ``tokens_per_second``. ``itl`` is a mean over all
  gaps, as in ``serving.json``. ``date`` has no time zone and is kept as it is. What ``--metadata KEY=VALUE`` or the
  parameters of ``vllm bench sweep`` add distinguishes runs. A run that calls itself a warm-up is not a measurement.

``vllm bench sweep serve`` writes a list of the results of ``serve`` (``summary.json``), with ``run_number``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import AliasChoices, Field, ValidationInfo, field_validator

from slim_eval.errors import UsageError
from slim_eval.recognise import OPTIONS, of_options
from slim_eval.results.importers.importer import (
    IMPORTERS,
    MAX_NUMBER,
    OVER_HTTP,
    UNMEASURED,
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
    Positive,
    RequestSample,
    Succeeded,
    client_metrics,
    few_samples_notes,
    inner,
    own_summary,
    plain_number,
    summary_metrics,
)
from slim_eval.results.records import PerformanceMetrics, ServingLevel
from slim_eval.stats import summarize

_SIDECAR = ".pytorch.json"
_SAVE_SIDECAR = f"measure with SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1 and keep the {_SIDECAR} file beside it"
_UNKNOWN_TOKENS = f"output tokens are unknown: give --max-new-tokens, or {_SAVE_SIDECAR}"
_OFFLINE_KEYS = {"avg_latency", "requests_per_second"}
_OFFLINE_SETTINGS = {
    "dataset_name", "enforce_eager", "max_model_len", "tensor_parallel_size", "enable_prefix_caching",
}  # fmt: skip
_SERVE_SETTINGS = (
    "date", "backend", "label", "num_prompts", "request_rate", "burstiness", "max_concurrency", "ramp_up_strategy",
    "ramp_up_start_rps", "ramp_up_end_rps",
)  # fmt: skip
_SERVE_KEYS = {
    *_SERVE_SETTINGS, "endpoint_type", "model_id", "tokenizer_id", "duration", "completed", "failed", "type",
    "total_input_tokens", "total_output_tokens", "total_input_sequences", "max_concurrent_requests", "rtfx",
    "dataset_name",
}  # fmt: skip
#: Of a number that was measured, not set.
_MEASURED = re.compile(
    r"_ms$|throughput|goodput|tput|_per_s(ec(ond)?)?$|^(mean|median|std|p\d+)_|^spec_decode_|^diffusion_"
)
#: What counts the repetitions of one setting.
_REPETITIONS = ("run_number", "iteration", "repetition", "repeat", "run", "trial")
_SPECULATIVE = re.compile(r"specul|spec_decode|spec_dec|num_spec_tokens", re.IGNORECASE)


class _Arguments(ForeignObject):
    """The command's arguments. There may be a token among them: only these fields are read."""

    batch_size: Count | None = None
    input_len: Count | None = None
    output_len: Count | None = None
    random_output_len: Count | None = None
    random_range_ratio: Any = None
    num_iters_warmup: Count | None = None
    num_warmups: Count | None = None
    backend: OptionalText = None
    dataset_name: OptionalText = None
    enforce_eager: Any = None
    max_model_len: Any = None
    tensor_parallel_size: Any = None
    enable_prefix_caching: Any = None
    quantization: Any = None
    quantization_config: Any = None
    hf_overrides: Any = None
    load_format: Any = None
    kv_cache_dtype: Any = None
    revision: Any = None
    n: Count | None = None
    use_beam_search: Any = None

    @field_validator("n", "use_beam_search")
    @classmethod
    def _is_one_output(cls, value: Any, info: ValidationInfo) -> Any:
        if value and (info.field_name != "n" or value > 1):
            raise ValueError("requests several outputs per prompt, which slim-eval does not measure")
        return value


class _Sidecar(ForeignObject):
    arguments: _Arguments = inner("benchmark.extra_info.args")
    values: list[Measured] = inner("metric.benchmark_values")


class _VllmLatency(ForeignObject):
    model_id: OptionalText = None
    latencies: list[Positive] = Field(min_length=1)
    avg_latency: Measured

    @field_validator("avg_latency")
    @classmethod
    def _is_mean(cls, value: float, info: ValidationInfo) -> float:
        walls = info.data.get("latencies")
        if walls and not math.isclose(sum(walls) / len(walls), value, rel_tol=1e-6):  # the files contain all digits
            raise ValueError("is not the mean of 'latencies'")
        return value


class _Throughput(ForeignObject):
    model_id: OptionalText = None
    elapsed_time: Positive
    num_requests: Succeeded
    total_num_tokens: Count
    requests_per_second: Measured


class _Serve(ForeignObject):
    total_input_sequences: None = None  # of a pooling model, which generates nothing
    # Some keep a copy of their results without the totals: then these are not known, which null would not say.
    completed: Succeeded | None = None
    duration: Positive | None = None
    total_input_tokens: Count | None = None
    total_output_tokens: Count | None = None
    output_throughput: Measured | None = None
    total_token_throughput: Measured | None = None
    request_throughput: Measured | None = None
    # An older benchmark_serving.py writes the colon.
    request_goodput: Measured | None = Field(None, validation_alias=AliasChoices("request_goodput", "request_goodput:"))
    model_id: OptionalText = None
    num_prompts: AskedCount | None = None
    failed: Count | None = None
    max_concurrency: AskedCount | None = None
    burstiness: Asked | None = None
    date: Any = None

    @field_validator(
        "completed", "duration", "total_input_tokens", "total_output_tokens", "output_throughput", mode="before"
    )
    @classmethod
    def _is_number(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.context != UNMEASURED:
            raise ValueError("is null, not a number")
        return value


class _VllmRequests(ForeignObject):
    """What ``serve --save-detailed`` adds: one entry per request. Older versions write no latencies."""

    ttfts: list[Measured | None]
    input_lens: list[Count]
    output_lens: list[Count]
    latencies: list[Measured | None] | None = None
    itls: list[list[Measured | None]] = Field(default_factory=list)
    errors: list[Any]


def _arguments(file: ForeignFile, values: list[float]) -> _Arguments:
    """The command's arguments, from the file beside a result; empty without one."""
    beside = file.beside(file.path.name.removesuffix(".json") + _SIDECAR)
    if not beside.path.is_file():
        return _Arguments()
    records = beside.validate(list[_Sidecar], beside.documents[0])
    if not records:
        raise beside.error("[0]", "is missing")
    if records[0].values != values:
        raise beside.error("[0].metric.benchmark_values", f"is from a different run than {file.path.name}")
    return records[0].arguments


def _offline(file: ForeignFile, document: Mapping[str, Any]) -> ImportedRecord:
    """``latency`` and ``throughput``: iterations, each of a batch."""
    engine: str | None = "vllm"
    if "avg_latency" in document:
        latency = file.validate(_VllmLatency, document)
        command, model, walls = "latency", latency.model_id, latency.latencies
        arguments = _arguments(file, walls)
        batch = arguments.batch_size or file.config.batch_size or 0
        if not batch:
            raise file.lacks(model=model, precision=of_options({}, [model]).name(None), batch_size=None)
        tokens = arguments.output_len or file.config.max_new_tokens
        warmup = None if arguments.num_iters_warmup is None else arguments.num_iters_warmup * batch
        prompt: float | None = arguments.input_len
        label = f"batch-{batch}" + (f"-output-{tokens}" if tokens else "")
        parts, notes = ["mean", "median", "p95", "p99", "std"], few_samples_notes(len(walls), "iterations")
    else:
        run = file.validate(_Throughput, document)
        command, model, walls, batch = "throughput", run.model_id, [run.elapsed_time], run.num_requests
        arguments, total = _arguments(file, [run.requests_per_second]), run.total_num_tokens
        engine = {"vllm": "vllm", "vllm-chat": "vllm", "hf": "transformers"}.get(arguments.backend or "")
        tokens, warmup = file.config.max_new_tokens, arguments.num_warmups
        if arguments.dataset_name == "random" and str(arguments.random_range_ratio or 0) in ("0", "0.0"):
            # All outputs are equal. Newer versions have an option for this data set alone, which takes precedence.
            tokens = arguments.random_output_len or arguments.output_len or tokens
        if tokens is not None and tokens * batch >= total:
            cause = f"{batch} requests of {tokens} output tokens do not fit into its {total} tokens in all"
            raise UsageError(f"{file.path}: {cause}", "correct --max-new-tokens")
        prompt = None if tokens is None else total / batch - tokens
        label, parts, notes = f"throughput-{batch}", ["mean"], [f"all {batch} requests start at once: one iteration"]
    amortised = summarize(wall / batch for wall in walls)
    metrics = PerformanceMetrics(
        **{f"{part}_latency_s": getattr(amortised, part) for part in parts},
        tokens_per_second=None if tokens is None else batch * tokens * len(walls) / sum(walls),
        batch_size=batch,
        num_warmup=warmup,
        num_runs=len(walls) * batch,
        num_iterations=len(walls),
        input_len=arguments.input_len if command == "latency" else None,
        prompt_tokens=prompt,
        output_tokens=tokens,
    )
    config = {**arguments.model_dump(include=_OFFLINE_SETTINGS, exclude_none=True), "max_new_tokens": tokens}
    rows = [vars(RequestSample(iteration=index, wall_s=wall)) for index, wall in enumerate(walls)]
    notes += [] if tokens else [_UNKNOWN_TOKENS]
    tool, head = f"vllm bench {command}", {"engine": engine}
    marked = of_options(arguments.model_dump(include={*OPTIONS}), [model])
    return ImportedRecord(
        tool,
        metrics,
        None,
        model,
        marked.name(None),
        marked,
        label,
        config=config,
        head=head,
        samples=rows,
        notes=notes,
    )


def _serve(file: ForeignFile, document: Mapping[str, Any]) -> ImportedRecord:
    run = file.validate(_Serve, document)
    samples = _samples(file, document, run.completed)
    count = len(samples) or run.completed
    lengths = {sample.output_tokens for sample in samples}
    failed = run.failed or max((run.num_prompts or 0) - (count or run.num_prompts or 0), 0)
    notes = [OVER_HTTP]
    if count is None:
        notes.append("the file does not contain how many requests succeeded: all are assumed to have")
    elif failed:
        notes.append(f"{failed} of {failed + count} requests failed and are not in the numbers")
    resolved = count or run.num_prompts or 1  # requests that the percentiles are of
    metrics = client_metrics(file, document, samples, resolved, "e2el")
    notes += few_samples_notes(resolved, "requests") if samples else []
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=run.output_throughput,
        batch_size=run.max_concurrency,
        num_runs=count,
        prompt_tokens=None if not count or run.total_input_tokens is None else run.total_input_tokens / count,
        output_tokens=None if not count or run.total_output_tokens is None else run.total_output_tokens / count,
    )
    tokens = lengths.pop() if len(lengths) == 1 else file.config.max_new_tokens
    level = _level(file, document, run, resolved).model_copy(update={"max_new_tokens": tokens, "num_errors": failed})
    config = {
        **{key: document[key] for key in _SERVE_SETTINGS if document.get(key) is not None},
        **{key: value for key in ("dataset", "speculative", "metadata") if (value := getattr(level, key))},
        "load": level.load,
        "max_new_tokens": tokens,
    }
    # The server's options are not in the file, unless --metadata or a sweep names them.
    marked = of_options({key: document[key] for key in OPTIONS if document.get(key)}, [run.model_id])
    return ImportedRecord(
        "vllm bench serve", performance, None, run.model_id, marked.name(None), marked,
        label=level.load.split(", ", 1)[1], config=config,
        samples=[vars(sample) for sample in samples], notes=notes, level=level,
        is_warmup=document.get("type") == "warmup" or document.get("run_number") == -1,
    )  # fmt: skip


def _level(file: ForeignFile, document: Mapping[str, Any], run: _Serve, resolved: int) -> ServingLevel:
    """The load, and what `PerformanceMetrics` does not have; `resolved` requests give the percentiles."""
    rate, strategy, dataset = (document.get(key) for key in ("request_rate", "ramp_up_strategy", "dataset_name"))
    number = plain_number(rate)
    rate = float(number) if isinstance(number, (int, float)) and abs(number) <= MAX_NUMBER else rate  # as vLLM does
    asked = rate if isinstance(rate, float) and 0 < rate <= MAX_NUMBER and not strategy else None
    if strategy:
        ends = (plain_number(document.get(f"ramp_up_{end}_rps")) for end in ("start", "end"))
        rate = "-".join(map(str, (strategy, *ends)))
    # How requests arrive: rate, burstiness unless it is a Poisson process, most requests at once.
    label = f"rate-{rate}"
    label += "" if run.burstiness in (None, 1) else f"-burstiness-{run.burstiness:g}"
    label += f"-concurrency-{run.max_concurrency}" if run.max_concurrency else ""
    if strategy:
        arrivals = "ramp"
    elif asked is None:
        arrivals = "closed loop" if run.max_concurrency else "all at once"
    else:
        arrivals = "poisson" if run.burstiness in (None, 1) else "gamma"
    metadata = _metadata(document)
    speculative = next((f"{key}={value}" for key, value in metadata.items() if _SPECULATIVE.search(key)), None)
    if speculative is None and any(str(key).startswith("spec_decode_") for key in document):
        speculative = "used"
    gaps = (run.total_output_tokens or 0) - (run.completed or 0)
    return ServingLevel(
        **summary_metrics("itl_s", max(gaps, resolved), **own_summary(file, document, "itl")),
        load=f"vllm bench serve, {label}",
        label=label.removeprefix("rate-inf-"),  # a concurrency alone: no rate was asked for
        request_rate=asked,
        arrivals=arrivals,
        burstiness=run.burstiness,
        max_concurrency=run.max_concurrency,
        num_prompts=run.num_prompts,
        dataset=dataset if isinstance(dataset, str) else None,
        speculative=speculative,
        metadata=metadata,
        requests_per_second=run.request_throughput,
        duration_s=run.duration,
        total_tokens_per_second=run.total_token_throughput,
        goodput=run.request_goodput,
        measured_at=run.date if isinstance(run.date, str) else None,
        repetition=_repetition(document),
    )


def _metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """What the user wrote into a result, and a sweep its parameters: texts, and numbers that were not measured."""
    found = {}
    for key, value in sorted(document.items()):
        is_own = key in _SERVE_KEYS or key in _REPETITIONS or _MEASURED.search(key)
        # Numbers are the parameters of a sweep; elsewhere they are what a newer version measures.
        is_setting = isinstance(value, str) or (isinstance(value, (int, float)) and "run_number" in document)
        if not is_own and is_setting and str(value):
            found[key] = value if isinstance(value, str) else str(plain_number(value))
    return found


def _repetition(document: Mapping[str, Any]) -> int | None:
    for key in _REPETITIONS:
        value = document.get(key)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and len(value) < 10):
            return int(value)
    return None


def _samples(file: ForeignFile, document: Mapping[str, Any], completed: int | None) -> list[RequestSample]:
    """The requests that succeeded; none without ``--save-detailed``, or if a time of one is unknown."""
    if document.get("ttfts") is None:
        return []
    run = file.validate(_VllmRequests, document)
    columns = {"input_lens": run.input_lens, "output_lens": run.output_lens, "errors": run.errors}
    columns |= {"itls": run.itls} if run.latencies is None else {"latencies": run.latencies}
    for key, values in columns.items():
        if len(values) != len(run.ttfts):
            raise file.error(key, f"has {len(values)} values, 'ttfts' {len(run.ttfts)}")
    good = [index for index, error in enumerate(run.errors) if not error]
    if completed is not None and len(good) != completed:
        raise file.error("errors", f"contains {len(good)} requests without an error, but 'completed' is {completed}")
    samples, unknown = [], 0
    for index in good:
        # To the first token, and from each to the next. Without streaming there is no first token: vLLM writes 0.
        times = [run.ttfts[index], *([] if run.latencies is not None else run.itls[index])]
        known = [seconds for seconds in times if seconds is not None]
        end = sum(known) if run.latencies is None else run.latencies[index]
        if end is None or len(known) < len(times):
            unknown += 1
            continue
        ttft, tokens = known[0] or None, run.output_lens[index]
        tpot = (end - ttft) / (tokens - 1) if ttft is not None and tokens > 1 else None
        samples.append(RequestSample(None, index, None, ttft, tpot, end, run.input_lens[index], tokens))
    return file.complete(samples, unknown)


class VllmBench(Importer):
    """The three benchmarks of ``vllm bench``; ``serve --append-result`` and a sweep write several into one file."""

    name = "vllm bench"
    companions = (f"*{_SIDECAR}",)
    formats = (
        Format("0.6 and newer", "result of serve", "times and throughput; times per request with --save-detailed"),
        Format("0.6 and newer", "result of serve --append-result, list of a sweep", "the same, each run"),
        Format("0.6 and newer", "result of latency or throughput, *.pytorch.json", "wall times per batch"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By the number that a benchmark is about; a copy of a result of ``serve`` may have its times alone."""
        keys = file.fields.keys()
        return bool({*_OFFLINE_KEYS, "request_throughput"} & keys or keys >= {"mean_ttft_ms", "request_rate"})

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per result."""
        for document in file.objects():
            yield (_offline if _OFFLINE_KEYS & document.keys() else _serve)(file, document)


IMPORTERS.register(VllmBench())
