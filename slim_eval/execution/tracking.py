"""Weights & Biases: one run per variant, made from its records. The only importer of wandb."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlparse

from slim_eval.config import RunConfig, TrackingConfig
from slim_eval.metrics import task_metric
from slim_eval.results.records import AccuracyRecord, Metadata, PerformanceRecord
from slim_eval.results.store import record_name
from slim_eval.results.variants import Variant
from slim_eval.utils import short_name
from slim_eval.utils.redaction import redact, redact_all, remember

if TYPE_CHECKING:
    from slim_eval.analysis.verdict import VariantVerdict


class _Tracker(Protocol):
    def __call__(self, variant: Variant, run: RunConfig, verdict: VariantVerdict | None = None) -> None: ...


_HEAD = frozenset(Metadata.model_fields)
_KEY_IS_VISIBLE = (
    "--wandb-api-key: a key given as an option is visible in the process list and in the shell history; "
    "the environment variable WANDB_API_KEY is safer"
)
_NOT_LOGGED = {"config", "measured_with", "stage_duration_s", "notes", "timestamp"}


def open_tracker(config: TrackingConfig, note: Callable[[str], None]) -> _Tracker:
    """The tracker of a run, to be called with each finished variant, its config, and the verdict on it if known.

    `note` is called with one line if nothing will be logged, and with one for each variant that W&B refuses.
    """
    reason = why_off(config)
    if reason is not None:
        if config.enabled:
            note(f"Weights & Biases logging is off: {reason}")
        return lambda variant, run, verdict=None: None
    if config.api_key is not None:
        note(_KEY_IS_VISIBLE)
        # wandb reads the key from the environment; workers are started without it.
        os.environ["WANDB_API_KEY"] = config.api_key.get_secret_value()

    def track(variant: Variant, run: RunConfig, verdict: VariantVerdict | None = None) -> None:
        import wandb

        settings, metrics = payload(variant, run)
        name = run_name(run, variant)
        try:
            # wandb's own metadata contains the command line, and with it a key that was given as an option.
            hidden = wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
            )
            logged = wandb.init(
                project=redact(run.tracking.project),
                name=name,
                group=short_name(variant.model),
                tags=[variant.precision],
                job_type="slim-eval",
                config=settings,
                settings=hidden,
                reinit="finish_previous",
            )
            logged.log(metrics)
            logged.summary.update({**metrics, **summary_of(verdict)})
            logged.finish()
        except (wandb.Error, OSError) as error:
            note(f"Weights & Biases refused {name}: {' '.join(str(error).split())}")

    return track


def summary_of(verdict: VariantVerdict | None) -> dict[str, Any]:
    """The verdict on a variant against its baseline as W&B's summary has it; empty if it has none yet."""
    if verdict is None or verdict.is_reference:
        return {}
    # What is chosen is known only after the last variant: until then it is safe.
    word = "safe" if verdict.word.value == "deploy" else verdict.word.value
    return {"verdict": word, "verdict_reason": redact(verdict.reason)}


def why_off(config: TrackingConfig) -> str | None:
    """Why nothing would be logged, in one line; None if runs are logged. Does not import wandb."""
    if not config.enabled:
        return "--no-wandb-enabled"
    if importlib.util.find_spec("wandb") is None:
        return 'the package is not installed: pip install "slim-eval[wandb]"'
    mode = os.environ.get("WANDB_MODE", "online").lower()
    if mode == "disabled":
        return "WANDB_MODE=disabled"
    if mode in ("offline", "dryrun") or config.api_key is not None or os.environ.get("WANDB_API_KEY"):
        return None
    # `wandb login` writes the key into the netrc file.
    host = urlparse(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"
    for path in (os.environ.get("NETRC"), Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()):
        if path and Path(path).is_file():
            try:
                found = netrc.netrc(str(path)).authenticators(host)
            except (netrc.NetrcParseError, OSError):
                break
            if found is None:
                break
            remember(found[2] or "")
            return None
    return "no key: set WANDB_API_KEY, or run `wandb login`"


def payload(variant: Variant, config: RunConfig) -> tuple[dict[str, Any], dict[str, float]]:
    """The config and the measured metrics (by ``benchmark/name``) of a variant as they are logged: redacted."""
    heads = [record.model_dump(mode="json", include=set(_HEAD) - _NOT_LOGGED) for record in variant.records]
    settings = config.model_dump(
        mode="json", exclude={"tracking", "models", "precision", "quantize_python", "serve_python", "force", "dry_run"}
    )
    metrics: dict[str, Any] = {}
    for record in variant.records:
        name = record_name(record)
        if isinstance(record, AccuracyRecord):
            # W&B has no units: a perplexity among accuracies would be averaged and plotted with them.
            row = task_metric(name, record.metric, record.higher_is_better, filter(None, [record.accuracy]))
            kind = "accuracy" if row.is_share else "score"
            metrics[f"{kind}/{name}"] = record.accuracy
            metrics[f"{kind}/{name}_stderr"] = record.stderr
            metrics |= {f"accuracy/{name}/{key.replace(',', '_')}": value for key, value in record.metrics.items()}
        else:
            values = record.model_dump(mode="json", exclude=set(_HEAD))
            if isinstance(record, PerformanceRecord) and record.valid is False:
                values = {"valid": False}  # W&B would average and plot its numbers; an invalid energy has none
            metrics |= {f"{name}/{key}": value for key, value in values.items()}
    numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
    return redact_all({**(heads[0] if heads else {}), "settings": settings}), redact_all(numbers)


def run_name(config: RunConfig, variant: Variant) -> str:
    """Name of a variant's W&B run: --wandb-run-name, with model and precision added if the run has several variants."""
    own = f"{variant.precision} {short_name(variant.model)}"
    if config.tracking.run_name is None:
        return own
    is_only_one = len(config.models) * len(config.precision) == 1
    return redact(config.tracking.run_name if is_only_one else f"{config.tracking.run_name} {own}")
