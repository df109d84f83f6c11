"""Planning a run: its variants in their order, and everything that can be known before hours of work."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slim_eval import models, power, results
from slim_eval.config import Benchmark, RunConfig
from slim_eval.engines import engines_for
from slim_eval.errors import INSTALL, INSTALL_GPU, MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages
from slim_eval.execution.demo_run import adapt
from slim_eval.execution.executor import executor
from slim_eval.quantization import cache
from slim_eval.schemes import in_order, is_quantized, scheme
from slim_eval.utils import GIB, environment

# No checkpoint of 4-bit weights is smaller than this share of its 16-bit one, and no 16-bit one than this share of
# pickled weights, which may be in 32 bit and hold a tensor twice.
_SMALLEST_SHARE = 0.25

#: Modules that the interpreter which quantizes must find.
QUANTIZING_MODULES = ("torch", "transformers", "llmcompressor", "datasets", "pydantic", "huggingface_hub")


@dataclass(frozen=True)
class PlannedVariant:
    """One (model, precision) to measure.

    Attributes:
        config: The run's config as it holds for this model.
        max_model_len: Context window that is served.
        label: What tells it apart from other variants of the same model and precision.
        reused: Stages whose records are done already; `resuming.survey` finds them.
        again: Stage -> why it is measured again although something is there.
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
        """How the variant is called on the terminal."""
        return f"{self.source.name} {self.precision} {self.label}".rstrip()

    @property
    def stages(self) -> list[str]:
        """The stages to do in their order, as shown on the terminal; none where every record is done."""
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
        """The stages that make a record: the benchmarks, and each task of accuracy."""
        names = [b.value for b in (Benchmark.PERFORMANCE, Benchmark.ENERGY) if b in self.config.tasks]
        return names + (list(self.config.accuracy.tasks) if Benchmark.ACCURACY in self.config.tasks else [])

    def settings(self, gpus: Sequence[power.Gpu]) -> dict[str, fingerprints.Settings]:
        """What each record's numbers depend on, but for the engine that serves: `fingerprints.served_by` adds it.

        Args:
            gpus: What computes; the CPU where there are none.
        """
        device = ", ".join(gpu.name for gpu in gpus) if gpus else environment.cpu_name()
        stages = fingerprints.stage_settings(self.config, max_model_len=self.max_model_len, device=device)
        checkpoint = fingerprints.checkpoint_settings(self.quantize_request(self.source))
        return {name: {**checkpoint, **stages[name]} for name in self.records}

    def quantize_request(self, source: models.ModelSource) -> cache.QuantizeRequest:
        """What is asked of quantization."""
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
    """Check everything that can be known before hours of work, and lay out the variants, model by model, fp16 first.

    Raises:
        SlimEvalError: As `evaluate`; nothing was written.
    """
    variants, gpus = lay_out(config)
    check(config, variants, gpus)
    return variants, gpus


def lay_out(config: RunConfig) -> tuple[list[PlannedVariant], tuple[power.Gpu, ...]]:
    """The variants, model by model, fp16 first, and the GPUs; nothing is started or written.

    Raises:
        SlimEvalError: As `evaluate`.
    """
    gpus = power.resolve_gpus(
        config.engine.gpu_index, config.engine.tensor_parallel_size, os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    sources = [models.resolve(name, config.revision, allow_pickle=config.allow_pickle) for name in config.models]
    if config.revision and all(source.kind != "hub" for source in sources):
        raise UsageError(f"--revision {config.revision}: none of the models is from the hub", "leave it out")
    engines_for(config.engine.engine)  # refuses an unknown name
    precisions = in_order(scheme(name).name for name in config.precision)
    power.check_energy_source(config.energy.source)
    variants = [_planned(source, precision, config) for source in sources for precision in precisions]
    results.require_writable(config.output_dir, "--output-dir")
    results.require_writable(config.quantized_models_dir, "--quantized-models-dir")
    return variants, gpus


def check(config: RunConfig, variants: Sequence[PlannedVariant], gpus: tuple[power.Gpu, ...]) -> dict[str, str]:
    """Check what the stages still to do will need, before hours of work.

    Returns:
        str -> the engine that will serve it; empty where nothing is to do, and then nothing is started.

    Raises:
        SlimEvalError: As `evaluate`.
    """
    busy = [variant for variant in variants if variant.todo]
    if not busy:
        return {}
    _check_packages(config, busy)
    return _check_stages(config, busy, gpus)


def _planned(source: models.ModelSource, precision: str, config: RunConfig) -> PlannedVariant:
    settings = models.describe_config(source.config_dir)
    if source.path is not None:
        models.describe(source.path)  # names a weight file that is missing or truncated
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
            f"--max-model-len {wanted}: {model} holds {longest} tokens", f"lower it to {longest}, or leave it out"
        )
    return longest


