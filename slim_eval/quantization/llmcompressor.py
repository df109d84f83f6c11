"""Quantization by llm-compressor: what a scheme's recipe names, checked, then published under its final name."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from slim_eval.engines import agreement, memory
from slim_eval.errors import (
    INSTALL,
    EngineError,
    MissingPackageError,
    QuantizationError,
    SlimEvalError,
    UsageError,
)
from slim_eval.models import checkpoint_checks, experts, loading
from slim_eval.models.publish import copy_small_files, new_checkpoint, recover
from slim_eval.models.source import CONFIG_FILE, OTHER_PARTS, CheckpointFacts, describe, require_plain, weight_files
from slim_eval.quantization import cache, fidelity, written
from slim_eval.quantization.calibration import Calibration, load_texts
from slim_eval.recognise import of_config
from slim_eval.schemes import Recipe, scheme
from slim_eval.utils import safe_json, write_text

Progress = Callable[[int, int, str], None]
Stage = Callable[[str], None]

#: For the check after a recipe without calibration.
_TEXT = (
    "The quick brown fox jumps over the lazy dog. In 1969 two people walked on the moon, and a third one waited for "
    "them in orbit. Water boils at 100 degrees Celsius at sea level, and at a lower temperature in the mountains."
)
_PROMPT_TOKENS = 8  # length of the prompt for which a new checkpoint must generate
_SCALE_BYTES, _ORDER_BYTES, _SHAPE_BYTES = 4, 4, 64  # at most, per scale, per input column, and per layer
_AT_16_BIT = "measure this model at 16 bit; llm-compressor and Transformers do not agree on its architecture"
#: Keys and values in 8-bit floating point, one calibrated scale for those of a layer: what vLLM reads.
_FP8_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
_LIBRARIES_GB = 0.5  # memory that torch and llm-compressor take before a model is loaded


def quantize(
    request: cache.QuantizeRequest, stage: Stage = lambda _: None, progress: Progress = lambda *_: None
) -> cache.QuantizedCheckpoint:
    """Return a checkpoint from the cache, or make it now from a model that has been fetched.

    `stage` receives the name of each step, `progress` the number of layers quantized and of all layers.

    Raises:
        UsageError: The cached one was made with other settings, or the model is quantized already.
        QuantizationError: The result does not load and generate, or there is not enough memory.
        MissingPackageError: llm-compressor is not installed.
    """
    final = cache.checkpoint_directory(request)
    recover(final)
    if (found := cache.cached(request)) is not None:
        return found
    source = request.source.path
    if source is None:
        raise UsageError(f"model {request.source.name!r} has not been fetched", "fetch it before quantizing")
    facts = describe(source)
    require_plain(request.source, facts, request.precision)
    with new_checkpoint(final) as folder:
        record = _make(request, source, facts, folder, stage, progress)
        content = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_text(folder / cache.RECORD_FILE, f"{content}\n")
    return cache.QuantizedCheckpoint(path=final, record=record, reused=False, notes=record.notes)


def _make(
    request: cache.QuantizeRequest, source: Path, facts: CheckpointFacts, folder: Path, stage: Stage, progress: Progress
) -> cache.QuantizationRecord:
    """Quantize the checkpoint in `source` into `folder`, and check what came out."""
    started = datetime.now(timezone.utc)
    recipe = request.recipe
    if recipe.file is not None:
        modifiers_of(recipe)  # a mistake in it is told before the model is loaded
    try:
        memory.require_in_ram(memory.served_bytes(source), _LIBRARIES_GB)
    except EngineError as error:
        remedy = "close other programs, or quantize on a machine with more memory"
        raise QuantizationError(error.cause, remedy) from error
    stage("loading the model")
    model, tokenizer = _load(request, source, facts)
    fused, warnings = experts.has_fused(model), list[str]()
    recipe = replace(recipe, ignore=(*recipe.ignore, *(experts.ROUTERS if fused else ())))
    calibration, used = None, dict[str, Any]()
    if recipe.needs_calibration:
        stage("loading calibration data")
        length = min(request.config.max_sequence_length, facts.max_position_embeddings or sys.maxsize)
        config = request.config.model_copy(update={"max_sequence_length": length})
        calibration = load_texts(config, tokenizer, request.seed)
        used = {
            "dataset": request.config.calibration_dataset,
            "split": cache.settings(request)["calibration_split"],
            "samples": len(calibration.token_ids),
            "tokens": sum(map(len, calibration.token_ids)),
            "max_sequence_length": length,
            "seed": request.seed,
            "sha256": calibration.sha256,
        }
    stage("predicting with the source model")
    texts = fidelity.excerpts([tokenizer(_TEXT)["input_ids"]] if calibration is None else calibration.token_ids)
    expected, beyond = fidelity.source_predictions(model, texts, _untraced())
    weights = fidelity.sample_weights(model)
    scored = agreement.excerpts(tokenizer, facts.max_position_embeddings)
    before = loading.token_logprobs(model, scored)
    beyond = [name for name in beyond if not recipe.ignores(name)]
    recipe = replace(recipe, ignore=(*recipe.ignore, *beyond))
    if missed := [name for name in beyond if not OTHER_PARTS.search(name)]:
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        warnings.append(f"not quantized, because calibration does not reach it: {missed[0]}{more}")
    if fused:
        stage("splitting the experts")
        try:
            experts.split(model)
        except loading.FAILURES as error:
            cause = f"llm-compressor cannot split the experts of {facts.architecture}: {loading.reason(error)}"
            raise QuantizationError(cause, "measure this model at 16 bit") from error
    ignored = recipe.ignore
    recipe, layers = _layers_to_quantize(model, request, recipe)
    all_fit = recipe.ignore == ignored
    request = request.model_copy(update={"group_size": recipe.group_size, "all_fit": all_fit})
    stage(recipe.name if calibration is None else f"{recipe.name} on {len(calibration.token_ids)} samples")
    warnings += _oneshot(model, tokenizer, calibration, recipe, layers, progress)
    stage("writing the checkpoint")
    loading.save(model, folder, save_compressed=True)
    tokenizer.save_pretrained(folder)
    copy_small_files(source, folder)
    _name_plain_layers(model, folder)
    del model
    gc.collect()
    stage("checking the checkpoint")
    _check_tensors(folder, source)
    found = describe(folder)
    held = written.read(folder)
    written.require(held, *_asked(recipe), sum(rows * columns for rows, columns in layers.values()))
    if recipe.file is None:
        _check_size(found, facts, layers, request.precision, recipe)
    found_again, weights_again, after = _run(folder, texts, scored, request.trust_remote_code)
    untrained = fidelity.is_untrained(before, expected.shape[-1])
    likeness = fidelity.compare(
        expected, found_again, fidelity.weight_error(weights, weights_again) if untrained else None
    )
    likeness.require()
    if (reference := agreement.Reference.of(scored, before, after)) is not None:
        reference.write(folder)
    finished = datetime.now(timezone.utc)
    size = sum(file.stat().st_size for file in weight_files(folder))
    return cache.QuantizationRecord(
        model=request.source.name,
        precision=request.precision,
        scheme=recipe.name,
        settings=cache.settings(request),
        recipe=cache.recipe_record(recipe),
        calibration=used,
        dtype=facts.dtype,
        num_parameters=facts.num_parameters,
        source_bytes=facts.language_bytes,
        bytes_on_disk=size,
        bits_per_weight=8 * found.language_bytes / facts.num_parameters if facts.num_parameters else None,
        weight_sha256={file.name: _sha256(file) for file in weight_files(folder)},
        versions=_versions(),
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        duration_s=(finished - started).total_seconds(),
        fidelity=likeness,
        low_bit_share=held.low_bit_share,
        written=held,
        notes=(*(calibration.notes if calibration is not None else ()), *warnings, str(likeness)),
    )


def _load(request: cache.QuantizeRequest, source: Path, facts: CheckpointFacts) -> tuple[Any, Any]:
    """The model in its 16-bit dtype on the CPU (llm-compressor moves it layer by layer), and its tokenizer."""
    try:
        import llmcompressor  # noqa: F401  # first: without it, the model would be loaded in vain
        import torch
        from transformers import AutoTokenizer, set_seed
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "llmcompressor", "quantization", INSTALL) from error
    except ImportError as error:
        versions = ", ".join(f"{package} {version}" for package, version in _versions().items())
        cause = f"incompatible package versions: {versions} ({loading.reason(error)})"
        raise QuantizationError(cause, INSTALL) from error
    set_seed(request.seed)
    options = {"trust_remote_code": request.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = loading.load(source, dtype=getattr(torch, facts.dtype), **options)
    except loading.FAILURES as error:
        raise QuantizationError(
            f"model {request.source.name!r} cannot be loaded: {loading.reason(error)}", loading.remedy(error)
        ) from error
    return model, tokenizer


def _layers_to_quantize(
    model: Any, request: cache.QuantizeRequest, recipe: Recipe
) -> tuple[Recipe, dict[str, tuple[int, int]]]:
    """Layers that the recipe quantizes -> shape of their weight; refuses what cannot work before calibration.

    The recipe comes back with the group size that fits, if the shapes were not known before, and with the layers that
    are left in 16 bit.
    """
    import torch

    name = request.source.name
    layers = _targeted(model, recipe)
    if not layers:
        raise QuantizationError(f"model {name!r} has no {' or '.join(recipe.targets)} layer to quantize")
    for parameter, values in model.named_parameters():
        if not bool(torch.isfinite(values).all()):
            raise QuantizationError(
                f"model {name!r}: weight {parameter} contains NaN or infinity",
                "the source checkpoint is broken: download or train it again",
            )
    widths = {layer: module.in_features for layer, module in layers.items()}
    if request.group_size is None:
        recipe = recipe.with_groups(recipe.fitting(widths))
    misfits = recipe.misfits(widths)
    if misfits and (len(misfits) == len(layers) or not request.config.skip_unfit):
        own = cache.recipe_of(request.precision)
        tried = replace(recipe, smaller_groups=()) if request.config.group_size else own
        cause = checkpoint_checks.misfit(name, tried, misfits, len(layers))
        raise QuantizationError(cause, "measure this model with other schemes, or see --skip-unfit")
    unfit = [layer for layer, width in widths.items() if misfits and recipe.group_size and width % recipe.group_size]
    fitting = {layer: module for layer, module in layers.items() if layer not in unfit}
    shapes = {layer: (module.out_features, module.in_features) for layer, module in fitting.items()}
    return replace(recipe, ignore=(*recipe.ignore, *unfit)), shapes


def _targeted(model: Any, recipe: Recipe) -> dict[str, Any]:
    """The linear layers that a recipe quantizes; those of a recipe of the user's own by compressed-tensors' rules."""
    if recipe.file is None:
        return {
            layer: module
            for layer, module in model.named_modules()
            if type(module).__name__ in recipe.targets and not recipe.ignores(layer)
        }
    import torch
    from compressed_tensors.utils import match_named_modules

    found: dict[str, Any] = {}
    for modifier in modifiers_of(recipe):
        if hasattr(modifier, "resolved_targets"):
            matched = match_named_modules(model, modifier.resolved_targets, modifier.ignore)
            found.update((layer, module) for layer, module in matched if isinstance(module, torch.nn.Linear))
    return found


def _asked(recipe: Recipe) -> tuple[str, frozenset[str]]:
    """What a recipe asks for: the scheme as `recognise` names it, and the formats of weights, as `written` does."""
    groups: dict[str, Any] = {}
    cache_scheme = None
    for modifier in modifiers_of(recipe):
        if hasattr(modifier, "resolved_config"):
            config = json.loads(modifier.resolved_config.model_dump_json())
            groups |= {f"{len(groups)}-{name}": group for name, group in config["config_groups"].items()}
            cache_scheme = config.get("kv_cache_scheme") or cache_scheme
    named = of_config({"quant_method": "compressed-tensors", "config_groups": groups, "kv_cache_scheme": cache_scheme})
    weights = [group["weights"] for group in groups.values() if group.get("weights")]
    formats = frozenset(written.format_name(float(each["num_bits"]), each.get("group_size")) for each in weights)
    return named, formats


def _untraced() -> Sequence[str]:
    """The functions that llm-compressor does not look into: it runs the layers that they call without seeing them."""
    from llmcompressor.args import DatasetArguments

    return tuple(getattr(DatasetArguments(), "tracing_ignore", ()))  # older versions have no such setting


def _oneshot(
    model: Any, tokenizer: Any, calibration: Calibration | None, recipe: Recipe, layers: Collection[str],
    progress: Progress,
) -> list[str]:  # fmt: skip
    """Quantize the named layers of `model` in place; returns llm-compressor's warnings."""
    from llmcompressor import oneshot
    from loguru import logger

    options: dict[str, Any] = {}
    if calibration is not None:
        from datasets import Dataset

        rows = {
            "input_ids": [list(ids) for ids in calibration.token_ids],
            "attention_mask": [[1] * len(ids) for ids in calibration.token_ids],
        }
        options = {
            "dataset": Dataset.from_dict(rows),
            "num_calibration_samples": len(calibration.token_ids),
            "max_seq_length": max(map(len, calibration.token_ids)),
            "shuffle_calibration_samples": False,
        }
    done, warnings = 0, list[str]()

    def follow(message: Any) -> None:
        """Count the layers that llm-compressor's log names, and keep its warnings."""
        nonlocal done
        text = message.record["message"]
        if text.startswith("Quantizing"):
            # 0.14: "Quantizing 2 module(s): ['a', 'b']"; before: "Quantizing a using 64 samples".
            done = min(len(layers), done + (len(re.findall(r"'[^']+'", text)) or 1))
            progress(done, len(layers), "layers")
        elif message.record["level"].name == "WARNING" and "hessian" in text.lower():
            warnings.append(" ".join(text.split()))

    reached = set[str]()

    def reach(name: str) -> None:
        nonlocal done
        if name not in reached:
            reached.add(name)
            done = len(reached)
            progress(done, len(layers), "layers")

    # GPTQ's log names its layers. AWQ and observers work silently for minutes or hours, block by block.
    silent = calibration is not None and recipe.modifier != "GPTQModifier"
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: reach(name))
        for name in (layers if silent else ())
    ]
    # The log's default, stdout, carries the worker's events.
    logger.remove()
    handlers = [logger.add(sys.stderr, level="INFO"), logger.add(follow, level="INFO", format="{message}")]
    try:
        _pin_no_memory_without_an_accelerator()
        made = modifiers_of(recipe)
        # Without a folder of logs: older versions leave one in the working directory.
        oneshot(model=model, processor=tokenizer, recipe=made, log_dir=None, **options)
    except (*loading.FAILURES, AssertionError) as error:
        short = "out of memory" in str(error).lower()
        remedy = "lower --max-sequence-length" if short else "measure this model at 16 bit, and see the log"
        raise QuantizationError(f"llm-compressor failed: {loading.reason(error)}", remedy) from error
    finally:
        for handler in handlers:
            logger.remove(handler)
        for hook in hooks:
            hook.remove()
    if done < len(layers):  # not every modifier names its layers
        progress(len(layers), len(layers), "layers")
    return warnings


