"""Results of optimum-benchmark: ``benchmark.json``, or ``benchmark_report.json`` beside ``benchmark_config.json``.

As in ``trackers/latency.py`` and ``scenarios/inference`` of optimum-benchmark 0.3 to 0.6, for text generation. An
iteration generates ``max_new_tokens`` tokens for a batch:

- ``prefill`` is the time to the first token's logits: ``ttft_s``.
- ``decode`` is the time for the other n - 1 tokens of the batch: divided by n - 1 it is ``tpot_s``.
- Both together are the wall time of an iteration, of which output tokens and amortised latency are made.
- ``memory`` is in 10**6 bytes; the process's peak on the GPU is taken, without one that in RAM.

Throughputs are not taken: their unit differs between the phases. Nor is energy, which some versions divide by the
number of iterations and others do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from slim_eval.recognise import of_options
from slim_eval.results.importers.importer import (
    IMPORTERS,
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
    few_samples_notes,
    inner,
    request_metrics,
)
from slim_eval.results.records import PerformanceMetrics
from slim_eval.schemes import DEFAULT_BASELINE
from slim_eval.stats import summarize
from slim_eval.utils import MIB

_REPORT, _CONFIG = "benchmark_report.json", "benchmark_config.json"
_DEFAULT_BATCH_SIZE, _DEFAULT_NEW_TOKENS = 2, 100
_ENGINES = {"pytorch": "transformers", "vllm": "vllm"}
_SIXTEEN_BIT = {"float16", "bfloat16", "half"}
#: Options of the vLLM backend that contain vLLM's own.
_PASSED_ON = ("engine_args", "llm_kwargs", "serving_args")


class _OptimumLatency(ForeignObject):
    mean: Positive
    values: list[Positive] = Field(default_factory=list)


class _Memory(ForeignObject):
    max_ram: Measured | None = None
    max_process_vram: Measured | None = None


class _Phase(ForeignObject):
    latency: _OptimumLatency | None = None
    memory: _Memory | None = None


class _OptimumReport(ForeignObject):
    load_model: _Phase | None = None
    prefill: _Phase | None = None
    decode: _Phase | None = None


class _Config(ForeignObject):
    model: OptionalText = inner("backend.model", None)
    backend: OptionalText = inner("backend.name", None)
    backend_version: OptionalText = inner("backend.version", None)
    torch_dtype: OptionalText = inner("backend.torch_dtype", None)
    dtype: OptionalText = inner("backend.dtype", None)
    quantization_scheme: OptionalText = inner("backend.quantization_scheme", None)
    device: OptionalText = inner("backend.device", None)
    batch_size: Count | None = inner("scenario.input_shapes.batch_size", None)
    sequence_length: Count | None = inner("scenario.input_shapes.sequence_length", None)
    max_new_tokens: Count | None = inner("scenario.generate_kwargs.max_new_tokens", None)
    warmup_runs: Count | None = inner("scenario.warmup_runs", None)
    version: OptionalText = inner("environment.optimum_benchmark_version", None)
    cpu: OptionalText = inner("environment.cpu", None)
    gpu: Any = inner("environment.gpu", None)


class OptimumBenchmark(Importer):
    """optimum-benchmark."""

    name = "optimum-benchmark"
    companions = (_CONFIG,)
    formats = (
        Format("0.2 and newer", "benchmark.json", "times per iteration, memory, machine"),
        Format("0.2 and newer", "benchmark_report.json, benchmark_config.json", "the same"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By the phases of its report."""
        report = file.fields.get("report", file.fields)
        phases = [report.get(name) for name in _OptimumReport.model_fields] if isinstance(report, dict) else []
        kinds = {"latency", "memory", "throughput", "energy", "efficiency"}
        return any(isinstance(phase, dict) and kinds & phase.keys() for phase in phases)

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per report."""
        for document in file.objects():
            report = document.get("report", document)
            config = document.get("config")
            if config is None and (beside := file.beside(_CONFIG)).path.is_file():
                config = next(beside.objects())
            settings = dict(config) if isinstance(config, dict) else {}
            if "scenario" not in settings and isinstance(settings.get("benchmark"), dict):
                settings["scenario"] = settings["benchmark"]  # before 0.3
            measured = file.validate(_OptimumReport, report, "report")
            yield _record(file, measured, file.validate(_Config, settings, "config"), _options(settings))


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the backend, with those that it passes on to vLLM."""
    backend = settings.get("backend")
    options = dict(backend) if isinstance(backend, dict) else {}
    for nested in _PASSED_ON:
        own = options.pop(nested, None)
        options |= own if isinstance(own, dict) else {}
    return options


