"""What a run would do, and what can be known of its time and memory beforehand; nothing is loaded or started.

Times are those that earlier records of the same folder took for the same work; without one there is none. Memory comes
from the headers of the weight files, the precision, and the model's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slim_eval import models, power, results
from slim_eval.benchmarks.capacity import kv_bytes_a_token
from slim_eval.config import AUTO_ENGINE, Benchmark, RunConfig
from slim_eval.engines import ENGINES
from slim_eval.errors import HubError, UsageError
from slim_eval.execution import fingerprints
from slim_eval.execution.plan import PlannedVariant
from slim_eval.quantization import cache
from slim_eval.results.records import Record
from slim_eval.schemes import DEFAULT_BASELINE, SCHEMES, is_quantized

_SCALE_BYTES = 2  # of a quantized weight's scales, which are in the model's 16-bit dtype
_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector")


@dataclass(frozen=True)
class StageForecast:
    """A stage of a variant.

    Attributes:
        name: As shown while it runs.
        reused: Whether it is done already.
        reason: Why it is done again although something is there.
        seconds: What it took before; None where that is not known, or it is reused.
    """

    name: str
    reused: bool = False
    reason: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class VariantForecast:
    """A variant.

    Attributes:
        weight_bytes: Weights as served; None where the headers cannot be had.
        kv_bytes_per_token: KV cache a token; None where the configuration does not say it.
        context: Tokens a request at most.
        batch_size: Requests at once, in the largest batch still to be measured.
    """

    name: str
    stages: tuple[StageForecast, ...]
    weight_bytes: float | None
    kv_bytes_per_token: int | None
    context: int
    batch_size: int

    @property
    def kv_cache_bytes(self) -> int | None:
        """KV cache at most: every request of the batch as long as the context window."""
        return None if self.kv_bytes_per_token is None else self.kv_bytes_per_token * self.context * self.batch_size

    @property
    def todo(self) -> tuple[StageForecast, ...]:
        """What is not reused."""
        return tuple(stage for stage in self.stages if not stage.reused)


def forecast(
    config: RunConfig, variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu]
) -> tuple[VariantForecast, ...]:
    """What a run of these variants would do.

    Args:
        config: The run's config.
        variants: With what is done already, as `resuming.survey` finds it.
        gpus: What would compute.

    Raises:
        SlimEvalError: The cache of quantized checkpoints holds something else than what is asked for.
    """
    earlier = _earlier(config.output_dir)
    return tuple(_variant(variant, gpus, earlier) for variant in variants)


def _earlier(folder: Path) -> list[Record]:
    if not folder.is_dir():
        return []
    return [record for variant in results.find_results(folder).variants for record in variant.records]


def _variant(variant: PlannedVariant, gpus: Sequence[power.Gpu], earlier: Sequence[Record]) -> VariantForecast:
    request = variant.quantize_request(variant.source)
    quantized = is_quantized(variant.precision) and bool(variant.todo)
    cached = cache.cached(request) if quantized else None
    stages = []
    if variant.source.pickled is not None and variant.todo:
        conversion = cache.conversion(variant.source, variant.config.quantized_models_dir)
        stages.append(StageForecast("convert", conversion.is_done))
    if quantized:
        stages.append(StageForecast("quantize", cached is not None, seconds=_quantizing_s(request)))
    if variant.todo:
        stages.append(StageForecast("engine", seconds=_loading_s(variant, earlier)))
    settings = variant.settings(gpus)
    for name in variant.records:
        done = name in variant.reused
        seconds = None if done else _stage_s(variant, name, settings[name], earlier)
        stages.append(StageForecast(name, done, variant.again.get(name, ""), seconds))
    facts = models.describe_config(variant.source.config_dir)
    return VariantForecast(
        name=variant.name,
        stages=tuple(stages),
        weight_bytes=_weights(variant, facts, cached),
        kv_bytes_per_token=kv_bytes_a_token(
            facts.attention_layers, facts.kv_heads, facts.head_size, _kv_element_bytes(variant.config)
        ),
        context=variant.max_model_len,
        batch_size=max(_batch_sizes(variant.config, variant.todo or variant.records)),
    )


def _stage_s(
    variant: PlannedVariant, stage: str, asked: Mapping[str, object], earlier: Iterable[Record]
) -> float | None:
    """What the same work on the same model took before: at this precision if it can be, else at another one."""
    found = [
        record
        for record in _of_model(variant, earlier)
        if results.record_name(record) == results.record_path(variant.directory, stage).stem
        and record.stage_duration_s is not None
        and record.measured_with is not None
        and not fingerprints.differences(
            fingerprints.work(record.measured_with),
            fingerprints.work(fingerprints.served_by(asked, _engine(variant) or record.engine)),
        )
    ]
    best = min(found, key=lambda record: record.precision != variant.precision, default=None)
    return None if best is None else best.stage_duration_s


def _loading_s(variant: PlannedVariant, earlier: Iterable[Record]) -> float | None:
    for record in _of_model(variant, earlier):
        seconds = getattr(record, "load_time_s", None)
        if record.precision == variant.precision and _engine(variant) in (None, record.engine) and seconds is not None:
            return float(seconds)
    return None


def _quantizing_s(request: cache.QuantizeRequest) -> float | None:
    """What making this very checkpoint took, where it is there and is to be made again."""
    folder = cache.checkpoint_directory(request)
    if not (folder / cache.RECORD_FILE).is_file():
        return None
    record = cache.read_record(folder)
    return record.duration_s if record.settings == cache.settings(request) else None


def _of_model(variant: PlannedVariant, earlier: Iterable[Record]) -> Iterable[Record]:
    return (record for record in earlier if record.model == variant.source.name)


def _engine(variant: PlannedVariant) -> str | None:
    """The engine that was asked for; None where the run will choose."""
    choice = variant.config.engine.engine
    return None if choice == AUTO_ENGINE else choice


def _batch_sizes(config: RunConfig, stages: Sequence[str]) -> list[int]:
    sizes = {
        Benchmark.PERFORMANCE.value: config.performance.batch_size,
        Benchmark.ENERGY.value: config.energy.batch_size,
    }
    return [sizes[stage] if stage in sizes else config.accuracy.batch_size_of(stage) for stage in stages]


def _kv_element_bytes(config: RunConfig) -> int:
    return 1 if str(config.engine.engine_args.get("kv_cache_dtype", "")).startswith("fp8") else 2


def _weights(
    variant: PlannedVariant, facts: models.ConfigFacts, cached: cache.QuantizedCheckpoint | None
) -> float | None:
    """Weights as loaded; an engine that emulates quantized kernels unpacks them to 16 bit."""
    engine = _engine(variant)
    emulated = engine is not None and ENGINES[engine].quantized_kernels == "emulated"
    if cached is not None and not emulated:
        return float(models.describe(cached.path).weight_bytes)
    try:
        found = models.read_tensors(variant.source)
    except (HubError, UsageError):
        return None
    return weight_bytes(found, DEFAULT_BASELINE if emulated else variant.precision, facts)


def weight_bytes(found: models.Tensors, precision: str, facts: models.ConfigFacts) -> float:
    """Bytes of a checkpoint's weights at a precision, scales included.

    Quantized are the two-dimensional weights that a recipe does not pass over; the rest is held in 16 bit. A checkpoint
    that comes quantized is taken as it is.

    Args:
        found: Name -> (dtype, shape), of the 16-bit checkpoint.
        precision: What it is served at.
        facts: Of its configuration.
    """
    if facts.is_quantized:
        return float(sum(models.tensor_bytes(kind, shape) for kind, shape in found.values()))
    held, plain = SCHEMES[precision], SCHEMES[DEFAULT_BASELINE].weight_bits / 8
    group = held.recipe.group_size if held.recipe is not None else None
    total = 0.0
    for name, shape in models.parameters(found, facts.tied_embeddings).items():
        if not is_quantized(precision) or not _is_linear(name, shape):
            total += plain * math.prod(shape)
            continue
        rows, columns = shape
        total += held.weight_bits / 8 * rows * columns
        total += _SCALE_BYTES * rows * (math.ceil(columns / group) if group else 1)
    return total


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    return len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in _NOT_LINEAR)


def total_seconds(variants: Iterable[VariantForecast]) -> tuple[float, int]:
    """Seconds of all stages to do whose time is known, and how many there are whose time is not."""
    times = [stage.seconds for variant in variants for stage in variant.todo]
    known = [seconds for seconds in times if seconds is not None]
    return sum(known), len(times) - len(known)
