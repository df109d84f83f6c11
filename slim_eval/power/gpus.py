"""GPUs of this machine: which there are, which a run uses, what they can do, and which processes use them.

The one door to NVML (package nvidia-ml-py, module `pynvml`). An optional answer that the GPU, the driver or the binding
does not give is None.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.utils import GIB, MIB
from slim_eval.utils.host import process_tree

_ROOT_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the Linux kernel
_FACTS: tuple[tuple[str, str, tuple[int, ...], float], ...] = (  # key, NVML query, its arguments, divisor
    ("power_limit_watts", "nvmlDeviceGetPowerManagementLimit", (), 1000),
    ("sm_clock_mhz", "nvmlDeviceGetClockInfo", (1,), 1),  # NVML_CLOCK_SM
    ("memory_clock_mhz", "nvmlDeviceGetClockInfo", (2,), 1),  # NVML_CLOCK_MEM
    ("max_sm_clock_mhz", "nvmlDeviceGetMaxClockInfo", (1,), 1),
    ("max_memory_clock_mhz", "nvmlDeviceGetMaxClockInfo", (2,), 1),
    ("memory_bus_width_bits", "nvmlDeviceGetMemoryBusWidth", (), 1),
)


@dataclass(frozen=True)
class Gpu:
    """One GPU, or a MIG slice of one.

    `index` is NVML's (PCI bus order), for a slice that of its GPU. `memory_total_mb` is None for a GPU without memory
    of its own. A slice has its own UUID, name and memory, but neither power nor clocks nor temperature.
    """

    index: int
    uuid: str
    name: str
    memory_total_mb: float | None
    driver: str
    parent: str | None = None  # UUID of the GPU that a slice belongs to; None for a whole GPU
    slices: tuple[Gpu, ...] | None = None  # None for a GPU that is not in MIG mode

    @property
    def visible_name(self) -> str:
        """How CUDA_VISIBLE_DEVICES names it; CUDA knows slices by their UUID alone."""
        return str(self.index) if self.parent is None else self.uuid


@dataclass(frozen=True)
class GpuCapabilities:
    """What one GPU and its driver can do."""

    gpu: Gpu
    memory_free_mb: float | None  # memory that no process uses, MiB
    compute_capability: tuple[int, int] | None  # CUDA's, e.g. (9, 0)
    has_counter: bool  # of energy
    has_power: bool  # whether it reports its power
    driver_cuda: tuple[int, int] | None  # newest CUDA that the driver supports, e.g. (12, 8)


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU now; `free_gb`, GiB, is None if unknown. `others` describes processes, the largest first."""

    gpu: Gpu
    free_gb: float | None
    others: tuple[str, ...]

    def __str__(self) -> str:
        total_mb = self.gpu.memory_total_mb
        if self.free_gb is None or total_mb is None:
            return f"GPU {self.gpu.index} does not report its free memory"
        free = f"GPU {self.gpu.index} has {self.free_gb:.1f} of {total_mb * MIB / GIB:.1f} GiB free"
        return ", ".join([free, *self.others])


@contextmanager
def open_nvml() -> Iterator[Any]:
    """The module pynvml, initialised for the block; its errors pass through."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """An optional answer of NVML."""
    try:
        return getattr(nvml, name)(*arguments)
    except (AttributeError, nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine in NVML's order, without MIG slices; empty without GPU, driver or nvidia-ml-py.

    Raises:
        SlimEvalError: There is a driver, but it does not work.
    """
    try:
        import pynvml
    except ImportError:
        return ()
    absent = (
        pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_NoPermission,
        pynvml.NVMLError_NotFound, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_GpuNotFound,
    )  # fmt: skip
    gpus = []
    try:
        with open_nvml() as nvml:
            driver = nvml.nvmlSystemGetDriverVersion()
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _described(nvml, handle, index, driver)
                mode = ask(nvml, "nvmlDeviceGetMigMode", handle)
                if mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE:
                    places = range(ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)
                    parts = (ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place) for place in places)
                    found = (_described(nvml, part, index, driver, gpu.uuid) for part in parts if part is not None)
                    gpu = replace(gpu, slices=tuple(found))
                gpus.append(gpu)
    except absent:
        return ()
    except pynvml.NVMLError as error:
        raise SlimEvalError(
            f"NVML cannot list the GPUs: {error}", "run nvidia-smi to see why; after a driver update, reboot"
        ) from error
    return tuple(gpus)


def _described(nvml: Any, handle: Any, index: int, driver: str, parent: str | None = None) -> Gpu:
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    total_mb = None if memory is None else memory.total / MIB
    return Gpu(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), total_mb, driver, parent)