def modifiers_of(recipe: Recipe) -> list[Any]:
    """llm-compressor's modifiers of a recipe, in their order.

    Raises:
        UsageError: llm-compressor does not accept a recipe of the user's own.
        MissingPackageError: llm-compressor is not installed.
    """
    if recipe.file is None:
        made = [_modifier(recipe.transform)] if recipe.transform else []
        return [*made, _modifier(recipe.modifier, ignore=list(recipe.ignore), **_groups(recipe), **recipe.arguments)]
    try:
        from llmcompressor.recipe import Recipe as RecipeFile
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "llmcompressor", "quantization", INSTALL) from error
    with _refusals_of(recipe):
        found: list[Any] = list(RecipeFile.create_instance(recipe.file).modifiers)
    for modifier in found:
        if hasattr(modifier, "ignore"):
            own = [modifier.ignore] if isinstance(modifier.ignore, str) else list(modifier.ignore or ())
            modifier.ignore = list(dict.fromkeys((*own, *recipe.ignore)))
    with _refusals_of(recipe):
        for modifier in found:  # a preset or format that compressed-tensors does not know is an error only here
            getattr(modifier, "resolved_config", None)
    return found


@contextmanager
def _refusals_of(recipe: Recipe) -> Iterator[None]:
    """What llm-compressor raises at a recipe file that is wrong, as a `UsageError`; it has no error of its own."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        # pydantic's first line only counts the errors: the next two name the argument and what is wrong.
        told = (
            ": ".join(lines[1:3]) if len(lines) > 2 and "validation error" in lines[0] else (lines or [repr(error)])[0]
        )
        told = re.sub(r"\s*\[type=.*", "", told)
        raise UsageError(
            f"llm-compressor refuses the recipe {recipe.name.partition(':')[0]}: {told}", "correct the file"
        ) from error


def _modifier(name: str, **options: Any) -> Any:
    """One of llm-compressor's modifiers, by the name of its class: its module differs between versions."""
    from llmcompressor.modifiers.factory import ModifierFactory

    if not ModifierFactory._loaded:  # noqa: SLF001 - `create` would print what its search meets
        ModifierFactory.refresh()
    return ModifierFactory.create(name, allow_registered=True, allow_experimental=True, **options)


