"""Planning a run: its variants in their order, and everything that can be checked before hours of work."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim_eval import models, power, results
from slim_eval.benchmarks.base import Benchmark, benchmarks_of, check_options, stages_of
from slim_eval.config import (
    AccuracyConfig,
    Config,
    EnergyConfig,
    EngineConfig,
    PerformanceConfig,
    QuantizationConfig,
    RunConfig,
    TrackingConfig,
)
from slim_eval.demo import CALIBRATION_FILE, TASKS
from slim_eval.engines import engines_for
from slim_eval.errors import INSTALL, INSTALL_GPU, MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages
from slim_eval.execution.executor import executor
from slim_eval.quantization import cache
from slim_eval.schemes import in_order, is_quantized, scheme
from slim_eval.utils import GIB, environment

# No checkpoint of 4-bit weights is smaller than this share of its 16-bit one, and no 16-bit one than this share of
# pickled weights, which may be in 32 bit and contain a tensor twice.
_SMALLEST_SHARE = 0.25

#: Modules that the interpreter which quantizes must find.
QUANTIZING_MODULES = ("torch", "transformers", "llmcompressor", "datasets", "pydantic", "huggingface_hub", "pynvml")


@dataclass(frozen=True)
class PlannedVariant:
    """One model under one scheme, to measure.

    Attributes:
        config: The run's config as it applies to this model.
        max_model_len: Context window that is served.
        label: Distinguishes it from other variants of the same model and scheme.
        reused: Stages whose records are done already; `resume.survey` finds them.
        again: Stage -> why it is measured again although there is a record.
    """

    source: models.ModelSource
    precision: str
    directory: Path
    config: RunConfig
    max_model_len: int
    label: str = ""
    reused: frozenset[str] = frozenset()
    again: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name on the terminal."""
        return f"{self.source.name} {self.precision} {self.label}".rstrip()

    @property
    def stages(self) -> list[str]:
        """The stages to do in their order, as shown on the terminal; none if every record is done."""
        if not self.todo:
            return []
        converted = [] if self.source.pickled is None else ["convert"]
        return [*converted, *([] if not is_quantized(self.precision) else ["quantize"]), "engine", *self.todo]

    @property
    def todo(self) -> list[str]:
        """The stages that make a record and are not done."""
        return [name for name in self.records if name not in self.reused]

    @property
    def records(self) -> list[str]:
        """The stages that make a record: one per benchmark, and one per task of accuracy."""
        return list(self.benchmarks)

    @property
    def benchmarks(self) -> dict[str, Benchmark[Any, Any]]:
        """Stage that makes a record -> its benchmark, in the order of measuring."""
        return stages_of(self.config)

    def settings(self, gpus: Sequence[power.Gpu]) -> dict[str, fingerprints.Settings]:
        """What each record's numbers depend on, without the engine that serves: `fingerprints.served_by` adds it.

        Args:
            gpus: The GPUs that compute; empty for the CPU.
        """
        device = fingerprints.device_name(gpus)
        stages = fingerprints.stage_settings(self.config, max_model_len=self.max_model_len, device=device)
        checkpoint = fingerprints.checkpoint_settings(self.quantize_request(self.source))
        return {name: {**checkpoint, **stages[name]} for name in self.records}

    def quantize_request(self, source: models.ModelSource) -> cache.QuantizeRequest:
        """The quantization of this variant."""
        return cache.QuantizeRequest(
            source=source,
            precision=self.precision,
            directory=self.config.quantized_models_dir,
            config=self.config.quantization,
            seed=self.config.seed,
            trust_remote_code=self.config.engine.trust_remote_code,
            models=self.config.models,
        )


def plan(config: RunConfig) -> tuple[list[PlannedVariant], tuple[power.Gpu, ...]]:
    """Lay out the variants, model by model, the baseline first, and check everything that can be checked beforehand.

    Raises:
        SlimEvalError: As `evaluate`; nothing was written.
    """
    variants, gpus = lay_out(config)
    check(config, variants)
    return variants, gpus


