"""The host during a measurement: what else used the CPUs while a window of work ran.

The kernel's own counters are read at the start and the end of a window, and nothing between: CPU time of this process
and its descendants, of all CPUs that it may use (``/proc/stat``), time stolen by a hypervisor, pressure
(``/proc/pressure/cpu``), and the CPU quota of the control groups (``cpu.stat``, version 1 and 2). In a container
``/proc/stat`` and the pressure are those of the whole host, unless the container replaces them (lxcfs), and the control
groups are the container's own. What the kernel does not report is None, never 0.

Reasons for the limits: docs/decisions/021-host-contention.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Share of the CPUs that other processes may take during a window. Daemons, a shell and the display of a run
#: (3 % of one CPU) stay below it; beyond it, a decoding loop on all CPUs slows down by at least about as much.
MAX_CONTENTION = 0.1
#: Time that is stolen or throttled is lost as a whole, while a busy CPU is shared: half as much is accepted.
_LOST_PER_CONTENTION = 0.5
#: From here on nothing is refused.
ACCEPT_ALL = 1.0
#: An engine on a GPU needs few CPUs: other processes do not disturb it as long as this share of the CPUs is idle. With
#: two hardware threads per core, each busy thread then still finds a core of its own.
_ROOM = 0.5
#: The kernel counts CPU time in ticks of 10 ms: a shorter window is observed for this long, to 1 % per CPU.
_SHORTEST_S = 1.0
_TOO_SHORT_S = 0.2  # below it, shares are mostly the chance of a tick
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class HostUse:
    """Use of the CPUs in one window; shares are of 1, None if unknown. "The CPUs" are those that this process may use.

    Attributes:
        cpus: Number of the CPUs.
        seconds: Length of the observation.
        serving_cpus: CPU time of this process and its descendants / wall time.
        other_share: CPU time of all other processes / (CPUs x wall time).
        idle_share: Idle time of the CPUs, likewise.
        stolen_share: Steal time / time that the CPUs wanted to run, at least one of them all the time.
        throttled_share: Share of the window in which a CPU quota stopped processes of our control groups.
        pressure: Share of the window in which some thread of the host waited for a CPU ("some" of PSI). The thread may
            be one of ours, so it is evidence, and a limit only for an engine on a GPU.
        on_gpu: Whether the engine computes on a GPU.
    """

    cpus: int | None = None
    seconds: float | None = None
    serving_cpus: float | None = None
    other_share: float | None = None
    idle_share: float | None = None
    stolen_share: float | None = None
    throttled_share: float | None = None
    pressure: float | None = None
    on_gpu: bool = False

    def disturbances(self, max_contention: float = MAX_CONTENTION) -> tuple[str, ...]:
        """What disturbed the window beyond the limits, in words; empty if nothing did or the limit is `ACCEPT_ALL`."""
        return (*self._taken(max_contention), *self._throttled(max_contention))

    def remedy(self, max_contention: float = MAX_CONTENTION) -> str:
        """What to do about the disturbances; empty without any."""
        if any(self._taken(max_contention)):
            return (
                "--wait-quiet 600 waits up to 10 minutes for a quiet host; a higher --max-contention accepts this one"
            )
        return "raise the quota, or lower OMP_NUM_THREADS to it" if any(self._throttled(max_contention)) else ""

    def _taken(self, limit: float) -> Iterator[str]:
        """What other processes and other machines took."""
        if limit >= ACCEPT_ALL:
            return
        if self.other_share is not None and self.other_share > limit and not self._has_room(limit):
            cpus = "CPU" if self.cpus == 1 else f"{self.cpus} CPUs"
            yield f"other processes took {self.other_share:.1%} of the {cpus} (limit {limit * 100:.3g}%)"
        lost = limit * _LOST_PER_CONTENTION
        if self.stolen_share is not None and self.stolen_share > lost:
            yield f"the hypervisor took {self.stolen_share:.1%} of the CPU time (steal; limit {lost * 100:.3g}%)"

    def _throttled(self, limit: float) -> Iterator[str]:
        """What a CPU quota took."""
        lost = limit * _LOST_PER_CONTENTION
        if limit < ACCEPT_ALL and self.throttled_share is not None and self.throttled_share > lost:
            share = f"{self.throttled_share:.1%} of the time (limit {lost * 100:.3g}%)"
            yield f"the CPU quota of the container or control group was used up {share}"

    def _has_room(self, limit: float) -> bool:
        """Whether the engine leaves the CPUs to others: it is on a GPU, and no thread had to wait for a CPU."""
        idle = self.idle_share is not None and self.idle_share >= _ROOM
        unhurried = self.pressure is not None and self.pressure <= limit
        return self.on_gpu and (idle or unhurried)


@dataclass(frozen=True)
class Counters:
    """The kernel's counters at one time, in seconds since the boot or a process's start; None if not reported."""

    clock_s: float
    serving_s: float | None = None
    cpus: int | None = None
    busy_s: float | None = None  # of the CPUs, without steal
    idle_s: float | None = None
    stolen_s: float | None = None
    waiting_s: float | None = None
    #: Folder of a control group -> its periods, those throttled, and the seconds throttled, over all CPUs.
    quotas: Mapping[Path, tuple[int, int, float]] = field(default_factory=dict)


Read = Callable[[], Counters]


def read_counters(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup"), pid: int | None = None
) -> Counters:
    """Read the counters now, for a process and its descendants; this process by default.

    `proc` and `cgroup` are the mount points.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))
    cpus = busy = idle = stolen = None
    ticks = [
        [int(value) for value in words[1:]] for words in map(str.split, _lines(proc / "stat"))
        if words and words[0].startswith("cpu") and words[0][3:].isdigit() and int(words[0][3:]) in allowed
    ]  # fmt: skip
    # user nice system idle iowait irq softirq steal; guest time is part of user. Sandboxes report zeros only.
    if ticks and all(len(row) >= 8 for row in ticks) and any(map(any, ticks)):
        cpus = len(ticks)
        idle, stolen = (sum(row[i] for row in ticks for i in places) / _TICKS_PER_S for places in ((3, 4), (7,)))
        busy = sum(row[i] for row in ticks for i in (0, 1, 2, 5, 6)) / _TICKS_PER_S
    pressure = [line.rpartition("total=")[2] for line in _lines(proc / "pressure/cpu") if line.startswith("some ")]
    return Counters(
        clock_s=time.monotonic(),
        serving_s=_serving_s(proc, pid),
        cpus=cpus,
        busy_s=busy,
        idle_s=idle,
        stolen_s=stolen,
        waiting_s=int(pressure[0]) / 1e6 if pressure and pressure[0].isdigit() else None,
        quotas=_quotas(_lines(proc / "self/cgroup"), cgroup),
    )


