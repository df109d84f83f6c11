"""`slim-eval run --dry-run`: what a run would do, with time and memory if known; nothing is loaded or started.

Times are those that earlier records of the same folder took for the same work; without one there is none. Memory comes
from the headers of the weight files, the scheme, and the model's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from slim_eval import models, power, results
from slim_eval.config import AUTO_ENGINE, RunConfig
from slim_eval.engines import ENGINES
from slim_eval.errors import HubError, UsageError
from slim_eval.execution import fingerprints
from slim_eval.execution.plan import PlannedVariant
from slim_eval.execution.progress import escape
from slim_eval.quantization import cache
from slim_eval.results.records import Record
from slim_eval.schemes import DEFAULT_BASELINE, SCHEMES, is_quantized
from slim_eval.utils import GIB, number

_UNKNOWN = "not known"
_SCALE_BYTES = 2  # of a quantized weight's scales, which are in the model's 16-bit dtype
_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector")


@dataclass(frozen=True)
class StageForecast:
    """A stage of a variant.

    Attributes:
        name: As shown while it runs.
        reused: Whether it is done already.
        reason: Why it is done again although there is a record.
        seconds: What it took before; None if that is not known, or it is reused.
    """

    name: str
    reused: bool = False
    reason: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class VariantForecast:
    """A variant.

    Attributes:
        weight_bytes: Weights as served; None if the headers cannot be read.
        kv_bytes_per_token: KV cache per token; None if the configuration does not determine it.
        context: Most tokens per request.
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
        """Most KV cache: every request of the batch as long as the context window."""
        return None if self.kv_bytes_per_token is None else self.kv_bytes_per_token * self.context * self.batch_size

    @property
    def todo(self) -> tuple[StageForecast, ...]:
        """The stages that are not reused."""
        return tuple(stage for stage in self.stages if not stage.reused)


def forecast(
    config: RunConfig, variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu]
) -> tuple[VariantForecast, ...]:
    """What a run of these variants would do.

    Args:
        config: The run's config.
        variants: With their stages that are done already, from `resume.survey`.
        gpus: The GPUs that would compute.

    Raises:
        SlimEvalError: The cache of quantized checkpoints has one with other settings.
    """
    known = results.find_results(config.output_dir).variants if config.output_dir.is_dir() else ()
    earlier = [record for variant in known for record in variant.records]
    return tuple(_variant(variant, gpus, earlier) for variant in variants)


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
    busy = variant.todo or variant.records
    return VariantForecast(
        name=variant.name,
        stages=tuple(stages),
        weight_bytes=_weights(variant, facts, cached),
        kv_bytes_per_token=_kv_bytes_per_token(facts, variant.config, variant.precision),
        context=variant.max_model_len,
        batch_size=max(variant.benchmarks[stage].batch_size(variant.config, stage) for stage in busy),
    )


def _stage_s(
    variant: PlannedVariant, stage: str, asked: Mapping[str, object], earlier: Iterable[Record]
) -> float | None:
    """What the same work on the same model took before: under this scheme if known, else under another one."""
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
    """What making this very checkpoint took, if it is cached and is to be made again."""
    folder = cache.checkpoint_directory(request)
    if not (folder / cache.RECORD_FILE).is_file():
        return None
    record = cache.read_record(folder)
    return record.duration_s if record.settings == cache.settings(request) else None


def _of_model(variant: PlannedVariant, earlier: Iterable[Record]) -> Iterable[Record]:
    return (record for record in earlier if record.model == variant.source.name)


def _engine(variant: PlannedVariant) -> str | None:
    """The engine of `--engine`; None if the run will choose."""
    choice = variant.config.engine.engine
    return None if choice == AUTO_ENGINE else choice


def _kv_bytes_per_token(facts: models.ConfigFacts, config: RunConfig, precision: str) -> int | None:
    """Bytes of KV cache per token, from the model's shape: a key and a value per layer and head."""
    if facts.attention_layers is None or facts.kv_heads is None or facts.head_size is None:
        return None
    bits = SCHEMES[precision].kv_cache_bits
    if str(config.engine.engine_args.get("kv_cache_dtype", "")).startswith("fp8"):
        bits = 8
    return int(2 * facts.attention_layers * facts.kv_heads * facts.head_size * bits / 8)


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
    """Bytes of a checkpoint's weights under a scheme, scales included.

    The two-dimensional weights that a recipe does not ignore are quantized; the rest stays in 16 bit. A checkpoint that
    comes quantized is counted as it is.

    Args:
        found: Name -> (dtype, shape), in the 16-bit checkpoint.
        precision: Name of the scheme.
        facts: Its configuration.
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


def show(variants: Sequence[VariantForecast]) -> None:
    """Print what a run would do: a table per variant, then the time of all of them."""
    out = Console(highlight=False)
    for variant in variants:
        out.print(_table(variant))
        out.print(_memory(variant), markup=False, soft_wrap=True)
    for line in _closing(variants):
        out.print(line, markup=False, soft_wrap=True)


def _table(variant: VariantForecast) -> Table:
    table = Table("stage", "plan", "time", title=escape(variant.name), title_justify="left")
    for stage in variant.stages:
        time = "-" if stage.reused else _duration(stage.seconds)
        table.add_row(escape(stage.name), escape(_plan(stage)), time)
    return table


def _plan(stage: StageForecast) -> str:
    if stage.reused:
        return "reuse"
    verb = {"quantize": "quantize", "engine": "load"}.get(stage.name, "measure")
    return f"{verb} again: {stage.reason}" if stage.reason else verb


def _memory(variant: VariantForecast) -> str:
    weights = _UNKNOWN if variant.weight_bytes is None else f"{number(variant.weight_bytes / GIB)} GiB"
    if variant.kv_cache_bytes is None:
        return f"memory: weights {weights}, KV cache {_UNKNOWN}"
    cache = f"{number(variant.kv_cache_bytes / GIB)} GiB"
    made_of = (
        f"{variant.kv_bytes_per_token:,} bytes per token x {variant.context} tokens x {variant.batch_size} requests"
    )
    return f"memory: weights {weights}, KV cache at most {cache} ({made_of})"


def _closing(variants: Sequence[VariantForecast]) -> list[str]:
    reused = sum(len(variant.stages) - len(variant.todo) for variant in variants)
    todo = sum(len(variant.todo) for variant in variants)
    seconds, unknown = total_seconds(variants)
    time = _duration(seconds) if unknown < todo or not todo else _UNKNOWN
    rest = f", and {unknown} stages whose time is {_UNKNOWN}" if unknown and unknown < todo else ""
    return [
        f"{todo} stages to do, {reused} reused",
        f"time: {time}{rest}",
        "nothing was started or written (--dry-run)",
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
