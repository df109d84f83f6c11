"""What else used the CPUs, from written files of the kernel, and what of it is too much."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval.utils import host
from slim_eval.utils.host import Counters, HostUse, HostWindow, read_counters, use_between

SECONDS = 10.0
ROOT = 100  # the serving process
V1 = "4:memory:/jobs\n1:cpu,cpuacct:/jobs/one\n0::/\n"
V2 = "0::/jobs/one\n"


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


class Machine:
    """Files below ``/proc`` and ``/sys/fs/cgroup`` of a machine with four CPUs, of which the process may use two."""

    def __init__(self, root: Path, memberships: str = V2) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self.memberships = memberships
        self.write()

    def write(
        self,
        cpus: Mapping[int, Mapping[str, int]] = {},
        processes: Mapping[int, tuple[int, int, int]] | None = None,
        pressure_us: int = 0,
        quotas: Mapping[str, str] = {},
    ) -> Counters:
        """Write the files and read them: ticks by CPU and kind; process -> parent, group, ticks; ``cpu.stat`` files."""
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
        lines = ["cpu  1 1 1 1 1 1 1 1 1 1"]
        for cpu in range(4):
            ticks = {"idle": 5000, **cpus.get(cpu, {})}
            lines.append(f"cpu{cpu} {' '.join(str(7000 + ticks.get(name, 0)) for name in names)}")
        self._put(self.proc / "stat", "\n".join([*lines, "intr 5 5", "ctxt 7"]))
        for pid, (parent, group, ticks) in (processes or {ROOT: (1, ROOT, 0), 1: (0, 1, 0)}).items():
            # Half of it in children that have ended; a name may contain anything.
            times = f"{ticks // 4} {ticks // 4} {ticks // 4} {ticks - 3 * (ticks // 4)}"
            self._put(self.proc / f"{pid}/stat", f"{pid} (a ) name) S {parent} {group} 9 0 -1 4 1 2 3 4 {times} 20 0")
        self._put(self.proc / "pressure/cpu", f"some avg10=0.00 avg60=0.00 total={pressure_us}\nfull avg10=0 total=9")
        self._put(self.proc / "self/cgroup", self.memberships)
        for folder, text in quotas.items():
            self._put(self.cgroup / folder / "cpu.stat", text)
        return self.read()

    def read(self) -> Counters:
        return read_counters(self.proc, self.cgroup, ROOT)

    def _put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def between(first: Counters, last: Counters, **options: Any) -> HostUse:
    return use_between(replace(first, clock_s=0.0), replace(last, clock_s=SECONDS), **options)


def ticks(seconds: float) -> int:
    return round(seconds * os.sysconf("SC_CLK_TCK"))


def test_a_quiet_host(machine: Machine) -> None:
    last = machine.write(
        cpus={cpu: {"user": ticks(9), "idle": 5000 + ticks(1)} for cpu in (0, 1)},
        processes={ROOT: (1, ROOT, ticks(12)), 101: (ROOT, 101, ticks(6)), 1: (0, 1, ticks(50))},
        pressure_us=500_000,
    )
    first = Machine(machine.proc.parent / "before").read()
    used = between(first, last)
    assert used == HostUse(
        cpus=2, seconds=SECONDS, serving_cpus=pytest.approx(1.8), other_share=pytest.approx(0.0, abs=0.01),
        idle_share=pytest.approx(0.1), stolen_share=0.0, throttled_share=None, pressure=pytest.approx(0.05),
    )  # fmt: skip
    assert used.disturbances() == ()
    assert used.remedy() == ""


def test_a_busy_neighbour_is_told_from_our_own_threads_and_from_cpus_that_we_may_not_use(machine: Machine) -> None:
    first = machine.read()
    last = machine.write(
        cpus={0: {"user": ticks(4), "system": ticks(2), "nice": ticks(3)}, 1: {"user": ticks(5), "irq": ticks(1)},
              2: {"user": ticks(10)}, 3: {"user": ticks(10)}},
        processes={ROOT: (1, ROOT, ticks(4)), 101: (ROOT, ROOT, ticks(2)), 102: (101, 102, ticks(1)),
                   103: (1, ROOT, ticks(1)), 300: (1, 300, ticks(7)), 1: (0, 1, 0)},
    )  # fmt: skip
    used = between(first, last)
    assert used.serving_cpus == pytest.approx(0.8)  # children, their children, and the group
    assert used.other_share == pytest.approx(7 / 20)
    assert used.disturbances() == ("other processes took 35.0% of the 2 CPUs (limit 10%)",)
    assert used.disturbances(0.4) == used.disturbances(1.0) == ()
    assert "--wait-quiet" in used.remedy()
    assert "--max-contention" in used.remedy()


def test_steal_counts_by_the_time_that_the_cpus_wanted_to_run(machine: Machine) -> None:
    first = machine.read()
    idle = machine.write(cpus={0: {"steal": ticks(0.3), "user": ticks(0.2)}})
    assert between(first, idle).stolen_share == pytest.approx(0.03)  # few ticks of an idle machine mean little
    busy = machine.write(cpus={0: {"steal": ticks(2), "user": ticks(8)}, 1: {"user": ticks(10)}})
    used = replace(between(first, busy), other_share=0.0)
    assert used.disturbances() == ("the hypervisor took 10.0% of the CPU time (steal; limit 5%)",)
    assert used.disturbances(0.3) == ()


V2_STAT = "usage_usec 9\nnr_periods {}\nnr_throttled {}\nthrottled_usec {}\n"
V1_STAT = "nr_periods {}\nnr_throttled {}\nthrottled_time {}\n"


@pytest.mark.parametrize(
    ("memberships", "folder", "stat", "unit"),
    [
        (V2, "jobs/one", V2_STAT, 1_000_000),
        (V2, "jobs", V2_STAT, 1_000_000),  # a quota of the group above stops ours
        (V2, "", V2_STAT, 1_000_000),  # in a container whose path is the host's
        (V1, "cpu,cpuacct/jobs/one", V1_STAT, 1_000_000_000),
        (V1, "cpu/jobs/one", V1_STAT, 1_000_000_000),
        ("1:cpu:/docker/0123\n", "cpu", V1_STAT, 1_000_000_000),
    ],
)
def test_a_throttled_group(memberships: str, folder: str, stat: str, unit: int, tmp_path: Path) -> None:
    machine = Machine(tmp_path, memberships)
    first = machine.write(quotas={folder: stat.format(1000, 10, 5 * unit)})
    lightly = between(first, machine.write(quotas={folder: stat.format(1100, 20, int(5.2 * unit))}))
    assert lightly.throttled_share == pytest.approx(0.02)
    assert lightly.disturbances() == ()
    # Six seconds, over all CPUs, but in 30 of 100 periods.
    used = between(first, machine.write(quotas={folder: stat.format(1100, 40, 11 * unit)}))
    assert used.throttled_share == pytest.approx(0.3)
    assert used.disturbances() == (
        "the CPU quota of the container or control group was used up 30.0% of the time (limit 5%)",
    )
    assert used.remedy() == "raise the quota, or lower OMP_NUM_THREADS to it"  # waiting would not help
    assert used.disturbances(1.0) == ()


def test_a_group_without_a_quota_is_not_throttled(machine: Machine) -> None:
    first = machine.write(quotas={"jobs/one": V2_STAT.format(0, 0, 0)})
    assert between(first, machine.read()).throttled_share == 0.0


@pytest.mark.parametrize(
    ("idle", "pressure", "disturbed"),
    [(0.8, 0.9, False), (0.2, 0.05, False), (0.2, 0.5, True), (0.2, None, True), (None, None, True)],
)
def test_an_engine_on_a_gpu_is_disturbed_only_if_cpus_run_short(
    idle: float | None, pressure: float | None, disturbed: bool
) -> None:
    used = HostUse(cpus=64, other_share=0.3, idle_share=idle, pressure=pressure, on_gpu=True)
    assert bool(used.disturbances()) is disturbed
    assert replace(used, on_gpu=False).disturbances()
    assert HostUse(cpus=64, other_share=1 / 64, idle_share=0.0, pressure=0.9).disturbances() == ()  # one busy core


def test_what_the_kernel_does_not_report_is_unknown_and_never_zero(machine: Machine, tmp_path: Path) -> None:
    empty = read_counters(tmp_path / "nowhere", tmp_path / "nowhere", ROOT)
    used = between(empty, empty)
    assert used == HostUse(seconds=SECONDS)
    assert used.disturbances() == ()
    # Without pressure (switched off in the kernel) the rest is still known.
    (machine.proc / "pressure/cpu").unlink()
    found = between(machine.read(), machine.read())
    assert (found.pressure, found.other_share) == (None, 0.0)


@pytest.mark.parametrize("stat", ["cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n", "cpu0 5 5 5 5\n", ""])
def test_a_sandbox_that_counts_nothing_is_unknown(stat: str, machine: Machine) -> None:
    (machine.proc / "stat").write_text(stat)
    used = between(machine.read(), machine.read())
    assert (used.other_share, used.idle_share, used.stolen_share) == (None, None, None)


def test_a_window_of_a_few_ticks_has_no_shares(machine: Machine) -> None:
    first, last = machine.read(), machine.write(cpus={0: {"user": 5}})
    used = use_between(replace(first, clock_s=0.0), replace(last, clock_s=0.03))
    assert used == HostUse(cpus=2, seconds=pytest.approx(0.03))


def test_counters_that_go_back_are_no_negative_share(machine: Machine) -> None:
    high = machine.write(cpus={0: {"user": ticks(5)}}, processes={ROOT: (1, ROOT, ticks(5))})
    low = Machine(machine.proc.parent / "later").read()  # a child ended that nobody waited for
    used = between(high, low)
    assert (used.serving_cpus, used.other_share) == (0.0, 0.0)


class Script:
    """Counters that a `HostWindow` reads one after the other, and its clock, which `sleep` moves."""

    def __init__(self, *others: float) -> None:
        self.clock_s, self.busy_s, self.slept = 0.0, 0.0, list[float]()
        self.others = itertools.chain(others, itertools.repeat(others[-1]))

    def read(self) -> Counters:
        return Counters(self.clock_s, serving_s=0.0, cpus=2, busy_s=self.busy_s, idle_s=0.0)

    def work(self, seconds: float) -> None:
        self.busy_s += seconds * 2 * next(self.others)
        self.clock_s += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.work(seconds)


def test_a_short_window_is_observed_longer_unless_everything_is_accepted() -> None:
    script = Script(0.5)
    window = HostWindow(read=script.read, sleep=script.sleep)
    window.open()
    script.work(0.3)
    used = window.close()
    assert script.slept == [pytest.approx(0.7)]
    assert (used.seconds, used.other_share) == (pytest.approx(1.0), pytest.approx(0.5))
    accepting = HostWindow(1.0, read=script.read, sleep=script.sleep)
    accepting.open()
    script.work(0.01)
    assert accepting.close().other_share is None
    assert len(script.slept) == 1


def test_a_window_that_begins_anew_leaves_out_what_was_before() -> None:
    script = Script(1.0, 0.02)
    window = HostWindow(read=script.read, sleep=script.sleep)
    window.open()
    script.work(5)
    window.open()
    script.work(5)
    assert window.close().other_share == pytest.approx(0.02)


def test_waiting_ends_with_the_first_quiet_second_or_with_the_time() -> None:
    script, seen = Script(0.9, 0.9, 0.05, 0.9), list[float | None]()
    window = HostWindow(read=script.read, sleep=script.sleep)
    window.wait_until_quiet(time.monotonic() + 1000, lambda used: seen.append(used.other_share))
    assert (seen, script.slept) == ([pytest.approx(0.9)] * 2, [1.0] * 3)
    window.wait_until_quiet(time.monotonic() - 1)
    assert len(script.slept) == 4


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = read_counters()
    if first.busy_s is None:
        pytest.skip("/proc/stat counts nothing here")
    spin = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    child = subprocess.run([sys.executable, "-c", spin], check=True)  # has ended, and still counts as ours
    assert child.returncode == 0
    used = use_between(first, read_counters())
    assert used.serving_cpus is not None
    assert 0.05 < used.serving_cpus < 1.1 * used.cpus  # time is counted in ticks
    assert used.cpus == len(os.sched_getaffinity(0))
    assert host.process_tree() >= {os.getpid()}
