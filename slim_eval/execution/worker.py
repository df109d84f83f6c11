"""The child process of a stage: a job in on stdin, events out as JSON lines, everything else to the log.

Run it by hand with ``python -m slim_eval.execution.worker < job.json``. After a known failure of a benchmark, the next
one runs on the same engine. Any other failure ends the process, and the evaluator starts a fresh one for the rest:
an engine that failed in an unknown way cannot be trusted to measure.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slim_eval import models, power
from slim_eval.benchmarks.base import Progress
from slim_eval.config import Benchmark, RunConfig
from slim_eval.engines.engine import Engine
from slim_eval.errors import BenchmarkError, EngineError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages
from slim_eval.plugins import load_plugins
from slim_eval.results.records import (
    AccuracyMetrics,
    AccuracyRecord,
    EnergyMetrics,
    EnergyRecord,
    Measurement,
    Metadata,
    PerformanceRecord,
    Record,
)
from slim_eval.results.store import write_record
from slim_eval.utils import GIB, environment

_ADVANCE_EVERY_S = 0.2
_Emit = Callable[[Any], None]


def main() -> int:
    """Do the job on stdin.

    Returns:
        0 where the job was done to its end, known failures of single benchmarks included.
    """
    faulthandler.enable()  # a crash in native code leaves a stack in the log
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # and so does one that hangs, when asked
    _hold_lifeline()
    emit = _claim_stdout()
    load_plugins()  # a job may name what a plugin adds
    job = messages.parse_job(sys.stdin.read())
    if isinstance(job, messages.CheckJob):
        _attempt("check", partial(_check, job, emit), emit)
    elif isinstance(job, messages.FetchJob):
        _attempt("download", partial(_fetch, job, emit), emit)
    elif isinstance(job, messages.ConvertJob):
        _attempt("convert", partial(_convert, job, emit), emit)
    elif isinstance(job, messages.QuantizeJob):
        _attempt("quantize", partial(_quantize, job, emit), emit)
    else:
        _measure(job, emit)
    return 0


def _hold_lifeline() -> None:
    """End with the process that started this one, though it be killed: with all that this one has started."""
    number = os.environ.pop(messages.LIFELINE, None)
    if number is None:
        return  # run by hand
    lifeline = int(number)
    os.set_inheritable(lifeline, False)

    def wait() -> None:
        os.read(lifeline, 1)  # nothing is ever written: it returns when the other end is gone
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _claim_stdout() -> _Emit:
    """Keep the real stdout for events and send everything that libraries print, also from C, to stderr: the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.set_inheritable(events.fileno(), False)
    os.dup2(2, 1)

    def emit(event: Any) -> None:
        events.write(event.model_dump_json() + "\n")

    return emit


def _attempt(stage: str, work: Callable[[], Path | None], emit: _Emit) -> bool:
    """Run one stage between its events; a known failure is reported. Whether it succeeded."""
    emit(messages.Started(stage=stage))
    try:
        path = work()
    except SlimEvalError as error:
        traceback.print_exception(error, file=sys.stderr)  # the log tells more than the one line
        usage = isinstance(error, UsageError)
        emit(messages.Failed(stage=stage, cause=error.cause, remedy=error.remedy, usage=usage))
        return False
    emit(messages.Finished(stage=stage, path=path))
    return True


def _check(job: messages.CheckJob, emit: _Emit) -> None:
    from slim_eval import engines

    for precision in job.precisions:
        decision = engines.choose(job.engine.engine, precision)
        engine = engines.ENGINES[decision.name]
        engine.check(job.engine)
        if job.tasks and not engine.capabilities.lm_eval:
            raise UsageError(f"{engine.label} cannot measure accuracy", "leave accuracy out of --tasks")
        emit(messages.Chosen(precision=precision, engine=decision.name))
    if job.tasks:
        from slim_eval.benchmarks import accuracy

        accuracy.check_tasks(job.tasks, job.include_path)


def _fetch(job: messages.FetchJob, emit: _Emit) -> Path | None:
    from slim_eval.models import fetch

    source = fetch(job.source, allow_pickle=job.allow_pickle, progress=_progress("download", emit))
    return source.path or source.pickled


def _convert(job: messages.ConvertJob, emit: _Emit) -> Path:
    from slim_eval.engines import memory
    from slim_eval.models import bytes_here, pickles

    memory.require_in_ram(bytes_here(job.source), pickles.LIBRARIES_GB)
    progress = _progress("convert", emit)
    return pickles.convert(job.source, job.directory, job.identity, progress, trust_remote_code=job.trust_remote_code)


def _quantize(job: messages.QuantizeJob, emit: _Emit) -> Path:
    from slim_eval.quantization.llmcompressor import quantize

    checkpoint = quantize(job.request, lambda text: emit(messages.Note(text=text)), _progress("quantize", emit))
    return checkpoint.path


def _measure(job: messages.MeasureJob, emit: _Emit) -> None:
    from slim_eval import engines

    loaded: list[tuple[Engine, tuple[power.Gpu, ...], dict[str, Any]]] = []

    def load() -> None:
        decision = engines.choose(job.config.engine.engine, job.precision)
        emit(messages.Note(text=decision.reason))
        request = engines.LoadRequest(
            checkpoint=job.checkpoint,
            config=job.config.engine,
            max_model_len=job.max_model_len,
            seed=job.config.seed,
        )
        engine = engines.ENGINES[decision.name].load(request)
        gpus = _computing_gpus(job, engine)
        loaded.append((engine, gpus, _metadata(job, engine, decision.reason, gpus)))

    if not _attempt("engine", load, emit):
        return
    engine, gpus, metadata = loaded[0]
    try:
        for stage, measure in _steps(job, engine, gpus):
            _attempt(stage, partial(_record, job, stage, metadata, measure, _progress(stage, emit)), emit)
    finally:
        engine.close()