def _check_packages(config: RunConfig, variants: list[PlannedVariant]) -> None:
    """Raise for packages that a stage's interpreter lacks, before anything is downloaded or loaded.

    Raises:
        UsageError: Also for a cached checkpoint that was made with other settings.
    """
    quantized = [variant for variant in variants if is_quantized(variant.precision)]
    missing = [variant for variant in quantized if cache.cached(variant.quantize_request(variant.source)) is None]
    _check_space(config.quantized_models_dir, [*(variant.source for variant in missing), *_to_convert(variants)])
    if missing:
        _require(QUANTIZING_MODULES, "quantization", config.quantize_python, "--quantize-python")
    answering = any(_tasks_to_do(variant) for variant in variants)
    benchmarks = [name for name in config.tasks if name is not Benchmark.ACCURACY or answering]
    serving = serving_modules(config.engine.engine, benchmarks)
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
    """Raise where checkpoints surely do not fit; one of a model that is not here yet counts for nothing.

    Args:
        folder: Where they will be written.
        sources: What each of them will be made of.

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
            "make room, or name a folder on another disk",
        )


def serving_modules(engine: str, tasks: Collection[Benchmark]) -> tuple[str, ...]:
    """Modules that the interpreter which measures must find; with ``auto``, those of the engine that is tried last."""
    lm_eval = ("lm_eval",) if Benchmark.ACCURACY in tasks else ()
    return (*engines_for(engine)[-1].modules, "pydantic", "huggingface_hub", "psutil", "pynvml", "scipy", *lm_eval)


def install_command(python: Path | None) -> str:
    """The command that installs a stage's packages into its interpreter; None is this one."""
    return INSTALL if python is None else f"{python} -m {INSTALL_GPU}"


def _require(modules: Sequence[str], purpose: str, python: Path | None, option: str) -> None:
    try:
        missing = environment.missing_modules(modules, python)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{option} {python}: is not a Python interpreter that runs: {error}", "give its path"
        ) from error
    if missing:
        raise MissingPackageError(missing[0], purpose, install_command(python))


def _tasks_to_do(variant: PlannedVariant) -> list[str]:
    """The tasks of accuracy that are to be run."""
    if Benchmark.ACCURACY not in variant.config.tasks:
        return []
    return [task for task in variant.config.accuracy.tasks if task not in variant.reused]


def _check_stages(config: RunConfig, variants: list[PlannedVariant], gpus: tuple[power.Gpu, ...]) -> dict[str, str]:
    """Ask the serving interpreter whether it knows the tasks and runs the precisions; it alone can import lm-eval."""
    tasks = dict.fromkeys(task for variant in variants for task in _tasks_to_do(variant))
    job = messages.CheckJob(
        engine=config.engine,
        precisions=tuple(dict.fromkeys(variant.precision for variant in variants)),
        tasks=tuple(tasks),
        include_path=config.accuracy.include_path,
    )
    chosen: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="slim-eval-") as folder:
        events = executor(config.executor).submit(
            job, log=Path(folder, "check.log"), python=config.serve_python, environment=visible_devices(gpus)
        )
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


def visible_devices(gpus: tuple[power.Gpu, ...]) -> Mapping[str, str]:
    """A worker sees the chosen GPUs and no other, numbered as NVML numbers them, so that both mean the same."""
    if not gpus:
        return {}
    indices = ",".join(str(gpu.index) for gpu in gpus)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": indices}


def foresight(config: RunConfig, variants: Sequence[PlannedVariant]) -> list[str]:
    """What a limit on the items cannot show, said before hours are spent on it."""
    limit = config.accuracy.limit
    if limit is None or not any(_tasks_to_do(variant) for variant in variants):
        return []
    from slim_eval.stats import minimum_detectable_drop

    points = 100 * minimum_detectable_drop(limit)
    return [
        f"--accuracy-limit {limit}: with {limit} items a (sub)task, drops under about {points:.0f} points cannot be "
        "seen (80 % power, if 10 % of the answers flip)"
    ]
