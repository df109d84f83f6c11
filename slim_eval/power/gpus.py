"""GPUs of this machine: which there are, which a run uses, what a record says of them, whose processes they run.

NVML's door (package nvidia-ml-py, module `pynvml`): everything else in `slim_eval.power` asks NVML through it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.utils import MIB

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
    """One GPU. `index` is NVML's (PCI bus order); `memory_total_mb` is None where the GPU has no memory of its own."""

    index: int
    uuid: str
    name: str
    memory_total_mb: float | None
    driver: str


@contextmanager
def open_nvml() -> Iterator[Any]:
    """The module pynvml, initialised for the length of the block; its errors pass through."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """An answer of NVML that one can do without: None where the GPU, driver or binding does not give it."""
    try:
        return getattr(nvml, name)(*arguments)
    except (AttributeError, nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine in NVML's order; empty without GPU, driver or the package nvidia-ml-py.

    Raises:
        SlimEvalError: There is a driver, but it is broken.
    """
    try:
        import pynvml
    except ImportError:
        return ()
    absent = (
        pynvml.NVMLError_LibraryNotFound,
        pynvml.NVMLError_DriverNotLoaded,
        pynvml.NVMLError_NoPermission,
        pynvml.NVMLError_NotFound,
        pynvml.NVMLError_FunctionNotFound,
        pynvml.NVMLError_GpuNotFound,
    )
    try:
        with open_nvml() as nvml:
            driver = nvml.nvmlSystemGetDriverVersion()
            return tuple(_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except absent:
        return ()
    except pynvml.NVMLError as error:
        raise SlimEvalError(
            f"NVML cannot list the GPUs: {error}", "see what nvidia-smi says; after a driver update, reboot"
        ) from error


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    total_mb = None if memory is None else memory.total / MIB
    return Gpu(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), total_mb, driver)


def resolve_gpus(gpu_index: int, count: int, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that a run computes on, and so measures; empty for a run on the CPU.

    Indices, in `gpu_index` and in `visible`, are those of nvidia-smi; the order of CUDA itself may differ. Give the run
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` with these indices, or the UUIDs, and both mean the same device.

    Args:
        gpu_index: First GPU, 0-based, among the visible ones.
        count: How many GPUs share the model.
        visible: The value of CUDA_VISIBLE_DEVICES: indices, UUIDs or prefixes of UUIDs; None where it is not set.

    Raises:
        UsageError: There is no such GPU.
    """
    gpus = list_gpus()
    usable = gpus if visible is None or not gpus else _visible_gpus(gpus, visible)
    if not usable and (gpu_index, count) == (0, 1):
        return ()  # also where CUDA_VISIBLE_DEVICES hides every GPU: the usual way to ask for the CPU
    if gpu_index + count > len(usable):
        hidden = f" ({len(gpus)} on the machine; CUDA_VISIBLE_DEVICES={visible})" if len(usable) < len(gpus) else ""
        wanted = f"--gpu-index {gpu_index}" + (f" --tensor-parallel-size {count}" if count > 1 else "")
        remedy = "choose among these, or change CUDA_VISIBLE_DEVICES" if gpus else "leave it out to use the CPU"
        raise UsageError(f"{wanted}: the number of GPUs is {len(usable)}{hidden}; they are counted from 0", remedy)
    return usable[gpu_index : gpu_index + count]


def _visible_gpus(gpus: Sequence[Gpu], visible: str) -> tuple[Gpu, ...]:
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry in {"", "-1"}:  # CUDA reads no further than these
            break
        found = [g for g in gpus if (entry == str(g.index) if entry.isdigit() else g.uuid.startswith(entry))]
        if len(found) != 1 or found[0] in chosen:
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={visible}: {entry!r} names no further GPU of the {len(gpus)} here",
                "name each by its index or UUID in nvidia-smi -L; parts of a GPU (MIG) have no meter",
            )
        chosen += found
    return tuple(chosen)


def gpu_facts(gpus: Iterable[Gpu]) -> tuple[dict[str, Any], ...]:
    """What a record says of each GPU; None where unknown.

    Identity, driver, memory, power limit, clocks, persistence mode; ``memory_bus_width_bits`` and
    ``memory_bandwidth_gb_s``: what the memory can move at most, as `memory_bandwidth_gb_s` works it out.
    """
    gpus = tuple(gpus)
    if not gpus:
        return ()
    with open_nvml() as nvml:
        return tuple(_facts(nvml, gpu) for gpu in gpus)


def _facts(nvml: Any, gpu: Gpu) -> dict[str, Any]:
    handle = ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
    facts = asdict(gpu)
    for key, query, arguments, divisor in _FACTS:
        value = ask(nvml, query, handle, *arguments)
        facts[key] = None if value is None else value / divisor
    persistence = ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
    bandwidth = memory_bandwidth_gb_s(facts["max_memory_clock_mhz"], facts["memory_bus_width_bits"])
    return {
        **facts,
        "memory_bandwidth_gb_s": bandwidth,
        "persistence_mode": None if persistence is None else bool(persistence),
    }


def memory_bandwidth_gb_s(clock_mhz: float | None, bus_width_bits: float | None) -> float | None:
    """Peak bandwidth of a GPU's memory: clock x 2 transfers a cycle (double data rate) x bus width.

    It gives the data sheets' values: A100 40 GB, 1215 MHz x 5120 bit: 1555 GB/s; H100 SXM, 2619 MHz x 5120 bit:
    3352 GB/s.

    Args:
        clock_mhz: Highest memory clock as NVML names it, in 10**6 cycles a second.
        bus_width_bits: Width of the memory bus.

    Returns:
        10**9 bytes a second; None where a part is unknown or 0.
    """
    if not clock_mhz or not bus_width_bits:
        return None
    return clock_mhz * 1e6 * 2 * bus_width_bits / 8 / 1e9


def process_tree(root: int | None = None) -> frozenset[int]:
    """Process ids of `root` (this process by default), its descendants and its process group; from /proc."""
    root = os.getpid() if root is None else root
    parents: dict[int, int] = {}
    groups: dict[int, int] = {root: os.getpgid(root)}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(stat.parent.name)], groups[int(stat.parent.name)] = int(fields[1]), int(fields[2])
    own = {root} | {pid for pid, group in groups.items() if group == groups[root]}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return frozenset(own)


def foreign_processes(listed: Collection[int], own: Collection[int], *, namespaced: bool) -> frozenset[int]:
    """Which of the processes `listed` on one GPU are not ours.

    In a container NVML may list processes by the host's numbers. Then a single unknown one, with none of ours in the
    list, is taken for the engine.
    """
    foreign = frozenset(listed) - frozenset(own)
    alone = len(foreign) == len(frozenset(listed)) == 1
    return frozenset() if namespaced and alone else foreign


def pids_may_be_the_hosts() -> bool:
    """Whether this process lives in a container whose process ids differ from those of the machine."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != _ROOT_PID_NAMESPACE
    except OSError:
        return True
