"""What a record's numbers depend on: flat settings, one hash over them, and the differences between two of them.

Keys are the names of the options without their dashes, as in ``quantization.json``. Paths, display, tracking,
interpreters and times are not settings; decisions/012 lists what else is not, and why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from slim_eval import models, power
from slim_eval.benchmarks.base import stages_of
from slim_eval.config import RunConfig
from slim_eval.engines import ENGINES
from slim_eval.quantization import cache
from slim_eval.results.records import Record
from slim_eval.schemes import DEFAULT_BASELINE, is_quantized
from slim_eval.utils import environment
from slim_eval.utils.redaction import redact_all

Settings = dict[str, Any]

#: Settings that identify the checkpoint; the rest describe what is done with it.
_CHECKPOINT = frozenset({"precision", "revision", "weights", "files", "checkpoint", "seed"})
_ABSENT = object()


#: Settings that older records do not have: left out while they are off.
_LATER = frozenset({"native_kernels"})


def checkpoint_settings(request: cache.QuantizeRequest) -> Settings:
    """Which checkpoint a variant serves: the model, and for a quantized one how it is made.

    A checkpoint that was quantized elsewhere is identified by its content, as a local model is. A model on the hub is
    identified by its commit. Without quantization only model and precision count.
    """
    source = request.source
    found: Settings = {"precision": request.precision}
    if not is_quantized(request.precision):
        return {**found, **cache.identity(source)}
    foreign = cache.foreign(request)
    if foreign is None:
        return {**found, **cache.settings(request)}
    if source.kind != "hub":
        found["files"] = f"sha256:{models.small_files_hash(source.config_dir)}"
    return {**found, "checkpoint": f"sha256:{models.fingerprint(foreign)}"}


def stage_settings(
    config: RunConfig, *, max_model_len: int, device: str | None, dtypes: Mapping[str, str] | None = None
) -> dict[str, Settings]:
    """Stage -> what it does with the checkpoint, on whichever engine (see `served_by`).

    Speed and energy depend on the name of the device that computes, accuracy does not. `dtypes` are the types that each
    engine would compute in; without them ``dtype`` is what was asked for.
    """
    names = ("engine_args", "trust_remote_code", *sorted(_engine_settings()))
    served = {"max_model_len": max_model_len, **{name: getattr(config.engine, name) for name in names}}
    served = {name: value for name, value in served.items() if name not in _LATER or value}
    served["dtype"] = config.engine.asked_dtype if dtypes is None else dict(dtypes)
    shared = {"share_node": True} if config.machines.share_node else {}
    return {
        stage: _plain(
            {**served, **benchmark.settings(config, stage, device), **(shared if benchmark.needs_quiet else {})}
        )
        for stage, benchmark in stages_of(config).items()
    }


def device_name(gpus: Sequence[power.Gpu]) -> str | None:
    """The setting ``device``: names of the GPUs, else of the CPU; None if that is not known."""
    return ", ".join(gpu.name for gpu in gpus) if gpus else environment.cpu_name()


def served_by(settings: Mapping[str, Any], engine: str | None, dtype: str | None = None) -> Settings:
    """The settings with the engine that serves, without those that only other engines read.

    `dtype` is the type in which the engine does compute; without it, the one in which it would, if known.
    """
    own = ENGINES[engine].settings if engine is not None and engine in ENGINES else frozenset[str]()
    dropped = _engine_settings() - own
    found = {**{key: value for key, value in settings.items() if key not in dropped}, "engine": engine}
    if "dtype" in found:
        would = found.pop("dtype")
        used = dtype or (would.get(engine) if isinstance(would, Mapping) else would)
        found |= {} if used is None else {"dtype": used}
        found["engine_args"] = _without_dtype(found.get("engine_args") or {})
    return found


def of_record(record: Record, now: Mapping[str, Any]) -> Settings:
    """The settings of a record, in terms of the settings now.

    In older records the data type is not among them: what was used is in the head. A device that is not known now,
    because the variant runs on whichever machine is free, cannot differ.
    """
    then = dict(record.measured_with or {})
    if then.get("precision") == DEFAULT_BASELINE and record.precision != DEFAULT_BASELINE:
        # Versions up to 0.2 called a checkpoint that came quantized so; which one it is, its weights say.
        then["precision"] = now.get("precision")
    if "dtype" in now:
        then.setdefault("dtype", record.dtype or now["dtype"])
        then["engine_args"] = _without_dtype(then.get("engine_args") or {})
    else:  # it will be known when the weights are here
        then.pop("dtype", None)
    if "device" not in now:
        then.pop("device", None)
    if "skip_unfit" not in now and record.low_bit_share == 1:
        then.pop("skip_unfit", None)  # versions up to 0.2 recorded the option where every layer fitted, too
    return then


def _without_dtype(engine_args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in engine_args.items() if name != "dtype"}


def _engine_settings() -> frozenset[str]:
    """The settings that only some engines read."""
    return frozenset[str]().union(*(engine.settings for engine in ENGINES.values()))


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 over settings, whatever the order of their keys."""
    text = json.dumps(_plain(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, with the recorded and the requested value, in the order of the new ones."""
    plain = _plain(now)
    return [
        f"{key}: recorded with {_shown(then.get(key, _ABSENT))}, requested {_shown(plain.get(key, _ABSENT))}"
        for key in dict.fromkeys([*plain, *then])
        if then.get(key, _ABSENT) != plain.get(key, _ABSENT)
    ]


def same_work(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the same is done with whichever checkpoint, so that similar times can be expected."""
    own = [{key: each[key] for key in each if key not in _CHECKPOINT | cache.SETTINGS} for each in (then, now)]
    return not differences(*own)


def _plain(settings: Mapping[str, Any]) -> Settings:
    """Settings as a record stores them, redacted, so that recorded and requested ones can be compared."""
    return dict(redact_all(json.loads(json.dumps(settings, default=str))))


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    limit = 19 if text.startswith("sha256:") else 60
    return f"{text[:limit]}…" if len(text) > limit else text
