"""The benchmark seam: what a benchmark is, the registry of all of them, and the work that several of them share.

A benchmark is one class, here or in a plugin: ``BENCHMARKS.register(MyBenchmark())``. `--tasks` names benchmarks; a run
measures them in the order in which they were registered. This module imports no heavy package, and neither does a
benchmark's module when it is imported: a run is planned in a process that never loads torch or NumPy.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from slim_eval.config import RESERVED_FILES, Config, PerformanceConfig, RunConfig
from slim_eval.engines.engine import Engine, Prompt
from slim_eval.errors import BenchmarkError, UsageError, unknown_name
from slim_eval.models.source import Frozen, ModelSource
from slim_eval.power import Gpu
from slim_eval.results.records import RECORD_CLASSES, Measurement, Metadata, ObservedMetrics, Record
from slim_eval.utils import slug
from slim_eval.utils.host import HostWindow
from slim_eval.utils.registry import Registry

NO_NUMBERS = "its record contains no numbers"
#: Leading tokens of a synthetic prompt that count requests; two or three cover any run with any real vocabulary.
_COUNTING_TOKENS = 3


class Progress(Protocol):
    """Called by a benchmark to report how far it is."""

    def __call__(self, done: int, total: int, unit: str = "requests") -> None:
        """Report that `done` of `total` units are finished."""


def no_progress(done: int, total: int, unit: str = "requests") -> None:
    """A `Progress` that reports nothing."""


class ServedModel(Frozen):
    """A model that a run will serve, for checks before anything of it is quantized or loaded."""

    source: ModelSource
    max_model_len: int  # context window that is served, in tokens
    stages: tuple[str, ...]  # of one benchmark


OptionsT = TypeVar("OptionsT", bound=Config)
RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Earlier:
    """What a run that did not end left behind, made with the same settings."""

    record: Record
    samples: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BenchmarkContext(Generic[OptionsT]):
    """What a benchmark measures with."""

    engine: Engine
    options: OptionsT
    config: RunConfig  # of the whole run, as it applies to this model
    gpus: tuple[Gpu, ...]  # that the engine computes on; empty on a CPU
    stage: str  # the record to make: one of `Benchmark.stages`
    progress: Progress = no_progress
    earlier: Earlier | None = None  # of a benchmark that `resumes`
    keep: Callable[[Measurement], None] = lambda measurement: None  # writes what is measured so far

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    def host_window(self) -> HostWindow | None:
        """What watches the host while something is measured; None if the engine is a server that others started.

        Its work on this machine would count as that of other processes, and on another machine nothing is seen of it.
        """
        if not getattr(self.engine, "is_ours", True):
            return None
        return HostWindow(self.config.host.max_contention, on_gpu=bool(self.gpus))


class Benchmark(ABC, Generic[OptionsT, RecordT]):
    """One kind of measurement on a loaded engine."""

    name: str  # as `--tasks` and records call it
    options: type[OptionsT]
    record: type[RecordT]
    modules: tuple[str, ...] = ()  # packages that the measuring interpreter needs for it
    needs_quiet: bool = False  # whether other work on the host distorts it, so that a run may wait until that ends
    keeps_samples: bool = False  # whether each record has raw samples; one without them is then measured again
    over_http: bool = False  # whether `BenchmarkContext.engine` is a `ServedEngine`: a server, not a loaded engine
    resumes: bool = False  # whether it continues a record of its own that `flaw` finds incomplete

    @abstractmethod
    def run(self, context: BenchmarkContext[OptionsT]) -> Measurement:
        """Measure one stage.

        Returns:
            The metrics (the fields that `record` adds to its head), the raw samples, and notes for the user.

        Raises:
            BenchmarkError: No valid number could be measured; the next benchmark runs on the same engine.
            EngineError: The engine stopped.
        """

    def options_of(self, config: RunConfig) -> OptionsT:
        """The benchmark's options: its own part of the config, else those given by ``--benchmark-option``.

        A UsageError refuses an option that is unknown, or whose value is invalid.
        """
        part = dict(config).get(self.name)
        if isinstance(part, self.options):
            return part
        parted = ((key.partition("."), value) for key, value in config.benchmark_options.items())
        try:
            return self.options.model_validate({key: value for (name, _, key), value in parted if name == self.name})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, (self.name, *first["loc"])))
            cause = f"--benchmark-option {field}: {first['msg'].removeprefix('Value error, ')}"
            remedy = f"options of {self.name}: {', '.join(self.options.model_fields) or 'none'}"
            raise UsageError(cause, remedy) from None

    def stages(self, config: RunConfig) -> tuple[str, ...]:
        """Names of the records that it makes, in the order of measuring."""
        return (self.name,)

    def resolved(self, config: RunConfig) -> RunConfig:
        """The config with patterns among its stages replaced by what they stand for; called once, by the plan."""
        return config

    def settings(self, config: RunConfig, stage: str, device: str | None) -> dict[str, Any]:
        """What the numbers of a stage depend on, besides the checkpoint and how it is served.

        By default the device (name of what computes; leave it out if no number depends on it), the seed and every
        option of the benchmark.
        """
        own = {"seed": config.seed, **self.options_of(config).model_dump(mode="json")}
        return {"device": device, **{f"{self.name}.{key}": value for key, value in own.items()}}

    def batch_size(self, config: RunConfig, stage: str) -> int:
        """Requests that are in the engine at once: a dry run estimates the KV cache from it."""
        return 1

    def flaw(self, record: RecordT, config: RunConfig) -> str:
        """Why a record is not a complete result and is measured again; empty if it is complete.

        By default a record is complete if one of its numbers is known.
        """
        own = type(record).model_fields.keys() - Metadata.model_fields.keys()
        values = [value for key, value in record if key in own]
        return "" if any(isinstance(value, (int, float)) for value in values) else NO_NUMBERS

    def check(self, config: RunConfig, stages: Sequence[str]) -> None:
        """Raise a `SlimEvalError`, in the measuring interpreter and before hours of work, if a stage cannot be run."""

    def check_model(self, config: RunConfig, model: ServedModel) -> None:
        """Raise a `SlimEvalError`, likewise, if a stage cannot be run with a model."""

    def to_preview(self, config: RunConfig, model: ServedModel) -> tuple[str, ...]:
        """The stages of a model for which only `preview` can tell whether it sees all of their prompts."""
        return ()

    def preview(self, config: RunConfig, models: Sequence[ServedModel]) -> Iterator[str]:
        """What these models would not see of the prompts of their stages, one sentence each.

        Called in the measuring interpreter before the run starts; it may load data, but no model. A failure is shown
        and does not stop the run.
        """
        yield from ()

    def limitations(self, config: RunConfig) -> tuple[str, ...]:
        """What the options make impossible to see in the results, one sentence each; shown before the run starts."""
        return ()


class _Benchmarks(Registry[Benchmark[Any, Any]]):
    """The registry, which also makes the class of a benchmark's records known to the reader of result files."""

    def register(self, member: Benchmark[Any, Any]) -> Benchmark[Any, Any]:
        """Add a benchmark, and return it; a ValueError if another one has its name, or no file can have it."""
        if member.name != slug(member.name) or "." in member.name or member.name in RESERVED_FILES:
            rule = "use letters, digits, '_' and '-', and not the name of another file"
            raise ValueError(f"benchmark {member.name!r} cannot name a file: {rule}")
        super().register(member)
        RECORD_CLASSES[member.name] = member.record
        return member

    def unregister(self, name: str) -> None:
        """Remove a benchmark and the class of its records; for tests that add one."""
        super().unregister(name)
        RECORD_CLASSES.pop(name, None)


