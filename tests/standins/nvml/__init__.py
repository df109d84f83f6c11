"""A stand-in ``libnvidia-ml.so.1``: built with gcc, found through LD_LIBRARY_PATH by the real nvidia-ml-py.

Its GPUs draw a power that is known in closed form at every instant, so a test knows the true joules of any window on
the clock of `time.perf_counter`.
"""

from __future__ import annotations

import math
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
UUIDS = ("GPU-11111111-aaaa-4bbb-8ccc-000000000000", "GPU-22222222-aaaa-4bbb-8ccc-000000000001")


def build(folder: Path) -> Path:
    """Compile the library into `folder`.

    Returns:
        The library's path; its folder belongs on LD_LIBRARY_PATH.
    """
    path = folder / LIBRARY
    source = Path(__file__).with_name("nvml.c")
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([*command, "-o", str(path), str(source), "-lm"], check=True)
    return path


@dataclass(frozen=True)
class StandInGpu:
    """A GPU of known power: `trace` and its parameters as in ``nvml.c``; `settings` add states and failures."""

    uuid: str = UUIDS[0]
    trace: str = "constant"
    a: float = 100.0
    b: float = 0.0
    period: float = 1.0
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    def joules(self, begin_s: float, end_s: float) -> float:
        """True energy between two times since the origin."""
        return self._integral(end_s) - self._integral(begin_s)

    def _integral(self, t: float) -> float:
        if self.trace == "ramp":
            return self.a * t + self.b * t * t / 2
        if self.trace == "sine":
            w = 2 * math.pi / self.period
            return self.a * t + self.b / w * (1 - math.cos(w * t))
        assert self.trace == "constant", "read the truth of steps from their file"
        return self.a * t

    def text(self) -> str:
        """The GPU in the format that the library reads."""
        settings = {
            "uuid": self.uuid,
            "name": f"Stand-in {self.uuid[4:12]}",
            "memory": 80 * 2**30,
            "used": 3 * 2**30,
            "trace": self.trace,
            "a": self.a,
            "b": self.b,
            "period": self.period,
            **self.settings,
        }
        return ",".join(f"{key}={value}" for key, value in settings.items())


def environment(library: Path, gpus: Sequence[StandInGpu], origin_s: float = 0.0) -> dict[str, str]:
    """Environment of a process that sees these GPUs; `origin_s` is on the clock of `time.perf_counter`."""
    variables = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return variables | {
        "LD_LIBRARY_PATH": f"{library.parent}{os.pathsep}{variables.get('LD_LIBRARY_PATH', '')}".rstrip(os.pathsep),
        "STANDIN_NVML": "|".join(gpu.text() for gpu in gpus),
        "STANDIN_NVML_ORIGIN": repr(origin_s),
    }


def append_step(path: Path, t_s: float, watts: float) -> None:
    """Set the power of ``trace=steps`` to `watts`, starting `t_s` after the origin."""
    with path.open("ab") as steps:
        steps.write(struct.pack("dd", t_s, watts))
