"""A measurement that was found in a foreign file, and the record that it becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from slim_eval.results.records import (
    SCHEMA_VERSION,
    AccuracyMetrics,
    AccuracyRecord,
    PerformanceMetrics,
    PerformanceRecord,
)
from slim_eval.utils import bounded

#: What names of quantized checkpoints have in them; a 16-bit dtype of such a model is that of its activations.
_QUANTIZED_NAME = re.compile(
    r"w\d+a\d+|int[48]|fp[48]|nf4|mxfp|gptq|awq|gguf|bnb|hqq|exl[23]|quant|autoround|[48][-_]?bit", re.IGNORECASE
)
_SIXTEEN_BIT = {"float16", "bfloat16", "half", "fp16", "bf16"}


@dataclass(frozen=True)
class Source:
    """Where a measurement was found.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        tool: What wrote it.
        version: Of the tool; None where the file does not say it.
    """

    path: Path
    sha256: str
    tool: str
    version: str | None = None


@dataclass(frozen=True)
class Given:
    """What the user says of files that do not say it themselves. None: nothing.

    `model` and `precision` replace what a file says; the others only fill in.

    Attributes:
        model: Name of the model.
        precision: fp16, int8, int4 or another name.
        batch_size: Concurrent requests.
        max_new_tokens: Output tokens of every request.
    """

    model: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Finding:
    """One measurement, before it has a place in a variant.

    Attributes:
        source: Where it was found.
        metrics: Its numbers, in slim-eval's units and meanings.
        model: Name of the model; None where the file does not say it.
        precision: None where the file does not say it.
        setting: Words that tell this measurement from others of the same model and precision: ``concurrency-8``.
        config: Settings it was measured with.
        head: Further keys of the record that the file knows: ``engine``, ``dtype``, ….
        samples: One row a request or an item, keys as slim-eval's own.
        notes: For the record, one line each.
    """

    source: Source
    metrics: PerformanceMetrics | AccuracyMetrics
    model: str | None
    precision: str | None = None
    setting: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    def record(self, model: str, precision: str) -> PerformanceRecord | AccuracyRecord:
        """The record of this measurement; ``config.import`` says where it comes from."""
        source = self.source
        origin = {"tool": source.tool, "version": source.version, "file": source.path.name, "sha256": source.sha256}
        version = source.version or "of a version that the file does not say"
        is_accuracy = isinstance(self.metrics, AccuracyMetrics)
        head = {
            **self.head,
            "schema_version": SCHEMA_VERSION,
            "model": model,
            "precision": precision,
            "config": {"import": origin, "accuracy" if is_accuracy else "performance": dict(self.config)},
            "notes": (f"imported from {source.path.name}, written by {source.tool} {version}", *self.notes),
        }
        kind = AccuracyRecord if is_accuracy else PerformanceRecord
        return kind(**_finite({**head, **self.metrics.model_dump()}))


def utc(timestamp: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601, UTC; None for what is no date."""
    try:
        return (
            None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
        )
    except (ValueError, OverflowError, OSError):
        return None


def _finite(value: Any) -> Any:
    """NaN and infinities as None, at any depth: a setting is kept as it stands, and JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_sixteen_bit(model: str | None, dtype: str | None) -> bool:
    """Whether a 16-bit dtype may be taken for the precision ``fp16``.

    It may not where the model's name, or its checkpoint if that is a folder of this machine, speaks of quantization:
    then the dtype is that of activations.
    """
    if dtype is None or dtype.removeprefix("torch.") not in _SIXTEEN_BIT:
        return False
    return model is not None and not _QUANTIZED_NAME.search(model) and not _is_quantized_folder(Path(model))


def _is_quantized_folder(folder: Path) -> bool:
    try:
        config = bounded.read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("quantization_config") is not None


def request_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics over requests, each worked out as slim-eval's own performance benchmark does.

    Args:
        rows: One a request: ``ttft_s``, ``tpot_s``, ``e2e_s``, ``prompt_tokens``, ``output_tokens``.
    """
    from slim_eval.stats import summarize

    found = list(rows)
    metrics: dict[str, Any] = {}
    for key, name in (("ttft_s", "ttft_s"), ("tpot_s", "tpot_s"), ("e2e_s", "e2e_latency_s")):
        summary = summarize(row[key] for row in found)
        metrics[name] = summary.mean
        metrics |= {f"{part}_{name}": getattr(summary, part) for part in ("median", "p95", "p99", "std")}
    return metrics | {key: summarize(row[key] for row in found).mean for key in ("prompt_tokens", "output_tokens")}


def request_row(index: int, **values: float | int | None) -> dict[str, Any]:
    """A sample of one request, with the keys of slim-eval's own; what is not known is None."""
    keys = ("iteration", "request", "wall_s", "ttft_s", "tpot_s", "e2e_s", "prompt_tokens", "output_tokens")
    return {**dict.fromkeys(keys), "request": index, **values}


def tail_notes(count: int, unit: str) -> list[str]:
    """What a reader must know of the percentiles of a small sample, in the words of the performance benchmark."""
    from slim_eval.stats import resolving_count

    return [
        f"every p{q} is the maximum: {count} {unit} are fewer than {resolving_count(q)}"
        for q in (95, 99)
        if count < resolving_count(q)
    ]


def sample_std(population_std: float | None, count: int) -> float | None:
    """A standard deviation over n as one over n - 1, which slim-eval's records hold; None below two values."""
    return None if population_std is None or count < 2 else population_std * (count / (count - 1)) ** 0.5
