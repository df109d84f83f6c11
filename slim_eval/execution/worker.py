"""The child process of a stage: a job in on stdin, events out as JSON lines, everything else to the log.

Run it by hand with ``python -m slim_eval.execution.worker < job.json``. After a known failure of a benchmark, the next
one runs on the same engine. Any other failure ends the process, and the evaluator starts a fresh one for the rest:
an engine that failed in an unknown way cannot be trusted to measure.

Devices are resolved here, where the work runs: a worker finds the GPUs of its own machine, hides all others from CUDA,
and records their name. The plan resolves GPUs too, but only to forecast: see `plan.lay_out`.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from slim_eval import models, power
from slim_eval.benchmarks.base import BENCHMARKS, Benchmark, BenchmarkContext, Earlier, Progress, stages_of
from slim_eval.config import Dtype, EngineConfig
from slim_eval.engines.engine import Engine, ServedEngine
from slim_eval.errors import BenchmarkError, EngineError, ResultFileError, SlimEvalError, UsageError
from slim_eval.execution import fingerprints, messages, turns
from slim_eval.models.source import CheckpointFacts
from slim_eval.plugins import load_plugins
from slim_eval.quantization import cache, written
from slim_eval.results.records import ErrorRecord, Measurement, Metadata, ObservedMetrics, Record
from slim_eval.results.store import RECEIPT, read_record, read_samples, record_path, write_record, write_samples
from slim_eval.schemes import DEFAULT_BASELINE, ONLINE, scheme_of
from slim_eval.utils import GIB, environment
from slim_eval.utils.host import HostUse, HostWindow

_ADVANCE_EVERY_S = 0.2
_RECORDED = {"seed", "revision", "performance", "energy", "serving", "accuracy", "benchmark_options", "engine", "host"}
_Emit = Callable[[messages.Event], None]
_Result = TypeVar("_Result")


class _Loaded(NamedTuple):
    engine: Engine | ServedEngine
    gpus: tuple[power.Gpu, ...]  # that it computes on
    device: str | None  # name of what computes
    head: dict[str, Any]  # what the head of every record contains


def main() -> int:
    """Do the job on stdin; 0 if it was done to its end, known failures of single benchmarks included."""
    faulthandler.enable()  # a crash in native code leaves a stack in the log
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # and so does one that hangs, on request
    _hold_lifeline()
    # The real stdout is for events; everything that libraries print, also from C, goes to stderr: the log.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.set_inheritable(events.fileno(), False)
    os.dup2(2, 1)

    def emit(event: messages.Event) -> None:
        events.write(event.model_dump_json() + "\n")

    load_plugins()  # a job may name what a plugin adds
    job = messages.parse_job(sys.stdin.read())
    if isinstance(job, messages.MeasureJob):
        _measure(job, emit)
    elif isinstance(job, messages.CheckJob):
        if _attempt(messages.CHECK, partial(_check, job, emit), emit) and job.previews:
            _attempt(messages.PREVIEW, partial(_preview, job, emit), emit)
    else:
        stage = "download" if job.kind == "fetch" else job.kind
        _attempt(stage, partial(_prepare_in_turn, job, stage, emit), emit)
    return 0


def _hold_lifeline() -> None:
    """End together with the process that started this one, even if that is killed, and with all child processes."""
    number = os.environ.pop(messages.LIFELINE, None)
    if number is None:
        return  # run by hand
    os.set_inheritable(int(number), False)

    def wait() -> None:
        os.read(int(number), 1)  # nothing is ever written: it returns when the other end is gone
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _attempt(stage: str, work: Callable[[], _Result], emit: _Emit) -> _Result | None:
    """Run one stage between its events and return its result; None if it failed for a known reason."""
    emit(messages.Started(stage=stage))
    try:
        result = work()
    except SlimEvalError as error:
        traceback.print_exception(error, file=sys.stderr)  # the log has more than the one line
        is_usage = isinstance(error, UsageError)
        emit(messages.Failed(stage=stage, cause=error.cause, remedy=error.remedy, usage=is_usage))
        return None
    emit(messages.Finished(stage=stage, path=result if isinstance(result, Path) else None))
    return result


def _claim_gpus(gpu_index: int, count: int) -> tuple[power.Gpu, ...]:
    """The GPUs of this machine to compute on; all others are hidden from CUDA, which must not have started yet."""
    gpus = power.resolve_gpus(gpu_index, count, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus:  # numbered as NVML numbers them, so that both mean the same
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.visible_name for gpu in gpus)
    return gpus


def _prepare_in_turn(job: messages.PrepareJob, stage: str, emit: _Emit) -> Path | None:
    """Do a job that measures nothing; while it uses the machine, nothing there is measured alone."""
    if isinstance(job, messages.RecipeJob):  # before any variant is begun
        return _prepare(job, emit)
    if isinstance(job, messages.DequantizeJob):
        name = job.file.stem
    else:
        name = (job.request.source if isinstance(job, messages.QuantizeJob) else job.source).name
    with turns.turn(f"{name}: {stage}", alone=False, waiting=_waiting(stage, emit)):
        return _prepare(job, emit)


def _check(job: messages.CheckJob, emit: _Emit) -> bool:
    """Refuse what cannot be served or measured; True if all of it can."""
    from slim_eval import engines

    _claim_gpus(job.config.engine.gpu_index, job.config.engine.tensor_parallel_size)
    for precision in job.precisions:
        decision = engines.choose(job.config.engine.engine, precision, job.config.engine.asked_dtype)
        engine = engines.ENGINES[decision.name]
        engine.check(job.config.engine)
        _refuse_contradictions(job.config.engine, precision, engine.name)
        if job.config.engine.dtype is not Dtype.AUTO and "dtype" not in engine.settings:
            raise UsageError(f"{engine.label} does not support --dtype", "leave it out, or use another engine")
        if not engine.capabilities.serving and (over := [n for n in job.stages if BENCHMARKS[n].over_http]):
            cause = f"{engine.label} has no server, which {', '.join(over)} needs"
            remedy = f"use --engine vllm, or leave {', '.join(over)} out of --tasks"
            raise UsageError(cause, remedy)
        if "accuracy" in job.stages and not engine.capabilities.lm_eval:
            raise UsageError(f"{engine.label} cannot measure accuracy", "leave accuracy out of --tasks")
        emit(messages.Chosen(precision=precision, engine=decision.name))
    for name, stages in job.stages.items():
        BENCHMARKS[name].check(job.config, stages)
    for name, served in job.models.items():
        for model in served:
            BENCHMARKS[name].check_model(job.config, model)
    return True


def _preview(job: messages.CheckJob, emit: _Emit) -> None:
    """Tell what models would not see of their prompts."""
    for name, served in job.previews.items():
        for text in BENCHMARKS[name].preview(job.config, served):
            emit(messages.Note(text=text))


def _prepare(job: messages.PrepareJob, emit: _Emit) -> Path | None:
    """Do a job that measures nothing; the folder of the checkpoint that it makes."""
    if isinstance(job, messages.RecipeJob):
        from slim_eval.quantization.llmcompressor import modifiers_of

        for precision in job.precisions:
            modifiers_of(cache.recipe_of(precision))
        return None
    if isinstance(job, messages.FetchJob):
        source = models.fetch(job.source, allow_pickle=job.allow_pickle, progress=_progress("download", emit))
        return source.path or source.pickled or source.adapter
    progress = _progress(job.kind, emit)
    if isinstance(job, messages.DequantizeJob):
        from slim_eval.models import dequantize

        return dequantize.convert(job.file, job.directory, job.identity, progress)
    if isinstance(job, messages.ConvertJob):
        from slim_eval.engines import memory
        from slim_eval.models import pickles

        trust = job.trust_remote_code
        if job.source.base is not None:
            from slim_eval.models import adapters

            memory.require_in_ram(models.bytes_here(job.source.base), pickles.LIBRARIES_GB)
            return adapters.merge(job.source, job.directory, job.identity, progress, trust_remote_code=trust)
        memory.require_in_ram(models.bytes_here(job.source), pickles.LIBRARIES_GB)
        return pickles.convert(job.source, job.directory, job.identity, progress, trust_remote_code=trust)
    _claim_gpus(job.gpu_index, job.num_gpus)  # before torch is imported
    from slim_eval.quantization.llmcompressor import quantize

    return quantize(job.request, lambda text: emit(messages.Note(text=text)), progress).path


def _refuse_contradictions(config: EngineConfig, precision: str, engine: str) -> None:
    """Refuse engine arguments that would make the variant another one than its scheme says."""
    for name in scheme_of(precision).served_with.get(engine, {}):
        if name in config.engine_args:
            raise UsageError(f"--engine-arg {name}: --precision {precision} sets it", "leave one of them out")
    if precision == DEFAULT_BASELINE and (method := config.engine_args.get("quantization")):
        cause = f"--engine-arg quantization={method}: {precision} would be served quantized, under a false name"
        raise UsageError(cause, f"use --precision {ONLINE}{method}")


def _measure(job: messages.MeasureJob, emit: _Emit) -> None:
    """Measure on the loaded engine, then on a server: both at once would share a device."""
    stages = {stage: benchmark for stage, benchmark in stages_of(job.config).items() if stage in job.stages}
    for over_http in (False, True):
        mine = {stage: benchmark for stage, benchmark in stages.items() if benchmark.over_http is over_http}
        if not mine:
            continue
        loaded = _attempt("engine", partial(_load, job, emit, over_http=over_http), emit)
        if loaded is None:
            return
        try:
            for stage, benchmark in mine.items():
                _attempt(stage, partial(_record, job, stage, benchmark, loaded, _progress(stage, emit), emit), emit)
        finally:
            loaded.engine.close()


def _load(job: messages.MeasureJob, emit: _Emit, *, over_http: bool = False) -> _Loaded:
    with turns.turn(f"{job.model} {job.precision}: engine", alone=False, waiting=_waiting("engine", emit)):
        return _load_now(job, emit, over_http=over_http)


def _load_now(job: messages.MeasureJob, emit: _Emit, *, over_http: bool) -> _Loaded:
    from slim_eval import engines

    config = job.config.engine
    claimed = _claim_gpus(config.gpu_index, config.tensor_parallel_size)
    decision = engines.choose(config.engine, job.precision, config.asked_dtype)
    emit(messages.Note(text=decision.reason))
    request = engines.LoadRequest(
        checkpoint=job.checkpoint,
        config=config,
        max_model_len=job.max_model_len,
        seed=job.config.seed,
        precision=job.precision,
        model=job.model,
        revision=job.revision,
        base_model=job.base_model,
        parallel=max((each.batch_size(job.config, stage) for stage, each in stages_of(job.config).items()), default=1),
    )
    kind = engines.ENGINES[decision.name]
    engine = kind.serve(request) if over_http else kind.load(request)
    # A server returns what the engine of the same checkpoint does; clients are not given log-probabilities.
    checked = {} if over_http else _receipt(job, cast(Engine, engine), emit)
    gpus = () if engine.device == "cpu" else claimed  # an engine may compute on the CPU although there are GPUs
    device = None if config.remote_url is not None else fingerprints.device_name(claimed)
    head = _metadata(job, engine, decision.reason, gpus) | checked
    return _Loaded(engine, gpus, device, head)


def _receipt(job: messages.MeasureJob, engine: Engine, emit: _Emit) -> dict[str, Any]:
    """Whether the engine serves the checkpoint as it was made, as fields of every record; it is closed if not."""
    from slim_eval.analysis import receipts
    from slim_eval.engines import agreement

    trust = job.config.engine.trust_remote_code
    try:
        receipt = agreement.receipt(engine, job.checkpoint, trust_remote_code=trust)
        write_samples(job.directory, RECEIPT, receipt.rows)
    except SlimEvalError:
        engine.close()
        raise
    except OSError as error:
        engine.close()
        cause = f"{job.directory}: the receipt of kernels could not be written: {error.strerror or error}"
        raise EngineError(cause, "free some space or fix the folder, and run the command again") from error
    if text := receipts.in_words(receipt.record) or (receipt.failure and f"no receipt of kernels: {receipt.failure}"):
        emit(messages.Note(text=text))
    return receipt.record.model_dump()


def _record(
    job: messages.MeasureJob,
    stage: str,
    benchmark: Benchmark[Any, Any],
    loaded: _Loaded,
    progress: Progress,
    emit: _Emit,
) -> Path:
    """Measure one stage, and write its record the moment it ends."""
    engine, gpus, device, head = loaded
    own: dict[str, Any] = {"benchmark": benchmark.name}
    if (settings := job.settings.get(stage)) is not None:
        here = {"device": device} if "device" in settings else {}
        own["measured_with"] = fingerprints.served_by({**settings, **here}, engine.name, engine.dtype)
        own["fingerprint"] = fingerprints.fingerprint(own["measured_with"])

    def write(measurement: Measurement, duration_s: float | None = None) -> tuple[Path, Record]:
        further = {
            "timestamp": environment.now(),
            "stage_duration_s": duration_s,
            "notes": tuple(dict.fromkeys((*head["notes"], *engine.notes, *measurement.notes))),
        }
        record: Record = benchmark.record(**head | own | further, **measurement.metrics.model_dump())
        if record.name != stage:  # a benchmark of several stages whose class does not name them itself
            record = record.model_copy(update={"stage": stage})
        try:
            return write_record(job.directory, record, measurement.samples), record
        except OSError as error:
            cause = f"{job.directory}: the record could not be written: {error.strerror or error}"
            remedy = "free some space or fix the folder; rerunning the command measures it again"
            raise BenchmarkError(cause, remedy) from error

    def keep(measurement: Measurement) -> None:
        write(measurement)
        emit(messages.Kept(stage=stage))

    context = BenchmarkContext(
        cast(Engine, engine),  # a `ServedEngine` for a benchmark that asks for one
        benchmark.options_of(job.config),
        job.config,
        gpus,
        stage,
        progress,
        _earlier(job, stage, own.get("measured_with"), emit) if benchmark.resumes else None,
        keep,
    )
    is_quiet = benchmark.needs_quiet and not job.config.machines.share_node
    what = f"{job.model} {job.precision}: {stage}"
    with turns.turn(what, alone=is_quiet, waiting=_waiting(stage, emit)) as beside:
        measurement, duration_s = measure_in_quiet(benchmark, context, lambda text: emit(messages.Note(text=text)))
        own["beside"] = beside() if benchmark.needs_quiet else None
    written, record = write(measurement, duration_s)
    if isinstance(record, ObservedMetrics) and record.valid is False:
        emit(messages.Note(text=f"{stage} is invalid and does not count: {record.invalidity}"))
    return written


def _earlier(job: messages.MeasureJob, stage: str, now: fingerprints.Settings | None, emit: _Emit) -> Earlier | None:
    """What an earlier run of the same settings left of a stage; None with ``--force``.

    A run on whichever machine is free only knows here that another device left it.
    """
    path = record_path(job.directory, stage)
    if job.config.force or not path.is_file():
        return None
    try:
        record, samples = read_record(path), read_samples(job.directory, stage)
    except ResultFileError:
        return None
    if isinstance(record, ErrorRecord) or record.measured_with is None or now is None:
        return None
    if differences := fingerprints.differences(fingerprints.of_record(record, now), now):
        what = f"{stage} is measured from the start, without what is recorded"
        emit(messages.Note(text=f"{what}: {'; '.join(differences)}"))
        return None
    return Earlier(record, samples)


def measure_in_quiet(
    benchmark: Benchmark[Any, Any], context: BenchmarkContext[Any], note: Callable[[str], None]
) -> tuple[Measurement, float]:
    """Measure one stage; with ``--wait-quiet`` wait for a quiet host first, and measure again while the time lasts.

    Returns:
        The measurement, disturbed or not, and how long it took in seconds, without the waiting.
    """
    host, stage = context.config.host, context.stage
    window = HostWindow(host.max_contention, on_gpu=bool(context.gpus))
    began = time.monotonic()
    told = False

    def waiting(use: HostUse) -> None:
        nonlocal told
        if not told:
            why = "; ".join(use.disturbances(host.max_contention))
            note(f"{stage} waits up to {host.wait_quiet_s:g} s (--wait-quiet) for a quiet host: {why}")
        told = True
        context.progress(int(time.monotonic() - began), math.ceil(host.wait_quiet_s), "s of waiting")

    waits = benchmark.needs_quiet and host.wait_quiet_s > 0
    while True:
        if waits:
            window.wait_until_quiet(began + host.wait_quiet_s, waiting)
        start = time.monotonic()
        measurement = benchmark.run(context)
        took_s = time.monotonic() - start
        if not (waits and measurement.disturbances) or time.monotonic() >= began + host.wait_quiet_s:
            return measurement, took_s
        note(f"{stage} was disturbed and is measured again: {'; '.join(measurement.disturbances)}")


def _metadata(
    job: messages.MeasureJob, engine: Engine | ServedEngine, reason: str, gpus: tuple[power.Gpu, ...]
) -> dict[str, Any]:
    # Of a model at an endpoint, the files here need not be what is served.
    source = None if job.config.engine.base_url is not None else models.describe(job.source)
    own = None if source is None else source.quantization
    parameters = None if source is None else source.num_parameters
    made = cache.read_record(job.checkpoint) if (job.checkpoint / cache.RECORD_FILE).is_file() else None
    groups = None if made is None else made.settings.get("group_size")
    served = None if source is None else models.describe(job.checkpoint)
    if served is not None and made is None and job.checkpoint != job.source:
        own_method = served.scheme or served.quantization  # made elsewhere: by which method, only its files say
    else:
        own_method = own  # of a checkpoint that came quantized
    head = Metadata(
        schema_version=1,
        model=job.model,
        base_model=job.base_model or (None if own else job.model),
        baseline=DEFAULT_BASELINE,
        precision=job.precision,
        quantization_scheme=own_method or job.quantization_scheme,
        adapter=job.adapter,
        group_size=groups,
        low_bit_share=_low_bit_share(job, source) if made is None else made.low_bit_share,
        source_grid_bits=job.source_grid_bits,
        num_parameters=parameters,
        num_parameters_b=None if parameters is None else parameters / 1e9,
        model_size_gb=None if served is None else served.language_bytes / GIB,
        revision=job.revision,
        engine=engine.name,
        engine_version=engine.version,
        engine_reason=reason,
        dtype=engine.dtype,
        kernels=engine.kernels,
        kernel_error=getattr(engine, "kernel_error", None),  # engines of plugins need not state it
        environment=_environment(job.config.engine.remote_url, gpus),
        config=job.config.model_dump(mode="json", include=_RECORDED),
        notes=(*job.notes, *engine.notes),
    )
    return head.model_dump()


def _low_bit_share(job: messages.MeasureJob, source: CheckpointFacts | None) -> float | None:
    """The share of low-bit weights of a checkpoint that another tool quantized; None for formats that are not read."""
    if source is None or source.quantization != "compressed-tensors":
        return None
    found = written.read(job.checkpoint)
    return found.low_bit_share if found.layers else None


def _environment(remote_url: str | None, gpus: tuple[power.Gpu, ...]) -> dict[str, Any]:
    """What computes, and the packages here; of a remote endpoint its address in place of this machine's devices."""
    found = environment.collect(() if remote_url is not None else power.gpu_facts(gpus))
    return found if remote_url is None else {**found, "cpu": None, "endpoint": remote_url}


def _waiting(stage: str, emit: _Emit) -> Callable[[float], None]:
    """Reports how long a stage has waited for its turn: a worker that waits is not hung."""
    progress = _progress(stage, emit)
    return lambda seconds: progress(int(seconds), None, "s, waiting for a turn")


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
