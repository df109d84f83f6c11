"""Results of llama.cpp's ``llama-bench`` (``-o json``, ``jsonl`` or ``csv``), as in ``tools/llama-bench`` of llama.cpp.

A file contains one object per test, each of which becomes a record:

- ``tg128`` generates 128 tokens, one at a time, after an empty prompt: time per output token, and output tokens over
  the wall time.
- ``pp512`` reads a prompt of 512 tokens in batches and generates none. Its wall time is that to the first token,
  without tokenization and sampling.
- ``pp512+tg128`` does both: output tokens over the whole wall time.

``samples_ns`` are the wall times of the repetitions; a CSV file has their mean and deviation (over n - 1) only.
``samples_ts`` counts the prompt's tokens as well as those generated and is not taken. The scheme is the type of the
GGUF file, ``q4_k_m``; of 16-bit files it is the baseline's. ``type_k`` and ``type_v`` hold the KV cache: another than
of 16 bits is part of the scheme, ``fp16+kv-q8_0``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from slim_eval.recognise import FP32, Marked, cache_ending
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
)
from slim_eval.results.records import PerformanceMetrics
from slim_eval.schemes import DEFAULT_BASELINE
from slim_eval.stats import summarize

#: How llama.cpp calls a type: ``Q4_K - Medium`` in ``model_type``, ``Q4_K_M`` in names of files.
_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(I?Q[1-8]_[A-Z0-9]+(?:_[A-Z0-9]+)*|TQ[12]_0|BF16|F16|F32|MXFP4|NVFP4)(?: - (Small|Medium|Large))?"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PART = re.compile(r"-\d{5}-of-\d{5}$")
#: Of a test, beside its lengths; those that differ distinguish its records.
_SETTINGS = (
    "n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "type_k", "type_v", "split_mode", "main_gpu", "no_kv_offload",
    "flash_attn", "tensor_split", "use_mmap", "embeddings", "cpu_mask", "cpu_strict", "poll", "n_cpu_moe", "devices",
    "backends", "load_mode", "no_op_offload", "no_host",
)  # fmt: skip


def _number(value: Any) -> Any:
    """A number of a CSV file."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_FROM_TEXT = BeforeValidator(_number)
_Count = Annotated[Count, _FROM_TEXT]


class _LlamaTest(ForeignObject):
    n_prompt: _Count
    n_gen: _Count
    n_depth: _Count = 0
    avg_ns: Annotated[Positive, _FROM_TEXT]
    stddev_ns: Annotated[Measured | None, _FROM_TEXT] = None
    samples_ns: list[Positive] = Field(default_factory=list)
    model_filename: OptionalText = None
    model_type: OptionalText = None
    model_size: Annotated[_Count | None, _FROM_TEXT] = None
    model_n_params: Annotated[_Count | None, _FROM_TEXT] = None
    build_commit: OptionalText = None
    build_number: Any = None
    cpu_info: OptionalText = None
    gpu_info: OptionalText = None
    backends: OptionalText = None
    test_time: OptionalText = None

    @property
    def name(self) -> str:
        """As llama-bench calls it: ``pp512``, ``tg128``, ``pp512+tg128``, ``tg128-d4096``."""
        parts = [f"{kind}{tokens}" for kind, tokens in (("pp", self.n_prompt), ("tg", self.n_gen)) if tokens]
        return "+".join(parts) + (f"-d{self.n_depth}" if self.n_depth else "")

    @property
    def gguf_type(self) -> str | None:
        """Type of the weights, ``Q4_K_M``; None if neither the file's header nor its name says it."""
        for text in (self.model_type, self._stem):
            if text and (found := list(_TYPE.finditer(text))):
                size = found[-1][2]
                return found[-1][1].upper() + (f"_{size[0].upper()}" if size else "")
        return None

    @property
    def _stem(self) -> str:
        name = PureWindowsPath(self.model_filename or "").name  # which also splits at "/"
        return _PART.sub("", name.removesuffix(".gguf"))

    @property
    def model(self) -> str | None:
        """Name of the file without its type, so that the types of one model are variants of it."""
        return re.sub(rf"[-._]*{_TYPE.pattern}$", "", self._stem, flags=re.IGNORECASE) or self._stem or None