def _computing_gpus(job: messages.MeasureJob, engine: Engine) -> tuple[power.Gpu, ...]:
    """The GPUs to measure: those of the job, unless the engine computes on the CPU although there are GPUs.

    Raises:
        EngineError: NVML does not show the worker what it showed the evaluator.
    """
    if engine.device == "cpu":
        return ()
    gpus = tuple(gpu for gpu in power.list_gpus() if gpu.uuid in job.gpus)
    if len(gpus) != len(job.gpus):
        raise EngineError(
            "the measuring interpreter does not see the GPUs that were chosen", "install nvidia-ml-py into it"
        )
    return gpus


def _steps(
    job: messages.MeasureJob, engine: Engine, gpus: tuple[power.Gpu, ...]
) -> Iterator[tuple[str, Callable[..., Measurement]]]:
    """The stages of a measurement in their order, each with the call that makes its numbers."""
    from slim_eval.benchmarks import accuracy

    config = job.config
    if Benchmark.PERFORMANCE in job.benchmarks:
        yield "performance", partial(_measure_performance, engine, config, gpus)
    if Benchmark.ENERGY in job.benchmarks:
        yield "energy", partial(_measure_energy, engine, config, gpus)
    if Benchmark.ACCURACY in job.benchmarks:
        for task in job.accuracy_tasks:
            yield task, partial(accuracy.run, engine, task, config.accuracy, config.seed)


def _measure_performance(
    engine: Engine, config: RunConfig, gpus: tuple[power.Gpu, ...], progress: Progress
) -> Measurement:
    from slim_eval.benchmarks import performance

    bandwidth = _memory_bandwidth(power.gpu_facts(gpus))
    return performance.run(engine, config.performance, progress, memory_bandwidth_gb_s=bandwidth, seed=config.seed)


def _memory_bandwidth(facts: Sequence[Mapping[str, Any]]) -> float | None:
    """Of all GPUs together, 10**9 bytes a second; None without a GPU, or where one of them does not say."""
    bandwidths = [gpu.get("memory_bandwidth_gb_s") for gpu in facts]
    known = [float(bandwidth) for bandwidth in bandwidths if bandwidth is not None]
    return sum(known) if known and len(known) == len(bandwidths) else None


def _measure_energy(engine: Engine, config: RunConfig, gpus: tuple[power.Gpu, ...], progress: Progress) -> Measurement:
    from slim_eval.benchmarks import energy

    meter = power.open_meter(config.energy.source, gpus, config.energy.sampling_interval_s)
    return energy.run(engine, config.energy, config.performance, meter, progress, seed=config.seed)


def _record(
    job: messages.MeasureJob, stage: str, metadata: dict[str, Any], measure: Callable[..., Measurement], progress: Any
) -> Path:
    """Measure, and write the record the moment its benchmark ends."""
    start = time.monotonic()
    measurement = measure(progress)
    head = {
        **metadata,
        **_measured_with(job, stage, metadata["engine"]),
        "timestamp": environment.now(),
        "stage_duration_s": time.monotonic() - start,
        "notes": (*metadata["notes"], *measurement.notes),
    }
    kind: type[Record] = PerformanceRecord
    if isinstance(measurement.metrics, EnergyMetrics):
        kind = EnergyRecord
    elif isinstance(measurement.metrics, AccuracyMetrics):
        kind = AccuracyRecord
    record = kind(**head, **measurement.metrics.model_dump())
    try:
        return write_record(job.directory, record, measurement.samples)
    except OSError as error:
        raise BenchmarkError(
            f"{job.directory}: the record could not be written: {error.strerror or error}",
            "make room or mend the folder; the same command measures it again",
        ) from error


def _measured_with(job: messages.MeasureJob, stage: str, engine: str) -> dict[str, Any]:
    """The settings that the numbers of a stage depend on, with their hash; none where the job names none."""
    if stage not in job.settings:
        return {}
    settings = fingerprints.served_by(job.settings[stage], engine)
    return {"measured_with": settings, "fingerprint": fingerprints.fingerprint(settings)}


def _metadata(job: messages.MeasureJob, engine: Engine, reason: str, gpus: tuple[power.Gpu, ...]) -> dict[str, Any]:
    source = models.describe(job.source)
    served = models.describe(job.checkpoint)
    parameters = source.num_parameters
    head = Metadata(
        schema_version=1,
        model=job.model,
        precision=job.precision,
        # A checkpoint that came quantized is measured as it is; its own method is named.
        quantization_scheme=source.quantization or job.quantization_scheme,
        num_parameters=parameters,
        num_parameters_b=None if parameters is None else parameters / 1e9,
        model_size_gb=served.weight_bytes / GIB,
        revision=job.revision,
        engine=engine.name,
        engine_version=engine.version,
        engine_reason=reason,
        dtype=engine.dtype,
        kernels=engine.kernels,
        environment=environment.collect(power.gpu_facts(gpus)),
        config=job.config.model_dump(
            mode="json", include={"seed", "revision", "performance", "energy", "accuracy", "engine"}
        ),
        notes=(*job.notes, *engine.notes),
    )
    return head.model_dump()


def _progress(stage: str, emit: _Emit) -> Callable[..., None]:
    """A `benchmarks.base.Progress` that emits a few events a second."""
    last = 0.0

    def progress(done: int, total: int | None, unit: str = "requests") -> None:
        nonlocal last
        clock = time.monotonic()
        if (total is not None and done >= total) or clock - last >= _ADVANCE_EVERY_S:
            last = clock
            emit(messages.Advanced(stage=stage, done=done, total=total, unit=unit))

    return progress


if __name__ == "__main__":
    sys.exit(main())
