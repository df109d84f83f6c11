"""What a record's numbers depend on: flat settings, one hash over them, and the differences between two of them.

Keys are the names of the options without their dashes, as in ``quantization.json``; what is no option is named for what
it is. Paths, display, tracking, interpreters and times are not in it: why, and what else is not, decisions/012.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slim_eval import models
from slim_eval.config import Benchmark, RunConfig
from slim_eval.engines import ENGINES
from slim_eval.quantization import cache
from slim_eval.schemes import is_quantized
from slim_eval.utils import files_hash
from slim_eval.utils.redaction import redact_all

Settings = dict[str, Any]

ENGINE = "engine"
#: What says which checkpoint is served; the rest says what is done with it.
_CHECKPOINT = frozenset({"precision", "revision", "weights", "files", "checkpoint", "seed"})
_ABSENT = object()


def checkpoint_settings(request: cache.QuantizeRequest) -> Settings:
    """Which checkpoint a variant serves: the model, and for a quantized one how it is made.

    A checkpoint that was quantized elsewhere is known by its content, as a local model is. A model on the hub is known
    by its commit.

    Args:
        request: What quantization would be asked for; of fp16 only model and precision count.
    """
    source, precision = request.source, request.precision
    found: Settings = {"precision": precision}
    if not is_quantized(precision):
        return {**found, **cache.identity(source)}
    foreign = cache.foreign(request)
    if foreign is not None:
        if source.kind != "hub":
            found["files"] = f"sha256:{models.small_files_hash(source.config_dir)}"
        return {**found, "checkpoint": f"sha256:{models.fingerprint(foreign)}"}
    return {**found, **cache.settings(request)}


def stage_settings(config: RunConfig, *, max_model_len: int, device: str | None) -> dict[str, Settings]:
    """What each stage does with the checkpoint, on whichever engine; see `served_by`.

    Args:
        config: The run's config as it holds for the model.
        max_model_len: Context window that is served.
        device: Name of what computes; speed and energy depend on it, accuracy does not.

    Returns:
        Stage (``performance``, ``energy``, or a task) -> settings.
    """
    engine = config.engine
    served: Settings = {
        "max_model_len": max_model_len,
        "engine_args": engine.engine_args,
        "trust_remote_code": engine.trust_remote_code,
        **{key: getattr(engine, key) for key in sorted(_engine_settings())},
    }
    stages: dict[str, Settings] = {}
    if Benchmark.PERFORMANCE in config.tasks:
        stages["performance"] = {**served, "device": device, **_performance(config)}
    if Benchmark.ENERGY in config.tasks:
        stages["energy"] = {**served, "device": device, **_energy(config)}
    if Benchmark.ACCURACY in config.tasks:
        stages.update({task: {**served, **_accuracy(config, task)} for task in config.accuracy.tasks})
    return {name: _plain(settings) for name, settings in stages.items()}


def served_by(settings: Mapping[str, Any], engine: str | None) -> Settings:
    """The settings with the engine that serves, without those that only other engines read."""
    own = ENGINES[engine].settings if engine is not None and engine in ENGINES else frozenset[str]()
    dropped = _engine_settings() - own
    return {**{key: value for key, value in settings.items() if key not in dropped}, ENGINE: engine}


def _engine_settings() -> frozenset[str]:
    """The settings that only some engines read."""
    return frozenset[str]().union(*(engine.settings for engine in ENGINES.values()))


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 over settings, whatever the order of their keys."""
    text = json.dumps(_plain(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, by name, the old value against the new one; in the order of the new ones."""
    plain = _plain(now)
    return [
        f"{key}: {_shown(then.get(key, _ABSENT))} then, {_shown(plain.get(key, _ABSENT))} asked"
        for key in dict.fromkeys([*plain, *then])
        if then.get(key, _ABSENT) != plain.get(key, _ABSENT)
    ]


def quantization_differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the checkpoint would have to be quantized otherwise."""
    return any(then.get(key) != now.get(key) for key in cache.SETTINGS)


def work(settings: Mapping[str, Any]) -> Settings:
    """What is done, whichever checkpoint it is done with: where it is the same, times can be expected to be alike."""
    return {key: value for key, value in settings.items() if key not in _CHECKPOINT | cache.SETTINGS}


def _performance(config: RunConfig) -> Settings:
    part = config.performance
    own = part.model_dump(include={"num_warmup", "num_runs", "batch_size", "target_ci"})
    return {**own, **_workload(config)}


def _energy(config: RunConfig) -> Settings:
    part = config.energy
    return {
        "energy_sample_runs": part.sample_runs,
        "energy_batch_size": part.batch_size,
        "energy_source": part.source,
        "energy_sampling_interval": part.sampling_interval_s,
        **_workload(config),
    }


def _workload(config: RunConfig) -> Settings:
    """What each request is; a synthetic prompt comes from the seed, and generation is greedy, without one."""
    part = config.performance
    if part.input_len is None:
        return {"prompt": part.prompt, "max_new_tokens": part.max_new_tokens}
    return {"input_len": part.input_len, "prompt_seed": config.seed, "max_new_tokens": part.max_new_tokens}


def _accuracy(config: RunConfig, task: str) -> Settings:
    part = config.accuracy
    return {
        "task": task,
        "num_fewshot": part.num_fewshot,
        "fewshot_seed": config.seed,
        "accuracy_limit": part.limit,
        "accuracy_batch_size": part.batch_size_of(task),
        "apply_chat_template": part.apply_chat_template,
        "include_path": None if part.include_path is None else f"sha256:{_tasks_hash(part.include_path)}",
    }


def _tasks_hash(folder: Path) -> str:
    """SHA-256 of the task files in a folder; what Python and editors leave there is not part of a task."""
    return files_hash(folder, _task_files(folder))


def _task_files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield path


def _plain(settings: Mapping[str, Any]) -> Settings:
    """Settings as a record gives them back, redacted, so that what was read compares with what is asked."""
    plain: Settings = redact_all(json.loads(json.dumps(settings, default=str)))
    return plain


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    limit = 19 if text.startswith("sha256:") else 60
    return f"{text[:limit]}…" if len(text) > limit else text