def _pin_no_memory_without_an_accelerator() -> None:
    """AWQ pins what it caches, to copy it to an accelerator sooner; without an accelerator torch refuses that."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if hasattr(IntermediatesCache, "pin_memory") and not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_: None  # type: ignore[method-assign,unused-ignore]


def _groups(recipe: Recipe) -> dict[str, Any]:
    """What a modifier quantizes, and how: the preset, with another group size or format if the recipe has one."""
    from compressed_tensors.quantization import preset_name_to_scheme

    targets = list(recipe.targets)
    held = preset_name_to_scheme(recipe.scheme, targets)
    cache = {"kv_cache_scheme": dict(_FP8_CACHE)} if recipe.kv_cache else {}
    if recipe.group_size in (None, held.weights.group_size) and recipe.format is None:
        return {"scheme": recipe.scheme, "targets": targets, **cache}
    held.weights.group_size, held.format = recipe.group_size or held.weights.group_size, recipe.format
    return {"config_groups": {"group_0": held}, **cache}


def _name_plain_layers(model: Any, folder: Path) -> None:
    """Name every linear layer that was not quantized in ``config.json``.

    compressed-tensors lists those of class Linear alone, and then expects scales for those of derived classes.
    """
    import torch

    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and getattr(module, "quantization_scheme", None) is None
    ]
    file = folder / CONFIG_FILE
    config = safe_json.read_json(file)
    settings = config["quantization_config"]
    settings["ignore"] = [*dict.fromkeys((*(settings.get("ignore") or ()), *plain))]
    write_text(file, f"{json.dumps(config, indent=2)}\n")


def _check_tensors(folder: Path, source: Path) -> None:
    """Refuse a checkpoint that contains NaN or infinity, or that is not quantized.

    What the source contains is not refused: limits of activations may be infinite.
    """
    broken, scales = _not_finite(folder)
    if broken and (made := broken - _not_finite(source)[0]):
        raise QuantizationError(f"quantization produced NaN or infinity in {min(made)}", "see the log")
    if not scales or not describe(folder).is_quantized:
        raise QuantizationError("llm-compressor exited without quantizing anything", "see the log")


def _not_finite(folder: Path) -> tuple[set[str], bool]:
    """The tensors of a checkpoint that contain NaN or infinity, and whether any tensor is a scale."""
    import torch
    from safetensors import safe_open

    found, has_scales = set[str](), False
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                values = tensors.get_tensor(name)
                has_scales = has_scales or name.endswith("scale")
                if values.is_floating_point() and not bool(torch.isfinite(values.float()).all()):
                    found.add(name)
    return found, has_scales


def _check_size(
    found: CheckpointFacts, source: CheckpointFacts, layers: Mapping[str, tuple[int, int]], precision: str,
    recipe: Recipe,
) -> None:  # fmt: skip
    """Refuse a checkpoint with more bits per weight than its scheme allows: some of its layers are not quantized."""
    if source.num_parameters is None:
        return
    bits, group = scheme(precision).weight_bits, recipe.group_size
    allowed = 2.0 * (source.num_parameters - sum(rows * columns for rows, columns in layers.values()))
    for rows, columns in layers.values():
        scales = rows * math.ceil(columns / (group or columns))
        allowed += rows * columns * bits / 8 + scales * _SCALE_BYTES + columns * _ORDER_BYTES + _SHAPE_BYTES
    if found.language_bytes > allowed:
        each = [8 * size / source.num_parameters for size in (found.language_bytes, allowed)]
        raise QuantizationError(
            f"the quantized checkpoint has {each[0]:.2f} bits per weight, {precision} allows {each[1]:.2f}",
            "some layers are not quantized: measure this model at 16 bit, and see the log",
        )


def _run(
    folder: Path, texts: Sequence[Sequence[int]], scored: Sequence[Sequence[int]], trust_remote_code: bool
) -> tuple[Any, dict[str, Any], list[list[float]]]:
    """Load a new checkpoint and let it generate.

    Returns:
        Its `fidelity.predictions` for the texts, its `fidelity.sample_weights`, and the log-probabilities of the tokens
        of the texts that are scored.
    """
    import torch

    prompt = texts[0][:_PROMPT_TOKENS]
    try:
        placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
        model = loading.load(folder, trust_remote_code=trust_remote_code, **placed)
        ids = torch.tensor([prompt], device=model.device)
        with torch.inference_mode():
            logits = model(ids).logits
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4, do_sample=False
            )
    except loading.FAILURES as error:
        cause = f"the quantized checkpoint does not run: {loading.reason(error)}"
        raise QuantizationError(cause, _AT_16_BIT) from error
    except SlimEvalError as error:
        cause = error.cause.removeprefix(f"{folder}: ")
        raise QuantizationError(f"the quantized checkpoint {cause}", _AT_16_BIT) from error
    if not bool(torch.isfinite(logits).all()) or output.shape[-1] != len(prompt) + 4:
        raise QuantizationError("the quantized checkpoint produced non-finite logits", "see the log")
    found = fidelity.predictions(model, texts)
    return found, fidelity.sample_weights(model), loading.token_logprobs(model, scored)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("slim-eval", "llmcompressor", "compressed-tensors", "transformers", "torch"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
