"""Start-up time: `slim-eval --help` against `lm_eval --help`. Target: ratio at most 1."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
BIN = Path(sys.executable).parent


def seconds(command: str) -> float:
    """Wall time of ``COMMAND --help``, in seconds."""
    start = time.perf_counter()
    subprocess.run([str(BIN / command), "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Compare medians; the two commands alternate, so that other load slows both."""
    seconds("slim-eval"), seconds("lm_eval")  # the first call of each fills the file cache
    ours, peer = zip(*((seconds("slim-eval"), seconds("lm_eval")) for _ in range(ROUNDS)), strict=True)
    mine, other = statistics.median(ours), statistics.median(peer)
    print(f"slim-eval --help {mine:.3f} s, lm_eval --help {other:.3f} s: ratio {mine / other:.2f} (target: at most 1)")


if __name__ == "__main__":
    main()