def use_between(first: Counters, last: Counters, *, on_gpu: bool = False) -> HostUse:
    """What was used between two readings."""
    wall_s = last.clock_s - first.clock_s
    if wall_s < _TOO_SHORT_S:
        return HostUse(cpus=last.cpus, seconds=wall_s, on_gpu=on_gpu)

    def share(before: float | None, after: float | None, whole: float) -> float | None:
        return None if before is None or after is None or whole <= 0 else min(max(after - before, 0.0) / whole, 1.0)

    serving = busy = other = stolen = None
    if first.serving_s is not None and last.serving_s is not None:
        serving = max(last.serving_s - first.serving_s, 0.0)
    if first.busy_s is not None and last.busy_s is not None:
        busy = last.busy_s - first.busy_s
    same = first.cpus == last.cpus and first.cpus is not None
    whole = (first.cpus or 0) * wall_s if same else 0.0
    if busy is not None and serving is not None and same:
        other = share(serving, busy, whole)
    if first.stolen_s is not None and last.stolen_s is not None and busy is not None:
        gone = last.stolen_s - first.stolen_s
        stolen = share(0.0, gone, max(busy + gone, wall_s))
    quotas = []
    for folder, (periods, throttled, seconds) in last.quotas.items():
        if folder in first.quotas:
            before = first.quotas[folder]
            # Seconds are summed over CPUs, and a period counts as throttled however little of it was: each is a bound.
            parts = (share(before[2], seconds, wall_s), share(before[1], throttled, periods - before[0]))
            quotas.append(min((part for part in parts if part is not None), default=0.0))
    return HostUse(
        cpus=last.cpus,
        seconds=wall_s,
        serving_cpus=None if serving is None else serving / wall_s,
        other_share=other,
        idle_share=share(first.idle_s, last.idle_s, whole),
        stolen_share=stolen,
        throttled_share=max(quotas, default=None),
        pressure=share(first.waiting_s, last.waiting_s, wall_s),
        on_gpu=on_gpu,
    )


