"""Results of ``vllm bench latency``, ``throughput`` and ``serve``. Read from ``vllm/benchmarks`` of vLLM 0.32.

What these files do not hold: vLLM's version, the precision, the hardware; ``latency`` and ``throughput`` not even batch
size and lengths, except in the file ``{name}.pytorch.json`` that ``SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1`` puts beside
them. It is read along.

Meanings, of which only those that are slim-eval's own are taken:

- ``latency``: each of ``latencies`` is the wall time of a batch; divided by the batch size it is slim-eval's amortised
  latency. It is no end-to-end latency, which is a mean over requests.
- ``throughput``: ``tokens_per_second`` counts prompt tokens too and is not taken; all requests are submitted at once,
  so the run is one iteration whose batch is all of them.
- ``serve``: ``ttft``, ``tpot`` and ``e2el`` mean what they mean here, in milliseconds and seen by an HTTP client.
  ``output_throughput`` is output tokens over the whole run, like ``tokens_per_second``. ``itl`` is a mean over tokens,
  not over requests, and is not taken. Standard deviations are over n, here over n - 1. A mean of 0 is vLLM's word for
  "no values". ``date`` has no time zone and is kept as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slim_eval.errors import UsageError
from slim_eval.results.importers.findings import (
    Finding,
    Given,
    Source,
    request_metrics,
    request_row,
    sample_std,
    tail_notes,
)
from slim_eval.results.importers.reading import Fields, load
from slim_eval.results.records import PerformanceMetrics

SIDECAR_SUFFIX = ".pytorch.json"

_SAVE_SIDECAR = f"measure with SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1 and keep the {SIDECAR_SUFFIX} file beside it"
_SAME = 1e-6  # relative; the files hold all digits
_LATENCY_SETTINGS = ("dataset_name", "enforce_eager", "max_model_len", "tensor_parallel_size", "enable_prefix_caching")
_SERVE_SETTINGS = (
    "date", "backend", "label", "num_prompts", "request_rate", "burstiness", "max_concurrency", "ramp_up_strategy",
    "ramp_up_start_rps", "ramp_up_end_rps",
)  # fmt: skip


def latency(fields: Fields, source: Source, given: Given) -> Finding:
    """A ``vllm bench latency`` result.

    Raises:
        ResultFileError: A field is missing or of another kind, or the file contradicts itself.
        UsageError: The batch size is known neither from a file nor from `given`.
    """
    from slim_eval.stats import summarize

    walls = fields.numbers("latencies")
    if not walls or min(walls) <= 0:
        raise fields.error("latencies", "holds no times, or one that is not above 0")
    if not math.isclose(sum(walls) / len(walls), fields.number("avg_latency"), rel_tol=_SAME):
        raise fields.error("avg_latency", "is not the mean of 'latencies'")
    arguments = _arguments(source.path, walls)
    _refuse_several_outputs(arguments)
    batch = arguments.count_or_none("batch_size") or given.batch_size
    if not batch:
        raise UsageError(f"{source.path}: the batch size is not in it", f"give --batch-size, or {_SAVE_SIDECAR}")
    tokens = arguments.count_or_none("output_len") or given.max_new_tokens
    prompt = arguments.count_or_none("input_len")
    warmup = arguments.count_or_none("num_iters_warmup")
    amortised = summarize(wall / batch for wall in walls)
    metrics = PerformanceMetrics(
        mean_latency_s=amortised.mean,
        median_latency_s=amortised.median,
        p95_latency_s=amortised.p95,
        p99_latency_s=amortised.p99,
        std_latency_s=amortised.std,
        tokens_per_second=None if tokens is None else batch * tokens * len(walls) / sum(walls),
        batch_size=batch,
        num_warmup=None if warmup is None else warmup * batch,
        num_runs=len(walls) * batch,
        num_iterations=len(walls),
        input_len=prompt,
        prompt_tokens=prompt,
        output_tokens=tokens,
    )
    rows = [{**request_row(0), "request": None, "iteration": i, "wall_s": wall} for i, wall in enumerate(walls)]
    notes = [*tail_notes(len(walls), "iterations"), *_unknown_tokens(tokens)]
    return _offline(
        fields,
        source,
        arguments,
        metrics,
        f"batch-{batch}" + (f"-output-{tokens}" if tokens else ""),
        "vllm",
        rows,
        notes,
    )


def throughput(fields: Fields, source: Source, given: Given) -> Finding:
    """A ``vllm bench throughput`` result.

    Raises:
        ResultFileError: A field is missing or of another kind, or the file contradicts itself.
    """
    elapsed_s, requests = fields.number("elapsed_time"), fields.count("num_requests")
    if elapsed_s <= 0 or not requests:
        raise fields.error("elapsed_time" if requests else "num_requests", "is not above 0")
    total = fields.count("total_num_tokens")
    arguments = _arguments(source.path, [fields.number("requests_per_second")])
    _refuse_several_outputs(arguments)
    tokens = _equal_outputs(arguments) or given.max_new_tokens
    if tokens is not None and tokens * requests >= total:
        raise UsageError(
            f"{source.path}: {requests} requests of {tokens} output tokens do not fit into its {total} tokens in all",
            "correct --max-new-tokens",
        )
    metrics = PerformanceMetrics(
        mean_latency_s=elapsed_s / requests,
        tokens_per_second=None if tokens is None else tokens * requests / elapsed_s,
        batch_size=requests,
        num_warmup=arguments.count_or_none("num_warmups"),
        num_runs=requests,
        num_iterations=1,
        prompt_tokens=None if tokens is None else total / requests - tokens,
        output_tokens=tokens,
    )
    row = {**request_row(0), "request": None, "iteration": 0, "wall_s": elapsed_s}
    backend = arguments.text_or_none("backend")
    engine = {"vllm": "vllm", "vllm-chat": "vllm", "hf": "transformers"}.get(backend or "")
    notes = [f"all {requests} requests start at once: one iteration", *_unknown_tokens(tokens)]
    return _offline(fields, source, arguments, metrics, f"throughput-{requests}", engine, [row], notes)


def serve(fields: Fields, source: Source, given: Given) -> Finding:
    """A ``vllm bench serve`` result, with or without ``--save-detailed``.

    Raises:
        ResultFileError: A field is missing or of another kind, no request succeeded, or the file contradicts itself.
    """
    if fields.get("total_input_sequences") is not None:
        raise fields.error("total_input_sequences", "is of a pooling model: nothing was generated")
    completed, duration_s = fields.count("completed"), fields.number("duration")
    if not completed or duration_s <= 0:
        raise fields.error("duration" if completed else "completed", "is not above 0: no request succeeded")
    output = fields.count("total_output_tokens")
    rows = list(_requests(fields, completed))
    metrics = PerformanceMetrics(
        **(request_metrics(rows) if rows else _summaries(fields, completed)),
        tokens_per_second=fields.number("output_throughput"),
        batch_size=fields.count_or_none("max_concurrency"),
        num_runs=completed,
    )
    means = {"prompt_tokens": fields.count("total_input_tokens") / completed, "output_tokens": output / completed}
    lengths = {row["output_tokens"] for row in rows}
    config = {key: fields.get(key) for key in _SERVE_SETTINGS if fields.get(key) is not None}
    setting = _load(fields)
    return Finding(
        source,
        metrics.model_copy(update=means),
        fields.text_or_none("model_id"),
        setting=setting,
        config={
            **config,
            "load": f"{source.tool}, {setting}",
            "max_new_tokens": lengths.pop() if len(lengths) == 1 else given.max_new_tokens,
        },
        samples=rows,
        notes=[*_serve_notes(fields, completed), *(tail_notes(completed, "requests") if rows else [])],
    )


def _load(fields: Fields) -> str:
    """How requests came: their rate, their burstiness where it is not that of a Poisson process, the most at once."""
    rate = str(fields.get("request_rate"))
    if fields.get("ramp_up_strategy"):
        ends = (fields.get("ramp_up_start_rps"), fields.get("ramp_up_end_rps"))
        rate = f"{fields.get('ramp_up_strategy')}-{ends[0]}-{ends[1]}"
    words = [f"rate-{rate}"]
    if fields.get("burstiness") not in (None, 1, 1.0):
        words.append(f"burstiness-{fields.number('burstiness'):g}")
    if most := fields.count_or_none("max_concurrency"):
        words.append(f"concurrency-{most}")
    return "-".join(words)


def _serve_notes(fields: Fields, completed: int) -> Iterator[str]:
    yield "measured by a client over HTTP: times include the way to the server and waiting in its queue"
    failed = fields.count_or_none("failed") or max((fields.count_or_none("num_prompts") or 0) - completed, 0)
    if failed:
        yield f"{failed} of {failed + completed} requests failed and are not in the numbers"


def _requests(fields: Fields, completed: int) -> Iterator[dict[str, Any]]:
    """One row a successful request, from ``--save-detailed``; none without it."""
    if fields.get("ttfts") is None:
        return
    ttfts, inputs, outputs = (fields.numbers(key) for key in ("ttfts", "input_lens", "output_lens"))
    ends = fields.numbers("latencies") if fields.get("latencies") is not None else _ends(fields, ttfts)
    errors = fields.items("errors")
    for key, values in (("input_lens", inputs), ("output_lens", outputs), ("latencies", ends), ("errors", errors)):
        if len(values) != len(ttfts):
            raise fields.error(key, f"holds {len(values)} values, 'ttfts' {len(ttfts)}")
    good = [index for index, error in enumerate(errors) if not error]
    if len(good) != completed:
        raise fields.error("errors", f"leaves {len(good)} requests without one, 'completed' says {completed}")
    for index in good:
        # An endpoint that does not stream has no first token: vLLM writes 0.
        ttft = ttfts[index] or None
        count = int(outputs[index])
        yield request_row(
            index,
            ttft_s=ttft,
            tpot_s=(ends[index] - ttft) / (count - 1) if ttft is not None and count > 1 else None,
            e2e_s=ends[index],
            prompt_tokens=int(inputs[index]),
            output_tokens=count,
        )


def _ends(fields: Fields, ttfts: list[float]) -> list[float]:
    """End-to-end latencies of versions that do not write them: to the first token, and from each to the next."""
    gaps = fields.items("itls")
    if len(gaps) != len(ttfts):
        raise fields.error("itls", f"holds {len(gaps)} values, 'ttfts' {len(ttfts)}")
    inner = (Fields(fields.path, {f"itls[{i}]": row}, fields.at).numbers(f"itls[{i}]") for i, row in enumerate(gaps))
    return [ttft + sum(row) for ttft, row in zip(ttfts, inner, strict=True)]


def _summaries(fields: Fields, completed: int) -> dict[str, Any]:
    """Metrics over requests where the file holds none: means, medians, and tails that enough requests support."""
    from slim_eval.stats import resolving_count

    found: dict[str, Any] = {}
    for theirs, ours in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2el", "e2e_latency_s")):
        if not (mean := _seconds(fields, f"mean_{theirs}_ms")):
            continue
        found |= {ours: mean, f"median_{ours}": _seconds(fields, f"median_{theirs}_ms")}
        found |= {
            f"p{q}_{ours}": _seconds(fields, f"p{q}_{theirs}_ms") for q in (95, 99) if completed >= resolving_count(q)
        }
        if theirs != "tpot":  # how many requests have one is not said: those of a single token have none
            found[f"std_{ours}"] = sample_std(_seconds(fields, f"std_{theirs}_ms"), completed)
    return found


def _seconds(fields: Fields, key: str) -> float | None:
    value = fields.number_or_none(key)
    return None if value is None else value / 1000


def _offline(
    fields: Fields, source: Source, arguments: Fields, metrics: PerformanceMetrics, setting: str, engine: str | None,
    rows: Sequence[Mapping[str, Any]], notes: list[str],
) -> Finding:  # fmt: skip
    """What ``latency`` and ``throughput`` have in common."""
    settings = {key: arguments.get(key) for key in _LATENCY_SETTINGS if arguments.get(key) is not None}
    length = None if metrics.output_tokens is None else int(metrics.output_tokens)
    return Finding(
        source,
        metrics,
        fields.text_or_none("model_id"),
        setting=setting,
        config={**settings, "max_new_tokens": length},
        head={"engine": engine},
        samples=rows,
        notes=notes,
    )


def _unknown_tokens(tokens: int | None) -> list[str]:
    return [] if tokens else [f"output tokens are not known: give --max-new-tokens, or {_SAVE_SIDECAR}"]


def _arguments(path: Path, values: list[float]) -> Fields:
    """The command's arguments from the file beside a result; empty where there is none.

    Only what is asked for by name leaves it: among the arguments there may be a token.
    """
    beside = path.with_name(path.name.removesuffix(".json") + SIDECAR_SUFFIX)
    if not beside.is_file():
        return Fields(beside, {})
    records = Fields(beside, {"records": load(beside)[0][0]}).children("records")
    if not records:
        raise Fields(beside, {}).error("[0]", "is missing")
    first = replace(records[0], at="[0]")
    if first.child("metric").numbers("benchmark_values") != values:
        raise first.child("metric").error("benchmark_values", f"is of another run than {path.name}")
    return first.child("benchmark").child("extra_info").child("args")


def _refuse_several_outputs(arguments: Fields) -> None:
    if arguments.get("use_beam_search") or (arguments.count_or_none("n") or 1) > 1:
        key = "use_beam_search" if arguments.get("use_beam_search") else "n"
        raise arguments.error(key, "asks for several outputs a prompt, which slim-eval does not measure")


def _equal_outputs(arguments: Fields) -> int | None:
    """Output tokens of every request of a throughput run; None where they need not be equal."""
    is_fixed = str(arguments.get("random_range_ratio") or 0) in ("0", "0.0")
    if arguments.text_or_none("dataset_name") != "random" or not is_fixed:
        return None
    # Newer versions have an option for the random data set alone, which takes precedence.
    return arguments.count_or_none("random_output_len") or arguments.count_or_none("output_len")
