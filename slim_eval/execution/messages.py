"""The messages between the evaluator and its workers: one job in as JSON, events out as JSON lines.

A job is everything that a stage needs, so that a worker can run in another interpreter and be run by hand from a saved
job. No message contains a secret: tokens reach a worker through its environment only, and configs refuse them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from slim_eval.benchmarks.base import ServedModel
from slim_eval.config import RunConfig
from slim_eval.models.source import ModelSource
from slim_eval.quantization import recipe_files
from slim_eval.quantization.cache import QuantizeRequest
from slim_eval.schemes import SchemeName

#: Variable with the number of a worker's lifeline: a pipe that ends with the evaluator.
LIFELINE = "SLIM_EVAL_LIFELINE"
#: The stages of a `CheckJob`: what may refuse the run, and then what models would not see of their prompts.
CHECK, PREVIEW = "check", "preview"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _JobOfSchemes(_Message):
    """A job that names schemes: recipes of the user's own travel with it, and are registered where it is read."""

    recipes: dict[str, str] = Field(default_factory=recipe_files.texts)  # name -> text of the file

    @model_validator(mode="after")
    def _register(self) -> _JobOfSchemes:
        known = recipe_files.texts()
        recipe_files.register_texts({name: text for name, text in self.recipes.items() if known.get(name) != text})
        return self


class CheckJob(_JobOfSchemes):
    """Check, before hours of work, that every scheme can be served and the stages of every benchmark measured."""

    kind: Literal["check"] = "check"
    config: RunConfig
    precisions: tuple[SchemeName, ...]
    stages: dict[str, tuple[str, ...]]  # of each benchmark
    models: dict[str, tuple[ServedModel, ...]] = {}  # benchmark -> the models with their own stages of it
    # Likewise with the stages whose prompts are read afterwards, as the stage `PREVIEW`: each finding is a `Note`.
    previews: dict[str, tuple[ServedModel, ...]] = {}


class RecipeJob(_JobOfSchemes):
    """Let llm-compressor read recipes of the user's own, before anything is loaded."""

    kind: Literal["recipe"] = "recipe"
    precisions: tuple[SchemeName, ...]


class QuantizeJob(_JobOfSchemes):
    """Make one quantized checkpoint on `num_gpus` GPUs from the one with `gpu_index` among those visible."""

    kind: Literal["quantize"] = "quantize"
    request: QuantizeRequest
    gpu_index: int = 0
    num_gpus: int = 1


class FetchJob(_Message):
    """Download a model of the hub to this machine."""

    kind: Literal["fetch"] = "fetch"
    source: ModelSource
    allow_pickle: bool


class ConvertJob(_Message):
    """Convert a model with pickled weights to a safetensors checkpoint in a folder."""

    kind: Literal["convert"] = "convert"
    source: ModelSource
    directory: Path
    identity: dict[str, Any]
    trust_remote_code: bool


class DequantizeJob(_Message):
    """Convert a GGUF file to a 16-bit safetensors checkpoint in a folder."""

    kind: Literal["dequantize"] = "dequantize"
    file: Path
    directory: Path
    identity: dict[str, Any]


class MeasureJob(_JobOfSchemes):
    """Load one checkpoint once and run benchmarks on it."""

    kind: Literal["measure"] = "measure"
    model: str  # as the user gave it
    revision: str | None
    source: Path  # folder of the 16-bit checkpoint
    checkpoint: Path  # folder of the one to serve
    precision: SchemeName
    base_model: str | None = None  # what a checkpoint that came quantized was made from; None if unknown
    adapter: str | None = None  # the LoRA adapter that was merged into the base model; None without one
    quantization_scheme: str
    source_grid_bits: int | None = None  # of the grid on which the 16-bit weights lie; None if on none, or not known
    stages: tuple[str, ...]  # the records to make, in the order of measuring
    directory: Path  # where records are written
    max_model_len: int
    config: RunConfig
    notes: tuple[str, ...] = ()
    # Stage -> what its numbers depend on; the worker adds the engine, and replaces the device by its own.
    settings: dict[str, dict[str, Any]] = {}


PrepareJob = RecipeJob | FetchJob | ConvertJob | DequantizeJob | QuantizeJob
Job = Annotated[CheckJob | PrepareJob | MeasureJob, Field(discriminator="kind")]


class Started(_Message):
    """A stage begins: ``quantize``, ``engine``, or the name of a record: ``performance``, a task."""

    event: Literal["started"] = "started"
    stage: str


class Advanced(_Message):
    """`done` of `total` units of a stage are finished; `total` is None if it is not known."""

    event: Literal["advanced"] = "advanced"
    stage: str
    done: int
    total: int | None
    unit: str


class Finished(_Message):
    """A stage is complete and its result is on disk."""

    event: Literal["finished"] = "finished"
    stage: str
    path: Path | None = None


class Kept(_Message):
    """What is measured so far of a stage that goes on is on disk; a rerun continues it."""

    event: Literal["kept"] = "kept"
    stage: str


class Failed(_Message):
    """A stage failed for a known reason; the stages after it still run."""

    event: Literal["failed"] = "failed"
    stage: str
    cause: str
    remedy: str
    usage: bool = False


class Chosen(_Message):
    """The engine that will serve a scheme; the answer to a `CheckJob`."""

    event: Literal["chosen"] = "chosen"
    precision: SchemeName
    engine: str


class Note(_Message):
    """A line for the user."""

    event: Literal["note"] = "note"
    text: str


Event = Annotated[Started | Advanced | Kept | Finished | Failed | Chosen | Note, Field(discriminator="event")]

# Read a job or an event from JSON; a text that is not one raises `pydantic.ValidationError`.
parse_job: Callable[[str], Job] = TypeAdapter(Job).validate_json
parse_event: Callable[[str], Event] = TypeAdapter(Event).validate_json


@dataclass(frozen=True)
class Outcome:
    """How a worker ended: what an executor yields last."""

    status: int = 0  # exit status; negative if a signal ended it
    stage: str | None = None  # the one that was running; None if none was
    cause: str = ""  # the line of its log that names the cause, if there is one
    silent_s: float | None = None  # seconds without an event, after which it was stopped; None if it did not hang
    out_of_memory: bool = False  # whether the kernel killed a process for lack of memory while it ran

    @property
    def died(self) -> bool:
        """Whether it ended in any other way than by finishing its job."""
        return self.status != 0 or self.silent_s is not None

    def describe(self) -> str:
        """What ended it, in one line."""
        if self.silent_s is not None:
            return f"no progress for {self.silent_s:g} s (--stage-timeout); the log shows where it hung"
        if self.status == -signal.SIGKILL and self.out_of_memory:
            return "killed by the kernel: out of memory"
        if self.status == 0:
            return "the worker exited before finishing"
        try:
            killed = f"killed by {signal.Signals(-self.status).name}"
        except ValueError:  # real-time signals have no names
            killed = f"killed by signal {-self.status}"
        how = killed if self.status < 0 else f"exit status {self.status}"
        return f"{self.cause} ({how})" if self.cause else f"the worker ended: {how}"
