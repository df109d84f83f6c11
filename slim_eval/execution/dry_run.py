"""`slim-eval run --dry-run`: what a run would do, with time and memory if known; nothing is loaded or started.

Times are those that earlier records of the same folder took for the same work; without one there is none. Memory comes
from the headers of the weight files, the scheme, and the model's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from slim_eval import models, power, results
from slim_eval.config import AUTO_ENGINE, RunConfig
from slim_eval.engines import ENGINES, engines_for, memory
from slim_eval.errors import HubError, UsageError
from slim_eval.execution import fingerprints
from slim_eval.execution.plan import PlannedVariant
from slim_eval.models import checkpoint_checks, gguf
from slim_eval.quantization import cache
from slim_eval.results.records import Record
from slim_eval.schemes import DEFAULT_BASELINE, SCHEMES, is_quantized, scheme_of
from slim_eval.utils import GIB, number
from slim_eval.utils.word_table import WordTable, columns_of

_UNKNOWN = "not known"
_SCALE_BYTES = 2  # of a quantized weight's scales, which are in the model's 16-bit dtype


@dataclass(frozen=True)
class StageForecast:
    """A stage of a variant, by the name that it is shown by while it runs."""

    name: str
    reused: bool = False
    reason: str = ""  # why it is done again although there is a record
    seconds: float | None = None  # that it took before; None if that is not known, or it is reused


@dataclass(frozen=True)
class VariantForecast:
    """What a run would do for a variant, and the memory that it would take."""

    name: str
    stages: list[StageForecast]
    weight_bytes: float | None  # as served; None if the headers cannot be read
    kv_bytes_per_token: int | None  # None if the configuration does not determine it
    context: int  # most tokens per request
    batch_size: int  # requests at once, in the largest batch still to be measured
    notes: tuple[str, ...] = ()  # warnings on the checkpoint

    @property
    def kv_cache_bytes(self) -> int | None:
        """Most KV cache: every request of the batch as long as the context window."""
        return None if self.kv_bytes_per_token is None else self.kv_bytes_per_token * self.context * self.batch_size

    @property
    def todo(self) -> list[StageForecast]:
        """The stages that are not reused."""
        return [stage for stage in self.stages if not stage.reused]


def forecast(
    config: RunConfig, variants: Sequence[PlannedVariant], gpus: Sequence[power.Gpu] | None
) -> list[VariantForecast]:
    """What a run of these variants would do; `SlimEvalError` if a cached checkpoint was made with other settings."""
    known = results.find_results(config.output_dir).variants if config.output_dir.is_dir() else ()
    forecasts = []
    for variant in variants:
        own = variant.config
        engine = None if own.engine.engine == AUTO_ENGINE else own.engine.engine  # None: the run will choose
        is_to_quantize = is_quantized(variant.precision) and variant.todo
        cached = cache.cached(variant.quantize_request(variant.source)) if is_to_quantize else None
        earlier = [record for found in known for record in found.records if record.model == variant.source.name]
        facts = models.facts_of(variant.source)
        weights: float | None = None
        per_token: int | None = None
        # An engine that emulates quantized kernels unpacks the weights.
        emulated = engine is not None and ENGINES[engine].quantized_kernels == "emulated"
        likely = engines_for(own.engine.engine)[0].name
        width = memory.float_bytes(variant.dtypes(gpus).get(likely, facts.dtype))
        if cached is not None and not emulated:
            weights = float(memory.served_bytes(cached.path, "float32" if width == 4 else facts.dtype))
        elif gguf.is_gguf(variant.source.config_dir):
            weights = float(gguf.read(variant.source.config_dir).weight_bytes)
        elif variant.source.kind != "endpoint":
            with suppress(HubError, UsageError):
                tensors = models.read_tensors(variant.source)
                weights = weight_bytes(tensors, DEFAULT_BASELINE if emulated else variant.precision, facts, width)
        if facts.attention_layers is not None and facts.kv_heads is not None and facts.head_size is not None:
            is_fp8 = str(own.engine.engine_args.get("kv_cache_dtype", "")).startswith("fp8")
            held = scheme_of(variant.precision).kv_cache_bits
            bits = 8 if is_fp8 else 8 * width if held == SCHEMES[DEFAULT_BASELINE].kv_cache_bits else held
            # A key and a value per layer and head.
            per_token = int(2 * facts.attention_layers * facts.kv_heads * facts.head_size * bits / 8)
        stages = _stages(variant, gpus, engine, earlier, is_cached=cached is not None)
        busy = variant.todo or variant.benchmarks
        batch_size = max(variant.benchmarks[stage].batch_size(own, stage) for stage in busy)
        forecasts.append(
            VariantForecast(
                variant.name, stages, weights, per_token, variant.max_model_len, batch_size, variant.notes
            )
        )  # fmt: skip
    return forecasts


def _stages(
    variant: PlannedVariant,
    gpus: Sequence[power.Gpu] | None,
    engine: str | None,
    earlier: list[Record],
    *,
    is_cached: bool,
) -> list[StageForecast]:
    """The stages of a variant, with their times in earlier records of the same model."""
    stages = []
    if variant.todo and (variant.source.pickled is not None or variant.source.base is not None):
        conversion = cache.conversion(variant.source, variant.config.quantized_models_dir)
        stages.append(StageForecast("convert", conversion.is_done))
    if variant.todo and is_quantized(variant.precision):
        request = variant.quantize_request(variant.source)
        folder = cache.checkpoint_directory(request)
        made = cache.read_record(folder) if (folder / cache.RECORD_FILE).is_file() else None
        # Known only for this very checkpoint, if it is to be made again.
        seconds = made.duration_s if made is not None and made.settings == cache.settings(request) else None
        stages.append(StageForecast("quantize", is_cached, seconds=seconds))
    if variant.todo:
        loaded = [each for each in earlier if each.precision == variant.precision and engine in (None, each.engine)]
        times = [getattr(record, "load_time_s", None) for record in loaded]
        seconds = next((float(time) for time in times if time is not None), None)
        stages.append(StageForecast("engine", seconds=seconds))
    for name, asked in variant.settings(gpus).items():
        # The same work took this time before: under this scheme if known, else under another one.
        same = [
            record
            for record in earlier
            if results.record_name(record) == results.record_path(variant.directory, name).stem
            and record.stage_duration_s is not None
            and record.measured_with is not None
            and _is_same_work(record, fingerprints.served_by(asked, engine or record.engine))
        ]
        best = min(same, key=lambda record: record.precision != variant.precision, default=None)
        is_done = name in variant.reused
        seconds = None if is_done or best is None else best.stage_duration_s
        stages.append(StageForecast(name, is_done, variant.again.get(name, ""), seconds))
    return stages


def _is_same_work(record: Record, now: fingerprints.Settings) -> bool:
    return fingerprints.same_work(fingerprints.of_record(record, now), now)


def weight_bytes(found: models.Tensors, precision: str, facts: models.ConfigFacts, float_bytes: int = 2) -> float:
    """Bytes of a checkpoint's weights under a scheme, scales included, from the tensors of the 16-bit checkpoint.

    What a recipe does not quantize takes `float_bytes` per number. One that comes quantized is counted as it is.
    """
    if facts.is_quantized:
        return float(sum(models.tensor_bytes(kind, shape) for kind, shape in found.values()))
    held = scheme_of(precision)
    widths = {} if held.recipe is None else checkpoint_checks.linear_inputs(found, facts, held.recipe)
    group = None if held.recipe is None else held.recipe.fitting(widths)
    total = 0.0
    for name, shape in models.parameters(found, facts.tied_embeddings).items():
        count = math.prod(shape)
        if (width := widths.get(name)) is not None:
            total += held.weight_bits / 8 * count
            total += _SCALE_BYTES * count / width * (math.ceil(width / group) if group else 1)
        else:
            total += float_bytes * count
    return total


def show(variants: Sequence[VariantForecast], notes: Iterable[str] = ()) -> None:
    """Print what a run would do: a table per variant with its memory, then notes and the time of all of them."""
    out = Console(highlight=False)
    for variant in variants:
        rows: list[tuple[str, str, str]] = []
        for stage in variant.stages:
            plan = {"quantize": "quantize", "engine": "load"}.get(stage.name, "measure")
            if stage.reason:
                plan = f"{plan} again: {stage.reason}"
            shown = ("reuse", "-") if stage.reused else (plan, _duration(stage.seconds))
            rows.append((stage.name, *shown))
        out.print(WordTable(columns_of(("stage", "plan", "time"), rows), variant.name))
        weights, kv_cache = (
            _UNKNOWN if size is None else f"{number(size / GIB)} GiB"
            for size in (variant.weight_bytes, variant.kv_cache_bytes)
        )
        if variant.kv_bytes_per_token is not None:
            tokens = f"{variant.kv_bytes_per_token:,} bytes per token x {variant.context} tokens"
            kv_cache = f"at most {kv_cache} ({tokens} x {variant.batch_size} requests)"
        out.print(f"memory: weights {weights}, KV cache {kv_cache}", markup=False, soft_wrap=True)
        for text in variant.notes:
            out.print(f"note: {text}", markup=False, soft_wrap=True)
    for text in notes:
        out.print(f"note: {text}", markup=False, soft_wrap=True)
    todo = [stage for variant in variants for stage in variant.todo]
    known = [stage.seconds for stage in todo if stage.seconds is not None]
    unknown = len(todo) - len(known)
    time = _duration(sum(known) if known or not todo else None)
    if known and unknown:
        time += f", and {unknown} stages whose time is {_UNKNOWN}"
    reused = sum(len(variant.stages) for variant in variants) - len(todo)
    counts = f"{len(todo)} stages to do, {reused} reused"
    for line in (counts, f"time: {time}", "nothing was started or written (--dry-run)"):
        out.print(line, markup=False, soft_wrap=True)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
