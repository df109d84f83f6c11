"""Planning a run: its variants in their order, and everything that can be checked before hours of work."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim_eval import models, power, results
from slim_eval.benchmarks.base import BENCHMARKS, Benchmark, ServedModel, benchmarks_of, check_options, stages_of
from slim_eval.config import AUTO_ENGINE, Dtype, RunConfig, TrackingConfig
from slim_eval.demo import CALIBRATION_FILE, TASKS
from slim_eval.engines import ENGINES, engines_for
from slim_eval.engines.openai import OPENAI, require_endpoint
from slim_eval.errors import INSTALL, INSTALL_GPU, MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages
from slim_eval.execution.executor import EXECUTORS, Cluster, LocalExecutor, executor
from slim_eval.models import checkpoint_checks, gguf
from slim_eval.models.hub import optional_file, settings
from slim_eval.models.publish import QUANTIZATION_RECORD
from slim_eval.quantization import cache, recipe_files
from slim_eval.recognise import base_model, of_name
from slim_eval.schemes import AS_IS, DEFAULT_BASELINE, as_is_name, in_order, is_quantized, scheme, scheme_of
from slim_eval.utils import GIB, environment, safe_json, short_name

_CARD_FILE, _CARD_LIMIT = "README.md", 10**6  # of a model, and how many bytes of it are read at most

# No checkpoint of 4-bit weights is smaller than this share of its 16-bit one, and no 16-bit one than this share of
# pickled weights, which may be in 32 bit and contain a tensor twice.
_SMALLEST_SHARE = 0.25

#: Modules that the interpreter which quantizes must find.
QUANTIZING_MODULES = ("torch", "transformers", "llmcompressor", "datasets", "pydantic", "huggingface_hub", "pynvml")


@dataclass(frozen=True)
class PlannedVariant:
    """One model under one scheme, to measure."""

    source: models.ModelSource
    precision: str
    directory: Path
    config: RunConfig  # of the run, as it applies to this model
    max_model_len: int  # context window that is served
    notes: tuple[str, ...] = ()  # warnings on its checkpoint, for its records
    base_model: str | None = None  # what a checkpoint that came quantized was made from; None if not known
    label: str = ""  # distinguishes it from other variants of the same model and scheme
    reused: frozenset[str] = frozenset()  # stages whose records are done already; `resume.survey` finds them
    again: Mapping[str, str] = field(default_factory=dict)  # stage -> why it is measured again although it has a record

    @property
    def name(self) -> str:
        """Name on the terminal."""
        return f"{self.source.name} {self.precision} {self.label}".rstrip()

    @property
    def base(self) -> str:
        """The model that this one was made from, which may be itself."""
        return self.base_model or self.source.name

    @property
    def benchmarks(self) -> dict[str, Benchmark[Any, Any]]:
        """Stage that makes a record (a task, or a benchmark) -> its benchmark, in the order of measuring."""
        return stages_of(self.config)

    @property
    def todo(self) -> list[str]:
        """The stages that make a record and are not done."""
        return [stage for stage in self.benchmarks if stage not in self.reused]

    @property
    def stages(self) -> list[str]:
        """The stages to do in their order, as shown on the terminal; none if every record is done."""
        converted = [] if self.source.pickled is None and self.source.base is None else ["convert"]
        quantized = ["quantize"] if is_quantized(self.precision) else []
        return [*converted, *quantized, "engine", *self.todo] if self.todo else []

    def settings(self, gpus: Sequence[power.Gpu] | None) -> dict[str, fingerprints.Settings]:
        """What each record's numbers depend on; `fingerprints.served_by` adds the engine.

        No GPUs stand for the CPU; None for a device that is not known yet, and is then no setting.
        """
        # What computes for a remote endpoint is known by its address alone.
        is_remote = self.config.engine.remote_url is not None
        device = None if gpus is None or is_remote else fingerprints.device_name(gpus)
        dtypes = {} if gpus is None else self.dtypes(gpus)
        stages = fingerprints.stage_settings(
            self.config, max_model_len=self.max_model_len, device=device, dtypes=dtypes
        )
        checkpoint = fingerprints.checkpoint_settings(self.quantize_request(self.source))
        unknown = {"device"} if gpus is None else set()
        return {
            stage: {**checkpoint, **{key: value for key, value in settings.items() if key not in unknown}}
            for stage, settings in stages.items()
        }

    def dtypes(self, gpus: Sequence[power.Gpu] | None) -> dict[str, str]:
        """Engine -> the data type in which it would compute; empty if only weights that are not here name it.

        No GPUs stand for the CPU; None for GPUs that are not known yet.
        """
        on_cpu = gpus is not None and not gpus
        asked, served = self.config.engine.asked_dtype, scheme_of(self.precision)
        facts = models.facts_of(self.source)
        if not facts.dtype_stated and asked is Dtype.AUTO:
            try:
                facts = models.describe(self.source.path or self.source.config_dir)  # the hub's cache, once fetched
            except UsageError:
                return {}
        known = {name: engine for name, engine in ENGINES.items() if engine.capabilities.dtype}
        return {
            name: engine.computing_dtype(asked, facts, served, on_cpu=on_cpu, gpus=gpus or ())
            for name, engine in known.items()
        }

    def recorded_as(self, source: models.ModelSource) -> str:
        """`quantization_scheme` of its records, with the group size if that is not the scheme's own."""
        own = scheme_of(self.precision)
        return own.recorded_as if own.recipe is None else self.quantize_request(source).recipe.name

    def quantize_request(self, source: models.ModelSource) -> cache.QuantizeRequest:
        """The quantization of this variant."""
        return _quantize_request(self.config, source, self.precision)