BENCHMARKS = _Benchmarks("benchmark")


def benchmarks_of(names: Iterable[str]) -> list[Benchmark[Any, Any]]:
    """The benchmarks of these names, in the order of measuring; a UsageError for one that is not registered."""
    wanted = set(names)
    for name in wanted:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    return [benchmark for benchmark in BENCHMARKS.values() if benchmark.name in wanted]


def stages_of(config: RunConfig) -> dict[str, Benchmark[Any, Any]]:
    """Every record that a run makes of a variant, with its benchmark, in the order of measuring.

    A UsageError refuses a benchmark that is unknown, and records that would share a file.
    """
    found: dict[str, Benchmark[Any, Any]] = {}
    files: dict[str, str] = {}
    for benchmark in benchmarks_of(config.tasks):
        for stage in benchmark.stages(config):
            file = slug(stage).casefold()
            if file in files:
                cause = f"{files[file]!r} and {stage!r} would share the file {slug(stage)}.json"
                raise UsageError(cause, "measure only one of them, or use a separate --output-dir for the other")
            files[file], found[stage] = stage, benchmark
    return found


def check_options(config: RunConfig) -> None:
    """Refuse an option that is unknown, is invalid, or whose benchmark has command-line options of its own."""
    for key in config.benchmark_options:
        owner, dot, field = key.partition(".")
        if not (dot and field):
            raise UsageError(f"--benchmark-option {key}: not an option name", "write NAME.OPTION=VALUE")
        if owner not in BENCHMARKS:
            raise unknown_name("benchmark", owner, BENCHMARKS)
        if isinstance(dict(config).get(owner), BENCHMARKS[owner].options):
            cause = f"--benchmark-option {key}: the {owner} benchmark has command-line options of its own"
            raise UsageError(cause, "see: slim-eval run --help")
    for benchmark in benchmarks_of(config.tasks):
        benchmark.options_of(config)


