"""What the evaluator and its workers say to each other: one job in as JSON, events out as JSON lines.

A job is everything a stage needs, so that a worker can run in another interpreter and be run by hand from a saved job.
Nothing here carries a secret: tokens reach a worker through its environment only, and configs refuse them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slim_eval.config import Benchmark, EngineConfig, RunConfig
from slim_eval.models.source import ModelSource
from slim_eval.quantization.cache import QuantizeRequest
from slim_eval.schemes import SchemeName

#: Variable that tells a worker the number of its lifeline: a pipe that ends with the evaluator.
LIFELINE = "SLIM_EVAL_LIFELINE"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckJob(_Message):
    """Is everything there that the run will need? Asked before hours of work."""

    kind: Literal["check"] = "check"
    engine: EngineConfig
    precisions: tuple[SchemeName, ...]
    tasks: tuple[str, ...]
    include_path: Path | None


class QuantizeJob(_Message):
    """Make one quantized checkpoint."""

    kind: Literal["quantize"] = "quantize"
    request: QuantizeRequest


class FetchJob(_Message):
    """Bring a model of the hub to this machine."""

    kind: Literal["fetch"] = "fetch"
    source: ModelSource
    allow_pickle: bool


class ConvertJob(_Message):
    """Make a safetensors checkpoint of a state of a model whose weights are pickled, in a folder."""

    kind: Literal["convert"] = "convert"
    source: ModelSource
    directory: Path
    identity: dict[str, Any]
    trust_remote_code: bool


class MeasureJob(_Message):
    """Load one checkpoint once and run benchmarks on it.

    Attributes:
        model: Name as the user gave it.
        source: Folder of the 16-bit checkpoint.
        checkpoint: Folder of the checkpoint to serve.
        benchmarks: What is to be measured, in this order.
        directory: The variant's folder; records are written there.
        max_model_len: Context window to serve.
        gpus: UUIDs of the GPUs that compute; empty on a CPU.
        settings: Stage -> what its numbers depend on, but for the engine, which the worker knows.
    """

    kind: Literal["measure"] = "measure"
    model: str
    revision: str | None
    source: Path
    checkpoint: Path
    precision: SchemeName
    quantization_scheme: str
    benchmarks: tuple[Benchmark, ...]
    accuracy_tasks: tuple[str, ...]
    directory: Path
    max_model_len: int
    gpus: tuple[str, ...]
    config: RunConfig
    notes: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = {}


Job = Annotated[CheckJob | FetchJob | ConvertJob | QuantizeJob | MeasureJob, Field(discriminator="kind")]


class Started(_Message):
    """A stage begins: ``quantize``, ``engine``, ``performance``, ``energy`` or a task's name."""

    event: Literal["started"] = "started"
    stage: str


class Advanced(_Message):
    """A stage is `done` of `total` far; None where nobody knows of how much."""

    event: Literal["advanced"] = "advanced"
    stage: str
    done: int
    total: int | None
    unit: str


class Finished(_Message):
    """A stage is complete and what it made is on disk."""

    event: Literal["finished"] = "finished"
    stage: str
    path: Path | None = None


class Failed(_Message):
    """A stage failed for a known reason; what can still be measured goes on."""

    event: Literal["failed"] = "failed"
    stage: str
    cause: str
    remedy: str
    usage: bool = False


class Chosen(_Message):
    """The engine that will serve a precision; the answer to a `CheckJob`."""

    event: Literal["chosen"] = "chosen"
    precision: SchemeName
    engine: str


class Note(_Message):
    """A line for the user."""

    event: Literal["note"] = "note"
    text: str


Event = Annotated[Started | Advanced | Finished | Failed | Chosen | Note, Field(discriminator="event")]

_JOBS: TypeAdapter[Any] = TypeAdapter(Job)
_EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


def parse_job(text: str) -> CheckJob | FetchJob | ConvertJob | QuantizeJob | MeasureJob:
    """Read a job from JSON."""
    job: CheckJob | FetchJob | ConvertJob | QuantizeJob | MeasureJob = _JOBS.validate_json(text)
    return job


def parse_event(line: str) -> Started | Advanced | Finished | Failed | Chosen | Note:
    """Read an event from one line of JSON.

    Raises:
        pydantic.ValidationError: The line is no event.
    """
    event: Started | Advanced | Finished | Failed | Chosen | Note = _EVENTS.validate_json(line)
    return event