class LlamaBench(Importer):
    """llama-bench."""

    name = "llama-bench"
    patterns = ("*.json", "*.jsonl", "*.csv")
    formats = (
        Format("since September 2023", "output of -o json or jsonl", "wall times per test and repetition, size"),
        Format("since September 2023", "output of -o csv", "the same; means and deviations"),
    )

    def detects(self, file: ForeignFile) -> bool:
        """By the lengths and the wall time of a test."""
        return {"n_prompt", "n_gen", "avg_ns"} <= file.fields.keys()

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """One record per test."""
        documents = list(file.objects())
        if any("" in document for document in documents):
            raise file.error("", "contains a row with more columns than the first line names")
        yield from (_record(file, file.validate(_LlamaTest, document), document) for document in documents)


def _record(file: ForeignFile, test: _LlamaTest, document: Mapping[str, Any]) -> ImportedRecord:
    if not test.n_prompt and not test.n_gen:
        raise file.error("n_gen", "is 0, as is 'n_prompt': nothing was measured")
    walls = [nanoseconds / 1e9 for nanoseconds in test.samples_ns]
    mean = sum(walls) / len(walls) if walls else test.avg_ns / 1e9
    if walls and not math.isclose(mean, test.avg_ns / 1e9, rel_tol=1e-3):
        raise file.error("avg_ns", "is not the mean of 'samples_ns'")
    metrics: dict[str, Any] = {"mean_latency_s": mean}
    if walls:
        summary = summarize(walls)
        metrics |= {f"{part}_latency_s": getattr(summary, part) for part in ("median", "p95", "p99", "std")}
    elif test.stddev_ns:
        metrics["std_latency_s"] = test.stddev_ns / 1e9
    notes = few_samples_notes(len(walls), "repetitions") if walls else ["repetitions are not in the file: no intervals"]
    # What a repetition is made of: its prompt, or tokens one after the other.
    key, share = {(False, True): ("tpot_s", test.n_gen), (True, False): ("ttft_s", 1)}.get(
        (test.n_prompt > 0, test.n_gen > 0), ("", 1)
    )
    if key:
        metrics |= {
            name.replace("latency_s", key).removeprefix("mean_"): None if value is None else value / share
            for name, value in list(metrics.items())
        }
    if key == "ttft_s":
        notes.append("prompt processing alone: times to the first token are without tokenization and sampling")
    rows = [
        RequestSample(index, index, wall, prompt_tokens=test.n_prompt, output_tokens=test.n_gen,
                      **({key: wall / share} if key else {}))
        for index, wall in enumerate(walls)
    ]  # fmt: skip
    settings = {name: document[name] for name in _SETTINGS if document.get(name) not in (None, "")}
    performance = PerformanceMetrics(
        **metrics,
        tokens_per_second=test.n_gen / mean if test.n_gen else None,
        weights_gb=test.model_size / 2**30 if test.model_size else None,
        batch_size=1,
        num_runs=len(walls) or None,
        num_iterations=len(walls) or None,
        prompt_tokens=float(test.n_prompt),
        output_tokens=float(test.n_gen),
    )
    kind, build = test.gguf_type, str(test.build_number or "")
    is_plain = kind in ("F16", "BF16")
    scheme = DEFAULT_BASELINE if is_plain else FP32 if kind == "F32" else kind.lower() if kind else None
    is_quantized = scheme not in (None, DEFAULT_BASELINE, FP32)
    endings = cache_ending(document)
    marked = Marked(test.model_type or test.model_filename or "" if is_quantized else "", scheme, endings)
    gpus = [name.strip() for name in (test.gpu_info or "").split(", ") if name.strip()]
    version = f"b{build}" if build else test.build_commit
    head = {
        "timestamp": test.test_time,
        "engine": "llama.cpp",
        "engine_version": version,
        "quantization_scheme": None if is_plain or kind is None else f"GGUF {kind}",
        "num_parameters": test.model_n_params or None,
        "num_parameters_b": test.model_n_params / 1e9 if test.model_n_params else None,
        "model_size_gb": performance.weights_gb,
        "environment": {"cpu": test.cpu_info.strip() if test.cpu_info else None, "gpus": [{"name": n} for n in gpus]},
    }
    config = {**settings, "load": f"llama-bench, {test.name}", "max_new_tokens": test.n_gen or None}
    return ImportedRecord(
        "llama-bench", performance, version, test.model,
        marked.name(scheme), marked, label=test.name, config=config, head=head,
        samples=[vars(row) for row in rows], notes=notes,
    )  # fmt: skip


IMPORTERS.register(LlamaBench())