def invalidity(record: ObservedMetrics) -> str:
    """Why a record is invalid, as `Benchmark.flaw` returns it; empty if it is valid or that is unknown."""
    return f"its record is invalid ({'; '.join(record.invalid_reasons)})" if record.valid is False else ""


def full_batches(requests: int, batch_size: int) -> int:
    """Iterations of `batch_size` requests that contain at least `requests`: rounded up to full batches."""
    return math.ceil(requests / batch_size)


def prompts(engine: Engine, config: PerformanceConfig, iteration: int, batch_size: int, seed: int = 0) -> list[Prompt]:
    """The prompts of one iteration; call it outside whatever is timed.

    Without `config.prompt_len` each is `config.prompt`. With it, each is that many random token ids: a function of
    `seed`, `iteration` (number of the batch within the run, warm-up included, from 0), the request and the model's
    vocabulary, so that every scheme of a model gets the same ones. No two of a run are equal, as far as the vocabulary
    allows (its size to the power of `input_len`). They differ from the first token on, so that not even a cache of
    common prefixes could help. Every batch of a run has the same `batch_size`. A BenchmarkError says that the tokenizer
    has no token that a synthetic prompt may contain.
    """
    if config.prompt_len is None:
        return [config.prompt] * batch_size
    vocabulary = engine.ordinary_tokens()
    if not vocabulary:
        raise BenchmarkError("the tokenizer has no ordinary tokens for synthetic prompts", "use --prompt")
    # Seeded by a text, Python's generator gives the same numbers on every platform.
    return [
        synthetic_prompt(
            vocabulary, config.prompt_len, iteration * batch_size + request,
            random.Random(f"{seed} {iteration} {request}"),
        )
        for request in range(batch_size)
    ]  # fmt: skip


def synthetic_prompt(vocabulary: Sequence[int], length: int, number: int, draw: random.Random) -> tuple[int, ...]:
    """The number of a request in tokens, lowest digit first, then random ones."""
    counting = min(length, _COUNTING_TOKENS)
    digits = [vocabulary[number // len(vocabulary) ** place % len(vocabulary)] for place in range(counting)]
    return (*digits, *draw.choices(vocabulary, k=length - counting))


def workload_settings(config: RunConfig) -> dict[str, Any]:
    """Settings of what each request is; a synthetic prompt depends on the seed, greedy generation does not."""
    part = config.performance
    if part.prompt_len is None:
        return {"prompt": part.prompt, "max_new_tokens": part.max_new_tokens}
    return {"input_len": part.prompt_len, "prompt_seed": config.seed, "max_new_tokens": part.max_new_tokens}