class HostWindow:
    """Observes the host during one window: `open`, the work, `close`.

    `max_contention` is the limit of `HostUse.disturbances`.
    """

    def __init__(
        self,
        max_contention: float = MAX_CONTENTION,
        *,
        on_gpu: bool = False,
        read: Read = read_counters,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.max_contention = max_contention
        self._on_gpu = on_gpu
        self._read, self._sleep = read, sleep
        self._opened: Counters | None = None

    def open(self) -> None:
        """Begin to observe; again, to leave out what came before."""
        self._opened = self._read()

    def close(self) -> HostUse:
        """End, and return what was used; without `open` nothing is known.

        If a disturbance counts, a short window is observed a little longer than it was, so that it can be judged.
        """
        if self._opened is None:
            return HostUse(on_gpu=self._on_gpu)
        last = self._read()
        missing_s = _SHORTEST_S - (last.clock_s - self._opened.clock_s)
        if missing_s > 0 and self.max_contention < ACCEPT_ALL:
            self._sleep(missing_s)
            last = self._read()
        return use_between(self._opened, last, on_gpu=self._on_gpu)

    def wait_until_quiet(self, until_s: float, waiting: Callable[[HostUse], None] = lambda use: None) -> None:
        """Return when nothing disturbs the host, or at `until_s` on the clock of `time.monotonic`.

        `waiting` is called about once a second with what was seen in that second.
        """
        while True:
            self.open()
            self._sleep(_SHORTEST_S)
            use = self.close()
            if not use.disturbances(self.max_contention) or time.monotonic() >= until_s:
                return
            waiting(use)


def process_tree(root: int | None = None, proc: Path = Path("/proc")) -> frozenset[int]:
    """Process ids of `root` (this process by default), its descendants and its process group; from ``/proc``."""
    return frozenset(_tree(root, proc)) | {os.getpid() if root is None else root}


def _serving_s(proc: Path, root: int | None) -> float | None:
    """CPU time of a process and its descendants, those that have ended and were waited for included."""
    tree = _tree(root, proc)
    # utime, stime, and the same of children that ended.
    return sum(sum(map(int, fields[11:15])) for fields in tree.values()) / _TICKS_PER_S if tree else None


def _tree(root: int | None, proc: Path) -> dict[int, list[str]]:
    """Process -> the fields of its ``stat`` file after the name, from the state on: root, its group and descendants."""
    root = os.getpid() if root is None else root
    every: dict[int, list[str]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        for line in _lines(stat):  # none if it has ended
            every[int(stat.parent.name)] = line.rpartition(")")[2].split()
    if root not in every:
        return {}
    own = {pid for pid, fields in every.items() if fields[2] == every[root][2]}
    while more := {pid for pid, fields in every.items() if int(fields[1]) in own} - own:
        own |= more
    return {pid: every[pid] for pid in own}


def _quotas(memberships: Iterable[str], mount: Path) -> dict[Path, tuple[int, int, float]]:
    """The quota counters of our control group and those above it that have any."""
    found: dict[Path, tuple[int, int, float]] = {}
    for folder in _groups(memberships, mount):
        pairs = dict(words for line in _lines(folder / "cpu.stat") if len(words := line.split()) == 2)
        try:
            periods, throttled = int(pairs["nr_periods"]), int(pairs["nr_throttled"])
            is_v2 = "throttled_usec" in pairs
            seconds = int(pairs["throttled_usec"]) / 1e6 if is_v2 else int(pairs["throttled_time"]) / 1e9
        except (KeyError, ValueError):  # no quota can be set here
            continue
        found[folder] = (periods, throttled, seconds)
    return found


def _groups(memberships: Iterable[str], mount: Path) -> Iterator[Path]:
    """Folders of our control groups for CPU time, upwards to the mount point: a quota of any of them stops us.

    In a container the path may be the host's, which does not exist here; its own group is then the mount point.
    """
    for line in memberships:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        names = controllers.split(",")
        if number == "0" and not controllers:
            root = mount
        elif "cpu" in names:
            root = next((mount / name for name in (controllers, "cpu") if (mount / name).is_dir()), mount)
        else:
            continue
        own = root / path.strip("/")
        yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _lines(path: Path) -> list[str]:
    """The lines of a file of the kernel; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