def lay_out(config: RunConfig) -> tuple[list[PlannedVariant], tuple[power.Gpu, ...]]:
    """The variants, model by model, the baseline first, and the GPUs; nothing is started or written.

    The GPUs are those that a worker on this machine will use. They are resolved here only to forecast (a dry run, and
    which records are done); a worker resolves its own, on its machine.

    Raises:
        SlimEvalError: As `evaluate`.
    """
    check_options(config)
    engines_for(config.engine.engine)  # refuses an unknown name
    precisions = in_order(scheme(name).name for name in config.precision)
    power.check_energy_source(config.energy.source)
    gpus = power.resolve_gpus(
        config.engine.gpu_index, config.engine.tensor_parallel_size, os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    sources = [models.resolve(name, config.revision, allow_pickle=config.allow_pickle) for name in config.models]
    if config.revision and all(source.kind != "hub" for source in sources):
        raise UsageError(f"--revision {config.revision}: none of the models is from the hub", "leave it out")
    variants = [_planned(source, precision, config) for source in sources for precision in precisions]
    results.require_writable(config.output_dir, "--output-dir")
    results.require_writable(config.quantized_models_dir, "--quantized-models-dir")
    return variants, gpus


def check(config: RunConfig, variants: Sequence[PlannedVariant]) -> dict[str, str]:
    """Check what the stages still to do will need, before hours of work.

    Returns:
        Scheme -> the engine that will serve it; empty if there is nothing to do, and then nothing is started.

    Raises:
        SlimEvalError: As `evaluate`.
    """
    busy = [variant for variant in variants if variant.todo]
    if not busy:
        return {}
    _check_packages(config, busy)
    return _check_stages(config, busy)


def _planned(source: models.ModelSource, precision: str, config: RunConfig) -> PlannedVariant:
    settings = models.describe_config(source.config_dir)
    if source.path is not None:
        models.describe(source.path)  # raises for a weight file that is missing or truncated
    models.require_plain(source, settings, precision)
    return PlannedVariant(
        source=source,
        precision=precision,
        directory=results.variant_directory(config.output_dir, source.name, precision, config.models),
        config=adapt(config) if source.kind == "demo" else config,
        max_model_len=_context(source.name, settings.max_position_embeddings, config),
    )


def _context(model: str, longest: int | None, config: RunConfig) -> int:
    wanted = config.engine.max_model_len
    if longest is None or wanted <= longest:
        return wanted
    if "max_model_len" in config.engine.model_fields_set:
        raise UsageError(
            f"--max-model-len {wanted}: {model} supports at most {longest} tokens",
            f"lower it to {longest}, or leave it out",
        )
    return longest


def _check_packages(config: RunConfig, variants: list[PlannedVariant]) -> None:
    """Check that the stages' interpreters have their packages, before anything is downloaded or loaded.

    Raises:
        MissingPackageError: One of them has not.
        UsageError: An interpreter cannot run, or a cached checkpoint was made with other settings.
    """
    quantized = [variant for variant in variants if is_quantized(variant.precision)]
    missing = [variant for variant in quantized if cache.cached(variant.quantize_request(variant.source)) is None]
    _check_space(config.quantized_models_dir, [*(variant.source for variant in missing), *_to_convert(variants)])
    if missing:
        _require(QUANTIZING_MODULES, "quantization", config.quantize_python, "--quantize-python")
    serving = serving_modules(config.engine.engine, _stages_to_do(variants))
    _require(serving, "measurement", config.serve_python, "--serve-python")


def _to_convert(variants: Sequence[PlannedVariant]) -> list[models.ModelSource]:
    """The models whose pickled weights are here and are not converted yet; one is converted for all its precisions."""
    pickled = {variant.source.name: variant for variant in variants if variant.source.pickled is not None}
    return [
        variant.source
        for variant in pickled.values()
        if not cache.conversion(variant.source, variant.config.quantized_models_dir).is_done
    ]


def _check_space(folder: Path, sources: Sequence[models.ModelSource]) -> None:
    """Check that checkpoints may fit; one of a model that is not on this machine yet is not counted.

    Args:
        folder: Where they will be written.
        sources: The model of each of them.

    Raises:
        UsageError: Less is free than `_SMALLEST_SHARE` of those weights.
    """
    needed = _SMALLEST_SHARE * sum(models.bytes_here(source) for source in sources)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UsageError(
            f"--quantized-models-dir {folder}: {free / GIB:.2f} GiB are free; the checkpoints to be made take more "
            f"than {needed / GIB:.2f} GiB",
            "free some space, or choose a folder on another disk",
        )


def serving_modules(engine: str, benchmarks: Iterable[str]) -> tuple[str, ...]:
    """Modules that the interpreter which measures must find; with ``auto``, those of the fallback engine.

    Raises:
        UsageError: A benchmark is unknown.
    """
    own = [module for benchmark in benchmarks_of(benchmarks) for module in benchmark.modules]
    return (*_engine_modules(engine), "pydantic", "huggingface_hub", "psutil", "pynvml", "scipy", *own)


def _engine_modules(engine: str) -> tuple[str, ...]:
    """The modules of an engine; with ``auto``, of the fallback: the others are optional."""
    found = engines_for(engine)
    return next((member for member in found if member.is_fallback), found[-1]).modules


def install_command(python: Path | None) -> str:
    """The command that installs a stage's packages into its interpreter; None is this one."""
    return INSTALL if python is None else f"{python} -m {INSTALL_GPU}"


def _require(modules: Sequence[str], purpose: str, python: Path | None, option: str) -> None:
    try:
        missing = environment.missing_modules(modules, python)
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {python}: cannot run as a Python interpreter: {error}", "give its path") from error
    if missing:
        raise MissingPackageError(missing[0], purpose, install_command(python))


def _stages_to_do(variants: Sequence[PlannedVariant]) -> dict[str, tuple[str, ...]]:
    """Benchmark -> its stages that are still to do in any of the variants."""
    found: dict[str, dict[str, None]] = {}
    for variant in variants:
        for stage, benchmark in variant.benchmarks.items():
            if stage not in variant.reused:
                found.setdefault(benchmark.name, {})[stage] = None
    return {name: tuple(stages) for name, stages in found.items()}


def _check_stages(config: RunConfig, variants: list[PlannedVariant]) -> dict[str, str]:
    """Check in the serving interpreter, which has lm-eval and the engines, that the stages and schemes can be run."""
    job = messages.CheckJob(
        config=config.model_copy(update={"tracking": TrackingConfig()}),
        precisions=tuple(dict.fromkeys(variant.precision for variant in variants)),
        stages=_stages_to_do(variants),
    )
    chosen: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="slim-eval-") as folder:
        events = executor(config.executor).submit(job, log=Path(folder, "check.log"), python=config.serve_python)
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, messages.Failed):
                    raise (UsageError if event.usage else SlimEvalError)(event.cause, event.remedy)
                if isinstance(event, messages.Chosen):
                    chosen[event.precision] = event.engine
                elif isinstance(event, messages.Outcome) and event.died:
                    raise SlimEvalError(
                        f"the --serve-python interpreter failed: {event.describe()}", f"fix it with: {INSTALL}"
                    )
    return chosen