def resolve_gpus(gpu_index: int, count: int, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that a run computes on, and so measures; empty for a run on the CPU.

    Indices are those of nvidia-smi; CUDA's own order may differ, unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set. A GPU
    in MIG mode cannot be used as a whole: as in CUDA, it stands for its first slice. Others are named by their UUID.

    Args:
        gpu_index: First GPU, 0-based, among the visible ones.
        count: How many GPUs share the model.
        visible: The value of CUDA_VISIBLE_DEVICES: indices, UUIDs or prefixes of UUIDs, also of MIG slices; None if it
            is not set.

    Raises:
        UsageError: There is no such GPU.
    """
    usable, on_machine = _usable(visible)
    if not usable and (gpu_index, count) == (0, 1):
        return ()  # also if CUDA_VISIBLE_DEVICES hides every GPU: the usual way to select the CPU
    if gpu_index + count > len(usable):
        wanted = f"--gpu-index {gpu_index}" + (f" --tensor-parallel-size {count}" if count > 1 else "")
        raise _too_few(wanted, usable, on_machine, visible)
    chosen = tuple(usable[gpu_index : gpu_index + count])
    _refuse_several_slices(chosen)
    return chosen


def group_gpus(wanted: Sequence[str], count: int, visible: str | None) -> list[tuple[Gpu, ...]]:
    """Groups of `count` GPUs each, for as many variants at the same time.

    Args:
        wanted: ``all``, or indices, 0-based, among the visible ones.
        count: How many GPUs share a model.
        visible: As of `resolve_gpus`.

    Raises:
        UsageError: There is no such GPU, or there are fewer than `count`.
    """
    usable, on_machine = _usable(visible)
    option = f"--gpus {','.join(wanted)}"
    indices = range(len(usable)) if tuple(wanted) == ("all",) else [int(entry) for entry in wanted]
    if not usable or any(index >= len(usable) for index in indices):
        raise _too_few(option, usable, on_machine, visible)
    chosen = [usable[index] for index in indices]
    if len(chosen) < count:
        cause = f"{option}: a variant takes {count} GPUs (--tensor-parallel-size), but there are {len(chosen)}"
        raise UsageError(cause, "lower --tensor-parallel-size, or name more GPUs")
    groups = [tuple(chosen[first : first + count]) for first in range(0, len(chosen) - count + 1, count)]
    for group in groups:
        _refuse_several_slices(group)
    return groups


def _usable(visible: str | None) -> tuple[list[Gpu], int]:
    """The GPUs that CUDA may use, in its order, and how many the machine has."""
    gpus = list_gpus()
    usable = list(gpus)
    if gpus and visible is not None:
        usable = []
        for entry in (part.strip() for part in visible.split(",")):
            if entry in {"", "-1"}:  # CUDA ignores everything after these
                break
            known = (*gpus, *(part for gpu in gpus for part in gpu.slices or ()))
            if entry.isdigit():
                found = [gpu for gpu in gpus if entry == str(gpu.index)]
            else:
                found = [gpu for gpu in known if gpu.uuid.startswith(entry)]
            if len(found) != 1 or found[0] in usable:
                raise UsageError(
                    f"CUDA_VISIBLE_DEVICES={visible}: {entry!r} is unknown, ambiguous or repeated (GPUs: {len(gpus)})",
                    "list each index or UUID from nvidia-smi -L once, those of MIG slices included",
                )
            usable += found
    for place, gpu in enumerate(usable):
        if gpu.slices is not None and not gpu.slices:
            cause = f"GPU {gpu.index} ({gpu.name}) is in MIG mode and has no slices"
            raise UsageError(cause, "create one with nvidia-smi mig, or choose another GPU with CUDA_VISIBLE_DEVICES")
        usable[place] = gpu.slices[0] if gpu.slices else gpu
    if len({gpu.uuid for gpu in usable}) < len(usable):
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES={visible}: a MIG slice is listed twice, once as the first of its GPU",
            "list the slices alone, each once: nvidia-smi -L shows their UUIDs",
        )
    return usable, len(gpus)


def _too_few(wanted: str, usable: Sequence[Gpu], on_machine: int, visible: str | None) -> UsageError:
    is_hidden = len(usable) < on_machine
    hidden = f" ({on_machine} on the machine; CUDA_VISIBLE_DEVICES={visible})" if is_hidden else ""
    remedy = "choose one of these, or change CUDA_VISIBLE_DEVICES" if on_machine else "omit it to use the CPU"
    return UsageError(f"{wanted}: the number of GPUs is {len(usable)}{hidden}; indices start at 0", remedy)


def _refuse_several_slices(chosen: Sequence[Gpu]) -> None:
    if len(chosen) > 1 and any(gpu.parent is not None for gpu in chosen):
        remedy = "leave --tensor-parallel-size at 1, or use GPUs without MIG"
        raise UsageError(f"--tensor-parallel-size {len(chosen)}: CUDA uses only one MIG slice per process", remedy)


@contextmanager
def handles(gpus: Iterable[Gpu]) -> Iterator[list[tuple[Any, Gpu, Any]]]:
    """For each GPU: NVML, the GPU and its handle, valid in the block. Without GPUs it is empty, and NVML not opened."""
    gpus = tuple(gpus)
    with open_nvml() if gpus else nullcontext() as nvml:
        yield [(nvml, gpu, ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)) for gpu in gpus]


def gpu_facts(gpus: Iterable[Gpu]) -> tuple[dict[str, Any], ...]:
    """What a record says of a GPU: identity, driver, memory, power limit, clocks, memory bandwidth; None if unknown."""
    every: list[dict[str, Any]] = []
    with handles(gpus) as opened:
        for nvml, gpu, handle in opened:
            facts = {key: value for key, value in asdict(gpu).items() if key not in ("parent", "slices")}
            if gpu.parent is not None:
                facts["parent"] = gpu.parent
            for key, query, arguments, divisor in _FACTS:
                value = ask(nvml, query, handle, *arguments)
                facts[key] = None if value is None else value / divisor
            clock_mhz, bus_width_bits = facts["max_memory_clock_mhz"], facts["memory_bus_width_bits"]
            facts["memory_bandwidth_gb_s"] = memory_bandwidth_gb_s(clock_mhz, bus_width_bits)
            persistence = ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
            facts["persistence_mode"] = None if persistence is None else bool(persistence)
            every.append(facts)
    return tuple(every)


def gpu_capabilities(gpus: Iterable[Gpu]) -> tuple[GpuCapabilities, ...]:
    """What each of some GPUs can do."""
    every: list[GpuCapabilities] = []
    with handles(gpus) as opened:
        for nvml, gpu, handle in opened:
            memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
            capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
            version = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
            every.append(
                GpuCapabilities(
                    gpu=gpu,
                    memory_free_mb=None if memory is None else memory.free / MIB,
                    compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
                    has_counter=ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle) is not None,
                    has_power=ask(nvml, "nvmlDeviceGetPowerUsage", handle) is not None,
                    driver_cuda=(version // 1000, version % 1000 // 10) if version else None,
                )
            )
    return tuple(every)


def gpu_memory(gpus: Iterable[Gpu]) -> tuple[GpuMemory, ...]:
    """Free memory of some GPUs, and the processes of others on them."""
    import psutil

    every: list[GpuMemory] = []
    with handles(gpus) as opened:
        for nvml, gpu, handle in opened:
            memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
            running, own = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or (), process_tree()
            others = []
            for process in sorted(running, key=lambda each: -(each.usedGpuMemory or 0)):
                if process.pid not in own:
                    name, used = "", process.usedGpuMemory
                    if not pids_may_be_the_hosts():
                        with suppress(psutil.Error):  # it has ended
                            name = f" ({psutil.Process(process.pid).name()})"
                    share = "an unknown share" if used is None else f"{used / GIB:.1f} GiB"
                    others.append(f"pid {process.pid}{name} uses {share}")
            every.append(GpuMemory(gpu, None if memory is None else memory.free / GIB, tuple(others)))
    return tuple(every)


def uses_gpu(pids: Collection[int]) -> bool | None:
    """Whether one of these processes computes on a GPU of this machine; None if NVML cannot tell, as in a container."""
    if pids_may_be_the_hosts():
        return None
    with handles(list_gpus()) as opened:
        running = [ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) for nvml, _, handle in opened]
    found = {process.pid for processes in running for process in processes or ()}
    return True if found & set(pids) else None if None in running else False


def memory_bandwidth_gb_s(clock_mhz: float | None, bus_width_bits: float | None) -> float | None:
    """Peak bandwidth of a GPU's memory, 10**9 bytes per second; None if a part is unknown or 0.

    It is the highest memory clock that NVML reports x 2 transfers per cycle (double data rate) x bus width. This
    reproduces the data sheets: A100 40 GB, 1215 MHz x 5120 bit: 1555 GB/s; H100 SXM, 2619 MHz x 5120 bit: 3352 GB/s.
    """
    if not clock_mhz or not bus_width_bits:
        return None
    return clock_mhz * 1e6 * 2 * bus_width_bits / 8 / 1e9


def foreign_processes(listed: Collection[int], own: Collection[int], *, namespaced: bool) -> frozenset[int]:
    """The processes `listed` on one GPU that are not in `own`.

    In a container NVML may list processes by the host's ids. Then a single unknown one, with none of ours in the list,
    counts as the engine.
    """
    foreign = frozenset(listed) - frozenset(own)
    is_engine = namespaced and len(foreign) == len(frozenset(listed)) == 1
    return frozenset() if is_engine else foreign


def pids_may_be_the_hosts() -> bool:
    """Whether this process runs in a container whose process ids differ from the host's, which NVML may report."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != _ROOT_PID_NAMESPACE
    except OSError:
        return True