def _record(file: ForeignFile, report: _OptimumReport, config: _Config, options: Mapping[str, Any]) -> ImportedRecord:
    prefill = report.prefill.latency if report.prefill is not None else None
    decode = report.decode.latency if report.decode is not None else None
    if prefill is None:
        raise file.error("prefill.latency", "is missing: only text generation, measured with latency=true, is read")
    batch = config.batch_size or file.config.batch_size or _DEFAULT_BATCH_SIZE
    tokens = config.max_new_tokens or file.config.max_new_tokens or _DEFAULT_NEW_TOKENS
    notes = []
    if config.batch_size is None and file.config.batch_size is None:
        notes.append(f"the batch size is not in the file: {_DEFAULT_BATCH_SIZE} is optimum-benchmark's default")
    if config.max_new_tokens is None and file.config.max_new_tokens is None:
        notes.append(f"output tokens are not in the file: {_DEFAULT_NEW_TOKENS} is optimum-benchmark's default")
    firsts = prefill.values or [prefill.mean]
    rests = (decode.values or [decode.mean]) if decode is not None else []
    samples = [RequestSample(index, index, ttft_s=first) for index, first in enumerate(firsts)]
    walls: list[float] = []
    if len(rests) == len(firsts):
        walls = [first + rest for first, rest in zip(firsts, rests, strict=True)]
        samples = [
            replace(
                sample, wall_s=wall, tpot_s=rest / (tokens - 1) if tokens > 1 else None, e2e_s=wall,
                prompt_tokens=config.sequence_length, output_tokens=tokens,
            )
            for sample, rest, wall in zip(samples, rests, walls, strict=True)
        ]  # fmt: skip
    has_iterations = bool(prefill.values)
    metrics = request_metrics(samples)
    if not has_iterations:
        metrics = {key: metrics[key] for key in ("ttft_s", "tpot_s", "e2e_latency_s")}
        notes.append("iterations are not in the file: no intervals")
    else:
        notes += few_samples_notes(len(samples), "iterations")
    if walls:
        amortised = summarize(wall / batch for wall in walls)
        parts = ("mean", "median", "p95", "p99", "std") if has_iterations else ("mean",)
        metrics |= {f"{part}_latency_s": getattr(amortised, part) for part in parts}
    memory, source = _peak_memory(report)
    load_time = report.load_model.latency.mean if report.load_model and report.load_model.latency else None
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=batch * tokens * len(walls) / sum(walls) if walls else None,
        mean_peak_mem_mb=memory,
        memory_source=source,
        load_time_s=load_time,
        batch_size=batch,
        num_warmup=None if config.warmup_runs is None else config.warmup_runs * batch,
        num_runs=len(samples) * batch if has_iterations else None,
        num_iterations=len(samples) if has_iterations else None,
        prompt_tokens=config.sequence_length,
        output_tokens=tokens,
    )
    dtype = config.torch_dtype or config.dtype or (str(options["dtype"]) if options.get("dtype") else None)
    dtype = None if dtype is None else dtype.removeprefix("torch.")
    gpus = config.gpu if isinstance(config.gpu, list) else [config.gpu] if isinstance(config.gpu, str) else []
    head = {
        "engine": _ENGINES.get(config.backend or "", config.backend),
        "engine_version": config.backend_version,
        "dtype": dtype if dtype != "auto" else None,
        "quantization_scheme": config.quantization_scheme,
        "environment": {
            "cpu": config.cpu.strip() if config.cpu else None,
            "gpus": [{"name": name} for name in gpus if isinstance(name, str) and config.device != "cpu"],
        },
    }
    marked = of_options(options, backend=config.backend)
    scheme = marked.name(DEFAULT_BASELINE if dtype in _SIXTEEN_BIT else None)
    label = f"batch-{batch}-input-{config.sequence_length}-output-{tokens}"
    settings = {"max_new_tokens": tokens, "load": f"optimum-benchmark, batch-{batch}", "device": config.device}
    return ImportedRecord(
        "optimum-benchmark", performance, config.version, config.model, scheme, marked,
        label=label, config={key: value for key, value in settings.items() if value is not None}, head=head,
        samples=[vars(sample) for sample in samples] if has_iterations else [], notes=notes,
    )  # fmt: skip


def _peak_memory(report: _OptimumReport) -> tuple[float | None, str | None]:
    """Peak of the process in MiB over the phases, and where it was read: on the GPU, else in RAM."""
    memories = [phase.memory for phase in (report.prefill, report.decode) if phase is not None]
    for key in ("max_process_vram", "max_ram"):
        values = [value for memory in memories if memory is not None and (value := getattr(memory, key))]
        if values:
            return max(values) * 1e6 / MIB, f"optimum-benchmark, {key}"
    return None, None


IMPORTERS.register(OptimumBenchmark())