def foresight(config: RunConfig, variants: Sequence[PlannedVariant]) -> list[str]:
    """What the options of the benchmarks still to do make impossible to see, known before hours are spent on it."""
    return [text for benchmark in benchmarks_of(_stages_to_do(variants)) for text in benchmark.limitations(config)]


def adapt(config: RunConfig) -> RunConfig:
    """The run's config for the embedded model, which knows a small world: its own tasks and texts, unless given."""
    return config.model_copy(
        update={
            "accuracy": _filled(config.accuracy, tasks=TASKS),
            "quantization": _filled(config.quantization, calibration_dataset=str(CALIBRATION_FILE)),
        }
    )


def _filled(part: Config, **values: Any) -> Config:
    return part.model_copy(update={key: value for key, value in values.items() if key not in part.model_fields_set})


def demo_config(output_dir: Path, quantized_models_dir: Path, engine: str, *, force: bool = False) -> RunConfig:
    """The run of `slim-eval demo`: three schemes and every benchmark, sized for a few minutes on two CPU cores.

    Args:
        output_dir: Where results are written.
        quantized_models_dir: Where quantized checkpoints are kept.
        engine: One engine for all schemes, so that their speeds can be compared.
        force: Measure everything again and replace earlier results.
    """
    return RunConfig(
        models=("demo",),
        precision=("fp16", "int8", "int4"),
        output_dir=output_dir,
        quantized_models_dir=quantized_models_dir,
        force=force,
        performance=PerformanceConfig(num_runs=96, max_new_tokens=64),
        energy=EnergyConfig(sample_runs=30),
        accuracy=AccuracyConfig(tasks=TASKS, num_fewshot=2),
        engine=EngineConfig(engine=engine, enforce_eager=True),
        quantization=QuantizationConfig(calibration_dataset=str(CALIBRATION_FILE), num_calibration_samples=64),
        tracking=TrackingConfig(enabled=False),
    )