def _quantize_request(config: RunConfig, source: models.ModelSource, precision: str) -> cache.QuantizeRequest:
    recipe, asked = scheme_of(precision).recipe, config.quantization
    size, all_fit = None, False
    if recipe is not None and recipe.group_size is not None:
        known = cache.converted(source, config.quantized_models_dir)
        size, all_fit = checkpoint_checks.grouping(known, recipe, asked.group_size, skip_unfit=asked.skip_unfit)
    return cache.QuantizeRequest(
        group_size=size,
        all_fit=all_fit,
        source=source,
        precision=precision,
        directory=config.quantized_models_dir,
        config=config.quantization,
        seed=config.seed,
        trust_remote_code=config.engine.trust_remote_code,
        models=config.models,
    )


def intended_use(config: RunConfig, source: models.ModelSource, precisions: Sequence[str]) -> checkpoint_checks.Use:
    """What a run would do with a model, as far as the checks of its checkpoint need it."""
    servers = engines_for(config.engine.engine)
    if config.engine.engine == AUTO_ENGINE:
        with contextlib.suppress(OSError, ValueError):  # an interpreter that does not run is reported by `check`
            servers = [
                member for member in servers if not environment.missing_modules(member.modules, config.serve_python)
            ]
    return checkpoint_checks.Use(
        precisions=tuple(precisions),
        to_quantize=tuple(
            precision
            for precision in precisions
            if is_quantized(precision) and not cache.is_made(_quantize_request(config, source, precision))
        ),
        servers=tuple(servers),
        engine_args=config.engine.engine_args,
        trust_remote_code=config.engine.trust_remote_code,
        serve_python=config.serve_python,
        quantize_python=config.quantize_python,
        elsewhere=config.executor in EXECUTORS and isinstance(EXECUTORS[config.executor], Cluster),
        group_size=config.quantization.group_size,
        skip_unfit=config.quantization.skip_unfit,
    )


def notes_on(config: RunConfig, source: models.ModelSource, precisions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Scheme -> the warnings of `models.checkpoint_checks` on a model; a `SlimEvalError` if it refuses the model.

    Neither a model at an endpoint nor a GGUF file is one of its checkpoints.
    """
    if source.kind == "endpoint":
        return dict.fromkeys(precisions, ())
    if gguf.is_gguf(source.config_dir):
        if config.engine.engine != OPENAI.name:
            cause = f"{source.name} is a GGUF file ({models.facts_of(source).scheme}), which llama.cpp serves"
            raise UsageError(cause, "add --engine openai --server llama.cpp")
        for precision in precisions:
            models.require_plain(source, models.facts_of(source), precision)
        return dict.fromkeys(precisions, (gguf.read(source.config_dir).note,))
    found = checkpoint_checks.require(source, intended_use(config, source, precisions))
    return {
        precision: tuple(finding.cause for finding in found if finding.precision in (None, precision))
        for precision in precisions
    }


def base_model_of(source: models.ModelSource) -> str | None:
    """The model that a checkpoint was made from; None if neither slim-eval's own record nor the model's card says so.

    The card is ``README.md``, whose front matter names the ``base_model``. Of a model on the hub it is fetched; without
    the hub, nothing is known. A GGUF file says it in its header, if no card does.
    """
    if source.kind == "endpoint":
        return None
    stated = gguf.read(source.config_dir).base_model if gguf.is_gguf(source.config_dir) else None
    if gguf.is_gguf(source.config_dir) and source.file is None:
        return stated
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no such record, or another file of that name
        return str(safe_json.read_json(source.config_dir / QUANTIZATION_RECORD)["model"])
    card: Path | None = source.config_dir / _CARD_FILE
    if source.kind == "hub":
        card = optional_file(source.repository, _CARD_FILE, source.revision)
    if card is None or not card.is_file() or card.stat().st_size > _CARD_LIMIT:
        return stated
    settings()
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        front = metadata_load(card)
    except (OSError, ValueError, YAMLError):
        return stated
    return (base_model(front) if isinstance(front, dict) else None) or stated


def places(config: RunConfig) -> list[tuple[power.Gpu, ...]]:
    """The GPUs of each variant that this machine measures at the same time; one place without any is the CPU.

    A UsageError refuses GPUs that do not exist, and options that belong to another executor.
    """
    asked, engine, visible = config.machines, config.engine, os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked.gpus and config.executor != LocalExecutor.name:
        raise UsageError(f"--gpus: --executor {config.executor} chooses the GPUs", "leave it out")
    if asked.gpus and engine.gpu_index:
        raise UsageError("--gpus and --gpu-index cannot be combined", "give only one of them")
    if asked.gpus:
        return power.group_gpus(asked.gpus, engine.tensor_parallel_size, visible)
    return [power.resolve_gpus(engine.gpu_index, engine.tensor_parallel_size, visible)]


def lay_out(config: RunConfig) -> tuple[list[PlannedVariant], tuple[power.Gpu, ...] | None]:
    """The variants, model by model, the baseline first, and the GPUs; nothing is started or written.

    The GPUs are those that a worker will use: None if that is not known before it starts, because it runs on whichever
    machine of a cluster is free, or because this machine has GPUs of several kinds. They are resolved here only to
    forecast (a dry run, and which records are done); a worker resolves its own, on its machine. Raises `SlimEvalError`
    as `evaluate`.
    """
    for benchmark in benchmarks_of(config.tasks):
        config = benchmark.resolved(config)
    engine = config.engine
    where = executor(config.executor)  # refuses an unknown name, as do the next two
    check_options(config)
    engines_for(engine.engine)
    recipe_files.register(config.precision, config.quantize_python)
    for name in config.precision:
        if name != AS_IS and of_name(name) is None:
            scheme(name)  # refuses an unknown name, before the hub is asked for anything
    power.check_energy_source(config.energy.source)
    gpus: tuple[power.Gpu, ...] | None = None
    if isinstance(where, Cluster):
        where.check_options(config)
    else:
        if config.machines.ray_address or config.machines.accelerator:
            raise UsageError("--ray-address and --accelerator need --executor ray", "add it, or leave them out")
        here = places(config)
        gpus = here[0] if len({tuple(gpu.name for gpu in group) for group in here}) == 1 else None
    if engine.engine != OPENAI.name and (engine.base_url or engine.server or engine.tokenizer):
        given = "--base-url" if engine.base_url else "--server" if engine.server else "--tokenizer"
        raise UsageError(f"{given} is for --engine openai", "add --engine openai")
    chosen: set[str] = set()
    if engine.base_url is not None:
        sources = [models.at_endpoint(name, config.revision) for name in config.models]
    else:
        sources = [source for name in config.models for source in _sources(config, name)]
        chosen = {source.name for source in sources}.difference(config.models)  # GGUF files, by their scheme
        config = config.model_copy(update={"models": tuple(dict.fromkeys(source.name for source in sources))})
    if engine.engine == OPENAI.name:
        require_endpoint(engine, sources, config.precision)
        if engine.remote_url is not None and "energy" in config.tasks:
            cause = "the energy of a server on another machine cannot be measured from here"
            raise UsageError(cause, "leave energy out of --tasks")
    if config.revision and all(source.kind != "hub" for source in sources):
        raise UsageError(f"--revision {config.revision}: none of the models is from the hub", "leave it out")
    variants = []
    facts_of = {source.name: models.facts_of(source) for source in sources}
    stated = config.precision if "precision" in config.model_fields_set else (AS_IS,)
    schemes = {
        name: [_at_endpoint(stated[0], facts.scheme)]
        if engine.base_url is not None
        else served_schemes((AS_IS,) if name in chosen else config.precision, facts.scheme)
        for name, facts in facts_of.items()
    }
    notes = {source.name: notes_on(config, source, schemes[source.name]) for source in sources}
    bases = _base_models(config, sources, facts_of)
    for source, precision in ((each, name) for each in sources for name in schemes[each.name]):
        facts = facts_of[source.name]
        directory = _directory(config, source.name, precision, facts)
        context, longest = engine.max_model_len, facts.max_position_embeddings
        if longest is not None and longest < context:
            if "max_model_len" in engine.model_fields_set:
                cause = f"--max-model-len {context}: {source.name} supports at most {longest} tokens"
                raise UsageError(cause, f"lower it to {longest}, or leave it out")
            context = longest
        own = _for_demo(config) if source.kind == "demo" else config
        warnings, base = notes[source.name][precision], bases.get(source.name)
        variants.append(PlannedVariant(source, precision, directory, own, context, warnings, base))
    results.require_writable(config.output_dir, "--output-dir")
    results.require_writable(config.quantized_models_dir, "--quantized-models-dir")
    return variants, gpus


def _sources(config: RunConfig, name: str) -> list[models.ModelSource]:
    """The models that a name means: itself, or the GGUF files of the schemes in `--precision`."""
    schemes = [each for each in config.precision if gguf.is_scheme(each)]
    if schemes and (found := models.resolve_gguf(name, schemes, config.revision)):
        return found
    return [models.resolve(name, config.revision, allow_pickle=config.allow_pickle, base=config.base_model)]


def served_schemes(asked: Sequence[str], own: str | None) -> list[str]:
    """The schemes under which a model is measured, each once, in the order of their table.

    Args:
        asked: What `--precision` names.
        own: The scheme of a checkpoint that came quantized; None for a plain one. It is what fp16 and as-is become.
    """
    found = []
    for name in asked:
        if own is not None and name != own and gguf.is_scheme(own) and gguf.is_scheme(name):
            continue  # of another file
        known = DEFAULT_BASELINE if name in (AS_IS, own) else scheme(name).name
        found.append(as_is_name(own) if own is not None and not scheme(known).needs_plain_weights else known)
    if not found:
        cause = f"--precision {' '.join(asked)}: the GGUF file is {own}"
        raise UsageError(cause, f"use --precision {own}, or leave it out")
    return in_order(found)


def _at_endpoint(stated: str, own: str | None) -> str:
    """Name of the scheme that an endpoint serves: what was stated of it, never that it must be 16 bit.

    Args:
        stated: What `--precision` names, or ``as-is``.
        own: What the model's configuration or name says; None if neither says anything.
    """
    if stated == AS_IS:
        return as_is_name(own) if own is not None else AS_IS
    return as_is_name(stated) if is_quantized(stated) else stated


def _base_models(
    config: RunConfig, sources: Sequence[models.ModelSource], facts: Mapping[str, models.ConfigFacts]
) -> dict[str, str]:
    """Model that came quantized -> what it was made from, if that is known, by the name that it has in this run."""
    derived = [
        source
        for source in sources
        if facts[source.name].is_quantized or source.base is not None or source.kind == "endpoint"
    ]
    if config.base_model is not None and not derived:
        cause = f"--base-model {config.base_model}: no model of this run is quantized already, or an adapter"
        raise UsageError(cause, "leave it out")
    found = {}
    for source in derived:
        own = base_model_of(source) if source.base is None else source.base.name
        base = config.base_model or own
        if base is None:
            continue
        # A folder is called by its path, and by its card's id where a quantized checkpoint names it.
        folders = [other.name for other in sources if other.kind == "local" and other not in derived]
        same = [name for name in folders if short_name(name).casefold() == short_name(base).casefold()]
        found[source.name] = same[0] if len(same) == 1 and not config.base_model else base
    return found


def _directory(config: RunConfig, model: str, precision: str, facts: models.ConfigFacts) -> Path:
    """The folder of a variant.

    Versions up to 0.2 called a checkpoint that came quantized fp16: what they began is continued where it is.
    """
    root = config.output_dir
    folder = results.variant_directory(root, model, precision, config.models)
    earlier = results.variant_directory(root, model, DEFAULT_BASELINE, config.models)
    if not facts.is_quantized or folder.exists() or not earlier.is_dir():
        return folder
    records = results.find_results(earlier).variants
    return earlier if any(variant.precision != DEFAULT_BASELINE for variant in records) else folder


def _for_demo(config: RunConfig) -> RunConfig:
    """The run's config for the embedded model, which knows a small world: its own tasks and texts, unless given."""
    accuracy, quantization = config.accuracy, config.quantization
    if "tasks" not in accuracy.model_fields_set:
        accuracy = accuracy.model_copy(update={"tasks": TASKS})
    if "calibration_dataset" not in quantization.model_fields_set:
        quantization = quantization.model_copy(update={"calibration_dataset": str(CALIBRATION_FILE)})
    return config.model_copy(update={"accuracy": accuracy, "quantization": quantization})


def stages_to_do(variants: Iterable[PlannedVariant]) -> dict[str, tuple[str, ...]]:
    """Benchmark -> its stages that are still to do in any of the variants."""
    owners = {stage: variant.benchmarks[stage].name for variant in variants for stage in variant.todo}
    return {name: tuple(stage for stage, owner in owners.items() if owner == name) for name in owners.values()}


@dataclass(frozen=True)
class Checked:
    """What the measuring interpreter found, and what it still finds out: `close` ends its worker.

    `notes` are what models would not see of the prompts of the stages still to do, one sentence each. They come from
    the worker that has checked the run, as it reads the prompts, which may take minutes.
    """

    engines: Mapping[str, str] = field(default_factory=dict)  # scheme -> the engine that will serve it
    notes: Iterable[str] = ()
    close: Callable[[], None] = lambda: None


def check(config: RunConfig, variants: Sequence[PlannedVariant]) -> Checked:
    """Check what the stages still to do will need, before anything is downloaded or loaded.

    The serving interpreter, which has lm-eval and the engines, is asked whether the stages and schemes can be run. If
    there is nothing to do, nothing is started. Raises `SlimEvalError` as `evaluate`.
    """
    busy = [variant for variant in variants if variant.todo]
    if not busy:
        return Checked()
    stages = stages_to_do(busy)
    needs = [(serving_modules(config.engine.engine, stages), "measurement", config.serve_python, "--serve-python")]
    to_quantize = [
        variant.source
        for variant in busy
        if is_quantized(variant.precision) and cache.cached(variant.quantize_request(variant.source)) is None
    ]
    # Pickled weights are converted once for all precisions.
    pickled = {variant.source.name: variant.source for variant in busy if variant.source.pickled is not None}
    folder = config.quantized_models_dir
    to_convert = [source for source in pickled.values() if not cache.conversion(source, folder).is_done]
    _check_space(folder, to_quantize + to_convert)
    if to_quantize:
        needs.insert(0, (QUANTIZING_MODULES, "quantization", config.quantize_python, "--quantize-python"))
    if any(variant.source.base is not None for variant in busy):
        needs.append((("torch", "transformers", "peft"), "merging an adapter", config.serve_python, "--serve-python"))
    for modules, purpose, python, option in needs:
        try:
            missing = environment.missing_modules(modules, python)
        except (OSError, ValueError) as error:
            cause = f"{option} {python}: cannot run as a Python interpreter: {error}"
            raise UsageError(cause, "give its path") from error
        if missing:
            raise MissingPackageError(missing[0], purpose, install_command(python))
    _check_recipes(config, [variant for variant in busy if variant.source in to_quantize])
    precisions = tuple(dict.fromkeys(variant.precision for variant in busy))
    served = _served(busy)
    return _ask(config, precisions, stages, served, _to_preview(config, served), config.executor)


def _check_recipes(config: RunConfig, variants: Iterable[PlannedVariant]) -> None:
    """Let llm-compressor read the recipes of the user's own from which checkpoints are to be made."""
    held = {variant.precision: scheme_of(variant.precision).recipe for variant in variants}
    names = tuple(name for name, recipe in held.items() if recipe is not None and recipe.file is not None)
    if not names:
        return
    job = messages.RecipeJob(precisions=names)
    with contextlib.closing(_submit(job, config.executor, config.quantize_python)) as events:
        for event in events:
            if isinstance(event, messages.Failed):
                raise (UsageError if event.usage else SlimEvalError)(event.cause, event.remedy)
            if isinstance(event, messages.Outcome) and event.died:
                raise SlimEvalError(f"the recipes could not be checked: {event.describe()}", f"fix it with: {INSTALL}")


def check_stages(config: RunConfig, variants: Sequence[PlannedVariant]) -> Checked:
    """Check what `check` asks the measuring interpreter, on this machine; for a dry run, which does not need it.

    Without the engine's packages that is only what benchmarks refuse, as far as their own packages are here. A machine
    that is not the one to measure on says nothing about schemes. Raises `SlimEvalError` as `evaluate`.
    """
    busy = [variant for variant in variants if variant.todo]
    stages = stages_to_do(busy)
    measures_here = not isinstance(EXECUTORS.get(config.executor), Cluster)
    if busy and measures_here and _has(config, serving_modules(config.engine.engine, stages)):
        precisions = tuple(dict.fromkeys(variant.precision for variant in busy))
        served = _served(busy)
        return _ask(config, precisions, stages, served, _to_preview(config, served), "local")
    if not _has(config, [module for benchmark in benchmarks_of(stages) for module in benchmark.modules]):
        return Checked()
    served = _served(busy)
    previews = _to_preview(config, served)
    served = {name: models for name, models in served.items() if BENCHMARKS[name].modules}
    if not (served or previews):
        return Checked()
    return _ask(config, (), {name: stages[name] for name in served}, served, previews, "local")


def _has(config: RunConfig, modules: Sequence[str]) -> bool:
    """Whether the interpreter that measures is here and has these modules."""
    try:
        return not environment.missing_modules(modules, config.serve_python)
    except (OSError, ValueError):
        return False


def _to_preview(config: RunConfig, served: Mapping[str, tuple[ServedModel, ...]]) -> dict[str, tuple[ServedModel, ...]]:
    """Of the models of each benchmark those with prompts that may not fit, each with the stages in question."""
    found = {}
    for name, all_models in served.items():
        asked = ((model, BENCHMARKS[name].to_preview(config, model)) for model in all_models)
        if some := tuple(model.model_copy(update={"stages": stages}) for model, stages in asked if stages):
            found[name] = some
    return found


def _served(variants: Iterable[PlannedVariant]) -> dict[str, tuple[ServedModel, ...]]:
    """Benchmark -> the models with their stages of it still to do under any scheme."""
    models: dict[str, list[PlannedVariant]] = {}
    for variant in variants:
        models.setdefault(variant.source.name, []).append(variant)
    found: dict[str, tuple[ServedModel, ...]] = {}
    for own in models.values():
        source, window = own[0].source, own[0].max_model_len
        for name, stages in stages_to_do(own).items():
            found[name] = (*found.get(name, ()), ServedModel(source=source, max_model_len=window, stages=stages))
    return found


def _submit(
    job: messages.Job, where: str, python: Path | None, silence_s: float | None = None
) -> Generator[messages.Event | messages.Outcome, None, None]:
    """The events of a job whose log nobody keeps."""
    with tempfile.TemporaryDirectory(prefix="slim-eval-") as logs:
        log = Path(logs, f"{job.kind}.log")
        runner = executor(where)
        assert not isinstance(runner, Cluster), "a cluster checks on its own machines"
        events = runner.submit(job, log=log, python=python, silence_s=silence_s)
        with contextlib.closing(events):
            yield from events


def _ask(
    config: RunConfig,
    precisions: tuple[str, ...],
    stages: dict[str, tuple[str, ...]],
    models: dict[str, tuple[ServedModel, ...]],
    previews: dict[str, tuple[ServedModel, ...]],
    where: str,
) -> Checked:
    """Ask the measuring interpreter, on an executor; back as soon as it has checked, while it reads the prompts."""
    plain = config.model_copy(update={"tracking": TrackingConfig()})
    job = messages.CheckJob(config=plain, precisions=precisions, stages=stages, models=models, previews=previews)
    chosen: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        silence_s = config.stage_timeout_s if previews else None  # data comes from a hub, which may hang
        events = stack.enter_context(contextlib.closing(_submit(job, where, config.serve_python, silence_s)))
        for event in events:
            if isinstance(event, messages.Failed):
                raise (UsageError if event.usage else SlimEvalError)(event.cause, event.remedy)
            if isinstance(event, messages.Chosen):
                chosen[event.precision] = event.engine
            elif isinstance(event, messages.Outcome) and event.died:
                cause = f"the --serve-python interpreter failed: {event.describe()}"
                raise SlimEvalError(cause, f"fix it with: {INSTALL}")
            elif isinstance(event, messages.Finished) and event.stage == messages.CHECK:
                break
        return Checked(chosen, _notes(events), stack.pop_all().close)


def _notes(events: Iterable[messages.Event | messages.Outcome]) -> Iterator[str]:
    """The notes of a worker; the last one says if it failed."""
    failure = ""
    for event in events:
        if isinstance(event, messages.Note):
            yield event.text
        elif isinstance(event, messages.Failed):
            failure = event.cause
        elif isinstance(event, messages.Outcome) and event.died:
            failure = event.describe()
    if failure:
        yield f"whether all prompts fit the context window could not be checked: {failure}"


def _check_space(folder: Path, sources: Sequence[models.ModelSource]) -> None:
    """Refuse a folder without space for a checkpoint made from each source; those not on this machine do not count."""
    needed = _SMALLEST_SHARE * sum(models.bytes_here(source) for source in sources)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UsageError(
            f"--quantized-models-dir {folder}: only {free / GIB:.2f} GiB are free, but the checkpoints need more "
            f"than {needed / GIB:.2f} GiB",
            "free some space, or choose a folder on another disk",
        )


def serving_modules(engine: str, benchmarks: Iterable[str]) -> tuple[str, ...]:
    """Modules that the interpreter which measures must find; with ``auto``, those of the fallback engine."""
    found = engines_for(engine)
    serving = next((member for member in found if member.is_fallback), found[-1])  # the others are optional
    own = [module for benchmark in benchmarks_of(benchmarks) for module in benchmark.modules]
    return (*serving.modules, "pydantic", "huggingface_hub", "psutil", "pynvml", "scipy", *own)


def install_command(python: Path | None) -> str:
    """The command that installs a stage's packages into its interpreter; None is this one."""
    return INSTALL if python is None else f"{python} -m {INSTALL_GPU}"
